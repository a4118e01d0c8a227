"""What the numbers of a vector are together: poses of end effectors, joints, grippers, hands and the rest.

Read off a card's layout, by kind, unit and name; what these do not say stays ``other``, and nobody turns it.
"""

import itertools
from dataclasses import dataclass

from schemas.action_recipe import PartKind
from schemas.embodiment import Channel, ChannelKind, Gripper, rotation_starts
from schemas.slot_layout import Arm, RotationKind

ROTATIONS: dict[ChannelKind, RotationKind] = {
    ChannelKind.EULER: "euler_xyz",
    ChannelKind.QUATERNION: "quaternion_xyzw",
    ChannelKind.AXIS_ANGLE: "axis_angle",
}
"""How the rotation kinds of cards are written."""
_WIDTHS = ((ChannelKind.EULER, 3), (ChannelKind.QUATERNION, 4), (ChannelKind.AXIS_ANGLE, 3))
_MEASURES = (ChannelKind.POSITION, ChannelKind.ANGLE)
_JOINT_WORDS = {"joint", "arm", "shoulder", "elbow", "forearm", "wrist"}
_WORDS: dict[str, PartKind] = {"hand": "hand", "head": "head", "neck": "head", "waist": "waist", "leg": "leg"}


@dataclass(frozen=True, slots=True)
class Part:
    """Channels of one layout that belong together, as indices in its order."""

    kind: PartKind
    arm: Arm
    channels: tuple[int, ...]
    position: tuple[int, ...] = ()
    """Of a pose (an end effector's or a base's): x, y, z; () where only the rotation is known."""
    rotation: tuple[int, ...] = ()
    """Of a pose: its rotation; () where the card does not say how it is written."""
    written: RotationKind | None = None
    """Of a pose: how."""
    gripper: Gripper | None = None
    """Of a gripper: what opens and closes it; None where the card does not say."""


def parts_of(layout: tuple[Channel, ...], grippers: tuple[Gripper, ...] = ()) -> tuple[Part, ...]:
    """Every channel of ``layout`` in exactly one part, parts in the order of their first channels.

    A pose is three positions named x, y, z with one unit, and the rotation right before or behind them, if any; or a
    rotation alone. It is an end effector's, or the base's where its names begin so. Joints, hands and legs are gathered
    by side. Changes and velocities are commands, and so ``other``, except for those of a base.
    """
    parts = list(_poses(layout))
    taken = {index for part in parts for index in part.channels}
    polarity = {gripper.channel: gripper for gripper in grippers}
    gathered: dict[tuple[PartKind, Arm], list[int]] = {}
    for index, channel in enumerate(layout):
        if index in taken:
            continue
        if channel.kind is ChannelKind.GRIPPER or channel.name in polarity:
            parts.append(Part("gripper", arm_of(channel.name), (index,), gripper=polarity.get(channel.name)))
        else:
            gathered.setdefault(_kind_and_arm(channel), []).append(index)
    parts += [Part(kind, arm, tuple(channels)) for (kind, arm), channels in gathered.items()]
    return tuple(sorted(parts, key=lambda part: part.channels[0]))


def arm_of(name: str) -> Arm:
    """The side that a channel's name speaks of."""
    words = name.split("_")
    return "left" if "left" in words else "right" if "right" in words else ""


def is_measure(channel: Channel) -> bool:
    """Whether this is a place that two readings of can be subtracted: no command, no velocity, nothing unknown."""
    return channel.kind in _MEASURES and not _is_rate(channel)


def _is_rate(channel: Channel) -> bool:
    return "/s" in channel.unit or "velocity" in channel.name.split("_")


def _kind_and_arm(channel: Channel) -> tuple[PartKind, Arm]:
    words = channel.name.split("_")
    arm = arm_of(channel.name)
    if channel.name.startswith("base_"):
        return "base", ""
    if not is_measure(channel):
        return "other", ""
    stem = words[1] if arm and len(words) > 1 and words[0] == arm else words[0]
    # a waist of an arm is the first joint of a ViperX; without an arm it is the trunk of a humanoid
    if stem in _JOINT_WORDS or (stem == "waist" and arm):
        return "joints", arm
    kind = _WORDS.get(stem, "other")
    return kind, arm if kind in ("hand", "leg") else ""


def _poses(layout: tuple[Channel, ...]) -> list[Part]:
    places = [start for start in range(len(layout) - 2) if _is_place(layout[start : start + 3])]
    poses: list[Part] = []
    for kind, width in _WIDTHS:
        for start in rotation_starts(layout, kind, width):
            if kind is not ChannelKind.QUATERNION and any(
                c.unit not in ("rad", "deg") for c in layout[start : start + 3]
            ):
                continue
            whose = _whose(layout[start])
            near = [place for place in (start - 3, start + width) if place in places and _whose(layout[place]) == whose]
            position: tuple[int, ...] = ()
            if near:
                places.remove(near[0])
                position = tuple(range(near[0], near[0] + 3))
            rotation = tuple(range(start, start + width))
            poses.append(Part(*whose, tuple(sorted(position + rotation)), position, rotation, ROTATIONS[kind]))
    for place in places:
        position = tuple(range(place, place + 3))
        poses.append(Part(*_whose(layout[place]), position, position))
    return poses


def _whose(channel: Channel) -> tuple[PartKind, Arm]:
    return ("base", "") if channel.name.startswith("base_") else ("pose", arm_of(channel.name))


def _is_place(channels: tuple[Channel, ...]) -> bool:
    """Whether three channels are x, y and z of one point."""
    names = [channel.name for channel in channels]
    return (
        [name[-1:] for name in names] == ["x", "y", "z"]
        and all(one[:-1] == two[:-1] for one, two in itertools.pairwise(names))
        and all(channel.kind is ChannelKind.POSITION and not _is_rate(channel) for channel in channels)
        and len({channel.unit for channel in channels}) == 1
    )
