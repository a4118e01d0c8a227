"""Laws of resampling: identity, no extrapolation, no averaging of what must not be, rotations on the great arc."""

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipelines.resample import hold_layout, nearest_at_or_before, resample
from schemas.embodiment import Channel, ChannelKind
from schemas.errors import LayoutError
from schemas.time import TimeGrid
from tests.real import real_data
from tests.strategies import mixed_layout, mixed_values, rates, times_ns

SECOND = 1_000_000_000


def layout(kind: ChannelKind, width: int = 1, unit: str = "rad") -> tuple[Channel, ...]:
    return tuple(Channel(name=f"c{index}", unit=unit, kind=kind) for index in range(width))


@given(times_ns(), st.integers(0, 2**32))
def test_resampling_onto_the_source_times_is_the_identity(times: np.ndarray, seed: int) -> None:
    values = mixed_values(len(times), seed)
    values[:: max(1, len(times) // 3), 0] = np.nan
    result = resample(values, times, mixed_layout(), times)
    assert result.values.tobytes() == values.tobytes()
    assert np.array_equal(result.source_rows, np.arange(len(times)))
    assert np.array_equal(result.source_times_ns, times)
    assert not result.residual_ns.any()
    assert result.valid.all()


@given(times_ns(min_rows=2), st.integers(0, 2**32), rates)
def test_every_result_lies_between_its_neighbors(times: np.ndarray, seed: int, rate: Fraction) -> None:
    values = mixed_values(len(times), seed)
    grid = TimeGrid.covering(int(times[0]) - SECOND, int(times[-1]) + SECOND, rate).times_ns()
    result = resample(values, times, mixed_layout(), grid)
    row = result.source_rows
    after = np.minimum(row + 1, len(times) - 1)
    low, high = np.minimum(values[row, 0], values[after, 0]), np.maximum(values[row, 0], values[after, 0])
    assert ((result.values[:, 0] >= low) & (result.values[:, 0] <= high)).all()
    assert np.array_equal(result.values[:, 13:], values[row, 13:])
    assert np.allclose(np.linalg.norm(result.values[:, 2:6], axis=1), 1, atol=1e-12)
    assert ((result.values[:, 1] >= -np.pi - 1e-9) & (result.values[:, 1] <= np.pi + 1e-9)).all()
    assert ((result.values[:, 9] >= -1e-9) & (result.values[:, 9] <= 360 + 1e-9)).all()
    assert np.array_equal(result.source_times_ns, times[row])
    assert np.array_equal(result.residual_ns, grid - times[row])
    assert not result.valid[grid < times[0] - 1].any()
    assert result.valid[(grid >= times[0]) & (grid <= times[0])].all()


@given(times_ns(min_rows=2), st.integers(0, 2**32), st.floats(0.01, 0.99))
@settings(max_examples=50)
def test_rotations_take_the_short_way_at_constant_speed_in_every_notation(
    times: np.ndarray, seed: int, share: float
) -> None:
    values = mixed_values(len(times), seed)
    grid = times[:-1] + np.maximum(2, (np.diff(times) * share).astype(np.int64))
    weight = (grid - times[:-1]) / np.diff(times)
    result = resample(values, times, mixed_layout(), grid, max_gap_ns=2**62).values
    for group, read in (
        (slice(2, 6), Rotation.from_quat),
        (slice(6, 9), lambda value: Rotation.from_euler("xyz", value)),
        (slice(10, 13), Rotation.from_rotvec),
    ):
        before, after, between = read(values[:-1, group]), read(values[1:, group]), read(result[:, group])
        whole = (before.inv() * after).magnitude()
        assert np.allclose((before.inv() * between).magnitude(), weight * whole, atol=1e-6)
        assert np.allclose((between.inv() * after).magnitude(), (1 - weight) * whole, atol=1e-6)


@given(st.integers(0, 2**32))
def test_quaternion_signs_do_not_change_the_rotation(seed: int) -> None:
    random = np.random.default_rng(seed)
    times = np.arange(8, dtype=np.int64) * 100_000_000
    grid = times[:-1] + 30_000_000
    values = Rotation.random(8, rng=random).as_quat()
    flipped = values * random.choice([-1.0, 1.0], (8, 1))
    kinds = layout(ChannelKind.QUATERNION, 4)
    one, two = resample(values, times, kinds, grid).values, resample(flipped, times, kinds, grid).values
    assert np.allclose(np.abs(np.sum(one * two, axis=1)), 1, atol=1e-12)
    assert (np.sum(two[1:] * two[:-1], axis=1) >= 0).all(), "the sign is continued from the first row on"
    assert np.sum(two[0] * flipped[0]) >= 0


def test_a_smooth_euler_recording_stays_smooth_across_the_seam_of_roll() -> None:
    # A gripper that points down: roll swings around pi, as in nearly every DROID episode.
    times = np.arange(5, dtype=np.int64) * 100_000_000
    roll = np.array([3.10, 3.13, -3.12, -3.10, 3.12])
    values = np.column_stack([roll, np.full(5, 0.1), np.full(5, -2.0)])
    result = resample(values, times, layout(ChannelKind.EULER, 3), np.arange(0, 400_000_001, 10_000_000)).values
    assert np.abs(np.angle(np.exp(1j * (result[:, 0] - np.pi)))).max() < 0.05
    assert np.abs(result[:, 0]).max() <= np.pi
    assert np.allclose(result[:, 1:], [0.1, -2.0], atol=0.01)


def test_gimbal_lock_gives_the_right_rotation_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    times = np.array([0, 100], dtype=np.int64)
    values = np.array([[0.3, np.pi / 2, 0.0], [0.7, np.pi / 2, 0.0]])
    result = resample(values, times, layout(ChannelKind.EULER, 3), np.array([50]), max_gap_ns=1000).values
    between = Rotation.from_euler("xyz", result[0])
    assert (between.inv() * Rotation.from_euler("xyz", [0.5, np.pi / 2, 0])).magnitude() < 1e-6
    assert not [warning for warning in recwarn if "Gimbal" in str(warning.message)]


def test_degrees_and_radians_agree() -> None:
    times = np.arange(6, dtype=np.int64) * 100_000_000
    grid = times[:-1] + 40_000_000
    random = np.random.default_rng(3)
    for kind, width in ((ChannelKind.ANGLE, 1), (ChannelKind.EULER, 3), (ChannelKind.AXIS_ANGLE, 3)):
        radians = random.uniform(-1.5, 1.5, (6, width))
        one = resample(radians, times, layout(kind, width), grid).values
        two = resample(np.rad2deg(radians), times, layout(kind, width, "deg"), grid).values
        assert np.allclose(np.rad2deg(one), two, atol=1e-9)


def test_angles_wrap_the_short_way_and_unwrapped_ones_are_left_alone() -> None:
    times = np.array([0, 100], dtype=np.int64)
    kinds = layout(ChannelKind.ANGLE, unit="deg")
    at = np.array([25, 75])
    assert resample(np.array([[350.0], [10.0]]), times, kinds, at).values[:, 0].tolist() == [355, 5]
    assert resample(np.array([[170.0], [-170.0]]), times, kinds, at).values[:, 0].tolist() == [175, -175]
    assert resample(np.array([[730.0], [740.0]]), times, kinds, at).values[:, 0].tolist() == [732.5, 737.5]
    limited = (Channel(name="a", unit="deg", kind=ChannelKind.ANGLE, low=-90, high=270),)
    assert resample(np.array([[265.0], [-85.0]]), times, limited, at).values[:, 0].tolist() == [267.5, -87.5]


def test_nothing_is_extrapolated_and_gaps_are_masked() -> None:
    times = np.array([0, 100, 200, 900, 1000], dtype=np.int64) * 1_000_000
    values = np.array([[0.0], [1.0], [2.0], [9.0], [10.0]])
    grid = np.array([-50, 0, 50, 200, 250, 850, 900, 950, 1000, 1099, 1100, 5000], dtype=np.int64) * 1_000_000
    result = resample(values, times, layout(ChannelKind.POSITION), grid)
    assert result.valid.tolist() == [False, True, True, True, False, False, True, True, True, True, False, False]
    assert result.values[:, 0].tolist() == [0, 0, 0.5, 2, 2, 2, 9, 9.5, 10, 10, 10, 10]
    assert result.source_rows.tolist() == [0, 0, 0, 2, 2, 2, 3, 3, 4, 4, 4, 4]
    assert result.residual_ns[0] == -50_000_000
    wide = resample(values, times, layout(ChannelKind.POSITION), grid, max_gap_ns=SECOND)
    assert wide.valid[4]
    assert wide.values[4, 0] == 2.5


@pytest.mark.parametrize("kind", [ChannelKind.GRIPPER, ChannelKind.COMMAND, ChannelKind.FLAG, ChannelKind.UNKNOWN])
def test_commands_are_never_averaged_across_a_change(kind: ChannelKind) -> None:
    times = np.array([0, 100], dtype=np.int64)
    result = resample(np.array([[0.0], [1.0]]), times, layout(kind), np.array([1, 50, 98, 99, 100]))
    assert result.values[:, 0].tolist() == [0, 0, 0, 1, 1]  # 99 is 100 within the tolerance of 1 ns


def test_hold_layout_holds_every_channel() -> None:
    times = np.arange(4, dtype=np.int64) * 100
    values = mixed_values(4, 1)
    result = resample(values, times, hold_layout(mixed_layout()), times[:-1] + 60)
    assert np.array_equal(result.values, values[:-1])


def test_nan_reaches_only_the_results_beside_it() -> None:
    times = np.arange(4, dtype=np.int64) * 100
    values = mixed_values(4, 2)
    values[2, 0] = np.nan
    values[1, 3] = np.nan
    values[1, 7] = np.inf
    values[3, 10:13] = np.nan
    result = resample(values, times, mixed_layout(), times[:-1] + 50).values
    assert np.isnan(result[:, 0]).tolist() == [False, True, True]
    assert np.isnan(result[:, 2:6]).all(axis=1).tolist() == [True, True, False]
    assert np.isnan(result[:, 6:9]).all(axis=1).tolist() == [True, True, False]
    assert np.isnan(result[:, 10:13]).all(axis=1).tolist() == [False, False, True]
    assert np.isfinite(result[:, [1, 9, 13, 14, 15, 16]]).all()


def test_a_quaternion_without_direction_is_nan_not_an_error() -> None:
    times = np.array([0, 100], dtype=np.int64)
    values = np.array([[0.0, 0, 0, 0], [0, 0, 0, 1]])
    result = resample(values, times, layout(ChannelKind.QUATERNION, 4), np.array([0, 50, 100])).values
    assert np.array_equal(result[[0, 2]], values)
    assert np.isnan(result[1]).all()


@given(st.integers(1, 200))
def test_15_to_5_hz_picks_every_third_row_bit_for_bit(num_rows: int) -> None:
    times = TimeGrid(0, Fraction(15), num_rows).times_ns()
    grid = TimeGrid.covering(0, int(times[-1]), Fraction(5)).times_ns()
    values = mixed_values(num_rows, num_rows)
    result = resample(values, times, mixed_layout(), grid)
    assert result.values.tobytes() == values[::3].tobytes()
    assert result.valid.all()
    assert np.array_equal(nearest_at_or_before(times, grid), np.arange(0, num_rows, 3))


@given(st.integers(1, 300), rates, rates)
def test_rows_are_those_of_exact_fractions(num_rows: int, source: Fraction, target: Fraction) -> None:
    times = TimeGrid(0, source, num_rows).times_ns()
    grid = TimeGrid.covering(0, int(times[-1]), target)
    # Exact arithmetic, but for instants so near a row's that whole nanoseconds cannot tell them apart.
    exact = [
        min(num_rows - 1, int((Fraction(i) / target + Fraction(1, SECOND)) * source)) for i in range(grid.num_steps)
    ]
    assert resample(mixed_values(num_rows, 0), times, mixed_layout(), grid.times_ns()).source_rows.tolist() == exact


def test_20_to_7_5_hz() -> None:
    times = TimeGrid(0, Fraction(20), 17).times_ns()
    grid = TimeGrid.covering(0, int(times[-1]), Fraction(15, 2)).times_ns()
    assert (
        nearest_at_or_before(times, grid).tolist() == [8 * step // 3 for step in range(7)] == [0, 2, 5, 8, 10, 13, 16]
    )


def test_a_frame_is_never_from_the_future() -> None:
    times = np.array([100, 200, 200, 300])
    grid = np.array([0, 98, 99, 100, 198, 199, 200, 299, 1000])
    assert nearest_at_or_before(times, grid).tolist() == [-1, -1, 0, 0, 0, 2, 2, 3, 3]
    assert nearest_at_or_before(times, grid, tolerance_ns=0).tolist() == [-1, -1, -1, 0, 0, 0, 2, 2, 3]
    assert nearest_at_or_before(np.zeros(0, dtype=np.int64), grid).tolist() == [-1] * 9


def test_what_does_not_fit_is_refused() -> None:
    one = layout(ChannelKind.POSITION)
    times = np.array([0, 100], dtype=np.int64)
    grid = np.array([50], dtype=np.int64)
    with pytest.raises(LayoutError, match="layout of 1 channels"):
        resample(np.zeros((2, 2)), times, one, grid)
    with pytest.raises(LayoutError, match="3 rows, but 2 times"):
        resample(np.zeros((3, 1)), times, one, grid)
    with pytest.raises(LayoutError, match="backwards") as caught:
        resample(np.zeros((3, 1)), np.array([0, 100, 50]), one, grid)
    assert caught.value.where == "row 2"
    with pytest.raises(LayoutError, match="without rows"):
        resample(np.zeros((0, 1)), times[:0], one, grid)
    assert len(resample(np.zeros((0, 1)), times[:0], one, grid[:0]).values) == 0
    with pytest.raises(LayoutError, match="unit"):
        resample(np.zeros((2, 1)), times, layout(ChannelKind.ANGLE, unit="unknown"), grid)


def test_the_inputs_are_left_as_they_are() -> None:
    times = np.arange(5, dtype=np.int64) * 100
    values = mixed_values(5, 7)
    values.setflags(write=False)
    times.setflags(write=False)
    copy = values.copy()
    resample(values, times, mixed_layout(), times + 30)
    assert np.array_equal(values, copy)


@pytest.mark.real
def test_real_droid_states_at_5_hz_are_the_published_ones() -> None:
    folder = real_data("ctrlworld_droid") / "droid_subset" / "annotation"
    annotations = sorted(folder.glob("*/*.json"))
    assert annotations
    kinds = (
        *(Channel(name=f"p{axis}", unit="m", kind=ChannelKind.POSITION) for axis in "xyz"),
        *(Channel(name=f"r{axis}", unit="rad", kind=ChannelKind.EULER) for axis in "xyz"),
    )
    for path in annotations:
        annotation = json.loads(path.read_text())
        raw = np.array(annotation["observation.state.cartesian_position"])
        published = np.array(annotation["states"])[:, :6]
        times = TimeGrid(0, Fraction(15), len(raw)).times_ns()
        grid = TimeGrid.covering(0, int(times[-1]), Fraction(5))
        assert np.array_equal(resample(raw, times, kinds, grid.times_ns()).values, published)
        # Up to 30 Hz and halfway between rows: no step of the pose is larger than the recorded one it lies in.
        dense = resample(raw, times, kinds, TimeGrid.covering(0, int(times[-1]), Fraction(30)).times_ns()).values
        assert np.array_equal(dense[::2], raw)
        poses = Rotation.from_euler("xyz", dense[:, 3:])
        half_steps = (poses[:-1].inv() * poses[1:]).magnitude()
        whole = (poses[:-2:2].inv() * poses[2::2]).magnitude()
        assert np.allclose(half_steps[::2], whole / 2, atol=1e-6)
