"""Puts a robot's vector into the slots of a trainer's wider one, with a mask, and takes it out again."""

from typing import NamedTuple

import numpy as np

from schemas.errors import LayoutError, RecipeError
from schemas.slot_layout import Arm, SlotLayout, SlotPart


class Role(NamedTuple):
    """What one number of a robot's vector is, in the words of slot layouts."""

    part: SlotPart
    arm: Arm
    number: int
    """Its place among the numbers of that part and arm."""


_ARMLESS = ("head", "waist", "base", "other")
"""Parts that are never an arm's."""


def slot_indices(layout: SlotLayout, roles: tuple[Role, ...], names: tuple[str, ...], block: str = "") -> np.ndarray:
    """int64 [A]: where in ``layout`` each number of a vector goes. ``names`` are for messages.

    Raises RecipeError that names the number without a slot, or the block that is missing or unknown.
    """
    where = f"slots {layout.name}"
    if block not in (layout.blocks or ("",)):
        known = ", ".join(layout.blocks)
        what = f"there is no block {block!r}" if block else "it keeps a room for each robot, and block names none"
        raise RecipeError(what, where, f"set block to one of: {known}" if layout.blocks else "leave block out")
    slots = {(slot.part, slot.arm): slot for slot in layout.slots if slot.block == block}
    whole = slots.get(("vector", ""))
    indices: list[int] = []
    for place, (role, name) in enumerate(zip(roles, names, strict=True)):
        mine = role._replace(arm=layout.single_arm) if not role.arm and role.part not in _ARMLESS else role
        slot = whole or slots.get((mine.part, mine.arm))
        index = place if whole else mine.number
        if slot is None or index >= slot.width:
            wanted = f"{mine.arm} {mine.part}".strip()
            room = "no slot" if slot is None else f"room for {slot.width} numbers only"
            label = "the vector" if whole else wanted
            hint = f"leave it out with parts, or choose another layout or one of your own; width {layout.width}"
            raise RecipeError(f"{name} does not fit: {label} has {room}", where, hint)
        indices.append(slot.start + index)
    for number, index in enumerate(indices):
        if (first := indices.index(index)) != number:
            message = f"{names[first]} and {names[number]} both belong in number {index}"
            raise RecipeError(message, where, "choose one with parts")
    return np.array(indices, dtype=np.int64)


def robot_slots(width: int) -> SlotLayout:
    """The robot's own vector of ``width`` numbers as a layout."""
    return SlotLayout.model_validate(
        {"name": "robot", "width": width, "slots": [{"part": "vector", "start": 0, "width": width}]}
    )


def place(vector: np.ndarray, indices: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(values [..., W], mask bool [W]) of ``vector`` [..., A]; zero and False where no number goes. Raises LayoutError."""
    if vector.shape[-1] != len(indices):
        raise LayoutError(f"{vector.shape[-1]} numbers do not fit {len(indices)} slots", hint="plan for this vector")
    values = np.zeros((*vector.shape[:-1], width))
    values[..., indices] = vector
    mask = np.zeros(width, dtype=bool)
    mask[indices] = True
    return values, mask


def pick(values: np.ndarray, indices: np.ndarray, width: int) -> np.ndarray:
    """The inverse of ``place``: the vector [..., A] out of ``values`` [..., W]. Raises LayoutError."""
    if values.shape[-1] != width:
        raise LayoutError(
            f"{values.shape[-1]} numbers are not {width}", hint="pick with the layout they were placed by"
        )
    return np.asarray(values[..., indices])
