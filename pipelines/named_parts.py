"""The parts of a vector under the names that DROID gave them, which many trainers read: ``cartesian_position`` and the like."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.parts import Part, parts_of
from pipelines.release_plan import BuiltEpisode, GroupPlan
from pipelines.rotations import convert
from schemas.embodiment import Channel, Gripper
from schemas.errors import RecipeError
from schemas.recipes import BuildRecipe

_NAMES = {"pose": "cartesian_position", "joints": "joint_position"}
_STEPS_AT_ONCE = 1024
"""Whose chunks are made at a time."""
CARTESIAN, JOINTS, GRIPPER = "cartesian_position", "joint_position", "gripper_position"


@dataclass(frozen=True, slots=True)
class NamedPart:
    """One part of a layout; see ``of``."""

    part: Part
    degrees: bool
    names: tuple[str, ...]
    """Of the numbers that ``of`` gives."""

    @property
    def width(self) -> int:
        """How many numbers it has."""
        return len(self.names)

    @property
    def kept(self) -> tuple[int | None, ...]:
        """For each number that ``of`` gives, the channel it is, unchanged; None where it was converted."""
        if not self.part.written:
            return self.part.position or self.part.channels
        turned = self.degrees or self.part.written != "euler_xyz"
        return (*self.part.position, *((None, None, None) if turned else self.part.rotation))

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """float32 [T, width] of ``vectors`` [T, A]: the channels as they are, of a pose x, y, z and angles about the fixed axes.

        A rotation that was written so already is not touched. Raises LayoutError where one is none.
        """
        if not self.part.written:
            return np.ascontiguousarray(vectors[:, self.part.position or self.part.channels], dtype=np.float32)
        turns: np.ndarray = vectors[:, self.part.rotation]
        if self.degrees:
            turns = np.deg2rad(turns)
        if self.part.written != "euler_xyz":
            turns = convert(turns.astype(np.float64), self.part.written, "euler_xyz")
        return np.column_stack([vectors[:, self.part.position], turns]).astype(np.float32)


def named_parts(layout: tuple[Channel, ...], grippers: tuple[Gripper, ...] = ()) -> dict[str, NamedPart]:
    """By name, in the order of the layout, every part but ``other``: ``cartesian_position`` of a pose, ``joint_position``,
    ``gripper_position``, ``hand_position`` and so on; with ``left_`` or ``right_`` in front where a robot has both, and a
    number behind from the second of one name on."""
    parts = [part for part in parts_of(layout, grippers) if part.kind != "other"]
    arms = {part.arm for part in parts} - {""}
    found: dict[str, NamedPart] = {}
    for part in parts:
        side = f"{part.arm}_" if part.arm and len(arms) > 1 else ""
        plain = side + _NAMES.get(part.kind, f"{part.kind}_position")
        name, number = plain, 1
        while name in found:
            number += 1
            name = f"{plain}_{number}"
        if part.written:
            names = (*(layout[index].name for index in part.position), "roll", "pitch", "yaw")
        else:
            names = tuple(layout[index].name for index in part.position or part.channels)
        degrees = any(layout[index].unit == "deg" for index in part.rotation)
        found[name] = NamedPart(part, degrees, names)
    return found


def joined(
    parts: Mapping[str, NamedPart], values: Mapping[str, np.ndarray], num: int
) -> tuple[tuple[int, ...], np.ndarray]:
    """The inverse of ``NamedPart.of`` for a vector in parts, as far as there is one: the channels that they hold unchanged,
    rising, and float32 [num, n] of these. ``values`` has [num, width] of every part.
    """
    found = {
        channel: values[name][:, column]
        for name, part in parts.items()
        for column, channel in enumerate(part.kept)
        if channel is not None
    }
    channels = tuple(sorted(found))
    vector: np.ndarray = np.zeros((num, len(channels)), np.float32)
    for column, channel in enumerate(channels):
        vector[:, column] = found[channel]
    return channels, vector


def require_parts(found: Mapping[str, NamedPart], wanted: Mapping[str, int], whose: str, where: str) -> None:
    """Raises RecipeError unless ``found`` has every part of ``wanted`` with so many numbers."""
    for name, width in wanted.items():
        if name not in found or found[name].width != width:
            there = ", ".join(f"{other} [{part.width}]" for other, part in found.items()) or "nothing that has a name"
            raise RecipeError(
                f"{whose} reads {name} [{width}], and this robot measures {there}",
                where,
                "leave such robots out with --where, or build another format; a card that knows more of the robot helps",
                "no_part",
            )


def require_recorded(recipe: BuildRecipe, whose: str) -> None:
    """Raises RecipeError where actions and proprio would be normalized: ``whose`` loaders want units, and normalize
    themselves."""
    if recipe.normalize != "none":
        raise RecipeError(
            f"{whose} holds poses in metres and radians, and its trainers normalize themselves; the recipe normalizes",
            "normalize",
            'set normalize = "none" for this format, or build it in a release of its own',
        )


def require_pictures(recipe: BuildRecipe, whose: str) -> None:
    """Raises RecipeError where the recipe asks for latents instead of pictures: ``whose`` files hold none, and would have
    neither."""
    if recipe.content == "latents":
        raise RecipeError(
            f"{whose} carries no latents, so it would show nothing at all",
            "content",
            'set content = "frames" or "both" for this format, or build it in a release of its own',
        )


def require_hdf5_texts(group: GroupPlan, whose: str) -> None:
    """Raises RecipeError where an instruction has a NUL character, which ends a text in HDF5."""
    bad = next((task for task in group.tasks if "\0" in task), None)
    if bad is not None:
        raise RecipeError(
            f"{whose} holds instructions as texts of HDF5, and {bad[:80]!r} has a NUL character, which ends one there",
            group.name,
            "leave out the episodes with this instruction by --where, or mend it in the recordings and ingest them again",
            "bad_text",
        )


def first_actions(episode: BuiltEpisode) -> tuple[np.ndarray, np.ndarray]:
    """float32 [T, W] and bool [T] of what counts: the first step of the chunk at each step, for trainers that make chunks."""
    num = episode.plan.num_steps
    blocks = [np.arange(at, min(at + _STEPS_AT_ONCE, num)) for at in range(0, num, _STEPS_AT_ONCE)]
    # copies, since a part of a block would keep all of it
    firsts = [(chunks[:, 0].copy(), mask[:, 0].copy()) for chunks, mask in map(episode.chunks.at, blocks)]
    return np.concatenate([values for values, _ in firsts]), np.concatenate([mask for _, mask in firsts])
