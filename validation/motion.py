"""Motion: how channels change, and how far what a robot does lags behind what it is told."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.embodiment import Channel, ChannelKind
from schemas.episode import Episode

MIN_STEPS = 50
"""Fewer steps correlate by chance."""
MIN_CORRELATION = 0.5
"""A weaker likeness of commands and motion says nothing about when."""
MAX_LAG_S = 2.0
"""Searched on both sides; real arms answer within a third of a second (DROID 0.2 to 0.33 s, a G1 0.1 s)."""
_CONTINUOUS = frozenset({ChannelKind.POSITION, ChannelKind.ANGLE, ChannelKind.EULER})


_TURNS: Mapping[str, float] = {"rad": 2 * np.pi, "deg": 360.0}


def channel_changes(before: np.ndarray, after: np.ndarray, layout: Sequence[Channel]) -> np.ndarray:
    """``after`` minus ``before`` (both [n, P]), float64; angles go the short way round."""
    changes = after.astype(np.float64) - before
    for column, channel in enumerate(layout[: changes.shape[1]]):
        turn = _TURNS.get(channel.unit)
        if turn is not None and channel.kind in (ChannelKind.ANGLE, ChannelKind.EULER):
            changes[:, column] = (changes[:, column] + turn / 2) % turn - turn / 2
    return np.asarray(changes)


_ENOUGH_STEPS = 20_000
"""The first of a longer recording; more would say no more of how late its robot is."""


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag at which commands and motion are most alike."""

    steps: int
    """Positive: the motion comes after the command; negative: before it, which no robot does."""
    correlation: float
    causal: float
    """The best correlation of any lag of 0 or more, up to ``prompt`` steps."""
    prompt: int
    """Steps in a second, at least 1: a robot that takes longer to answer does not answer that command."""


def action_lag(episode: Episode) -> Lag | None:
    """The lag of the proprio behind the action, over all channels that can be paired; None where nothing can be said.

    Changes of a commanded place are compared with changes of the measured one; speeds and commands that are changes
    already (``delta_x``) are compared with them as they are.
    """
    action, proprio = episode.action, episode.proprio
    num = len(action.values)
    if num < MIN_STEPS or not np.array_equal(action.times_ns, proprio.times_ns):
        return None
    commands, motions = (changes[:_ENOUGH_STEPS] for changes in _paired(episode))
    if not commands.size:
        return None
    finite = np.isfinite(commands).all(axis=0) & np.isfinite(motions).all(axis=0)
    moving = finite & (np.ptp(commands, axis=0) > 0) & (np.ptp(motions, axis=0) > 0)
    if not moving.any():
        return None
    commands, motions = commands[:, moving], motions[:, moving]
    rate = float(episode.control_rate)
    reach = min(math.ceil(MAX_LAG_S * rate), num // 4)
    found = {lag: _likeness(commands, motions, lag) for lag in range(-reach, reach + 1)}
    best = max(found, key=lambda lag: (found[lag], -abs(lag)))
    prompt = max(1, round(rate))
    causal = max(value for lag, value in found.items() if 0 <= lag <= prompt)
    return Lag(best, found[best], causal, prompt) if found[best] >= MIN_CORRELATION else None


def _paired(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """[T-1, n] of commands and of the motions they ask for."""
    robot, action, proprio = episode.embodiment, episode.action.values, episode.proprio.values
    motion = channel_changes(proprio[:-1], proprio[1:], robot.proprio)
    aim = channel_changes(action[:-1], action[1:], robot.action)
    commands, motions = [], []
    for column, told in enumerate(robot.action):
        done, is_change = _partner(told, robot.proprio)
        if done is not None:
            commands.append(action[:-1, column] if is_change else aim[:, column])
            motions.append(motion[:, done])
    if not commands:
        return np.zeros((0, 0)), np.zeros((0, 0))
    return np.stack(commands, axis=1), np.stack(motions, axis=1)


def _partner(told: Channel, layout: Sequence[Channel]) -> tuple[int | None, bool]:
    """The proprio channel that a command moves, and whether the command is a change of it."""
    for index, channel in enumerate(layout):
        if channel.kind not in _CONTINUOUS:
            continue
        if told.name in (f"delta_{channel.name}", f"d_{channel.name}", f"{channel.name}_delta"):
            return index, True
        if told.name in (channel.name, f"{channel.name}_velocity") and told.unit.endswith("/s"):
            return index, True
        if told.name == channel.name and told.kind in _CONTINUOUS:
            return index, False
    return None, False


def _likeness(commands: np.ndarray, motions: np.ndarray, lag: int) -> float:
    """The mean correlation of the channels, with ``motions`` taken ``lag`` steps later."""
    num = len(commands)
    left = commands[max(0, -lag) : num - max(0, lag)]
    right = motions[max(0, lag) : num - max(0, -lag)]
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    size = np.sqrt((left**2).sum(axis=0) * (right**2).sum(axis=0))
    products = (left * right).sum(axis=0)
    return float(np.mean(np.divide(products, size, out=np.zeros_like(products), where=size > 0)))
