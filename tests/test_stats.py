"""Laws of statistics: merging in any order is one pass, quantiles are numpy's, normalizing has an inverse."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.stats import (
    MAX_BUCKETS,
    QUANTILES,
    Normalization,
    Sketch,
    denormalize,
    empty_sketch,
    merge,
    merge_all,
    normalize,
    sketch,
    sketch_from_json,
    stats_from_json,
)
from schemas.errors import LayoutError
from tests.real import real_data

KINDS: tuple[Normalization, ...] = ("none", "quantile", "min_max", "z_score")
numbers = st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, -0.0, 1.0, -1.0])
tables = st.tuples(st.integers(1, 60), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=numbers)
)


def assert_same_counts(one: Sketch, two: Sketch) -> None:
    """Everything that must not depend on order or grouping, to the bit; moments to rounding."""
    assert one.count == two.count
    assert np.array_equal(one.min, two.min)
    assert np.array_equal(one.max, two.max)
    for a, b in zip(one.buckets, two.buckets, strict=True):
        assert a.level == b.level
        assert np.array_equal(a.keys, b.keys)
        assert np.array_equal(a.counts, b.counts)
    if not one.count:
        return
    size = np.maximum(np.abs(one.min), np.abs(one.max)) + 1e-300
    assert (np.abs(one.mean - two.mean) <= 1e-12 * size).all()
    # squares of the smallest doubles are rounded to multiples of 5e-324
    tiny = 1e-300
    assert (np.abs(one.squares - two.squares) <= 1e-9 * one.squares + 1e-12 * size**2 * one.count + tiny).all()


@given(tables)
def test_one_pass_is_what_numpy_says(values: np.ndarray) -> None:
    stats = sketch(values).stats()
    scale = np.abs(values).max(axis=0) + 1e-300
    assert stats.count == len(values)
    assert np.allclose(stats.mean, values.mean(axis=0), rtol=1e-12, atol=1e-12 * scale.max())
    assert (np.abs(stats.std - values.std(axis=0)) <= 1e-9 * scale).all()
    assert np.array_equal(stats.min, values.min(axis=0))
    assert np.array_equal(stats.max, values.max(axis=0))
    for name, share in QUANTILES.items():
        assert (np.abs(getattr(stats, name) - np.quantile(values, share, axis=0)) <= 1e-12 * scale).all(), name


@given(tables, st.data())
def test_merging_is_associative_commutative_and_one_pass(values: np.ndarray, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(values)), min_size=2, max_size=2)))
    a, b, c = (sketch(part) for part in np.split(values, cuts))
    whole = sketch(values)
    assert_same_counts(merge(merge(a, b), c), whole)
    assert_same_counts(merge(a, merge(b, c)), whole)
    assert_same_counts(merge(merge(c, a), b), whole)
    assert_same_counts(merge_all([b, c, a]), whole)
    assert_same_counts(merge(whole, empty_sketch(whole.width)), whole)


def test_beyond_the_cap_merging_is_still_exact_in_any_order_and_quantiles_are_close() -> None:
    random = np.random.default_rng(0)
    values = np.column_stack(
        [
            random.normal(size=60_000),
            random.normal(0.5, 1e-3, 60_000),
            random.uniform(-3, 7, 60_000),
            random.integers(0, 2, 60_000),
        ]
    )
    whole = sketch(values)
    assert not whole.is_exact
    assert whole.buckets[3].level == 0
    assert all(len(bucket.keys) <= MAX_BUCKETS for bucket in whole.buckets)
    parts = [sketch(part) for part in np.array_split(values, 7)]
    assert_same_counts(merge_all(parts), whole)
    assert_same_counts(merge_all(parts[::-1]), whole)
    assert_same_counts(merge(merge_all(parts[:3]), merge_all(parts[3:])), whole)
    assert merge_all(parts).stats().q99.tobytes() == merge_all(parts[::-1]).stats().q99.tobytes()
    stats = whole.stats()
    for name, share in QUANTILES.items():
        exact = np.quantile(values, share, axis=0)
        assert (np.abs(getattr(stats, name) - exact) <= 1e-3 * np.abs(exact) + 1e-12).all(), name
        assert (np.abs(getattr(stats, name) - exact) <= 1e-3 * (values.max(axis=0) - values.min(axis=0))).all(), name


@given(tables, st.data())
def test_masked_rows_do_not_count_even_when_they_are_nan(values: np.ndarray, data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    holes = values.copy()
    holes[~mask] = np.nan
    assert_same_counts(sketch(holes, mask), sketch(values[mask]))


def test_leading_axes_are_rows() -> None:
    values = np.random.default_rng(1).normal(size=(4, 5, 3))
    mask = np.arange(20).reshape(4, 5) % 3 > 0
    assert_same_counts(sketch(values), sketch(values.reshape(20, 3)))
    assert_same_counts(sketch(values, mask), sketch(values[mask]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_counted_value_that_is_no_number_is_refused_by_place(bad: float) -> None:
    values = np.zeros((5, 3))
    values[3, 1] = bad
    with pytest.raises(LayoutError) as caught:
        sketch(values)
    assert caught.value.where == "counted row 3, channel 1"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(LayoutError, match="mask"):
        sketch(np.zeros((5, 3)), np.ones(4, dtype=bool))
    with pytest.raises(LayoutError, match="cannot be merged"):
        merge(sketch(np.zeros((5, 3))), sketch(np.zeros((5, 2))))
    with pytest.raises(LayoutError, match="no valid rows"):
        sketch(np.zeros((5, 3)), np.zeros(5, dtype=bool)).stats()
    with pytest.raises(LayoutError, match="do not fit"):
        normalize(np.zeros((5, 2)), sketch(np.zeros((5, 3))).stats(), "z_score")


@given(tables)
def test_json_reads_back_to_the_bit(values: np.ndarray) -> None:
    one = sketch(values)
    two = sketch_from_json(one.to_json())
    assert_same_counts(one, two)
    assert two.mean.tobytes() == one.mean.tobytes()
    assert two.squares.tobytes() == one.squares.tobytes()
    stats = one.stats()
    again = stats_from_json(stats.to_json())
    assert again.fingerprint == stats.fingerprint
    assert again.to_mapping() == stats.to_mapping()


def test_json_of_a_large_and_of_an_empty_sketch() -> None:
    large = sketch(np.random.default_rng(0).normal(size=(50_000, 2)))
    assert_same_counts(sketch_from_json(large.to_json()), large)
    empty = sketch_from_json(empty_sketch(3).to_json())
    assert (empty.count, empty.width) == (0, 3)


def test_foreign_or_damaged_json_is_refused() -> None:
    good = json.loads(sketch(np.arange(6.0).reshape(3, 2)).to_json())
    broken = [
        "",
        "[]",
        "{}",
        json.dumps({**good, "count": 4}),
        json.dumps({**good, "width": 3}),
        json.dumps({**good, "width": 10**9}),
        json.dumps({**good, "buckets": [[0, "????", "????"]]}),
        json.dumps({**good, "mean": [1.0]}),
    ]
    for text in broken:
        with pytest.raises(LayoutError):
            sketch_from_json(text)
    stats = json.loads(sketch(np.arange(6.0).reshape(3, 2)).stats().to_json())
    for text in ("", "{}", json.dumps({**stats, "mean": [0.0]}), json.dumps({**stats, "q01": [0.0, float("nan")]})):
        with pytest.raises(LayoutError):
            stats_from_json(text)


def test_a_hostile_sketch_cannot_inflate_without_end() -> None:
    import base64
    import zlib

    bomb = base64.b64encode(zlib.compress(bytes(200_000_000), 9)).decode()
    plain = {"count": 1, "width": 1, "mean": [0.0], "squares": [0.0], "min": [0.0], "max": [0.0]}
    with pytest.raises(LayoutError, match="more than"):
        sketch_from_json(json.dumps({**plain, "buckets": [[0, bomb, bomb]]}))


@given(tables, st.sampled_from(KINDS))
@settings(max_examples=200)
def test_denormalize_is_the_inverse_also_outside_the_range(values: np.ndarray, kind: Normalization) -> None:
    stats = sketch(values).stats()
    wide = np.concatenate([values, values * 3 + 1])
    back = denormalize(normalize(wide, stats, kind), stats, kind)
    assert np.isfinite(back).all()
    assert np.allclose(back, wide, rtol=1e-9, atol=1e-9 * (1 + np.abs(values).max()))


@given(tables, st.sampled_from(KINDS), st.sampled_from([1.0, 20.0, -0.5]), st.floats(0.01, 3))
@settings(max_examples=200)
def test_a_factor_has_an_inverse_and_a_clamp_changes_only_what_lies_outside(
    values: np.ndarray, kind: Normalization, factor: float, clamp: float
) -> None:
    stats = sketch(values).stats()
    free = normalize(values, stats, kind, factor=factor)
    assert np.allclose(free, normalize(values, stats, kind) * factor, rtol=1e-12, atol=0)
    cut = normalize(values, stats, kind, factor=factor, clamp=clamp)
    inside = np.abs(free) <= clamp
    assert np.array_equal(cut[inside], free[inside])
    assert (np.abs(cut[~inside]) == clamp).all()
    back = denormalize(cut, stats, kind, factor=factor)
    assert np.allclose(back[inside], values[inside], rtol=1e-9, atol=1e-9 * (1 + np.abs(values).max()))


def test_a_fixed_scale_may_differ_by_channel_as_the_pose_and_the_gripper_do() -> None:
    values = np.array([[0.01, -0.02, 1.0], [0.0, 0.03, 0.0]])
    stats, factor = sketch(values).stats(), np.array([20.0, 20.0, 1.0])
    scaled = normalize(values, stats, "none", factor=factor)
    assert np.allclose(scaled, [[0.2, -0.4, 1.0], [0.0, 0.6, 0.0]])
    assert np.allclose(denormalize(scaled, stats, "none", factor=factor), values)


@pytest.mark.parametrize("factor", [0.0, np.nan, np.inf, np.ones(2), np.array([1.0, 0.0, 1.0]), np.ones((1, 3))])
def test_a_factor_that_loses_everything_or_does_not_fit_is_refused(factor: float | np.ndarray) -> None:
    values = np.arange(6.0).reshape(2, 3)
    for change in (normalize, denormalize):
        with pytest.raises(LayoutError, match="factor"):
            change(values, sketch(values).stats(), "z_score", factor=factor)


@pytest.mark.parametrize("clamp", [0.0, -1.0, np.nan])
def test_a_clamp_that_leaves_nothing_is_refused(clamp: float) -> None:
    values = np.arange(6.0).reshape(2, 3)
    with pytest.raises(LayoutError, match="clamp"):
        normalize(values, sketch(values).stats(), "z_score", clamp=clamp)


@given(tables, st.data())
def test_values_outside_are_counted_as_a_second_pass_would(values: np.ndarray, data: st.DataObject) -> None:
    bounds = hnp.arrays(np.float64, values.shape[1], elements=numbers)
    low, high = data.draw(bounds), data.draw(bounds)
    assert np.array_equal(sketch(values).num_outside(low, high), ((values < low) | (values > high)).sum(axis=0))


def test_normalizations_map_where_they_say() -> None:
    values = np.random.default_rng(5).normal(3, 2, size=(2001, 2))
    stats = sketch(values).stats()
    assert np.allclose(normalize(np.stack([stats.q01, stats.q99]), stats, "quantile"), [[-1, -1], [1, 1]])
    assert np.allclose(normalize(np.stack([stats.min, stats.max]), stats, "min_max"), [[-1, -1], [1, 1]])
    scored = normalize(values, stats, "z_score")
    assert np.allclose(scored.mean(axis=0), 0, atol=1e-12)
    assert np.allclose(scored.std(axis=0), 1)
    assert np.array_equal(normalize(values, stats, "none"), values)
    assert normalize(values * 9, stats, "quantile").max() > 2, "nothing is clamped"


def test_channels_without_range_do_not_explode() -> None:
    random = np.random.default_rng(6)
    rare = np.zeros(1000)
    rare[:3] = 1
    jitter = np.float32(0.5) + random.choice([0, np.spacing(np.float32(0.5))], 1000)
    values = np.column_stack([np.full(1000, 0.25), rare, jitter])
    stats = sketch(values).stats()
    for kind in KINDS[1:]:
        result = normalize(values, stats, kind)
        assert np.abs(result[:, [0, 2]]).max() < 1e-6, kind
    assert set(normalize(values, stats, "quantile")[:, 1]) == {-1, 1}, "falls back to min..max"


@pytest.mark.real
def test_real_droid_statistics_merged_by_episode_equal_one_pass() -> None:
    folders = sorted(path for path in real_data("droid100_thumbs").iterdir() if path.is_dir())
    episodes = []
    for folder in folders:
        plain = json.loads((folder / "trajectories" / "cartesian_position__trajectory.json").read_text())
        episodes.append(np.array(plain["data"], dtype=np.float64))
    values = np.concatenate(episodes)
    assert len(values) == 32_212
    merged = merge_all([sketch(episode) for episode in episodes])
    assert_same_counts(merged, sketch(values))
    stats = merged.stats()
    for name, share in QUANTILES.items():
        error = np.abs(getattr(stats, name) - np.quantile(values, share, axis=0))
        assert (error <= 1e-3 * (values.max(axis=0) - values.min(axis=0))).all(), name
