"""The action chunks of one episode as a recipe writes them, which of their steps count, and running statistics of them.

Planning, writing and measuring all take chunks from here, so that a statistic is of the very numbers that are written.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipelines.action_plan import ActionPlan
from pipelines.chunk_stats import (
    ChunkSketch,
    ChunkStats,
    StatsOf,
    denormalize_steps,
    merge_chunks,
    normalize_steps,
    sketch_chunks,
)
from pipelines.numbers import EpisodeNumbers
from pipelines.stats import denormalize, normalize
from pipelines.windows import Windows, chunk_rows
from schemas.errors import LayoutError
from schemas.recipes import BuildRecipe
from schemas.slot_layout import SlotLayout

BLOCK_NUMBERS = 1 << 21
"""Of chunks that are in memory at a time; they may overlap, and so be far larger than their episode."""


@dataclass(frozen=True, slots=True, eq=False)
class ActionChunks:
    """Chunks of an episode of T steps, before normalization."""

    plan: ActionPlan
    windows: Windows
    horizon: int
    rate: Fraction
    """Steps per second."""
    action: np.ndarray
    """float [T, A]"""
    proprio: np.ndarray
    """float [T, P]"""
    valid: np.ndarray
    """bool [T]: whether the step counts."""
    base_valid: np.ndarray
    """bool [T]: whether a chunk can be relative to the step; a view that lags does not forbid it."""

    @staticmethod
    def of(plan: ActionPlan, numbers: EpisodeNumbers, windows: Windows, horizon: int) -> "ActionChunks":
        """The chunks of an episode whose steps are ``numbers``."""
        own = plan.recipe.base == "self" and plan.recipe.source == "action"
        origin, values = (numbers.commands, numbers.action) if own else (numbers.measured, numbers.proprio)
        base_valid = origin.valid & np.isfinite(values).all(axis=1)
        action, proprio = (_without_gaps(one, numbers.valid) for one in (numbers.action, numbers.proprio))
        return ActionChunks(plan, windows, horizon, numbers.rate, action, proprio, numbers.valid, base_valid)

    @property
    def source(self) -> np.ndarray:
        """float [T, A]: the recorded vector that chunks are of."""
        return self.action if self.plan.recipe.source == "action" else self.proprio

    def in_float32(self) -> "ActionChunks":
        """The same from numbers of half the size: to be remembered of many episodes."""
        return dataclasses.replace(self, action=self.action.astype(np.float32), proprio=self.proprio.astype(np.float32))

    def without_unread(self) -> "ActionChunks":
        """The same without the proprio, where the plan does not look at it."""
        reads = self.plan.needs_base or self.plan.recipe.source == "proprio"
        return self if reads else dataclasses.replace(self, proprio=self.proprio[:, :0].copy())

    def blocks(self, starts: np.ndarray) -> Iterator[np.ndarray]:
        """``starts`` [N] in order, so many at a time that their chunks fit into memory."""
        width = max(self.plan.width, self.action.shape[1], self.proprio.shape[1])
        size = max(1, BLOCK_NUMBERS // (self.horizon * width))
        for first in range(0, len(starts), size):
            yield starts[first : first + size]

    def check(self) -> None:
        """Raises LayoutError that names the step where a value that counts is no float32, or a rotation is none."""
        for name, values in (("action", self.action), ("proprio", self.proprio)):
            # beyond float32, in which releases hold them, they would be infinite
            bad = np.argwhere(~(np.abs(values) <= np.finfo(np.float32).max) & self.valid[:, None])
            if len(bad):
                step, channel = (int(index) for index in bad[0])
                raise LayoutError(
                    f"{name} is {values[step, channel]}",
                    f"step {step}, channel {channel}",
                    "leave the episode out, or ingest it anew without that step",
                )
        if self.plan.as_recorded:
            return
        single = dataclasses.replace(self, horizon=1)
        for starts in single.blocks(np.arange(len(self.valid))):
            try:
                single.at(starts)
            except LayoutError as error:
                raise LayoutError(error.message, f"{error.where}, from step {starts[0]} on", error.hint) from error

    def at(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float [N, H, W], and bool [N, H] of the steps that count, of the chunks of the samples at ``starts`` [N].

        What lies past the end of the episode, in a gap or over a bound repeats the last step before, and does not count;
        nor does a step that is relative to one without a measurement. Raises LayoutError where a rotation is none.
        """
        rows, inside = chunk_rows(self.windows, starts, self.horizon, self.plan.recipe.lead)
        mask = inside & self.valid[rows]
        values = self.recorded(starts)
        if self.plan.as_recorded:
            return values, mask
        if self.plan.needs_base:
            mask &= self.base_valid[self.plan.base_rows(starts, self.windows.run_starts[starts])][:, None]
            if self.plan.recipe.reference in ("framewise", "velocity"):
                mask[:, 1:] &= self.valid[rows[:, :-1]]
        return self.plan.transform(values, self.bases(starts), self.rate), mask

    def recorded(self, starts: np.ndarray) -> np.ndarray:
        """float [N, H, A]: the rows of the recorded vector that these chunks are made of."""
        rows, _ = chunk_rows(self.windows, starts, self.horizon, self.plan.recipe.lead)
        return np.asarray(self.source[rows])

    def bases(self, starts: np.ndarray) -> np.ndarray | None:
        """float64 [N, B]: what these chunks are relative to; None where they are absolute."""
        if not self.plan.needs_base:
            return None
        return self.plan.base(self.action, self.proprio, starts, self.windows.run_starts[starts])


