"""What probes give of a release: the words that they and their callers share; ``pipelines.probes`` has the protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Made:
    """Numbers that a format makes of a vector, and that this cannot be had back from: a rotation written in another way."""

    name: str
    vector: str
    """``action`` or ``proprio``."""
    values: np.ndarray
    """float32 [R, n], as written."""
    of: Callable[[np.ndarray], np.ndarray]
    """What was done: from float32 [T, A] of the vector to [T, n]."""


@dataclass(frozen=True, slots=True)
class EpisodeRows:
    """What a format holds of one episode: R rows, one for each step, or for each step of each window.

    What it does not hold is None, or not there; then nothing is said of it.
    """

    steps: np.ndarray
    """int64 [R]: which step of the episode each row tells of."""
    samples: np.ndarray | None
    """int64 [S]: the numbers, within the group, of the samples that are there; None where there are ``begins``."""
    times_ns: np.ndarray | None
    """int64 [R] on the episode's clock; see ``rounded_ns``."""
    source_rows: np.ndarray | None
    """int64 [R]."""
    frame_ids: Mapping[str, np.ndarray]
    """By view int64 [R]."""
    vectors: Mapping[str, np.ndarray]
    """``action`` and ``proprio``, as far as they are there, as written: float32 [R, A], in the order of the group's names."""
    clock_error_s: float | None = None
    """How far a row, or the frame that its reader gets for it, lies at most from its step on the format's own clock."""
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By vector: which of the group's numbers its columns are, where they are not all."""
    made: tuple[Made, ...] = ()
    firsts: np.ndarray | None = None
    """float32 [R, W]: the first step of the recipe's chunk at each row, of a format whose trainers cut their own chunks."""
    valid: np.ndarray | None = None
    """bool [R]: which rows the format says count; with ``firsts``, only those whose chunk counts there."""
    selected: np.ndarray | None = None
    """bool [R]: which rows windows may hold."""
    begins: np.ndarray | None = None
    """int64 [S]: the step of each sample, of a format that lists some steps as its samples."""
    shown: np.ndarray | None = None
    """int64 [F]: the steps that have pictures, rising, where not all have."""
    rounded_ns: int = 0
    """Above 0, all times are counted from the episode's first step, and rounded to so many nanoseconds."""
    frame_times_ns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """By view int64 [R]: when the frame was taken."""
    at_odds: tuple[str, ...] = ()
    """What the format says of the episode that is not so by other things it says, or by the manifest."""


@dataclass(frozen=True, slots=True)
class LatentSpan:
    """One latent frame of a sample."""

    view: str
    latent_id: str
    latent: int
    """Which of its clip."""
    frame_ids: tuple[int, ...]
    """Source frames it was made of."""
    times_ns: tuple[int, int]
    """Of the first of them, and of what follows the last; half open where that is known."""
    shape: tuple[int, ...]
    """C, h, w."""


@dataclass(frozen=True, slots=True)
class SampleContent:
    """What a trainer is given of one sample."""

    episode_index: int
    step: int
    """The first of its steps."""
    steps: tuple[int, ...]
    """Of the episode, that the chunk and the pictures are of; the last is repeated where the chunk is padded."""
    chunk_names: tuple[str, ...]
    chunk: np.ndarray
    """float32 [H, W], as written."""
    mask: np.ndarray
    """bool [H]: what counts."""
    tokens: tuple[int, ...] | None
    latents: tuple[LatentSpan, ...]


def episode_at(group: Mapping[str, Any], number: int, first: str, count: str) -> Mapping[str, Any]:
    """The episode of a group of the manifest that has step or sample ``number``: ``first_step`` and ``num_steps``, or
    ``first_sample`` and ``num_samples``, say where it begins and how many it has.
    """
    found: Mapping[str, Any] = next(
        episode for episode in group["episodes"] if episode[first] <= number < episode[first] + episode[count]
    )
    return found


def of_steps(
    group: Mapping[str, Any], number: int, names: Sequence[str], rows: Callable[[Mapping[str, Any]], EpisodeRows]
) -> SampleContent:
    """The sample at step ``number`` of a group whose format holds an action for each step, and no chunks: as trainers cut them,
    of the rows that follow. The action is ``firsts``, or, where there is none, the recorded vector.
    """
    episode = episode_at(group, number, "first_step", "num_steps")
    told, step = rows(episode), number - episode["first_step"]
    values = told.vectors["action"] if told.firsts is None else told.firsts
    wanted: np.ndarray = step + np.arange(group["horizon"])
    steps = np.minimum(wanted, len(values) - 1)
    return SampleContent(
        episode_index=episode["episode_index"],
        step=step,
        steps=tuple(steps.tolist()),
        chunk_names=tuple(names),
        chunk=values[steps],
        mask=(wanted < len(values)) & (True if told.valid is None else told.valid[steps]),
        tokens=None,
        latents=(),
    )


def numbers_in_split(group: Mapping[str, Any]) -> dict[str, int]:
    """By id: how many episodes of its split come before each of the group."""
    seen: dict[str, int] = {}
    found: dict[str, int] = {}
    for episode in group["episodes"]:
        found[episode["episode_id"]] = seen.get(episode["split"], 0)
        seen[episode["split"]] = found[episode["episode_id"]] + 1
    return found
