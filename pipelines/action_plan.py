"""Turns action chunks of one robot into what a recipe asks for, and back: the one thing a build line needs to call.

A plan is made once for a robot and a recipe, says what the vector that is written is, and holds no data.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipelines.action_layout import Choice, WrittenVector, written_vector
from pipelines.action_vector import Moved, Vector, VectorMap, is_tool, map_in_base, moved_parts, openings_of, turns_of
from pipelines.actions import (
    Motion,
    from_framewise,
    from_relative,
    from_turned_tools,
    to_framewise,
    to_relative,
    to_turned_tools,
)
from pipelines.cards import load_slot_layout
from pipelines.rotations import to_matrix
from pipelines.slots import pick, place, robot_slots, slot_indices
from schemas.action_recipe import VECTORS, ActionRecipe
from schemas.embodiment import Channel, Embodiment
from schemas.errors import LayoutError, RecipeError
from schemas.fingerprint import fingerprint
from schemas.slot_layout import RotationKind, SlotLayout


@dataclass(frozen=True, slots=True, eq=False)
class ActionPlan:
    """How chunks of one robot's vector are written. Make it with ``ActionPlan.of``."""

    embodiment: Embodiment
    recipe: ActionRecipe
    slots: SlotLayout
    recorded: tuple[Channel, ...]
    """A channels: the robot's vector that chunks are of (``recipe.source``)."""
    based_on: tuple[Channel, ...]
    """B channels: the robot's vector that a base is of (``recipe.base``)."""
    kept: tuple[int, ...]
    """Which of the A channels are used; the inverse gives these, in this order."""
    written: WrittenVector
    """The vector before it goes into slots."""
    indices: np.ndarray
    """int64: the slot of each of its numbers."""
    unmoved: tuple[str, ...]
    """Names of used channels that are not relative though the reference is, grippers aside; () for absolute."""
    _source: VectorMap
    _base: VectorMap
    _turns: np.ndarray
    _tools: np.ndarray
    """float64 [K, 3, 3]: what the rotation of each moved pose is multiplied by on the right."""

    @staticmethod
    def of(embodiment: Embodiment, recipe: ActionRecipe, slots: SlotLayout | None = None) -> "ActionPlan":
        """The plan of ``recipe`` for a robot; with ``slots`` the layout that the recipe names was read before.

        Raises RecipeError where the recipe asks what the robot's card does not allow (a change made relative, a gripper
        of unknown polarity, a part without a slot, a scaled rotation that is no vector), CardError where there is no such
        slot layout.
        """
        vector = Vector.of(embodiment, recipe.source)
        base = vector if recipe.base == "self" else Vector.of(embodiment, "proprio")
        parts = tuple(part for part in vector.parts if not recipe.parts or part.kind in recipe.parts)
        if not parts:
            kinds = ", ".join(dict.fromkeys(part.kind for part in vector.parts))
            hint = f"its parts: {kinds}" if kinds else 'use source = "proprio"'
            raise RecipeError(f"{vector.label} has none of the channels asked for", "parts", hint)
        layout = None if recipe.slots == "robot" else slots or load_slot_layout(recipe.slots)
        rotation = _rotation(recipe, layout)
        convention = recipe.gripper or (layout.gripper if layout else None) or "recorded"
        moved = moved_parts(vector, parts, recipe, rotation)
        openings = openings_of(vector, parts, convention)
        scaled = recipe.pose_scale != 1
        choice = Choice(recipe.reference, rotation, frozenset(column for column, _ in openings), scaled)
        if scaled:
            _check_scalable(vector, moved, choice)
        written = written_vector(vector, parts, moved, choice)
        relative = recipe.reference != "absolute"
        slots = layout or robot_slots(len(written.channels))
        return ActionPlan(
            embodiment=embodiment,
            recipe=recipe,
            slots=slots,
            recorded=vector.layout,
            based_on=base.layout,
            kept=tuple(sorted(column for part in parts for column in part.channels)),
            written=written,
            indices=slot_indices(
                slots, written.roles, tuple(channel.name for channel in written.channels), recipe.block
            ),
            unmoved=tuple(
                vector.layout[column].name
                for column, _ in written.copied
                if relative and vector.gripper(column) is None
            ),
            _source=VectorMap(moved.numbers, tuple(map(vector.pose_columns, moved.poses)), openings),
            _base=map_in_base(moved, vector, base, convention) if relative else VectorMap(),
            _turns=turns_of(vector, moved.numbers),
            _tools=_tools(moved, recipe),
        )

    @property
    def width(self) -> int:
        """W: numbers of a step as it is written."""
        return self.slots.width

    @property
    def mask(self) -> np.ndarray:
        """bool [W]: which of them mean something."""
        return place(np.zeros(len(self.indices)), self.indices, self.width)[1]

    @property
    def names(self) -> tuple[str, ...]:
        """W names; those of numbers without meaning are ``slot_`` and their index."""
        names = [f"slot_{index}" for index in range(self.width)]
        for index, channel in zip(self.indices, self.written.channels, strict=True):
            names[index] = channel.name
        return tuple(names)

    @property
    def needs_base(self) -> bool:
        """Whether ``transform`` and ``inverse`` ask for a base."""
        return self.recipe.reference != "absolute"

    @property
    def fingerprint(self) -> str:
        """Changes when anything that decides about a written number changes; for statistics and tokenizers."""
        recipe = self.recipe.model_copy(update={"slots": ""})  # a name, maybe of a file; the indices say what it means
        maps = (self.written, self._source, self._base, self._turns, self._tools)
        return fingerprint("ActionPlan", recipe, self.width, self.indices, self.kept, *maps)

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Keys of the recipe that ask for something and change nothing, since no used part of this robot is of that kind."""
        recipe = self.recipe
        used = [p for p in Vector.of(self.embodiment, recipe.source).parts if set(p.channels) <= set(self.kept)]
        turns, grips = any(part.rotation for part in used), any(part.kind == "gripper" for part in used)
        asked = {
            "base": recipe.base != "state" and not self.needs_base,
            "frame": recipe.frame != "base" and not (turns and self.needs_base),
            "rotation": recipe.rotation is not None and not turns,
            "gripper": recipe.gripper not in (None, "recorded") and not grips,
            "gripper_reference": recipe.gripper_reference == "relative" and not grips,
        }
        return tuple(key for key, idle in asked.items() if idle)

    @property
    def as_recorded(self) -> bool:
        """Whether chunks are rows of the robot's own vector, unchanged."""
        return self.recipe == ActionRecipe()

    def base_rows(self, chunk_starts: np.ndarray, segment_starts: np.ndarray) -> np.ndarray:
        """int64 [N]: the step that each chunk is relative to; see ``base``."""
        return segment_starts if self.recipe.reference == "segment_start" else chunk_starts

    def base(
        self, action: np.ndarray, proprio: np.ndarray, chunk_starts: np.ndarray, segment_starts: np.ndarray
    ) -> np.ndarray:
        """float64 [N, B]: what N chunks are relative to, out of an episode's ``action`` [T, A] and ``proprio`` [T, P].

        ``chunk_starts`` and ``segment_starts`` [N] are the steps where each chunk, and the segment it lies in, begin.
        """
        own = action if self.recipe.source == "action" else proprio
        rows = own if self.recipe.base == "self" else proprio
        return np.asarray(rows[self.base_rows(chunk_starts, segment_starts)], dtype=np.float64)

    def transform(self, chunks: np.ndarray, base: np.ndarray | None = None, rate: Fraction | None = None) -> np.ndarray:
        """float64 [N, T, W]: ``chunks`` [N, T, A] as they are written, zero where ``mask`` is False.

        ``base`` [N, B] is needed unless absolute, ``rate`` in Hz for velocities. Raises LayoutError where shapes do not
        fit, one of these is missing, or a rotation is none.
        """
        values = self._source.opened(_checked(chunks, "chunks", (None, None, len(self.recorded))))
        motion = to_turned_tools(self._source.read(values), self._tools)
        if self.needs_base:
            first = self._base_motion(base, len(values))
            frame = self.recipe.frame
            if self.recipe.reference in ("framewise", "velocity"):
                motion = to_framewise(motion, first, self._turns, frame)
            else:
                motion = to_relative(motion, first.at_step(None), self._turns, frame)
        result = np.zeros((*values.shape[:2], len(self.written.channels)))
        for column, number in self.written.copied:
            result[..., number] = values[..., column]
        self.written.map.write(motion, result)
        return place(result * self._factors(rate), self.indices, self.width)[0]

    def inverse(self, written: np.ndarray, base: np.ndarray | None = None, rate: Fraction | None = None) -> np.ndarray:
        """float64 [N, T, K]: the ``kept`` recorded channels out of what ``transform`` wrote [N, T, W].

        Rotations come back under the names ``from_matrix`` states, numbers that wrap up to whole turns; of matrices that a
        model gave, the rotations nearest to them. Raises LayoutError as ``transform``.
        """
        values = pick(_checked(written, "written", (None, None, self.width)), self.indices, self.width)
        values = values / self._factors(rate)
        motion = self.written.map.read(values, nearest=True)
        if self.needs_base:
            first = self._base_motion(base, len(values))
            if self.recipe.reference in ("framewise", "velocity"):
                motion = from_framewise(motion, first, self.recipe.frame)
            else:
                motion = from_relative(motion, first.at_step(None), self.recipe.frame)
        result = np.zeros((*values.shape[:2], len(self.recorded)))
        for column, number in self.written.copied:
            result[..., column] = values[..., number]
        self._source.write(from_turned_tools(motion, self._tools), result)
        return self._source.unopened(result)[..., self.kept]

    def _base_motion(self, base: np.ndarray | None, num_chunks: int) -> Motion:
        if base is None:
            message = f"the reference {self.recipe.reference} needs a base for each chunk"
            raise LayoutError(message, hint="give the rows that ActionPlan.base picks")
        first = self._base.read(self._base.opened(_checked(base, "base", (num_chunks, len(self.based_on)))))
        return to_turned_tools(first, self._tools)

    def _factors(self, rate: Fraction | None) -> np.ndarray:
        """float64: what each number of the written vector, before it goes into slots, is multiplied by."""
        moved = self.written.map
        poses = [column for pose in moved.poses for column in (*pose.position, *pose.rotation)]
        factors = np.ones(len(self.written.channels))
        factors[poses] = self.recipe.pose_scale
        if self.recipe.reference == "velocity":
            factors[[*moved.numbers, *poses]] *= _hertz(rate)
        return factors


