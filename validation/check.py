"""The protocol of checks: what a check is given, and how the findings of all are gathered and gated."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from schemas.episode import Episode


@dataclass(frozen=True, slots=True)
class ViewEvidence:
    """What looking at every frame of a view gave: ``thumbs`` uint8 gray [F, h, w] (small), one per frame of the episode."""

    thumbs: np.ndarray


@dataclass(frozen=True, slots=True)
class Subject:
    """What an episode check judges. ``evidence`` is empty where the recipe does not decode."""

    episode: Episode
    evidence: Mapping[str, ViewEvidence]


@dataclass(frozen=True, slots=True)
class EpisodeFacts:
    """What a set check is given of each kept episode: small facts from the lake, no pixels."""

    episode_id: str
    dataset: str
    locations: tuple[tuple[str, str, str], ...]
    """(location, split, key) of every place it was found."""
    num_steps: int
    instructions: tuple[str, ...]
    action_sha256: str
    """Hash of the action and proprio values alone."""
