"""Puts numeric streams and video frames on a time grid, each channel by its kind, keeping the way back to source rows.

Rotations are converted to quaternions and follow the great arc; Euler angles and axis-angle are never interpolated by
component. Nothing is extrapolated: what has no data is held and masked.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from schemas.embodiment import Channel, ChannelKind, rotation_starts
from schemas.errors import LayoutError

TOLERANCE_NS = 1
"""Times that differ by this much are one instant: grid times are rounded down, recorded ones often to nearest."""
GAP_PERIODS = 2.5
"""Nominal periods beyond which the way from one row to the next is not known: two rows in a row are missing."""
MIN_QUATERNION_NORM = 1e-3
"""A shorter quaternion carries no direction worth using; rotations have norm 1."""

_WIDTHS = ((ChannelKind.QUATERNION, 4), (ChannelKind.EULER, 3), (ChannelKind.AXIS_ANGLE, 3))


@dataclass(frozen=True, slots=True)
class Resampled:
    """A stream on a grid of G instants, with the source row behind each."""

    values: np.ndarray
    """float64 [G, D]."""
    source_rows: np.ndarray
    """int64 [G]: the row at or before each instant; 0 for instants before the first row (whose value is held)."""
    source_times_ns: np.ndarray
    """int64 [G]: the time of that row."""
    residual_ns: np.ndarray
    """int64 [G]: grid time minus source time; negative before the first row."""
    valid: np.ndarray
    """bool [G]: False before the first row, one period or more after the last, and strictly inside a gap."""


@dataclass(frozen=True, slots=True)
class _Between:
    """The neighbours of the instants that fall between two rows: rows before and after, and how far along, in (0, 1)."""

    before: np.ndarray
    after: np.ndarray
    weight: np.ndarray


def hold_layout(layout: tuple[Channel, ...]) -> tuple[Channel, ...]:
    """``layout`` with every channel a command, so that nothing is averaged across a change (delta actions, say)."""
    return tuple(channel.model_copy(update={"kind": ChannelKind.COMMAND}) for channel in layout)


def nearest_at_or_before(
    times_ns: np.ndarray, grid_times_ns: np.ndarray, tolerance_ns: int = TOLERANCE_NS
) -> np.ndarray:
    """int64 [G]: index of the last of ``times_ns`` at or before each instant (never a future one), -1 where none is.

    Of equal times the last counts. Raises LayoutError where ``times_ns`` run backwards.
    """
    times = _times(times_ns)
    grid = np.asarray(grid_times_ns, dtype=np.int64)
    return np.asarray(np.searchsorted(times, grid + tolerance_ns, side="right") - 1, dtype=np.int64)


def nominal_period_ns(times_ns: np.ndarray) -> int:
    """The median of the positive steps of ``times_ns``, in nanoseconds; 0 where there is no such step."""
    steps = np.diff(_times(times_ns))
    steps = steps[steps > 0]
    return int(np.median(steps)) if len(steps) else 0


def is_over(times_ns: np.ndarray, grid_times_ns: np.ndarray, step_ns: int) -> np.ndarray:
    """bool [G]: whether an instant lies one period or more behind the last of ``times_ns``, of which nothing is known then.

    The period is the nominal one, ``step_ns`` where there is none.
    """
    period = nominal_period_ns(times_ns) or step_ns
    last = times_ns[-1] if len(times_ns) else 0
    return np.asarray(np.asarray(grid_times_ns) - last + TOLERANCE_NS >= period, dtype=bool)


def gap_ns(period_ns: int, periods: float = GAP_PERIODS) -> int:
    """Rows further apart than this bound a gap: ``periods`` of the nominal period."""
    return int(periods * period_ns)


def resample(
    values: np.ndarray,
    times_ns: np.ndarray,
    layout: tuple[Channel, ...],
    grid_times_ns: np.ndarray,
    *,
    period_ns: int | None = None,
    max_gap_ns: int | None = None,
    tolerance_ns: int = TOLERANCE_NS,
) -> Resampled:
    """``values`` [T, D] at the instants ``grid_times_ns`` [G], by channel kind (see ``ChannelKind``).

    An instant at a row's time (within ``tolerance_ns``) has exactly that row's values, bit for bit, in every kind. A
    neighbour that is NaN (or a quaternion without direction) makes the result between NaN, in that channel or rotation
    only. Interpolated quaternions are unit ones. Where a stream needs interpolation at all, the signs of its quaternions
    are made continuous from the first instant to the last, those of rows included; a grid that only picks rows changes
    nothing. ``period_ns`` defaults to the median step, ``max_gap_ns`` to 2.5 periods; rows further apart than that bound
    a gap, inside which values are held.

    Raises LayoutError where widths or lengths disagree, times run backwards, a stream without rows meets a grid with
    instants, or an angle has no unit ``rad`` or ``deg``.
    """
    rows, times, grid = np.asarray(values), _times(times_ns), np.asarray(grid_times_ns, dtype=np.int64)
    if rows.ndim != 2 or rows.shape[1] != len(layout):
        raise LayoutError(
            f"values of shape {rows.shape} do not fit a layout of {len(layout)} channels",
            hint="the card's layout and the stream must have the same width",
        )
    if len(rows) != len(times):
        raise LayoutError(f"{len(rows)} rows, but {len(times)} times", hint="every row needs its time")
    source = rows.astype(np.float64)
    if not len(times):
        if len(grid):
            raise LayoutError("a stream without rows cannot be put on a grid", hint="reject the episode at ingest")
        none: np.ndarray = np.zeros(0, dtype=np.int64)
        return Resampled(source, none, none, none, np.zeros(0, dtype=bool))

    period = nominal_period_ns(times) if period_ns is None else period_ns
    max_gap = gap_ns(period) if max_gap_ns is None else max_gap_ns
    row = nearest_at_or_before(times, grid, tolerance_ns)
    early, last = row < 0, row == len(times) - 1
    row = np.maximum(row, 0)
    residual = grid - times[row]
    hit = np.abs(residual) <= tolerance_ns
    after = np.minimum(row + 1, len(times) - 1)
    span = times[after] - times[row]
    in_gap = ~early & ~last & ~hit & (span > max_gap)
    ended = last & ~hit & (residual + tolerance_ns >= period)

    result = source[row]
    inner = np.flatnonzero(~early & ~last & ~hit & ~in_gap)
    if len(inner):
        between = _Between(row[inner], after[inner], residual[inner] / span[inner])
        _interpolate(result, inner, source, layout, between)
        for start in rotation_starts(layout, ChannelKind.QUATERNION, 4):
            result[:, start : start + 4] *= _continuing_signs(result[:, start : start + 4])[:, None]
    return Resampled(result, row, times[row], residual, ~(early | in_gap | ended))


def _times(times_ns: np.ndarray) -> np.ndarray:
    times = np.asarray(times_ns, dtype=np.int64)
    backwards = np.flatnonzero(np.diff(times) < 0)
    if len(backwards):
        index = int(backwards[0])
        raise LayoutError(
            f"times run backwards: {times[index]} ns, then {times[index + 1]} ns",
            f"row {index + 1}",
            "sort or reject the recording; a stream must be in time order",
        )
    return times


def _interpolate(
    result: np.ndarray, inner: np.ndarray, source: np.ndarray, layout: tuple[Channel, ...], between: _Between
) -> None:
    """Writes what lies between rows into ``result[inner]``; channels that hold stay as they are."""
    for index, channel in enumerate(layout):
        if channel.kind is ChannelKind.POSITION:
            result[inner, index] = _linear(source[:, index], between)
        elif channel.kind is ChannelKind.ANGLE:
            result[inner, index] = _angle(source[:, index], channel, between)
    slerps: dict[ChannelKind, Callable[[np.ndarray, tuple[Channel, ...], _Between], np.ndarray]] = {
        ChannelKind.QUATERNION: _quaternion,
        ChannelKind.EULER: _euler,
        ChannelKind.AXIS_ANGLE: _axis_angle,
    }
    for kind, width in _WIDTHS:
        for start in rotation_starts(layout, kind, width):
            group = slice(start, start + width)
            result[inner, group] = slerps[kind](source[:, group], layout[group], between)


def _linear(column: np.ndarray, between: _Between) -> np.ndarray:
    low, high = column[between.before], column[between.after]
    value = low + between.weight * (high - low)
    # Rounding must not carry a value past the two it lies between.
    return np.asarray(np.clip(value, np.minimum(low, high), np.maximum(low, high)))


def _turn(channel: Channel) -> float:
    turns = {"rad": 2 * np.pi, "deg": 360.0}
    if channel.unit not in turns:
        raise LayoutError(
            f"channel {channel.name!r} is of kind {channel.kind.value} but its unit is {channel.unit!r}",
            hint='give it the unit "rad" or "deg" in the embodiment card',
        )
    return turns[channel.unit]


def _seam(column: np.ndarray, channel: Channel, turn: float) -> float:
    """Where the numbers of this channel begin anew: its lower limit if it spans a turn, else 0 or minus half a turn."""
    if channel.low is not None and channel.high is not None and np.isclose(channel.high - channel.low, turn, rtol=0.01):
        return channel.low
    return -turn / 2 if np.any(column < 0) else 0.0


def _short_way(difference: np.ndarray, turn: float) -> np.ndarray:
    return np.asarray(difference - turn * np.round(difference / turn))


def _in_convention(value: np.ndarray, column: np.ndarray, channel: Channel, between: _Between) -> np.ndarray:
    """``value`` plus whole turns: continuous with its neighbours, or within the channel's range where they cross it."""
    turn = _turn(channel)
    before, after = column[between.before], column[between.after]
    expected = before + between.weight * _short_way(after - before, turn)
    near = expected + _short_way(value - expected, turn)
    seam = _seam(column, channel, turn)
    crossing = np.abs(after - before) > turn / 2
    return np.where(crossing, seam + np.mod(near - seam, turn), near)


