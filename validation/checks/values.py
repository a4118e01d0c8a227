"""Are the numbers possible: missing values, limits, units, quaternions, grippers, channels that never move."""

from collections.abc import Iterator, Sequence, Set

import numpy as np

from schemas.embodiment import Channel, ChannelKind, Gripper, rotation_starts
from schemas.episode import Episode, Stream
from schemas.findings import Finding, Rule, Severity
from validation.check import Subject

NAN_VALUE = Rule("nan_value", Severity.ERROR, "a number is missing (NaN)")
INF_VALUE = Rule("inf_value", Severity.ERROR, "a number is infinite")
OUT_OF_LIMITS = Rule("out_of_limits", Severity.WARNING, "a channel leaves the limits its card declares")
LOOKS_LIKE_DEGREES = Rule(
    "looks_like_degrees", Severity.WARNING, "a channel in radians goes beyond one and a half turns"
)
QUATERNION_NOT_UNIT = Rule("quaternion_not_unit", Severity.WARNING, "a quaternion's length is not 1")
QUATERNION_SIGN = Rule(
    "quaternion_sign_flips", Severity.INFO, "a quaternion changes its sign while the rotation goes on smoothly"
)
CONSTANT_CHANNEL = Rule("constant_channel", Severity.INFO, "a channel has one value throughout")
NOTHING_MOVES = Rule("nothing_moves", Severity.WARNING, "no channel of a vector changes at all")
GRIPPER_NEVER_MOVES = Rule("gripper_never_moves", Severity.INFO, "a gripper neither opens nor closes")
GRIPPER_OFF_SCALE = Rule(
    "gripper_off_scale", Severity.WARNING, "a gripper goes beyond its declared open or closed value"
)
GRIPPER_INVERTED = Rule("gripper_inverted", Severity.WARNING, "the gripper does the opposite of what it is told")
RULES = (
    NAN_VALUE,
    INF_VALUE,
    OUT_OF_LIMITS,
    LOOKS_LIKE_DEGREES,
    QUATERNION_NOT_UNIT,
    QUATERNION_SIGN,
    CONSTANT_CHANNEL,
    NOTHING_MOVES,
    GRIPPER_NEVER_MOVES,
    GRIPPER_OFF_SCALE,
    GRIPPER_INVERTED,
)

LIMIT_TOLERANCE = 1e-3
"""Of the range: encoders overshoot a hard stop by a hair, and limits are rounded."""
DEGREES_ABOVE = 1.5 * 2 * np.pi
QUATERNION_TOLERANCE = 0.01
GRIPPER_STILL = 0.05
"""Of the way from open to closed."""
GRIPPER_OVERSHOOT = 0.15
"""Of the way from open to closed; sensors overshoot by a few hundredths."""
INVERTED_CORRELATION = -0.5
MIN_STEPS = 10
"""Fewer steps say nothing about what never moves."""


def check_episode(subject: Subject) -> list[Finding]:
    """Findings about action and proprio, and about missing values in every other numeric stream."""
    episode = subject.episode
    found: list[Finding] = []
    for stream, layout, grippers in (
        (episode.action, episode.embodiment.action, episode.embodiment.action_grippers),
        (episode.proprio, episode.embodiment.proprio, episode.embodiment.proprio_grippers),
    ):
        values = stream.values
        if values.ndim != 2 or not values.size:
            continue
        names = _names(layout, values.shape[1])
        found += _missing(stream.name, values, names, Severity.ERROR)
        found += _limits(stream.name, values, layout)
        found += _quaternions(stream.name, values, layout)
        found += _stillness(stream.name, values, names, {gripper.channel for gripper in grippers})
        found += [
            finding
            for gripper in grippers
            if gripper.channel in names
            for finding in _gripper(stream.name, values[:, names.index(gripper.channel)], gripper)
        ]
    found += _inverted(episode)
    for raw_stream in episode.raw.streams:
        rest = _unmapped(episode, raw_stream)
        if rest.size and np.issubdtype(rest.dtype, np.floating):
            found += _missing(raw_stream.name, rest, [f"column {k}" for k in range(rest.shape[1])], Severity.WARNING)
    return found


def _names(layout: Sequence[Channel], width: int) -> list[str]:
    return [layout[k].name if k < len(layout) else f"column {k}" for k in range(width)]


