"""The lake: three Lance tables under one folder, written exactly once by key.

Rows go in with ``merge_insert`` on a declared primary key, which gives one row per key under races and kills (a plain
append does not, nor does a merge prepared with ``execute_uncommitted``: three racing writers gave ten rows twice). A commit
whose answer was lost is "unknown": look up, then prepare afresh. Lance does not fsync, so we do, before a commit counts.
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.blob import BlobType

from pipelines.lake_columns import add_lacking, lacking
from pipelines.lake_videos import VideoFolder, publish, sweep
from pipelines.rows import META_COLUMNS, Row, StoredEpisode, staged_files, stored_episode
from pipelines.storage import exclusive, files_under, fsync_file, fsync_folder
from schemas.episode import EncodedView, VideoFile
from schemas.errors import LakeError, UsageError
from schemas.fingerprint import bytes_sha256
from schemas.tables import BLOB_COLUMNS, BLOB_PREFIX, DEPTH_PREFIX, EPISODE_FIELDS, LATENTS, TEXTS

_STORAGE_VERSION: Literal["2.2"] = "2.2"  # the first with nested streams and nullable blobs together
LOCK = "lock"
"""File in staging that is held while rows are changed, or while staging is swept."""
_SQL = "write SQL over the columns in docs/lake.md, such as \"dataset = 'bridge' and num_steps > 10\""
_RUST_PLACE = re.compile(r",? ?/\S+\.rs:\d+:\d+")
"""Where in Lance's own sources an error arose, which helps nobody here."""
_LOST = re.compile(r"Not found: .*/([^/]+/[^/]+\.lance)")
"""Lance's words for a file of a table that is gone."""
_COMMIT_TRIES = 6
_COMMIT_HINT = "check space and rights, then run the same command again: what was committed is kept"
_TABLES: dict[str, tuple[str, pa.Schema]] = {
    "episodes": ("episode_id", pa.schema([*EPISODE_FIELDS, *(lance.blob_field(name) for name in BLOB_COLUMNS)])),
    "latents": ("latent_id", LATENTS),
    "texts": ("text_id", TEXTS),
}
_COMMIT_ERRORS = (OSError, RuntimeError, ValueError)  # what Lance raises for conflicts and for a store that fails


def quoted(text: str) -> str:
    """``text`` as a SQL string of a Lance filter."""
    return "'" + text.replace("'", "''") + "'"


