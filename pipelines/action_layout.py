"""What the vector that is written is: its channels in order, and where in it each recorded quantity goes."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.action_vector import Moved, PoseColumns, Vector, VectorMap
from pipelines.parts import ROTATIONS, Part
from pipelines.slots import Role
from schemas.action_recipe import Reference
from schemas.embodiment import Channel, ChannelKind
from schemas.errors import RecipeError
from schemas.slot_layout import Arm, RotationKind, SlotPart

PREFIXES: dict[Reference, str] = {
    "absolute": "",
    "chunk_start": "delta_",
    "segment_start": "delta_",
    "framewise": "delta_",
    "velocity": "velocity_",
}
"""Before the name of what is moved, as cards name recorded changes and velocities."""

_NAMES: dict[RotationKind, tuple[str, ...]] = {
    "euler_xyz": ("roll", "pitch", "yaw"),
    "quaternion_xyzw": ("qx", "qy", "qz", "qw"),
    "axis_angle": ("rx", "ry", "rz"),
    "rot6d_columns": tuple(f"rot6d_{number}" for number in range(1, 7)),
    "rot6d_rows": tuple(f"rot6d_rows_{number}" for number in range(1, 7)),
    "matrix": tuple(f"r{row}{column}" for row in (1, 2, 3) for column in (1, 2, 3)),
}
_KINDS = {written: kind for kind, written in ROTATIONS.items()}
_VELOCITIES: dict[SlotPart, SlotPart] = {
    "position": "linear_velocity",
    "rotation": "angular_velocity",
    "joints": "joint_velocity",
    "gripper": "gripper_velocity",
}


@dataclass(frozen=True, slots=True)
class WrittenVector:
    """The vector that is written, before it goes into slots."""

    channels: tuple[Channel, ...]
    roles: tuple[Role, ...]
    map: VectorMap
    """Where what is moved lies in it."""
    copied: tuple[tuple[int, int], ...]
    """(column of the recorded vector, column of this one) of what is not moved."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """One number that is written: what it is, and the recorded column it comes from (a rotation: its first)."""

    channel: Channel
    role: SlotPart
    arm: Arm
    column: int


@dataclass(frozen=True, slots=True)
class Choice:
    """How what is moved is written."""

    reference: Reference
    rotation: RotationKind | None
    """None: as recorded."""
    openings: frozenset[int]
    """Columns whose grippers are openings or closings."""
    scaled: bool = False
    """Whether poses are written times a factor, and so without their unit."""

    def written(self, part: Part) -> RotationKind:
        """How the rotation of a moved pose is written; Euler, for want of another, where it has none."""
        return self.rotation or part.written or "euler_xyz"


def written_vector(vector: Vector, parts: tuple[Part, ...], moved: Moved, choice: Choice) -> WrittenVector:
    """Channels keep the order of the recorded vector; a rotation stands where it stood, however wide it becomes.

    Raises RecipeError where two channels would have one name.
    """
    cells = list(_cells(vector, parts, moved, choice))
    counts = Counter(cell.channel.name for cell in cells)
    if double := [name for name, count in counts.items() if count > 1]:
        message = f"{vector.label} would have two channels called {double[0]}"
        raise RecipeError(message, "reference", "leave one of them out with parts")
    places: dict[int, list[int]] = defaultdict(list)
    seen: Counter[tuple[SlotPart, Arm]] = Counter()
    roles: list[Role] = []
    for index, cell in enumerate(cells):
        places[cell.column].append(index)
        roles.append(Role(cell.role, cell.arm, seen[cell.role, cell.arm]))
        seen[cell.role, cell.arm] += 1
    poses = tuple(
        PoseColumns(
            tuple(places[column][0] for column in part.position),
            tuple(places[part.rotation[0]]) if part.rotation else (),
            choice.written(part),
        )
        for part in moved.poses
    )
    numbers = tuple(places[column][0] for column in moved.numbers)
    touched = {*moved.numbers, *(column for part in moved.poses for column in part.channels)}
    copied = tuple((column, found[0]) for column, found in sorted(places.items()) if column not in touched)
    return WrittenVector(tuple(cell.channel for cell in cells), tuple(roles), VectorMap(numbers, poses), copied)


def _cells(vector: Vector, parts: tuple[Part, ...], moved: Moved, choice: Choice) -> Iterator[_Cell]:
    owners = {column: part for part in parts for column in part.channels}
    stems = _stems(moved.poses)
    for column in sorted(owners):
        part, channel = owners[column], vector.layout[column]
        role = _role(part, column)
        if column in choice.openings:
            channel = channel.model_copy(update={"unit": "1", "low": 0.0, "high": 1.0})
        if part in moved.poses and column in part.rotation:
            if column == part.rotation[0]:
                for one in _rotation_channels(vector, part, stems[part], choice):
                    yield _Cell(_scaled(one, choice), _moved_role(role, choice), part.arm, column)
        elif choice.reference != "absolute" and (part in moved.poses or column in moved.numbers):
            moved_channel = _moved_channel(channel, choice)
            written = _scaled(moved_channel, choice) if part in moved.poses else moved_channel
            yield _Cell(written, _moved_role(role, choice), part.arm, column)
        else:
            yield _Cell(channel, role, part.arm, column)


def _stems(poses: tuple[Part, ...]) -> dict[Part, str]:
    """What the names of a pose's new rotation begin with: its arm, and a number from the second pose of an arm on."""
    counts: Counter[tuple[str, Arm]] = Counter()
    stems: dict[Part, str] = {}
    for part in poses:
        counts[part.kind, part.arm] += 1
        number = counts[part.kind, part.arm]
        words = ["base" if part.kind == "base" else part.arm, str(number) if number > 1 else ""]
        stems[part] = "".join(f"{word}_" for word in words if word)
    return stems


def _role(part: Part, column: int) -> SlotPart:
    if part.kind == "pose":
        return "position" if column in part.position else "rotation"
    return part.kind


def _moved_role(role: SlotPart, choice: Choice) -> SlotPart:
    """Velocities have slots of their own, or none: never those of places."""
    return _VELOCITIES.get(role, "other") if choice.reference == "velocity" else role


def _moved_channel(channel: Channel, choice: Choice) -> Channel:
    unit = f"{channel.unit}/s" if choice.reference == "velocity" and channel.unit != "unknown" else channel.unit
    return Channel(name=f"{PREFIXES[choice.reference]}{channel.name}", unit=unit, kind=ChannelKind.COMMAND)


def _scaled(channel: Channel, choice: Choice) -> Channel:
    return channel.model_copy(update={"unit": "1"}) if choice.scaled else channel


def _rotation_channels(vector: Vector, part: Part, stem: str, choice: Choice) -> Iterator[Channel]:
    written = choice.written(part)
    names = [f"{stem}{name}" for name in _NAMES[written]]
    if written == part.written:
        names = [vector.layout[column].name for column in part.rotation]
    unit = "rad" if written in ("euler_xyz", "axis_angle") else "1"
    kind = _KINDS.get(written, ChannelKind.COMMAND) if choice.reference == "absolute" else ChannelKind.COMMAND
    for name in names:
        channel = Channel(name=f"{PREFIXES[choice.reference]}{name}", unit=unit, kind=kind)
        yield channel.model_copy(update={"unit": "rad/s"}) if choice.reference == "velocity" else channel
