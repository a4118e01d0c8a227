"""What the numbers of a vector are together, for every shipped card as reviewed in action_parts.json."""

import json
from pathlib import Path

import numpy as np

from pipelines.annotations import numbers_of_arm, vectors_of_arm
from pipelines.cards import embodiment_names, load_embodiment
from pipelines.named_parts import joined, named_parts
from pipelines.parts import Part, parts_of
from pipelines.probes import converted
from schemas.embodiment import Channel, ChannelKind
from tests.fake_build import made_up_card


def part_text(layout: tuple[Channel, ...], part: Part) -> str:
    def names(columns: tuple[int, ...]) -> str:
        return " ".join(layout[column].name for column in columns) or "-"

    head = f"{part.arm} {part.kind}".strip()
    if part.position or part.rotation:
        return f"{head}: {names(part.position)} | {names(part.rotation)} ({part.written or 'unknown'})"
    if part.kind == "gripper":
        known = part.gripper
        polarity = f"open {known.open:g}, closed {known.closed:g}" if known else "unknown"
        return f"{head}: {names(part.channels)} ({polarity})"
    return f"{head}: {names(part.channels)}"


def test_the_parts_of_every_card_are_the_reviewed_ones() -> None:
    reviewed = json.loads(Path(__file__).with_name("action_parts.json").read_text())
    found = {}
    for name in embodiment_names():
        robot = load_embodiment(name)
        found[name] = {
            "proprio": [part_text(robot.proprio, part) for part in parts_of(robot.proprio, robot.proprio_grippers)],
            "action": [part_text(robot.action, part) for part in parts_of(robot.action, robot.action_grippers)],
        }
    assert found == reviewed


def test_every_channel_is_in_exactly_one_part() -> None:
    for robot in map(load_embodiment, embodiment_names()):
        for layout, grippers in ((robot.action, robot.action_grippers), (robot.proprio, robot.proprio_grippers)):
            columns = [column for part in parts_of(layout, grippers) for column in part.channels]
            assert sorted(columns) == list(range(len(layout)))


def test_a_base_of_its_own_is_no_end_effector() -> None:
    layout = (
        *(Channel(name=f"base_{axis}", unit="m", kind=ChannelKind.POSITION) for axis in "xyz"),
        *(Channel(name=axis, unit="m", kind=ChannelKind.POSITION) for axis in "xyz"),
        *(Channel(name=f"r{axis}", unit="rad", kind=ChannelKind.AXIS_ANGLE) for axis in "xyz"),
    )
    assert [part_text(layout, part) for part in parts_of(layout)] == [
        "base: base_x base_y base_z | - (unknown)",
        "pose: x y z | rx ry rz (axis_angle)",
    ]


def test_a_vector_is_put_together_from_its_named_parts_as_far_as_they_hold_it() -> None:
    place = [Channel(name=name, unit="m", kind=ChannelKind.POSITION) for name in "xyz"]
    euler = [Channel(name=name, unit="rad", kind=ChannelKind.EULER) for name in ("roll", "pitch", "yaw")]
    turns = {
        "euler": euler,
        "degrees": [channel.model_copy(update={"unit": "deg"}) for channel in euler],
        "quaternion": [Channel(name=f"q{name}", unit="1", kind=ChannelKind.QUATERNION) for name in "xyzw"],
    }
    other, grip = Channel(name="thing"), Channel(name="gripper", unit="1", kind=ChannelKind.GRIPPER)
    for name, turn in turns.items():
        layout = (other, *turn, *place, grip)
        vectors = np.random.default_rng(1).normal(size=(9, len(layout))).astype(np.float32)
        parts = named_parts(layout)
        values = {key: part.of(vectors) for key, part in parts.items()}
        channels, joint = joined(parts, values, 9)
        turned = range(1, 1 + len(turn)) if name == "euler" else ()
        assert channels == (*turned, *range(1 + len(turn), len(layout)))
        np.testing.assert_array_equal(joint, vectors[:, list(channels)])
        made = list(converted("proprio", parts, values))
        assert [one.name for one in made] == ([] if name == "euler" else ["cartesian_position"])
        for one in made:
            np.testing.assert_array_equal(one.of(vectors), one.values)
    assert joined({}, {}, 3)[1].shape == (3, 0)


def test_an_annotation_gives_the_vectors_that_it_was_made_of() -> None:
    card = made_up_card(9, 8, arm=True)
    proprio, action = (np.random.default_rng(width).normal(size=(7, width)).astype(np.float32) for width in (8, 9))
    for found, wanted in zip(
        vectors_of_arm(card, numbers_of_arm(card, proprio, action, 3)), (proprio, action), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
