"""The pixels of latent clips, as the encoder sees them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.clips import ClipSource, areas_of
from pipelines.lake import Lake
from pipelines.video import VideoTools
from pipelines.views import canvas_plan, check_tiles
from schemas.errors import WamloomError
from schemas.latent import ClipPlan
from schemas.recipes import EncodeRecipe, ViewsRecipe


@dataclass(frozen=True, slots=True)
class ClipPixels:
    """A clip as the encoder gets it: one picture a frame, or one for each tile; or the error that it has instead."""

    source: ClipSource
    clip: ClipPlan
    parts: tuple[np.ndarray, ...] = ()
    """uint8 [F, h, w, 3] each."""
    error: WamloomError | None = None

    @property
    def num_bytes(self) -> int:
        """Of the pixels."""
        return sum(part.nbytes for part in self.parts)

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
        """Clips of one key can be encoded together: the same views in the same places, since one episode may lack a view that
        another has."""
        return tuple(slot for slot, _ in self.clip.tiles), tuple(part.shape for part in self.parts)


class ClipReader:
    """Decodes the frames of clips by one recipe; to be closed."""

    def __init__(self, lake: Lake, recipe: EncodeRecipe, video: VideoTools | None = None) -> None:
        """``video`` decodes, where somebody has it already."""
        self._lake = lake
        self.views = recipe.views
        self.canvas = canvas_plan(recipe.views)
        self._video = video or VideoTools(recipe.limits)

    def close(self) -> None:
        """Ends the decoding child."""
        self._video.close()

    def read(self, works: Iterable[ClipSource]) -> Iterator[ClipPixels]:
        """Every clip of ``works`` decoded; once a view cannot be read, none of its clips is tried again."""
        for work in works:
            failed: WamloomError | None = None
            for clip in work.clips:
                if failed is None:
                    try:
                        yield ClipPixels(work, clip, self.parts(work, clip))
                        continue
                    except WamloomError as error:
                        failed = error
                yield ClipPixels(work, clip, error=failed)

    def parts(self, work: ClipSource, clip: ClipPlan) -> tuple[np.ndarray, ...]:
        """uint8 [F, h, w, 3]: what the encoder is given, one picture a frame; one for each tile where latents are joined.

        Raises DecodeError or LakeError where a view cannot be read.
        """
        if self.canvas is None:
            ((slot, _),) = work.views
            return (self._frames(work, slot, clip.frame_ids, self.views),)
        areas = areas_of(self.canvas, work)
        tiles = [
            self._frames(work, area.slot, ids, area.views) for area, (_, ids) in zip(areas, clip.tiles, strict=True)
        ]
        check_tiles(tiles, work.where)
        return tuple(tiles) if self.canvas.joins_latents else (self.canvas.picture(areas, tiles),)

    def _frames(self, work: ClipSource, slot: str, frame_ids: Sequence[int], views: ViewsRecipe) -> np.ndarray:
        view = self._lake.video(work.episode_id, slot, dict(work.views)[slot])
        where = f"episode {work.episode_id[:12]} view {slot}"
        chunks = list(self._video.decode(view, where, np.asarray(frame_ids, dtype=np.int64), views))
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
