"""The one strict video decoder of wamloom, and the few container operations (inspect, cut, pack), in an isolated child.

Native decoders crash, hang and bloat on bad files; in the child a crash costs one episode. Strict means: errors are
errors; packets, frames and header agree with each other and with the count the caller expects. This module imports no
native video library: those are in the child alone (``video_child``).
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np

from pipelines import video_wire
from pipelines.video_process import DecodingChild
from schemas.episode import EncodedView
from schemas.errors import DecodeError, MissingFile
from schemas.recipes import Limits, ViewsRecipe

THUMBNAIL_HEIGHT_PX = 48
_LEAST_SECONDS = 20.0
_FILES_PER_CHILD = 300
"""Decoders leak a little on some files; a new child costs a third of a second."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What demuxing alone tells of a video (nothing is decoded)."""

    codec: str
    container: str
    width_px: int
    height_px: int
    pix_fmt: str
    num_packets: int
    header_frames: int | None
    times_ns: np.ndarray
    """int64 [F]: presentation times in order, the first one at 0, rounded down."""
    start_offset_ns: int
    """What was subtracted to put the first frame at 0."""
    key_frames: tuple[int, ...]
    """Which of the F frames are key frames."""
    packets_sha256: str
    """Over codec extra data and packets in decoding order. A remux between MP4 and Matroska keeps it as long as it keeps
    those bytes (H.264, HEVC, AV1 and VP9 do; Annex B streams and frames an edit list hides do not)."""
    color: str
    """Matrix and range as tagged, such as ``bt709/tv``, or ``unspecified``."""
    rotation_degrees: int = 0
    """Clockwise, that a player would turn the frames by. Never applied here. MP4/MOV only."""
    sample_aspect: str = "1:1"
    """Width to height of a pixel as tagged. Never applied here."""
    num_video_streams: int = 1
    """Of which the first marked default, else the first, is the one described and decoded."""


@dataclass(frozen=True, slots=True)
class CutVideo:
    """A stream-copied part of a shared file: the episode is frames ``[first_frame, first_frame + num_frames)`` of it."""

    data: bytes
    first_frame: int
    facts: VideoFacts


@dataclass(slots=True)
class _Budget:
    """The time the child may take over one file; only waiting for the child counts."""

    seconds_per_1000_frames: float
    used: float = 0.0
    allowed: float = _LEAST_SECONDS

    def expect(self, num_frames: int) -> None:
        """Allows for ``num_frames``."""
        self.allowed = max(self.allowed, self.seconds_per_1000_frames * num_frames / 1000)


@dataclass(slots=True)
class _Session:
    """A decode under way in the child."""

    child: DecodingChild
    number: int
    shape: tuple[int, ...]
    slot: int
    memory: int
    budget: _Budget
    where: str
    is_open: bool = field(default=True)


