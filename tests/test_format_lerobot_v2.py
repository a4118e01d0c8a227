"""LeRobot 2.0 and 2.1, read by stand-ins of GR00T's and DreamZero's loaders, value by value.

Frozen from their code: which files, keys, dtypes and shapes they ask for. LeRobot's own reader of version 2 needs another
environment: see ``tests/readers``.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.action_plan import ActionPlan
from pipelines.barcode import Mark, read_mark
from pipelines.build_stats import moved_slots
from pipelines.cards import embodiment_names, load_embodiment
from pipelines.formats import GroupPlan, lerobot_v3, lerobot_v20, lerobot_v21
from pipelines.gear_meta import LANGUAGES, modality
from schemas.action_recipe import ActionRecipe
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe, load_recipe
from schemas.time import parse_rate
from tests.fake_build import FakeBuild, frame_number, make_build, write_build, write_unit

SIX = {"mean", "std", "min", "max", "q01", "q99"}
MEMBERS = (lerobot_v20, lerobot_v21)
COLUMNS = """
[names]
images = "observation.image."
embodiment = "oxe_droid"
[names.views]
primary = "exterior_image_1_left"
[names.columns]
"observation.state.joint_positions" = { of = "proprio", part = "joints" }
"action.gripper_position" = { of = "action", part = "gripper" }
"action.gripper_opening" = { of = "action", part = "gripper", flip = true }
"observation.state.two" = { of = "proprio", channels = ["joint_2", "x"] }
"""


def recipe_of(text: str, **changes: Any) -> BuildRecipe:
    return load_recipe(BuildRecipe, text, "test", {"horizon": 4, **changes})


def read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


class EpisodeLoader:
    """GR00T's ``LeRobotEpisodeLoader`` (gr00t/data/dataset/lerobot_episode_loader.py): one episode, part by part."""

    def __init__(self, root: Path) -> None:
        self.root, meta = root, root / "meta"
        self.info, self.stats = read_json(meta / "info.json"), read_json(meta / "stats.json")
        self.modality = read_json(meta / "modality.json")
        self.episodes = read_lines(meta / "episodes.jsonl")
        self.tasks = {line["task_index"]: line["task"] for line in read_lines(meta / "tasks.jsonl")}
        relative = meta / "relative_stats.json"
        self.relative = read_json(relative) if relative.exists() else {}

    def __getitem__(self, number: int) -> dict[str, Any]:
        place = {"episode_chunk": number // self.info["chunks_size"], "episode_index": number}
        table = pd.read_parquet(self.root / self.info["data_path"].format(**place))
        found: dict[str, Any] = {}
        for kind in ("state", "action"):
            for name, entry in self.modality[kind].items():
                column = table[entry["original_key"]]
                if isinstance(column.iloc[0], np.ndarray):
                    column = column.map(lambda row, entry=entry: row[entry["start"] : entry["end"]])
                found[f"{kind}.{name}"] = np.array(column.tolist(), dtype=np.float32).reshape(len(table), -1)
        for name, entry in self.modality["annotation"].items():
            found[f"language.annotation.{name}"] = [self.tasks[x] for x in table[entry["original_key"]]]
        for name, entry in self.modality["video"].items():
            assert entry["original_key"] in self.info["features"]
            path = self.root / self.info["video_path"].format(video_key=entry["original_key"], **place)
            frames = frames_of(path)
            assert len(frames) == len(table) == self.episodes[number]["length"]
            found[f"video.{name}"] = frames
        return found

    def statistics(self, kind: str, name: str) -> dict[str, list[float]]:
        entry = self.modality[kind][name]
        column = self.stats[entry["original_key"]]
        return {statistic: column[statistic][entry["start"] : entry["end"]] for statistic in column}


def step_filter(root: Path, lengths: list[int]) -> dict[int, np.ndarray]:
    """DreamZero's ``_get_step_filter`` (groot/vla/data/dataset/lerobot.py): the steps that samples may begin at."""
    found = {}
    for line in read_lines(root / "meta/step_filter.jsonl"):
        whole = np.arange(lengths[line["episode_index"]])
        found[line["episode_index"]] = np.setdiff1d(whole, np.array(line["step_indices"]))
    return {number: found[number] for number in range(len(lengths))}  # a missing episode is a KeyError there too


def droid(lengths: tuple[int, ...] = (7, 1, 12), **changes: Any) -> FakeBuild:
    """A build of DROID's robot: seven joints, a pose, a gripper."""
    card = load_embodiment("droid")
    wide = {"action_width": len(card.action), "proprio_width": len(card.proprio)}
    build = make_build(lengths, **wide, **changes)
    named = {
        "card": card,
        "action_names": tuple(channel.name for channel in card.action),
        "proprio_names": tuple(channel.name for channel in card.proprio),
    }
    return with_group(build, replace(build.group, **named))


def with_group(build: FakeBuild, group: GroupPlan) -> FakeBuild:
    return replace(build, group=group, units=tuple(replace(unit, group=group) for unit in build.units))


def with_texts(build: FakeBuild) -> FakeBuild:
    """The first episode has three instructions, the second two, and that of the third changes."""
    texts = [
        {"instruction": "open", "other_instructions": ("open it", "do open it")},
        {"instruction": "close", "other_instructions": ("shut",)},
        {"instruction": "lift", "instructions": ((0, "lift"), (5, "drop"))},
    ]
    plans = [replace(e.plan, **more) for e, more in zip(build.episodes, texts, strict=True)]
    episodes = tuple(replace(e, plan=plan) for e, plan in zip(build.episodes, plans, strict=True))
    tasks = {text for plan in plans for _, _, said in plan.told(build.recipe.names.joined_by) for text in said}
    group = replace(build.group, tasks=tuple(sorted(tasks)))
    units = tuple(
        replace(u, group=group, episodes=tuple(plans[e.episode_index] for e in u.episodes)) for u in build.units
    )
    return replace(build, group=group, units=units, episodes=episodes)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.FORMAT.name)
