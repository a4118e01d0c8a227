"""A sample: one row a trainer reads, with the walk back to where it came from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FrameOrigin:
    """Where one frame of a sample came from."""

    slot: str
    frame_id: int
    """Index in the source video of the episode."""
    time_ns: int
    """Recorded time of that frame on the episode clock."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Lineage of one sample: which steps of which episode, from which source rows and frames."""

    sample: int
    group: str
    episode_id: str
    location: str
    source_key: str
    step: int
    time_ns: int
    source_row: int
    """Row of the action stream that step came from (hold: at or before its time)."""
    source_time_ns: int
    frames: tuple[FrameOrigin, ...]
    instruction: str
