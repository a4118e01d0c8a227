"""Statistics per channel from mergeable sketches, and the normalizations they serve, each beside its inverse.

Quantiles come from counts of distinct values. Once a channel has more than ``MAX_BUCKETS`` of them, the last bits of the
values are dropped, as few as do. What is kept then depends on the values alone, not on their order or on how they were
split over workers: merging is associative and commutative to the bit (moments: to rounding), unlike sketches that
sample, and equal data give equal releases.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from schemas.errors import LayoutError
from schemas.fingerprint import fingerprint

MAX_BUCKETS = 16_384
"""Distinct values kept per channel. A channel that fills them is known to about 1 part in 1,000 or better."""
MAX_WIDTH = 65_536
"""Channels (or horizon steps times channels); more is a mistake in the data."""
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Normalization = Literal["none", "quantile", "min_max", "z_score"]

_KEY_BITS = 63
_SMALLEST_RANGE = 1e-9
_SMALLEST_RELATIVE_RANGE = 1e-6
"""Below this share of its size the spread of a channel is rounding of float32, not motion."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of A channels over ``count`` rows; every array is float64 [A], ``std`` that of the population."""

    count: int
    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q10: np.ndarray
    q50: np.ndarray
    q90: np.ndarray
    q99: np.ndarray

    @property
    def fingerprint(self) -> str:
        """Changes when any number changes."""
        return fingerprint("stats-1", self.count, [getattr(self, name) for name in _NUMBERS])

    def to_mapping(self) -> dict[str, list[float]]:
        """``count`` (one per channel) and every statistic as lists of plain numbers, in the order of the fields."""
        counts: list[float] = [self.count] * len(self.mean)
        return {"count": counts, **{name: getattr(self, name).tolist() for name in _NUMBERS}}

    def to_json(self) -> str:
        """JSON that ``stats_from_json`` reads back to the bit."""
        return json.dumps(self.to_mapping())


_NUMBERS = tuple(field.name for field in fields(Stats) if field.name != "count")


def stats_from_json(text: str) -> Stats:
    """The inverse of ``Stats.to_json``; of no channels (a robot without proprio) the count is 0.

    Raises LayoutError where the text is no such thing.
    """
    try:
        values = json.loads(text)
        counts = {int(count) for count in values["count"]}
        numbers = {name: np.array(values[name], dtype=np.float64) for name in _NUMBERS}
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise LayoutError(f"not statistics: {error!r}", hint="pass what Stats.to_json wrote") from error
    shapes = {array.shape for array in numbers.values()}
    if (
        len(counts) > 1
        or shapes != {(len(values["count"]),)}
        or not all(np.isfinite(a).all() for a in numbers.values())
    ):
        raise LayoutError("the statistics disagree about their width or count, or are not finite")
    return Stats(counts.pop() if counts else 0, **numbers)


@dataclass(frozen=True, slots=True)
class _Buckets:
    """Counts of the values of one channel. ``keys`` are order-keeping integers of float64 without their last ``level`` bits."""

    level: int
    keys: np.ndarray
    counts: np.ndarray

    def coarsened(self, level: int) -> "_Buckets":
        """The same counts at ``level`` or, where more are needed, at the first level that has few enough buckets."""
        order = np.argsort(self.keys, kind="stable")
        keys, reached = self.keys[order] >> (level - self.level), level
        # Sorted keys stay sorted without their last bits, so buckets are runs of equal keys at every level.
        starts = _run_starts(keys)
        while len(starts) > MAX_BUCKETS:
            keys, reached = keys >> 1, reached + 1
            starts = _run_starts(keys)
        counts = self.counts[order]
        return _Buckets(reached, keys[starts], np.add.reduceat(counts, starts) if len(counts) else counts)

    def merged(self, other: "_Buckets") -> "_Buckets":
        level = max(self.level, other.level)
        one, two = self.keys >> (level - self.level), other.keys >> (level - other.level)
        both = _Buckets(level, np.concatenate([one, two]), np.concatenate([self.counts, other.counts]))
        return both.coarsened(level)

    def quantiles(self, low: float, high: float) -> list[float]:
        """Linear between ranks, as numpy's default; exact while ``level`` is 0, else from the middles of the buckets."""
        middles = np.clip(_value(self.keys, self.level), low, high)
        ends = np.cumsum(self.counts)
        found = []
        for share in QUANTILES.values():
            rank = share * (int(ends[-1]) - 1)
            below = int(rank)
            first, second = middles[np.searchsorted(ends, [below, min(below + 1, int(ends[-1]) - 1)], side="right")]
            found.append(float(first + (rank - below) * (second - first)))
        return found


