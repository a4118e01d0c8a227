"""The laws of B-spline tokens: what lies in the spline space comes back, gates that jump do too, the rest is refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from pipelines.tokenizers import beast
from schemas.errors import LayoutError, RecipeError
from tests.real import real_data


def motions(num_chunks: int = 30, horizon: int = 16, width: int = 3, seed: int = 0) -> np.ndarray:
    """float64 [N, T, A]: random walks."""
    random = np.random.default_rng(seed)
    return np.cumsum(random.normal(size=(num_chunks, horizon, width)), axis=1)


def splines(points: np.ndarray, degree: int, horizon: int) -> np.ndarray:
    """float64 [N, T, A]: clamped splines of control points [N, K, A], by SciPy's own evaluation."""
    inner = np.linspace(0, 1, points.shape[1] - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    return np.asarray(BSpline(knots, points, degree, axis=1)(np.linspace(0, 1, horizon)))


shapes = st.tuples(st.integers(1, 5), st.integers(0, 5), st.integers(0, 12)).map(
    lambda t: (t[0], t[0] + 1 + t[1], t[0] + 1 + t[1] + t[2])
)
"""Degree, number of control points, horizon."""


@given(shapes, st.integers(1, 4), st.integers(2, 2000), st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=150, deadline=None)
def test_what_lies_in_the_spline_space_comes_back_within_the_bound(
    shape: tuple[int, int, int], width: int, num_bins: int, seed: int, size: float
) -> None:
    degree, num_basis, horizon = shape
    random = np.random.default_rng(seed)
    points = random.normal(random.normal(), size, (6, num_basis, width))
    values = splines(points, degree, horizon)
    tokenizer = beast.fit(values, num_basis=num_basis, degree=degree, num_bins=num_bins, stepped="none")
    rounding = 1e-10 * np.abs(points).max()
    found = beast.control_points(values, tokenizer.solver, tokenizer.stepped)
    assert np.abs(found - points).max() <= rounding
    decoded = tokenizer.decode(tokenizer.encode(values), horizon, width)
    assert (np.abs(decoded - values) <= tokenizer.error_bound + rounding).all()
    assert tokenizer.num_clipped(values) == 0


@given(shapes, st.integers(2, 1000), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_what_was_decoded_encodes_to_the_same_tokens(shape: tuple[int, int, int], num_bins: int, seed: int) -> None:
    degree, num_basis, horizon = shape
    options: dict[str, Any] = {"num_basis": num_basis, "degree": degree, "num_bins": num_bins, "stepped": "1"}
    tokenizer = beast.fit(motions(20, horizon, 2, seed), **options)
    tokens = list(np.random.default_rng(seed).integers(0, num_bins, (10, num_basis * 2)))
    again = tokenizer.encode(tokenizer.decode(tokens, horizon, 2))
    assert all(np.array_equal(one, two) for one, two in zip(tokens, again, strict=True))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_constant_channels_come_back_exactly(levels: list[float]) -> None:
    values = np.tile(np.array(levels), (3, 16, 1))
    for stepped in ("auto", "none"):
        tokenizer = beast.fit(values, stepped=stepped)
        assert np.array_equal(tokenizer.decode(tokenizer.encode(values), 16, len(levels)), values)
        assert not tokenizer.error_bound.any()


def test_the_quantization_bound_is_not_a_bound_of_the_fit() -> None:
    jagged = np.tile([1.0, -1.0], 8).reshape(1, 16, 1) * np.linspace(0.5, 1, 20).reshape(20, 1, 1)
    tokenizer = beast.fit(jagged, stepped="none")
    error = np.abs(tokenizer.decode(tokenizer.encode(jagged), 16, 1) - jagged)
    assert error.max() > 0.3 > 10 * tokenizer.error_bound[0]
    spline = np.einsum(
        "tk,nka->nta", tokenizer.design, beast.control_points(jagged, tokenizer.solver, tokenizer.stepped)
    )
    assert (np.abs(tokenizer.decode(tokenizer.encode(jagged), 16, 1) - spline) <= tokenizer.error_bound + 1e-12).all()


def test_tokens_run_control_point_by_control_point() -> None:
    points = np.stack([np.stack([np.arange(8.0), 7 - np.arange(8.0)], axis=1), np.zeros((8, 2)), np.full((8, 2), 7.0)])
    tokenizer = beast.fit(splines(points, 4, 16), num_bins=8, stepped="none")
    tokens = tokenizer.encode(splines(points, 4, 16))[0]
    assert tokens.tolist() == [0, 7, 1, 6, 2, 5, 3, 4, 4, 3, 5, 2, 6, 1, 7, 0]


def test_a_gripper_that_jumps_keeps_to_its_values() -> None:
    values = motions(60, 16, 2)
    starts = np.random.default_rng(3).integers(0, 17, (60, 1))
    gripper = np.where(np.arange(16) < starts, 0.1, 0.8)
    chunks = np.concatenate([values, gripper[..., None]], axis=2)
    tokenizer = beast.fit(chunks)
    assert tokenizer.stepped.tolist() == [False, False, True]
    decoded = tokenizer.decode(tokenizer.encode(chunks), 16, 3)[..., 2]
    assert set(np.unique(decoded)) == {0.1, 0.8}
    assert (decoded != gripper).sum(axis=1).max() <= 1, "8 spans of 2 steps: a jump is off by one step at most"
    smooth = beast.fit(chunks, stepped="none")
    overshoot = smooth.decode(smooth.encode(chunks), 16, 3)[..., 2]
    assert overshoot.max() > 0.85, "which is why it is not a smooth spline"


def test_which_channels_are_stepped_can_be_said() -> None:
    values = motions()
    assert beast.fit(values).stepped.tolist() == [False] * 3
    assert beast.fit(values, stepped="0, 2").stepped.tolist() == [True, False, True]
    assert beast.fit(values, stepped=1).stepped.tolist() == [False, True, False]
    few = motions(1, 16, 1)
    assert not beast.fit(few).stepped.any(), "few values because there are few steps"


def test_what_is_outside_the_bounds_is_clipped_and_counted() -> None:
    values = np.linspace(0, 1, 11)[:, None, None] * np.ones((1, 16, 1))
    tokenizer = beast.fit(values, num_bins=11, stepped="none")
    outside = np.array([-3.0, 0.5, 1e12])[:, None, None] * np.ones((1, 16, 1))
    assert tokenizer.num_clipped(outside) == 16
    assert [sequence.tolist() for sequence in tokenizer.encode(outside)] == [[0] * 8, [5] * 8, [10] * 8]
    assert np.array_equal(tokenizer.decode(tokenizer.encode(outside), 16, 1)[:, 0, 0], [0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(23, dtype=np.int64), "23 tokens"),
        (np.zeros((8, 3), dtype=np.int64), r"\(8, 3\)"),
        (np.zeros(24), "float64"),
        (np.full(24, 256), "outside"),
        (np.full(24, -1), "outside"),
    ],
)
def test_tokens_that_are_no_chunk_are_refused_naming_it(tokens: np.ndarray, message: str) -> None:
    tokenizer = beast.fit(motions())
    with pytest.raises(LayoutError, match=message) as caught:
        tokenizer.decode([np.zeros(24, dtype=np.int64), tokens], 16, 3)
    assert caught.value.where == "chunk 1"
    assert caught.value.hint


def test_another_horizon_or_width_is_refused() -> None:
    tokenizer = beast.fit(motions())
    tokens = tokenizer.encode(motions())
    for horizon, width in ((15, 3), (16, 2)):
        with pytest.raises(LayoutError, match="load the tokenizer of this robot and recipe"):
            tokenizer.decode(tokens, horizon, width)
        with pytest.raises(LayoutError, match="load the tokenizer of this robot and recipe"):
            tokenizer.encode(motions(2, horizon, width))


@pytest.mark.parametrize(
    "options",
    [
        {"num_bins": 1},
        {"num_bins": 2**20},
        {"num_bins": True},
        {"num_bins": 16.0},
        {"degree": 0},
        {"degree": 9},
        {"degree": 2.0},
        {"num_basis": 4},
        {"num_basis": 17},
        {"num_basis": True},
        {"stepped": "3"},
        {"stepped": "gripper"},
        {"stepped": ""},
        {"stepped": "-1"},
        {"stepped": True},
    ],
)
def test_impossible_options_are_refused_with_a_hint(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        beast.fit(motions(), **options)
    assert caught.value.hint


def test_control_points_that_the_steps_do_not_determine_are_refused() -> None:
    with pytest.raises(RecipeError, match="is more than the 4 steps"):
        beast.fit(motions(horizon=4), num_basis=5)
    with pytest.raises(RecipeError, match="hardly determine"):
        beast.fit(motions(horizon=100), num_basis=100)
    beast.fit(motions(horizon=100), num_basis=80)
    with pytest.raises(RecipeError):
        beast.fit(motions(horizon=1))


def test_numbers_without_a_spline_are_refused() -> None:
    huge = motions() * 1e307
    with pytest.raises(LayoutError, match="normalize"):
        beast.fit(huge)
    tokenizer = beast.fit(motions())
    with pytest.raises(LayoutError, match="normalize"):
        tokenizer.encode(huge)


@pytest.mark.real
def test_real_droid_joints_come_back_better_than_by_bins_with_half_the_tokens() -> None:
    episodes = []
    for path in sorted(real_data("droid100_thumbs").glob("*/trajectories/joint_positions.json")):
        rows = np.array(json.loads(path.read_text())["data"])
        episodes.append(rows[: len(rows) // 15 * 15].reshape(-1, 15, 8))
    seen, unseen = np.concatenate(episodes[:80]), np.concatenate(episodes[80:])
    tokenizer = beast.fit(seen)
    tokens = tokenizer.encode(unseen)
    assert {len(sequence) for sequence in tokens} == {64}
    error = np.abs(tokenizer.decode(tokens, 15, 8) - unseen)[..., :7]
    assert error.mean() < 3e-3
    assert np.quantile(error, 0.99) < 0.01
