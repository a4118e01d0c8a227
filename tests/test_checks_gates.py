"""Gathering and gating: every check runs, all findings are kept, and the recipe says what rejects."""

import pickle
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from schemas.episode import Segment
from schemas.errors import RejectEpisode
from schemas.findings import Finding, Severity
from schemas.recipes import Gates
from tests.check_subjects import even_times, make_subject, moving_thumbs, sound_action, sound_proprio
from validation.check import EpisodeFacts, Subject, judge_episode, judge_set


def broken() -> Subject:
    action = sound_action()
    action[4, 0] = np.nan
    return make_subject(
        action=action,
        texts=("todo",),
        thumbs=np.zeros((60, 4, 4), np.uint8),
        raw_findings=(Finding("flags_deny_pictures", Severity.WARNING, "primary", "has_image is 0"),),
        findings=(Finding("camera_without_slot", Severity.INFO, "side", "no slot for it"),),
    )


def test_a_sound_episode_passes_with_measures() -> None:
    findings, measures, rejection = judge_episode(make_subject(thumbs=moving_thumbs()), Gates())
    assert findings == ()
    assert rejection is None
    assert {measure.name for measure in measures} >= {
        "num_steps",
        "duration",
        "idle_fraction",
        "mean_brightness_primary",
    }


def test_all_findings_are_kept_and_the_worst_rejects() -> None:
    findings, _, rejection = judge_episode(broken(), Gates())
    assert [finding.rule for finding in findings[:2]] == ["flags_deny_pictures", "camera_without_slot"]
    assert {finding.rule for finding in findings} >= {"nan_value", "black_view", "placeholder_instruction"}
    assert isinstance(rejection, RejectEpisode)
    assert rejection.reason == "nan_value"
    assert rejection.where == "sets/small#train/00000/000003"
    assert "row 4" in rejection.message
    assert pickle.loads(pickle.dumps(rejection)).reason == "nan_value"


def test_nothing_rejects_where_the_recipe_says_never() -> None:
    findings, _, rejection = judge_episode(broken(), Gates(reject_at="never"))
    assert len(findings) >= 5
    assert rejection is None


def test_a_stricter_gate_rejects_for_the_first_of_the_worst() -> None:
    subject = make_subject(texts=("todo",), thumbs=np.zeros((60, 4, 4), np.uint8))
    _, _, rejection = judge_episode(subject, Gates(reject_at=Severity.WARNING))
    assert rejection is not None
    assert rejection.reason == "placeholder_instruction"


def test_the_recipe_changes_severities() -> None:
    findings, _, rejection = judge_episode(broken(), Gates(rules={"nan_value": "info", "black_view": "error"}))
    severities = {finding.rule: finding.severity for finding in findings}
    assert (severities["nan_value"], severities["black_view"]) == (Severity.INFO, Severity.ERROR)
    assert rejection is not None
    assert rejection.reason == "black_view"


def test_an_ignored_rule_is_left_out() -> None:
    findings, _, rejection = judge_episode(
        broken(), Gates(rules={"nan_value": "ignore", "flags_deny_pictures": "ignore"})
    )
    assert {"nan_value", "flags_deny_pictures"}.isdisjoint(finding.rule for finding in findings)
    assert rejection is None


def test_a_finding_told_by_the_reader_and_the_card_is_told_once() -> None:
    told = Finding("flags_deny_pictures", Severity.WARNING, "primary", "has_image is 0")
    findings, _, _ = judge_episode(make_subject(raw_findings=(told,), findings=(told,)), Gates())
    assert findings == (told,)


def test_set_findings_follow_the_gates_too() -> None:
    facts = [EpisodeFacts("a", "set", (("s", "train", "0"), ("s", "val", "0")), 9, (), "m")]
    assert {finding.rule for finding in judge_set(facts)["a"]} == {"split_leak", "found_twice"}
    assert judge_set(facts, Gates(rules={"split_leak": "ignore", "found_twice": "ignore"})) == {}


def test_idle_time_is_what_the_idle_segments_say() -> None:
    second = 1_000_000_000
    idle = (Segment("idle", 0, second), Segment("idle", 2 * second, 4 * second), Segment("gap", 0, second, "action"))
    subject = make_subject()  # 6 s
    _, measures, _ = judge_episode(replace(subject, episode=replace(subject.episode, segments=idle)), Gates())
    values = {measure.name: measure.value for measure in measures}
    assert values["idle_fraction"] == pytest.approx(0.5)
    assert values["longest_idle"] == 2.0
    _, measures, _ = judge_episode(subject, Gates())
    assert {measure.name: measure.value for measure in measures}["idle_fraction"] == 0


def test_the_age_of_the_frames_is_measured() -> None:
    _, measures, _ = judge_episode(make_subject(frames_ns=even_times(12, Fraction(2))), Gates())
    values = {measure.name: measure.value for measure in measures}
    assert values["frame_age_max_primary"] == pytest.approx(0.4)
    assert values["frame_age_median_primary"] == pytest.approx(0.2)


def test_the_measures_are_right_on_a_known_motion() -> None:
    _, measures, _ = judge_episode(make_subject(clock="source"), Gates())
    values = {(measure.name, measure.unit): measure.value for measure in measures}
    assert values["num_steps", "1"] == 60
    assert values["duration", "s"] == pytest.approx(6.0)
    assert values["observed_rate", "Hz"] == pytest.approx(10.0)
    assert values["hand_path", "m"] == pytest.approx(np.hypot(np.pi, 0.1 * np.pi / 3), rel=2e-3)
    assert values["joint_path", "rad"] == pytest.approx(0.8 * 2 * np.pi)


def test_a_joint_that_wraps_goes_the_short_way() -> None:
    proprio = sound_proprio()
    proprio[:, 3] = (np.linspace(3, 3.5, 60) + np.pi) % (2 * np.pi) - np.pi
    _, measures, _ = judge_episode(make_subject(proprio=proprio), Gates())
    assert {measure.name: measure.value for measure in measures}["joint_path"] == pytest.approx(0.5)
