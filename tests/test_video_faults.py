"""Bad video files: each gives its reason, none a short or wrong video, none takes the decoder along. Rows V of the faults."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.video import VideoTools
from schemas.errors import DecodeError, MissingFile
from schemas.recipes import Limits
from tests import clips

NUM_FRAMES = 50


@pytest.fixture(scope="module")
def tools() -> Iterator[VideoTools]:
    with VideoTools(Limits()) as opened:
        yield opened


@pytest.fixture(scope="module")
def good() -> bytes:
    return clips.encode("h264", clips.pictures(NUM_FRAMES))


def reason_of(tools: VideoTools, good: bytes, bad: bytes) -> str:
    """Why ``bad`` does not decode where ``good`` would."""
    with pytest.raises(DecodeError) as caught:
        list(tools.decode(clips.view_of(tools.inspect(good, "clip"), bad), "clip"))
    return caught.value.reason


def inspect_reason(tools: VideoTools, bad: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        tools.inspect(bad, "clip")
    assert caught.value.where == "clip"
    return caught.value.reason


def patched(data: bytes, kind: bytes, offset: int, value: bytes) -> bytes:
    """``data`` with bytes at ``offset`` after the four letters of its first ``kind`` box replaced."""
    at = data.index(kind) + 4 + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0" * 100_000,
        b"<!DOCTYPE html><html><body>404 not found</body></html>",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 99,
    ],
)
def test_v1_what_is_no_video(tools: VideoTools, content: bytes) -> None:
    assert inspect_reason(tools, content) == "not_video"


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile '{other}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{other}\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "http://127.0.0.1:9/clip.mp4",
    ],
)
def test_v13_a_list_in_disguise_opens_nothing(tools: VideoTools, tmp_path: Path, good: bytes, text: str) -> None:
    other = tmp_path / "other.mp4"
    other.write_bytes(good)
    disguised = tmp_path / "list.mp4"
    disguised.write_text(text.format(other=other))
    assert inspect_reason(tools, disguised.read_bytes()) == "not_video"
    with pytest.raises(DecodeError) as caught:
        tools.cut(str(disguised), 0.0, 1, "clip")
    assert caught.value.reason == "not_video"


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:9/clip.mp4", "concat:a.mp4|b.mp4", "data:video/mp4;base64,AAAA", "/"]
)
def test_v13_an_address_is_no_path(tools: VideoTools, path: str) -> None:
    with pytest.raises((MissingFile, DecodeError)):
        tools.cut(path, 0.0, 1, "clip")


@pytest.mark.parametrize("faststart", [True, False])
def test_v2_truncated_anywhere(tools: VideoTools, good: bytes, faststart: bool) -> None:
    whole = clips.encode("h264", clips.pictures(NUM_FRAMES), options={"movflags": "faststart"} if faststart else {})
    lengths = {len(whole) * percent // 100 for percent in (10, 50, 90, 99)} | {len(whole) - 1}
    lengths |= set(range(8, min(4096, len(whole)), 5))
    facts = tools.inspect(whole, "clip")
    for length in sorted(lengths):
        assert inspect_reason(tools, whole[:length]) == "truncated", length
    for length in sorted(lengths)[::20]:
        with pytest.raises(DecodeError) as caught:
            clips.thumbs(tools, clips.view_of(facts, whole[:length]))
        assert caught.value.reason == "truncated"
    for length in range(8):
        assert inspect_reason(tools, whole[:length]) == "not_video"


@pytest.mark.parametrize("options", [{}, {"live": "1"}])
def test_v3_truncated_matroska(tools: VideoTools, options: dict[str, str]) -> None:
    whole = clips.encode("h264", clips.pictures(NUM_FRAMES), "matroska", options)
    assert clips.numbers(np.concatenate(list(tools.decode(clips.view_of(tools.inspect(whole, "c"), whole), "c")))) == [
        *range(NUM_FRAMES)
    ]
    for percent in (20, 50, 90):
        reason = reason_of(tools, whole, whole[: len(whole) * percent // 100])
        assert reason in (("truncated", "count_mismatch", "corrupt_frame") if options else ("truncated",))


def test_v3_truncated_between_fragments(tools: VideoTools) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    whole = clips.encode("h264", clips.pictures(NUM_FRAMES), options=options)
    last = whole.rindex(b"moof") - 4
    short = whole[:last]
    assert len(tools.inspect(short, "clip").times_ns) < NUM_FRAMES  # nothing in the file itself tells
    assert reason_of(tools, whole, short) == "count_mismatch"
    assert reason_of(tools, whole, whole[: last + 300]) == "truncated"


def test_v4_damaged_bits_are_noticed(tools: VideoTools, good: bytes) -> None:
    """Seeded damage of five kinds; the few that slip through are what the hash of the source is for."""
    view = clips.view_of(tools.inspect(good, "clip"), good)
    shown = np.concatenate(list(tools.decode(view, "clip")))
    random = np.random.default_rng(20)
    silent, noticed, harmless = 0, 0, 0
    for trial in range(100):
        bad = bytearray(good)
        at = int(random.integers(0, len(good) - 300))
        match trial % 5:
            case 0:
                bad[at] ^= 1 << int(random.integers(8))
            case 1:
                for place in random.integers(0, len(good), 10):
                    bad[place] ^= 1 << int(random.integers(8))
            case 2:
                bad[at : at + 200] = bytes(200)
            case 3:
                bad[at : at + 200] = random.bytes(200)
            case _:
                bad[at : at + 100], bad[at + 100 : at + 200] = bad[at + 100 : at + 200], bad[at : at + 100]
        try:
            got = np.concatenate(list(tools.decode(clips.view_of(tools.inspect(good, "clip"), bytes(bad)), "clip")))
        except DecodeError:
            noticed += 1
            continue
        if np.array_equal(got, shown):
            harmless += 1
        else:
            silent += 1
    assert noticed > 60
    assert silent <= 2, (silent, noticed, harmless)


@pytest.mark.parametrize("found", [NUM_FRAMES - 10, NUM_FRAMES + 10, 10**9])
def test_v5_header_count_wrong(tools: VideoTools, good: bytes, found: int) -> None:
    reasons = ("count_mismatch", "too_large") if found == 10**9 else ("count_mismatch",)
    assert reason_of(tools, good, patched(good, b"stts", 8, struct.pack(">I", found))) in reasons


@pytest.mark.parametrize("found", [NUM_FRAMES - 10, 10**9])
def test_v5_size_table_wrong(tools: VideoTools, good: bytes, found: int) -> None:
    bad = patched(good, b"stsz", 8, struct.pack(">I", found))
    assert reason_of(tools, good, bad) in ("count_mismatch", "corrupt_frame", "truncated", "too_large")


@pytest.mark.parametrize("expected", [NUM_FRAMES - 1, NUM_FRAMES + 1])
def test_v5_other_count_than_expected(tools: VideoTools, good: bytes, expected: int) -> None:
    with pytest.raises(DecodeError, match=f"{expected} frames expected") as caught:
        next(tools.decode(clips.view_of(tools.inspect(good, "clip"), good, expected), "clip"))
    assert caught.value.reason == "count_mismatch"


def test_v6_no_video_stream(tools: VideoTools) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16_000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert inspect_reason(tools, file.getvalue()) == "not_video"


def test_v6_a_codec_that_is_not_allowed(tools: VideoTools) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        stream = output.add_stream("prores_ks", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv422p10le"
        output.mux(stream.encode(av.VideoFrame(32, 32, "yuv422p10le")))
        output.mux(stream.encode(None))
    assert inspect_reason(tools, file.getvalue()) == "unsupported_codec"


def test_v6_of_two_streams_the_one_marked_default(tools: VideoTools) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream("ffv1", rate=10) for _ in range(2)]
        for tag, stream in enumerate(streams):
            stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv444p"
            stream.disposition = av.stream.Disposition.default.value if tag else 0
        for tag, stream in enumerate(streams):
            for picture in clips.pictures(3, tag=tag):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv444p")))
            output.mux(stream.encode(None))
    facts = tools.inspect(file.getvalue(), "clip")
    assert (facts.num_video_streams, facts.num_packets) == (2, 3)
    shown = next(tools.decode(clips.view_of(facts, file.getvalue()), "clip"))
    assert [clips.barcode.read_mark(frame) for frame in shown] == [(0, 1), (1, 1), (2, 1)]


def test_a_view_that_names_another_codec_or_container_or_size(tools: VideoTools, good: bytes) -> None:
    import dataclasses

    view = clips.view_of(tools.inspect(good, "clip"), good)
    changes = {"codec": "av1", "container": "matroska", "width_px": view.width_px + 2}
    for name, value in changes.items():
        with pytest.raises(DecodeError):
            next(tools.decode(dataclasses.replace(view, **{name: value}), "clip"))


def test_v7_two_frames_at_one_time(tools: VideoTools) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for pts in (0, 100, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((48, 32), pts, np.uint8), "yuv420p")
            for packet in stream.encode(frame):
                packet.pts = packet.dts = pts
                packet.time_base = stream.time_base or av.time_base
                output.mux(packet)
    assert inspect_reason(tools, file.getvalue()) == "bad_times"


def test_v9_limits_come_before_the_work(good: bytes) -> None:
    for limits in (Limits(max_pixels=1000), Limits(max_frames=49), Limits(max_video_bytes=len(good) - 1)):
        with VideoTools(limits) as strict:
            assert inspect_reason(strict, good) == "too_large"
    with VideoTools(Limits(max_pixels=96 * 160, max_frames=50, max_video_bytes=len(good))) as exact:
        assert exact.inspect(good, "clip").num_packets == NUM_FRAMES


def test_v9_a_header_that_claims_a_huge_picture(tools: VideoTools) -> None:
    data = clips.encode("ffv1", clips.pictures(3))
    bad = patched(data, b"stsd", 40, struct.pack(">HH", 16384, 8704))
    assert inspect_reason(tools, bad) == "too_large"


def test_memory_is_limited() -> None:
    small = clips.encode("h264", clips.pictures(5))
    large = clips.encode("ffv1", np.zeros((1, 2160, 3840, 3), np.uint8))
    with VideoTools(Limits(decode_memory_mb=64)) as tight, VideoTools(Limits()) as generous:
        view = clips.view_of(generous.inspect(large, "large"), large)
        with pytest.raises(DecodeError) as caught:
            list(tight.decode(view, "large"))
        assert caught.value.reason == "memory_limit"
        assert len(next(tight.decode(clips.view_of(generous.inspect(small, "small"), small), "small"))) == 5
