"""GigaWorld-Policy: beside LeRobot v3.0, the embedding of each episode's instruction as ``t5_embedding/episode_000000.pt``.

What ``world_action_model/datasets/wam_lerobot_dataset.py`` of open-gigaai/giga-world-policy reads with ``t5_load_from="dir"``:
a tensor [L, D], unpadded, one for each episode, as ``scripts/compute_t5_embedding.py`` there writes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.formats import UnitWriter
from pipelines.release_plan import GroupPlan, UnitPlan
from pipelines.release_texts import EpisodeTexts, count_episode_texts, finish_episode_texts
from schemas.recipes import BuildRecipe


class _GigaWorld:
    name = "gigaworld"
    beside = "lerobot_v3"
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


FORMAT = _GigaWorld()