class VideoTools:
    """Owns one isolated decoding child (started at first use, restarted after a crash). A context manager.

    Several decodes may be open at a time. Safe to use from several threads, which then take turns. Errors of a file are
    DecodeError with the reason codes named there; UnitLost where a child cannot be started at all.
    """

    def __init__(self, limits: Limits, *, _command: Sequence[str] | None = None) -> None:
        self._limits = limits
        self._command = _command
        self._child: DecodingChild | None = None
        self._lock = threading.RLock()

    def inspect(self, data: bytes, where: str) -> VideoFacts:
        """Facts of a whole video file, from its packets; nothing is decoded.

        Raises DecodeError, also where the header promises another number of frames than there are packets.
        """
        self._check_bytes(len(data), where)
        with self._lock, _files([data]) as descriptors:
            reply, received = self._ask_once({"do": "inspect"}, descriptors, where)
        with _closing(received):
            return _facts(reply, received[0], where)

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
        with self._lock, _closing([source]):
            message = {"do": "cut", "start_s": float(start_s), "num_frames": int(num_frames)}
            reply, received = self._ask_once(message, [source], where)
        with _closing(received):
            data = _whole(received[1], where)
            return CutVideo(data, _count(reply, "first_frame", where), _facts(reply, received[0], where))

    def pack(self, images: Sequence[bytes], where: str) -> CutVideo:
        """JPEG or PNG files, all of one kind and size, unchanged as the packets of one MOV video.

        ``packets_sha256`` depends on the images alone. The images' headers are read, the images are not decoded; the
        times are nominal (10 a second). The same images give the same bytes.
        Raises DecodeError ``corrupt_frame`` with the index of an image that is none, or unlike the first.
        """
        if not images:
            raise DecodeError("no images to pack", where, reason="not_video")
        self._check_bytes(sum(len(image) for image in images), where)
        sizes = np.array([len(image) for image in images], dtype="<i8")
        joined = video_wire.memory_file(images)
        with self._lock, _closing([joined]), _files([sizes.data]) as more:
            reply, received = self._ask_once({"do": "pack", "count": len(images)}, [joined, *more], where)
        with _closing(received):
            return CutVideo(_whole(received[1], where), 0, _facts(reply, received[0], where))

    def decode(
        self, view: EncodedView, where: str, frame_ids: np.ndarray | None = None, views: ViewsRecipe | None = None
    ) -> Iterator[np.ndarray]:
        """RGB uint8 chunks [n, H, W, 3] of the frames ``frame_ids`` (non-decreasing, may repeat; None: all), in order.

        Frame 0 is the first of the episode (``view.first_frame`` of the file). Chunks have up to 64 frames or 24 MB and
        are the caller's own. Before the first one the whole file is demuxed: header, packets, times and the count that
        ``view`` expects have to agree. With ``frame_ids`` None every frame of the file is decoded, checked against its
        packet, and has to come out; else those between a key frame and the wanted ones are. Scaled by ``views`` straight
        from the decoder's format with swscale; ``views`` None is the source's size. Matrix and range as tagged (untagged:
        BT.601, limited); rotation and sample aspect are not applied. JPEG and PNG frames are decoded by their libraries.
        Raises DecodeError; ValueError for ``frame_ids`` out of range or order.
        """
        return self._chunks(view, where, _ids(frame_ids, view.num_frames), views, gray=False)

    def thumbnails(self, view: EncodedView, where: str) -> np.ndarray:
        """Every frame small and gray, uint8 [F, h, w], h <= 48, full range: what the picture checks look at.

        As strict as a decode of all frames. Raises DecodeError.
        """
        height = min(THUMBNAIL_HEIGHT_PX, view.height_px)
        width = max(1, round(view.width_px * height / view.height_px))
        recipe = ViewsRecipe(height_px=height, width_px=width, fit="stretch", filter="area")
        thumbs = np.empty((view.num_frames, height, width), np.uint8)
        filled = 0
        for chunk in self._chunks(view, where, None, recipe, gray=True):
            thumbs[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        return thumbs

    def close(self) -> None:
        """Ends the child. Decodes still open end with an error; another use starts a new child."""
        with self._lock:
            if self._child is not None:
                self._child.end()
                self._child = None

    def __enter__(self) -> "VideoTools":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _chunks(
        self, view: EncodedView, where: str, ids: np.ndarray | None, views: ViewsRecipe | None, *, gray: bool
    ) -> Iterator[np.ndarray]:
        expected = view.num_frames if ids is None else len(ids)
        self._check_bytes(len(view.data), where)
        session = self._open(view, where, ids, views, gray)
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
        self, view: EncodedView, where: str, ids: np.ndarray | None, views: ViewsRecipe | None, gray: bool
    ) -> _Session:
        message: dict[str, Any] = {
            "do": "decode", "container": view.container, "codec": view.codec, "width_px": view.width_px,
            "height_px": view.height_px, "first_frame": view.first_frame, "num_frames": view.num_frames,
            "exact": view.how != "cut", "gray": gray, "num_ids": None if ids is None else len(ids),
            "height": views.height_px if views else None, "width": views.width_px if views else None,
            "fit": views.fit if views else "stretch", "filter": views.filter if views else "bilinear",
        }  # fmt: skip
        budget = _Budget(self._limits.seconds_per_1000_frames)
        with self._lock, _files([view.data] if ids is None else [view.data, ids.data]) as descriptors:
            child = self._ready_child()
            reply, received = self._ask(child, message, descriptors, where, budget)
            try:
                shape, slot = tuple(int(side) for side in reply["shape"]), int(reply["slot"])
                if slot < 1 or min(shape) < 1 or slot * int(np.prod(shape)) > os.fstat(received[0]).st_size:
                    raise ValueError
                session = _Session(child, int(reply["session"]), shape, slot, received[0], budget, where)
            except (KeyError, ValueError, TypeError, IndexError) as error:
                video_wire.close_all(received)
                child.end()
                raise _nonsense(where) from error
            child.open_sessions += 1
            return session

    def _next_chunk(self, session: _Session) -> np.ndarray:
        with self._lock:
            message = {"do": "next", "session": session.number}
            try:
                reply, received = self._ask(session.child, message, [], session.where, session.budget)
            except DecodeError:
                self._ended(session)
                raise
            video_wire.close_all(received)
            count = _count(reply, "count", session.where)
            if count > session.slot:
                session.child.end()
                raise _nonsense(session.where)
            chunk = np.empty((count, *session.shape), np.uint8)
            if count:
                video_wire.read_into(session.memory, memoryview(chunk), 0)
            if reply.get("last"):
                self._ended(session)
            return chunk

    def _ended(self, session: _Session) -> None:
        if session.is_open:
            session.is_open = False
            session.child.open_sessions -= 1

    def _stop(self, session: _Session) -> None:
        """Tells the child that nobody wants the rest."""
        with self._lock:
            if session.is_open:
                self._ended(session)
                if session.child.is_alive:
                    with contextlib.suppress(DecodeError):  # then it is dead, and the next file gets a new one
                        message = {"do": "stop", "session": session.number}
                        self._ask(session.child, message, [], session.where, _Budget(0.0))

    def _ready_child(self) -> DecodingChild:
        child = self._child
        if child is not None and child.is_alive and child.files >= _FILES_PER_CHILD and child.open_sessions == 0:
            child.end()
        if child is None or not child.is_alive:
            child = self._child = DecodingChild(self._limits.decode_memory_mb, self._command)
        child.files += 1
        return child

    def _ask_once(
        self, message: dict[str, Any], descriptors: Sequence[int], where: str
    ) -> tuple[dict[str, Any], list[int]]:
        budget = _Budget(self._limits.seconds_per_1000_frames)
        return self._ask(self._ready_child(), message, descriptors, where, budget)

    def _ask(
        self,
        child: DecodingChild,
        message: dict[str, Any],
        descriptors: Sequence[int],
        where: str,
        budget: _Budget,
    ) -> tuple[dict[str, Any], list[int]]:
        limits = self._limits
        allowed = {name: getattr(limits, name) for name in ("max_pixels", "max_frames", "max_video_bytes")}
        request: dict[str, Any] | None = {**message, "limits": allowed}
        while True:
            begun = time.monotonic()
            reply, received = child.ask(request, descriptors, budget.allowed - budget.used, where)
            budget.used += time.monotonic() - begun
            if reply.get("kind") != "opened":
                return reply, received
            video_wire.close_all(received)
            budget.expect(min(_count(reply, "frames", where), limits.max_frames))
            request = None

    def _check_bytes(self, num_bytes: int, where: str) -> None:
        if num_bytes > self._limits.max_video_bytes:
            text = f"{num_bytes} bytes, allowed are {self._limits.max_video_bytes}"
            raise DecodeError(text, where, "raise limits.max_video_bytes", "too_large")


