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
from pipelines.holdout import families, held_out
from pipelines.lake import Lake
from pipelines.numbers import check_rate, numbers_of
from pipelines.selection import chunks_of, kept_ids, stored_episodes
from pipelines.stats import Normalization, Stats, denormalize, normalize, sketch
from pipelines.token_errors import errors_by_quantity
from pipelines.tokenizers import Tokenizer, check_offset
from pipelines.twins import twin_pairs
from pipelines.windows import Windows, plan_windows
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
    """What the bench keeps of one episode of T steps."""

    episode_id: str
    windows: Windows
    action: np.ndarray
    """float32 [T, A], as releases hold it."""
    valid: np.ndarray
    """bool [T]"""


@dataclass(frozen=True, slots=True)
class Chunks:
    """N action chunks, in the units of the card: ``values`` [N, T, A], and ``mask`` bool [N, T] of the steps that count."""

    values: np.ndarray
    mask: np.ndarray


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
        dataset, robot, rate, embodiment = key
        group = members[key]
        ids = {one.episode_id for one in group}
        held = held_out(ids, holdout, twins)
        fit = [one for one in group if one.episode_id not in held]
        measured = [one for one in group if one.episode_id in held] or group
        fitted = Chunks(*chunks_of(fit, recipe.horizon))
        tried = Chunks(*chunks_of(measured, recipe.horizon, MAX_MEASURED_NUMBERS))
        counted = np.concatenate([one.action[one.valid & one.windows.selected] for one in fit])
        stats = sketch(counted).stats()
        rows = [measure(one, embodiment, fitted, tried, stats, recipe.normalize, clock) for one in wanted]
        groups.append(
            {
                "dataset": dataset,
                "robot": robot,
                "rate": rate,
                "action": [channel.name for channel in embodiment.action],
                "fitted_episodes": len(fit),
                "fitted_chunks": len(fitted.values),
                "measured_episodes": len(measured),
                "measured_chunks": len(tried.values),
                "held_out": bool(held),
                "duplicates": sum(len(family) for family in families(ids, twins) if len(family) > 1),
                "rows": rows,
            }
        )
    return {"groups": groups, "skipped": dict(sorted(skipped.items()))}


def _twins(lake: Lake, recorded: Sequence[Recorded]) -> list[tuple[str, str]]:
    """Pairs of episodes with which the same motion would lie on both sides of the split: twins, and equal actions."""
    first: dict[str, str] = {}
    same = [(first.setdefault(fingerprint(one.action), one.episode_id), one.episode_id) for one in recorded]
    return [*twin_pairs(lake, [one.episode_id for one in recorded]), *same]


def _recorded(
    lake: Lake, recipe: BuildRecipe, skipped: Counter[str]
) -> Iterator[tuple[tuple[str, str, str, Embodiment], Recorded]]:
    """Every episode that a build of ``recipe`` would take samples of, with its group; others are counted in ``skipped``."""
    for episode in stored_episodes(lake, [episode_id for episode_id, _ in kept_ids(lake, recipe.where)]):
        slots: tuple[str, ...] = recipe.views.slots or tuple(sorted(episode.views))
        absent = [slot for slot in slots if slot not in episode.views]
        if absent:
            skipped[f"has no view {absent[0]}"] += 1
            continue
        if not episode.embodiment.action:
            skipped["has no action"] += 1
            continue
        check_rate(recipe.rate, episode.control_rate, episode.dataset)
        numbers = numbers_of(episode, recipe.rate, slots)
        windows = plan_windows(numbers.times_ns, episode.segments, slots, recipe)
        recorded = Recorded(episode.episode_id, windows, numbers.action.astype(np.float32), numbers.valid)
        if not len(windows.starts) or not chunks_of([recorded], recipe.horizon)[1].any():
            skipped["has no chunk with a step that counts"] += 1
            continue
        key = (episode.dataset, episode.embodiment.name, rate_text(numbers.rate), episode.embodiment)
        yield key, recorded


def measure(
    candidate: Candidate,
    embodiment: Embodiment,
    fitted: Chunks,
    tried: Chunks,
    stats: Stats,
    normalization: Normalization,
    clock: Callable[[], float],
) -> dict[str, Any]:
    """The row of one tokenizer, fitted to ``fitted`` and measured on ``tried``; where it refuses, ``refused`` says why.

    ``errors``: for each quantity of ``errors_by_quantity`` mean, percentiles and max over the steps that count, of chunks that
    decode. ``undecodable``: how many encoded chunks do not. ``random_undecodable``: the share of random sequences, of the
    lengths of encoded ones, that do not, as a guess at what a model that errs may produce. What tells of tokens is None
    where there are none.
    """
    row: dict[str, Any] = {"tokenizer": candidate.label, "options": dict(candidate.options), "refused": None}
    try:
        started = clock()
        tokenizer: Tokenizer = registry.load("tokenizers", candidate.name).fit(
            normalize(fitted.values, stats, normalization), fitted.mask, **candidate.options
        )
        row["fit_s"] = clock() - started
        return row | _measured(tokenizer, embodiment, tried, stats, normalization, clock)
    except (RecipeError, LayoutError) as error:
        return row | {"refused": f"{error.message}; {error.hint}" if error.hint else error.message}


def _measured(
    tokenizer: Tokenizer,
    embodiment: Embodiment,
    tried: Chunks,
    stats: Stats,
    normalization: Normalization,
    clock: Callable[[], float],
) -> dict[str, Any]:
    chunks = normalize(tried.values, stats, normalization)
    num_chunks, horizon, width = chunks.shape
    started = clock()
    tokens = tokenizer.encode(chunks)
    encoded = clock()
    decoded, good = _decoded(tokenizer, tokens, horizon, width)
    ended = clock()
    counted = tried.mask & good[:, None]
    errors = errors_by_quantity(
        embodiment,
        tried.values[counted].astype(np.float64),
        denormalize(decoded, stats, normalization)[counted],
    )
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
