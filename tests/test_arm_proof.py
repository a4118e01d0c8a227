"""Layouts of trainers read back: what is whole passes, in whatever way its numbers were written; what is wrong is found."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.barcode import Mark, read_mark
from pipelines.formats import cosmos_policy as cosmos_format
from pipelines.formats import describe_group
from pipelines.formats import rlds as rlds_format
from pipelines.lake import Lake
from pipelines.probes import cosmos_policy as cosmos_probe
from pipelines.probes import rlds as rlds_probe
from pipelines.read_back import num_frames
from pipelines.release import manifest_bytes
from pipelines.verify import verify_release
from schemas.action_recipe import ActionRecipe
from schemas.embodiment import Channel, ChannelKind
from schemas.recipes import BuildRecipe, SegmentFilter, ViewsRecipe
from tests.arm_release import (
    FORMATS,
    LENGTHS,
    RECIPE,
    RELATIVE,
    change_array,
    change_hdf5,
    change_json,
    change_records,
    late_video,
    later,
    make_arm_lake,
    nudged,
    swap,
)
from tests.chain import read_json
from tests.fake_build import FakeBuild, build_of, frame_number, make_build, write_build
from tests.gap_lake import NUM_STEPS, gap_lake
from tests.release_chain import make_release, seal_again

STEPS = sum(LENGTHS)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_arm_lake(tmp_path_factory.mktemp("arm"))


@pytest.fixture(scope="module")
def release(lake: Path) -> Path:
    return make_release(lake, lake.parent / "release", RECIPE)


@pytest.fixture(scope="module")
def relative(lake: Path) -> Path:
    """As ``release``, with actions that are changes of the state."""
    recipe = RECIPE.model_copy(update={"actions": RELATIVE})
    return make_release(lake, lake.parent / "relative", recipe)


def test_a_whole_release_passes_and_what_is_not_held_is_told(release: Path, lake: Path) -> None:
    result = verify_release(release, Lake.open(lake))
    assert result.problems == []
    checked = result.checked
    assert {checked[f"{name}_rows_reached"] for name in FORMATS} == {STEPS}
    frames = dict.fromkeys(FORMATS, 2 * STEPS) | {"ctrlworld": 2 * sum((length + 1) // 2 for length in LENGTHS)}
    assert {name: checked[f"{name}_frames_decoded"] for name in FORMATS} == frames
    assert checked["frames_compared_with_the_lake"] == sum(frames.values())
    assert checked["runs_aligned"] + checked.get("runs_standing_still", 0) == 2 * len(LENGTHS) * len(FORMATS)
    assert checked["runs_aligned"] > 0
    again = {name for name in FORMATS if f"{name}_actions_made_again" in checked}
    assert again == {"cosmos_policy", "rlds", "zarr"}
    assert {result.worst[name] for name in ("lag_frames", "time_error_s", "value_difference")} == {0.0}
    assert result.worst["statistics_error"] < 1e-6
    (group,) = read_json(release / "manifest.json")["groups"]
    both = 2 * len(group["action_names"])
    assert checked["channels_recomputed"] == len(FORMATS) * both  # of a recorded action, zarr has all too
    nothing = "times, source rows, frame numbers"
    assert sorted(result.skipped) == [
        f"{name} does not hold of its steps: {'frame numbers' if name == 'droid_raw' else nothing}" for name in FORMATS
    ]


def test_relative_actions_are_made_again_from_the_lake_and_only_there(relative: Path, lake: Path) -> None:
    result = verify_release(relative, Lake.open(lake))
    assert result.problems == []
    assert {result.checked[f"{name}_actions_made_again"] for name in ("cosmos_policy", "rlds", "zarr")} == {STEPS}
    assert result.worst["value_difference"] == 0
    unknown = "the actions of zarr are made of the recorded ones; without a lake they are not compared"
    assert unknown not in result.skipped
    bare = verify_release(relative)
    assert bare.problems == []
    assert unknown in bare.skipped


def rlds_shard(group: Path) -> Path:
    return sorted((group / "1.0.0").glob("*-train.*"))[0]


def records(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Changes the features of the first record of RLDS."""
    return lambda group: change_records(rlds_shard(group), lambda found: change(found[0].features.feature))


