"""Applies a card: source fields become canonical action and proprio vectors, cameras fill view slots, steps get their clock.

Values are never changed beyond what the card says; where it says nothing (scale 1, offset 0) they are the source's.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from schemas.dataset_card import UPRIGHT, ChannelMap, DatasetCard
from schemas.embodiment import Channel, Embodiment
from schemas.episode import ANNOTATIONS, EncodedView, Episode, Instruction, RawEpisode, Stream
from schemas.errors import CardError, CorruptEpisode
from schemas.findings import Finding, Severity
from schemas.time import NANOSECONDS, TimeGrid

RATE_TOLERANCE = 0.05
"""By which recorded times may run faster or slower than the rate a card counts them with; as in the check of clocks."""


def to_episode(raw: RawEpisode, card: DatasetCard, embodiment: Embodiment) -> Episode:
    """``raw`` with its card applied; its streams, views and instruction spans re-timed to the clock the card asks for.

    The ``declared_rate`` of the re-timed ``Episode.raw`` is the control rate, so that applying a card twice changes nothing.
    Raises CardError where card and data disagree (unknown field, wrong width), CorruptEpisode where the episode does
    (``missing_view``, ``length_mismatch``).
    """
    rate = card.control_rate or raw.declared_rate or embodiment.control_rate
    if rate is None:
        hint = "find it out, write control_rate into a copy of the card, and name that one with --card"
        raise CardError(f"nobody states the control rate of {card.name}", raw.ref.where, hint, "no_rate")
    timed = _with_own_rates(_retimed(raw, card, rate), card)
    where = raw.ref.where
    action, proprio = _map(timed.streams, card, embodiment, where)
    findings = list(raw.findings)
    if raw.declared_rate not in (None, rate):
        message = f"the source declares {raw.declared_rate} Hz, the card {card.name} corrects it to {rate} Hz"
        numbers = (("declared_hz", float(raw.declared_rate or 0)), ("control_rate_hz", float(rate)))
        findings.append(Finding("rate_corrected", Severity.INFO, "rate", message, None, numbers))
    findings += _unused_clock(raw, card, rate)
    views, depth = _slots(timed.views, card, where, findings)
    instructions = _instructions(timed.instructions, card, findings)
    return Episode(
        raw=timed,
        card=card,
        embodiment=embodiment,
        control_rate=rate,
        action=action,
        proprio=proprio,
        views=views,
        depth=depth,
        instructions=instructions,
        success=_success(timed, card, findings),
        segments=timed.segments,
        findings=tuple(findings),
    )


def map_streams(streams: Sequence[Stream], card: DatasetCard, embodiment: Embodiment) -> tuple[Stream, Stream]:
    """``action`` [T, A] and ``proprio`` [T, P], float64, on the clock of the fields they come from.

    Raises CardError naming the field, CorruptEpisode where fields of one vector differ in length or times.
    """
    return _map(streams, card, embodiment, card.name)


def _map(streams: Sequence[Stream], card: DatasetCard, embodiment: Embodiment, where: str) -> tuple[Stream, Stream]:
    by_name = {stream.name: stream for stream in streams}
    action = _vector("action", card.action, embodiment.action, by_name, where)
    proprio = _vector("proprio", card.proprio, embodiment.proprio, by_name, where)
    if action is None and proprio is None:
        raise CardError("the card maps neither action nor proprio", where, "map at least one field")
    return action or _empty("action", proprio), proprio or _empty("proprio", action)


def _empty(name: str, like: Stream | None) -> Stream:
    """A vector without channels, on the steps of the other one."""
    assert like is not None
    return Stream(name, np.zeros((len(like.times_ns), 0)), like.times_ns, like.clock)


def _vector(
    name: str, maps: Sequence[ChannelMap], layout: Sequence[Channel], streams: dict[str, Stream], where: str
) -> Stream | None:
    parts: list[np.ndarray] = []
    first: Stream | None = None
    for one in maps:
        stream = streams.get(one.field)
        if stream is None:
            near = difflib.get_close_matches(one.field, streams, n=1, cutoff=0.5)
            guess = f"did you mean {near[0]!r}? " if near else ""
            hint = f"{guess}fields found: {', '.join(sorted(streams)) or 'none'}"
            raise CardError(f"{name} wants the field {one.field!r}, which the data does not have", where, hint)
        if not len(stream.values):
            message = f"{name} wants the field {one.field}, which has no rows"
            raise CorruptEpisode(message, where, "leave the episode out of the data set", "empty")
        values = stream.values.reshape(len(stream.values), -1)
        stop = values.shape[1] if one.stop is None else one.stop
        if not 0 <= one.start < stop <= values.shape[1]:
            message = f"{name} wants columns {one.start} to {stop} of {one.field}, which has {values.shape[1]}"
            raise CardError(message, where, "correct start and stop in the card, or choose the card of this data set")
        part = values[:, one.start : stop].astype(np.float64)
        if one.scale != 1.0:
            part = part * one.scale
        if one.offset != 0.0:
            part = part + one.offset
        parts.append(part)
        if first is None:
            first = stream
        elif not np.array_equal(first.times_ns, stream.times_ns):
            message = (
                f"{name} joins {first.name} ({len(first.times_ns)} steps) with {stream.name} "
                f"({len(stream.times_ns)} steps), whose times are not the same"
            )
            raise CorruptEpisode(message, where, "fields of one vector must be of the same steps", "length_mismatch")
    width = sum(part.shape[1] for part in parts)
    if width != len(layout):
        fields = ", ".join(one.field for one in maps) or "no field"
        message = f"{name} gets {width} columns from {fields}, the layout has {len(layout)} channels"
        raise CardError(message, where, "correct the maps of the card or the layout of the embodiment")
    if first is None:
        return None
    return Stream(name, np.concatenate(parts, axis=1), first.times_ns, first.clock)


def _retimed(raw: RawEpisode, card: DatasetCard, rate: Fraction) -> RawEpisode:
    """``raw`` on the clock of the card: plain indices and declared times at ``rate``, recorded ones where it asks for them."""
    steps = _step_stream(raw, card)
    if steps is None:
        return raw
    plain = raw.declared_rate is None and all(stream.clock == "declared" for stream in raw.streams)
    recorded = steps.clock == "source"
    if recorded and card.clock == "source":
        return raw
    if not plain and not recorded and raw.declared_rate in (None, rate):
        return raw
    old = steps.times_ns
    if recorded:
        new = TimeGrid(0, rate, len(old)).times_ns()
    else:
        indices = old if plain else _indices(old, raw.declared_rate or rate)
        new = _grid_times(indices, rate)
    if plain:  # a stream may be a row shorter than the steps
        streams = tuple(dataclasses.replace(one, times_ns=_grid_times(one.times_ns, rate)) for one in raw.streams)
    else:
        streams = tuple(_stream_moved(one, old, new, recorded) for one in raw.streams)
    if plain:
        views = tuple(dataclasses.replace(view, times_ns=_grid_times(view.times_ns, rate)) for view in raw.views)
    elif recorded or raw.declared_rate is None:
        views = tuple(_view_moved(view, old, new, recorded) for view in raw.views)
    else:  # the card corrects the rate the source declares, and the pictures were stamped with that one
        views = tuple(
            dataclasses.replace(view, times_ns=_grid_times(_indices(view.times_ns, raw.declared_rate), rate))
            for view in raw.views
        )
    end = TimeGrid(0, rate, len(old))
    instructions = tuple(_respanned(instruction, old, new, end.window.stop_ns) for instruction in raw.instructions)
    stop_ns = end.window.stop_ns
    segments = tuple(
        dataclasses.replace(
            segment,
            start_ns=_moved(segment.start_ns, old, new, stop_ns),
            stop_ns=_moved(segment.stop_ns, old, new, stop_ns),
        )
        for segment in raw.segments
    )
    return dataclasses.replace(
        raw, streams=streams, views=views, instructions=instructions, segments=segments, declared_rate=rate
    )


def _stream_moved(stream: Stream, old: np.ndarray, new: np.ndarray, recorded: bool) -> Stream:
    """The stream on the new times of the steps; one with a recorded clock of its own keeps its place between them."""
    if np.array_equal(stream.times_ns, old):
        return dataclasses.replace(stream, times_ns=new, clock="declared")
    if recorded and stream.clock == "source" and len(old):
        return dataclasses.replace(stream, times_ns=_carried(stream.times_ns, old, new), clock="declared")
    return stream


def _view_moved(view: EncodedView, old: np.ndarray, new: np.ndarray, recorded: bool) -> EncodedView:
    """The view on the new times of the steps: with a frame per step these are its own, else its frames keep their places."""
    if np.array_equal(view.times_ns, old) or (recorded and view.num_frames == len(old)):
        return dataclasses.replace(view, times_ns=new)
    if recorded and len(old):
        return dataclasses.replace(view, times_ns=_carried(view.times_ns, old, new))
    return view


def _carried(times_ns: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Times that lay between the steps ``old``, at the same place between ``new``; beyond the ends, as far beyond them."""
    inside = np.interp(times_ns, old, new)
    beyond = np.minimum(times_ns - old[0], 0) + np.maximum(times_ns - old[-1], 0)
    return np.asarray(np.rint(inside).astype(np.int64) + beyond)


