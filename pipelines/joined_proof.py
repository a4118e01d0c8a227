"""The proof of what a release joins: the latents and embeddings that a format holds for an episode are those of the lake, for
these frames and this instruction, all of them and no others.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import registry
from pipelines.build_texts import BuildTexts, told_kinds
from pipelines.joined import JoinedEpisode, JoinedProbe
from pipelines.joined_latents import JoinedLatents
from pipelines.lake import Lake
from pipelines.problems import Verification
from pipelines.release_plan import EpisodePlan
from pipelines.rows import StoredEpisode
from schemas.latent import LatentClip
from schemas.recipes import BuildRecipe


class JoinedProof:
    """Compares with the latents and embeddings that a manifest names, in one group."""

    def __init__(self, lake: Lake, recipe: BuildRecipe, manifest: Mapping[str, Any], result: Verification) -> None:
        told = manifest["latents"]
        choice = None if told is None else (told["encoder_fingerprint"], told["views_fingerprint"])
        self._latents = JoinedLatents(lake, recipe, choice)
        self._joins_latents = choice is not None
        self._texts = {name: BuildTexts(lake, kind) for name, kind in told_kinds(recipe, manifest["texts"]).items()}
        self._result = result
        self._is_unchanged = result.lake_content == manifest["lake_content"]
        self._probes: dict[str, JoinedProbe] = {}
        self._known: tuple[str, dict[str, list[LatentClip]]] = ("", {})

    def open(self, name: str, folder: Path, group: Mapping[str, Any]) -> None:
        """A format of the group is looked at, which lies in ``folder``."""
        if name in registry.names("joined"):
            self._probes[name] = registry.load("joined", name).open_group(folder, group)

    def of(self, name: str, episode: Mapping[str, Any], lineage: pa.Table, stored: StoredEpisode) -> Iterator[str]:
        """What is wrong with what a format holds for an episode. Raises LakeError where the lake lacks it, or it is damaged."""
        if name not in self._probes:
            return
        if self._known[0] != stored.episode_id:
            self._known = stored.episode_id, self._latents.of(stored)
        plan = EpisodePlan.told_by(episode)
        texts = self._texts.get(name, self._texts.get(""))
        embeddings = {} if texts is None else texts.embeddings_of(stored, plan)
        joined = JoinedEpisode(
            plan=plan,
            lineage=lineage,
            clips=self._known[1],
            joins_latents=self._joins_latents,
            embeddings=embeddings,
            is_unchanged=self._is_unchanged,
            compared=self._result.checked,
        )
        yield from self._probes[name].problems(joined)
