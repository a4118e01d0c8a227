"""Tiny autoencoders of the TAESD family (TAESD, TAEF1, TAEF2, ...): real image latents, 8x down, frame by frame.

Reads state dicts only, never code. The network below follows from the names and shapes of the published weights
(madebyollin/taesd, MIT): three stride-2 stages of residual blocks, and their mirror image with nearest upsampling; in
TAEF2 the blocks next to the latents carry a side branch with a GroupNorm of four groups. torch is imported on ``load``.
"""

import contextlib
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.onnx_runtime import OnnxNetwork
from schemas.errors import FingerprintMismatch, LayoutError, MissingFile, RecipeError, UsageError
from schemas.fingerprint import fingerprint

if TYPE_CHECKING:
    import torch

VERSION = 1
SPATIAL_STRIDE = 8
SUFFIXES = (".safetensors", ".pth")
"""In order of preference where both are there."""
DTYPES = ("float32", "bfloat16", "float16")
RUNTIMES = ("torch", "onnx")
MAX_WEIGHT_BYTES = 268_435_456
"""A tiny autoencoder has a few megabytes; a file beyond this is something else and is not opened."""
HINT = (
    "--weights takes the folder that holds <name>_encoder.pth and <name>_decoder.pth (or .safetensors), such as taef2"
)

_OPTIONS: dict[str, int | str] = {
    "threads": 1,
    "batch_frames": 8,
    "dtype": "float32",
    "device": "cpu",
    "runtime": "torch",
    "variant": "",
    "sha256": "",
}
_BAD_FILE = (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError, AttributeError, OSError)
"""What torch and safetensors raise on files that are cut short or are something else."""

Weights = dict[str, "torch.Tensor"]


