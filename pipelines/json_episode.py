"""What one JSON file says of an episode, read with care: sizes before memory, numbers as arrays, texts that can be stored.

No field is known here.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from schemas.episode import Scalar
from schemas.errors import CorruptEpisode, MissingFile
from schemas.fingerprint import bytes_sha256
from schemas.recipes import Limits

_LIST_BYTES, _NUMBER_BYTES = 96, 32
"""What an empty list and a number take in memory, with the place that points to them."""
_EXACT_INTEGER = 1 << 53
"""The integers that float64 holds exactly end here."""


def load(path: Path | UPath, where: str, limits: Limits) -> tuple[dict[str, Any], str]:
    """The JSON object in ``path`` and the hash of its bytes.

    Raises MissingFile, and CorruptEpisode (``bad_json``, or ``too_large`` where parsing would take more memory than
    ``limits.max_record_bytes``).
    """
    try:
        size = path.stat().st_size
        # what is no file, such as a pipe, has no size either, and might never end
        data = path.read_bytes() if 0 < size <= limits.max_record_bytes else b""
    except FileNotFoundError as error:
        raise MissingFile("the file is missing", where, "fetch it from the original data set") from error
    except OSError as error:
        raise CorruptEpisode(f"the file cannot be read: {error.strerror}", where, "", "bad_json") from error
    memory = size + _LIST_BYTES * (data.count(b"[") + data.count(b"{")) + _NUMBER_BYTES * data.count(b",")
    if memory > limits.max_record_bytes:
        message = f"{size} bytes of JSON would take {memory} bytes of memory, more than {limits.max_record_bytes}"
        raise CorruptEpisode(message, where, "raise limits.max_record_bytes in the recipe", "too_large")
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        message = f"not valid JSON: {error}" if data else "the file is empty"
        raise CorruptEpisode(message[:300], where, "fetch or write it again", "bad_json") from error
    if not isinstance(value, dict):
        message = f"holds a {type(value).__name__}, not an object"
        raise CorruptEpisode(message, where, "fetch or write it again", "bad_json")
    return value, bytes_sha256(data)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these members; readers differ in which of two with one name they believe. Raises ValueError."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:100]!a} stands there twice")
        found[name] = value
    return found


def numbers(rows: list[Any], where: str) -> np.ndarray:
    """A list of numbers, or of equally long lists of them, as float64 [T, ...]; null is NaN.

    Flags stay bool, and integers that float64 does not hold stay int64. Raises CorruptEpisode (``ragged``, or
    ``not_numbers``) naming the first row at fault.
    """
    if rows and all(isinstance(one, bool) for one in rows):
        return np.array(rows)
    if rows and all(type(one) is int for one in rows) and _EXACT_INTEGER < max(map(abs, rows)) < 1 << 63:
        return np.array(rows, dtype=np.int64)
    try:
        return np.array(rows, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        widths = [len(one) if isinstance(one, list) else -1 for one in rows]
        row = next((row for row, width in enumerate(widths) if width != widths[0]), None)
        if row is None:
            message = f"does not hold numbers alone: {error}"
            raise CorruptEpisode(message[:300], where, "fetch or write it again", "not_numbers") from error
        message = f"row {row} is {_said(widths[row])}, row 0 is {_said(widths[0])}"
        raise CorruptEpisode(message, where, "all rows must be equally long", "ragged") from error


def _said(width: int) -> str:
    return "a single number" if width < 0 else f"a list of {width}"


def scalar(value: str | int | float | bool) -> Scalar:
    """A single value; what JSON or a table cannot hold again (NaN, infinities, huge integers) becomes text."""
    if isinstance(value, str):
        return text(value)
    is_safe = math.isfinite(value) if isinstance(value, float) else abs(value) < 1 << 63
    return value if is_safe else str(value)


def text(value: str) -> str:
    """``value`` with halves of characters, which JSON can say and UTF-8 cannot, as U+FFFD."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
