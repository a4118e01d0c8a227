"""tensorflow-datasets is the judge (without TensorFlow), then our own ingest. (openpi: TRAINERS.md, section C.)"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg

from pipelines.barcode import Mark, read_mark
from pipelines.formats import rlds
from pipelines.lake import Lake
from pipelines.sources.rlds import SOURCE
from pipelines.tfrecord import read_payload, scan_shard
from pipelines.verify import verify_release
from pipelines.video import VideoTools
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe, Limits, ViewsRecipe, load_recipe
from schemas.release_choices import SplitRecipe
from tests.chain import read_json, run_build, run_ingest, write_short
from tests.fake_build import FakeBuild, frame_number, make_build, write_build

ROOT = Path(__file__).resolve().parents[1]


def records(folder: Path, split: str) -> list[dict[str, Any]]:
    """Every episode of a split as tensorflow-datasets decodes it."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder / "1.0.0"))
    paths = [Path(file) for file in builder.info.splits[split].filepaths]
    payloads = [read_payload(path, one, 1 << 30, str(path)) for path in paths for one in scan_shard(path)[0]]
    assert len(payloads) == builder.info.splits[split].num_examples
    return [builder.info.features.deserialize_example_np(payload) for payload in payloads]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeBuild, Path]:
    folder = tmp_path_factory.mktemp("rlds")
    build = make_build((7, 1, 12, 4, 5), arm=True, num_val=2, action_width=9, proprio_width=8)
    write_build(rlds, build, folder)
    return build, folder