@dataclass(frozen=True, slots=True)
class Sketch:
    """What a worker keeps of its values: small, mergeable, and enough for ``Stats``."""

    count: int
    mean: np.ndarray
    squares: np.ndarray
    """Sum of squared differences from the mean, float64 [A]."""
    min: np.ndarray
    max: np.ndarray
    buckets: tuple[_Buckets, ...]

    @property
    def width(self) -> int:
        """Channels."""
        return len(self.buckets)

    @property
    def is_exact(self) -> bool:
        """Whether every quantile is exact, since no channel had more than ``MAX_BUCKETS`` distinct values."""
        return all(bucket.level == 0 for bucket in self.buckets)

    def num_outside(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """int64 [A]: how many values of each channel are below ``low`` [A] or above ``high`` [A].

        Exact where ``is_exact``; else a bucket counts by its middle, kept within min..max.
        """
        found = []
        for bucket, start, stop, least, most in zip(self.buckets, low, high, self.min, self.max, strict=True):
            middles = np.clip(_value(bucket.keys, bucket.level), least, most)
            found.append(bucket.counts[(middles < start) | (middles > stop)].sum())
        return np.array(found, dtype=np.int64)

    def stats(self) -> Stats:
        """The statistics of everything seen. Raises LayoutError where that is nothing."""
        if not self.count:
            raise LayoutError(
                "no valid rows to take statistics of", hint="is everything masked, or the selection empty?"
            )
        quantiles = np.array(
            [b.quantiles(low, high) for b, low, high in zip(self.buckets, self.min, self.max, strict=True)],
            dtype=np.float64,
        ).reshape(self.width, len(QUANTILES))
        named = {name: quantiles[:, index].copy() for index, name in enumerate(QUANTILES)}
        std = np.sqrt(self.squares / self.count)
        return Stats(self.count, self.mean.copy(), std, self.min.copy(), self.max.copy(), **named)

    def to_json(self) -> str:
        """JSON that ``sketch_from_json`` reads back to the bit; the buckets are packed."""
        plain: dict[str, Any] = {"count": self.count, "width": self.width}
        if self.count:
            for name in ("mean", "squares", "min", "max"):
                plain[name] = getattr(self, name).tolist()
            plain["buckets"] = [[b.level, _packed(b.keys, difference=True), _packed(b.counts)] for b in self.buckets]
        return json.dumps(plain)


def empty_sketch(width: int) -> Sketch:
    """The sketch of no rows of ``width`` channels: merging it changes nothing."""
    none: np.ndarray = np.zeros(0, dtype=np.int64)
    zeros, infinite = np.zeros(width), np.full(width, np.inf)
    return Sketch(0, zeros, zeros, infinite, -infinite, (_Buckets(0, none, none),) * width)


def sketch(values: np.ndarray, mask: np.ndarray | None = None) -> Sketch:
    """The sketch of ``values`` [..., A], of the rows where ``mask`` [...] is True (None: all).

    Raises LayoutError where a counted value is NaN or infinite, naming row and channel, or the shapes do not fit.
    """
    array = np.asarray(values)
    if array.ndim < 1:
        raise LayoutError("a single number has no channels", hint="pass values of shape [..., A]")
    if mask is not None and mask.shape != array.shape[:-1]:
        raise LayoutError(f"values of shape {array.shape} and a mask of shape {mask.shape} do not fit")
    width = array.shape[-1]
    if width > MAX_WIDTH:
        raise LayoutError(f"{width} channels are more than {MAX_WIDTH}")
    chosen = array.reshape(-1, width) if mask is None else array[np.asarray(mask, dtype=bool)]
    rows = chosen.astype(np.float64)
    if not len(rows):
        return empty_sketch(width)
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        row, channel = (int(index) for index in bad[0])
        raise LayoutError(
            f"{rows[row, channel]} cannot be counted",
            f"counted row {row}, channel {channel}",
            "mask the rows without data, or reject the episode",
        )
    mean = rows.mean(axis=0)
    squares = np.square(rows - mean).sum(axis=0)
    buckets = []
    for column in rows.T:
        keys = _keys(column)
        buckets.append(_Buckets(0, keys, np.ones(len(keys), dtype=np.int64)).coarsened(0))
    return Sketch(len(rows), mean, squares, rows.min(axis=0), rows.max(axis=0), tuple(buckets))


def merge(one: Sketch, two: Sketch) -> Sketch:
    """The sketch of both. Counts, extremes and quantiles do not depend on order or grouping, not even in the last bit;
    mean and std only to rounding (Chan, Golub and LeVeque 1979). Raises LayoutError where the widths differ.
    """
    if one.width != two.width:
        raise LayoutError(f"statistics of {one.width} and of {two.width} channels cannot be merged")
    if not one.count or not two.count:
        return one if one.count else two
    count = one.count + two.count
    step = two.mean - one.mean
    mean = one.mean + step * (two.count / count)
    squares = one.squares + two.squares + np.square(step) * (one.count * (two.count / count))
    buckets = tuple(a.merged(b) for a, b in zip(one.buckets, two.buckets, strict=True))
    return Sketch(count, mean, squares, np.minimum(one.min, two.min), np.maximum(one.max, two.max), buckets)


def merge_all(sketches: Sequence[Sketch]) -> Sketch:
    """The sketch of all of one or more, merged in the order given."""
    total = sketches[0]
    for part in sketches[1:]:
        total = merge(total, part)
    return total


def sketch_from_json(text: str) -> Sketch:
    """The inverse of ``Sketch.to_json``. Raises LayoutError where the text is no such thing."""
    try:
        plain = json.loads(text)
        count, width = int(plain["count"]), int(plain["width"])
        if not 0 <= width <= MAX_WIDTH:
            raise ValueError(f"width {width}")
        if not count:
            return empty_sketch(width)
        moments = {name: np.array(plain[name], dtype=np.float64) for name in ("mean", "squares", "min", "max")}
        buckets = tuple(
            _Buckets(int(level), np.cumsum(_unpacked(keys)), _unpacked(counts))
            for level, keys, counts in plain["buckets"]
        )
    except (ValueError, TypeError, KeyError, binascii.Error, zlib.error) as error:
        raise LayoutError(f"not a sketch: {error!r}", hint="pass what Sketch.to_json wrote") from error
    whole = all(0 <= b.level <= _KEY_BITS and len(b.keys) == len(b.counts) and b.counts.sum() == count for b in buckets)
    if len(buckets) != width or any(array.shape != (width,) for array in moments.values()) or not whole:
        raise LayoutError("the sketch disagrees with itself about its width or count")
    return Sketch(count, **moments, buckets=buckets)


def _run_starts(ordered: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(ordered)), dtype=bool), ordered[1:] != ordered[:-1]]))


