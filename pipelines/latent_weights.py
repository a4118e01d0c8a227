"""Opens pretrained models for encoders: configuration, class and weights, with everything that does not fit an error.

What members of the encoder family share on loading. No code of a repository is run, and a model with a weight missing, left
over or of another shape is refused: the libraries would warn, and go on with random numbers in its place.
"""

import contextlib
import importlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.weights import CONFIG, read_config, weights_files, weights_fingerprint, weights_folder
from schemas.errors import LayoutError, RecipeError

_READERS = {
    "AutoencoderKLWan": "wan21 or wan22",
    "AutoencoderKLCosmos": "cosmos",
    "AutoencoderKLLTXVideo": "ltx",
    "AutoencoderKLTemporalDecoder": "svd",
    "AutoencoderKL": "sdxl",
    "AutoencoderKLCogVideoX": "cogvideox",
    "AutoencoderKLHunyuanVideo": "hunyuan",
    "vjepa2": "vjepa2",
}
"""The encoder that reads a class, for hints."""
_AGAIN = "fetch the weights again, whole"


@dataclass(frozen=True, slots=True)
class Found:
    """A model that was found and is not loaded yet."""

    folder: Path
    config: dict[str, Any]
    sha256: str
    """Fingerprint of configuration and weights, as the option ``sha256`` pins it."""

    @property
    def where(self) -> str:
        """The configuration, for messages."""
        return str(self.folder / CONFIG)

    def whole(self, key: str, default: int) -> int:
        """The positive whole number ``key`` of the configuration; None there means ``default``."""
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise LayoutError(f"{key} = {value!r} is no positive whole number", self.where, _AGAIN)
        return value

    def number(self, key: str, default: float | None) -> float:
        """The finite number ``key`` of the configuration; raises LayoutError where it has none and ``default`` is None."""
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise LayoutError(f"{key} = {value!r} is no number", self.where, f"add {key} as its authors published it")
        return float(value)

    def numbers(self, key: str, count: int, default: Sequence[float] | None) -> np.ndarray:
        """float32 [count]: the numbers ``key`` of the configuration, else ``default``.

        Raises LayoutError where neither has ``count`` finite numbers.
        """
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise LayoutError(f"has no {key}", self.where, f"add {key}, {count} numbers, as its authors published it")
        if len(value) != count or not all(isinstance(one, int | float) and math.isfinite(one) for one in value):
            raise LayoutError(f"{key} has {len(value)} entries, not {count} numbers", self.where, _AGAIN)
        return np.asarray(value, dtype=np.float32)

    def items(self, key: str, default: Sequence[Any]) -> list[Any]:
        """The list ``key`` of the configuration."""
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise LayoutError(f"{key} = {value!r} is no list", self.where, _AGAIN)
        return list(value)

    def expect(self, what: str, found: object, wanted: object, hint: str = "") -> None:
        """Raises LayoutError where ``found`` is not ``wanted``."""
        if found != wanted:
            raise LayoutError(f"{what} is {found}, not {wanted}", self.where, hint or "name the encoder of this model")


