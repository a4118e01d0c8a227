"""Which episodes of a lake a recipe takes, and which chunks of their actions a tokenizer is fitted to; writes nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from pipelines.action_chunks import ActionChunks
from pipelines.action_plan import ActionPlan
from pipelines.lake import Lake, quoted
from pipelines.rows import META_COLUMNS, Row, StoredEpisode, stored_episode
from pipelines.versions import superseded
from schemas.errors import FingerprintMismatch, LakeError, LayoutError, RecipeError
from schemas.recipes import BuildRecipe

MAX_FIT_NUMBERS = 1 << 25
"""Of the actions that a tokenizer is fitted to, to bound memory."""


class Chunked(Protocol):
    """The action chunks of an episode."""

    @property
    def chunks(self) -> ActionChunks | None:
        """None where they are not needed."""
        ...


def kept_rows(lake: Lake, where: str, columns: Sequence[str]) -> list[Row]:
    """``columns`` of every kept, current episode for which ``where`` holds. Raises LakeError if there is none."""
    # not joined into one condition: a filter with a bracket of its own would reach episodes that were not kept
    old = superseded(lake)
    rows = [
        row
        for row in lake.rows("episodes", list(dict.fromkeys(["outcome", *columns])), where)
        if row["outcome"] == "kept" and row["episode_id"] not in old
    ]
    if not rows:
        raise LakeError(
            "no kept episode matches",
            str(lake.root),
            "see `wamloom status --lake LAKE`, and the recipe's `where`",
            "empty",
        )
    return rows


def kept_ids(lake: Lake, where: str) -> list[tuple[str, str]]:
    """(episode id, row hash) of every kept, current episode for which ``where`` holds. Raises LakeError if there is none."""
    return [(row["episode_id"], row["row_sha256"]) for row in kept_rows(lake, where, ["row_sha256"])]


def stored_episodes(lake: Lake, episode_ids: Sequence[str], batch: int = 64) -> Iterator[StoredEpisode]:
    """The episodes, in the order of ``episode_ids``; ``batch`` of them are in memory at a time."""
    for start in range(0, len(episode_ids), batch):
        part = episode_ids[start : start + batch]
        wanted = ", ".join(quoted(episode_id) for episode_id in part)
        found = {row["episode_id"]: row for row in lake.rows("episodes", META_COLUMNS, f"episode_id in ({wanted})")}
        for episode_id in part:
            yield stored_episode(found[episode_id])


def action_plan(episode: StoredEpisode, recipe: BuildRecipe) -> ActionPlan:
    """How the chunks of ``episode`` are written. Raises RecipeError that says how to go on where its robot does not suit."""
    try:
        return ActionPlan.of(episode.embodiment, recipe.actions)
    except RecipeError as error:
        place = f"actions.{error.where}" if error.where else "actions"
        hint = _or_without(error.hint, episode.embodiment.name)
        raise RecipeError(error.message, place, hint, error.reason) from error


@contextmanager
def telling(robot: str, dataset: str) -> Iterator[None]:
    """Errors inside say which robot of which data set they are of, and how to go on without it."""
    try:
        yield
    except (RecipeError, LayoutError, FingerprintMismatch) as error:
        where = f"{robot} of {dataset}, {error.where}" if error.where else f"{robot} of {dataset}"
        raise type(error)(error.message, where, _or_without(error.hint, robot), error.reason) from error


def _or_without(hint: str, robot: str) -> str:
    others = f'leave these episodes out with --where "embodiment != {quoted(robot)}"'
    return f"{hint}; or {others}" if hint else others


def chosen_starts(
    members: Sequence[Chunked], horizon: int, max_numbers: int = MAX_FIT_NUMBERS
) -> Iterator[tuple[ActionChunks, np.ndarray]]:
    """The samples of ``members``, by episode and as many at a time as fit into memory: their first steps int64 [n].

    All samples, or as many, evenly chosen, as have ``max_numbers`` numbers in chunks of ``horizon`` steps. There must be one.
    """
    sources = [member.chunks for member in members if member.chunks is not None]
    ends = np.cumsum([len(one.windows.starts) for one in sources])
    total = int(ends[-1])
    count = min(total, max(1, max_numbers // (horizon * sources[0].plan.width)))
    chosen = np.arange(count) * total // count
    for one, end in zip(sources, ends, strict=True):
        first = end - len(one.windows.starts)
        mine = chosen[(chosen >= first) & (chosen < end)] - first
        for starts in one.blocks(one.windows.starts[mine]):
            yield one, starts


def chunks_of(
    members: Sequence[Chunked], horizon: int, max_numbers: int = MAX_FIT_NUMBERS
) -> tuple[np.ndarray, np.ndarray]:
    """Action chunks float32 [N, horizon, W] as written of samples of ``members``, as ``chosen_starts`` chooses them, and
    which of their steps [N, horizon] count.
    """
    found = [one.at(starts) for one, starts in chosen_starts(members, horizon, max_numbers)]
    return np.concatenate([values.astype(np.float32) for values, _ in found]), np.concatenate(
        [mask for _, mask in found]
    )
