"""Real files of other projects' decoder tests, against reference frames made by another decoder."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.video import VideoTools
from schemas.errors import DecodeError
from schemas.recipes import Limits
from tests import clips
from tests.real import real_data

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def tools() -> Iterator[VideoTools]:
    with VideoTools(Limits()) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "codec", "num_frames", "color", "rotation"),
    [
        ("decord/flipping_a_pancake.mkv", "h264", 310, "unspecified", 0),
        ("decord/unordered.mov", "h264", 4, "unspecified", 0),
        ("decord/video_0.mov", "h264", 3, "bt709/tv", 0),
        ("decord/video_90.mov", "h264", 3, "bt709/tv", 90),
        ("decord/video_180.mov", "h264", 3, "bt709/tv", 180),
        ("decord/video_270.mov", "h264", 3, "bt709/tv", 270),
        ("torchcodec/av1_video.mkv", "av1", 125, "bt709/tv", 0),
        ("torchcodec/bt709_full_range.mp4", "h264", 30, "bt709/pc", 0),
        ("torchcodec/h264_10bits.mp4", "h264", 30, "unspecified", 0),
        ("torchcodec/h265_10bits.mp4", "hevc", 30, "unspecified/tv", 0),
        ("torchcodec/h265_video.mp4", "hevc", 10, "unspecified/tv", 0),
        ("torchcodec/nasa_13013.mp4", "h264", 325, "bt709/tv", 0),
    ],
)
def test_a_whole_file(
    tools: VideoTools, tmp_path: Path, name: str, codec: str, num_frames: int, color: str, rotation: int
) -> None:
    path = real_data("decode_assets") / name
    data = path.read_bytes()
    facts = tools.inspect(data, name)
    assert (facts.codec, facts.num_packets, facts.color, facts.rotation_degrees) == (codec, num_frames, color, rotation)
    assert facts.num_video_streams == (2 if "nasa" in name else 1)
    view = clips.view_of(facts, data)
    shown = list(tools.decode(view, name))
    assert sum(len(chunk) for chunk in shown) == num_frames
    assert clips.thumbs(tools, view).shape[0] == num_frames
    start = num_frames // 2
    cut = tools.cut(str(path), facts.times_ns[start] / 1e9, num_frames - start, name)
    part = np.concatenate(list(tools.decode(clips.view_of_cut(cut, num_frames - start), name)))
    np.testing.assert_array_equal(part, np.concatenate(shown)[start:])


@pytest.mark.parametrize(("name", "frame"), [("h265_video.mp4", 5), ("av1_video.mkv", 10)])
def test_frames_equal_the_reference_bit_for_bit(tools: VideoTools, name: str, frame: int) -> None:
    torch = pytest.importorskip("torch")
    folder = real_data("decode_assets") / "torchcodec"
    expected = torch.load(folder / f"{name}.stream0.frame{frame:06d}.pt", weights_only=True).numpy()
    data = (folder / name).read_bytes()
    view = clips.view_of(tools.inspect(data, name), data)
    np.testing.assert_array_equal(next(tools.decode(view, name, np.array([frame])))[0], expected)


def test_a_corrupt_file_is_an_error(tools: VideoTools) -> None:
    data = (real_data("decode_assets") / "decord" / "corrupted.mp4").read_bytes()
    facts = tools.inspect(data, "corrupted.mp4")
    assert facts.num_packets == 50
    with pytest.raises(DecodeError) as caught:
        list(tools.decode(clips.view_of(facts, data), "corrupted.mp4"))
    assert caught.value.reason == "corrupt_frame"


def test_decord_sees_the_same_real_frames(tools: VideoTools) -> None:
    decord = pytest.importorskip("decord")
    path = real_data("decode_assets") / "decord" / "flipping_a_pancake.mkv"
    data = path.read_bytes()
    view = clips.view_of(tools.inspect(data, "pancake"), data)
    frames = np.array([0, 40, 41, 160, 309])
    shown = np.concatenate(list(tools.decode(view, "pancake", frames)))
    theirs = decord.VideoReader(str(path), num_threads=1).get_batch(frames).asnumpy()
    others = [np.abs(theirs[index].astype(int) - shown[(index + 1) % 5]).mean() for index in range(5)]
    assert np.abs(theirs.astype(int) - shown).mean() < min(1.5, *others)