@dataclass(frozen=True, slots=True)
class Scale:
    """The normalization of latents: ``(z - mean) * factor / std``."""

    mean: np.ndarray
    """float32 [C, 1], or [C, P] where each of P latent frames has its own."""
    std: np.ndarray
    """float32 as ``mean``; none is zero."""
    factor: float = 1.0

    def apply(self, values: np.ndarray) -> np.ndarray:
        """float32 [B, C, L, h, w], normalized."""
        mean, std = self._over(values)
        return np.asarray((values - mean) * np.float32(self.factor) / std, dtype=np.float32)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """The inverse of ``apply``."""
        mean, std = self._over(values)
        return np.asarray(values * std / np.float32(self.factor) + mean, dtype=np.float32)

    def _over(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        positions = values.shape[2] if self.mean.shape[1] > 1 else 1
        return self.mean[:, :positions, None, None], self.std[:, :positions, None, None]


def scale_of(mean: np.ndarray, std: np.ndarray, factor: float, where: str) -> Scale:
    """``Scale`` of vectors [C] or [C, P]. Raises LayoutError where it could not be undone."""
    if not np.all(std > 0) or factor == 0:
        raise LayoutError("latents_std or scaling_factor has a number that is not positive", where, _AGAIN)
    return Scale(mean.reshape(len(mean), -1), std.reshape(len(std), -1), factor)


def find_model(encoder: str, weights: str | None, kind: str, chosen: Mapping[str, Any]) -> Found:
    """The model of class ``kind`` in ``weights``: a folder, its folder ``vae``, or the id of a repository on the hub.

    ``chosen`` may pin its fingerprint as ``sha256``. Raises MissingFile where there is none, LayoutError where it is of
    another class, FingerprintMismatch where it is not the pinned one.
    """
    folder = weights_folder(weights, ("vae",), f"the encoder {encoder}")
    config = read_config(folder)
    found = config.get("_class_name", config.get("model_type"))
    if found != kind:
        reader = _READERS.get(str(found))
        raise LayoutError(
            f"holds {'no class' if found is None else found}, and {encoder} reads {kind}",
            str(folder / CONFIG),
            f"name the encoder {reader}" if reader else f"--weights takes the folder of a model of class {kind}",
        )
    return Found(folder, config, weights_fingerprint(folder, chosen["sha256"]))


def load_autoencoder(kind: str, found: Found, dtype: str) -> Any:
    """The diffusers model of class ``kind``, on the CPU, ready to run. Raises LayoutError where the weights do not fit it."""
    import diffusers

    # Without `accelerate`, which is no dependency, the library would warn about the memory it takes.
    return load_model(getattr(diffusers, kind), found, torch_dtype=dtype, low_cpu_mem_usage=False)


def load_model(kind: Any, found: Found, **settings: Any) -> Any:
    """``kind.from_pretrained`` of a local folder; settings with a dtype name it. Raises LayoutError as above."""
    import torch
    from safetensors import SafetensorError

    named = {key: getattr(torch, value) if key.endswith("dtype") else value for key, value in settings.items()}
    # What the libraries raise on configurations and files that are cut short, or are something else.
    bad = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError)
    try:
        with _quiet(kind.__module__.partition(".")[0]):
            model, report = kind.from_pretrained(
                str(found.folder), use_safetensors=True, local_files_only=True, output_loading_info=True, **named
            )
    except (*bad, AssertionError, ZeroDivisionError) as error:
        first = str(error).strip().splitlines()[:2]
        raise LayoutError(
            f"is damaged, or no {kind.__name__}: {' '.join(first) or type(error).__name__}", str(found.folder), _AGAIN
        ) from error
    for key, what in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has too many:"),
        ("mismatched_keys", "has shapes of another model:"),
    ):
        keys = sorted(str(one[0] if isinstance(one, tuple) else one) for one in report.get(key) or ())
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise LayoutError(f"{what} {keys[0]}{more}", str(found.folder), _AGAIN)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _quiet(library: str) -> Iterator[None]:
    """Keeps what diffusers or transformers say while they load off the terminal: what matters of it is an error here."""
    said = importlib.import_module(f"{library}.utils.logging")
    verbosity, bars = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity(logging.CRITICAL)
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(verbosity)
        if bars:
            said.enable_progress_bar()


def read_vectors(found: Found, names: Sequence[str]) -> dict[str, np.ndarray]:
    """float32 vectors of the weights, as stored: a model that computes in 16 bits has rounded them.

    Raises LayoutError where one is not there.
    """
    from safetensors import SafetensorError, safe_open

    vectors: dict[str, np.ndarray] = {}
    for path in weights_files(found.folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in set(names) & set(file.keys()):
                    vectors[name] = file.get_tensor(name).float().numpy()
        except (SafetensorError, OSError) as error:
            raise LayoutError("is damaged, or no file of weights", str(path), _AGAIN) from error
    missing = [name for name in names if name not in vectors]
    if missing:
        raise LayoutError(f"lacks {missing[0]}", str(found.folder), _AGAIN)
    return vectors


def size_multiple(own: int, chosen: Mapping[str, Any]) -> int:
    """The option ``size_multiple``, which may ask for more than an encoder's ``own``. Raises RecipeError for less."""
    wanted: int = chosen["size_multiple"] or own
    if wanted % own:
        raise RecipeError(
            f"size_multiple = {wanted} is no multiple of {own}, the encoder's own", hint=f"such as {own} or {2 * own}"
        )
    return wanted
