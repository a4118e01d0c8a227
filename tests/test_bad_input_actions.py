"""Bad input of action recipes: statistics and slot layouts that are hostile, and numbers no release can hold."""

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import verify
from jobs.options import VerifyOptions
from pipelines import build_groups
from pipelines.build_plan import plan_build
from pipelines.build_unit import BuildWorker
from pipelines.lake import Lake
from pipelines.numbers import EpisodeNumbers, numbers_of
from schemas.action_recipe import ActionRecipe
from schemas.embodiment import Embodiment
from schemas.errors import CardError, FingerprintMismatch, LakeError, RecipeError
from schemas.recipes import BuildRecipe, SegmentFilter, TokenizerRecipe, ViewsRecipe, load_recipe, validate_model
from schemas.work import WorkUnit
from tests.chain import read_json, run_build, tables, vectors
from tests.gap_lake import gap_lake

RELATIVE = ActionRecipe(reference="chunk_start")
SLOTS = 'name = "wide"\nwidth = {width}\n[[slots]]\npart = "other"\nstart = {start}\nwidth = 2\n'


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One recording of 30 steps of two joints, with a gap behind the tenth."""
    return gap_lake(tmp_path_factory.mktemp("gap"))


@pytest.fixture(scope="module")
def statistics(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a build of the lake says."""
    out = tmp_path_factory.mktemp("given") / "out"
    run_build(lake, out, recipe(actions=RELATIVE))
    found: dict[str, Any] = read_json(out / "stats/toy_set/statistics.json")
    return found


def recipe(**choices: Any) -> BuildRecipe:
    views = ViewsRecipe(height_px=32, width_px=32)
    return BuildRecipe(**{"formats": ("parquet",), "horizon": 4, "views": views, "tokenizer": None} | choices)


def plan(lake: Path, **choices: Any) -> Any:
    return plan_build(Lake.open(str(lake)), recipe(**choices), "test")


def given(lake: Path, path: Path | str) -> Any:
    return plan(lake, actions=RELATIVE, normalize="quantile", stats_from=str(path))


