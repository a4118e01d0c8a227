"""How far decoded actions lie from recorded ones, in units a person can judge: mm, degrees, part of a gripper's way; and
where the numbers of a rotation jump though the robot does not, which a tokenizer that smooths cannot follow."""

import numpy as np

from pipelines.parts import ROTATIONS
from pipelines.rotations import WIDTHS, angle_between, to_matrix
from schemas.embodiment import ChannelKind, Embodiment, rotation_starts

MILLIMETRES, DEGREES, GRIPPER = "mm", "deg", "gripper"
"""Names of the quantities that have a unit of their own; any other channel counts under its unit on the card."""

_HALF_TURNS = {"rad": np.pi, "deg": 180.0}


def errors_by_quantity(embodiment: Embodiment, recorded: np.ndarray, decoded: np.ndarray) -> dict[str, np.ndarray]:
    """Absolute errors, float64 [K] for each quantity, of the actions ``decoded`` [S, A] beside ``recorded`` [S, A].

    ``mm``: of each channel in metres. ``deg``: the angle of the rotation between the two where three or four channels are
    one rotation, else the error of each angle, the short way round where it wraps. ``gripper``: as part of the way between
    open and closed, where the card says what these are. Others in their unit on the card, such as ``rad/s`` or ``unknown``.
    Raises LayoutError where decoded numbers are no rotation.
    """
    layout = embodiment.action
    differences = np.abs(np.asarray(decoded, dtype=np.float64) - recorded)
    found: dict[str, list[np.ndarray]] = {MILLIMETRES: [], DEGREES: [], GRIPPER: []}
    taken: set[int] = set()
    for kind, written in ROTATIONS.items():
        for start in rotation_starts(layout, kind, WIDTHS[written]):
            channels = range(start, start + WIDTHS[written])
            units = {layout[index].unit for index in channels}
            if kind is ChannelKind.QUATERNION:
                radians = 1.0
            elif units in ({"rad"}, {"deg"}):
                radians = 1.0 if units == {"rad"} else np.pi / 180
            else:
                continue
            one, two = (to_matrix(values[:, list(channels)] * radians, written) for values in (recorded, decoded))
            found[DEGREES].append(np.degrees(angle_between(one, two)))
            taken.update(channels)
    ways = {gripper.channel: abs(gripper.open - gripper.closed) for gripper in embodiment.action_grippers}
    for index, channel in enumerate(layout):
        errors = differences[:, index]
        if index in taken:
            continue
        if channel.name in ways:
            found[GRIPPER].append(errors / ways[channel.name])
        elif channel.unit == "m":
            found[MILLIMETRES].append(errors * 1000)
        elif channel.unit in ("rad", "deg"):
            degrees = errors if channel.unit == "deg" else np.degrees(errors)
            if channel.kind is ChannelKind.ANGLE:
                degrees = np.minimum(degrees % 360, 360 - degrees % 360)
            found[DEGREES].append(degrees)
        else:
            found.setdefault(channel.unit, []).append(errors)
    return {quantity: np.concatenate(parts) for quantity, parts in found.items() if parts}


def wrapped_chunks(embodiment: Embodiment, chunks: np.ndarray, mask: np.ndarray) -> dict[str, int]:
    """In how many of the actions ``chunks`` [N, T, A] a rotation gets another name between one step and the next.

    By channel for Euler angles and angles that wrap (a step of more than half a turn), by the names of all of them for
    axis-angles (of more than pi) and quaternions (to the opposite half of the sphere, so from q towards -q); only those that
    do so. Between two steps that count, ``mask`` bool [N, T].
    """
    layout = embodiment.action
    both = mask[:, 1:] & mask[:, :-1]
    values = np.asarray(chunks, dtype=np.float64)
    found: dict[str, int] = {}

    def count(channels: range, jumps: np.ndarray) -> None:
        if number := int((jumps & both).any(axis=1).sum()):
            found[", ".join(layout[index].name for index in channels)] = number

    for index, channel in enumerate(layout):
        if channel.kind in (ChannelKind.EULER, ChannelKind.ANGLE) and channel.unit in _HALF_TURNS:
            steps = np.abs(np.diff(values[..., index], axis=1))
            count(range(index, index + 1), steps > _HALF_TURNS[channel.unit])
    for start in rotation_starts(layout, ChannelKind.AXIS_ANGLE, 3):
        channels = range(start, start + 3)
        if (unit := layout[start].unit) in _HALF_TURNS:
            lengths = np.linalg.norm(np.diff(values[..., channels], axis=1), axis=-1)
            count(channels, lengths > _HALF_TURNS[unit])
    for start in rotation_starts(layout, ChannelKind.QUATERNION, 4):
        channels = range(start, start + 4)
        along = (values[:, 1:, channels] * values[:, :-1, channels]).sum(axis=-1)
        count(channels, along < 0)
    return found
