"""Buffers as UMI names them: a stand-in of its loader and of UVA's gets poses, widths and pictures of the lake."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr as zarr_library
from scipy.spatial.transform import Rotation

from pipelines.barcode import read_mark
from pipelines.formats import zarr
from pipelines.lake import Lake
from pipelines.numbers import numbers_of
from pipelines.sample_look import look_at_sample
from pipelines.umi_names import umi_numbers
from pipelines.verify import verify_release
from schemas.embodiment import Gripper
from schemas.errors import RecipeError
from schemas.recipes import BuildRecipe, load_recipe
from schemas.release_choices import NamesRecipe, SplitRecipe, ZarrRecipe
from tests.arm_lake import arm_lake
from tests.chain import read_json, run_build, run_ingest
from tests.fake_build import FakeBuild, make_build, write_build

ROOT = Path(__file__).resolve().parents[1]
HORIZON = 8


def matrices(poses: np.ndarray, written: str = "axis_angle") -> np.ndarray:
    """float64 [T, 4, 4] of positions and rotation vectors, or angles about the fixed axes."""
    found = np.tile(np.eye(4), (len(poses), 1, 1))
    turns = poses[:, 3:6]
    turn = Rotation.from_rotvec(turns) if written == "axis_angle" else Rotation.from_euler("xyz", turns)
    found[:, :3, :3], found[:, :3, 3] = turn.as_matrix(), poses[:, :3]
    return found


def relative(poses: np.ndarray, base: np.ndarray) -> np.ndarray:
    """[T, 9]: place and the first two rows of the rotation, seen from ``base``."""
    seen = np.linalg.inv(base) @ poses
    return np.concatenate([seen[:, :3, 3], seen[:, :2, :3].reshape(-1, 6)], axis=1)


def umi_samples(path: Path) -> list[dict[str, Any]]:
    """What ``UmiDataset`` makes of a buffer: of every step with a whole chunk behind it the picture, the width and the action."""
    root: Any = zarr_library.open_group(str(path), mode="r", zarr_format=2)
    data, ends = root["data"], root["meta/episode_ends"][:]
    assert "action" not in data
    assert {array.shape[0] for _, array in data.arrays()} == {ends[-1]}
    pose = np.concatenate([data["robot0_eef_pos"][:], data["robot0_eef_rot_axis_angle"][:]], axis=-1)
    width, samples = data["robot0_gripper_width"][:], []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        for now in range(start, end - HORIZON + 1):
            chunk = slice(now, now + HORIZON)
            action = np.concatenate(
                [relative(matrices(pose[chunk]), matrices(pose[now : now + 1])[0]), width[chunk]], 1
            )
            begun = data["robot0_demo_start_pose"][now]
            samples.append({"rgb": data["camera0_rgb"][now], "action": action, "start": begun, "step": now - start})
    return samples


def test_from_recordings_to_umi(tmp_path: Path) -> None:
    lake_path = arm_lake(tmp_path, (14, 12, 11))
    text = (ROOT / "jobs" / "recipes" / "umi.toml").read_text()
    shipped = load_recipe(BuildRecipe, text, "umi.toml")
    views = shipped.views.model_copy(update={"height_px": 96, "width_px": 160})
    changes = {"views": views, "split": SplitRecipe(val_fraction=0.4), "unit_frames": 15}
    run_build(lake_path, tmp_path / "out", shipped.model_copy(update=changes))
    lake = Lake.open(lake_path)
    proof = verify_release(tmp_path / "out", lake, readers=True)
    assert proof.problems == []
    assert proof.checked["zarr_rows_reached"] == 14 + 12 + 11
    told = look_at_sample(tmp_path / "out", 3, "zarr").plain
    assert (told["step"], told["action_chunk"]["names"]) == (3, [])
    (group,) = read_json(tmp_path / "out" / "manifest.json")["groups"]
    folder = tmp_path / "out" / "zarr" / group["name"]
    assert sorted(path.name for path in folder.iterdir()) == ["train.zarr", "val.zarr", "wamloom.json"]
    seen = umi_samples(folder / "train.zarr")
    planned = [episode for episode in group["episodes"] if episode["split"] == "train"]
    assert len(seen) == sum(max(0, episode["num_steps"] - HORIZON + 1) for episode in planned)
    for plan in planned:
        stored = lake.episode(plan["episode_id"])
        proprio = numbers_of(stored, None, tuple(stored.views)).proprio
        poses = matrices(proprio[:, :6], "euler_xyz")
        for sample in seen[: plan["num_steps"] - HORIZON + 1]:
            chunk = slice(sample["step"], sample["step"] + HORIZON)
            wanted = relative(poses[chunk], poses[sample["step"]])
            np.testing.assert_allclose(sample["action"][:, :9], wanted, atol=1e-5)
            np.testing.assert_allclose(sample["action"][:, 9], 0.085 * (1 - proprio[chunk, 13]), atol=1e-7)
            np.testing.assert_allclose(matrices(sample["start"][None])[0], poses[0], atol=1e-6)
            mark = read_mark(sample["rgb"])
            assert mark is not None
            assert mark.frame == sample["step"]
        del seen[: plan["num_steps"] - HORIZON + 1]
    # what the trainer opens is a zip file, and our own source knows it as UMI's
    packed = shutil.make_archive(str(tmp_path / "train.zarr"), "zip", folder / "train.zarr")
    answer = run_ingest([Path(packed)], tmp_path / "second").values
    assert answer["kept"] == len(planned), answer["problems"]


def umi_build(**recipe: Any) -> FakeBuild:
    chosen = BuildRecipe(horizon=4, zarr=ZarrRecipe(layout="umi", **recipe), names=NamesRecipe())
    return make_build((5, 3), arm=True, views=(("camera0_rgb", 64, 96),), recipe=chosen)


def with_gripper(build: FakeBuild, unit: str, grippers: tuple[Gripper, ...]) -> FakeBuild:
    layout = list(build.group.card.proprio)
    layout[6] = layout[6].model_copy(update={"unit": unit})
    card = build.group.card.model_copy(update={"proprio": tuple(layout), "proprio_grippers": grippers})
    group = dataclasses.replace(build.group, card=card)
    return dataclasses.replace(
        build, group=group, units=tuple(dataclasses.replace(unit, group=group) for unit in build.units)
    )


def test_a_width_in_metres_is_taken_as_it_is(tmp_path: Path) -> None:
    build = with_gripper(umi_build(gripper_stroke_m=0.085), "m", ())
    write_build(zarr, build, tmp_path)
    root: Any = zarr_library.open_group(str(tmp_path / "train.zarr"), mode="r", zarr_format=2)
    widths = np.concatenate([episode.proprio[:, 6:7] for episode in build.episodes])
    np.testing.assert_array_equal(root["data/robot0_gripper_width"][:], widths)
    ends = np.concatenate([np.tile(episode.proprio[-1:, :3], (len(episode.proprio), 1)) for episode in build.episodes])
    np.testing.assert_array_equal(root["data/robot0_demo_end_pose"][:, :3], ends)
    assert zarr.FORMAT.count(tmp_path) == {"samples": 8, "frames": 8, "episodes": 2}


@pytest.mark.parametrize(("opened", "closed"), [(0.0, 1.0), (1.0, 0.0), (100.0, 0.0)])
def test_a_share_is_a_width_between_what_the_card_calls_open_and_closed(opened: float, closed: float) -> None:
    name = umi_build().group.card.proprio[6].name
    build = with_gripper(umi_build(), "1", (Gripper(channel=name, open=opened, closed=closed),))
    numbers = umi_numbers(build.group.card, "a test", 0.1)
    rows = np.zeros((3, len(build.group.card.proprio)))
    rows[:, 6] = [opened, closed, (opened + closed) / 2]
    np.testing.assert_allclose(numbers.columns(rows)["robot0_gripper_width"][:, 0], [0.1, 0, 0.05], atol=1e-8)


def test_what_umi_could_not_read_is_refused_before_any_work(tmp_path: Path) -> None:
    name = umi_build().group.card.proprio[6].name
    polarity = (Gripper(channel=name, open=0, closed=1),)
    cases = (
        (with_gripper(umi_build(), "1", polarity), "gripper_stroke_m"),
        (with_gripper(umi_build(gripper_stroke_m=0.085), "1", ()), "which value is open"),
        (make_build((4,), recipe=umi_build().recipe, views=(("camera0_rgb", 64, 96),)), "leave such robots out"),
        (make_build((4,), arm=True, recipe=umi_build().recipe), "camera0_rgb"),
    )
    for build, hint in cases:
        with pytest.raises(RecipeError) as told:
            zarr.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)
        assert hint in told.value.hint
    assert list(tmp_path.iterdir()) == []
