"""How the actions of a release are written: against which reference, along which axes, in which slots.

Canonical episodes keep what was recorded; everything here is derived at build time, by ``pipelines.action_plan``.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.slot_layout import GripperConvention, RotationKind

VECTORS: tuple[RotationKind, ...] = ("euler_xyz", "axis_angle")
"""Kinds of rotations that are zero where nothing turns, and so can be scaled."""

PartKind = Literal["pose", "joints", "gripper", "hand", "head", "waist", "leg", "base", "other"]
"""What numbers of a vector are together; see ``pipelines.parts``."""

Reference = Literal["absolute", "chunk_start", "segment_start", "framewise", "velocity"]
"""``absolute``: as recorded; ``chunk_start`` and ``segment_start``: relative to the first step of the chunk or of the
segment it lies in; ``framewise``: to the step before, the first to the chunk's start; ``velocity``: that, by the second."""

Frame = Literal["base", "tool", "base_axes"]
"""Axes of a relative pose, of p and R against p0 and R0. ``base``: p - p0 and R0^-1 R; ``tool``: R0^-1 (p - p0) and
R0^-1 R; ``base_axes``: p - p0 and R R0^-1."""


class ActionRecipe(BaseModel):
    """The representation of action chunks; the default is what was recorded, unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["action", "proprio"] = "action"
    """Chunks are of the commands, or of the measured states, for robots and trainers whose actions are next states."""
    lead: int = Field(default=0, ge=0, le=1)
    """Steps from a sample's step to the first of its chunk: 1 makes each measured state the action that leads to it."""
    parts: tuple[PartKind, ...] = ()
    """Which parts of the vector are used, such as ``["joints", "gripper"]``; empty: all."""
    reference: Reference = "absolute"
    base: Literal["state", "self"] = "state"
    """What a chunk is relative to: the measured state at that step, or the chunk's own vector there."""
    frame: Frame = "base"
    rotation: RotationKind | None = None
    """None: what the slot layout asks for, else as recorded; velocities of rotations are always ``axis_angle``."""
    tool_rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Other axes for the tools: each end effector's R becomes R C before anything else, with C of these ``euler_xyz`` angles.
    (0, 0, 90) takes DROID's tool axes to OpenCV's as Cosmos 3 does (cosmos-framework, ``_DROID_TO_OPENCV``)."""
    pose_scale: float = 1.0
    """Relative positions and rotations of poses are written times this, all else is not; 20 in IRASim and Cosmos-Predict2
    (``c_act_scaler`` of their ``Dataset_3D``). The rotations must be vectors: ``euler_xyz`` or ``axis_angle``."""
    gripper: GripperConvention | None = None
    """None: what the slot layout asks for, else ``recorded``."""
    gripper_reference: Literal["absolute", "relative"] = "absolute"
    """``relative`` makes grippers follow ``reference``; most trainers keep them absolute."""
    slots: str = "robot"
    """``robot`` is the robot's own vector; else a shipped slot layout by name, or a ``.toml`` file."""
    block: str = ""
    """Which robot's room to fill, in slot layouts that keep room for several."""

    @property
    def told(self) -> str:
        """What is chosen, for people: ``reference chunk_start, slots dreamzero_32``, or ``as recorded``."""
        chosen = {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if getattr(self, name) != field.default
        }
        words = {
            name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in chosen.items()
        }
        return ", ".join(f"{name} {value}" for name, value in words.items()) or "as recorded"

    @model_validator(mode="after")
    def _sound(self) -> "ActionRecipe":
        if self.reference == "velocity" and self.rotation not in (None, "axis_angle"):
            raise ValueError(
                f"a velocity has no rotation of kind {self.rotation}; leave rotation out or say axis_angle"
            )
        if self.reference == "absolute" and self.gripper_reference == "relative":
            raise ValueError("grippers cannot be relative where the reference is absolute")
        if not all(map(math.isfinite, self.tool_rotation_deg)):
            raise ValueError("tool_rotation_deg is not finite")
        if not (math.isfinite(self.pose_scale) and self.pose_scale > 0):
            raise ValueError("pose_scale is not a finite number above 0")
        if self.pose_scale != 1 and self.reference == "absolute":
            raise ValueError("absolute poses are not scaled; leave pose_scale out, or choose another reference")
        if self.pose_scale != 1 and self.rotation not in (None, *VECTORS):
            raise ValueError(f"a rotation of kind {self.rotation} cannot be scaled; say {' or '.join(VECTORS)}")
        if len(set(self.parts)) != len(self.parts):
            raise ValueError("parts names a part twice")
        return self
