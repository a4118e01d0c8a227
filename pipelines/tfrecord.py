"""TFRecord framing: where records lie in a shard, and their bytes, with both checksums checked.

A record is ``u64 length, u32 masked CRC32C of the length, payload, u32 masked CRC32C of the payload``, little-endian
(TensorFlow, ``core/lib/io/record_writer.h``). Nothing here knows what a payload means.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
from upath import UPath

from pipelines import places
from schemas.errors import CorruptEpisode, MissingFile

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_SMALL_BYTES, _AHEAD_BYTES = 64 << 10, 1 << 20
_MASK_DELTA = 0xA282EAD8  # TensorFlow, core/lib/hash/crc32c.h


@dataclass(frozen=True, slots=True)
class Record:
    """Where the payload of a record lies in its shard."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Damage:
    """The place where the framing of a shard ends: nothing behind it can be found."""

    reason: str
    """``corrupt_record`` or ``truncated``."""
    message: str
    num_bytes: int
    """From the damaged place to the end of the file."""


def masked_crc(data: bytes) -> int:
    """The checksum as TFRecord stores it: CRC32C, rotated and shifted."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def framed(payload: bytes) -> bytes:
    """A record with its length and checksums, as it lies in a shard."""
    length = len(payload).to_bytes(8, "little")
    return b"".join((length, _FOOTER.pack(masked_crc(length)), payload, _FOOTER.pack(masked_crc(payload))))


def scan_shard(path: Path | UPath) -> tuple[list[Record], Damage | None]:
    """The records of a shard in order, and the damage that ends it, if any. Payloads are skipped, not read.

    Raises MissingFile.
    """
    try:
        size, _ = places.state(path)
        if not isinstance(path, Path):
            return _scan(_Ahead(path, size), size)
        with path.open("rb") as file:

            def read_at(position: int, stop: int) -> bytes:
                file.seek(position)
                return file.read(stop - position)

            return _scan(read_at, size)
    except OSError as error:
        raise MissingFile(f"the shard cannot be opened: {error.strerror}", str(path), "restore the file") from error


def _scan(read_at: Callable[[int, int], bytes], size: int) -> tuple[list[Record], Damage | None]:
    records: list[Record] = []
    position = 0
    while position < size:
        header = read_at(position, min(size, position + _HEADER.size))
        rest = size - position
        if len(header) < _HEADER.size:
            return records, Damage("truncated", f"the file ends inside the header of record {len(records)}", rest)
        length, crc = _HEADER.unpack(header)
        if masked_crc(header[:8]) != crc:
            message = f"the length of record {len(records)} (at byte {position}) does not match its checksum"
            return records, Damage("corrupt_record", message, rest)
        stop = position + _HEADER.size + length + _FOOTER.size
        if stop > size:
            message = f"record {len(records)} needs {stop - position} bytes, {rest} are left in the file"
            return records, Damage("truncated", message, rest)
        records.append(Record(position + _HEADER.size, length))
        position = stop
    return records, None


class _Ahead:
    """Reads the headers of a remote shard: one small request each, or one large one for many where records are small.

    Shards are scanned many at a time. What a header costs is then a request or the bytes up to the next one, and at some 30
    ms and 100 MB/s that 32 share, both cost the same for records of about 64 KiB.
    """

    def __init__(self, path: UPath, size: int) -> None:
        self._path = path
        self._size = size
        self._last: int | None = None
        self._start = 0
        self._data = b""

    def __call__(self, start: int, stop: int) -> bytes:
        if not self._start <= start <= stop <= self._start + len(self._data):
            is_small = self._last is not None and start - self._last < _SMALL_BYTES
            end = min(self._size, start + _AHEAD_BYTES) if is_small else stop
            self._start, self._data = start, places.read_range(self._path, start, end)
        self._last = start
        return self._data[start - self._start : stop - self._start]


def read_payload(path: Path | UPath, record: Record, max_bytes: int, where: str) -> bytes:
    """The payload of one record. Its length is held against ``max_bytes`` and the file before anything is allocated.

    Raises MissingFile, or CorruptEpisode (``too_large``, ``truncated``, ``corrupt_record``).
    """
    if record.length > max_bytes:
        raise CorruptEpisode(
            f"the record has {record.length} bytes, more than the {max_bytes} allowed",
            where,
            "raise limits.max_record_bytes in the recipe if the recording is honest",
            "too_large",
        )
    stop = record.offset + record.length + _FOOTER.size
    try:
        size, _ = places.state(path)
        if stop > size:
            message = f"the record ends behind the file ({record.offset + record.length} of {size} bytes)"
            raise CorruptEpisode(message, where, "fetch the shard again", "truncated")
        data = places.read_range(path, record.offset, stop)
    except OSError as error:
        raise MissingFile(f"the shard cannot be opened: {error.strerror}", where, "restore the file") from error
    payload = data[: record.length]
    expected = int.from_bytes(data[record.length :], "little")
    found = masked_crc(payload)
    if found != expected:
        message = f"the payload does not match its checksum (stored {expected:08x}, found {found:08x})"
        raise CorruptEpisode(
            message, where, "fetch the shard again; its other records are not affected", "corrupt_record"
        )
    return payload
