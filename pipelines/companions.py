"""Files published beside DROID: languages, calibrations, keep-ranges. Read once, and mapped to episodes by recording.

A recording is known by its uuid, or by the laboratory and second in the path of its folder (``droid_names``), which RLDS keeps
in ``episode_metadata``. Never by its index: sets are sharded, filtered and sorted anew. Each file is known by what is in it,
whatever it is called.
"""

import functools
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from upath import UPath

from pipelines import droid_names
from pipelines.droid_names import Recording
from pipelines.places import place
from pipelines.recordings import read_json, readable
from schemas.episode import ANNOTATIONS, Calibration, EpisodeRef, Instruction, RawEpisode, Scalar, Segment
from schemas.errors import CorruptEpisode, MissingFile, SourceError
from schemas.findings import Finding, Severity
from schemas.fingerprint import fingerprint

Kind = Literal["languages", "paths", "serials", "extrinsics", "intrinsics", "keep_ranges"]
KNOWN = (
    "droid_language_annotations.json, episode_id_to_path.json, camera_serials.json, cam2base_extrinsics.json, "
    "cam2base_extrinsic_superset.json, intrinsics.json, keep_ranges_1_0_1.json"
)
_LOOKED_AT = 100
"""Entries of a file that must agree on what it is."""
_LANGUAGE = re.compile(r"language_instruction_?\d+")
_SERIAL = re.compile(r"\d+")
_ROLES = {"wrist_cam_serial": "wrist", "ext1_cam_serial": "ext1", "ext2_cam_serial": "ext2"}
_VIEW_NAMES = {
    "wrist": re.compile(r"wrist"),
    "ext1": re.compile(r"ext(erior)?_?(image_?)?1"),
    "ext2": re.compile(r"ext(erior)?_?(image_?)?2"),
}
"""How cameras of DROID are called in its layouts: ``exterior_image_1_left``, ``exterior_1_left``, ``ext1``."""
_PATHS = ("file_path", "recording_folderpath", "recording_path")
_BY_PATH = ("paths", "keep_ranges")
"""Kinds that tell a recording by its folder; the others have its uuid for a key."""
_FAR = 1e15
"""No number of a calibration; also of whole numbers that no float can hold."""
_MARK = "+"
"""Between the state of an episode's own files and that of the annotations."""


class Companion:
    """One such file: what it is, and its entries by the key they have there, packed until they are asked for."""

    def __init__(self, kind: Kind, name: str, sha256: str, entries: dict[str, Any]) -> None:
        self.kind = kind
        self.name = name
        self.sha256 = sha256
        self._packed: dict[str, bytes] = {}
        while (
            entries
        ):  # as it is filled the other is emptied: whole files of parsed JSON take gigabytes in many workers
            key, value = entries.popitem()
            self._packed[sys.intern(key)] = json.dumps(value).encode()

    def entry(self, key: str) -> Any:
        """What the file says under ``key``; None where it says nothing."""
        packed = self._packed.get(key)
        return None if packed is None else json.loads(packed)

    def find(self, recordings: Sequence[Recording], uuid: str) -> tuple[str | None, bool]:
        """The key of the recording, None where it has none; and whether that is because several could be meant."""
        if uuid and self.kind not in _BY_PATH:  # another user's recording of the same second has another uuid
            return (uuid if uuid in self._packed else None), False
        for recording in recordings:
            keys = self._keys.get(recording.key, [])
            same = [key for key in keys if self._recording(key).outcome == recording.outcome]
            for chosen in (same, keys):
                if len(chosen) == 1:
                    return chosen[0], False
            if keys:
                return None, True
        return None, False

    @functools.cached_property
    def _keys(self) -> dict[tuple[str, str], list[str]]:
        """By laboratory and second: the keys that mean such a recording."""
        found: dict[tuple[str, str], list[str]] = {}
        for key in self._packed:
            recording = self._recording(key)
            found.setdefault(recording.key, []).append(key)
        return found

    def _recording(self, key: str) -> Recording:
        text = self.entry(key) if self.kind == "paths" else key
        found = (droid_names.of_path if self.kind in _BY_PATH else droid_names.of_uuid)(str(text))
        return found or Recording("", str(text), "")


