"""Robots and numbers for the laws of actions: random embodiments, and vectors that honestly fit a layout."""

import numpy as np
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipelines.parts import ROTATIONS, parts_of
from pipelines.rotations import from_matrix
from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper, Layout

KINDS = ChannelKind
ROTATION_NAMES = {
    KINDS.EULER: ("roll", "pitch", "yaw"),
    KINDS.QUATERNION: ("qx", "qy", "qz", "qw"),
    KINDS.AXIS_ANGLE: ("rx", "ry", "rz"),
}
POLARITIES = [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (0.08, 0.0), (0.0, 255.0)]


@st.composite
def arms(draw: st.DrawFn, side: str) -> tuple[list[list[Channel]], list[Gripper]]:
    """Blocks of channels of one arm, and its grippers."""
    blocks: list[list[Channel]] = []
    grippers: list[Gripper] = []
    if draw(st.booleans()):
        kind = draw(st.sampled_from(sorted(ROTATION_NAMES)))
        degrees = kind is not KINDS.QUATERNION and draw(st.booleans())
        unit = "1" if kind is KINDS.QUATERNION else "deg" if degrees else "rad"
        place = [Channel(name=f"{side}{axis}", unit="m", kind=KINDS.POSITION) for axis in "xyz"]
        turn = [Channel(name=f"{side}{name}", unit=unit, kind=kind) for name in ROTATION_NAMES[kind]]
        blocks.append(place + turn if draw(st.booleans()) else turn + place)
    if num_joints := draw(st.integers(0, 7)):
        names = [f"{side}joint_{number + 1}" for number in range(num_joints)]
        blocks.append([Channel(name=name, unit="rad", kind=KINDS.POSITION) for name in names])
    if draw(st.booleans()):
        opened, closed = draw(st.sampled_from(POLARITIES))
        blocks.append([Channel(name=f"{side}gripper", unit="1", kind=KINDS.GRIPPER)])
        grippers.append(Gripper(channel=f"{side}gripper", open=opened, closed=closed))
    return blocks, grippers


@st.composite
def embodiments(draw: st.DrawFn) -> Embodiment:
    """Robots with one arm or two, whose action and proprio hold the same channels in another order, and some more."""
    blocks: list[list[Channel]] = []
    grippers: list[Gripper] = []
    for side in draw(st.sampled_from([("",), ("left_", "right_")])):
        more, held = draw(arms(side))
        blocks += more
        grippers += held
    blocks.append([Channel(name="torso_lift", unit="m", kind=KINDS.POSITION)])
    extra = [
        [Channel(name="heading", unit=draw(st.sampled_from(["rad", "deg"])), kind=KINDS.ANGLE)],
        [Channel(name="base_drive", unit="m/s", kind=KINDS.COMMAND)],
        [Channel(name="done", kind=KINDS.FLAG), Channel(name="mystery")],
    ]
    blocks += [block for block in extra if draw(st.booleans())]

    def layout(order: list[list[Channel]]) -> Layout:
        return tuple(channel for block in order for channel in block)

    return Embodiment(
        name="random",
        title="random",
        action=layout(draw(st.permutations(blocks))),
        proprio=layout([*draw(st.permutations(blocks)), [Channel(name="force", unit="N", kind=KINDS.POSITION)]]),
        action_grippers=tuple(grippers),
        proprio_grippers=tuple(grippers),
    )


def turns(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Rotation matrices float64 [..., 3, 3]: anywhere, at identity and near it, near half a turn, and at the poles."""
    count = int(np.prod(shape))
    axes = random.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    small = 10.0 ** random.uniform(-17, -1, count)
    angles = np.choose(random.integers(0, 4, count), [random.uniform(0, np.pi, count), small, np.pi - small, 0 * small])
    free = Rotation.from_rotvec(axes * angles[:, None])
    euler = random.uniform(-np.pi, np.pi, (count, 3))
    euler[:, 1] = random.choice([-1, 1], count) * (np.pi / 2 - np.where(random.random(count) < 0.5, small, 0))
    poles = Rotation.from_euler("xyz", euler)
    chosen = np.where((random.random(count) < 0.25)[:, None, None], poles.as_matrix(), free.as_matrix())
    return np.asarray(chosen).reshape(*shape, 3, 3)


def fitting(layout: tuple[Channel, ...], shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """float64 [..., D] that fit ``layout``: rotations are some, everything else is of the size robots have."""
    values = random.uniform(-2, 2, (*shape, len(layout)))
    for part in parts_of(layout):
        if part.rotation and part.written:
            written = from_matrix(turns(shape, random), part.written)
            degrees = layout[part.rotation[0]].unit == "deg"
            values[..., part.rotation] = np.rad2deg(written) if degrees else written
    for index, channel in enumerate(layout):
        if channel.kind is KINDS.ANGLE:
            half = 180 if channel.unit == "deg" else np.pi
            values[..., index] = random.uniform(-half, half, shape)
    return values


def error(found: np.ndarray, wanted: np.ndarray, layout: tuple[Channel, ...]) -> float:
    """The largest difference: rotations by angle, angles up to turns, the rest by number, relative where above 1."""
    from pipelines.rotations import angle_between, to_matrix

    scale = np.maximum(np.abs(wanted), 1)
    errors = np.abs(found - wanted) / scale
    for index, channel in enumerate(layout):
        if channel.kind is KINDS.ANGLE:
            turn = 360 if channel.unit == "deg" else 2 * np.pi
            off = found[..., index] - wanted[..., index]
            errors[..., index] = np.abs(off - turn * np.round(off / turn))
    for part in parts_of(layout):
        if part.rotation and part.written:
            assert part.written in ROTATIONS.values()
            degrees = layout[part.rotation[0]].unit == "deg"
            one, two = (
                to_matrix(np.deg2rad(each[..., part.rotation]) if degrees else each[..., part.rotation], part.written)
                for each in (found, wanted)
            )
            errors[..., part.rotation] = angle_between(one, two)[..., None]
    return float(errors.max()) if errors.size else 0.0
