"""Opens video files strictly and says what lies in them without decoding. Child side: never imported by the owner.

Bytes, not names, reach the demuxer: it is given an open descriptor, one named format, and no way to open anything else.
"""

import dataclasses
import hashlib
import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import av
import numpy as np
import xxhash
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pipelines.video_boxes import BrokenBoxes, container_of, rotation_of
from pipelines.video_setup import Setup, length_bytes, nal_units

CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg", "png", "ffv1")
STRICT = {"err_detect": "explode+crccheck+bitstream+buffer"}
_MATRICES = {
    0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc", 10: "bt2020c",
}  # fmt: skip
"""AVColorSpace, by the names FFmpeg gives them."""
_IDR = 5
_RANGES = {1: "tv", 2: "pc"}
READ_BYTES = 128 << 10
"""Asked for at a time: every read crosses from FFmpeg to Python and back."""
_NANOSECONDS = 1_000_000_000
_LONGEST_SECONDS = 10**8


class Refusal(Exception):
    """What is wrong with the file, in the reason codes of ``DecodeError``."""

    def __init__(self, reason: str, message: str, hint: str = "") -> None:
        super().__init__(reason, message, hint)
        self.reason = reason
        self.message = message
        self.hint = hint


@contextmanager
def refused() -> Iterator[None]:
    """Turns what the native libraries raise into Refusal."""
    try:
        yield
    except BrokenBoxes as error:
        raise Refusal(error.reason, error.message) from error
    except MemoryError as error:  # av.error.MemoryError is one
        raise Refusal("memory_limit", "the decoder ran out of memory", "raise limits.decode_memory_mb") from error
    except av.error.EOFError as error:
        raise Refusal("truncated", f"the file ends early ({error})") from error
    except av.error.DecoderNotFoundError as error:
        raise Refusal("unsupported_codec", f"no decoder for it ({error})") from error
    except av.error.FFmpegError as error:
        raise Refusal("corrupt_frame", f"damaged: {error}") from error
    except OverflowError as error:
        raise Refusal("bad_times", "a time beyond all counting") from error


