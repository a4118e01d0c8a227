"""Proves Cosmos-Predict2's embeddings and prompts: one of each for every view of an episode.

The pickles are not opened, since that runs what is in them: they are made again, and must have the same bytes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.joined import JoinedEpisode
from pipelines.pickle_files import pickled_arrays
from pipelines.release_texts import episode_text


class _CosmosVideo:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder = folder
        self._views = [view["slot"] for view in group["views"]]

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        text = episode_text(episode.plan)
        embedding = episode.embeddings[text]
        data = pickled_arrays([embedding.values])
        for view in self._views:
            stem = f"episode_{episode.plan.episode_index:06d}_{view}"
            folder = self._folder / episode.plan.split
            prompt, written = folder / "metas" / f"{stem}.txt", folder / "t5_xxl" / f"{stem}.pickle"
            episode.compared["texts_compared_with_the_lake"] += 1
            if prompt.read_bytes() != embedding.prompt.encode():
                yield f"{prompt}: it is not the prompt of {text[:80]!r}"
            if written.read_bytes() != data:
                yield f"{written}: the embedding of {text[:80]!r} is not the lake's"


def open_group(folder: Path, group: Mapping[str, Any]) -> _CosmosVideo:
    """See ``pipelines.joined``."""
    return _CosmosVideo(folder, group)
