"""Segments: the published idle rule to the step, its generalization, spans, gaps; and what a build makes of them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.segments import BY_RULE, VELOCITY_FIELDS, runs_of, with_segments
from pipelines.windows import plan_windows, sample_windows
from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper
from schemas.episode import Episode, Instruction, Segment, Stream
from schemas.recipes import BuildRecipe, SegmentFilter, SegmentRules
from schemas.time import NANOSECONDS, TimeGrid
from tests.check_subjects import make_subject, sound_action, sound_proprio
from tests.real import real_data

DROID_RATE = Fraction(15)
RULES = SegmentRules()
LIMITS = ((-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698), (-2.8973, 2.8973))
LIMITS += ((-0.0175, 3.7525), (-2.8973, 2.8973))
LAYOUT = (
    *(
        Channel(name=f"joint_{k}", unit="rad", kind=ChannelKind.POSITION, low=low, high=high)
        for k, (low, high) in enumerate(LIMITS)
    ),
    Channel(name="gripper", unit="1", kind=ChannelKind.GRIPPER),
)
GRIPPERS = (Gripper(channel="gripper", open=0, closed=1),)
PANDA = Embodiment(
    name="panda",
    title="Franka Panda",
    control_rate=DROID_RATE,
    proprio=LAYOUT,
    action=LAYOUT,
    proprio_grippers=GRIPPERS,
    action_grippers=GRIPPERS,
)


def published_keep_ranges(joint_velocities: np.ndarray) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The published algorithm, step by step: (idle runs that are cut, ranges that are kept)."""
    idle = [False]
    for before, now in pairwise(joint_velocities):
        idle.append(bool((np.abs(now - before) < 1e-3).all()))
    keep = [True] * len(idle)
    cut = []
    step = 0
    while step < len(idle):
        stop = step
        while stop < len(idle) and idle[stop]:
            stop += 1
        if stop - step >= 7:
            cut.append((step, stop))
            keep[step:stop] = [False] * (stop - step)
        step = max(stop, step + 1)
    kept = []
    step = 0
    while step < len(keep):
        stop = step
        while stop < len(keep) and keep[stop]:
            stop += 1
        if stop - step >= 16:
            kept.append((step, stop - 10))
        step = max(stop, step + 1)
    return cut, kept


def droid_episode(
    action: np.ndarray, proprio: np.ndarray, velocity: np.ndarray | None, field: str = VELOCITY_FIELDS[0]
) -> Episode:
    times = TimeGrid(0, DROID_RATE, len(action)).times_ns()
    episode = make_subject(action=action, proprio=proprio, times_ns=times, embodiment=PANDA).episode
    streams = episode.raw.streams if velocity is None else (Stream(field, velocity, times, "declared"),)
    return replace(episode, control_rate=DROID_RATE, raw=replace(episode.raw, streams=streams))


def steps_of(episode: Episode, kind: str) -> list[tuple[int, int]]:
    times = episode.action.times_ns
    return [
        (int(np.searchsorted(times, one.start_ns)), int(np.searchsorted(times, one.stop_ns)))
        for one in episode.segments
        if one.kind == kind
    ]


def annotations() -> Sequence[Path]:
    found = sorted((real_data("ctrlworld_droid") / "droid_subset" / "annotation").glob("*/*.json"))
    assert len(found) == 11
    return found


