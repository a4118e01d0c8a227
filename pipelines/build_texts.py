"""Which embeddings of the lake's texts belong to the instructions of an episode, for the plan of a build and its workers."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from pipelines.formats import EpisodePlan
from pipelines.lake import Lake
from pipelines.prompts import fields_of, prompts_of, template_of
from pipelines.rows import StoredEpisode
from pipelines.text_rows import EMPTY, TextEmbedding, dtype_named, embeddings_of, text_hashes
from schemas.errors import LakeError
from schemas.recipes import BuildRecipe
from schemas.release_choices import TextKind

MAX_KEPT = 256
"""Embeddings that a worker holds, since neighbours often have the same instruction; one of 512 x 4096 has 8 MB."""


def text_kinds(recipe: BuildRecipe) -> dict[str, TextKind]:
    """The kinds of embeddings that a build joins: that of "", and those that single formats have instead, by their names."""
    return {} if recipe.texts is None else {"": recipe.texts, **dict(sorted(recipe.texts.formats.items()))}


def told_kinds(recipe: BuildRecipe, texts: Mapping[str, Any] | None) -> dict[str, TextKind]:
    """As ``text_kinds``, but of the very encoder, length and dtype that ``texts`` of a manifest tells of."""
    kinds = text_kinds(recipe)
    if texts is None:
        return kinds
    told = {"": texts, **texts.get("formats", {})}
    return {
        name: kind.model_copy(
            update={
                "encoder": told[name]["encoder_fingerprint"],
                "length": told[name]["length"],
                "dtype": dtype_named(told[name]["dtype"]),
            }
        )
        for name, kind in kinds.items()
    }


class BuildTexts:
    """The embeddings of a kind that a build joins."""

    def __init__(self, lake: Lake, choice: TextKind) -> None:
        """Raises RecipeError where the template is none."""
        self._lake, self._choice = lake, choice
        self._template = template_of(choice.template, choice.steps)
        self._kept: dict[str, TextEmbedding] = {}

    def hashes_of(self, stored: StoredEpisode, plan: EpisodePlan) -> list[str]:
        """Row hashes of the embeddings of the episode's instructions. Raises LakeError where there are none, or a choice."""
        choice = self._choice
        prompts = self._prompts(stored, plan).values()
        try:
            found = text_hashes(self._lake, prompts, choice.encoder, length=choice.length, dtype=choice.dtype)
        except LakeError as error:
            if error.reason != "no_text":
                raise
            raise LakeError(error.message, error.where, self._command(), error.reason) from error
        return sorted(found.values())

    def _command(self) -> str:
        """How the embeddings are made."""
        choice, name = self._choice, self._choice.encoder.partition("@")[0]
        said = f"wamloom texts --lake {self._lake.root.name} --encoder {name}"
        said += "" if name == "hashed" else " --weights FOLDER"
        said += f" --template {shlex.quote(choice.template)}"
        if choice.steps is not None:
            said += f" --set steps={shlex.quote(json.dumps(choice.steps))}"
        said += "" if choice.length is None else f" --set options.length={choice.length}"
        said += "" if choice.dtype is None else f" --set dtype={choice.dtype}"
        return f"make them with `{said}`" + (", with the same fields" if choice.fields else "")

    def embeddings_of(self, stored: StoredEpisode, plan: EpisodePlan) -> dict[str, TextEmbedding]:
        """By instruction of the episode, and of the empty one: the embedding of its prompt, without padding."""
        prompts = self._prompts(stored, plan)
        missing = [prompt for prompt in prompts.values() if prompt not in self._kept]
        if missing:
            if len(self._kept) + len(missing) > MAX_KEPT:
                self._kept.clear()
            self._kept |= embeddings_of(
                self._lake,
                {EMPTY, *prompts.values()},
                self._choice.encoder,
                length=self._choice.length,
                dtype=self._choice.dtype,
                padded=False,
            )
        return {instruction: self._kept[prompt] for instruction, prompt in prompts.items()}

    def _prompts(self, stored: StoredEpisode, plan: EpisodePlan) -> Mapping[str, str]:
        fields = {**self._choice.fields, **fields_of(stored.embodiment, stored.dataset, stored.views)}
        texts = dict.fromkeys((EMPTY, *(text for _, _, text in plan.texts), *plan.other_instructions))
        prompts = {text: prompts_of(self._template, {**fields, "instruction": text}) for text in texts}
        several = next((text for text, made in prompts.items() if len(made) > 1), None)
        if several is not None:
            raise LakeError(
                f"the template makes {len(prompts[several])} prompts of {several[:120]!r}, and a build joins one",
                f"episode {stored.episode_id[:12]}",
                "choose a template that does not split instructions",
                "ambiguous",
            )
        return {text: made[0] for text, made in prompts.items()}
