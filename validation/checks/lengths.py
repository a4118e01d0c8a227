"""Do the parts of an episode have the lengths they must have together: action, proprio, frames, time."""

from collections.abc import Iterator

import numpy as np

from schemas.findings import Finding, Rule, Severity
from schemas.time import NANOSECONDS
from validation.check import Subject
from validation.measures import duration_s, observed_rate

EMPTY_EPISODE = Rule("empty_episode", Severity.ERROR, "the episode has no step")
ONE_STEP_EPISODE = Rule("one_step_episode", Severity.WARNING, "the episode is a single step")
VERY_LONG = Rule("very_long", Severity.INFO, "the episode lasts longer than half an hour; is it one recording?")
ACTION_ROWS_VS_PROPRIO = Rule(
    "action_rows_vs_proprio", Severity.ERROR, "action and proprio have different numbers of rows"
)
FRAMES_VS_STEPS = Rule("frames_vs_steps", Severity.ERROR, "a view has more or fewer frames than the episode has steps")
VIEW_SPAN = Rule("view_span", Severity.WARNING, "a view covers more or less time than the steps do")
PROPRIO_SPAN = Rule("proprio_span", Severity.WARNING, "the proprio covers more or less time than the actions do")
RULES = (EMPTY_EPISODE, ONE_STEP_EPISODE, VERY_LONG, ACTION_ROWS_VS_PROPRIO, FRAMES_VS_STEPS, VIEW_SPAN, PROPRIO_SPAN)

VERY_LONG_S = 1800.0
SAME_RATE = 0.05
"""Rates that differ by less are taken for one; a view of another rate may have another number of frames."""
SPAN_PERIODS = 1.5
"""Periods of the slower of the two by which the ends may differ."""
BAD_SPAN = 0.05
"""Of the duration; beyond this, and beyond a second, nothing is aligned any more."""


def check_episode(subject: Subject) -> list[Finding]:
    """Findings about numbers of rows and frames, with the numbers."""
    episode = subject.episode
    steps = episode.num_steps
    if steps == 0:
        return [Finding(EMPTY_EPISODE.name, EMPTY_EPISODE.severity, "action", "the episode has no step")]
    found = []
    if steps == 1:
        found.append(
            Finding(ONE_STEP_EPISODE.name, ONE_STEP_EPISODE.severity, "action", "the episode is one step long")
        )
    seconds = duration_s(episode)
    if seconds > VERY_LONG_S:
        message = f"the episode lasts {seconds / 60:.0f} min ({steps} steps)"
        lasting = (("duration_s", seconds), ("num_steps", float(steps)))
        found.append(Finding(VERY_LONG.name, VERY_LONG.severity, "action", message, None, lasting))
    rows = len(episode.proprio.values)
    if rows != steps and _same_rate(episode.action.times_ns, episode.proprio.times_ns):
        severity = Severity.WARNING if abs(rows - steps) == 1 else ACTION_ROWS_VS_PROPRIO.severity
        numbers = (("action_rows", float(steps)), ("proprio_rows", float(rows)), ("difference", float(steps - rows)))
        message = f"action has {steps} rows, proprio {rows} ({steps - rows:+d})"
        found.append(Finding(ACTION_ROWS_VS_PROPRIO.name, severity, "action", message, min(steps, rows), numbers))
    elif rows > 1 and steps > 1:
        found += _proprio_span(episode.proprio.times_ns, episode.action.times_ns, float(1 / episode.control_rate))
    for slot, view in episode.views.items():
        found += _view(slot, view.times_ns, episode.action.times_ns, float(1 / episode.control_rate))
    return found


def _same_rate(left_ns: np.ndarray, right_ns: np.ndarray) -> bool:
    """Whether two clocks tick alike; too few ticks to tell count as alike."""
    left, right = observed_rate(left_ns), observed_rate(right_ns)
    return left is None or right is None or abs(left - right) <= SAME_RATE * max(left, right)


def _proprio_span(proprio_ns: np.ndarray, steps_ns: np.ndarray, period_s: float) -> Iterator[Finding]:
    """Where the proprio has a clock of its own: does it begin and end with the actions."""
    rate = observed_rate(proprio_ns)
    slack_s = SPAN_PERIODS * max(1 / rate if rate else period_s, period_s)
    start_s, end_s = ((int(proprio_ns[row]) - int(steps_ns[row])) / NANOSECONDS for row in (0, -1))
    if max(abs(start_s), abs(end_s)) > slack_s:
        message = f"the proprio begins {start_s:+.3f} s from the first action and ends {end_s:+.3f} s from the last"
        numbers = (("start_s", start_s), ("end_s", end_s))
        yield Finding(PROPRIO_SPAN.name, PROPRIO_SPAN.severity, "proprio", message, None, numbers)


def _view(slot: str, frames_ns: np.ndarray, steps_ns: np.ndarray, period_s: float) -> Iterator[Finding]:
    frames, steps = len(frames_ns), len(steps_ns)
    difference = frames - steps
    numbers: tuple[tuple[str, float], ...] = (
        ("num_frames", float(frames)),
        ("num_steps", float(steps)),
        ("difference", float(difference)),
    )
    if difference and (abs(difference) == 1 or not frames or _same_rate(frames_ns, steps_ns)):
        severity = Severity.WARNING if frames and abs(difference) == 1 else FRAMES_VS_STEPS.severity
        message = f"{frames} frames for {steps} steps ({difference:+d})"
        yield Finding(FRAMES_VS_STEPS.name, severity, slot, message, min(frames, steps), numbers)
        return
    if frames < 2 or steps < 2:
        return
    frame_rate = observed_rate(frames_ns)
    frame_period_s = 1 / frame_rate if frame_rate else period_s
    # where a stream ends: one period after its last row
    frames_end_s = (int(frames_ns[-1]) - int(steps_ns[0])) / NANOSECONDS + frame_period_s
    steps_end_s = (int(steps_ns[-1]) - int(steps_ns[0])) / NANOSECONDS + period_s
    start_s = (int(frames_ns[0]) - int(steps_ns[0])) / NANOSECONDS
    off_s = max(start_s, frames_end_s - steps_end_s, key=abs)
    if abs(off_s) > SPAN_PERIODS * max(frame_period_s, period_s):
        severity = Severity.ERROR if abs(off_s) > max(1.0, BAD_SPAN * steps_end_s) else VIEW_SPAN.severity
        message = f"the frames cover {start_s:.3f} to {frames_end_s:.3f} s, the steps 0 to {steps_end_s:.3f} s"
        ends = (("frames_start_s", start_s), ("frames_end_s", frames_end_s), ("steps_end_s", steps_end_s))
        yield Finding(VIEW_SPAN.name, severity, slot, message, None, numbers + ends)
