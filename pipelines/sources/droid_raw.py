"""DROID as its recorder writes it: one folder per recording with ``trajectory.h5``, metadata and an MP4 per camera.

``<LAB>/{success,failure}/<date>/<asctime>/``; a location is the root, a laboratory, an outcome, a day or one recording.
Times are those the recorder wrote (Unix milliseconds), from the first step on. Cameras are called ``wrist``, ``ext1`` and
``ext2``. Frame i belongs to row i, and has the time its camera gave it. A path inside the metadata is never followed: files
are found by the serials of the cameras.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from upath import UPath

from pipelines import droid_cameras, droid_names, hdf5_child, hdf5_process
from pipelines.places import lists, place
from pipelines.recordings import check_unchanged, file_view, files_state, path_inside, read_json, readable, set_folders
from pipelines.video import VideoTools
from schemas.episode import Clock, EncodedView, EpisodeRef, Instruction, RawEpisode, Scalar, Stream
from schemas.errors import CorruptEpisode, MissingFile, SourceError
from schemas.findings import Finding, Severity
from schemas.fingerprint import fingerprint
from schemas.recipes import Limits

_ROWS = "trajectory.h5"
_VIDEOS = "recordings/MP4"
_STEP_START = "observation/timestamp/control/step_start"
_FACTS = (
    "lab", "user", "user_id", "date", "building", "scene_id", "robot_serial", "current_task", "time",
    "trajectory_length",
)  # fmt: skip
_ALIASES = {
    "robot_serial": ("robot_serial", "robot_serial_number"),
    "recorder_version": ("droid_version", "r2d2_version", "version_number"),
}
"""Facts that metadata and attributes of ``trajectory.h5`` call by different names."""
_ESSENTIAL = ("action/", "observation/robot_state/")
_STEREO = "-stereo"
_STEREO_ASPECT = 3
"""A picture more than three times as wide as high shows both eyes, whatever its file is called."""
_MAX_TEXT = 10_000


def _is_recording(folder: UPath) -> bool:
    return (folder / _ROWS).is_file() or any(_is_metadata(child.name) for child in folder.iterdir())


def _is_metadata(name: str) -> bool:
    return name.startswith("metadata_") and name.endswith(".json")


def _folders(folder: UPath) -> list[UPath]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _days(folder: UPath) -> list[UPath]:
    return [child for child in _folders(folder) if droid_names.DAY.fullmatch(child.name)]


def _outcomes(folder: UPath) -> list[UPath]:
    return [folder / name for name in droid_names.OUTCOMES if (folder / name).is_dir()]


def _recordings(folder: UPath) -> Iterator[UPath]:
    """Folders of recordings at or below ``folder``, whatever level of the tree it is; none where it is none."""
    if droid_names.DAY.fullmatch(folder.name):
        yield from _folders(folder)
    elif folder.name in droid_names.OUTCOMES:
        for day in _days(folder):
            yield from _folders(day)
    elif _is_recording(folder):
        yield folder
    else:
        outcomes = _outcomes(folder) or [one for lab in _folders(folder) for one in _outcomes(lab)]
        for outcome in outcomes:
            for day in _days(outcome):
                yield from _folders(day)


class DroidRawSource:
    """The ``droid_raw`` source."""

    name = "droid_raw"

    def datasets(self, location: str) -> list[str]:
        """Folders of the tree, at the highest level there is below ``location``."""
        return set_folders(location, _is_set)

    def refs(self, location: str) -> Sequence[EpisodeRef]:
        """One per folder of a recording, also where its files are missing."""
        root = place(location)
        return sorted((self._ref(root, folder) for folder in _recordings(root)), key=lambda ref: ref.key)

    def read(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> RawEpisode:
        """The whole recording. Raises MissingFile, CorruptEpisode or DecodeError."""
        files = json.loads(ref.detail("files"))
        check_unchanged(ref, files)
        return _Reading(ref, files, video, limits).episode()

    def _ref(self, root: UPath, folder: UPath) -> EpisodeRef:
        prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        names = [_ROWS, *sorted(child.name for child in folder.iterdir() if _is_metadata(child.name))]
        if (folder / _VIDEOS).is_dir():
            videos = sorted(child.name for child in (folder / _VIDEOS).iterdir() if child.name.endswith(".mp4"))
            names += [f"{_VIDEOS}/{name}" for name in videos]
        files = [prefix + name for name in names]
        sizes = [path.stat().st_size for path in (root / name for name in files) if path.is_file()]
        return EpisodeRef(
            source=self.name,
            location=str(root),
            dataset="droid",
            version="",
            split="",
            key=readable(prefix.rstrip("/") or folder.name),
            state=files_state(root, files),
            num_bytes=sum(sizes),
            details=(("files", json.dumps(files)), ("folder", prefix)),
        )


def _is_set(folder: UPath) -> bool:
    # other recordings lie in folders of days too
    return lists(folder) and any(_is_recording(one) for one in _recordings(folder))


class _Reading:
    """One recording taken apart."""

    def __init__(self, ref: EpisodeRef, files: Sequence[str], video: VideoTools, limits: Limits) -> None:
        self._ref = ref
        self._root = place(ref.location)
        self._folder = ref.detail("folder")
        self._files = files
        self._video = video
        self._limits = limits
        self._findings: list[Finding] = []
        self._hashes: list[tuple[str, str]] = []

    def episode(self) -> RawEpisode:
        metadata = self._metadata()
        arrays, written = self._rows()
        times_ns, clock, origin_ms = self._steps(arrays)
        cameras = droid_cameras.choose(arrays, metadata, self._findings)
        attributes = self._attributes(metadata, written, cameras)
        views = []
        for key, serial in sorted(cameras.items()):
            stamps, taken_ns = droid_cameras.frame_clock(arrays, serial, origin_ms)
            frames_ns = times_ns if taken_ns is None else self._held_apart(key, taken_ns, times_ns)
            view = self._view(key, serial, frames_ns, times_ns)
            if view is not None:
                views.append(view)
                attributes[f"{key}_frame_times"] = stamps
        if not cameras:
            message = "neither the metadata nor trajectory.h5 say which cameras there were"
            self._note("unknown_cameras", Severity.WARNING, "cameras", message)
        calibrations = droid_cameras.calibrations(arrays, metadata, cameras)
        task = str(attributes.get("current_task", ""))
        return RawEpisode(
            ref=self._ref,
            streams=tuple(Stream(name, values, times_ns, clock) for name, values in sorted(arrays.items())),
            views=tuple(views),
            instructions=(Instruction(task, "current_task"),) if task else (),
            declared_rate=None,
            source_sha256=fingerprint("droid_raw-1", sorted(self._hashes)),
            robot_type=str(attributes.get("robot_serial", "")).partition("-")[0],
            attributes=tuple(sorted(attributes.items())),
            findings=tuple(self._findings),
            calibrations=tuple(calibrations),
        )

    def _note(
        self, rule: str, severity: Severity, where: str, message: str, numbers: tuple[tuple[str, float], ...] = ()
    ) -> None:
        self._findings.append(Finding(rule, severity, where, message[:500], None, numbers))

    def _path(self, name: str) -> UPath:
        return path_inside(self._root, self._folder + name, self._ref.where)

    def _metadata(self) -> dict[str, Any]:
        """What the metadata say, {} where they are missing or damaged: numbers and pictures do not need them."""
        names = [name for name in (one.removeprefix(self._folder) for one in self._files) if _is_metadata(name)]
        if not names:
            self._note("missing_metadata", Severity.WARNING, "metadata", "there is no metadata_<uuid>.json")
            return {}
        if len(names) > 1:
            self._note(
                "several_metadata", Severity.WARNING, "metadata", f"{len(names)} of them; {readable(names[0])} is taken"
            )
        called = readable(names[0])
        uuid = called.removeprefix("metadata_").removesuffix(".json")
        path = self._path(names[0])
        try:
            metadata = read_json(path, "fetch it again")
        except SourceError as error:
            self._note("bad_metadata", Severity.WARNING, called, error.message)
            return {"uuid": uuid}
        self._hashes.append((called, _sha256(path)))
        for key in sorted(metadata):
            value = metadata[key]
            if key.endswith("_path") and isinstance(value, str) and (".." in value.split("/") or value.startswith("/")):
                message = f"{key} leads out of the data set ({value}); paths of the metadata are not followed"
                self._note("metadata_path_outside", Severity.WARNING, called, message)
        return {"uuid": uuid} | metadata

    def _rows(self) -> tuple[dict[str, np.ndarray], dict[str, Scalar]]:
        """Arrays of T rows by name, and the attributes of the file."""
        path = self._path(_ROWS)
        where = f"{_ROWS} ({self._ref.where})"
        if not path.is_file():
            raise MissingFile(f"{_ROWS} is missing", self._ref.where, "fetch it from the original data set")
        self._hashes.append((_ROWS, _sha256(path)))
        told = str(path), hdf5_child.DROID, "", self._limits, path.stat().st_size, where
        content = hdf5_process.read(*told)
        self._findings += content.findings
        return self._of_one_length(content.numbers, where), content.attributes

    def _of_one_length(self, found: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
        """Those with as many rows as the recording: a key that the recorder first saw late has fewer, and nobody knows which."""
        essential = {name: len(values) for name, values in found.items() if name.startswith(_ESSENTIAL)}
        lengths = Counter(essential.values())
        if not lengths:
            raise CorruptEpisode("there are no actions and no states", where, "fetch it again", "missing_field")
        num_rows = max(lengths, key=lambda length: (lengths[length], length))
        if num_rows == 0:
            raise CorruptEpisode("the recording has no rows", where, "leave it out of the data set", "empty")
        core = [name for name in essential if name.endswith(("_position", "_positions"))]
        for name in sorted(core):
            if essential[name] != num_rows and "target_" not in name:
                message = f"{name} has {essential[name]} rows, the recording {num_rows}"
                raise CorruptEpisode(message, where, "the recorder stopped half-way; leave it out", "length_mismatch")
        for name in sorted(name for name, values in found.items() if len(values) != num_rows):
            message = f"{name} has {len(found[name])} rows of {num_rows}: not known which, so it is left out"
            numbers = (("num_rows", float(len(found[name]))), ("num_steps", float(num_rows)))
            self._note("field_seen_late", Severity.WARNING, name, message, numbers)
        return {name: values for name, values in found.items() if len(values) == num_rows}

    def _steps(self, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Clock, int | None]:
        """Times of the rows int64 [T], their clock, and what Unix time 0 is (None: rows are only counted)."""
        stamps = arrays.get(_STEP_START)
        if stamps is not None and droid_cameras.are_stamps(stamps):
            origin_ms = int(stamps[0])
            times_ns = droid_cameras.since(stamps, origin_ms)
            if times_ns is not None:
                return times_ns, "source", origin_ms
        what = "has no" if stamps is None else "has no usable"
        message = f"trajectory.h5 {what} {_STEP_START}; the rows are counted, at the rate the card declares"
        self._note("no_step_clock", Severity.WARNING, _STEP_START, message)
        num_rows = len(next(iter(arrays.values())))
        return np.arange(num_rows, dtype=np.int64), "declared", None

    def _held_apart(self, key: str, taken_ns: np.ndarray, steps_ns: np.ndarray) -> np.ndarray:
        frames_ns, held = droid_cameras.held_apart(taken_ns, steps_ns)
        if held:
            message = (
                f"{held} of {len(taken_ns)} frames are the one before again, by their stamp: the camera was slower"
            )
            numbers = (("num_frames", float(held)), ("num_steps", float(len(taken_ns))))
            self._note("frames_held", Severity.INFO, key, message, numbers)
        return frames_ns

    def _view(self, key: str, serial: str, frames_ns: np.ndarray, steps_ns: np.ndarray) -> EncodedView | None:
        """The video of one camera as its file has it; None, with a finding, where there is no file."""
        names = [f"{_VIDEOS}/{serial}{ending}.mp4" for ending in ("", _STEREO)]
        name = next((one for one in names if self._folder + one in self._files), None)
        if name is None:
            self._note("missing_video", Severity.WARNING, key, f"there is no video of the camera {serial}")
            return None
        where = f"{name} ({self._ref.where})"
        view, digest = file_view(key, self._path(name), self._video, self._limits, where)
        self._hashes.append((name, digest))
        frames, rows = view.num_frames, len(steps_ns)
        if frames > rows:
            message = f"{frames} frames for {rows} rows: which frame belongs to which row is not known"
            raise CorruptEpisode(message, where, "fetch trajectory.h5 and videos of one recording", "length_mismatch")
        if frames < rows:
            rule, severity = ("video_short", Severity.WARNING)
            if frames == rows - 1:
                rule, severity = ("video_one_frame_short", Severity.INFO)
            numbers = (("num_frames", float(frames)), ("num_steps", float(rows)))
            self._note(rule, severity, key, f"{frames} frames for {rows} rows; frames pair with rows from 0", numbers)
        late = (frames_ns[:frames] - steps_ns[:frames]) / 1e6
        if frames and late.max() > 0:
            count = int((late > 0).sum())
            message = f"{count} of {frames} frames were taken after their row began, by up to {late.max():.0f} ms"
            self._note(
                "frame_after_step",
                Severity.INFO,
                key,
                message,
                (("num_frames", float(count)), ("ms", float(late.max()))),
            )
        wide = view.width_px > _STEREO_ASPECT * view.height_px
        if wide and not name.endswith(f"{_STEREO}.mp4"):
            message = (
                f"{view.width_px} x {view.height_px}: both eyes, although the file is not called so; the left is shown"
            )
            self._note("stereo_without_suffix", Severity.INFO, key, message)
        elif not wide and self._folder + names[1] in self._files and name != names[1]:
            self._note("stereo_left_out", Severity.INFO, key, f"{names[1]} has the other eye as well; it is not read")
        stereo = wide or name == names[1]
        return replace(view, times_ns=frames_ns[:frames].copy(), part="left_half" if stereo else "whole")

    def _attributes(
        self, metadata: Mapping[str, Any], written: Mapping[str, Scalar], cameras: Mapping[str, str]
    ) -> dict[str, Scalar]:
        """Facts of the recording under the recorder's names; metadata first, then the attributes of ``trajectory.h5``."""
        found: dict[str, Scalar] = {}
        for name in ("uuid", *_FACTS, *_ALIASES):
            for said in (metadata, written):
                values = [said.get(alias) for alias in _ALIASES.get(name, (name,))]
                fact = next((value for value in values if isinstance(value, str | int | float) and value != ""), None)
                if fact is not None:
                    found[name] = fact[:_MAX_TEXT] if isinstance(fact, str) else fact
                    break
        found |= {f"{role}_cam_serial": serial for role, serial in cameras.items()}
        recording = droid_names.of_path(readable(f"{self._ref.location}/{self._folder}".rstrip("/")))
        if recording is not None:
            found["recording_path"] = recording.folder
            found.setdefault("lab", recording.lab)
            found.setdefault("date", recording.date)
        claims = {
            "folder": None if recording is None or recording.outcome == "unknown" else recording.outcome == "success",
            "metadata": metadata.get("success"),
            _ROWS: written.get("success"),
        }
        said = {who: bool(value) for who, value in claims.items() if isinstance(value, bool | int)}
        if said:  # a folder is moved when the recording turns out to be good, so it has the last word
            found["success"] = next(iter(said.values()))
        if len(set(said.values())) > 1:
            message = "; ".join(f"{who}: {'success' if value else 'failure'}" for who, value in said.items())
            self._note("success_disagrees", Severity.WARNING, "success", f"{message}; the first is taken")
        scales = droid_cameras.velocity_scales(found.get("recorder_version"))
        if not scales:
            message = (
                f"recorder version {found.get('recorder_version', 'not said')}: scale of velocity commands unknown"
            )
            self._note("unknown_recorder_version", Severity.INFO, "recorder_version", message)
        return found | scales


def _sha256(path: UPath) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


SOURCE = DroidRawSource()
