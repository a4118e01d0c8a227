"""Residual vector quantization: a whole chunk in a few tokens, each a code that corrects what the ones before left over.

Level by level, as in "SoundStream" (arXiv 2107.03312, section III.C), the codes being found by k-means. No part of a
sequence means anything alone: token l lies in [l * codebook_size, (l + 1) * codebook_size), so that a misplaced one is
seen.
"""

import json
from typing import Any

import numpy as np

from pipelines.chunks import checked, checked_tokens, to_fit
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError
from schemas.fingerprint import fingerprint

VERSION = 1
MAX_LEVELS = 64
MAX_CODES = 4096
MAX_FIT = 32_768
"""Codes are found on so many chunks at most: 128 for each of 256 codes, where k-means hardly gains from more."""

_MAX_ROUNDS = 30
"""Of k-means: where labels still change after so many, they do so among codes that are all but equally near."""

_BLOCK_NUMBERS = 2**18
"""Numbers in the largest matrix of distances, 2 MB."""

_NOISE = 1e-6
"""A channel that moves less than this part of its own size is constant but for rounding, as of float32; scaled to the size
of the others, its noise would take codes from what moves."""

_MAX_DEVIATIONS = 1e100
"""What is farther outside the fit has no distance to a code: its square is not a number any more."""


