"""The ingest line: locations -> one row of the lake per source episode, whatever became of it.

``plan_ingest`` lists and packs, ``ingest_unit.IngestWorker`` reads, maps and judges one unit into a staged file,
``IngestCommitter`` puts staged rows into the lake and keeps the account: listed = kept + rejected + failed + already.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pyarrow as pa

from pipelines import cards, registry
from pipelines.channels import to_episode
from pipelines.ingest_unit import CardChoice, recognize, stage_rows
from pipelines.lake import Lake, quoted
from pipelines.rows import WARNED, Row, failed_row
from pipelines.sources import Source
from pipelines.video import VideoTools
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Embodiment
from schemas.episode import EpisodeRef, RawEpisode
from schemas.errors import CardError, LakeError, MissingFile, SourceError, UnitLost, WamloomError
from schemas.fingerprint import fingerprint
from schemas.recipes import IngestRecipe
from schemas.work import Outcome, UnitResult, WorkUnit

_CARD_TRIES = 5
"""Episodes to try before giving up on finding one that reads, to recognize a data set by."""


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What a run will do. ``listed`` counts every episode; ``already`` those whose place and state the lake knows."""

    refs: tuple[EpisodeRef, ...]
    already: tuple[EpisodeRef, ...]
    already_failed: int
    """How many of ``already`` have a failed row."""
    already_rejected: int
    units: tuple[WorkUnit, ...]
    choices: Mapping[str, CardChoice]
    """By location; a location none of whose first episodes reads has none."""

    @property
    def listed(self) -> int:
        """All episodes found."""
        return len(self.refs)


def find_refs(locations: Sequence[str]) -> list[EpisodeRef]:
    """Every episode at the locations, in order, each place once. Raises SourceError for a place that holds nothing."""
    found: dict[tuple[str, str], EpisodeRef] = {}
    for location in locations:
        path = Path(location).expanduser()
        if not path.exists():
            raise MissingFile("there is nothing here", location, "check the path; a location is a folder of recordings")
        hits = 0
        for name in registry.names("sources"):
            source = cast(Source, registry.load("sources", name).SOURCE)
            for root in source.datasets(str(path.resolve())):
                refs = source.refs(root)
                hits += 1
                if not refs:
                    raise SourceError("the data set lists no episode", root, "its index is empty or damaged", "empty")
                found |= {(ref.location, ref.key): ref for ref in refs}
        if not hits:
            inside = sorted(child.name for child in path.iterdir())[:5] if path.is_dir() else []
            seen = f"it holds {', '.join(inside)}" if inside else ("it is empty" if path.is_dir() else "it is a file")
            raise SourceError(
                f"no recordings in a layout wamloom knows; {seen}",
                location,
                f"known layouts: {', '.join(registry.names('sources'))}; docs/formats.md says how to recognize them",
                "unknown_layout",
            )
    return list(found.values())


def choose_cards(refs: Iterable[EpisodeRef], card: str | None, recipe: IngestRecipe) -> dict[str, CardChoice]:
    """A card for every location: ``card`` by name or file, or the one that recognizes its first episode that reads.

    It is tried on that episode, so that a card that disagrees with the data raises CardError before anything is ingested.
    A location none of whose first episodes reads has no entry; the worker recognizes what it can read.
    """
    by_location: dict[str, list[EpisodeRef]] = {}
    for ref in refs:
        by_location.setdefault(ref.location, []).append(ref)
    named = None if card is None else cards.load_pair(card)
    choices: dict[str, CardChoice] = {}
    with VideoTools(recipe.limits) as video:
        for location, members in by_location.items():
            raw = _first_readable(members, video, recipe)
            pair = named if named or raw is None else recognize(raw)
            if pair is None:
                continue
            if raw is not None:
                _try_card(raw, *pair)
            choices[location] = (pair[0].model_dump_json(), pair[1].model_dump_json())
    return choices


def _try_card(raw: RawEpisode, card: DatasetCard, embodiment: Embodiment) -> None:
    """Raises CardError where the card disagrees with the data. An episode that is damaged gets its own row instead."""
    keys = {view.key for view in raw.views}
    if card.views and keys and not keys & set(card.views):
        message = f"the card {card.name} knows none of the cameras {', '.join(sorted(keys))}"
        hint = f"choose the card of this data set, or map them; it has {', '.join(sorted(card.views))}"
        raise CardError(message, raw.ref.where, hint)
    with contextlib.suppress(SourceError):
        to_episode(raw, card, embodiment)


