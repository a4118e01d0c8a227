"""Laws of time: resampling keeps what was recorded, rotations stay rotations and take the short way, masks tell the truth."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipelines.numbers import numbers_of
from pipelines.resample import TOLERANCE_NS, gap_ns, hold_layout, nominal_period_ns, resample
from pipelines.rows import StoredEpisode, episode_row, stored_episode
from pipelines.windows import plan_windows, sample_windows, window_lengths
from schemas.embodiment import Channel, ChannelKind
from schemas.episode import Episode, Stream
from schemas.errors import CardError, LayoutError
from schemas.recipes import BuildRecipe
from schemas.time import TimeGrid
from tests.check_subjects import make_subject, make_view, sound_action, sound_proprio
from tests.strategies import mixed_layout, mixed_values, rates, time_grids, times_ns

QUATERNION, EULER, AXIS_ANGLE = slice(2, 6), slice(6, 9), slice(10, 13)
READ = {
    ChannelKind.QUATERNION: Rotation.from_quat,
    ChannelKind.EULER: lambda values: Rotation.from_euler("xyz", values),
    ChannelKind.AXIS_ANGLE: Rotation.from_rotvec,
}
ENDLESS = 2**62


def rotation_layout(kind: ChannelKind) -> tuple[Channel, ...]:
    width = 4 if kind is ChannelKind.QUATERNION else 3
    return tuple(Channel(name=f"c{index}", unit="rad", kind=kind) for index in range(width))


def write(kind: ChannelKind, turned: Rotation, signs: np.ndarray) -> np.ndarray:
    if kind is ChannelKind.QUATERNION:
        return np.asarray(turned.as_quat() * signs[:, None])
    return np.asarray(turned.as_euler("xyz") if kind is ChannelKind.EULER else turned.as_rotvec())


axes = st.sampled_from([(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (1.0, 1, 0), (-1.0, 2, 3), (0.1, -1, 0.2)])
angles = st.one_of(
    st.floats(-np.pi, np.pi),
    st.sampled_from([0.0, 1e-12, 1e-9, 1e-6, np.pi, np.pi - 1e-9, np.pi - 1e-6, -np.pi + 1e-7, np.pi / 2, -np.pi / 2]),
)
rotations = st.tuples(axes, angles).map(
    lambda one: Rotation.from_rotvec(np.array(one[0]) / np.linalg.norm(one[0]) * one[1])
)
poles = st.tuples(angles, st.sampled_from([1.0, -1.0]), angles).map(
    lambda one: Rotation.from_euler("xyz", [one[0], one[1] * np.pi / 2, one[2]])
)
streams_of_rotations = st.lists(st.one_of(rotations, poles), min_size=2, max_size=8)


@given(time_grids(min_steps=1), st.integers(0, 2**32))
def test_resampling_to_the_same_grid_is_the_identity_bit_for_bit(grid: TimeGrid, seed: int) -> None:
    values, times = mixed_values(grid.num_steps, seed), grid.times_ns()
    values[:, 0] *= 1e-310  # numbers that any arithmetic would change
    again = TimeGrid.covering(int(times[0]), int(times[-1]), grid.rate).times_ns()
    result = resample(values, times, mixed_layout(), again)
    assert result.values.tobytes() == values.tobytes()
    assert result.valid.all()
    assert not result.residual_ns.any()


@given(st.sampled_from(list(READ)), streams_of_rotations, st.data())
@pytest.mark.filterwarnings("ignore:Gimbal lock")
def test_rotations_never_leave_so3_nor_take_the_long_way(
    kind: ChannelKind, turned: list[Rotation], data: st.DataObject
) -> None:
    rows = Rotation.concatenate(turned)
    signs = np.array(data.draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=len(rows), max_size=len(rows))))
    values = write(kind, rows, signs)
    times = np.arange(len(rows), dtype=np.int64) * 100_000_000
    shares = np.array(data.draw(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4)))
    grid = np.unique((times[:-1, None] + shares * 100_000_000).astype(np.int64))
    result = resample(values, times, rotation_layout(kind), grid)
    assert np.isfinite(result.values).all()
    assert result.valid.all()
    if kind is ChannelKind.QUATERNION:
        assert np.allclose(np.linalg.norm(result.values, axis=1), 1, atol=1e-12)
        assert (np.sum(result.values[1:] * result.values[:-1], axis=1) >= 0).all(), "signs are continuous"
    between = READ[kind](result.values)
    matrices = between.as_matrix()
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.det(matrices), 1, atol=1e-9)
    before, after = READ[kind](values[result.source_rows]), READ[kind](values[result.source_rows + 1])
    whole = (before.inv() * after).magnitude()
    # the pole costs Euler angles half their digits
    slack = 1e-6 if kind is ChannelKind.EULER else 1e-7
    assert ((before.inv() * between).magnitude() <= whole + slack).all()
    assert ((between.inv() * after).magnitude() <= whole + slack).all()


@given(times_ns(min_rows=2), rates, st.integers(0, 2**32))
def test_quaternions_keep_their_sign_over_the_whole_stream(times: np.ndarray, rate: Fraction, seed: int) -> None:
    values = mixed_values(len(times), seed)
    grid = TimeGrid.covering(int(times[0]), int(times[-1]), rate).times_ns()
    result = resample(values, times, mixed_layout(), grid)
    quaternions, rows = result.values[:, QUATERNION], values[result.source_rows][:, QUATERNION]
    picked = np.abs(result.residual_ns) <= TOLERANCE_NS
    held = picked | ~result.valid
    assert np.array_equal(np.abs(quaternions[held]), np.abs(rows[held])), "a row's own numbers, but for the sign"
    if not held.all():  # a grid that only picks rows changes nothing
        assert (np.sum(quaternions[1:] * quaternions[:-1], axis=1) >= 0).all()


@given(times_ns(min_rows=1), rates, st.integers(0, 2**32))
def test_what_is_held_is_never_invented_nor_averaged(times: np.ndarray, rate: Fraction, seed: int) -> None:
    values = mixed_values(len(times), seed)
    grid = TimeGrid.covering(int(times[0]) - 10**9, int(times[-1]) + 10**9, rate).times_ns()
    result = resample(values, times, hold_layout(mixed_layout()), grid)
    assert np.array_equal(result.values, values[result.source_rows])
    known = grid + TOLERANCE_NS >= times[0]
    assert (times[result.source_rows[known]] <= grid[known] + TOLERANCE_NS).all(), "never a command of the future"
    following = np.minimum(result.source_rows + 1, len(times) - 1)
    later = known & (result.source_rows < len(times) - 1)
    assert (times[following[later]] > grid[later] + TOLERANCE_NS).all(), "always the latest one"


@given(st.integers(1, 60), st.integers(1, 60), rates, st.integers(0, 10**9))
def test_a_stream_that_ends_early_is_masked_from_one_period_after_its_last_row(
    num_rows: int, more: int, rate: Fraction, start: int
) -> None:
    whole = TimeGrid(start, rate, num_rows + more).times_ns()
    period = nominal_period_ns(whole)
    values = np.arange(num_rows, dtype=np.float64)[:, None]
    position = (Channel(name="x", unit="m", kind=ChannelKind.POSITION),)
    result = resample(values, whole[:num_rows], position, whole, period_ns=period)
    assert result.valid.tolist() == [True] * num_rows + [False] * more
    assert np.array_equal(result.values[:, 0], np.minimum(np.arange(num_rows + more), num_rows - 1))


def stored(episode: Episode) -> StoredEpisode:
    return stored_episode(episode_row(episode, (), (), None, "recipe", "0.1.0"))


def with_clocks(action_ns: np.ndarray, proprio_ns: np.ndarray, frames_ns: np.ndarray, rate: Fraction) -> StoredEpisode:
    episode = make_subject(
        sound_action(len(action_ns)), sound_proprio(len(proprio_ns)), action_ns, proprio_ns, "source", frames_ns
    ).episode
    return stored(replace(episode, control_rate=rate))


@given(st.integers(2, 40), st.integers(0, 10), st.integers(0, 10), st.sampled_from([None, Fraction(5), Fraction(20)]))
def test_every_stream_of_an_episode_is_masked_where_it_has_ended(
    num_steps: int, without_proprio: int, without_frames: int, target: Fraction | None
) -> None:
    rate = Fraction(10)
    times = TimeGrid(0, rate, num_steps).times_ns()
    proprio, frames = times[: max(2, num_steps - without_proprio)], times[: max(2, num_steps - without_frames)]
    numbers = numbers_of(with_clocks(times, proprio, frames, rate), target, ("primary",))
    period = 100_000_000
    has_proprio, has_frame = numbers.times_ns < proprio[-1] + period, numbers.times_ns < frames[-1] + period
    assert np.array_equal(numbers.measured.valid, has_proprio)
    assert np.array_equal(numbers.frames["primary"].valid, has_frame)
    assert numbers.commands.valid.all()
    assert np.array_equal(numbers.valid, has_proprio & has_frame)
    for origin, source in ((numbers.commands, times), (numbers.measured, proprio), (numbers.frames["primary"], frames)):
        assert np.array_equal(origin.times_ns, source[origin.rows])
        assert np.array_equal(origin.residual_ns, numbers.times_ns - origin.times_ns)
        assert (origin.residual_ns >= 0).all()


def test_a_slow_sensor_and_a_slow_camera_are_judged_by_their_own_periods() -> None:
    times = TimeGrid(0, Fraction(50), 101).times_ns()
    slow = TimeGrid(0, Fraction(5), 11).times_ns()
    numbers = numbers_of(with_clocks(times, slow, slow, Fraction(50)), None, ("primary",))
    assert numbers.valid.all()
    assert numbers.frames["primary"].residual_ns.max() == 180_000_000
    fewer = numbers_of(with_clocks(times, slow[:-1], slow, Fraction(50)), None, ("primary",))
    assert np.flatnonzero(~fewer.valid).tolist() == [100]


@given(times_ns(min_rows=3, max_rows=30), rates, st.integers(0, 2**32))
def test_irregular_clocks_keep_the_way_back_to_every_row(times: np.ndarray, rate: Fraction, seed: int) -> None:
    values = mixed_values(len(times), seed)
    grid = TimeGrid.covering(int(times[0]), int(times[-1]), rate).times_ns()
    result = resample(values, times, mixed_layout(), grid)
    assert np.array_equal(result.source_times_ns, times[result.source_rows])
    assert np.array_equal(result.residual_ns, grid - result.source_times_ns)
    assert (np.diff(result.source_rows) >= 0).all()
    limit = gap_ns(nominal_period_ns(times))
    spans = np.append(np.diff(times), 0)[result.source_rows]
    in_gap = (spans > limit) & (result.residual_ns > TOLERANCE_NS) & (result.source_rows < len(times) - 1)
    assert not result.valid[in_gap].any()
    assert result.valid[~in_gap & (result.source_rows < len(times) - 1)].all()


@given(st.integers(1, 200), st.integers(0, 10**12))
def test_15_to_5_hz_picks_every_third_row_exactly(num_rows: int, start: int) -> None:
    times = TimeGrid(start, Fraction(15), num_rows).times_ns()
    values = mixed_values(num_rows, num_rows)
    grid = TimeGrid.covering(start, int(times[-1]), Fraction(5)).times_ns()
    for layout in (mixed_layout(), hold_layout(mixed_layout())):
        result = resample(values, times, layout, grid)
        assert result.values.tobytes() == values[::3].tobytes()
        assert np.array_equal(result.source_rows, np.arange(0, num_rows, 3))
        assert result.valid.all()


@given(st.integers(2, 60), st.integers(0, 2**32))
def test_5_to_15_hz_keeps_every_row_and_repeats_commands(num_rows: int, seed: int) -> None:
    times = TimeGrid(0, Fraction(5), num_rows).times_ns()
    values = mixed_values(num_rows, seed)
    grid = TimeGrid.covering(0, int(times[-1]), Fraction(15)).times_ns()
    assert len(grid) == 3 * (num_rows - 1) + 1
    result = resample(values, times, mixed_layout(), grid)
    plain = np.r_[0:2, 6:17]  # quaternions may change their sign
    assert result.values[::3][:, plain].tobytes() == values[:, plain].tobytes()
    assert np.array_equal(np.abs(result.values[::3, QUATERNION]), np.abs(values[:, QUATERNION]))
    assert np.array_equal(result.values[:, 13:], values[np.arange(len(grid)) // 3][:, 13:])
    third = result.values[1::3, 0] - values[:-1, 0]
    assert np.allclose(third, (values[1:, 0] - values[:-1, 0]) / 3, atol=1e-6)


@given(st.integers(0, 200), st.integers(1, 40))
def test_windows_tile(num_steps: int, horizon: int) -> None:
    starts = sample_windows(num_steps, horizon)
    covered = [
        step
        for start, length in zip(starts, window_lengths(starts, num_steps, horizon), strict=True)
        for step in range(start, start + length)
    ]
    assert covered == list(range(num_steps))
    times = TimeGrid(0, Fraction(10), num_steps).times_ns()
    assert plan_windows(times, (), (), BuildRecipe(horizon=horizon)).starts.tolist() == starts.tolist()


@given(st.integers(3, 40), st.integers(0, 2**32))
def test_a_rotation_recorded_in_three_notations_resamples_to_the_same_one(num_rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    turned = Rotation.random(num_rows, rng=random)
    euler = turned.as_euler("xyz")
    assume(np.abs(np.abs(euler[:, 1]) - np.pi / 2).min() > 1e-3)
    times = np.cumsum(random.integers(50_000_000, 110_000_000, num_rows)).astype(np.int64)
    grid = TimeGrid.covering(int(times[0]), int(times[-1]), Fraction(30)).times_ns()
    found = []
    for kind in READ:
        written = write(kind, turned, random.choice([-1.0, 1.0], num_rows))
        found.append(READ[kind](resample(written, times, rotation_layout(kind), grid, max_gap_ns=ENDLESS).values))
    for other in found[1:]:
        assert (found[0].inv() * other).magnitude().max() < 1e-6


def test_numbers_name_what_does_not_fit() -> None:
    times = TimeGrid(0, Fraction(10), 5).times_ns()
    episode = with_clocks(times, times, times, Fraction(10))
    empty = replace(episode, views={"primary": make_view(times[:0])})
    with pytest.raises(LayoutError, match="has no frames"):
        numbers_of(empty, None, ("primary",))
    no_action = replace(episode, streams=(Stream("action", np.zeros((5, 3)), times, "declared"),))
    with pytest.raises(CardError, match="does not have"):
        numbers_of(no_action, None, ("primary",))
