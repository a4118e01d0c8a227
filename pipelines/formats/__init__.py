"""Formats: what a trainer reads. Each file is one; it writes files whose names and indices were planned beforehand.

A member module exports ``FORMAT``, an object of the ``Format`` protocol. One decode serves all formats of a build: the
build line pushes each episode's frames, in order and in chunks, to the open writer of every format.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from pipelines.release_plan import (
    BuiltEpisode,
    ChunkSource,
    EpisodePlan,
    GroupPlan,
    Pictures,
    Split,
    UnitPlan,
    UnitProgress,
    planned_counts,
    sized,
    sized_group,
)
from schemas.recipes import BuildRecipe


def describe_group(group: GroupPlan, recipe: BuildRecipe) -> dict[str, Any]:
    """What the vectors and views of a group mean, as JSON: the same words in the manifest and in every format's index.

    ``stats`` and those of ``action_chunk`` are what was normalised by; tokens are of the numbers of a chunk whose ``mask``
    is true, in their order.
    ``token_offset`` is to be taken off token ids before ``tokenizer`` decodes them; both are None where there are none.
    """
    chosen = None if group.tokenizer_json is None else recipe.tokenizer
    return {
        "dataset": group.dataset,
        "robot": group.robot,
        "card": group.card.model_dump(mode="json"),
        "rate": group.rate,
        "license": group.license,
        "horizon": recipe.horizon,
        "action_names": list(group.action_names),
        "proprio_names": list(group.proprio_names),
        "views": [{"slot": slot, "height_px": height, "width_px": width} for slot, height, width in group.views],
        "normalize": recipe.normalize,
        "stats": {
            name: {key: list(values) for key, values in part.items()}
            for name, part in (group.given_stats or group.stats).items()
        },
        "action_chunk": {
            "recipe": recipe.actions.model_dump(mode="json"),
            "names": list(group.chunk.names),
            "mask": list(group.chunk.mask),
            "unmoved": list(group.chunk.unmoved),
            "plan": group.chunk.plan,
            "stats_of": asdict(group.chunk.stats.of),
            "stats": group.chunk.stats.overall.to_mapping(),
            "step_stats": [step.to_mapping() for step in group.chunk.stats.steps],
        },
        "tokenizer": None if group.tokenizer_json is None else json.loads(group.tokenizer_json),
        "token_offset": None if chosen is None else chosen.offset,
    }


class UnitWriter(Protocol):
    """Writes one unit. Calls come in order, of one thread or of another: ``begin`` and ``end`` of each episode; then ``close``.

    Latents of an episode are there from ``end`` on, since a build may encode the very pictures that it writes.
    """

    def begin(self, episode: BuiltEpisode) -> None:
        """Starts an episode."""
        ...

    def end(self) -> None:
        """Finishes the episode."""
        ...

    def close(self) -> dict[str, Any]:
        """Finishes all files of the unit, fsynced; returns JSON facts that ``finish`` needs (small)."""
        ...


@runtime_checkable
class PictureWriter(UnitWriter, Protocol):
    """A writer of pictures: between ``begin`` and ``end``, for each slot ``frames`` until done."""

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        """uint8 RGB [n, H, W, 3] for steps ``first_step ..``; slots one after the other, steps in order."""
        ...


@runtime_checkable
class CopyingWriter(PictureWriter, Protocol):
    """A writer that also takes frames as they are compressed, where ``copies`` says so."""

    copies: bool

    def copy(self, slot: str, video: bytes, pictures: Pictures, /) -> None:
        """Instead of ``frames``: an MP4 with a frame for each step; ``pictures`` are for what has to be looked at."""
        ...


class Format(Protocol):
    """One way of laying out a release. Equal inputs give equal bytes."""

    name: str
    beside: str
    """The format in whose folders it writes, with other file names, so that one folder serves several trainers; "" for
    folders of its own."""
    windowed: bool
    """Whether its samples are windows (webdataset) or steps."""
    takes_latents: bool
    """Whether it writes the latents of a build that joins some."""

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        """A writer for the files of ``unit`` under ``folder`` (the group's folder; may not exist yet)."""
        ...

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        """Writes the format's own index files, from the facts of every unit in file order; called once, last.

        Returns what ``count`` must find, by the plan.
        """
        ...

    def count(self, folder: Path) -> Mapping[str, int]:
        """``samples``, ``frames`` and ``episodes`` found by reading the group's folder as its users would."""
        ...


__all__ = [
    "BuiltEpisode",
    "ChunkSource",
    "CopyingWriter",
    "EpisodePlan",
    "Format",
    "GroupPlan",
    "PictureWriter",
    "Pictures",
    "Split",
    "UnitPlan",
    "UnitProgress",
    "UnitWriter",
    "describe_group",
    "planned_counts",
    "sized",
    "sized_group",
]
