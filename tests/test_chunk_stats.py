"""Laws of statistics of chunks: any split merges to one pass, the masked never enters, the wrong quantity is refused."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.action_plan import ActionPlan
from pipelines.chunk_stats import (
    ChunkSketch,
    StatsOf,
    chunk_sketch_from_json,
    denormalize_steps,
    empty_chunk_sketch,
    merge_chunks,
    normalize_steps,
    outliers,
    require_same,
    sketch_chunks,
    stats_of_channels,
)
from pipelines.stats import QUANTILES, Normalization, normalize, sketch
from schemas.action_recipe import ActionRecipe
from schemas.embodiment import Channel, ChannelKind, Embodiment
from schemas.errors import FingerprintMismatch, LayoutError
from tests.test_stats import assert_same_counts

OF = StatsOf("action", "plan", "data")
VALUES = (0.0, -0.0, 1.0, -1.5, 3e-4, 1e6, 2.5)


@st.composite
def masked_chunks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Chunks [N, T, A] whose masked steps are NaN, and the mask [N, T]; every step has a valid value."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    chunks = np.where(random.random(shape) < 0.5, random.choice(VALUES, shape), random.normal(size=shape))
    mask = random.random(shape[:2]) < draw(st.sampled_from([0.3, 0.8, 1.0]))
    mask[random.integers(shape[0])] = True
    return np.where(mask[:, :, None], chunks, np.nan), mask


def assert_same(one: ChunkSketch, two: ChunkSketch) -> None:
    assert one.of == two.of
    for a, b in zip(one.steps, two.steps, strict=True):
        assert_same_counts(a, b)
    assert_same_counts(one.overall, two.overall)


@given(masked_chunks(), st.data())
def test_merging_any_split_in_any_order_is_one_pass(case: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    chunks, mask = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(chunks)), min_size=2, max_size=2)))
    split = zip(np.split(chunks, cuts), np.split(mask, cuts), strict=True)
    a, b, c = (sketch_chunks(part, of_part, OF) for part, of_part in split)
    whole = sketch_chunks(chunks, mask, OF)
    assert_same(merge_chunks(merge_chunks(a, b), c), whole)
    assert_same(merge_chunks(c, merge_chunks(b, a)), whole)
    assert_same(merge_chunks(whole, empty_chunk_sketch(OF, *chunks.shape[1:])), whole)


@given(masked_chunks())
def test_each_step_and_all_of_them_are_what_numpy_says_of_the_valid_ones(case: tuple[np.ndarray, np.ndarray]) -> None:
    chunks, mask = case
    stats = sketch_chunks(chunks, mask, OF).stats()
    tables = [chunks[mask], *(chunks[mask[:, t], t] for t in range(chunks.shape[1]))]
    for table, found in zip(tables, (stats.overall, *stats.steps), strict=True):
        size = np.abs(table).max(axis=0)
        assert found.count == len(table)
        assert np.array_equal(found.min, table.min(axis=0))
        assert np.array_equal(found.max, table.max(axis=0))
        assert (np.abs(found.mean - table.mean(axis=0)) <= 1e-12 * size).all()
        assert (np.abs(found.std - table.std(axis=0)) <= 1e-9 * size).all()
        for name, share in QUANTILES.items():
            assert (np.abs(getattr(found, name) - np.quantile(table, share, axis=0)) <= 1e-12 * size).all()
    assert np.array_equal(stats.by_step("max"), np.nanmax(chunks, axis=0))


def test_beyond_the_cap_the_quantiles_of_all_steps_are_still_those_of_one_pass_to_the_bit() -> None:
    chunks = np.random.default_rng(0).normal(size=(25_000, 3, 2))
    mask = np.random.default_rng(1).random((25_000, 3)) < 0.9
    parts = [sketch_chunks(c, m, OF) for c, m in zip(np.split(chunks, 5), np.split(mask, 5), strict=True)]
    merged = parts[3]
    for part in (parts[0], parts[4], parts[1], parts[2]):
        merged = merge_chunks(merged, part)
    whole = sketch(chunks, mask)
    assert not whole.is_exact
    assert_same_counts(merged.overall, whole)
    for name in QUANTILES:
        assert getattr(merged.overall.stats(), name).tobytes() == getattr(whole.stats(), name).tobytes()


@given(masked_chunks())
def test_json_reads_back_to_the_bit(case: tuple[np.ndarray, np.ndarray]) -> None:
    one = sketch_chunks(*case, OF)
    two = chunk_sketch_from_json(one.to_json())
    assert two.of == one.of
    assert two.stats().fingerprint == one.stats().fingerprint
    assert two.to_json() == one.to_json()


def test_foreign_or_damaged_json_is_refused() -> None:
    good = json.loads(sketch_chunks(np.ones((2, 2, 2)), None, OF).to_json())
    narrow = sketch(np.ones((2, 1))).to_json()
    broken = [
        "",
        "[]",
        "{}",
        json.dumps({**good, "of": {}}),
        json.dumps({**good, "of": 3}),
        json.dumps({**good, "of": {**good["of"], "recipe": "[]"}}),
        json.dumps({**good, "of": {**good["of"], "recipe": "{"}}),
        json.dumps({**good, "steps": []}),
    ]
    for text in (*broken, json.dumps({**good, "steps": [good["steps"][0], narrow]})):
        with pytest.raises(LayoutError):
            chunk_sketch_from_json(text)


def test_the_fingerprint_changes_with_a_number_of_a_step_and_with_what_it_is_of() -> None:
    chunks = np.arange(12.0).reshape(3, 2, 2)
    stats = sketch_chunks(chunks, None, OF).stats()
    swapped = sketch_chunks(chunks[:, ::-1], None, OF).stats()
    other = sketch_chunks(chunks, None, dataclasses.replace(OF, data="others")).stats()
    assert stats.overall.fingerprint == swapped.overall.fingerprint
    assert len({stats.fingerprint, swapped.fingerprint, other.fingerprint}) == 3


def test_what_does_not_fit_is_refused_by_place() -> None:
    chunks = np.zeros((4, 3, 2))
    with pytest.raises(LayoutError, match="not \\[N, T, A\\]"):
        sketch_chunks(chunks[0], None, OF)
    with pytest.raises(LayoutError, match="mask"):
        sketch_chunks(chunks, np.ones((4, 2), dtype=bool), OF)
    with pytest.raises(LayoutError, match="more than 65536 numbers"):
        sketch_chunks(np.zeros((1, 300, 300)), None, OF)
    with pytest.raises(LayoutError, match="of 3 and of 2 steps"):
        merge_chunks(sketch_chunks(chunks, None, OF), sketch_chunks(chunks[:, :2], None, OF))
    with pytest.raises(LayoutError, match="cannot be merged"):
        merge_chunks(sketch_chunks(chunks, None, OF), sketch_chunks(chunks[:, :, :1], None, OF))
    bad = chunks.copy()
    bad[3, 2, 1] = np.nan
    with pytest.raises(LayoutError) as caught:
        sketch_chunks(bad, None, OF)
    assert caught.value.where == "step 2, counted row 3, channel 1"
    mask = np.ones((4, 3), dtype=bool)
    mask[:, 2] = False
    short = sketch_chunks(bad, mask, OF)
    assert short.overall.stats().count == 8
    with pytest.raises(LayoutError) as caught:
        short.stats()
    assert caught.value.where == "step 2 of 3"


# ---------------------------------------------------------------- what they are of


def robot(*names: str) -> Embodiment:
    channels = tuple(Channel(name=name, unit="rad", kind=ChannelKind.ANGLE) for name in names)
    return Embodiment(name="arm", title="Arm", control_rate=Fraction(10), action=channels, proprio=channels)


def of(data: str = "bridge", names: tuple[str, ...] = ("joint_1", "joint_2"), **recipe: str) -> StatsOf:
    return StatsOf.of_plan(ActionPlan.of(robot(*names), ActionRecipe.model_validate(recipe)), data)


def test_statistics_of_absolute_actions_do_not_serve_relative_ones() -> None:
    with pytest.raises(FingerprintMismatch) as caught:
        require_same(of(), of(reference="chunk_start"))
    assert 'reference "absolute", not "chunk_start"' in str(caught.value)
    assert "episodes" not in str(caught.value)
    assert "\nhint: " in str(caught.value)


def test_every_difference_is_told_and_an_empty_field_asks_for_nothing() -> None:
    require_same(of(), of())
    require_same(of(), StatsOf("action", of().plan, ""))
    require_same(of(), StatsOf("", "", ""))
    with pytest.raises(FingerprintMismatch, match="of other episodes \\(bridge, not droid\\)"):
        require_same(of("bridge"), of("droid"))
    with pytest.raises(FingerprintMismatch, match=r"'action', not 'proprio'.*other episodes"):
        require_same(of(), StatsOf("proprio", "", "droid"))
    with pytest.raises(FingerprintMismatch, match="recipe is the same but the robot's vector"):
        require_same(of(), of(names=("joint_1", "joint_2", "joint_3")))
    with pytest.raises(FingerprintMismatch, match="made by another plan \\(rows, not "):
        require_same(StatsOf("action", "rows", "bridge"), of())
    with pytest.raises(FingerprintMismatch):
        merge_chunks(empty_chunk_sketch(of(), 2, 2), empty_chunk_sketch(of(reference="framewise"), 2, 2))


# ---------------------------------------------------------------- what they serve


@given(masked_chunks(), st.sampled_from(["none", "quantile", "min_max", "z_score"]))
def test_steps_are_normalized_each_by_its_own_and_back(
    case: tuple[np.ndarray, np.ndarray], kind: Normalization
) -> None:
    chunks, mask = case
    stats = sketch_chunks(chunks, mask, OF).stats()
    filled = np.nan_to_num(chunks)
    written = normalize_steps(filled, stats, kind, factor=20.0)
    assert np.array_equal(written[:, -1], normalize(filled[:, -1], stats.steps[-1], kind, factor=20.0))
    back = denormalize_steps(written, stats, kind, factor=20.0)
    assert np.allclose(back, filled, rtol=1e-9, atol=1e-9 * (1 + np.abs(filled).max()))
    assert np.abs(normalize_steps(filled, stats, kind, clamp=0.5)).max() <= 0.5
    with pytest.raises(LayoutError, match="do not fit"):
        normalize_steps(filled[:, :0], stats, kind)


def test_channels_are_taken_in_the_order_asked_for() -> None:
    chunks = np.random.default_rng(3).normal(size=(20, 2, 4))
    part = sketch_chunks(chunks, None, OF).stats().channels([3, 0])
    alone = sketch_chunks(chunks[:, :, [3, 0]], None, OF).stats()
    assert part.fingerprint == alone.fingerprint
    with pytest.raises(LayoutError, match="not all of"):
        stats_of_channels(part.overall, [2])


def test_outliers_are_counted_and_the_worst_is_told() -> None:
    values = np.random.default_rng(4).uniform(-1, 1, size=(2000, 4))
    values[:3, 0] = 50, -6, 6.5  # q01..q99 is about 1.96 wide, so three of it outside begin at 6.9, two at 4.9
    values[:, 1] = 0.25
    values[:, 2] = 0
    values[:4, 2] = 1
    found = outliers(sketch(values))
    assert [one.count for one in found] == [1, 0, 0, 0]
    assert (found[0].channel, found[0].worst) == (0, 50)
    assert found[3].worst is None
    q01, q99 = np.quantile(values[:, 0], [0.01, 0.99])
    assert np.isclose(found[0].high, q99 + 3 * (q99 - q01))
    assert [one.count for one in outliers(sketch(values), ranges=2)] == [3, 0, 0, 0]
    assert outliers(sketch(np.where(values == 50, -60, values)))[0].worst == -60
    with pytest.raises(LayoutError, match="no distance"):
        outliers(sketch(values), ranges=-1)
    with pytest.raises(LayoutError, match="no valid rows"):
        outliers(sketch(values[:0]))
