"""Signatures of motion: the same recording found again under another name, layout, numeric type, rate, or trimmed.

A signature is a few hashes of short pieces of single channels. Each piece is described by its shape between its own lowest
and highest value, in coarse levels, so that rounding does not matter; the smallest hashes of each channel are kept, so that
two trimmed copies keep the same ones. Shared hashes only make candidates: ``compare`` lays the values side by side and
counts. Whatever stands still has no shape and gives no evidence.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from schemas.fingerprint import fingerprint

Channels = Mapping[str, np.ndarray]
"""The numbers of a recording by name of the vector, float64 [T, C], as ``vectors_of`` gives them."""
MEANT = ("action", "proprio")
"""The vectors that a card gives; a single channel elsewhere may be a clock that looks the same in every recording."""
_DIGEST_BYTES = 32

_POINTS = 8
"""Values that describe a piece."""
_LAGS = (1, 2, 3, 6, 12)
"""Rows from one of its values to the next: every second, third or sixth row of a recording has pieces in common with it."""
_LEVELS = 31
_MIN_RANGE = 0.05
"""Of the range of the channel: a piece that moves less is idle."""
_MIN_BEND = 0.15
"""Of its own range: a piece that is straighter looks like any other ramp."""
_MIN_LEVELS = 5
"""A piece with fewer different values is a switch."""
_MAX_WIDTH = 128
"""A wider vector is no motion but an embedding."""
_KEPT = 256
"""Hashes of a recording, about."""
_MAX_NUMBERS = 1 << 20
"""Looked at in one go, to bound memory."""
_THREADS = 2
"""numpy works on long recordings without holding up other threads."""
_MAX_VOTES = 64
_MAX_ALIGNMENTS = 4
_MAX_VECTORS = 8
_COMPARED = 48
"""Hashes per channel and lag when two recordings are laid side by side."""
_MIN_SHARED = 2
_SHARED_PART = 32
"""Two recordings are a candidate if they share this part of the smaller signature."""
_SHORT_RUN = 8
"""Recordings that share a hash are all paired up to here, and beyond only with their neighbours."""
_TOLERANCE = 0.004
"""Of the range of a channel: values this close are equal. Wide enough for three decimals of a metre or a radian."""
_MIN_MOVING = 6
"""Rows with motion that have to be equal."""
_MIN_MOVING_ALONE = 24
"""The same where only one channel moves."""
_MIN_SHARE = 0.9
"""Of the rows in which something moves: so many have to be equal."""
_MIN_CHANNELS = 0.8
"""Of the channels of the narrower vector that move: so many have to be equal."""
_MIN_OVERLAP = 0.5
"""Of the shorter recording."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far two recordings have the same numbers, at the best alignment found."""

    vector: str
    """Name of the vector in the first recording."""
    other_vector: str
    num_channels: int
    """Channels of the narrower vector that move and are equal."""
    num_rows: int
    """Rows laid side by side; of the coarser one, where the rates differ."""
    num_moving: int
    """Those of them in which something moves."""
    share: float
    """Of the moving rows, those whose channels are all equal within the tolerance."""
    max_difference: float
    """Over the equal rows, in the unit of the values."""
    offset: int
    """Row of the finer recording that lies beside row 0 of the coarser one (negative: before the first row)."""
    stride: int
    """Rows of the finer recording per row of the coarser."""
    first_is_finer: bool

    @property
    def turned(self) -> "Likeness":
        """The same, seen from the other recording."""
        return replace(self, vector=self.other_vector, other_vector=self.vector, first_is_finer=not self.first_is_finer)