def read_vectors(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(action, proprio, joint velocity commands) at 15 Hz."""
    facts = json.loads(path.read_text())

    def vector(field: str) -> np.ndarray:
        gripper = np.asarray(facts[f"{field}.gripper_position"]).reshape(-1, 1)
        return np.concatenate([np.asarray(facts[f"{field}.joint_position"]), gripper], axis=1)

    return vector("action"), vector("observation.state"), np.asarray(facts["action.joint_velocity"])


@pytest.mark.real
@pytest.mark.parametrize("field", VELOCITY_FIELDS)
def test_real_droid_recordings_get_exactly_the_published_ranges(field: str) -> None:
    idle_steps = 0
    for path in annotations():
        action, proprio, velocity = read_vectors(path)
        episode = with_segments(droid_episode(action, proprio, velocity, field), RULES)
        cut, kept = published_keep_ranges(velocity)
        assert steps_of(episode, "idle") == cut, path.stem
        assert steps_of(episode, "keep") == kept, path.stem
        idle_steps += sum(stop - start for start, stop in cut)
    assert idle_steps == 137


@pytest.mark.real
def test_without_velocity_commands_the_general_rule_tells_nearly_the_same() -> None:
    agreed = total = idle_steps = 0
    for path in annotations():
        action, proprio, velocity = read_vectors(path)
        episode = with_segments(droid_episode(action, proprio, None), RULES)
        marks = np.zeros((2, len(action)), dtype=bool)
        for row, runs in enumerate((steps_of(episode, "idle"), published_keep_ranges(velocity)[0])):
            for start, stop in runs:
                marks[row, start:stop] = True
        agreed += int((marks[0] == marks[1]).sum())
        idle_steps += int((marks[0] & marks[1]).sum())
        total += len(action)
    assert agreed / total > 0.97
    assert idle_steps > 60, "and not because it finds nothing"


velocities = st.lists(st.tuples(st.booleans(), st.integers(1, 30)), min_size=1, max_size=8)


@given(velocities, st.sampled_from([np.float32, np.float64]), st.integers(0, 1000))
def test_the_published_rule_holds_for_any_commands(
    runs: list[tuple[bool, int]], dtype: type[np.floating], seed: int
) -> None:
    random = np.random.default_rng(seed)
    steps = [random.uniform(-9e-4, 9e-4, 7) if rests else random.choice([-1e-3, 2e-3, 0.1], 7) for rests, length in runs
             for _ in range(length)]  # fmt: skip
    velocity = np.cumsum(steps, axis=0).astype(dtype)
    vectors = np.zeros((len(velocity), 8))
    episode = with_segments(droid_episode(vectors, vectors, velocity), RULES)
    assert (steps_of(episode, "idle"), steps_of(episode, "keep")) == published_keep_ranges(velocity)


@pytest.mark.parametrize("rate", [Fraction(5), Fraction(10), Fraction(15), Fraction(30), Fraction(50)])
def test_rests_of_the_same_length_are_found_at_every_rate(rate: Fraction) -> None:
    seconds = np.arange(int(8 * rate)) / float(rate)
    noise = np.random.default_rng(0).normal(scale=2e-5, size=(len(seconds), 1))
    way = np.where(seconds < 3, seconds, np.where(seconds < 5, 3, seconds - 2))[:, None] * 0.1
    proprio = np.concatenate([way, way, way, way, np.full_like(way, 0.5)], axis=1) + noise
    times = TimeGrid(0, rate, len(seconds)).times_ns()
    subject = make_subject(action=proprio[:, [0, 3, 4]], proprio=proprio, times_ns=times)
    found = with_segments(replace(subject.episode, control_rate=rate), RULES).segments
    (idle,) = [one for one in found if one.kind == "idle"]
    assert idle.start_ns / NANOSECONDS == pytest.approx(3, abs=2 / float(min(rate, Fraction(15))))
    assert idle.stop_ns / NANOSECONDS == pytest.approx(5, abs=2 / float(min(rate, Fraction(15))))
    assert idle.label == BY_RULE
    assert [one.kind for one in found].count("keep") == 2


def test_a_robot_that_is_still_under_way_or_of_which_nothing_is_known_does_not_idle() -> None:
    proprio, action = sound_proprio(), sound_action()
    action[:] = action[0]  # told once where to go
    assert not steps_of(with_segments(make_subject(action, proprio).episode, RULES), "idle")
    proprio[:] = proprio[0]
    assert steps_of(with_segments(make_subject(action, proprio).episode, RULES), "idle") == [(1, 60)]
    proprio[20:50, 2] = np.nan
    runs = steps_of(with_segments(make_subject(action, proprio).episode, RULES), "idle")
    assert runs == [(1, 20), (51, 60)]
    action[30:, 2] += 0.5 * np.arange(30) / 30  # the gripper closes slowly
    runs = steps_of(with_segments(make_subject(action, sound_proprio()[:1].repeat(60, axis=0)).episode, RULES), "idle")
    assert runs == [(1, 31)]


def test_a_quaternion_that_changes_sign_rests() -> None:
    layout = tuple(Channel(name=f"q{axis}", unit="1", kind=ChannelKind.QUATERNION) for axis in "xyzw")
    robot = Embodiment(name="turntable", title="A turntable", control_rate=10, proprio=layout, action=layout)
    values = np.tile([0.5, 0.5, 0.5, 0.5], (40, 1))
    values[::2] *= -1
    subject = make_subject(values, values, embodiment=robot)
    assert steps_of(with_segments(subject.episode, RULES), "idle") == [(1, 40)]


def test_what_the_source_says_stays_and_is_not_found_again() -> None:
    still = np.zeros((60, 5))
    episode = make_subject(still[:, :3], still).episode
    told = Segment("keep", 0, 10**9, "keep_ranges_1_0_1.json")
    told_too = replace(episode, segments=(told,), instructions=(Instruction("go", "task", 0, 2 * 10**9),))
    found = with_segments(told_too, RULES).segments
    assert [one for one in found if one.kind == "keep"] == [told]
    assert [one.label for one in found if one.kind == "idle"] == [BY_RULE]
    assert Segment("language", 0, 2 * 10**9, "go") in found
    again = with_segments(replace(told_too, segments=found), RULES)
    assert again.segments == found


def test_gaps_lie_between_a_period_after_one_row_and_the_next() -> None:
    times = np.arange(20, dtype=np.int64) * 100_000_000
    times[10:] += 200_000_000  # two rows are missing
    times[15:] += 100_000_000  # one is: no gap by the rule of 2.5 periods
    episode = make_subject(
        sound_action(20), sound_proprio(20), times_ns=times, clock="source", frames_ns=np.append(times[:3], times[9:])
    ).episode
    gaps = [one for one in with_segments(episode, RULES).segments if one.kind == "gap"]
    assert gaps == [
        Segment("gap", 300_000_000, 900_000_000, "primary"),
        Segment("gap", 1_000_000_000, 1_200_000_000, "action"),
        Segment("gap", 1_000_000_000, 1_200_000_000, "primary"),
    ]
    backwards = replace(episode, action=replace(episode.action, times_ns=times[::-1].copy()))
    assert {one.kind for one in with_segments(backwards, RULES).segments} <= {"gap"}


def test_success_is_a_span_where_the_card_s_stream_tells_it_row_by_row() -> None:
    reward = np.zeros(60)
    reward[40:50] = 1
    episode = make_subject(extra={"reward": reward}).episode
    episode = replace(episode, card=episode.card.model_copy(update={"success_field": "reward"}))
    spans = [one for one in with_segments(episode, RULES).segments if one.kind == "success"]
    assert spans == [Segment("success", 4 * 10**9, 5 * 10**9, "reward")]


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 5))
def test_runs_are_those_of_the_marks(marks: list[bool], min_length: int) -> None:
    runs = runs_of(np.array(marks, dtype=bool), min_length)
    covered = {step for start, stop in runs for step in range(start, stop)}
    assert all(stop - start >= min_length for start, stop in runs)
    assert covered <= {step for step, mark in enumerate(marks) if mark}
    if min_length == 1:
        assert covered == {step for step, mark in enumerate(marks) if mark}


times_of_steps = st.lists(st.sampled_from([1, 1, 1, 1, 1, 4, 9]), max_size=50).map(
    lambda steps: np.cumsum([0, *steps]).astype(np.int64) * 100_000_000
)


@given(times_of_steps, st.integers(1, 8), st.one_of(st.none(), st.integers(1, 9)))
def test_windows_tile_every_run_and_never_cross_a_gap(times: np.ndarray, horizon: int, stride: int | None) -> None:
    period = 100_000_000
    rows = np.flatnonzero(np.diff(times) > 2.5 * period)
    gaps = [Segment("gap", int(times[row]) + period, int(times[row + 1]), "action") for row in rows]
    windows = plan_windows(times, gaps, (), BuildRecipe(horizon=horizon, sample_stride=stride))
    stops = np.minimum(windows.starts + horizon, windows.chunk_stops[windows.starts])
    covered = np.zeros(len(times), dtype=int)
    for start, stop in zip(windows.starts, stops, strict=True):
        covered[start:stop] += 1
        assert not any(start <= row < stop - 1 for row in rows)
        assert stop > start
    for step, stop in enumerate(windows.chunk_stops):
        assert step < stop
        assert not any(step <= row < stop - 1 for row in rows)
        assert stop == len(times) or stop - 1 in rows
    if stride is None or stride <= horizon:
        assert covered.all()
    if stride is None:
        assert (covered == 1).all()
    if not len(rows):
        assert np.array_equal(windows.starts, sample_windows(len(times), horizon, stride))
    assert windows.selected.all()
    assert windows.left_out == ()


def test_steps_inside_a_gap_are_in_no_window() -> None:
    times = TimeGrid(0, Fraction(10), 30).times_ns()
    gap = Segment("gap", 1_000_000_000, 1_600_000_000, "wrist_left")
    windows = plan_windows(times, [gap], ("wrist_left",), BuildRecipe(horizon=4))
    assert windows.starts.tolist() == [0, 4, 8, 16, 20, 24, 28]
    assert windows.chunk_stops[[9, 10, 15, 16]].tolist() == [10, 11, 16, 30]
    assert len(plan_windows(times, [gap], (), BuildRecipe(horizon=4)).starts) == 8, "the view takes no part"


def test_windows_are_left_out_by_segments_and_counted() -> None:
    times = TimeGrid(0, Fraction(10), 40).times_ns()
    idle = Segment("idle", 1_000_000_000, 1_500_000_000)
    kept = [Segment("keep", 0, 1_000_000_000), Segment("keep", 1_500_000_000, 3_000_000_000)]

    def windows(**chosen: object) -> tuple[list[int], dict[str, int], int]:
        recipe = BuildRecipe(horizon=5, segments=SegmentFilter.model_validate(chosen))
        found = plan_windows(times, [idle, *kept], (), recipe)
        left_out = {reason: number for reason, _, number in found.left_out}
        assert len(found.starts) + sum(left_out.values()) == 8
        return found.starts.tolist(), left_out, int(found.selected.sum())

    assert windows(skip=["idle"]) == ([0, 5, 15, 20, 25, 30, 35], {"window_touches_idle": 1}, 35)
    assert windows(within="keep") == ([0, 5, 15, 20, 25], {"window_outside_keep": 3}, 25)
    both = windows(skip=["idle"], within="keep")
    assert both == ([0, 5, 15, 20, 25], {"window_touches_idle": 1, "window_outside_keep": 2}, 25)
    assert windows(within="success") == ([], {"window_outside_success": 8}, 0)
