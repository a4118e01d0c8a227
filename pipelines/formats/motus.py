"""Motus: beside LeRobot v2.1, the embedding of each episode's instruction as ``t5_embedding/episode_000000.pt``.

What ``data/lerobot/lerobot_dataset.py`` of thu-ml/Motus reads: a tensor [L, D], unpadded, one for each episode. It finds the
file by ``t5_embedding_path`` of ``meta/episodes.jsonl``, relative to the folder of the set; or, with
``enable_t5_fallback=True``, by this very name, and then encodes nothing since the file is there. Parquet columns
``language_embedding`` would win over both.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.formats import UnitWriter
from pipelines.release_plan import GroupPlan, UnitPlan
from pipelines.release_texts import EpisodeTexts, count_episode_texts, finish_episode_texts
from schemas.recipes import BuildRecipe


class _Motus:
    name = "motus"
    beside = "lerobot_v21"
    windowed = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return EpisodeTexts(unit, recipe, folder, self.name)

    def finish(
        self,
        group: GroupPlan,  # noqa: ARG002 - of the protocol
        recipe: BuildRecipe,  # noqa: ARG002 - of the protocol
        units: Sequence[tuple[UnitPlan, Mapping[str, Any]]],
        folder: Path,
    ) -> Mapping[str, int]:
        return finish_episode_texts(self.name, units, folder)

    def count(self, folder: Path) -> Mapping[str, int]:
        return count_episode_texts(folder)


FORMAT = _Motus()
