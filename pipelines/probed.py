"""What probes give of a release: the words that they and their callers share; ``pipelines.probes`` has the protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class EpisodeRows:
    """What a format holds of one episode: R rows, one for each step, or for each step of each window."""

    steps: np.ndarray
    """int64 [R]: which step of the episode each row tells of."""
    samples: np.ndarray
    """int64 [S]: the numbers, within the group, of the samples that are there."""
    times_ns: np.ndarray | None
    """int64 [R] on the episode's clock; None where the format does not keep it."""
    source_rows: np.ndarray
    """int64 [R]."""
    frame_ids: Mapping[str, np.ndarray]
    """By view int64 [R]."""
    vectors: Mapping[str, np.ndarray]
    """``action`` and ``proprio``, as far as they are there, as written: float32 [R, A]."""
    clock_error_s: float | None = None
    """How far a row, or the frame that its reader gets for it, lies at most from its step on the format's own clock."""


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
