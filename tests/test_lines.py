"""The three lines: what is committed, replaced, repeated, dropped and resumed, on small simulated recordings."""

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.execute import Executor, WorkerSpec
from jobs.run import Interrupted
from pipelines.build_plan import plan_build
from pipelines.lake import Lake
from pipelines.simulate import ROBOTS
from pipelines.stats import denormalize, stats_from_json
from pipelines.verify import verify_lake, verify_release
from schemas.errors import LakeError, RecipeError, ReleaseMismatch, UsageError
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, TokenizerRecipe, ViewsRecipe, validate_model
from schemas.work import UnitResult, WorkUnit
from tests.chain import read_json, run_build, run_encode, run_ingest, tables, tar_samples, vectors, write_short
from tests.fake_build import tree_bytes

VIEWS = ViewsRecipe(height_px=32, width_px=48)
RECIPE = BuildRecipe(
    formats=("lerobot_v3", "parquet", "webdataset"), views=VIEWS, horizon=4, unit_frames=10, tokenizer=TokenizerRecipe()
)
"""Units of one episode each."""
GANTRY, ARM = 1, 0


class Reordered:
    """Works through all units, and hands the results over in another order."""

    name = "reordered"

    def __init__(self, order: Callable[[list[UnitResult]], list[UnitResult]]) -> None:
        self._order = order

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        work = worker.make()
        try:
            yield from self._order([work(unit) for unit in units])
        finally:
            work.close()


