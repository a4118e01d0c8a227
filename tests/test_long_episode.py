"""Videos too large for a blob: files of the lake from ingest to release, through kills, damage and moves.

What "large" is, is set to a megabyte here; ``benchmarks/bench_memory.py`` measures episodes of two hours.
"""

import hashlib
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from benchmarks.long_set import CAMERAS, encode_clip, write_set
from jobs.cli import main as wamloom
from pipelines.lake import Lake
from pipelines.recordings import pixels_view
from pipelines.storage import files_under
from pipelines.verify import verify_lake
from pipelines.video import VideoTools
from pipelines.video_facts import VideoFacts
from pipelines.video_spool import Spool, SpoolError, keep
from schemas.episode import VideoFile
from schemas.errors import CorruptEpisode, DecodeError
from schemas.recipes import Limits
from tests.nursery import Fault, Nursery
from tests.wreck import moments, release_content

NUM_FRAMES = 48
SMALL = ["--set", "views.height_px=32", "--set", "views.width_px=32"]


@dataclass(frozen=True)
class LongSet:
    """A set of one episode of three videos of more than a megabyte each (v3: and a short one beside it)."""

    folder: Path
    card: Path

    def ingest(self, lake: Path, *options: str) -> list[str]:
        """The command."""
        base = ["ingest", str(self.folder), "--card", str(self.card), "--lake", str(lake), "--executor", "inline"]
        return [*base, "--set", "commit_mb=1", "--set", "video_check=packets", *options]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LongSet]:
    root = tmp_path_factory.mktemp("long")
    clips = {}
    for number, slot in enumerate(CAMERAS):
        clips[slot] = root / f"{slot}.mp4"
        encode_clip(clips[slot], 24, 320, 176, 12, 40, number)
    return {
        "v21": LongSet(*write_set(root / "v21", "lerobot_v21", clips, NUM_FRAMES)),
        "v3": LongSet(*write_set(root / "v3", "lerobot_v3", clips, NUM_FRAMES)),
    }


def videos_of(lake: Path) -> list[Path]:
    return files_under(lake / "videos") if (lake / "videos").exists() else []


def run(*arguments: str) -> None:
    assert wamloom(list(arguments)) == 0


@pytest.mark.parametrize("layout", ["v21", "v3"])
def test_a_file_is_what_a_blob_would_be(layout: str, sets: dict[str, LongSet], tmp_path: Path) -> None:
    """Same episodes, same latents, same release, whichever way the lake keeps a video; also after the lake has moved."""
    releases = []
    for name, blob_mb in (("files", 1), ("blobs", 64)):
        lake = tmp_path / name / "lake"
        run(*sets[layout].ingest(lake, "--set", f"blob_mb={blob_mb}"))
        assert len(videos_of(lake)) == (3 if name == "files" else 0)
        run("encode", "--lake", str(lake), "--executor", "inline", *SMALL)
        if name == "files":
            lake = lake.rename(tmp_path / name / "moved")
        release = tmp_path / name / "release"
        run("build", "--lake", str(lake), "--out", str(release), "--format", "parquet", "--executor", "inline", *SMALL)
        run("verify", str(release), "--lake", str(lake))
        found = verify_lake(Lake.open(lake))
        assert found.ok, found.problems
        content = release_content(release)
        for name_of_build in (
            "manifest.json",
            "README.md",
            "croissant.json",
        ):  # the recipe of the ingest is in its identity
            content.pop(name_of_build)
        releases.append((content, {row["latent_id"] for row in Lake.open(lake).rows("latents", ["data_sha256"])}))
    assert releases[0] == releases[1]


def test_files_hold_the_source_bytes_under_their_hash(sets: dict[str, LongSet], tmp_path: Path) -> None:
    run(*sets["v21"].ingest(tmp_path / "lake", "--set", "blob_mb=1"))
    sources = {hashlib.sha256(path.read_bytes()).hexdigest() for path in sets["v21"].folder.rglob("*.mp4")}
    assert {path.stem for path in videos_of(tmp_path / "lake")} == sources
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in videos_of(tmp_path / "lake"))
    run(*sets["v21"].ingest(tmp_path / "lake", "--set", "blob_mb=1"))
    assert len(videos_of(tmp_path / "lake")) == 3