class Lake:
    """The tables ``episodes``, ``latents`` and ``texts`` under ``root``."""

    def __init__(self, root: str | Path, versions: dict[str, int] | None = None) -> None:
        """Use ``open`` or ``create``. ``versions`` pins tables to versions, for a reader that must not see new rows."""
        self.root = Path(root).resolve()
        self._pinned = versions or {}
        self._open: dict[str, lance.LanceDataset] = {}
        self._videos = VideoFolder(self.root)

    @classmethod
    def open(cls, root: str | Path, versions: dict[str, int] | None = None) -> "Lake":
        """An existing lake. Raises LakeError where there is none."""
        lake = cls(root, versions)
        absent = [name for name in _TABLES if not (lake._path(name) / "_versions").is_dir()]
        if 0 < len(absent) < len(_TABLES):
            raise LakeError(
                f"this lake is not whole: the table {absent[0]} is missing",
                str(lake._path(absent[0])),
                "restore it from a copy; if the very first ingest was cut short, run that again",
                "torn_table",
            )
        if absent:
            raise LakeError(
                "there is no lake here", str(root), "make one with `wamloom ingest LOCATION --lake LAKE`", "no_lake"
            )
        return lake

    @classmethod
    def create(cls, root: str | Path) -> "Lake":
        """The lake at ``root``, made if it is not there. Raises LakeError where something else lies there."""
        lake = cls(root)
        if lake.root.exists() and not lake.root.is_dir():
            raise LakeError("this is a file, not a folder", str(root), "give --lake a folder")
        if lake.root.is_dir() and any(lake.root.iterdir()) and not is_lake(lake.root):
            strangers = [
                path.name for path in lake.root.iterdir() if path.name not in {f"{name}.lance" for name in _TABLES}
            ]
            if any(name != "staging" for name in strangers):
                raise LakeError(
                    f"the folder holds other things ({sorted(strangers)[0]!r})",
                    str(root),
                    "give --lake a new or empty folder",
                )
        for name, (_, schema) in _TABLES.items():
            path = lake._path(name)
            if not _has_version(path):
                try:
                    lance.write_dataset(
                        schema.empty_table(), str(path), schema=schema, data_storage_version=_STORAGE_VERSION
                    )
                except _COMMIT_ERRORS as error:
                    # Two first runs at once: the other one made it.
                    if not _has_version(path):
                        raise LakeError(
                            f"cannot make the table {name}: {error}", str(path), _COMMIT_HINT, "commit"
                        ) from error
                lake._sync(path, set())
        return lake

    def _path(self, table: str) -> Path:
        return self.root / f"{table}.lance"

    @property
    def staging(self) -> Path:
        """Where workers put what the driver will commit; safe to delete when no run is going on."""
        return self.root / "staging"

    def table(self, name: str) -> lance.LanceDataset:
        """The Lance table, at its pinned or latest version. Raises LakeError naming the torn file."""
        if name in self._open:
            return self._open[name]
        path = self._path(name)
        try:
            dataset = lance.dataset(str(path), version=self._pinned.get(name))
        except _COMMIT_ERRORS as error:
            raise LakeError(
                f"the table {name} cannot be opened: {error}",
                str(path),
                "restore it from a copy, or set the newest file in _versions aside to reopen the version before",
                "torn_table",
            ) from error
        self._open[name] = dataset
        return dataset

    def refresh(self) -> None:
        """Forgets open tables, so that rows committed since are seen."""
        self._open.clear()

    def versions(self) -> dict[str, int]:
        """Current version number of each table."""
        return {name: int(self.table(name).version) for name in _TABLES}

    # --- writing -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other runs that ask for the same away, waiting for them first; the kernel frees it when we die.

        ``insert`` needs nobody kept away. Reading a row and then changing it does: of two runs that each add a place to
        one row, the later would undo the earlier.
        """
        with exclusive(self.staging / LOCK, "the lake", wait=True):
            yield

    def insert(self, name: str, rows: pa.Table) -> int:
        """Adds the rows whose key is not there yet and returns how many those were; one atomic version."""
        key, schema = _TABLES[name]
        path = self._path(name)
        rows = _first_of_each_key(rows, key)
        for attempt in range(1, _COMMIT_TRIES + 1):
            self._open.pop(name, None)
            dataset = self.table(name)
            absent = pc.invert(pc.is_in(rows[key], self._present(dataset, key, rows[key])))
            missing = picked(rows, np.flatnonzero(absent.to_numpy()).tolist())
            if missing.num_rows == 0:
                return 0
            before = set(files_under(path))
            try:
                add_lacking(dataset, schema, str(path))
                dataset.merge_insert(key).when_not_matched_insert_all().execute(_to_lance(missing, schema))
            except _COMMIT_ERRORS as error:
                if attempt == _COMMIT_TRIES:
                    raise LakeError(f"cannot commit to {name}: {error}", str(path), _COMMIT_HINT, "commit") from error
                continue  # lost race or lost answer alike: look again, and prepare afresh what is still missing
            self._sync(path, before)
            self._open.pop(name, None)
            return int(missing.num_rows)
        return 0

    def publish_videos(self, staged: Mapping[str, Path]) -> None:
        """Gives large videos their names in the lake, before the rows that tell of them. Call it while ``alone``."""
        for file, path in sorted(staged.items()):
            publish(self.root, path, file)

    def sweep_videos(self, names: Collection[str]) -> None:
        """Removes those of the large videos ``names`` that no row tells of. Call it while ``alone``."""
        if names:
            self.refresh()
            sweep(self.root, names, self.video_files())

    def add_locations(self, additions: dict[str, list[Row]]) -> int:
        """Adds places to the rows of known content; returns how many rows changed. Call it while ``alone``."""
        return self._change("episodes", lambda dataset: _add_locations(dataset, additions)) if additions else 0

    def remove_episodes(self, episode_ids: Sequence[str]) -> None:
        """Deletes rows by key: the failed or rejected row of an episode that was taken up again. Call it while ``alone``."""
        if episode_ids:
            wanted = ", ".join(quoted(episode_id) for episode_id in episode_ids)
            self._change("episodes", lambda dataset: _delete(dataset, f"episode_id in ({wanted})"))

    def _change(self, name: str, change: Callable[[lance.LanceDataset], int]) -> int:
        """What ``change`` returns; it is called afresh after a failed commit, which may or may not have been one."""
        path = self._path(name)
        before = set(files_under(path))
        for attempt in range(1, _COMMIT_TRIES + 1):
            self._open.pop(name, None)
            dataset = self.table(name)
            try:
                changed = change(dataset)
            except _COMMIT_ERRORS as error:
                if attempt == _COMMIT_TRIES:
                    raise LakeError(f"cannot change {name}: {error}", str(path), _COMMIT_HINT, "commit") from error
                continue
            self._sync(path, before)
            self._open.pop(name, None)
            return changed
        return 0

    @staticmethod
    def _present(dataset: lance.LanceDataset, key: str, values: pa.ChunkedArray) -> pa.Array:
        wanted = ", ".join(quoted(value) for value in values.to_pylist())
        return dataset.to_table(columns=[key], filter=f"{key} in ({wanted})")[key].combine_chunks()

    @staticmethod
    def _sync(folder: Path, before: set[Path]) -> None:
        """Fsyncs every file that is new under ``folder``, then the folders."""
        if not folder.is_dir():
            return
        fresh = [path for path in files_under(folder) if path not in before]
        for path in fresh:
            with contextlib.suppress(FileNotFoundError):  # another writer's temporary file, renamed since
                fsync_file(path)
        for parent in sorted({path.parent for path in fresh} | {folder}):
            fsync_folder(parent)

    # --- reading -------------------------------------------------------------------------------------------------

    def rows(self, name: str, columns: Sequence[str], where: str = "") -> list[Row]:
        """Rows of a table as dictionaries, in key order. Raises UsageError for a filter that Lance does not take."""
        if _closes_too_much(where):  # Lance would pass over everything behind it
            raise UsageError(
                f"the filter {where[:200]!r} closes a bracket that it did not open",
                str(self._path(name)),
                _SQL,
                "filter",
            )
        key, _ = _TABLES[name]
        wanted = list(dict.fromkeys([key, *columns]))
        try:
            table = self.table(name)
            absent = lacking(table, wanted)
            found = table.to_table(columns=[one for one in wanted if one not in absent], filter=where.strip() or None)
        except _COMMIT_ERRORS as error:
            if where and not _LOST.search(str(error)):
                message = _RUST_PLACE.sub("", str(error))
                raise UsageError(
                    f"the filter {where[:200]!r} does not work: {message[:300]}",
                    str(self._path(name)),
                    _SQL,
                    "filter",
                ) from error
            raise self._unreadable(name, error) from error
        rows = [row | dict.fromkeys(absent) for row in found.to_pylist()]
        result: list[Row] = sorted(rows, key=lambda row: str(row[key]))
        return result

    def _unreadable(self, name: str, error: Exception) -> LakeError:
        lost = _LOST.search(str(error))
        what = f"lacks a file, {lost[1]}" if lost else f"cannot be read: {_RUST_PLACE.sub('', str(error))}"
        hint = "restore the lake from a copy, or ingest into a new lake"
        return LakeError(f"the table {name} {what}", str(self._path(name)), hint, "damaged")

    def select(self, name: str, columns: Sequence[str]) -> pa.Table:
        """Columns of a whole table as they lie there, in no order. Raises LakeError where they cannot be read."""
        try:
            return self.table(name).to_table(columns=list(columns))
        except _COMMIT_ERRORS as error:
            raise self._unreadable(name, error) from error

    def batches(self, name: str, columns: list[str] | None = None, where: str = "") -> Iterator[pa.RecordBatch]:
        """Record batches of a few rows each, for walking over a whole table in bounded memory."""
        try:
            yield from self.table(name).to_batches(columns=columns, filter=where or None, batch_size=16)
        except _COMMIT_ERRORS as error:
            raise self._unreadable(name, error) from error

    def episode(self, episode_id: str) -> StoredEpisode:
        """The kept episode of that key. Raises LakeError where there is none."""
        found = self.rows("episodes", META_COLUMNS, f"episode_id = {quoted(episode_id)}")
        if not found:
            raise LakeError(
                f"no episode {episode_id!r}", str(self.root), "list them with `wamloom show LAKE`", "no_episode"
            )
        return stored_episode(found[0])

    def video(self, episode_id: str, slot: str, view: EncodedView, *, is_depth: bool = False) -> EncodedView:
        """``view``, as a row tells of it, with its video: in memory or as a file, checked against its hash.

        Raises LakeError where it is missing or damaged.
        """
        if isinstance(view.data, VideoFile):
            return replace(view, data=self._videos.file(view, f"episode {episode_id[:12]} view {slot}"))
        return replace(
            view, data=self._blob(episode_id, (DEPTH_PREFIX if is_depth else BLOB_PREFIX) + slot, view.sha256)
        )

    def video_files(self) -> set[str]:
        """The files of large videos that rows name, relative to the lake."""
        return {
            name
            for batch in self.batches("episodes", ["views"])
            for row in batch.column(0)
            for name in staged_files(row)
        }

    def stray_videos(self) -> list[Path]:
        """Files of large videos that no row names: what a run left behind that died while it committed."""
        if not self._videos.strays(()):
            return []
        with self.alone():  # a run may be between naming its files and committing their rows
            self.refresh()
            return self._videos.strays(self.video_files())

    def _blob(self, episode_id: str, column: str, sha256: str) -> bytes:
        table = self.table("episodes")
        where = f"{self._path('episodes')} episode {episode_id[:12]} view {column.partition('_')[2]}"
        found = table.to_table(columns=["episode_id"], filter=f"episode_id = {quoted(episode_id)}", with_row_id=True)
        if found.num_rows != 1:
            raise LakeError("the episode is not in the lake", where, reason="no_episode")
        try:
            blob: Any = table.take_blobs(column, ids=[found["_rowid"][0].as_py()])[0]
            data = None if blob is None else blob.read()
        except _COMMIT_ERRORS as error:
            raise LakeError(f"the video cannot be read: {error}", where, reason="damaged") from error
        if data is None:
            raise LakeError("the episode has no such view", where, reason="missing_view")
        found_sha256 = bytes_sha256(data)
        if found_sha256 != sha256:
            raise LakeError(
                f"the video is damaged: sha256 {found_sha256[:16]}, expected {sha256[:16]}",
                where,
                "restore the lake from a copy, or ingest that episode again into a new lake",
                "hash_mismatch",
            )
        return bytes(data)


def is_lake(folder: str | Path) -> bool:
    """Whether ``folder`` holds the tables of a lake."""
    return all(_has_version(Path(folder) / f"{name}.lance") for name in _TABLES)


def _has_version(table: Path) -> bool:
    """Whether there is a table: a run that was killed while it made one leaves a folder without a version."""
    return any((table / "_versions").glob("*.manifest"))


def _add_locations(dataset: lance.LanceDataset, additions: dict[str, list[Row]]) -> int:
    wanted = ", ".join(quoted(episode_id) for episode_id in additions)
    found = dataset.to_table(columns=["episode_id", "locations"], filter=f"episode_id in ({wanted})").to_pylist()
    changed: list[Row] = []
    for row in found:
        places = list(row["locations"])
        for addition in additions[row["episode_id"]]:
            places = [p for p in places if (p["location"], p["key"]) != (addition["location"], addition["key"])]
            places.append(addition)
        places.sort(key=lambda place: (place["location"], place["key"]))
        if places != row["locations"]:
            changed.append({"episode_id": row["episode_id"], "locations": places})
    if changed:
        schema = pa.schema([dataset.schema.field("episode_id"), dataset.schema.field("locations")])
        dataset.merge_insert("episode_id").when_matched_update_all().execute(pa.Table.from_pylist(changed, schema))
    return len(changed)


def _delete(dataset: lance.LanceDataset, condition: str) -> int:
    dataset.delete(condition)
    return 0


def _closes_too_much(where: str) -> bool:
    depth = 0
    for part in re.split(r"'[^']*'|\"[^\"]*\"", where):
        for character in part:
            depth += (character == "(") - (character == ")")
            if depth < 0:
                return True
    return False


def _first_of_each_key(rows: pa.Table, key: str) -> pa.Table:
    seen: set[str] = set()
    keep: list[int] = []
    for index, value in enumerate(rows[key].to_pylist()):
        if value not in seen:
            seen.add(value)
            keep.append(index)
    return picked(rows, keep)


def picked(rows: pa.Table, indices: Sequence[int]) -> pa.Table:
    """Those rows, in that order, without a copy of what they hold."""
    if list(indices) == list(range(rows.num_rows)):
        return rows
    return pa.concat_tables([rows.slice(index, 1) for index in indices]) if indices else rows.slice(0, 0)


def _to_lance(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """``rows`` with plain binary columns turned into Lance blobs where ``schema`` has them; their bytes are not copied."""
    columns = []
    for field in schema:
        column = rows[field.name]
        if field.name in BLOB_COLUMNS:
            columns.append(pa.chunked_array([_blobs(chunk) for chunk in column.chunks], field.type))
        else:
            columns.append(column.cast(field.type) if column.type != field.type else column)
    return pa.table(columns, schema=schema)


def _blobs(column: pa.Array) -> pa.ExtensionArray:
    nothing = [pa.nulls(len(column), kind) for kind in (pa.utf8(), pa.uint64(), pa.uint64())]
    names = ["data", "uri", "position", "size"]
    storage = pa.StructArray.from_arrays([column, *nothing], names, mask=column.is_null())
    return pa.ExtensionArray.from_storage(BlobType(), storage)
