"""The library zarr is the judge, then a stand-in of UWM's loader (contract test frozen from TRAINERS.md, 2.12)."""

from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr as zarr_library

from pipelines.barcode import Mark, read_mark
from pipelines.formats import zarr
from pipelines.lake import Lake
from pipelines.numbers import numbers_of
from pipelines.rotations import convert, to_matrix
from pipelines.sources.zarr import SOURCE
from pipelines.verify import verify_release
from pipelines.video import VideoTools
from pipelines.zarr_store import BLOSC, compressed, open_array, read_array, write_array
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe, Limits, ViewsRecipe, load_recipe
from schemas.release_choices import SplitRecipe
from tests.arm_lake import arm_lake
from tests.chain import read_json, run_build
from tests.fake_build import FakeBuild, frame_number, make_build, write_build

ROOT = Path(__file__).resolve().parents[1]


class UwmBuffer:
    """What UWM's loader asks of a buffer and its normalizers, and how it cuts sequences."""

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], seq_len: int) -> None:
        root: Any = zarr_library.open_group(str(path), mode="r", zarr_format=2)
        self.data = root["data"]
        assert all(self.data[key].shape[1:] == shape for key, shape in shapes.items())
        lengths = {array.shape[0] for _, array in self.data.arrays()}
        assert len(lengths) == 1, "Inconsistent data lengths in the buffer"
        self.ends = root["meta/episode_ends"][:]
        assert (self.ends.dtype, self.ends[-1]) == (np.int64, lengths.pop())
        starts = [0, *self.ends[:-1]]
        self.spans = [
            (j, j + seq_len)
            for start, end in zip(starts, self.ends, strict=True)
            for j in range(start, end + 1 - seq_len)
        ]
        self.lowdim = dict(np.load(path.parent / "lowdim_normalizer_stats.npz", allow_pickle=False))
        self.action = dict(np.load(path.parent / f"action_normalizer_stats_len{seq_len}.npz", allow_pickle=False))

    def sample(self, index: int) -> dict[str, np.ndarray]:
        start, stop = self.spans[index]
        found = {name: array[start:stop] for name, array in self.data.arrays()}
        for key, (scale, offset) in self.lowdim.items():
            found[f"obs.{key}"] = (found[f"obs.{key}"] - offset) / scale
        found["action"] = (found["action"] - self.action["offset"]) / self.action["scale"]
        return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeBuild, Path]:
    folder = tmp_path_factory.mktemp("zarr")
    build = make_build((7, 1, 12, 4, 5), arm=True, num_val=2, proprio_width=8)
    write_build(zarr, build, folder)
    return build, folder