def _unused_clock(raw: RawEpisode, card: DatasetCard, rate: Fraction) -> list[Finding]:
    """What the recorded times of the steps say against the rate that the card counts them with."""
    steps = _step_stream(raw, card)
    if steps is None or steps.clock != "source" or card.clock == "source" or len(steps.times_ns) < 2:
        return []
    span_ns = int(steps.times_ns[-1]) - int(steps.times_ns[0])
    recorded = (len(steps.times_ns) - 1) * NANOSECONDS / span_ns if span_ns > 0 else 0.0
    if abs(recorded / float(rate) - 1) <= RATE_TOLERANCE:
        return []
    message = f"the recorded times run at {recorded:.4g} Hz on average, the card {card.name} counts steps at {rate} Hz"
    numbers = (("recorded_hz", recorded), ("control_rate_hz", float(rate)))
    return [Finding("recorded_rate_differs", Severity.WARNING, steps.name, message, None, numbers)]


def _with_own_rates(raw: RawEpisode, card: DatasetCard) -> RawEpisode:
    """``raw`` with the fields and cameras of ``card.rates`` on clocks of their own; recorded times stay."""

    def own(name: str, times_ns: np.ndarray) -> np.ndarray:
        return TimeGrid(0, card.rates[name], len(times_ns)).times_ns() if name in card.rates else times_ns

    return dataclasses.replace(
        raw,
        streams=tuple(
            dataclasses.replace(one, times_ns=own(one.name, one.times_ns)) if one.clock == "declared" else one
            for one in raw.streams
        ),
        views=tuple(dataclasses.replace(one, times_ns=own(one.key, one.times_ns)) for one in raw.views),
    )


