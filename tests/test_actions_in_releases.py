"""What a build makes of an action recipe: chunks, masks, statistics, tokens; and that single steps stay as recorded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import build
from jobs.options import BuildOptions
from pipelines import registry
from pipelines.action_chunks import ActionChunks
from pipelines.action_plan import ActionPlan
from pipelines.build_plan import plan_build
from pipelines.lake import Lake
from pipelines.look import show_release
from pipelines.selection import stored_episodes
from pipelines.stats import Stats, denormalize, stats_from_json
from pipelines.verify import verify_release
from schemas.action_recipe import ActionRecipe, Reference
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError
from schemas.recipes import BuildRecipe, SegmentFilter, TokenizerRecipe, ViewsRecipe
from schemas.release_choices import CtrlWorldRecipe, FastWamRecipe
from tests.chain import read_json, run_build, run_ingest, tables, tar_samples, vectors, write_short
from tests.gap_lake import GAP, NUM_STEPS, SECOND_TASK, gap_lake

RELATIVE = ActionRecipe(reference="chunk_start")
HORIZON = 4


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recording of 30 steps of two joints, with a gap behind the tenth."""
    return gap_lake(tmp_path_factory.mktemp("gap"))


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of six joints and a gripper."""
    root = tmp_path_factory.mktemp("arm")
    run_ingest([write_short(root / "recordings", lengths=(12, 9), robot=0)], root / "lake")
    return root / "lake"


def recipe(**choices: Any) -> BuildRecipe:
    views = ViewsRecipe(height_px=32, width_px=32)
    return BuildRecipe(**{"formats": ("parquet",), "horizon": HORIZON, "views": views, "tokenizer": None} | choices)


class Rows:
    """The Parquet rows of a release of one group, and what its manifest and statistics say."""

    def __init__(self, out: Path) -> None:
        self.table = tables(out / "parquet")
        self.group = read_json(out / "manifest.json")["groups"][0]
        self.statistics = read_json(out / "stats" / self.group["name"] / "statistics.json")
        self.folder = out / "stats" / self.group["name"]
        self.action, self.proprio, self.chunks = (
            vectors(self.table[name]).astype(np.float64) for name in ("action", "proprio", "action_chunk")
        )
        self.mask = vectors(self.table["chunk_mask"]).astype(bool)

    def stats(self, *path: str | int) -> Stats:
        plain: Any = self.statistics
        for key in path:
            plain = plain[key]
        return stats_from_json(json.dumps(plain))


def built(lake: Path, out: Path, **choices: Any) -> Rows:
    run_build(lake, out, recipe(**choices))
    return Rows(out)


def run_of(step: int) -> tuple[int, int]:
    return (0, GAP) if step < GAP else (GAP, NUM_STEPS)


@pytest.mark.parametrize("lead", [0, 1])
def test_relative_chunks_are_to_the_state_at_their_start_and_steps_stay(lake: Path, tmp_path: Path, lead: int) -> None:
    plain = built(lake, tmp_path / "plain")
    found = built(lake, tmp_path / "out", actions=RELATIVE.model_copy(update={"lead": lead}))
    assert np.array_equal(found.action, plain.action)
    for step in range(NUM_STEPS):
        stop = run_of(step)[1]
        rows = [min(step + lead + k, stop - 1) for k in range(HORIZON)]
        assert found.chunks[step] == pytest.approx(found.action[rows] - found.proprio[step, :2], abs=2e-6)
        assert found.mask[step].tolist() == [step + lead + k < stop for k in range(HORIZON)]
    assert found.group["action_chunk"]["names"] == ["delta_a", "delta_b"]
    assert found.group["action_chunk"]["recipe"]["reference"] == "chunk_start"
    assert plain.group["action_chunk"]["names"] == ["a", "b"]


def test_a_robot_that_tells_only_its_states_has_chunks_of_these(tmp_path: Path) -> None:
    lake = gap_lake(tmp_path / "states", action=False)
    with pytest.raises(RecipeError, match="episodes of toy_arm have no action") as caught:
        run_build(lake, tmp_path / "no", recipe())
    assert 'actions.source = "proprio"' in caught.value.hint
    actions = ActionRecipe(source="proprio", reference="framewise", lead=1)
    formats = ("lerobot_v3", "webdataset", "parquet")
    run_build(lake, tmp_path / "out", recipe(formats=formats, actions=actions, normalize="min_max"))
    assert verify_release(tmp_path / "out", Lake.open(str(lake)), readers=True).ok
    table = tables(tmp_path / "out/parquet")
    assert "action" not in table.column_names
    run_build(lake, tmp_path / "raw", recipe(actions=actions))
    table = tables(tmp_path / "raw/parquet")
    states, chunks = vectors(table["proprio"]).astype(np.float64), vectors(table["action_chunk"])
    for step in range(NUM_STEPS):
        stop = run_of(step)[1]
        rows = [min(step + k, stop - 1) for k in range(HORIZON + 1)]
        assert chunks[step] == pytest.approx(np.diff(states[rows], axis=0), abs=2e-6)
        assert table["chunk_mask"][step].as_py() == [step + 1 + k < stop for k in range(HORIZON)]


def test_windowed_samples_hold_the_same_chunks(lake: Path, tmp_path: Path) -> None:
    found = built(lake, tmp_path / "out", formats=("parquet", "webdataset"), actions=RELATIVE, normalize="z_score")
    samples = list(tar_samples(tmp_path / "out/webdataset/toy_set"))
    assert len(samples) == 8
    for sample in samples:
        step = sample.facts["step"]
        assert np.array_equal(sample.array("action.npy"), found.chunks[step].astype(np.float32))
        assert np.array_equal(sample.array("mask.npy"), found.mask[step])


def test_a_segment_start_is_where_its_run_begins(lake: Path, tmp_path: Path) -> None:
    found = built(lake, tmp_path / "out", actions=ActionRecipe(reference="segment_start", base="self"))
    for step in range(NUM_STEPS):
        start, stop = run_of(step)
        rows = [min(step + k, stop - 1) for k in range(HORIZON)]
        assert found.chunks[step] == pytest.approx(found.action[rows] - found.action[start], abs=2e-6)


def test_a_chunk_that_crosses_the_end_of_a_segment_is_masked_and_no_statistic_sees_what_is_behind(
    lake: Path, tmp_path: Path
) -> None:
    segments = SegmentFilter(bounds=("language",))
    found = built(lake, tmp_path / "out", actions=RELATIVE, segments=segments, sample_stride=1)
    ends = [GAP, SECOND_TASK, NUM_STEPS]
    seen = []
    for step in range(NUM_STEPS):
        stop = next(end for end in ends if step < end)
        assert found.mask[step].tolist() == [step + k < stop for k in range(HORIZON)]
        starts = [0, *ends]
        run = next(start for start in reversed(starts) if start <= step)
        if step <= max(
            run, stop - HORIZON
        ):  # the windows of a build: none begins where another reaches the end already
            seen.append(found.chunks[step][found.mask[step]])
    values = np.concatenate(seen)
    stats = found.stats("chunks", "overall")
    assert stats.count == len(values) < NUM_STEPS * HORIZON
    for name, wanted in {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "q01": np.quantile(values, 0.01, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }.items():
        assert getattr(stats, name) == pytest.approx(wanted, abs=1e-6), name
    assert sum(found.stats("chunks", "steps", step).count for step in range(HORIZON)) == len(values)


def test_what_lies_behind_a_bound_changes_no_statistic(lake: Path, tmp_path: Path) -> None:
    """Chunks that tile a run of ten steps by fours: the last has two steps, and repeats of the second do not count."""
    found = built(lake, tmp_path / "out", where="num_steps = 30")
    steps = [found.stats("chunks", "steps", step).count for step in range(HORIZON)]
    assert steps == [8, 8, 7, 7]


@pytest.mark.parametrize("kind", ["quantile", "min_max", "z_score"])
@pytest.mark.parametrize("by", ["all", "step"])
def test_normalization_is_by_the_statistics_of_what_is_written_and_comes_back(
    lake: Path, tmp_path: Path, kind: Any, by: str
) -> None:
    raw = built(lake, tmp_path / "raw", actions=RELATIVE)
    found = built(lake, tmp_path / "out", actions=RELATIVE, normalize=kind, normalize_by=by)
    entry = found.group["action_chunk"]
    steps = entry["step_stats"] if by == "step" else [entry["stats"]] * HORIZON
    assert len(steps) == HORIZON
    for step, plain in enumerate(steps):
        back = denormalize(found.chunks[:, step], stats_from_json(json.dumps(plain)), kind)
        assert back == pytest.approx(raw.chunks[:, step], abs=1e-5)
    assert entry["stats"] != found.group["stats"]["action"], "the statistics of steps are of another quantity"


def test_chunks_and_steps_as_recorded_are_normalized_alike(lake: Path, tmp_path: Path) -> None:
    found = built(lake, tmp_path / "out", normalize="quantile")
    assert np.array_equal(found.chunks[:, 0], found.action)
    assert found.group["action_chunk"]["stats"] == found.group["stats"]["action"]


def test_clamped_chunks_stay_within_and_others_do_not(lake: Path, tmp_path: Path) -> None:
    free = built(lake, tmp_path / "free", actions=RELATIVE, normalize="quantile")
    cut = built(lake, tmp_path / "cut", actions=RELATIVE, normalize="quantile", clamp=0.5)
    assert np.abs(free.chunks).max() > 1
    assert np.array_equal(cut.chunks, np.clip(free.chunks, -0.5, 0.5))


def test_slots_are_filled_masked_and_left_out_of_tokens(arm: Path, tmp_path: Path) -> None:
    actions = ActionRecipe(reference="chunk_start", parts=("joints", "gripper"), slots="dreamzero_32")
    found = built(
        arm, tmp_path / "out", actions=actions, normalize="quantile", clamp=1.0, tokenizer=TokenizerRecipe(name="bins")
    )
    entry = found.group["action_chunk"]
    assert found.chunks.shape[1:] == (HORIZON, 32)
    assert entry["mask"] == [True] * 7 + [False] * 25
    assert not found.chunks[..., 7:].any()
    assert entry["names"][6:8] == ["gripper", "slot_7"], "grippers stay absolute"
    tokenizer = registry.load("tokenizers", "bins").load(json.dumps(found.group["tokenizer"]))
    rows = found.table["tokens"].to_pylist()
    starts = [index for index, row in enumerate(rows) if row is not None]
    decoded = tokenizer.decode([np.array(rows[index]) for index in starts], HORIZON, 7)
    assert (np.abs(decoded - found.chunks[starts][..., :7]) <= tokenizer.error_bound + 1e-6).all()


def test_the_release_gives_back_what_was_recorded(arm: Path, tmp_path: Path) -> None:
    actions = ActionRecipe(reference="chunk_start", slots="dreamzero_32")
    found = built(arm, tmp_path / "out", actions=actions)
    opened = Lake.open(str(arm))
    episode_ids = [one["episode_id"] for one in found.group["episodes"]]
    embodiment = next(stored_episodes(opened, episode_ids)).embodiment
    back = ActionPlan.of(embodiment, actions).inverse(found.chunks, found.proprio)
    assert back[:, 0] == pytest.approx(found.action, abs=1e-5)


def test_statistics_of_another_release_normalize_this_one(arm: Path, tmp_path: Path) -> None:
    whole = built(arm, tmp_path / "whole", actions=RELATIVE, normalize="quantile")
    path = str(whole.folder / "statistics.json")
    part = {"actions": RELATIVE, "normalize": "quantile", "where": "num_steps = 9"}
    found = built(arm, tmp_path / "part", **part, stats_from=path)
    own = built(arm, tmp_path / "own", **part)
    assert found.group["stats"] == whole.group["stats"] != own.group["stats"]
    assert found.group["action_chunk"]["stats"] == whole.group["action_chunk"]["stats"]
    (row,) = (index for index, one in enumerate(whole.group["episodes"]) if one["num_steps"] == 9)
    first = whole.group["episodes"][row]["first_step"]
    assert np.array_equal(found.chunks, whole.chunks[first : first + 9])
    assert np.array_equal(found.proprio, whole.proprio[first : first + 9])
    assert not np.array_equal(found.chunks, own.chunks)


def test_statistics_of_another_recipe_are_an_error_that_says_which(arm: Path, tmp_path: Path) -> None:
    other = built(arm, tmp_path / "other")
    path = str(other.folder / "statistics.json")
    with pytest.raises(FingerprintMismatch, match='reference "absolute", not "chunk_start"') as caught:
        built(arm, tmp_path / "out", actions=RELATIVE, normalize="quantile", stats_from=path)
    assert caught.value.where.endswith(path)
    assert not (tmp_path / "out").exists()


def test_statistics_of_another_robot_are_an_error_that_names_both(arm: Path, lake: Path, tmp_path: Path) -> None:
    path = str(built(arm, tmp_path / "other").folder / "statistics.json")
    with pytest.raises(FingerprintMismatch, match="they are of sample_arm, not toy_arm"):
        built(lake, tmp_path / "out", normalize="quantile", stats_from=path)


def test_statistics_of_no_file_say_so(arm: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.json: there is no such file"):
        built(arm, tmp_path / "out", normalize="quantile", stats_from=str(tmp_path / "absent.json"))


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("absolute", []),
        ("velocity", []),
        ("framewise", ["rate 15, not 5"]),
        ("segment_start", ["rate 15, not 5"]),
        ("chunk_start", ["rate 15, not 5", "horizon 4, not 3"]),
    ],
)
def test_statistics_of_another_rate_or_horizon_are_told_where_chunks_depend_on_it(
    arm: Path, tmp_path: Path, reference: Reference, told: list[str]
) -> None:
    actions = ActionRecipe(reference=reference)
    path = str(built(arm, tmp_path / "other", actions=actions).folder / "statistics.json")
    chosen = recipe(actions=actions, normalize="quantile", stats_from=path, rate=5, horizon=3)
    notes = plan_build(Lake.open(str(arm)), chosen, "1").notes
    assert notes == tuple(f"{path} was made with {one}; relative actions are of another size there" for one in told)


def test_a_choice_that_changes_nothing_is_told(arm: Path) -> None:
    idle = {"rotation": "matrix", "frame": "tool", "base": "self", "gripper": "opening"}
    notes = plan_build(Lake.open(str(arm)), recipe(actions=ActionRecipe.model_validate(idle)), "1").notes
    assert [note.split()[0] for note in notes] == ["actions.base", "actions.frame", "actions.rotation"]
    joints = ActionRecipe(parts=("joints",), gripper="opening", reference="chunk_start", gripper_reference="relative")
    notes = plan_build(Lake.open(str(arm)), recipe(actions=joints), "1").notes
    assert [note.split()[0] for note in notes] == ["actions.gripper", "actions.gripper_reference"]


@pytest.mark.parametrize("damage", ["{", '{"kind": "other"}', "[]", '{"kind": "wamloom statistics", "of": {}}', "null"])
def test_what_is_no_statistics_is_refused_by_name(arm: Path, tmp_path: Path, damage: str) -> None:
    (tmp_path / "statistics.json").write_text(damage)
    with pytest.raises(RecipeError, match=r"statistics\.json: not statistics of a build"):
        built(arm, tmp_path / "out", normalize="quantile", stats_from=str(tmp_path / "statistics.json"))


def test_statistics_of_another_horizon_cannot_normalize_steps(arm: Path, tmp_path: Path) -> None:
    other = built(arm, tmp_path / "other", horizon=3)
    path = str(other.folder / "statistics.json")
    with pytest.raises(RecipeError, match="of 3 steps, the horizon is 4"):
        built(arm, tmp_path / "out", normalize="quantile", normalize_by="step", stats_from=path)


def test_forms_that_trainers_read_are_written_and_listed(arm: Path, tmp_path: Path) -> None:
    found = built(
        arm, tmp_path / "out", actions=RELATIVE, statistics=("gear", "openpi", "fastwam", "gigaworld"), sample_stride=1
    )
    relative = read_json(found.folder / "relative_horizon_stats_dreamzero.json")
    assert list(relative) == ["joint_position"], "grippers are absolute"
    assert np.shape(relative["joint_position"]["q99"]) == (HORIZON, 6)
    assert relative["joint_position"]["max"][2] == found.stats("chunks", "steps", 2).max[:6].tolist()
    columns = read_json(found.folder / "stats.json")
    assert columns["action"]["mean"] == found.stats("action", "stats").mean.tolist()
    openpi = read_json(found.folder / "norm_stats.json")["norm_stats"]
    assert openpi["actions"]["q01"] == found.stats("chunks", "overall").q01.tolist()
    assert openpi["state"]["q01"] == found.stats("proprio", "stats").q01.tolist()
    fastwam = read_json(found.folder / "dataset_stats.json")
    assert np.shape(fastwam["state"]["default"]["stepwise_mean"]) == (1, 7)
    assert np.shape(fastwam["action"]["default"]["stepwise_mean"]) == (HORIZON, 7)
    assert len(read_json(found.folder / "gigaworld_norm_stats.json")["norm_stats"]["action"]["mean"]) == 32
    listed = {entry["path"] for entry in read_json(tmp_path / "out/manifest.json")["files"]}
    assert {path.relative_to(tmp_path / "out").as_posix() for path in found.folder.iterdir()} <= listed


def test_an_episode_that_cannot_be_written_is_left_out_and_the_manifest_says_why(
    arm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(chunks: ActionChunks) -> None:
        if len(chunks.valid) == 9:
            raise LayoutError("the quaternion has no length", "row 3")

    monkeypatch.setattr(ActionChunks, "check", check)
    found = built(arm, tmp_path / "out", actions=RELATIVE)
    assert [one["num_steps"] for one in found.group["episodes"]] == [12]
    (dropped,) = read_json(tmp_path / "out/manifest.json")["dropped"]
    assert dropped["reason"] == "bad_action"
    assert "the quaternion has no length (row 3)" in dropped["message"]


def test_outliers_are_told(lake: Path, tmp_path: Path) -> None:
    found = built(lake, tmp_path / "out")
    assert [one["channel"] for one in found.statistics["chunks"]["outliers"]] == [0, 1]
    assert found.statistics["chunks"]["quantiles_are_exact"] is True


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"actions": RELATIVE, "horizon": 40}, "no chunk has a valid value|step 20 of 40"),
        ({"horizon": 1200, "statistics": ("fastwam",)}, "more than 2048 numbers"),
        ({"actions": ActionRecipe(parts=("gripper",))}, "none of the channels"),
        ({"actions": ActionRecipe(slots="nowhere_9")}, "nowhere_9"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    lake: Path, tmp_path: Path, choices: dict[str, Any], message: str
) -> None:
    if choices.get("horizon") == 40:
        choices = choices | {"normalize": "quantile", "normalize_by": "step"}
    with pytest.raises(Exception, match=message) as caught:
        built(lake, tmp_path / "out", **choices)
    assert type(caught.value).__module__ == "schemas.errors"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("choices", [{"clamp": 1.0}, {"stats_from": "x"}, {"normalize_by": "step"}])
def test_how_to_normalize_needs_a_normalization(choices: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="normalize is none"):
        BuildRecipe(**choices)
    assert BuildRecipe(normalize="quantile", **choices).normalize == "quantile"


def test_a_dry_run_and_show_say_how_chunks_are_written(arm: Path, tmp_path: Path) -> None:
    chosen = recipe(
        actions=ActionRecipe(reference="chunk_start", slots="dreamzero_32", rotation="matrix"),
        tokenizer=TokenizerRecipe(offset=9),
        fastwam=FastWamRecipe(horizon=8),
        ctrlworld=CtrlWorldRecipe(),
    )
    told = "chunks of 4 steps of 32 numbers, 7 of them used; reference chunk_start, rotation matrix, slots dreamzero_32"
    out = tmp_path / "out"
    answer = build.run(BuildOptions(str(arm), str(out), chosen, True, "inline"))
    assert not out.exists()
    assert "2 episodes (21 steps, " in answer.lines[0]
    assert f"{told}; normalize none; tokens of bins from 9 on" in answer.lines[2]
    assert answer.warnings[0].startswith("actions.rotation changes nothing of")
    assert [line for line in answer.warnings if line.startswith("[")] == [
        "[fastwam] of the recipe changes nothing, since the format fastwam is not built"
    ]
    done = build.run(BuildOptions(str(arm), str(out), chosen, False, "inline"))
    assert done.warnings[0] == answer.warnings[0]
    assert told in show_release(out)["groups"][0]["chunks"]


def test_a_filter_that_leaves_no_step_is_named(arm: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="segments: no step counts, to take statistics of the action") as caught:
        built(arm, tmp_path / "out", segments=SegmentFilter(within="keep"))
    assert "segments.within" in caught.value.hint


def test_a_dry_run_says_why_episodes_would_be_dropped(tmp_path: Path) -> None:
    run_ingest([write_short(tmp_path / "recordings", lengths=(9,), robot=1)], tmp_path / "lake")
    run_ingest([write_short(tmp_path / "others", lengths=(9,), robot=0)], tmp_path / "lake")
    chosen = recipe(views=ViewsRecipe(slots=("wrist_left",), height_px=32, width_px=32))
    answer = build.run(BuildOptions(str(tmp_path / "lake"), str(tmp_path / "out"), chosen, True, "inline"))
    assert answer.values["dropped"] == 1
    assert list(answer.warnings) == ["1 episodes would be dropped: has no view wrist_left, only primary"]
