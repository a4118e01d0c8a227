"""Finds and loads the cards: robots and data sets as TOML, shipped in ``schemas/cards`` or beside each other on disk.

A user's data set card may name a shipped embodiment, or one whose card ``<embodiment>.toml`` lies in the same folder or in
``../embodiments``; the one that lies there wins.
"""

import contextlib
import difflib
import functools
import os
import tomllib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from schemas.canvas import Canvas
from schemas.dataset_card import ChannelMap, DatasetCard
from schemas.embodiment import Embodiment
from schemas.errors import CardError, RecipeError
from schemas.recipes import validate_model
from schemas.slot_layout import SlotLayout

MAX_CARD_BYTES = 1 << 20
_MAX_DOTS = 10_000_000
"""Squares of the dots of each line together: the parser's memory grows so with the length of a dotted key."""
_ENDING = ".toml"


def _shipped(kind: str) -> Traversable:
    return resources.files("schemas").joinpath("cards", kind)


def _names(kind: str) -> list[str]:
    return sorted(item.name.removesuffix(_ENDING) for item in _shipped(kind).iterdir() if item.name.endswith(_ENDING))


def embodiment_names() -> list[str]:
    """Names of the shipped embodiments, sorted."""
    return _names("embodiments")


def dataset_card_names() -> list[str]:
    """Names of the shipped data set cards, sorted."""
    return _names("datasets")


def slot_layout_names() -> list[str]:
    """Names of the shipped slot layouts, sorted."""
    return _names("slots")


def load_slot_layout(name: str) -> SlotLayout:
    """The slot layout of that name, or in that ``.toml`` file. Raises CardError."""
    return _validate(SlotLayout, _find("slots", name), name)


def canvas_names() -> list[str]:
    """Names of the shipped canvases, sorted."""
    return _names("canvases")


def load_canvas(name: str) -> Canvas:
    """The canvas of that name, or in that ``.toml`` file. Raises CardError."""
    return _validate(Canvas, _find("canvases", name), name)


def load_embodiment(name: str) -> Embodiment:
    """The embodiment of that name, or in that ``.toml`` file. Raises CardError."""
    return _read_embodiment(name) if _is_file_name(name) else _shipped_embodiment(name)


def load_dataset_card(name: str) -> DatasetCard:
    """The data set card of that name, or in that ``.toml`` file. Raises CardError."""
    return _read_dataset_card(name) if _is_file_name(name) else _shipped_dataset_card(name)


def load_pair(name: str) -> tuple[DatasetCard, Embodiment]:
    """A data set card and its embodiment, checked against each other. Raises CardError."""
    card = load_dataset_card(name)
    embodiment = _embodiment_of(card, Path(name) if _is_file_name(name) else None)
    check_pair(card, embodiment, name)
    return card, embodiment


def texts(name: str) -> list[tuple[str, str]]:
    """The TOML of a data set card and of its robot, each under a title. Raises CardError."""
    card = load_dataset_card(name)
    robot = _embodiment_place(card, Path(name) if _is_file_name(name) else None)
    return [
        (f"data set card {card.name}", _find("datasets", name).read_text()),
        (f"robot card {card.embodiment}", _find("embodiments", robot).read_text()),
    ]


def unknowns(card: DatasetCard, embodiment: Embodiment) -> list[str]:
    """What these cards say they do not know, as words: licence, rate, units, kinds, grippers, order of observation."""
    channels = (*embodiment.proprio, *embodiment.action)
    grippers = {one.channel for one in (*embodiment.proprio_grippers, *embodiment.action_grippers)}
    facts = {
        "licence": card.license == "unknown",
        "control rate": card.control_rate is None and embodiment.control_rate is None,
        "units": any(channel.unit == "unknown" for channel in channels),
        "kinds": any(channel.kind == "unknown" for channel in channels),
        "gripper polarity": any(one.kind == "gripper" and one.name not in grippers for one in channels),
        "base frame": embodiment.base_frame == "unknown",
        "order of observation and action": card.observed == "unknown",
    }
    return [name for name, is_unknown in facts.items() if is_unknown]