def _keys(values: np.ndarray) -> np.ndarray:
    """int64 that sort as the finite floats do: the bit pattern, turned round for negative ones; -0.0 counts as 0.0."""
    bits = (values + 0.0).view(np.int64)
    return np.where(bits < 0, np.int64(-(2**63)) - bits - 1, bits)


def _value(keys: np.ndarray, level: int) -> np.ndarray:
    """The middle of each bucket; at level 0 the value itself."""
    full = (keys << level) + ((1 << level) >> 1)
    return np.where(full < 0, np.int64(-(2**63)) - full - 1, full).view(np.float64)


def _packed(integers: np.ndarray, difference: bool = False) -> str:
    stored = np.diff(integers, prepend=0) if difference else integers
    return base64.b64encode(zlib.compress(stored.astype("<i8").tobytes(), 6)).decode("ascii")


def _unpacked(text: str) -> np.ndarray:
    inflate = zlib.decompressobj()
    data = inflate.decompress(base64.b64decode(text, validate=True), 8 * MAX_BUCKETS)
    if not inflate.eof:
        raise ValueError(f"more than {MAX_BUCKETS} buckets, or cut short")
    return np.frombuffer(data, dtype="<i8").astype(np.int64)


def center_and_scale(stats: Stats, kind: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """float64 [A] each: the normalized value is ``(value - center) / scale``.

    ``quantile`` maps q01..q99 to -1..1, ``min_max`` min..max to -1..1, ``z_score`` to mean 0 and std 1. A channel without
    range is only centered (scale 1, so a constant becomes 0); for ``quantile`` one whose q01 and q99 coincide although
    it moves, such as a gripper that rarely opens, falls back to min..max.
    """
    width = len(stats.mean)
    if kind == "none":
        return np.zeros(width), np.ones(width)
    if kind == "z_score":
        center, scale = stats.mean, stats.std
    else:
        center, scale = (stats.min + stats.max) / 2, (stats.max - stats.min) / 2
        if kind == "quantile":
            inner_center, inner_scale = (stats.q01 + stats.q99) / 2, (stats.q99 - stats.q01) / 2
            moves = ~is_without_range(inner_center, inner_scale)
            center, scale = np.where(moves, inner_center, center), np.where(moves, inner_scale, scale)
    return center, np.where(is_without_range(center, scale), 1.0, scale)


def is_without_range(center: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """bool [A]: whether ``scale`` is too small, absolutely or beside ``center``, to divide by."""
    return np.asarray(scale <= _SMALLEST_RANGE + _SMALLEST_RELATIVE_RANGE * np.abs(center))


def normalize(
    values: np.ndarray,
    stats: Stats,
    kind: Normalization,
    *,
    clamp: float | None = None,
    factor: float | np.ndarray = 1.0,
) -> np.ndarray:
    """float64 [..., A]: ``(value - center) / scale * factor``, then cut to -clamp..clamp; None: nothing is cut.

     ``factor`` is one number or one a channel: with kind ``none`` it is the fixed scale of IRASim and Cosmos-Predict2, 20
    for the pose and 1 for the gripper. DreamZero takes ``quantile`` with clamp 1, later LingBot-VA with clamp 1.5.
    Raises LayoutError where the widths differ, or on a factor or clamp that loses everything.
    """
    center, scale = _fitting(values, stats, kind, factor)
    result = np.asarray((values - center) / scale * factor)
    if clamp is None:
        return result
    if not clamp > 0:
        raise LayoutError(f"a clamp of {clamp} leaves nothing", hint="clamp at a positive number, or pass None")
    return np.clip(result, -clamp, clamp)


def denormalize(
    values: np.ndarray, stats: Stats, kind: Normalization, *, factor: float | np.ndarray = 1.0
) -> np.ndarray:
    """The inverse of ``normalize``, to rounding; what was clamped comes back at the bound. Raises LayoutError likewise."""
    center, scale = _fitting(values, stats, kind, factor)
    return np.asarray(values / factor * scale + center)


def _fitting(
    values: np.ndarray, stats: Stats, kind: Normalization, factor: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if np.ndim(values) < 1 or np.shape(values)[-1] != len(stats.mean):
        raise LayoutError(
            f"values of shape {np.shape(values)} do not fit statistics of {len(stats.mean)} channels",
            hint="statistics and values must be of one recipe and one embodiment",
        )
    if np.shape(factor) not in ((), (len(stats.mean),)) or not np.isfinite(factor).all() or not np.all(factor):
        raise LayoutError(
            f"{factor} is no factor of {len(stats.mean)} channels", hint="pass one finite number, not 0, or A"
        )
    return center_and_scale(stats, kind)
