"""The pictures of an episode's steps as a build recipe shows them, decoded from the lake: views by themselves, or canvases."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipelines.lake import Lake
from pipelines.numbers import Origin
from pipelines.rows import StoredEpisode
from pipelines.video import Size, VideoTools
from pipelines.views import canvas_plan
from schemas.episode import EncodedView
from schemas.recipes import BuildRecipe, ViewsRecipe

CANVAS_BYTES = 1 << 26
"""Pixels of canvases that are made at a time."""


class StepPictures:
    """Decodes by one recipe; to be closed."""

    def __init__(self, lake: Lake, recipe: BuildRecipe) -> None:
        self._lake = lake
        self._recipe = recipe
        self.video = VideoTools(recipe.limits)
        """What decodes; for whoever reads of the same lake."""
        self._canvas = canvas_plan(recipe.views)

    def close(self) -> None:
        """Ends the decoding child."""
        self.video.close()

    def of(
        self, stored: StoredEpisode, view: str, frames: Mapping[str, Origin], steps: np.ndarray
    ) -> Iterator[np.ndarray]:
        """uint8 RGB chunks [n, H, W, 3] of what ``view`` (a name of the release) shows at the rising ``steps``, a picture each,
        in the size that the recipe's ``views`` has.

        ``frames`` are those of every slot that is shown, as ``numbers_of`` gives them. Raises DecodeError, LakeError.
        """
        views = self._recipe.views
        for (chunk,) in self.in_sizes(stored, view, frames, steps, [(views.height_px, views.width_px)]):
            yield chunk

    def in_sizes(
        self, stored: StoredEpisode, view: str, frames: Mapping[str, Origin], steps: np.ndarray, sizes: Sequence[Size]
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """The same in each of ``sizes``, as ``BuildRecipe.size_of`` gives them, from one decode; a canvas has one."""
        if self._canvas is None:
            slot = self._recipe.names.slot(view)
            where, found = self._found(stored, slot)
            yield from self.video.decode_sizes(found, where, frames[slot].rows[steps], self._recipe.views, sizes)
            return
        areas = self._canvas.shown(tuple(stored.views))
        size = max(1, CANVAS_BYTES // (self._canvas.height * self._canvas.width * 3))
        for start in range(0, len(steps), size):
            some = steps[start : start + size]
            tiles = [
                np.concatenate(list(self._decoded(stored, area.slot, frames[area.slot].rows[some], area.views)))
                for area in areas
            ]
            yield (self._canvas.picture(areas, tiles),)

    def _decoded(
        self, stored: StoredEpisode, slot: str, frame_ids: np.ndarray, views: ViewsRecipe
    ) -> Iterator[np.ndarray]:
        where, found = self._found(stored, slot)
        return self.video.decode(found, where, frame_ids, views)

    def _found(self, stored: StoredEpisode, slot: str) -> tuple[str, EncodedView]:
        where = f"episode {stored.episode_id[:12]} view {slot}"
        return where, self._lake.video(stored.episode_id, slot, stored.views[slot])
