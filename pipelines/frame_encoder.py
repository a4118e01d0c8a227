"""Every frame encoded by itself, with an encoder that would otherwise look at several."""

import numpy as np

from pipelines.encoders import Encoder
from schemas.errors import RecipeError
from schemas.fingerprint import fingerprint


class FrameEncoder:
    """One latent per frame: what ``encoder`` gives for a clip of that frame alone. See the ``Encoder`` protocol."""

    temporal_stride = 1
    leading_frames = 1

    def __init__(self, encoder: Encoder) -> None:
        """Raises RecipeError where the encoder takes no single frames."""
        if encoder.leading_frames != 1:
            raise RecipeError(
                f"{encoder.name} takes no fewer than {encoder.leading_frames} frames",
                "clip.kind",
                'set clip.kind to "whole" or "fixed"',
            )
        self._encoder = encoder
        self.name = encoder.name
        alone = encoder.temporal_stride == 1  # then a frame within a clip is encoded by itself anyway
        self.fingerprint = encoder.fingerprint if alone else fingerprint("frames-1", encoder.fingerprint)
        self.spatial_stride = encoder.spatial_stride
        self.size_multiple = encoder.size_multiple
        self.channels = encoder.channels
        self.normalization = encoder.normalization
        self.sampling = encoder.sampling
        self.unit_scale = encoder.unit_scale
        self.can_decode = encoder.can_decode

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 RGB [F, H, W, 3] to float32 [F, C, H/s, W/s]."""
        return self._encoder.encode_clips(frames[:, None])[:, 0]

    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """uint8 RGB [B, F, H, W, 3] to float32 [B, F, C, H/s, W/s]."""
        return np.stack([self.encode(frames) for frames in clips])

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """float32 [F, C, h, w] to uint8 RGB [F, H, W, 3]."""
        return np.concatenate([self._encoder.decode(latent[None]) for latent in latents])
