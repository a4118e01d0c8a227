"""A video for every view of an episode, for formats that give each a file of its own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.release_plan import EpisodePlan, UnitProgress
from pipelines.video_writer import VideoWriter
from schemas.recipes import BuildRecipe
from schemas.time import parse_rate


class EpisodeVideos:
    """Writes the frames of a unit, one video at a time; ``path`` says where a view of an episode lies.

    ``progress`` is told of all frames, and holds the caller to the plan.
    """

    def __init__(self, progress: UnitProgress, recipe: BuildRecipe, path: Callable[[EpisodePlan, str], Path]) -> None:
        group = progress.unit.group
        self._progress, self._recipe, self._path = progress, recipe, path
        self._rate = parse_rate(group.rate)
        self._sizes = {view: (height, width) for view, height, width in group.views}
        self._open: VideoWriter | None = None

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        """See ``formats.PictureWriter``."""
        self._progress.frames(slot, first_step, frames)
        video = self._next(slot) if first_step == 0 or self._open is None else self._open
        video.write(frames, key_frame=first_step == 0)

    def copy(self, slot: str, video: bytes) -> None:
        """See ``formats.CopyingWriter``."""
        writer = self._next(slot)
        writer.copy(video)
        self._progress.copied(slot, writer.num_frames)

    def end(self) -> None:
        """Finishes the last video of an episode."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _next(self, slot: str) -> VideoWriter:
        self.end()
        self._open = VideoWriter(
            self._path(self._progress.episode.plan, slot), self._rate, *self._sizes[slot], self._recipe.video
        )
        return self._open
