"""Pictures side by side in one PNG: a row for each view, a column for each moment, with the names and times written on it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from schemas.errors import RecipeError

MAX_SHEET_PIXELS = 1 << 26
_MARGIN, _LINE = 6, 16
"""Pixels around pictures, and of a line of text."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A PNG and what is on it."""

    png: bytes
    width: int
    height: int
    rows: tuple[tuple[str, int, int], ...]
    """(name, height, width) of the pictures of each row."""
    times_ns: tuple[int, ...]
    """Of the columns."""


def sheet_size(sizes: Sequence[tuple[str, int, int]], columns: int, lines: int = 0) -> tuple[int, int]:
    """(width, height) in pixels of a sheet of pictures of ``sizes`` (name, height, width), with lines of text below.

    Raises RecipeError where it would be too large.
    """
    width = max((size[2] for size in sizes), default=0) * columns + _MARGIN * (columns + 1)
    height = sum(size[1] + _LINE + _MARGIN for size in sizes) + _LINE * (1 + lines) + _MARGIN
    if width * height > MAX_SHEET_PIXELS:
        raise RecipeError(
            f"the sheet would have {width} x {height} pixels", "views", "show fewer frames, or set a smaller size"
        )
    return width, height


def draw_sheet(
    sizes: Sequence[tuple[str, int, int]],
    pictures: Sequence[np.ndarray],
    times_ns: np.ndarray,
    text: Sequence[str] = (),
) -> Sheet:
    """The sheet of ``pictures`` uint8 [F, h, w, 3], one array for each of ``sizes``, at ``times_ns`` [F]; ``text`` below.

    Raises RecipeError where it would be too large.
    """
    size = sheet_size(sizes, len(times_ns), len(text))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    step = max((width for _, _, width in sizes), default=0) + _MARGIN
    for column, time_ns in enumerate(times_ns.tolist()):
        pen.text((_MARGIN + column * step, _MARGIN // 2), f"{time_ns / 1e9:.3f} s", fill="black")
    top = _LINE + _MARGIN
    for (name, height, width), frames in zip(sizes, pictures, strict=True):
        pen.text((_MARGIN, top), f"{name}, {height} x {width} px (height x width)", fill="black")
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (_MARGIN + column * step, top + _LINE))
        top += height + _LINE + _MARGIN
    for number, line in enumerate(text):
        pen.text((_MARGIN, top + number * _LINE), line, fill="black")
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return Sheet(data.getvalue(), *size, tuple(sizes), tuple(times_ns.tolist()))
