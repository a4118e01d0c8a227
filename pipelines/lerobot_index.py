"""The index of a LeRobot set (``meta/``): info.json, tasks and episodes of v2.0, v2.1 and v3.0, and where files lie.

Paths come from templates in the data. They are filled in here, with the placeholders LeRobot knows and nothing else,
and never by ``str.format``, which would let a template read attributes of the values.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from pipelines.places import lists
from pipelines.recordings import MAX_JSON_BYTES, read_json
from pipelines.storage import inside
from schemas.errors import RecipeError, SourceError
from schemas.time import parse_rate

VERSIONS = ("v2.0", "v2.1", "v3.0")
BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_META_HINT = "restore the meta folder from the original data set"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)(?::0?(\d{1,2})d)?\}")
_PLACEHOLDERS = ("episode_chunk", "episode_index", "video_key", "chunk_index", "file_index")
_DATA_V2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEO_V2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_DATA_V3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@dataclass(frozen=True, slots=True)
class Info:
    """``meta/info.json``, checked."""

    path: str
    version: str
    fps: Fraction
    robot_type: str
    chunks_size: int
    data_path: str
    video_path: str
    features: Mapping[str, Mapping[str, Any]]
    splits: tuple[tuple[str, int, int], ...]
    total_episodes: int | None

    @property
    def is_v3(self) -> bool:
        """Whether many episodes share a file."""
        return self.version == "v3.0"

    def keys(self, dtype: str) -> list[str]:
        """Names of the features of that dtype, such as ``video`` or ``image``, sorted."""
        return sorted(key for key, feature in self.features.items() if feature.get("dtype") == dtype)

    def column_names(self, key: str) -> tuple[str, ...]:
        """Names of the columns of a feature, out of a list, a nested list or a table of lists; () where it has none."""
        names = self.features.get(key, {}).get("names")
        while isinstance(names, dict) and len(names) == 1:
            names = next(iter(names.values()))
        while isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
            names = names[0]
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def split(self, episode: int) -> str:
        """The split an episode belongs to; ``train`` where the set has none (as LeRobot does), ``""`` if in none."""
        if not self.splits:
            return "train"
        return next((name for name, start, stop in self.splits if start <= episode < stop), "")


@dataclass(frozen=True, slots=True)
class IndexedEpisode:
    """What the index says of one episode. Paths are relative to the root."""

    index: int
    length: int
    data: str
    tasks: tuple[str, ...]
    videos: Mapping[str, str] = field(default_factory=dict)
    """By camera key."""
    starts_s: Mapping[str, float] = field(default_factory=dict)
    """v3: where the episode begins in its video, in seconds."""
    rows: tuple[int, int] | None = None
    """v3: first row and end in the whole set."""


def is_set(folder: UPath) -> bool:
    """Whether ``folder`` holds a set of version 2 or 3, by its ``meta``."""
    marks = ("info.json", "episodes.jsonl", "tasks.jsonl", "tasks.parquet", "episodes")
    return any((folder / "meta" / mark).exists() for mark in marks)


def is_v1_set(folder: UPath) -> bool:
    """Whether ``folder`` holds a set of version 1, by its ``meta_data``; one that was converted has both, and is none."""
    marks = ("info.json", "episode_data_index.safetensors")
    return any((folder / "meta_data" / mark).exists() for mark in marks) and not is_set(folder)


def read_info(root: UPath) -> Info:
    """Raises SourceError naming file and mend where info.json is missing, torn, of unknown version or hostile."""
    path = root / "meta" / "info.json"
    info = read_json(path, _META_HINT)
    version = str(info.get("codebase_version", "")).strip()
    if version not in VERSIONS:
        found = f"codebase_version is {version!r}" if version else "codebase_version is missing"
        raise SourceError(found[:200], str(path), f"known versions: {', '.join(VERSIONS)}", "unknown_version")

    def wrong(what: str) -> SourceError:
        return SourceError(what[:300], str(path), _META_HINT, "bad_index")

    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise wrong("features is not a table of features")
    try:
        fps = parse_rate("" if isinstance(info.get("fps"), bool) else info.get("fps", 0))
    except RecipeError as error:
        raise wrong(f"fps: {error.message}") from error
    chunks_size = 1000 if info.get("chunks_size") is None else info["chunks_size"]
    total = info.get("total_episodes")
    if not isinstance(chunks_size, int) or isinstance(chunks_size, bool) or chunks_size < 1:
        raise wrong(f"chunks_size is {chunks_size!r}")
    if total is not None and (not isinstance(total, int) or isinstance(total, bool) or total < 0):
        raise wrong(f"total_episodes is {total!r}")
    is_v3 = version == "v3.0"
    data_path = info.get("data_path") or (_DATA_V3 if is_v3 else _DATA_V2)
    video_path = info.get("video_path") or (_VIDEO_V3 if is_v3 else _VIDEO_V2)
    for label, template in (("data_path", data_path), ("video_path", video_path)):
        rest = _PLACEHOLDER.sub("", template) if isinstance(template, str) else "{"
        unknown = [m[1] for m in _PLACEHOLDER.finditer(str(template)) if m[1] not in _PLACEHOLDERS]
        if unknown or "{" in rest or "}" in rest:
            hint = f"placeholders may be {', '.join(_PLACEHOLDERS)}, with integer formats"
            raise SourceError(f"{label} is {template!r}"[:300], str(path), hint, "bad_template")
        inside(root, _PLACEHOLDER.sub("0", template))  # a template that leaves the root stops the whole set
    return Info(
        str(path),
        version,
        fps,
        str(info.get("robot_type") or ""),
        chunks_size,
        data_path,
        video_path,
        features,
        _splits(info.get("splits")),
        total,
    )


def _splits(value: Any) -> tuple[tuple[str, int, int], ...]:
    """(name, first, end) of each split written ``"0:80"``; anything else is passed over, as LeRobot does."""
    found: list[tuple[str, int, int]] = []
    for name, span in value.items() if isinstance(value, dict) else ():
        match = re.fullmatch(r"\s*(\d{1,12})\s*:\s*(\d{1,12})\s*", span) if isinstance(span, str) else None
        if match:
            found.append((str(name), int(match[1]), int(match[2])))
    return tuple(found)


def fill(template: str, values: Mapping[str, int | str]) -> str:
    """``template`` with its placeholders replaced; ``{x:03d}`` pads integers with zeros."""

    def one(match: re.Match[str]) -> str:
        value = values[match[1]]
        return f"{value:0{int(match[2])}d}" if match[2] and isinstance(value, int) else str(value)

    return _PLACEHOLDER.sub(one, template)


def v2_paths(info: Info, episode: int) -> tuple[str, dict[str, str]]:
    """Data file and video file per camera of an episode. ``{chunk_index}`` (a v3 name) means the episode's chunk."""
    chunk = episode // info.chunks_size
    values: dict[str, int | str] = {
        "episode_chunk": chunk,
        "chunk_index": chunk,
        "episode_index": episode,
        "file_index": episode,
        "video_key": "",
    }
    videos = {key: fill(info.video_path, {**values, "video_key": key}) for key in info.keys("video")}
    return fill(info.data_path, values), videos


