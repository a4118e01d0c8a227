"""The decoder shows the frame it was asked for, whatever codec, container, edit list or cut it lies behind."""

import io
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest

from pipelines import video_cut
from pipelines.video import VideoTools
from pipelines.video_files import CutPart
from schemas.errors import CorruptEpisode, DecodeError, MissingFile
from schemas.recipes import Limits, ViewsRecipe
from tests import clips

NUM_FRAMES = 50
CASES = list(itertools.product(clips.CODECS, ("mp4", "matroska")))


@pytest.fixture(scope="module")
def tools() -> Iterator[VideoTools]:
    with VideoTools(Limits()) as opened:
        yield opened


def decode_all(tools: VideoTools, data: bytes) -> np.ndarray:
    return np.concatenate(list(tools.decode(clips.view_of(tools.inspect(data, "clip"), data), "clip")))


@pytest.mark.parametrize(("kind", "container"), CASES)
def test_every_codec_shows_every_frame_under_its_number(tools: VideoTools, kind: str, container: str) -> None:
    data = clips.encode(kind, clips.pictures(NUM_FRAMES), container)
    facts = tools.inspect(data, "clip")
    assert facts.codec == kind.split("_")[0]
    assert facts.container == ("mov" if container == "mp4" else "matroska")
    assert facts.header_frames == (NUM_FRAMES if container == "mp4" else None)
    assert (facts.num_packets, facts.width_px, facts.height_px) == (NUM_FRAMES, clips.WIDTH_PX, clips.HEIGHT_PX)
    assert facts.start_offset_ns == 0
    exact = np.arange(NUM_FRAMES) * 10**9 // clips.RATE
    assert np.abs(facts.times_ns - exact).max() <= (
        0 if container == "mp4" else 500_000
    )  # Matroska counts milliseconds
    view = clips.view_of(facts, data)
    shown = np.concatenate(list(tools.decode(view, "clip")))
    assert clips.numbers(shown) == list(range(NUM_FRAMES))
    for wanted in ([0], [NUM_FRAMES - 1], [3, 3, 3, 24, 25, 47], list(range(11, 26))):
        some = np.concatenate(list(tools.decode(view, "clip", np.array(wanted))))
        np.testing.assert_array_equal(some, shown[wanted])


@pytest.mark.parametrize(("kind", "container"), CASES)
def test_a_cut_decodes_to_the_same_pixels(tools: VideoTools, tmp_path: Path, kind: str, container: str) -> None:
    data = clips.encode(kind, clips.pictures(NUM_FRAMES), container)
    shown, facts = decode_all(tools, data), tools.inspect(data, "clip")
    path = tmp_path / "shared"
    path.write_bytes(data)
    for start, count in ((0, NUM_FRAMES), (0, 4), (12, 12), (13, 20), (30, 20), (NUM_FRAMES - 1, 1)):
        cut = tools.cut(str(path), start / clips.RATE, count, "clip")
        view = clips.view_of_cut(cut, count)
        np.testing.assert_array_equal(np.concatenate(list(tools.decode(view, "clip"))), shown[start : start + count])
        span = facts.times_ns[start : start + count] - facts.times_ns[start]
        assert np.abs(view.times_ns - view.times_ns[0] - span).max() <= 1  # both rounded down
        assert tools.cut(str(path), start / clips.RATE, count, "clip").data == cut.data
        assert tools.inspect(cut.data, "cut").packets_sha256 == cut.facts.packets_sha256


def test_a_cut_starts_at_the_last_clean_key_frame(tools: VideoTools, tmp_path: Path) -> None:
    path = tmp_path / "shared.mp4"
    path.write_bytes(clips.encode("h264", clips.pictures(NUM_FRAMES)))
    key = max(key for key in tools.inspect(path.read_bytes(), "clip").key_frames if key <= 29)
    assert 0 < key < 29
    assert tools.cut(str(path), 29 / clips.RATE, 3, "clip").first_frame == 29 - key
    assert tools.cut(str(path), key / clips.RATE - 1e-4, 3, "clip").first_frame == 0  # seconds that lost a digit