def _without_gaps(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """``values`` [T, A] where rows that do not count and are not finite repeat the last one before that is, else zero.

    They stand in chunks beside what counts, and no tokenizer takes NaN.
    """
    bad = ~np.isfinite(values).all(axis=1)
    if not (bad & ~valid).any():
        return values
    last = np.maximum.accumulate(np.where(bad, -1, np.arange(len(values))))
    held = np.where(last[:, None] < 0, 0.0, values[np.maximum(last, 0)])
    return np.asarray(np.where((bad & ~valid)[:, None], held, values))


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """What the W numbers of a chunk's step are, and how they are normalized; the same for all episodes of a group."""

    names: tuple[str, ...]
    mask: tuple[bool, ...]
    """Which of them mean something; the others are zero."""
    unmoved: tuple[str, ...]
    """Which stay absolute though the recipe is relative, grippers aside."""
    plan: str
    """``ActionPlan.fingerprint``."""
    stats: ChunkStats
    """Before normalization; steps are () where nothing asks for them."""
    slots: SlotLayout | None = None
    """What ``names`` are slots of, as it was when the build was planned: its file may be on another machine, or change."""

    def normalized(self, chunks: np.ndarray, recipe: BuildRecipe) -> np.ndarray:
        """float64 [N, H, W]: chunks as a release holds them; numbers without meaning stay zero."""
        if recipe.normalize_by == "step":
            return normalize_steps(chunks, self.stats, recipe.normalize, clamp=recipe.clamp)
        return normalize(chunks, self.stats.overall, recipe.normalize, clamp=recipe.clamp)

    def denormalized(self, chunks: np.ndarray, recipe: BuildRecipe) -> np.ndarray:
        """The inverse of ``normalized``, where nothing was clamped."""
        if recipe.normalize_by == "step":
            return denormalize_steps(chunks, self.stats, recipe.normalize)
        return denormalize(chunks, self.stats.overall, recipe.normalize)

    def placed(self, values: np.ndarray) -> np.ndarray:
        """float64 [N, H, W]: the inverse of ``used``; numbers without meaning are zero."""
        chunks: np.ndarray = np.zeros((*values.shape[:2], len(self.mask)))
        chunks[..., np.array(self.mask, dtype=bool)] = values
        return chunks

    def used(self, chunks: np.ndarray) -> np.ndarray:
        """[N, H, V]: the numbers that mean something, which is what tokens are of."""
        return chunks[..., np.array(self.mask, dtype=bool)]


class RunningSketch:
    """Statistics of chunks [N, H, W] that come little by little: gathered first, since merging costs more than adding.

    ``by_step`` False takes all steps together, as chunks of one step.
    """

    def __init__(self, of: StatsOf, by_step: bool = True) -> None:
        self._of, self._by_step = of, by_step
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._num_waiting = 0
        self._done: ChunkSketch | None = None

    def add(self, values: np.ndarray, mask: np.ndarray) -> None:
        """``values`` [N, H, W], of which the steps ``mask`` [N, H] count. Raises LayoutError where one of these is NaN."""
        if not self._by_step:
            values, mask = values.reshape(-1, 1, values.shape[-1]), mask.reshape(-1, 1)
        self._waiting.append((values, mask))
        self._num_waiting += values.size
        if self._num_waiting >= BLOCK_NUMBERS:
            self._gather()

    def sketch(self) -> ChunkSketch | None:
        """Of all that was added; None where that is nothing."""
        self._gather()
        return self._done

    def _gather(self) -> None:
        if not self._waiting:
            return
        values, masks = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        found = sketch_chunks(values, masks, self._of)
        self._done = found if self._done is None else merge_chunks(self._done, found)
        self._waiting, self._num_waiting = [], 0
