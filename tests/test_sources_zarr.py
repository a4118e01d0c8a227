"""Zarr replay buffers: folder and zip, pictures of every kind, and what is wrong with damaged ones."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import imagecodecs.numcodecs
import numpy as np
import pytest
import zarr

from jobs.cli import main
from pipelines.lake import Lake
from pipelines.simulate import ROBOTS, simulate
from pipelines.sources.zarr import SOURCE
from pipelines.video import VideoTools
from schemas.episode import RawEpisode
from schemas.errors import CorruptEpisode, SourceError, WamloomError
from schemas.recipes import Limits
from tests.chain import first_steps, write_short

ENDS = (12, 30)
LENGTHS = (40, 25)


def _buffer(folder: Path, arrays: dict[str, np.ndarray], ends: tuple[int, ...] = ENDS) -> Path:
    root = zarr.create_group(str(folder), zarr_format=2)
    for group, content in (("data", arrays), ("meta", {"episode_ends": np.array(ends, np.int64)})):
        for name, values in content.items():
            rows = 1 if values.ndim == 4 else 10
            chunks = (min(rows, len(values)), *values.shape[1:])
            array = root.create_array(f"{group}/{name}", shape=values.shape, chunks=chunks, dtype=values.dtype)
            array[:] = values
    return folder


def _arrays(rows: int = ENDS[-1]) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    return {
        "action": draws.normal(size=(rows, 2)).astype(np.float32),
        "state": draws.normal(size=(rows, 5)),
        "img": draws.integers(0, 256, (rows, 16, 16, 3)).astype(np.float32),
        "depth": draws.integers(0, 5000, (rows, 16, 16)).astype(np.uint16),
    }


def _read(location: str | Path, limits: Limits | None = None) -> list[RawEpisode]:
    with VideoTools(limits or Limits()) as video:
        return [SOURCE.read(ref, video, limits or Limits()) for ref in SOURCE.refs(str(location))]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first steps of two episodes of the arm, and the gantry's beside them: a chunk is a frame, so more show no more."""
    folder = tmp_path_factory.mktemp("zarr")
    for robot in range(len(ROBOTS)):
        write_short(folder, "zarr", LENGTHS, robot=robot)
    return folder / "sample_arm"


def _zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*")):
            if member.is_file():
                file.write(member, member.relative_to(folder).as_posix())
    return path


def test_folder_zip_and_remote_give_the_recording_bit_for_bit(sample: Path, tmp_path: Path) -> None:
    zipped = _zipped(sample, tmp_path / "sample_arm.zarr.zip")
    fsspec.filesystem("memory").put(str(sample), "/zarr-test/sample_arm", recursive=True)
    assert SOURCE.datasets(str(tmp_path)) == [str(zipped)]
    assert SOURCE.datasets(str(sample.parent)) == [str(sample), str(sample.with_name("sample_gantry"))]
    told = [_read(place) for place in (sample, zipped, "memory://zarr-test/sample_arm")]
    for index, (folder, packed, remote) in enumerate(zip(*told, strict=True)):
        assert folder.episode_id == packed.episode_id == remote.episode_id
        made = first_steps(simulate(ROBOTS[0], 0, index), LENGTHS[index])
        streams = {stream.name: stream.values for stream in folder.streams}
        assert np.array_equal(streams["action"], made.action)
        assert np.array_equal(streams["state"], made.proprio)
        with VideoTools(Limits()) as video:
            for view, camera in zip(folder.views, made.robot.cameras, strict=True):
                frames = np.concatenate(list(video.decode(view, "sample")))
                assert np.array_equal(frames, np.stack(list(made.frames(camera.slot)))), "PNG loses nothing"


def test_floats_that_are_bytes_are_pictures_and_other_numbers_stay_what_they_are(tmp_path: Path) -> None:
    arrays = _arrays()
    arrays["map"] = np.random.default_rng(1).normal(size=(ENDS[-1], 16, 16, 3)).astype(np.float32)
    first, second = _read(_buffer(tmp_path / "pusht.zarr", arrays))
    assert [view.key for view in first.views] == ["depth", "img"]
    assert sorted(stream.name for stream in second.streams) == ["action", "map", "state"]
    assert np.array_equal(second.stream("state").values, arrays["state"][ENDS[0] :])  # type: ignore[union-attr]
    assert second.stream("state").values.dtype == np.float64  # type: ignore[union-attr]
    with VideoTools(Limits()) as video:
        frames = np.concatenate(list(video.decode(second.views[1], "img")))
    assert np.array_equal(frames, arrays["img"][ENDS[0] :].astype(np.uint8))
    assert first.declared_rate is None


