"""How ``verify`` proves what a format holds of the lake's latents and embeddings. Each member is named like its format.

A member module exports ``open_group(folder: Path, group: Mapping) -> JoinedProbe`` for a group's folder and its entry in the
manifest. It starts from what the lake has, looks for it where the trainer does, and tells what is left over.
"""

from collections.abc import Iterator
from typing import Protocol

from pipelines.joined_episode import JoinedEpisode


class JoinedProbe(Protocol):
    """Reads one group of a format. What cannot be read raises ReleaseError, OSError or the error of its library."""

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """What is wrong with all that is held for an episode."""
        ...


__all__ = ["JoinedEpisode", "JoinedProbe"]
