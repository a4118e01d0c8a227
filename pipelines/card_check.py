"""Holds a card against recordings and says what disagrees, before anything is ingested.

Some episodes spread over the set are read and mapped by the card. What each check finds in them that concerns the card
is gathered over all; then come questions that only show over several episodes: a gripper that never moves, angles that
look like degrees, lengths that look like millimetres, a rate that the recorded times contradict.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from pipelines import cards, registry
from pipelines.channels import to_episode
from pipelines.ingest import find_refs
from pipelines.sources import Source
from pipelines.video import VideoTools
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Channel, Embodiment
from schemas.episode import Episode, EpisodeRef, RawEpisode
from schemas.errors import CardError, SourceError, WamloomError
from schemas.findings import Finding, Severity
from schemas.recipes import Gates, Limits
from schemas.time import rate_text
from validation.check import Subject, judge_episode

RULES_OF_CARDS = frozenset(
    {
        "out_of_limits",
        "looks_like_degrees",
        "quaternion_not_unit",
        "gripper_off_scale",
        "gripper_inverted",
        "camera_not_in_card",
        "missing_depth",
        "missing_success",
        "language_not_in_card",
        "rate_mismatch",
    }
)
"""Findings of single episodes that may be the fault of the card rather than of the recording."""
_MORE_TRIES = 5
"""Times as many episodes are tried as were asked for, where some cannot be read."""
LOOKS_LIKE_MILLIMETRES_M = 20.0
"""A position that a robot's card calls metres and that goes beyond this is hardly one."""
SMALL_FOR_DEGREES = 2 * np.pi


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One way in which a card and the data differ, and in how many of the episodes that were read."""

    severity: Severity
    what: str
    """Name of the rule."""
    where: str
    """The stream, channel, view or field."""
    message: str
    episodes: int


@dataclass(frozen=True, slots=True)
class SomeEpisodes:
    """Episodes spread over a set, and what came of those that could not be read."""

    episodes: list[RawEpisode]
    unreadable: list[str]
    listed: int


@dataclass(frozen=True, slots=True)
class CardCheck:
    """What a check came to."""

    card: DatasetCard
    embodiment: Embodiment
    listed: int
    read: int
    unreadable: list[str]
    disagreements: list[Disagreement]
    unused: list[str]
    """Streams that no channel is made of."""
    recognized: str
    """The shipped card that ingest would choose by itself; "" for none."""


def read_some(location: str, limits: Limits, num_episodes: int, source: str | None = None) -> SomeEpisodes:
    """Up to ``num_episodes`` episodes spread evenly over the sets at ``location``. Raises SourceError where nothing is there."""
    refs = [ref for ref in find_refs([location]) if source in (None, ref.source)]
    found: list[RawEpisode] = []
    unreadable: list[str] = []
    with VideoTools(limits) as video:
        for ref in _spread(refs, num_episodes):
            if len(found) == num_episodes:
                break
            try:
                found.append(_source_of(ref).read(ref, video, limits))
            except WamloomError as error:
                unreadable.append(f"{error.where or ref.where}: {error.message}")
    return SomeEpisodes(found, unreadable, len(refs))


def _spread(refs: Sequence[EpisodeRef], count: int) -> list[EpisodeRef]:
    """Some of ``refs`` evenly spread, then others between them to take the place of those that cannot be read."""
    order: dict[int, None] = {}
    for finer in (1, _MORE_TRIES):
        places = np.linspace(0, len(refs) - 1, min(count * finer, len(refs)))
        order |= dict.fromkeys(places.round().astype(int).tolist())
    return [refs[index] for index in order]


def _source_of(ref: EpisodeRef) -> Source:
    return cast(Source, registry.load("sources", ref.source).SOURCE)


def check_card(name: str, location: str, limits: Limits, num_episodes: int) -> CardCheck:
    """Holds the card ``name`` (shipped, or a TOML file) against the recordings at ``location``.

    Raises CardError where the card itself is wrong, SourceError where there is nothing it could be held against.
    """
    card, embodiment = cards.load_pair(name)
    sample = read_some(location, limits, num_episodes, card.source)
    if not sample.listed:
        others = ", ".join(sorted({ref.source for ref in find_refs([location])}))
        raise CardError(
            f"the card is for {card.source} sets; here is {others}", location, "choose another card", "no_card"
        )
    if not sample.episodes:
        raise SourceError(
            f"none of its episodes can be read: {sample.unreadable[0]}", location, "mend them first", "empty"
        )
    mapped: list[Episode] = []
    problems: list[tuple[str, Finding]] = []
    for raw in sample.episodes:
        try:
            mapped.append(to_episode(raw, card, embodiment))
        except WamloomError as error:
            if error.reason == "no_rate":  # not a disagreement: without it nothing can be held against the data
                raise
            problems.append((raw.ref.key, Finding(error.reason, Severity.ERROR, "card", error.message)))
    for episode in mapped:
        findings, _, _ = judge_episode(Subject(episode, {}), Gates(reject_at="never"))
        problems += [(episode.raw.ref.key, one) for one in findings if one.rule in RULES_OF_CARDS]
    disagreements = [*_gathered(problems), *_over_all(mapped, card, embodiment)]
    disagreements += _rate(sample.episodes, card, embodiment)
    used = {one.field for one in (*card.action, *card.proprio)}
    unused = sorted({stream.name for raw in sample.episodes for stream in raw.streams} - used)
    order = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
    disagreements.sort(key=lambda one: (order[one.severity], one.what, one.where))
    return CardCheck(
        card,
        embodiment,
        sample.listed,
        len(sample.episodes),
        sample.unreadable,
        disagreements,
        unused,
        _recognized(sample.episodes[0]),
    )


def _recognized(raw: RawEpisode) -> str:
    fields = [*(stream.name for stream in raw.streams), *(view.key for view in raw.views)]
    try:
        return cards.recognize(raw.ref.source, raw.ref.dataset, raw.robot_type, fields).name
    except CardError:
        return ""


def _gathered(problems: Sequence[tuple[str, Finding]]) -> Iterator[Disagreement]:
    """One disagreement for each rule and place, with the message of the first episode that shows it."""
    groups: dict[tuple[str, str, str], list[tuple[str, Finding]]] = {}
    for key, finding in problems:
        channel = finding.message.split(" ", 1)[0]  # messages begin with the channel they are about
        groups.setdefault((finding.rule, finding.where, channel), []).append((key, finding))
    for (rule, where, _), members in groups.items():
        key, finding = members[0]
        yield Disagreement(
            finding.severity, rule, where, f"{finding.message} (episode {key})", len({k for k, _ in members})
        )


def _over_all(episodes: Sequence[Episode], card: DatasetCard, embodiment: Embodiment) -> Iterator[Disagreement]:
    if not episodes:
        return
    for label, layout, grippers in (
        ("action", embodiment.action, embodiment.action_grippers),
        ("proprio", embodiment.proprio, embodiment.proprio_grippers),
    ):
        streams = [getattr(episode, label).values for episode in episodes]
        rows = np.concatenate([values for values in streams if values.size] or [np.zeros((0, len(layout)))])
        if not len(rows):
            continue
        for channel, column in zip(layout, rows.T, strict=True):
            yield from _units(label, channel, column[np.isfinite(column)], len(episodes))
        names = [channel.name for channel in layout]
        for gripper in grippers:
            column = rows[:, names.index(gripper.channel)]
            reach = abs(gripper.open - gripper.closed)
            column = column[np.isfinite(column)]
            if column.size and np.ptp(column) < 0.05 * reach:
                message = f"{gripper.channel} stays at {column[0]:.4g} in all {len(episodes)} episodes that were read"
                yield Disagreement(Severity.WARNING, "gripper_never_moves", label, message, len(episodes))
    yield from _language(episodes, card)
    for slot in sorted(set(embodiment.views) - set(card.views.values())):
        message = f"the robot {embodiment.name} has a view {slot}, which no camera of the card fills"
        yield Disagreement(Severity.INFO, "view_not_filled", slot, message, len(episodes))


def _units(label: str, channel: Channel, column: np.ndarray, count: int) -> Iterator[Disagreement]:
    if not column.size:
        message = f"{channel.name} has no finite value in all {count} episodes that were read"
        yield Disagreement(Severity.WARNING, "no_finite_value", label, message, count)
        return
    reach = float(np.abs(column).max())
    if channel.unit == "m" and reach > LOOKS_LIKE_MILLIMETRES_M:
        message = f"{channel.name} reaches {reach:.4g} m; is it in millimetres?"
        yield Disagreement(Severity.WARNING, "looks_like_millimetres", label, message, count)
    if channel.unit == "deg" and 0 < reach <= SMALL_FOR_DEGREES:
        message = f"{channel.name} stays within {reach:.4g} deg; is it in radians?"
        yield Disagreement(Severity.WARNING, "looks_like_radians", label, message, count)


def _language(episodes: Sequence[Episode], card: DatasetCard) -> Iterator[Disagreement]:
    without = sum(not episode.instructions for episode in episodes)
    if card.language.fields and without == len(episodes):
        fields = ", ".join(card.language.fields)
        message = f"no episode has an instruction in {fields}"
        yield Disagreement(Severity.WARNING, "no_instruction", "language", message, without)


def _rate(raws: Sequence[RawEpisode], card: DatasetCard, embodiment: Embodiment) -> Iterator[Disagreement]:
    declared = raws[0].declared_rate
    used = card.control_rate or declared or embodiment.control_rate
    if declared is not None and used is not None and declared != used:
        message = f"the source declares {rate_text(declared)} Hz, the card {rate_text(used)} Hz"
        yield Disagreement(Severity.INFO, "other_rate_declared", "time", message, len(raws))
