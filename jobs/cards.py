"""``wamloom cards``: the cards that are shipped, one of them in full, held against data, or drafted from data."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from jobs.options import Answer, CardsOptions
from pipelines import cards
from pipelines.card_check import CardCheck, check_card
from pipelines.card_draft import draft_cards
from pipelines.storage import write_durably
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Embodiment
from schemas.errors import UsageError
from schemas.findings import Severity
from schemas.recipes import Limits
from schemas.time import rate_text

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def run(options: CardsOptions) -> Answer:
    """Does what ``options.action`` says."""
    if options.action == "list":
        return _list()
    if options.action == "show":
        return _show(options.card)
    if options.action == "check":
        return _check(options)
    return _new(options)


def _list() -> Answer:
    rows = [_facts(*cards.load_pair(name)) for name in cards.dataset_card_names()]
    width = max(len(row["name"]) for row in rows)
    lines = [
        f"{row['name']:{width}}  {row['source']:9}  {row['control_rate']:>7} Hz  {row['embodiment']:24}  "
        f"{', '.join(row['views']) or 'no camera'}"
        + (f"  (unknown: {', '.join(row['unknown'])})" if row["unknown"] else "")
        for row in rows
    ]
    return Answer({"cards": rows}, lines)


def _facts(card: DatasetCard, embodiment: Embodiment) -> dict[str, Any]:
    rate = card.control_rate or embodiment.control_rate
    return {
        "name": card.name,
        "title": card.title,
        "source": card.source,
        "embodiment": embodiment.name,
        "control_rate": rate_text(rate) if rate is not None else "unknown",
        "proprio": [channel.name for channel in embodiment.proprio],
        "action": [channel.name for channel in embodiment.action],
        "views": list(card.views.values()),
        "license": card.license,
        "unknown": cards.unknowns(card, embodiment),
    }


def _show(name: str) -> Answer:
    card, embodiment = cards.load_pair(name)
    texts = cards.texts(name)
    values = {"card": card.model_dump(mode="json"), "embodiment": embodiment.model_dump(mode="json")}
    lines = [line for title, text in texts for line in (f"# --- {title}", *text.splitlines(), "")]
    return Answer(values, lines)


def _check(options: CardsOptions) -> Answer:
    result = check_card(options.card, options.location, Limits(), options.num_episodes)
    wrong = [one for one in result.disagreements if one.severity is not Severity.INFO]
    values = {
        "card": result.card.name,
        "location": options.location,
        "listed": result.listed,
        "read": result.read,
        "unreadable": result.unreadable,
        "recognized": result.recognized,
        "agrees": not wrong,
        "disagreements": [dataclasses.asdict(one) for one in result.disagreements],
        "unused": result.unused,
    }
    return Answer(values, _told(result, len(wrong)), 5 if wrong else 0)


def _told(result: CardCheck, wrong: int) -> list[str]:
    lines = [f"{result.card.name} on {result.embodiment.name}: {result.read} of {result.listed} episodes read"]
    lines += [f"  not readable: {text}" for text in result.unreadable]
    lines += [
        f"  {one.severity:7}  {one.what} in {one.where}: {one.message}; {one.episodes} of {result.read} episodes"
        for one in result.disagreements
    ]
    if result.unused:
        lines.append(f"  streams that no channel is made of: {', '.join(result.unused)}")
    if result.recognized != result.card.name:
        other = f"would choose {result.recognized}" if result.recognized else "recognizes no card here"
        lines.append(f"  ingest by itself {other}; name this one with --card")
    lines.append("the card agrees with the data" if not wrong else f"{wrong} disagreements")
    return lines


def _new(options: CardsOptions) -> Answer:
    if options.name is not None and not _NAME.fullmatch(options.name):
        raise UsageError(
            f"{options.name[:100]!a} is no name for a card", hint="letters, digits, and - _ . between them"
        )
    draft = draft_cards(options.location, Limits(), options.num_episodes, options.name)
    robot = f"{draft.name}_robot"
    values: dict[str, Any] = {
        "name": draft.name,
        "episodes_read": draft.episodes_read,
        "questions": list(draft.questions),
        "card": draft.card,
        "embodiment": draft.embodiment,
        "files": [],
    }
    if options.out is None:
        lines = [f"# --- {draft.name}.toml", *draft.card.splitlines()]
        return Answer(values, [*lines, "", f"# --- {robot}.toml", *draft.embodiment.splitlines()])
    files = {
        Path(options.out) / f"{draft.name}.toml": draft.card,
        Path(options.out) / f"{robot}.toml": draft.embodiment,
    }
    for path in files:
        if path.exists():
            raise UsageError("there is a card already", str(path), "choose another folder or --name, or remove it")
    lines = [f"{'would write' if options.dry_run else 'wrote'} {path}" for path in files]
    if not options.dry_run:
        for path, text in files.items():
            write_durably(path, text.encode())
        values["files"] = [str(path) for path in files]
    lines += ["open questions:", *(f"  - {question}" for question in draft.questions)]
    lines.append(f"next: answer them in the files, then: wamloom cards check {next(iter(files))} {options.location}")
    return Answer(values, lines)
