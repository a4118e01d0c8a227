"""Writes video files without encoding anything: cuts by stream copy, single images into a container. Child side.

The bytes written depend on the input alone: no times of day, no version strings, no random ids.
"""

import bisect
import dataclasses
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
    opened,
    packets,
    refused,
)

PACKED_RATE = 10
"""Nominal frames per second of packed images, for players only: their times are kept beside the file."""
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_TRIES = 1000
_NANOSECONDS = 1_000_000_000
_BUFFER_BYTES = 256 << 10
"""Written at a time: every write crosses from FFmpeg to Python and back."""


@contextmanager
def _written(output: int, format_: str, options: dict[str, str]) -> Iterator[OutputContainer]:
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
    """A packet of the input, as much of it as a copy needs."""

    payload: bytes | None
    """None where the whole part is too large to hold."""
    pts: int
    dts: int | None
    duration: int
    is_key: bool
    is_entry: bool
    is_shown: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What a reader has to find in a file that was written here."""

    first_frame: int
    """The frame that was asked for."""
    packets_sha256: str
    """Of what went in."""
    times_ns: np.ndarray
    """int64 [F]"""


def cut(descriptor: int, output: int, start_s: float, num_frames: int, limits: dict[str, int]) -> Written:
    """Writes the frames from the one nearest ``start_s`` on, and those they need.

    Reads from the key frame before to the last frame wanted, not the whole file. Raises Refusal.
    """
    # A shared file may hold hundreds of episodes: its size is not this episode's, the copy's is.
    open_limits = {**limits, "max_video_bytes": max(limits["max_video_bytes"], os.fstat(descriptor).st_size)}
    open_limits["max_frames"] = 2**62
    with refused(), opened(descriptor, open_limits) as (container, stream, _):
        time_base = stream.time_base
        if time_base is None or time_base <= 0:
            raise Refusal("bad_times", "no time base")
        target = (stream.start_time or 0) + round(Fraction(start_s) / time_base)
        tolerance = _half_period(stream, time_base)
        pieces = _pieces(container, stream, target, tolerance, num_frames, limits)
        first, stop = _wanted(pieces, target, tolerance, num_frames, start_s, time_base)
        pieces = pieces[_last_start(pieces, first) : stop]
        base = min(piece.pts for piece in pieces)
        digest = PacketHash(stream.codec_context.extradata)
        _write_copy(output, stream, pieces, _payloads(container, stream, pieces, digest), base, time_base)
    pts = np.sort([piece.pts for piece in pieces])
    times = [int((Fraction(int(one) - base) * time_base * _NANOSECONDS) // 1) for one in pts]
    return Written(int(np.searchsorted(pts, first)), digest.text, np.array(times, dtype=np.int64))


def _half_period(stream: VideoStream, time_base: Fraction) -> int:
    """Half the nominal time between frames, in ticks, rounded up."""
    rate = stream.average_rate or stream.guessed_rate
    if not rate:
        raise Refusal("bad_times", "the file does not say how many frames it shows a second")
    return -int(-(1 / rate / time_base / 2) // 1)


def _pieces(
    container: InputContainer, stream: VideoStream, target: int, tolerance: int, num_frames: int, limits: dict[str, int]
) -> list[_Piece]:
    """Packets in decoding order from a clean start at or before ``target`` until nothing wanted can follow."""
    seek_to = target
    before: tuple[int, int | None] | None = None
    for _ in range(_TRIES):
        container.seek(seek_to, stream=stream, backward=True)
        source = packets(container, stream)
        pieces: list[_Piece] = []
        for packet in source:
            pieces.append(_piece(stream, packet, True))
            if _is_past(pieces, pieces[0].pts):
                break
        if not pieces:
            raise Refusal("bad_times", "no frame at that time")
        start = (pieces[0].pts, pieces[0].dts)
        # Of the frames before a shown start at or before the target none is nearer to it.
        covers = pieces[0].pts <= (target if pieces[0].is_shown else target - tolerance)
        if start == before or (covers and 0 in _clean(pieces)):
            _read_on(pieces, stream, source, target, tolerance, num_frames, limits)
            return pieces
        before = start
        seek_to = min(seek_to, pieces[0].pts if pieces[0].dts is None else pieces[0].dts) - 1
    raise Refusal("bad_times", "no clean key frame before that time")


def _clean(pieces: Sequence[_Piece]) -> np.ndarray:
    """Indices of the pieces from which decoding may begin."""
    return clean_starts(np.array([piece.pts for piece in pieces]), np.array([piece.is_entry for piece in pieces]))


def _last_start(pieces: Sequence[_Piece], first: int) -> int:
    """Index of the last piece from which decoding may begin to show the frame at ``first``."""
    return max((int(index) for index in _clean(pieces) if pieces[index].pts <= first), default=0)


def _piece(stream: VideoStream, packet: Packet, held: bool) -> _Piece:
    if packet.pts is None:
        raise Refusal("bad_times", "a packet without a presentation time")
    if packet.has_sidedata("new_extradata"):
        raise Refusal("unsupported_codec", "the shared file changes its codec parameters on the way")
    return _Piece(
        payload=bytes(packet) if held else None,
        pts=packet.pts,
        dts=packet.dts,
        duration=packet.duration or 0,
        is_key=packet.is_keyframe,
        is_entry=is_entry_point(stream, packet),
        is_shown=not packet.is_discard,
    )


def _is_past(pieces: Sequence[_Piece], pts: int) -> bool:
    """Whether no packet to come can be shown at or before ``pts``: decoding times only grow."""
    dts = pieces[-1].dts
    return dts is not None and dts > pts


def _read_on(
    pieces: list[_Piece],
    stream: VideoStream,
    source: Iterator[Packet],
    target: int,
    tolerance: int,
    num_frames: int,
    limits: dict[str, int],
) -> None:
    """Reads until the ``num_frames`` from about ``target`` on are all there, one more for the choice of the nearest."""
    total = sum(len(piece.payload or b"") for piece in pieces)
    later = sorted(piece.pts for piece in pieces if piece.is_shown and piece.pts >= target - tolerance)
    while len(later) <= num_frames or not _is_past(pieces, later[num_frames]):
        packet = next(source, None)
        if packet is None:
            return
        total += packet.size
        if total > limits["held_bytes"] and pieces[0].payload is not None:
            pieces[:] = [dataclasses.replace(piece, payload=None) for piece in pieces]
        pieces.append(_piece(stream, packet, total <= limits["held_bytes"]))
        if total > limits["max_video_bytes"]:
            raise Refusal("too_large", f"more than {limits['max_video_bytes']} bytes", "raise limits.max_video_bytes")
        if len(pieces) > limits["max_frames"]:
            raise Refusal("too_large", f"more than {limits['max_frames']} frames", "raise limits.max_frames")
        if pieces[-1].is_shown and pieces[-1].pts >= target - tolerance:
            bisect.insort(later, pieces[-1].pts)


def _wanted(
    pieces: list[_Piece], target: int, tolerance: int, num_frames: int, start_s: float, time_base: Fraction
) -> tuple[int, int]:
    """Time of the first wanted frame, and the index after the last piece needed."""
    shown = sorted(piece.pts for piece in pieces if piece.is_shown)
    if not shown:
        raise Refusal("bad_times", f"no frame near {start_s} s")
    first = min(shown, key=lambda pts: (abs(pts - target), pts))
    if abs(first - target) > tolerance:
        away = float(abs(first - target) * time_base)
        raise Refusal("bad_times", f"the frame nearest {start_s} s lies {away:.4f} s away, more than half a period")
    wanted = shown[shown.index(first) :][:num_frames]
    if len(wanted) < num_frames:
        raise Refusal("count_mismatch", f"{num_frames} frames wanted from {start_s} s on, {len(wanted)} there are")
    return first, 1 + max(index for index, piece in enumerate(pieces) if first <= piece.pts <= wanted[-1])


def _payloads(
    container: InputContainer, stream: VideoStream, pieces: Sequence[_Piece], digest: PacketHash
) -> Iterator[bytes]:
    """What the packets of ``pieces`` hold, in order, each entered into ``digest``: as held, or read a second time."""
    again = None if pieces[0].payload is not None else _read_again(container, stream, pieces)
    for piece in pieces:
        payload = piece.payload if again is None else next(again)
        if payload is None:
            raise Refusal("corrupt_frame", "a packet is held in part only")
        digest.add(payload)
        yield payload


def _read_again(container: InputContainer, stream: VideoStream, pieces: Sequence[_Piece]) -> Iterator[bytes]:
    start = pieces[0].pts if pieces[0].dts is None else pieces[0].dts
    container.seek(start, stream=stream, backward=True)
    number = 0
    for packet in packets(container, stream):
        if number == len(pieces):
            return
        if (packet.pts, packet.dts) == (pieces[number].pts, pieces[number].dts):
            yield bytes(packet)
            number += 1
        elif number:
            break
    if number < len(pieces):
        raise Refusal("corrupt_frame", f"packet {number} of the part changed between two readings")


def _write_copy(
    output: int,
    template: VideoStream,
    pieces: Sequence[_Piece],
    payloads: Iterator[bytes],
    base: int,
    time_base: Fraction,
) -> None:
    tick = Fraction(1, time_base.denominator)
    decoding = _decoding_times(pieces)
    with _written(output, "mp4", {"video_track_timescale": str(tick.denominator)}) as container:
        stream = container.add_stream_from_template(template, opaque=True)
        stream.time_base = tick
        for piece, dts, payload in zip(pieces, decoding, payloads, strict=True):
            packet = av.Packet(payload)
            packet.stream = stream
            packet.time_base = tick
            packet.pts = (piece.pts - base) * time_base.numerator
            packet.dts = (dts - base) * time_base.numerator
            packet.duration = piece.duration * time_base.numerator
            packet.is_keyframe = piece.is_key
            container.mux_one(packet)


def _decoding_times(pieces: Sequence[_Piece]) -> list[int]:
    """Those of the input, or where it has none the latest that grow steadily and stay before the presentation."""
    given = [piece.dts for piece in pieces if piece.dts is not None]
    if len(given) == len(pieces):
        return given
    ordered = np.sort([piece.pts for piece in pieces])
    delay = int(np.max(ordered - np.array([piece.pts for piece in pieces])))
    return [int(one) - delay for one in ordered]


def pack(images: int, sizes: Sequence[int], output: int, limits: dict[str, int]) -> Written:
    """Writes the images that lie in a row in the file ``images`` as a MOV, unchanged. Raises Refusal with the index."""
    digest = PacketHash()
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
        with _written(output, "mov", {"video_track_timescale": str(PACKED_RATE)}) as container:
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
