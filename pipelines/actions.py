"""Motions against a reference: relative to a base, frame by frame, and grippers as openings; each beside its inverse.

Formulas are vectorised over all leading dimensions, float64 inside. What is subtracted is always the same quantity: a
number and a number of its unit, a pose and a pose of its frame.
"""

from dataclasses import dataclass

import numpy as np

from schemas.action_recipe import Frame
from schemas.embodiment import Gripper


@dataclass(frozen=True, slots=True)
class Motion:
    """D numbers and K poses, at any number of instants."""

    numbers: np.ndarray
    """float64 [..., D]."""
    positions: np.ndarray
    """float64 [..., K, 3]; zero for a pose that is only a rotation."""
    rotations: np.ndarray
    """float64 [..., K, 3, 3]; identity for a pose that is only a position."""

    def at_step(self, step: int | None) -> "Motion":
        """Of [N, T, ...] the instants [N, ...] at ``step``; None: of [N, ...] the same as [N, 1, ...], for every step."""
        return Motion(self.numbers[:, step], self.positions[:, step], self.rotations[:, step])


def to_relative(motion: Motion, base: Motion, turns: np.ndarray, frame: Frame) -> Motion:
    """``motion`` as seen from ``base``; both [...], or broadcast to it.

    Numbers are differences, of those that wrap the short way: ``turns`` [D] is their full turn, infinite for others. Poses
    with p, R against p0, R0 by ``frame``: ``base`` gives p - p0 and R0^-1 R (LingBot-VA's get_relative_pose), ``tool``
    R0^-1 (p - p0) and R0^-1 R (IRASim, Cosmos, UMI), ``base_axes`` p - p0 and R R0^-1 (V-JEPA 2-AC).
    """
    back = _inverse(base.rotations)
    moved = motion.positions - base.positions
    if frame == "tool":
        moved = _turned(back, moved)
    turned = motion.rotations @ back if frame == "base_axes" else back @ motion.rotations
    return Motion(_short_way(motion.numbers - base.numbers, turns), moved, turned)


def from_relative(relative: Motion, base: Motion, frame: Frame) -> Motion:
    """The inverse of ``to_relative``; numbers that wrap come back up to whole turns."""
    moved = _turned(base.rotations, relative.positions) if frame == "tool" else relative.positions
    one, two = (relative, base) if frame == "base_axes" else (base, relative)
    return Motion(base.numbers + relative.numbers, base.positions + moved, one.rotations @ two.rotations)


def to_framewise(motion: Motion, base: Motion, turns: np.ndarray, frame: Frame) -> Motion:
    """``motion`` [N, T, ...], each step as seen from the one before it, the first from ``base`` [N, ...]."""
    before = [
        np.concatenate([first[:, None], steps[:, :-1]], axis=1)
        for first, steps in (
            (base.numbers, motion.numbers),
            (base.positions, motion.positions),
            (base.rotations, motion.rotations),
        )
    ]
    return to_relative(motion, Motion(*before), turns, frame)


def from_framewise(relative: Motion, base: Motion, frame: Frame) -> Motion:
    """The inverse of ``to_framewise``, step upon step; rounding grows with their number, about 1e-16 rad a step."""
    steps: list[Motion] = []
    for step in range(relative.numbers.shape[1]):
        base = from_relative(relative.at_step(step), base, frame)
        steps.append(base)
    if not steps:
        return relative
    return Motion(
        np.stack([one.numbers for one in steps], axis=1),
        np.stack([one.positions for one in steps], axis=1),
        np.stack([one.rotations for one in steps], axis=1),
    )


def to_turned_tools(motion: Motion, turns: np.ndarray) -> Motion:
    """``motion`` with tools that have other axes: each rotation R becomes R C, with ``turns`` [K, 3, 3] the C of its pose.

    Positions stay, since only the axes of the tool change, not its point (``droid_lerobot_dataset.py`` of cosmos-framework,
    ``poses_abs[:, :3, :3] @ self._to_opencv``).
    """
    return Motion(motion.numbers, motion.positions, motion.rotations @ turns)


def from_turned_tools(motion: Motion, turns: np.ndarray) -> Motion:
    """The inverse of ``to_turned_tools``."""
    return Motion(motion.numbers, motion.positions, motion.rotations @ _inverse(turns))


def to_opening(values: np.ndarray, gripper: Gripper) -> np.ndarray:
    """float64 [...]: 0 where ``gripper`` is closed, 1 where it is open, linear between and beyond."""
    return np.asarray((np.asarray(values, dtype=np.float64) - gripper.closed) / (gripper.open - gripper.closed))


def from_opening(opening: np.ndarray, gripper: Gripper) -> np.ndarray:
    """The inverse of ``to_opening``."""
    return np.asarray(gripper.closed + np.asarray(opening, dtype=np.float64) * (gripper.open - gripper.closed))


def _inverse(rotations: np.ndarray) -> np.ndarray:
    return np.swapaxes(rotations, -1, -2)


def _turned(rotations: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return np.asarray((rotations @ vectors[..., None])[..., 0])


def _short_way(difference: np.ndarray, turns: np.ndarray) -> np.ndarray:
    whole = np.where(np.isfinite(turns), turns, 1.0) * np.round(difference / turns)
    return np.asarray(difference - whole)
