"""RLDS sets as tensorflow-datasets writes them: ``features.json``, ``dataset_info.json`` and TFRecord shards.

One record is one episode. Both checksums of every record are checked and counts are held against ``dataset_info.json``,
so nothing comes out short in silence:

- records before a damaged place are listed as usual; the damaged place is one reference whose reading fails, and so is
  every record the index promises beyond it (reason ``missing_record``);
- a shard the index names but the disk lacks gives its promised references, failing with ``missing_file``;
- records or shards beyond what the index promises are read, with a finding.

RLDS declares no rate: times are plain step indices and ``declared_rate`` is None until a card gives them a rate. A
feature declared float64 comes as float64, though TFRecord stores 32 bits of it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from upath import UPath

from pipelines import tfds_features, tfrecord
from pipelines.places import lists, place, together
from pipelines.recordings import (
    check_unchanged,
    files_state,
    packed_view,
    path_inside,
    read_json,
    set_folders,
    spanned_instructions,
)
from pipelines.tfds_features import ExampleReader, Feature
from pipelines.video import VideoTools
from schemas.episode import EncodedView, EpisodeRef, Instruction, RawEpisode, Scalar, Stream
from schemas.errors import CorruptEpisode, MissingFile, SourceError
from schemas.findings import Finding, Severity
from schemas.fingerprint import bytes_sha256, fingerprint
from schemas.recipes import Limits

_SHARD = re.compile(r"^(?P<stem>.+)\.tfrecord-(?P<index>\d{5,})-of-(?P<total>\d{5,})$")
_INFO, _FEATURES = "dataset_info.json", "features.json"
_MAX_RECORDS = 100_000_000
_MAX_MISSING = 200_000
"""Each record that is promised and not there gets a row; more than these are a damaged index."""
_MAX_ATTRIBUTE_VALUES = 4096


@dataclass(frozen=True, slots=True)
class _Shard:
    split: str
    index: int
    name: str
    promised: int | None
    """Records the index promises; None where the index does not know the shard."""


def _is_set(folder: UPath) -> bool:
    if (folder / _FEATURES).is_file():
        return True
    # the library datasets saves a dataset_info.json too, beside its state.json
    if (folder / _INFO).is_file() and not (folder / "state.json").is_file():
        return True
    return folder.is_dir() and any(_SHARD.match(child.name) for child in folder.iterdir())


class RldsSource:
    """The ``rlds`` source."""

    name = "rlds"

    def datasets(self, location: str) -> list[str]:
        """Folders with ``dataset_info.json``, ``features.json`` or TFRecord shards."""
        return set_folders(location, _is_set)

    def refs(self, location: str) -> Sequence[EpisodeRef]:
        """One per record found or promised. Scans the framing of every shard; raises SourceError for a broken index."""
        root = place(location)
        declared = _features_json(root)
        tfds_features.parse_features(declared, str(root / _FEATURES))
        features = fingerprint(declared)
        info = _info_json(root)
        dataset = str(info.get("name") or root.parent.name) if info else root.parent.name or root.name
        version = str(info.get("version") or root.name) if info else root.name
        refs: list[EpisodeRef] = []
        missing = 0

        def listed(shard: _Shard) -> tuple[list[EpisodeRef], int]:
            return _shard_refs(root, dataset, version, shard, features, counted=info is not None)

        for found, fewer in together(listed, _shards(root, info), root):
            refs += found
            missing = _checked_missing(missing + fewer, root)
        if len({ref.key for ref in refs}) != len(refs):
            hint = "two files claim to be the same shard; remove the one that does not belong"
            raise SourceError("shards overlap", str(root), hint, "bad_index")
        return sorted(refs, key=lambda ref: ref.key)

    def read(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> RawEpisode:
        """The episode of one record. Raises MissingFile, CorruptEpisode or DecodeError."""
        details = dict(ref.details)
        root = place(ref.location)
        where = f"{details['shard']} record {details['record']} ({ref.location})"
        if "problem" in details:
            kind = MissingFile if details["problem"] == "missing_file" else CorruptEpisode
            hint = "fetch the shard again; the records listed before this one are not affected"
            raise kind(details["message"], where, hint, details["problem"])
        declared = _features_json(root)
        rest = [(name, value) for name, value in ref.details if name not in ("shard", "record")]
        check_unchanged(ref, [details["shard"]], fingerprint(declared), rest)
        path = path_inside(root, details["shard"], where)
        record = tfrecord.Record(int(details["offset"]), int(details["length"]))
        payload = tfrecord.read_payload(path, record, limits.max_record_bytes, where)
        features, steps_key = tfds_features.parse_features(declared, str(root / _FEATURES))
        messages = tfds_features.parse_example(payload, where)
        notes = [Finding("not_in_index", Severity.WARNING, ref.key, details["note"])] if "note" in details else []
        reading = _Reading(ExampleReader(messages, where), features, steps_key, where)
        reading.run(video)
        notes += _undeclared(messages, features) + reading.findings
        return RawEpisode(
            ref=ref,
            streams=tuple(reading.streams),
            views=tuple(reading.views),
            instructions=tuple(reading.instructions),
            declared_rate=None,
            source_sha256=bytes_sha256(payload),
            attributes=tuple(reading.attributes),
            findings=tuple(notes),
        )


def _features_json(root: UPath) -> dict[str, Any]:
    return read_json(
        root / _FEATURES, "restore features.json from the original data set; records mean nothing without it"
    )


def _info_json(root: UPath) -> dict[str, Any] | None:
    if not (root / _INFO).exists():
        return None
    hint = "restore dataset_info.json from the original data set, or remove it: records are then listed as found"
    info = read_json(root / _INFO, hint)
    if str(info.get("fileFormat") or "tfrecord") != "tfrecord":
        raise SourceError(
            f"the file format is {info['fileFormat']!r}",
            str(root / _INFO),
            "only tfrecord is read",
            "unsupported_format",
        )
    return info


def _shards(root: UPath, info: dict[str, Any] | None) -> list[_Shard]:
    """Shards the index promises, then those on disk that it does not know."""
    if info is None and not lists(root):
        hint = "name a folder that can be listed, such as a bucket, or add dataset_info.json"
        raise SourceError("nothing there says which shards there are", str(root), hint, "missing_index")
    children = root.iterdir() if lists(root) else ()
    on_disk = {child.name: match for child in children if (match := _SHARD.match(child.name))}
    shards: list[_Shard] = []
    for split, lengths, template in _splits(root, info) if info else []:
        for index, length in enumerate(lengths):
            name = _shard_name(template, str(info["name"]) if info else "", split, index, len(lengths))
            if name not in on_disk:  # a set whose folder or builder was renamed keeps its shard numbers
                ending = f"-{split}.tfrecord-{index:05d}-of-{len(lengths):05d}"
                renamed = [other for other in on_disk if other.endswith(ending)]
                name = renamed[0] if len(renamed) == 1 else name
            shards.append(_Shard(split, index, name, length))
    known = {shard.name for shard in shards}
    totals: dict[str, tuple[int, set[int]]] = {}
    for name, match in sorted(on_disk.items()):
        if name not in known:
            stem, index, total = match["stem"], int(match["index"]), int(match["total"])
            split = stem.rpartition("-")[2]
            shards.append(_Shard(split, index, name, None))
            if info is None:
                totals.setdefault(stem, (total, set()))[1].add(index)
    for stem, (total, found) in totals.items():
        _checked_missing(total - len(found), root)
        shards += [
            _Shard(stem.rpartition("-")[2], index, f"{stem}.tfrecord-{index:05d}-of-{total:05d}", None)
            for index in sorted(set(range(total)) - found)
        ]
    return shards


def _splits(root: UPath, info: dict[str, Any]) -> list[tuple[str, list[int], str]]:
    """(split, records per shard, file name template) for each split of the index."""
    hint = "restore dataset_info.json from the original data set"
    found: list[tuple[str, list[int], str]] = []
    try:
        for split in info.get("splits", []):
            lengths = [int(length) for length in split.get("shardLengths", [])]
            template = str(split.get("filepathTemplate") or "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
            if any(length < 0 for length in lengths) or sum(lengths) > _MAX_RECORDS:
                raise ValueError(f"shard lengths of split {split['name']} are out of range")
            found.append((str(split["name"]), lengths, template))
        if found and not info.get("name"):
            raise KeyError("name")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"its splits are not understood: {error!r}"
        raise SourceError(message, str(root / _INFO), hint, "bad_index") from error
    return found


def _shard_name(template: str, dataset: str, split: str, index: int, total: int) -> str:
    """File name of a shard; only the placeholders tensorflow-datasets knows are replaced."""
    values = {
        "DATASET": dataset,
        "SPLIT": split,
        "FILEFORMAT": "tfrecord",
        "SHARD_INDEX": f"{index:05d}",
        "NUM_SHARDS": f"{total:05d}",
        "SHARD_X_OF_Y": f"{index:05d}-of-{total:05d}",
    }
    return re.sub(r"\{([A-Z_]+)\}", lambda match: values.get(match[1], match[0]), template)


def _checked_missing(count: int, root: UPath) -> int:
    if count > _MAX_MISSING:
        message = f"at least {count} records or shards that the index promises are not there"
        hint = f"restore {_INFO} and fetch the shards again; up to {_MAX_MISSING} may be missing"
        raise SourceError(message, str(root), hint, "bad_index")
    return count


def _shard_refs(
    root: UPath, dataset: str, version: str, shard: _Shard, features: str, counted: bool
) -> tuple[list[EpisodeRef], int]:
    """What is listed of a shard, and how many of that are records that are promised and not there."""
    path = path_inside(root, shard.name, str(root))

    def ref(record: int, num_bytes: int, **details: str) -> EpisodeRef:
        return EpisodeRef(
            source=RldsSource.name,
            location=str(root),
            dataset=dataset,
            version=version,
            split=shard.split,
            key=f"{shard.split}/{shard.index:05d}/{record:06d}",
            state=files_state(root, [shard.name], features, sorted(details.items())),
            num_bytes=num_bytes,
            details=(("shard", shard.name), ("record", str(record)), *sorted(details.items())),
        )

    if not path.is_file():
        message = f"the shard {shard.name} is missing"
        gone = _checked_missing(shard.promised or 1, root)
        return [ref(record, 0, problem="missing_file", message=message) for record in range(gone)], gone
    records, damage = tfrecord.scan_shard(path)
    refs: list[EpisodeRef] = []
    for number, record in enumerate(records):
        details = {"offset": str(record.offset), "length": str(record.length)}
        if shard.promised is None and counted:
            details["note"] = f"dataset_info.json does not know the shard {shard.name}"
        elif shard.promised is None:
            details["note"] = "there is no dataset_info.json, so nothing tells whether records are missing"
        elif number >= shard.promised:
            details["note"] = f"dataset_info.json promises {shard.promised} records in {shard.name}, this is one more"
        refs.append(ref(number, record.length, **details))
    if damage is not None:
        message = f"{damage.message}; {damage.num_bytes} bytes from there on are lost"
        refs.append(ref(len(refs), damage.num_bytes, problem=damage.reason, message=message))
    message = f"dataset_info.json promises {shard.promised} records in {shard.name}, {len(records)} can be found"
    gone = _checked_missing(max(0, (shard.promised or 0) - len(refs)), root)
    first = len(refs)
    refs += [ref(first + number, 0, problem="missing_record", message=message) for number in range(gone)]
    return refs, gone


def _undeclared(messages: Mapping[str, Any], features: Sequence[Feature]) -> list[Finding]:
    """A finding where the record holds features that features.json does not declare."""
    declared = {feature.key for feature in features}
    plain = {re.sub(r"/(ragged_flat_values|ragged_row_lengths_\d+)$", "", key) for key in messages}
    extra = sorted(plain - declared)
    if not extra:
        return []
    message = f"features.json does not declare {', '.join(extra)[:500]}; not read"
    return [Finding("undeclared_feature", Severity.WARNING, extra[0], message)]


class _Reading:
    """One record taken apart, feature by feature."""

    def __init__(self, example: ExampleReader, features: Sequence[Feature], steps_key: str, where: str) -> None:
        self._example = example
        self._features = features
        self._steps_key = steps_key
        self._where = where
        self.streams: list[Stream] = []
        self.views: list[EncodedView] = []
        self.instructions: list[Instruction] = []
        self.attributes: list[tuple[str, Scalar]] = []
        self.findings: list[Finding] = []

    def run(self, video: VideoTools) -> None:
        numbers: dict[str, np.ndarray] = {}
        texts: dict[str, list[str]] = {}
        images: dict[str, Sequence[bytes]] = {}
        late: list[Feature] = []
        for feature in self._features:
            if feature.kind == "unsupported":
                self._leave_out(feature, f"is {feature.what}, which has no place in an episode")
            elif not feature.in_steps:
                self._attribute(feature)
            elif feature.kind == "image":
                images[self._name(feature)] = self._example.byte_values(feature.key)
            elif feature.kind == "text":
                texts[self._name(feature)] = self._texts(feature)
            elif feature.kind == "packed_tensor":
                numbers[self._name(feature)] = self._example.packed_tensors(feature)
            elif any(size <= 0 for size in feature.shape):
                late.append(feature)
            else:
                numbers[self._name(feature)] = self._example.numbers(feature)
        num_steps = self._num_steps({**numbers, **texts, **images})
        for feature in late:
            values = self._unknown_length(feature, num_steps)
            if values is not None:
                numbers[self._name(feature)] = values
        times_ns: np.ndarray = np.arange(num_steps, dtype=np.int64)
        self.streams = [Stream(name, values, times_ns, "declared") for name, values in sorted(numbers.items())]
        for name, values in sorted(numbers.items()):
            if (coded := _code_points(name, values)) is not None:
                texts[name] = coded
        for name in sorted(texts):
            self.instructions += spanned_instructions(texts[name], name, times_ns)
        self.views = [packed_view(name, images[name], times_ns, video, self._where) for name in sorted(images)]
        self._contradictions(numbers, images)

    def _name(self, feature: Feature) -> str:
        return feature.key.removeprefix(f"{self._steps_key}/")

    def _num_steps(self, fields: Mapping[str, Sequence[Any] | np.ndarray]) -> int:
        counts = {name: len(values) for name, values in sorted(fields.items())}
        if not counts or max(counts.values()) == 0:
            raise CorruptEpisode("the episode has no steps", self._where, "leave it out of the data set", "empty")
        first = "is_first" if "is_first" in counts else next(iter(counts))
        for name, count in counts.items():
            if count != counts[first]:
                message = f"{first} has {counts[first]} steps, {name} has {count}"
                raise CorruptEpisode(
                    message, self._where, "fields of one episode must be of one length", "length_mismatch"
                )
        return counts[first]

    def _unknown_length(self, feature: Feature, num_steps: int) -> np.ndarray | None:
        """Values of a feature whose length per step is not declared; None, with a finding, where it varies."""
        lengths = self._example.ragged_lengths(feature.key)
        if lengths is not None and (len(lengths) != num_steps or np.any(lengths != lengths[0])):
            self._leave_out(feature, "has another length at every step")
            return None
        if lengths is None and not self._example.has(feature.key) and feature.shape.count(-1):
            self._leave_out(feature, "is not in the record")
            return None
        return self._example.numbers(feature, num_steps)

    def _leave_out(self, feature: Feature, why: str) -> None:
        name = self._name(feature)
        self.findings.append(Finding("feature_left_out", Severity.WARNING, name, f"{name} {why}; not read"))

    def _texts(self, feature: Feature) -> list[str]:
        name = self._name(feature)
        found: list[str] = []
        for step, data in enumerate(self._example.byte_values(feature.key)):
            try:
                found.append(data.decode())
            except UnicodeDecodeError:
                found.append(data.decode(errors="replace"))
                if not any(f.rule == "undecodable_text" and f.where == name for f in self.findings):
                    message = "the text is not UTF-8; bytes that could not be read were replaced"
                    self.findings.append(Finding("undecodable_text", Severity.WARNING, name, message, step))
        return found

    def _attribute(self, feature: Feature) -> None:
        """An episode-level feature: a scalar as it is, a short list as JSON text, anything else a finding."""
        if feature.kind == "text":
            texts = self._texts(feature)
            self.attributes.append((feature.key, texts[0] if len(texts) == 1 else json.dumps(texts)))
        elif feature.kind in ("number", "packed_tensor"):
            if feature.kind == "packed_tensor":
                values = self._example.packed_tensors(feature)
            else:
                values = self._example.numbers(feature, 1)
            if values.size == 1:
                item: Scalar = values.reshape(-1)[0].item()
                self.attributes.append((feature.key, item))
            elif values.size <= _MAX_ATTRIBUTE_VALUES:
                self.attributes.append((feature.key, json.dumps(values.reshape(-1).tolist())))
            else:
                self._leave_out(feature, f"holds {values.size} values outside the steps")
        else:
            self._leave_out(feature, f"is an {feature.kind} outside the steps")

    def _contradictions(self, numbers: Mapping[str, np.ndarray], images: Mapping[str, Sequence[bytes]]) -> None:
        """Flags that deny pictures that are there (frames that differ are not a placeholder), and an unmarked end."""
        by_name = {name.rpartition("/")[2]: name for name in images}
        for key, value in self.attributes:
            flag = key.rpartition("/")[2]
            camera = by_name.get(flag.removeprefix("has_")) if flag.startswith("has_") else None
            if camera is not None and not value and len(set(images[camera])) > 1:
                message = f"{flag} is {value!r}, yet {camera} holds {len(set(images[camera]))} different pictures"
                self.findings.append(Finding("flag_denies_picture", Severity.WARNING, camera, message))
        last = numbers.get("is_last")
        if last is not None and not np.any(last):
            message = "is_last is false on every step"
            self.findings.append(Finding("last_step_not_marked", Severity.INFO, "is_last", message))


def _code_points(name: str, values: np.ndarray) -> list[str] | None:
    """Texts [T] of an instruction stored as zero-padded Unicode code points [T, N] (language_table); None if it is none."""
    if "instruction" not in name.rpartition("/")[2] or values.ndim != 2 or values.dtype.kind not in "iu":
        return None
    if values.size and not (values.min() >= 0 and values.max() < 0xD800):
        return None
    return ["".join(chr(code) for code in row if code) for row in values.tolist()]


SOURCE = RldsSource()
