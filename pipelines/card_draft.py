"""Drafts the cards of data that no card knows: names, widths, guessed kinds with their evidence, and open questions.

A draft says only what the recordings show. What they do not show is left out or ``unknown`` and asked as a question; where
a card needs it (the control rate), the line is a comment, so that an unanswered draft cannot be used by accident.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.card_check import read_some
from schemas.embodiment import VIEW_SLOTS, ChannelKind
from schemas.episode import RawEpisode
from schemas.errors import SourceError
from schemas.recipes import Limits
from schemas.time import rate_text
from validation.columns import ColumnGuess, guess_columns, relation

_ACTION = re.compile(r"(^|[./_])(actions?|action_dict|command)([./_]|$)", re.IGNORECASE)
_PROPRIO = re.compile(r"(state|proprio|qpos|joint|ee_|eef|cartesian|pose|gripper)", re.IGNORECASE)
_NO_PROPRIO = re.compile(
    r"(reward|discount|is_first|is_last|is_terminal|done|embedding|env_states?$|timestamp)", re.IGNORECASE
)
_WRIST = re.compile(r"(wrist|hand|gripper)", re.IGNORECASE)
_DEPTH = re.compile(r"depth", re.IGNORECASE)
_MAX_WIDTH = 64
"""A wider vector (an embedding, a simulator's whole state) is no robot vector; it is listed as left out."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The two cards as TOML text, and what somebody who knows the robot has to answer."""

    name: str
    card: str
    embodiment: str
    questions: tuple[str, ...]
    episodes_read: int


def draft_cards(location: str, limits: Limits, num_episodes: int, name: str | None = None) -> Draft:
    """Cards for the set at ``location``, from up to ``num_episodes`` episodes spread over it. Raises SourceError."""
    sample = read_some(location, limits, num_episodes)
    if not sample.episodes:
        why = sample.unreadable[0] if sample.unreadable else "it lists no episode"
        raise SourceError(f"none of its episodes can be read: {why}", location, "mend the data set first", "empty")
    first = sample.episodes[0]
    same = [
        raw for raw in sample.episodes if raw.ref.dataset == first.ref.dataset and raw.ref.source == first.ref.source
    ]
    return _Drafting(same, _plain(first.ref.dataset) if name is None else name).draft()


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.casefold()).strip("_") or "my_set"