def read_episodes(root: UPath, info: Info) -> list[IndexedEpisode]:
    """Every episode of the index, by its number. Raises SourceError naming file and line or column."""
    rows = _episodes_v3(root, info) if info.is_v3 else _episodes_v2(root, info)
    episodes = sorted(rows, key=lambda episode: episode.index)
    for before, after in itertools.pairwise(episodes):
        if before.index == after.index:
            raise SourceError(
                f"the index lists episode {after.index} twice", str(root / "meta"), "remove one of them", "bad_index"
            )
    return episodes


def _episodes_v2(root: UPath, info: Info) -> Iterator[IndexedEpisode]:
    path = root / "meta" / "episodes.jsonl"
    for number, row in _json_lines(path):
        try:
            index, length, tasks = _count(row, "episode_index"), _count(row, "length"), _texts(row.get("tasks"))
        except (KeyError, ValueError) as error:
            message = f"line {number} is not understood: {error!r}"
            raise SourceError(message[:300], str(path), _META_HINT, "bad_index") from error
        data, videos = v2_paths(info, index)
        yield IndexedEpisode(index, length, data, tasks, videos)


def _episodes_v3(root: UPath, info: Info) -> Iterator[IndexedEpisode]:
    folder = root / "meta" / "episodes"
    files = sorted(folder.rglob("*.parquet") if lists(root) else _numbered(folder))
    if not files:
        raise SourceError("meta/episodes holds no Parquet file", str(folder), _META_HINT, "missing_index")
    cameras = info.keys("video")
    for path in files:
        for row in _parquet_rows(path, leave_out="stats/"):
            # early writers used data_chunk_index, and doubles for whole numbers
            row |= {f"data/{k}": row[f"data_{k}"] for k in ("chunk_index", "file_index") if f"data_{k}" in row}
            try:
                index, length = _count(row, "episode_index"), _count(row, "length")
                chunk, file = _count(row, "data/chunk_index"), _count(row, "data/file_index")
                tasks = _texts(row.get("tasks"))
                span = None
                if row.get("dataset_from_index") is not None and row.get("dataset_to_index") is not None:
                    span = (_count(row, "dataset_from_index"), _count(row, "dataset_to_index"))
                videos: dict[str, str] = {}
                starts: dict[str, float] = {}
                for key in cameras:
                    if row.get(f"videos/{key}/file_index") is None:
                        continue
                    place = {
                        "chunk_index": _count(row, f"videos/{key}/chunk_index"),
                        "file_index": _count(row, f"videos/{key}/file_index"),
                    }
                    videos[key] = fill(info.video_path, _v3_values(index, info, key, place))
                    starts[key] = float(row[f"videos/{key}/from_timestamp"])
            except (KeyError, TypeError, ValueError) as error:
                message = f"the row of episode {row.get('episode_index')} is not understood: {error!r}"
                raise SourceError(message[:300], str(path), _META_HINT, "bad_index") from error
            data = fill(info.data_path, _v3_values(index, info, "", {"chunk_index": chunk, "file_index": file}))
            yield IndexedEpisode(index, length, data, tasks, videos, starts, span)


