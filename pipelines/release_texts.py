"""Embeddings of instructions as files of a release, for the formats that carry them: found, checked, written, counted."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.joined_episode import JoinedEpisode
from pipelines.read_back import read_index, unreadable
from pipelines.release_plan import BuiltEpisode, EpisodePlan, GroupPlan, UnitPlan, UnitProgress
from pipelines.storage import json_bytes, write_durably
from pipelines.text_rows import TextEmbedding
from pipelines.torch_files import read_numbers, read_torch, tensor, write_torch
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe

EPISODE_TEXTS = "t5_embedding"
"""The folder where GigaWorld-Policy and Motus look for the embedding of each episode."""
EPISODE_INDEX = "meta/t5_embedding.json"


def check_texts(recipe: BuildRecipe, name: str) -> None:
    """Raises RecipeError where the recipe joins no embeddings, which the format ``name`` carries."""
    if recipe.texts is None:
        raise RecipeError(
            f"{name} carries embeddings of instructions, and the recipe joins none",
            "texts",
            'run `wamloom texts` on the lake, and name them: [texts] encoder = "umt5"',
            "no_text",
        )


def embedding_of(episode: BuiltEpisode, text: str) -> TextEmbedding:
    """The embedding of an instruction of the episode, without padding. Raises ReleaseError where it has none."""
    found = episode.embeddings.get(text)
    if found is None:
        raise ReleaseError(
            f"there is no embedding of {text[:120]!r}",
            f"episode {episode.plan.episode_id[:12]}",
            "plan the build again",
            "off_plan",
        )
    return found


def told(embedding: TextEmbedding) -> dict[str, Any]:
    """What an index tells of an embedding: its encoder, the length it was padded to when made, in which numbers it is kept."""
    return {
        "encoder": embedding.encoder,
        "encoder_fingerprint": embedding.encoder_fingerprint,
        "length": embedding.length,
        "dtype": embedding.dtype,
        "width": int(embedding.values.shape[1]),
    }


def episode_file(episode_index: int) -> str:
    """Where the embedding of an episode lies, relative to the folder of the set."""
    return f"{EPISODE_TEXTS}/episode_{episode_index:06d}.pt"


def episode_text(plan: EpisodePlan) -> str:
    """The instruction that stands for the whole episode: the first of its steps that has words, else its own."""
    return next((text for _, _, text in plan.texts if text.strip()), plan.instruction)


class EpisodeTexts:
    """Writes, for every episode of a unit, the embedding of its instruction: [L, D] in the numbers it was kept in, unpadded."""

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path, name: str) -> None:
        check_texts(recipe, name)
        self._folder = folder
        self._progress = UnitProgress(unit, with_frames=False)
        self._rows: list[dict[str, Any]] = []

    def begin(self, episode: BuiltEpisode) -> None:
        """Starts an episode."""
        self._progress.begin(episode)

    def end(self) -> None:
        """Writes the embedding."""
        episode = self._progress.episode
        self._progress.end()
        plan = episode.plan
        text, name = episode_text(plan), episode_file(plan.episode_index)
        embedding = embedding_of(episode, text)
        write_torch(self._folder / name, tensor(embedding.values, embedding.dtype))
        self._rows.append(
            {
                "episode_index": plan.episode_index,
                "file": name,
                "text": text,
                "prompt": embedding.prompt,
                "num_tokens": len(embedding.values),
                "other_texts": sorted({one for _, _, one in plan.texts} - {text}),
                **told(embedding),
            }
        )

    def close(self) -> dict[str, Any]:
        """What the index tells of each episode."""
        self._progress.close()
        return {"episodes": self._rows}


class EpisodeTextsFormat:
    """A format that adds to the folders of another the embedding of each episode's instruction, and an index of them."""

    windowed = False
    takes_latents = False

    def __init__(self, name: str, beside: str) -> None:
        self.name, self.beside = name, beside

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> EpisodeTexts:
        """See ``formats.Format``."""
        return EpisodeTexts(unit, recipe, folder, self.name)

    def finish(
        self,
        group: GroupPlan,  # noqa: ARG002 - of the protocol
        recipe: BuildRecipe,  # noqa: ARG002 - of the protocol
        units: Sequence[tuple[UnitPlan, Mapping[str, Any]]],
        folder: Path,
    ) -> Mapping[str, int]:
        """Writes the index. ``other_texts`` of an episode are instructions of some of its steps: a trainer that reads one
        embedding for each episode never sees them.
        """
        rows = [row for _, facts in units for row in facts["episodes"]]
        planned = sum(len(unit.episodes) for unit, _ in units)
        if len(rows) != planned:
            raise ReleaseError(f"{len(rows)} of {planned} episodes have a text", str(folder), "build again", "off_plan")
        index = {
            "format": self.name,
            "episodes": rows,
            "num_with_other_texts": sum(1 for row in rows if row["other_texts"]),
        }
        write_durably(folder / EPISODE_INDEX, json_bytes(index))
        return {"samples": len(rows), "frames": 0, "episodes": len(rows)}

    def count(self, folder: Path) -> Mapping[str, int]:
        """Embeddings found by reading every file. Raises ReleaseError for one that is damaged or not what the index says."""
        index = read_index(folder / EPISODE_INDEX)
        by_file = {row["file"]: row for row in index["episodes"]}
        found = 0
        for path in sorted((folder / EPISODE_TEXTS).glob("*.pt")):
            values = read_torch(path)
            row = by_file.get(path.relative_to(folder).as_posix())
            if row is None or tuple(getattr(values, "shape", ())) != (row["num_tokens"], row["width"]):
                raise unreadable(path, "it is not the embedding that the index tells of")
            found += 1
        return {"samples": found, "frames": 0, "episodes": found}


class WrittenTexts:
    """Proves what ``EpisodeTextsFormat`` wrote; see ``pipelines.joined``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """What is wrong with the embedding of an episode."""
        text, path = episode_text(episode.plan), self._folder / episode_file(episode.plan.episode_index)
        dtype = episode.embeddings[text].dtype
        yield from episode.text(path, text, read_numbers(path, read_torch(path), dtype, 2), dtype)


def padded(embedding: TextEmbedding) -> tuple[np.ndarray, np.ndarray]:
    """float32 [length, D] with zeros behind the prompt's tokens, and bool [length] of the tokens."""
    count = len(embedding.values)
    values: np.ndarray = np.zeros((embedding.length, embedding.values.shape[1]), np.float32)
    values[:count] = embedding.values
    return values, np.arange(embedding.length) < count
