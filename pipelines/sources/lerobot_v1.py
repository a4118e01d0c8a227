"""LeRobot sets of version 1 (to v1.6): one table of all rows, ``meta_data/info.json`` and an index of first and last rows.

The table is ``train/*.arrow`` as ``datasets`` saves it, or ``data/train-*.parquet`` as the hub keeps it. What comes out short
is told: rows that lie between two episodes of the index are listed and fail; rows behind its last one give a finding.

Times are those of ``timestamp``, as in ``lerobot``. A column of {path, timestamp} is a camera: each row names a moment of a
video. Where every row names the frame that stands in its place, that frame has the time of its row; otherwise frames keep
the times of their file, counted from the frame that the first row names, and a finding says where the two disagree.
"""

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors
from upath import UPath

from pipelines import lerobot_index, lerobot_rows, parquet_rows
from pipelines.lerobot_index import BOOKKEEPING
from pipelines.places import lists, place
from pipelines.recordings import (
    MAX_JSON_BYTES,
    file_view,
    files_state,
    packed_view,
    path_inside,
    read_json,
    set_folders,
    spanned_instructions,
)
from pipelines.resample import nearest_at_or_before
from pipelines.storage import inside, state_of
from pipelines.table_shards import open_table
from pipelines.video import VideoTools
from schemas.episode import EncodedView, EpisodeRef, Instruction, RawEpisode, Scalar, Stream
from schemas.errors import CorruptEpisode, MissingFile, RecipeError, SourceError
from schemas.findings import Finding, Severity
from schemas.fingerprint import array_sha256, fingerprint
from schemas.recipes import Limits
from schemas.time import NANOSECONDS, parse_rate

_INFO = "meta_data/info.json"
_INDEX = "meta_data/episode_data_index.safetensors"
_SAVED = "train/state.json"
_HINT = "restore meta_data from the original data set"
_SHARD = re.compile(r"(.*-)(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?\.(arrow|parquet)$")
_FILM = re.compile(r".+_episode_(\d{1,12})\.mp4$")
_VERSION = re.compile(r"v1(\.\d{1,3})?$")
_PRINTED = re.compile(r"tf\.Tensor\(b['\"].*, shape=\(\), dtype=string\)$", re.DOTALL)
_MAX_EPISODES = 10_000_000


