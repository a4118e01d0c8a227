"""Reads Cosmos Policy's embeddings back, from the safetensors file that holds what its pickle holds."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors

from pipelines.joined import HeldText
from pipelines.probed import instructions_of


class _CosmosPolicy:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "t5_embeddings.safetensors"

    def of(self, episode: Mapping[str, Any], lineage: pa.Table) -> Iterator[HeldText]:  # noqa: ARG002 - of the protocol
        said = instructions_of(episode)
        with safetensors.safe_open(str(self._path), "numpy") as file:
            for key, text in json.loads(file.metadata()["wamloom"]).items():
                if text in said:
                    yield HeldText(str(self._path), text, file.get_tensor(key)[0], "float32", is_padded=True)


def open_group(folder: Path, group: Mapping[str, Any]) -> _CosmosPolicy:  # noqa: ARG001 - of the protocol
    """See ``pipelines.joined``."""
    return _CosmosPolicy(folder)
