"""Annotations of Ctrl-World and its relatives (IRASim, VPP, Cosmos-Predict2): the numbers of one arm as JSON, and samples.

Videos there are slower than the numbers: frame i is step ``i * stride``. Fields named ``observation.*`` and ``action.*`` have a
row for each step; ``states``, ``joints``, ``state`` and ``continuous_gripper_state`` one for each frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.parts import parts_of
from schemas.embodiment import Channel, Embodiment, Gripper
from schemas.errors import RecipeError

LEAST_LEFT = 4
"""Frames that must follow the first one of a sample: half of the 8 that ``create_meta_info.py`` of Ctrl-World reckons with."""
_EULER = "euler_xyz"


@dataclass(frozen=True, slots=True)
class ArmNumbers:
    """Which channels of one vector are what."""

    pose: tuple[int, ...]
    """x, y, z and the Euler angles of the end effector; () where there is none."""
    joints: tuple[int, ...]
    gripper: tuple[int, ...]
    """One, or none."""
    others: tuple[int, ...]
    """Channels that are none of these."""
    polarity: Gripper | None
    """What opens and closes the gripper, where the card says so."""


def arm_numbers(layout: tuple[Channel, ...], grippers: tuple[Gripper, ...]) -> ArmNumbers:
    """The one pose, the joints and the one gripper of ``layout``. Of what it has twice, as two arms do, nothing is taken."""
    parts = parts_of(layout, grippers)
    poses = [part for part in parts if part.kind == "pose" and part.position and part.rotation]
    pose = poses[0] if len(poses) == 1 and poses[0].written == _EULER else None
    joints = [part for part in parts if part.kind == "joints"]
    hands = [part for part in parts if part.kind == "gripper"]
    chosen_joints = joints[0].channels if len(joints) == 1 else ()
    hand = hands[0] if len(hands) == 1 else None
    chosen_pose = (*pose.position, *pose.rotation) if pose else ()
    chosen_hand = hand.channels if hand else ()
    taken = {*chosen_pose, *chosen_joints, *chosen_hand}
    others = tuple(index for index in range(len(layout)) if index not in taken)
    return ArmNumbers(chosen_pose, chosen_joints, chosen_hand, others, hand.gripper if hand else None)


def check_arm(card: Embodiment, name: str) -> None:
    """Raises RecipeError where what is measured of the robot is not one pose with Euler angles, and one gripper."""
    found = arm_numbers(card.proprio, card.proprio_grippers)
    lacks = [what for what, one in (("pose", found.pose), ("gripper", found.gripper)) if not one]
    if lacks:
        raise RecipeError(
            f"{name} wants one end effector's position with Euler angles and one gripper, and what is measured of "
            f"{card.name} has no such {lacks[0]}",
            card.name,
            "leave this robot out with --where; if it has one, its card (docs/cards.md) should say so by kind and unit",
            "parts",
        )


def numbers_of_arm(card: Embodiment, proprio: np.ndarray, action: np.ndarray, stride: int) -> dict[str, Any]:
    """The fields of numbers, as JSON: ``proprio`` [T, P] and ``action`` [T, A] float32, and every ``stride``-th row of them.

    Every float32 is written as the double that it equals. Channels that have no field of their own are in
    ``observation.state.others`` and ``action.others``, in the order of the card. A robot without joints has rows without
    numbers, since Ctrl-World takes the length of an episode from them.
    """
    measured = arm_numbers(card.proprio, card.proprio_grippers)
    commanded = arm_numbers(card.action, card.action_grippers)
    shown = proprio[::stride]
    hand = shown[:, list(measured.gripper)]
    fields = {
        "states": shown[:, [*measured.pose, *measured.gripper]],
        "joints": shown[:, [*measured.joints, *measured.gripper]],
        "state": shown[:, [*measured.pose, *measured.gripper]],
        "continuous_gripper_state": _closed(hand[:, 0], measured.polarity),
        "observation.state.cartesian_position": proprio[:, list(measured.pose)],
        "observation.state.joint_position": proprio[:, list(measured.joints)],
        "observation.state.gripper_position": proprio[:, measured.gripper[0]],
    }
    if measured.others:
        fields["observation.state.others"] = proprio[:, list(measured.others)]
    named = {"cartesian_position": commanded.pose, "joint_position": commanded.joints, "others": commanded.others}
    fields |= {f"action.{name}": action[:, list(channels)] for name, channels in named.items() if channels}
    if commanded.gripper:
        fields["action.gripper_position"] = action[:, commanded.gripper[0]]
    return {name: values.astype(np.float64).tolist() for name, values in fields.items()}


def vectors_of_arm(card: Embodiment, fields: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of ``numbers_of_arm``: float32 [T, P] and [T, A] of the fields that have a row for each step."""
    measured = arm_numbers(card.proprio, card.proprio_grippers)
    commanded = arm_numbers(card.action, card.action_grippers)
    num = len(fields["observation.state.gripper_position"])
    found: list[np.ndarray] = []
    for width, prefix, arm in (
        (len(card.proprio), "observation.state", measured),
        (len(card.action), "action", commanded),
    ):
        named = {"cartesian_position": arm.pose, "joint_position": arm.joints, "gripper_position": arm.gripper}
        vector: np.ndarray = np.zeros((num, width), np.float32)
        for name, channels in (named | {"others": arm.others}).items():
            if channels:
                rows = np.array(fields[f"{prefix}.{name}"], dtype=np.float64)
                vector[:, list(channels)] = rows.reshape(num, len(channels))
        found.append(vector)
    return found[0], found[1]


def _closed(values: np.ndarray, polarity: Gripper | None) -> np.ndarray:
    """How far a gripper is closed, 0 to 1 between what the card calls open and closed; as recorded where it says nothing."""
    if polarity is None:
        return values
    return (values - polarity.open) / (polarity.closed - polarity.open)


def sample_frames(usable: np.ndarray, stops: np.ndarray, stride: int) -> list[int]:
    """Frames that samples may be of, by Ctrl-World's rule: all but the last four of a run, or the first of a shorter one.

    ``usable`` bool [T] says which steps count, ``stops`` int [T] where the run of each step ends: at a gap, or the episode's
    end. The trainer adds frames before and behind by itself, held to the episode and not to the run.
    """
    steps = np.arange(0, len(usable), stride)
    behind = -(-(stops[steps] - steps) // stride)
    first = np.ones(len(steps), dtype=bool)
    first[1:] = stops[steps[1:]] != stops[steps[:-1]]
    kept: list[int] = np.flatnonzero(usable[steps] & ((behind > LEAST_LEFT) | first)).tolist()
    return kept


def samples_json(starts: Mapping[int, list[int]]) -> list[dict[str, Any]]:
    """``{train,val}_sample.json``: one entry for each frame of each episode, in order; the trainer shuffles them."""
    return [{"episode_id": episode, "frame_ids": [frame]} for episode, frames in starts.items() for frame in frames]
