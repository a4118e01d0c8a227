"""Rows that workers stage as Arrow files go into a table of the lake, and the account of a run has to close."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipelines.lake import Lake
from pipelines.storage import fsync_file, fsync_folder
from schemas.errors import LakeError
from schemas.work import FileRecord, Outcome

COMMIT_BYTES = 256 << 20
"""Put into a table at a time, since that takes memory several times as large."""


@contextmanager
def staged_rows(path: Path, schema: pa.Schema) -> Iterator[pa.ipc.RecordBatchFileWriter]:
    """Takes the rows of a file that is ``path`` once they are all there, and durable; of none where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        yield writer
    fsync_file(partial)
    partial.replace(path)
    fsync_folder(path.parent)


def commit_staged(lake: Lake, table: str, staging: Path, files: Sequence[FileRecord]) -> None:
    """Puts the rows of the staged ``files`` into ``table``; after this returns, they survive anything."""
    for record in files:
        commit_file(lake, table, staging / record.path)
        (staging / record.path).unlink()


def staged_hashes(path: Path) -> dict[str, str]:
    """Key (the first column) -> row hash of a staged file."""
    found: dict[str, str] = {}
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            found |= zip(batch[0].to_pylist(), batch["row_sha256"].to_pylist(), strict=True)
    return found


def commit_file(lake: Lake, table: str, path: Path) -> int:
    """The same of one file, which stays, in pieces of bounded size; returns how many of its rows were not there yet."""
    new = 0
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        for piece in _pieces(reader):
            new += lake.insert(table, pa.Table.from_batches(piece))
    return new


def _pieces(reader: pa.ipc.RecordBatchFileReader) -> Iterator[list[pa.RecordBatch]]:
    piece: list[pa.RecordBatch] = []
    size = 0
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        if piece and size + batch.nbytes > COMMIT_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(batch)
        size += batch.nbytes
    if piece:
        yield piece


@dataclass(slots=True)
class Account:
    """What became of what was planned: planned = cached + computed + failed."""

    what: str
    """Plural, such as ``clips``; for messages."""
    planned: int = 0
    cached: int = 0
    computed: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[Outcome] = field(default_factory=list)

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Counts the outcomes of a unit."""
        for outcome in outcomes:
            if outcome.kind == "kept":
                self.computed += 1
            else:
                self.failed += 1
                self.reasons[outcome.reason] += 1
                self.problems.append(outcome)

    def close(self, where: str) -> None:
        """Raises LakeError where something planned has neither a row nor a failure."""
        if self.cached + self.computed + self.failed != self.planned:
            raise LakeError(
                f"the account does not close: {self.planned} {self.what}, {self.cached} cached, {self.computed} computed, "
                f"{self.failed} failed",
                where,
                "run the same command again; it computes what is missing",
                "account",
            )