def test_every_value_comes_back(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    found = [*records(folder, "train"), *records(folder, "val")]
    assert len(found) == len(build.episodes) == 5
    for record, episode in zip(found, build.episodes, strict=True):
        steps = list(record["steps"])
        assert len(steps) == episode.plan.num_steps
        for number, step in enumerate(steps):
            seen = step["observation"]
            np.testing.assert_array_equal(seen["state"], episode.proprio[number])
            np.testing.assert_array_equal(seen["cartesian_position"], episode.proprio[number, :6])
            np.testing.assert_array_equal(seen["gripper_position"], episode.proprio[number, 6:7])
            np.testing.assert_array_equal(step["action"], episode.action[number])
            np.testing.assert_array_equal(step["action_dict"]["cartesian_position"], episode.action[number, :6])
            np.testing.assert_array_equal(step["action_dict"]["gripper_position"], episode.action[number, 6:7])
            assert {step["action"].dtype, seen["state"].dtype, step["reward"].dtype} == {np.dtype(np.float32)}
            assert step["valid"] == episode.valid[number]
            last = number == len(steps) - 1
            assert (step["is_first"], step["is_last"], step["is_terminal"]) == (number == 0, last, last)
            assert (step["reward"], step["discount"]) == (float(last and episode.plan.success is True), 1.0)
            for name in ("language_instruction", "language_instruction_2", "language_instruction_3"):
                assert step[name].decode() == episode.plan.instruction
            for view, height, width in build.group.views:
                assert seen[view].shape == (height, width, 3)
                assert read_mark(seen[view]) == Mark(frame_number(view, number), episode.plan.episode_index)
        assert record["episode_metadata"]["episode_id"].decode() == episode.plan.episode_id


def test_only_what_succeeded_looks_so_to_openpi(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    for record, episode in zip([*records(folder, "train"), *records(folder, "val")], build.episodes, strict=True):
        path = record["episode_metadata"]["file_path"].decode()
        assert bool(re.fullmatch(".*success.*", path)) == (episode.plan.success is True)
    assert {episode.plan.success for episode in build.episodes} == {True, False, None}


def test_further_instructions_are_said_and_repeated_but_never_made_up(tmp_path: Path) -> None:
    build = make_build((3, 3, 3), other_instructions=((), ("zwei",), ("zwei", "drei", "vier")))
    write_build(rlds, build, tmp_path)
    said = []
    for record in records(tmp_path, "train"):
        step = next(iter(record["steps"]))
        names = ("language_instruction", "language_instruction_2", "language_instruction_3")
        said.append([step[name].decode() for name in names])
    first = [episode.plan.instruction for episode in build.episodes]
    assert said == [[first[0]] * 3, [first[1], "zwei", first[1]], [first[2], "zwei", "drei"]]


def test_shards_are_numbered_within_their_split(written: tuple[FakeBuild, Path]) -> None:
    _, folder = written
    assert sorted(path.name for path in folder.rglob("*.tfrecord*")) == [
        "made_up-train.tfrecord-00000-of-00002",
        "made_up-train.tfrecord-00001-of-00002",
        "made_up-val.tfrecord-00000-of-00001",
    ]
    splits = {
        split["name"]: split["shardLengths"] for split in read_json(folder / "1.0.0" / "dataset_info.json")["splits"]
    }
    assert splits == {"train": ["2", "1"], "val": ["2"]}


def test_our_own_ingest_reads_it(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    assert SOURCE.datasets(str(folder)) == [str(folder / "1.0.0")]
    refs = SOURCE.refs(str(folder / "1.0.0"))
    assert [ref.split for ref in refs] == [episode.plan.split for episode in build.episodes]
    video = VideoTools(Limits())
    try:
        for ref, episode in zip(refs, build.episodes, strict=True):
            raw = SOURCE.read(ref, video, Limits())
            state, action = raw.stream("observation/state"), raw.stream("action")
            assert state is not None
            assert action is not None
            np.testing.assert_array_equal(state.values, episode.proprio)
            np.testing.assert_array_equal(action.values, episode.action)
            assert {view.key for view in raw.views} == {"observation/primary", "observation/wrist_left"}
            assert dict(raw.attributes)["episode_metadata/episode_id"] == episode.plan.episode_id
            assert raw.findings == ()
    finally:
        video.close()


@pytest.mark.parametrize(
    ("group", "name"), [("droid", "droid"), ("my set-2", "my_set_2"), ("2024_runs", "d_2024_runs"), ("größe", "gr__e")]
)
def test_names_are_those_that_tensorflow_datasets_takes(group: str, name: str) -> None:
    assert rlds.dataset_name(group) == name


def test_normalized_numbers_are_refused(tmp_path: Path) -> None:
    build = make_build((5,), recipe=BuildRecipe(horizon=4, tokenizer=None, normalize="quantile"), with_tokens=False)
    with pytest.raises(RecipeError, match="normalize themselves"):
        rlds.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)


def test_a_view_cannot_be_called_as_a_part(tmp_path: Path) -> None:
    build = make_build((5,), arm=True, views=(("gripper_position", 64, 96),))
    with pytest.raises(ReleaseError, match="as a part"):
        rlds.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)


def test_from_recordings_to_shards(tmp_path: Path) -> None:
    write_short(tmp_path / "recordings", layout="droid_raw", lengths=(9, 8, 7, 6), robot=0)
    run_ingest([tmp_path / "recordings"], tmp_path / "lake")
    text = (ROOT / "jobs" / "recipes" / "openpi.toml").read_text()
    recipe = load_recipe(BuildRecipe, text, "openpi.toml").model_copy(
        update={
            "views": ViewsRecipe(height_px=32, width_px=48),
            "split": SplitRecipe(val_fraction=0.4),
            "unit_frames": 12,
        }
    )
    run_build(tmp_path / "lake", tmp_path / "out", recipe)
    checked = verify_release(tmp_path / "out", Lake.open(tmp_path / "lake"), readers=True)
    assert checked.problems == []
    manifest = read_json(tmp_path / "out" / "manifest.json")
    (group,) = manifest["groups"]
    folder = tmp_path / "out" / "rlds" / group["name"]
    found = records(folder, "train")
    planned = [episode for episode in group["episodes"] if episode["split"] == "train"]
    assert 0 < len(found) == len(planned) < 4
    lake = Lake.open(tmp_path / "lake")
    for record, plan in zip(found, planned, strict=True):
        stored = lake.episode(plan["episode_id"])
        step = next(iter(record["steps"]))
        raw = {stream.name: stream.values for stream in stored.streams}
        for name, key in (
            ("observation/robot_state/joint_positions", ("observation", "joint_position")),
            ("action/joint_position", ("action_dict", "joint_position")),
        ):
            np.testing.assert_array_equal(step[key[0]][key[1]], raw[name][0].astype(np.float32))
        assert step["language_instruction"].decode() == stored.instructions[0].text
        assert {"exterior_image_1_left", "wrist_image_left"} <= set(step["observation"])
        assert step["observation"]["wrist_image_left"].shape == (32, 48, 3)
        path = record["episode_metadata"]["file_path"].decode()
        assert ("success" in path) == bool(stored.success)
    described = json.loads((folder / "1.0.0" / "wamloom.json").read_text())
    assert described["episodes"]["train"] == [plan["episode_id"] for plan in planned]


def test_a_shard_with_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    build = make_build((5,))
    write_build(rlds, build, tmp_path)
    (path,) = tmp_path.rglob("*.tfrecord*")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match="checksum"):
        rlds.FORMAT.count(tmp_path)


def test_pictures_are_jpeg_with_full_chroma(written: tuple[FakeBuild, Path]) -> None:
    _, folder = written
    path = sorted(folder.rglob("*.tfrecord*"))[0]
    data = path.read_bytes()
    start = data.index(b"\xff\xd8\xff")
    height, width, _, subsampling = simplejpeg.decode_jpeg_header(data[start:])
    assert (height, width, subsampling) in ((64, 96, "444"), (48, 64, "444"))