class LeRobotV1Source:
    """The ``lerobot_v1`` source."""

    name = "lerobot_v1"

    def datasets(self, location: str) -> list[str]:
        """Folders with a LeRobot ``meta_data`` folder and no ``meta``."""
        return set_folders(location, lerobot_index.is_v1_set)

    def refs(self, location: str) -> Sequence[EpisodeRef]:
        """One per entry of the index, and one per span of rows that it leaves out. Raises SourceError for a broken index."""
        root = place(location)
        info = _Info(root)
        starts, stops = _index(root)
        shards = _shards(root)
        films = _films(root)
        sizes = [max(size, 0) for _, size, _ in state_of(root, shards)]
        row_bytes = sum(sizes) / max(stops[-1] if stops else 0, 1)
        shared = files_state(root, shards, info.facts)
        refs: list[EpisodeRef] = []

        def add(key: str, start: int, stop: int, videos: Sequence[str], **facts: Any) -> None:
            facts |= {"start": start, "stop": stop, "shards": shards, "videos": videos}
            film_bytes = sum(max(size, 0) for _, size, _ in state_of(root, videos))
            refs.append(
                EpisodeRef(
                    source=self.name,
                    location=str(root),
                    dataset=root.name,
                    version=info.version,
                    split="train",
                    key=key,
                    state=files_state(root, videos, shared, facts),
                    num_bytes=int(row_bytes * (stop - start)) + film_bytes,
                    details=(("episode", json.dumps(facts, sort_keys=True)),),
                )
            )

        for index, (before, start, stop) in enumerate(zip([0, *stops], starts, stops, strict=False)):
            if before < start:
                message = f"rows {before} to {start} of the table belong to no episode of the index"
                add(f"unlisted/rows_{before:09d}_{start:09d}", before, start, (), problem=message)
            add(f"episode_{index:06d}", start, stop, films[index], is_last=index == len(starts) - 1)
        return sorted(refs, key=lambda ref: ref.key)

    def read(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> RawEpisode:
        """The whole episode. Raises MissingFile, CorruptEpisode or DecodeError."""
        root = place(ref.location)
        facts = json.loads(ref.detail("episode"))
        if "problem" in facts:
            raise CorruptEpisode(facts["problem"], f"{_INDEX} ({ref.where})", _HINT, "not_in_index")
        info = _Info(root)
        if files_state(root, facts["videos"], files_state(root, facts["shards"], info.facts), facts) != ref.state:
            message = "its files changed after they were listed"
            raise CorruptEpisode(message, ref.where, "run the same command again", "changed_while_reading")
        return _Reading(ref, root, info, facts, limits, video).episode()


class _Info:
    """``meta_data/info.json``, checked. Raises SourceError."""

    def __init__(self, root: UPath) -> None:
        path = root / _INFO
        told = read_json(path, _HINT)
        # sets of versions before v1.6 do not say which one they are of
        version = str(told.get("codebase_version") or "v1")
        if not _VERSION.match(version):
            hint = "LeRobot writes the indices of its later versions into a folder named meta"
            raise SourceError(f"codebase_version is {version!r}"[:200], str(path), hint, "unknown_version")
        try:
            self.fps: Fraction = parse_rate("" if isinstance(told.get("fps"), bool) else told.get("fps", 0))
        except RecipeError as error:
            raise SourceError(f"fps: {error.message}"[:300], str(path), _HINT, "bad_index") from error
        self.version = version
        encoding = told.get("encoding")
        self.encoding: list[tuple[str, Scalar]] = [
            (f"encoding/{name}"[:100], value[:200] if isinstance(value, str) else value)
            for name, value in sorted(encoding.items() if isinstance(encoding, dict) else ())
            if isinstance(value, str | int | float)
        ]
        self.facts = (version, self.fps, self.encoding)


def _index(root: UPath) -> tuple[list[int], list[int]]:
    """First row and end of each episode. Raises SourceError where the file is damaged or the rows do not rise."""
    path = root / _INDEX

    def wrong(message: str) -> SourceError:
        return SourceError(message[:300], str(path), _HINT, "bad_index")

    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise wrong("the file is too large")
        columns = dict(safetensors.deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    except FileNotFoundError as error:
        raise SourceError("the file is missing", str(path), _HINT, "missing_index") from error
    except (OSError, safetensors.SafetensorError) as error:
        raise wrong(f"not a readable safetensors file: {error}") from error
    found: list[list[int]] = []
    for name in ("from", "to"):
        column = columns.get(name, {"dtype": "none", "shape": []})
        length = column["shape"][0] if len(column["shape"]) == 1 else -1
        # an index of no episode is an empty column of floats
        if length < 0 or length > _MAX_EPISODES or (length and column["dtype"] != "I64"):
            raise wrong(f"{name!r} is no column of whole numbers but {column['dtype']} {column['shape']}")
        found.append(np.frombuffer(column["data"], "<i8").tolist() if length else [])
    starts, stops = found
    if len(starts) != len(stops):
        raise wrong(f"'from' has {len(starts)} entries, 'to' {len(stops)}")
    for index, (before, start, stop) in enumerate(zip([0, *stops], starts, stops, strict=False)):
        if not before <= start <= stop:
            raise wrong(
                f"the rows of episode {index} ({start} to {stop}) do not rise from {before}, where the last ends"
            )
    return starts, stops


def _shards(root: UPath) -> list[str]:
    """The files of the table in order. One that a name in a row of numbered names implies is listed, there or not."""
    if (root / _SAVED).is_file():
        told = read_json(root / _SAVED, "restore the folder train").get("_data_files")
        entries = told if isinstance(told, list) else []
        names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
        texts = [f"train/{name}" for name in names if isinstance(name, str)]
        if not texts or len(texts) != len(entries):
            raise SourceError("it names no data files", str(root / _SAVED), "restore the folder train", "bad_index")
        for text in texts:
            inside(root, text)
        return texts
    found: list[str] = []
    for pattern in ("train/data-*.arrow", "train/dataset.arrow", "data/*.parquet") if lists(root) else ():
        found = found or sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))
    if not found:
        message = "there is neither train/state.json nor train/*.arrow nor data/*.parquet"
        raise SourceError(message, str(root), "fetch the table of rows too", "missing_index")
    numbered = [_SHARD.match(name) for name in found]
    by_number = {int(match[2]): name for match, name in zip(numbered, found, strict=True) if match}
    first = numbered[0]
    if first is None or len(by_number) != len(found):
        return found
    return [
        by_number.get(number, f"{first[1]}{number:05d}-of-{first[3]}.{first[4]}")
        for number in range(max(int(first[3]), *by_number, 0))
    ]


