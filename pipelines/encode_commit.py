"""The encode line, ended: staged latents go into the lake, a unit at a time, and the account has to close."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipelines.encode_plan import EncodePlan
from pipelines.lake import Lake
from schemas.errors import LakeError
from schemas.work import Outcome, UnitResult


@dataclass(slots=True)
class EncodeTotals:
    """The account of a run: clips = cached + computed + failed."""

    clips: int = 0
    cached: int = 0
    computed: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[Outcome] = field(default_factory=list)


class LatentCommitter:
    """Puts staged latents into the lake, a unit at a time, and keeps the account."""

    def __init__(self, lake: Lake, plan: EncodePlan, staging: Path) -> None:
        self._lake = lake
        self._staging = staging
        self.totals = EncodeTotals(clips=plan.num_clips, cached=plan.cached)

    def add(self, result: UnitResult) -> None:
        """Commits one unit; after this returns, its latents survive anything."""
        for record in result.files:
            path = self._staging / record.path
            with pa.memory_map(str(path)) as file:
                rows = pa.ipc.open_file(file).read_all()
            if rows.num_rows:
                self._lake.insert("latents", rows)
            path.unlink()
        for outcome in result.outcomes:
            if outcome.kind == "kept":
                self.totals.computed += 1
            else:
                self.totals.failed += 1
                self.totals.reasons[outcome.reason] += 1
                self.totals.problems.append(outcome)

    def close(self) -> EncodeTotals:
        """Proves the account. Raises LakeError where a planned clip has neither latents nor a failure."""
        totals = self.totals
        if totals.cached + totals.computed + totals.failed != totals.clips:
            raise LakeError(
                f"the account does not close: {totals.clips} clips, {totals.cached} cached, {totals.computed} computed, "
                f"{totals.failed} failed",
                str(self._lake.root),
                "run the same command again; it computes what is missing",
                "account",
            )
        return totals
