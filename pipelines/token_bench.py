"""Every tokenizer on the action chunks of every robot of a lake: errors, lengths, sequences that do not decode, speed.

What is measured was, where there is more than one episode, not fitted to. Reads the lake and writes nothing.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import registry
from pipelines.action_chunks import ActionChunks, ChunkLayout
from pipelines.action_plan import ActionPlan
from pipelines.build_stats import GroupGathering, chunk_layout, given_statistics
from pipelines.holdout import families, held_out
from pipelines.lake import Lake
from pipelines.numbers import check_rate, numbers_of
from pipelines.selection import action_plan, chosen_starts, chunks_of, kept_ids, stored_episodes, telling
from pipelines.token_errors import errors_by_quantity, wrapped_chunks
from pipelines.tokenizers import Tokenizer, check_offset
from pipelines.twins import twin_pairs
from pipelines.views import shown_views
from pipelines.windows import plan_windows
from schemas.embodiment import Embodiment
from schemas.errors import LakeError, LayoutError, RecipeError, UsageError
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe
from schemas.time import rate_text
from validation.report import Histogram

MAX_MEASURED_NUMBERS = 1 << 21
"""Of the actions that are encoded and decoded, to bound memory and time."""
NAIVE_BITS = 8
"""Of a number in naive bins: one of 256."""
NUM_RANDOM = 500
"""Random sequences that each tokenizer is asked to decode, at most."""

_SEED = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tokenizer to measure: a member of the family, its options, and what the table calls it."""

    label: str
    name: str
    options: Mapping[str, int | float | str | bool]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the bench keeps of one episode."""

    episode_id: str
    chunks: ActionChunks
    """Of float32, as releases hold them."""


@dataclass(frozen=True, slots=True)
class Chunks:
    """N chunks as a release has them, of V numbers that mean something, and ``mask`` bool [N, T] of the steps that count."""

    values: np.ndarray
    """float [N, T, V]"""
    mask: np.ndarray


@dataclass(frozen=True, slots=True)
class Trial:
    """What the tokenizers of one group are fitted to and measured on, and how their numbers become actions again."""

    robot: Embodiment
    """Its ``action`` is what is judged: the channels that the recipe uses, as recorded."""
    fitted: Chunks
    tried: Chunks
    recorded: np.ndarray
    """float64 [N, T, K]: of ``tried``, in the units of the card."""
    back: Callable[[np.ndarray], np.ndarray]
    """Decoded chunks [N, T, V] of ``tried`` as recorded ones [N, T, K]."""


def candidates(names: Sequence[str], recipe: BuildRecipe, published: Sequence[str]) -> list[Candidate]:
    """The tokenizers ``names`` (none: every one there is), and FAST of each folder ``published``.

    The one that the recipe names gets the options of the recipe. Raises UsageError for an unknown name, RecipeError where
    a published folder cannot be used, or the recipe contradicts itself.
    """
    check_offset(recipe.tokenizer)
    chosen = []
    for name in names or registry.names("tokenizers"):
        registry.load("tokenizers", name)
        own = recipe.tokenizer is not None and recipe.tokenizer.name == name
        options = dict(recipe.tokenizer.options) if recipe.tokenizer is not None and own else {}
        told = ", ".join(f"{key}={value}" for key, value in options.items())
        chosen.append(Candidate(f"{name} ({told})" if told else name, name, options))
    for folder in published:
        registry.load("tokenizers", "fast").load_published(folder)
        chosen.append(Candidate(f"fast of {Path(folder).resolve().name}", "fast", {"published": folder}))
    return chosen


def bench(
    lake: Lake, recipe: BuildRecipe, wanted: Sequence[Candidate], holdout: float, clock: Callable[[], float]
) -> dict[str, Any]:
    """``groups``, one for each data set, robot and rate, with a row for each of ``wanted``; and ``skipped`` episodes by reason.

    Chunks, their masks and their normalisation are those of a build of ``recipe``; episodes that are probably one recording
    are all fitted to, or all held out. ``clock`` gives seconds. Raises LakeError where no episode can be used, UsageError
    where ``holdout`` is not in [0, 1).
    """
    if not 0 <= holdout < 1:
        raise UsageError(f"holdout = {holdout:g} is not possible", hint="set a part of the episodes, such as 0.2")
    members: dict[tuple[str, str, str, Embodiment], list[Recorded]] = {}
    skipped: Counter[str] = Counter()
    for key, recorded in _recorded(lake, recipe, skipped):
        members.setdefault(key, []).append(recorded)
    if not members:
        raise LakeError(f"no episode can be used: {next(iter(skipped))}", str(lake.root), "change the recipe", "empty")
    twins = _twins(lake, [one for group in members.values() for one in group])
    groups = []
    for key in sorted(members, key=lambda key: (key[:3], fingerprint(key[3]))):
        dataset, robot, rate, _ = key
        group = members[key]
        ids = {one.episode_id for one in group}
        held = held_out(ids, holdout, twins)
        fit = [one for one in group if one.episode_id not in held]
        measured = [one for one in group if one.episode_id in held] or group
        plan = group[0].chunks.plan
        with telling(robot, dataset):
            layout = _layout(plan, fit, recipe)
        trial, raw = _trial(layout, fit, measured, recipe)
        rows = [measure(one, trial, clock) for one in wanted]
        groups.append(
            {
                "dataset": dataset,
                "robot": robot,
                "rate": rate,
                "action": [name for name, used in zip(layout.names, layout.mask, strict=True) if used],
                "fitted_episodes": len(fit),
                "fitted_chunks": len(trial.fitted.values),
                "measured_episodes": len(measured),
                "measured_chunks": len(trial.tried.values),
                "held_out": bool(held),
                "duplicates": sum(len(family) for family in families(ids, twins) if len(family) > 1),
                "wrapped_chunks": wrapped_chunks(_written_robot(plan), raw.values, raw.mask),
                "rows": rows,
            }
        )
    return {"groups": groups, "skipped": dict(sorted(skipped.items()))}


def _layout(plan: ActionPlan, fit: Sequence[Recorded], recipe: BuildRecipe) -> ChunkLayout:
    """With what a build of ``fit`` would normalize by."""
    gathering = GroupGathering(recipe, plan)
    if recipe.stats_from is not None:
        return chunk_layout(plan, given_statistics(recipe.stats_from, plan, recipe).chunks, recipe)
    for one in fit:
        gathering.add(one.chunks, one.chunks.valid & one.chunks.windows.selected)
    return chunk_layout(plan, gathering.statistics([one.episode_id for one in fit]).chunks, recipe)


def _twins(lake: Lake, recorded: Sequence[Recorded]) -> list[tuple[str, str]]:
    """Pairs of episodes with which the same motion would lie on both sides of the split: twins, and equal actions."""
    first: dict[str, str] = {}
    same = [(first.setdefault(fingerprint(one.chunks.source), one.episode_id), one.episode_id) for one in recorded]
    return [*twin_pairs(lake, [one.episode_id for one in recorded]), *same]


def _recorded(
    lake: Lake, recipe: BuildRecipe, skipped: Counter[str]
) -> Iterator[tuple[tuple[str, str, str, Embodiment], Recorded]]:
    """Every episode that a build of ``recipe`` would take samples of, with its group; others are counted in ``skipped``."""
    ids = sorted(episode_id for episode_id, _ in kept_ids(lake, recipe.where))  # whatever order they came in
    for episode in stored_episodes(lake, ids):
        shown = shown_views(recipe.views, episode.views)
        if shown.missing:
            skipped[f"has no view {shown.missing}"] += 1
            continue
        if not episode.embodiment.action and recipe.actions.source == "action":
            skipped["has no action"] += 1
            continue
        check_rate(recipe.rate, episode.control_rate, episode.dataset)
        numbers = numbers_of(episode, recipe.rate, shown.slots)
        windows = plan_windows(numbers.times_ns, episode.segments, shown.slots, recipe)
        plan = action_plan(episode, recipe)
        chunks = ActionChunks.of(plan, numbers, windows, recipe.horizon).in_float32()
        try:
            chunks.check()
        except LayoutError as error:
            skipped[f"cannot be written as the recipe asks: {error.message}"] += 1
            continue
        if not any(chunks.at(starts)[1].any() for starts in chunks.blocks(windows.starts)):
            skipped["has no chunk with a step that counts"] += 1
            continue
        recorded = Recorded(episode.episode_id, chunks)
        key = (episode.dataset, episode.embodiment.name, rate_text(numbers.rate), episode.embodiment)
        yield key, recorded


def _trial(
    layout: ChunkLayout, fit: Sequence[Recorded], measured: Sequence[Recorded], recipe: BuildRecipe
) -> tuple[Trial, Chunks]:
    """The trial of one group, and the chunks that are measured as they are written, before normalization."""
    plan = measured[0].chunks.plan

    def normal(values: np.ndarray) -> np.ndarray:
        return layout.used(layout.normalized(values, recipe))

    fitted, mask = chunks_of(fit, recipe.horizon)
    written, masks, recorded, bases = [], [], [], []
    for chunks, starts in chosen_starts(measured, recipe.horizon, MAX_MEASURED_NUMBERS):
        values, counted = chunks.at(starts)
        written.append(values)
        masks.append(counted)
        recorded.append(chunks.recorded(starts))
        bases.append(chunks.bases(starts))
    raw = Chunks(np.concatenate(written), np.concatenate(masks))
    base = np.concatenate([one for one in bases if one is not None]) if plan.needs_base else None
    rate = measured[0].chunks.rate
    kept = [plan.recorded[column] for column in plan.kept]
    grippers = plan.embodiment.action_grippers if plan.recipe.source == "action" else plan.embodiment.proprio_grippers
    names = {channel.name for channel in kept}
    robot = plan.embodiment.model_copy(
        update={"action": tuple(kept), "action_grippers": tuple(one for one in grippers if one.channel in names)}
    )

    def back(decoded: np.ndarray) -> np.ndarray:
        return plan.inverse(layout.denormalized(layout.placed(decoded), recipe), base, rate)

    trial = Trial(
        robot,
        Chunks(normal(fitted), mask),
        Chunks(normal(raw.values), raw.mask),
        np.concatenate(recorded).astype(np.float64)[..., plan.kept],
        back,
    )
    return trial, Chunks(layout.used(raw.values), raw.mask)


def _written_robot(plan: ActionPlan) -> Embodiment:
    """The robot, with the numbers that are written as its action, in the order of their slots."""
    channels = tuple(plan.written.channels[number] for number in np.argsort(plan.indices))
    return plan.embodiment.model_copy(update={"action": channels})


def measure(candidate: Candidate, trial: Trial, clock: Callable[[], float]) -> dict[str, Any]:
    """The row of one tokenizer; where it refuses, ``refused`` says why.

    ``errors``: for each quantity of ``errors_by_quantity`` mean, percentiles and max over the steps that count, of chunks that
    decode. ``undecodable``: how many encoded chunks do not. ``random_undecodable``: the share of random sequences, of the
    lengths of encoded ones, that do not, as a guess at what a model that errs may produce. What tells of tokens is None
    where there are none.
    """
    row: dict[str, Any] = {"tokenizer": candidate.label, "options": dict(candidate.options), "refused": None}
    try:
        started = clock()
        tokenizer: Tokenizer = registry.load("tokenizers", candidate.name).fit(
            trial.fitted.values, trial.fitted.mask, **candidate.options
        )
        row["fit_s"] = clock() - started
        return row | _measured(tokenizer, trial, clock)
    except (RecipeError, LayoutError) as error:
        return row | {"refused": f"{error.message}; {error.hint}" if error.hint else error.message}


def _measured(tokenizer: Tokenizer, trial: Trial, clock: Callable[[], float]) -> dict[str, Any]:
    chunks = trial.tried.values
    num_chunks, horizon, width = chunks.shape
    started = clock()
    tokens = tokenizer.encode(chunks)
    encoded = clock()
    decoded, good = _decoded(tokenizer, tokens, horizon, width)
    ended = clock()
    # what does not decode is measured as if it had, and left out: not every number is a rotation
    back = trial.back(np.where(good[:, None, None], decoded, chunks))
    counted = trial.tried.mask & good[:, None]
    errors = errors_by_quantity(trial.robot, trial.recorded[counted], back[counted])
    facts: dict[str, Any] = {
        "errors": {
            quantity: {"mean": float(one.mean()), **_percentiles(one, 50, 90, 99), "max": float(one.max())}
            for quantity, one in errors.items()
            if one.size
        },
        "clipped": tokenizer.num_clipped(chunks),
        "undecodable": int(num_chunks - good.sum()),
    }
    return facts | _tokens(tokenizer, tokens, horizon, width, encoded - started, ended - encoded)


def _tokens(
    tokenizer: Tokenizer, tokens: list[np.ndarray], horizon: int, width: int, encode_s: float, decode_s: float
) -> dict[str, Any]:
    """What tells of tokens; all None for values that stay as they are."""
    if tokenizer.continuous:
        names = ("vocab_size", "tokens_per_chunk", "compression", "token_ratio", "random_undecodable")
        return dict.fromkeys((*names, "encoded_per_s", "decoded_per_s"))
    lengths = np.array([len(sequence) for sequence in tokens])
    mean, histogram = float(lengths.mean()), Histogram.of(lengths)
    random = np.random.default_rng(_SEED)
    chosen = np.unique(np.linspace(0, len(tokens) - 1, NUM_RANDOM).astype(np.int64))
    drawn = [random.integers(0, tokenizer.vocab_size, lengths[index]) for index in chosen]
    _, good = _decoded(tokenizer, drawn, horizon, width)
    return {
        "vocab_size": tokenizer.vocab_size,
        "tokens_per_chunk": {
            "mean": mean,
            **_percentiles(lengths, 50, 99),
            "max": int(lengths.max()),
            "histogram": {"edges": histogram.edges, "counts": histogram.counts},
        },
        "compression": horizon * width * NAIVE_BITS / (mean * math.log2(tokenizer.vocab_size)),
        "token_ratio": horizon * width / mean,
        "random_undecodable": float(1 - good.mean()),
        "encoded_per_s": float(lengths.sum()) / encode_s if encode_s > 0 else None,
        "decoded_per_s": float(lengths.sum()) / decode_s if decode_s > 0 else None,
    }


def _percentiles(values: np.ndarray, *wanted: int) -> dict[str, float]:
    """``p50`` and the like of ``values`` [K]."""
    return {f"p{one}": float(value) for one, value in zip(wanted, np.percentile(values, wanted), strict=True)}


def _decoded(tokenizer: Tokenizer, tokens: list[np.ndarray], horizon: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N, horizon, width], zeros for sequences that do not decode; and bool [N] of those that do."""
    good: np.ndarray = np.ones(len(tokens), dtype=bool)
    try:
        return tokenizer.decode(tokens, horizon, width), good
    except LayoutError:  # one or more of them; each for itself tells which
        values = np.zeros((len(tokens), horizon, width))
        for index, sequence in enumerate(tokens):
            try:
                values[index] = tokenizer.decode([sequence], horizon, width)[0]
            except LayoutError:
                good[index] = False
        return values, good
