"""Finds the segments of an episode: where the robot idles, what is worth keeping, language spans, gaps, success.

They annotate; nothing is ever cut out because of them. What a source or a published file says stays as it was said, and
its kind (``idle``, ``keep``) is then not found again here.

**The published rule** for DROID (openpi, ``examples/droid/compute_droid_nonidle_ranges.py``): a step is idle when every
joint velocity command differs by less than 1e-3 from the step before; idle runs of 7 steps and more are cut out; what
is left is kept in runs of 16 steps and more; the last 10 steps of each are left out. A recording that has these commands
(``VELOCITY_FIELDS``) is judged by exactly this rule, in the numbers as they were recorded.

**Its generalization** to every other robot and rate:

- DROID runs at 15 Hz, so the lengths are 7/15, 16/15 and 10/15 s, in steps of the control rate, rounded up. A change is
  that over 1/15 s: from ``round(rate / 15)`` steps before, so that the noise of a fast encoder is no motion.
- The commands of DROID lie in [-1, 1], so 1e-3 is 1/2000 of a channel's range (``SegmentRules.idle_change``). The range
  is that of its limits in the embodiment card, else what the episode shows: its spread, or its size if that is larger,
  so that noise about a constant is no range.
- The command must not change *and* the measured places must not: a command that stays may still be under way (steps of
  a keyboard, a constant speed). Channels of speeds and forces in the proprio say nothing of places and are left out.
  Where the robot has only one of the two vectors, that one decides.
- A place may change by 1/2000 of its range in 1/15 s, and more if less time resolves nothing: 5 mm/s, 1.5 degrees/s for
  orientations and 5e-3 rad/s for joints are what Cosmos 3 counts as idle, and 1/100 of the way from open to closed for
  grippers (cosmos-framework, its idle counter for DROID). At rates below 15 Hz all these grow with the time of a step.
- Unknown is not a rest: beside a missing number nothing is idle.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from pipelines.resample import gap_ns, nearest_at_or_before, nominal_period_ns
from schemas.embodiment import Channel, ChannelKind, Gripper, rotation_starts
from schemas.episode import Episode, Segment, Stream
from schemas.recipes import SegmentRules
from schemas.time import TimeGrid
from validation.motion import channel_changes

VELOCITY_FIELDS = ("action_dict/joint_velocity", "action.joint_velocity", "action/joint_velocity")
"""Names of DROID's joint velocity commands, in [-1, 1]: in RLDS, in Ctrl-World's annotations, in the raw recordings."""
PUBLISHED_RATE = Fraction(15)
"""Hz, of DROID: the steps that the published rule counts."""
COMMAND_RANGE = 2.0
"""Of a normalized velocity command."""
BY_RULE = "by rule"
"""Label of idle and keep spans that were found here and not told by a source."""

KEEPS_NOTHING = "keeps_nothing"
"""The finding of published keep-ranges that keep no step: none are found here in their stead."""

_SLOW: dict[str, float] = {"m": 0.005, "rad": 0.005, "deg": math.degrees(0.005)}
"""Per second, as in Cosmos 3."""
_SLOW_TURN: dict[str, float] = {"rad": math.radians(1.5), "deg": 1.5}
_GRIPPER_CHANGE = 0.01
_PLACES = frozenset({"m", "rad", "deg", "1", "unknown"})
_ORIENTATIONS = frozenset({ChannelKind.EULER, ChannelKind.AXIS_ANGLE})


def with_segments(episode: Episode, rules: SegmentRules) -> Episode:
    """``episode`` with the segments its source told of and those found in it, by kind and time.

    An episode whose steps do not run forwards in time gets none but those it has: a check speaks of it.
    """
    found = [*episode.segments]
    told = {segment.kind for segment in found}
    if any(finding.rule == KEEPS_NOTHING for finding in episode.findings):
        told.add("keep")
    if len(episode.action.times_ns) and _runs_forwards(episode.action.times_ns):
        with np.errstate(all="ignore"):  # infinities are for the checks to judge
            idle, keep = _idle_and_keep(episode, rules)
        found += idle if "idle" not in told else []
        found += keep if "keep" not in told else []
    found += _language(episode)
    found += _success(episode)
    found += _gaps(episode, rules)
    ordered = sorted(dict.fromkeys(found), key=lambda segment: (segment.kind, segment.start_ns, segment.stop_ns))
    return dataclasses.replace(episode, segments=tuple(ordered))


def _runs_forwards(times_ns: np.ndarray) -> bool:
    return bool(np.all(np.diff(times_ns) > 0))


def runs_of(marks: np.ndarray, min_length: int = 1) -> list[tuple[int, int]]:
    """Half-open runs of True in ``marks`` [T] of at least ``min_length``."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], marks, [False])).astype(np.int8)))
    runs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(start, stop) for start, stop in runs if stop - start >= min_length]


