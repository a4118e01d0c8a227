"""What looking at every frame of a view leaves behind: a few numbers a frame, so that a long episode fits in memory.

The frames come small, gray and in chunks, and are not kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

BLACK_LEVEL = 16
"""Of 255, for the brightest point: the black of limited-range video, mistaken for full range, is 16."""
FLAT_LEVELS = 2
"""Levels between the darkest and the brightest point of a blank picture."""
SAME_LEVELS = 1
"""Levels by which a pixel of a small copy may change in a frozen picture: rounding of decoders."""


@dataclass(frozen=True, slots=True)
class ViewEvidence:
    """The numbers of a view, in levels of 255, one for each frame of the episode."""

    brightest: np.ndarray
    """uint8 [F]: of the brightest point."""
    darkest: np.ndarray
    """uint8 [F]"""
    mean: np.ndarray
    """float32 [F]"""
    change: np.ndarray
    """uint8 [F]: by how much the most changed point differs from the frame before; 255 for the first frame."""
    drift: np.ndarray
    """uint8 [F]: the same, from the first frame of the run of like pictures that the frame belongs to."""

    @property
    def num_frames(self) -> int:
        """Frames looked at."""
        return len(self.change)

    @property
    def black(self) -> np.ndarray:
        """bool [F]: nothing in the picture is brighter than black."""
        return np.asarray(self.brightest <= BLACK_LEVEL)

    @property
    def blank(self) -> np.ndarray:
        """bool [F]: one flat tone that is not black."""
        return np.asarray(~self.black & (self.brightest - self.darkest <= FLAT_LEVELS))  # no wrap: brightest >= darkest

    @property
    def same(self) -> np.ndarray:
        """bool [F]: the frame shows the picture of the frame before, which is neither black nor blank."""
        return _same(self.change, self.black | self.blank)

    @classmethod
    def of(cls, chunks: Iterable[np.ndarray]) -> "ViewEvidence":
        """Of the frames in ``chunks``, uint8 [n, h, w] each, in order."""
        parts: list[ViewEvidence] = []
        last: ViewEvidence | None = None
        before = reference = np.empty(0, np.uint8)
        for chunk in chunks:
            if not chunk.size:
                continue
            pixels = chunk.reshape(len(chunk), -1)
            brightest, darkest = pixels.max(axis=1), pixels.min(axis=1)
            change = np.full(len(pixels), 255, np.uint8)
            change[1:] = _levels(pixels[1:], pixels[:-1])
            nothing = (brightest <= BLACK_LEVEL) | (brightest - darkest <= FLAT_LEVELS)
            continued = False
            if last is not None:
                change[0] = _levels(pixels[:1], before[None])[0]
                continued = bool(change[0] <= SAME_LEVELS and not nothing[0] and not (last.black | last.blank)[-1])
            same = _same(change, nothing)
            same[0] = continued
            # the first frame of the run that each frame belongs to; -1: one of an earlier chunk
            starts = np.maximum.accumulate(np.where(same, -1, np.arange(len(pixels))))
            drift = np.empty(len(pixels), np.uint8)
            early = starts < 0
            drift[early] = _levels(pixels[early], reference[None])
            drift[~early] = _levels(pixels[~early], pixels[starts[~early]])
            if starts[-1] >= 0:
                reference = pixels[starts[-1]].copy()
            before = pixels[-1].copy()
            last = cls(brightest, darkest, pixels.mean(axis=1, dtype=np.float32), change, drift)
            parts.append(last)
        if not parts:
            empty = np.empty(0, np.uint8)
            return cls(empty, empty, np.empty(0, np.float32), empty, empty)
        names = ("brightest", "darkest", "mean", "change", "drift")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _levels(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """uint8 [n]: levels by which the most changed point of each row differs."""
    if not len(left):
        return np.empty(0, np.uint8)
    return np.asarray(np.abs(left.astype(np.int16) - right).max(axis=1).astype(np.uint8))


def _same(change: np.ndarray, nothing: np.ndarray) -> np.ndarray:
    same = change <= SAME_LEVELS
    same[:1] = False
    same[1:] &= ~nothing[1:] & ~nothing[:-1]
    return same
