"""What is known of a video without decoding it, and what becomes of one that is cut out, packed or taken whole."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines import video_wire
from pipelines.video_process import count_in
from schemas.episode import VideoFile


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
    setup_sha256: str = ""
    """Of the codec's extra data and what packets bring of that kind: the packets of plain videos of one setup can follow each
    other in a file."""
    is_plain: bool = False
    """Whether packets lie in the order they are shown, none is hidden, none is interlaced, and decoding may begin at every key
    frame and goes the same way throughout. Known of H.264 and AV1."""


@dataclass(frozen=True, slots=True)
class CutVideo:
    """A stream-copied part of a shared file: the episode is frames ``[first_frame, first_frame + num_frames)`` of it."""

    data: bytes | VideoFile
    first_frame: int
    facts: VideoFacts
    sha256: str = ""
    """Of ``data``."""


@dataclass(frozen=True, slots=True)
class TakenVideo:
    """A whole video file as it came."""

    data: bytes | VideoFile
    sha256: str
    facts: VideoFacts


def facts_in(reply: dict[str, Any], arrays: int) -> VideoFacts:
    """Those in an answer of the child, whose arrays are in the file ``arrays``."""
    num_frames, num_keys = count_in(reply, "frames"), count_in(reply, "keys")
    times = np.frombuffer(video_wire.read_part(arrays, 8 * num_frames), "<i8")
    keys = np.frombuffer(video_wire.read_part(arrays, 8 * num_keys, 8 * num_frames), "<i8")
    return VideoFacts(times_ns=times.astype(np.int64), key_frames=tuple(keys.tolist()), **reply["facts"])
