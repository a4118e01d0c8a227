"""Writes video files without encoding anything: cuts by stream copy, single images into a container. Child side.

The bytes written depend on the input alone: no times of day, no version strings, no random ids.
"""

import bisect
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import simplejpeg
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pipelines.video_demux import (
    PacketHash,
    Refusal,
    clean_starts,
    is_entry_point,
    nanoseconds,
    opened,
    packets,
    refused,
)

PACKED_RATE = 10
"""Nominal frames per second of packed images, for players only: their times are kept beside the file."""
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TRIES = 1000
"""Key frames looked at one by one, back from the frame wanted, before the steps grow."""
_REORDERED = 32
"""No frame is shown so many packets before its turn: codecs allow 16 (ITU-T H.264, A.3.1; H.265, A.4.2)."""
_NANOSECONDS = 1_000_000_000
_BUFFER_BYTES = 256 << 10
"""Written at a time: every write crosses from FFmpeg to Python and back."""


@contextmanager
def deterministic_container(output: int, format_: str, options: dict[str, str]) -> Iterator[OutputContainer]:
    """A deterministic container on the descriptor ``output``."""
    options = {"fflags": "+bitexact", **options}
    with (
        refused(),
        io.FileIO(os.dup(output), "r+") as file,
        av.open(file, "w", format=format_, options=options, buffer_size=_BUFFER_BYTES) as container,
    ):
        yield container


@dataclass(frozen=True, slots=True)
class _Piece:
    """What a packet of the input says of itself."""

    pts: int
    dts: int | None
    is_entry: bool
    is_shown: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What a reader has to find in a file that was written here."""

    first_frame: int
    """The frame that was asked for."""
    packets_xxh3: str
    """Of what went in, see ``PacketHash``."""
    times_ns: np.ndarray
    """int64 [F]"""


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of a shared file that a copy is made of."""

    start: _Piece
    """The packet it begins with."""
    first: int
    """Presentation time of the first frame wanted."""
    base: int
    """The lowest presentation time in it."""
    num_frames: int
    """How many are wanted."""


def cut(descriptor: int, output: int, start_s: float, num_frames: int, limits: dict[str, int]) -> Written:
    """Writes the frames from the one nearest ``start_s`` on, and those they need.

    Reads from the key frame before to the last frame wanted, not the whole file. Raises Refusal.
    """
    # A shared file may hold hundreds of episodes: its size is not this episode's, the copy's is.
    open_limits = {**limits, "max_video_bytes": max(limits["max_video_bytes"], os.fstat(descriptor).st_size)}
    open_limits["max_frames"] = 2**62
    with refused(), opened(descriptor, open_limits) as (container, stream, kind):
        time_base = stream.time_base
        if time_base is None or time_base <= 0:
            raise Refusal("bad_times", "no time base")
        part = _find(container, stream, start_s, num_frames, time_base)
        # MP4 says when each packet is decoded; elsewhere that may have to be made up, for which all are looked at first.
        decoding = None if kind == "mov" else _decoding_times(_times_of(_packets_of(container, stream, part, limits)))
        digest = PacketHash("xxh3", stream.codec_context.extradata)
        pts = _write_copy(output, stream, _packets_of(container, stream, part, limits), decoding, part, digest)
    ordered = np.sort(np.array(pts, np.int64))
    return Written(int(np.searchsorted(ordered, part.first)), digest.text, nanoseconds(ordered, time_base))


def _find(
    container: InputContainer, stream: VideoStream, start_s: float, num_frames: int, time_base: Fraction
) -> _Part:
    """Where the part begins that shows ``num_frames`` from the frame nearest ``start_s`` on."""
    target = (stream.start_time or 0) + round(Fraction(start_s) / time_base)
    tolerance = _half_period(stream, time_base)
    pieces = _lead(container, stream, target, tolerance)
    shown = sorted(piece.pts for piece in pieces if piece.is_shown)
    if not shown:
        raise Refusal("bad_times", f"no frame near {start_s} s")
    first = min(shown, key=lambda pts: (abs(pts - target), pts))
    if abs(first - target) > tolerance:
        away = float(abs(first - target) * time_base)
        raise Refusal("bad_times", f"the frame nearest {start_s} s lies {away:.4f} s away, more than half a period")
    pieces = pieces[_last_start(pieces, first) :]
    return _Part(pieces[0], first, min(piece.pts for piece in pieces), num_frames)