def _unmapped(episode: Episode, stream: Stream) -> np.ndarray:
    """The columns of a source stream that no channel is made of, [T, ...] as [T, n]."""
    values = stream.values.reshape(len(stream.values), -1) if stream.values.size else np.empty((0, 0))
    mapped = np.zeros(values.shape[1], dtype=bool)
    for channel_map in (*episode.card.action, *episode.card.proprio):
        if channel_map.field == stream.name:
            mapped[channel_map.start : channel_map.stop] = True
    return values[:, ~mapped]


def _missing(where: str, values: np.ndarray, names: Sequence[str], severity: Severity) -> Iterator[Finding]:
    for rule, bad, word in ((NAN_VALUE, np.isnan(values), "NaN"), (INF_VALUE, np.isinf(values), "infinite")):
        rows = np.flatnonzero(bad.any(axis=1))
        if rows.size:
            first = int(rows[0])
            name = names[int(np.flatnonzero(bad[first])[0])]
            message = f"{name} is {word} at row {first}; {rows.size} of {len(values)} rows have such values"
            numbers = (("num_rows", float(rows.size)), ("num_values", float(bad.sum())))
            yield Finding(rule.name, severity, where, message, first, numbers)


def _limits(where: str, values: np.ndarray, layout: Sequence[Channel]) -> Iterator[Finding]:
    for channel, column in zip(layout, values.T, strict=False):
        finite = np.where(np.isfinite(column), column, 0.0)
        if channel.unit == "rad" and np.abs(finite).max() > DEGREES_ABOVE:
            row = int(np.abs(finite).argmax())
            message = f"{channel.name} reaches {finite[row]:.4g} rad, more than one and a half turns; is it in degrees?"
            yield Finding(
                LOOKS_LIKE_DEGREES.name,
                LOOKS_LIKE_DEGREES.severity,
                where,
                message,
                row,
                (("value", float(finite[row])),),
            )
        low = -np.inf if channel.low is None else channel.low
        high = np.inf if channel.high is None else channel.high
        width = high - low if np.isfinite(high - low) else max(abs(v) for v in (low, high, 1.0) if np.isfinite(v))
        slack = LIMIT_TOLERANCE * width
        outside = np.isfinite(column) & ((column < low - slack) | (column > high + slack))
        rows = np.flatnonzero(outside)
        if rows.size:
            excess = np.where(outside, np.maximum(low - column, column - high), 0.0)
            worst = int(excess.argmax())
            message = (
                f"{channel.name} is {column[worst]:.4g} {channel.unit} at row {worst}, outside [{low:.4g}, {high:.4g}]; "
                f"{rows.size} of {len(column)} rows are outside"
            )
            numbers = (("value", float(column[worst])), ("num_rows", float(rows.size)), ("first_row", float(rows[0])))
            yield Finding(OUT_OF_LIMITS.name, OUT_OF_LIMITS.severity, where, message, worst, numbers)


def _quaternions(where: str, values: np.ndarray, layout: Sequence[Channel]) -> Iterator[Finding]:
    for start in rotation_starts(tuple(layout), ChannelKind.QUATERNION, 4):
        lengths = np.linalg.norm(values[:, start : start + 4], axis=1)
        off = np.where(np.isfinite(lengths), np.abs(lengths - 1), 0.0)
        rows = np.flatnonzero(off > QUATERNION_TOLERANCE)
        if rows.size:
            worst = int(off.argmax())
            message = (
                f"the quaternion at {layout[start].name} has length {lengths[worst]:.4g} at row {worst}; "
                f"{rows.size} of {len(values)} rows are off by more than {QUATERNION_TOLERANCE}"
            )
            numbers = (("length", float(lengths[worst])), ("num_rows", float(rows.size)))
            yield Finding(QUATERNION_NOT_UNIT.name, QUATERNION_NOT_UNIT.severity, where, message, worst, numbers)
        group = values[:, start : start + 4]
        flips = np.flatnonzero(np.sum(group[1:] * group[:-1], axis=1) < 0) + 1  # q and -q are one rotation
        if flips.size:
            message = (
                f"the quaternion at {layout[start].name} changes its sign at row {flips[0]}; {flips.size} times in all"
            )
            times = (("num_flips", float(flips.size)),)
            yield Finding(QUATERNION_SIGN.name, QUATERNION_SIGN.severity, where, message, int(flips[0]), times)