def test_every_value_comes_back(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    for name in ("train", "val"):
        root: Any = zarr_library.open_group(str(folder / f"{name}.zarr"), mode="r", zarr_format=2)
        episodes = [episode for episode in build.episodes if episode.plan.split == name]
        np.testing.assert_array_equal(root["meta/episode_ends"][:], np.cumsum([e.plan.num_steps for e in episodes]))
        for start, episode in zip([0, *root["meta/episode_ends"][:-1]], episodes, strict=True):
            rows = slice(start, start + episode.plan.num_steps)
            np.testing.assert_array_equal(root["data/action"][rows], episode.action)
            np.testing.assert_array_equal(root["data/obs.cartesian_position"][rows], episode.proprio[:, :6])
            np.testing.assert_array_equal(root["data/obs.gripper_position"][rows], episode.proprio[:, 6:7])
            np.testing.assert_array_equal(root["meta/valid"][rows], episode.valid)
            for view, height, width in build.group.views:
                array = root[f"data/obs.{view}"]
                assert (array.chunks, array.dtype) == ((1, height, width, 3), np.uint8)
                marks = [read_mark(frame) for frame in array[rows]]
                index = episode.plan.episode_index
                assert marks == [Mark(frame_number(view, step), index) for step in range(episode.plan.num_steps)]


def test_chunks_are_what_numcodecs_makes_of_them() -> None:
    frame = np.random.default_rng(0).integers(0, 9, (1, 180, 320, 3)).astype(np.uint8)
    assert compressed(frame) == bytes(numcodecs.get_codec(BLOSC).encode(frame))
    np.testing.assert_array_equal(
        np.frombuffer(numcodecs.get_codec(BLOSC).decode(compressed(frame)), np.uint8), frame.ravel()
    )


@pytest.mark.parametrize("rows", [1, 3, 250_000])
def test_arrays_of_several_chunks_come_back(tmp_path: Path, rows: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
    write_array(tmp_path / "array", values)
    read: Any = zarr_library.open_array(str(tmp_path / "array"), mode="r", zarr_format=2)
    np.testing.assert_array_equal(read[:], values)
    np.testing.assert_array_equal(read_array(tmp_path / "array"), values)
    assert read.nchunks == -(-rows // open_array(tmp_path / "array").chunks[0])


def test_uwm_samples_and_normalizes(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    seq_len = build.recipe.horizon + 3
    shapes = {"obs.primary": (64, 96, 3), "obs.cartesian_position": (6,), "obs.gripper_position": (1,), "action": (7,)}
    buffer = UwmBuffer(folder / "train.zarr", shapes, seq_len)
    assert len(buffer.spans) == 1 + 6
    values = np.concatenate([e.action for e in build.episodes if e.plan.split == "train"])
    np.testing.assert_array_equal(buffer.action["scale"], (values.max(axis=0) - values.min(axis=0)) / 2)
    seen = [buffer.sample(index) for index in range(len(buffer.spans))]
    for key in ("action", "obs.cartesian_position", "obs.gripper_position"):
        numbers = np.concatenate([sample[key] for sample in seen])
        assert numbers.dtype == np.float32
        assert np.abs(numbers).max() <= 1 + 1e-6
    third = build.episodes[2]
    assert read_mark(seen[1]["obs.primary"][0]) == Mark(0, third.plan.episode_index)


def test_a_number_that_never_changes_is_not_divided_by_nothing(tmp_path: Path) -> None:
    build = make_build((6,), arm=True)
    build.episodes[0].proprio[:, 6] = 0.25
    write_build(zarr, build, tmp_path)
    scale, offset = np.load(tmp_path / "lowdim_normalizer_stats.npz", allow_pickle=False)["gripper_position"]
    assert (scale.tolist(), offset.tolist()) == ([1.0], [0.25])


def test_our_own_ingest_reads_it(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    assert SOURCE.datasets(str(folder)) == [str(folder / "train.zarr"), str(folder / "val.zarr")]
    refs = SOURCE.refs(str(folder / "val.zarr"))
    video = VideoTools(Limits())
    try:
        for ref, episode in zip(refs, build.episodes[3:], strict=True):
            raw = SOURCE.read(ref, video, Limits())
            action = raw.stream("action")
            assert action is not None
            np.testing.assert_array_equal(action.values, episode.action)
            assert {view.key for view in raw.views} == {"obs.primary", "obs.wrist_left"}
            assert raw.findings == ()
    finally:
        video.close()


@pytest.mark.parametrize("problem", ["missing chunk", "longer chunk", "header that lies"])
def test_damage_is_noticed(tmp_path: Path, problem: str) -> None:
    build = make_build((4,), arm=True)
    write_build(zarr, build, tmp_path)
    path = tmp_path / "train.zarr/data/obs.primary/2.0.0.0"
    data = bytearray(path.read_bytes())
    if problem == "missing chunk":
        path.unlink()
    elif problem == "longer chunk":
        path.write_bytes(data + b"\0")
    else:
        data[4:8] = (1 << 30).to_bytes(4, "little")
        path.write_bytes(data)
    with pytest.raises(ReleaseError) as told:
        zarr.FORMAT.count(tmp_path)
    assert told.value.reason == "unreadable"


def test_a_robot_without_a_pose_is_refused_before_any_work(tmp_path: Path) -> None:
    build = make_build((4,))
    with pytest.raises(RecipeError, match="UWM reads cartesian_position") as told:
        zarr.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)
    assert told.value.hint
    assert list(tmp_path.iterdir()) == []


def test_from_recordings_to_uwm(tmp_path: Path) -> None:
    lake_path = arm_lake(tmp_path, (24, 22, 21, 23))
    text = (ROOT / "jobs" / "recipes" / "uwm.toml").read_text()
    recipe = load_recipe(BuildRecipe, text, "uwm.toml").model_copy(
        update={
            "views": ViewsRecipe(height_px=36, width_px=64),
            "split": SplitRecipe(val_fraction=0.4),
            "unit_frames": 70,
        }
    )
    run_build(lake_path, tmp_path / "out", recipe)
    lake = Lake.open(lake_path)
    assert verify_release(tmp_path / "out", lake, readers=True).problems == []
    (group,) = read_json(tmp_path / "out" / "manifest.json")["groups"]
    folder = tmp_path / "out" / "zarr" / group["name"]
    shapes = {
        "obs.exterior_image_1_left": (36, 64, 3),
        "obs.exterior_image_2_left": (36, 64, 3),
        "obs.wrist_image_left": (36, 64, 3),
        "obs.cartesian_position": (6,),
        "obs.gripper_position": (1,),
        "action": (10,),
    }
    buffer = UwmBuffer(folder / "train.zarr", shapes, 19)
    planned = [episode for episode in group["episodes"] if episode["split"] == "train"]
    assert 0 < len(planned) < 4
    assert len(buffer.spans) == sum(episode["num_steps"] - 18 for episode in planned)
    start = 0
    for plan in planned:
        stored = lake.episode(plan["episode_id"])
        numbers = numbers_of(stored, None, tuple(stored.views))
        rows = slice(start, start + plan["num_steps"])
        np.testing.assert_array_equal(
            buffer.data["obs.cartesian_position"][rows], numbers.proprio[:, :6].astype(np.float32)
        )
        action = buffer.data["action"][rows]
        there, here = numbers.action, numbers.proprio
        np.testing.assert_allclose(action[:, :3], there[:, :3] - here[:, :3], atol=1e-6)
        turn = to_matrix(there[:, 3:6], "euler_xyz") @ to_matrix(here[:, 3:6], "euler_xyz").transpose(0, 2, 1)
        np.testing.assert_allclose(action[:, 3:9], convert(turn.reshape(-1, 9), "matrix", "rot6d_rows"), atol=1e-6)
        np.testing.assert_allclose(action[:, 9], there[:, 13], atol=1e-6)
        start += plan["num_steps"]
