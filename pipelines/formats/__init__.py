"""Formats: what a trainer reads. Each file is one; it writes files whose names and indices were planned beforehand.

A member module exports ``FORMAT``, an object of the ``Format`` protocol. One decode serves all formats of a build: the
build line pushes each episode's frames, in order and in chunks, to the open writer of every format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from schemas.recipes import BuildRecipe


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Episodes that share robot, layout, views, sizes and rate, and so one folder ``<release>/<format>/<name>``."""

    name: str
    robot: str
    rate: str
    """Steps per second, as ``schemas.time.parse_rate`` reads it."""
    action_names: tuple[str, ...]
    proprio_names: tuple[str, ...]
    views: tuple[tuple[str, int, int], ...]
    """(slot, height_px, width_px) of the frames that will be pushed; empty where the content is latents only."""
    stats: Mapping[str, Mapping[str, Sequence[float]]]
    """``action`` and ``proprio`` (before normalisation): count mean std min max q01 q10 q50 q90 q99, per channel."""
    tasks: tuple[str, ...]
    """Distinct instructions, sorted; the index of one is its task index."""
    num_episodes: int
    num_steps: int
    license: str
    tokenizer_json: str | None


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """One episode of a group, with its planned place in the release."""

    episode_id: str
    episode_index: int
    """Within the group."""
    first_step: int
    """Global index, within the group, of its first step."""
    num_steps: int
    first_sample: int
    """Global index, within the group, of its first windowed sample."""
    num_samples: int
    instruction: str


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """Episodes that one worker writes into one file per kind; ``file_index`` counts within the group."""

    group: GroupPlan
    file_index: int
    episodes: tuple[EpisodePlan, ...]
    files_in_group: int
    """So that names can be padded."""


@dataclass(frozen=True, slots=True)
class BuiltEpisode:
    """The numbers of one episode on the recipe's grid. T = plan.num_steps."""

    plan: EpisodePlan
    times_ns: np.ndarray
    """int64 [T], on the episode's clock."""
    action: np.ndarray
    """float32 [T, A], normalised if the recipe says so."""
    proprio: np.ndarray
    """float32 [T, P]."""
    valid: np.ndarray
    """bool [T]: False where a stream had ended or a gap lies."""
    source_rows: np.ndarray
    """int64 [T]: row of the source's action stream."""
    source_times_ns: np.ndarray
    """int64 [T]: recorded time of that row."""
    frame_ids: Mapping[str, np.ndarray]
    """Per slot int64 [T]: source frame shown at each step."""
    frame_times_ns: Mapping[str, np.ndarray]
    """Per slot int64 [T]: recorded time of that frame."""
    tokens: Sequence[np.ndarray] | None
    """Per windowed sample: the tokens of its chunk."""
    sample_steps: np.ndarray
    """int64 [S]: first step of each windowed sample."""
    latents: Mapping[str, Sequence[Any]]
    """Per slot: its LatentClip values of this episode, in time order; {} unless the recipe asks for latents."""
    location: str
    source_key: str


class UnitWriter(Protocol):
    """Writes one unit. Calls come in order: ``begin``, for each slot ``frames`` until done, ``end``; then ``close``."""

    def begin(self, episode: BuiltEpisode) -> None:
        """Starts an episode."""
        ...

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        """uint8 RGB [n, H, W, 3] for steps ``first_step ..``; slots one after the other, steps in order."""
        ...

    def end(self) -> None:
        """Finishes the episode."""
        ...

    def close(self) -> dict[str, Any]:
        """Finishes all files of the unit, fsynced; returns JSON facts that ``finish`` needs (small)."""
        ...


class Format(Protocol):
    """One way of laying out a release. Equal inputs give equal bytes."""

    name: str
    windowed: bool
    """Whether its samples are windows (webdataset) or steps."""

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        """A writer for the files of ``unit`` under ``folder`` (the group's folder; may not exist yet)."""
        ...

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> None:
        """Writes the format's own index files, from the facts of every unit in file order; called once, last."""
        ...

    def count(self, folder: Path) -> Mapping[str, int]:
        """``samples``, ``frames`` and ``episodes`` found by reading the group's folder as its users would."""
        ...


__all__ = ["BuiltEpisode", "EpisodePlan", "Format", "GroupPlan", "UnitPlan", "UnitWriter"]