def _shown(text: str) -> str:
    """``text`` on one line of a comment, where TOML allows no control characters."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def _quoted(value: str | list[str]) -> str:
    """``value`` as TOML, which is JSON but for one control character and for halves of characters."""
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return text.encode(errors="replace").decode()


class _Drafting:
    """The facts of some episodes of one set, and the cards made of them."""

    def __init__(self, episodes: Sequence[RawEpisode], name: str) -> None:
        self._episodes = episodes
        self._first = episodes[0]
        self._name = name
        self._questions: list[str] = []
        self._names = dict(self._first.column_names)

    def draft(self) -> Draft:
        vectors = {
            stream.name: stream.values.reshape(len(stream.values), -1).shape[1]
            for stream in self._first.streams
            if stream.values.dtype.kind in "fiub" and stream.values.size
        }
        narrow = {field: width for field, width in vectors.items() if width <= _MAX_WIDTH}
        actions = self._preferred([field for field in narrow if _ACTION.search(field)], ("action", "actions"))
        proprio = self._preferred(
            [
                f
                for f in narrow
                if f not in actions and not _ACTION.search(f) and _PROPRIO.search(f) and not _NO_PROPRIO.search(f)
            ],
            ("observation.state", "observation/state", "state"),
        )
        if not actions:
            self._ask("which stream is the action? none is named like one")
        if not proprio:
            self._ask("which streams are the proprio? none is named like a state")
        robot = f"{self._name}_robot"
        views, depth = self._cameras()
        body = [*self._head(robot), *self._maps("proprio", proprio, narrow), *self._maps("action", actions, narrow)]
        body += self._left_out(vectors, {*actions, *proprio})
        body += self._table("views", views) + self._table("depth", depth) + self._language()
        channels = [*self._channels("proprio", proprio), *self._channels("action", actions)]
        embodiment = [*self._robot_head(robot, list(views.values())), *channels]
        self._relation(actions, proprio)
        notes = (
            ["", "# Open questions:", *(f"# - {_shown(question)}" for question in self._questions)]
            if self._questions
            else []
        )
        return Draft(
            self._name,
            "\n".join([*body, *notes]) + "\n",
            "\n".join(embodiment) + "\n",
            tuple(self._questions),
            len(self._episodes),
        )

    def _ask(self, question: str) -> None:
        if question not in self._questions:
            self._questions.append(question)

    @staticmethod
    def _preferred(fields: Sequence[str], best: Sequence[str]) -> list[str]:
        """The one field that is usually the whole vector where it is there, else all of them."""
        exact = [field for field in fields if field in best]
        return exact[:1] or sorted(fields)

    def _head(self, robot: str) -> Iterator[str]:
        ref = self._first.ref
        yield f"# Drafted from {len(self._episodes)} episodes. Check every line; what is asked below only people know."
        yield f"name = {_quoted(self._name)}"
        yield "version = 1"
        yield f"title = {_quoted(f'{ref.dataset} ({ref.source})')}"
        yield f"source = {_quoted(ref.source)}"
        yield f"embodiment = {_quoted(robot)}"
        yield 'license = "unknown"'
        self._ask("which licence has the data set?")
        clocks = {stream.clock for raw in self._episodes for stream in raw.streams}
        if self._first.declared_rate is not None:
            yield f"control_rate = {_quoted(rate_text(self._first.declared_rate))}  # declared by the source"
            self._ask(
                f"is {rate_text(self._first.declared_rate)} Hz, which the source declares, the rate of the robot?"
            )
        if clocks == {"source"}:
            yield 'clock = "source"  # the steps carry recorded times'
        attributes = [
            name for name, value in self._first.attributes if "success" in name.casefold() and isinstance(value, bool)
        ]
        streams = [stream.name for stream in self._first.streams if "success" in stream.name.casefold()]
        if attributes or streams:
            yield f"success_field = {_quoted([*attributes, *streams][0])}"

    def _robot_head(self, robot: str, slots: Sequence[str]) -> Iterator[str]:
        yield f"name = {_quoted(robot)}"
        kind = self._first.robot_type or "unknown robot"
        yield f"title = {_quoted(f'{kind} of {self._first.ref.dataset}')}"
        rate = self._first.declared_rate
        if rate is None:
            yield "# control_rate = ?  # steps per second: the source does not say; needed before this card can be used"
            self._ask("how many steps per second did the robot run? (control_rate of the robot's card)")
        else:
            yield f"control_rate = {_quoted(rate_text(rate))}"
        yield f"views = {_quoted(list(slots))}"
        yield 'base_frame = "unknown"'

    def _values(self, field: str) -> list[np.ndarray]:
        found = [raw.stream(field) for raw in self._episodes]
        return [one.values.reshape(len(one.values), -1) for one in found if one is not None and one.values.size]

    def _maps(self, label: str, fields: Sequence[str], widths: dict[str, int]) -> Iterator[str]:
        for field in fields:
            yield from ("", f"[[{label}]]", f"field = {_quoted(field)}", f"stop = {widths[field]}")

    def _left_out(self, vectors: dict[str, int], used: set[str]) -> list[str]:
        rest = [f"{field} [{width}]" for field, width in sorted(vectors.items()) if field not in used]
        return (
            ["", f"# Streams that no channel is made of (they are stored all the same): {_shown(', '.join(rest))}"]
            if rest
            else []
        )

    def _channels(self, label: str, fields: Sequence[str]) -> Iterator[str]:
        taken: Counter[str] = Counter()
        grippers: list[tuple[str, ColumnGuess]] = []
        for field in fields:
            values = self._values(field)
            names = self._names.get(field, ())
            known = list(names) if len(names) == values[0].shape[1] else []
            for index, guess in enumerate(guess_columns(values, known)):
                base = _plain(known[index]) if known else f"{_plain(field.rsplit('/')[-1].rsplit('.')[-1])}_{index}"
                taken[base] += 1
                channel = base if taken[base] == 1 else f"{base}_{taken[base]}"
                kind = ChannelKind.COMMAND if label == "action" and guess.kind is ChannelKind.POSITION else guess.kind
                yield ""
                yield f"[[{label}]]  # {_shown(field)}[{index}], {guess.low:.4g} to {guess.high:.4g}"
                yield f"name = {_quoted(channel)}"
                yield f"unit = {_quoted(guess.unit)}"
                yield f'kind = "{kind.value}"' + (f"  # {guess.evidence}" if guess.evidence else "")
                if kind is ChannelKind.GRIPPER:
                    grippers.append((channel, guess))
                if not np.isfinite(guess.low):
                    self._ask(f"why is {channel}, column {index} of {field}, not a finite number anywhere?")
                if guess.unit == "unknown":
                    self._ask(f"units and kinds of the channels of {field}")
                if guess.kind is ChannelKind.QUATERNION:
                    self._ask(f"is the quaternion in {field} xyzw, as assumed, or wxyz?")
                if guess.kind is ChannelKind.ANGLE:
                    self._ask(f"are angles in {field} three of a rotation (kind euler or axis_angle), and which?")
        for channel, guess in grippers:
            self._ask(f"{label} gripper {channel}: which of {guess.low:.4g} and {guess.high:.4g} is open?")
            yield from (
                "",
                f"# [[{label}_grippers]]  # fill in, once known which value is open",
                f"# channel = {_quoted(channel)}",
            )
            yield from ("# open = ?", "# closed = ?")

    def _cameras(self) -> tuple[dict[str, str], dict[str, str]]:
        cameras = sorted({view.key for raw in self._episodes for view in raw.views})
        pictures = [key for key in cameras if not _DEPTH.search(key)]
        wrist = [key for key in pictures if _WRIST.search(key)]
        hands = {
            key: "wrist_right" if re.search(r"right", key, re.IGNORECASE) and len(wrist) > 1 else "wrist_left"
            for key in wrist
        }
        if len(set(hands.values())) < len(hands):
            hands = dict(zip(wrist, ("wrist_left", "wrist_right"), strict=False))
        standing = [slot for slot in VIEW_SLOTS if not slot.startswith("wrist")]
        views = dict(zip([key for key in pictures if key not in hands], standing, strict=False)) | hands
        for key in pictures:
            if key not in views:
                self._ask(f"there is no view slot left for the camera {key}; which cameras matter?")
        if pictures:
            self._ask("do the cameras fill the right view slots? they were given by name and order")
        depth: dict[str, str] = {}
        for key in cameras:
            if _DEPTH.search(key):
                near = [camera for camera in views if _shared(camera, key) > len(key) // 2]
                depth[key] = views[max(near, key=lambda camera: _shared(camera, key))] if near else "primary"
                self._ask(f"which camera does the depth {key} belong to, and what is its unit (depth_unit_m)?")
        return views, depth

    @staticmethod
    def _table(name: str, entries: dict[str, str]) -> list[str]:
        rows = [f"{_quoted(key)} = {_quoted(slot)}" for key, slot in entries.items()]
        return ["", f"[{name}]", *rows] if rows else []

    def _language(self) -> list[str]:
        texts: dict[str, Counter[str]] = {}
        for raw in self._episodes:
            for instruction in raw.instructions:
                texts.setdefault(instruction.field, Counter())[instruction.text.strip()] += 1
        if not texts:
            return ["", "# No language was found."]
        full = [field for field in sorted(texts) if any(texts[field])]
        lines = ["", "[language]", f"fields = {_quoted(full)}"]
        for field in sorted(texts):
            example = next((text for text in texts[field] if text), "")
            lines.append(f"# {_shown(field)}: {len(texts[field])} different texts, such as {_quoted(example[:80])}")
        self._ask("are these texts instructions, or labels to list under language.ignore?")
        return lines

    def _relation(self, actions: Sequence[str], proprio: Sequence[str]) -> None:
        for action, state in itertools.product(actions, proprio):
            pairs = [(raw.stream(action), raw.stream(state)) for raw in self._episodes]
            told = [
                (one.values.reshape(len(one.values), -1), two.values.reshape(len(two.values), -1))
                for one, two in pairs
                if one is not None and two is not None
            ]
            told = [(one, two) for one, two in told if one.shape[1] == two.shape[1]]
            seen = relation([one for one, _ in told], [two for _, two in told]) if told else ""
            if seen:
                self._ask(f"{action} against {state}: it {seen}; is that so?")


def _shared(one: str, two: str) -> int:
    """Length of the beginning and end that two names share."""
    front = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))
    back = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one[::-1], two[::-1], strict=False)))
    return front + back
