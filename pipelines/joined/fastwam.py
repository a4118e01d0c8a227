"""Proves FastWAM's cache: of every instruction the file that its loader asks for, by the hash of the prompt."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.joined import JoinedEpisode
from pipelines.text_rows import prompt_sha256
from pipelines.torch_files import read_numbers, read_torch


class _FastWam:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        for text in dict.fromkeys((*(text for _, _, text in episode.plan.texts), *episode.plan.other_instructions)):
            embedding = episode.embeddings[text]
            name = f"{prompt_sha256(embedding.prompt)}.t5_len{embedding.length}.wan22ti2v5b.pt"
            path = self._folder / "text_embeds_cache" / name
            content = read_torch(path)
            values, mask = read_numbers(path, content["context"], "bfloat16", 2), content["mask"].numpy()
            if mask.dtype != bool or mask.sum() != len(embedding.values) or values[~mask].any():
                yield f"{path}: its mask is not that of the {len(embedding.values)} tokens of {text[:80]!r}"
                continue
            yield from episode.text(path, text, values[mask], "bfloat16")


def open_group(folder: Path, group: Mapping[str, Any]) -> _FastWam:  # noqa: ARG001 - of the protocol
    """See ``pipelines.joined``."""
    return _FastWam(folder)
