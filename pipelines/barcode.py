"""Writes the number of a frame into its own pixels, and reads it back after encoding, resizing and decoding.

It lets a test say which frame it is looking at instead of believing an index.

Geometry: a strip over the whole width and the top eighth of the height, two rows of twenty equal blocks, white for 1 and
black for 0. In reading order: 16 bits of frame number, 8 bits of episode tag, 16 bits of CRC-16/CCITT over the other
three bytes, most significant bit first. Only fractions of width and height matter, so a resized frame reads like the
original; of a frame with bars around it (``pad``), pass the part inside the bars.
"""

import binascii
from typing import NamedTuple

import numpy as np

MAX_FRAMES = 1 << 16
"""Frame numbers lie below it."""
MAX_EPISODES = 1 << 8
"""Episode tags lie below it."""
STRIP = (1, 8)
"""The strip is this fraction of the height, as numerator and denominator."""

_ROWS, _COLUMNS = 2, 20
_CRC_START = 0xFFFF
"""Not 0, so that an all-black picture carries no valid mark."""
_BLACK_BELOW, _WHITE_ABOVE = 100, 155
"""Of 255: a block between the two is no bit, as where two frames are blended. Measured on the sample recordings, blocks
came back within 15 levels of black or white from H.264 at crf 30, AV1 at crf 45, JPEG at quality 75, and half size."""
_LUMA = np.array([0.299, 0.587, 0.114])
"""BT.601; the colour of a picture whose chroma was damaged does not matter much."""


class Mark(NamedTuple):
    """What a frame carries."""

    frame: int
    episode: int


def draw(frame: np.ndarray, number: int, episode: int = 0) -> np.ndarray:
    """A copy of ``frame`` (uint8 [H, W, 3]) with the mark over its top eighth.

    Raises ValueError if the numbers do not fit 16 and 8 bits, or the frame has less than a pixel per block.
    """
    if not (0 <= number < MAX_FRAMES and 0 <= episode < MAX_EPISODES):
        raise ValueError(f"frame number {number} or episode tag {episode} does not fit 16 and 8 bits")
    rows, columns = _edges(frame)
    if min(np.diff(rows).min(), np.diff(columns).min()) < 1:
        raise ValueError(f"a frame of shape {frame.shape} is too small for the mark")
    payload = number.to_bytes(2, "big") + bytes([episode])
    code = payload + binascii.crc_hqx(payload, _CRC_START).to_bytes(2, "big")
    bits = np.unpackbits(np.frombuffer(code, dtype=np.uint8)).reshape(_ROWS, _COLUMNS)
    blocks = np.repeat(np.repeat(bits * np.uint8(255), np.diff(rows), axis=0), np.diff(columns), axis=1)
    marked = frame.copy()
    marked[: rows[-1]] = blocks[..., None]
    return marked


def read_mark(frame: np.ndarray) -> Mark | None:
    """The mark in ``frame`` (uint8 [H, W, 3]), or None where none can be read beyond doubt.

    A wrong number is returned only if every block is clearly black or white and a 16-bit checksum agrees by chance.
    """
    rows, columns = _edges(frame)
    if min(np.diff(rows).min(), np.diff(columns).min()) < 1:
        return None
    luma = frame[: rows[-1]].astype(np.float64) @ _LUMA
    levels = np.empty((_ROWS, _COLUMNS))
    for row in range(_ROWS):
        top, bottom = _middle(rows[row], rows[row + 1])
        for column in range(_COLUMNS):
            left, right = _middle(columns[column], columns[column + 1])
            levels[row, column] = luma[top:bottom, left:right].mean()
    if np.any((levels >= _BLACK_BELOW) & (levels <= _WHITE_ABOVE)):
        return None
    code = np.packbits(levels > _WHITE_ABOVE).tobytes()
    if binascii.crc_hqx(code[:3], _CRC_START) != int.from_bytes(code[3:], "big"):
        return None
    return Mark(int.from_bytes(code[:2], "big"), code[2])


def read(frame: np.ndarray) -> int | None:
    """The frame number in ``frame`` (uint8 [H, W, 3]), or None where none can be read beyond doubt."""
    mark = read_mark(frame)
    return None if mark is None else mark.frame


def _edges(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel rows [_ROWS + 1] and columns [_COLUMNS + 1] between blocks."""
    height, width = frame.shape[:2]
    strip = height * STRIP[0] / STRIP[1]
    rows = np.round(np.linspace(0, strip, _ROWS + 1)).astype(np.int64)
    return rows, np.round(np.linspace(0, width, _COLUMNS + 1)).astype(np.int64)


def _middle(start: int, stop: int) -> tuple[int, int]:
    """The middle half of a block, where its neighbours bleed least; at least one pixel."""
    margin = (stop - start) // 4
    return start + margin, stop - margin
