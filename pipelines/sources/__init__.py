"""Sources: ways of storing recordings. Each file is one; it reads bytes and gives no meaning.

A member module exports ``SOURCE``, an object of the ``Source`` protocol.
"""

from collections.abc import Sequence
from typing import Protocol

from pipelines.video import VideoTools
from schemas.episode import EpisodeRef, RawEpisode
from schemas.recipes import Limits


class Source(Protocol):
    """Lists and reads the recordings of one layout."""

    name: str

    def datasets(self, location: str) -> list[str]:
        """Roots at or under ``location`` (at most three folders deep) that are in this layout, sorted; [] if none.

        Decides by the presence of marker files only, so that a damaged set is still recognised. A folder named
        directly may be the set itself, a version folder or a parent of several sets.
        """
        ...

    def refs(self, location: str) -> Sequence[EpisodeRef]:
        """Every episode the set at ``location`` claims to hold, sorted, without reading their content.

        Raises SourceError with file and hint where the set's own index cannot be read. An episode whose files are
        missing is listed: reading it fails and is counted.
        """
        ...

    def read(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> RawEpisode:
        """The whole episode, video as encoded. Raises MissingFile, CorruptEpisode or DecodeError."""
        ...
