"""Where motions lie in vectors: in the recorded one, and in the one they are relative to."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipelines.actions import Motion, from_opening, to_opening
from pipelines.parts import Part, is_measure, parts_of
from pipelines.rotations import from_matrix, nearest_matrices, to_matrix
from schemas.action_recipe import ActionRecipe
from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper
from schemas.errors import RecipeError
from schemas.slot_layout import GripperConvention, RotationKind

_TURNS = {"rad": 2 * np.pi, "deg": 360.0}


@dataclass(frozen=True, slots=True)
class PoseColumns:
    """Where one pose lies: () for what it does not have."""

    position: tuple[int, ...]
    rotation: tuple[int, ...]
    written: RotationKind
    degrees: bool = False


@dataclass(frozen=True, slots=True)
class VectorMap:
    """Where the numbers and poses of a ``Motion`` lie in a vector, and which of its columns are openings of grippers."""

    numbers: tuple[int, ...] = ()
    poses: tuple[PoseColumns, ...] = ()
    openings: tuple[tuple[int, Gripper], ...] = ()

    def opened(self, values: np.ndarray) -> np.ndarray:
        """A copy of ``values`` [..., A] in float64 with grippers as openings."""
        result = np.array(values, dtype=np.float64)
        for column, gripper in self.openings:
            result[..., column] = to_opening(result[..., column], gripper)
        return result

    def unopened(self, values: np.ndarray) -> np.ndarray:
        """The inverse of ``opened``."""
        result = np.array(values, dtype=np.float64)
        for column, gripper in self.openings:
            result[..., column] = from_opening(result[..., column], gripper)
        return result

    def read(self, values: np.ndarray, nearest: bool = False) -> Motion:
        """The motion in ``values`` [..., A]. Raises LayoutError where a rotation is none; ``nearest`` takes the one nearest to
        a matrix that is none.
        """
        shape = (*values.shape[:-1], len(self.poses))
        positions, rotations = np.zeros((*shape, 3)), np.broadcast_to(np.eye(3), (*shape, 3, 3)).copy()
        for index, pose in enumerate(self.poses):
            if pose.position:
                positions[..., index, :] = values[..., pose.position]
            if pose.rotation:
                written = values[..., pose.rotation]
                written = nearest_matrices(written) if nearest and pose.written == "matrix" else written
                rotations[..., index, :, :] = to_matrix(np.deg2rad(written) if pose.degrees else written, pose.written)
        return Motion(values[..., self.numbers], positions, rotations)

    def write(self, motion: Motion, values: np.ndarray) -> None:
        """Puts ``motion`` into ``values`` [..., A], in place; the inverse of ``read``."""
        values[..., self.numbers] = motion.numbers
        for index, pose in enumerate(self.poses):
            if pose.position:
                values[..., pose.position] = motion.positions[..., index, :]
            if pose.rotation:
                written = from_matrix(motion.rotations[..., index, :, :], pose.written)
                values[..., pose.rotation] = np.rad2deg(written) if pose.degrees else written


@dataclass(frozen=True, slots=True)
class Vector:
    """A layout with its parts; ``label`` is what messages call it."""

    label: str
    layout: tuple[Channel, ...]
    parts: tuple[Part, ...]

    @staticmethod
    def of(embodiment: Embodiment, source: str) -> "Vector":
        """The ``action`` or ``proprio`` of a robot."""
        if source == "action":
            layout, grippers = embodiment.action, embodiment.action_grippers
        else:
            layout, grippers = embodiment.proprio, embodiment.proprio_grippers
        return Vector(f"the {source} of {embodiment.name}", layout, parts_of(layout, grippers))

    def names(self, columns: Iterable[int]) -> str:
        """The names of these columns, for messages."""
        return ", ".join(self.layout[column].name for column in columns)

    def pose_columns(self, part: Part) -> PoseColumns:
        """Where a pose of this vector lies and how it is written."""
        degrees = any(self.layout[column].unit == "deg" for column in part.rotation)
        return PoseColumns(part.position, part.rotation, part.written or "euler_xyz", degrees)

    def poses(self) -> tuple[Part, ...]:
        """The parts that are poses, or at least a position or a rotation."""
        return tuple(part for part in self.parts if part.position or part.rotation)

    def gripper(self, column: int) -> Part | None:
        """The gripper that this column is."""
        return next((part for part in self.parts if part.kind == "gripper" and part.channels == (column,)), None)


@dataclass(frozen=True, slots=True)
class Moved:
    """What of a vector does not stay as recorded: single ``numbers`` and whole ``poses``."""

    numbers: tuple[int, ...] = ()
    poses: tuple[Part, ...] = ()


def moved_parts(vector: Vector, parts: tuple[Part, ...], recipe: ActionRecipe, rotation: RotationKind | None) -> Moved:
    """What of ``parts`` the recipe makes relative, or, absolute, writes as another kind of ``rotation``.

    Raises RecipeError where nothing can be relative though it should be, or not along the axes asked for.
    """
    poses = tuple(part for part in vector.poses() if part in parts)
    if any(recipe.tool_rotation_deg) and not any(map(is_tool, poses)):
        message = f"{vector.label} has no end effector with a known rotation whose axes could be turned"
        raise RecipeError(message, "tool_rotation_deg", "leave it out, or use the parts that are poses")
    if recipe.reference == "absolute":
        return Moved(poses=tuple(part for part in poses if _is_rewritten(vector, part, recipe, rotation)))
    numbers = [
        column
        for part in parts
        if part not in poses
        for column in part.channels
        if _moves(vector, part, column, recipe)
    ]
    if not poses and not numbers:
        raise _nothing_moves(vector, parts)
    for part in poses:
        if recipe.frame != "base" and part.position and not part.rotation:
            message = (
                f"{vector.label} has no known rotation beside {vector.names(part.position)}, and so no axes of a tool"
            )
            raise RecipeError(message, f"frame {recipe.frame}", 'use frame = "base"')
    return Moved(tuple(sorted(numbers)), poses)


def is_tool(part: Part) -> bool:
    """Whether this is an end effector whose rotation is known."""
    return part.kind == "pose" and bool(part.rotation)


def _is_rewritten(vector: Vector, part: Part, recipe: ActionRecipe, rotation: RotationKind | None) -> bool:
    """Whether the rotation of an absolute pose is written otherwise than it was recorded."""
    if not part.rotation:
        return False
    other = rotation is not None and (part.written != rotation or vector.pose_columns(part).degrees)
    return other or (is_tool(part) and any(recipe.tool_rotation_deg))


def _moves(vector: Vector, part: Part, column: int, recipe: ActionRecipe) -> bool:
    if part.kind == "gripper":
        return recipe.gripper_reference == "relative"
    return is_measure(vector.layout[column])


def _nothing_moves(vector: Vector, parts: tuple[Part, ...]) -> RecipeError:
    columns = [column for part in parts if part.kind != "gripper" for column in part.channels]
    unknown = [column for column in columns if vector.layout[column].kind is ChannelKind.UNKNOWN]
    commands = [column for column in columns if column not in unknown]
    why = [
        *([f"{vector.names(commands)} are changes, velocities or other commands already"] if commands else []),
        *([f"the card does not say what {vector.names(unknown)} are"] if unknown else []),
    ]
    hint = 'use reference = "absolute", or source = "proprio" for chunks of measured states'
    reason = "; ".join(why) or "no channel but grippers is used"
    return RecipeError(f"{vector.label} cannot be made relative: {reason}", "reference", hint)


def turns_of(vector: Vector, numbers: tuple[int, ...]) -> np.ndarray:
    """float64 [D]: the full turn of each of these channels, infinite where it does not wrap. Raises RecipeError."""
    turns = np.full(len(numbers), np.inf)
    for index, channel in enumerate(vector.layout[column] for column in numbers):
        if channel.kind is ChannelKind.ANGLE:
            if channel.unit not in _TURNS:
                hint = 'give it the unit "rad" or "deg" in the embodiment card'
                raise RecipeError(f"{vector.label}: {channel.name} is an angle in {channel.unit!r}", "reference", hint)
            turns[index] = _TURNS[channel.unit]
    return turns


def openings_of(
    vector: Vector, parts: Iterable[Part], convention: GripperConvention
) -> tuple[tuple[int, Gripper], ...]:
    """Columns of grippers with what makes them openings, or closings. Raises RecipeError where a card does not say."""
    if convention == "recorded":
        return ()
    found: list[tuple[int, Gripper]] = []
    for part in parts:
        if part.kind == "gripper":
            known = part.gripper
            if known is None:
                hint = 'name what is open and closed in the card, or use gripper = "recorded"'
                message = f"{vector.label} does not say what opens {vector.names(part.channels)}"
                raise RecipeError(message, f"gripper {convention}", hint)
            flipped = Gripper(channel=known.channel, open=known.closed, closed=known.open)
            found.append((part.channels[0], known if convention == "opening" else flipped))
    return tuple(found)


def map_in_base(moved: Moved, vector: Vector, base: Vector, convention: GripperConvention) -> VectorMap:
    """Where in ``base`` the same quantities as ``moved`` of ``vector`` lie: numbers by name, poses by arm and order.

    Raises RecipeError that names what is not there, or is another quantity.
    """
    columns = {channel.name: column for column, channel in enumerate(base.layout)}
    numbers: list[int] = []
    for column in moved.numbers:
        there = columns.get(vector.layout[column].name)
        if there is None or not _same_quantity(vector, column, base, there, convention):
            raise _no_base(vector, base, vector.names((column,)), there is not None)
        numbers.append(there)
    poses: list[PoseColumns] = []
    for part in moved.poses:
        order = [one for one in vector.poses() if _has_place(one, part)].index(part)
        alike = [one for one in base.poses() if _has_place(one, part)][order : order + 1]
        units = [vector.layout[column].unit for column in part.position]
        if not alike or (units and units != [base.layout[column].unit for column in alike[0].position]):
            raise _no_base(vector, base, vector.names(part.channels), bool(alike))
        poses.append(base.pose_columns(alike[0]))
    grippers = [part for part in map(base.gripper, numbers) if part is not None]
    return VectorMap(tuple(numbers), tuple(poses), openings_of(base, grippers, convention))


def _same_quantity(vector: Vector, column: int, base: Vector, there: int, convention: GripperConvention) -> bool:
    mine, other = vector.gripper(column), base.gripper(there)
    if mine is not None and other is not None and convention != "recorded":
        return True  # both become openings
    one, two = vector.layout[column], base.layout[there]
    polarity = [part and part.gripper and (part.gripper.open, part.gripper.closed) for part in (mine, other)]
    return (one.unit, one.kind, polarity[0]) == (two.unit, two.kind, polarity[1])


def _has_place(one: Part, like: Part) -> bool:
    """Whether ``one`` is a pose as ``like`` is, and has what that has."""
    same = (one.kind, one.arm) == (like.kind, like.arm)
    return same and bool(one.position) >= bool(like.position) and bool(one.rotation) >= bool(like.rotation)


def _no_base(vector: Vector, base: Vector, names: str, is_there: bool) -> RecipeError:
    why = "is another quantity there" if is_there else "is not there"
    message = f"{names} of {vector.label} cannot be relative to {base.label}: it {why}"
    return RecipeError(message, "reference", 'use base = "self" or "absolute", or leave the part out with parts')
