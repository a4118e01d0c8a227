"""Probes: how ``verify`` and ``show`` read a format back, episode by episode and sample by sample. Each is named like its format.

A member module exports ``open_group(folder: Path, group: Mapping) -> Probe`` for a group's folder and its entry in the
manifest. A format without a probe is hashed and counted, and its samples cannot be shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipelines.probed import EpisodeRows, LatentSpan, SampleContent, episode_at


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


__all__ = ["EpisodeRows", "LatentSpan", "Probe", "SampleContent", "episode_at"]
