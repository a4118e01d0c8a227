"""FAST: the cosine transform of a chunk, rounded and byte-pair encoded; fitted here or a published vocabulary (plain JSON).

Pertsch et al. 2025, "FAST: Efficient Action Tokenization for Vision-Language-Action Models" (arXiv 2501.09747), as
published in ``physical-intelligence/fast``: smooth motion leaves most coefficients zero, and runs of them become one token.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.fft import dct, idct
from tokenizers import Tokenizer

from pipelines import byte_pairs
from pipelines.byte_pairs import MAX_VOCAB, NUM_BYTES, NUM_SYMBOLS
from pipelines.chunks import checked, checked_mask, held
from pipelines.stats import center_and_scale, sketch
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError
from schemas.fingerprint import fingerprint

VERSION = 1
MAX_FILE_BYTES = 64 * 2**20
_BYTES_PER_SYMBOL = 3
"""Of a character below ``NUM_SYMBOLS`` in UTF-8, at most; so no chunk has more tokens than three per number."""
_MAX_SCALE = 1e6
_MAX_VALUE = 1e100
"""Far beyond every symbol; larger ones would overflow in the transform."""
_HEADROOM = 64


class Fast:
    """Made by ``fit``, ``load`` or ``load_published``.

    A chunk is normalized to ``(value - center) / spread`` (float64 [A], or [1] where any width is taken), transformed
    along time by the orthonormal DCT-II, multiplied by ``scale``, rounded half to even and laid out row by row, all
    channels of the lowest frequency first. Each number less ``min_token`` is a character, and the text is byte-pair
    encoded by ``vocabulary``, a byte-level BPE of the ``tokenizers`` library.

    Computed in float64: the published code keeps float32 where it is given float32, and may then round a tie otherwise.
    Coefficients without a character, or with one that the vocabulary lacks, get the nearest that it has; ``clipped`` and
    ``num_clipped`` tell.
    """

    name = "fast"
    continuous = False

    def __init__(
        self,
        vocabulary: Tokenizer,
        scale: float,
        min_token: int,
        center: np.ndarray,
        spread: np.ndarray,
        width: int | None,
    ) -> None:
        self.vocabulary = vocabulary
        self.scale = scale
        self.min_token = min_token
        self.center = center
        self.spread = spread
        self.width = width
        self.vocab_size = vocabulary.get_vocab_size()
        self.fingerprint = fingerprint("fast", VERSION, vocabulary.to_str(), scale, min_token, center, spread, width)
        self._nearest = byte_pairs.nearest_symbols(vocabulary)

    def error_bound(self, horizon: int) -> np.ndarray:
        """The largest error of a decoded value, float64 [A] or [1], in chunks of ``horizon`` steps that are not clipped.

        Rounding moves each coefficient by at most ``1 / (2 * scale)``. The transform is orthonormal, so (Parseval) the
        errors of a channel's ``horizon`` values have the same sum of squares, at most ``horizon / (4 * scale**2)``, and
        one of them at most its root: ``spread * sqrt(horizon) / (2 * scale)``.
        """
        return np.asarray(self.spread * math.sqrt(horizon) / (2 * self.scale))

    def encode(self, chunks: np.ndarray) -> list[np.ndarray]:
        """float [N, T, A] to N arrays of int64 tokens, at most ``3 * T * A``. Raises LayoutError on NaN or another width."""
        symbols, _ = self._symbols(chunks)
        encoded = self.vocabulary.encode_batch_fast(byte_pairs.texts(symbols), add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int64) for one in encoded]

    def decode(self, tokens: list[np.ndarray], horizon: int, width: int) -> np.ndarray:
        """N arrays of tokens to float64 [N, horizon, width].

        Raises LayoutError where tokens are outside the vocabulary, spell no characters, or spell more or fewer than
        ``horizon * width``, all of which a model may well produce: ``num_invalid`` counts such sequences instead.
        """
        symbols, invalid = self._read(tokens, horizon, width)
        for index, problem in invalid.items():
            raise LayoutError(problem, f"chunk {index}", "count such sequences with num_invalid before decoding")
        coefficients = (symbols.astype(np.float64) + self.min_token) / self.scale
        values = idct(coefficients.reshape(len(tokens), horizon, width), axis=1, norm="ortho")
        return np.asarray(values * self.spread + self.center)

    def num_invalid(self, tokens: list[np.ndarray], horizon: int, width: int) -> int:
        """How many of the N sequences ``decode`` would refuse. Raises LayoutError for a width that the tokenizer has not."""
        return len(self._read(tokens, horizon, width)[1])

    def clipped(self, chunks: np.ndarray) -> np.ndarray:
        """bool [N]: True where a chunk has a coefficient out of range, and so decodes with more than ``error_bound``."""
        return np.asarray(self._symbols(chunks)[1].any(axis=1))

    def num_clipped(self, chunks: np.ndarray) -> int:
        """How many coefficients of ``chunks`` [N, T, A] are out of range, and so decode to the nearest that is not."""
        return int(np.count_nonzero(self._symbols(chunks)[1]))

    def to_json(self) -> str:
        """JSON that ``load`` reads back to the bit; ``vocabulary`` in it is a tokenizer.json of the ``tokenizers`` library."""
        plain = {
            "name": self.name,
            "version": VERSION,
            "scale": self.scale,
            "min_token": self.min_token,
            "width": self.width,
            "center": self.center.tolist(),
            "spread": self.spread.tolist(),
            "vocabulary": json.loads(self.vocabulary.to_str()),
            "fingerprint": self.fingerprint,
        }
        return json.dumps(plain)

    def _symbols(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint32 [N, T * A] of characters, and bool of where they are not those that the values ask for."""
        values = checked(chunks, self.width)
        wanted = _coefficients(values, self.center, self.spread, self.scale) - self.min_token
        symbols = self._nearest[np.clip(wanted, 0, NUM_SYMBOLS - 1).astype(np.int64)]
        return symbols, symbols != wanted

    def _read(self, tokens: list[np.ndarray], horizon: int, width: int) -> tuple[np.ndarray, dict[int, str]]:
        """uint32 [N, horizon * width] of characters, zeros for the sequences that spell no chunk; what is wrong with those."""
        if self.width not in (None, width) or min(horizon, width) < 1:
            raise LayoutError(
                f"tokens of {self.width or 'any number of'} channels do not decode to {horizon} steps of {width}",
                hint="load the tokenizer of this robot",
            )
        size = horizon * width
        invalid: dict[int, str] = {}
        rows: list[list[int]] = []
        for index, sequence in enumerate(tokens):
            array = np.asarray(sequence)
            if array.ndim != 1 or array.dtype.kind not in "iu" or not 0 < array.size <= _BYTES_PER_SYMBOL * size:
                invalid[index] = f"{array.size} tokens ({array.dtype}) are not {horizon} steps of {width} channels"
            elif not 0 <= array.min() <= array.max() < self.vocab_size:
                invalid[index] = f"a token is outside [0, {self.vocab_size})"
            rows.append([] if index in invalid else array.tolist())
        texts = self.vocabulary.decode_batch(rows, skip_special_tokens=False)
        for index, text in enumerate(texts):
            if index in invalid:
                continue
            if len(text) != size:
                invalid[index] = f"the tokens spell {len(text)} numbers, not {horizon} steps of {width} channels"
            elif ord(max(text)) >= NUM_SYMBOLS:  # such as the replacement character, where bytes are no UTF-8
                invalid[index] = "the tokens spell bytes that are no characters"
        joined = "".join("\0" * size if index in invalid else text for index, text in enumerate(texts))
        return np.frombuffer(joined.encode("utf-32-le"), dtype="<u4").reshape(len(texts), size), invalid


