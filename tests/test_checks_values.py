"""The checks of numbers: each defect is found, named and placed; sound data is left alone."""

import numpy as np
import pytest

from schemas.embodiment import Channel, ChannelKind, Embodiment
from schemas.findings import Severity
from tests.check_subjects import ARM, by_rule, make_subject, sound_action, sound_proprio
from validation.checks import values


def test_sound_numbers_have_no_finding() -> None:
    assert values.check_episode(make_subject()) == []


@pytest.mark.parametrize(("bad", "rule"), [(np.nan, "nan_value"), (np.inf, "inf_value"), (-np.inf, "inf_value")])
def test_missing_numbers_are_named_with_channel_and_row(bad: float, rule: str) -> None:
    action = sound_action()
    action[7, 1] = action[9, 1] = bad
    found = by_rule(values.check_episode(make_subject(action=action)))
    assert set(found) == {rule}
    assert found[rule].severity is Severity.ERROR
    assert (found[rule].where, found[rule].index) == ("action", 7)
    assert "joint" in found[rule].message
    assert dict(found[rule].numbers) == {"num_rows": 2, "num_values": 2}


def test_missing_numbers_outside_the_vectors_only_warn() -> None:
    extra = {"force": np.array([[1.0, np.nan]] * 60), "count": np.arange(60)}
    found = by_rule(values.check_episode(make_subject(extra=extra)))
    assert set(found) == {"nan_value"}
    assert (found["nan_value"].severity, found["nan_value"].where) == (Severity.WARNING, "force")


def test_unmapped_columns_of_a_mapped_field_are_seen_once() -> None:
    subject = make_subject()
    wide = np.concatenate([subject.episode.action.values, np.full((60, 1), np.nan)], axis=1)
    found = values.check_episode(make_subject(extra={"action": wide}))
    assert [(finding.rule, finding.where, finding.severity) for finding in found] == [
        ("nan_value", "action", Severity.WARNING)
    ]


def test_limits_with_the_worst_row() -> None:
    proprio = sound_proprio()
    proprio[3, 0], proprio[5, 0] = 1.2, -1.7
    found = by_rule(values.check_episode(make_subject(proprio=proprio)))
    assert set(found) == {"out_of_limits"}
    assert found["out_of_limits"].index == 5
    assert dict(found["out_of_limits"].numbers) == {"value": -1.7, "num_rows": 2, "first_row": 3}


def test_a_hair_beyond_a_limit_is_no_finding() -> None:
    proprio = sound_proprio()
    proprio[3, 0] = float(np.float32(1.0)) + 1e-4
    assert values.check_episode(make_subject(proprio=proprio)) == []


def test_degrees_in_place_of_radians() -> None:
    proprio = sound_proprio()
    proprio[:, 3] = np.degrees(proprio[:, 3])
    found = by_rule(values.check_episode(make_subject(proprio=proprio)))
    assert set(found) == {"looks_like_degrees"}
    assert found["looks_like_degrees"].index is not None


def test_quaternions_must_have_length_one() -> None:
    layout = tuple(Channel(name=f"q{k}", unit="1", kind=ChannelKind.QUATERNION) for k in "xyzw")
    robot = Embodiment(name="q", title="q", control_rate=10, proprio=layout, action=ARM.action)
    angle = np.linspace(0.1, 1, 60)
    turns = np.stack([np.sin(angle), 0 * angle, 0 * angle + 1e-9 * angle, np.cos(angle)], axis=1)
    assert "quaternion_not_unit" not in by_rule(values.check_episode(make_subject(proprio=turns, embodiment=robot)))
    turns[11] *= 1.5
    found = by_rule(values.check_episode(make_subject(proprio=turns, embodiment=robot)))
    assert found["quaternion_not_unit"].index == 11


def test_one_still_channel_is_told_and_a_still_robot_warned_of() -> None:
    proprio = sound_proprio()
    proprio[:, 1] = 0.25
    found = by_rule(values.check_episode(make_subject(proprio=proprio)))
    assert set(found) == {"constant_channel"}
    assert found["constant_channel"].severity is Severity.INFO
    assert found["constant_channel"].message.endswith("y")
    proprio[:] = proprio[0]
    assert "nothing_moves" in {finding.rule for finding in values.check_episode(make_subject(proprio=proprio))}


def test_a_gripper_that_never_moves() -> None:
    proprio, action = sound_proprio(), sound_action()
    proprio[:, 4] = 0.99 + 0.01 * np.arange(60) / 60
    found = by_rule(values.check_episode(make_subject(proprio=proprio, action=action)))
    assert set(found) == {"gripper_never_moves"}


def test_a_gripper_on_another_scale() -> None:
    proprio = sound_proprio()
    proprio[:, 4] *= 255
    found = by_rule(values.check_episode(make_subject(proprio=proprio)))
    assert set(found) == {"gripper_off_scale"}


def test_an_inverted_gripper() -> None:
    action = sound_action()
    action[:, 2] = 1 - action[:, 2]
    found = by_rule(values.check_episode(make_subject(action=action)))
    assert set(found) == {"gripper_inverted"}


def test_a_gripper_that_follows_late_is_not_inverted() -> None:
    action, proprio = sound_action(), sound_proprio()
    proprio[:, 4] = np.roll(proprio[:, 4], 8)
    proprio[:8, 4] = 1.0
    assert values.check_episode(make_subject(action=action, proprio=proprio)) == []
