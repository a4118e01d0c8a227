"""The checks of lengths and clocks: numbers of rows and frames, and how time runs."""

from fractions import Fraction

import numpy as np
import pytest

from schemas.findings import Severity
from tests.check_subjects import by_rule, even_times, make_subject, sound_action, sound_proprio
from validation.checks import clock, lengths


def test_sound_lengths_and_clocks_have_no_finding() -> None:
    assert lengths.check_episode(make_subject()) == []
    assert clock.check_episode(make_subject(clock="source")) == []


def test_an_empty_episode_is_an_error_and_one_step_a_warning() -> None:
    empty = by_rule(lengths.check_episode(make_subject(proprio=np.empty((0, 5)))))
    assert empty["empty_episode"].severity is Severity.ERROR
    one = by_rule(lengths.check_episode(make_subject(proprio=sound_proprio(1))))
    assert set(one) == {"one_step_episode"}
    assert one["one_step_episode"].severity is Severity.WARNING


@pytest.mark.parametrize(("rows", "severity"), [(59, Severity.WARNING), (61, Severity.WARNING), (50, Severity.ERROR)])
def test_action_rows_against_proprio_rows(rows: int, severity: Severity) -> None:
    subject = make_subject(action=sound_action(rows), proprio=sound_proprio(60), frames_ns=even_times(rows))
    found = by_rule(lengths.check_episode(subject))
    assert set(found) == {"action_rows_vs_proprio"}
    assert found["action_rows_vs_proprio"].severity is severity
    assert dict(found["action_rows_vs_proprio"].numbers)["difference"] == rows - 60


def test_proprio_of_its_own_rate_may_have_its_own_number_of_rows() -> None:
    times = even_times(300, Fraction(50))
    assert (
        lengths.check_episode(make_subject(proprio=sound_proprio(300), action=sound_action(60), proprio_times_ns=times))
        == []
    )


@pytest.mark.parametrize(
    ("frames", "severity"), [(59, Severity.WARNING), (61, Severity.WARNING), (40, Severity.ERROR), (0, Severity.ERROR)]
)
def test_frames_against_steps(frames: int, severity: Severity) -> None:
    found = by_rule(lengths.check_episode(make_subject(frames_ns=even_times(frames))))
    assert set(found) == {"frames_vs_steps"}
    assert found["frames_vs_steps"].severity is severity
    assert found["frames_vs_steps"].where == "primary"
    assert dict(found["frames_vs_steps"].numbers) == {"num_frames": frames, "num_steps": 60, "difference": frames - 60}


def test_a_camera_of_its_own_rate_must_cover_the_same_time() -> None:
    assert lengths.check_episode(make_subject(frames_ns=even_times(180, Fraction(30)))) == []
    assert lengths.check_episode(make_subject(frames_ns=even_times(20, Fraction(10, 3)))) == []
    short = by_rule(lengths.check_episode(make_subject(frames_ns=even_times(60, Fraction(30)))))
    assert short["view_span"].severity is Severity.ERROR
    assert dict(short["view_span"].numbers)["frames_end_s"] == pytest.approx(2.0, abs=1e-6)
    slightly = by_rule(lengths.check_episode(make_subject(frames_ns=even_times(174, Fraction(30)))))
    assert slightly["view_span"].severity is Severity.WARNING


def test_a_camera_that_starts_late_is_told() -> None:
    late = by_rule(lengths.check_episode(make_subject(frames_ns=even_times(60) + 400_000_000)))
    assert late["view_span"].severity is Severity.WARNING
    assert dict(late["view_span"].numbers)["frames_start_s"] == pytest.approx(0.4)


def test_very_long() -> None:
    proprio = sound_proprio(18_100)
    assert set(by_rule(lengths.check_episode(make_subject(proprio=proprio)))) == {"very_long"}


@pytest.mark.parametrize("step_back_ns", [0, 1, 10**9])
def test_time_that_does_not_rise(step_back_ns: int) -> None:
    times = even_times(60)
    times[20] = times[19] - step_back_ns
    found = by_rule([f for f in clock.check_episode(make_subject(times_ns=times)) if f.where == "action"])
    assert found["clock_not_increasing"].index == 20
    assert found["clock_not_increasing"].severity is Severity.ERROR


def test_each_clock_speaks_for_itself() -> None:
    frames, proprio_times = even_times(60), even_times(60) + 1
    frames[5] = frames[4]
    proprio_times[9] = 0
    found = clock.check_episode(make_subject(frames_ns=frames, proprio_times_ns=proprio_times))
    places = {(finding.where, finding.index) for finding in found if finding.rule == "clock_not_increasing"}
    assert places == {("primary", 5), ("proprio", 9)}


def test_a_gap_is_found_at_its_row() -> None:
    times = even_times(60)
    times[30:] += 700_000_000
    found = by_rule(clock.check_episode(make_subject(times_ns=times, clock="source", frames_ns=even_times(60))))
    assert set(found) == {"clock_gap"}
    assert found["clock_gap"].index == 30
    numbers = dict(found["clock_gap"].numbers)
    assert (numbers["num_gaps"], numbers["longest_ms"]) == (1, pytest.approx(800))


def test_jitter_is_found_where_times_were_recorded() -> None:
    rng = np.random.default_rng(3)
    times = even_times(60) + rng.integers(-30_000_000, 30_000_000, 60)
    found = by_rule(clock.check_episode(make_subject(times_ns=times, clock="source", frames_ns=times)))
    assert set(found) == {"clock_jitter"}
    assert (
        clock.check_episode(make_subject(times_ns=even_times(60) + rng.integers(0, 2_000_000, 60), clock="source"))
        == []
    )


def test_a_rate_27_percent_off() -> None:
    times = even_times(60) * 127 // 100
    found = by_rule(clock.check_episode(make_subject(times_ns=times, clock="source")))
    assert set(found) == {"rate_mismatch"}
    assert dict(found["rate_mismatch"].numbers)["ratio"] == pytest.approx(1 / 1.27, rel=1e-3)
    assert clock.check_episode(make_subject(times_ns=times, clock="declared")) == []


def test_milliseconds_taken_for_seconds_are_guessed() -> None:
    found = by_rule(clock.check_episode(make_subject(times_ns=even_times(60) // 1000, clock="source")))
    assert "milliseconds" in found["rate_mismatch"].message