def test_a_cut_takes_the_nearest_frame_within_half_a_period(tools: VideoTools, tmp_path: Path) -> None:
    path = tmp_path / "shared.mp4"
    path.write_bytes(clips.encode("h264", clips.pictures(NUM_FRAMES)))
    for offset in (-0.45, 0.45):
        cut = tools.cut(str(path), (20 + offset) / clips.RATE, 2, "clip")
        assert clips.numbers(np.concatenate(list(tools.decode(clips.view_of_cut(cut, 2), "clip")))) == [20, 21]
    with pytest.raises(DecodeError) as late:
        tools.cut(str(path), (NUM_FRAMES + 3) / clips.RATE, 1, "clip")
    assert late.value.reason == "bad_times"
    with pytest.raises(DecodeError) as short:
        tools.cut(str(path), 40 / clips.RATE, 20, "clip")
    assert short.value.reason == "count_mismatch"
    with pytest.raises(MissingFile):
        tools.cut(str(tmp_path / "absent.mp4"), 0.0, 1, "clip")


def test_several_cuts_are_those_made_one_by_one(tools: VideoTools, tmp_path: Path) -> None:
    paths = [tmp_path / f"{kind}.mp4" for kind in ("h264", "hevc", "av1")]
    for path in paths:
        path.write_bytes(clips.encode(path.stem, clips.pictures(NUM_FRAMES)))
    parts = [CutPart(str(path), 13 / clips.RATE, 20, path.stem) for path in paths]
    together = tools.cuts(parts)
    for part, found in zip(parts, together, strict=True):
        alone = tools.cut(part.path, part.start_s, part.num_frames, part.where)
        assert (found.data, found.first_frame, found.sha256) == (alone.data, alone.first_frame, alone.sha256)
        assert found.facts.packets_sha256 == alone.facts.packets_sha256
    parts[1:] = [replace(parts[1], start_s=1000.0), replace(parts[2], path=str(tmp_path / "absent.mp4"))]
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(DecodeError, match="hevc: the frame nearest"):
            tools.cuts([*parts, parts[0]])
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files


@pytest.mark.parametrize("change", [{"packets_xxh3": "0" * 32}, {"times_ns": np.arange(20)}])
def test_a_copy_that_does_not_read_back_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    class Lossy(VideoTools):
        def _written(self, *arguments: Any) -> Any:
            return replace(super()._written(*arguments), **change)

    path = tmp_path / "shared.mp4"
    path.write_bytes(clips.encode("h264", clips.pictures(NUM_FRAMES)))
    with Lossy(Limits()) as tools:
        for parts in ([CutPart(str(path), 0.0, 20, "clip")], [CutPart(str(path), 0.0, 20, "clip")] * 2):
            with pytest.raises(DecodeError, match="read back") as caught:
                tools.cuts(parts)
            assert caught.value.reason == "count_mismatch"


