"""``show --sample``: the pictures, the action chunk and the latents of one sample, and where each came from."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from PIL import Image

from jobs.cli import main
from pipelines.barcode import read
from pipelines.lake import Lake
from pipelines.numbers import numbers_of
from pipelines.sample_look import look_at_sample, sample_sheet
from pipelines.verify import verify_release
from schemas.errors import ReleaseError, UsageError
from tests import arm_release
from tests.chain import picture, read_json, tar_samples
from tests.release_chain import ARM, FORMATS, GANTRY, RECIPE, make_lake, make_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look")
    return make_release(make_lake(folder), folder / "release")


def test_windows_show_what_lies_in_their_shard(release: Path) -> None:
    samples = [sample for group in (ARM, GANTRY) for sample in tar_samples(release / "webdataset" / group)]
    assert len(samples) > 10
    for number, sample in enumerate(samples):
        told = look_at_sample(release, number, "webdataset").plain
        facts = sample.facts
        assert (told["group"], told["episode_id"], told["step"]) == (facts["group"], facts["episode_id"], facts["step"])
        assert (told["location"], told["source_key"]) == (facts["location"], facts["source_key"])
        np.testing.assert_array_equal(np.float32(told["action_chunk"]["values"]), sample.array("action.npy"))
        assert told["action_chunk"]["mask"] == sample.array("mask.npy").tolist()
        assert told["tokens"] == sample.array("tokens.npy").tolist()
        count = facts["num_steps"]
        assert [step["source_row"] for step in told["steps"]] == facts["source_rows"][:count]
        assert [step["time_ns"] for step in told["steps"]] == facts["times_ns"][:count]
        for view, spans in facts["latents"].items():
            mine = [one for one in told["latents"] if one["view"] == view]
            assert [list(one["frame_ids"]) for one in mine] == [span["frame_ids"] for span in spans]
            assert len(mine) == len(sample.array(f"{view}.latent.npy"))


@pytest.mark.parametrize("name", ["lerobot_v3", "lerobot_v21", "parquet"])
def test_steps_show_the_rows_that_follow(release: Path, name: str) -> None:
    rows = [row for group in (ARM, GANTRY) for row in pq.read_table(release / "parquet" / group / "data").to_pylist()]
    for number, row in enumerate(rows):
        told = look_at_sample(release, number, name).plain
        assert (told["episode_id"], told["step"], told["source_row"]) == (
            row["episode_id"],
            row["step"],
            row["source_row"],
        )
        # this recipe is absolute and not normalized: the chunk is the rows of the action
        np.testing.assert_array_equal(np.float32(told["action_chunk"]["values"]), np.float32(row["action_chunk"]))
        assert told["action_chunk"]["mask"] == row["chunk_mask"]
        assert told["frames"][0]["frame_id"] == row["frame_id_primary"]


def test_latents_beside_steps_are_those_made_of_their_frames(release: Path) -> None:
    seen = 0
    group = next(one for one in read_json(release / "manifest.json")["groups"] if one["name"] == ARM)
    for number in range(group["num_steps"]):
        told = look_at_sample(release, number, "lerobot_v3").plain
        shown = {frame["frame_id"] for step in told["steps"] for frame in step["frames"] if frame["slot"] == "primary"}
        spans = [one for one in told["latents"] if one["view"] == "primary"]
        assert all(shown & set(one["frame_ids"]) for one in spans)
        episode = told["episode_id"]
        index = next(one["episode_index"] for one in group["episodes"] if one["episode_id"] == episode)
        path = release / "lerobot_v3" / ARM / "latents" / "primary" / f"episode_{index:06d}_000.safetensors"
        values = safetensors.numpy.load_file(path)["latents"]
        assert all(one["latent"] < len(values) and list(one["shape"]) == list(values.shape[1:]) for one in spans)
        seen += len(spans)
    assert seen > group["num_steps"] // 2


@pytest.mark.parametrize("name", FORMATS)
def test_the_sheet_shows_the_frames_that_are_named(release: Path, name: str) -> None:
    told = look_at_sample(release, 1, name).plain
    sheet = sample_sheet(release, 1, name)
    image = np.asarray(Image.open(io.BytesIO(sheet.png)).convert("RGB"))
    assert image.shape == (sheet.height, sheet.width, 3)
    assert [row[0] for row in sheet.rows] == ["primary", "wrist_left"]
    assert list(sheet.times_ns) == [step["time_ns"] for step in told["steps"]]
    top = 22 + 16  # below the times, and the name of the view
    for column, step in enumerate(told["steps"]):
        left = 6 + column * (96 + 6)
        assert read(image[top : top + 64, left : left + 96]) == step["frames"][0]["frame_id"]


def test_the_command_writes_the_sheet_and_tells_everything(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sample.png"
    arguments = ["show", str(release), "--sample", "2", "--format", "webdataset", "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert picture(out.read_bytes()).shape == (told["height_px"], told["width_px"], 3)
    assert len(told["action_chunk"]["values"]) == 4
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"episode {told['episode_id'][:12]}" in said
    assert "latent frame" in said
    assert "action chunk of 4 steps" in said
    assert main(["show", str(release), "--out", str(out)]) == 2


def test_what_is_not_there_is_said(release: Path) -> None:
    steps = sum(group["num_steps"] for group in read_json(release / "manifest.json")["groups"])
    windows = len([sample for group in (ARM, GANTRY) for sample in tar_samples(release / "webdataset" / group)])
    for name, count in (("parquet", steps), ("webdataset", windows)):
        look_at_sample(release, count - 1, name)
        with pytest.raises(ReleaseError, match=f"no sample {count}") as caught:
            look_at_sample(release, count, name)
        assert f"0 to {count - 1}" in caught.value.hint
    with pytest.raises(UsageError, match="no format 'zarr'"):
        look_at_sample(release, 0, "zarr")
    with pytest.raises(ReleaseError, match="no group"):
        look_at_sample(release, 0, group="other")


@pytest.mark.parametrize("name", ["lerobot_v3", "webdataset"])
def test_a_release_of_latents_alone_shows_them_and_has_no_sheet(release: Path, tmp_path: Path, name: str) -> None:
    recipe = RECIPE.model_copy(update={"content": "latents", "formats": ("lerobot_v3", "webdataset")})
    out = make_release(release.parent / "lake", tmp_path / "out", recipe)
    assert verify_release(out, Lake.open(release.parent / "lake")).problems == []
    bare, whole = (look_at_sample(place, 2, name).plain for place in (out, release))
    spans = [one["frame_ids"] for one in bare["latents"] if one["view"] == "primary"]
    assert spans == [one["frame_ids"] for one in whole["latents"] if one["view"] == "primary"]
    assert spans
    with pytest.raises(UsageError, match="no pictures"):
        sample_sheet(out, 2, name)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look_arm")
    return make_release(arm_release.make_arm_lake(folder), folder / "release", arm_release.RECIPE)


@pytest.mark.parametrize("name", ["cosmos_policy", "droid_raw", "rlds", "zarr"])
def test_steps_of_trainers_layouts_show_the_rows_that_follow(arm: Path, name: str) -> None:
    (group,) = read_json(arm / "manifest.json")["groups"]
    chunk_names = group["action_names"]
    lake = Lake.open(arm.parent / "lake")
    for episode in group["episodes"]:
        action = numbers_of(lake.episode(episode["episode_id"]), None, ("primary",)).action.astype(np.float32)
        for step in (0, episode["num_steps"] - 2):
            told = look_at_sample(arm, episode["first_step"] + step, name).plain
            assert (told["episode_id"], told["step"]) == (episode["episode_id"], step)
            rows = np.minimum(step + np.arange(4), episode["num_steps"] - 1)
            columns = [chunk_names.index(one) for one in told["action_chunk"]["names"]]
            np.testing.assert_array_equal(np.float32(told["action_chunk"]["values"]), action[rows][:, columns])
            assert columns == list(range(len(chunk_names)))
            assert told["action_chunk"]["mask"] == (step + np.arange(4) < episode["num_steps"]).tolist()
            assert [one["step"] for one in told["steps"]] == sorted(set(rows.tolist()))
    sheet = sample_sheet(arm, 1, name)
    assert len(sheet.times_ns) == 4


def test_a_sample_of_ctrlworld_is_one_of_its_list(arm: Path) -> None:
    manifest = read_json(arm / "manifest.json")
    (group,) = manifest["groups"]
    count = manifest["counts"]["ctrlworld"][group["name"]]["samples"]
    lake = Lake.open(arm.parent / "lake")
    for number in range(count):
        told = look_at_sample(arm, number, "ctrlworld").plain
        episode = next(one for one in group["episodes"] if one["episode_id"] == told["episode_id"])
        proprio = numbers_of(lake.episode(told["episode_id"]), None, ("primary",)).proprio.astype(np.float32)
        last = (episode["num_steps"] - 1) // 2
        steps = 2 * np.minimum(told["step"] // 2 + np.arange(4), last)
        columns = [group["proprio_names"].index(name) for name in told["action_chunk"]["names"]]
        assert len(columns) == 7
        np.testing.assert_array_equal(np.float32(told["action_chunk"]["values"]), proprio[steps][:, columns])
        assert [one["step"] for one in told["steps"]] == sorted(set(steps.tolist()))
    with pytest.raises(ReleaseError, match=f"no sample {count}"):
        look_at_sample(arm, count, "ctrlworld")
    assert len(sample_sheet(arm, 0, "ctrlworld").times_ns) > 1
