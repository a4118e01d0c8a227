"""TFRecord framing: where records lie in a shard, and their bytes, with both checksums checked.

A record is ``u64 length, u32 masked CRC32C of the length, payload, u32 masked CRC32C of the payload``, little-endian
(TensorFlow, ``core/lib/io/record_writer.h``). Nothing here knows what a payload means.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from schemas.errors import CorruptEpisode, MissingFile

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
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


def scan_shard(path: Path) -> tuple[list[Record], Damage | None]:
    """The records of a shard in order, and the damage that ends it, if any. Payloads are skipped, not read.

    Raises MissingFile.
    """
    records: list[Record] = []
    try:
        size = path.stat().st_size
        file = path.open("rb")
    except OSError as error:
        raise MissingFile(f"the shard cannot be opened: {error.strerror}", str(path), "restore the file") from error
    with file:
        position = 0
        while position < size:
            file.seek(position)
            header = file.read(_HEADER.size)
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


def read_payload(path: Path, record: Record, max_bytes: int, where: str) -> bytes:
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
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if record.offset + record.length + _FOOTER.size > size:
                message = f"the record ends behind the file ({record.offset + record.length} of {size} bytes)"
                raise CorruptEpisode(message, where, "fetch the shard again", "truncated")
            file.seek(record.offset)
            payload = file.read(record.length)
            footer = file.read(_FOOTER.size)
    except OSError as error:
        raise MissingFile(f"the shard cannot be opened: {error.strerror}", where, "restore the file") from error
    expected = int.from_bytes(footer, "little")
    found = masked_crc(payload)
    if found != expected:
        message = f"the payload does not match its checksum (stored {expected:08x}, found {found:08x})"
        raise CorruptEpisode(
            message, where, "fetch the shard again; its other records are not affected", "corrupt_record"
        )
    return payload
