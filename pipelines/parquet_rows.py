"""Parquet columns as arrays: bounded before they are allocated, page checksums verified, damage told by row.

Nothing here knows what a column means.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from pipelines import places
from pipelines.recordings import path_inside
from schemas.errors import CorruptEpisode, MissingFile
from schemas.fingerprint import bytes_sha256
from schemas.recipes import Limits

_BATCH_ROWS = 256
_HINT = "fetch the data file again"
_KEPT_FILES = 2
_remote_files: OrderedDict[tuple[str, int, int | str], tuple[pq.ParquetFile, np.ndarray]] = OrderedDict()


def read_file(path: UPath, limits: Limits, where: str) -> tuple[pa.Table, str]:
    """All rows of a file, and the sha256 of its bytes. Raises CorruptEpisode (``too_large``, ``corrupt_parquet``)."""
    _check_size(path, limits, where)
    data = path.read_bytes()
    file = _open(pa.BufferReader(data), limits, where)
    return _rows(file, list(range(file.num_row_groups)), limits, where), bytes_sha256(data)


def read_episode(
    path: UPath, index: int, length: int, span: tuple[int, int] | None, limits: Limits, where: str
) -> pa.Table:
    """The rows of episode ``index`` in a shared file, found by its ``episode_index`` column; other row groups stay unread.

    Raises CorruptEpisode (``length_mismatch`` with the numbers, ``corrupt_parquet``, ``too_large``).
    """
    _check_size(path, limits, where)
    file, owners = _shared(path, limits, where)
    if span is not None and span[1] - span[0] != length:
        message = f"the index says {length} rows, but dataset_from_index {span[0]} to dataset_to_index {span[1]}"
        raise CorruptEpisode(message, where, "restore meta/episodes", "length_mismatch")
    mine = np.flatnonzero(owners == index)
    if len(mine) != length:
        message = f"the index says {length} rows for episode {index}, the data file holds {len(mine)}"
        raise CorruptEpisode(message, where, "fetch data and meta of the same version", "length_mismatch")
    if not length:
        return file.schema_arrow.empty_table()
    first, stop = int(mine[0]), int(mine[-1]) + 1
    if stop - first != length:
        message = f"the {length} rows of episode {index} do not lie in a row (first {first}, last {stop - 1})"
        raise CorruptEpisode(message, where, "fetch the data file again", "scattered_rows")
    table = read_span(file, first, stop, limits, where)
    if span is not None and "index" in table.column_names:
        counter = numbers(table["index"], where).reshape(-1)
        if counter[0] != span[0] or counter[-1] != span[1] - 1:
            message = (
                f"the index places episode {index} at rows {span[0]} to {span[1]} of the set, "
                f"its own rows say {counter[0]:.0f} to {counter[-1] + 1:.0f}"
            )
            raise CorruptEpisode(message, where, "fetch data and meta of the same version", "length_mismatch")
    return table


def open_file(path: UPath, limits: Limits, where: str) -> pq.ParquetFile:
    """The file, of which its footer is read. Raises CorruptEpisode (``too_large``, ``corrupt_parquet``)."""
    _check_size(path, limits, where)
    return _open(path if isinstance(path, Path) else path.open("rb"), limits, where)


def read_span(
    file: pq.ParquetFile, start: int, stop: int, limits: Limits, where: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows ``[start, stop)`` of an open file that has them; other row groups stay unread. Raises CorruptEpisode."""
    ends = np.cumsum([file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)])
    begin, end = int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop - 1, side="right"))
    before = int(ends[begin - 1]) if begin else 0
    groups = list(range(begin, end + 1))
    return _rows(file, groups, limits, where, None if columns is None else list(columns)).slice(
        start - before, stop - start
    )


def _shared(path: UPath, limits: Limits, where: str) -> tuple[pq.ParquetFile, np.ndarray]:
    """The open file, and the episode of each of its rows; of remote files the last ones stay open, for the next episode."""
    if isinstance(path, Path):
        return _owned(_open(path, limits, where), limits, where)
    key = (str(path), *places.state(path))
    if key not in _remote_files:
        _remote_files[key] = _owned(_open(path.open("rb"), limits, where), limits, where)
        while len(_remote_files) > _KEPT_FILES:
            _remote_files.popitem(last=False)
    _remote_files.move_to_end(key)
    return _remote_files[key]


def _owned(file: pq.ParquetFile, limits: Limits, where: str) -> tuple[pq.ParquetFile, np.ndarray]:
    if "episode_index" not in file.schema_arrow.names:
        raise CorruptEpisode("there is no episode_index column", where, _HINT, "missing_column")
    table = _rows(file, list(range(file.num_row_groups)), limits, where, ["episode_index"])
    return file, numbers(table["episode_index"], where).reshape(-1)


