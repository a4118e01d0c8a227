"""Encoders around pretrained video autoencoders: options, batches, sampling, normalization and checks, whatever the network.

What members of the encoder family share at run time. A member says what its network is; torch is imported on use.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from pipelines.latent_weights import Found, Scale, size_multiple
from pipelines.windows import latent_spans, num_latent_frames
from schemas.errors import LayoutError, RecipeError
from schemas.fingerprint import fingerprint

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
SAMPLINGS = ("mean", "sample")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
Options = Mapping[str, int | float | str | bool]

COMMON: dict[str, int | str | bool] = {
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "size_multiple": 0,
    "sha256": "",
}
"""Options of every encoder here, with their defaults."""
OF_CLIPS: dict[str, int | str | bool] = {**COMMON, "batch_clips": 4}
"""Options of encoders that take whole clips."""
OF_FRAMES: dict[str, int | str | bool] = {**COMMON, "batch_frames": 8}
"""Options of encoders that take each frame by itself."""
GAUSSIAN: dict[str, int | str | bool] = {"sampling": "mean"}
"""Options of encoders that give a distribution."""


@dataclass(frozen=True, slots=True)
class Network:
    """What an encoder is around: two functions of tensors, and the numbers that describe them."""

    model: Any
    encode: Callable[["torch.Tensor"], tuple["torch.Tensor", "torch.Tensor | None"]]
    """[B, 3, F, H, W] of normalized pixels to mean and log-variance [B, C, L, h, w]; no log-variance where it has none."""
    decode: Callable[["torch.Tensor"], "torch.Tensor"] | None
    """[1, C, L, h, w] to [1, 3, F, H, W] in -1..1; None where it gives no pictures."""
    channels: int
    spatial_stride: int
    temporal_stride: int = 1
    leading_frames: int = 1
    pixel_mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    """Of red, green and blue in 0..255; pixels are normalized as ``(pixel - pixel_mean) / pixel_std``, here to -1..1."""
    pixel_std: tuple[float, float, float] = (127.5, 127.5, 127.5)


def gaussian(distribution: Any) -> tuple["torch.Tensor", "torch.Tensor | None"]:
    """Mean and log-variance of a diffusers distribution, the latter clamped to -30..20 there."""
    return distribution.mode(), getattr(distribution, "logvar", None)


def frame_encoder(model: Any) -> Callable[["torch.Tensor"], tuple["torch.Tensor", "torch.Tensor | None"]]:
    """``Network.encode`` of a diffusers autoencoder of images: [B, 3, 1, H, W] to [B, C, 1, h, w]."""

    def encode(pixels: "torch.Tensor") -> tuple["torch.Tensor", "torch.Tensor | None"]:
        mean, logvar = gaussian(model.encode(pixels[:, :, 0]).latent_dist)
        return mean[:, :, None], None if logvar is None else logvar[:, :, None]

    return encode


def frame_decoder(decode: Callable[["torch.Tensor"], Any], at_once: int) -> Callable[["torch.Tensor"], "torch.Tensor"]:
    """``Network.decode`` by ``decode`` of images, [N, C, h, w] to an output with [N, 3, H, W], at most ``at_once`` in turn."""
    import torch

    def decode_clip(latents: torch.Tensor) -> torch.Tensor:
        images = latents[0].transpose(0, 1)
        parts = [decode(images[start : start + at_once]).sample for start in range(0, len(images), at_once)]
        return torch.cat(parts).transpose(0, 1)[None]

    return decode_clip


class LatentModel:
    """A pretrained encoder: ``leading_frames + temporal_stride * k`` frames give ``1 + k`` latent frames.

    The same frames give the same latents on one device and version of the libraries, alone or in a batch: to 1e-5 in float32,
    where convolutions are computed in full precision, to the precision of ``dtype`` otherwise. Drawn latents
    (``sampling = "sample"``) take their noise from a hash of the frames they cover, so they can be drawn again.
    """

    def __init__(
        self,
        name: str,
        version: int,
        network: Network,
        scale: Scale | None,
        found: Found,
        chosen: Mapping[str, Any],
        normalization: str,
        *,
        unit_scale: bool = True,
        values: Mapping[str, int | str | bool] | None = None,
    ) -> None:
        self.name = name
        self.temporal_stride = network.temporal_stride
        self.leading_frames = network.leading_frames
        self.spatial_stride = network.spatial_stride
        self.size_multiple = size_multiple(network.spatial_stride, chosen)
        self.channels = network.channels
        self.normalization = normalization
        self.sampling: str = chosen.get("sampling", "deterministic")
        self.unit_scale = unit_scale
        self.can_decode = network.decode is not None
        self._network = network
        self._scale = scale
        self._where = str(found.folder)
        self._threads: int = chosen["threads"]
        self._dtype: str = chosen["dtype"]
        self._device: str = chosen["device"]
        # Frames by themselves are clips of one frame.
        self._alone = "batch_frames" in chosen
        self._batch: int = chosen["batch_frames" if self._alone else "batch_clips"]
        # Not the device, nor how the work is split: what they change is rounding.
        self.fingerprint = fingerprint(
            name, version, found.sha256, self._dtype, self.sampling, dict(sorted((values or {}).items()))
        )
        network.model.to(self._device)

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 RGB [F, H, W, 3] to float32 [L, C, H/s, W/s].

        Raises LayoutError naming the nearest right size or number of frames, and where latents overflow ``dtype``.
        """
        _check(frames[None], self.size_multiple)
        latents: np.ndarray = self.encode_clips(frames[None])[0]
        return latents

    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """uint8 RGB [B, F, H, W, 3] to float32 [B, L, C, H/s, W/s], each as ``encode``; in batches as the options say."""
        _check(clips, self.size_multiple)
        num_clips, num_frames, height, width, _ = clips.shape
        num_latents = num_latent_frames(num_frames, self.leading_frames, self.temporal_stride)
        if self._scale is not None and 1 < self._scale.mean.shape[1] < num_latents:
            most = self.leading_frames + self.temporal_stride * (self._scale.mean.shape[1] - 1)
            raise LayoutError(
                f"{self.name} has a normalization for {self._scale.mean.shape[1]} latent frames, not {num_latents}",
                self._where,
                f"pass clips of at most {most} frames",
            )
        if self._alone:
            clips = clips.reshape(-1, 1, *clips.shape[2:])
        side = self.spatial_stride
        depth = 1 if self._alone else num_latents
        latents = np.empty((len(clips), depth, self.channels, height // side, width // side), np.float32)
        with self._running():
            for start in range(0, len(clips), self._batch):
                # A copy, since torch takes neither read-only arrays nor backward ones.
                part = clips[start : start + self._batch].copy(order="C")
                values = self._encode(part)
                if values.shape != (len(part), *latents.shape[1:]):
                    raise LayoutError(
                        f"the network gives latents of {list(values.shape[1:])}, and its configuration promises "
                        f"{list(latents.shape[1:])} (L, C, h, w)",
                        self._where,
                        f"are these the weights of {self.name}?",
                    )
                latents[start : start + len(part)] = values
        if not np.isfinite(latents).all():
            raise LayoutError(
                f"the latents overflow {self._dtype}",
                self._where,
                "set the option dtype to bfloat16 or float32" if self._dtype == "float16" else "are the weights whole?",
            )
        return latents.reshape(num_clips, num_latents, *latents.shape[2:])

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """float32 (or float16) [L, C, h, w] to uint8 RGB [F, h * s, w * s, 3]; as lossy as the network is.

        Raises LayoutError where the channels are not this encoder's, or where it gives no pictures.
        """
        import torch

        if self._network.decode is None:
            raise LayoutError(
                f"{self.name} gives features, which cannot be decoded to pictures",
                hint="look at the frames of the lake, or encode with an autoencoder",
                reason="no_decoder",
            )
        if latents.ndim != 4 or latents.shape[1] != self.channels or not latents.size:
            raise LayoutError(
                f"latents of shape {latents.shape} are not [L, {self.channels}, h, w]",
                hint="decode with the encoder and weights that made them",
            )
        values = np.ascontiguousarray(latents.astype(np.float32).swapaxes(0, 1))[None]
        if self._scale is not None:
            values = self._scale.undo(values)
        with self._running():
            tensor = torch.tensor(values, device=self._device).to(getattr(torch, self._dtype))
            pixels = self._network.decode(tensor)[0].float()
            whole = pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            frames: np.ndarray = whole.permute(1, 2, 3, 0).contiguous().cpu().numpy()
        return frames

    def _encode(self, clips: np.ndarray) -> np.ndarray:
        """float32 [B, L, C, h, w] of one batch of contiguous clips."""
        import torch

        network = self._network
        pixels = torch.from_numpy(clips).to(self._device).permute(0, 4, 1, 2, 3).float()
        middle = torch.tensor(network.pixel_mean, device=self._device).view(3, 1, 1, 1)
        spread = torch.tensor(network.pixel_std, device=self._device).view(3, 1, 1, 1)
        pixels = ((pixels - middle) / spread).to(getattr(torch, self._dtype))
        mean, logvar = network.encode(pixels)
        values: np.ndarray = mean.float().cpu().numpy()
        if self.sampling == "sample" and logvar is not None:
            deviation: np.ndarray = logvar.float().mul(0.5).exp().cpu().numpy()
            values = values + deviation * np.stack([self._noise(clip, values.shape[1:]) for clip in clips])
        if self._scale is not None:
            values = self._scale.apply(values)
        return values.swapaxes(1, 2)

    def _noise(self, clip: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """float32 [C, L, h, w] of a normal distribution, the same for the same frames wherever they are encoded.

        That of a latent frame follows from the frames up to its end, as its mean does.
        """
        channels, num_latents, *sides = shape
        noise = np.empty((num_latents, channels, *sides), np.float32)
        digest = xxhash.xxh3_128(repr(clip.shape[1:]).encode())
        for latent, (start, stop) in enumerate(latent_spans(self.leading_frames, self.temporal_stride, num_latents)):
            digest.update(clip[start:stop].data)
            generator = np.random.Generator(np.random.Philox(digest.intdigest()))
            noise[latent] = generator.standard_normal(noise.shape[1:], dtype=np.float32)
        return noise.swapaxes(0, 1)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Inference with our number of threads, which torch keeps per process and gets back, and in the precision asked for.

        By default convolutions of float32 are rounded to 10 bits (TF32) on GPUs, which is no float32.
        """
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        try:
            with torch.inference_mode(), flags:
                yield
        except RuntimeError as error:
            # torch.OutOfMemoryError on a GPU; on a CPU the allocator has only this text.
            if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
                raise RecipeError(
                    f"the memory of {self._device} is too small for a batch of {self._batch}",
                    self._where,
                    "lower the option batch_clips (or batch_frames), clip.num_frames or the size of the views",
                    "out_of_memory",
                ) from error
            raise
        finally:
            torch.set_num_threads(before)


def checked_options(encoder: str, options: Options, defaults: Mapping[str, int | str | bool]) -> dict[str, Any]:
    """``options`` over ``defaults``, with ``device`` resolved. Raises RecipeError naming what is known."""
    import torch

    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise RecipeError(
            f"{encoder} does not know the option {unknown[0]!r}", hint=f"its options: {', '.join(defaults)}"
        )
    chosen: dict[str, Any] = {**defaults, **options}
    for name, default in defaults.items():
        value = chosen[name]
        least = 0 if default == 0 else 1
        if type(value) is not type(default) or (type(value) is int and value < least):
            raise RecipeError(f"{encoder} cannot do {name} = {value!r}", hint=f"such as {name} = {default!r}")
    for name, known in (("dtype", DTYPES), ("sampling", SAMPLINGS)):
        if name in chosen and chosen[name] not in known:
            raise RecipeError(f"{encoder} cannot do {name} = {chosen[name]!r}", hint=f"{name}: {', '.join(known)}")
    device = chosen["device"]
    if not _DEVICE.fullmatch(device):
        raise RecipeError(f"{encoder} cannot run on {device!r}", hint="device: auto, cpu, cuda, cuda:0, ...")
    if device == "auto":
        chosen["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=chosen["device"])
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"there is no device {device!r} here", hint='set the option device to "cpu"') from error
    return chosen


def _check(clips: np.ndarray, multiple: int) -> None:
    if clips.ndim != 5 or clips.shape[4] != 3 or clips.dtype != np.uint8 or not clips.size:
        raise LayoutError(f"frames must be uint8 [F, H, W, 3], not {clips.dtype} {list(clips.shape[1:])}")
    height, width = clips.shape[2:4]
    if height % multiple or width % multiple:
        lower = [max(multiple, side // multiple * multiple) for side in (height, width)]
        upper = [-(-side // multiple) * multiple for side in (height, width)]
        raise LayoutError(
            f"frames of {height}x{width} px (height x width) are not multiples of {multiple}",
            hint=f"set views.height_px and views.width_px to {lower[0]}x{lower[1]} or {upper[0]}x{upper[1]}",
        )