def _first_readable(members: Sequence[EpisodeRef], video: VideoTools, recipe: IngestRecipe) -> RawEpisode | None:
    step = max(1, len(members) // _CARD_TRIES)
    for ref in [*members[:_CARD_TRIES], *members[::step][:_CARD_TRIES]]:
        source = cast(Source, registry.load("sources", ref.source).SOURCE)
        try:
            return source.read(ref, video, recipe.limits)
        except WamloomError:
            continue  # its own row will say why
    return None


def plan_ingest(
    locations: Sequence[str], lake: Lake | None, recipe: IngestRecipe, card: str | None = None, retry: bool = False
) -> IngestPlan:
    """Lists the locations, leaves out what the lake (None: there is none yet) has, and packs the rest into even units."""
    refs = find_refs(locations)
    known = {} if lake is None else known_places(lake)
    already: list[EpisodeRef] = []
    todo: list[EpisodeRef] = []
    outcomes: Counter[str] = Counter()
    for ref in refs:
        place = next((one for one in known.get((ref.location, ref.key), ()) if one.state == ref.state), None)
        if place is not None and not (retry and place.outcome != "kept"):
            already.append(ref)
            outcomes[place.outcome] += 1
        else:
            todo.append(ref)
    choices = choose_cards(todo, card, recipe)
    units = []
    for pack in _packs(todo, recipe.unit_mb * 1_000_000):
        identity = fingerprint(
            "ingest-1",
            [(ref.location, ref.key, ref.state) for ref in pack],
            recipe.fingerprint,
            choices.get(pack[0].location),
        )
        units.append(WorkUnit(identity, tuple(pack), sum(ref.num_bytes for ref in pack)))
    return IngestPlan(tuple(refs), tuple(already), outcomes["failed"], outcomes["rejected"], tuple(units), choices)


def _packs(refs: Sequence[EpisodeRef], target_bytes: int) -> list[list[EpisodeRef]]:
    packs: list[list[EpisodeRef]] = []
    size = 0
    for ref in refs:
        if not packs or size + ref.num_bytes > target_bytes or packs[-1][0].location != ref.location:
            packs.append([])
            size = 0
        packs[-1].append(ref)
        size += ref.num_bytes
    return packs


@dataclass(frozen=True, slots=True)
class KnownPlace:
    """What the lake knows of one source place."""

    episode_id: str
    state: str
    outcome: str


def known_places(lake: Lake) -> dict[tuple[str, str], list[KnownPlace]]:
    """By (location, key): the rows that place led to, kept ones first. There are several where its files have changed."""
    places: dict[tuple[str, str], list[KnownPlace]] = {}
    for row in lake.rows("episodes", ["outcome", "locations"]):
        for place in row["locations"]:
            found = KnownPlace(row["episode_id"], place["state"], row["outcome"])
            places.setdefault((place["location"], place["key"]), []).append(found)
    for found_here in places.values():
        found_here.sort(key=lambda place: place.outcome != "kept")
    return places


@dataclass(slots=True)
class IngestTotals:
    """The account of a run."""

    listed: int = 0
    kept: int = 0
    rejected: int = 0
    failed: int = 0
    already: int = 0
    duplicates: int = 0
    """Of ``already``: recordings found a second time, by this run."""
    warned: Counter[str] = field(default_factory=Counter)
    """Kept episodes of this run by rule that warns of them."""
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[Outcome] = field(default_factory=list)
    """Failed and rejected ones of this run."""

    @property
    def accounted(self) -> int:
        """Episodes with an outcome; equals ``listed`` when the run is whole."""
        return self.kept + self.rejected + self.failed + self.already


class IngestCommitter:
    """Puts staged units into the lake in batches, recognizes content that is there already, and keeps the account."""

    def __init__(self, lake: Lake, plan: IngestPlan, staging: Path, recipe: IngestRecipe, version: str) -> None:
        self._lake = lake
        self._plan = plan
        self._staging = staging
        self._recipe = recipe
        self._version = version
        self._refs = {ref.where: ref for ref in plan.refs}
        self._limit = recipe.commit_mb * 1_000_000
        self._known = known_places(lake)
        self._order = [unit.unit_id for unit in plan.units]
        self._early: dict[str, UnitResult] = {}
        self._waiting: list[UnitResult] = []
        self._waiting_bytes = 0
        self.totals = IngestTotals(listed=plan.listed, already=len(plan.already))

    def add(self, result: UnitResult) -> None:
        """Takes the result of a unit; commits when enough has come together.

        Commits follow the order of the plan, whatever the order of arrival, so that of two copies of a recording the same
        one makes the row in every run.
        """
        self._early[result.unit_id] = result if result.files else self._stage_lost(result)
        while self._order and self._order[0] in self._early:
            ready = self._early.pop(self._order.pop(0))
            self._waiting.append(ready)
            self._waiting_bytes += sum(record.num_bytes for record in ready.files)
            if self._waiting_bytes >= self._limit:
                self.flush()

    def _stage_lost(self, result: UnitResult) -> UnitResult:
        hint = "ingest again with --retry; if it dies again, ingest that location alone to find the culprit"
        rows = [
            failed_row(
                self._refs[outcome.key],
                UnitLost(outcome.message, outcome.key, hint, outcome.reason),
                self._recipe.fingerprint,
                self._version,
            )
            for outcome in result.outcomes
        ]
        return stage_rows(self._staging, result.unit_id, rows)

    def flush(self) -> None:
        """Commits everything that waits. After this returns, those rows survive anything."""
        if not self._waiting:
            return
        with self._lake.alone():  # what is there already is looked up and then changed
            fresh = self._commit()
        self._count(fresh)
        for result in self._waiting:
            for record in result.files:
                (self._staging / record.path).unlink()
        self._waiting, self._waiting_bytes = [], 0

    def _commit(self) -> set[int]:
        """Puts what waits into the lake; which of its rows, by position, were new."""
        tables = []
        for result in self._waiting:
            for record in result.files:
                with pa.memory_map(str(self._staging / record.path)) as file:
                    tables.append(pa.ipc.open_file(file).read_all())
        rows = pa.concat_tables(tables)
        ids: list[str] = rows["episode_id"].to_pylist()
        places: list[list[Row]] = rows["locations"].to_pylist()
        outcomes: list[str] = rows["outcome"].to_pylist()
        self._lake.refresh()
        stale = self._stale(ids, places, outcomes)
        before = self._rows(["locations"], stale)
        read_now = {(place["location"], place["key"]) for located in places for place in located}
        # First: a run killed between the two finds an unknown place and reads it; the other way round, two rows stay.
        self._lake.remove_episodes(stale)
        present = {row["episode_id"] for row in self._rows([], ids)}
        fresh: list[int] = []
        additions: dict[str, list[Row]] = {
            row["episode_id"]: [p for p in row["locations"] if (p["location"], p["key"]) not in read_now]
            for row in before
        }
        seen = set(present)
        for index, episode_id in enumerate(ids):
            if episode_id in seen:
                additions.setdefault(episode_id, []).extend(places[index])
            else:
                seen.add(episode_id)
                fresh.append(index)
        if fresh:  # else all of it is known content
            self._lake.insert("episodes", rows.take(fresh))
        self._lake.add_locations(additions)
        return set(fresh)

    def _stale(self, ids: Sequence[str], places: Sequence[list[Row]], outcomes: Sequence[str]) -> list[str]:
        """Rows that this batch replaces: an earlier failure or rejection of the same place."""
        stale: dict[str, None] = {}
        for episode_id, located, outcome in zip(ids, places, outcomes, strict=True):
            for before in self._known.get((located[0]["location"], located[0]["key"]), ()):
                again = before.episode_id == episode_id and outcome != "failed"
                if before.outcome == "failed" or (before.outcome == "rejected" and again):
                    stale[before.episode_id] = None
        return list(stale)

    def _rows(self, columns: Sequence[str], ids: Sequence[str]) -> list[Row]:
        if not ids:
            return []
        wanted = ", ".join(quoted(episode_id) for episode_id in dict.fromkeys(ids))
        return self._lake.rows("episodes", columns, f"episode_id in ({wanted})")

    def _count(self, fresh: set[int]) -> None:
        index = 0
        for result in self._waiting:
            for outcome in result.outcomes:
                if index not in fresh:
                    self.totals.already += 1
                    self.totals.duplicates += 1
                else:
                    setattr(self.totals, outcome.kind, getattr(self.totals, outcome.kind) + 1)
                    if outcome.kind == "kept":
                        names = (name for name, _ in outcome.numbers if name.startswith(WARNED))
                        self.totals.warned.update(name.removeprefix(WARNED) for name in names)
                    else:
                        self.totals.reasons[outcome.reason] += 1
                        self.totals.problems.append(outcome)
                index += 1

    def close(self) -> IngestTotals:
        """Commits the rest and proves the account: every listed place is in the lake. Raises LakeError if not."""
        self.flush()
        self._lake.refresh()
        known = known_places(self._lake)
        missing = [ref for ref in self._plan.refs if (ref.location, ref.key) not in known]
        if missing or self.totals.accounted != self.totals.listed:
            raise LakeError(
                f"the account does not close: {self.totals.listed} listed, {self.totals.accounted} accounted, "
                f"{len(missing)} without a row",
                missing[0].where if missing else str(self._lake.root),
                "run the same command again; it takes up what is missing",
                "account",
            )
        return self.totals
