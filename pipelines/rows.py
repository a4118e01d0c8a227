"""Turns episodes into rows of the lake and rows back into episodes; the only place that knows both shapes."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.dataset_card import UPRIGHT, DatasetCard
from schemas.embodiment import Embodiment
from schemas.episode import Calibration, EncodedView, Episode, EpisodeRef, Instruction, Segment, Stream, VideoFile
from schemas.errors import LakeError, RejectEpisode, WamloomError
from schemas.findings import Finding, Measure, Severity
from schemas.fingerprint import bytes_sha256, fingerprint
from schemas.tables import ADDED_COLUMNS, BLOB_COLUMNS, BLOB_PREFIX, DEPTH_PREFIX, EPISODE_FIELDS, STAGED_EPISODES
from schemas.time import parse_rate, rate_text
from schemas.work import Outcome
from validation import signature
from validation.measures import BRIGHTNESS

UNHASHED = ("locations", "row_sha256", *BLOB_COLUMNS)
"""Columns outside the row's own hash: a second location must not change it, and blobs carry their own."""

Row = dict[str, Any]

VIDEO_FOLDER = "videos"
"""Folder of the lake for videos too large for its table."""
VIDEO_SUFFIXES = {"mov": ".mp4", "matroska": ".mkv"}
"""By container."""