@pytest.mark.parametrize("rate", ["15", "30000/1001"])
def test_gr00t_reads_every_part_of_every_episode(tmp_path: Path, member: Any, rate: str) -> None:
    build = droid(rate=rate)
    write_build(member, build, tmp_path)
    loader = EpisodeLoader(tmp_path)
    assert loader.info["codebase_version"] == {"lerobot_v20": "v2.0", "lerobot_v21": "v2.1"}[member.FORMAT.name]
    assert set(loader.modality["state"]) == set(loader.modality["action"]) == {
        "eef_position", "eef_rotation", "joint_position", "gripper_position",
    }  # fmt: skip
    for episode in build.episodes:
        read = loader[episode.plan.episode_index]
        for kind, values in (("state", episode.proprio), ("action", episode.action)):
            np.testing.assert_array_equal(read[f"{kind}.eef_position"], values[:, 0:3])
            np.testing.assert_array_equal(read[f"{kind}.eef_rotation"], values[:, 3:6])
            np.testing.assert_array_equal(read[f"{kind}.joint_position"], values[:, 6:13])
            np.testing.assert_array_equal(read[f"{kind}.gripper_position"], values[:, 13:])
        for view, _, _ in build.group.views:
            marks = [read_mark(frame) for frame in read[f"video.{view}"]]
            steps = range(episode.plan.num_steps)
            assert marks == [Mark(frame_number(view, step), episode.plan.episode_index) for step in steps]
        for name in LANGUAGES:
            assert read[f"language.{name}"] == [episode.plan.instruction] * episode.plan.num_steps
    joints = loader.statistics("action", "joint_position")
    assert set(joints) == SIX
    for name in SIX:
        assert joints[name] == pytest.approx(list(build.group.stats["action"][name])[6:13])


def test_every_float_column_has_the_six_statistics_or_they_would_be_written_over(tmp_path: Path) -> None:
    """``check_stats_validity`` of gr00t/data/stats.py; DreamZero validates every entry of the file."""
    write_build(
        lerobot_v21, droid(recipe=recipe_of(COLUMNS.replace('primary = "exterior_image_1_left"', ""))), tmp_path
    )
    stats, info = read_json(tmp_path / "meta/stats.json"), read_json(tmp_path / "meta/info.json")
    assert {name for name, feature in info["features"].items() if "float" in feature["dtype"]} <= set(stats)
    assert all(set(found) == SIX for found in stats.values())
    assert set(LANGUAGES) <= set(stats)


