"""Probes: how ``verify`` and ``show`` read a format back, episode by episode and sample by sample. Each is named like its format.

A member module exports ``open_group(folder: Path, group: Mapping) -> Probe`` for a group's folder and its entry in the
manifest. A format without a probe is hashed and counted, and its samples cannot be shown; ``pipelines.joined`` is for what it
joins to the rows of another.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipelines.named_parts import NamedPart
from pipelines.probed import EpisodeRows, LatentSpan, Made, SampleContent, episode_at, numbers_in_split, of_steps
from schemas.errors import ReleaseError


class Probe(Protocol):
    """Reads one group of a format. What cannot be read raises ReleaseError, OSError or ArrowException."""

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        """All rows of an episode, given as the manifest tells of it; asked for in order, every file is read once."""
        ...

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        """uint8 RGB [n, H, W, 3] that the format shows at these rising steps of an episode."""
        ...

    def sample(self, number: int) -> SampleContent:
        """Sample ``number`` of the group, which is there."""
        ...


def check_widths(parts: Mapping[str, NamedPart], values: Mapping[str, np.ndarray], num: int, where: str) -> None:
    """Raises ReleaseError where ``values`` are not [num, width] of ``parts``."""
    for name, part in parts.items():
        shape = (num, part.width)
        if values[name].shape != shape:
            raise ReleaseError(
                f"{name} is of {list(values[name].shape)}, not {list(shape)}", where, "build it again", "unreadable"
            )


def converted(vector: str, parts: Mapping[str, NamedPart], values: Mapping[str, np.ndarray]) -> Iterator[Made]:
    """The parts of which some numbers are not those of the vector."""
    for name, part in parts.items():
        if None in part.kept:
            yield Made(name, vector, values[name], part.of)


__all__ = [
    "EpisodeRows",
    "LatentSpan",
    "Made",
    "Probe",
    "SampleContent",
    "check_widths",
    "converted",
    "episode_at",
    "numbers_in_split",
    "of_steps",
]