def _step_stream(raw: RawEpisode, card: DatasetCard) -> Stream | None:
    """The stream whose times are the steps: the first the card maps, else the first there is."""
    for one in (*card.action, *card.proprio):
        stream = raw.stream(one.field)
        if stream is not None:
            return stream
    return raw.streams[0] if raw.streams else None


def _indices(times_ns: np.ndarray, rate: Fraction) -> np.ndarray:
    """The step index [T] nearest to each time on a grid of ``rate``."""
    return np.array([round(int(time) * rate / 1_000_000_000) for time in times_ns], dtype=np.int64)


def _grid_times(indices: np.ndarray, rate: Fraction) -> np.ndarray:
    """Times [T] of these step indices."""
    if np.array_equal(indices, np.arange(len(indices))):
        return TimeGrid(0, rate, len(indices)).times_ns()
    grid = TimeGrid(0, rate, 0)
    return np.array([grid.time_ns(int(index)) for index in indices], dtype=np.int64)


def _respanned(instruction: Instruction, old: np.ndarray, new: np.ndarray, end_ns: int) -> Instruction:
    """The same steps' span on the new times; a span that ends behind the last step ends one period behind it."""
    if instruction.start_ns is None or instruction.stop_ns is None:
        return instruction
    start_ns, stop_ns = (_moved(time_ns, old, new, end_ns) for time_ns in (instruction.start_ns, instruction.stop_ns))
    return dataclasses.replace(instruction, start_ns=start_ns, stop_ns=stop_ns)


