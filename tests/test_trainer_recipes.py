"""The recipes that are shipped for trainers: each builds from sample recordings, and what its trainer asks for is there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs import ingest
from jobs.options import IngestOptions
from pipelines.action_plan import ActionPlan
from pipelines.build_stats import moved_slots
from pipelines.cards import load_embodiment
from pipelines.gear_meta import modality as modality_of
from pipelines.stats_export import called
from pipelines.video_writer import VideoWriter
from schemas.errors import RecipeError
from schemas.recipes import BuildRecipe, IngestRecipe, VideoRecipe, load_recipe
from schemas.time import parse_rate
from tests.chain import read_json, run_build
from tests.droid_tree import EXT1, EXT2, FOLDER, UUID, WRIST, columns, metadata, write_recording
from tests.fake_build import make_build
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
    assert {"dreamzero", "groot", "groot_gr1", "cosmos3", "lerobot"} <= shipped


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


FINER = {
    "observation.wrist": {"of": "proprio", "channels": ["joint_5", "joint_6"]},
    "action.wrist": {"of": "action", "channels": ["joint_5", "joint_6"]},
    "action.elbow": {"of": "action", "channels": ["joint_3"]},
}


def named(droid_lake: Path, folder: Path, **changes: Any) -> Path:
    """The set that ``groot.toml`` builds with the changes, whose parts have names of a trainer."""
    names = {"parts": {"joint_position": "arm", "gripper_position": "hand"}, "instruction": "human.task"}
    chosen = SMALL | {"names": names | {"columns": FINER}, "statistics": ["gear"]} | changes
    path = RECIPES / "groot.toml"
    run_build(droid_lake, folder, load_recipe(BuildRecipe, path.read_text(), str(path), chosen))
    return folder / "lerobot_v21/droid_raw"


def test_parts_are_called_as_a_trainer_calls_them(droid_lake: Path, tmp_path: Path) -> None:
    """In everything that is by part; columns cut finer than a part have relative statistics where state and action agree."""
    root = named(droid_lake, tmp_path)
    modality = read_json(root / "meta/modality.json")
    assert {*modality["state"]} == {"eef_position", "eef_rotation", "arm", "hand", "wrist"}
    assert {*modality["action"]} == {"eef_position", "eef_rotation", "arm", "hand", "wrist", "elbow"}
    assert [modality["action"]["arm"][key] for key in ("original_key", "start", "end")] == ["action", 6, 13]
    assert modality["annotation"]["human.task"] == {"original_key": "annotation.language.language_instruction"}
    relative = read_json(root / "meta/relative_stats.json")
    assert {*relative} == {"arm", "wrist"}
    for statistic, steps in relative["wrist"].items():
        assert steps == [[step[4], step[5]] for step in relative["arm"][statistic]]
    assert {*read_json(root / "meta/relative_stats_dreamzero.json")} == {"arm", "wrist"}
    assert {*read_json(tmp_path / "stats/droid_raw/relative_stats_dreamzero.json")} == {"arm"}


def test_turns_are_not_among_the_statistics_of_differences(droid_lake: Path, tmp_path: Path) -> None:
    """Loaders subtract the numbers of a rotation, a recipe takes the turn between the two: up to 2 pi apart. DreamZero takes what
    its file lacks as absolute without a word, and makes the file where there is none."""
    root = named(droid_lake, tmp_path, actions={"parts": []})
    assert {*read_json(root / "meta/relative_stats.json")} == {"eef_position", "arm", "wrist"}
    assert not list(root.glob("meta/relative*dreamzero.json"))
    table = pd.read_parquet(root / "data/chunk-000/episode_000000.parquet")
    places, told = vector(table, "observation.state")[:, :3], vector(table, "action")[:, :3]
    starts = np.arange(NUM_STEPS - HORIZON + 1)
    found = read_json(root / "meta/relative_stats.json")["eef_position"]["max"]
    np.testing.assert_allclose(found[2], (told[starts + 2] - places[starts]).max(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "message"),
    [({"left_joint_position": "left_arm"}, "droid has no part 'left_joint_position'"),
     ({"joint_position": "eef_position"}, "two parts would be called 'eef_position'")],
)  # fmt: skip
def test_names_of_parts_that_cannot_be(parts: dict[str, str], message: str, droid_lake: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        named(droid_lake, tmp_path / "release", names={"parts": parts}, statistics=[])
    assert not (tmp_path / "release").exists()


def test_two_parts_of_one_name_are_no_recipe() -> None:
    with pytest.raises(RecipeError, match="two parts would have one name"):
        load_recipe(BuildRecipe, "", "test", {"names": {"parts": {"waist": "neck", "head": "neck"}}})


def test_gr_1_is_called_as_in_its_own_configurations() -> None:
    """``FourierGr1ArmsOnlyDataConfig`` and ``FourierGr1ArmsWaistDataConfig`` (gr00t/experiment/data_config.py)."""
    chosen, group = recipe("groot_gr1"), make_build((1,)).group
    card = load_embodiment("gr1")
    found = modality_of(replace(group, card=card, views=(("ego_view", 32, 64),)), chosen)
    told = {"left_arm": (0, 7), "left_hand": (7, 13), "left_leg": (13, 19), "neck": (19, 22), "right_arm": (22, 29),
            "right_hand": (29, 35), "right_leg": (35, 41), "waist": (41, 44)}  # fmt: skip
    for kind in ("state", "action"):
        assert {name: (entry["start"], entry["end"]) for name, entry in found[kind].items()} == told
    assert chosen.names.view("primary") == "ego_view"
    assert "human.coarse_action" in found["annotation"]
    moved = moved_slots(ActionPlan.of(card, chosen.actions))
    assert {*called(moved, chosen.names)} == {"left_arm", "right_arm", "left_hand", "right_hand", "waist"}