class ResidualVQ:
    """Codebooks over chunks of one horizon, made by ``fit`` or ``load``.

    ``books``: for each level the codes in use, float64 [at most codebook_size, T * A], steps outermost, in units of the
    channels' standard deviations. A level that needs fewer codes than ``codebook_size`` (there were fewer different
    chunks, or a code was nearest to none) keeps its size: its unused tokens are never encoded and decode to no
    correction. ``center`` and ``scale`` float64 [A]: mean and standard deviation of each channel, so that none counts
    for more because of its unit; a channel that was constant has scale 0 and decodes to its value exactly. ``low`` and
    ``high`` float64 [A]: the range of the fit.

    There is no bound on the error: it is what k-means leaves. A few codes cannot tell all poses of an arm apart, so
    absolute positions come back coarsely; chunks of motion, such as actions relative to the first step, come back well.
    """

    name = "rvq"
    continuous = False

    def __init__(
        self,
        codebook_size: int,
        horizon: int,
        books: list[np.ndarray],
        center: np.ndarray,
        scale: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> None:
        self.codebook_size = codebook_size
        self.horizon = horizon
        self.width = len(center)
        self.books = books
        self.center = center
        self.scale = scale
        self.low = low
        self.high = high
        self.num_levels = len(books)
        self.vocab_size = self.num_levels * codebook_size
        self.fingerprint = fingerprint("rvq", VERSION, codebook_size, horizon, books, center, scale, low, high)

    def encode(self, chunks: np.ndarray) -> list[np.ndarray]:
        """float [N, T, A] to N arrays of int64 tokens [num_levels].

        Raises LayoutError on NaN, another horizon or width, or a value absurdly far outside the fit.
        """
        values = checked(chunks, self.width, self.horizon)
        rest = _standardized(values, self.center, self.scale)
        tokens = np.empty((len(values), self.num_levels), dtype=np.int64)
        for level, codes in enumerate(self.books):
            labels = nearest(rest, codes)
            tokens[:, level] = level * self.codebook_size + labels
            rest -= codes[labels]
        return list(tokens)

    def decode(self, tokens: list[np.ndarray], horizon: int, width: int) -> np.ndarray:
        """N arrays of ``num_levels`` tokens to float64 [N, horizon, width].

        Raises LayoutError for another horizon or width than the fitted one, and for a sequence of another length or with a
        token of another level.
        """
        if (horizon, width) != (self.horizon, self.width):
            raise LayoutError(
                f"codes for {self.horizon} steps of {self.width} channels cannot decode {horizon} of {width}",
                hint="load the tokenizer of this robot and recipe",
            )
        rows = checked_tokens(tokens, self.num_levels, self.vocab_size)
        misplaced = np.argwhere(rows // self.codebook_size != np.arange(self.num_levels))
        if len(misplaced):
            index, level = (int(number) for number in misplaced[0])
            raise LayoutError(
                f"token {rows[index, level]} is none of level {level}",
                f"chunk {index}",
                "decode what this tokenizer encoded, or count the chunk as an invalid decode",
            )
        total = np.zeros((len(rows), horizon * width))
        for level, codes in enumerate(self.books):
            labels = rows[:, level] - level * self.codebook_size
            used = labels < len(codes)
            total[used] += codes[labels[used]]
        return np.asarray(self.center + self.scale * total.reshape(len(rows), horizon, width))

    def num_clipped(self, chunks: np.ndarray) -> int:
        """How many values of ``chunks`` [N, T, A] lie outside the fitted range of their channel, where no code was made."""
        values = checked(chunks, self.width, self.horizon)
        return int(np.count_nonzero((values < self.low) | (values > self.high)))

    def to_json(self) -> str:
        """JSON that ``load`` reads back to the bit: about 20 bytes for each number of each code in use."""
        plain = {
            "name": self.name,
            "version": VERSION,
            "codebook_size": self.codebook_size,
            "horizon": self.horizon,
            "books": [codes.tolist() for codes in self.books],
            "center": self.center.tolist(),
            "scale": self.scale.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "fingerprint": self.fingerprint,
        }
        return json.dumps(plain)


def nearest(vectors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """int64 [N]: for each of ``vectors`` [N, D] the first of the ``codes`` [C, D] at the least distance.

    A matrix product finds the few that may be it; sums in a fixed order decide among them. So the answer does not hang on
    the last bits of a product, which differ between machines, numbers of threads and numbers of vectors. Goes block by
    block, in some 10 MB whatever N is (where many codes are equally near, as to chunks absurdly far outside the fit, in
    at most 4 MB for each of the D numbers).
    """
    num_codes, num_numbers = codes.shape
    squares = np.square(codes).sum(axis=1)
    labels = np.empty(len(vectors), dtype=np.int64)
    block = max(1, _BLOCK_NUMBERS // max(num_codes, num_numbers))
    for start in range(0, len(vectors), block):
        part = vectors[start : start + block]
        scores = squares - 2 * (part @ codes.T)
        # Bound of the rounding of two such scores (Higham, Accuracy and Stability, section 3.1), doubled for safety.
        sizes = np.square(part).sum(axis=1) + 2 * squares.max()
        margin = 4 * (num_numbers + 2) * np.finfo(np.float64).eps * sizes
        rows, candidates = np.nonzero(scores <= (scores.min(axis=1) + margin)[:, None])
        distances = np.square(part[rows] - codes[candidates]).sum(axis=1)
        order = np.lexsort((candidates, distances, rows))
        firsts = np.searchsorted(rows, np.arange(len(part)))  # rows stay sorted under the order
        labels[start : start + block] = candidates[order][firsts]
    return labels


def fit(
    chunks: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    num_levels: int = 4,
    codebook_size: int = 256,
    seed: int = 0,
    **unknown: int | float | str | bool,
) -> ResidualVQ:
    """Codes for ``chunks`` [N, T, A]; masked steps are held (``mask`` [N, T]; None: none are).

    Equal chunks, options and NumPy give bit-equal codes, whatever the process and its number of threads. Of more than
    ``MAX_FIT`` chunks, that many are drawn by ``seed`` to find codes on; range, mean and deviation are of all. Takes
    memory for two copies of ``chunks`` and some four of the drawn ones, as float64.

    Raises RecipeError for a wrong option, LayoutError where a value is NaN, shapes do not fit or every step is masked.
    """
    if unknown:
        hint = "its options: num_levels, codebook_size, seed"
        raise RecipeError(f"rvq does not know the option {sorted(unknown)[0]!r}", hint=hint)
    limits = {"num_levels": (1, MAX_LEVELS), "codebook_size": (2, MAX_CODES), "seed": (0, 2**63 - 1)}
    options = {"num_levels": num_levels, "codebook_size": codebook_size, "seed": seed}
    for option, number in options.items():
        least, most = limits[option]
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
            raise RecipeError(f"{option} = {number!r} is not possible", hint=f"set {option} from {least} to {most}")
    values = to_fit(chunks, mask)
    horizon = values.shape[1]
    low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        center, scale = values.mean(axis=(0, 1)), values.std(axis=(0, 1))
    if not np.isfinite(scale).all():
        raise LayoutError("actions are too large to be averaged", hint="normalize the actions")
    constant = high - low <= _NOISE * np.maximum(np.abs(low), np.abs(high))
    center[constant], scale[constant] = low[constant], 0.0
    random = np.random.default_rng(seed)
    if len(values) > MAX_FIT:
        values = values[np.sort(random.choice(len(values), MAX_FIT, replace=False))]
    rest = _standardized(values, center, scale)
    books = []
    for _ in range(num_levels):
        codes, labels = kmeans(rest, codebook_size, random)
        books.append(codes)
        rest -= codes[labels]
    return ResidualVQ(codebook_size, horizon, books, center, scale, low, high)


def _standardized(values: np.ndarray, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """[N, T, A] to [N, T * A] in standard deviations; 0 in channels that were constant. Raises LayoutError."""
    with np.errstate(over="ignore"):
        standard = np.divide(values - center, scale, out=np.zeros_like(values), where=scale > 0)
    far = np.argwhere(np.abs(standard) > _MAX_DEVIATIONS)
    if len(far):
        chunk, step, channel = (int(index) for index in far[0])
        raise LayoutError(
            f"{values[chunk, step, channel]} is no action of this robot",
            f"chunk {chunk}, step {step}, channel {channel}",
            "look for damaged actions, or fit the tokenizer anew",
        )
    return np.asarray(standard.reshape(len(values), len(center) * values.shape[1]))


def kmeans(vectors: np.ndarray, num_codes: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At most ``num_codes`` codes [C, D] for ``vectors`` [N, D], and the label [N] of each: Lloyd's rounds from k-means++.

    Written out, for SciPy's seeding takes time with the square of ``num_codes`` and its rounds a matrix [N, C]. A code that
    lost all its vectors moves to the one farthest from its own; what is unused in the end is left out.
    """
    codes = _seeds(vectors, num_codes, random)
    labels = nearest(vectors, codes)
    for _ in range(_MAX_ROUNDS):
        # Means as offsets from the old code: vectors that are all equal to it leave it as it is, to the bit.
        offsets = vectors - codes[labels]
        order = np.argsort(labels, kind="stable")
        used, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        codes[used] += np.add.reduceat(offsets[order], starts, axis=0) / counts[:, None]
        if len(used) < len(codes):
            distances = np.square(offsets).sum(axis=1)
            unused = np.setdiff1d(np.arange(len(codes)), used)[: np.count_nonzero(distances)]
            codes[unused] = vectors[np.argsort(-distances, kind="stable")[: len(unused)]]
        before, labels = labels, nearest(vectors, codes)
        if np.array_equal(before, labels):
            break
    used, labels = np.unique(labels, return_inverse=True)
    return codes[used], labels


def _seeds(vectors: np.ndarray, num_codes: int, random: np.random.Generator) -> np.ndarray:
    """First codes, each a vector drawn in proportion to its squared distance to those before (k-means++).

    Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", 2007. Fewer where no other vector is left.
    """
    chosen = [int(random.integers(len(vectors)))]
    distances = np.square(vectors - vectors[chosen[0]]).sum(axis=1)
    while len(chosen) < num_codes and distances.any():
        ends = np.cumsum(distances)
        chosen.append(int(np.searchsorted(ends, random.random() * ends[-1], side="right")))
        np.minimum(distances, np.square(vectors - vectors[chosen[-1]]).sum(axis=1), out=distances)
    return vectors[chosen]


def load(text: str) -> ResidualVQ:
    """The tokenizer that ``to_json`` wrote. Raises LayoutError on other text, FingerprintMismatch on changed content."""
    try:
        plain: dict[str, Any] = json.loads(text)
        name, version, known = plain["name"], plain["version"], plain["fingerprint"]
        codebook_size, horizon = plain["codebook_size"], plain["horizon"]
        books = [np.array(codes, dtype=np.float64) for codes in plain["books"]]
        channels = [np.array(plain[key], dtype=np.float64) for key in ("center", "scale", "low", "high")]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LayoutError(f"not an rvq tokenizer: {error!r}", hint="pass what to_json wrote") from error
    if name != ResidualVQ.name or version != VERSION:
        raise LayoutError(
            f"tokenizer {name!r} version {version!r}, not {ResidualVQ.name!r} version {VERSION}",
            hint="load it with the tokenizer, and the wamloom, that wrote it",
        )
    whole = type(codebook_size) is int and 2 <= codebook_size <= MAX_CODES and type(horizon) is int and horizon > 0
    width = channels[0].size
    flat = width > 0 and all(channel.shape == (width,) for channel in channels)
    fits = whole and flat and 1 <= len(books) <= MAX_LEVELS
    fits = fits and all(
        codes.ndim == 2 and codes.shape[1] == horizon * width and 1 <= len(codes) <= codebook_size for codes in books
    )
    if not fits or not all(np.isfinite(array).all() for array in (*books, *channels)) or (channels[1] < 0).any():
        shapes = f"books {[codes.shape for codes in books]}, channels {[channel.shape for channel in channels]}"
        raise LayoutError(f"{shapes} are not codes", hint="pass what to_json wrote")
    tokenizer = ResidualVQ(codebook_size, horizon, books, *channels)
    if tokenizer.fingerprint != known:
        raise FingerprintMismatch("the codes are not those the fingerprint was taken of", hint="fit the tokenizer anew")
    return tokenizer


__all__ = ["ResidualVQ", "fit", "kmeans", "load", "nearest"]