def _idle_and_keep(episode: Episode, rules: SegmentRules) -> tuple[list[Segment], list[Segment]]:
    rate = episode.control_rate
    velocity = next((found for name in VELOCITY_FIELDS if (found := episode.raw.stream(name)) is not None), None)
    if velocity is not None and _runs_forwards(velocity.times_ns) and velocity.values.size:
        times, still = velocity.times_ns, _unchanged_commands(velocity.values, rules.idle_change * COMMAND_RANGE, rate)
    else:
        times, still = episode.action.times_ns, _still_steps(episode, rules)
    idle = runs_of(still, _num_steps(rules.idle_s, rate))
    moving = np.ones(len(still), dtype=bool)
    for start, stop in idle:
        moving[start:stop] = False
    trim = _num_steps(rules.trim_s, rate)
    kept = [(start, stop - trim) for start, stop in runs_of(moving, _num_steps(rules.keep_s, rate))]
    ends = np.append(times, times[-1] + TimeGrid(0, rate, 1).period_ns)

    def spans(kind: str, runs: Sequence[tuple[int, int]]) -> list[Segment]:
        return [
            Segment("idle" if kind == "idle" else "keep", int(ends[start]), int(ends[stop]), BY_RULE)
            for start, stop in runs
            if stop > start
        ]

    return spans("idle", idle), spans("keep", kept)


def _num_steps(seconds: Fraction, rate: Fraction) -> int:
    return math.ceil(seconds * rate)


def _lag(rate: Fraction) -> int:
    """Steps over which a change is taken: as many as lie in one step of DROID."""
    return max(1, round(rate / PUBLISHED_RATE))


def _earlier(num_rows: int, rate: Fraction) -> np.ndarray:
    """The row each row is compared with; the first one where there is no earlier."""
    rows: np.ndarray = np.arange(num_rows)
    return np.asarray(np.maximum(rows - _lag(rate), 0))


def _unchanged_commands(values: np.ndarray, threshold: float, rate: Fraction) -> np.ndarray:
    """bool [T]: whether no command differs by ``threshold`` from before; False for the first row."""
    rows = values.reshape(len(values), -1)
    still = np.all(np.abs(rows - rows[_earlier(len(rows), rate)]) < threshold, axis=1)
    still[:1] = False
    return np.asarray(still)


def _still_steps(episode: Episode, rules: SegmentRules) -> np.ndarray:
    """bool [T], by step of the action: nothing is commanded anew, and nothing moves."""
    robot, times = episode.embodiment, episode.action.times_ns
    still: np.ndarray = np.ones(len(times), dtype=bool)
    if episode.action.values.shape[1]:
        still &= _unchanged(episode.action, robot.action, robot.action_grippers, episode.control_rate, rules)
    places = [index for index, channel in enumerate(robot.proprio) if channel.unit in _PLACES]
    proprio = episode.proprio
    if places and len(proprio.times_ns) and _runs_forwards(proprio.times_ns):
        part = dataclasses.replace(proprio, values=proprio.values[:, places])
        layout = [robot.proprio[index] for index in places]
        resting = _unchanged(part, layout, robot.proprio_grippers, episode.control_rate, rules)
        row = nearest_at_or_before(proprio.times_ns, times)
        still &= resting[np.maximum(row, 0)] & (row >= 0)
    still[:1] = False
    return still


