"""The numbers of one arm as UMI's buffers name them: place, rotation vector and gripper width of ``robot0``, and where a
demonstration begins and ends. Trainers of UMI and UVA make their actions of these."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.parts import Part, parts_of
from pipelines.release_plan import GroupPlan
from pipelines.rotations import convert
from schemas.embodiment import Embodiment
from schemas.errors import RecipeError

POSITION, ROTATION, WIDTH = "robot0_eef_pos", "robot0_eef_rot_axis_angle", "robot0_gripper_width"
START, END = "robot0_demo_start_pose", "robot0_demo_end_pose"
WIDTHS: Mapping[str, int] = {POSITION: 3, ROTATION: 3, WIDTH: 1, START: 6, END: 6}
"""How many numbers each array has."""
_CAMERA = re.compile(r"camera[0-9]+_rgb")


@dataclass(frozen=True, slots=True)
class UmiNumbers:
    """Which numbers of a robot these are; see ``columns``."""

    pose: Part
    degrees: bool
    hand: int
    """The channel of the gripper."""
    closed: float
    metres: float
    """The width of the gripper is so many times what lies between its number and ``closed``."""

    def columns(self, proprio: np.ndarray) -> dict[str, np.ndarray]:
        """By name float32 [T, w] of an episode's ``proprio`` [T, P]; the last two are the same on every row."""
        turns = proprio[:, list(self.pose.rotation)].astype(np.float64)
        written = self.pose.written or "axis_angle"
        vectors = convert(np.deg2rad(turns) if self.degrees else turns, written, "axis_angle")
        place = proprio[:, list(self.pose.position)]
        width = (proprio[:, [self.hand]].astype(np.float64) - self.closed) * self.metres
        poses = np.column_stack([place, vectors])
        found = {POSITION: place, ROTATION: vectors, WIDTH: width}
        found |= {START: np.tile(poses[:1], (len(poses), 1)), END: np.tile(poses[-1:], (len(poses), 1))}
        return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in found.items()}


def umi_numbers(card: Embodiment, where: str, stroke_m: float | None) -> UmiNumbers:
    """Of the robot of ``card``. Raises RecipeError unless it has one pose in metres and one gripper whose width is known: in
    metres, or between open and closed as its card says, ``stroke_m`` apart."""
    parts = parts_of(card.proprio, card.proprio_grippers)
    poses = [part for part in parts if part.kind == "pose" and part.position and part.written]
    hands = [part for part in parts if part.kind == "gripper"]
    if len(poses) != 1 or len(hands) != 1 or card.proprio[poses[0].position[0]].unit != "m":
        raise RecipeError(
            f"UMI's buffers hold one end effector's pose in metres and one gripper, and {card.name} measures "
            f"{len(poses)} poses and {len(hands)} grippers",
            where,
            "leave such robots out with --where; a card that knows more of the robot helps",
            "no_part",
        )
    (pose,), (hand,) = poses, hands
    degrees = any(card.proprio[index].unit == "deg" for index in pose.rotation)
    channel, polarity = card.proprio[hand.channels[0]], hand.gripper
    if channel.unit == "m":
        return UmiNumbers(pose, degrees, hand.channels[0], 0.0, 1.0)
    if stroke_m is None or polarity is None:
        raise RecipeError(
            f"UMI's buffers hold the width of the gripper in metres, and {channel.name} of {card.name} is in {channel.unit}",
            where,
            "set [zarr] gripper_stroke_m to the width of the open gripper, as 0.085 for a Robotiq 2F-85"
            if polarity
            else "its card (docs/cards.md) should say which value is open and which is closed",
            "gripper",
        )
    return UmiNumbers(pose, degrees, hand.channels[0], polarity.closed, stroke_m / (polarity.open - polarity.closed))


def check_cameras(group: GroupPlan) -> None:
    """Raises RecipeError unless every view is called as UMI's cameras are."""
    other = [view for view, _, _ in group.views if not _CAMERA.fullmatch(view)]
    if other or not group.views:
        raise RecipeError(
            f"UMI's cameras are called camera0_rgb and so on, and there is {', '.join(other) or 'no view'}",
            "names.views",
            'name them, as in [names.views] wrist_left = "camera0_rgb", and leave the others out with views.slots',
            "no_view",
        )
