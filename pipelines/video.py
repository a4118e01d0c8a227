"""The one strict video decoder of wamloom, and the few container operations (inspect, cut, pack), in an isolated child.

Native decoders crash, hang and bloat on bad files; in the child a crash costs one episode. Strict means: errors are
errors; packets, frames and header agree with each other and with the count the caller expects. This module imports no
native video library: those are in the child alone (``video_child``).
"""

import contextlib
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

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
from schemas.dataset_card import Picture
from schemas.episode import EncodedView
from schemas.errors import CorruptEpisode, DecodeError, MissingFile
from schemas.recipes import Limits, ViewsRecipe

THUMBNAIL_HEIGHT_PX = 48
LEAST_SECONDS = 20.0
"""Of the deadline of any file, however short."""
LARGE_BYTES = 64 << 20
"""Files beyond this stay where they are if there is no spool."""
HELD_BYTES = 32 << 20
"""A longer cut is read a second time while it is written, instead of being held in the child."""
_FILES_PER_CHILD = 300
"""Decoders leak a little on some files; a new child costs a third of a second."""


@dataclass(slots=True)
class _Session:
    """A decode under way in the child."""

    child: DecodingChild
    number: int
    shape: tuple[int, ...]
    slot: int
    memory: int
    budget: Budget
    where: str
    is_open: bool = field(default=True)


Pixels = Literal["rgb", "gray", "depth"]
"""What of a frame is decoded: colors, brightness, or one number of 16 bits."""