def _check_size(path: UPath, limits: Limits, where: str) -> None:
    size = path.stat().st_size
    if size > limits.max_record_bytes:
        message = f"the file has {size} bytes, more than the {limits.max_record_bytes} allowed"
        raise CorruptEpisode(message, where, "raise limits.max_record_bytes in the recipe", "too_large")


def _open(source: pa.BufferReader | Path | BinaryIO, limits: Limits, where: str) -> pq.ParquetFile:
    """Opens it and holds the row count of its footer against the limit.

    Footer entries of single columns are not looked at: pyarrow 26.0.1 aborts the process where one of them is damaged.
    """
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        num_rows = file.metadata.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptEpisode(f"not a readable Parquet file: {error}"[:300], where, _HINT, "corrupt_parquet") from error
    if not 0 <= num_rows <= limits.max_record_bytes:
        raise CorruptEpisode(f"it declares {num_rows} rows", where, _HINT, "too_large")
    return file


def _rows(
    file: pq.ParquetFile, groups: list[int], limits: Limits, where: str, columns: list[str] | None = None
) -> pa.Table:
    """Rows of these groups, read in small batches so that a tiny file that unfolds hugely is stopped on the way."""
    batches: list[pa.RecordBatch] = []
    size = 0
    try:
        check_names(file.schema_arrow.names, where)
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=groups, columns=columns, use_threads=False):
            size += batch.nbytes
            if size > limits.max_record_bytes:
                message = f"its rows unfold to more than the {limits.max_record_bytes} bytes allowed"
                raise CorruptEpisode(message, where, "raise limits.max_record_bytes in the recipe", "too_large")
            batches.append(batch)
        schema = (
            file.schema_arrow if columns is None else pa.schema([file.schema_arrow.field(name) for name in columns])
        )
        table = pa.Table.from_batches(batches, schema)
        expected = sum(file.metadata.row_group(group).num_rows for group in groups)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorruptEpisode(f"a page is damaged: {error}"[:300], where, _HINT, "corrupt_parquet") from error
    if table.num_rows != expected:
        message = f"its footer says {expected} rows, its pages hold {table.num_rows}"
        raise CorruptEpisode(message, where, _HINT, "corrupt_parquet")
    return table


def check_names(names: list[str], where: str) -> None:
    """Raises CorruptEpisode (``duplicate_column``) where two columns have one name, so that neither can be asked for."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise CorruptEpisode(f"there are two columns named {twice[:100]!r}", where, _HINT, "duplicate_column")


def holds_numbers(kind: pa.DataType) -> bool:
    """Whether a column is numbers, booleans, or (nested) lists of them."""
    while _is_list(kind):
        kind = kind.value_type
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))


def holds_text(kind: pa.DataType) -> bool:
    """Whether a column is text, plain or dictionary-typed."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column is pictures as Hugging Face ``datasets`` stores them: struct of ``bytes`` and ``path``."""
    return bool(pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"})


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def numbers(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """[T] for scalars, [T, D, ...] for lists of one length, in the column's own dtype. Raises CorruptEpisode."""
    array = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    shape = [len(array)]
    while _is_list(array.type):
        if array.null_count:
            raise _null(array, where)
        lengths = pc.list_value_length(array)
        span = pc.min_max(lengths).as_py()
        low, high = span["min"] or 0, span["max"] or 0
        if low != high:
            message = f"its lists have {low} to {high} numbers, not one width"
            raise CorruptEpisode(message, where, "every row of a field must have the same width", "ragged")
        shape.append(high)
        array = array.flatten()
    if array.null_count:
        raise _null(array, where)
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    return values.reshape(shape)


def _null(array: pa.Array, where: str) -> CorruptEpisode:
    place = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
    return CorruptEpisode(f"value {place} is null", where, "every row must have a value", "null_values")


def images(column: pa.ChunkedArray, where: str, root: UPath, limits: Limits) -> list[bytes]:
    """Encoded pictures [T]: the bytes in the rows, or of the file a row names under ``root``."""
    found: list[bytes] = []
    for step, value in enumerate(column.to_pylist()):
        data = value.get("bytes") if isinstance(value, dict) else value
        name = value.get("path") if isinstance(value, dict) else None
        if isinstance(data, bytes):
            found.append(data)
        elif data is None and isinstance(name, str):
            path = path_inside(root, name, where)
            if not path.is_file():
                raise MissingFile(
                    f"the picture {name!r} of step {step} is missing", where, "fetch it from the original"
                )
            if path.stat().st_size > limits.max_record_bytes:
                raise CorruptEpisode(f"the picture of step {step} is too large", where, "", "too_large")
            found.append(path.read_bytes())
        else:
            message = f"step {step} holds neither picture bytes nor a path but {type(value).__name__}"
            raise CorruptEpisode(message, where, "record or fetch it again", "bad_image")
    return found
