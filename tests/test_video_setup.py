"""Packets that bring other parameter sets than the container has are decoded by those: nothing that may be copied elsewhere."""

import io
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.video import VideoTools
from pipelines.video_setup import Setup
from schemas.recipes import Limits
from tests.chain import movie
from tests.test_video_writer import colored_frames

LENGTH = 12


@pytest.fixture(scope="module")
def tools() -> Iterator[VideoTools]:
    with VideoTools(Limits()) as found:
        yield found


def encoded(quality: int = 20, params: str = "", encoder: str = "libx264", container: str = "mp4") -> bytes:
    """Twelve frames with a key frame at every fourth."""
    options = {
        "libx264": {"bf": "0", "qp": str(quality), "x264-params": f"scenecut=0:{params}".rstrip(":")},
        "libsvtav1": {"preset": "12"},
        "libaom-av1": {"cpu-used": "8"},
    }[encoder] | {"g": "4"}
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format=container) as output:
            stream = output.add_stream(encoder, rate=10, options=options)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            for frame in colored_frames(LENGTH):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            output.mux(stream.encode(None))
        return Path(file.name).read_bytes()


def packets_of(video: bytes) -> list[tuple[bytes, bool]]:
    with av.open(io.BytesIO(video)) as container:
        return [(bytes(packet), packet.is_keyframe) for packet in container.demux(video=0) if packet.size]


def holding(packets: Sequence[tuple[bytes, bool]], like: bytes, container: str = "mp4") -> bytes:
    """A video of these packets, told of as ``like`` is."""
    with tempfile.NamedTemporaryFile() as file:
        with av.open(io.BytesIO(like)) as source, av.open(file.name, "w", format=container) as output:
            stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
            stream.time_base = Fraction(1, 10)
            for number, (data, is_key) in enumerate(packets):
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 10), is_key
                packet.pts = packet.dts = number
                packet.duration = 1
                output.mux_one(packet)
        return Path(file.name).read_bytes()


def without_sets(packet: bytes) -> bytes:
    """A packet of H.264 without the parameter sets in it."""
    kept, position = b"", 0
    while position < len(packet):
        stop = position + 4 + int.from_bytes(packet[position : position + 4], "big")
        kept += b"" if packet[position + 4] & 31 in (7, 8) else packet[position:stop]
        position = stop
    return kept


def changed_once() -> bytes:
    """From the second key frame on other parameter sets count, which only that one brings."""
    fine, coarse = packets_of(encoded()), packets_of(encoded(38, "repeat-headers=1"))
    rest = [(without_sets(data), is_key) for data, is_key in coarse[5:]]
    return holding([*fine[:4], coarse[4], *rest], encoded())


def described_twice() -> bytes:
    """An MP4 with two sample entries: the first is of four frames, the other of the rest."""
    fine, coarse = encoded(), encoded(38)
    packets = [*packets_of(fine)[:4], *packets_of(coarse)[4:]]
    found = bytearray(holding(packets, fine))

    def box(kind: bytes, data: bytes | bytearray = found) -> slice:
        start = data.rfind(kind) - 4
        return slice(start, start + struct.unpack_from(">I", data, start)[0])

    def put(where: slice, content: bytes) -> None:
        growth = len(content) - (where.stop - where.start)
        found[where] = content
        for kind in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
            start = box(kind).start
            struct.pack_into(">I", found, start, struct.unpack_from(">I", found, start)[0] + growth)

    first, second = found[box(b"stsd")], coarse[box(b"stsd", coarse)]
    entries = bytes(first[16:]) + second[16:]
    put(box(b"stsd"), struct.pack(">I4sII", 16 + len(entries), b"stsd", 0, 2) + entries)
    put(box(b"stsc"), struct.pack(">I4s8I", 40, b"stsc", 0, 2, 1, 4, 1, 2, LENGTH - 4, 2))
    (start,) = struct.unpack_from(">I", found, box(b"stco").start + 16)
    behind = start + sum(len(data) for data, _ in packets[:4])
    put(box(b"stco"), struct.pack(">I4s4I", 24, b"stco", 0, 2, start, behind))
    return bytes(found)


@pytest.mark.parametrize("make", [changed_once, described_twice])
def test_a_video_that_changes_its_parameter_sets_is_not_plain(
    tools: VideoTools, tmp_path: Path, make: Callable[[], bytes]
) -> None:
    video = make()
    (tmp_path / "v.mp4").write_bytes(video)
    (tmp_path / "coarse.mp4").write_bytes(encoded(38))
    found, coarse = (list(movie([tmp_path / name])) for name in ("v.mp4", "coarse.mp4"))
    np.testing.assert_array_equal(found[4:], coarse[4:])  # a decoder follows the change
    assert tools.inspect(video, "a test").key_frames == (0, 4, 8)
    assert not tools.inspect(video, "a test").is_plain


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"params": "repeat-headers=1"},
        {"params": "slices=3:aud=1"},
        {"container": "matroska"},
        {"encoder": "libsvtav1"},
        {"encoder": "libaom-av1"},
        {"encoder": "libsvtav1", "container": "webm"},
    ],
    ids=str,
)
def test_the_same_sets_again_change_nothing(tools: VideoTools, choice: dict[str, Any]) -> None:
    found = tools.inspect(encoded(**choice), "a test")
    assert found.is_plain
    assert found.key_frames == (0, 4, 8)


@pytest.mark.parametrize("params", ["interlaced=1", "fake-interlaced=1"])
def test_what_may_be_interlaced_is_not_plain(tools: VideoTools, params: str) -> None:
    assert not tools.inspect(encoded(params=params), "a test").is_plain


def test_a_header_of_av1_that_changes_is_not_plain(tools: VideoTools) -> None:
    one, other = encoded(encoder="libsvtav1"), encoded(encoder="libaom-av1")
    joined = holding([*packets_of(one)[:4], *packets_of(other)[4:]], one)
    assert not tools.inspect(joined, "a test").is_plain
    assert tools.inspect(one, "a test").setup_sha256 != tools.inspect(other, "a test").setup_sha256


@pytest.mark.parametrize("bits", [16, 64])
def test_extra_data_that_is_cut_off_is_survived(bits: int) -> None:
    with av.open(io.BytesIO(encoded())) as container:
        extradata = container.streams.video[0].codec_context.extradata or b""
    for length in range(len(extradata)):
        setup = Setup("h264", extradata[:length])
        setup.see(memoryview(bytes(bits)), True)
        assert setup.is_progressive in (True, False)
        av1 = Setup("av1", b"\x81" + extradata[:length])
        av1.see(memoryview(b"\x0a\xff" * bits), True)
        assert not av1.is_one