def test_cuts_that_fail_leave_no_descriptors(tools: VideoTools, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    good.write_bytes(clips.encode("h264", clips.pictures(NUM_FRAMES)))
    bad.write_bytes(good.read_bytes()[:2000])
    parts = [CutPart(str(good), 0.0, 20, f"camera {number}") for number in range(8)]
    tools.cuts(parts)
    before = psutil.Process().num_fds()
    for number in (0, 0, 0, 5):
        with pytest.raises(DecodeError, match=f"camera {number}"):
            tools.cuts([replace(part, path=str(bad)) if part is parts[number] else part for part in parts])
    assert psutil.Process().num_fds() == before


def test_a_file_that_changes_while_it_is_cut_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shared.mp4"
    path.write_bytes(clips.encode("h264", clips.pictures(NUM_FRAMES)))

    class Disturbed(VideoTools):
        def _written(self, *arguments: Any) -> Any:
            copy = super()._written(*arguments)
            os.utime(path, ns=(0, 0))
            return copy

    with Disturbed(Limits()) as tools:
        before = psutil.Process().num_fds()
        tools.start()
        with pytest.raises(CorruptEpisode) as caught:
            tools.cut(str(path), 0.0, 20, "clip")
        assert (caught.value.reason, caught.value.where) == ("changed_while_reading", "clip")
        tools.close()
        assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("start_s", [1e300, -1e300, 1e18, -1e18])
def test_a_start_beyond_all_times_is_refused(tools: VideoTools, tmp_path: Path, start_s: float) -> None:
    path = tmp_path / "shared.mp4"
    path.write_bytes(clips.encode("h264", clips.pictures(4)))
    with pytest.raises(DecodeError) as caught:
        tools.cut(str(path), start_s, 1, "clip")
    assert caught.value.reason == "bad_times"


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_clean_key_frame_far_back_is_found(tmp_path: Path, container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shared"
    path.write_bytes(clips.encode("h264_open", clips.pictures(NUM_FRAMES), container))
    limits = {name: getattr(Limits(), name) for name in ("max_pixels", "max_frames", "max_video_bytes")}
    found = []
    for tries in (1000, 0):
        monkeypatch.setattr(video_cut, "_TRIES", tries)
        with path.open("rb") as source, (tmp_path / f"cut{tries}.mp4").open("wb+") as output:
            found.append(video_cut.cut(source.fileno(), output.fileno(), 45 / clips.RATE, 3, limits).first_frame)
    assert found == [45, 45]  # no other key frame is clean
    assert (tmp_path / "cut1000.mp4").read_bytes() == (tmp_path / "cut0.mp4").read_bytes()


def test_a_cut_in_a_gap_is_an_error(tools: VideoTools, tmp_path: Path) -> None:
    times = [*range(20), *range(60, 80)]
    path = tmp_path / "gap.mp4"
    path.write_bytes(clips.encode("h264", clips.pictures(40), times=times))
    with pytest.raises(DecodeError) as caught:
        tools.cut(str(path), 40 / clips.RATE, 2, "clip")
    assert caught.value.reason == "bad_times"
    cut = tools.cut(str(path), 60 / clips.RATE, 20, "clip")
    assert clips.numbers(np.concatenate(list(tools.decode(clips.view_of_cut(cut, 20), "clip")))) == list(range(20, 40))


def test_uneven_times_come_back_exactly(tools: VideoTools) -> None:
    times = [0, 1, 2, 5, 6, 7, 20, 21, 40]
    facts = tools.inspect(clips.encode("h264", clips.pictures(len(times)), times=times), "clip")
    assert facts.times_ns.tolist() == [time * 10**9 // clips.RATE for time in times]


def test_a_start_offset_is_removed_and_recorded(tools: VideoTools, tmp_path: Path) -> None:
    data = clips.encode("h264", clips.pictures(NUM_FRAMES), times=range(30, 30 + NUM_FRAMES))
    facts = tools.inspect(data, "clip")
    assert (facts.times_ns[0], facts.start_offset_ns) == (0, 2 * 10**9)
    assert clips.numbers(decode_all(tools, data)) == list(range(NUM_FRAMES))
    path = tmp_path / "late.mp4"
    path.write_bytes(data)
    cut = tools.cut(str(path), 12 / clips.RATE, 3, "clip")
    assert clips.numbers(np.concatenate(list(tools.decode(clips.view_of_cut(cut, 3), "clip")))) == [12, 13, 14]


@pytest.mark.parametrize("fragments", [{}, {"use_editlist": "0"}])
def test_a_fragmented_file_counts_by_its_packets(tools: VideoTools, fragments: dict[str, str]) -> None:
    options = {"movflags": "frag_keyframe+empty_moov", **fragments}
    data = clips.encode("h264", clips.pictures(NUM_FRAMES), options=options)
    facts = tools.inspect(data, "clip")
    assert facts.header_frames is None
    assert facts.times_ns[0] == 0
    assert clips.numbers(decode_all(tools, data)) == list(range(NUM_FRAMES))


@pytest.mark.parametrize("hidden", [5, 17])
def test_an_edit_list_hides_frames(tools: VideoTools, tmp_path: Path, hidden: int) -> None:
    source = clips.encode("h264", clips.pictures(NUM_FRAMES))
    data = clips.remux(source, Fraction(-hidden, clips.RATE), options={"avoid_negative_ts": "disabled"})
    facts = tools.inspect(data, "clip")
    assert facts.header_frames == NUM_FRAMES
    assert len(facts.times_ns) == NUM_FRAMES - hidden
    assert clips.numbers(decode_all(tools, data)) == list(range(hidden, NUM_FRAMES))
    path = tmp_path / "edited.mp4"
    path.write_bytes(data)
    for start in (0, 3, 20):
        cut = tools.cut(str(path), start / clips.RATE, 4, "clip")
        shown = np.concatenate(list(tools.decode(clips.view_of_cut(cut, 4), "clip")))
        assert clips.numbers(shown) == list(range(hidden + start, hidden + start + 4))


@pytest.mark.parametrize("kind", ["h264", "hevc", "av1", "vp9"])
def test_the_packets_have_one_hash_in_any_container(tools: VideoTools, kind: str) -> None:
    data = clips.encode(kind, clips.pictures(20))
    facts = tools.inspect(data, "clip")
    for container in ("matroska", "mp4"):
        other = clips.remux(data, container=container)
        assert tools.inspect(other, "clip").packets_sha256 == facts.packets_sha256
    changed = clips.encode(kind, clips.pictures(20, tag=1))
    assert tools.inspect(changed, "clip").packets_sha256 != facts.packets_sha256


def test_pixels_equal_the_plain_decoder_where_colors_are_untagged(tools: VideoTools) -> None:
    data = clips.encode("h264", clips.pictures(12))
    with av.open(io.BytesIO(data)) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    np.testing.assert_array_equal(decode_all(tools, data), plain)


@pytest.mark.parametrize("filter_", ["area", "bilinear", "bicubic", "lanczos"])
def test_scaling_equals_the_plain_reformatter(tools: VideoTools, filter_: str) -> None:
    data = clips.encode("h264", clips.pictures(5))
    view = clips.view_of(tools.inspect(data, "clip"), data)
    views = ViewsRecipe.model_validate({"height_px": 60, "width_px": 80, "fit": "stretch", "filter": filter_})
    shown = np.concatenate(list(tools.decode(view, "clip", views=views)))
    with av.open(io.BytesIO(data)) as container:
        plain = [
            frame.reformat(80, 60, "rgb24", interpolation=filter_.upper()).to_ndarray()
            for frame in container.decode(video=0)
        ]
    np.testing.assert_array_equal(shown, np.stack(plain))


def test_pad_and_crop_keep_the_aspect(tools: VideoTools) -> None:
    data = clips.encode("ffv1", np.full((2, 40, 80, 3), 200, np.uint8))
    view = clips.view_of(tools.inspect(data, "clip"), data)

    def shown(fit: str, height: int | None, width: int | None) -> np.ndarray:
        views = ViewsRecipe.model_validate({"height_px": height, "width_px": width, "fit": fit})
        return next(tools.decode(view, "clip", views=views))[0].astype(int)

    padded = shown("pad", 60, 60)
    assert padded.shape == (60, 60, 3)
    assert padded[:15].max() == padded[45:].max() == 0
    assert abs(padded[15:45] - 200).max() <= 2
    assert abs(shown("crop", 60, 60) - 200).max() <= 2
    assert shown("pad", 20, None).shape == (20, 40, 3)
    assert shown("pad", None, 20).shape == (10, 20, 3)


def test_crop_shows_the_middle(tools: VideoTools) -> None:
    picture = np.zeros((1, 40, 80, 3), np.uint8)
    picture[:, :, 20:60] = 255
    data = clips.encode("ffv1", picture)
    view = clips.view_of(tools.inspect(data, "clip"), data)
    views = ViewsRecipe(height_px=40, width_px=40, fit="crop")
    assert next(tools.decode(view, "clip", views=views))[0].min() >= 250


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 53), (49, 3), (3, 200)])
def test_odd_sizes(tools: VideoTools, height: int, width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    data = clips.encode("ffv1", frames)
    shown = decode_all(tools, data)
    assert shown.shape == frames.shape
    assert np.abs(shown.astype(int) - frames).max() <= 6  # 8-bit YCbCr 4:4:4 and back
    view = clips.view_of(tools.inspect(data, "clip"), data)
    thumbs = clips.thumbs(tools, view)
    assert thumbs.shape[0] == 3
    assert thumbs.shape[1] == min(48, height)


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt470bg", "unspecified"])
@pytest.mark.parametrize("full", [True, False])
def test_colors_follow_the_tags(tools: VideoTools, matrix: str, full: bool) -> None:
    """V10: within 2 levels of the source where tagged; untagged is BT.601 limited."""
    if matrix == "unspecified" and full:
        pytest.skip("an untagged stream has no range to follow")
    red, blue = (0.2126, 0.0722) if matrix == "bt709" else (0.299, 0.114)
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (4, 4, 3)).repeat(16, 0).repeat(16, 1)
    unit = rgb / 255
    luma = unit @ np.array([red, 1 - red - blue, blue])
    cb, cr = (unit[..., 2] - luma) / (2 - 2 * blue), (unit[..., 0] - luma) / (2 - 2 * red)
    low, luma_span, chroma_span = (0, 255, 255) if full else (16, 219, 224)
    planes = [low + luma_span * luma, 128 + chroma_span * cb, 128 + chroma_span * cr]
    yuv = np.stack(planes).round().clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv444p"
        codes = {"bt709": 1, "unspecified": 2, "bt470bg": 5, "smpte170m": 6}
        stream.codec_context.colorspace = codes[matrix]
        stream.codec_context.color_range = 0 if matrix == "unspecified" else 2 if full else 1
        frame = av.VideoFrame.from_ndarray(yuv, "yuv444p")
        frame.colorspace, frame.color_range = codes[matrix], stream.codec_context.color_range
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    data = file.getvalue()
    facts = tools.inspect(data, "clip")
    expected = "unspecified" if matrix == "unspecified" else f"{matrix}/{'pc' if full else 'tv'}"
    assert facts.color == expected
    shown = decode_all(tools, data)[0]
    assert np.abs(shown[8::16, 8::16].astype(int) - rgb[8::16, 8::16]).max() <= 3
    thumb = clips.thumbs(tools, clips.view_of(facts, data))[0]
    assert abs(float(thumb.mean()) - 255 * luma.mean()) <= 2