def _half_period(stream: VideoStream, time_base: Fraction) -> int:
    """Half the nominal time between frames, in ticks, rounded up."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise Refusal("bad_times", "the file does not say how many frames it shows a second")
    return -int(-(1 / rate / time_base / 2) // 1)


def _lead(container: InputContainer, stream: VideoStream, target: int, tolerance: int) -> list[_Piece]:
    """Packets in decoding order from a clean start at or before ``target`` until the nearest frame to it is among them."""
    seek_to = target
    before: tuple[int, int | None] | None = None
    step = 1
    for number in range(_TRIES + 62):  # by doubling, any time can be reached
        container.seek(seek_to, stream=stream, backward=True)
        source = packets(container, stream)
        pieces: list[_Piece] = []
        for packet in source:
            pieces.append(_piece(stream, packet))
            if _is_past(packet.dts, pieces[0].pts):
                break
        if not pieces:
            raise Refusal("bad_times", "no frame at that time")
        start = (pieces[0].pts, pieces[0].dts)
        # Of the frames before a shown start at or before the target none is nearer to it.
        covers = pieces[0].pts <= (target if pieces[0].is_shown else target - tolerance)
        if start == before or (covers and 0 in _clean(pieces)):
            latest = max((piece.pts for piece in pieces if piece.is_shown), default=target - tolerance - 1)
            for packet in source:
                if latest >= target - tolerance and _is_past(pieces[-1].dts, target + tolerance):
                    break
                pieces.append(_piece(stream, packet))
                latest = max(latest, pieces[-1].pts) if pieces[-1].is_shown else latest
            return pieces
        before = start
        seek_to = min(seek_to, pieces[0].pts if pieces[0].dts is None else pieces[0].dts) - step
        step *= 1 if number < _TRIES else 2
    raise Refusal("bad_times", "no clean key frame before that time")


def _clean(pieces: Sequence[_Piece]) -> np.ndarray:
    """Indices of the pieces from which decoding may begin."""
    return clean_starts(np.array([piece.pts for piece in pieces]), np.array([piece.is_entry for piece in pieces]))


def _last_start(pieces: Sequence[_Piece], first: int) -> int:
    """Index of the last piece from which decoding may begin to show the frame at ``first``."""
    return max((int(index) for index in _clean(pieces) if pieces[index].pts <= first), default=0)


def _piece(stream: VideoStream, packet: Packet) -> _Piece:
    return _Piece(
        pts=_shown_at(packet),
        dts=packet.dts,
        is_entry=is_entry_point(stream, packet),
        is_shown=not packet.is_discard,
    )


def _shown_at(packet: Packet) -> int:
    if packet.pts is None:
        raise Refusal("bad_times", "a packet without a presentation time")
    if packet.has_sidedata("new_extradata"):
        raise Refusal("unsupported_codec", "the shared file changes its codec parameters on the way")
    return packet.pts


def _is_past(dts: int | None, pts: int) -> bool:
    """Whether after a packet decoded at ``dts`` none can be shown at or before ``pts``: decoding times only grow."""
    return dts is not None and dts > pts


def _packets_of(
    container: InputContainer, stream: VideoStream, part: _Part, limits: dict[str, int]
) -> Iterator[Packet]:
    """The packets of ``part`` in decoding order, as far as the last frame wanted: all that it needs come before it."""
    later: list[int] = []
    waiting: list[Packet] = []
    count = total = 0
    for packet in _from_start(container, stream, part.start):
        pts = _shown_at(packet)
        count, total = count + 1, total + packet.size
        if total > limits["max_video_bytes"]:
            raise Refusal("too_large", f"more than {limits['max_video_bytes']} bytes", "raise limits.max_video_bytes")
        if count > limits["max_frames"]:
            raise Refusal("too_large", f"more than {limits['max_frames']} frames", "raise limits.max_frames")
        if not packet.is_discard and pts >= part.first:
            bisect.insort(later, pts)
        if len(later) < part.num_frames:
            yield packet  # a frame wanted is still to come
            continue
        waiting.append(packet)
        if _is_past(packet.dts, later[part.num_frames - 1]) or len(waiting) > _REORDERED:
            break
    if len(later) < part.num_frames:
        raise Refusal(
            "count_mismatch", f"{part.num_frames} frames wanted, {len(later)} there are from the first one on"
        )
    last = later[part.num_frames - 1]
    wanted = [number for number, packet in enumerate(waiting) if part.first <= (packet.pts or 0) <= last]
    yield from waiting[: 1 + max(wanted)]


def _from_start(container: InputContainer, stream: VideoStream, start: _Piece) -> Iterator[Packet]:
    """Every packet from ``start`` on."""
    container.seek(start.pts if start.dts is None else start.dts, stream=stream, backward=True)
    source = packets(container, stream)
    for packet in source:
        if (packet.pts, packet.dts) == (start.pts, start.dts):
            yield packet
            yield from source
            return
    raise Refusal("corrupt_frame", "the file changed between two readings")


def _times_of(source: Iterator[Packet]) -> list[tuple[int, int | None]]:
    """Presentation and decoding time of each."""
    return [(_shown_at(packet), packet.dts) for packet in source]


def _write_copy(
    output: int,
    template: VideoStream,
    source: Iterator[Packet],
    decoding: Sequence[int] | None,
    part: _Part,
    digest: PacketHash,
) -> list[int]:
    """Writes the packets of ``source``, entering each into ``digest``; their presentation times.

    ``decoding`` are the times at which they are decoded, None where they know that themselves.
    """
    assert template.time_base is not None
    scale, tick = template.time_base.numerator, Fraction(1, template.time_base.denominator)
    written: list[int] = []
    with deterministic_container(output, "mp4", {"video_track_timescale": str(tick.denominator)}) as container:
        stream = container.add_stream_from_template(template, opaque=True)
        stream.time_base = tick
        for original in source:
            pts = original.pts
            assert pts is not None
            dts = original.dts if decoding is None else decoding[len(written)]
            if dts is None:
                raise Refusal("bad_times", "a packet without a decoding time")
            digest.add(original)
            duration, is_key = original.duration or 0, original.is_keyframe
            packet = original if _is_plain(original) else av.Packet(bytes(original))
            packet.stream = stream
            packet.time_base = tick
            packet.pts = (pts - part.base) * scale
            packet.dts = (dts - part.base) * scale
            packet.duration = duration * scale
            packet.is_keyframe = is_key
            container.mux_one(packet)
            written.append(pts)
    return written


def _is_plain(packet: Packet) -> bool:
    """Whether it carries nothing but its bytes and times, such as the mark of a frame that is not shown."""
    return not (packet.is_discard or packet.is_disposable) and next(packet.iter_sidedata(), None) is None


def _decoding_times(times: Sequence[tuple[int, int | None]]) -> list[int]:
    """Those of the input, or where it has none the latest that grow steadily and stay before the presentation."""
    given = [dts for _, dts in times if dts is not None]
    if len(given) == len(times):
        return given
    pts = np.array([one for one, _ in times], np.int64)
    ordered = np.sort(pts)
    delay = int(np.max(ordered - pts))
    return [int(one) - delay for one in ordered]


def pack(images: int, sizes: Sequence[int], output: int, limits: dict[str, int]) -> Written:
    """Writes the images that lie in a row in the file ``images`` as a MOV, unchanged. Raises Refusal with the index."""
    digest = PacketHash("xxh3")
    kind = ""
    shape = (0, 0)
    with refused(), io.FileIO(os.dup(images), "r") as file:
        file.seek(0)
        first = file.read(sizes[0])
        kind, shape = _image_header(first, 0)
        if shape[0] * shape[1] > limits["max_pixels"]:
            text = f"image 0: {shape[1]} x {shape[0]} pixels, allowed are {limits['max_pixels']} in all"
            raise Refusal("too_large", text, "raise limits.max_pixels")
        file.seek(0)
        with deterministic_container(output, "mov", {"video_track_timescale": str(PACKED_RATE)}) as container:
            codec: Literal["mjpeg", "png"] = "mjpeg" if kind == "mjpeg" else "png"
            stream = container.add_stream(codec, rate=PACKED_RATE)
            if not isinstance(stream, VideoStream):
                raise Refusal("unsupported_codec", f"{codec} gives no video stream")
            stream.height, stream.width = shape
            stream.pix_fmt = "yuvj420p" if kind == "mjpeg" else "rgb24"
            stream.time_base = Fraction(1, PACKED_RATE)
            for index, size in enumerate(sizes):
                data = file.read(size)
                if _image_header(data, index) != (kind, shape):
                    found, (height, width) = _image_header(data, index)
                    text = f"image {index} is {found} {width} x {height}, image 0 {kind} {shape[1]} x {shape[0]}"
                    raise Refusal("corrupt_frame", text)
                digest.add(data)
                packet = av.Packet(data)
                packet.stream = stream
                packet.time_base = Fraction(1, PACKED_RATE)
                packet.pts = packet.dts = index
                packet.duration = 1
                packet.is_keyframe = True
                container.mux_one(packet)
    return Written(0, digest.text, np.arange(len(sizes), dtype=np.int64) * (_NANOSECONDS // PACKED_RATE))


def _image_header(data: bytes, index: int) -> tuple[str, tuple[int, int]]:
    """Codec name and (height, width) of a JPEG or PNG file."""
    if data.startswith(_JPEG):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            raise Refusal("corrupt_frame", f"image {index} is a damaged JPEG ({error})") from error
        return "mjpeg", (height, width)
    if data.startswith(_PNG) and data[12:16] == b"IHDR" and len(data) > 33:
        width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
        if width and height:
            return "png", (height, width)
    raise Refusal("corrupt_frame", f"image {index} is neither a JPEG nor a PNG file: it begins with {data[:8]!r}")