def _numbered(folder: UPath) -> Iterator[UPath]:
    """The files of a folder that cannot be listed, by the numbers that LeRobot gives them in turn."""
    for chunk in itertools.count():
        names = (folder / f"chunk-{chunk:03d}" / f"file-{file:03d}.parquet" for file in itertools.count())
        found = list(itertools.takewhile(UPath.is_file, names))
        if not found:
            return
        yield from found


def _v3_values(episode: int, info: Info, key: str, place: Mapping[str, int]) -> dict[str, int | str]:
    return {
        "episode_index": episode,
        "episode_chunk": episode // info.chunks_size,
        "video_key": key,
        **place,
    }


def read_tasks(root: UPath, info: Info) -> dict[int, str]:
    """Task texts by task index; {} where the set has no table of tasks. Raises SourceError for a damaged one."""
    tasks: dict[int, str] = {}
    if info.is_v3:
        path = root / "meta" / "tasks.parquet"
        for row in _parquet_rows(path) if path.exists() else ():
            texts = [value for name, value in row.items() if name != "task_index" and isinstance(value, str)]
            text = row.get("task", row.get("__index_level_0__", texts[0] if texts else None))
            tasks[_task_number(row, path)] = _task_text(text, path)
        return tasks
    path = root / "meta" / "tasks.jsonl"
    for _, row in _json_lines(path) if path.exists() else ():
        tasks[_task_number(row, path)] = _task_text(row.get("task"), path)
    return tasks


def _task_text(value: Any, path: UPath) -> str:
    if value is not None and not isinstance(value, str):
        raise SourceError(f"a task is {value!r}, not a text"[:300], str(path), _META_HINT, "bad_index")
    return value or ""


def _task_number(row: Mapping[str, Any], path: UPath) -> int:
    try:
        return _count(row, "task_index")
    except (KeyError, ValueError) as error:
        raise SourceError(f"a task is not understood: {error!r}"[:300], str(path), _META_HINT, "bad_index") from error


def _json_lines(path: UPath) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank."""
    try:
        size = path.stat().st_size
        if not 0 < size <= MAX_JSON_BYTES:
            raise SourceError(
                "the file is empty" if not size else "the file is too large", str(path), _META_HINT, "bad_index"
            )
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise SourceError("the file is missing", str(path), _META_HINT, "missing_index") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot be read: {error}"[:300], str(path), _META_HINT, "bad_index") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"line {number} is not valid JSON: {error}", str(path), _META_HINT, "bad_index"
            ) from error
        if not isinstance(row, dict):
            raise SourceError(f"line {number} is not an object", str(path), _META_HINT, "bad_index")
        yield number, row


def _parquet_rows(path: UPath, leave_out: str = "\0") -> Iterator[dict[str, Any]]:
    try:
        if not 0 < path.stat().st_size <= MAX_JSON_BYTES:
            raise SourceError("the file is empty or too large", str(path), _META_HINT, "bad_index")
        source = path if isinstance(path, Path) else pa.BufferReader(path.read_bytes())
        file = pq.ParquetFile(source, page_checksum_verification=True)
        names = [name for name in file.schema_arrow.names if not name.startswith(leave_out)]
        for batch in file.iter_batches(batch_size=1024, columns=names):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"not a readable Parquet file: {error}"[:300], str(path), _META_HINT, "bad_index") from error


def _is_count(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 53 and value == int(value)
    )


def _count(row: Mapping[str, Any], name: str) -> int:
    value = row[name]
    if not _is_count(value):
        raise ValueError(f"{name} is {value!r}")
    return int(value)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    texts = value if isinstance(value, list) else []
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError(f"tasks is {value!r}")
    return tuple(text or "" for text in texts)
