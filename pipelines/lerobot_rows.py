"""What the rows of LeRobot tables say alike in every version: columns sorted by what they hold, and the clock of the steps."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa
from upath import UPath

from pipelines import parquet_rows
from schemas.episode import Clock
from schemas.errors import CorruptEpisode
from schemas.findings import Finding, Severity
from schemas.recipes import Limits
from schemas.time import NANOSECONDS, TimeGrid

_MAX_SPAN_S = 1e8
"""Three years: recorded times further apart are damage, and would leave int64 nanoseconds."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of an episode by name: numbers [T, ...], texts [T], encoded pictures [T]; findings of the others."""

    numbers: dict[str, np.ndarray]
    texts: dict[str, list[str]]
    images: dict[str, list[bytes]]
    findings: list[Finding]


def sort_columns(table: pa.Table, pictures: Collection[str], root: UPath, limits: Limits, where: str) -> Columns:
    """Columns by what they hold; ``pictures`` are those that an index declares to be. Raises CorruptEpisode, MissingFile."""
    found = Columns({}, {}, {}, [])
    for name in table.column_names:
        column = table[name]
        place = f"column {name} ({where})"
        if name in pictures or parquet_rows.holds_images(column.type):
            found.images[name] = parquet_rows.images(column, place, root, limits)
        elif parquet_rows.holds_numbers(column.type):
            found.numbers[name] = parquet_rows.numbers(column, place)
        elif parquet_rows.holds_text(column.type):
            found.texts[name] = [text or "" for text in column.to_pylist()]
        else:
            message = f"column {name} is {column.type}, which has no place in an episode; not read"
            found.findings.append(Finding("column_left_out", Severity.WARNING, name, message[:500]))
    return found


def flat(values: np.ndarray, where: str) -> np.ndarray:
    """[T] of [T] or [T, 1]. Raises CorruptEpisode (``wrong_shape``) where rows have several numbers, or none."""
    if values.size != len(values):
        message = f"it has {int(np.prod(values.shape[1:], dtype=np.int64))} numbers per row, not one"
        raise CorruptEpisode(message, where, "fetch data and meta of the same version", "wrong_shape")
    return values.reshape(-1)


def step_times(
    numbers: Mapping[str, np.ndarray], num_rows: int, rate: Fraction, where: str
) -> tuple[np.ndarray, Clock]:
    """int64 [T] from the first row on, and which clock they are of.

    ``declared`` where ``timestamp`` is frame index / rate to 32-bit rounding, or is not there; else ``source``. Raises
    CorruptEpisode (``bad_times``).
    """
    frames: np.ndarray = np.arange(num_rows)
    if "frame_index" in numbers:
        counter = flat(numbers["frame_index"], f"column frame_index ({where})").astype(np.float64)
        if not np.isfinite(counter).all() or np.ptp(counter) / float(rate) > _MAX_SPAN_S:
            message = f"frame_index runs from {counter.min()} to {counter.max()}"
            raise CorruptEpisode(message, where, "it counts the rows of the episode", "bad_times")
        frames = numbers["frame_index"].reshape(num_rows).astype(np.int64)
    grid = TimeGrid(0, rate, num_rows)
    first = int(frames[0])
    if np.array_equal(frames, np.arange(first, first + num_rows)):
        exact = grid.times_ns()
    else:
        exact = np.array([grid.time_ns(int(frame) - first) for frame in frames], dtype=np.int64)
    if "timestamp" not in numbers:
        return exact, "declared"
    seconds = flat(numbers["timestamp"], f"column timestamp ({where})").astype(np.float64)
    if not np.isfinite(seconds).all() or float(np.ptp(seconds)) > _MAX_SPAN_S:
        row = int(np.argmin(np.isfinite(seconds)))
        message = f"timestamps are not usable (row {row} is {seconds[row]}, range {np.ptp(seconds)} s)"
        raise CorruptEpisode(message, where, "times are seconds from the start of the episode", "bad_times")
    nominal = frames / float(rate)
    if np.all(np.abs(seconds - nominal) <= np.spacing(np.abs(nominal).astype(np.float32)).astype(np.float64)):
        return exact, "declared"
    return np.rint((seconds - seconds[0]) * NANOSECONDS).astype(np.int64), "source"