def _moved(time_ns: int, old: np.ndarray, new: np.ndarray, end_ns: int) -> int:
    step = int(np.searchsorted(old, time_ns))
    return int(new[step]) if step < len(new) else end_ns


def _slots(
    views: Sequence[EncodedView], card: DatasetCard, where: str, findings: list[Finding]
) -> tuple[dict[str, EncodedView], dict[str, EncodedView]]:
    """Views and depth by slot, in the order of the card. Raises CorruptEpisode where a required slot stays empty."""
    by_key = {view.key: view for view in views}
    filled: dict[str, EncodedView] = {}
    for key, slot in card.views.items():
        if key in by_key:
            filled[slot] = dataclasses.replace(by_key[key], picture=card.pictures.get(key, UPRIGHT))
        elif slot not in card.optional_views:
            found = ", ".join(sorted(by_key)) or "none"
            message = f"the camera {key} of the view {slot} is not there; found: {found}"
            hint = "list the slot under optional_views in the card if episodes may lack it"
            raise CorruptEpisode(message, where, hint, "missing_view")
    depth: dict[str, EncodedView] = {}
    for key, slot in card.depth.items():
        if key in by_key:
            depth[slot] = by_key[key]
        else:
            message = f"the depth camera {key}, which the card {card.name} lists, is not there"
            findings.append(Finding("missing_depth", Severity.INFO, key, message))
    for key in sorted(set(by_key) - set(card.views) - set(card.depth)):
        message = f"the card {card.name} gives the camera {key} no view slot; it is not stored"
        findings.append(Finding("camera_not_in_card", Severity.WARNING, key, message))
    return filled, depth


def _instructions(
    instructions: Sequence[Instruction], card: DatasetCard, findings: list[Finding]
) -> tuple[Instruction, ...]:
    """Those of the card's fields, in its order of preference, without placeholders; what is left out is a finding."""
    wanted = card.language.fields
    ignored = {text.strip().casefold() for text in card.language.ignore}
    kept: list[Instruction] = []
    for instruction in instructions:
        text = instruction.text.strip().casefold()
        if wanted and instruction.field not in wanted and not instruction.field.startswith(ANNOTATIONS):
            message = f"the card {card.name} does not list the language field {instruction.field}"
            finding = Finding("language_not_in_card", Severity.INFO, instruction.field, message)
        elif not text:
            finding = Finding("empty_instruction", Severity.INFO, instruction.field, "the text is empty; left out")
        elif text in ignored:
            message = f"{instruction.text[:80]!r} is no instruction, the card {card.name} says; left out"
            finding = Finding("placeholder_instruction", Severity.INFO, instruction.field, message)
        else:
            kept.append(instruction)
            continue
        if finding not in findings:
            findings.append(finding)
    if wanted:
        places = {field: place for place, field in enumerate(wanted)}
        kept.sort(key=lambda instruction: places.get(instruction.field, len(wanted)))  # annotations come last
    return tuple(kept)


def _success(raw: RawEpisode, card: DatasetCard, findings: list[Finding]) -> bool | None:
    """Last value of the success stream, or the fact of that name.

    None where the card names none, where the text says nothing, and, with a finding, where the episode lacks the field.
    """
    name = card.success_field
    if name is None:
        return None
    stream = raw.stream(name)
    attributes = dict(raw.attributes)
    if stream is not None and stream.values.size:
        return bool(np.asarray(stream.values[-1]).reshape(-1)[-1] > 0)
    if isinstance(text := attributes.get(name), str):
        return card.success_texts.get(text)
    if name in attributes:
        return bool(attributes[name])
    message = f"the card {card.name} reads success from {name}, which this episode does not have; success is unknown"
    findings.append(Finding("missing_success", Severity.WARNING, name, message))
    return None
