"""Numbers about an episode that need no judgement: how long, how fast, how much stood still, how bright."""

from collections.abc import Mapping, Sequence

import numpy as np

from schemas.embodiment import Channel, ChannelKind
from schemas.episode import Episode, Stream
from schemas.findings import Measure
from schemas.time import NANOSECONDS
from validation.evidence import ViewEvidence

IDLE_SPEEDS: Mapping[str, float] = {"m": 0.005, "rad": 0.02, "deg": 1.0}
"""Slower than this per second counts as standing still: above the noise of joint encoders, below any wanted motion."""
IDLE_SPEED_OF_RANGE = 0.02
"""The same for channels of other units, as a fraction of the channel's range in the episode."""
_STILL_UNITS = frozenset({"m", "rad", "deg", "1", "unknown"})
_TURNS: Mapping[str, float] = {"rad": 2 * np.pi, "deg": 360.0}


def observed_rate(times_ns: np.ndarray) -> float | None:
    """Hz from the median time between two rows; None for fewer than three rows or times that do not rise."""
    if len(times_ns) < 3:
        return None
    period_ns = float(np.median(np.diff(times_ns.astype(np.float64))))
    return NANOSECONDS / period_ns if period_ns > 0 else None


def duration_s(episode: Episode) -> float:
    """Seconds from the first step to one period after the last; 0 for an empty episode."""
    times_ns = episode.action.times_ns
    if not len(times_ns):
        return 0.0
    return (int(times_ns[-1]) - int(times_ns[0])) / NANOSECONDS + float(1 / episode.control_rate)


def channel_steps(values: np.ndarray, layout: Sequence[Channel]) -> np.ndarray:
    """Change from row to row, float64 [T-1, P]; angles go the short way round."""
    steps = np.diff(values.astype(np.float64), axis=0)
    for column, channel in enumerate(layout[: values.shape[1]]):
        turn = _TURNS.get(channel.unit)
        if turn is not None and channel.kind in (ChannelKind.ANGLE, ChannelKind.EULER):
            steps[:, column] = (steps[:, column] + turn / 2) % turn - turn / 2
    return steps


def moving_steps(stream: Stream, layout: Sequence[Channel]) -> np.ndarray:
    """Whether the robot moves between row i and i+1, bool [T-1]; a change to or from a missing number is no motion.

    Channels that are not places (speeds, forces) are left out.
    """
    values = stream.values
    if len(values) < 2 or values.ndim != 2:
        return np.zeros(max(len(values) - 1, 0), dtype=bool)
    seconds = np.diff(stream.times_ns.astype(np.float64)) / NANOSECONDS
    speeds = np.abs(channel_steps(values, layout)) / np.where(seconds > 0, seconds, np.nan)[:, None]
    moving = np.zeros(len(values) - 1, dtype=bool)
    for column, channel in enumerate(layout[: values.shape[1]]):
        if channel.unit not in _STILL_UNITS:
            continue
        finite = values[np.isfinite(values[:, column]), column]
        spread = float(finite.max() - finite.min()) if finite.size else 0.0
        threshold = IDLE_SPEEDS.get(channel.unit, IDLE_SPEED_OF_RANGE * spread)
        if spread > 0:
            moving |= speeds[:, column] > threshold
    return moving


def measure_episode(episode: Episode, evidence: Mapping[str, ViewEvidence]) -> tuple[Measure, ...]:
    """Measures of ``episode``, only finite ones; ``evidence`` by view slot."""
    found = [
        Measure("num_steps", float(episode.num_steps), "1"),
        Measure("duration", duration_s(episode), "s"),
    ]
    rate = observed_rate(episode.action.times_ns) if episode.action.clock == "source" else None
    if rate is not None:
        found.append(Measure("observed_rate", rate, "Hz"))
    layout = episode.embodiment.proprio
    moving = moving_steps(episode.proprio, layout)
    if len(moving):
        found.append(Measure("idle_fraction", float(1 - moving.mean()), "1"))
        found.append(Measure("longest_idle", _longest_still_s(moving, episode.proprio.times_ns), "s"))
        found += _paths(episode.proprio.values, layout)
    for slot, view in episode.views.items():
        found.append(Measure(f"num_frames_{slot}", float(view.num_frames), "1"))
        rate = observed_rate(view.times_ns)
        if rate is not None:
            found.append(Measure(f"frame_rate_{slot}", rate, "Hz"))
    found += [
        Measure(f"mean_brightness_{slot}", float(view.mean.mean(dtype=np.float64)) / 255, "1")
        for slot, view in evidence.items()
        if view.num_frames
    ]
    return tuple(measure for measure in found if np.isfinite(measure.value))


def _longest_still_s(moving: np.ndarray, times_ns: np.ndarray) -> float:
    """Seconds of the longest run without motion."""
    edges = np.flatnonzero(np.diff(np.concatenate(([1], moving.astype(np.int8), [1]))))
    if not edges.size:
        return 0.0
    starts, stops = edges[::2], edges[1::2]
    return float((times_ns[stops] - times_ns[starts]).max()) / NANOSECONDS


def _paths(values: np.ndarray, layout: Sequence[Channel]) -> list[Measure]:
    """Way travelled: of the hand (channels ending in x, y, z in meters, three in a row), and of all joints together."""
    steps = channel_steps(values, layout)
    hands = [
        start
        for start in range(len(layout) - 2)
        if all(
            layout[start + offset].unit == "m" and layout[start + offset].name.lower().endswith(axis)
            for offset, axis in enumerate("xyz")
        )
    ]
    found = []
    if hands:
        way = sum(float(np.linalg.norm(steps[:, start : start + 3], axis=1).sum()) for start in hands)
        found.append(Measure("hand_path", way, "m"))
    joints = [
        column
        for column, channel in enumerate(layout)
        if channel.unit == "rad" and channel.kind in (ChannelKind.POSITION, ChannelKind.ANGLE)
    ]
    if joints:
        found.append(Measure("joint_path", float(np.abs(steps[:, joints]).sum()), "rad"))
    return found
