"""Versions of recordings: which row a source place leads to now, which rows were superseded, and by what.

A place is a location and a key. Each time its files were found changed, the row of the new content lists the place with a
revision one higher. A row is *current* while one of its places has the highest revision of that place; an older row stays in
the lake and can be read, but nothing is made of it unless it is named.
"""

from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import Lake

Place = tuple[str, str]
"""(location, key)."""


@dataclass(frozen=True, slots=True)
class KnownPlace:
    """What the lake knows of one source place: a row that lists it."""

    episode_id: str
    outcome: str
    state: str
    revision: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """What happened at one place of a row: ids of the rows it led to before and after, oldest first."""

    place: Place
    replaces: tuple[str, ...]
    superseded_by: tuple[str, ...]


def known_places(lake: Lake, wanted: Collection[Place] | None = None) -> dict[Place, list[KnownPlace]]:
    """By place (all, or those wanted): the rows that list it, the newest revision first, a kept row before a failed one."""
    flat = _flat(lake)
    if wanted is not None:
        locations, keys = ({place[part] for place in wanted} for part in (0, 1))
        mask = pc.and_(
            pc.is_in(flat["location"], pa.array(locations, pa.string())),
            pc.is_in(flat["key"], pa.array(keys, pa.string())),
        )
        flat = flat.filter(mask)
    places: dict[Place, list[KnownPlace]] = {}
    for row in flat.to_pylist():
        place = (row["location"], row["key"])
        if wanted is None or place in wanted:
            found = KnownPlace(row["episode_id"], row["outcome"], row["state"], row["revision"])
            places.setdefault(place, []).append(found)
    for here in places.values():
        here.sort(key=lambda known: (-known.revision, known.outcome != "kept", known.episode_id))
    return places


def newest(here: Collection[KnownPlace]) -> list[KnownPlace]:
    """Those of the highest revision, in order: the row of what lies there, and one that says it could not be read."""
    top = max((known.revision for known in here), default=0)
    return [known for known in here if known.revision == top]


def next_revision(here: Collection[KnownPlace], episode_id: str, outcome: str) -> tuple[int, str]:
    """The revision of a place now that it led to ``episode_id``, and the id of the row this supersedes ("" if none).

    A place that cannot be read keeps its revision: that its content changed is not known.
    """
    revision = max((known.revision for known in here), default=1)
    before = [known.episode_id for known in newest(here) if known.outcome != "failed"]
    if outcome == "failed" or not before or episode_id in before:
        return revision, ""
    return revision + 1, before[0]


def superseded(lake: Lake) -> frozenset[str]:
    """Ids of the rows that are not current."""
    flat = _flat(lake)
    if not len(flat) or pc.max(flat["revision"]).as_py() == 1:
        return frozenset()
    top = flat.group_by(["location", "key"]).aggregate([("revision", "max")])
    joined = flat.join(top, ["location", "key"])
    current = joined.filter(pc.equal(joined["revision"], joined["revision_max"]))["episode_id"]
    return frozenset(flat["episode_id"].to_pylist()) - frozenset(current.to_pylist())


def lineage(lake: Lake, episode_id: str) -> tuple[Lineage, ...]:
    """What came before and after the row at each of its places; places that never changed are left out."""
    flat = _flat(lake)
    mine = flat.filter(pc.equal(flat["episode_id"], episode_id)).to_pylist()
    places = {(row["location"], row["key"]): row["revision"] for row in mine}
    told = []
    for place, here in sorted(known_places(lake, places).items()):
        others = [known for known in reversed(here) if known.episode_id != episode_id and known.outcome != "failed"]
        replaces = tuple(known.episode_id for known in others if known.revision < places[place])
        after = tuple(known.episode_id for known in others if known.revision > places[place])
        if replaces or after:
            told.append(Lineage(place, replaces, after))
    return tuple(told)


def _flat(lake: Lake) -> pa.Table:
    """One line per row and place: episode_id, outcome, location, key, state, revision."""
    rows = lake.select("episodes", ["episode_id", "outcome", "locations"])
    lists = rows["locations"].combine_chunks()
    parents = pc.list_parent_indices(lists)
    places = pc.list_flatten(lists)
    columns = {name: rows[name].take(parents) for name in ("episode_id", "outcome")}
    columns |= {name: pc.struct_field(places, name) for name in ("location", "key", "state", "revision")}
    return pa.table(columns)