def test_verify_names_missing_damaged_and_stray_files(sets: dict[str, LongSet], tmp_path: Path) -> None:
    run(*sets["v21"].ingest(tmp_path / "lake", "--set", "blob_mb=1"))
    missing, damaged, _ = videos_of(tmp_path / "lake")
    missing.unlink()
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    stray = damaged.with_name("stray.mp4")
    stray.write_bytes(b"no row knows me")
    told = {
        problem.where.partition(" ")[0]: problem.message
        for problem in verify_lake(Lake.open(tmp_path / "lake")).problems
    }
    assert set(told) == {str(missing), str(damaged), str(stray)}
    assert "missing" in told[str(missing)]
    assert "damaged" in told[str(damaged)]
    assert "no row" in told[str(stray)]
    assert wamloom(["verify", str(tmp_path / "lake")]) == 5


@pytest.mark.crash
@pytest.mark.parametrize(("layout", "how"), [("v21", "kill"), ("v3", "kill"), ("v21", "full")])
def test_an_ingest_that_is_broken_off_is_made_whole(
    layout: str, how: str, sets: dict[str, LongSet], nursery: Nursery, tmp_path: Path
) -> None:
    """Nothing is lost, nothing stray stays, and a full disk is no fault of the recording."""

    def command(lake: Path) -> list[str]:
        return sets[layout].ingest(lake, "--set", "blob_mb=1", "--json")

    whole = nursery.run(command(tmp_path / "whole" / "lake"), Fault(str(tmp_path / "whole"), 0, how))
    assert whole.code == 0, whole.err
    expected = [path.name for path in videos_of(tmp_path / "whole" / "lake")]
    assert len(expected) == 3
    hits = 0
    for index, part in enumerate(moments(3, 8 if how == "kill" else 4)):
        root = tmp_path / str(index)
        lake = root / "lake"
        root.mkdir()
        at = 1 + int(part * whole.operations[how])
        broken = nursery.run(command(lake), Fault(str(root), at, how))
        told = f"{how} at operation {at} of {whole.operations[how]}: exit {broken.code}, {broken.err[-600:]}"
        assert broken.code == -9 if how == "kill" else broken.code in (0, 3), told
        hits += broken.code != 0
        finished = nursery.run(command(lake), Fault(str(root)))
        assert finished.code == 0, f"{told}\nthen {finished.err[-600:]}"
        assert [path.name for path in videos_of(lake)] == expected, told
        found = verify_lake(Lake.open(lake))
        assert found.ok, (told, found.problems)
        assert {row["outcome"] for row in Lake.open(lake).rows("episodes", ["outcome"])} == {"kept"}, told
        assert [path.name for path in (lake / "staging").iterdir()] == ["lock"], told
    assert hits >= 3