@dataclass(slots=True)
class Facts:
    """What demuxing tells; the owner makes ``VideoFacts`` of it. Frames are in presentation order."""

    codec: str
    container: str
    width_px: int
    height_px: int
    pix_fmt: str
    num_packets: int
    header_frames: int | None
    times_ns: np.ndarray
    start_offset_ns: int
    key_frames: np.ndarray
    packets_sha256: str
    color: str
    rotation_degrees: int
    sample_aspect: str
    num_video_streams: int
    setup_sha256: str
    is_plain: bool
    pts: np.ndarray
    """int64 [N]: of every packet in decoding order, in ``time_base``."""
    is_entry: np.ndarray
    """bool [N]: key frames after which nothing refers to what was before, see ``is_entry_point``."""
    is_shown: np.ndarray
    """bool [N]: False where an edit list hides the frame."""
    time_base: Fraction

    def plain(self) -> dict[str, Any]:
        """The fields that are neither arrays nor private to the child."""
        names = (
            "codec", "container", "width_px", "height_px", "pix_fmt", "num_packets", "header_frames", "start_offset_ns",
            "packets_sha256", "color", "rotation_degrees", "sample_aspect", "num_video_streams", "setup_sha256", "is_plain",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


def _open_nothing_else(*_: object) -> None:
    raise Refusal("not_video", "the file refers to another file or address")


@contextmanager
def opened(
    descriptor: int, limits: dict[str, int], options: dict[str, str] | None = None
) -> Iterator[tuple[InputContainer, VideoStream, str]]:
    """The demuxer, the one video stream that counts (the first marked default, else the first) and the container kind.

    Container, codec and size are checked first. Raises Refusal.
    """
    if os.fstat(descriptor).st_size > limits["max_video_bytes"]:
        size = os.fstat(descriptor).st_size
        raise Refusal(
            "too_large", f"{size} bytes, allowed are {limits['max_video_bytes']}", "raise limits.max_video_bytes"
        )
    with refused():
        kind = container_of(descriptor)
        file = io.FileIO(os.dup(descriptor), "r")
        file.seek(0)
        strict = {**STRICT, "threads": "1", **(options or {})}
        with file, _opened_container(file, kind, strict) as container:
            yield container, _video_stream(container, limits), kind


def _opened_container(file: io.FileIO, kind: str, options: dict[str, str]) -> InputContainer:
    try:
        return av.open(
            file,
            "r",
            format=kind,
            options=options,
            io_open=_open_nothing_else,
            metadata_errors="replace",
            buffer_size=READ_BYTES,
        )
    except MemoryError:
        raise
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise Refusal("corrupt_frame", f"its header is damaged ({error})") from error


def _video_stream(container: InputContainer, limits: dict[str, int]) -> VideoStream:
    pictures = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        raise Refusal("not_video", "no video stream in it")
    stream = next((one for one in streams if one.disposition & av.stream.Disposition.default), streams[0])
    context = stream.codec_context
    if context is None:
        raise Refusal("unsupported_codec", "a codec this build does not know")
    codec = codec_name(stream)
    if codec not in CODECS:
        raise Refusal("unsupported_codec", f"codec {codec!r}; decoded are {', '.join(CODECS)}")
    width, height = context.width, context.height
    if width <= 0 or height <= 0:
        raise Refusal("corrupt_frame", f"a frame size of {width} x {height}")
    if width * height > limits["max_pixels"]:
        text = f"{width} x {height} pixels, allowed are {limits['max_pixels']} in all"
        raise Refusal("too_large", text, "raise limits.max_pixels")
    if stream.frames > limits["max_frames"]:
        text = f"its header declares {stream.frames} frames, allowed are {limits['max_frames']}"
        raise Refusal("too_large", text, "raise limits.max_frames")
    return stream


def codec_name(stream: VideoStream) -> str:
    """FFmpeg's name of the codec, whichever decoder serves it (``av1``, not ``libdav1d``)."""
    return stream.codec_context.codec.canonical_name


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """Every packet of the stream in file order, each known to be whole. Raises Refusal."""
    with refused():
        for number, packet in enumerate(container.demux(stream)):
            if packet.size == 0:
                if packet.dts is None:  # the flush packet at the end
                    return
                raise Refusal("corrupt_frame", f"packet {number} is empty")
            if packet.is_corrupt:
                raise Refusal("truncated", f"packet {number} is incomplete")
            yield packet


def scan(
    descriptor: int,
    limits: dict[str, int],
    announce: Callable[[int], None] | None = None,
    hashed: bool = False,
    written_xxh3: str | None = None,
) -> Facts:
    """Facts of a whole file, from one pass over its packets. ``announce`` is told the number of frames to expect.

    Raises Refusal: also where the number of packets is not what the header says, or where they are not those that were
    written (``written_xxh3``, if it is known what they have to be).
    """
    with opened(descriptor, limits) as (container, stream, kind):
        if announce is not None:
            announce(stream.frames)
        digest = PacketHash("sha256", stream.codec_context.extradata)
        proof = PacketHash("xxh3", stream.codec_context.extradata)
        pts: list[int] = []
        is_key: list[bool] = []
        is_entry: list[bool] = []
        is_shown: list[bool] = []
        extradata = stream.codec_context.extradata or b""
        setup, is_one = Setup(codec_name(stream), extradata), True
        for packet in packets(container, stream):
            if packet.pts is None:
                raise Refusal("bad_times", f"packet {len(pts)} has no presentation time")
            pts.append(packet.pts)
            is_key.append(packet.is_keyframe)
            is_entry.append(is_entry_point(stream, packet))
            is_shown.append(not packet.is_discard)
            setup.see(memoryview(packet), is_entry[-1])
            is_one = is_one and not packet.has_sidedata("new_extradata")
            if hashed:
                digest.add(packet)
            if written_xxh3 is not None:
                proof.add(packet)
            if len(pts) > limits["max_frames"]:
                raise Refusal("too_large", f"more than {limits['max_frames']} frames", "raise limits.max_frames")
        header = stream.frames or None
        _check_count(descriptor, limits, header, len(pts))
        if written_xxh3 not in (None, proof.text):
            raise Refusal("count_mismatch", "what was written does not read back as it went in")
        columns = (pts, is_key, is_entry, is_shown)
        facts = _facts(descriptor, kind, container, stream, columns, digest.text if hashed else "")
        return dataclasses.replace(
            facts,
            setup_sha256=hashlib.sha256(extradata + setup.brought).hexdigest(),
            is_plain=facts.is_plain and is_one and setup.is_one and setup.is_progressive,
        )


def glance(descriptor: int, limits: dict[str, int], announce: Callable[[int], None]) -> Facts:
    """What the header alone says: as many frames as it declares at the rate it declares, nothing hashed, nothing counted.

    Where it declares no number, packets are counted as in ``scan``. Raises Refusal.
    """
    with opened(descriptor, limits) as (container, stream, kind):
        rate = stream.average_rate
        if stream.frames and rate:
            times = (np.arange(stream.frames) * float(_NANOSECONDS / rate)).astype(np.int64)
            is_key = [number == 0 for number in range(len(times))]
            columns = (list(range(len(times))), is_key, is_key, [True] * len(times))
            return dataclasses.replace(_facts(descriptor, kind, container, stream, columns, ""), times_ns=times)
    return scan(descriptor, limits, announce)


def _check_count(descriptor: int, limits: dict[str, int], header: int | None, found: int) -> None:
    if found == 0:
        raise Refusal("truncated" if header else "not_video", f"no frame in it; its header says {header}")
    if header is None or header == found:
        return
    # An edit list may hide whole groups of pictures: those the demuxer does not even show. Count without it.
    with opened(descriptor, limits, {"ignore_editlist": "1"}) as (container, stream, _):
        total = sum(1 for _ in packets(container, stream))
    if total != header:
        raise Refusal("count_mismatch", f"its header says {header} frames, in it are {total} packets")


def _facts(
    descriptor: int,
    kind: str,
    container: InputContainer,
    stream: VideoStream,
    columns: tuple[list[int], list[bool], list[bool], list[bool]],
    digest: str,
) -> Facts:
    time_base = stream.time_base
    if time_base is None or time_base <= 0:
        raise Refusal("bad_times", "no time base")
    pts, is_key, is_entry, is_shown = (np.array(column) for column in columns)
    order = np.argsort(pts[is_shown], kind="stable")
    shown = pts[is_shown][order]
    if len(shown) == 0:
        raise Refusal("not_video", "its edit list hides every frame")
    repeated = np.flatnonzero(np.diff(shown) == 0)
    if len(repeated):
        raise Refusal("bad_times", f"frames {repeated[0]} and {repeated[0] + 1} have the same time")
    context = stream.codec_context
    aspect = stream.sample_aspect_ratio or Fraction(1)
    return Facts(
        codec=codec_name(stream),
        container=kind,
        width_px=context.width,
        height_px=context.height,
        pix_fmt=context.pix_fmt or "",
        num_packets=len(pts),
        header_frames=stream.frames or None,
        times_ns=nanoseconds(shown, time_base),
        start_offset_ns=int(Fraction(int(shown[0])) * time_base * _NANOSECONDS // 1),
        key_frames=np.flatnonzero(is_key[is_shown][order]),
        packets_sha256=digest,
        color=_color(context.pix_fmt or "", context.colorspace, context.color_range),
        rotation_degrees=rotation_of(descriptor, stream.id) if kind == "mov" else 0,
        sample_aspect=f"{aspect.numerator}:{aspect.denominator}",
        num_video_streams=len(container.streams.video),
        setup_sha256=hashlib.sha256(context.extradata or b"").hexdigest(),
        is_plain=bool(is_shown.all() and (np.diff(pts) > 0).all() and np.array_equal(is_key, is_entry)),
        pts=pts.astype(np.int64),
        is_entry=is_entry.astype(bool),
        is_shown=is_shown.astype(bool),
        time_base=time_base,
    )


def nanoseconds(pts: np.ndarray, time_base: Fraction) -> np.ndarray:
    """Ascending ``pts`` as int64 nanoseconds after the first, rounded down. Raises Refusal beyond three years."""
    if Fraction(int(pts[-1]) - int(pts[0])) * time_base > _LONGEST_SECONDS:
        raise Refusal("bad_times", "its frames lie more than three years apart")
    ticks = (pts - pts[0]) * time_base.numerator
    seconds, rest = np.divmod(ticks, time_base.denominator)
    if time_base.denominator > _NANOSECONDS:  # rest * 10^9 might not fit
        rest_ns = np.array([int(one) * _NANOSECONDS // time_base.denominator for one in rest], dtype=np.int64)
    else:
        rest_ns = rest * _NANOSECONDS // time_base.denominator
    return np.asarray(seconds * _NANOSECONDS + rest_ns, dtype=np.int64)


def _color(pix_fmt: str, matrix: int, range_: int) -> str:
    if pix_fmt.startswith(("rgb", "bgr", "gbr", "pal8")):
        return "rgb/pc"
    if pix_fmt.startswith("gray"):
        matrix = 2
    if pix_fmt.startswith("yuvj"):
        range_ = 2
    if matrix not in _MATRICES and range_ not in _RANGES:
        return "unspecified"
    return f"{_MATRICES.get(matrix, 'unspecified')}/{_RANGES.get(range_, 'unspecified')}"


def is_entry_point(stream: VideoStream, packet: Packet) -> bool:
    """Whether the packet is a key frame that makes the decoder forget what was before.

    In H.264 only an IDR picture does; what follows another key frame may still manage pictures from before it
    (ITU-T H.264, 7.4.1.2.4 and 8.2.5), which a strict decoder rightly takes for damage.
    """
    if not packet.is_keyframe:
        return False
    if codec_name(stream) != "h264":
        return True
    width = length_bytes(stream.codec_context.extradata or b"")
    if width == 0:  # Annex B: start codes instead of lengths
        payload = bytes(packet)
        return any(unit and unit[0] & 31 == _IDR for unit in payload.split(b"\x00\x00\x01")[1:])
    return any(unit[0] & 31 == _IDR for unit in nal_units(memoryview(packet), width))


def clean_starts(pts: np.ndarray, is_entry: np.ndarray) -> np.ndarray:
    """Indices in decoding order from which decoding may begin and miss nothing: entry points that no later packet precedes.

    A key frame of an open group of pictures is followed by frames shown before it that need the group before: not clean.
    """
    later = np.minimum.accumulate(pts[::-1])[::-1]
    earlier = np.maximum.accumulate(pts)
    return np.flatnonzero(is_entry & (later >= pts) & (earlier <= pts))


class PacketHash:
    """A hash over the codec's extra data and every packet in decoding order, each preceded by its length.

    ``sha256`` is the identity of a recording; ``xxh3`` (128 bits) costs next to nothing and proves a copy.
    """

    def __init__(self, kind: Literal["sha256", "xxh3"], extradata: bytes | None = None) -> None:
        self._digest = hashlib.sha256() if kind == "sha256" else xxhash.xxh3_128()
        self.add(extradata or b"")

    def add(self, payload: bytes | Packet) -> None:
        """The next packet."""
        view = memoryview(payload)
        self._digest.update(struct.pack("<Q", view.nbytes))
        self._digest.update(view)

    @property
    def text(self) -> str:
        """Hex digits."""
        return self._digest.hexdigest()