def _stillness(where: str, values: np.ndarray, names: Sequence[str], grippers: Set[str]) -> Iterator[Finding]:
    if len(values) < MIN_STEPS:
        return
    still = [name for name, same in zip(names, (values == values[0]).all(axis=0), strict=True) if same]
    if len(still) == len(names):
        message = f"none of the {len(names)} channels changes in {len(values)} rows"
        yield Finding(NOTHING_MOVES.name, NOTHING_MOVES.severity, where, message)
        return
    still = [name for name in still if name not in grippers]  # they have a rule of their own
    if still:
        shown = ", ".join(still[:6]) + (", ..." if len(still) > 6 else "")
        message = f"{len(still)} of {len(names)} channels never change: {shown}"
        numbers = (("num_channels", float(len(still))),)
        yield Finding(CONSTANT_CHANNEL.name, CONSTANT_CHANNEL.severity, where, message, None, numbers)


def _openness(column: np.ndarray, gripper: Gripper) -> np.ndarray:
    """0 where closed, 1 where open, NaN where the value is missing."""
    span = gripper.open - gripper.closed
    return (np.where(np.isfinite(column), column, np.nan) - gripper.closed) / (span or 1.0)


def _gripper(where: str, column: np.ndarray, gripper: Gripper) -> Iterator[Finding]:
    openness = _openness(column, gripper)
    known = openness[np.isfinite(openness)]
    if not known.size:
        return
    low, high = float(known.min()), float(known.max())
    numbers = (("least_open", low), ("most_open", high))
    span = f"{min(gripper.open, gripper.closed):.4g} to {max(gripper.open, gripper.closed):.4g}"
    if low < -GRIPPER_OVERSHOOT or high > 1 + GRIPPER_OVERSHOOT:
        row = int(np.nanargmax(np.abs(openness - 0.5)))
        message = f"{gripper.channel} is {column[row]:.4g} at row {row}; its card declares {span}"
        yield Finding(GRIPPER_OFF_SCALE.name, GRIPPER_OFF_SCALE.severity, where, message, row, numbers)
    if len(known) >= MIN_STEPS and high - low < GRIPPER_STILL:
        message = f"{gripper.channel} stays at {column[np.isfinite(column)][0]:.4g} (declared: {span})"
        yield Finding(GRIPPER_NEVER_MOVES.name, GRIPPER_NEVER_MOVES.severity, where, message, None, numbers)


def _inverted(episode: Episode) -> Iterator[Finding]:
    """Compares what each gripper is told with what it does within the next second, both from closed (0) to open (1)."""
    robot = episode.embodiment
    rows = min(len(episode.action.values), len(episode.proprio.values))
    if rows < MIN_STEPS or len(robot.action_grippers) != len(robot.proprio_grippers):
        return
    action_names = [channel.name for channel in robot.action]
    proprio_names = [channel.name for channel in robot.proprio]
    for told, does in zip(robot.action_grippers, robot.proprio_grippers, strict=True):
        command = _openness(episode.action.values[:rows, action_names.index(told.channel)], told)
        sensed = _openness(episode.proprio.values[:rows, proprio_names.index(does.channel)], does)
        lags = range(min(int(episode.control_rate) + 1, rows - MIN_STEPS + 1))
        best = max((_correlation(command[: rows - lag], sensed[lag:]) for lag in lags), default=0.0)
        if best < INVERTED_CORRELATION:
            message = (
                f"{told.channel} of the action and {does.channel} of the proprio move against each other "
                f"(correlation {best:.2f} at best within a second); one of them is declared the wrong way round"
            )
            numbers = (("correlation", best),)
            yield Finding(GRIPPER_INVERTED.name, GRIPPER_INVERTED.severity, "proprio", message, None, numbers)


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Pearson's r; 0 where either hardly changes or values are missing."""
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return 0.0
    if np.ptp(left) < GRIPPER_STILL or np.ptp(right) < GRIPPER_STILL:
        return 0.0
    r = float(np.corrcoef(left, right)[0, 1])
    return r if np.isfinite(r) else 0.0
