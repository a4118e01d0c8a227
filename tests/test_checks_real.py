"""The checks on real DROID recordings: sound cameras raise no alarm, and defects put into them are found."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper
from schemas.recipes import Gates
from schemas.time import TimeGrid
from tests.check_subjects import make_subject
from tests.real import real_data
from validation.check import Subject, judge_episode

CONTROL_RATE, CAMERA_RATE = Fraction(15), Fraction(5)
LAYOUT = (
    *(Channel(name=f"joint_{k}", unit="rad", kind=ChannelKind.ANGLE, low=-3.8, high=3.8) for k in range(7)),
    Channel(name="gripper", unit="1", kind=ChannelKind.GRIPPER),
)
GRIPPERS = (Gripper(channel="gripper", open=0, closed=1),)
PANDA = Embodiment(
    name="panda",
    title="Franka Panda",
    control_rate=CONTROL_RATE,
    proprio=LAYOUT,
    action=LAYOUT,
    proprio_grippers=GRIPPERS,
    action_grippers=GRIPPERS,
)


def read_thumbs(path: Path) -> np.ndarray:
    """uint8 gray [F, 29, 48]."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return np.stack([frame.reformat(width=48, height=29, format="gray").to_ndarray() for frame in frames])


def read_subject(annotation: Path, camera: int, damage: str = "") -> Subject:
    facts = json.loads(annotation.read_text())
    folder = annotation.parents[2] / "videos" / annotation.parent.name / annotation.stem
    thumbs = read_thumbs(folder / f"{camera}.mp4")
    third = len(thumbs) // 3
    if damage == "frozen":
        thumbs[third : 2 * third] = thumbs[third]
    elif damage == "unplugged":
        thumbs[third:] = 0

    def vector(field: str) -> np.ndarray:
        joints = np.asarray(facts[f"{field}.joint_position"], np.float64)
        return np.concatenate([joints, np.asarray(facts[f"{field}.gripper_position"]).reshape(-1, 1)], axis=1)

    action = vector("action")
    return make_subject(
        action=action,
        proprio=vector("observation.state"),
        times_ns=TimeGrid(0, CONTROL_RATE, len(action)).times_ns(),
        frames_ns=TimeGrid(0, CAMERA_RATE, len(thumbs)).times_ns(),
        thumbs=thumbs,
        texts=tuple(facts["texts"]),
        embodiment=PANDA,
    )


def annotations() -> list[Path]:
    found = sorted((real_data("ctrlworld_droid") / "droid_subset" / "annotation").glob("*/*.json"))
    assert len(found) == 11
    return found


@pytest.mark.real
def test_real_episodes_raise_no_false_alarm() -> None:
    empty = 0
    for annotation in annotations():
        findings, measures, rejection = judge_episode(read_subject(annotation, camera=2), Gates())
        assert rejection is None
        rules = {finding.rule for finding in findings}
        empty += "empty_instruction" in rules
        assert rules <= {"empty_instruction", "gripper_never_moves", "constant_channel", "still_frames"}
        values = {measure.name: measure.value for measure in measures}
        assert 0 <= values["idle_fraction"] < 0.6
        assert 0.02 < values["mean_brightness_primary"] < 0.98
    assert empty == 5


@pytest.mark.real
@pytest.mark.parametrize(("damage", "rule"), [("frozen", "frozen_frames"), ("unplugged", "black_frames")])
def test_damage_to_real_pictures_is_found_at_its_frame(damage: str, rule: str) -> None:
    for annotation in annotations():
        subject = read_subject(annotation, camera=0, damage=damage)
        third = subject.evidence["primary"].num_frames // 3
        findings, _, _ = judge_episode(subject, Gates())
        assert [finding.index for finding in findings if finding.rule == rule] == [third], annotation.stem