class VideoTools:
    """Owns one isolated decoding child (started at first use, restarted after a crash). A context manager.

    Several decodes may be open at a time. Safe to use from several threads, which then take turns. Errors of a file are
    DecodeError with the reason codes named there; UnitLost where a child cannot be started at all; SpoolError.

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
        self._lock = threading.RLock()

    def inspect(self, data: bytes, where: str) -> VideoFacts:
        """Facts of a whole video file, from its packets; nothing is decoded.

        Raises DecodeError, also where the header promises another number of frames than there are packets.
        """
        self._check_bytes(len(data), where)
        with files_of([data]) as descriptors:
            return self._inspect(descriptors[0], where)

    def _inspect(self, descriptor: int, where: str, do: Literal["inspect", "glance"] = "inspect") -> VideoFacts:
        with self._lock:
            child, reply, received = self._ask_once({"do": do}, [descriptor], where)
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
                message = "the video changed while it was read"
                raise CorruptEpisode(message, where, "run the same command again", "changed_while_reading")
            return TakenVideo(kept.data, kept.sha256, facts)

    def _both(
        self, video: int, keeping: Callable[[threading.Event], KeptVideo], where: str
    ) -> tuple[VideoFacts, KeptVideo]:
        """What the child sees in the file ``video``, and what ``keeping`` makes of it in the meantime."""
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(keeping, stop)
            try:
                facts = self._inspect(video, where)
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
        where there are too few frames; MissingFile.
        """
        if num_frames <= 0:
            raise DecodeError(f"{num_frames} frames to cut out", where, reason="count_mismatch")
        if not np.isfinite(start_s):
            raise DecodeError(f"a start at {start_s} s", where, reason="bad_times")
        try:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise MissingFile(f"the video cannot be opened: {error.strerror}", where) from error
        with closing([source]):
            if self._glance:
                facts = self._inspect(source, where, "glance")
                return CutVideo(b"", 0, replace(facts, times_ns=facts.times_ns[:num_frames]))
            message = {"do": "cut", "start_s": float(start_s), "num_frames": int(num_frames)}
            return self._written(message, [source], os.fstat(source).st_size, where)

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
                return self._written(message, [joined.descriptor, *more], joined.num_bytes, where)

    def _written(self, message: dict[str, Any], given: Sequence[int], about_bytes: int, where: str) -> CutVideo:
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
                digest = str(reply["packets_sha256"])
                if spool is None:
                    output = os.dup(received[1])
                    opened.callback(os.close, output)
            self._check_bytes(os.fstat(output).st_size, where)

            def keeping(stop: threading.Event) -> KeptVideo:
                if spool is not None and path is not None:
                    return keep_written(path, output, spool, stop)
                size = os.fstat(output).st_size
                return keep(file_parts(output, size, stop), size, None)

            facts, kept = self._both(output, keeping, where)
        if facts.packets_sha256 != digest or not np.array_equal(facts.times_ns, times):
            raise DecodeError("what was written does not read back as it went in", where, reason="count_mismatch")
        return CutVideo(kept.data, first, facts, kept.sha256)

    def decode(
        self, view: EncodedView, where: str, frame_ids: np.ndarray | None = None, views: ViewsRecipe | None = None
    ) -> Iterator[np.ndarray]:
        """RGB uint8 chunks [n, H, W, 3] of the frames ``frame_ids`` (non-decreasing, may repeat; None: all), in order.

        Frame 0 is the first of the episode (``view.first_frame`` of the file). Chunks have up to 64 frames or 24 MB and
        are the caller's own. Before the first one the whole file is demuxed: header, packets, times and the count that
        ``view`` expects have to agree. With ``frame_ids`` None every frame of the file is decoded, checked against its
        packet, and has to come out; else those between a key frame and the wanted ones are. Scaled by ``views`` straight
        from the decoder's format with swscale; ``views`` None is the source's size. Matrix and range as tagged (untagged:
        BT.601, limited); rotation and sample aspect as tagged in the file are not applied. JPEG and PNG frames are decoded by
        their libraries. What ``view.part`` and ``view.picture`` say of the pixels is: the other eye cut off, upside down
        turned up, red and blue put in their places.
        Raises DecodeError; ValueError for ``frame_ids`` out of range or order.
        """
        for chunk in self._chunks(view, where, _ids(frame_ids, view.num_frames), views, "rgb"):
            yield _set_right(chunk, view.picture)

    def decode_depth(self, view: EncodedView, where: str, frame_ids: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """uint16 chunks [n, H, W] of depth frames, exactly the numbers that are stored: gray PNG or gray video.

        Frames, checks and errors as in ``decode``; the size is the source's. DecodeError ``unsupported_codec`` for pixels
        that are no single number of up to 16 bits.
        """
        for chunk in self._chunks(view, where, _ids(frame_ids, view.num_frames), None, "depth"):
            yield np.ascontiguousarray(chunk).view("<u2")[..., 0].astype(np.uint16, copy=False)

    def thumbnails(self, view: EncodedView, where: str) -> Iterator[np.ndarray]:
        """Every frame small and gray, uint8 chunks [n, h, w], h <= 48, full range: what the picture checks look at.

        As strict as a decode of all frames. Raises DecodeError.
        """
        height = min(THUMBNAIL_HEIGHT_PX, view.height_px)
        width = max(1, round(view.shown_width_px * height / view.height_px))
        recipe = ViewsRecipe(height_px=height, width_px=width, fit="stretch", filter="area")
        return self._chunks(view, where, None, recipe, "gray")

    def close(self) -> None:
        """Ends the child. Decodes still open end with an error; another use starts a new child."""
        with self._lock:
            for child in (self._child, *self._parting):
                if child is not None:
                    child.end()
            self._child, self._parting = None, []

    def __enter__(self) -> "VideoTools":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _chunks(
        self, view: EncodedView, where: str, ids: np.ndarray | None, views: ViewsRecipe | None, pixels: Pixels
    ) -> Iterator[np.ndarray]:
        expected = view.num_frames if ids is None else len(ids)
        self._check_bytes(view.num_bytes, where)
        session = self._open(view, where, ids, views, pixels)
        given = 0
        try:
            while session.is_open:
                chunk = self._next_chunk(session)
                given += len(chunk)
                while (
                    given == expected and session.is_open
                ):  # the checks at the end come before the last frame is given
                    given += len(self._next_chunk(session))
                if given > expected or (not session.is_open and given < expected):
                    session.child.end()
                    raise DecodeError(f"{given} frames given, {expected} wanted", where, reason="decoder_crashed")
                if len(chunk):
                    yield chunk
        finally:
            os.close(session.memory)
            self._stop(session)

    def _open(
        self, view: EncodedView, where: str, ids: np.ndarray | None, views: ViewsRecipe | None, pixels: Pixels
    ) -> _Session:
        message: dict[str, Any] = {
            "do": "decode", "container": view.container, "codec": view.codec, "width_px": view.width_px,
            "height_px": view.height_px, "first_frame": view.first_frame, "num_frames": view.num_frames,
            "exact": view.how != "cut", "pixels": pixels, "part": view.part, "num_ids": None if ids is None else len(ids),
            "height": views.height_px if views else None, "width": views.width_px if views else None,
            "fit": views.fit if views else "stretch", "filter": views.filter if views else "bilinear",
        }  # fmt: skip
        budget = self._budget()
        with self._lock, files_of([view.data] if ids is None else [view.data, ids.data]) as descriptors:
            child = self._ready_child()
            reply, received = self._ask(child, message, descriptors, budget, where)
            with child.believed(received, where):
                shape, slot = tuple(int(side) for side in reply["shape"]), count_in(reply, "slot")
                if slot < 1 or min(shape) < 1 or slot * math.prod(shape) > os.fstat(received[0]).st_size:
                    raise video_wire.Nonsense
                number = count_in(reply, "session")
                session = _Session(child, number, shape, slot, os.dup(received[0]), budget, where)
            child.open_sessions += 1
            return session

    def _next_chunk(self, session: _Session) -> np.ndarray:
        with self._lock:
            message = {"do": "next", "session": session.number}
            try:
                reply, received = self._ask(session.child, message, [], session.budget, session.where)
                with session.child.believed(received, session.where):
                    count = count_in(reply, "count")
                    if count > session.slot or (count == 0 and not reply["last"]):
                        raise video_wire.Nonsense
                    chunk = np.empty((count, *session.shape), np.uint8)
                    if count:
                        video_wire.read_into(session.memory, memoryview(chunk), 0)
            except DecodeError:
                self._ended(session)
                raise
            if reply.get("last"):
                self._ended(session)
            return chunk

    def _ended(self, session: _Session) -> None:
        if session.is_open:
            session.is_open = False
            session.child.open_sessions -= 1
            self._end_parting()

    def _stop(self, session: _Session) -> None:
        """Tells the child that nobody wants the rest."""
        with self._lock:
            if session.is_open:
                self._ended(session)
                if session.child.is_alive:
                    with contextlib.suppress(DecodeError):  # then it is dead, and the next file gets a new one
                        message = {"do": "stop", "session": session.number}
                        self._ask(session.child, message, [], self._budget(), session.where)

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
        allowed["held_bytes"] = HELD_BYTES if self._spool is None else min(HELD_BYTES, self._spool.over_bytes)
        return child.ask({**message, "limits": allowed}, descriptors, budget, where)

    def _budget(self) -> Budget:
        return Budget(self._limits.seconds_per_1000_frames, self._least_seconds, self._limits.max_frames)

    def _check_bytes(self, num_bytes: int, where: str) -> None:
        if num_bytes > self._limits.max_video_bytes:
            text = f"{num_bytes} bytes, allowed are {self._limits.max_video_bytes}"
            raise DecodeError(text, where, "raise limits.max_video_bytes", "too_large")


def _set_right(frames: np.ndarray, picture: Picture) -> np.ndarray:
    """uint8 [n, H, W, 3] as the camera saw it."""
    if picture.orientation in ("rotated_180", "flipped_vertically"):
        frames = frames[:, ::-1]
    if picture.orientation in ("rotated_180", "mirrored"):
        frames = frames[:, :, ::-1]
    if picture.channels == "bgr":
        frames = frames[..., ::-1]
    return np.ascontiguousarray(frames)


def _ids(frame_ids: np.ndarray | None, num_frames: int) -> np.ndarray | None:
    if frame_ids is None:
        return None
    ids = np.ascontiguousarray(frame_ids, dtype="<i8")
    if ids.ndim != 1 or np.any(np.diff(ids) < 0):
        raise ValueError("frame ids are one row that does not decrease")
    if len(ids) and (ids[0] < 0 or ids[-1] >= num_frames):
        raise ValueError(f"frame ids from {ids[0]} to {ids[-1]} of a video of {num_frames} frames")
    return ids
