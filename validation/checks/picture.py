"""Does every camera show something, all the time: black, blank and frozen pictures, by the numbers of every frame."""

from collections.abc import Iterator, Sequence

import numpy as np

from schemas.embodiment import Channel
from schemas.episode import Episode
from schemas.findings import Finding, Rule, Severity
from schemas.time import NANOSECONDS
from validation.check import Subject
from validation.evidence import SAME_LEVELS, ViewEvidence

BLACK_VIEW = Rule("black_view", Severity.WARNING, "a camera is black in every frame")
BLACK_FRAMES = Rule("black_frames", Severity.WARNING, "a camera is black for a while")
BLANK_FRAMES = Rule(
    "blank_frames", Severity.WARNING, "a camera shows one flat tone, as a failed decode or a lost link does"
)
FROZEN_VIEW = Rule("frozen_view", Severity.WARNING, "a camera shows one and the same picture while the robot moves")
FROZEN_FRAMES = Rule(
    "frozen_frames", Severity.WARNING, "a camera stands still for a second or more while the robot moves"
)
STILL_FRAMES = Rule(
    "still_frames", Severity.INFO, "a camera shows one picture for a second or more, and the robot rests"
)
RULES = (BLACK_VIEW, BLACK_FRAMES, BLANK_FRAMES, FROZEN_VIEW, FROZEN_FRAMES, STILL_FRAMES)

FROZEN_NS = NANOSECONDS
MOVED = 0.1
"""Of a channel's range in the episode; the robot moves if any channel goes this far while the picture stands."""


def check_episode(subject: Subject) -> list[Finding]:
    """Findings about each view that was decoded, with the first frame in question."""
    episode = subject.episode
    found: list[Finding] = []
    for slot, evidence in subject.evidence.items():
        if slot not in episode.views or not evidence.num_frames:
            continue
        brightest, black = evidence.brightest, evidence.black
        if black.all():
            message = f"all {len(black)} frames are black (brightest point {int(brightest.max())} of 255)"
            numbers = (("num_frames", float(len(black))), ("brightest", float(brightest.max())))
            found.append(Finding(BLACK_VIEW.name, BLACK_VIEW.severity, slot, message, 0, numbers))
            continue
        blank = evidence.blank
        found += _runs_of(slot, BLACK_FRAMES, black, "black")
        found += _runs_of(
            slot, BLANK_FRAMES, blank, f"blank (one flat tone of {int(brightest[blank.argmax()])} of 255)"
        )
        found += _standing(slot, episode, evidence)
    return found


def _runs(marks: np.ndarray) -> list[tuple[int, int]]:
    """Half-open runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], marks.astype(np.int8), [0]))))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def _runs_of(slot: str, rule: Rule, marks: np.ndarray, word: str) -> Iterator[Finding]:
    runs = _runs(marks)
    if runs:
        start, stop = max(runs, key=lambda run: run[1] - run[0])
        total = int(marks.sum())
        message = f"{total} of {len(marks)} frames are {word}; the longest run is frames {start} to {stop - 1}"
        numbers = (
            ("num_frames", float(total)),
            ("num_runs", float(len(runs))),
            ("longest_frames", float(stop - start)),
        )
        yield Finding(rule.name, rule.severity, slot, message, start, numbers)


def _standing(slot: str, episode: Episode, evidence: ViewEvidence) -> Iterator[Finding]:
    """The longest frozen run with motion and the longest without; black and blank frames have their own rules."""
    times_ns = episode.views[slot].times_ns
    if evidence.num_frames < 3 or len(times_ns) != evidence.num_frames:
        return
    longest: dict[str, tuple[int, int]] = {}
    for start, stop in _runs(evidence.same[1:]):
        # frames start .. stop are alike; a slow change from frame to frame is no freeze
        seconds_ns = int(times_ns[stop]) - int(times_ns[start])
        if seconds_ns < FROZEN_NS or evidence.drift[stop] > 2 * SAME_LEVELS:
            continue
        moved = _moved(episode, int(times_ns[start]), int(times_ns[stop]))
        whole = start == 0 and stop == evidence.num_frames - 1
        rule = STILL_FRAMES if not moved else FROZEN_VIEW if whole else FROZEN_FRAMES
        before = longest.get(rule.name)
        if before is None or stop - start > before[1] - before[0]:
            longest[rule.name] = (start, stop)
    for rule in (FROZEN_VIEW, FROZEN_FRAMES, STILL_FRAMES):
        if rule.name in longest:
            start, stop = longest[rule.name]
            seconds = (int(times_ns[stop]) - int(times_ns[start])) / NANOSECONDS
            doing = "rests" if rule is STILL_FRAMES else "moves"
            message = f"frames {start} to {stop} show one picture for {seconds:.2f} s, while the robot {doing}"
            numbers = (("num_frames", float(stop - start + 1)), ("seconds", seconds))
            yield Finding(rule.name, rule.severity, slot, message, start, numbers)


def _moved(episode: Episode, start_ns: int, stop_ns: int) -> bool:
    """Whether any proprio channel covers a good part of its range in the episode between two times."""
    values, times_ns = episode.proprio.values, episode.proprio.times_ns
    layout: Sequence[Channel] = episode.embodiment.proprio
    inside = values[(times_ns >= start_ns) & (times_ns <= stop_ns)]
    if values.ndim != 2 or len(inside) < 2:
        return False
    for column in range(min(values.shape[1], len(layout))):
        whole, part = values[:, column], inside[:, column]
        whole, part = whole[np.isfinite(whole)], part[np.isfinite(part)]
        if len(part) >= 2 and np.ptp(whole) > 0 and np.ptp(part) >= MOVED * np.ptp(whole):
            return True
    return False
