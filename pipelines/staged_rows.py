"""Rows that workers staged as Arrow files go into a table of the lake, and the account of a run has to close."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipelines.lake import Lake
from schemas.errors import LakeError
from schemas.work import FileRecord, Outcome


def commit_staged(lake: Lake, table: str, staging: Path, files: Sequence[FileRecord]) -> None:
    """Puts the rows of the staged ``files`` into ``table``; after this returns, they survive anything."""
    for record in files:
        path = staging / record.path
        with pa.memory_map(str(path)) as file:
            rows = pa.ipc.open_file(file).read_all()
        if rows.num_rows:
            lake.insert(table, rows)
        path.unlink()


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
