"""Laws of rates, windows and the time grid."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import RecipeError
from schemas.time import MAX_RATE, NANOSECONDS, TimeGrid, Window, parse_rate, rate_text
from tests.strategies import rates, time_grids


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        (15, Fraction(15)),
        ("7.5", Fraction(15, 2)),
        (7.5, Fraction(15, 2)),
        (0.1, Fraction(1, 10)),
        ("30000/1001", Fraction(30_000, 1001)),
    ],
)
def test_rates_are_exact(text: str | float, rate: Fraction) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", 0, -15, "1/0", float("nan"), float("inf"), MAX_RATE + 1, [15]])
def test_what_is_no_rate_is_refused(text: object) -> None:
    with pytest.raises(RecipeError):
        parse_rate(text)  # type: ignore[arg-type]


@given(st.fractions(min_value=Fraction(1, 1000), max_value=MAX_RATE))
def test_rate_text_reads_back(rate: Fraction) -> None:
    assert parse_rate(rate_text(rate)) == rate


@given(time_grids())
def test_every_step_is_the_exact_fraction_rounded_down(grid: TimeGrid) -> None:
    exact = [grid.start_ns + (Fraction(step) * NANOSECONDS / grid.rate).__floor__() for step in range(grid.num_steps)]
    assert grid.times_ns().tolist() == exact == [grid.time_ns(step) for step in range(grid.num_steps)]


def test_a_long_grid_does_not_drift_nor_overflow() -> None:
    rate = Fraction(30_000, 1001)
    steps = 5_000_000
    grid = TimeGrid(0, rate, steps)
    assert grid.times_ns()[-1] == int(Fraction(steps - 1) * NANOSECONDS / rate)
    odd = TimeGrid(0, Fraction(9_999_991, 1_000_003), 5000)
    assert odd.times_ns()[-1] == odd.time_ns(4999)


@given(time_grids(min_steps=1))
def test_a_grid_over_a_grid_of_the_same_rate_is_that_grid(grid: TimeGrid) -> None:
    times = grid.times_ns()
    assert TimeGrid.covering(int(times[0]), int(times[-1]), grid.rate) == grid


@given(time_grids(min_steps=1), rates)
def test_covering_ends_at_or_before_the_last_datum_and_misses_no_step(grid: TimeGrid, rate: Fraction) -> None:
    times = grid.times_ns()
    other = TimeGrid.covering(int(times[0]), int(times[-1]), rate)
    assert other.times_ns()[-1] <= times[-1] < other.time_ns(other.num_steps)


@given(time_grids(min_steps=2), st.data())
def test_windows_of_consecutive_grids_tile(grid: TimeGrid, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, grid.num_steps - 1))
    first = Window(grid.start_ns, grid.time_ns(cut))
    second = Window(grid.time_ns(cut), grid.window.stop_ns)
    for time in grid.times_ns():
        assert first.contains(int(time)) != second.contains(int(time))
    assert not grid.window.contains(grid.window.stop_ns)


def test_impossible_times_are_refused() -> None:
    with pytest.raises(ValueError, match="ends before"):
        Window(2, 1)
    with pytest.raises(ValueError, match="negative"):
        TimeGrid(0, Fraction(5), -1)
    with pytest.raises(ValueError, match="positive"):
        TimeGrid(0, Fraction(0), 1)
    assert TimeGrid.covering(5, 4, Fraction(5)).num_steps == 0
    assert np.array_equal(TimeGrid(0, Fraction(5), 0).times_ns(), np.zeros(0, dtype=np.int64))
