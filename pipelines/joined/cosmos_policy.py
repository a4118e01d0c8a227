"""Proves Cosmos Policy's embeddings: those of the safetensors file, and that the pickle which it reads holds the same.

The pickle is not opened, since that runs what is in it: it is made again, and must have the same bytes.
"""

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from pipelines.joined import JoinedEpisode
from pipelines.torch_files import pickled_tensors


class _CosmosPolicy:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path) -> None:
        self._path, self._pickle = folder / "t5_embeddings.safetensors", folder / "t5_embeddings.pkl"
        self._same_pickle: bool | None = None

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        with safetensors.safe_open(str(self._path), "numpy") as file:
            if self._same_pickle is None:
                keys = {text: key for key, text in json.loads(file.metadata()["wamloom"]).items()}
                held = {text: file.get_tensor(key) for text, key in sorted(keys.items())}
                self._same_pickle = pickled_tensors(held, "bfloat16") == self._pickle.read_bytes()
                if not self._same_pickle:
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
