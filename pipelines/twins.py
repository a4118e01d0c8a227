"""Which recordings of a lake look like each other: facts for the judgement of the set, gathered with bounded memory.

Signatures of all recordings name the candidates; only the numbers of those are read and laid side by side.
"""

import itertools
from collections.abc import Collection, Sequence

from pipelines.channels import map_streams
from pipelines.lake import Lake, quoted
from pipelines.rows import META_COLUMNS, Row, signed_vectors, stored_episode
from validation.check import EpisodeFacts
from validation.signature import Channels, Likeness, candidates, compare, from_bytes

_AT_ONCE = 64
"""Pairs whose numbers are held in memory together."""
FACT_COLUMNS = ("outcome", "dataset", "locations", "num_steps", "instructions", "signature")


def set_facts(lake: Lake, episode_ids: Collection[str]) -> list[EpisodeFacts]:
    """What the checks of the whole set are given of these kept episodes, in the order of their ids."""
    wanted = set(episode_ids)
    rows = [row for row in lake.rows("episodes", FACT_COLUMNS) if row["episode_id"] in wanted]
    known = [from_bytes(row["signature"]) for row in rows]
    pairs = [
        (rows[i]["episode_id"], rows[j]["episode_id"])
        for i, j in candidates([hashes for _, hashes in known])
        if known[i][0] != known[j][0]  # the very same values are found without a signature
    ]
    alike = _alike(lake, pairs)
    return [_fact(row, exact, alike.get(row["episode_id"], ())) for row, (exact, _) in zip(rows, known, strict=True)]


def twin_pairs(lake: Lake, episode_ids: Collection[str]) -> list[tuple[str, str]]:
    """Pairs of these kept episodes that are probably one recording: with the very same numbers, or much the same ones."""
    pairs: list[tuple[str, str]] = []
    first: dict[str, str] = {}
    for fact in set_facts(lake, episode_ids):
        same = first.setdefault(fact.action_sha256, fact.episode_id)
        pairs += [(other, fact.episode_id) for other in (same, *(other for other, _ in fact.alike))]
    return [(one, other) for one, other in pairs if one != other]


def _fact(row: Row, exact: str, alike: Sequence[tuple[str, Likeness]]) -> EpisodeFacts:
    return EpisodeFacts(
        row["episode_id"],
        row["dataset"],
        tuple((place["location"], place["split"], place["key"]) for place in row["locations"]),
        row["num_steps"],
        tuple(one["text"] for one in row["instructions"]),
        exact,
        tuple(alike),
    )


def _alike(lake: Lake, pairs: Sequence[tuple[str, str]]) -> dict[str, list[tuple[str, Likeness]]]:
    """By episode: those it probably is the same as, with the evidence as seen from it."""
    found: dict[str, list[tuple[str, Likeness]]] = {}
    for batch in itertools.batched(pairs, _AT_ONCE):
        wanted = ", ".join(quoted(episode_id) for episode_id in sorted({one for pair in batch for one in pair}))
        rows = lake.rows("episodes", META_COLUMNS, f"episode_id in ({wanted})")
        vectors = {row["episode_id"]: _vectors(row) for row in rows}
        for one, other in batch:
            likeness = compare(vectors[one], vectors[other])
            if likeness is not None:
                found.setdefault(one, []).append((other, likeness))
                found.setdefault(other, []).append((one, likeness.turned))
    return found


def _vectors(row: Row) -> Channels:
    episode = stored_episode(row)
    return signed_vectors(episode.streams, *map_streams(episode.streams, episode.card, episode.embodiment))