def _unchanged(
    stream: Stream, layout: Sequence[Channel], grippers: Sequence[Gripper], rate: Fraction, rules: SegmentRules
) -> np.ndarray:
    """bool [T]: whether every channel changes by less than its threshold (or not at all)."""
    values = stream.values
    earlier = values[_earlier(len(values), rate)]
    changes = np.abs(channel_changes(earlier, values, layout))
    for start in rotation_starts(tuple(layout), ChannelKind.QUATERNION, 4):
        group = slice(start, start + 4)  # q and -q are one rotation
        other = np.abs(values[:, group] + earlier[:, group])
        flipped = np.sum(other, axis=1) < np.sum(changes[:, group], axis=1)
        changes[:, group] = np.where(flipped[:, None], other, changes[:, group])
    spans = {gripper.channel: abs(gripper.open - gripper.closed) for gripper in grippers}
    # longer than 1/15 s where the rate is lower
    stretch = float(_lag(rate) / rate * PUBLISHED_RATE)
    thresholds = [
        _threshold(channel, values[:, index], spans.get(channel.name), stretch, rules)
        for index, channel in enumerate(layout)
    ]
    return np.asarray(((changes < thresholds) | (changes == 0)).all(axis=1))


def _threshold(
    channel: Channel, column: np.ndarray, gripper_span: float | None, stretch: float, rules: SegmentRules
) -> float:
    known = column[np.isfinite(column)]
    if channel.low is not None and channel.high is not None:
        extent = channel.high - channel.low
    elif channel.kind is ChannelKind.QUATERNION:
        extent = 2.0  # from -1 to 1
    else:
        extent = max(float(np.ptp(known)), float(np.abs(known).max())) if known.size else 0.0
    if channel.kind is ChannelKind.GRIPPER:
        return _GRIPPER_CHANGE * (gripper_span or extent)
    if channel.unit.endswith("/s"):
        return rules.idle_change * extent
    slow = (_SLOW_TURN if channel.kind in _ORIENTATIONS else _SLOW).get(channel.unit, 0.0)
    return max(rules.idle_change * extent, slow / float(PUBLISHED_RATE)) * stretch


def _language(episode: Episode) -> Iterator[Segment]:
    for instruction in episode.instructions:
        if instruction.start_ns is not None and instruction.stop_ns is not None:
            yield Segment("language", instruction.start_ns, instruction.stop_ns, instruction.text)


def _success(episode: Episode) -> Iterator[Segment]:
    """Where the card's success stream says so, row by row; an answer for the whole episode is ``Episode.success``."""
    name = episode.card.success_field
    stream = episode.raw.stream(name) if name is not None else None
    if stream is None or not stream.values.size or not _runs_forwards(stream.times_ns):
        return
    marks = np.asarray(stream.values.reshape(len(stream.values), -1)[:, -1] > 0)
    ends = np.append(stream.times_ns, stream.times_ns[-1] + TimeGrid(0, episode.control_rate, 1).period_ns)
    for start, stop in runs_of(marks):
        yield Segment("success", int(ends[start]), int(ends[stop]), stream.name)


def _gaps(episode: Episode, rules: SegmentRules) -> Iterator[Segment]:
    """From a period behind the row before the gap to the row after it; labelled with the vector or view slot."""
    steps = episode.action.times_ns
    clocks = {"action": steps, "proprio": episode.proprio.times_ns}
    clocks |= {slot: view.times_ns for slot, view in episode.views.items()}
    for name, times in clocks.items():
        if not _runs_forwards(times) or (name != "action" and np.array_equal(times, steps)):
            continue
        period = nominal_period_ns(times)
        for row in np.flatnonzero(np.diff(times) > gap_ns(period, rules.gap_periods)):
            yield Segment("gap", int(times[row]) + period, int(times[row + 1]), name)
