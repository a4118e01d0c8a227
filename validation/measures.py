"""Numbers about an episode that need no judgement: how long, how fast, how much stood still, how bright."""

from collections.abc import Mapping, Sequence

import numpy as np

from schemas.embodiment import Channel, ChannelKind
from schemas.episode import Episode
from schemas.findings import Measure
from schemas.time import NANOSECONDS
from validation.evidence import ViewEvidence
from validation.motion import action_lag, channel_changes

BRIGHTNESS = "mean_brightness_"
"""Before the slot of a view. Only those have it of which every frame was decoded."""


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


def measure_episode(episode: Episode, evidence: Mapping[str, ViewEvidence]) -> tuple[Measure, ...]:
    """Measures of ``episode``, only finite ones; ``evidence`` by view slot."""
    found = [
        Measure("num_steps", float(episode.num_steps), "1"),
        Measure("duration", duration_s(episode), "s"),
    ]
    rate = observed_rate(episode.action.times_ns) if episode.action.clock == "source" else None
    if rate is not None:
        found.append(Measure("observed_rate", rate, "Hz"))
    found += _idleness(episode)
    if len(episode.proprio.values) > 1:
        found += _paths(episode.proprio.values, episode.embodiment.proprio)
    lag = action_lag(episode)
    if lag is not None:
        found.append(Measure("action_lag", lag.steps / float(episode.control_rate), "s"))
    for slot, view in episode.views.items():
        found.append(Measure(f"num_frames_{slot}", float(view.num_frames), "1"))
        found += _residuals(slot, view.times_ns, episode.action.times_ns)
        rate = observed_rate(view.times_ns)
        if rate is not None:
            found.append(Measure(f"frame_rate_{slot}", rate, "Hz"))
    found += [
        Measure(BRIGHTNESS + slot, float(view.mean.mean(dtype=np.float64)) / 255, "1")
        for slot, view in evidence.items()
        if view.num_frames
    ]
    return tuple(measure for measure in found if np.isfinite(measure.value))


def _idleness(episode: Episode) -> list[Measure]:
    """What the idle segments of the episode amount to."""
    seconds = duration_s(episode)
    if len(episode.action.times_ns) < 2 or seconds <= 0:
        return []
    idle = [
        (segment.stop_ns - segment.start_ns) / NANOSECONDS for segment in episode.segments if segment.kind == "idle"
    ]
    return [
        Measure("idle_fraction", min(1.0, sum(idle) / seconds), "1"),
        Measure("longest_idle", max(idle, default=0.0), "s"),
    ]


def _residuals(slot: str, frames_ns: np.ndarray, steps_ns: np.ndarray) -> list[Measure]:
    """How old the frame is that each step shows: nothing where both tick together, up to a frame's period where they do not."""
    if not len(frames_ns) or not len(steps_ns) or (np.diff(frames_ns) < 0).any():
        return []
    shown = np.searchsorted(frames_ns, steps_ns + 1, side="right") - 1  # a nanosecond apart is together
    ages_s = np.maximum(steps_ns - frames_ns[np.maximum(shown, 0)], 0)[shown >= 0] / NANOSECONDS
    if not ages_s.size:
        return []
    return [
        Measure(f"frame_age_median_{slot}", float(np.median(ages_s)), "s"),
        Measure(f"frame_age_max_{slot}", float(ages_s.max()), "s"),
    ]


def _paths(values: np.ndarray, layout: Sequence[Channel]) -> list[Measure]:
    """Way travelled: of the hand (channels ending in x, y, z in meters, three in a row), and of all joints together."""
    steps = channel_changes(values[:-1], values[1:], layout)
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
