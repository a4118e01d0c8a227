"""Canvases: several views as one picture, or one latent, by a named and versioned table of tiles."""

import re
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from schemas.embodiment import CardName, ViewSlot

Fit = Literal["stretch", "crop", "pad"]
"""How a view gets another shape: ``stretch``ed; ``crop``ped in the middle; ``pad``ded with black to the right shape."""

MAX_TILES = 64
MAX_EDGE_PX = 1 << 16
"""Of a picture that a recipe asks for; beyond lie mistakes, and numbers that do not fit where sizes are reckoned."""
_SHARE = re.compile(r"[0-9]{1,6}(/[0-9]{1,6}|\.[0-9]{1,6})?", re.ASCII)


def _share(value: object) -> Fraction:
    if isinstance(value, Fraction):
        return value
    # few digits, and no exponents: a short text can be a number that nothing holds
    if isinstance(value, bool) or not isinstance(value, int | str) or not _SHARE.fullmatch(str(value)):
        raise ValueError(f'{value!r:.80} is no share such as 1 or "1/2"')
    try:
        return Fraction(value)
    except ZeroDivisionError as error:
        raise ValueError(f'{value!r} is no share such as 1 or "1/2"') from error


Share = Annotated[Fraction, BeforeValidator(_share), PlainSerializer(str, return_type=str), Field(ge=0, le=1)]
"""A part of the canvas' height or width, exact: ``0``, ``1``, ``"1/2"``."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tile(_Frozen):
    """One view's place on a canvas. What no tile covers is black (in latents: zero)."""

    slot: ViewSlot
    top: Share = Fraction(0)
    left: Share = Fraction(0)
    height: Share = Fraction(1)
    width: Share = Fraction(1)
    fit: Fit | None = None
    """None: as the canvas says."""
    optional: bool = False
    """Whether an episode without this view has black here, instead of having no canvas."""


class Canvas(_Frozen):
    """The tiles of one picture. ``source`` says whose it is."""

    name: CardName
    version: int = Field(gt=0)
    title: str = ""
    source: str = ""
    join: Literal["pixels", "latents"] = "pixels"
    """Whether tiles become one picture before the encoder, or are encoded each by itself and become one latent after it."""
    height_px: int = Field(gt=0, le=MAX_EDGE_PX)
    width_px: int = Field(gt=0, le=MAX_EDGE_PX)
    """The size where a recipe gives none."""
    fit: Fit = "stretch"
    tiles: tuple[Tile, ...] = Field(min_length=1, max_length=MAX_TILES)
    """The first one's frames are the canvas': others show what they saw at or before these. It cannot be optional."""
    notes: str = ""

    @model_validator(mode="after")
    def _sound(self) -> "Canvas":
        slots = [tile.slot for tile in self.tiles]
        if len(set(slots)) != len(slots):
            raise ValueError("two tiles show one view")
        if self.tiles[0].optional:
            raise ValueError(f"the first tile ({slots[0]}) cannot be optional, since its frames are the canvas'")
        for index, tile in enumerate(self.tiles):
            if not tile.height or not tile.width:
                raise ValueError(f"the tile of {tile.slot} has no size")
            if tile.top + tile.height > 1 or tile.left + tile.width > 1:
                raise ValueError(f"the tile of {tile.slot} reaches over the edge")
            for other in self.tiles[:index]:
                if _overlap(tile, other):
                    raise ValueError(f"the tiles of {other.slot} and {tile.slot} overlap")
        return self


def _overlap(one: Tile, two: Tile) -> bool:
    beside = one.left >= two.left + two.width or two.left >= one.left + one.width
    above = one.top >= two.top + two.height or two.top >= one.top + one.height
    return not (beside or above)
