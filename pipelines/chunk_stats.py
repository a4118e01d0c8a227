"""Statistics of action chunks [N, T, A]: over all valid steps and of each step of the horizon, from mergeable sketches,
with what they are statistics of. Normalizing relative actions with statistics of absolute ones is an error here.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.action_plan import ActionPlan
from pipelines.chunks import checked_mask
from pipelines.stats import (
    MAX_WIDTH,
    Normalization,
    Sketch,
    Stats,
    denormalize,
    empty_sketch,
    is_without_range,
    merge,
    merge_all,
    normalize,
    sketch,
    sketch_from_json,
)
from schemas.errors import FingerprintMismatch, LayoutError
from schemas.fingerprint import fingerprint


@dataclass(frozen=True, slots=True)
class StatsOf:
    """What numbers are statistics of. Parts that are to be merged all carry that of the whole."""

    quantity: str
    """``action`` or ``proprio``."""
    plan: str
    """``ActionPlan.fingerprint``, or that of whatever else made the numbers from recorded ones."""
    data: str
    """Which episodes: a fingerprint of their sorted content ids, or of the selection."""
    recipe: str = "{}"
    """The action recipe as a JSON object: for people, and to say what differs where ``plan`` does."""

    @staticmethod
    def of_plan(plan: ActionPlan, data: str) -> "StatsOf":
        """Of the chunks that ``plan`` writes, of the episodes ``data``."""
        return StatsOf("action", plan.fingerprint, data, plan.recipe.model_dump_json())

    @property
    def reference(self) -> str:
        """What the numbers are relative to, of ``schemas.action_recipe.Reference``; empty where ``recipe`` does not say."""
        return str(json.loads(self.recipe).get("reference", ""))

    @property
    def fingerprint(self) -> str:
        """Changes with anything that is told apart; ``recipe`` is not, since ``plan`` decides."""
        return fingerprint("stats-of-1", self.quantity, self.plan, self.data)


def require_same(given: StatsOf, wanted: StatsOf) -> None:
    """Nothing where ``given`` is what is wanted; an empty field of ``wanted`` fits any, such as ``data`` where a trained
    model is used on new episodes. Raises FingerprintMismatch that says which fields differ, and which of the recipe's.
    """
    found = []
    if wanted.quantity and given.quantity != wanted.quantity:
        found.append(f"they are of {given.quantity!r}, not {wanted.quantity!r}")
    if wanted.plan and given.plan != wanted.plan:
        found.append(_plan_difference(given, wanted))
    if wanted.data and given.data != wanted.data:
        found.append(f"they are of other episodes ({given.data[:12]}, not {wanted.data[:12]})")
    if found:
        raise FingerprintMismatch(
            "the statistics do not belong here: " + "; ".join(found),
            hint="take statistics of the very chunks to be normalized, or use the recipe they were made with",
        )


def _plan_difference(given: StatsOf, wanted: StatsOf) -> str:
    one, two = json.loads(given.recipe), json.loads(wanted.recipe)
    plans = f"({given.plan[:12]}, not {wanted.plan[:12]})"
    if not one or not two:
        return f"they were made by another plan {plans}"
    differing = [
        f"{key} {_told(one.get(key))}, not {_told(two.get(key))}"
        for key in sorted({*one, *two})
        if one.get(key) != two.get(key)
    ]
    if not differing:
        return f"the recipe is the same but the robot's vector or the slots are not {plans}"
    return f"they were made with {', '.join(differing)} {plans}"


def _told(choice: Any) -> str:
    return "none" if choice is None else json.dumps(choice)


@dataclass(frozen=True, slots=True)
class ChunkStats:
    """Statistics of A channels over all valid steps of chunks of T steps, and of each of these steps."""

    of: StatsOf
    overall: Stats
    steps: tuple[Stats, ...]
    """T of them; their counts differ where the ends of episodes are masked."""

    @property
    def fingerprint(self) -> str:
        """Changes when any number changes, or what they are of."""
        steps = [step.fingerprint for step in self.steps]
        return fingerprint("chunk-stats-1", self.of.fingerprint, self.overall.fingerprint, steps)

    def by_step(self, name: str) -> np.ndarray:
        """float64 [T, A]: the statistic ``name``, such as ``q01``, of each step."""
        return np.stack([getattr(step, name) for step in self.steps])

    def channels(self, indices: Sequence[int]) -> "ChunkStats":
        """Of these channels only, in this order: the part of a vector that a trainer keeps under a name of its own."""
        return dataclasses.replace(
            self,
            overall=stats_of_channels(self.overall, indices),
            steps=tuple(stats_of_channels(step, indices) for step in self.steps),
        )


def stats_of_channels(stats: Stats, indices: Sequence[int]) -> Stats:
    """Of the channels ``indices`` only, in this order. Raises LayoutError where there is no such channel."""
    width = len(stats.mean)
    if any(not 0 <= index < width for index in indices):
        raise LayoutError(f"channels {list(indices)} are not all of 0..{width - 1}", hint="count channels from 0")
    names = [field.name for field in dataclasses.fields(stats) if field.name != "count"]
    return Stats(stats.count, **{name: getattr(stats, name)[list(indices)] for name in names})


@dataclass(frozen=True, slots=True)
class ChunkSketch:
    """What a worker keeps of its chunks: one sketch a step, from which that of all steps follows to the bit."""

    of: StatsOf
    steps: tuple[Sketch, ...]

    @property
    def overall(self) -> Sketch:
        """Of every valid step; counts, extremes and quantiles as of one pass over them, moments to rounding."""
        return merge_all(self.steps)

    def stats(self) -> ChunkStats:
        """The statistics of everything seen. Raises LayoutError that names a step of which no value is valid."""
        for step, one in enumerate(self.steps):
            if not one.count:
                raise LayoutError(
                    "no chunk has a valid value here to take statistics of",
                    f"step {step} of {len(self.steps)}",
                    "shorten the horizon to what the episodes hold, or look at the mask; overall.stats() needs no full horizon",
                )
        return ChunkStats(self.of, self.overall.stats(), tuple(one.stats() for one in self.steps))

    def to_json(self) -> str:
        """JSON that ``chunk_sketch_from_json`` reads back to the bit."""
        return json.dumps({"of": dataclasses.asdict(self.of), "steps": [one.to_json() for one in self.steps]})


def chunk_sketch_from_json(text: str) -> ChunkSketch:
    """The inverse of ``ChunkSketch.to_json``. Raises LayoutError where the text is no such thing."""
    try:
        plain = json.loads(text)
        of = StatsOf(**{key: str(value) for key, value in plain["of"].items()})
        if not isinstance(json.loads(of.recipe), dict):
            raise ValueError(f"recipe {of.recipe!r}")
        steps = tuple(sketch_from_json(step) for step in plain["steps"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LayoutError(f"not a chunk sketch: {error!r}", hint="pass what ChunkSketch.to_json wrote") from error
    if len({one.width for one in steps}) != 1:
        raise LayoutError(
            "the steps of the sketch disagree about their width", hint="pass what ChunkSketch.to_json wrote"
        )
    return ChunkSketch(of, steps)


def empty_chunk_sketch(of: StatsOf, horizon: int, width: int) -> ChunkSketch:
    """The sketch of no chunks of ``horizon`` steps of ``width`` channels: merging it changes nothing."""
    return ChunkSketch(of, (empty_sketch(width),) * horizon)


def sketch_chunks(chunks: np.ndarray, mask: np.ndarray | None, of: StatsOf) -> ChunkSketch:
    """The sketch of ``chunks`` [N, T, A], of the steps where ``mask`` [N, T] is True (None: all); masked ones may be NaN.

    Raises LayoutError where shapes do not fit or a counted value is NaN or infinite, naming step, row and channel.
    """
    if chunks.ndim != 3 or not chunks.shape[1] or not chunks.shape[2]:
        raise LayoutError(f"chunks of shape {chunks.shape} are not [N, T, A]", hint="cut the actions into chunks first")
    if chunks.shape[1] * chunks.shape[2] > MAX_WIDTH:
        raise LayoutError(
            f"{chunks.shape[1]} steps of {chunks.shape[2]} channels are more than {MAX_WIDTH} numbers",
            hint="shorten the horizon",
        )
    counted = checked_mask(chunks, mask)
    steps = []
    for step in range(chunks.shape[1]):
        try:
            steps.append(sketch(chunks[:, step], counted[:, step]))
        except LayoutError as error:
            raise LayoutError(error.message, f"step {step}, {error.where}", error.hint) from error
    return ChunkSketch(of, tuple(steps))


def merge_chunks(one: ChunkSketch, two: ChunkSketch) -> ChunkSketch:
    """The sketch of both, with the promises of ``stats.merge``.

    Raises FingerprintMismatch where they are of different things, LayoutError where horizon or width differ.
    """
    require_same(two.of, one.of)
    if len(one.steps) != len(two.steps):
        raise LayoutError(
            f"statistics of chunks of {len(one.steps)} and of {len(two.steps)} steps cannot be merged",
            hint="cut all chunks with one horizon",
        )
    return ChunkSketch(one.of, tuple(merge(a, b) for a, b in zip(one.steps, two.steps, strict=True)))


def normalize_steps(
    chunks: np.ndarray, stats: ChunkStats, kind: Normalization, clamp: float | None = None, factor: float = 1.0
) -> np.ndarray:
    """float64 [N, T, A], each step of the horizon by its own statistics. Raises LayoutError where shapes do not fit."""
    _check_horizon(chunks, stats)
    columns = [normalize(chunks[:, t], one, kind, clamp=clamp, factor=factor) for t, one in enumerate(stats.steps)]
    return np.stack(columns, axis=1)


def denormalize_steps(chunks: np.ndarray, stats: ChunkStats, kind: Normalization, factor: float = 1.0) -> np.ndarray:
    """The inverse of ``normalize_steps``, to rounding, where nothing was clamped. Raises LayoutError likewise."""
    _check_horizon(chunks, stats)
    columns = [denormalize(chunks[:, t], one, kind, factor=factor) for t, one in enumerate(stats.steps)]
    return np.stack(columns, axis=1)


def _check_horizon(chunks: np.ndarray, stats: ChunkStats) -> None:
    if chunks.ndim != 3 or chunks.shape[1] != len(stats.steps):
        raise LayoutError(
            f"chunks of shape {chunks.shape} do not fit statistics of {len(stats.steps)} steps",
            hint="statistics and chunks must be of one recipe and one horizon",
        )


@dataclass(frozen=True, slots=True)
class Outliers:
    """Values of one channel that lie far outside q01..q99."""

    channel: int
    low: float
    high: float
    """What lies in low..high is none."""
    count: int
    worst: float | None
    """The value furthest outside; None where none is."""


def outliers(seen: Sketch, ranges: float = 3.0) -> tuple[Outliers, ...]:
    """How many values of each channel lie more than ``ranges`` times (q99 - q01) below q01 or above q99, and the worst.

    Counted from the sketch, so exactly while that is exact, else to its buckets; ``worst`` is always exact. A channel
    whose q01 and q99 coincide, such as a gripper that rarely opens, is measured by min..max instead, so it has none.
    Raises LayoutError where nothing was seen or ``ranges`` is negative.
    """
    if not ranges >= 0:
        raise LayoutError(f"{ranges} ranges outside is no distance", hint="pass a number of at least 0")
    stats = seen.stats()
    still = is_without_range((stats.q01 + stats.q99) / 2, (stats.q99 - stats.q01) / 2)
    start, stop = np.where(still, stats.min, stats.q01), np.where(still, stats.max, stats.q99)
    low, high = start - ranges * (stop - start), stop + ranges * (stop - start)
    counts = seen.num_outside(low, high)
    below, above = low - stats.min, stats.max - high
    worst = np.where(below > above, stats.min, stats.max)
    return tuple(
        Outliers(
            channel, float(low[channel]), float(high[channel]), int(count), float(worst[channel]) if count else None
        )
        for channel, count in enumerate(counts)
    )
