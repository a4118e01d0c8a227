"""Latents that a build makes itself, put into the lake a unit at a time."""

from pathlib import Path

from pipelines.build_unit import STAGED_LATENTS, staged_latents
from pipelines.joined_latents import of_choice
from pipelines.lake import Lake
from pipelines.promised_latents import PromisedLatents
from pipelines.release import forget_unit
from pipelines.staged_rows import commit_file, staged_hashes
from schemas.errors import LakeError
from schemas.work import UnitResult


class MadeLatents:
    """Of one build, from its plan to its end."""

    def __init__(self, lake: Lake, promised: PromisedLatents) -> None:
        """``lake`` at the versions of the build, which needs what is ``promised``."""
        self._lake = lake
        self._live = Lake.open(lake.root)
        self._promised = promised
        self._staging = Path()
        self.missing = promised.missing(lake)
        """By episode id: what the lake does not have."""
        self.num_clips = 0
        """Encoded and in the lake since."""
        self.num_shared = 0
        """Of these, from the same decode as pictures of the build."""

    def take_up(self, staging: Path) -> Lake:
        """Puts what an interrupted run has left in ``staging`` into the lake; gives the lake of the build with it."""
        self._staging = staging
        for path in sorted((staging / STAGED_LATENTS).glob("*.arrow")):
            self._commit(path.stem)
        lake = self._with_latents()
        self.missing = self._promised.missing(lake)
        return lake

    def take(self, result: UnitResult) -> None:
        """Puts the latents of one unit into the lake; after this returns, they survive anything."""
        if staged_latents(self._staging, result.unit_id).exists():
            made, is_stored = self._commit(result.unit_id)
            if not is_stored:
                raise LakeError(
                    "another run has put other latents of the same frames and encoder there meanwhile",
                    str(self._lake.root),
                    "run the same command again: it takes those",
                    "raced",
                )
            self.num_clips += made
        self.num_shared += int(dict(result.numbers).get("shared_clips", 0))

    def _commit(self, unit_id: str) -> tuple[int, bool]:
        """How many latents of a unit are new in the lake, and whether the lake has all of them as the unit has; if not, the unit
        has to be written again.
        """
        path = staged_latents(self._staging, unit_id)
        rows = staged_hashes(path)
        made = commit_file(self._live, "latents", path)
        stored = (
            self._live.rows("latents", ["row_sha256"], of_choice(self._promised.choice)) if made < len(rows) else []
        )
        is_stored = all(rows.get(row["latent_id"], row["row_sha256"]) == row["row_sha256"] for row in stored)
        if not is_stored:
            forget_unit(self._staging, unit_id)
        path.unlink()  # last, so that whoever dies before looks again
        return made, is_stored

    def whole(self) -> Lake:
        """The lake of the build with all latents. Raises LakeError where one was not made."""
        lake = self._with_latents()
        if missing := self._promised.missing(lake):
            raise LakeError(
                f"latents of {len(missing)} episodes have gone from the lake since they were made",
                str(lake.root),
                "keep others from changing the lake, and run the same command again: it makes what is missing",
                "account",
            )
        return lake

    def _with_latents(self) -> Lake:
        return Lake.open(
            self._lake.root, {**self._lake.versions(), "latents": Lake.open(self._lake.root).versions()["latents"]}
        )