def without_mark(ref: EpisodeRef) -> EpisodeRef:
    """``ref`` in the state its source listed it in: without what ``Companions.marked`` added."""
    return replace(ref, state=ref.state.partition(_MARK)[0])


def load(annotations: Sequence[str]) -> "Companions":
    """Reads the files, or all ``.json`` files of folders. Raises MissingFile, and SourceError for a file that is none of them."""
    files = [_companion(path) for location in annotations for path in _files(location)]
    return Companions(tuple(sorted(files, key=lambda file: (file.name, file.sha256))))


def _files(location: str) -> Iterator[UPath]:
    path = place(location)
    if path.is_file():
        yield path
    elif path.is_dir():
        found = sorted(child for child in path.iterdir() if child.name.endswith(".json") and child.is_file())
        if not found:
            raise MissingFile("the folder holds no .json file", location, f"known annotations: {KNOWN}")
        yield from found
    else:
        raise MissingFile("there is no such file or folder", location, "check the path given as annotations")


def _companion(path: UPath) -> Companion:
    hint = f"fetch it again; known annotations: {KNOWN}"
    entries = read_json(path, hint)
    kind = _kind(entries)
    if kind is None:
        some = ", ".join(repr(key)[:80] for key in list(entries)[:2]) or "nothing"
        message = f"not a file of annotations known here; it holds {some}"
        raise SourceError(
            message, str(path), f"known: {KNOWN}; name files one by one to leave others out", "unknown_file"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(cast(Any, file), "sha256").hexdigest()
    return Companion(kind, readable(path.name), digest, entries)


def _kind(entries: Mapping[str, Any]) -> Kind | None:
    """What the file is, by what its first entries look like; None where they look like nothing known, or disagree."""
    kinds = {_entry_kind(key, value) for key, value in itertools.islice(entries.items(), _LOOKED_AT)} - {"empty"}
    return cast(Kind, kinds.pop()) if len(kinds) == 1 and None not in kinds else None


def _entry_kind(key: str, value: Any) -> Kind | Literal["empty"] | None:
    if isinstance(value, list):
        return "keep_ranges" if "--" in key and droid_names.of_path(key) else None
    if droid_names.of_uuid(key) is None:
        return None
    if isinstance(value, str):
        return "paths" if droid_names.of_path(value) else None
    if not isinstance(value, dict):
        return None
    if not value:
        return "empty"
    if any(_LANGUAGE.fullmatch(name) for name in value):
        return "languages"
    if set(value) & set(_ROLES):
        return "serials"
    numbered = [part for name, part in value.items() if _SERIAL.fullmatch(name)]
    if any(isinstance(part, dict) and "cameraMatrix" in part for part in numbered):
        return "intrinsics"
    return "extrinsics" if any(isinstance(part, list) and len(part) == 6 for part in numbered) else None


@dataclass(frozen=True, slots=True)
class Companions:
    """All files of a run, to be applied to episodes."""

    files: tuple[Companion, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes when what a file says changes; "" without files."""
        return fingerprint("annotations-1", [(file.kind, file.sha256) for file in self.files]) if self.files else ""

    def marked(self, ref: EpisodeRef) -> EpisodeRef:
        """``ref`` in a state that changes with the files, so that other annotations make its place another version."""
        return replace(ref, state=f"{ref.state}{_MARK}{self.fingerprint}") if self.files else ref

    def apply(self, raw: RawEpisode, ref: EpisodeRef) -> RawEpisode:
        """``raw`` with what the files say of its recording; what they do not say, or say wrongly, is a finding.

        ``ref`` is what was planned; raises CorruptEpisode (``changed_while_reading``) where the files are others by now.
        """
        if ref.state.partition(_MARK)[2] != self.fingerprint:
            message = "the files of annotations changed after the run was planned"
            raise CorruptEpisode(message, ref.where, "run the same command again", "changed_while_reading")
        if not self.files:
            return raw
        raw = replace(raw, ref=ref)
        uuid, recordings = self._identify(raw)
        notes = _Notes(raw, uuid, recordings)
        for file in sorted(self.files, key=lambda one: one.kind != "serials"):  # serials name the cameras of the others
            if file.kind != "paths":
                notes.add(file)
        return notes.episode()

    def _identify(self, raw: RawEpisode) -> tuple[str, list[Recording]]:
        """The uuid ("" where nobody says it), and what paths and uuid say of the recording, paths first."""
        texts = {name.rpartition("/")[2]: value for name, value in raw.attributes if isinstance(value, str)}
        found = [droid_names.of_path(texts[name]) for name in _PATHS if name in texts]
        recordings = [one for one in found if one is not None]
        uuid = texts.get("uuid", "")
        for file in self.files:
            if file.kind == "paths" and not uuid:
                uuid = file.find(recordings, "")[0] or ""
            path = file.entry(uuid) if file.kind == "paths" and uuid else None
            named = droid_names.of_path(path) if isinstance(path, str) else None
            if named is not None:
                recordings.append(named)
        said = droid_names.of_uuid(uuid)
        return uuid, recordings + ([said] if said else [])


class _Notes:
    """What is gathered for one episode."""

    def __init__(self, raw: RawEpisode, uuid: str, recordings: Sequence[Recording]) -> None:
        self._raw = raw
        self._uuid = uuid
        self._recordings = recordings
        self._instructions = list(raw.instructions)
        self._calibrations = list(raw.calibrations)
        self._segments = list(raw.segments)
        self._findings = list(raw.findings)
        self._attributes: dict[str, Scalar] = dict(raw.attributes)

    def episode(self) -> RawEpisode:
        return replace(
            self._raw,
            instructions=tuple(self._instructions),
            calibrations=tuple(self._calibrations),
            segments=tuple(self._segments),
            findings=tuple(self._findings),
            attributes=tuple(sorted(self._attributes.items())),
        )

    def add(self, file: Companion) -> None:
        """What ``file`` says of this recording."""
        if not self._recordings and not self._uuid:
            message = f"{file.name} is not applied: nothing says which recording this is, neither a uuid nor a path"
            self._note("unmatched_annotation", Severity.INFO, file, message)
            return
        key, several = file.find(self._recordings, self._uuid)
        if key is None:
            what = "several entries that could be this recording" if several else "no entry for this recording"
            self._note("unmatched_annotation", Severity.INFO, file, f"{file.name} has {what}")
            return
        value = file.entry(key)
        if file.kind == "keep_ranges":
            self._keep_ranges(file, value)
        elif not isinstance(value, dict):
            self._note("bad_annotation", Severity.WARNING, file, f"{file.name} has a {type(value).__name__} for {key}")
        elif file.kind == "languages":
            self._languages(file, value)
        elif file.kind == "serials":
            self._serials(file, value)
        elif file.kind == "intrinsics":
            self._intrinsics(file, value)
        else:
            self._extrinsics(file, value)

    def _note(self, rule: str, severity: Severity, file: Companion, message: str) -> None:
        self._findings.append(Finding(rule, severity, file.name, message[:500]))

    def _languages(self, file: Companion, value: Mapping[str, Any]) -> None:
        # current_task is what the recorder asked for, and a card that does not take it would lose the text altogether
        known = {one.text for one in self._instructions if one.field.rpartition("/")[2] != "current_task"}
        for name in sorted(value):
            text = value[name]
            if not _LANGUAGE.fullmatch(name):
                continue
            if not isinstance(text, str):
                message = f"{file.name}: {name} is a {type(text).__name__}, not a text"
                self._note("bad_annotation", Severity.WARNING, file, message)
            elif text not in known:
                self._instructions.append(Instruction(text, f"{ANNOTATIONS}{file.name}/{name}"))

    def _serials(self, file: Companion, value: Mapping[str, Any]) -> None:
        for name in _ROLES:
            serial, before = value.get(name), self._attributes.get(name)
            if isinstance(serial, int) and not isinstance(serial, bool):
                serial = str(serial)
            if not isinstance(serial, str) or not serial:
                continue
            if before is None:
                self._attributes[name] = serial
            elif str(before) != serial:
                message = f"{file.name} says that {name} is {serial}, the recording {before}; the recording is believed"
                self._note("cameras_disagree", Severity.WARNING, file, message)

    def _camera(self, serial: str) -> str:
        """The camera of that serial as the source calls it; the serial where nobody says which it is."""
        role = next((_ROLES[name] for name in _ROLES if str(self._attributes.get(name)) == serial), None)
        if role is None:
            return serial
        names = [view.key for view in self._raw.views if _VIEW_NAMES[role].search(view.key.rpartition("/")[2])]
        return names[0] if len(names) == 1 else role

    def _intrinsics(self, file: Companion, value: Mapping[str, Any]) -> None:
        for serial, part in sorted(value.items()):
            if not _SERIAL.fullmatch(serial):
                continue
            matrix = _numbers(part.get("cameraMatrix") if isinstance(part, dict) else None, 4)
            if matrix is None:
                self._note("bad_annotation", Severity.WARNING, file, f"{file.name}: {serial} has no four numbers")
                continue
            if not any(matrix):
                self._note(
                    "zero_intrinsics", Severity.INFO, file, f"{file.name}: the intrinsics of {serial} are all zero"
                )
                continue
            fx, cx, fy, cy = matrix  # the order of that file
            size = [part.get(name) for name in ("width", "height")]
            width_px, height_px = (one if isinstance(one, int) and 0 < one < 1 << 16 else 0 for one in size)
            self._calibrations.append(
                Calibration(
                    self._camera(serial),
                    f"{ANNOTATIONS}{file.name}",
                    intrinsics=(fx, fy, cx, cy),
                    width_px=width_px,
                    height_px=height_px,
                    note=f"serial {serial}" + ("" if width_px else "; of pictures of 1280 x 720, as published"),
                )
            )

    def _extrinsics(self, file: Companion, value: Mapping[str, Any]) -> None:
        for serial, part in sorted(value.items()):
            if not _SERIAL.fullmatch(serial):
                continue
            pose = _numbers(part, 6)
            if pose is None:
                self._note("bad_annotation", Severity.WARNING, file, f"{file.name}: {serial} has no six numbers")
                continue
            note = f"serial {serial}"
            for name in ("metric_type", "quality_metric"):
                said = value.get(f"{serial}_{name}", value.get(name))
                note += f", {name} {said}" if isinstance(said, str | int | float) else ""
            self._calibrations.append(
                Calibration(
                    self._camera(serial),
                    f"{ANNOTATIONS}{file.name}",
                    extrinsics=pose,
                    convention="xyz_euler_xyz",
                    frame="base",
                    note=note[:500],
                )
            )

    def _keep_ranges(self, file: Companion, value: Any) -> None:
        """Step ranges of the RLDS copy, ``[start, stop)``; a raw recording has at most one row more behind them."""
        times_ns = _step_times(self._raw)
        if not _are_ranges(value, len(times_ns)):
            message = f"{file.name} has ranges that do not fit {len(times_ns)} steps: {str(value)[:200]}; none is used"
            self._note("keep_ranges_do_not_fit", Severity.WARNING, file, message)
            return
        if not value:
            self._note("keeps_nothing", Severity.INFO, file, f"{file.name} keeps no step of this recording")
        for start, stop in value:
            stop_ns = int(times_ns[stop]) if stop < len(times_ns) else int(times_ns[-1]) + 1
            self._segments.append(Segment("keep", int(times_ns[start]), stop_ns, f"{ANNOTATIONS}{file.name}"))


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers, or None."""
    if not isinstance(value, list) or len(value) != count:
        return None
    fit = all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < _FAR for one in value)
    return tuple(float(one) for one in value) if fit else None


def _are_ranges(value: Any, num_steps: int) -> bool:
    """Whether these are ranges of the steps, none of which is in two."""
    if not isinstance(value, list) or not all(_is_range(one, num_steps) for one in value):
        return False
    ordered = sorted(value)
    return all(before[1] <= after[0] for before, after in itertools.pairwise(ordered))


def _is_range(value: Any, num_steps: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(one, int) and not isinstance(one, bool) for one in value)
        and 0 <= value[0] < value[1] <= num_steps
    )


def _step_times(raw: RawEpisode) -> np.ndarray:
    """Times of the steps int64 [T]: those of the first action, else of the first stream."""
    streams = [stream for stream in raw.streams if stream.name.startswith("action")] or list(raw.streams)
    return streams[0].times_ns if streams else np.zeros(0, dtype=np.int64)