def fit(
    chunks: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    vocab_size: int = 1024,
    scale: float = 10.0,
    normalize: bool = True,
    published: str = "",
    **unknown: int | float | str | bool,
) -> Fast:
    """FAST for ``chunks`` [N, T, A]; where ``mask`` [N, T] is False, the value held from the nearest valid step counts.

    The ranges q01..q99 of the valid steps are mapped to -1..1 before the transform, as the paper does, unless
    ``normalize`` is False (for chunks that are so already); nothing beyond is cut off. ``vocab_size`` is what the vocabulary
    may grow to, from its 256 bytes; ``scale`` is steps of quantization per unit. With ``published``, the folder of a
    published vocabulary, nothing is fitted: it is used as ``load_published`` gives it, on chunks that the recipe normalizes.

    Raises RecipeError for a wrong option, LayoutError where a value is NaN, shapes do not fit or every step is masked.
    """
    if unknown:
        hint = "its options: vocab_size, scale, normalize, published"
        raise RecipeError(f"fast does not know the option {sorted(unknown)[0]!r}", hint=hint)
    if type(vocab_size) is not int or not NUM_BYTES <= vocab_size <= MAX_VOCAB:
        hint = f"set vocab_size from {NUM_BYTES} to {MAX_VOCAB}"
        raise RecipeError(f"vocab_size = {vocab_size!r} is not possible", hint=hint)
    if _checked_scale(scale) is None:
        raise RecipeError(f"scale = {scale!r} is not possible", hint=f"set scale above 0, to {_MAX_SCALE:g} at most")
    if not isinstance(normalize, bool) or not isinstance(published, str):
        raise RecipeError("normalize is true or false, published a folder", hint="mend the options of the tokenizer")
    if published and (vocab_size, scale, normalize) != (1024, 10.0, True):
        raise RecipeError(
            "vocab_size, scale and normalize come from the published folder", published, "name published alone"
        )
    if chunks.ndim != 3 or not chunks.shape[2]:
        raise LayoutError(f"chunks of shape {chunks.shape} are not [N, T, A]")
    valid = checked_mask(chunks, mask)
    if not valid.any():
        raise LayoutError("no valid step to fit fast to", hint="is everything masked, or the selection empty?")
    width = chunks.shape[2]
    values = checked(np.where(valid[:, :, None], chunks, 0.0), width)
    if published:
        ready = load_published(published)
        if ready.width not in (None, width):
            raise LayoutError(
                f"a vocabulary of {ready.width} channels, not {width}", published, "take that of this robot"
            )
        return Fast(ready.vocabulary, ready.scale, ready.min_token, np.zeros(width), np.ones(width), width)
    if np.abs(values).max() > _MAX_VALUE:
        raise LayoutError(f"a value above {_MAX_VALUE:g}", hint="reject the episode it stands in")
    if chunks.shape[1] < 2:
        raise LayoutError(
            "single steps have no motion to fit fast to", hint="pass whole chunks, or name a published folder"
        )
    center, spread = center_and_scale(sketch(values[valid]).stats(), "quantile" if normalize else "none")
    coefficients = _coefficients(held(values, valid), center, spread, scale)
    # Room below what was seen, for chunks that were not; above there are tens of thousands of characters anyway.
    room = 2 * float(np.abs(coefficients).max()) + _HEADROOM
    min_token = -int(min(room, NUM_SYMBOLS // 2))
    symbols = np.clip(coefficients - min_token, 0, NUM_SYMBOLS - 1).astype(np.uint32)
    vocabulary = byte_pairs.learned(byte_pairs.texts(symbols), vocab_size)
    return Fast(vocabulary, float(scale), min_token, center, spread, width)


def load(text: str) -> Fast:
    """The tokenizer that ``to_json`` wrote. Raises LayoutError on other text, FingerprintMismatch on changed content."""
    try:
        plain: dict[str, Any] = json.loads(text)
        name, version, known, vocabulary = (plain[key] for key in ("name", "version", "fingerprint", "vocabulary"))
        scale, min_token, width = _checked_numbers("", plain["scale"], plain["min_token"], plain["width"])
        center = np.array(plain["center"], dtype=np.float64)
        spread = np.array(plain["spread"], dtype=np.float64)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LayoutError(f"not a fast tokenizer: {error!r}", hint="pass what to_json wrote") from error
    if name != Fast.name or version != VERSION:
        raise LayoutError(
            f"tokenizer {name!r} version {version!r}, not {Fast.name!r} version {VERSION}",
            hint="load it with the tokenizer, and the wamloom, that wrote it",
        )
    finite = np.isfinite(center).all() and np.isfinite(spread).all() and (spread > 0).all()
    if center.shape != (width or 1,) or spread.shape != center.shape or not finite:
        raise LayoutError(
            f"center {center.shape} and spread {spread.shape} are not the ranges of {width} channels",
            hint="pass what to_json wrote",
        )
    fast = Fast(byte_pairs.read(vocabulary, ""), scale, min_token, center, spread, width)
    if fast.fingerprint != known:
        raise FingerprintMismatch("the content is not what the fingerprint was taken of", hint="fit the tokenizer anew")
    return fast


def load_published(folder: str | Path) -> Fast:
    """A FAST vocabulary as published: ``tokenizer.json`` and ``processor_config.json`` in ``folder``, and nothing else of it.

    It takes chunks that are normalized already, of any horizon, and of any width unless the files say ``action_dim``.
    Raises RecipeError where a file is missing, LayoutError where one is damaged or asks for what FAST does not do.
    """
    where = Path(folder) / "processor_config.json"
    config = _read_json(where)
    if not isinstance(config, dict):
        raise byte_pairs.unfit("not an object", where)
    numbers = (config.get(key) for key in ("scale", "min_token", "action_dim"))
    scale, min_token, width = _checked_numbers(str(where), *numbers)
    path = Path(folder) / "tokenizer.json"
    vocabulary = byte_pairs.read(_read_json(path), str(path))
    size = vocabulary.get_vocab_size()
    declared = config.get("vocab_size")
    if type(declared) is not int or declared < size:
        raise byte_pairs.unfit(f"vocab_size = {declared!r} of a vocabulary of {size}", where)
    return Fast(vocabulary, scale, min_token, np.zeros(width or 1), np.ones(width or 1), width)


def _coefficients(values: np.ndarray, center: np.ndarray, spread: np.ndarray, scale: float) -> np.ndarray:
    """float64 [N, T * A], whole numbers: the transform of [N, T, A] along time, rounded as the published code does."""
    if not values.shape[1]:
        raise LayoutError("chunks without a step have no transform", hint="set the horizon to 1 or more")
    with np.errstate(over="ignore"):
        normalized = np.clip((values - center) / spread, -_MAX_VALUE, _MAX_VALUE)
    rounded = np.around(dct(normalized, axis=1, norm="ortho") * scale)
    return np.asarray(rounded.reshape(len(values), values.shape[1] * values.shape[2]))


def _checked_scale(scale: object) -> float | None:
    """``scale`` as a float, None where it cannot be one."""
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= _MAX_SCALE:
        return None
    return float(scale)


def _checked_numbers(where: str, scale: object, min_token: object, width: object) -> tuple[float, int, int | None]:
    number = _checked_scale(scale)
    if number is None:
        raise byte_pairs.unfit(f"scale = {scale!r}", where)
    if type(min_token) is not int or abs(min_token) > NUM_SYMBOLS:
        raise byte_pairs.unfit(f"min_token = {min_token!r}", where)
    if width is not None and (type(width) is not int or not 0 < width <= MAX_VOCAB):
        raise byte_pairs.unfit(f"{width!r} channels", where)
    return number, min_token, width


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_FILE_BYTES or not path.is_file():
            raise byte_pairs.unfit(f"no file of at most {MAX_FILE_BYTES} bytes", path)
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise byte_pairs.unfit(f"no JSON ({error})", path) from error
    except OSError as error:
        hint = "published names a folder with tokenizer.json and processor_config.json"
        raise RecipeError(f"cannot be read: {error.strerror}", str(path), hint) from error


__all__ = ["Fast", "fit", "load", "load_published"]
