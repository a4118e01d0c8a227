"""What a release will hold, planned before anything is written: groups, episodes, units; and what a format is given of them.

The words that the build line and the families of formats share; ``pipelines.formats`` has the protocol and names these too.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, Self

import numpy as np

from pipelines.action_chunks import ChunkLayout
from pipelines.chunk_stats import ChunkStats
from pipelines.stats import Stats, stats_from_json
from pipelines.text_rows import TextEmbedding
from schemas.embodiment import Embodiment
from schemas.episode import Calibration
from schemas.errors import ReleaseError
from schemas.latent import LatentClip
from schemas.recipes import BuildRecipe

Split = Literal["train", "val"]
Pictures = Callable[[np.ndarray], Iterator[np.ndarray]]
"""Gives uint8 RGB chunks [n, H, W, 3] of a view of an episode at rising steps [N]."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """Episodes that share robot, layout, views, sizes and rate, and so one folder ``<release>/<format>/<name>``."""

    name: str
    dataset: str
    card: Embodiment
    """The robot: the layouts of action and proprio, channel by channel."""
    rate: str
    """Steps per second, as ``schemas.time.parse_rate`` reads it."""
    action_names: tuple[str, ...]
    proprio_names: tuple[str, ...]
    views: tuple[tuple[str, int, int], ...]
    """(slot, height_px, width_px) of the frames that will be pushed; empty where the content is latents only."""
    stats: Mapping[str, Mapping[str, Sequence[float]]]
    """``action`` and ``proprio`` (before normalisation): count mean std min max q01 q10 q50 q90 q99, per channel."""
    chunk: ChunkLayout
    """What the numbers of action chunks are."""
    tasks: tuple[str, ...]
    """Distinct instructions (all of ``EpisodePlan.told``), sorted; the index of one is its task index."""
    num_episodes: int
    num_steps: int
    license: str
    tokenizer_json: str | None
    given_stats: Mapping[str, Mapping[str, Sequence[float]]] | None = None
    """``action`` and ``proprio`` to normalise by, as ``stats``; None: these."""
    relative: Mapping[str, ChunkStats] = field(default_factory=dict)
    """Of chunks relative to the state at their start, before normalization: the statistics of each part that is, by a name as
    ``modality.json`` has it (``build_stats.moved_slots``); {} for any other actions."""
    recorded: ChunkStats | None = None
    """Of the actions as recorded, in chunks that begin at every step, whatever ``[actions]`` makes of them; None where no
    format asks for these."""

    @property
    def robot(self) -> str:
        """The name of the robot's card."""
        return self.card.name

    def normalizing(self, name: str) -> Stats:
        """The statistics by which ``action`` or ``proprio`` is normalised."""
        chosen = (self.given_stats or self.stats)[name]
        return stats_from_json(json.dumps({key: list(values) for key, values in chosen.items()}))


