"""The plots of a bench of tokenizers, as positions in pixels: what the templates draw. Nothing is escaped or written here."""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from schemas.token_bench import TokenBench, TokenGroup, TokenRow

NUM_STYLES = 8
"""Colours and shapes there are; with more tokenizers they begin again."""
SMALLEST = 1e-9
"""Errors below are rounding, and count as none."""
_MAX_TICKS = 8
_LABEL_CHARS = 22
_ZERO_PX = 26.0
"""From the place of zero to where a logarithmic axis begins."""
_PLOT_PX, _SCATTER_PX = 250.0, 360.0
_SCATTER_HIGH_PX = 200.0
_ROW_PX = 22.0
_HISTOGRAM_PX = 15.0


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis of ``length`` pixels; where there are zeros they have a place of their own before it."""

    length: float
    low: float
    high: float
    has_zero: bool
    ticks: tuple[tuple[float, str], ...]
    """(pixels, label)"""

    def at(self, value: float) -> float:
        """Pixels from the beginning; values beyond the ends lie at the ends."""
        if value < SMALLEST:
            return 0.0
        start = _ZERO_PX if self.has_zero else 0.0
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return start + min(max(share, 0.0), 1.0) * (self.length - start)


def short(value: float | None) -> str:
    """Three digits that count; nothing below a billionth, which is rounding; ``-`` for None."""
    if value is None:
        return "-"
    return "0" if abs(value) < SMALLEST else f"{value:.3g}"


def log_axis(values: Iterable[float], length: float) -> Axis:
    """An axis on which all of ``values`` lie, from a 1, 2 or 5 of a decade to another; with at most eight ticks."""
    numbers = list(values)
    positive = [value for value in numbers if value >= SMALLEST]
    has_zero = len(positive) < len(numbers)
    low, high = (min(positive), max(positive)) if positive else (1.0, 1.0)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    found = [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]
    found = [*filter(math.isfinite, found), sys.float_info.max]  # the last place there is
    first = max(tick for tick in found if tick <= low)
    last = min(tick for tick in found if tick >= high and tick > first)
    shown = [tick for tick in found if first <= tick <= last]
    if len(shown) > _MAX_TICKS:
        shown = [tick for tick in shown if f"{tick:e}".startswith("1.0")]
        shown = shown[:: -(-len(shown) // _MAX_TICKS)]
    axis = Axis(length, first, last, has_zero, ())
    ticks = tuple((axis.at(tick), _tick(tick)) for tick in shown)
    return replace(axis, ticks=(((0.0, "0"), *ticks) if has_zero else ticks))


def _tick(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if 10_000 <= value < 1e12 and value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Key:
    """How a tokenizer looks in all plots, and its name, cut to what fits beside a row."""

    style: int
    name: str

    @property
    def label(self) -> str:
        """The name, or as much of it as there is room for."""
        return self.name if len(self.name) <= _LABEL_CHARS else f"{self.name[: _LABEL_CHARS - 1]}…"


@dataclass(frozen=True, slots=True)
class Point:
    """One tokenizer: mean error over mean tokens per chunk, and up to where its p99 reaches. Pixels from the upper left."""

    key: Key
    x: float
    y: float
    y_p99: float
    text: str


@dataclass(frozen=True, slots=True)
class Scatter:
    """What errors of one quantity cost in tokens."""

    quantity: str
    x: Axis
    y: Axis
    points: tuple[Point, ...]
    y_ticks: tuple[tuple[float, str], ...]
    """(pixels from above, label)"""


@dataclass(frozen=True, slots=True)
class Spread:
    """The errors of one tokenizer as pixels along the axis; ``y`` is the middle of its row."""

    key: Key
    y: float
    mean: float
    p50: float
    p90: float
    p99: float
    max: float
    text: str


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the chunks of one tokenizer are: an SVG path that stands on the line y = 0."""

    key: Key
    y: float
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of one tokenizer, as pixels along the axis; None where no time passed."""

    key: Key
    y: float
    encoded: float | None
    decoded: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Rows[R: (Spread, Lengths, Speed)]:
    """A plot with one row for each tokenizer on a common axis."""

    quantity: str
    axis: Axis
    rows: tuple[R, ...]

    @property
    def height(self) -> float:
        """Pixels of all rows."""
        return _ROW_PX * len(self.rows)


@dataclass(frozen=True, slots=True)
class GroupPlots:
    """Everything to draw of one group."""

    number: int
    """Of the group, from 1."""
    group: TokenGroup
    keys: tuple[tuple[Key, TokenRow], ...]
    """All rows, in order."""
    quantities: tuple[str, ...]
    scatters: tuple[Scatter, ...]
    spreads: tuple[Rows[Spread], ...]
    lengths: Rows[Lengths] | None
    speeds: Rows[Speed] | None


def plots_of(bench: TokenBench) -> tuple[GroupPlots, ...]:
    """The plots of every group; a tokenizer looks the same in all of them."""
    names = list(dict.fromkeys(row.tokenizer for group in bench.groups for row in group.rows))
    styles = {name: index % NUM_STYLES for index, name in enumerate(names)}
    return tuple(_group(number, group, styles) for number, group in enumerate(bench.groups, 1))


def _group(number: int, group: TokenGroup, styles: dict[str, int]) -> GroupPlots:
    keys = tuple((Key(styles[row.tokenizer], row.tokenizer), row) for row in group.rows)
    quantities = tuple(dict.fromkeys(quantity for row in group.rows for quantity in row.errors))
    scatters = (_scatter(quantity, keys) for quantity in quantities)
    return GroupPlots(
        number,
        group,
        keys,
        quantities,
        tuple(scatter for scatter in scatters if scatter.points),
        tuple(_spreads(quantity, keys) for quantity in quantities),
        _lengths(keys),
        _speeds(keys),
    )


def _scatter(quantity: str, keys: Sequence[tuple[Key, TokenRow]]) -> Scatter:
    found = [
        (key, row.tokens_per_chunk.mean, row.errors[quantity])
        for key, row in keys
        if row.tokens_per_chunk is not None and quantity in row.errors
    ]
    x = log_axis((tokens for _, tokens, _ in found), _SCATTER_PX)
    y = log_axis((value for _, _, errors in found for value in (errors.mean, errors.p99)), _SCATTER_HIGH_PX)
    points = tuple(
        Point(
            key,
            x.at(tokens),
            _SCATTER_HIGH_PX - y.at(errors.mean),
            _SCATTER_HIGH_PX - y.at(errors.p99),
            f"{key.name}: {short(tokens)} tokens, mean {short(errors.mean)}, p99 {short(errors.p99)} {quantity}",
        )
        for key, tokens, errors in found
    )
    return Scatter(quantity, x, y, points, tuple((_SCATTER_HIGH_PX - place, label) for place, label in y.ticks))


def _spreads(quantity: str, keys: Sequence[tuple[Key, TokenRow]]) -> Rows[Spread]:
    found = [(key, row.errors[quantity]) for key, row in keys if quantity in row.errors]
    axis = log_axis((value for _, one in found for value in (one.mean, one.p50, one.max)), _PLOT_PX)
    rows = []
    for index, (key, one) in enumerate(found):
        values = {"mean": one.mean, "p50": one.p50, "p90": one.p90, "p99": one.p99, "max": one.max}
        told = ", ".join(f"{name} {short(value)}" for name, value in values.items())
        places = {name: axis.at(value) for name, value in values.items()}
        rows.append(Spread(key, _middle(index), text=f"{key.name}: {told} {quantity}", **places))
    return Rows(quantity, axis, tuple(rows))


def _lengths(keys: Sequence[tuple[Key, TokenRow]]) -> Rows[Lengths] | None:
    found = [(key, row.tokens_per_chunk) for key, row in keys if row.tokens_per_chunk is not None]
    if not found:
        return None
    ends = (end for _, one in found for end in (one.histogram.edges[0], float(one.max)))
    axis = log_axis((max(end, 1.0) for end in ends), _PLOT_PX)
    rows = []
    for index, (key, one) in enumerate(found):
        tallest = max(one.histogram.counts) or 1
        parts = []
        for bin_index, count in enumerate(one.histogram.counts):
            if count:
                # n tokens fill the space from n - 1/2 to n + 1/2
                left, right = (axis.at(max(one.histogram.edges[bin_index + end] - 0.5, 0.5)) for end in (0, 1))
                tall = max(_HISTOGRAM_PX * count / tallest, 1.0)
                wide = max(right - left - 0.4, 2.0)
                parts.append(f"M{left:.1f} 0v{-tall:.1f}h{wide:.1f}v{tall:.1f}z")
        text = f"{key.name}: mean {short(one.mean)}, p50 {short(one.p50)}, p99 {short(one.p99)}, max {one.max}"
        rows.append(Lengths(key, _middle(index) + _HISTOGRAM_PX / 2, "".join(parts), text))
    return Rows("tokens per chunk", axis, tuple(rows))


def _speeds(keys: Sequence[tuple[Key, TokenRow]]) -> Rows[Speed] | None:
    found = [(key, row) for key, row in keys if row.encoded_per_s is not None or row.decoded_per_s is not None]
    if not found:
        return None
    values = (value for _, row in found for value in (row.encoded_per_s, row.decoded_per_s) if value is not None)
    axis = log_axis(values, _PLOT_PX)
    rows = tuple(
        Speed(
            key,
            _middle(index),
            None if row.encoded_per_s is None else axis.at(row.encoded_per_s),
            None if row.decoded_per_s is None else axis.at(row.decoded_per_s),
            f"{key.name}: encodes {short(row.encoded_per_s)}, decodes {short(row.decoded_per_s)}",
        )
        for index, (key, row) in enumerate(found)
    )
    return Rows("tokens per second", axis, rows)


def _middle(index: int) -> float:
    return _ROW_PX * (index + 0.5)
