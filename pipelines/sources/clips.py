"""JSON + mp4 sets: annotations of IRASim, Cosmos-Predict2, VPP and Ctrl-World, and folders of trajectories.

Two shapes, known by their structure:

- ``annotation/<split>/<episode>.json`` holds everything of an episode: lists of numbers, texts, and the paths of its
  videos, relative to the folder that holds ``annotation``;
- a folder per episode holds ``information.json``, ``trajectories/*.json`` (``columns`` and ``data``), ``video.mp4`` and
  ``images/camera_images.json`` (names of pictures, which may have been left out).

Times: row i of a list and frame i of a video are instant i. Annotations say no rate, so these are plain indices, which the
card puts on the clock, each list at the rate it ticks with (``rates``). Frame times in the files are not used: sets play
at whatever rate their writer chose; what they say is an attribute. Latents (``.pt``) are pickles: their names become
attributes, and no one opens them here.
"""

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from upath import UPath

from pipelines import json_episode
from pipelines.places import lists, place
from pipelines.recordings import (
    check_unchanged,
    file_view,
    files_state,
    packed_view,
    path_inside,
    pixels_view,
    set_folders,
)
from pipelines.video import VideoTools
from schemas.episode import EncodedView, EpisodeRef, Instruction, RawEpisode, Scalar, Stream
from schemas.errors import CorruptEpisode, MissingFile, RecipeError, SourceError
from schemas.findings import Finding, Severity
from schemas.fingerprint import fingerprint
from schemas.recipes import Limits
from schemas.time import NANOSECONDS, TimeGrid, parse_rate

_ANNOTATION = "annotation"
_INFORMATION = "information.json"
_TEXTS = (
    *("texts", "text", "instruction", "instructions", "language", "language_instruction", "prompt"),
    *("taskDescription", "subtaskDescription"),
)
"""Fields that hold language."""
_KEY_DIGITS = 6
_MAX_CAMERAS = 64
_RATE_TOLERANCE = 0.01
_UNEVEN_NS = 2_000_000
"""Containers round frame times to their time base; beyond this, frames were not taken at even distances."""


def _is_set(folder: UPath) -> bool:
    if not lists(folder):
        return False
    return any(_annotations(folder)) or any(
        (child / "trajectories").is_dir() and ((child / _INFORMATION).is_file() or (child / "video.mp4").is_file())
        for child in folder.iterdir()
    )


def _annotations(folder: UPath) -> Iterator[UPath]:
    """The annotation files of the set in ``folder``, hidden ones left out. Links to folders are not followed."""
    root = folder / _ANNOTATION
    return (path for path in root.rglob("*.json") if not path.name.startswith(".")) if root.is_dir() else iter(())


def _refuse_linked_folders(root: UPath) -> None:
    """Raises SourceError for a link to a folder of annotations: its episodes would be missing without a trace."""
    if not isinstance(root, Path):
        return
    for folder, _, names in (root / _ANNOTATION).walk():
        for path in (folder / name for name in names if not name.endswith(".json")):
            if path.is_dir():  # folders are no names; links to them are
                message = "this folder of annotations is a link, which is not followed"
                hint = "put the folder there itself, or ingest the place it links to"
                raise SourceError(message, str(path), hint, "path_escape")


def _episode_folders(folder: UPath) -> Iterator[UPath]:
    for child in folder.iterdir():
        if (child / _INFORMATION).is_file() or (child / "trajectories").is_dir():
            yield child


