"""Latents that a build makes itself, put into the lake a unit at a time."""

from pathlib import Path

from pipelines.build_unit import STAGED_LATENTS, staged_latents
from pipelines.clip_encoder import load_encoder
from pipelines.lake import Lake
from pipelines.promised_latents import promise
from pipelines.staged_rows import commit_file
from schemas.errors import LakeError
from schemas.recipes import BuildRecipe, EncodeRecipe
from schemas.work import UnitResult


class MadeLatents:
    """Of one build, from its plan to its end."""

    def __init__(self, lake: Lake, recipe: BuildRecipe, encode: EncodeRecipe) -> None:
        """``lake`` at the versions of the build. Raises RecipeError and what the encoder raises where it cannot be opened."""
        self._lake = lake
        self._live = Lake.open(lake.root)
        self.promised = promise(lake, recipe, encode, load_encoder(encode))
        """All that the build needs of them."""
        self.missing = self.promised.missing(lake)
        """By episode id: what the lake does not have."""
        self.num_clips = 0
        """Encoded and in the lake since."""
        self.num_shared = 0
        """Of these, from the same decode as pictures of the build."""
        self._staging = Path()

    def take_up(self, staging: Path) -> Lake:
        """Puts what an interrupted run has left in ``staging`` into the lake; gives the lake of the build with it."""
        self._staging = staging
        for path in sorted((staging / STAGED_LATENTS).glob("*.arrow")):
            commit_file(self._live, "latents", path)
        lake = self._with_latents()
        self.missing = self.promised.missing(lake)
        return lake

    def take(self, result: UnitResult) -> None:
        """Puts the latents of one unit into the lake; after this returns, they survive anything."""
        path = staged_latents(self._staging, result.unit_id)
        if path.exists():
            self.num_clips += commit_file(self._live, "latents", path)
        self.num_shared += int(dict(result.numbers).get("shared_clips", 0))

    def whole(self) -> Lake:
        """The lake of the build with all latents. Raises LakeError where one was not made."""
        lake = self._with_latents()
        if missing := self.promised.missing(lake):
            raise LakeError(
                f"latents of {len(missing)} episodes were made and are not in the lake",
                str(lake.root),
                "run the same command again; it makes what is missing",
                "account",
            )
        return lake

    def _with_latents(self) -> Lake:
        return Lake.open(
            self._lake.root, {**self._lake.versions(), "latents": Lake.open(self._lake.root).versions()["latents"]}
        )
