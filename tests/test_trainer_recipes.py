"""The recipes that are shipped for trainers: each builds from sample recordings, and what its trainer asks for is there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs import ingest
from jobs.options import IngestOptions
from pipelines.video_writer import VideoWriter
from schemas.recipes import BuildRecipe, IngestRecipe, VideoRecipe, load_recipe
from schemas.time import parse_rate
from tests.chain import read_json, run_build
from tests.droid_tree import EXT1, EXT2, FOLDER, UUID, WRIST, columns, metadata, write_recording
from tests.gap_lake import GAP, REST, SECOND_TASK, TASKS, gap_lake
from tests.gap_lake import NUM_STEPS as GAP_STEPS

RECIPES = Path(__file__).resolve().parents[1] / "jobs" / "recipes"
NUM_STEPS = 40
HORIZON = 6
SAID = ("lift the cup", "pick the cup up", "take the cup")
VIEWS = {"exterior_image_1_left", "exterior_image_2_left", "wrist_image_left"}
SMALL: dict[str, Any] = {"horizon": HORIZON, "views": {"height_px": 32, "width_px": 64}}
"""So that the tests are quick: what a recipe says of sizes changes nothing else."""


def recipe(name: str) -> BuildRecipe:
    path = RECIPES / f"{name}.toml"
    return load_recipe(BuildRecipe, path.read_text(), str(path), SMALL)


@pytest.fixture(scope="module")
def droid_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_droid_lake(tmp_path_factory.mktemp("droid"))


def make_droid_lake(root: Path) -> Path:
    """One recording as DROID's recorder writes them, with three cameras; returns the lake."""
    videos = {}
    for number, serial in enumerate((WRIST, EXT1, EXT2)):
        path = root / f"{serial}.mp4"
        writer = VideoWriter(path, parse_rate("15"), 32, 64, VideoRecipe())
        writer.write(np.full((NUM_STEPS, 32, 64, 3), 60 * number + 40, dtype=np.uint8))
        writer.close()
        videos[f"{serial}.mp4"] = path.read_bytes()
    facts = metadata(trajectory_length=NUM_STEPS)
    write_recording(root / "set", FOLDER, columns(NUM_STEPS), facts, videos)
    said = {f"language_instruction{number}": text for number, text in enumerate(SAID, 1)}
    (root / "droid_language_annotations.json").write_text(json.dumps({UUID: said}))
    chosen = IngestRecipe(annotations=(str(root / "droid_language_annotations.json"),))
    answer = ingest.run(IngestOptions((str(root / "set"),), str(root / "lake"), None, chosen, False, False, "inline"))
    assert answer.values["kept"] == 1, answer.values
    return root / "lake"


def vector(table: pd.DataFrame, name: str) -> np.ndarray:
    return np.array(table[name].tolist(), dtype=np.float64)


def test_every_recipe_for_a_trainer_is_tested() -> None:
    shipped = {path.stem for path in RECIPES.glob("*.toml")} - {"ingest", "encode", "texts", "build"}
    assert {"dreamzero", "groot", "cosmos3", "lerobot"} <= shipped


@pytest.mark.parametrize(("name", "tag"), [("dreamzero", "oxe_droid"), ("groot", "new_embodiment")])
def test_relative_statistics_are_of_what_the_loaders_compute(
    name: str, tag: str, droid_lake: Path, tmp_path: Path
) -> None:
    """``_calculate_relative_stats_for_key_per_horizon`` (dreamzero), ``calculate_stats_for_key`` (gr00t/data/stats.py): the
    action of each step of the horizon minus the state at its start, of chunks that lie within the episode.
    """
    chosen = recipe(name)
    run_build(droid_lake, tmp_path / "release", chosen)
    meta = tmp_path / "release" / chosen.formats[0] / "droid_raw" / "meta"
    table = pd.read_parquet(meta.parent / "data/chunk-000/episode_000000.parquet")
    modality = read_json(meta / "modality.json")
    state, action = modality["state"]["joint_position"], modality["action"]["joint_position"]
    assert (state["start"], state["end"], action["start"], action["end"]) == (6, 13, 6, 13)
    joints, told = vector(table, "observation.state")[:, 6:13], vector(table, "action")[:, 6:13]
    by_step = read_json(meta / "relative_horizon_stats_dreamzero.json")
    assert set(by_step) == {"joint_position"}, "grippers stay absolute"
    assert read_json(meta / "relative_stats.json") == by_step
    assert table["valid"].all()
    starts = np.arange(NUM_STEPS - HORIZON + 1)
    everything = []
    for step in range(HORIZON):
        relative = told[starts + step] - joints[starts]
        everything.append(relative)
        for statistic in ("min", "max", "mean", "std"):
            expected = getattr(relative, statistic)(axis=0)
            np.testing.assert_allclose(by_step["joint_position"][statistic][step], expected, atol=1e-6)
        np.testing.assert_allclose(
            by_step["joint_position"]["q99"][step], np.quantile(relative, 0.99, axis=0), atol=1e-6
        )
    assert np.shape(by_step["joint_position"]["q01"]) == (HORIZON, 7)
    overall = read_json(meta / "relative_stats_dreamzero.json")["joint_position"]
    np.testing.assert_allclose(overall["max"], np.concatenate(everything).max(axis=0), atol=1e-6)
    assert read_json(meta / "embodiment.json")["embodiment_tag"] == tag
    tasks = [json.loads(line)["task"] for line in (meta / "tasks.jsonl").read_text().splitlines()]
    assert tasks == sorted(SAID)
    told = [modality["annotation"][f"language.language_instruction{end}"]["original_key"] for end in ("", "_2", "_3")]
    assert [{tasks[index] for index in table[name]} for name in told] == [{text} for text in SAID]
    assert set(modality["video"]) == (VIEWS if name == "dreamzero" else {"primary", "secondary", "wrist_left"})