WARNED = "warned:"
"""Prefix of an outcome's number for each rule with a warning or an error, so that a run can say what it saw."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoredEpisode:
    """A kept episode as the lake holds it; its video bytes stay in the lake until asked for by slot."""

    episode_id: str
    dataset: str
    card: DatasetCard
    embodiment: Embodiment
    control_rate: Fraction
    streams: tuple[Stream, ...]
    views: Mapping[str, EncodedView]
    """By slot; without their videos, which ``Lake.video`` gives."""
    depth: Mapping[str, EncodedView]
    """By slot, as ``views``."""
    calibrations: tuple[Calibration, ...]
    segments: tuple[Segment, ...]
    instructions: tuple[Instruction, ...]
    success: bool | None
    location: str
    source_key: str
    license: str
    decoded: frozenset[str] = frozenset()
    """Slots of views of which every frame came out of the decoder when the episode was judged."""


def location_of(ref: EpisodeRef) -> Row:
    """The ``locations`` entry of ``ref``."""
    return {
        "location": ref.location,
        "key": ref.key,
        "split": ref.split,
        "dataset": ref.dataset,
        "state": ref.state,
        "revision": 1,
    }


def unread_id(ref: EpisodeRef) -> str:
    """Key of the row of an episode that could not be read, and so has no content identity: its place."""
    return fingerprint("unread-1", ref.location, ref.key)


def _bare_row(ref: EpisodeRef, recipe_fingerprint: str, version: str) -> Row:
    row: Row = {field.name: None for field in STAGED_EPISODES}
    row |= {
        "reason": "",
        "message": "",
        "where": "",
        "hint": "",
        "dataset": ref.dataset,
        "source": ref.source,
        "version": ref.version,
        "locations": [location_of(ref)],
        "recipe_fingerprint": recipe_fingerprint,
        "wamloom_version": version,
    }
    return row


def failed_row(ref: EpisodeRef, error: WamloomError, recipe_fingerprint: str, version: str) -> Row:
    """The row of an episode that could not be read: its place, the reason and the mend."""
    row = _bare_row(ref, recipe_fingerprint, version)
    row |= {
        "episode_id": unread_id(ref),
        "outcome": "failed",
        "reason": error.reason,
        "message": error.message,
        "where": error.where or ref.where,
        "hint": error.hint or "fetch or record it again, then ingest with --retry",
    }
    return row


def episode_row(
    episode: Episode,
    findings: Sequence[Finding],
    measures: Sequence[Measure],
    rejection: RejectEpisode | None,
    recipe_fingerprint: str,
    version: str,
) -> Row:
    """The row of an episode that was read and judged. A rejected one keeps its facts and findings, not its data."""
    raw = episode.raw
    row = _bare_row(raw.ref, recipe_fingerprint, version)
    times = episode.action.times_ns
    row |= {
        "episode_id": raw.episode_id,
        "outcome": "kept" if rejection is None else "rejected",
        "reason": "" if rejection is None else rejection.reason,
        "message": "" if rejection is None else rejection.message,
        "where": "" if rejection is None else rejection.where,
        "hint": "" if rejection is None else rejection.hint,
        "dataset": episode.card.name,
        "source_sha256": raw.source_sha256,
        "license": episode.card.license,
        "institution": episode.card.institution,
        "card_json": episode.card.model_dump_json(),
        "embodiment": episode.embodiment.name,
        "embodiment_json": episode.embodiment.model_dump_json(),
        "robot_type": raw.robot_type,
        "attributes_json": json.dumps(dict(raw.attributes), sort_keys=True, ensure_ascii=False),
        "instructions": [dataclasses.asdict(instruction) for instruction in episode.instructions],
        "success": episode.success,
        "segments": [dataclasses.asdict(segment) for segment in episode.segments],
        "calibrations": [_calibration_value(one, episode.card) for one in raw.calibrations],
        "measures": [dataclasses.asdict(measure) for measure in measures],
        "findings": [_finding_value(finding) for finding in findings],
        "control_rate": rate_text(episode.control_rate),
        "num_steps": episode.num_steps,
        "duration_ns": int(times[-1] - times[0]) if len(times) else 0,
    }
    if rejection is None:
        row["streams"] = [_stream_value(stream) for stream in raw.streams]
        row["signature"] = signature.to_bytes(signed_vectors(raw.streams, episode.action, episode.proprio))
        row["views"] = [_view_value(slot, view, False) for slot, view in sorted(episode.views.items())]
        row["views"] += [_view_value(slot, view, True) for slot, view in sorted(episode.depth.items())]
        for prefix, views in ((BLOB_PREFIX, episode.views), (DEPTH_PREFIX, episode.depth)):
            for slot, view in views.items():
                row[prefix + slot] = None if isinstance(view.data, VideoFile) else view.data
    return row


def signed_vectors(streams: Iterable[Stream], action: Stream, proprio: Stream) -> signature.Channels:
    """What of an episode its signature is of."""
    return signature.vectors_of(action.values, proprio.values, {stream.name: stream.values for stream in streams})


def with_finding(row: pa.Table, finding: Finding) -> pa.Table:
    """The one staged row with one more finding, hashed anew."""
    findings = [*(row["findings"][0].as_py() or []), _finding_value(finding)]
    row = _with_value(row, "findings", findings)
    return _with_value(row, "row_sha256", row_sha256(row))


def _with_value(row: pa.Table, name: str, value: Any) -> pa.Table:
    index = row.schema.get_field_index(name)
    field = row.schema.field(index)
    return row.set_column(index, field, pa.array([value], field.type))


def _finding_value(finding: Finding) -> Row:
    value = dataclasses.asdict(finding)
    value["severity"] = str(finding.severity)
    value["numbers"] = [{"name": name, "value": float(number)} for name, number in finding.numbers]
    return value


def _stream_value(stream: Stream) -> Row:
    values = np.ascontiguousarray(stream.values)
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("<"))
    return {
        "name": stream.name,
        "dtype": values.dtype.str,
        "shape": list(values.shape),
        "data": values.tobytes(),
        "times_ns": stream.times_ns,
        "clock": stream.clock,
    }


def _calibration_value(calibration: Calibration, card: DatasetCard) -> Row:
    return {**dataclasses.asdict(calibration), "slot": card.views.get(calibration.camera, "")}


def video_file(view: EncodedView) -> str:
    """Where the lake keeps a video that is a file, relative to it: named by content; "" for one that is a blob."""
    if not isinstance(view.data, VideoFile):
        return ""
    return f"{VIDEO_FOLDER}/{view.sha256[:2]}/{view.sha256}{VIDEO_SUFFIXES[view.container]}"


def _view_value(slot: str, view: EncodedView, is_depth: bool) -> Row:
    if isinstance(view.data, VideoFile) and not view.sha256:
        raise ValueError(f"the video of view {slot} was never hashed")
    return {
        "slot": slot,
        "key": view.key,
        "codec": view.codec,
        "container": view.container,
        "width_px": view.width_px,
        "height_px": view.height_px,
        "num_frames": view.num_frames,
        "first_frame": view.first_frame,
        "times_ns": view.times_ns,
        "num_bytes": view.num_bytes,
        "sha256": view.sha256 if isinstance(view.data, VideoFile) else view.sha256 or bytes_sha256(view.data),
        "packets_sha256": view.packets_sha256,
        "how": view.how,
        "is_depth": is_depth,
        "part": view.part,
        "file": video_file(view),
    }


def staged_batch(row: Row) -> pa.RecordBatch:
    """A row as a batch of ``STAGED_EPISODES``, with its hash filled in."""
    arrays = [pa.array([row[field.name]], field.type) for field in STAGED_EPISODES]
    batch = pa.RecordBatch.from_arrays(arrays, schema=STAGED_EPISODES)
    index = STAGED_EPISODES.get_field_index("row_sha256")
    return batch.set_column(index, STAGED_EPISODES.field(index), pa.array([row_sha256(batch)], pa.string()))


def staged_table(rows: Iterable[Row]) -> pa.Table:
    """Rows as an Arrow table of ``STAGED_EPISODES``."""
    return pa.Table.from_batches([staged_batch(row) for row in rows], STAGED_EPISODES)


def staged_files(views: Any) -> list[str]:
    """The files that the views of a row name; ``views`` is an Arrow scalar of that column."""
    return [] if not views.is_valid else [name for name in pc.struct_field(views.values, "file").to_pylist() if name]


def row_sha256(batch: pa.RecordBatch | pa.Table) -> str:
    """The hash of the one row in ``batch`` over every column that takes part (see ``UNHASHED``).

    A row from before a column was there has none in it, and was hashed without.
    """
    cells = {name: batch.column(name)[0] for name in batch.schema.names if name not in UNHASHED}
    return fingerprint(
        "row-1", {name: _hashable(cell) for name, cell in cells.items() if cell.is_valid or name not in ADDED_COLUMNS}
    )


def _hashable(scalar: Any) -> Any:
    """An Arrow scalar as a value ``fingerprint`` takes; long integer lists go as arrays, which hash at memory speed."""
    if not scalar.is_valid:
        return None
    if pa.types.is_struct(scalar.type):
        return {name: _hashable(scalar[name]) for name in scalar}
    if pa.types.is_large_list(scalar.type):
        return scalar.values.to_numpy(zero_copy_only=False)
    if pa.types.is_list(scalar.type):
        return [_hashable(item) for item in scalar.values]
    return scalar.as_py()


def outcome_of(row: Row) -> Outcome:
    """What the driver and the user are told of a row."""
    place = row["locations"][0]
    warned = {finding["rule"] for finding in row["findings"] or [] if finding["severity"] != Severity.INFO}
    return Outcome(
        key=f"{place['location']}#{place['key']}",
        kind=row["outcome"],
        reason=row["reason"],
        message=row["message"],
        where=row["where"],
        hint=row["hint"],
        content_id=row["episode_id"],
        numbers=(("num_steps", float(row["num_steps"] or 0)), *((WARNED + rule, 1.0) for rule in sorted(warned))),
    )


META_COLUMNS = [
    field.name
    for field in EPISODE_FIELDS
    if field.name not in {"findings", "attributes_json", "signature", "row_sha256"}
]
"""What ``stored_episode`` needs of a row."""


def stored_episode(row: Row) -> StoredEpisode:
    """The episode of a kept row (as read with ``META_COLUMNS``). Raises LakeError for a row of another outcome."""
    if row["outcome"] != "kept":
        raise LakeError(f"episode {row['episode_id'][:12]} was {row['outcome']}, its data is not in the lake")
    place = row["locations"][0]
    card = DatasetCard.model_validate_json(row["card_json"])
    return StoredEpisode(
        episode_id=row["episode_id"],
        dataset=row["dataset"],
        card=card,
        embodiment=Embodiment.model_validate_json(row["embodiment_json"]),
        control_rate=parse_rate(row["control_rate"]),
        streams=tuple(_stream(value) for value in row["streams"]),
        views={value["slot"]: view_of(value, card) for value in row["views"] if not value["is_depth"]},
        depth={value["slot"]: view_of(value) for value in row["views"] if value["is_depth"]},
        calibrations=tuple(_calibration(value) for value in row["calibrations"]),
        segments=tuple(segment_of(value) for value in row["segments"]),
        instructions=tuple(Instruction(**value) for value in row["instructions"]),
        success=row["success"],
        location=place["location"],
        source_key=place["key"],
        license=row["license"],
        decoded=frozenset(_measured(row, BRIGHTNESS)),
    )


def _measured(row: Row, prefix: str) -> Iterator[str]:
    """Of what there is a measure whose name begins so."""
    names = (measure["name"] for measure in row["measures"] or ())
    return (name.removeprefix(prefix) for name in names if name.startswith(prefix))


def view_of(value: Row, card: DatasetCard | None = None) -> EncodedView:
    """A stored view without its video: a file is named relative to the lake, a blob is empty.

    Without its card nothing is known of how its pixels lie.
    """
    return EncodedView(
        key=value["key"],
        codec=value["codec"],
        container=value["container"],
        data=VideoFile(value["file"], value["num_bytes"]) if value["file"] else b"",
        width_px=value["width_px"],
        height_px=value["height_px"],
        times_ns=np.asarray(value["times_ns"], dtype=np.int64),
        packets_sha256=value["packets_sha256"],
        how=value["how"],
        first_frame=value["first_frame"],
        sha256=value["sha256"],
        part=value["part"] or "whole",
        picture=card.pictures.get(value["key"], UPRIGHT) if card else UPRIGHT,
    )


def _calibration(value: Row) -> Calibration:
    facts = {name: part for name, part in value.items() if name != "slot"}
    facts |= {name: tuple(facts[name]) for name in ("intrinsics", "extrinsics")}
    return Calibration(**facts)


def _stream(value: Row) -> Stream:
    values = np.frombuffer(value["data"], dtype=np.dtype(value["dtype"])).reshape(value["shape"])
    clock = cast(Literal["source", "declared"], value["clock"])
    return Stream(value["name"], values, np.asarray(value["times_ns"], dtype=np.int64), clock)


def finding_of(value: Row) -> Finding:
    """A stored finding as the value it was."""
    numbers = tuple((item["name"], item["value"]) for item in value["numbers"])
    return Finding(
        value["rule"], Severity(value["severity"]), value["where"], value["message"], value["index"], numbers
    )


def segment_of(value: Row) -> Segment:
    """A stored segment as the value it was."""
    return Segment(value["kind"], value["start_ns"], value["stop_ns"], value["label"])
