"""The pictures of a unit: each view decoded once for all sizes that formats and an encoder of latents want, or copied to those
formats that take it as it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipelines.clip_reader import ClipPixels, ClipReader
from pipelines.clips import ClipSource
from pipelines.formats import CopyingWriter, PictureWriter, UnitPlan
from pipelines.lake import Lake
from pipelines.shared_clips import SharedClips
from pipelines.step_pictures import StepPictures
from pipelines.step_videos import Shown, StepVideos
from pipelines.video import Size
from pipelines.views import views_fingerprint
from schemas.recipes import BuildRecipe, EncodeRecipe, ViewsRecipe

_Kind = tuple[str, int, int]
"""View, height and width of what a writer is given."""


@dataclass(frozen=True, slots=True)
class Target:
    """A writer of pictures that is open."""

    writer: PictureWriter
    unit: UnitPlan
    """As it was opened with: its group says of what size its pictures are."""
    size: Size
    """What decodes to that."""

    def kind(self, view: str) -> _Kind:
        """What it is given of ``view``."""
        return next(one for one in self.unit.group.views if one[0] == view)

    @property
    def copies(self) -> bool:
        """Whether it takes frames as they are compressed."""
        return isinstance(self.writer, CopyingWriter) and self.writer.copies


class UnitPictures:
    """Reads from ``lake`` by one recipe; to be closed."""

    def __init__(self, lake: Lake, recipe: BuildRecipe, encode: EncodeRecipe | None = None) -> None:
        """``encode`` says what the clips are that are given to ``pass_by``."""
        self._recipe = recipe
        self._pictures = StepPictures(lake, recipe)
        self._videos = StepVideos(lake, recipe, self._pictures.video)
        self.shared_clips = 0
        """Clips given so far that came from a decode for steps."""
        self._clips = None if encode is None else ClipReader(lake, encode, self._pictures.video)

    def close(self) -> None:
        """Ends the decoding child."""
        self._pictures.close()

    def misfits(self, episodes: Sequence[Shown], targets: Sequence[Target]) -> dict[_Kind, str]:
        """Of each view, in each size that a writer which copies wants: why it cannot be given as it is throughout a unit of
        ``episodes``; "" where it can."""
        wanted = {kind for target in targets if target.copies for kind in target.unit.group.views}
        return {kind: self._videos.misfit(episodes, kind[0], (kind[1], kind[2])) for kind in sorted(wanted)}

    def pass_by(
        self,
        episode: Shown,
        num_steps: int,
        targets: Sequence[Target],
        copied: frozenset[_Kind],
        works: Sequence[ClipSource] = (),
    ) -> Iterator[ClipPixels]:
        """Gives all views of an episode that has begun to every writer, and the clips of ``works`` to who iterates, with the
        error of those that cannot be read. Clips whose frames are all decoded for steps come from that decode.

        Raises DecodeError, LakeError, ReleaseError.
        """
        left = {self._recipe.names.view(work.slot): work for work in works}
        for view in sorted({name for target in targets for name, _, _ in target.unit.group.views}):
            copying = [target for target in targets if target.copies and target.kind(view) in copied]
            self._copy(episode, view, copying)
            rest = [target for target in targets if target not in copying]
            if rest:
                shared = self._shared(episode, left[view]) if view in left else None
                if shared is not None:
                    del left[view]
                yield from self._decode(episode, view, num_steps, rest, shared)
        if self._clips is not None:
            yield from self._clips.read(left.values())

    def _shared(self, episode: Shown, work: ClipSource) -> SharedClips | None:
        """What gathers the clips of ``work`` from pictures of steps; None where the encoder sees others."""
        if self._clips is None or (self._clips.canvas is not None and self._clips.canvas.joins_latents):
            return None
        if _fitted(self._clips.views) != _fitted(self._recipe.views):
            return None
        return SharedClips.of(work, [episode[1][slot].rows for slot, _ in work.views])

    def _copy(self, episode: Shown, view: str, targets: Sequence[Target]) -> None:
        if not targets:
            return
        video = self._videos.of(episode, view)
        for target in targets:
            assert isinstance(target.writer, CopyingWriter)
            target.writer.copy(view, video, partial(self._at, episode, view, target.size))

    def _at(self, episode: Shown, view: str, size: Size, steps: np.ndarray) -> Iterator[np.ndarray]:
        stored, frames = episode
        for (chunk,) in self._pictures.in_sizes(stored, view, frames, steps, [size]):
            yield chunk

    def _decode(
        self, episode: Shown, view: str, num_steps: int, targets: Sequence[Target], clips: SharedClips | None
    ) -> Iterator[ClipPixels]:
        by_size: dict[Size, list[Target]] = {}
        for target in targets:
            by_size.setdefault(target.size, []).append(target)
        seen: Size | None = None
        if clips is not None and self._clips is not None:
            views = self._clips.views
            seen = next(iter(by_size)) if views.canvas else (views.height_px, views.width_px)
            by_size.setdefault(seen, [])
        (stored, frames), step = episode, 0
        for chunks in self._pictures.in_sizes(stored, view, frames, np.arange(num_steps), list(by_size)):
            for chunk, (size, given) in zip(chunks, by_size.items(), strict=True):
                for target in given:
                    target.writer.frames(view, step, chunk)
                if clips is not None and size == seen:
                    for clip in clips.add(step, chunk):
                        self.shared_clips += 1
                        yield clip
            step += len(chunks[0])


def _fitted(views: ViewsRecipe) -> str:
    """How pictures are made: alike for those of one canvas, and for those of single views that differ in size alone."""
    if views.canvas:
        return views_fingerprint(views)
    return views_fingerprint(views.model_copy(update={"height_px": None, "width_px": None}))
