"""The pictures of a unit: each view decoded once for all sizes that formats want, or copied to those that take it as it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pipelines.formats import CopyingWriter, PictureWriter, UnitPlan
from pipelines.lake import Lake
from pipelines.step_pictures import StepPictures
from pipelines.step_videos import Shown, StepVideos
from pipelines.video import Size
from schemas.recipes import BuildRecipe

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

    def __init__(self, lake: Lake, recipe: BuildRecipe) -> None:
        self._pictures = StepPictures(lake, recipe)
        self._videos = StepVideos(lake, recipe, self._pictures.video)

    def close(self) -> None:
        """Ends the decoding child."""
        self._pictures.close()

    def misfits(self, episodes: Sequence[Shown], targets: Sequence[Target]) -> dict[_Kind, str]:
        """Of each view, in each size that a writer which copies wants: why it cannot be given as it is throughout a unit of
        ``episodes``; "" where it can."""
        wanted = {kind for target in targets if target.copies for kind in target.unit.group.views}
        return {kind: self._videos.misfit(episodes, kind[0], (kind[1], kind[2])) for kind in sorted(wanted)}

    def push(self, episode: Shown, num_steps: int, targets: Sequence[Target], copied: frozenset[_Kind]) -> None:
        """All views of an episode that has begun, to every writer. Raises DecodeError, LakeError, ReleaseError."""
        for view in sorted({name for target in targets for name, _, _ in target.unit.group.views}):
            copying = [target for target in targets if target.copies and target.kind(view) in copied]
            self._copy(episode, view, copying)
            rest = [target for target in targets if target not in copying]
            self._decode(episode, view, num_steps, rest)

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

    def _decode(self, episode: Shown, view: str, num_steps: int, targets: Sequence[Target]) -> None:
        by_size: Mapping[Size, list[Target]] = {target.size: [] for target in targets}
        for target in targets:
            by_size[target.size].append(target)
        if not by_size:
            return
        (stored, frames), step = episode, 0
        for chunks in self._pictures.in_sizes(stored, view, frames, np.arange(num_steps), list(by_size)):
            for chunk, given in zip(chunks, by_size.values(), strict=True):
                for target in given:
                    target.writer.frames(view, step, chunk)
            step += len(chunks[0])
