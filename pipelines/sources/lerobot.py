"""LeRobot sets of version 2.0, 2.1 and 3.0: Parquet rows, mp4 videos or pictures inside the rows, and a ``meta`` folder.

What is listed, so that nothing comes out short in silence:

- every episode of the index; every number below ``total_episodes`` that the index lacks (its reading fails, or succeeds
  with a finding where v2 has its file); every Parquet file under ``data`` that belongs to no listed episode;
- a declared camera whose file is missing fails the episode, unless no episode of the whole set has a file for it while
  another camera has: then the view is absent, with a finding.

Times: where the ``timestamp`` column is frame index / fps to 32-bit rounding, steps lie exactly on the declared grid
(clock ``declared``); otherwise they are the recorded ones from the first on (clock ``source``).
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from upath import UPath

from pipelines import lerobot_index, lerobot_rows, parquet_rows
from pipelines.lerobot_index import BOOKKEEPING, IndexedEpisode, Info
from pipelines.places import local_file, look_up, place
from pipelines.recordings import (
    check_unchanged,
    file_view,
    files_state,
    packed_view,
    path_inside,
    set_folders,
    spanned_instructions,
)
from pipelines.storage import state_of
from pipelines.video import VideoTools
from pipelines.video_facts import CutVideo
from pipelines.video_files import CutPart
from schemas.episode import EncodedView, EpisodeRef, Instruction, RawEpisode, Stream
from schemas.errors import CorruptEpisode, MissingFile, SourceError
from schemas.findings import Finding, Severity
from schemas.fingerprint import array_sha256, fingerprint
from schemas.recipes import Limits

_EPISODE_FILE = re.compile(r"episode_(\d{1,12})(\.parquet)?$")
_MAX_UNLISTED = 1_000_000


class LeRobotSource:
    """The ``lerobot`` source."""

    name = "lerobot"

    def datasets(self, location: str) -> list[str]:
        """Folders with a LeRobot ``meta`` folder."""
        return set_folders(location, lerobot_index.is_set)

    def refs(self, location: str) -> Sequence[EpisodeRef]:
        """One per episode, see above. Raises SourceError for a broken index."""
        root = place(location)
        info = lerobot_index.read_info(root)
        episodes = lerobot_index.read_episodes(root, info)
        look_up(root, (path for episode in episodes for path in (episode.data, *episode.videos.values())))
        absent = _absent_cameras(root, info, episodes)
        tasks, tasks_damage = _tasks(root, info)
        listed = {episode.index for episode in episodes}
        refs = [self._ref(root, info, episode, absent, (tasks, tasks_damage)) for episode in episodes]
        known = {episode.data for episode in episodes}
        promised = info.total_episodes or 0
        if promised > len(listed) + _MAX_UNLISTED:
            hint = "info.json or the list of episodes is damaged; restore the meta folder"
            message = f"total_episodes is {promised}, the index lists {len(listed)}"
            raise SourceError(message, info.path, hint, "bad_index")
        extra = {index: "" for index in range(promised) if index not in listed}
        stray: list[str] = []
        for relative in _data_files(root):
            match = None if info.is_v3 else _EPISODE_FILE.search(relative)
            number = int(match[1]) if match else -1
            if relative in known:
                continue
            if match and number not in listed and not extra.get(number) and relative.endswith(".parquet"):
                extra[number] = relative
            else:
                stray.append(relative)
        for index, relative in sorted(extra.items()):
            if not relative:
                message = f"info.json promises {promised} episodes; the index lists {len(listed)}, without this one"
                refs.append(self._broken(root, info, f"episode_{index:06d}", info.path, "not_in_index", message))
            else:
                videos = lerobot_index.v2_paths(info, index)[1]
                note = "the index does not list this episode; found by its data file"
                refs.append(
                    self._ref(
                        root, info, IndexedEpisode(index, -1, relative, (), videos), absent, (tasks, tasks_damage), note
                    )
                )
        for relative in stray:
            message = "no episode of the index belongs to this data file"
            refs.append(self._broken(root, info, f"unlisted/{relative}", relative, "not_in_index", message))
        return sorted(refs, key=lambda ref: ref.key)

    def read(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> RawEpisode:
        """The whole episode. Raises MissingFile, CorruptEpisode or DecodeError."""
        root = place(ref.location)
        if "problem" in dict(ref.details):
            hint = "restore the meta folder, or remove what does not belong to the set"
            raise CorruptEpisode(
                ref.detail("message"), f"{ref.where} ({ref.detail('file')})", hint, ref.detail("problem")
            )
        facts = json.loads(ref.detail("episode"))
        info = lerobot_index.read_info(root)
        check_unchanged(ref, [facts["data"], *facts["videos"].values()], *_index_facts(info, facts))
        return _Reading(ref, root, info, facts, limits, video).episode()

    def _ref(
        self,
        root: UPath,
        info: Info,
        episode: IndexedEpisode,
        absent: frozenset[str],
        tasks: tuple[str, str],
        note: str = "",
    ) -> EpisodeRef:
        facts: dict[str, Any] = {
            "index": episode.index,
            "length": episode.length,
            "data": episode.data,
            "tasks": episode.tasks,
            "videos": {key: path for key, path in episode.videos.items() if key not in absent},
            "starts_s": {key: start.hex() for key, start in episode.starts_s.items()},
            "rows": episode.rows,
            "absent": sorted(absent),
            "note": note,
            "tasks_damage": tasks[1],
            # an episode of one task has its text in its own entry
            "tasks_table": "" if len(episode.tasks) == 1 else tasks[0],
        }
        return EpisodeRef(
            source=self.name,
            location=str(root),
            dataset=root.name,
            version=info.version,
            split=info.split(episode.index),
            key=f"episode_{episode.index:06d}",
            state=files_state(root, [episode.data, *facts["videos"].values()], *_index_facts(info, facts)),
            num_bytes=_estimate(root, info, episode),
            details=(("episode", json.dumps(facts, sort_keys=True)),),
        )

    def _broken(self, root: UPath, info: Info, key: str, file: str, problem: str, message: str) -> EpisodeRef:
        return EpisodeRef(
            source=self.name,
            location=str(root),
            dataset=root.name,
            version=info.version,
            split="",
            key=key,
            state=files_state(root, [file, "meta/info.json"]),
            num_bytes=0,
            details=(("file", file), ("message", message), ("problem", problem)),
        )


def _absent_cameras(root: UPath, info: Info, episodes: Sequence[IndexedEpisode]) -> frozenset[str]:
    """Declared video cameras without a single file in the set, where other cameras have pictures.

    Where none has any, all count as declared and present, so that every episode fails with ``missing_file``.
    """
    with_files: set[str] = set()
    cameras = info.keys("video")
    for episode in episodes:
        for key in cameras:
            path = episode.videos.get(key)
            if key not in with_files and path is not None and _size(root, path) is not None:
                with_files.add(key)
        if len(with_files) == len(cameras):
            break
    if not with_files and not info.keys("image"):
        return frozenset()
    return frozenset(cameras) - with_files


def _index_facts(info: Info, facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the index says that concerns one episode: its own entry, and what info.json says of all, totals left out."""
    shared = (info.version, info.fps, info.robot_type, info.chunks_size, info.data_path, info.video_path, info.features)
    return (facts, shared, info.split(facts["index"]))


