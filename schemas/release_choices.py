"""Choices of ``wamloom build`` that say how a release is divided, named and told in words."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.action_recipe import PartKind
from schemas.canvas import MAX_EDGE_PX
from schemas.text_recipe import Step, TextDtype

MAX_VIEW_NAME = 100


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SplitRecipe(_Frozen):
    """Which episodes are for training and which for validation. Whole episodes, chosen by a hash of their content, and
    recordings of the same motion on one side."""

    val_fraction: float = Field(default=0.0, ge=0, lt=1)
    """About this part of the episodes of each group is ``val``; 0: all are ``train``."""
    by_success: bool = False
    """Whether successes, failures and episodes of which neither is known are groups, and so folders, of their own."""


class SizeRecipe(_Frozen):
    """The size of pictures."""

    height_px: int = Field(gt=0, le=MAX_EDGE_PX)
    width_px: int = Field(gt=0, le=MAX_EDGE_PX)


class ColumnRecipe(_Frozen):
    """A column of its own for some channels of a vector, beside the whole vector, for trainers that read parts by name."""

    of: Literal["proprio", "action"]
    part: PartKind | None = None
    """All channels of this part (of both arms, where there are two), in the order of the vector."""
    channels: tuple[str, ...] = ()
    """Or these, by name, in this order."""
    flip: bool = False
    """1 - g, of grippers that are 0 and 1 at their ends."""

    @model_validator(mode="after")
    def _sound(self) -> "ColumnRecipe":
        if (self.part is None) == (not self.channels):
            raise ValueError("name either a part or channels")
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("a channel is there twice")
        return self


class NamesRecipe(_Frozen):
    """What views and columns are called in a release, since trainers' configurations name them."""

    views: dict[str, str] = {}
    """By slot or canvas, such as ``primary = "exterior_image_1_left"``; those not named keep their own."""
    images: str = Field(default="observation.images.", pattern=r"^([A-Za-z0-9_]+\.)+$")
    """Before the names of views in LeRobot's formats; Cosmos 3 wants ``observation.image.``."""
    columns: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")], ColumnRecipe] = {}
    """Further columns of LeRobot's formats, such as ``"action.joint_position"``."""
    parts: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]] = {}
    """By the name in ``modality.json``, such as ``left_joint_position = "left_arm"``: what the configurations of GR00T and
    DreamZero call this part of the vectors; those not named keep their own."""
    instruction: str = Field(default="", pattern=r"^([A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*)?$")
    """What those configurations call the instruction, behind ``annotation.``, such as ``human.coarse_action``: one name more
    in ``modality.json``."""
    embodiment: str = ""
    """The ``embodiment_tag`` of GR00T and DreamZero, such as ``oxe_droid``; empty: the name of the robot."""
    joined_by: str = ""
    """Several instructions of an episode become one task with this between them, as Cosmos 3 reads them (" | "); empty: the
    first is the task, and the others stand beside it where a format can hold them."""

    @field_validator("views")
    @classmethod
    def _are_names(cls, value: dict[str, str]) -> dict[str, str]:
        bad = next(
            (name for name in value.values() if not name.replace("_", "a").isalnum() or not name.isascii()), None
        )
        if bad is not None:
            raise ValueError(f"{bad!r} is not letters, digits and underscores")
        if any(len(name) > MAX_VIEW_NAME for name in value.values()):
            raise ValueError(f"names of views are folders, and have at most {MAX_VIEW_NAME} letters")
        if len(set(value.values())) != len(value):
            raise ValueError("two views would have one name")
        return value

    @field_validator("parts")
    @classmethod
    def _are_different(cls, value: dict[str, str]) -> dict[str, str]:
        if len(set(value.values())) != len(value):
            raise ValueError("two parts would have one name")
        return value

    def view(self, slot: str) -> str:
        """What the slot or canvas ``slot`` is called."""
        return self.views.get(slot, slot)

    def slot(self, view: str) -> str:
        """The inverse of ``view``."""
        return next((slot for slot, name in self.views.items() if name == view), view)


class TextKind(_Frozen):
    """A kind of embeddings of the lake's texts: those that ``wamloom texts`` made with the same choices."""

    encoder: str
    """By name, or as ``umt5@3f9c`` those of the encoder whose fingerprint begins so."""
    length: int | None = Field(default=None, gt=0)
    """Of padded prompts; needed where the lake has several, and so is ``dtype``."""
    dtype: TextDtype | None = None
    template: str = "plain"
    steps: tuple[Step, ...] | None = None
    fields: dict[str, str | int] = {}

    @field_validator("template", "fields")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            raise ValueError("there are bytes in it that are no UTF-8 text") from error
        return value


class TextChoice(TextKind):
    """Which embeddings a build takes."""

    formats: dict[str, TextKind] = {}
    """By format, of another kind than the rest of the build: trainers that read one folder may ask for other sentences."""


class FastWamRecipe(_Frozen):
    """Choices of the format ``fastwam``."""

    horizon: int | None = Field(default=None, gt=0, le=100_000)
    """Actions of its samples, ``num_frames - 1``: ``dataset_stats.json`` tells of as many steps. None: ``horizon`` of the build,
    which another trainer of the same folder may need otherwise."""


class CtrlWorldRecipe(_Frozen):
    """Choices of the format ``ctrlworld``."""

    frame_stride: int = Field(default=3, gt=0, le=1000)
    """Every so many steps are a frame of its videos and latents; numbers keep every step. Ctrl-World's code has 3: steps at
    15 Hz, frames at 5 Hz. IRASim and VPP take any."""


class ZarrRecipe(_Frozen):
    """Choices of the format ``zarr``."""

    layout: Literal["uwm", "umi"] = "uwm"
    """``umi``: as Universal Manipulation Interface names its arrays, which UVA reads too; there is no action in it, since these
    trainers make theirs of the poses."""
    gripper_stroke_m: float | None = Field(default=None, gt=0, le=1)
    """For ``umi``: how wide the gripper is when it is open, for robots that measure it as a share. Not needed for metres."""
