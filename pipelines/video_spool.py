"""Where large videos go on their way: copied once, hashed on the way, and never whole in memory.

A worker's spool is a folder of its own on the disk of the lake, so that what is kept can be renamed into the lake.
"""

import contextlib
import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines import video_wire
from pipelines.storage import remove_tree
from schemas.episode import VideoFile

PART_BYTES = 1 << 20
"""Read, hashed and written at a time: what fits a core's cache."""


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What only the written side of a copy answers."""


@dataclass(frozen=True, slots=True)
class Spool:
    """A folder for videos of more than ``over_bytes``; smaller ones stay in memory."""

    folder: Path
    over_bytes: int

    def new_file(self) -> Path:
        """The path of a file that is not there yet."""
        with _told_apart():
            self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{uuid.uuid4().hex}.partial"

    def open_new(self) -> tuple[Path, int]:
        """A new file and its descriptor, which the caller closes."""
        path = self.new_file()
        with _told_apart():
            return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def clear(self) -> None:
        """Removes every file in it, wanted or not."""
        remove_tree(self.folder)


@dataclass(frozen=True, slots=True)
class KeptVideo:
    """The bytes of a video, in memory or in the spool, and their sha256."""

    data: bytes | VideoFile
    sha256: str


class SpoolError(Exception):
    """The disk of the spool fails or is full, which is no fault of the recording: ``error`` says how."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class Stopped(Exception):
    """Nobody wants the rest."""


def keep(parts: Iterable[bytes | memoryview], num_bytes: int, spool: Spool | None) -> KeptVideo:
    """``parts``, ``num_bytes`` in all, hashed and kept: in memory, or durably in the spool where they are many.

    Raises SpoolError, and what reading ``parts`` raises.
    """
    digest = hashlib.sha256()
    if spool is None or num_bytes <= spool.over_bytes:
        collected: list[bytes] = []
        for part in parts:
            digest.update(part)
            collected.append(bytes(part))
        return KeptVideo(collected[0] if len(collected) == 1 else b"".join(collected), digest.hexdigest())
    path, output = spool.open_new()
    total = 0
    try:
        for part in parts:
            digest.update(part)
            with _told_apart():
                video_wire.write_all(output, part)
            total += len(part)
        with _told_apart():
            os.fsync(output)
    finally:
        os.close(output)
    return KeptVideo(VideoFile(str(path), total), digest.hexdigest())


def keep_copy(source: int, num_bytes: int, spool: Spool, stop: threading.Event) -> KeptVideo:
    """The same of the first ``num_bytes`` of the file ``source``, copied to the spool within the kernel.

    What is hashed is read back from the copy. Raises SpoolError, Stopped, OSError.
    """
    path, output = spool.open_new()
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(PART_BYTES))
    position = 0
    try:
        while position < num_bytes:
            if stop.is_set():
                raise Stopped
            count = _sent(output, source, position, min(PART_BYTES, num_bytes - position))
            if not count:
                break
            video_wire.read_into(output, buffer[:count], position)
            digest.update(buffer[:count])
            position += count
        with _told_apart():
            os.fsync(output)
    finally:
        os.close(output)
    return KeptVideo(VideoFile(str(path), position), digest.hexdigest())


def _sent(output: int, source: int, position: int, count: int) -> int:
    try:
        return os.sendfile(output, source, position, count)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise SpoolError(error) from error
        raise


def keep_place(parts: Iterable[bytes | memoryview], path: Path, num_bytes: int) -> KeptVideo:
    """``parts`` of the file ``path`` hashed; it stays where it is."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return KeptVideo(VideoFile(str(path.absolute()), num_bytes), digest.hexdigest())


def keep_written(path: Path, descriptor: int, spool: Spool, stop: threading.Event) -> KeptVideo:
    """What was written into a file of the spool, hashed and kept there; a small one is read into memory and removed."""
    size = os.fstat(descriptor).st_size
    if size <= spool.over_bytes:
        path.unlink()
        return keep(file_parts(descriptor, size, stop), size, None)
    kept = keep_place(file_parts(descriptor, size, stop), path, size)
    with _told_apart():
        os.fsync(descriptor)
    return kept


class Growing:
    """A file that grows in memory, and moves to the spool's disk when it is large. A context manager; gone at its end."""

    def __init__(self, spool: Spool | None) -> None:
        self._spool = spool
        self.descriptor = video_wire.memory_file()
        self.num_bytes = 0
        self._in_memory = True

    def add(self, data: bytes) -> None:
        """Appends ``data``. Raises SpoolError, and OSError where memory files may not grow."""
        self.num_bytes += len(data)
        if self._in_memory and self._spool is not None and self.num_bytes > self._spool.over_bytes:
            path, moved = self._spool.open_new()
            with _told_apart():
                path.unlink()
                for part in file_parts(self.descriptor, self.num_bytes):
                    video_wire.write_all(moved, part)
            os.close(self.descriptor)
            self.descriptor, self._in_memory = moved, False
        with contextlib.nullcontext() if self._in_memory else _told_apart():
            video_wire.write_all(self.descriptor, data)

    def __enter__(self) -> "Growing":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)


def file_parts(descriptor: int, num_bytes: int, stop: threading.Event | None = None) -> Iterator[memoryview]:
    """The first ``num_bytes`` of a file, or what there is of them; wherever others stand in it.

    Each part is valid until the next is asked for. Raises Stopped.
    """
    buffer = memoryview(bytearray(min(PART_BYTES, num_bytes)))
    position = 0
    while position < num_bytes:
        if stop is not None and stop.is_set():
            raise Stopped
        count = os.preadv(descriptor, [buffer[: num_bytes - position]], position)
        if not count:
            return
        yield buffer[:count]
        position += count


def file_sha256(file: VideoFile) -> str:
    """64 hex digits of the bytes of the file. Raises OSError."""
    with Path(file.path).open("rb", buffering=0) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SpoolError(error) from error