def _tasks(root: UPath, info: Info) -> tuple[str, str]:
    """Fingerprint of the table of tasks, and what is wrong with it. Only episodes that need it fail for it."""
    try:
        return fingerprint(lerobot_index.read_tasks(root, info)), ""
    except SourceError as error:
        return "", f"{error.where}: {error.message}"


def _data_files(root: UPath) -> list[str]:
    """Files under ``data`` that are Parquet by name or by their first four bytes."""
    found: list[str] = []
    for path in sorted((root / "data").rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix == ".parquet":
            found.append(path.relative_to(root).as_posix())
        elif not path.suffix:
            with path.open("rb") as file:
                if file.read(4) == b"PAR1":
                    found.append(path.relative_to(root).as_posix())
    return found


def _estimate(root: UPath, info: Info, episode: IndexedEpisode) -> int:
    """Bytes of the episode's own files (v2), or a guess from its length where it shares them (v3)."""
    if info.is_v3:
        return episode.length * 2000 * (1 + len(episode.videos))
    return sum(_size(root, path) or 0 for path in (episode.data, *episode.videos.values()))


def _size(root: UPath, relative: str) -> int | None:
    """Bytes of a file the index names; None where it is not there."""
    size = state_of(root, [relative])[0][1]
    return None if size < 0 else size


class _Reading:
    """One episode taken apart."""

    def __init__(
        self, ref: EpisodeRef, root: UPath, info: Info, facts: dict, limits: Limits, video: VideoTools
    ) -> None:
        self._ref = ref
        self._root = root
        self._info = info
        self._facts = facts
        self._limits = limits
        self._video = video
        self._where = ref.where
        self._findings: list[Finding] = []
        self._hashes: list[str] = []

    def episode(self) -> RawEpisode:
        for key in self._facts["absent"]:
            message = f"{key} is declared, but no episode of the set has a file for it"
            self._findings.append(Finding("declared_camera_without_files", Severity.WARNING, key, message))
        if self._facts["tasks_damage"]:
            self._findings.append(
                Finding("damaged_tasks", Severity.WARNING, "tasks", self._facts["tasks_damage"][:500])
            )
        if self._facts["note"]:
            self._findings.append(Finding("not_in_index", Severity.WARNING, self._ref.key, self._facts["note"]))
        for relative in (self._facts["data"], *self._facts["videos"].values()):
            self._existing(relative)  # before any work on the others
        table = self._table()
        arrays, texts, images = self._columns(table)
        times_ns, clock = lerobot_rows.step_times(arrays, table.num_rows, self._info.fps, self._where)
        streams = tuple(
            Stream(name, values, times_ns, clock) for name, values in sorted(arrays.items()) if name not in BOOKKEEPING
        )
        self._compare_shapes(streams)
        views = [packed_view(name, images[name], times_ns, self._video, self._where) for name in sorted(images)]
        cameras = sorted(self._facts["videos"].items())
        if self._info.is_v3:
            views += self._cut_cameras(cameras, table.num_rows)
        else:
            views += [self._camera(key, path) for key, path in cameras]
        missing = set(self._info.keys("video")) - set(self._facts["videos"]) - set(self._facts["absent"])
        if missing:
            message = f"the index says nothing of the video of {', '.join(sorted(missing))}"
            raise MissingFile(message, self._where, "restore meta/episodes from the original data set")
        if self._info.is_v3:
            rows = sorted(
                (name, values.dtype.str, values.shape, array_sha256(values)) for name, values in arrays.items()
            )
            self._hashes = [fingerprint(rows, sorted(texts.items()))]
            self._hashes += [view.packets_sha256 for view in sorted(views, key=lambda view: view.key)]
        return RawEpisode(
            ref=self._ref,
            streams=streams,
            views=tuple(sorted(views, key=lambda view: view.key)),
            instructions=tuple(self._instructions(arrays, texts, times_ns)),
            declared_rate=self._info.fps,
            source_sha256=fingerprint("lerobot-1", self._hashes),
            robot_type=self._info.robot_type,
            attributes=(("codebase_version", self._info.version), ("episode_index", self._facts["index"])),
            findings=tuple(self._findings),
            column_names=tuple((stream.name, self._info.column_names(stream.name)) for stream in streams),
        )

    def _existing(self, relative: str) -> UPath:
        path = path_inside(self._root, relative, self._where)
        if not path.is_file():
            bare = path.with_suffix("")
            near = f"{bare.name} without suffix lies in its place" if bare.is_file() else "fetch it from the original"
            raise MissingFile(f"{relative} is missing", self._where, near)
        return path

    def _table(self) -> pa.Table:
        """The rows of the episode, counted against the index."""
        path = self._existing(self._facts["data"])
        where = f"{self._facts['data']} ({self._where})"
        if self._info.is_v3:
            span = tuple(self._facts["rows"]) if self._facts["rows"] else None
            return parquet_rows.read_episode(
                path, self._facts["index"], self._facts["length"], span, self._limits, where
            )
        table, digest = parquet_rows.read_file(path, self._limits, where)
        self._hashes.append(digest)
        length = self._facts["length"]
        if length >= 0 and table.num_rows != length:
            message = f"meta/episodes.jsonl says {length} rows, the data file holds {table.num_rows}"
            raise CorruptEpisode(message, where, "fetch data and meta of the same version", "length_mismatch")
        return table

    def _columns(self, table: pa.Table) -> tuple[dict[str, np.ndarray], dict[str, list[str]], dict[str, list[bytes]]]:
        """Numbers, texts and pictures by column; other columns give a finding."""
        if table.num_rows == 0:
            raise CorruptEpisode("the episode has no rows", self._where, "leave it out of the data set", "empty")
        videos = set(self._info.keys("video"))
        found = lerobot_rows.sort_columns(table, self._info.keys("image"), self._root, self._limits, self._where)
        self._findings += found.findings
        wanted = set(self._info.features) - videos - set(BOOKKEEPING)
        for name in sorted(wanted - set(table.column_names)):
            if self._info.features[name].get("dtype") == "language":  # optional columns, written only when used
                continue
            message = f"info.json declares {name}, the data file has no such column"
            raise CorruptEpisode(message, self._where, "fetch data and meta of the same version", "missing_column")
        for name in sorted(set(table.column_names) - set(self._info.features)):
            message = f"info.json does not declare the column {name}; read as found"
            self._findings.append(Finding("undeclared_column", Severity.INFO, name, message))
        return found.numbers, found.texts, found.images

    def _compare_shapes(self, streams: Sequence[Stream]) -> None:
        for stream in streams:
            feature = self._info.features.get(stream.name, {})
            declared = feature.get("shape")
            if "float" in str(feature.get("dtype")) and stream.values.dtype.kind != "f":
                message = (
                    f"info.json declares {feature['dtype']} for {stream.name}, the data file has {stream.values.dtype}"
                )
                self._findings.append(Finding("dtype_not_as_declared", Severity.WARNING, stream.name, message))
            if not isinstance(declared, list) or not all(isinstance(size, int) for size in declared):
                continue
            expected = int(np.prod(declared, dtype=np.int64))
            found = int(np.prod(stream.values.shape[1:], dtype=np.int64))
            if expected != found:
                message = f"info.json declares {expected} numbers per row for {stream.name}, the data file has {found}"
                raise CorruptEpisode(message, self._where, "fetch data and meta of the same version", "wrong_shape")

    def _camera(self, key: str, relative: str) -> EncodedView:
        """A video file of its own."""
        path = self._existing(relative)
        view, digest = file_view(key, path, self._video, self._limits, f"{relative} ({self._where})")
        self._hashes.append(digest)
        return view

    def _cut_cameras(self, cameras: Sequence[tuple[str, str]], num_rows: int) -> list[EncodedView]:
        """The episode's part of each shared video file."""
        parts = [
            CutPart(
                str(local_file(self._existing(relative))),
                float.fromhex(self._facts["starts_s"][key]),
                num_rows,
                f"{relative} ({self._where})",
            )
            for key, relative in cameras
        ]
        return [_cut_view(key, cut, num_rows) for (key, _), cut in zip(cameras, self._video.cuts(parts), strict=True)]

    def _instructions(
        self, arrays: dict[str, np.ndarray], texts: dict[str, list[str]], times_ns: np.ndarray
    ) -> list[Instruction]:
        """Tasks with spans where ``task_index`` changes, then tasks of the index no row points to, then text columns."""
        found: list[Instruction] = []
        tasks = list(self._facts["tasks"])
        numbers = arrays.get("task_index")
        if numbers is not None and (not tasks or len(np.unique(numbers)) > 1):
            table = lerobot_index.read_tasks(self._root, self._info)
            per_row = numbers.reshape(-1).astype(np.int64).tolist()
            unknown = sorted(set(per_row) - set(table))
            if unknown:
                message = f"task_index {unknown[0]} is not in the table of tasks"
                self._findings.append(Finding("unknown_task", Severity.WARNING, "task_index", message))
            found += spanned_instructions([table.get(number, "") for number in per_row], "task", times_ns)
            found = [instruction for instruction in found if instruction.text]
        said = {instruction.text for instruction in found}
        found += [Instruction(text, "task") for text in tasks if text not in said]
        for name in sorted(texts):
            found += spanned_instructions(texts[name], name, times_ns)
        return found


def _cut_view(key: str, cut: CutVideo, num_rows: int) -> EncodedView:
    facts, first = cut.facts, cut.first_frame
    times_ns = facts.times_ns[first : first + num_rows]
    return EncodedView(
        key,
        facts.codec,
        facts.container,
        cut.data,
        facts.width_px,
        facts.height_px,
        times_ns - times_ns[:1],
        facts.packets_sha256,
        "cut",
        first,
        cut.sha256,
    )


SOURCE = LeRobotSource()
