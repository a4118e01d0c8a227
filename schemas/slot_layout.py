"""A slot layout: where the parts of a robot's vector stand in the wider vector of a trainer, as a small table.

What a trainer does not state is not in its table; a part without a slot is an error to the one who asks, never a guess.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

RotationKind = Literal["euler_xyz", "quaternion_xyzw", "axis_angle", "rot6d_columns", "rot6d_rows", "matrix"]
"""How a rotation is written; see ``pipelines.rotations``."""

GripperConvention = Literal["recorded", "opening", "closing"]
"""``opening`` is 0 closed to 1 open, ``closing`` is 0 open to 1 closed, ``recorded`` is what the card says."""

Arm = Literal["left", "right", ""]
"""Whose arm; ``""`` where a robot has only one, or where it is no arm's."""

SlotPart = Literal[
    "vector",
    "position",
    "rotation",
    "joints",
    "gripper",
    "hand",
    "head",
    "waist",
    "leg",
    "base",
    "other",
    "linear_velocity",
    "angular_velocity",
    "joint_velocity",
    "gripper_velocity",
]
"""What a slot holds: an end effector's position or rotation, the joints of an arm, and so on; ``vector`` is everything in the
robot's own order."""


_Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=200)]
"""Stands in messages."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Slot(_Frozen):
    """``width`` numbers from ``start`` on, for one part; a part with fewer numbers fills the first of them."""

    part: SlotPart
    arm: Arm = ""
    start: int = Field(ge=0)
    width: int = Field(gt=0)
    block: _Word = ""
    """Where a layout keeps room for several robots beside each other: whose room this is."""


class SlotLayout(_Frozen):
    """The slots of one vector of ``width`` numbers. ``source`` says where the table is published."""

    name: _Word
    title: str = ""
    source: str = ""
    width: int = Field(gt=0, le=100_000)
    single_arm: Arm = ""
    """The arm whose slots a robot with one arm fills."""
    rotation: RotationKind | None = None
    """How rotations are written in it; None: as the recipe says."""
    gripper: GripperConvention | None = None
    """How grippers are written in it; None: as the recipe says."""
    slots: tuple[Slot, ...] = Field(min_length=1)
    notes: str = ""

    @model_validator(mode="after")
    def _fits(self) -> "SlotLayout":
        end, before = 0, ""
        for slot in sorted(self.slots, key=lambda slot: slot.start):
            label = f"{slot.arm} {slot.part}".strip()
            if slot.start < end:
                raise ValueError(f"the slots of {before} and {label} overlap at {slot.start}")
            end, before = slot.start + slot.width, label
        if end > self.width:
            raise ValueError(f"the slot of {before} ends at {end}, the vector at {self.width}")
        keys = [(slot.part, slot.arm, slot.block) for slot in self.slots]
        if len(set(keys)) != len(keys):
            raise ValueError("a part has two slots")
        return self

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the robots it keeps room for, in order; () where it has one room for all."""
        return tuple(dict.fromkeys(slot.block for slot in self.slots if slot.block))
