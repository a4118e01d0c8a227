"""What the columns of a numeric stream look like: ranges, and what they may stand for, each guess with its evidence.

For drafting a card of data nobody described yet. Nothing here is certain, so every guess says what it rests on, and what
has no evidence stays unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.embodiment import ChannelKind

MIN_ROWS = 10
"""Fewer rows are evidence of nothing."""
QUATERNION_TOLERANCE = 1e-3
WRAP = np.pi
"""rad: an angle that jumps by more than half a turn from one row to the next has wrapped."""
TURN_SLACK = 1e-3
END_SHARE = 0.5
"""Of the rows: a gripper rests at its ends that much of the time."""
END_WIDTH = 0.05
"""Of the range: how near counts as an end."""
LIKENESS = 0.95
"""Correlation from which two columns are said to move alike."""


@dataclass(frozen=True, slots=True)
class ColumnGuess:
    """One column: its range over all rows seen, and what it may be. ``evidence`` is empty where nothing speaks for it."""

    low: float
    high: float
    kind: ChannelKind
    unit: str
    evidence: str

    @property
    def is_constant(self) -> bool:
        """Whether it has one value throughout."""
        return self.low == self.high


def guess_columns(episodes: Sequence[np.ndarray], names: Sequence[str]) -> list[ColumnGuess]:
    """A guess for each column of a stream: ``episodes`` are its values [T, D] in each episode, ``names`` its D names or none."""
    rows = np.concatenate([values.astype(np.float64) for values in episodes])
    width = rows.shape[1]
    finite = np.where(np.isfinite(rows), rows, np.nan)
    if not len(rows) or np.isnan(finite).all():
        return [ColumnGuess(np.nan, np.nan, ChannelKind.UNKNOWN, "unknown", "no finite value seen")] * width
    quaternions = _quaternions(rows) if len(rows) >= MIN_ROWS else {}
    guesses = []
    for column in range(width):
        values = finite[:, column][np.isfinite(finite[:, column])]
        low, high = (float(values.min()), float(values.max())) if values.size else (np.nan, np.nan)
        name = names[column].casefold() if names else ""
        kind, unit, evidence = quaternions.get(column) or _wraps(episodes, column) or _single(values, name)
        guesses.append(ColumnGuess(low, high, kind, unit, evidence))
    return guesses


def _quaternions(rows: np.ndarray) -> dict[int, tuple[ChannelKind, str, str]]:
    """Groups of four columns that behave as a quaternion, from left to right, none overlapping."""
    found: dict[int, tuple[ChannelKind, str, str]] = {}
    column = 0
    while column + 4 <= rows.shape[1]:
        group = rows[:, column : column + 4]
        lengths = np.linalg.norm(group, axis=1)
        if (np.ptp(group, axis=0) > 0).sum() >= 2 and np.abs(lengths - 1).max() <= QUATERNION_TOLERANCE:
            evidence = f"four columns of length 1 in all {len(rows)} rows; xyzw is assumed, wxyz looks the same"
            found |= {column + part: (ChannelKind.QUATERNION, "1", evidence) for part in range(4)}
            column += 4
        else:
            column += 1
    return found


def _wraps(episodes: Sequence[np.ndarray], column: int) -> tuple[ChannelKind, str, str] | None:
    """An angle, if it stays within half a turn either way and jumps by about a turn somewhere."""
    steps = [values[:, column].astype(np.float64) for values in episodes]
    if any(np.abs(one).max(initial=0) > np.pi + TURN_SLACK for one in steps):
        return None
    jumps = sum(int((np.abs(np.diff(one)) > WRAP).sum()) for one in steps)
    if not jumps or all(set(np.unique(one).tolist()) <= {-1.0, 0.0, 1.0} for one in steps):
        return None
    return ChannelKind.ANGLE, "rad", f"within +-pi, and jumps by about a turn at {jumps} places"


def _single(values: np.ndarray, name: str) -> tuple[ChannelKind, str, str]:
    unknown = (ChannelKind.UNKNOWN, "unknown", "")
    if len(values) < MIN_ROWS:
        return unknown
    low, high = float(values.min()), float(values.max())
    distinct = np.unique(values)
    if "grip" in name or "finger" in name:
        return ChannelKind.GRIPPER, "unknown", f"its name; runs from {low:.4g} to {high:.4g}"
    if low == high:
        return ChannelKind.UNKNOWN, "unknown", "never changes"
    if set(distinct.tolist()) <= {0.0, 1.0}:
        return ChannelKind.FLAG, "1", "only 0 and 1 occur; it may be a gripper that is open or closed"
    ends = np.minimum(values - low, high - values) < END_WIDTH * (high - low)
    near_unit = abs(low) < END_WIDTH and abs(high - 1) < END_WIDTH
    if (near_unit or np.allclose([low, high], [-1, 1], atol=END_WIDTH)) and ends.mean() > END_SHARE:
        share = f"{ends.mean():.0%} of the rows are at its ends {low:.3g} and {high:.3g}"
        return ChannelKind.GRIPPER, "1", share
    if "joint" in name or name.startswith("q_"):
        return ChannelKind.POSITION, "unknown", "its name"
    return unknown


def relation(actions: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> str:
    """What the action is to the state, column by column on average: a sentence with its evidence; "" where nothing shows.

    ``actions`` and ``states`` are [T, D] of each episode, with equal D; compares a_t with s_t+1, and with s_t+1 - s_t.
    """
    reached, changed = [], []
    for action, state in zip(actions, states, strict=True):
        steps = min(len(action), len(state) - 1)
        if steps >= MIN_ROWS:
            reached.append((action[:steps], state[1 : steps + 1]))
            changed.append((action[:steps], np.diff(state[: steps + 1], axis=0)))
    if not reached:
        return ""
    absolute, delta = _likeness(reached), _likeness(changed)
    if max(absolute, delta) < LIKENESS * 0.8:
        return ""
    if absolute >= delta:
        return f"follows the state one step later (mean correlation {absolute:.2f}): absolute targets"
    return f"follows the change of the state (mean correlation {delta:.2f}): displacements or velocities"


def _likeness(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    left = np.concatenate([one for one, _ in pairs]).astype(np.float64)
    right = np.concatenate([two for _, two in pairs]).astype(np.float64)
    moving = (np.ptp(left, axis=0) > 0) & (np.ptp(right, axis=0) > 0)
    if not moving.any() or not (np.isfinite(left).all() and np.isfinite(right).all()):
        return 0.0
    correlations = [float(np.corrcoef(left[:, k], right[:, k])[0, 1]) for k in np.flatnonzero(moving)]
    return float(np.median(correlations))
