"""A recording with a gap, a rest and two instructions through every line: nothing crosses the gap, every step has its text."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.gather import gather_release
from pipelines.lake import Lake
from pipelines.look import show_episode
from pipelines.verify import lineage_of, verify_release
from schemas.errors import LakeError
from schemas.recipes import BuildRecipe, EncodeRecipe, SegmentFilter, ViewsRecipe
from tests.chain import read_json, run_build, run_encode, tables, tar_samples, vectors
from tests.gap_lake import GAP, NUM_STEPS, REST, SECOND_TASK, TASKS, gap_lake

RECIPE = BuildRecipe(
    formats=("lerobot_v3", "webdataset", "parquet"), horizon=4, views=ViewsRecipe(height_px=32, width_px=32)
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gap_lake(tmp_path_factory.mktemp("gap"))


def text_of(step: int) -> str:
    return TASKS[step >= SECOND_TASK]


def test_the_lake_says_what_was_found(lake: Path) -> None:
    row = Lake.open(str(lake)).rows("episodes", ["segments", "measures", "findings", "instructions"])[0]
    assert [one["text"] for one in row["instructions"]] == list(TASKS)
    by_kind = {one["kind"]: one for one in row["segments"]}
    steps = np.arange(NUM_STEPS) * 100_000_000 + np.where(np.arange(NUM_STEPS) >= GAP, 500_000_000, 0)
    assert by_kind["idle"]["start_ns"] == pytest.approx(steps[REST.start + 1], abs=100)
    assert by_kind["idle"]["stop_ns"] == pytest.approx(steps[REST.stop], abs=100)
    assert by_kind["gap"]["label"] == "action"
    assert [one["label"] for one in row["segments"] if one["kind"] == "language"] == list(TASKS)
    measures = {one["name"]: one["value"] for one in row["measures"]}
    assert measures["idle_fraction"] == pytest.approx(0.7 / 3.5, abs=0.01)
    assert {"clock_gap"} <= {one["rule"] for one in row["findings"]}
    shown = show_episode(Lake.open(str(lake)), row["episode_id"][:10])
    assert shown["idle_fraction"] == measures["idle_fraction"]


def test_no_window_crosses_the_gap_and_every_step_has_its_instruction(lake: Path, tmp_path: Path) -> None:
    answer = run_build(lake, tmp_path / "out", RECIPE)
    out = tmp_path / "out"
    assert answer.values["windows_left_out"] == 0
    assert verify_release(out, Lake.open(str(lake)), readers=True).ok
    samples = list(tar_samples(out / "webdataset/toy_set"))
    assert [sample.facts["step"] for sample in samples] == [0, 4, 8, *range(10, 30, 4)]
    for sample in samples:
        step, rows = sample.facts["step"], sample.facts["source_rows"]
        stop = GAP if step < GAP else NUM_STEPS
        assert rows == [min(step + k, stop - 1) for k in range(4)]
        assert sample.array("mask.npy").tolist() == [step + k < stop for k in range(4)]
        assert sample.members["txt"].decode() == sample.facts["instruction"] == text_of(step)
    table = tables(out / "parquet/toy_set/data")
    action, chunks = vectors(table["action"]), np.array(table["action_chunk"].to_pylist())
    for step in range(NUM_STEPS):
        stop = GAP if step < GAP else NUM_STEPS
        reached = [min(step + k, stop - 1) for k in range(4)]
        assert np.array_equal(chunks[step], action[reached])
        assert table["chunk_mask"][step].as_py() == [step + k < stop for k in range(4)]
        assert table["instruction"][step].as_py() == text_of(step)
    lerobot = pq.read_table(out / "lerobot_v3/toy_set/data/chunk-000/file-000.parquet")
    assert lerobot["task_index"].to_pylist() == [int(step >= SECOND_TASK) for step in range(NUM_STEPS)]
    episodes = pq.read_table(out / "lerobot_v3/toy_set/meta/episodes/chunk-000/file-000.parquet")
    assert episodes["tasks"].to_pylist() == [list(TASKS)]
    stats = read_json(out / "lerobot_v3/toy_set/meta/stats.json")["task_index"]
    assert stats["mean"] == [pytest.approx(1 / 3)]


@pytest.mark.parametrize("rate", [None, "5", "20"])
def test_lineage_holds_rows_times_residuals_and_masks_of_every_stream(
    lake: Path, tmp_path: Path, rate: str | None
) -> None:
    recipe = BuildRecipe(formats=("parquet",), horizon=4, rate=rate)
    run_build(lake, tmp_path / "out", recipe)
    rows = lineage_of(tmp_path / "out", "toy_set")
    times, valid = rows["time_ns"].to_numpy(), rows["valid"].to_numpy()
    for name, time in (
        ("action", "source_time_ns"),
        ("proprio", "proprio_time_ns"),
        ("primary", "frame_time_ns_primary"),
    ):
        residual = rows[f"residual_ns_{name}"].to_numpy()
        assert np.array_equal(residual, times - rows[time].to_numpy())
        assert (residual >= -1).all(), "a nanosecond is no future"
        assert not (valid & ~rows[f"valid_{name}"].to_numpy()).any()
        if rate is None:
            assert not residual.any()
    in_gap = (times > 1_000_000_000) & (times < 1_499_000_000)
    assert not valid[in_gap].any()
    assert valid[~in_gap & (times < 900_000_000)].all()
    assert verify_release(tmp_path / "out", Lake.open(str(lake))).ok


def test_windows_are_taken_by_segments_and_the_others_counted(lake: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"segments": SegmentFilter(skip=("idle",))})
    answer = run_build(lake, tmp_path / "out", recipe)
    out = tmp_path / "out"
    assert verify_release(out, Lake.open(str(lake)), readers=True).ok
    assert [sample.facts["step"] for sample in tar_samples(out / "webdataset/toy_set")] == [0, 4, 8, 10, 22, 26]
    assert answer.values["windows_left_out"] == 2
    assert answer.values["dropped"] == 0
    (told,) = read_json(out / "manifest.json")["dropped"]
    assert told["reason"] == "window_touches_idle"
    assert dict(told["numbers"]) == {"windows": 2}
    (reason,) = gather_release(out, "0.1.0").release.dropped  # type: ignore[union-attr]
    assert (reason.reason, reason.count) == ("window_touches_idle", 2)
    resting = [REST.start < step < REST.stop for step in range(NUM_STEPS)]
    for table in (tables(out / "parquet/toy_set/data"), tables(out / "lerobot_v3/toy_set/data")):
        assert len(table) == NUM_STEPS, "steps are marked, not left out"
        assert table["selected"].to_pylist() == [not rests for rests in resting]
    assert lineage_of(out, "toy_set")["selected"].to_pylist() == [not rests for rests in resting]


def test_an_episode_without_a_window_is_dropped_where_only_windows_count(lake: Path, tmp_path: Path) -> None:
    only = RECIPE.model_copy(update={"segments": SegmentFilter(within="success"), "formats": ("webdataset",)})
    with pytest.raises(LakeError, match="not wholly inside one span of kind success"):
        run_build(lake, tmp_path / "out", only)


def test_no_latent_clip_crosses_the_gap(lake: Path, tmp_path: Path) -> None:
    run_encode(lake, EncodeRecipe(views=ViewsRecipe(height_px=16, width_px=16), options={"spatial": 16}))
    rows = Lake.open(str(lake)).rows("latents", ["frame_ids"])
    clips = sorted((row["frame_ids"][0], row["frame_ids"][-1]) for row in rows)
    assert clips == [(0, 8), (10, 26)]