def test_interleaved_decodes_do_not_mix(tools: VideoTools) -> None:
    """Composing cameras reads several views side by side."""
    files = [clips.encode("h264_long", clips.pictures(150, tag=tag)) for tag in range(3)]
    views = [clips.view_of(tools.inspect(data, "clip"), data) for data in files]
    counts = [0, 0, 0]
    for chunks in zip(*(tools.decode(view, "clip") for view in views), strict=True):
        for tag, chunk in enumerate(chunks):
            marks = [clips.barcode.read_mark(frame) for frame in chunk]
            assert marks == [(counts[tag] + index, tag) for index in range(len(chunk))]
            counts[tag] += len(chunk)
    assert counts == [150, 150, 150]


def test_frame_ids_out_of_order_or_range_are_a_mistake_of_the_caller(tools: VideoTools) -> None:
    data = clips.encode("h264", clips.pictures(10))
    view = clips.view_of(tools.inspect(data, "clip"), data)
    for ids in ([3, 2], [-1], [10]):
        with pytest.raises(ValueError, match="frame ids"):
            list(tools.decode(view, "clip", np.array(ids)))
    assert list(tools.decode(view, "clip", np.array([], dtype=np.int64))) == []


def test_chunks_are_bounded_and_the_callers_own(tools: VideoTools) -> None:
    data = clips.encode("h264_long", clips.pictures(150))
    chunks = list(tools.decode(clips.view_of(tools.inspect(data, "clip"), data), "clip"))
    assert [len(chunk) for chunk in chunks] == [64, 64, 22]
    assert clips.numbers(np.concatenate(chunks)) == list(range(150))
    assert all(chunk.flags.owndata and chunk.flags.writeable for chunk in chunks)


def test_decord_sees_the_same_frames(tools: VideoTools) -> None:
    """V12: an independent second decoder, in order and out of order."""
    import decord

    data = clips.encode("h264", clips.pictures(NUM_FRAMES))
    shown = decode_all(tools, data)
    reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
    assert len(reader) == NUM_FRAMES
    theirs = reader.get_batch(list(range(NUM_FRAMES))).asnumpy()
    assert np.abs(theirs.astype(int) - shown).mean() < 1.5  # another libswscale
    assert clips.numbers(theirs) == clips.numbers(shown)