def test_the_schema_of_modality_json(tmp_path: Path) -> None:
    """``LeRobotModalityMetadata`` (groot/vla/data/schema/lerobot.py): these keys and no value that it does not take."""
    write_build(lerobot_v21, droid(), tmp_path)
    found = read_json(tmp_path / "meta/modality.json")
    assert set(found) == {"state", "action", "video", "annotation"}
    for kind in ("state", "action"):
        for entry in found[kind].values():
            assert set(entry) == {"original_key", "start", "end", "rotation_type", "absolute", "dtype", "range"}
            assert np.issubdtype(np.dtype(entry["dtype"]), np.floating)
            assert entry["rotation_type"] in (None, "axis_angle")
    assert found["action"]["gripper_position"]["range"] == [0.0, 1.0]
    assert found["action"]["joint_position"]["absolute"] is True
    assert read_json(tmp_path / "meta/embodiment.json") == {"robot_type": "droid", "embodiment_tag": "droid"}
    # DreamZero reads channels and fps here, since "channel" is not among the names
    video = read_json(tmp_path / "meta/info.json")["features"]["observation.images.primary"]
    assert (video["names"], video["shape"]) == (["height", "width", "channels"], [64, 96, 3])
    assert (video["info"]["video.channels"], video["info"]["video.fps"]) == (3, 15)


def test_instructions_repeat_and_are_never_made_up(tmp_path: Path) -> None:
    build = with_texts(make_build())
    write_build(lerobot_v21, build, tmp_path)
    loader = EpisodeLoader(tmp_path)
    told = [[set(loader[number][f"language.{name}"]) for name in LANGUAGES] for number in range(2)]
    assert told == [[{"open"}, {"open it"}, {"do open it"}], [{"close"}, {"shut"}, {"close"}]]
    assert [loader[2][f"language.{name}"] for name in LANGUAGES] == [["lift"] * 5 + ["drop"] * 7] * 3
    assert [line["tasks"] for line in loader.episodes] == [
        ["open", "open it", "do open it"], ["close", "shut"], ["lift", "drop"],
    ]  # fmt: skip
    table = pd.read_parquet(tmp_path / "data/chunk-000/episode_000002.parquet")
    assert [loader.tasks[index] for index in table["task_index"]] == ["lift"] * 5 + ["drop"] * 7


def test_action_config_covers_the_episode_by_instruction(tmp_path: Path) -> None:
    """LingBot-VA (wan_va/dataset/lerobot_latent_dataset.py): ``end_frame`` is the one behind the last."""
    write_build(lerobot_v21, with_texts(make_build()), tmp_path)
    found = [line["action_config"] for line in read_lines(tmp_path / "meta/episodes.jsonl")]
    assert found[0] == [{"start_frame": 0, "end_frame": 7, "action_text": "open"}]
    assert found[2] == [
        {"start_frame": 0, "end_frame": 5, "action_text": "lift"},
        {"start_frame": 5, "end_frame": 12, "action_text": "drop"},
    ]


def test_dreamzero_leaves_out_what_is_not_valid_or_not_selected(tmp_path: Path) -> None:
    build = make_build(recipe=recipe_of('[segments]\nskip = ["idle"]'))
    episodes = [replace(e, selected=np.arange(e.plan.num_steps) != 1) for e in build.episodes]
    build = replace(build, episodes=tuple(episodes))
    write_build(lerobot_v21, build, tmp_path)
    kept = step_filter(tmp_path, [episode.plan.num_steps for episode in episodes])
    assert [kept[number].tolist() for number in range(3)] == [[0, 2, 4, 5, 6], [0], [0, 2, *range(4, 12)]]
    assert kept[0].dtype.kind == "i"


