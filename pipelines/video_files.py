"""What is done with video files without decoding them: looked into, taken whole, cut, packed. All native work is done by an
isolated child; see ``video`` for why, and for decoding.
"""

import contextlib
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from upath import UPath

from pipelines import video_wire
from pipelines.video_facts import CutVideo, TakenVideo, VideoFacts, facts_in
from pipelines.video_process import Budget, DecodingChild, closing, count_in, files_of
from pipelines.video_spool import (
    PART_BYTES,
    Growing,
    KeptVideo,
    Spool,
    file_parts,
    keep,
    keep_copy,
    keep_place,
    keep_written,
)
from schemas.episode import VideoFile
from schemas.errors import CorruptEpisode, DecodeError, MissingFile
from schemas.recipes import Limits

LEAST_SECONDS = 20.0
"""Of the deadline of any file, however short."""
LARGE_BYTES = 64 << 20
"""Files beyond this stay where they are if there is no spool."""
_FILES_PER_CHILD = 300
"""Decoders leak a little on some files; a new child costs a third of a second."""


@dataclass(frozen=True, slots=True)
class CutPart:
    """What to cut out of a shared file: ``num_frames`` from the one nearest ``start_s`` (after its first frame) on."""

    path: str
    start_s: float
    num_frames: int
    where: str


@dataclass(frozen=True, slots=True)
class _Copy:
    """What the child wrote and nobody has read back."""

    output: int
    """Descriptor, which whoever reads it back closes."""
    path: Path | None
    """In the spool; None in memory."""
    first_frame: int
    times_ns: np.ndarray
    packets_xxh3: str
    where: str