class ChunkSource(Protocol):
    """The action chunks of an episode of T steps, as the release holds them."""

    def at(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 [n, horizon, W], and bool [n, horizon] of what counts, of the chunks of the samples at ``steps`` [n]."""
        ...


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
    """The first that the episode has, for what names it as a whole."""
    instructions: tuple[tuple[int, str], ...] = ()
    """(first step, text) of each run of steps with one instruction, where it changes; empty where it does not."""
    other_instructions: tuple[str, ...] = ()
    """Further ones of the whole episode, in other words."""
    success: bool | None = None
    """None where nobody said."""
    split: Split = "train"

    @classmethod
    def told_by(cls, episode: Mapping[str, Any]) -> Self:
        """The plan of an episode of a manifest, which has every field."""
        known = {one.name: episode[one.name] for one in fields(cls)}
        known["instructions"] = tuple((start, text) for start, text in episode["instructions"])
        known["other_instructions"] = tuple(episode["other_instructions"])
        return cls(**known)

    @property
    def texts(self) -> tuple[tuple[int, int, str], ...]:
        """(first step, step behind the last, text) of each run of steps with one instruction, covering all steps."""
        runs = self.instructions or ((0, self.instruction),)
        stops = [*(start for start, _ in runs[1:]), self.num_steps]
        return tuple((start, stop, text) for (start, text), stop in zip(runs, stops, strict=True))

    def told(self, joined_by: str = "") -> tuple[tuple[int, int, tuple[str, ...]], ...]:
        """As ``texts``, with all that was said of each run, the first first; one text with ``joined_by`` between, if given."""
        runs = [(start, stop, (text, *self.other_instructions)) for start, stop, text in self.texts]
        return tuple((start, stop, (joined_by.join(said),) if joined_by else said) for start, stop, said in runs)

    def text_at(self, step: int) -> str:
        """The instruction of ``step``."""
        return next(text for start, _, text in reversed(self.texts) if start <= step)


@dataclass(frozen=True, slots=True)
class UnitPlan:
    """Episodes that one worker writes into one file per kind; ``file_index`` counts within the group."""

    group: GroupPlan
    file_index: int
    episodes: tuple[EpisodePlan, ...]
    files_in_group: int
    """So that names can be padded."""
    file_in_split: int
    """As ``file_index``, within the split: a unit has episodes of one."""
    files_in_split: int
    split_first_step: int
    """Global index, within the group, of the first step of the split."""


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
    chunks: ChunkSource
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
    chunk_stops: np.ndarray
    """int64 [T]: a window that begins at a step ends at this one at the latest: nothing crosses a gap or a bound."""
    selected: np.ndarray | None
    """bool [T]: whether the windows of the recipe may hold the step; None where it leaves none out."""
    latents: dict[str, list[LatentClip]]
    """Per slot: those of this episode, in time order; {} unless the recipe asks for latents. There from ``end``
    on."""
    embeddings: Mapping[str, TextEmbedding]
    """By instruction of the episode, and of the empty one: that of the prompt made of it; {} unless the recipe asks."""
    calibrations: Mapping[str, tuple[Calibration, ...]]
    """Per slot: what its source says of the camera; nothing of canvases."""
    location: str
    source_key: str


def planned_counts(group: GroupPlan, recipe: BuildRecipe, units: Sequence[UnitPlan], windowed: bool) -> dict[str, int]:
    """Counts of a format whose samples are all the windows of the plan, or all its steps, with a frame of every view each."""
    episodes = [episode for unit in units for episode in unit.episodes]
    if not windowed:
        return {"samples": group.num_steps, "frames": group.num_steps * len(group.views), "episodes": len(episodes)}
    windows = sum(episode.num_samples for episode in episodes)
    return {
        "samples": windows,
        "frames": windows * recipe.horizon * len(group.views),  # a window past the end is padded
        "episodes": sum(1 for episode in episodes if episode.num_samples),
    }


def sized_group(group: GroupPlan, recipe: BuildRecipe, name: str) -> GroupPlan:
    """``group`` as the format ``name`` shows it: with pictures of a size of its own where it has one."""
    size = recipe.sizes.get(name)
    if size is None:
        return group
    return replace(group, views=tuple((view, size.height_px, size.width_px) for view, _, _ in group.views))


def sized(unit: UnitPlan, recipe: BuildRecipe, name: str) -> UnitPlan:
    """The same of a unit."""
    return replace(unit, group=sized_group(unit.group, recipe, name))


class UnitProgress:
    """Holds the caller of a unit writer to the plan: every episode, in order, with every frame of every view.

    A writer passes each of its calls on to it first. Every departure from the plan raises ReleaseError, since names and
    indices were fixed by that plan and a gap would shift all that follows.
    """

    def __init__(self, unit: UnitPlan, with_frames: bool = True) -> None:
        self.unit = unit
        self._views = {slot: (height, width, 3) for slot, height, width in unit.group.views} if with_frames else {}
        self._num_done = 0
        self._episode: BuiltEpisode | None = None
        self._num_frames: dict[str, int] = {}

    @property
    def episode(self) -> BuiltEpisode:
        """The episode begun and not yet ended."""
        if self._episode is None:
            raise self._error("no episode has begun")
        return self._episode

    def begin(self, episode: BuiltEpisode) -> None:
        """The next planned episode begins; its arrays must have the planned lengths and widths."""
        if self._episode is not None:
            raise self._error(f"episode {episode.plan.episode_index} begins before the one before it has ended")
        planned = self.unit.episodes[self._num_done : self._num_done + 1]
        if (episode.plan,) != planned:
            raise self._error(f"episode {episode.plan.episode_id} is not the next one of the plan")
        steps, group = episode.plan.num_steps, self.unit.group
        wanted = {
            "times_ns": (episode.times_ns, (steps,)),
            "action": (episode.action, (steps, len(group.action_names))),
            "proprio": (episode.proprio, (steps, len(group.proprio_names))),
            "valid": (episode.valid, (steps,)),
            "source_rows": (episode.source_rows, (steps,)),
            "source_times_ns": (episode.source_times_ns, (steps,)),
            "sample_steps": (episode.sample_steps, (episode.plan.num_samples,)),
            "chunk_stops": (episode.chunk_stops, (steps,)),
            **{f"frame_ids of {slot}": (ids, (steps,)) for slot, ids in episode.frame_ids.items()},
        }
        for name, (array, shape) in wanted.items():
            if array.shape != shape:
                raise self._error(f"{name} of episode {episode.plan.episode_id} is {array.shape}, planned was {shape}")
        missing = [slot for slot in self._views if slot not in episode.frame_ids]
        if missing:
            raise self._error(f"episode {episode.plan.episode_id} has no frame ids for {missing}")
        if episode.tokens is not None and len(episode.tokens) != episode.plan.num_samples:
            raise self._error(f"{len(episode.tokens)} token rows for {episode.plan.num_samples} samples")
        self._episode = episode
        self._num_frames = dict.fromkeys(self._views, 0)

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        """The next frames of ``slot``: they follow those before without gap and have the planned size."""
        plan = self.episode.plan
        if slot not in self._views:
            raise self._error(f"frames of {slot!r}, which is not a view of the group")
        if frames.dtype != np.uint8 or frames.shape[1:] != self._views[slot]:
            raise self._error(
                f"{slot}: got {frames.dtype} frames {frames.shape[1:]}, planned uint8 {self._views[slot]}"
            )
        done = self._num_frames[slot]
        if first_step != done or done + len(frames) > plan.num_steps:
            raise self._error(
                f"{slot}: frames of steps [{first_step}, {first_step + len(frames)}) do not follow the {done} "
                f"of {plan.num_steps} that are there"
            )
        self._num_frames[slot] = done + len(frames)

    def copied(self, slot: str, num_frames: int) -> None:
        """All frames of ``slot`` came at once, as they were compressed."""
        planned = self.episode.plan.num_steps
        if self._num_frames.get(slot) != 0 or num_frames != planned:
            raise self._error(f"{slot}: {num_frames} copied frames for {planned} steps")
        self._num_frames[slot] = num_frames

    def end(self) -> None:
        """The episode ends, and every view has one frame per step."""
        for slot, number in self._num_frames.items():
            if number != self.episode.plan.num_steps:
                raise self._error(f"{slot}: {number} frames for {self.episode.plan.num_steps} steps")
        self._episode = None
        self._num_done += 1

    def close(self) -> None:
        """The unit ends, and every planned episode is there."""
        if self._episode is not None or self._num_done != len(self.unit.episodes):
            raise self._error(f"{self._num_done} of {len(self.unit.episodes)} planned episodes were written")

    def _error(self, message: str) -> ReleaseError:
        where = f"{self.unit.group.name}, file {self.unit.file_index}"
        return ReleaseError(message, where, "the unit and its plan disagree; plan the build again", "off_plan")
