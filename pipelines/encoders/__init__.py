"""Encoders: pixels to latents. Each file is one; heavy libraries are imported inside.

A member module exports ``load(weights: str | None, options: Mapping[str, ...]) -> Encoder``.
"""

from typing import Protocol

import numpy as np


class Encoder(Protocol):
    """Turns a clip into latents. ``1 + temporal_stride * k`` frames (leading_frames = 1) give ``1 + k`` latent frames."""

    name: str
    fingerprint: str
    """Changes with weights, options and version of the transform."""
    temporal_stride: int
    leading_frames: int
    """Frames in the first latent frame: 1 for causal encoders, ``temporal_stride`` otherwise."""
    spatial_stride: int
    size_multiple: int
    """Height and width must be multiples of this."""
    channels: int
    normalization: str
    sampling: str
    """``mean``, ``sample`` or ``deterministic``."""
    unit_scale: bool
    """Whether latents of common video have a mean near 0 and a deviation near 1, so that others are suspect."""
    can_decode: bool
    """Whether ``decode`` gives pictures; encoders of features do not."""

    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """uint8 RGB [B, F, H, W, 3] to float32 [B, L, C, H/s, W/s]: what ``encode`` gives for each, to 1e-5."""
        ...

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 RGB [F, H, W, 3] to float32 [L, C, H/s, W/s]. Raises LayoutError naming the nearest right size."""
        ...

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """float32 [L, C, h, w] to uint8 RGB [F, H, W, 3]."""
        ...