def _angle(column: np.ndarray, channel: Channel, between: _Between) -> np.ndarray:
    before, after = column[between.before], column[between.after]
    value = before + between.weight * _short_way(after - before, _turn(channel))
    return _in_convention(value, column, channel, between)


def _slerp(before: Rotation, after: Rotation, weight: np.ndarray) -> Rotation:
    """From ``before`` along the great arc to ``after``; a rotation vector is at most half a turn, so the short way."""
    way = (before.inv() * after).as_rotvec()
    return before * Rotation.from_rotvec(weight[:, None] * way)


def _usable(group: np.ndarray, between: _Between) -> np.ndarray:
    finite = np.isfinite(group).all(axis=1)
    return np.asarray(finite[between.before] & finite[between.after])


def _part(between: _Between, keep: np.ndarray) -> _Between:
    return _Between(between.before[keep], between.after[keep], between.weight[keep])


def _quaternion(group: np.ndarray, channels: tuple[Channel, ...], between: _Between) -> np.ndarray:
    del channels
    long_enough = np.linalg.norm(np.nan_to_num(group), axis=1) > MIN_QUATERNION_NORM
    keep = _usable(group, between) & long_enough[between.before] & long_enough[between.after]
    result = np.full((len(keep), 4), np.nan)
    part = _part(between, keep)
    if len(part.weight):
        before = group[part.before]
        turned = _slerp(Rotation.from_quat(before), Rotation.from_quat(group[part.after]), part.weight).as_quat()
        flip = np.sum(turned * before, axis=1) < 0
        result[keep] = np.where(flip[:, None], -turned, turned)
    return result