def _rotation(recipe: ActionRecipe, layout: SlotLayout | None) -> RotationKind | None:
    """How rotations are written; None: as recorded. Raises RecipeError where recipe and slots disagree."""
    if recipe.reference == "velocity":
        return "axis_angle"
    wanted = layout.rotation if layout else None
    if wanted and recipe.rotation not in (None, wanted):
        message = f"rotations shall be written as {recipe.rotation}, but the slots take {wanted}"
        raise RecipeError(message, f"slots {recipe.slots}", "leave rotation out of the recipe, or choose other slots")
    return recipe.rotation or wanted


def _tools(moved: Moved, recipe: ActionRecipe) -> np.ndarray:
    """float64 [K, 3, 3]: the turn of each moved pose, the identity for those of bases and for mere positions."""
    turn = to_matrix(np.deg2rad(recipe.tool_rotation_deg), "euler_xyz")
    found = [turn if is_tool(part) else np.eye(3) for part in moved.poses]
    return np.array(found, dtype=np.float64).reshape(len(found), 3, 3)


def _check_scalable(vector: Vector, moved: Moved, choice: Choice) -> None:
    """Raises RecipeError where there is no pose to scale, or its rotation would be written as no vector."""
    if not moved.poses:
        raise RecipeError(f"{vector.label} has no pose among its used parts", "pose_scale", "leave pose_scale out")
    for part in moved.poses:
        if part.rotation and choice.written(part) not in VECTORS:
            message = f"{vector.names(part.rotation)} would be a {choice.written(part)}, which cannot be scaled"
            raise RecipeError(message, "pose_scale", f"set rotation to {' or '.join(VECTORS)}")


def _checked(values: np.ndarray, label: str, shape: tuple[int | None, ...]) -> np.ndarray:
    fits = values.ndim == len(shape) and all(
        wanted in (None, found) for found, wanted in zip(values.shape, shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise LayoutError(f"{label} of shape {values.shape} are not [{wanted}]", hint="make the plan for this robot")
    return values


def _hertz(rate: Fraction | None) -> float:
    if rate is None or rate <= 0:
        raise LayoutError(f"velocities need a rate above 0, not {rate}", hint="give the rate of the episode's steps")
    return float(rate)