def test_statistics_of_episodes_are_those_of_2_1(tmp_path: Path) -> None:
    build = make_build()
    write_build(lerobot_v21, build, tmp_path)
    write_build(lerobot_v20, build, tmp_path / "v20")
    assert not (tmp_path / "v20/meta/episodes_stats.jsonl").exists()
    lines = read_lines(tmp_path / "meta/episodes_stats.jsonl")
    assert [line["episode_index"] for line in lines] == [0, 1, 2]
    last = build.episodes[2]
    found = lines[2]["stats"]
    assert set(found["action"]) == {"min", "max", "mean", "std", "count"}
    assert found["action"]["max"] == pytest.approx(last.action[last.valid].max(axis=0).tolist())
    assert np.shape(found["observation.images.primary"]["mean"]) == (3, 1, 1)
    assert found["frame_index"]["max"] == [11]


def test_the_walk_back_stands_in_every_line(tmp_path: Path) -> None:
    build = make_build()
    write_build(lerobot_v21, build, tmp_path)
    for line, episode in zip(read_lines(tmp_path / "meta/episodes.jsonl"), build.episodes, strict=True):
        assert line["lineage"] == {
            "episode_id": episode.plan.episode_id, "location": episode.location, "source_key": episode.source_key,
        }  # fmt: skip
    table = pd.read_parquet(tmp_path / "data/chunk-000/episode_000002.parquet")
    np.testing.assert_array_equal(table["lineage.source_row"], build.episodes[2].source_rows)
    np.testing.assert_array_equal(table["valid"], build.episodes[2].valid)


@pytest.mark.parametrize("member", [*MEMBERS, lerobot_v3], ids=lambda member: member.FORMAT.name)
def test_further_columns_of_the_recipe(tmp_path: Path, member: Any) -> None:
    views = (("exterior_image_1_left", 64, 96),)
    build = droid((6, 4), recipe=recipe_of(COLUMNS), views=views)
    write_build(member, build, tmp_path)
    info, stats = read_json(tmp_path / "meta/info.json"), read_json(tmp_path / "meta/stats.json")
    files = sorted((tmp_path / "data").rglob("*.parquet"))
    table = pd.concat([pd.read_parquet(path) for path in files])
    action = np.concatenate([episode.action for episode in build.episodes])
    proprio = np.concatenate([episode.proprio for episode in build.episodes])
    expected = {
        "observation.state.joint_positions": proprio[:, 6:13],
        "action.gripper_position": action[:, 13],
        "action.gripper_opening": 1 - action[:, 13],
        "observation.state.two": proprio[:, [7, 0]],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(np.array(table[name].tolist(), dtype=np.float32), values)
        wide = values.reshape(len(values), -1).astype(np.float64)
        assert info["features"][name]["shape"] == [wide.shape[1]]
        assert stats[name]["mean"] == pytest.approx(wide.mean(axis=0).tolist())
        assert stats[name]["std"] == pytest.approx(wide.std(axis=0).tolist())
        assert stats[name]["max"] == pytest.approx(wide.max(axis=0).tolist())
        assert stats[name]["q01"] == pytest.approx(np.quantile(wide, 0.01, axis=0).tolist())
    assert info["features"]["observation.state.two"]["names"] == ["joint_2", "x"]
    assert "observation.image.exterior_image_1_left" in info["features"]
    if member is not lerobot_v3:
        found = EpisodeLoader(tmp_path)
        np.testing.assert_array_equal(found[0]["state.joint_positions"], proprio[:6, 6:13])
        np.testing.assert_array_equal(found[0]["action.action_gripper_position"], action[:6, 13:])
        assert (
            found.modality["video"]["exterior_image_1_left"]["original_key"]
            == "observation.image.exterior_image_1_left"
        )
        assert read_json(tmp_path / "meta/embodiment.json")["embodiment_tag"] == "oxe_droid"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ('"action.x" = { of = "action", part = "hand" }', "no part 'hand'"),
        ('"action.x" = { of = "action", channels = ["nose"] }', "no channel 'nose'"),
        ('"action.x" = { of = "action", part = "joints", flip = true }', "cannot be flipped"),
        ('"timestamp" = { of = "action", part = "joints" }', "another column"),
        ('"action" = { of = "action", part = "joints" }', "another column"),
        ('"annotation.x" = { of = "action", part = "joints" }', "another column"),
    ],
)
def test_columns_that_cannot_be_are_refused_before_any_work(tmp_path: Path, column: str, message: str) -> None:
    build = droid(recipe=recipe_of(f"[names.columns]\n{column}"))
    for member in (*MEMBERS, lerobot_v3):
        with pytest.raises(RecipeError, match=message) as caught:
            member.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)
        assert caught.value.hint