def _continuing_signs(group: np.ndarray) -> np.ndarray:
    """1 or -1 for each of ``group`` [G, 4], so that neighbours never point away from each other; NaN rows are passed over."""
    signs = np.ones(len(group))
    known = np.flatnonzero(np.isfinite(group).all(axis=1))
    turns = np.sum(group[known[1:]] * group[known[:-1]], axis=1) < 0
    signs[known[1:]] = np.cumprod(np.where(turns, -1.0, 1.0))
    return signs


def _euler(group: np.ndarray, channels: tuple[Channel, ...], between: _Between) -> np.ndarray:
    """Fixed-axes xyz. Each rotation has two names within a turn; the one nearer to the row before is given."""
    degrees, half = channels[0].unit == "deg", _turn(channels[0]) / 2
    keep = _usable(group, between)
    result = np.full((len(keep), 3), np.nan)
    part = _part(between, keep)
    if not len(part.weight):
        return result
    before = group[part.before]
    turned = _slerp(
        Rotation.from_euler("xyz", before, degrees=degrees),
        Rotation.from_euler("xyz", group[part.after], degrees=degrees),
        part.weight,
    )
    with warnings.catch_warnings():
        # At the pole scipy sets the third angle to zero and says so; the rotation is right all the same.
        warnings.filterwarnings("ignore", message="Gimbal lock detected", category=UserWarning)
        one = np.asarray(turned.as_euler("xyz", degrees=degrees))
    other = np.stack([one[:, 0] + half, half - one[:, 1], one[:, 2] + half], axis=1)
    distances = [np.abs(_short_way(name - before, 2 * half)).sum(axis=1) for name in (one, other)]
    chosen = np.where((distances[1] < distances[0])[:, None], other, one)
    for axis, channel in enumerate(channels):
        result[keep, axis] = _in_convention(chosen[:, axis], group[:, axis], channel, part)
    return result


def _axis_angle(group: np.ndarray, channels: tuple[Channel, ...], between: _Between) -> np.ndarray:
    """Each rotation is one vector or, the other way round, its complement to a turn; the nearer to the row before."""
    turn = _turn(channels[0])
    to_radians = 2 * np.pi / turn
    keep = _usable(group, between)
    result = np.full((len(keep), 3), np.nan)
    part = _part(between, keep)
    if not len(part.weight):
        return result
    before = group[part.before]
    turned = _slerp(
        Rotation.from_rotvec(before * to_radians), Rotation.from_rotvec(group[part.after] * to_radians), part.weight
    )
    one = np.asarray(turned.as_rotvec()) / to_radians
    angle = np.linalg.norm(one, axis=1, keepdims=True)
    other = one - np.divide(one, angle, out=np.zeros_like(one), where=angle > 0) * turn
    nearer = np.linalg.norm(other - before, axis=1) < np.linalg.norm(one - before, axis=1)
    result[keep] = np.where(nearer[:, None], other, one)
    return result
