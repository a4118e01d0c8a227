"""What the outer boxes of a video file tell before any demuxer sees it: container kind, completeness, rotation; and how to
take back what they tell players.

FFmpeg opens a truncated MP4 or Matroska file without a word; the declared sizes of the outermost boxes tell at once.
Sources: ISO/IEC 14496-12 (boxes, ``tkhd``), RFC 8794 and 9559 (EBML, Matroska). Standard library only.
"""

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_MOV_STARTS = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"}
_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_UPRIGHT = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The matrix of a track that is shown as it is stored."""
_BEFORE_BOXES = {b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0, b"stsd": 8, b"avc1": 78, b"av01": 78}
"""Boxes on the way to what is said of the frames, and how many bytes stand in them before the next."""
_MAX_BOXES = 1_000_000
"""Of one level; a fragmented file has two per fragment."""


class BrokenBoxes(Exception):
    """The outer structure is not that of a whole video file."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Box:
    """An ISO box: its four-letter kind and where its content lies, ``[start, stop)``."""

    kind: bytes
    start: int
    stop: int


def container_of(descriptor: int) -> str:
    """``mov`` or ``matroska``, by content. Raises BrokenBoxes: ``not_video`` or ``truncated``."""
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, 64, 0)
    if head[:4] == _EBML:
        _check_matroska(descriptor, size)
        return "matroska"
    if head[4:8] in _MOV_STARTS:
        _check_mov(descriptor, size)
        return "mov"
    found = "nothing at all" if not head else f"{head[:8]!r}"
    raise BrokenBoxes("not_video", f"neither an MP4/MOV nor a Matroska/WebM file: it begins with {found}")


def boxes(descriptor: int, start: int, stop: int) -> Iterator[Box]:
    """The boxes that fill ``[start, stop)``. Raises BrokenBoxes ``truncated`` where one reaches beyond."""
    for _ in range(_MAX_BOXES):
        if start >= stop:
            return
        head = os.pread(descriptor, 16, start)
        if len(head) < 8 or stop - start < 8:
            raise BrokenBoxes("truncated", f"ends inside a box header at byte {start}")
        size, kind = struct.unpack_from(">I4s", head)
        content = start + 8
        if size == 1:
            if len(head) < 16:
                raise BrokenBoxes("truncated", f"ends inside a box header at byte {start}")
            (size,) = struct.unpack_from(">Q", head, 8)
            content = start + 16
        elif size == 0:  # to the end of the file
            size = stop - start
        if size < content - start:
            raise BrokenBoxes("truncated", f"no box at byte {start}")
        if start + size > stop:
            missing = start + size - stop
            raise BrokenBoxes("truncated", f"box {kind.decode('latin-1')!r} at byte {start} lacks {missing} bytes")
        yield Box(kind, content, start + size)
        start += size
    raise BrokenBoxes("truncated", f"more than {_MAX_BOXES} boxes")


def _check_mov(descriptor: int, size: int) -> None:
    kinds = {box.kind for box in boxes(descriptor, 0, size)}
    if b"moov" not in kinds:
        raise BrokenBoxes("truncated", "no moov box: the file was never finished or its end is missing")
    if not kinds & {b"mdat", b"moof"}:
        raise BrokenBoxes("truncated", "no mdat box: the file ends before its frames")


def _check_matroska(descriptor: int, size: int) -> None:
    position = 0
    for identity in (_EBML, _SEGMENT):
        head = os.pread(descriptor, 12, position)
        while head[:1] == b"\xec" and identity == _SEGMENT and len(head) > 2:  # Void elements may stand between
            length, width = _variable_integer(head[1:])
            position += 1 + width + (length or 0)
            head = os.pread(descriptor, 12, position)
        if len(head) < 5:
            raise BrokenBoxes("truncated", f"ends inside an element header at byte {position}")
        if head[:4] != identity:
            raise BrokenBoxes("not_video", f"no Matroska segment at byte {position}")
        length, width = _variable_integer(head[4:])
        start = position + 4 + width
        if length is None:  # unknown size, as live streams have: nothing to compare with
            return
        if start + length > size:
            raise BrokenBoxes("truncated", f"the element at byte {position} lacks {start + length - size} bytes")
        position = start + length


def _variable_integer(head: bytes) -> tuple[int | None, int]:
    """An EBML size and the bytes it takes; None where it says "unknown"."""
    width = 9 - head[0].bit_length() if head else 9
    if width > 8 or len(head) < width:
        raise BrokenBoxes("truncated", "ends inside an element size")
    ones = (1 << 7 * width) - 1
    value = int.from_bytes(head[:width], "big") & ones
    return (None if value == ones else value), width


def rotation_of(descriptor: int, track_id: int) -> int:
    """Degrees clockwise that a player would turn the frames of a track of an MP4/MOV file by: the ``tkhd`` matrix."""
    size = os.fstat(descriptor).st_size
    for moov in boxes(descriptor, 0, size):
        if moov.kind != b"moov":
            continue
        for track in boxes(descriptor, moov.start, moov.stop):
            if track.kind != b"trak":
                continue
            for box in boxes(descriptor, track.start, track.stop):
                if box.kind == b"tkhd":
                    degrees = _rotation(os.pread(descriptor, min(box.stop - box.start, 104), box.start), track_id)
                    if degrees is not None:
                        return degrees
    return 0


def _rotation(header: bytes, track_id: int) -> int | None:
    wide = 12 if header[:1] == b"\x01" else 0  # version 1 has 64-bit times
    if len(header) < 76 + wide or struct.unpack_from(">I", header, 12 + wide * 2 // 3)[0] != track_id:
        return None
    a, b = struct.unpack_from(">ii", header, 40 + wide)
    return round(math.degrees(math.atan2(b, a))) % 360


def show_as_stored(descriptor: int) -> None:
    """Rewrites an MP4 of H.264 or AV1 so that no player turns, mirrors or crops its frames."""
    _show_as_stored(descriptor, 0, os.fstat(descriptor).st_size)


def _show_as_stored(descriptor: int, start: int, stop: int) -> None:
    for box in boxes(descriptor, start, stop):
        if box.kind in _BEFORE_BOXES:
            _show_as_stored(descriptor, box.start + _BEFORE_BOXES[box.kind], box.stop)
        elif box.kind == b"tkhd":
            wide = 12 if os.pread(descriptor, 1, box.start) == b"\x01" else 0
            os.pwrite(descriptor, _UPRIGHT, box.start + wide + 40)
        elif box.kind == b"clap":
            os.pwrite(descriptor, b"free", box.start - 4)