def _ids(frame_ids: np.ndarray | None, num_frames: int) -> np.ndarray | None:
    if frame_ids is None:
        return None
    ids = np.ascontiguousarray(frame_ids, dtype="<i8")
    if ids.ndim != 1 or np.any(np.diff(ids) < 0):
        raise ValueError("frame ids are one row that does not decrease")
    if len(ids) and (ids[0] < 0 or ids[-1] >= num_frames):
        raise ValueError(f"frame ids from {ids[0]} to {ids[-1]} of a video of {num_frames} frames")
    return ids


@contextlib.contextmanager
def _files(contents: Sequence[bytes | memoryview]) -> Iterator[list[int]]:
    """A memory file for each of ``contents``, closed in the end."""
    descriptors: list[int] = []
    try:
        for content in contents:
            descriptors.append(video_wire.memory_file([content]))  # noqa: PERF401 - those made are closed on an error
        yield descriptors
    finally:
        video_wire.close_all(descriptors)


@contextlib.contextmanager
def _closing(descriptors: Sequence[int]) -> Iterator[None]:
    try:
        yield
    finally:
        video_wire.close_all(descriptors)


def _nonsense(where: str) -> DecodeError:
    return DecodeError("the decoding child answers nonsense", where, reason="decoder_crashed")


def _count(reply: dict[str, Any], name: str, where: str) -> int:
    value = reply.get(name)
    if not isinstance(value, int) or value < 0:
        raise _nonsense(where)
    return value


def _checked[Value](read: Callable[[], Value], where: str) -> Value:
    """What ``read`` gives; DecodeError where the child's reply does not hold what it says."""
    try:
        return read()
    except (video_wire.Disconnected, KeyError, TypeError, ValueError) as error:
        raise _nonsense(where) from error


def _whole(descriptor: int, where: str) -> bytes:
    return _checked(lambda: video_wire.read_part(descriptor, os.fstat(descriptor).st_size), where)


def _facts(reply: dict[str, Any], arrays: int, where: str) -> VideoFacts:
    num_frames, num_keys = _count(reply, "frames", where), _count(reply, "keys", where)

    def read() -> VideoFacts:
        times = np.frombuffer(video_wire.read_part(arrays, 8 * num_frames), "<i8")
        keys = np.frombuffer(video_wire.read_part(arrays, 8 * num_keys, 8 * num_frames), "<i8")
        return VideoFacts(times_ns=times.astype(np.int64), key_frames=tuple(keys.tolist()), **reply["facts"])

    return _checked(read, where)
