"""Latent clips of pictures that are decoded for steps anyway."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.clip_reader import ClipPixels
from pipelines.clips import ClipSource

_Frames = tuple[int, ...]
"""A frame of every view that a picture shows, in the order of the views."""


@dataclass(slots=True)
class SharedClips:
    """The clips of one view or canvas, gathered as the pictures of its steps pass. Keeps no picture longer than it is needed."""

    source: ClipSource
    _steps: tuple[tuple[int, ...], ...]
    """Of each clip: the steps whose pictures its frames are."""
    _complete: dict[int, list[int]] = field(init=False)
    """By step: the clips that it is the last one of."""
    _needed: dict[int, int] = field(init=False)
    """By step: the last one of all clips with it."""
    _kept: dict[int, np.ndarray] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._complete, self._needed = {}, {}
        for number, steps in enumerate(self._steps):
            last = max(steps)
            self._complete.setdefault(last, []).append(number)
            for step in steps:
                self._needed[step] = max(self._needed.get(step, 0), last)

    @classmethod
    def of(cls, source: ClipSource, shown: Sequence[np.ndarray]) -> "SharedClips | None":
        """For steps that show the frames ``shown`` (int64 [steps] of each view of ``source``); None where some frame of a clip is
        no step's, as of a camera that is faster than the steps."""
        first: dict[_Frames, int] = {}
        for step, frames in enumerate(zip(*(one.tolist() for one in shown), strict=True)):
            first.setdefault(frames, step)
        found = []
        for clip in source.clips:
            views = [ids for _, ids in clip.tiles] or [clip.frame_ids]
            steps = tuple(first.get(frames, -1) for frames in zip(*views, strict=True))
            if -1 in steps:
                return None
            found.append(steps)
        return cls(source, tuple(found))

    def add(self, first_step: int, pictures: np.ndarray) -> Iterator[ClipPixels]:
        """The next pictures, uint8 [n, h, w, 3]; gives the clips that are complete by them."""
        for step, picture in enumerate(pictures, first_step):
            if step in self._needed:
                self._kept[step] = picture
            for number in self._complete.get(step, ()):
                parts = (np.stack([self._kept[one] for one in self._steps[number]]),)
                yield ClipPixels(self.source, self.source.clips[number], parts)
        stop = first_step + len(pictures)
        # copies, since a single picture would keep the memory of all of them
        self._kept = {
            step: picture.copy() if step >= first_step else picture
            for step, picture in self._kept.items()
            if self._needed[step] >= stop
        }
