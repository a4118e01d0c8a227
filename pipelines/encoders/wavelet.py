"""A training-free, exactly invertible 3-D Haar transform: the encoder that needs no weights, and the oracle of the tests.

It is the full Haar packet (every band is split again at every level, as in the patcher of the Cosmos tokenizer), causal:
the first frame alone, then groups of four. Every coefficient is kept as a channel.
"""

from collections.abc import Mapping

import numpy as np

from pipelines.windows import num_latent_frames
from schemas.errors import LayoutError, RecipeError
from schemas.fingerprint import fingerprint

VERSION = 1
TEMPORAL_STRIDE = 4
SPATIAL_STRIDES = (8, 16)
_COLORS = 3
_MIDDLE, _SCALE = 128, 128.0


class Wavelet:
    """Latents of ``(pixel - 128) / 128`` in an orthonormal basis: float32 [L, 3 * 4 * s * s, H/s, W/s].

    Channel ``((t * s + y) * s + x) * 3 + color`` is the band of temporal index ``t`` and spatial indices ``y``, ``x``;
    the first three are the means. The leading frame counts as four equal frames, so its bands ``t > 0`` are zero and its
    means have the scale of all others.

    A coefficient is a whole number of at most 18 bits over a power of two, since the square roots of the orthonormal
    basis multiply to one (s = 8: 1/16, s = 16: 1/32). So ``decode(encode(x)) == x`` bit for bit in float32. Stored as
    float16 (a relative error of at most 2**-11 each), a pixel is off by at most 1 level at s = 8 and 2 levels at s = 16,
    and in practice by none.
    """

    name = "wavelet"
    temporal_stride = TEMPORAL_STRIDE
    leading_frames = 1
    sampling = "deterministic"
    unit_scale = False
    can_decode = True

    def __init__(self, spatial: int = 8) -> None:
        self.spatial_stride = spatial
        self.size_multiple = spatial
        self.channels = TEMPORAL_STRIDE * spatial * spatial * _COLORS
        self.normalization = "(pixel - 128) / 128, orthonormal Haar packet"
        self.fingerprint = fingerprint("wavelet", VERSION, spatial)
        # sqrt(4 * s * s) is a power of two, so scaling only moves the exponent.
        self._norm = np.float32(np.sqrt(TEMPORAL_STRIDE * spatial * spatial))

    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """uint8 RGB [B, F, H, W, 3] to float32 [B, L, C, H/s, W/s], each as ``encode``."""
        return np.stack([self.encode(frames) for frames in clips])

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 RGB [1 + 4k, H, W, 3] to float32 [1 + k, C, H/s, W/s].

        Raises LayoutError naming the nearest right number of frames or size.
        """
        num_frames, height, width = _check_frames(frames, self.spatial_stride)
        num_latents = num_latent_frames(num_frames, self.leading_frames, TEMPORAL_STRIDE)
        s = self.spatial_stride
        latents = np.empty((num_latents, self.channels, height // s, width // s), dtype=np.float32)
        self._forward(np.repeat(frames[:1], TEMPORAL_STRIDE, axis=0), latents[0])
        for latent in range(1, num_latents):
            first = 1 + TEMPORAL_STRIDE * (latent - 1)
            self._forward(frames[first : first + TEMPORAL_STRIDE], latents[latent])
        return latents

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """float32 (or float16) [L, C, h, w] to uint8 RGB [1 + 4 * (L - 1), h * s, w * s, 3]; exact on what encode gave.

        Raises LayoutError where the channels are not this encoder's.
        """
        if latents.ndim != 4 or latents.shape[1] != self.channels or not len(latents):
            raise LayoutError(
                f"latents of shape {latents.shape} are not [L, {self.channels}, h, w]",
                hint="decode with the encoder and options that made them",
            )
        s = self.spatial_stride
        num_latents, _, rows, columns = latents.shape
        frames = np.empty((1 + TEMPORAL_STRIDE * (num_latents - 1), rows * s, columns * s, _COLORS), dtype=np.uint8)
        frames[:1] = self._backward(latents[0])[:1]
        for latent in range(1, num_latents):
            first = 1 + TEMPORAL_STRIDE * (latent - 1)
            frames[first : first + TEMPORAL_STRIDE] = self._backward(latents[latent])
        return frames

    def _forward(self, group: np.ndarray, out: np.ndarray) -> None:
        """Four frames into one latent frame. Sums of 256 signed bytes fit 16 bits; those of 1024 need 32."""
        s = self.spatial_stride
        _, height, width, _ = group.shape
        blocks = group.reshape(TEMPORAL_STRIDE, height // s, s, width // s, s, _COLORS).transpose(0, 2, 4, 5, 1, 3)
        values: np.ndarray = np.empty(blocks.shape, dtype=np.int16 if s == 8 else np.int32)
        np.subtract(blocks, _MIDDLE, out=values, dtype=values.dtype)
        np.multiply(_packet(values).reshape(out.shape), np.float32(1 / (self._norm * _SCALE)), out=out)

    def _backward(self, latent: np.ndarray) -> np.ndarray:
        """One latent frame into four frames, uint8 [4, H, W, 3]."""
        s = self.spatial_stride
        _, rows, columns = latent.shape
        values = latent.astype(np.float32).reshape(TEMPORAL_STRIDE, s, s, _COLORS, rows, columns)
        values = _packet(values)
        values *= np.float32(_SCALE / self._norm)
        values += np.float32(_MIDDLE)
        np.clip(np.rint(values, out=values), 0, 255, out=values)
        pixels = values.astype(np.uint8).transpose(0, 4, 1, 5, 2, 3)
        return np.ascontiguousarray(pixels).reshape(TEMPORAL_STRIDE, rows * s, columns * s, _COLORS)


def _packet(values: np.ndarray) -> np.ndarray:
    """The unscaled Haar packet over the first three axes (lengths powers of two), its own inverse up to their product.

    Sums and differences of neighbours, then the same on all bands: the Walsh-Hadamard transform in natural order.
    """
    spare = np.empty_like(values)
    for axis in range(3):
        length = values.shape[axis]
        half = 1
        while half < length:
            shape = (int(np.prod(values.shape[:axis])) * length // (2 * half), 2, -1)
            old, new = values.reshape(shape), spare.reshape(shape)
            np.add(old[:, 0], old[:, 1], out=new[:, 0])
            np.subtract(old[:, 0], old[:, 1], out=new[:, 1])
            values, spare = spare, values
            half *= 2
    return values


def _check_frames(frames: np.ndarray, multiple: int) -> tuple[int, int, int]:
    if frames.ndim != 4 or frames.shape[3] != _COLORS or frames.dtype != np.uint8 or not frames.size:
        raise LayoutError(f"frames must be uint8 [F, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    num_frames, height, width, _ = frames.shape
    if height % multiple or width % multiple:
        sides = [
            sorted({max(multiple, n // multiple * multiple), -(-n // multiple) * multiple}) for n in (height, width)
        ]
        near = " or ".join(f"{h}x{w}" for h in sides[0] for w in sides[1])
        raise LayoutError(
            f"frames of {height}x{width} px (height x width) are not multiples of {multiple}",
            hint=f"set views.height_px and views.width_px to {near}",
        )
    return num_frames, height, width


def load(weights: str | None, options: Mapping[str, int | float | str | bool]) -> Wavelet:
    """The encoder; the only option is ``spatial``, 8 (default) or 16. Raises RecipeError for anything else."""
    if weights is not None:
        raise RecipeError("the wavelet encoder has no weights", hint="leave --weights out, or name another encoder")
    unknown = sorted(set(options) - {"spatial"})
    if unknown:
        raise RecipeError(
            f"wavelet does not know the option {unknown[0]!r}", hint="its only option is spatial = 8 or 16"
        )
    spatial = options.get("spatial", SPATIAL_STRIDES[0])
    if spatial not in SPATIAL_STRIDES or not isinstance(spatial, int):
        raise RecipeError(f"wavelet cannot do spatial = {spatial!r}", hint="set spatial to 8 or 16")
    return Wavelet(spatial)
