"""A data set card: where things lie in the source, what they mean, which robot, which licence."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.embodiment import CardName, Rate, ViewSlot

MAX_COLUMNS = 1_000_000
"""Of one source field; a card that names more is a mistake."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ChannelMap(_Frozen):
    """Fills canonical channels from one source field: columns ``[start, stop)`` times ``scale`` plus ``offset``."""

    field: str
    """Name of the source stream, such as ``observation/state`` (RLDS) or ``observation.state`` (LeRobot)."""
    start: int = Field(default=0, ge=0, le=MAX_COLUMNS)
    stop: int | None = Field(default=None, ge=1, le=MAX_COLUMNS)
    """None: to the end of the vector."""
    scale: float = 1.0
    offset: float = 0.0

    @model_validator(mode="after")
    def _maps_something(self) -> "ChannelMap":
        if self.stop is not None and self.stop <= self.start:
            raise ValueError(f"stop {self.stop} is not behind start {self.start}")
        if self.scale == 0:
            raise ValueError("a scale of 0 leaves nothing of the values")
        return self


class Recognize(_Frozen):
    """How this card knows its data. All given conditions must hold; a card without any is only used by name."""

    datasets: tuple[str, ...] = ()
    """Names the source gives itself: the tfds builder name, the folder name. ``*`` stands for any text; case does not count."""
    robot_types: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    """Source fields that must all be there."""


class Language(_Frozen):
    """Where instructions come from, and what is not an instruction although it stands there."""

    fields: tuple[str, ...] = ()
    """In order of preference; empty: whatever the source itself calls the task."""
    ignore: tuple[str, ...] = ()
    """Texts that are placeholders or labels in this data set, compared without case."""
    uninformative: bool = False
    """Others found that the texts of this data set say little of what happens; they are kept, and reported."""


class Picture(_Frozen):
    """How the pixels of a camera lie in the source; they are stored as they come and set right when decoded."""

    orientation: Literal["upright", "rotated_180", "flipped_vertically", "mirrored"] = "upright"
    channels: Literal["rgb", "bgr"] = "rgb"
    """``bgr``: red and blue come out swapped when the stored picture is decoded as its file format says."""


UPRIGHT = Picture()
"""A camera that simply shows what was there."""


class DatasetCard(_Frozen):
    """Maps the fields of one named body of episodes to the channels of an embodiment."""

    name: CardName
    version: int
    title: str
    source: str
    embodiment: str
    license: str
    recognize: Recognize = Recognize()
    control_rate: Rate | None = None
    """None: the rate the source declares, else the embodiment's."""
    clock: Literal["source", "declared"] = "declared"
    """``source`` uses the recorded timestamps of the steps; ``declared`` index / control rate."""
    rates: dict[str, Rate] = {}
    """Rows per second of fields, and frames per second of cameras, that do not tick with the steps: row i is at i / rate."""
    proprio: tuple[ChannelMap, ...] = ()
    action: tuple[ChannelMap, ...] = ()
    views: dict[str, ViewSlot] = {}
    """Source camera key to view slot; a camera that is not listed is stored in no slot and reported."""
    optional_views: tuple[ViewSlot, ...] = ()
    """Slots whose absence does not fail an episode."""
    pictures: dict[str, Picture] = {}
    """By source camera key, for those that do not simply show what was there."""
    depth: dict[str, ViewSlot] = {}
    """Source depth camera key to the view slot it accompanies."""
    depth_unit_m: float | None = Field(default=None, gt=0)
    """Metres per unit of the stored depth numbers; None: not known."""
    observed: Literal["before_action", "after_action", "unknown"] = "unknown"
    """Whether the observation of a step was taken before its action was sent (the usual case) or after it."""
    language: Language = Language()
    success_field: str | None = None
    """Source stream whose last value says success, or a fact of the episode; None: the source does not say."""
    success_texts: dict[str, bool] = {}
    """What the texts of ``success_field`` mean, where it is one; another text says nothing."""
    institution: str = "unknown"
    notes: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "DatasetCard":
        slots = list(self.views.values())
        if len(set(slots)) != len(slots):
            raise ValueError("two cameras fill the same view slot")
        if len(set(self.depth.values())) != len(self.depth):
            raise ValueError("two depth cameras accompany the same view slot")
        if strangers := sorted(set(self.pictures) - set(self.views)):
            raise ValueError(f"pictures tells of {strangers[0]!r}, which views does not list")
        unknown = set(self.optional_views) - set(slots)
        if unknown:
            raise ValueError(f"optional views {sorted(unknown)} are not filled by any camera")
        return self