class TinyAutoencoder:
    """Latents as the weights give them (made to be near unit variance): float32 [F, C, H/8, W/8], one per frame.

    The same frames give the same latents on one device and version, whatever ``batch_frames``, to 1e-4. The decoder half
    may be absent; then ``decode`` raises MissingFile.
    """

    name = "tiny_autoencoder"
    temporal_stride = 1
    leading_frames = 1
    spatial_stride = SPATIAL_STRIDE
    size_multiple = SPATIAL_STRIDE
    normalization = "none (as the weights give)"
    sampling = "deterministic"
    unit_scale = True
    can_decode = True

    def __init__(
        self, encoder: Weights, decoder: Weights | None, weights_sha256: str, where: str, options: Mapping[str, Any]
    ) -> None:
        self._threads: int = options["threads"]
        self._batch_frames: int = options["batch_frames"]
        self._device: str = options["device"]
        self._dtype: str = options["dtype"]
        self._where = where
        self.channels = int(_tensor(encoder, "14.weight", f"{where}: encoder").shape[0])
        self._encoder = self._network(_encoder_parts(encoder), encoder, f"{where}: encoder")
        self._decoder = (
            decoder
            if decoder is None
            else self._network(_decoder_parts(decoder, self.channels), decoder, f"{where}: decoder")
        )
        if options["runtime"] == "onnx":
            self._encoder = OnnxNetwork(self._encoder, SPATIAL_STRIDE, self._threads, where)
        # Latents depend on the encoder half and the precision alone: not on the decoder, nor on how the work is done.
        self.fingerprint = fingerprint("tiny_autoencoder", VERSION, weights_sha256, self._dtype)

    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """uint8 RGB [B, F, H, W, 3] to float32 [B, F, C, H/8, W/8], each as ``encode``."""
        latents = self.encode(clips.reshape(-1, *clips.shape[2:]))
        return latents.reshape(*clips.shape[:2], *latents.shape[1:])

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """uint8 RGB [F, H, W, 3] to float32 [F, C, H/8, W/8]. Raises LayoutError naming the nearest right size."""
        import torch

        _check_frames(frames)
        num_frames, height, width, _ = frames.shape
        latents = np.empty((num_frames, self.channels, height // SPATIAL_STRIDE, width // SPATIAL_STRIDE), np.float32)
        with self._running():
            for part in self._parts(num_frames):
                pixels = torch.tensor(np.ascontiguousarray(frames[part]), device=self._device).permute(0, 3, 1, 2)
                values = self._encoder(pixels.to(getattr(torch, self._dtype)) / 255)
                latents[part] = values.float().cpu().numpy()
        if not np.isfinite(latents).all():
            raise LayoutError(f"the latents overflow {self._dtype}", self._where, "set the option dtype to float32")
        return latents

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """float32 [F, C, h, w] to uint8 RGB [F, 8h, 8w, 3]; lossy (33 dB and more on robot video with TAEF2).

        Raises MissingFile where the decoder half was not in the folder, LayoutError on another number of channels.
        """
        import torch

        if self._decoder is None:
            raise MissingFile("there is no decoder half beside the encoder", self._where, HINT)
        if latents.ndim != 4 or latents.shape[1] != self.channels or not latents.size:
            raise LayoutError(
                f"latents of shape {latents.shape} are not [F, {self.channels}, h, w]",
                hint="decode with the weights that made them",
            )
        num_frames, _, rows, columns = latents.shape
        frames = np.empty((num_frames, rows * SPATIAL_STRIDE, columns * SPATIAL_STRIDE, 3), np.uint8)
        with self._running():
            for part in self._parts(num_frames):
                values = torch.tensor(np.asarray(latents[part], dtype=np.float32), device=self._device)
                pixels = self._decoder(values.to(getattr(torch, self._dtype))).float().clamp(0, 1)
                frames[part] = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return frames

    def _network(self, parts: list[Any], weights: Weights, where: str) -> Any:
        import torch

        network = torch.nn.Sequential(*parts)
        try:
            network.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            differences = str(error).splitlines()[1:3]
            raise LayoutError(f"is no tiny autoencoder: {' '.join(differences).strip()}", where, HINT) from error
        # Frames arrive with their colors innermost, and so need no copy into another order.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network.to(self._device, getattr(torch, self._dtype)).eval()

    def _parts(self, num_frames: int) -> Iterator[slice]:
        for start in range(0, num_frames, self._batch_frames):
            yield slice(start, start + self._batch_frames)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Inference with our number of threads, which torch keeps per process; put back afterwards."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


def load(weights: str | None, options: Mapping[str, int | float | str | bool]) -> TinyAutoencoder:
    """The encoder with the weights in the folder ``weights``.

    Options: ``threads`` (1) and ``batch_frames`` (8) bound CPU and memory; ``dtype`` (float32, bfloat16, float16);
    ``device`` (cpu); ``runtime`` (torch; onnx for float32 on the CPU); ``variant`` names one of several sets in the folder
    (``taef2``); ``sha256`` pins the encoder's weights.

    Raises RecipeError for a wrong option, MissingFile where folder or encoder half is absent, UsageError where the
    folder holds several sets, LayoutError where a file holds no such network, FingerprintMismatch where ``sha256`` differs.
    """
    chosen = _checked(options)
    if weights is None:
        raise MissingFile("tiny_autoencoder needs weights", hint=HINT)
    folder = Path(weights)
    if not folder.is_dir():
        raise MissingFile("is not a folder" if folder.exists() else "there is no such folder", str(folder), HINT)
    variant = str(chosen["variant"]) or _only_variant(folder)
    encoder_path, decoder_path = _half(folder, variant, "encoder"), _half(folder, variant, "decoder")
    if encoder_path is None:
        raise MissingFile(f"there is no {variant}_encoder{SUFFIXES[-1]}", str(folder), HINT)
    encoder = _read(encoder_path)
    found = _weights_sha256(encoder)
    expected = str(chosen["sha256"])
    if expected and found != expected:
        raise FingerprintMismatch(
            f"the encoder's weights have the fingerprint {found}, not {expected}",
            str(encoder_path),
            "pass the weights the recipe was written for, or change its option sha256",
        )
    decoder = _read(decoder_path) if decoder_path is not None else None
    return TinyAutoencoder(encoder, decoder, found, str(folder), chosen)


def _checked(options: Mapping[str, int | float | str | bool]) -> dict[str, Any]:
    import torch

    chosen: dict[str, Any] = {**_OPTIONS, **options}
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise RecipeError(
            f"tiny_autoencoder does not know the option {unknown[0]!r}", hint=f"its options: {', '.join(_OPTIONS)}"
        )
    for name, default in _OPTIONS.items():
        value = chosen[name]
        if isinstance(value, bool) or not isinstance(value, type(default)) or (isinstance(value, int) and value < 1):
            raise RecipeError(f"tiny_autoencoder cannot do {name} = {value!r}", hint=f"such as {name} = {default!r}")
    if chosen["dtype"] not in DTYPES:
        raise RecipeError(f"tiny_autoencoder cannot compute in {chosen['dtype']!r}", hint=f"dtype: {', '.join(DTYPES)}")
    if chosen["runtime"] not in RUNTIMES:
        raise RecipeError(
            f"tiny_autoencoder cannot run in {chosen['runtime']!r}", hint=f"runtime: {', '.join(RUNTIMES)}"
        )
    if chosen["runtime"] == "onnx" and (chosen["device"], chosen["dtype"]) != ("cpu", "float32"):
        raise RecipeError(
            "runtime = 'onnx' is for float32 on the CPU", hint='leave device and dtype out, or set runtime to "torch"'
        )
    try:
        torch.zeros(1, device=chosen["device"])
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"there is no device {chosen['device']!r} here", hint='set the option device to "cpu"'
        ) from error
    return chosen


def _only_variant(folder: Path) -> str:
    found = sorted(
        {path.stem.removesuffix("_encoder") for suffix in SUFFIXES for path in folder.glob(f"*_encoder{suffix}")}
    )
    if not found:
        raise MissingFile("there is no <name>_encoder.pth or .safetensors", str(folder), HINT)
    if len(found) > 1:
        raise UsageError(
            f"several sets of weights: {', '.join(found)}", str(folder), "set the option variant to one of them"
        )
    return found[0]


def _half(folder: Path, variant: str, half: str) -> Path | None:
    if Path(variant).name != variant:
        raise RecipeError(f"variant = {variant!r} is not a name", hint="such as taef2")
    paths = [folder / f"{variant}_{half}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file()), None)


def _read(path: Path) -> Weights:
    """Tensors by name; only plain tensors are read, whatever the file holds."""
    import safetensors.torch
    import torch

    num_bytes = path.stat().st_size
    if num_bytes > MAX_WEIGHT_BYTES:
        raise LayoutError(f"{num_bytes} bytes are too many for a tiny autoencoder", str(path), HINT)
    try:
        if path.suffix == ".safetensors":
            weights: Any = safetensors.torch.load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (*_BAD_FILE, safetensors.SafetensorError) as error:
        raise LayoutError("is damaged, or no file of weights", str(path), f"fetch it again; {HINT}") from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise LayoutError("holds something else than named tensors", str(path), HINT)
    return dict(weights)


def _weights_sha256(weights: Weights) -> str:
    """64 hex digits of names, shapes and values (as float32), so .pth and .safetensors of one network agree."""
    return fingerprint("tiny_autoencoder-weights", {name: tensor.float().numpy() for name, tensor in weights.items()})


def _tensor(weights: Weights, name: str, where: str) -> "torch.Tensor":
    tensor = weights.get(name)
    if tensor is None or tensor.ndim != 4:
        raise LayoutError(f"has no convolution {name}", where, f"is it of the 8x family with three stages? {HINT}")
    return tensor


def _check_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise LayoutError(f"frames must be uint8 [F, H, W, 3], not {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[1:3]
    if height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
        lower = [max(SPATIAL_STRIDE, side // SPATIAL_STRIDE * SPATIAL_STRIDE) for side in (height, width)]
        upper = [-(-side // SPATIAL_STRIDE) * SPATIAL_STRIDE for side in (height, width)]
        raise LayoutError(
            f"frames of {height}x{width} px (height x width) are not multiples of {SPATIAL_STRIDE}",
            hint=f"set views.height_px and views.width_px to {lower[0]}x{lower[1]} or {upper[0]}x{upper[1]}",
        )


def _conv(weights: Weights, name: str, stride: int = 1) -> Any:
    """A 3x3 convolution of the shape its weights have."""
    from torch import nn

    shape = _tensor(weights, f"{name}.weight", "weights").shape
    return nn.Conv2d(shape[1], shape[0], 3, stride, padding=1, bias=f"{name}.bias" in weights)


def _block(weights: Weights, name: str) -> Any:
    """A residual block of three convolutions, with the normalized side branch if its weights are there."""
    import torch
    from torch import nn

    class Block(nn.Module):
        """``relu(x + conv(x))`` where ``x`` first gets ``pool(x)`` added, if the block has that branch."""

        def __init__(self) -> None:
            super().__init__()
            convs = [_conv(weights, f"{name}.conv.{index}") for index in (0, 2, 4)]
            self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
            self.pool: nn.Sequential | None = None
            if f"{name}.pool.0.weight" in weights:
                inner, outer = _tensor(weights, f"{name}.pool.0.weight", "weights").shape[:2]
                self.pool = nn.Sequential(
                    nn.Conv2d(outer, inner, 1, bias=False),
                    nn.GroupNorm(4, inner),
                    nn.ReLU(),
                    nn.Conv2d(inner, outer, 1, bias=False),
                )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.pool is not None:
                x = x + self.pool(x)
            return torch.relu(x + self.conv(x))

    return Block()


def _encoder_parts(weights: Weights) -> list[Any]:
    """conv, block, then three times (stride-2 conv, three blocks), conv to the latent channels: indices 0 to 14."""
    downs = (2, 6, 10)
    return [
        _conv(weights, str(index), 2 if index in downs else 1)
        if index in (0, *downs, 14)
        else _block(weights, str(index))
        for index in range(15)
    ]


def _decoder_parts(weights: Weights, channels: int) -> list[Any]:
    """Soft clamp to -3..3, conv, relu, then three times (three blocks, upsample, conv), block, conv: indices 0 to 19."""
    import torch
    from torch import nn

    class Clamp(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x / 3) * 3

    parts: list[Any] = []
    for index in range(20):
        if index == 0:
            parts.append(Clamp())
        elif index == 2:
            parts.append(nn.ReLU())
        elif index in (6, 11, 16):
            parts.append(nn.Upsample(scale_factor=2, mode="nearest"))
        elif index in (1, 7, 12, 17, 19):
            parts.append(_conv(weights, str(index)))
        else:
            parts.append(_block(weights, str(index)))
    if parts[1].in_channels != channels:
        raise LayoutError(
            f"the decoder takes {parts[1].in_channels} channels, the encoder gives {channels}",
            hint="pass two halves of one set",
        )
    return parts
