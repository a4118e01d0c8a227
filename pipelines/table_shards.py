"""Rows of a table that is cut into files, by their number in the whole: Arrow streams as ``datasets`` saves them, or Parquet.

Arrow files on this machine are mapped into memory, so that only the rows asked for are read; a stream has no index to read
it by ranges, so that a remote one is copied first. Damage costs the rows from there on, not those before.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from pipelines import parquet_rows, places
from pipelines.recordings import path_inside
from pipelines.storage import state_of
from schemas.errors import CorruptEpisode, MissingFile
from schemas.recipes import Limits

_END = b"\xff\xff\xff\xff\0\0\0\0"
"""Ends an Arrow stream. The format lets a stream end without it; ``datasets`` never does, so that it tells a cut file."""
_HINT = "fetch the data file again"
_KEPT = 2
_tables: OrderedDict[tuple[object, ...], "TableShards"] = OrderedDict()


def open_table(root: UPath, names: Sequence[str], limits: Limits) -> "TableShards":
    """The table in the files ``names`` under ``root``; the last ones stay open in this process, for the next episode."""
    key = (str(root), limits, *state_of(root, names), *names)
    if key not in _tables:
        _tables[key] = TableShards(root, names, limits)
        while len(_tables) > _KEPT:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return _tables[key]


class TableShards:
    """A table in several files. ``num_rows`` counts those that can be read."""

    def __init__(self, root: UPath, names: Sequence[str], limits: Limits) -> None:
        self._pieces: list[tuple[int, str, pa.RecordBatch | pq.ParquetFile]] = []
        self._damage: tuple[str, CorruptEpisode | MissingFile] | None = None
        self._limits = limits
        self.num_rows = 0
        for name in names:
            try:
                self._open(path_inside(root, name, str(root)), name)
            except (CorruptEpisode, MissingFile) as error:
                self._damage = name, error
                break

    def _open(self, path: UPath, name: str) -> None:
        if not path.is_file():
            raise MissingFile("it is missing, and with it all rows from there on", name, "fetch it from the original")
        if name.endswith(".parquet"):
            file = parquet_rows.open_file(path, self._limits, name)
            self._pieces.append((self.num_rows, name, file))
            self.num_rows += file.metadata.num_rows
            return
        for batch in _batches(path, name):
            self._pieces.append((self.num_rows, name, batch))
            self.num_rows += batch.num_rows

    def rows(self, start: int, stop: int, where: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows ``[start, stop)`` of the whole table, at least one. Their memory may be that of the mapped file.

        Raises CorruptEpisode (``length_mismatch`` where the table ends before, ``missing_column``,
        ``duplicate_column``, ``corrupt_arrow``, ``corrupt_parquet``, ``too_large``) and MissingFile.
        """
        if stop > self.num_rows and self._damage is not None:
            name, error = self._damage
            raise type(error)(error.message, f"{name} ({where})", error.hint, error.reason)
        if stop > self.num_rows:
            message = f"the index places the episode at rows {start} to {stop}, the table has {self.num_rows}"
            raise CorruptEpisode(message, where, "fetch data and meta_data of the same version", "length_mismatch")
        parts = []
        for first, name, piece in self._pieces:
            is_file = isinstance(piece, pq.ParquetFile)
            low, high = max(start - first, 0), min(stop - first, piece.metadata.num_rows if is_file else piece.num_rows)
            if low >= high:
                continue
            place = f"{name} ({where})"
            schema = piece.schema_arrow if is_file else piece.schema
            parquet_rows.check_names(schema.names, place)
            missing = [column for column in columns or () if column not in schema.names]
            if missing:
                raise CorruptEpisode(f"there is no column {missing[0]}", place, _HINT, "missing_column")
            if is_file:
                parts.append(parquet_rows.read_span(piece, low, high, self._limits, place, columns))
            else:
                part = pa.Table.from_batches([piece.slice(low, high - low)])
                parts.append(part if columns is None else part.select(list(columns)))
        try:
            table = pa.concat_tables(parts)
            table.validate(full=True)  # damaged offsets would be followed into foreign memory
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise _corrupt(f"rows {start} to {stop} are damaged: {error}", where) from error
        if table.nbytes > self._limits.max_record_bytes:
            message = f"the rows take {table.nbytes} bytes, more than the {self._limits.max_record_bytes} allowed"
            raise CorruptEpisode(message, where, "raise limits.max_record_bytes in the recipe", "too_large")
        return table


def _batches(path: UPath, where: str) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow stream, of which nothing but headers is read yet. Raises CorruptEpisode (``corrupt_arrow``)."""
    size = 0
    try:
        file = pa.memory_map(str(places.local_file(path)))
        stream = pa.ipc.open_stream(file)
        _read_names(stream.schema)
        for batch in stream:
            size += batch.nbytes
            if size > file.size():
                raise _corrupt("its rows unfold to more than the file holds; datasets does not compress them", where)
            yield batch
        file.seek(max(file.size() - len(_END), 0))
        if file.read() != _END:
            raise _corrupt("the stream has no end, so that rows are missing", where)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _corrupt(f"not a readable Arrow stream: {error}", where) from error


def _read_names(kind: pa.Schema | pa.DataType) -> None:
    """Raises UnicodeDecodeError where a column or a field in it has a name that is no text; pyarrow looks when asked."""
    for field in kind if isinstance(kind, pa.Schema) else (kind.field(number) for number in range(kind.num_fields)):
        _ = field.name
        _read_names(field.type)


def _corrupt(message: str, where: str) -> CorruptEpisode:
    return CorruptEpisode(message[:300], where, _HINT, "corrupt_arrow")
