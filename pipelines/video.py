"""The one strict video decoder of wamloom, and the few container operations (inspect, cut, pack), in an isolated child.

Native decoders crash, hang and bloat on bad files; in the child a crash costs one episode. Strict means: errors are
errors; packets, frames and header agree with each other and with the count the caller expects.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from schemas.episode import EncodedView
from schemas.recipes import Limits, ViewsRecipe


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
    """int64 [F]: presentation times in order, the first one at 0."""
    start_offset_ns: int
    """What was subtracted to put the first frame at 0."""
    key_frames: tuple[int, ...]
    packets_sha256: str
    color: str
    """Matrix and range as tagged, such as ``bt709/tv``, or ``unspecified``."""


@dataclass(frozen=True, slots=True)
class CutVideo:
    """A stream-copied part of a shared file: the episode is frames ``[first_frame, first_frame + num_frames)`` of it."""

    data: bytes
    first_frame: int
    facts: VideoFacts


class VideoTools:
    """Owns one isolated decoding child (started at first use, restarted after a crash). A context manager."""

    def __init__(self, limits: Limits) -> None: ...

    def inspect(self, data: bytes, where: str) -> VideoFacts:
        """Facts of a whole video file. Raises DecodeError."""

    def cut(self, path: str, start_s: float, num_frames: int, where: str) -> CutVideo:
        """``num_frames`` frames from the one nearest ``start_s`` on, stream-copied from the key frame at or before it."""

    def pack(self, images: Sequence[bytes], where: str) -> CutVideo:
        """JPEG or PNG files, all of one kind and size, unchanged as the packets of one video."""

    def decode(
        self, view: EncodedView, where: str, frame_ids: np.ndarray | None = None, views: ViewsRecipe | None = None
    ) -> Iterator[np.ndarray]:
        """RGB uint8 chunks [n, H, W, 3] of the frames ``frame_ids`` (non-decreasing, may repeat; None: all), in order."""

    def thumbnails(self, view: EncodedView, where: str) -> np.ndarray:
        """Every frame small and gray, uint8 [F, h, w], h <= 48: what the picture checks look at."""

    def close(self) -> None:
        """Ends the child."""

    def __enter__(self) -> "VideoTools":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