def test_cosmos_3_finds_its_features(droid_lake: Path, tmp_path: Path) -> None:
    """``DROIDLeRobotDataset`` (droid_lerobot_dataset.py and its _config.py, cosmos-framework), for the set of 2026-04-12."""
    run_build(droid_lake, tmp_path / "release", recipe("cosmos3"))
    root = tmp_path / "release/lerobot_v3/droid_raw_success"
    info = read_json(root / "meta/info.json")
    assert {f"observation.image.{view}" for view in VIEWS} <= set(info["features"])
    shapes = {name: feature["shape"] for name, feature in info["features"].items() if feature["dtype"] == "float32"}
    assert shapes["observation.state.cartesian_position"] == [6]
    assert shapes["observation.state.joint_positions"] == shapes["action.joint_position"] == [7]
    table = pd.read_parquet(root / "data/chunk-000/file-000.parquet")
    # the loader unsqueezes grippers, so they are scalars
    assert table["action.gripper_position"].dtype == table["observation.state.gripper_position"].dtype == np.float32
    action, state = vector(table, "action"), vector(table, "observation.state")
    np.testing.assert_array_equal(vector(table, "action.joint_position"), action[:, 6:13])
    np.testing.assert_array_equal(table["action.gripper_position"], action[:, 13])
    np.testing.assert_array_equal(vector(table, "observation.state.cartesian_position"), state[:, :6])
    episodes = pd.read_parquet(root / "meta/episodes/chunk-000/file-000.parquet")
    # "gs://xembodiment_data/r2d2/r2d2-data-full/{episode_id}/recordings/MP4" is the key of a keep-range
    assert episodes["episode_id"].tolist() == [FOLDER]
    assert pd.read_parquet(root / "meta/tasks.parquet").index[0].split(" | ") == list(SAID)


def test_lerobot_reads_what_its_recipe_builds(
    droid_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run_build(droid_lake, tmp_path / "release", recipe("lerobot"))
    dataset = LeRobotDataset("a/b", root=tmp_path / "release/lerobot_v3/droid_raw", video_backend="pyav")
    assert len(dataset) == NUM_STEPS
    assert dataset[3]["observation.images.wrist_left"].shape == (3, 32, 64)
    assert dataset[3]["action"].shape == (14,)


def test_gaps_rests_and_a_second_instruction(tmp_path: Path) -> None:
    """A recording with a gap, a rest that is skipped, and an instruction that changes."""
    lake = gap_lake(tmp_path)
    changes = {
        "formats": ["lerobot_v21"],
        "horizon": 4,
        "segments": {"skip": ["idle"]},
        "tokenizer": {"name": "identity"},
    }
    run_build(lake, tmp_path / "release", load_recipe(BuildRecipe, "", "test", changes))
    root = tmp_path / "release/lerobot_v21/toy_set"
    line = json.loads((root / "meta/episodes.jsonl").read_text())
    table = pd.read_parquet(root / "data/chunk-000/episode_000000.parquet")
    assert line["length"] == len(table) == GAP_STEPS
    assert line["action_config"] == [
        {"start_frame": 0, "end_frame": SECOND_TASK, "action_text": TASKS[0]},
        {"start_frame": SECOND_TASK, "end_frame": GAP_STEPS, "action_text": TASKS[1]},
    ]
    left_out = json.loads((root / "meta/step_filter.jsonl").read_text())["step_indices"]
    assert left_out == np.flatnonzero(~(table["valid"] & table["selected"])).tolist()
    assert {*range(REST.start + 1, REST.stop - 1)} <= {*left_out}
    assert not {*left_out} & {*range(GAP - 1), *range(REST.stop + 1, GAP_STEPS)}
