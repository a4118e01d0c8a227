"""An embodiment: a robot with the layout of its vectors, its view slots and its control rate."""

from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, StringConstraints, model_validator

from schemas.time import parse_rate, rate_text

ViewSlot = Literal["primary", "secondary", "tertiary", "quaternary", "wrist_left", "wrist_right"]
VIEW_SLOTS: tuple[ViewSlot, ...] = ("primary", "secondary", "tertiary", "quaternary", "wrist_left", "wrist_right")
"""The named places a camera can fill; the lake has one video column for each. A single wrist camera is wrist_left."""

Rate = Annotated[Fraction, BeforeValidator(parse_rate), PlainSerializer(rate_text, return_type=str)]
"""A rate in Hz, written ``15``, ``"7.5"`` or ``"30000/1001"`` in TOML, an exact Fraction in memory."""


CardName = Annotated[
    str, StringConstraints(pattern=r"^\.{0,2}[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$", max_length=200)
]
"""A card's own name, which folders get: no path, not ``.`` or ``..``, no control character."""


class ChannelKind(StrEnum):
    """How a channel behaves between two readings, and so how it is resampled."""

    POSITION = "position"  # measured or commanded continuous quantity: linear
    ANGLE = "angle"  # wraps at a full turn: linear along the short way
    QUATERNION = "quaternion"  # one of four xyzw in a row: slerp
    EULER = "euler"  # one of three xyz angles in a row (fixed axes): through quaternions
    AXIS_ANGLE = "axis_angle"  # one of three in a row: through quaternions
    GRIPPER = "gripper"  # hold
    COMMAND = "command"  # hold; never averaged across a change
    FLAG = "flag"  # hold
    UNKNOWN = "unknown"  # hold, since nothing better is known


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Channel(_Frozen):
    """One named number of a vector. ``unit`` is SI (``m``, ``rad``, ``m/s``), ``deg``, ``1`` or ``unknown``."""

    name: str
    unit: str = "unknown"
    kind: ChannelKind = ChannelKind.UNKNOWN
    low: float | None = None
    high: float | None = None
    """Physical limits in ``unit``; None where they are not known."""

    @model_validator(mode="after")
    def _ordered(self) -> "Channel":
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"{self.name}: low {self.low:g} is above high {self.high:g}")
        return self


class Gripper(_Frozen):
    """Which channel opens and closes, and which value means what."""

    channel: str
    open: float
    closed: float

    @model_validator(mode="after")
    def _moves(self) -> "Gripper":
        if self.open == self.closed:
            raise ValueError(f"{self.channel}: open and closed are both {self.open:g}")
        return self


def _expand(value: Any) -> Any:
    """Lets a card write many like channels in one table: ``names = [...]`` with common unit and kind.

    ``low`` and ``high`` may be lists too, one limit for each name.
    """
    if not isinstance(value, list):
        return value
    channels: list[Any] = []
    for item in value:
        if isinstance(item, dict) and isinstance(item.get("names"), list):
            names = item["names"]
            shared = {key: part for key, part in item.items() if key != "names"}
            limits = {key: shared.pop(key) for key in ("low", "high") if isinstance(shared.get(key), list)}
            for key, parts in limits.items():
                if len(parts) != len(names):
                    raise ValueError(f"{key} lists {len(parts)} limits for {len(names)} names")
            channels += [
                {"name": name, **shared, **{key: parts[index] for key, parts in limits.items()}}
                for index, name in enumerate(names)
            ]
        else:
            channels.append(item)
    return channels


Layout = Annotated[tuple[Channel, ...], BeforeValidator(_expand)]
"""The ordered channels of a vector."""


class Embodiment(_Frozen):
    """A robot as its data shows it. ``proprio`` and ``action`` are the layouts of the canonical vectors."""

    name: CardName
    title: str
    control_rate: Rate | None = None
    """Steps per second where neither data nor data set card say; None: nobody states it for this robot either."""
    proprio: Layout
    action: Layout
    views: tuple[ViewSlot, ...] = ()
    base_frame: str = "unknown"
    proprio_grippers: tuple[Gripper, ...] = ()
    action_grippers: tuple[Gripper, ...] = ()
    notes: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "Embodiment":
        for label, layout, grippers in (
            ("proprio", self.proprio, self.proprio_grippers),
            ("action", self.action, self.action_grippers),
        ):
            names = [channel.name for channel in layout]
            if len(set(names)) != len(names):
                raise ValueError(f"{label} names a channel twice")
            for gripper in grippers:
                if gripper.channel not in names:
                    raise ValueError(f"{label} gripper {gripper.channel!r} is not one of its channels")
            for kind, width in ((ChannelKind.QUATERNION, 4), (ChannelKind.EULER, 3), (ChannelKind.AXIS_ANGLE, 3)):
                for start in rotation_starts(layout, kind, width):
                    if any(c.kind is not kind for c in layout[start : start + width]) or start + width > len(layout):
                        raise ValueError(f"{label}: {kind} channels come {width} in a row")
        return self


def rotation_starts(layout: tuple[Channel, ...], kind: ChannelKind, width: int) -> list[int]:
    """Index of the first channel of each group of ``width`` neighbouring channels of ``kind``."""
    starts: list[int] = []
    index = 0
    while index < len(layout):
        if layout[index].kind is kind:
            starts.append(index)
            index += width
        else:
            index += 1
    return starts