def _films(root: UPath) -> Mapping[int, list[str]]:
    """The videos by episode, as LeRobot names them: ``videos/<camera>_episode_000000.mp4``."""
    films: dict[int, list[str]] = defaultdict(list)
    folder = root / "videos"
    for path in sorted(folder.iterdir()) if lists(root) and folder.is_dir() else ():
        if match := _FILM.match(path.name):
            films[int(match[1])].append(f"videos/{path.name}")
    return films


def _names_frames(kind: pa.DataType) -> bool:
    """Whether a column is LeRobot's ``VideoFrame``: struct of ``path`` and ``timestamp``."""
    return bool(
        pa.types.is_struct(kind)
        and {field.name for field in kind} == {"path", "timestamp"}
        and parquet_rows.holds_text(kind.field("path").type)
        and pa.types.is_floating(kind.field("timestamp").type)
    )


class _Reading:
    """One episode taken apart."""

    def __init__(
        self, ref: EpisodeRef, root: UPath, info: _Info, facts: dict, limits: Limits, video: VideoTools
    ) -> None:
        self._ref = ref
        self._root = root
        self._info = info
        self._facts = facts
        self._limits = limits
        self._video = video
        self._where = ref.where
        self._findings: list[Finding] = []

    def episode(self) -> RawEpisode:
        table = self._table()
        cameras = [name for name in table.column_names if _names_frames(table.schema.field(name).type)]
        films = {name: self._film(table[name], name) for name in cameras}  # before any work on the others
        columns = lerobot_rows.sort_columns(table.drop_columns(cameras), (), self._root, self._limits, self._where)
        self._findings += columns.findings
        # copied, since a mapped file may be replaced while the episode is still in hand
        arrays = {name: np.array(values) for name, values in columns.numbers.items()}
        times_ns, clock = lerobot_rows.step_times(arrays, table.num_rows, self._info.fps, self._where)
        views = [packed_view(name, columns.images[name], times_ns, self._video, self._where) for name in columns.images]
        views += [self._camera(name, *films[name], times_ns) for name in cameras]
        views.sort(key=lambda view: view.key)
        rows = sorted((name, values.dtype.str, values.shape, array_sha256(values)) for name, values in arrays.items())
        hashes = [fingerprint(rows, sorted(columns.texts.items())), *(view.packets_sha256 for view in views)]
        attributes: list[tuple[str, Scalar]] = [("codebase_version", self._info.version), *self._info.encoding]
        if "episode_index" in arrays:
            attributes.append(("episode_index", int(arrays["episode_index"].flat[0])))
        return RawEpisode(
            ref=self._ref,
            streams=tuple(
                Stream(name, values, times_ns, clock)
                for name, values in sorted(arrays.items())
                if name not in BOOKKEEPING
            ),
            views=tuple(views),
            instructions=tuple(self._instructions(columns.texts, times_ns)),
            declared_rate=self._info.fps,
            source_sha256=fingerprint("lerobot_v1-1", hashes),
            attributes=tuple(attributes),
            findings=tuple(self._findings),
        )

    def _table(self) -> pa.Table:
        """The rows of the episode, which their own numbers must say to be all of it and of no other."""
        start, stop = self._facts["start"], self._facts["stop"]
        if stop <= start:
            raise CorruptEpisode("the episode has no rows", self._where, "leave it out of the data set", "empty")
        shards = open_table(self._root, self._facts["shards"], self._limits)
        table = shards.rows(start, stop, self._where)
        low, high = max(start - 1, 0), min(stop + 1, shards.num_rows)
        around = shards.rows(low, high, self._where, ["episode_index"])
        owners = self._counter(around, "episode_index")
        mine = owners[start - low : stop - low]
        hint = "fetch data and meta_data of the same version"
        if (mine != mine[0]).any() or np.count_nonzero(owners == mine[0]) != stop - start:
            message = f"the index says rows {start} to {stop}, but episode {mine[0]} does not begin and end there"
            raise CorruptEpisode(message, self._where, hint, "length_mismatch")
        if "index" in table.column_names:
            counter = self._counter(table, "index")
            if counter[0] != start or counter[-1] != stop - 1:
                message = (
                    f"the index says rows {start} to {stop}, they say {counter[0]} to {counter[-1] + 1} themselves"
                )
                raise CorruptEpisode(message, self._where, hint, "length_mismatch")
        if self._facts["is_last"] and shards.num_rows > stop:
            message = f"the index ends at row {stop}, the table has {shards.num_rows}"
            numbers = (("num_rows", float(shards.num_rows - stop)),)
            self._findings.append(Finding("rows_not_in_index", Severity.WARNING, "table", message, None, numbers))
        return table

    def _counter(self, table: pa.Table, name: str) -> np.ndarray:
        """[T] of a column of one number per row."""
        where = f"column {name} ({self._where})"
        if not parquet_rows.holds_numbers(table[name].type):
            raise CorruptEpisode(f"it is {table[name].type}", where, "fetch the data file again", "wrong_shape")
        return lerobot_rows.flat(parquet_rows.numbers(table[name], where), where)

    def _film(self, column: pa.ChunkedArray, key: str) -> tuple[UPath, str, np.ndarray]:
        """The video of a camera, its name, and the moment of it that each row names, in seconds [T]."""
        parts = column.combine_chunks().flatten()  # a struct that is null has fields that are null
        fields = {column.type.field(number).name: part for number, part in enumerate(parts)}
        names = fields["path"].unique().to_pylist()
        where = f"column {key} ({self._where})"
        if names[0] is None or len(names) != 1:
            message = f"its rows name {len(names)} videos, not one" if len(names) > 1 else "its rows name no video"
            raise CorruptEpisode(message, where, "an episode has one video per camera", "bad_video_column")
        path = path_inside(self._root, names[0], where)
        if not path.is_file():
            raise MissingFile(f"{names[0]} is missing", self._where, "fetch it from the original data set")
        seconds = parquet_rows.numbers(pa.chunked_array([fields["timestamp"]]), where).astype(np.float64)
        if not np.isfinite(seconds).all():
            row = int(np.argmin(np.isfinite(seconds)))
            raise CorruptEpisode(f"row {row} names the moment {seconds[row]}", where, "fetch it again", "bad_times")
        return path, names[0], seconds

    def _camera(self, key: str, path: UPath, name: str, moments_s: np.ndarray, times_ns: np.ndarray) -> EncodedView:
        view, _ = file_view(key, path, self._video, self._limits, f"{name} ({self._where})")
        frames_s = view.times_ns / NANOSECONDS
        middles = (frames_s[1:] + frames_s[:-1]) / 2
        named = np.searchsorted(middles, moments_s)
        named[np.abs(frames_s[named] - moments_s) > float(1 / (2 * self._info.fps))] = -1
        rows: np.ndarray = np.arange(len(times_ns))
        if len(frames_s) == len(rows) and np.array_equal(named, rows):
            return dataclasses.replace(view, times_ns=times_ns)
        begins = view.times_ns[max(int(named[0]), 0)] - times_ns[0]
        view = dataclasses.replace(view, times_ns=view.times_ns - begins)
        wrong = np.flatnonzero(named != nearest_at_or_before(view.times_ns, times_ns))
        if len(wrong):
            message = f"{len(wrong)} of {len(rows)} rows name another moment of the video than its frame times say"
            numbers = (("num_rows", float(len(wrong))),)
            self._findings.append(
                Finding("frame_times_disagree", Severity.WARNING, key, message, int(wrong[0]), numbers)
            )
        return view

    def _instructions(self, texts: Mapping[str, Sequence[str]], times_ns: np.ndarray) -> list[Instruction]:
        found: list[Instruction] = []
        for name in sorted(texts):
            found += spanned_instructions(texts[name], name, times_ns)
            if any(_PRINTED.match(text) for text in set(texts[name])):
                message = "its texts are tensors printed by TensorFlow, with the real ones inside"
                self._findings.append(Finding("printed_tensor", Severity.WARNING, name, message))
        return found


SOURCE = LeRobotV1Source()