def test_pictures_of_umi_are_read_through_their_codec(tmp_path: Path) -> None:
    imagecodecs.numcodecs.register_codecs(verbose=False)
    frames = np.random.default_rng(2).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    root = zarr.create_group(str(tmp_path / "umi.zarr"), zarr_format=2)
    array = root.create_array(
        "data/camera0_rgb", shape=frames.shape, chunks=(1, 32, 32, 3), dtype="u1",
        compressors=imagecodecs.numcodecs.Jpegxl(level=99, numthreads=1, lossless=True),
    )  # fmt: skip
    array[:] = frames
    root.create_array("meta/episode_ends", shape=(1,), dtype="i8")[:] = [4]
    (episode,) = _read(tmp_path / "umi.zarr")
    with VideoTools(Limits()) as video:
        assert np.array_equal(np.concatenate(list(video.decode(episode.views[0], "umi"))), frames)


def test_recordings_without_commands_go_into_the_lake_and_a_release_says_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = np.random.default_rng(3)
    arrays = {name: draws.normal(size=(24, width)).astype(np.float32) for name, width in
              (("robot0_eef_pos", 3), ("robot0_eef_rot_axis_angle", 3), ("robot0_gripper_width", 1))}  # fmt: skip
    arrays["camera0_rgb"] = draws.integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    root, lake = _buffer(tmp_path / "cup.zarr", arrays, (12, 24)), tmp_path / "lake"
    assert main(["ingest", str(root), "--lake", str(lake), "--executor", "inline"]) == 0
    assert main(["build", "--lake", str(lake), "--out", str(tmp_path / "release"), "--executor", "inline"]) == 2
    assert "episodes of umi_gripper have no action" in capsys.readouterr().err
    assert not (tmp_path / "release").exists()


def test_a_grown_buffer_leaves_the_state_of_old_episodes_alone(tmp_path: Path) -> None:
    arrays = _arrays(40)
    root = _buffer(tmp_path / "a.zarr", {name: values[:20] for name, values in arrays.items()}, (10, 20))
    before = [ref.state for ref in SOURCE.refs(str(root))]
    buffer = zarr.open_group(str(root), mode="a")
    for name, values in arrays.items():
        buffer[f"data/{name}"].append(values[20:])  # type: ignore[union-attr]
    buffer["meta/episode_ends"].append(np.array([40]))  # type: ignore[union-attr]
    after = [ref.state for ref in SOURCE.refs(str(root))]
    assert after[:2] == before
    assert len(after) == 3


def _chunk(root: Path, name: str) -> Path:
    return sorted(path for path in (root / "data" / name).iterdir() if not path.name.startswith("."))[0]


def _metadata(root: Path, name: str, **changes: object) -> None:
    path = root / name / ".zarray"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _truncate(root: Path) -> None:
    path = _chunk(root, "action")
    path.write_bytes(path.read_bytes()[:20])


def _link(root: Path) -> None:
    path = _chunk(root, "action")
    path.rename(root.parent / "elsewhere")
    path.symlink_to(root.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "reason", "whole_set"),
    [
        (_truncate, "damaged_chunk", False),
        (_link, "path_escape", False),
        (lambda root: _metadata(root, "data/action", shape=[20, 2]), "length_mismatch", False),
        (lambda root: _metadata(root, "data/action", shape=[10**12, 2], chunks=[10**12, 2]), "too_large", True),
        (lambda root: _metadata(root, "data/action", shape=[-1, 2]), "bad_index", True),
        (
            lambda root: _metadata(root, "data/action", dtype="|O", filters=[{"id": "pickle"}]),
            "unsupported_format",
            True,
        ),
        (lambda root: _metadata(root, "data/action", dtype="|O"), "unsupported_format", True),
        (lambda root: _metadata(root, "data/action", compressor={"id": "vlen-utf8"}), "unsupported_format", True),
        (lambda root: (root / "data/action/.zarray").write_text("{"), "bad_index", True),
        (lambda root: (root / "meta/episode_ends/0").unlink(), "missing_index", True),
        (lambda root: zarr.open_group(str(root))["meta/episode_ends"].set_basic_selection(0, 99), "bad_index", True),  # type: ignore[union-attr]
    ],
)
def test_damage_is_named(damage: Callable[[Path], object], reason: str, whole_set: bool, tmp_path: Path) -> None:
    root = _buffer(tmp_path / "a.zarr", _arrays())
    damage(root)
    with pytest.raises(WamloomError) as caught:
        _read(root)
    assert caught.value.reason == reason
    assert caught.value.hint
    assert not whole_set or isinstance(caught.value, SourceError)