class VideoFiles:
    """Owns one isolated child (started at first use, restarted after a crash), and a second while several videos are cut.

    A context manager. Safe to use from several threads, which then take turns. Errors of a file are DecodeError with the
    reason codes named there; UnitLost where a child cannot be started at all; SpoolError.

    Videos that are large for ``spool`` are files there, for the caller to move or clear away. With ``glance``, ``take`` and
    ``cut`` believe what headers say and give no bytes and no hashes: enough to see what a recording is, at once.
    """

    def __init__(
        self,
        limits: Limits,
        spool: Spool | None = None,
        *,
        glance: bool = False,
        _command: Sequence[str] | None = None,
        _least_seconds: float = LEAST_SECONDS,
    ) -> None:
        self._limits = limits
        self._spool = spool
        self._glance = glance
        self._least_seconds = _least_seconds
        self._command = _command
        self._child: DecodingChild | None = None
        self._parting: list[DecodingChild] = []
        self._second: VideoFiles | None = None
        """Works beside this one where several videos are cut."""
        self._lock = threading.RLock()

    def start(self) -> None:
        """Has the child start in the background, for whoever will need it soon; not needed otherwise."""
        with self._lock:
            if self._child is None:
                self._child = DecodingChild(self._limits.decode_memory_mb, self._command)

    def inspect(self, data: bytes | VideoFile, where: str) -> VideoFacts:
        """Facts of a whole video file, from its packets; nothing is decoded.

        Raises DecodeError, also where the header promises another number of frames than there are packets.
        """
        self._check_bytes(data.num_bytes if isinstance(data, VideoFile) else len(data), where)
        with files_of([data]) as descriptors:
            return self._inspect(descriptors[0], where)

    def lift(self, data: bytes | VideoFile, first: int, num_frames: int, where: str) -> bytes:
        """An MP4 of ``num_frames`` compressed frames from ``first`` on of a plain H.264 or AV1 video, whose ``first`` is a key
        frame; the colour tags are BT.601 in limited range, the times nominal. Raises DecodeError.
        """
        with files_of([data]) as descriptors:
            message = {"do": "lift", "first": first, "num_frames": num_frames}
            copy = self._written(message, descriptors, 0, where)
        with closing([copy.output]):
            return video_wire.read_part(copy.output, os.fstat(copy.output).st_size)

    def _inspect(
        self,
        descriptor: int,
        where: str,
        do: Literal["inspect", "glance"] = "inspect",
        written_xxh3: str | None = None,
    ) -> VideoFacts:
        with self._lock:
            message = {"do": do, "written_xxh3": written_xxh3}
            child, reply, received = self._ask_once(message, [descriptor], where)
        with child.believed(received, where):
            return facts_in(reply, received[0])

    def take(self, path: Path | UPath, where: str) -> TakenVideo:
        """The whole video file at ``path``: its bytes, their hash, and its facts as ``inspect`` gives them.

        A local file is read here and in the child at the same time. A large one is copied to the spool on the way; without
        a spool it stays where it is. Raises MissingFile, CorruptEpisode (``changed_while_reading``), DecodeError.
        """
        if not isinstance(path, Path):
            return self._take_remote(path, where)
        try:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MissingFile(f"the video cannot be opened: {error.strerror}", where) from error
        with closing([source]):
            before = os.fstat(source)
            size = before.st_size
            self._check_bytes(size, where)
            if self._glance:
                return TakenVideo(b"", "", self._inspect(source, where, "glance"))
            facts, kept = self._both(source, lambda stop: self._keep(source, path, size, stop), where)
            after = os.fstat(source)
            if (size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise _changed(where)
            return TakenVideo(kept.data, kept.sha256, facts)

    def _both(
        self, video: int, keeping: Callable[[threading.Event], KeptVideo], where: str, written_xxh3: str | None = None
    ) -> tuple[VideoFacts, KeptVideo]:
        """What the child sees in the file ``video``, and what ``keeping`` makes of it in the meantime.

        Raises DecodeError where the packets are not those ``written_xxh3`` is of.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(keeping, stop)
            try:
                facts = self._inspect(video, where, written_xxh3=written_xxh3)
            except BaseException:
                stop.set()
                raise
        try:
            return facts, work.result()
        except OSError as error:
            message = f"the video cannot be read: {error.strerror}"
            raise CorruptEpisode(message, where, reason="unreadable") from error

    def _keep(self, source: int, path: Path, size: int, stop: threading.Event) -> KeptVideo:
        if self._spool is not None and size > self._spool.over_bytes:
            return keep_copy(source, size, self._spool, stop)
        parts = file_parts(source, size, stop)
        if self._spool is None and size > LARGE_BYTES:
            return keep_place(parts, path, size)
        return keep(parts, size, None)

    def _take_remote(self, path: UPath, where: str) -> TakenVideo:
        try:
            size = path.stat().st_size
            self._check_bytes(size, where)
            with path.open("rb") as file:
                parts = iter(lambda: file.read(PART_BYTES), b"")
                if self._glance:
                    with tempfile.TemporaryFile() as copy:
                        copy.writelines(parts)
                        copy.flush()
                        return TakenVideo(b"", "", self._inspect(copy.fileno(), where, "glance"))
                kept = keep(parts, size, self._spool)
        except OSError as error:
            raise MissingFile(f"the video cannot be read: {error}"[:500], where) from error
        with files_of([kept.data]) as descriptors:
            return TakenVideo(kept.data, kept.sha256, self._inspect(descriptors[0], where))

    def cut(self, path: str, start_s: float, num_frames: int, where: str) -> CutVideo:
        """``num_frames`` frames from the one nearest ``start_s`` on, stream-copied from the key frame at or before it.

        ``start_s`` counts from the first frame of the file. The copy begins at a key frame that no later packet is shown
        before (in open groups of pictures that may be further back) and may hold a few frames more after the last.
        The same input gives the same bytes. Reads only that part of the file, which is a local one.
        Raises DecodeError: ``bad_times`` where the nearest frame is more than half a period away, ``count_mismatch``
        where there are too few frames; MissingFile; CorruptEpisode (``changed_while_reading``).
        """
        return self.cuts([CutPart(path, start_s, num_frames, where)])[0]

    def cuts(self, parts: Sequence[CutPart]) -> list[CutVideo]:
        """The same of each, two at a time in children of their own. Of several errors the first part's is raised."""
        if self._glance:
            return [self._glance_at(part) for part in parts]
        if len(parts) < 2:
            return [self._read_back(self._cut(part)) for part in parts]
        with self._lock:
            if self._second is None:
                self._second = VideoFiles(
                    self._limits, self._spool, _command=self._command, _least_seconds=self._least_seconds
                )
                self._second.start()
        free: queue.SimpleQueue[VideoFiles] = queue.SimpleQueue()
        free.put(self)
        free.put(self._second)

        def cut(part: CutPart) -> _Copy:
            tools = free.get()
            try:
                return tools._cut(part)
            finally:
                free.put(tools)

        def read_back(cutting: Future[_Copy]) -> CutVideo:
            copy = cutting.result()
            tools = free.get()
            try:
                return tools._read_back(copy)
            finally:
                free.put(tools)

        copies: list[Future[_Copy]] = []
        videos: list[Future[CutVideo]] = []
        with ThreadPoolExecutor(2) as pool:
            try:
                copies += [pool.submit(cut, part) for part in parts]
                # Behind all of the cutting, so that neither child is left without work for the length of a video.
                videos += [pool.submit(read_back, copy) for copy in copies]
                return [video.result() for video in videos]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                for number, copy in enumerate(copies):
                    is_read = number < len(videos) and not videos[number].cancelled()
                    if not is_read and not copy.cancelled() and copy.exception() is None:
                        os.close(copy.result().output)  # nobody reads it back
                raise

    def _glance_at(self, part: CutPart) -> CutVideo:
        with _opened_part(part) as source:
            facts = self._inspect(source, part.where, "glance")
        return CutVideo(b"", 0, replace(facts, times_ns=facts.times_ns[: part.num_frames]))

    def _cut(self, part: CutPart) -> _Copy:
        with _opened_part(part) as source:
            message = {"do": "cut", "start_s": float(part.start_s), "num_frames": int(part.num_frames)}
            before = os.fstat(source)
            copy = self._written(message, [source], before.st_size, part.where)
            after = os.fstat(source)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                os.close(copy.output)
                raise _changed(part.where)
            return copy

    def pack(self, images: Iterable[bytes], where: str) -> CutVideo:
        """JPEG or PNG files, all of one kind and size, unchanged as the packets of one MOV video.

        ``packets_sha256`` depends on the images alone. The images' headers are read, the images are not decoded; the
        times are nominal (10 a second). The same images give the same bytes. They are asked for one by one.
        Raises DecodeError ``corrupt_frame`` with the index of an image that is none, or unlike the first.
        """
        sizes: list[int] = []
        with Growing(self._spool) as joined:
            for image in images:
                joined.add(image)
                sizes.append(len(image))
                self._check_bytes(joined.num_bytes, where)
            if not sizes:
                raise DecodeError("no images to pack", where, reason="not_video")
            with files_of([np.array(sizes, dtype="<i8").data]) as more:
                message = {"do": "pack", "count": len(sizes)}
                copy = self._written(message, [joined.descriptor, *more], joined.num_bytes, where)
            return self._read_back(copy)

    def _written(self, message: dict[str, Any], given: Sequence[int], about_bytes: int, where: str) -> _Copy:
        """What the child writes when told so: into the spool where it may be large, else in memory."""
        spool = self._spool if self._spool is not None and about_bytes > self._spool.over_bytes else None
        with contextlib.ExitStack() as opened:
            path, output = (None, -1) if spool is None else spool.open_new()
            if spool is not None:
                opened.callback(os.close, output)
                given = [*given, output]
            with self._lock:
                child, reply, received = self._ask_once({**message, "into_file": spool is not None}, given, where)
            with child.believed(received, where):
                first, count = count_in(reply, "first_frame"), count_in(reply, "frames")
                times = np.frombuffer(video_wire.read_part(received[0], 8 * count), "<i8")
                proof = str(reply["packets_xxh3"])
                if spool is None:
                    output = os.dup(received[1])
                    opened.callback(os.close, output)
            self._check_bytes(os.fstat(output).st_size, where)
            opened.pop_all()  # the descriptor is the copy's from here on
        return _Copy(output, path, first, times, proof, where)

    def _read_back(self, copy: _Copy) -> CutVideo:
        """The copy, proven to hold what went into it."""

        def keeping(stop: threading.Event) -> KeptVideo:
            if self._spool is not None and copy.path is not None:
                return keep_written(copy.path, copy.output, self._spool, stop)
            size = os.fstat(copy.output).st_size
            return keep(file_parts(copy.output, size, stop), size, None)

        with closing([copy.output]):
            facts, kept = self._both(copy.output, keeping, copy.where, copy.packets_xxh3)
        if not np.array_equal(facts.times_ns, copy.times_ns):
            message = "the times of what was written do not read back as they went in"
            raise DecodeError(message, copy.where, reason="count_mismatch")
        return CutVideo(kept.data, copy.first_frame, facts, kept.sha256)

    def close(self) -> None:
        """Ends the child. Decodes still open end with an error; another use starts a new child."""
        if self._second is not None:
            self._second.close()
        with self._lock:
            for child in (self._child, *self._parting):
                if child is not None:
                    child.end()
            self._child, self._parting = None, []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ready_child(self) -> DecodingChild:
        child = self._child
        if child is not None and (child.is_spent or child.files >= _FILES_PER_CHILD):
            self._parting.append(child)  # decodes still open in it go on
            self._end_parting()
            child = None
        if child is None or not child.is_alive:
            if child is not None:
                child.end()
            child = self._child = DecodingChild(self._limits.decode_memory_mb, self._command)
        child.files += 1
        return child

    def _end_parting(self) -> None:
        for child in [one for one in self._parting if one.open_sessions == 0]:
            child.end()
            self._parting.remove(child)

    def _ask_once(
        self, message: dict[str, Any], descriptors: Sequence[int], where: str
    ) -> tuple[DecodingChild, dict[str, Any], list[int]]:
        child = self._ready_child()
        return child, *self._ask(child, message, descriptors, self._budget(), where)

    def _ask(
        self, child: DecodingChild, message: dict[str, Any], descriptors: Sequence[int], budget: Budget, where: str
    ) -> tuple[dict[str, Any], list[int]]:
        allowed = {name: getattr(self._limits, name) for name in ("max_pixels", "max_frames", "max_video_bytes")}
        return child.ask({**message, "limits": allowed}, descriptors, budget, where)

    def _budget(self) -> Budget:
        return Budget(self._limits.seconds_per_1000_frames, self._least_seconds, self._limits.max_frames)

    def _check_bytes(self, num_bytes: int, where: str) -> None:
        if num_bytes > self._limits.max_video_bytes:
            text = f"{num_bytes} bytes, allowed are {self._limits.max_video_bytes}"
            raise DecodeError(text, where, "raise limits.max_video_bytes", "too_large")


def _changed(where: str) -> CorruptEpisode:
    message = "the video changed while it was read"
    return CorruptEpisode(message, where, "run the same command again", "changed_while_reading")


@contextlib.contextmanager
def _opened_part(part: CutPart) -> Iterator[int]:
    """The descriptor of its file. Raises MissingFile, and DecodeError where there can be no such part."""
    if part.num_frames <= 0:
        raise DecodeError(f"{part.num_frames} frames to cut out", part.where, reason="count_mismatch")
    if not np.isfinite(part.start_s):
        raise DecodeError(f"a start at {part.start_s} s", part.where, reason="bad_times")
    try:
        source = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise MissingFile(f"the video cannot be opened: {error.strerror}", part.where) from error
    with closing([source]):
        yield source