def vectors_of(action: np.ndarray, proprio: np.ndarray, fields: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What of a recording is signed: its two mapped vectors, and every field of the source as ``field NAME``."""
    found = {f"field {name}": _flat(values) for name, values in fields.items() if values.dtype.kind in "fiub"}
    return found | {"action": _flat(action), "proprio": _flat(proprio)}


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1 if values.size else 0).astype(np.float64)


def to_bytes(channels: Channels) -> bytes:
    """What the lake keeps of a recording: a hash of its action and proprio, exact, then those of ``signature``."""
    exact = fingerprint(channels["action"], channels["proprio"])
    return bytes.fromhex(exact) + signature(channels).astype("<u8").tobytes()


def from_bytes(data: bytes) -> tuple[str, np.ndarray]:
    """The exact hash as hex digits, and the signature; inverse of ``to_bytes``."""
    return data[:_DIGEST_BYTES].hex(), np.frombuffer(data[_DIGEST_BYTES:], "<u8").astype(np.uint64)


def signature(channels: Channels) -> np.ndarray:
    """uint64 [N], sorted: the hashes of a recording; none for one without motion."""
    vectors = _moving(channels)
    width = sum(values.shape[1] for values in vectors.values())
    kept = min(3, max(1, _KEPT // max(1, width * len(_LAGS))))
    pairs = itertools.product(_different(vectors.values()), _LAGS)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(lambda pair: _landmarks(pair[0], pair[1], kept)[0], pairs))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint64)


def candidates(signatures: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of recordings that share enough hashes; of a hash that many share, neighbours only.

    Time and memory grow with the number of hashes, not of pairs.
    """
    sizes = np.array([len(one) for one in signatures], dtype=np.int64)
    if not sizes.sum():
        return
    hashes = np.concatenate(signatures)
    owners = np.repeat(np.arange(len(signatures), dtype=np.int64), sizes)
    order = np.lexsort((owners, hashes))
    hashes, owners = hashes[order], owners[order]
    starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
    lengths = np.diff(np.r_[starts, len(hashes)])
    run = np.repeat(np.arange(len(starts)), lengths)
    short = lengths[run] <= _SHORT_RUN
    keys = []
    for step in range(1, _SHORT_RUN):
        same = run[step:] == run[:-step]
        if step > 2:
            same &= short[step:]
        left = np.flatnonzero(same)
        keys.append(owners[left] * len(signatures) + owners[left + step])
    pairs, shared = np.unique(np.concatenate(keys), return_counts=True)
    first, second = pairs // len(signatures), pairs % len(signatures)
    enough = shared >= np.maximum(_MIN_SHARED, np.minimum(sizes[first], sizes[second]) // _SHARED_PART)
    yield from zip(first[enough].tolist(), second[enough].tolist(), strict=True)


def compare(one: Channels, other: Channels) -> Likeness | None:
    """How two recordings are the same, if their numbers say that they probably are; else None.

    What is measured never comes out the same twice, but commands may be replayed and simulated objects fall alike: where it
    is not proprio that is the same, no vector that both have by the same name may differ.
    """
    first, second = _moving(one), _moving(other)
    best: Likeness | None = None
    for stride, offset, finer, names in _alignments(first, second):
        common = [name for name in first if name in second and min(first[name].shape[1], second[name].shape[1]) > 1]
        for vector, other_vector in [*names, *((name, name) for name in MEANT if name in common)]:
            beside = _lay(first[vector], second[other_vector], stride, offset, finer)
            found = None if beside is None else _likeness(beside, (vector, other_vector), stride, offset, finer)
            if found is None or (best is not None and _rank(found) <= _rank(best)):
                continue
            laid = (_lay(first[name], second[name], stride, offset, finer) for name in common)
            if "proprio" in (vector, other_vector) or not any(_contradicts(one) for one in laid):
                best = found
    return best


def _rank(likeness: Likeness) -> tuple[float, ...]:
    meant = sum(name in MEANT for name in (likeness.vector, likeness.other_vector))
    return (likeness.num_channels >= 2, likeness.num_moving * likeness.share, likeness.num_channels, meant)


def _different(vectors: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Without those that repeat another: a card often maps a whole field as it is, and hashes are kept once."""
    found: list[np.ndarray] = []
    for values in vectors:
        if not any(np.array_equal(values, other, equal_nan=True) for other in found):
            found.append(values)
    return found


def _moving(channels: Channels) -> dict[str, np.ndarray]:
    """The vectors without channels that never move, by name; those that are no motion are left out."""
    found = {}
    for name, values in sorted(channels.items()):
        if values.ndim == 2 and len(values) >= _POINTS and 0 < values.shape[1] <= _MAX_WIDTH:
            with np.errstate(all="ignore"):
                moving = _extent(values) > 0
            if moving.any():
                found[name] = values[:, moving]
    return found


def _extent(values: np.ndarray) -> np.ndarray:
    """Of each column [T, C] -> [C], from its lowest to its highest finite value; -inf where it has none."""
    finite = np.isfinite(values)
    extent: np.ndarray = np.where(finite, values, -np.inf).max(axis=0) - np.where(finite, values, np.inf).min(axis=0)
    return extent


def _landmarks(values: np.ndarray, lag: int, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``kept`` smallest hashes of pieces of each channel of a vector, uint64, and the row each begins at."""
    span = (_POINTS - 1) * lag + 1
    parts = []
    if len(values) >= span:
        columns = max(1, _MAX_NUMBERS // (len(values) * _POINTS))
        for start in range(0, values.shape[1], columns):
            part = values[:, start : start + columns]
            with np.errstate(all="ignore"):
                parts.append(_smallest(*_pieces(part, lag, span), kept))
    if not parts:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    hashes, rows = zip(*parts, strict=True)
    return np.concatenate(hashes), np.concatenate(rows)


def _smallest(hashes: np.ndarray, rows: np.ndarray, columns: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each column, its ``kept`` smallest different hashes, and the first row of each. ``columns`` do not decrease."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    bounds = np.flatnonzero(np.r_[True, columns[1:] != columns[:-1], True][: len(columns) + 1])
    for start, stop in itertools.pairwise(bounds.tolist()):
        ordered = np.sort(hashes[start:stop])
        smallest = ordered[np.r_[True, ordered[1:] != ordered[:-1]]][:kept]
        low = start + np.flatnonzero(hashes[start:stop] <= smallest[-1])
        first = np.empty(len(smallest), rows.dtype)
        first[np.searchsorted(smallest, hashes[low])[::-1]] = rows[low[::-1]]  # of equal ones, the last assigned stays
        found.append((smallest, first))
    if not found:
        return hashes, rows
    smallest_hashes, first_rows = zip(*found, strict=True)
    return np.concatenate(smallest_hashes), np.concatenate(first_rows)


def _pieces(values: np.ndarray, lag: int, span: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash, first row and column of every piece that tells something, by column and then by row."""
    count = len(values) - span + 1
    points = [values[lag * point : lag * point + count] for point in range(_POINTS)]
    low, high = functools.reduce(np.minimum, points), functools.reduce(np.maximum, points)
    ranges = high - low
    columns, rows = np.nonzero((np.isfinite(ranges) & (ranges > _MIN_RANGE * _extent(values))).T)
    low, ranges = low[rows, columns], ranges[rows, columns]
    shapes = np.stack([point[rows, columns] for point in points])  # [points, N]
    shapes -= low
    shapes /= ranges
    bend = np.zeros(len(rows))
    for point in range(1, _POINTS - 1):
        chord = shapes[0] + (shapes[-1] - shapes[0]) * (point / (_POINTS - 1))
        np.maximum(bend, np.abs(shapes[point] - chord), out=bend)
    bent = bend >= _MIN_BEND
    rows, columns, low, ranges = rows[bent], columns[bent], low[bent], ranges[bent]
    levels = np.floor(shapes[:, bent] * _LEVELS + 0.5).astype(np.uint64)
    different = np.bitwise_count(np.bitwise_or.reduce(np.uint64(1) << levels, axis=0))
    # size and place of the piece, coarsely: half octaves of its range, and eighths of that from zero
    octave = np.floor(2 * np.log2(ranges))
    place = np.floor(low / np.exp2(octave / 2) * 8)
    code = (octave.astype(np.int64) * 65_537 + place.astype(np.int64)).astype(np.uint64)
    for level in levels:
        code = code * np.uint64(_LEVELS + 1) + level
    telling = different >= _MIN_LEVELS
    return _mixed(code[telling]), rows[telling], columns[telling]


def _mixed(code: np.ndarray) -> np.ndarray:
    """Spreads codes over 64 bits, one to one (the finalizer of splitmix64)."""
    mixed: np.ndarray = (code ^ (code >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _alignments(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]
) -> Iterator[tuple[int, int, bool, list[tuple[str, str]]]]:
    """(stride, offset, whether the first is the finer, vectors to lay side by side), the likeliest few."""
    ours, theirs = _by_hash(first), _by_hash(second)
    votes: dict[tuple[int, int, bool], dict[tuple[str, str], int]] = {}
    for value in sorted(ours.keys() & theirs.keys()):
        if len(ours[value]) * len(theirs[value]) > _MAX_VOTES:
            continue  # it says nothing of where
        for vector, lag, row in ours[value]:
            for other_vector, other_lag, other_row in theirs[value]:
                finer = lag >= other_lag
                stride, rest = divmod(max(lag, other_lag), min(lag, other_lag))
                if rest:
                    continue
                offset = row - stride * other_row if finer else other_row - stride * row
                counted = votes.setdefault((stride, offset, finer), {})
                counted[vector, other_vector] = counted.get((vector, other_vector), 0) + 1
    likely = sorted(votes.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    for (stride, offset, finer), counted in likely[:_MAX_ALIGNMENTS]:
        yield stride, offset, finer, sorted(counted, key=lambda pair: (-counted[pair], pair))[:_MAX_VECTORS]


def _by_hash(vectors: Mapping[str, np.ndarray]) -> dict[int, list[tuple[str, int, int]]]:
    """(vector, lag, row) of the landmarks by their hash."""
    found: dict[int, list[tuple[str, int, int]]] = {}
    for name, values in vectors.items():
        for lag in _LAGS:
            hashes, rows = _landmarks(values, lag, _COMPARED)
            for value, row in zip(hashes.tolist(), rows.tolist(), strict=True):
                found.setdefault(value, []).append((name, lag, row))
    return found


@dataclass(frozen=True, slots=True)
class _Beside:
    """Two vectors side by side: of the channels of the narrower one that move, [T, C]."""

    differences: np.ndarray
    """To the channel of the other that follows it most closely."""
    close: np.ndarray
    """Whether they are equal within the tolerance."""
    moves: np.ndarray
    """Whether it moved since the row before."""

    @property
    def same(self) -> np.ndarray:
        """Of each channel, whether it is equal in so many of the rows in which it moves."""
        found: np.ndarray = (self.close & self.moves).sum(axis=0) >= _MIN_SHARE * self.moves.sum(axis=0)
        return found


def _lay(one: np.ndarray, other: np.ndarray, stride: int, offset: int, first_is_finer: bool) -> _Beside | None:
    """The two vectors side by side; None where too little of them overlaps, or nothing moves."""
    fine, coarse = (one, other) if first_is_finer else (other, one)
    rows = offset + stride * np.arange(len(coarse))
    inside = (rows >= 0) & (rows < len(fine))
    if np.count_nonzero(inside) < max(_MIN_MOVING, _MIN_OVERLAP * min(len(coarse), len(fine) // stride)):
        return None
    narrow, wide = fine[rows[inside]], coarse[inside]
    if narrow.shape[1] > wide.shape[1]:
        narrow, wide = wide, narrow
    with np.errstate(all="ignore"):
        tolerance = _TOLERANCE * _extent(narrow)
        moves = np.abs(np.diff(narrow, axis=0, prepend=narrow[:1])) > tolerance
        channels = np.flatnonzero(moves.any(axis=0))
        if not len(channels):
            return None
        differences = np.stack([_nearest(narrow[:, one], wide) for one in channels], axis=1)
    return _Beside(differences, differences <= tolerance[channels], moves[:, channels])


def _likeness(
    beside: _Beside, names: tuple[str, str], stride: int, offset: int, first_is_finer: bool
) -> Likeness | None:
    """The evidence that two vectors are the same; None where it is too little."""
    same = beside.same
    count = int(np.count_nonzero(same))
    if count < _MIN_CHANNELS * len(same) or (count == 1 and not set(names) <= set(MEANT)):
        return None
    equal: np.ndarray = np.all(beside.close[:, same], axis=1)
    moving: np.ndarray = np.any(beside.moves[:, same], axis=1)
    num_moving = int(np.count_nonzero(moving))
    share = float(np.mean(equal[moving]))
    if share < _MIN_SHARE or num_moving < (_MIN_MOVING_ALONE if count == 1 else _MIN_MOVING):
        return None
    worst = float(beside.differences[:, same][equal].max())
    return Likeness(*names, count, len(equal), num_moving, share, worst, offset, stride, first_is_finer)


def _contradicts(beside: _Beside | None) -> bool:
    """Whether two vectors of the same name differ in most of the channels that move."""
    return beside is not None and np.count_nonzero(beside.same) < len(beside.same) / 2


def _nearest(channel: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Differences [T] between a channel and that of ``vector`` which follows it most closely."""
    differences = np.abs(vector - channel[:, None])
    differences[np.isnan(differences)] = np.inf
    found: np.ndarray = differences[:, int(np.argmin(np.median(differences, axis=0)))]
    return found