def test_only_the_damaged_episode_fails(tmp_path: Path) -> None:
    root = _buffer(tmp_path / "a.zarr", _arrays(), (10, 20, 20, 30))
    _truncate(root)
    refs = SOURCE.refs(str(root))
    with VideoTools(Limits()) as video:
        with pytest.raises(CorruptEpisode):
            SOURCE.read(refs[0], video, Limits())
        assert len(SOURCE.read(refs[1], video, Limits()).streams[0].values) == 10
        with pytest.raises(CorruptEpisode) as caught:
            SOURCE.read(refs[2], video, Limits())
        assert caught.value.reason == "empty"


def test_a_chunk_that_is_not_there_is_told(tmp_path: Path) -> None:
    root = _buffer(tmp_path / "a.zarr", _arrays())
    _chunk(root, "img").unlink()
    finding = next(one for one in _read(root)[0].findings if one.rule == "chunk_not_stored")
    assert (finding.where, finding.numbers) == ("img", (("num_chunks", 1.0),))


def test_sizes_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    root = _buffer(tmp_path / "a.zarr", _arrays())
    _metadata(root, "data/action", shape=[10**9, 2])
    zarr.open_group(str(root))["meta/episode_ends"].set_basic_selection(1, 10**9)  # type: ignore[union-attr]
    with pytest.raises(CorruptEpisode) as caught, VideoTools(Limits()) as video:
        SOURCE.read(SOURCE.refs(str(root))[1], video, Limits(max_array_bytes=1_000_000))
    assert caught.value.reason in ("too_large", "length_mismatch")


def test_a_file_that_changes_after_listing_is_told(tmp_path: Path) -> None:
    root = _buffer(tmp_path / "a.zarr", _arrays())
    refs = SOURCE.refs(str(root))
    shutil.copy(_chunk(root, "action"), tmp_path / "kept")
    os.utime(_chunk(root, "action"), (1, 1))
    with VideoTools(Limits()) as video, pytest.raises(CorruptEpisode) as caught:
        SOURCE.read(refs[0], video, Limits())
    assert caught.value.reason == "changed_while_reading"


def test_depth_goes_into_the_lake_and_is_decoded_strictly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {name: values for name, values in _arrays(24).items() if name != "img"}
    arrays["camera0_rgb"] = np.random.default_rng(4).integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
    root, lake = _buffer(tmp_path / "cup.zarr", arrays, (12, 24)), tmp_path / "lake"
    cards = tmp_path / "cards"
    assert main(["cards", "new", str(root), "--out", str(cards), "--name", "cup", "--json"]) == 0
    drafted = json.loads(capsys.readouterr().out)
    card, robot = map(Path, drafted["files"])
    assert '[depth]\n"depth" = "primary"' in drafted["card"]
    robot.write_text(robot.read_text().replace("# control_rate = ?", "control_rate = 10"))
    ingest = ["ingest", str(root), "--lake", str(lake), "--card", str(card), "--executor", "inline"]
    assert main(ingest) == 0
    opened = Lake.open(lake)
    for row in opened.rows("episodes", [], "outcome = 'kept'"):
        episode = opened.episode(row["episode_id"])
        start = 0 if episode.source_key.endswith("0") else 12
        view = opened.video(episode.episode_id, "primary", episode.depth["primary"], is_depth=True)
        with VideoTools(Limits()) as video:
            stored = np.concatenate(list(video.decode_depth(view, "lake")))
        assert np.array_equal(stored, arrays["depth"][start : start + 12])
