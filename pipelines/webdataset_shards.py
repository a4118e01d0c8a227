"""The shards of a WebDataset release, found by the group's index: which sample lies where, and what its members hold."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.storage import inside
from schemas.errors import ReleaseError

_Members = dict[str, tuple[int, int]]
"""By suffix: where a member of a sample begins in its shard, and its size."""


class Shards:
    """Those of a group. Holds the facts of one shard, and where its members lie."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards = json.loads((folder / "index.json").read_bytes())["shards"]
        self._open: tuple[Path, dict[int, tuple[dict[str, Any], _Members]]] | None = None

    def of(self, number: int) -> tuple[Path, dict[int, tuple[dict[str, Any], _Members]]]:
        """The shard of a sample, and by number its samples: what is told of each, and its members."""
        first = 0
        for entry in self._shards:
            if number < first + entry["samples"]:
                break
            first += entry["samples"]
        else:
            raise ReleaseError(f"no shard has sample {number}", str(self._folder), "build it again", "unreadable")
        path = inside(self._folder, entry["file"])
        if self._open is None or self._open[0] != path:
            self._open = path, {facts["sample"]: (facts, members) for facts, members in self._samples(path)}
        return self._open

    def _samples(self, path: Path) -> Iterator[tuple[dict[str, Any], _Members]]:
        found: dict[str, _Members] = {}
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = member.offset_data, member.size
        for members in found.values():
            yield json.loads(self.read(path, members["json"])), members

    def array(self, path: Path, place: tuple[int, int]) -> np.ndarray:
        """A member that is an array."""
        return np.asarray(np.load(io.BytesIO(self.read(path, place)), allow_pickle=False))

    def read(self, path: Path, place: tuple[int, int]) -> bytes:
        """A member."""
        offset, size = place
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
