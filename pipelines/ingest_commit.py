"""Committing an ingest: staged rows into the lake in batches, content that is there already recognized, the account kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow as pa

from pipelines.ingest_unit import ROWS_SUFFIX, stage_rows
from pipelines.lake import Lake, picked, quoted
from pipelines.rows import WARNED, Row, failed_row, staged_files, with_finding
from pipelines.versions import KnownPlace, Place, known_places, next_revision
from schemas.episode import EpisodeRef
from schemas.errors import LakeError, UnitLost
from schemas.findings import Finding
from schemas.recipes import IngestRecipe
from schemas.work import Outcome, UnitResult
from validation.check import gate
from validation.checks.duplicates import CHANGED_SOURCE


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
    changed: int = 0
    """Of ``kept`` and ``rejected``: new versions of a recording whose files changed."""
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

    def __init__(
        self,
        lake: Lake,
        refs: Sequence[EpisodeRef],
        already: int,
        unit_ids: Sequence[str],
        staging: Path,
        recipe: IngestRecipe,
        version: str,
    ) -> None:
        """``refs`` is everything listed, ``already`` how many of them the plan left out, ``unit_ids`` in planned order."""
        self._lake = lake
        self._staging = staging
        self._recipe = recipe
        self._version = version
        self._refs = {ref.where: ref for ref in refs}
        self._limit = recipe.commit_mb * 1_000_000
        self._order = list(unit_ids)
        self._early: dict[str, UnitResult] = {}
        self._waiting: list[UnitResult] = []
        self._waiting_bytes = 0
        self.totals = IngestTotals(listed=len(self._refs), already=already)

    def add(self, result: UnitResult) -> None:
        """Takes the result of a unit; commits when enough has come together.

        Commits follow the order of the plan, whatever the order of arrival, so that of two copies of a recording the same
        one makes the row in every run.
        """
        self._early[result.unit_id] = result if result.files else self._stage_lost(result)
        while self._order and self._order[0] in self._early:
            ready = self._early.pop(self._order.pop(0))
            self._waiting.append(ready)
            self._waiting_bytes += sum(record.num_bytes for record in ready.files if record.path.endswith(ROWS_SUFFIX))
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
        videos: dict[str, Path] = {}
        for result in self._waiting:
            for record in result.files:
                path = self._staging / record.path
                if path.suffix == ROWS_SUFFIX:
                    with pa.memory_map(str(path)) as file:
                        tables.append(pa.ipc.open_file(file).read_all())
                else:
                    videos[path.name] = path
        rows = pa.concat_tables(tables)
        ids: list[str] = rows["episode_id"].to_pylist()
        places: list[Row] = [located[0] for located in rows["locations"].to_pylist()]
        outcomes: list[str] = rows["outcome"].to_pylist()
        self._lake.refresh()
        read_now = {_place(place) for place in places}
        known = known_places(self._lake, read_now)
        stale = _stale(ids, places, outcomes, known)
        before = self._rows(["locations"], stale)
        replaced: dict[int, str] = {}
        for index, place in enumerate(places):
            place["revision"], earlier = next_revision(known.get(_place(place), ()), ids[index], outcomes[index])
            if earlier:
                replaced[index] = earlier
        # First: a run killed between the two finds an unknown place and reads it; the other way round, two rows stay.
        self._lake.remove_episodes(stale)
        present = {row["episode_id"] for row in self._rows([], ids)}
        fresh: list[int] = []
        additions: dict[str, list[Row]] = {
            row["episode_id"]: [place for place in row["locations"] if _place(place) not in read_now] for row in before
        }
        seen = set(present)
        for index, episode_id in enumerate(ids):
            if episode_id in seen:
                additions.setdefault(episode_id, []).append(places[index])
            else:
                seen.add(episode_id)
                fresh.append(index)
        if fresh:  # else all of it is known content
            told = {name for index in fresh for name in staged_files(rows["views"][index])}
            self._lake.publish_videos({name: videos[PurePosixPath(name).name] for name in told})
            self._lake.insert("episodes", picked(self._revised(rows, places, replaced), fresh))
        self.totals.changed += len(replaced.keys() & set(fresh))
        self._lake.add_locations(additions)
        return set(fresh)

    def _revised(self, rows: pa.Table, places: Sequence[Row], replaced: Mapping[int, str]) -> pa.Table:
        """``rows`` with the revisions of their places; a row that supersedes another says so in a finding."""
        column = rows.schema.get_field_index("locations")
        field = rows.schema.field(column)
        rows = rows.set_column(column, field, pa.array([[place] for place in places], field.type))
        parts = []
        start = 0
        for index, earlier in sorted(replaced.items()):
            place = places[index]
            message = f"the files of {place['key']} changed; revision {place['revision']} supersedes episode {earlier}"
            finding = Finding(CHANGED_SOURCE.name, CHANGED_SOURCE.severity, "episode", message)
            told = gate([finding], self._recipe.gates)
            parts.append(rows.slice(start, index - start))
            parts += [with_finding(rows.slice(index, 1), one) for one in told] or [rows.slice(index, 1)]
            start = index + 1
        return pa.concat_tables([*parts, rows.slice(start)])

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
        missing = [ref for ref in self._refs.values() if (ref.location, ref.key) not in known]
        if missing or self.totals.accounted != self.totals.listed:
            raise LakeError(
                f"the account does not close: {self.totals.listed} listed, {self.totals.accounted} accounted, "
                f"{len(missing)} without a row",
                missing[0].where if missing else str(self._lake.root),
                "run the same command again; it takes up what is missing",
                "account",
            )
        return self.totals


def _place(place: Row) -> Place:
    return (place["location"], place["key"])


def _stale(
    ids: Sequence[str], places: Sequence[Row], outcomes: Sequence[str], known: Mapping[Place, Sequence[KnownPlace]]
) -> list[str]:
    """Rows that this batch replaces: an earlier failure or rejection of the same place."""
    stale: dict[str, None] = {}
    for episode_id, place, outcome in zip(ids, places, outcomes, strict=True):
        for before in known.get(_place(place), ()):
            again = before.episode_id == episode_id and outcome != "failed"
            if before.outcome == "failed" or (before.outcome == "rejected" and again):
                stale[before.episode_id] = None
    return list(stale)
