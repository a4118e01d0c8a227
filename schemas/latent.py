"""A latent clip: the frames of one view in one window, encoded, with everything that keys and aligns it."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from schemas.fingerprint import fingerprint
from schemas.time import parse_rate, rate_text


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Which source frames go into one latent clip, before any is decoded."""

    episode_id: str
    slot: str
    views_fingerprint: str
    encoder_fingerprint: str
    frame_ids: tuple[int, ...]
    """Source frames in order; one may repeat where the clip's rate is above the camera's."""
    times_ns: tuple[int, ...]
    """The grid times those frames stand for."""
    rate: Fraction | None
    """Grid rate; None at the camera's native frames."""
    frame_stride: int = 1
    """Every so many frames of that were taken."""
    tiles: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Of a canvas: (slot, source frames) of each view on it, the first as ``frame_ids``."""

    @property
    def latent_id(self) -> str:
        """Key of the row: content, view recipe, encoder and exact frames."""
        return fingerprint(
            "latent-1",
            self.episode_id,
            self.slot,
            self.views_fingerprint,
            self.encoder_fingerprint,
            self.frame_ids,
            self.times_ns,
            *([self.tiles] if self.tiles else []),
            # one instant has no rate of its own: at another it is another clip, or its row would tell only one of them
            *([self.rate_told] if len(self.frame_ids) == 1 and self.rate_told != "native" else []),
        )

    @property
    def rate_told(self) -> str:
        """As the lake tells it: ``native``, ``native/3``, ``5``; on a grid the rate is that of the frames taken."""
        if self.rate is None:
            return "native" if self.frame_stride == 1 else f"native/{self.frame_stride}"
        return rate_text(self.rate / self.frame_stride)


def is_same_rate(told: str, wanted: str, camera_hz: float) -> bool:
    """Whether latents told to be at one rate are at the other, for a camera of so many frames a second (0: unknown).

    ``native/3`` of a camera at 15 Hz are the frames that 5 Hz are; recorded times may be off by a thousandth.
    """
    if told == wanted:
        return True
    one, two = (hertz_of(text, camera_hz) for text in (told, wanted))
    return one > 0 and abs(one - two) <= one / 1000


def hertz_of(told: str, camera_hz: float) -> float:
    """Frames a second of latents told to be at a rate, for a camera of so many (0: unknown)."""
    name, _, stride = told.partition("/")
    return camera_hz / int(stride or 1) if name == "native" else float(parse_rate(told))


@dataclass(frozen=True, slots=True)
class LatentClip:
    """A computed clip: ``values`` [L, C, h, w]."""

    plan: ClipPlan
    values: np.ndarray
    temporal_stride: int
    leading_frames: int
    latent_id: str
    """Of its row in the lake."""
    period_ns: int
    """From one of its frames to the next, where it has only one; 0: unknown."""