def rlds_late(features: Any) -> None:
    pictures = features["steps/observation/primary"].bytes_list.value
    pictures[:] = later(list(pictures))


def rlds_number(key: str) -> Callable[[Any], None]:
    def change(features: Any) -> None:
        numbers = features[key].float_list.value
        numbers[len(numbers) // 2] += 1e-3

    return change


def rlds_text(features: Any) -> None:
    features["steps/language_instruction"].bytes_list.value[1] = b"something else"


def rlds_valid(features: Any, key: str = "steps/valid") -> None:
    features[key].int64_list.value[2] = 0


def zarr_late(group: Path) -> None:
    folder = group / "train.zarr/data/obs.primary"
    for number in range(9, 0, -1):
        shutil.copyfile(folder / f"{number - 1}.0.0.0", folder / f"{number}.0.0.0")


def zarr_swapped(group: Path) -> None:
    """The first two episodes of one length change places, rows and all, in every array of numbers."""
    root = group / "train.zarr"
    ends = [0, *np.cumsum(lengths_of(group, "train")).tolist()]
    lengths = np.diff(ends).tolist()
    one, other = next((i, j) for j in range(len(lengths)) for i in range(j) if lengths[i] == lengths[j])

    def change(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        a, b = slice(ends[one], ends[one + 1]), slice(ends[other], ends[other + 1])
        changed[a], changed[b] = values[b], values[a]
        return changed

    for name in ("obs.cartesian_position", "obs.gripper_position", "obs.joint_position", "action"):
        change_array(root / "data" / name, change)


def lengths_of(group: Path, split: str) -> list[int]:
    manifest = read_json(group.parents[1] / "manifest.json")
    return [one["num_steps"] for one in manifest["groups"][0]["episodes"] if one["split"] == split]


def zarr_action(group: Path) -> None:
    """A number that is neither the least nor the greatest of its column, so that the normalizer stays right."""
    change_array(group / "train.zarr/data/action", _between)


def _between(values: np.ndarray) -> np.ndarray:
    changed = values.copy()
    column = int(np.ptp(values, axis=0).argmax())
    order = np.argsort(values[:, column])[1:-1]
    widest = int(np.diff(values[order, column]).argmax())
    changed[order[widest], column] = values[order[widest : widest + 2], column].mean()
    return changed


def droid_folders(group: Path) -> list[Path]:
    return [group / line for line in read_json(group / "wamloom.json")["episodes"]]


def droid_late(group: Path) -> None:
    late_video(sorted((droid_folders(group)[0] / "recordings/MP4").glob("2*.mp4"))[0])


def droid_rows_swapped(group: Path) -> None:
    found: dict[int, Path] = {}
    for folder, length in read_json(group / "wamloom.json")["episodes"].items():
        if length in found:
            swap(found[length] / "trajectory.h5", group / folder / "trajectory.h5")
            return
        found[length] = group / folder


def droid(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda group: change_hdf5(droid_folders(group)[0] / "trajectory.h5", name, change)


def annotation(change: Callable[[Any], None]) -> Callable[[Path], None]:
    return lambda group: change_json(sorted((group / "annotation/train").iterdir())[0], change)


def ctrlworld_number(name: str) -> Callable[[Any], None]:
    def change(facts: Any) -> None:
        facts[name][2][0] += 1e-3

    return change


def ctrlworld_rows_and_states(facts: Any) -> None:
    """A row of no frame, so that only the lake can tell."""
    row = np.float32(facts["observation.state.cartesian_position"][3][0] * 0.999)
    facts["observation.state.cartesian_position"][3][0] = float(row)


def ctrlworld_samples(group: Path) -> None:
    change_json(next(group.glob("dataset_meta_info/*/train_sample.json")), _one_twice)


def _one_twice(samples: list[Any]) -> None:
    samples[1] = dict(samples[0])


def ctrlworld_late(group: Path) -> None:
    late_video(sorted((group / "videos/train").iterdir())[0] / "0.mp4")


def ctrlworld_videos_swapped(group: Path) -> None:
    """Those of two episodes of other lengths."""
    videos = {num_frames(path): path for path in sorted((group / "videos/train").glob("*/0.mp4"))}
    swap(*list(videos.values())[:2])


def ctrlworld_statistics(group: Path) -> None:
    change_json(next(group.glob("dataset_meta_info/*/stat.json")), lambda facts: facts["state_01"].reverse())


def cosmos_file(group: Path, demo: bool) -> Path:
    return sorted((group / ("demos" if demo else "rollouts")).rglob("*.hdf5"))[0]


def cosmos(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda group: change_hdf5(cosmos_file(group, True), f"data/demo_0/{name}", change)


def cosmos_swapped(group: Path) -> None:
    lengths = {
        one["episode_id"]: one["num_steps"]
        for one in read_json(group.parents[1] / "manifest.json")["groups"][0]["episodes"]
    }
    found: dict[tuple[int, str], str] = {}
    for file, episode in read_json(group / "wamloom.json")["files"].items():
        key = lengths[episode], file.split("/")[0]
        if key in found:
            swap(group / found[key], group / file)
            return
        found[key] = file
    raise AssertionError("no two of one length")


CHANGES: dict[str, tuple[str, Callable[[Path], None], bool, str]] = {
    "rlds records swapped": (
        "rlds",
        lambda group: change_records(rlds_shard(group), list.reverse),
        False,
        "its record is that of episode",
    ),
    "rlds pictures late": ("rlds", records(rlds_late), True, "primary lags the lake"),
    "rlds part": ("rlds", records(rlds_number("steps/observation/cartesian_position")), False, "not that of its state"),
    "rlds state": ("rlds", records(rlds_number("steps/observation/state")), True, "its proprio is not what the lake"),
    "rlds command": ("rlds", records(rlds_number("steps/action_dict/joint_position")), True, "its action is not what"),
    "rlds action": ("rlds", records(rlds_number("steps/action")), True, "its actions are not what the lake"),
    "rlds action, by the statistics": ("rlds", records(rlds_number("steps/action")), False, "the statistics say"),
    "rlds instruction": ("rlds", records(rlds_text), False, "its instructions are not"),
    "rlds valid": ("rlds", records(rlds_valid), True, "the rows that count are not those that the lake"),
    "zarr rows swapped": ("zarr", zarr_swapped, True, "its proprio is not what the lake"),
    "zarr pictures late": ("zarr", zarr_late, True, "primary lags the lake"),
    "zarr action": ("zarr", zarr_action, True, "its actions are not what the lake"),
    "zarr action, by the statistics": ("zarr", zarr_action, False, "the statistics say"),
    "zarr normalizer": (
        "zarr",
        lambda group: change_array(group / "train.zarr/data/action", lambda values: values * 2),
        False,
        "the normalizer of data/action",
    ),
    "zarr valid": (
        "zarr",
        lambda group: change_array(group / "train.zarr/meta/valid", np.logical_not),
        True,
        "the rows that count",
    ),
    "zarr ends": (
        "zarr",
        lambda group: change_array(group / "train.zarr/meta/episode_ends", lambda ends: ends - (ends < ends[-1])),
        False,
        "its samples are not",
    ),
    "droid rows swapped": ("droid_raw", droid_rows_swapped, True, "its proprio is not what the lake"),
    "droid pictures late": ("droid_raw", droid_late, True, "primary lags the lake"),
    "droid state": (
        "droid_raw",
        droid("observation/robot_state/cartesian_position", lambda v: np.float32(nudged(v)).astype(np.float64)),
        True,
        "its proprio is not what the lake",
    ),
    "droid state beyond float32": (
        "droid_raw",
        droid("observation/robot_state/joint_positions", lambda v: v + 1e-12),
        False,
        "no float32",
    ),
    "droid command": ("droid_raw", droid("action/joint_position", later), True, "its action is not what the lake"),
    "droid source rows": ("droid_raw", droid("wamloom/source_row", later), False, "source rows"),
    "droid valid": ("droid_raw", droid("wamloom/valid", np.logical_not), False, "the rows that count"),
    "droid times": (
        "droid_raw",
        droid("observation/timestamp/control/step_start", lambda v: v + 1),
        False,
        "1000000 ns from its step",
    ),
    "droid frame times": (
        "droid_raw",
        droid("observation/timestamp/cameras/20000001_estimated_capture", later),
        False,
        "a frame of primary lies",
    ),
    "droid camera's clock": (
        "droid_raw",
        droid("observation/timestamp/cameras/20000001_frame_received", later),
        False,
        "the clock of primary",
    ),
    "ctrlworld states": ("ctrlworld", annotation(ctrlworld_number("states")), False, "its states is not made of"),
    "ctrlworld rows": ("ctrlworld", annotation(ctrlworld_rows_and_states), True, "its proprio is not what the lake"),
    "ctrlworld pictures late": ("ctrlworld", ctrlworld_late, True, "primary lags the lake"),
    "ctrlworld videos swapped": ("ctrlworld", ctrlworld_videos_swapped, False, "frames, and"),
    "ctrlworld samples": ("ctrlworld", ctrlworld_samples, False, "each once and in order"),
    "ctrlworld statistics": ("ctrlworld", ctrlworld_statistics, False, "not that of the statistics"),
    "cosmos files swapped": ("cosmos_policy", cosmos_swapped, False, "its file is that of episode"),
    "cosmos pictures late": ("cosmos_policy", cosmos("obs/agentview_rgb", later), True, "primary lags the lake"),
    "cosmos actions": ("cosmos_policy", cosmos("actions", nudged), True, "its actions are not what the lake"),
    "cosmos state": ("cosmos_policy", cosmos("robot_states", later), True, "its proprio is not what the lake"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_wrong_content_with_right_hashes_is_found(name: str, release: Path, lake: Path, tmp_path: Path) -> None:
    form, change, with_lake, message = CHANGES[name]
    copy = alone(release, form, tmp_path)
    (group,) = (copy / form).iterdir()
    change(group)
    seal_again(copy)
    result = verify_release(copy, Lake.open(lake) if with_lake else None)
    assert any(message in problem.message for problem in result.problems), result.problems
    assert all(form in problem.where for problem in result.problems)  # and nothing else is blamed


def alone(release: Path, form: str, folder: Path) -> Path:
    """A copy of a release with one of its formats, that a test may spoil."""
    copy = folder / "copy"
    for name in ("lineage", "stats", form):
        shutil.copytree(release / name, copy / name)
    for name in ("README.md", "croissant.json"):
        shutil.copyfile(release / name, copy / name)
    manifest: dict[str, Any] = read_json(release / "manifest.json")
    manifest["counts"] = {form: manifest["counts"][form]}
    manifest["files"] = [one for one in manifest["files"] if (copy / one["path"]).exists()]
    (copy / "manifest.json").write_bytes(manifest_bytes(manifest))
    return copy


INDEXES = {
    "rlds": "1.0.0/dataset_info.json",
    "zarr": "wamloom.json",
    "droid_raw": "wamloom.json",
    "ctrlworld": "dataset_meta_info/*/index.json",
    "cosmos_policy": "wamloom.json",
}


@pytest.mark.parametrize("text", ["{}", "[]"])
@pytest.mark.parametrize("form", FORMATS)
def test_an_index_that_tells_nothing_is_a_problem_and_no_crash(
    form: str, text: str, release: Path, tmp_path: Path
) -> None:
    copy = alone(release, form, tmp_path)
    (group,) = (copy / form).iterdir()
    next(group.glob(INDEXES[form])).write_text(text)
    seal_again(copy)
    problems = verify_release(copy).problems
    assert problems
    assert all("cannot be read back" in problem.message for problem in problems)


def test_gaps_what_is_left_out_and_a_second_instruction(tmp_path: Path) -> None:
    path = gap_lake(tmp_path)
    recipe = BuildRecipe(
        formats=("rlds",),
        horizon=4,
        views=ViewsRecipe(height_px=32, width_px=32),
        segments=SegmentFilter(skip=("idle",)),
        actions=ActionRecipe(reference="chunk_start", base="self"),
    )
    result = verify_release(make_release(path, tmp_path / "out", recipe), Lake.open(path))
    assert result.problems == []
    assert result.checked["rlds_actions_made_again"] == NUM_STEPS
    (group,) = (tmp_path / "out/rlds").iterdir()
    change_records(rlds_shard(group), lambda found: rlds_valid(found[0].features.feature, "steps/selected"))
    seal_again(tmp_path / "out")
    (problem,) = verify_release(tmp_path / "out").problems
    assert problem.message == "the rows that windows may hold are not those of the lineage"


def test_a_changed_relative_action_is_found(relative: Path, lake: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(relative, tmp_path / "copy"))
    for form, change in (
        ("rlds", records(rlds_number("steps/action"))),
        ("zarr", zarr_action),
        ("cosmos_policy", cosmos("actions", nudged)),
    ):
        (group,) = (copy / form).iterdir()
        change(group)
    seal_again(copy)
    found = verify_release(copy, Lake.open(lake)).problems
    assert {Path(problem.where).parent.name for problem in found} == {"cosmos_policy", "rlds", "zarr"}
    assert {problem.message for problem in found} == {"its actions are not what the lake gives for this recipe"}


def test_rotations_that_are_written_in_another_way_are_held_against_what_was_done(tmp_path: Path) -> None:
    """A robot of quaternions, whose pose RLDS has with Euler angles: places are compared as they are, turns by turning again."""
    turn = [Channel(name=f"q{name}", unit="1", kind=ChannelKind.QUATERNION) for name in "xyzw"]
    place = [Channel(name=name, unit="m", kind=ChannelKind.POSITION) for name in "xyz"]
    layout = (Channel(name="thing"), *place, *turn)
    build = make_build((5, 4), action_width=8, proprio_width=8)
    card = build.group.card.model_copy(update={"action": layout, "proprio": layout})
    names = tuple(channel.name for channel in layout)
    group = replace(build.group, card=card, action_names=names, proprio_names=names)
    build = replace(build, group=group, units=tuple(replace(unit, group=group) for unit in build.units))
    write_build(rlds_format, build, tmp_path)
    entry_of_group = told(build)
    probe = rlds_probe.open_group(tmp_path, entry_of_group)
    for entry, episode in zip(entry_of_group["episodes"], build.episodes, strict=True):
        rows = probe.rows(entry)
        assert rows.at_odds == ()
        assert rows.channels["action"] == (1, 2, 3)
        np.testing.assert_array_equal(rows.vectors["action"], episode.action[:, 1:4])
        np.testing.assert_array_equal(rows.vectors["proprio"], episode.proprio)
        (made,) = rows.made
        assert (made.name, made.vector, made.values.shape[1]) == ("cartesian_position", "action", 6)
        np.testing.assert_array_equal(made.of(episode.action), made.values)
        assert not np.allclose(made.of(-episode.action[::-1]), made.values)


def told(build: FakeBuild) -> dict[str, Any]:
    """What a manifest would say of the group."""
    episodes = [asdict(one.plan) for one in build.episodes]
    return describe_group(build.group, build.recipe) | {"name": build.group.name, "episodes": episodes}


def test_files_of_alohas_shape_are_read_back_too(tmp_path: Path) -> None:
    views = (("primary", 64, 96), ("wrist_left", 48, 64), ("wrist_right", 48, 64))
    build = build_of("cosmos_policy", (7, 3, 5, 6), views=views, instructions=("pick up", "put_on"), num_val=1)
    write_build(cosmos_format, build, tmp_path)
    group = told(build)
    probe = cosmos_probe.open_group(tmp_path, group)
    for entry, episode in zip(group["episodes"], build.episodes, strict=True):
        rows = probe.rows(entry)
        assert rows.at_odds == ()
        np.testing.assert_array_equal(rows.vectors["proprio"], episode.proprio)
        assert rows.firsts is not None
        np.testing.assert_array_equal(rows.firsts, episode.action)
        for view, _, _ in views:
            marks = [read_mark(frame) for frame in probe.frames(entry, view, [0, entry["num_steps"] - 1])]
            wanted = [frame_number(view, step) for step in (0, entry["num_steps"] - 1)]
            assert marks == [Mark(number, entry["episode_index"]) for number in wanted]
