"""The ingest line: locations -> one row of the lake per source episode, whatever became of it.

``plan_ingest`` lists and packs, ``ingest_unit.IngestWorker`` reads, maps and judges one unit into a staged file,
``ingest_commit.IngestCommitter`` puts staged rows into the lake and keeps the account:
listed = kept + rejected + failed + already.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pipelines import cards, companions, places, registry
from pipelines.channels import to_episode
from pipelines.ingest_unit import CardChoice, recognize
from pipelines.lake import Lake
from pipelines.places import place
from pipelines.sources import Source
from pipelines.storage import writing
from pipelines.versions import known_places, newest
from pipelines.video import VideoTools
from pipelines.video_spool import SpoolError
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Embodiment
from schemas.episode import EpisodeRef, RawEpisode
from schemas.errors import CardError, MissingFile, SourceError, WamloomError
from schemas.fingerprint import fingerprint
from schemas.recipes import IngestRecipe
from schemas.work import WorkUnit

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
    unreadable: tuple[WamloomError, ...] = ()
    """Why sets are left out whole: those whose index cannot be read, and those that no card fits. None of their episodes
    is listed, except for what the lake has of the latter."""

    @property
    def listed(self) -> int:
        """All episodes found."""
        return len(self.refs)


def find_refs(locations: Sequence[str]) -> list[EpisodeRef]:
    """Every episode at the locations, in order, each place once. Raises SourceError for a place that holds nothing."""
    refs, unreadable = list_sets(locations)
    if unreadable:
        raise unreadable[0]
    return refs


def list_sets(locations: Sequence[str]) -> tuple[list[EpisodeRef], list[WamloomError]]:
    """Every episode at the locations, in order, each place once; and why sets among them cannot be listed.

    The same set is listed once, however often it is named, and whatever links lead to it.
    """
    places.forget()  # a later run of the same process looks anew
    found: dict[tuple[str, str], EpisodeRef] = {}
    unreadable: list[WamloomError] = []
    seen: set[tuple[str, str]] = set()
    for location in locations:
        try:
            sets = _sets(location)
        except SourceError as error:
            unreadable.append(error)
            continue
        for source, root in sets:
            if (source.name, root) in seen:
                continue
            seen.add((source.name, root))
            try:
                refs = source.refs(root)
                if not refs:
                    raise SourceError("the data set lists no episode", root, "its index is empty or damaged", "empty")
                _check_names(refs)
            except SourceError as error:
                unreadable.append(error)
                continue
            found |= {(ref.location, ref.key): ref for ref in refs}
    return list(found.values()), unreadable


def _check_names(refs: Sequence[EpisodeRef]) -> None:
    """Raises SourceError where the name of a file is not UTF-8: no table could hold it."""
    for ref in refs:
        try:
            ref.where.encode()
        except UnicodeEncodeError as error:
            where = ref.where.encode(errors="backslashreplace").decode()
            raise SourceError("the name of a file is not UTF-8", where, "rename it", "bad_name") from error


def _sets(location: str) -> list[tuple[Source, str]]:
    """Every set at the location with the source that reads it. Raises SourceError where there is none."""
    path = place(location).expanduser()
    listed = places.lists(path)
    if listed and not path.exists():
        raise MissingFile("there is nothing here", location, "check the path; a location is a folder of recordings")
    found: list[tuple[Source, str]] = []
    for name in registry.names("sources"):
        source = cast(Source, registry.load("sources", name).SOURCE)
        found += [(source, _canonical(root)) for root in source.datasets(_canonical(str(path)))]
    if not found and not listed:
        hint = f"over {path.protocol} a location is the folder of one set whose index names its files (docs/formats.md)"
        raise places.refusal(path) or SourceError("no index of a data set answers here", location, hint, "not_found")
    if not found:
        inside = sorted(child.name for child in path.iterdir())[:5] if path.is_dir() else []
        seen = f"it holds {', '.join(inside)}" if inside else ("it is empty" if path.is_dir() else "it is a file")
        raise SourceError(
            f"no recordings in a layout wamloom knows; {seen}",
            location,
            f"known layouts: {', '.join(registry.names('sources'))}; docs/formats.md says how to recognize them",
            "unknown_layout",
        )
    return found


def _canonical(location: str) -> str:
    """The one name of a place: links of a local path resolved, a URL as ``place`` writes it."""
    path = place(location)
    return str(path.resolve() if isinstance(path, Path) else path)


def choose_cards(
    refs: Iterable[EpisodeRef], card: str | None, recipe: IngestRecipe
) -> tuple[dict[str, CardChoice], dict[str, CardError]]:
    """A card for every location: ``card`` by name or file, or the one that recognizes its first episode that reads; and
    why none fits, by location.

    It is tried on that episode, so that a ``card`` that disagrees with the data raises CardError before anything is
    ingested. A location none of whose first episodes reads has no entry; the worker recognizes what it can read.
    """
    by_location: dict[str, list[EpisodeRef]] = {}
    for ref in refs:
        by_location.setdefault(ref.location, []).append(ref)
    named = None if card is None else cards.load_pair(card)
    choices: dict[str, CardChoice] = {}
    unfit: dict[str, CardError] = {}
    with VideoTools(recipe.limits, glance=True) as video:
        if by_location:
            video.start()
        for location, members in by_location.items():
            raw = _first_readable(members, video, recipe)
            try:
                pair = named if named or raw is None else recognize(raw)
                if pair is not None and raw is not None:
                    _try_card(raw, *pair)
            except CardError as error:
                if named:
                    raise
                unfit[location] = error
                continue
            if pair is not None:
                choices[location] = (pair[0].model_dump_json(), pair[1].model_dump_json())
    return choices, unfit


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
            return source.read(companions.without_mark(ref), video, recipe.limits)
        except SpoolError as error:
            with writing(Path(tempfile.gettempdir())):
                raise error.error from error
        except WamloomError:
            continue  # its own row will say why
    return None


def plan_ingest(
    locations: Sequence[str], lake: Lake | None, recipe: IngestRecipe, card: str | None = None, retry: bool = False
) -> IngestPlan:
    """Lists the locations, leaves out what the lake (None: there is none yet) has, and packs the rest into even units.

    A set that cannot be read or that no card fits is left out. Raises its error where nothing is left.
    """
    refs, unreadable = list_sets(locations)
    if not refs:
        raise unreadable[0]
    annotations = companions.load(recipe.annotations)
    refs = [annotations.marked(ref) for ref in refs]
    known = {} if lake is None else known_places(lake)
    already: list[EpisodeRef] = []
    todo: list[EpisodeRef] = []
    outcomes: Counter[str] = Counter()
    for ref in refs:
        here = newest(known.get((ref.location, ref.key), ()))
        before = next((one for one in here if one.state == ref.state), None)
        if before is not None and not (retry and before.outcome != "kept"):
            already.append(ref)
            outcomes[before.outcome] += 1
        else:
            todo.append(ref)
    choices, unfit = choose_cards(todo, card, recipe)
    if unfit:
        unreadable += unfit.values()
        left_out = {(ref.location, ref.key) for ref in todo if ref.location in unfit}
        refs = [ref for ref in refs if (ref.location, ref.key) not in left_out]
        todo = [ref for ref in todo if ref.location not in unfit]
        if not refs:
            raise unreadable[0]
    units = []
    for pack in _packs(todo, recipe.unit_mb * 1_000_000):
        identity = fingerprint(
            "ingest-1",
            [(ref.location, ref.key, ref.state) for ref in pack],
            recipe.fingerprint,
            choices.get(pack[0].location),
        )
        units.append(WorkUnit(identity, tuple(pack), sum(ref.num_bytes for ref in pack)))
    return IngestPlan(
        tuple(refs), tuple(already), outcomes["failed"], outcomes["rejected"], tuple(units), choices, tuple(unreadable)
    )


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
