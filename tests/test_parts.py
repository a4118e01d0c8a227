"""What the numbers of a vector are together, for every shipped card as reviewed in action_parts.json."""

import json
from pathlib import Path

from pipelines.cards import embodiment_names, load_embodiment
from pipelines.parts import Part, parts_of
from schemas.embodiment import Channel, ChannelKind


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