def test_a_rejected_episode_leaves_no_file(sets: dict[str, LongSet], tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    folder = shutil.copytree(sets["v21"].folder, tmp_path / "long_arm")
    rows = next(folder.rglob("*.parquet"))
    table = pq.read_table(rows)
    nothing = pa.array([[math.nan] * 7] * len(table), table.schema.field("action").type)
    pq.write_table(table.set_column(table.schema.get_field_index("action"), "action", nothing), rows)
    rejecting = LongSet(folder, sets["v21"].card)
    run(*rejecting.ingest(lake, "--set", "blob_mb=1", "--set", "max_rejected_fraction=1.0"))
    assert [row["outcome"] for row in Lake.open(lake).rows("episodes", ["outcome"])] == ["rejected"]
    assert videos_of(lake) == []
    assert list((lake / "staging").iterdir()) == [lake / "staging" / "lock"]


def test_a_video_that_changes_while_it_is_read_is_refused(sets: dict[str, LongSet], tmp_path: Path) -> None:
    path = shutil.copy(next(sets["v21"].folder.rglob("*.mp4")), tmp_path / "video.mp4")

    class Meddling(VideoTools):
        def _inspect(self, *arguments: Any, **named: Any) -> VideoFacts:
            with Path(path).open("ab") as file:
                file.write(b"\0\0\0\x08free")
            return super()._inspect(*arguments, **named)

    with (
        Meddling(Limits(), Spool(tmp_path / "spool", 1000)) as video,
        pytest.raises((CorruptEpisode, DecodeError), match=r"changed|lacks|header"),
    ):
        video.take(Path(path), "clip")


def test_a_glance_tells_what_a_reading_tells_but_not_the_hash(sets: dict[str, LongSet]) -> None:
    path = next(sets["v21"].folder.rglob("*.mp4"))
    with VideoTools(Limits()) as reader, VideoTools(Limits(), glance=True) as glancer:
        read, seen = reader.take(path, "clip"), glancer.take(path, "clip")
        assert (seen.data, seen.sha256, seen.facts.packets_sha256) == (b"", "", "")
        assert (seen.facts.codec, seen.facts.width_px, seen.facts.header_frames) == ("h264", 320, NUM_FRAMES)
        assert np.abs(seen.facts.times_ns - read.facts.times_ns).max() <= 1
        assert len(glancer.cut(str(path), 2.0, 7, "clip").facts.times_ns) == 7


def test_without_a_spool_a_large_file_stays_where_it_is(
    sets: dict[str, LongSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(sets["v21"].folder.rglob("*.mp4"))
    monkeypatch.setattr("pipelines.video_files.LARGE_BYTES", 1000)
    with VideoTools(Limits()) as video:
        taken = video.take(path, "clip")
    assert taken.data == VideoFile(str(path), path.stat().st_size)
    assert taken.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_large_packed_images_go_through_the_spool(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), dtype=np.uint8)
    times = np.arange(12, dtype=np.int64)
    with VideoTools(Limits(), Spool(tmp_path / "spool", 20_000)) as spooled, VideoTools(Limits()) as plain:
        large = pixels_view("camera", iter(frames), times, spooled, "clip")
        small = pixels_view("camera", iter(frames), times, plain, "clip")
        assert isinstance(large.data, VideoFile)
        assert Path(large.data.path).read_bytes() == small.data
        assert (large.sha256, large.packets_sha256) == (small.sha256, small.packets_sha256)
        assert np.array_equal(np.concatenate(list(spooled.decode(large, "clip"))), frames)
    assert len(list((tmp_path / "spool").iterdir())) == 1, "what the images were joined in is gone"


def test_a_full_disk_is_no_fault_of_the_recording(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 10)
    (tmp_path / "spool").write_text("a file where the folder should be")
    with pytest.raises(SpoolError) as caught:
        keep([bytes(100)], 100, spool)
    assert isinstance(caught.value.error, OSError)
    assert not isinstance(caught.value, CorruptEpisode)


def test_a_remote_video_is_streamed_into_the_spool(sets: dict[str, LongSet], tmp_path: Path) -> None:
    data = next(sets["v21"].folder.rglob("*.mp4")).read_bytes()
    place = UPath("memory://long/video.mp4")
    place.write_bytes(data)
    try:
        with (
            VideoTools(Limits(), Spool(tmp_path / "spool", 1000)) as video,
            VideoTools(Limits(), glance=True) as glancer,
            VideoTools(Limits()) as plain,
        ):
            taken = video.take(place, "clip")
            assert isinstance(taken.data, VideoFile)
            assert Path(taken.data.path).read_bytes() == data
            assert plain.take(place, "clip").data == data
            assert taken.facts.packets_sha256 == plain.inspect(data, "clip").packets_sha256
            assert glancer.take(place, "clip").facts.header_frames == NUM_FRAMES
    finally:
        place.unlink()


def test_a_glance_packs_as_a_reading_does() -> None:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    times = np.arange(3, dtype=np.int64)
    with VideoTools(Limits()) as reader, VideoTools(Limits(), glance=True) as glancer:
        views = [pixels_view("camera", frames, times, video, "clip") for video in (reader, glancer)]
    assert views[0].data == views[1].data
