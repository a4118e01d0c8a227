"""Reads FastWAM's cache of text embeddings back: of every instruction, by the index that was written with it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.joined import HeldText
from pipelines.probed import instructions_of
from pipelines.read_back import read_index, unreadable
from pipelines.storage import inside
from pipelines.torch_files import read_torch


class _FastWam:
    """See ``JoinedProbe``. Holds the index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts: list[dict[str, Any]] = read_index(folder / "meta/fastwam_texts.json")["texts"]

    def of(self, episode: Mapping[str, Any], lineage: pa.Table) -> Iterator[HeldText]:  # noqa: ARG002 - of the protocol
        said = instructions_of(episode)
        for row in self._texts:
            if row["task"] not in said:
                continue
            path = inside(self._folder, row["file"])
            content = read_torch(path)
            values, mask = content["context"].float().numpy(), content["mask"].numpy()
            if values[~mask].any():
                raise unreadable(path, "there is something behind the prompt")
            yield HeldText(str(path), row["task"], values[mask], "bfloat16")


def open_group(folder: Path, group: Mapping[str, Any]) -> _FastWam:  # noqa: ARG001 - of the protocol
    """See ``pipelines.joined``."""
    return _FastWam(folder)
