"""The one strict video decoder of wamloom, in an isolated child.

Native decoders crash, hang and bloat on bad files; in the child a crash costs one episode. Strict means: errors are
errors; packets, frames and header agree with each other and with the count the caller expects. This module imports no
native video library: those are in the child alone (``video_child``).
"""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pipelines import video_wire
from pipelines.video_files import VideoFiles
from pipelines.video_process import Budget, DecodingChild, count_in, files_of
from schemas.dataset_card import Picture
from schemas.episode import EncodedView
from schemas.errors import DecodeError
from schemas.recipes import ViewsRecipe

THUMBNAIL_HEIGHT_PX = 48
_AS_IT_IS = ViewsRecipe(fit="stretch", filter="bilinear")


@dataclass(slots=True)
class _Session:
    """A decode under way in the child."""

    child: DecodingChild
    number: int
    shapes: tuple[tuple[int, ...], ...]
    """Of a frame, in each size."""
    slot: int
    memory: int
    budget: Budget
    where: str
    is_open: bool = field(default=True)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Of what comes for each frame: it, or the bytes of all its sizes."""
        return self.shapes[0] if len(self.shapes) == 1 else (sum(map(math.prod, self.shapes)),)


Size = tuple[int | None, int | None]
"""Height and width in pixels, each as in ``ViewsRecipe``."""
Pixels = Literal["rgb", "gray", "depth"]
"""What of a frame is decoded: colors, brightness, or one number of 16 bits."""


class VideoTools(VideoFiles):
    """``VideoFiles`` that also decodes. Several decodes may be open at a time."""

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
        views = views or _AS_IT_IS
        for (chunk,) in self.decode_sizes(view, where, frame_ids, views, [(views.height_px, views.width_px)]):
            yield chunk

    def decode_sizes(
        self,
        view: EncodedView,
        where: str,
        frame_ids: np.ndarray | None,
        views: ViewsRecipe,
        sizes: Sequence[Size],
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """The same from one decode in each of ``sizes`` (height, width; None as in ``ViewsRecipe``), fitted as ``views`` says.

        Chunks hold fewer frames the more sizes there are. Errors as in ``decode``.
        """
        for chunks in self._chunks(view, where, _ids(frame_ids, view.num_frames), views, sizes, "rgb"):
            yield tuple(_set_right(chunk, view.picture) for chunk in chunks)

    def decode_depth(self, view: EncodedView, where: str, frame_ids: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """uint16 chunks [n, H, W] of depth frames, exactly the numbers that are stored: gray PNG or gray video.

        Frames, checks and errors as in ``decode``; the size is the source's. DecodeError ``unsupported_codec`` for pixels
        that are no single number of up to 16 bits.
        """
        ids = _ids(frame_ids, view.num_frames)
        for (chunk,) in self._chunks(view, where, ids, _AS_IT_IS, [(None, None)], "depth"):
            yield np.ascontiguousarray(chunk).view("<u2")[..., 0].astype(np.uint16, copy=False)

    def thumbnails(self, view: EncodedView, where: str) -> Iterator[np.ndarray]:
        """Every frame small and gray, uint8 chunks [n, h, w], h <= 48, full range: what the picture checks look at.

        As strict as a decode of all frames. Raises DecodeError.
        """
        height = min(THUMBNAIL_HEIGHT_PX, view.height_px)
        width = max(1, round(view.shown_width_px * height / view.height_px))
        recipe = ViewsRecipe(height_px=height, width_px=width, fit="stretch", filter="area")
        for (chunk,) in self._chunks(view, where, None, recipe, [(height, width)], "gray"):
            yield chunk

    def _chunks(
        self,
        view: EncodedView,
        where: str,
        ids: np.ndarray | None,
        views: ViewsRecipe,
        sizes: Sequence[Size],
        pixels: Pixels,
    ) -> Iterator[tuple[np.ndarray, ...]]:
        expected = view.num_frames if ids is None else len(ids)
        self._check_bytes(view.num_bytes, where)
        session = self._open(view, where, ids, views, sizes, pixels)
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
                    yield _parted(chunk, session.shapes)
        finally:
            os.close(session.memory)
            self._stop(session)

    def _open(
        self,
        view: EncodedView,
        where: str,
        ids: np.ndarray | None,
        views: ViewsRecipe,
        sizes: Sequence[Size],
        pixels: Pixels,
    ) -> _Session:
        message: dict[str, Any] = {
            "do": "decode", "container": view.container, "codec": view.codec, "width_px": view.width_px,
            "height_px": view.height_px, "first_frame": view.first_frame, "num_frames": view.num_frames,
            "exact": view.how != "cut", "pixels": pixels, "part": view.part, "num_ids": None if ids is None else len(ids),
            "sizes": [list(size) for size in sizes], "fit": views.fit, "filter": views.filter,
        }  # fmt: skip
        budget = self._budget()
        with self._lock, files_of([view.data] if ids is None else [view.data, ids.data]) as descriptors:
            child = self._ready_child()
            reply, received = self._ask(child, message, descriptors, budget, where)
            with child.believed(received, where):
                shapes = tuple(tuple(int(side) for side in shape) for shape in reply["shapes"])
                slot, frame_bytes = count_in(reply, "slot"), sum(map(math.prod, shapes))
                if len(shapes) != len(sizes) or min(min(shape) for shape in shapes) < 1:
                    raise video_wire.Nonsense
                if slot < 1 or slot * frame_bytes > os.fstat(received[0]).st_size:
                    raise video_wire.Nonsense
                number = count_in(reply, "session")
                session = _Session(child, number, shapes, slot, os.dup(received[0]), budget, where)
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
                    chunk = np.empty((count, *session.frame_shape), np.uint8)
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


def _parted(chunk: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, ...]:
    """Frames of one shape as they are; uint8 [n, bytes of a frame in all sizes] as a chunk of frames in each."""
    if len(shapes) == 1:
        return (chunk,)
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    return tuple(
        part.reshape(len(chunk), *shape) for part, shape in zip(np.split(chunk, ends[:-1], axis=1), shapes, strict=True)
    )


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