@pytest.mark.parametrize("text", ['{ of = "action" }', '{ of = "action", part = "joints", channels = ["x"] }'])
def test_a_column_is_a_part_or_channels(text: str) -> None:
    with pytest.raises(RecipeError, match="either a part or channels"):
        recipe_of(f'[names.columns]\n"action.x" = {text}')


def test_instructions_are_joined_for_cosmos_3(tmp_path: Path) -> None:
    """``sample["task"].split(" | ")`` and ``meta.episodes[i]["episode_id"]`` (droid_lerobot_dataset.py, cosmos-framework)."""
    build = with_texts(make_build(recipe=recipe_of('[names]\njoined_by = " | "')))
    write_build(lerobot_v3, build, tmp_path)
    tasks = pd.read_parquet(tmp_path / "meta/tasks.parquet").index.tolist()
    assert tasks == ["close | shut", "drop", "lift", "open | open it | do open it"]
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["episode_id"] for row in rows] == ["train/000000", "train/000001"]
    assert rows[0]["tasks"] == ["open | open it | do open it"]
    data = pd.read_parquet(tmp_path / "data/chunk-000/file-000.parquet")
    assert [tasks[index] for index in data["task_index"]] == [tasks[3]] * 7 + [tasks[0]]


def test_an_episode_too_long_for_float32_is_refused(tmp_path: Path) -> None:
    build = make_build((2200,), rate="0.9", views=(("primary", 16, 40),))
    with pytest.raises(ReleaseError, match="float32"):
        write_unit(lerobot_v21, build, build.units[0], tmp_path, chunk=1200)


def test_files_beyond_the_first_thousand_go_to_the_next_chunk(tmp_path: Path) -> None:
    build = make_build((3,), views=())
    plan = replace(build.units[0].episodes[0], episode_index=1002)
    unit = replace(build.units[0], episodes=(plan,))
    writer = lerobot_v21.FORMAT.open_unit(unit, build.recipe, tmp_path)
    writer.begin(replace(build.episodes[0], plan=plan))
    writer.end()
    assert (tmp_path / "data/chunk-001/episode_001002.parquet").exists()


def test_channels_that_are_not_neighbors_are_parts_of_their_own() -> None:
    build = make_build((1,))
    card = load_embodiment("sample_arm")
    mixed = card.model_copy(update={"action": (*card.action[:3], card.action[6], *card.action[3:6])})
    found = modality(replace(build.group, card=mixed), build.recipe)["action"]
    spans = {name: (entry["start"], entry["end"]) for name, entry in found.items()}
    assert spans == {"joint_position": (0, 3), "joint_position_2": (4, 7), "gripper_position": (3, 4)}


def test_times_are_those_of_the_frames(tmp_path: Path) -> None:
    build = make_build((9,), rate="7.5")
    write_build(lerobot_v21, build, tmp_path)
    table = pd.read_parquet(tmp_path / "data/chunk-000/episode_000000.parquet")
    period = float(1 / parse_rate("7.5"))
    assert table["timestamp"].dtype == np.float32
    assert np.abs(table["timestamp"] - np.arange(9) * period).max() < 1e-4
    assert np.abs(np.diff(table["timestamp"]) - period).max() < 1e-4


def test_relative_parts_are_called_as_modality_json_calls_them() -> None:
    """A loader takes an action that it does not find among the relative ones as absolute, without a word."""
    group = make_build((1,)).group
    found = 0
    for name in embodiment_names():
        card = load_embodiment(name)
        try:
            plan = ActionPlan.of(card, ActionRecipe(reference="chunk_start"))
        except RecipeError:  # changes and velocities are relative already
            continue
        known = modality(replace(group, card=card), BuildRecipe())["action"]
        for part, slots in moved_slots(plan).items():
            found += 1
            widths = [e["end"] - e["start"] for key, e in known.items() if key == part or key.startswith(f"{part}_")]
            assert sum(widths) == len(slots) or part.endswith("rotation"), (name, part)
    assert found > 20