class ClipsSource:
    """The ``clips`` source."""

    name = "clips"

    def datasets(self, location: str) -> list[str]:
        """Folders that hold ``annotation/**/*.json``, or folders of episodes with ``trajectories``."""
        return set_folders(location, _is_set)

    def refs(self, location: str) -> Sequence[EpisodeRef]:
        """One per annotation file and per episode folder. Their folder under ``annotation`` is their split."""
        root = place(location)
        _refuse_linked_folders(root)
        films = _films(root)
        refs: dict[str, EpisodeRef] = {}
        for path in sorted(_annotations(root)):
            relative = path.relative_to(root).as_posix()
            split = "/".join(path.parent.relative_to(root / _ANNOTATION).parts)
            name = path.stem.zfill(_KEY_DIGITS) if path.stem.isdecimal() else path.stem
            key = f"{split}/{name}" if split else name
            key = relative if key in refs else key  # 3.json beside 000003.json
            videos = films.get(f"{split}/{path.stem}" if split else path.stem) or _named_videos(root, relative)
            refs[key] = self._ref(root, key, split, [relative, *videos])
        for folder in sorted(_episode_folders(root)):
            files = [f"{folder.name}/{_INFORMATION}"]
            for pattern in ("trajectories/*.json", "*.mp4", "images/camera_images.json"):
                files += sorted(path.relative_to(root).as_posix() for path in folder.glob(pattern))
            refs[folder.name] = self._ref(root, folder.name, "", files)
        return sorted(refs.values(), key=lambda ref: ref.key)

    def read(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> RawEpisode:
        """The whole episode. Raises MissingFile, CorruptEpisode or DecodeError."""
        files: list[str] = json.loads(ref.detail("files"))
        check_unchanged(ref, files)
        reading = _Reading(ref, video, limits)
        return reading.annotated(files[0]) if files[0].startswith(f"{_ANNOTATION}/") else reading.folder(files)

    def _ref(self, root: UPath, key: str, split: str, files: Sequence[str]) -> EpisodeRef:
        return EpisodeRef(
            source=self.name,
            location=str(root),
            dataset=root.name,
            version="",
            split=split,
            key=key,
            state=files_state(root, files),
            num_bytes=sum((root / name).stat().st_size for name in set(files) if (root / name).is_file()),
            details=(("files", json.dumps(files)),),
        )


def _films(root: UPath) -> dict[str, list[str]]:
    """The videos at the usual places, ``videos/<split>/<episode>/*.mp4`` or ``<episode>.mp4``, by split and episode."""
    films: dict[str, list[str]] = {}
    folder = root / "videos"
    for path in sorted(folder.rglob("*.mp4")) if folder.is_dir() else ():
        relative = path.relative_to(folder)
        for key in ("/".join(relative.parts[:-1]), relative.as_posix().removesuffix(".mp4")):
            films.setdefault(key, []).append(f"videos/{relative.as_posix()}")
    return films


def _named_videos(root: UPath, annotation: str) -> list[str]:
    """The videos that an annotation names, where none lies at the usual place."""
    try:
        facts, _ = json_episode.load(root / annotation, annotation, Limits())
        return [_inside(root, name, annotation)[0] for _, name in _video_paths(facts, annotation) if name]
    except SourceError:
        return []  # reading it will say why


def _inside(root: UPath, name: str, where: str) -> tuple[str, UPath]:
    """A path from the data, relative to ``root`` and whole. Some writers count from the folder above."""
    first, _, rest = name.partition("/")
    path = path_inside(root, name, where)
    if first == root.name and not path.is_file():
        return rest, path_inside(root, rest, where)
    return name, path


def _video_paths(facts: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """(camera key, path) of every video an annotation names: ``videos/0``, the name it gives itself, or the field.

    The path is empty where the annotation leaves it so.
    """
    found: list[tuple[str, Any]] = []
    for name, value in facts.items():
        if name.endswith("video_path") and "latent" not in name:
            found.append((json_episode.text(name), value))
        elif name == "videos":
            entries = [entry if isinstance(entry, dict) else {"video_path": entry} for entry in _listed(value)]
            names = [json_episode.text(str(entry.get("camera") or "")) for entry in entries]
            if not all(names) or len(set(names)) < len(names):
                names = [f"videos/{index}" for index in range(len(entries))]
            found += [(key, entry.get("video_path")) for key, entry in zip(names, entries, strict=True)]
    if len(found) > _MAX_CAMERAS:
        message = f"it names {len(found)} videos, allowed are {_MAX_CAMERAS}"
        raise CorruptEpisode(message, where, "write one annotation for each episode", "too_large")
    for key, path in found:
        if path is not None and not isinstance(path, str):
            message = f"the path of the video {key} is {str(path)[:100]!r}, not a text"
            raise CorruptEpisode(message, where, "write the annotation again", "bad_json")
    return [(key, path or "") for key, path in found]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class _Reading:
    """One episode taken apart."""

    def __init__(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> None:
        self._ref = ref
        self._root = place(ref.location)
        self._video = video
        self._limits = limits
        self._streams: dict[str, np.ndarray] = {}
        self._columns: list[tuple[str, tuple[str, ...]]] = []
        self._views: list[EncodedView] = []
        self._instructions: list[Instruction] = []
        self._attributes: dict[str, Scalar] = {}
        self._findings: list[Finding] = []
        self._hashes: list[str] = []

    def annotated(self, annotation: str) -> RawEpisode:
        """From one annotation file."""
        facts = self._json(annotation)
        self._take(facts, annotation)
        for key, name in _video_paths(facts, f"{annotation} ({self._ref.where})"):
            if name:
                self._camera(key, *_inside(self._root, name, self._ref.where))
            else:
                message = "the annotation lists this camera and names no file for it"
                self._findings.append(Finding("camera_without_video", Severity.INFO, key, message))
        for name, fields in (("state_length", ("state", "states")), ("raw_length", ())):
            lists = fields or tuple(one for one in self._streams if one.startswith(("observation.", "action.")))
            counts = {f"rows of {one}": len(self._streams[one]) for one in lists if one in self._streams}
            self._compare(name, counts)
        self._compare("video_length", {f"frames of {view.key}": view.num_frames for view in self._views})
        return self._episode(None, None)

    def folder(self, files: Sequence[str]) -> RawEpisode:
        """From the files of an episode folder, of which the first is its information."""
        self._take(self._json(files[0]), files[0])
        for name in files[1:]:
            path = path_inside(self._root, name, self._ref.where)
            if path.parent.name == "trajectories":
                self._trajectory(name, path.stem)
            elif path.suffix == ".mp4":
                self._camera(path.stem, name, path)
        counts = {f"rows of {name}": len(values) for name, values in self._streams.items()}
        self._compare("dataLength", counts)
        rate, video_rate = self._rate("armSamplingRate"), self._rate("videoSamplingRate")
        for view in self._views:
            self._compare_container(view.key, video_rate)
        for name in files[1:]:
            if name.endswith("images/camera_images.json"):
                self._pictures(name)
        return self._episode(rate, video_rate)

    def _json(self, name: str) -> dict[str, Any]:
        path = path_inside(self._root, name, self._ref.where)
        facts, digest = json_episode.load(path, f"{name} ({self._ref.where})", self._limits)
        self._hashes.append(digest)
        return facts

    def _take(self, facts: Mapping[str, Any], file: str, prefix: str = "") -> None:
        """Sorts the fields of a JSON object by what they hold; what has no place gives a finding."""
        for field, value in facts.items():
            name = prefix + json_episode.text(field)
            entries = _listed(value)
            if name == "videos" or (name.endswith("video_path") and "latent" not in name):
                continue
            if name in _TEXTS and all(one is None or isinstance(one, str) for one in entries):
                self._instructions += [Instruction(json_episode.text(one or ""), name) for one in entries]
            elif name == "latent_videos" and all(isinstance(one, dict) for one in entries):
                paths = [one.get("latent_video_path") for one in entries]
                self._attributes |= {f"{name}/{k}": json_episode.text(str(path)) for k, path in enumerate(paths)}
            elif isinstance(value, dict) and not prefix:
                self._take(value, file, f"{name}/")
            elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
                self._attributes[name] = json_episode.text(", ".join(value))
            elif isinstance(value, list) and not any(isinstance(one, dict) for one in value):
                self._streams[name] = json_episode.numbers(value, f"{name} in {file} ({self._ref.where})")
            elif isinstance(value, str | int | float):
                self._attributes[name] = json_episode.scalar(value)
            else:
                message = f"{name} holds {type(value).__name__} that is no list of numbers; not read"
                self._findings.append(Finding("field_left_out", Severity.WARNING, name[:100], message[:500]))

    def _trajectory(self, name: str, field: str) -> None:
        facts = self._json(name)
        where = f"{name} ({self._ref.where})"
        columns, data = facts.get("columns", []), facts.get("data")
        if not isinstance(data, list) or not isinstance(columns, list):
            raise CorruptEpisode("it has no lists columns and data", where, "fetch it again", "bad_json")
        values = json_episode.numbers(data, where)
        self._streams[field] = values
        width = int(np.prod(values.shape[1:], dtype=np.int64))
        if len(columns) == width and all(isinstance(one, str) for one in columns):
            self._columns.append((field, tuple(json_episode.text(one) for one in columns)))
        else:
            message = f"{field} names {len(columns)} columns and has {width}"
            self._findings.append(Finding("column_names", Severity.WARNING, field, message))

    def _camera(self, key: str, name: str, path: UPath) -> None:
        """The video of ``name``, its frames at plain indices; what its container says of time becomes an attribute."""
        where = f"{name} ({self._ref.where})"
        if not path.is_file():
            message = f"the video {name[:200]} of {key} is missing"
            raise MissingFile(message, self._ref.where, "fetch it from the original data set")
        view, digest = file_view(key, path, self._video, self._limits, where)
        self._hashes.append(digest)
        times_ns = view.times_ns
        if len(times_ns) > 1:
            span_ns = int(times_ns[-1] - times_ns[0])
            self._attributes[f"{key}/container_fps"] = round((len(times_ns) - 1) * NANOSECONDS / max(span_ns, 1), 3)
            shortest, longest = np.diff(times_ns).min(), np.diff(times_ns).max()
            if longest - shortest > _UNEVEN_NS:
                message = (
                    f"in the file frames are {shortest / 1e6:.4g} to {longest / 1e6:.4g} ms apart; read one a step"
                )
                self._findings.append(Finding("uneven_frame_times", Severity.WARNING, key, message))
        self._views.append(view)

    def _compare_container(self, key: str, declared: Fraction | None) -> None:
        plays = self._attributes.get(f"{key}/container_fps")
        if declared and isinstance(plays, float) and abs(plays / float(declared) - 1) > _RATE_TOLERANCE:
            message = f"the file plays at {plays:g} frames per second, {_INFORMATION} says {float(declared):g}"
            numbers = (("container_fps", plays), ("declared_hz", float(declared)))
            self._findings.append(Finding("container_rate", Severity.WARNING, key, message, None, numbers))

    def _compare(self, name: str, counts: Mapping[str, int]) -> None:
        """What the file says of its own lengths: off by one is a finding. Raises CorruptEpisode (``length_mismatch``)."""
        declared = self._attributes.get(name)
        if not isinstance(declared, int):
            return
        for what, count in counts.items():
            if count == declared:
                continue
            message = f"{name} is {declared}, there are {count} {what}"
            if abs(count - declared) > 1:
                raise CorruptEpisode(
                    message, self._ref.where, "fetch JSON and videos of the same version", "length_mismatch"
                )
            numbers = (("declared", float(declared)), ("found", float(count)))
            self._findings.append(Finding("length_mismatch", Severity.WARNING, what, message, None, numbers))

    def _rate(self, name: str) -> Fraction | None:
        value = self._attributes.get(name)
        if value is None:
            return None
        try:
            return parse_rate(value)
        except RecipeError as error:
            self._findings.append(Finding("bad_rate", Severity.WARNING, name, f"{name}: {error.message}"[:300]))
            return None

    def _pictures(self, index: str) -> None:
        """Pictures named by an index beside them: a view for each camera that has them all, a finding where none is there."""
        facts = self._json(index)
        cameras, rows = facts.get("columns"), facts.get("data")
        where = f"{index} ({self._ref.where})"
        if (
            not isinstance(cameras, list)
            or not isinstance(rows, list)
            or not all(isinstance(row, list) and len(row) == len(cameras) for row in rows)
            or len(set(map(str, cameras))) < len(cameras)
        ):
            raise CorruptEpisode("it is no table of names by camera", where, "fetch it again", "bad_json")
        folder = path_inside(self._root, index.rpartition("/")[0], where)
        present = {path.name for path in folder.iterdir()}
        for column, camera in enumerate(map(str, cameras)):
            names = [str(row[column]) for row in rows]
            missing = sum(name not in present for name in names)
            if missing == len(names):
                message = f"none of the {missing} pictures that the index names is there"
                numbers = (("num_pictures", float(missing)),)
                self._findings.append(Finding("missing_pictures", Severity.WARNING, camera, message, None, numbers))
            elif missing:
                message = f"{missing} of {len(names)} pictures of {camera} are missing"
                raise MissingFile(message, where, "fetch them from the original data set")
            else:
                paths = [path_inside(self._root, f"{index.rpartition('/')[0]}/{name}", where) for name in names]
                self._views.append(self._packed(camera, paths, where))

    def _packed(self, camera: str, paths: Sequence[UPath], where: str) -> EncodedView:
        times_ns = np.arange(len(paths), dtype=np.int64)
        if paths[0].suffix.lower() == ".webp":
            view = pixels_view(camera, (self._pixels(path, where) for path in paths), times_ns, self._video, where)
        else:
            view = packed_view(camera, (self._picture(path, where) for path in paths), times_ns, self._video, where)
        self._hashes.append(view.packets_sha256)
        return view

    def _picture(self, path: UPath, where: str) -> bytes:
        """The bytes of a picture's file."""
        try:
            size = path.stat().st_size
            if size <= self._limits.max_record_bytes and path.is_file():
                return path.read_bytes()
        except OSError as error:
            message = f"{path.name} cannot be read: {error.strerror}"
            raise CorruptEpisode(message, where, "grant reading rights, or fetch it again", "bad_image") from error
        message = f"{path.name} is no file, or too large a one ({size} bytes)"
        raise CorruptEpisode(message, where, "fetch it again", "bad_image")

    def _pixels(self, path: UPath, where: str) -> np.ndarray:
        """uint8 [H, W, 3] of a WebP picture, which no container of ours holds as it is."""
        try:
            with Image.open(io.BytesIO(self._picture(path, where)), formats=["WEBP"]) as image:
                if image.width * image.height > self._limits.max_pixels:
                    message = f"{path.name} has {image.width} x {image.height} pixels"
                    raise CorruptEpisode(message, where, "raise limits.max_pixels in the recipe", "too_large")
                return np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            reason = "of no known kind" if isinstance(error, UnidentifiedImageError) else str(error)
            message = f"{path.name} is no WebP picture: {reason}"
            raise CorruptEpisode(message[:300], where, "fetch it again", "bad_image") from error

    def _episode(self, rate: Fraction | None, video_rate: Fraction | None) -> RawEpisode:
        if self._streams and not any(len(values) for values in self._streams.values()):
            raise CorruptEpisode("the episode has no rows", self._ref.where, "leave it out of the data set", "empty")
        streams = tuple(
            Stream(name, values, _times(len(values), rate), "declared")
            for name, values in sorted(self._streams.items())
        )
        return RawEpisode(
            ref=self._ref,
            streams=streams,
            views=tuple(
                dataclasses.replace(view, times_ns=_times(view.num_frames, rate and (video_rate or rate)))
                for view in sorted(self._views, key=lambda view: view.key)
            ),
            instructions=tuple(self._instructions),
            declared_rate=rate,
            source_sha256=fingerprint("clips-1", self._hashes),
            robot_type=str(self._attributes.get("robotEmbodiment", "")),
            attributes=tuple(sorted(self._attributes.items())),
            findings=tuple(self._findings),
            column_names=tuple(self._columns),
        )


def _times(count: int, rate: Fraction | None) -> np.ndarray:
    """Plain indices, or the instants of the rate the files declare."""
    return np.arange(count, dtype=np.int64) if rate is None else TimeGrid(0, rate, count).times_ns()


SOURCE = ClipsSource()