def recognize(source: str, dataset: str, robot_type: str, fields: Iterable[str], where: str = "") -> DatasetCard:
    """The shipped card all of whose conditions hold; of several the one that asks for most.

    ``fields`` are the names of streams and cameras. Raises CardError where none or more than one is left.
    """
    found_fields = sorted(set(fields))
    matches: list[tuple[int, str, DatasetCard]] = []
    known: list[str] = []
    for name in dataset_card_names():
        card = load_dataset_card(name)
        if card.source != source:
            continue
        known.append(name)
        rule = card.recognize
        conditions = [
            (rule.datasets, any(fnmatchcase(dataset.casefold(), one.casefold()) for one in rule.datasets)),
            (rule.robot_types, robot_type in rule.robot_types),
            (rule.fields, set(rule.fields) <= set(found_fields)),
        ]
        given = [holds for wanted, holds in conditions if wanted]
        if given and all(given):
            matches.append((len(given) * 1000 + len(rule.fields), name, card))
    if not matches:
        seen = f"data set {dataset!r}, robot type {robot_type!r}, fields {', '.join(found_fields) or 'none'}"
        shipped = ", ".join(sorted(known)) or "none"
        hint = f"name one with --card (shipped for {source}: {shipped}), or draft one with `wamloom cards new LOCATION`"
        raise CardError(f"no card recognizes this {source} data set: {seen}", where, hint, "no_card")
    most = max(match[0] for match in matches)
    best = [card for score, _, card in matches if score == most]
    if len(best) > 1:
        names = ", ".join(card.name for card in best)
        raise CardError(f"several cards recognize this data set: {names}", where, "choose one with --card", "no_card")
    return best[0]


def check_pair(card: DatasetCard, embodiment: Embodiment, where: str) -> None:
    """Raises CardError where a card cannot fill its embodiment: widths that do not add up, a view slot it does not have."""
    for label, maps, layout in (
        ("proprio", card.proprio, embodiment.proprio),
        ("action", card.action, embodiment.action),
    ):
        width = _declared_width(maps)
        if width is not None and width != len(layout):
            message = f"{label} maps {width} columns, the embodiment {embodiment.name} has {len(layout)} channels"
            raise CardError(message, where, "correct start and stop of the maps, or the layout of the embodiment")
    extra = sorted(set(card.views.values()) - set(embodiment.views))
    if extra:
        known = ", ".join(embodiment.views) or "none"
        message = f"fills the view {extra[0]}, which the embodiment {embodiment.name} does not have"
        raise CardError(message, where, f"its views are: {known}")


def _declared_width(maps: tuple[ChannelMap, ...]) -> int | None:
    """Columns the maps take together; None where one runs to the end of its field."""
    stops = [(one.start, one.stop) for one in maps]
    return sum(stop - start for start, stop in stops if stop is not None) if all(stop for _, stop in stops) else None


def _is_file_name(name: str) -> bool:
    return name.endswith(_ENDING) or "/" in name


def _find(kind: str, name: str) -> Traversable:
    if _is_file_name(name):
        path = Path(os.path.expanduser(name))  # noqa: PTH111  unlike Path's, it raises nothing
        with contextlib.suppress(OSError):  # of names that no file can have
            if path.is_file():
                return path
        raise CardError("there is no such card file", name, f"shipped cards: {', '.join(_names(kind))}")
    known = _names(kind)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise CardError(
            f"there is no card {name!r} in {kind}", hint=f"{guess}known: {', '.join(known)}; or a .toml file"
        )
    return _shipped(kind).joinpath(name + _ENDING)


def _embodiment_of(card: DatasetCard, file: Path | None) -> Embodiment:
    return load_embodiment(_embodiment_place(card, file))


def _embodiment_place(card: DatasetCard, file: Path | None) -> str:
    """The file of the robot's card that lies beside the data set card ``file``, else the name of a shipped one."""
    if file is not None:
        folder = file.expanduser().parent
        name = card.embodiment + _ENDING
        if Path(name).name != name:
            raise CardError(f"embodiment {card.embodiment!r} is not a name", str(file), "name it without a path")
        for place in (folder / name, folder.parent / "embodiments" / name):
            with contextlib.suppress(OSError):  # of names that no file can have
                if place.is_file():
                    return str(place)
    return card.embodiment


def _read_embodiment(name: str) -> Embodiment:
    return _validate(Embodiment, _find("embodiments", name), name)


def _read_dataset_card(name: str) -> DatasetCard:
    return _validate(DatasetCard, _find("datasets", name), name)


# shipped cards do not change while a process runs, and recognizing one data set asks all of them
_shipped_embodiment = functools.cache(_read_embodiment)
_shipped_dataset_card = functools.cache(_read_dataset_card)


def _validate[M: BaseModel](kind: type[M], place: Traversable, where: str) -> M:
    try:
        data = place.read_bytes()
        if len(data) > MAX_CARD_BYTES:
            raise CardError(f"a card of {len(data)} bytes is not a card", where, "name a TOML card")
        if sum(line.count(b".") ** 2 for line in data.splitlines()) > _MAX_DOTS:
            raise CardError("its keys are nested too deep", where, "see docs/cards.md for a complete example")
        values: dict[str, Any] = tomllib.loads(data.decode())
    except OSError as error:
        raise CardError(f"the card cannot be read: {error.strerror}", where, "grant reading rights") from error
    except (ValueError, RecursionError) as error:
        raise CardError(f"not valid TOML: {error}", where, "see docs/cards.md for a complete example") from error
    try:
        return validate_model(kind, values, where)
    except RecipeError as error:
        raise CardError(error.message, where, error.hint) from error