def overall(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plain: plain["chunks"]["overall"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overall(std=[-1.0, 1.0]), "cannot be theirs"),
        (overall(std=[99.0, 1.0]), "cannot be theirs"),
        (overall(min=[5.0, 5.0], max=[-5.0, -5.0]), "do not rise"),
        (overall(q01=[0.2, 0.2], q99=[0.1, 0.1]), "do not rise"),
        (overall(mean=[1e9, 0.0]), "cannot be theirs"),
        (overall(mean=[10**400, 0]), "too large"),
        (overall(mean=["1", "2"]), "is no number"),
        (overall(mean=[True, False]), "is no number"),
        (overall(mean=[float("nan"), 0.0]), "not finite"),
        (overall(count=[float("inf")] * 2), "infinity"),
        (overall(count=[0, 0]), "count"),
        (overall(count=[-3, -3]), "count"),
        (overall(count=[1.5, 1.5]), "count"),
        (lambda plain: plain["of"].update(data="\ud800"), "no fingerprint"),
        (lambda plain: plain["of"].update(recipe=5, plan=None), "no fingerprint"),
        (lambda plain: plain["chunks"].pop("steps"), "there is no 'steps'"),
        (lambda plain: plain["chunks"].update(steps=["x"]), "not statistics"),
    ],
)
def test_statistics_that_no_numbers_have_are_refused(
    lake: Path, statistics: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    plain = copy.deepcopy(statistics)
    change(plain)
    (tmp_path / "s.json").write_text(json.dumps(plain))
    with pytest.raises(RecipeError, match=message) as caught:
        given(lake, tmp_path / "s.json")
    assert "s.json" in caught.value.where
    assert caught.value.hint


def test_a_key_that_is_there_twice_is_refused(lake: Path, statistics: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps(statistics).replace('"kind"', '"kind": "another", "kind"', 1)
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(RecipeError, match="a key is there twice"):
        given(lake, tmp_path / "s.json")


def test_what_the_file_says_for_people_goes_nowhere(lake: Path, statistics: dict[str, Any], tmp_path: Path) -> None:
    plain = copy.deepcopy(statistics)
    plain["of"]["recipe"] = "\ud800 no JSON"
    (tmp_path / "s.json").write_text(json.dumps(plain))
    of = given(lake, tmp_path / "s.json").groups[0].chunk.stats.of
    assert of.reference == "chunk_start"
    assert of.data == statistics["of"]["data"]


def test_statistics_of_another_recipe_are_named_with_their_file(
    lake: Path, statistics: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "s.json").write_text(json.dumps(statistics))
    with pytest.raises(FingerprintMismatch, match=r"toy_arm of toy_set, .*s\.json"):
        plan(lake, normalize="quantile", stats_from=str(tmp_path / "s.json"))


@pytest.mark.parametrize("name", ["", "nowhere.json", "a\0b", "x" * 5000])
def test_what_is_no_file_of_statistics_is_refused(lake: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=r"no such file|name too long"):
        given(lake, name)


def test_statistics_are_not_read_from_a_pipe(lake: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecipeError, match="no such file"):
        given(lake, tmp_path / "pipe")


def test_slots_without_meaning_must_be_zero_in_statistics_too(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text(SLOTS.format(width=6, start=3))
    actions = ActionRecipe(reference="chunk_start", slots=str(tmp_path / "wide.toml"))
    run_build(lake, tmp_path / "out", recipe(actions=actions))
    plain = read_json(tmp_path / "out/stats/toy_set/statistics.json")
    for name in ("mean", "min", "max", "q01", "q10", "q50", "q90", "q99"):
        plain["chunks"]["overall"][name][0] = 7.0
    (tmp_path / "s.json").write_text(json.dumps(plain))
    with pytest.raises(RecipeError, match="without meaning are not zero"):
        plan(lake, actions=actions, normalize="quantile", stats_from=str(tmp_path / "s.json"))


def test_a_wide_layout_costs_no_more_than_what_is_in_it(lake: Path, tmp_path: Path) -> None:
    """200 steps of 400 slots are more numbers than statistics are taken of, but only two of them mean something."""
    (tmp_path / "wide.toml").write_text(SLOTS.format(width=400, start=300))
    actions = ActionRecipe(slots=str(tmp_path / "wide.toml"), lead=1)
    wide = plan(lake, actions=actions, horizon=200).statistics["toy_set"][1]
    narrow = plan(lake, actions=ActionRecipe(lead=1), horizon=200).statistics["toy_set"][1]
    assert np.array_equal(wide.chunks.overall.q99[300:302], narrow.chunks.overall.q99)
    assert not wide.chunks.overall.std[:300].any()
    assert len(wide.chunks.overall.mean) == 400
    assert [one.channel for one in wide.outliers] == [300, 301]


def test_a_chunk_that_fits_no_memory_is_refused(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text(SLOTS.format(width=100_000, start=0))
    actions = ActionRecipe(slots=str(tmp_path / "wide.toml"))
    with pytest.raises(RecipeError, match="100000 steps of 100000 numbers") as caught:
        plan(lake, actions=actions, horizon=100_000)
    assert caught.value.where == "toy_arm of toy_set, horizon"


@pytest.mark.parametrize("name", ["x" * 5000 + ".toml", "a\0.toml", "nowhere/at/all"])
def test_a_layout_that_no_file_can_be_is_refused(lake: Path, name: str) -> None:
    with pytest.raises(CardError, match="no such card file"):
        plan(lake, actions=ActionRecipe(slots=name))


def test_units_do_not_read_the_layout_again(lake: Path, tmp_path: Path) -> None:
    """Its file may lie on another machine, or have changed while a build that goes on for days is on its way."""
    path = tmp_path / "wide.toml"
    path.write_text(SLOTS.format(width=5, start=1))
    chosen = recipe(actions=ActionRecipe(slots=str(path)))
    opened = Lake.open(str(lake))
    unit: WorkUnit = plan_build(opened, chosen, "test").units[0]
    path.unlink()
    (tmp_path / "staging").mkdir()
    worker = BuildWorker(str(lake), opened.versions(), str(tmp_path / "staging"), chosen, None)
    worker(unit)
    worker.close()
    chunks = vectors(tables(tmp_path / "staging/files/parquet")["action_chunk"])
    assert chunks.shape == (30, 4, 5)
    assert not chunks[..., [0, 3, 4]].any()


def test_statistics_relative_to_another_start_are_not_written_under_dreamzeros_name(lake: Path) -> None:
    for reference in ("velocity", "framewise", "segment_start"):
        with pytest.raises(RecipeError, match=f"statistics of {reference} actions"):
            plan(lake, actions=ActionRecipe(reference=reference), statistics=("gear",))


def test_what_no_group_has_is_told_with_the_robot_and_a_way_round_it(lake: Path) -> None:
    with pytest.raises(RecipeError, match="no step counts, to take statistics of the action") as caught:
        plan(lake, segments=SegmentFilter(within="success"))
    assert caught.value.where == "toy_arm of toy_set, segments"
    assert "embodiment != 'toy_arm'" in caught.value.hint


def test_a_clamp_without_end_is_refused() -> None:
    with pytest.raises(RecipeError, match="clamp: Input should be a finite number"):
        load_recipe(BuildRecipe, 'normalize = "quantile"\nclamp = inf', "r.toml")


@pytest.mark.parametrize(
    ("datasets", "names"),
    [
        (["a", "a", "a", "b"], ["a", "a_2", "a_3", "b"]),
        (["a", "a", "a_2"], ["a", "a_3", "a_2"]),
        (["a", "a", "a", "a_2", "a_2"], ["a", "a_3", "a_4", "a_2", "a_2_2"]),
    ],
)
def test_no_two_groups_share_a_name(datasets: list[str], names: list[str]) -> None:
    found = build_groups.group_names(datasets)
    assert found == names
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", [".", "..", "a/b", "", "a\\nb", "x" * 201])
def test_no_name_of_a_card_is_a_path(name: str) -> None:
    with pytest.raises(RecipeError, match="name: String should"):
        validate_model(Embodiment, {"name": name, "title": "", "proprio": [], "action": []}, "robot.toml")


@pytest.mark.parametrize("name", [".a", "..a", "a..", "a b", "é"])
def test_other_names_are_names(name: str) -> None:
    robot = validate_model(Embodiment, {"name": name, "title": "", "proprio": [], "action": []}, "robot.toml")
    assert robot.name == name


def test_names_in_a_layout_cannot_write_on_the_screen(lake: Path, tmp_path: Path) -> None:
    (tmp_path / "wide.toml").write_text(SLOTS.format(width=6, start=3) + 'block = "\\u001b[2J"\n')
    with pytest.raises(CardError, match=r"slots\.0\.block: String should match"):
        plan(lake, actions=ActionRecipe(slots=str(tmp_path / "wide.toml")))


def with_numbers(monkeypatch: pytest.MonkeyPatch, change: Callable[[EpisodeNumbers], None]) -> None:
    def changed(*arguments: Any) -> EpisodeNumbers:
        numbers = numbers_of(*arguments)
        change(numbers)
        return numbers

    monkeypatch.setattr("pipelines.build_plan.numbers_of", changed)
    monkeypatch.setattr("pipelines.build_unit.numbers_of", changed)


def test_numbers_beyond_float32_are_no_actions(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_numbers(monkeypatch, lambda numbers: numbers.action.__setitem__((3, 0), 1e39))
    with pytest.raises(LakeError, match=r"action is 1e\+39 \(step 3, channel 0\)"):
        plan(lake)


def test_a_recipe_that_makes_numbers_beyond_float32_is_refused(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opposite(numbers: EpisodeNumbers) -> None:
        numbers.action[:], numbers.proprio[:] = 3e38, -3e38

    with_numbers(monkeypatch, opposite)
    with pytest.raises(RecipeError, match="do not fit into float32"):
        plan(lake, actions=RELATIVE)


def test_what_does_not_count_and_is_no_number_harms_nothing(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(numbers: EpisodeNumbers) -> None:
        """A view lags in the first two steps, and in the second nothing was measured either."""
        numbers.valid[:2] = False
        numbers.action[1], numbers.proprio[1] = np.nan, np.inf

    with_numbers(monkeypatch, lost)
    run_build(lake, tmp_path / "out", recipe(actions=RELATIVE, tokenizer=TokenizerRecipe()))
    table = tables(tmp_path / "out/parquet")
    chunks, mask = vectors(table["action_chunk"]), vectors(table["chunk_mask"])
    assert np.isfinite(chunks).all()
    assert mask[0].tolist() == [False, False, True, True]
    assert not mask[1].any(), "relative to what was not measured"


def test_an_episode_that_lies_in_gaps_alone_leaves_nothing(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.windows.runs_between_gaps", lambda *_: [])
    with pytest.raises(LakeError, match="all their steps lie in gaps"):
        plan(lake, formats=("webdataset",))


def test_a_link_in_a_release_is_a_problem_like_others(lake: Path, tmp_path: Path) -> None:
    run_build(lake, tmp_path / "out", recipe())
    path = tmp_path / "out/stats/toy_set/statistics.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"0", b"1", 1))
    answer = verify.run(VerifyOptions(str(tmp_path / "out")))
    assert (answer.exit_code, len(answer.values["problems"])) == (5, 1)
    (tmp_path / "elsewhere").write_bytes(data)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    answer = verify.run(VerifyOptions(str(tmp_path / "out")))
    assert answer.exit_code == 5
    assert "statistics.json" in answer.values["problems"][0]["where"]
