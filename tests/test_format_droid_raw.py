"""A stand-in of V-JEPA 2-AC's loader (contract test frozen from TRAINERS.md, 2.15) reads the tree with h5py and decord, and so
does our own source."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from decord import VideoReader, cpu
from scipy.spatial.transform import Rotation

from pipelines.barcode import Mark, read_mark
from pipelines.formats import droid_raw
from pipelines.lake import Lake
from pipelines.numbers import numbers_of
from pipelines.sources.droid_raw import SOURCE
from pipelines.verify import verify_release
from pipelines.video import VideoTools
from schemas.episode import Calibration
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe, Limits, ViewsRecipe, load_recipe
from schemas.release_choices import SplitRecipe
from tests.arm_lake import arm_lake
from tests.chain import read_json, run_build, run_ingest
from tests.fake_build import FakeBuild, frame_number, make_build, write_build

ROOT = Path(__file__).resolve().parents[1]
POSE = (0.1, 0.5, 0.3, -1.6, 0.1, -2.2)


class DroidVideos:
    """Clips as ``DROIDVideoDataset`` makes them of a CSV of folders: frames, actions, states, extrinsics."""

    def __init__(self, csv: Path, frames: int = 8, fps: int = 4, tubelet: int = 2) -> None:
        self.root = csv.parent
        self.samples = list(pd.read_csv(csv, header=None, delimiter=" ").values[:, 0])
        self.frames, self.fps, self.tubelet = frames, fps, tubelet

    def clip(self, index: int, first: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        folder = self.root / self.samples[index]
        (metadata,) = [path for path in folder.iterdir() if path.name.endswith(".json")]
        name = json.loads(metadata.read_text())["left_mp4_path"].split("recordings/MP4/")[-1]
        with h5py.File(folder / "trajectory.h5", "r") as file:
            seen: Any = file["observation"]
            extrinsics = np.asarray(seen["camera_extrinsics"][f"{name.split('.')[0]}_left"])
            robot = seen["robot_state"]
            states = np.column_stack([robot["cartesian_position"], robot["gripper_position"]])
        video = VideoReader(str(folder / "recordings/MP4" / name), ctx=cpu(0))
        skip = math.ceil(video.get_avg_fps() / self.fps)
        length = self.frames * skip
        assert len(video) - length > 0, "the random start has no room"
        indices = np.arange(first, first + length, skip)
        states = states[indices][:: self.tubelet]
        turns = Rotation.from_euler("xyz", states[:, 3:6]).as_matrix()
        steps = turns[1:] @ turns[:-1].transpose(0, 2, 1)
        actions = np.column_stack(
            [
                np.diff(states[:, :3], axis=0),
                Rotation.from_matrix(steps).as_euler("xyz"),
                np.diff(states[:, -1:], axis=0),
            ]
        )
        return video.get_batch(indices).asnumpy(), actions, states, extrinsics[indices][:: self.tubelet]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeBuild, Path]:
    folder = tmp_path_factory.mktemp("droid_raw")
    build = make_build((40, 32, 33, 35), arm=True, num_val=1, proprio_width=8)
    for number in (0, 2):
        said = Calibration("ext1", "made up", extrinsics=POSE, convention="xyz_euler_xyz", frame="base")
        build.episodes[number].calibrations["primary"] = (said,)  # type: ignore[index]
    write_build(droid_raw, build, folder)
    return build, folder


def test_v_jepa_takes_clips(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    clips = DroidVideos(folder / "train.csv")
    assert len(clips.samples) == 2
    for index, episode in enumerate([build.episodes[0], build.episodes[2]]):
        frames, actions, states, extrinsics = clips.clip(index, first=1 if index == 0 else 0)
        steps = np.arange(8) * 4 + (1 if index == 0 else 0)
        marks = [read_mark(frame) for frame in frames]
        assert marks == [Mark(frame_number("primary", step), episode.plan.episode_index) for step in steps.tolist()]
        np.testing.assert_array_equal(states, episode.proprio[steps[::2], :7])
        np.testing.assert_array_equal(extrinsics, np.tile(POSE, (4, 1)))
        assert actions.shape == (3, 7)
        np.testing.assert_allclose(actions[:, :3], np.diff(episode.proprio[steps[::2], :3].astype(float), axis=0))
        assert np.isfinite(actions).all()
    assert [Path(one).parts[1] for one in DroidVideos(folder / "val.csv").samples] == ["success"]


def test_the_cameras_clock_is_that_of_the_steps(written: tuple[FakeBuild, Path]) -> None:
    """What V-JEPA 2-AC samples by with ``temporal_sampling: physical``: whole milliseconds that grow, and one row for each."""
    build, folder = written
    for episode in build.episodes:
        root = folder / droid_raw.folder_of(episode.plan)
        with h5py.File(root / "trajectory.h5") as file:
            cameras: Any = file["observation/timestamp/cameras"]
            for path in sorted((root / "recordings/MP4").glob("*.mp4")):
                rows = cameras[f"{path.stem}_frame_received"][:]
                stamps = read_json(path.with_name(f"{path.stem}_timestamps.json"))
                assert stamps == rows.tolist()
                assert np.issubdtype(rows.dtype, np.integer)
                np.testing.assert_array_equal(rows - rows[0], np.rint((episode.times_ns - episode.times_ns[0]) / 1e6))
                assert (np.diff(rows) > 0).all()
                assert len(rows) == len(VideoReader(str(path), ctx=cpu(0)))


def test_the_trainer_cuts_the_bars_away() -> None:
    """It takes the middle of a picture, 1.35 times as wide as high, and a picture that is narrower whole."""
    recipe = load_recipe(BuildRecipe, (ROOT / "jobs/recipes/vjepa2_ac.toml").read_text(), "vjepa2_ac.toml")
    height, width = recipe.views.height_px, recipe.views.width_px
    assert height
    assert width
    assert height >= 256
    assert Fraction(width, height) == Fraction(16, 9)  # no bars about what DROID's cameras show
    assert round(1.35 * height) <= width
    assert abs(4 / 3 * height - 1.35 * height) < 6  # about cameras of 4 to 3 they are cut away but for two columns


def test_what_is_as_long_as_a_clip_is_told_and_not_listed(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    index = read_json(folder / "wamloom.json")
    assert index["shortest"] == 33
    assert index["too_short"] == [droid_raw.folder_of(build.episodes[1].plan)]
    assert (folder / index["too_short"][0] / "trajectory.h5").is_file()
    assert index["extrinsics_unknown"] == {
        episode.plan.episode_id: ["ext1", "wrist"] if number in (1, 3) else ["wrist"]
        for number, episode in enumerate(build.episodes)
    }


def test_extrinsics_that_nobody_knows_are_no_numbers(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    with h5py.File(folder / droid_raw.folder_of(build.episodes[1].plan) / "trajectory.h5") as file:
        rows = file["observation/camera_extrinsics/20000001_left"][:]
    assert rows.shape == (32, 6)
    assert np.isnan(rows).all()


def test_our_own_source_reads_it(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    refs = SOURCE.refs(str(folder))
    assert len(refs) == len(build.episodes)
    by_id = {episode.plan.episode_id: episode for episode in build.episodes}
    video = VideoTools(Limits())
    try:
        for ref in refs:
            raw = SOURCE.read(ref, video, Limits())
            (path,) = (folder / ref.detail("folder")).glob("metadata_*.json")
            episode = by_id[read_json(path)["wamloom_episode_id"]]
            streams = {stream.name: stream for stream in raw.streams}
            for name, values in (
                ("observation/robot_state/cartesian_position", episode.proprio[:, :6]),
                ("observation/robot_state/gripper_position", episode.proprio[:, 6]),
                ("action/cartesian_position", episode.action[:, :6]),
                ("action/gripper_position", episode.action[:, 6]),
                ("wamloom/valid", episode.valid),
            ):
                np.testing.assert_array_equal(streams[name].values, values)
            times = streams["action/gripper_position"].times_ns
            assert np.abs(times - episode.times_ns).max() <= 500_000
            assert {view.key for view in raw.views} == {"ext1", "wrist"}
            assert dict(raw.attributes).get("success") == episode.plan.success
            assert not [finding for finding in raw.findings if finding.severity == "error"]
    finally:
        video.close()


@pytest.mark.parametrize(
    ("convention", "values"),
    [
        ("xyz_euler_xyz", POSE),
        ("xyz_quaternion_xyzw", (*POSE[:3], *Rotation.from_euler("xyz", POSE[3:]).as_quat())),
        ("xyz_axis_angle", (*POSE[:3], *Rotation.from_euler("xyz", POSE[3:]).as_rotvec())),
        (
            "matrix_4x4",
            np.block(
                [[Rotation.from_euler("xyz", POSE[3:]).as_matrix(), np.array(POSE[:3])[:, None]], [np.eye(4)[3:]]]
            ).ravel(),
        ),
    ],
)
def test_extrinsics_are_written_as_droid_writes_them(tmp_path: Path, convention: Any, values: Any) -> None:
    build = make_build((3,), arm=True, views=(("primary", 64, 96),))
    said = tuple(float(one) for one in values)
    other = Calibration("ext1", "made up", extrinsics=POSE, convention="xyz_euler_xyz", frame="gripper")
    mine = Calibration("ext1", "made up", extrinsics=said, convention=convention, frame="base")
    build.episodes[0].calibrations["primary"] = (other, mine)  # type: ignore[index]
    write_build(droid_raw, build, tmp_path)
    (path,) = tmp_path.rglob("trajectory.h5")
    with h5py.File(path) as file:
        np.testing.assert_allclose(
            file["observation/camera_extrinsics/20000001_left"][:], np.tile(POSE, (3, 1)), atol=1e-12
        )


def test_hdf5_files_hold_no_time(tmp_path: Path) -> None:
    columns = {"a/b": np.arange(5.0), "a/c": np.zeros((5, 2), bool)}
    assert droid_raw.hdf5_bytes(columns, {"x": "y"}) == droid_raw.hdf5_bytes(
        dict(reversed(columns.items())), {"x": "y"}
    )


def test_a_flipped_bit_in_the_rows_is_noticed(tmp_path: Path) -> None:
    build = make_build((40,), arm=True)
    write_build(droid_raw, build, tmp_path)
    (path,) = tmp_path.rglob("trajectory.h5")
    data = path.read_bytes()
    at = data.index(build.episodes[0].proprio[:, :6].astype(np.float64).tobytes()[:64])
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(ReleaseError) as told:
        droid_raw.FORMAT.count(tmp_path)
    assert told.value.reason == "unreadable"


def test_what_the_trainer_lacks_is_told_before_any_work(tmp_path: Path) -> None:
    bare = make_build((4,))
    with pytest.raises(RecipeError, match="reads cartesian_position"):
        droid_raw.FORMAT.open_unit(bare.units[0], bare.recipe, tmp_path)
    for views in ((), (("wrist_left", 64, 96),), (("primary", 64, 96), ("a_canvas", 64, 96))):
        blind = make_build((4,), arm=True, views=views)
        with pytest.raises(RecipeError, match="left standing camera") as told:
            droid_raw.FORMAT.open_unit(blind.units[0], blind.recipe, tmp_path)
        assert told.value.hint
    assert list(tmp_path.iterdir()) == []


def test_from_recordings_and_back(tmp_path: Path) -> None:
    lake_path = arm_lake(tmp_path, (36, 34, 20))
    text = (ROOT / "jobs" / "recipes" / "vjepa2_ac.toml").read_text()
    recipe = load_recipe(BuildRecipe, text, "vjepa2_ac.toml").model_copy(
        update={
            "views": ViewsRecipe(slots=("primary", "secondary", "wrist_left"), height_px=64, width_px=96),
            "split": SplitRecipe(),
        }
    )
    run_build(lake_path, tmp_path / "out", recipe)
    lake = Lake.open(lake_path)
    assert verify_release(tmp_path / "out", lake, readers=True).problems == []
    (group,) = read_json(tmp_path / "out" / "manifest.json")["groups"]
    folder = tmp_path / "out" / "droid_raw" / group["name"]
    clips = DroidVideos(folder / "train.csv")
    long = [plan for plan in group["episodes"] if plan["num_steps"] > 32]
    assert len(clips.samples) == len(long) == 2
    assert len(read_json(folder / "wamloom.json")["too_short"]) == 1
    for index, plan in enumerate(long):
        stored = lake.episode(plan["episode_id"])
        frames, _, states, extrinsics = clips.clip(index)
        proprio = numbers_of(stored, None, tuple(stored.views)).proprio[np.arange(0, 32, 8)]
        np.testing.assert_array_equal(states, proprio[:, [0, 1, 2, 3, 4, 5, 13]].astype(np.float32))
        np.testing.assert_allclose(extrinsics, np.tile(POSE, (4, 1)))
        assert frames.shape == (8, 64, 96, 3)
    again = run_ingest([folder], tmp_path / "again").values
    assert again["listed"] == again["kept"] == 3, again["problems"]
