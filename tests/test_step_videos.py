"""Frames that already are what a build asks for are taken over: the very pixels, at exact times, with nothing compressed anew."""

import io
import shutil
import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from jobs import ingest
from jobs.options import IngestOptions
from pipelines.lake import Lake
from pipelines.step_videos import _not_made_so
from pipelines.verify import verify_release
from pipelines.video import VideoTools
from pipelines.video_facts import VideoFacts
from pipelines.video_writer import VideoWriter
from schemas.errors import DecodeError, ReleaseError
from schemas.recipes import BuildRecipe, IngestRecipe, Limits, VideoRecipe, ViewsRecipe
from tests.chain import movie, read_json, run_build, run_ingest, write_short
from tests.fake_build import tree_bytes
from tests.real import real_data
from tests.test_video_setup import encoded, holding, packets_of
from tests.test_video_writer import colored_frames

LENGTHS = (12, 9, 15)
RECIPE = BuildRecipe(formats=("lerobot_v3", "lerobot_v21"), horizon=4, tokenizer=None)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes as LeRobot v2.1: H.264 with a key frame at every second frame, one file each."""
    return write_short(tmp_path_factory.mktemp("recordings"), layout="lerobot_v21", lengths=LENGTHS)


@pytest.fixture(scope="module")
def lake(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake") / "lake"
    assert run_ingest([recordings], root).values["kept"] == len(LENGTHS)
    return root


@pytest.fixture(scope="module")
def tools() -> Iterator[VideoTools]:
    with VideoTools(Limits()) as found:
        yield found


def _videos(release: Path, name: str) -> list[Path]:
    return sorted((release / name).rglob("*.mp4"))


def _facts(release: Path) -> dict[str, Any]:
    info = read_json(next((release / "lerobot_v3").rglob("info.json")))
    return info["features"]["observation.images.primary"]["info"]


def test_the_frames_of_a_release_are_those_of_the_recording(lake: Path, recordings: Path, tmp_path: Path) -> None:
    told = run_build(lake, tmp_path / "release", RECIPE)
    assert told.values["copied_frames"] == sum(LENGTHS)
    (group,) = read_json(tmp_path / "release/manifest.json")["groups"]
    assert group["copied_frames"] == {"primary": sum(LENGTHS)}
    assert f"primary ({sum(LENGTHS):,})." in (tmp_path / "release/README.md").read_text()
    source = sorted(recordings.rglob("*.mp4"))
    wanted = {frame.tobytes() for frame in movie(source)}
    for name in RECIPE.formats:
        found = [frame.tobytes() for frame in movie(_videos(tmp_path / "release", name))]
        assert len(found) == sum(LENGTHS)
        assert set(found) == wanted
    assert not {"video.crf", "video.g"} & set(_facts(tmp_path / "release"))
    assert verify_release(tmp_path / "release", Lake.open(str(lake)), readers=True).problems == []


def test_the_times_are_exact_and_every_episode_begins_with_a_key_frame(lake: Path, tmp_path: Path) -> None:
    run_build(lake, tmp_path / "release", RECIPE)
    [path] = _videos(tmp_path / "release", "lerobot_v3")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        rate = stream.average_rate
        assert [packet.pts * stream.time_base for packet in packets] == [i / rate for i in range(sum(LENGTHS))]
        keys = {number for number, packet in enumerate(packets) if packet.is_keyframe}
        lengths = [len(list(movie([one]))) for one in _videos(tmp_path / "release", "lerobot_v21")]
        assert {0, *np.cumsum(lengths[:-1]).tolist()} <= keys


@pytest.mark.parametrize(
    ("choice", "why"),
    [
        ({"video": VideoRecipe(reuse=False)}, "video.reuse is false"),
        ({"video": VideoRecipe(gop=1)}, "its key frames lie up to 2 apart, asked for is 1"),
        ({"video": VideoRecipe(codec="av1")}, "it is h264, asked for is av1"),
        ({"views": ViewsRecipe(height_px=96, width_px=128)}, "it is 256x192, asked for is 128x96"),
        ({"rate": Fraction(10)}, "its steps do not show one frame after the other"),
        ({"views": ViewsRecipe(canvas="grid_2x2")}, "a canvas is made of several views"),
    ],
    ids=["not wanted", "key frames too far apart", "codec", "size", "rate", "canvas"],
)
def test_what_is_not_as_asked_for_is_compressed_and_the_manifest_says_why(
    lake: Path, recordings: Path, tmp_path: Path, choice: dict[str, Any], why: str
) -> None:
    told = run_build(lake, tmp_path / "release", RECIPE.model_copy(update={"formats": ("lerobot_v21",)} | choice))
    assert told.values["copied_frames"] == 0
    (group,) = read_json(tmp_path / "release/manifest.json")["groups"]
    assert list(group["not_copied"].values()) == [[why]]
    assert any(line.endswith(f", since {why}") for line in told.lines) is (why != "video.reuse is false")
    recorded = {frame.tobytes() for frame in movie(sorted(recordings.rglob("*.mp4")))}
    assert not any(frame.tobytes() in recorded for frame in movie(_videos(tmp_path / "release", "lerobot_v21")))


def test_formats_that_need_pictures_get_them_beside_those_that_copy(lake: Path, tmp_path: Path) -> None:
    both = RECIPE.model_copy(update={"formats": ("lerobot_v21", "parquet")})
    run_build(lake, tmp_path / "both", both)
    run_build(lake, tmp_path / "alone", RECIPE.model_copy(update={"formats": ("parquet",)}))
    run_build(lake, tmp_path / "copied", RECIPE.model_copy(update={"formats": ("lerobot_v21",)}))
    assert tree_bytes(tmp_path / "both/parquet") == tree_bytes(tmp_path / "alone/parquet")
    assert tree_bytes(tmp_path / "both/lerobot_v21") == tree_bytes(tmp_path / "copied/lerobot_v21")


def test_statistics_of_pictures_are_the_same_either_way(lake: Path, tmp_path: Path) -> None:
    for reuse in (True, False):
        run_build(lake, tmp_path / str(reuse), RECIPE.model_copy(update={"video": VideoRecipe(reuse=reuse)}))
    for path in sorted((tmp_path / "True").rglob("*stats.json*")):
        assert path.read_bytes() == (tmp_path / "False" / path.relative_to(tmp_path / "True")).read_bytes()


_FACTS = VideoFacts(
    codec="h264",
    container="mov",
    width_px=64,
    height_px=48,
    pix_fmt="yuv420p",
    num_packets=9,
    header_frames=9,
    times_ns=np.arange(9),
    start_offset_ns=0,
    key_frames=(0, 2, 4, 6, 8),
    packets_sha256="",
    color="unspecified",
    is_plain=True,
)


def test_a_part_that_begins_with_a_key_frame_may_be_taken() -> None:
    assert _not_made_so(_FACTS, 0, 9, 2) == ""
    assert _not_made_so(_FACTS, 4, 3, 2) == ""
    assert _not_made_so(_FACTS, 1, 4, 2) == "an episode does not begin with a key frame"
    assert _not_made_so(_FACTS, 0, 9, 1) == "its key frames lie up to 2 apart, asked for is 1"


@pytest.mark.parametrize(
    "change",
    [
        {"is_plain": False},
        {"pix_fmt": "yuv444p"},
        {"pix_fmt": "yuvj420p", "color": "unspecified/pc"},
        {"color": "bt709/tv"},
        {"rotation_degrees": 90},
        {"sample_aspect": "4:3"},
        {"key_frames": (0, 2, 4)},
    ],
)
def test_what_this_house_would_not_write_is_not_taken(change: dict[str, Any]) -> None:
    assert _not_made_so(replace(_FACTS, **change), 0, 9, 2)


def _written(path: Path, recipe: VideoRecipe, frames: np.ndarray) -> bytes:
    writer = VideoWriter(path, Fraction(10), *frames.shape[1:3], recipe)
    writer.write(frames, key_frame=True)
    writer.close()
    return path.read_bytes()


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_what_is_lifted_has_the_same_pixels_and_always_the_same_bytes(
    tmp_path: Path, tools: VideoTools, codec: Any
) -> None:
    data = _written(tmp_path / "v.mp4", VideoRecipe(codec=codec, gop=3), colored_frames(9))
    one, two = (tools.lift(data, 3, 5, "a test") for _ in range(2))
    assert one == two
    (tmp_path / "lifted.mp4").write_bytes(one)
    whole, part = (list(movie([tmp_path / name])) for name in ("v.mp4", "lifted.mp4"))
    np.testing.assert_array_equal(np.stack(part), np.stack(whole[3:8]))


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_frames_without_a_color_tag_get_one(tmp_path: Path, tools: VideoTools, codec: str) -> None:
    encoder = {"h264": "libx264", "av1": "libsvtav1"}[codec]
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream(
            encoder, rate=10, options={"g": "2", "bf": "0"} if codec == "h264" else {"g": "2"}
        )
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for frame in colored_frames(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    data = (tmp_path / "v.mp4").read_bytes()
    assert tools.inspect(data, "a test").color.startswith("unspecified")
    assert tools.inspect(tools.lift(data, 0, 4, "a test"), "a test").color == "smpte170m/tv"


def _turned(video: bytes, clap: bool) -> bytes:
    """The same, which a player would show turned upside down, or cropped."""
    found = bytearray(video)
    if not clap:
        struct.pack_into(">9i", found, found.index(b"tkhd") + 44, -(1 << 16), 0, 0, 0, -(1 << 16), 0, 0, 0, 1 << 30)
        return bytes(found)
    entry = found.index(b"avc1", found.index(b"stsd")) - 4
    end = entry + int.from_bytes(found[entry : entry + 4], "big")
    found[end:end] = struct.pack(">I4s8I", 40, b"clap", 80, 1, 48, 1, 0, 1, 0, 1)
    for kind in (b"avc1", b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        start = found.rindex(kind, 0, entry + 8) - 4
        struct.pack_into(">I", found, start, 40 + int.from_bytes(found[start : start + 4], "big"))
    return bytes(found)


@pytest.mark.parametrize("clap", [False, True], ids=["matrix", "clean aperture"])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_what_is_lifted_is_shown_as_it_is_stored(tools: VideoTools, clap: bool, container: str) -> None:
    video = encoded()
    marked = holding(packets_of(video), _turned(video, clap), container)
    lifted = tools.lift(marked, 0, 12, "a test")
    assert b"clap" not in lifted
    with av.open(io.BytesIO(lifted)) as one, av.open(io.BytesIO(video)) as other:
        frames = list(zip(one.decode(video=0), other.decode(video=0), strict=True))
    assert {frame.rotation for frame, _ in frames} == {0}
    assert all(np.array_equal(frame.to_ndarray(), plain.to_ndarray()) for frame, plain in frames)
    matrix = lifted.index(b"tkhd") + 44
    assert struct.unpack_from(">9i", lifted, matrix) == (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def test_what_was_never_decoded_is_not_copied(recordings: Path, tmp_path: Path) -> None:
    packets = IngestRecipe(video_check="packets")
    ingest.run(IngestOptions((str(recordings),), str(tmp_path / "lake"), None, packets, False, False, "inline"))
    run_build(tmp_path / "lake", tmp_path / "release", RECIPE)
    assert "video.crf" in _facts(tmp_path / "release")


def test_more_frames_than_there_are_cannot_be_lifted(tmp_path: Path, tools: VideoTools) -> None:
    data = _written(tmp_path / "v.mp4", VideoRecipe(), colored_frames(4))
    with pytest.raises(DecodeError, match="4 of 5 frames") as caught:
        tools.lift(data, 0, 5, "a test")
    assert caught.value.reason == "count_mismatch"


def test_frames_of_different_kinds_do_not_go_into_one_file(tmp_path: Path) -> None:
    frames = colored_frames(4)
    fast = _written(tmp_path / "fast.mp4", VideoRecipe(), frames)
    fine = _written(tmp_path / "fine.mp4", VideoRecipe(tune="none"), frames)
    writer = VideoWriter(tmp_path / "joined.mp4", Fraction(10), *frames.shape[1:3], VideoRecipe())
    writer.copy(fast)
    for attempt in (lambda: writer.copy(fine), lambda: writer.write(frames)):
        with pytest.raises(ReleaseError, match="compressed in different ways"):
            attempt()
    writer.copy(fast)
    writer.close()
    assert len(list(movie([tmp_path / "joined.mp4"]))) == 8


@pytest.mark.real
def test_real_frames_are_those_that_lerobot_wrote(tmp_path: Path) -> None:
    """Of two episodes: the others that the set names are without video here, which is told and no fault of these."""
    whole, source = real_data("g1_lerobot_v21_subset"), tmp_path / "source"
    videos = sorted(whole.rglob("*.mp4"))
    for path in {path for path in whole.rglob("*") if path.is_file()} - set(videos[2:]):
        copy = source / path.relative_to(whole)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    assert run_ingest([source], tmp_path / "lake").values["kept"] == 2
    recipe = BuildRecipe(formats=("lerobot_v21",), tokenizer=None, video=VideoRecipe(codec="av1"))
    run_build(tmp_path / "lake", tmp_path / "release", recipe)
    recorded = {hash(frame.tobytes()) for frame in movie(videos[:2])}
    found = {hash(frame.tobytes()) for frame in movie(_videos(tmp_path / "release", "lerobot_v21"))}
    assert recorded == found
