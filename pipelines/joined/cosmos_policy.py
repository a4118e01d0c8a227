"""Proves Cosmos Policy's embeddings: those of the safetensors file, and that the pickle which it reads holds the same.

Nothing in the pickle is run: it may hold only the instructions that were written, and what lies between them is read.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from pipelines.joined import JoinedEpisode
from pipelines.joined_episode import is_same
from pipelines.torch_files import read_numbers, read_pickled


class _CosmosPolicy:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path) -> None:
        self._path, self._pickle = folder / "t5_embeddings.safetensors", folder / "t5_embeddings.pkl"
        self._has_seen_pickle = False

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        with safetensors.safe_open(str(self._path), "numpy") as file:
            if not self._has_seen_pickle:
                self._has_seen_pickle = True
                keys = {text: key for key, text in json.loads(file.metadata()["wamloom"]).items()}
                pickled = read_pickled(self._pickle)
                if pickled.keys() != keys.keys() or not all(
                    is_same(read_numbers(self._pickle, value, "bfloat16", 3), file.get_tensor(keys[text]), "bfloat16")
                    for text, value in pickled.items()
                ):
                    yield f"{self._pickle}: it does not hold what {self._path.name} does"
            for text in dict.fromkeys((episode.plan.instruction, "")):
                values = file.get_tensor(sha256(text.encode()).hexdigest())
                given = episode.embeddings[text].values
                if (
                    values.dtype != np.float32
                    or values.shape[::2] != (1, given.shape[1])
                    or values[0, len(given) :].any()
                ):
                    yield f"{self._path}: what it holds of {text[:80]!r} is not one embedding with zeros behind it"
                    continue
                yield from episode.text(self._path, text, values[0, : len(given)], "float32")


def open_group(folder: Path, group: Mapping[str, Any]) -> _CosmosPolicy:  # noqa: ARG001 - of the protocol
    """See ``pipelines.joined``."""
    return _CosmosPolicy(folder)