class Flaky:
    """Is interrupted after some units, the last of which is finished but never reported."""

    name = "flaky"

    def __init__(self, num_reported: int) -> None:
        self._num_reported = num_reported
        self.num_run = 0

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        work = worker.make()
        try:
            for number, unit in enumerate(units):
                result = work(unit)
                self.num_run += 1
                if number == self._num_reported:
                    raise Interrupted(2)
                yield result
        finally:
            work.close()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five short episodes of the gantry and two of the arm."""
    folder = tmp_path_factory.mktemp("recordings")
    write_short(folder, lengths=(12, 9, 5, 10, 7))
    return write_short(folder, lengths=(8, 6), robot=ARM)


@pytest.fixture(scope="module")
def lake(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake") / "lake"
    values = run_ingest([recordings], root).values
    assert (values["listed"], values["kept"]) == (7, 7), values["problems"]
    return root


def outcomes(lake: Path) -> Counter[str]:
    return Counter(row["outcome"] for row in Lake.open(lake).rows("episodes", ["outcome"]))


# --- ingest ----------------------------------------------------------------------------------------------------------


def all_rows(lake: Path) -> list[dict[str, Any]]:
    opened = Lake.open(lake)
    return opened.rows("episodes", [name for name in opened.table("episodes").schema.names if "video_" not in name])


def test_rows_do_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    places = [write_short(tmp_path / name, lengths=(6, 7), first=first) for name, first in
              (("a", 0), ("b", 2), ("copy_of_a", 0), ("part_of_b", 2))]  # fmt: skip
    for number, info in enumerate(sorted(tmp_path.rglob("dataset_info.json"))):
        # copies differ in what is no content, so that the row tells which of them made it
        info.write_text(json.dumps(json.loads(info.read_text()) | {"version": f"1.0.{number}"}))
    lakes = []
    for number, order in enumerate([(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)]):
        root = tmp_path / f"lake{number}"
        executor = Reordered(lambda results, order=order: [results[index] for index in order])
        values = run_ingest(places, root, executor=executor).values
        assert (values["listed"], values["kept"], values["already"]) == (8, 4, 4)
        lakes.append(all_rows(root))
    assert {len(row["locations"]) for row in lakes[0]} == {2}
    assert {row["version"] for row in lakes[0]} == {"1.0.0", "1.0.1"}
    assert all(rows == lakes[0] for rows in lakes[1:])


@pytest.mark.parametrize("retry", [False, True])
def test_a_file_put_back_replaces_the_failed_row(tmp_path: Path, retry: bool) -> None:
    place, root = write_short(tmp_path / "set", "lerobot_v21"), tmp_path / "lake"
    lost = sorted(place.rglob("*.mp4"))[1]
    lost.rename(tmp_path / "elsewhere.mp4")
    answer = run_ingest([place], root)
    assert (answer.exit_code, answer.values["kept"], answer.values["failed"]) == (4, 1, 1)
    assert answer.values["reasons"] == {"missing_file": 1}
    again = run_ingest([place], root)
    assert (again.exit_code, again.values["already"], again.values["already_failed"]) == (4, 2, 1)
    tried = run_ingest([place], root, retry=True)
    assert (tried.exit_code, tried.values["failed"], tried.values["already"]) == (4, 1, 1)
    assert outcomes(root) == {"kept": 1, "failed": 1}
    (tmp_path / "elsewhere.mp4").rename(lost)
    mended = run_ingest([place], root, retry=retry)
    assert (mended.exit_code, mended.values["kept"], mended.values["already"]) == (0, 1, 1)
    assert outcomes(root) == {"kept": 2}
    assert verify_lake(Lake.open(root)).ok
    assert run_ingest([place], root, retry=True).values["already"] == 2


def test_a_changed_place_is_read_again_and_only_then(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    for number, first in enumerate((0, 2, 4), start=1):
        place = write_short(tmp_path / "now", lengths=(6, 7), first=first)
        assert run_ingest([place], root).values["kept"] == 2
        again = run_ingest([place], root).values
        assert (again["kept"], again["already"]) == (0, 2)
        assert run_ingest([place], root).values["seconds"] == 0, "a place was read again though nothing changed"
        assert outcomes(root) == {"kept": 2 * number}
        place.rename(tmp_path / f"then{number}")
    assert verify_lake(Lake.open(root)).ok


def test_touched_files_are_read_again_and_known(tmp_path: Path) -> None:
    place, root = write_short(tmp_path / "set"), tmp_path / "lake"
    run_ingest([place], root)
    before = {row["episode_id"]: row["row_sha256"] for row in all_rows(root)}
    for path in place.rglob("*tfrecord*"):
        os.utime(path, (1, 1))
    assert run_ingest([place], root).values["already"] == 2
    assert {row["episode_id"]: row["row_sha256"] for row in all_rows(root)} == before
    assert run_ingest([place], root).values["seconds"] == 0
    assert {len(row["locations"]) for row in all_rows(root)} == {1}


def test_a_kept_place_that_breaks_is_told_until_it_is_mended(tmp_path: Path) -> None:
    place, root = write_short(tmp_path / "set", "lerobot_v21"), tmp_path / "lake"
    assert run_ingest([place], root).exit_code == 0
    lost = sorted(place.rglob("*.mp4"))[0]
    lost.rename(tmp_path / "elsewhere.mp4")
    broken = run_ingest([place], root)
    assert (broken.exit_code, broken.values["failed"], broken.values["already"]) == (4, 1, 1)
    assert outcomes(root) == {"kept": 2, "failed": 1}, "what was kept stays"
    again = run_ingest([place], root)
    assert (again.exit_code, again.values["already"], again.values["already_failed"]) == (4, 2, 1)
    (tmp_path / "elsewhere.mp4").rename(lost)
    assert run_ingest([place], root, retry=True).exit_code == 0
    assert verify_lake(Lake.open(root)).ok


# --- encode ----------------------------------------------------------------------------------------------------------


def test_latents_are_computed_once_and_no_build_computes_them(recordings: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    run_ingest([recordings], lake)
    recipe = EncodeRecipe(views=VIEWS, unit_frames=12)
    first = run_encode(lake, recipe).values
    assert first["computed"] == first["clips"] == 5 + 2 * 2
    table = Lake.open(lake).versions()["latents"]
    second = run_encode(lake, recipe).values
    assert (second["computed"], second["cached"], second["frames"]) == (0, 9, 0)
    both = RECIPE.model_copy(update={"content": "both", "encoder": "wavelet"})
    for name, changes in (("one", {}), ("two", {"horizon": 3}), ("three", {"normalize": "z_score", "seed": 1})):
        run_build(lake, tmp_path / name, both.model_copy(update=changes))
        assert verify_release(tmp_path / name, Lake.open(lake)).ok
    assert Lake.open(lake).versions()["latents"] == table
    assert run_encode(lake, recipe).values["frames"] == 0


def test_other_latents_make_another_release(recordings: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    run_ingest([recordings], lake)
    recipe = RECIPE.model_copy(update={"content": "latents", "encoder": "wavelet", "where": "num_steps >= 9"})
    run_encode(lake, EncodeRecipe(views=VIEWS), "num_steps >= 9")
    run_build(lake, tmp_path / "out", recipe)
    run_encode(lake, EncodeRecipe(views=VIEWS), "num_steps < 9")
    assert run_build(lake, tmp_path / "out", recipe).values["already"]
    run_encode(lake, EncodeRecipe(views=VIEWS, clip=ClipRecipe(kind="fixed", num_frames=5)))
    with pytest.raises(ReleaseMismatch):
        run_build(lake, tmp_path / "out", recipe)


def test_latents_that_are_not_there_are_asked_for(recordings: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    run_ingest([recordings], lake)
    with pytest.raises(RecipeError, match="needs latents") as no_name:
        run_build(lake, tmp_path / "out", RECIPE.model_copy(update={"content": "latents"}))
    assert 'encoder = "wavelet"' in no_name.value.hint
    wanted = RECIPE.model_copy(update={"content": "latents", "encoder": "wavelet"})
    with pytest.raises(LakeError, match="there are none in the lake") as none:
        run_build(lake, tmp_path / "out", wanted)
    assert "wamloom encode" in none.value.hint
    primary = EncodeRecipe(views=VIEWS.model_copy(update={"slots": ("primary",)}))
    run_encode(lake, primary)
    with pytest.raises(LakeError, match="2 episodes have none of view wrist_left"):
        run_build(lake, tmp_path / "out", wanted)
    run_build(lake, tmp_path / "out", wanted.model_copy(update={"views": primary.views}))
    with pytest.raises(LakeError, match="there are none in the lake"):
        run_build(lake, tmp_path / "other", wanted.model_copy(update={"rate": 5}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake", "out"]


# --- build -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("release") / "out"
    run_build(lake, out, RECIPE)
    return tree_bytes(out)


def test_the_order_of_units_does_not_change_a_byte(lake: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    run_build(lake, tmp_path / "out", RECIPE, Reordered(lambda results: results[::-1]))
    assert tree_bytes(tmp_path / "out") == undisturbed


@pytest.mark.ray
def test_ray_gives_the_same_bytes(
    lake: Path, undisturbed: dict[str, bytes], tmp_path: Path, ray_executor: Executor, recordings: Path
) -> None:
    run_build(lake, tmp_path / "out", RECIPE, ray_executor)
    assert tree_bytes(tmp_path / "out") == undisturbed
    run_ingest([recordings], tmp_path / "lake", executor=ray_executor)
    assert all_rows(tmp_path / "lake") == all_rows(lake)


@pytest.mark.parametrize("num_reported", [0, 3])
def test_an_interrupted_build_continues_to_the_same_bytes(
    lake: Path, undisturbed: dict[str, bytes], tmp_path: Path, num_reported: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        run_build(lake, out, RECIPE, Flaky(num_reported))
    assert not out.exists()
    rest = Flaky(num_reported=100)
    run_build(lake, out, RECIPE, rest)
    assert rest.num_run == 7 - (num_reported + 1), "a finished unit was written again"
    assert tree_bytes(out) == undisturbed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_one_place_holds_one_release(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = RECIPE.model_copy(update={"formats": ("parquet",)})
    assert not run_build(lake, out, small).values["already"]
    before = tree_bytes(out)
    assert run_build(lake, out, small).values["already"]
    with pytest.raises(ReleaseMismatch, match="another release") as caught:
        run_build(lake, out, small.model_copy(update={"horizon": 5}))
    assert caught.value.hint
    assert tree_bytes(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_episode_without_a_wanted_view_is_dropped_with_its_reason(lake: Path, tmp_path: Path) -> None:
    views = VIEWS.model_copy(update={"slots": ("wrist_left",)})
    answer = run_build(lake, tmp_path / "out", RECIPE.model_copy(update={"views": views}))
    assert (answer.values["episodes"], answer.values["dropped"]) == (2, 5)
    assert "dropped" in answer.warnings[0]
    manifest = read_json(tmp_path / "out" / "manifest.json")
    gantries = {row["episode_id"] for row in Lake.open(lake).rows("episodes", [], "embodiment = 'sample_gantry'")}
    assert {entry["key"] for entry in manifest["dropped"]} == gantries
    assert {(entry["reason"], entry["message"]) for entry in manifest["dropped"]} == {
        ("missing_view", "has no view wrist_left, only primary")
    }
    assert [group["name"] for group in manifest["groups"]] == ["sample_arm_rlds"]
    with pytest.raises(LakeError, match="every matching episode was dropped: has no view tertiary"):
        run_build(lake, tmp_path / "none", RECIPE.model_copy(update={"views": ViewsRecipe(slots=("tertiary",))}))


def test_where_chooses_and_seeds_only_order(lake: Path, tmp_path: Path) -> None:
    base = RECIPE.model_copy(update={"formats": ("parquet",), "where": "num_steps > 8", "unit_frames": 1000})
    orders, contents = [], []
    for seed in range(4):
        out = tmp_path / str(seed)
        run_build(lake, out, base.model_copy(update={"seed": seed}))
        table = tables(out / "parquet" / "sample_gantry_rlds")
        groups = read_json(out / "manifest.json")["groups"]
        assert [group["name"] for group in groups] == ["sample_gantry_rlds"]
        orders.append([entry["episode_id"] for entry in groups[0]["episodes"]])
        rows = zip(*(table[name].to_pylist() for name in ("episode_id", "step", "action", "source_row")), strict=True)
        contents.append(sorted(rows))
    assert {len(order) for order in orders} == {3}
    assert len({tuple(order) for order in orders}) > 1
    assert len({frozenset(order) for order in orders}) == 1
    assert all(content == contents[0] for content in contents)
    with pytest.raises(LakeError, match="no kept episode matches"):
        run_build(lake, tmp_path / "x", base.model_copy(update={"where": "num_steps > 1000"}))
    with pytest.raises(UsageError, match="does not work"):
        run_build(lake, tmp_path / "x", base.model_copy(update={"where": "no_such_column > 1"}))


def test_an_episode_shorter_than_the_horizon_is_one_masked_sample(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_build(lake, out, RECIPE.model_copy(update={"formats": ("webdataset",), "horizon": 16}))
    samples = list(tar_samples(out / "webdataset" / "sample_gantry_rlds"))
    assert len(samples) == 5
    lengths = []
    for sample in samples:
        length = sample.facts["num_steps"]
        lengths.append(length)
        assert sample.array("mask.npy").tolist() == [step < length for step in range(16)]
        action = sample.array("action.npy")
        assert action.shape == (16, 5)
        np.testing.assert_array_equal(action[length:], np.repeat(action[length - 1 : length], 16 - length, axis=0))
        assert sample.members["primary.015.jpg"] == sample.members[f"primary.{length - 1:03d}.jpg"]
    assert sorted(lengths) == [5, 7, 9, 10, 12]


@pytest.mark.parametrize("kind", ["quantile", "min_max", "z_score"])
def test_normalized_values_lead_back_to_the_raw_ones(lake: Path, tmp_path: Path, kind: str) -> None:
    found = {}
    for name in ("none", kind):
        recipe = RECIPE.model_copy(update={"formats": ("parquet", "webdataset"), "normalize": name})
        run_build(lake, tmp_path / name, recipe)
        for group in read_json(tmp_path / name / "manifest.json")["groups"]:
            table = tables(tmp_path / name / "parquet" / group["name"])
            for vector in ("action", "proprio"):
                found[name, group["name"], vector] = vectors(table[vector])
            stats = {part: stats_from_json(json.dumps(values)) for part, values in group["stats"].items()}
            found[name, group["name"], "stats"] = stats
    for (name, group_name, vector), values in found.items():
        if name != kind or vector == "stats":
            continue
        raw, stats = found["none", group_name, vector], found[name, group_name, "stats"][vector]
        assert stats.count == len(raw)
        np.testing.assert_array_equal(stats.max, raw.max(axis=0))
        assert not np.allclose(values, raw)
        back = denormalize(values, stats, kind)
        np.testing.assert_allclose(back, raw, rtol=1e-5, atol=1e-6)
        if kind == "min_max":
            assert np.abs(values).max() <= 1 + 1e-6
        windows = list(tar_samples(tmp_path / kind / "webdataset" / group_name))
        seen = np.concatenate([sample.array(f"{vector}.npy")[: sample.facts["num_steps"]] for sample in windows])
        np.testing.assert_array_equal(seen, values.astype(np.float32))


def test_a_robot_without_proprio(tmp_path: Path) -> None:
    place = write_short(tmp_path / "set", lengths=(6, 9))
    robot = [f'[[action]]\nname = "{name}"\nkind = "command"' for name in ROBOTS[GANTRY].action_names]
    (tmp_path / "blind.toml").write_text(
        'name = "blind"\ntitle = "A robot that measures nothing"\ncontrol_rate = 20\nviews = ["primary"]\nproprio = []\n'
        + "\n".join(robot)
    )
    (tmp_path / "card.toml").write_text(
        'name = "blind_set"\nversion = 1\ntitle = "No proprio"\nsource = "rlds"\nembodiment = "blind"\nlicense = "CC0-1.0"\n'
        '[[action]]\nfield = "action"\n[views]\n"observation/primary_image" = "primary"\n'
        '[language]\nfields = ["language_instruction"]\n'
    )
    lake, out = tmp_path / "lake", tmp_path / "out"
    answer = run_ingest([place], lake, card=tmp_path / "card.toml")
    assert answer.values["kept"] == 2, answer.values["problems"]
    run_encode(lake, EncodeRecipe(views=VIEWS))
    for content in ("frames", "both"):
        encoder = None if content == "frames" else "wavelet"
        recipe = RECIPE.model_copy(update={"content": content, "encoder": encoder, "normalize": "quantile"})
        run_build(lake, out / content, recipe)
        assert verify_release(out / content, Lake.open(lake)).ok
        assert "proprio" not in tables(out / content / "parquet" / "blind_set").column_names
        for sample in tar_samples(out / content / "webdataset" / "blind_set"):
            assert sample.array("proprio.npy").shape == (4, 0)
            assert np.load(io.BytesIO(sample.members["action.npy"]), allow_pickle=False).shape == (4, 5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rate": 100_000}, "over 20 times"),
        ({"video": {"preset": "nosuch"}}, "encoder refuses"),
        ({"views": {"height_px": 3, "width_px": 3}}, "even sizes"),
        ({"views": {"height_px": 60_000, "width_px": 60_000}}, "max_pixels"),
    ],
)
def test_what_a_format_refuses_is_told_by_the_plan(
    tmp_path: Path, lake: Path, changes: dict[str, Any], told: str
) -> None:
    recipe = validate_model(BuildRecipe, {"formats": ["lerobot_v3"], **changes}, "test")
    with pytest.raises(RecipeError, match=told) as caught:
        plan_build(Lake.open(lake), recipe, "1")
    assert caught.value.hint
    assert "tmp" not in caught.value.where
