"""The encode line, ended: staged latents go into the lake, a unit at a time, and the account has to close."""

from pathlib import Path

from pipelines.encode_plan import EncodePlan
from pipelines.lake import Lake
from pipelines.staged_rows import Account, commit_staged
from schemas.work import UnitResult


class LatentCommitter:
    """Puts staged latents into the lake, a unit at a time, and keeps the account."""

    def __init__(self, lake: Lake, plan: EncodePlan, staging: Path) -> None:
        self._lake = lake
        self._staging = staging
        self.totals = Account("clips", plan.num_clips, plan.cached)

    def add(self, result: UnitResult) -> None:
        """Commits one unit; after this returns, its latents survive anything."""
        commit_staged(self._lake, "latents", self._staging, result.files)
        self.totals.add(result.outcomes)

    def close(self) -> Account:
        """Proves the account. Raises LakeError where a planned clip has neither latents nor a failure."""
        self.totals.close(str(self._lake.root))
        return self.totals
