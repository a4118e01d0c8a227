"""Reads the latents of Ctrl-World back: one for each frame of a video, of which frame i is step ``i * stride``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.joined import HeldLatent
from pipelines.read_back import read_index, unreadable
from pipelines.torch_files import read_torch


class _CtrlWorld:
    """See ``JoinedProbe``. Holds the index."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder = folder
        index = read_index(folder / "dataset_meta_info" / group["name"] / "index.json")
        self._stride: int = index["frame_stride"]
        self._cameras: list[str] = index["cameras"]

    def of(self, episode: Mapping[str, Any], lineage: pa.Table) -> Iterator[HeldLatent]:
        where = self._folder / "latent_videos" / episode["split"] / str(episode["episode_index"])
        valid = lineage["valid"].to_numpy(zero_copy_only=False)[:: self._stride]
        for camera, view in enumerate(self._cameras if where.exists() else ()):  # there may be videos alone
            path = where / f"{camera}.pt"
            values = read_torch(path).numpy()
            frames = lineage[f"frame_id_{view}"].to_numpy()[:: self._stride]
            if len(values) != len(frames):
                raise unreadable(path, f"it has {len(values)} latents for {len(frames)} frames")
            for at in valid.nonzero()[0].tolist():  # what does not count has the latent that was there last
                yield HeldLatent(str(path), view, (int(frames[at]),), values[at], dtype="float32")


def open_group(folder: Path, group: Mapping[str, Any]) -> _CtrlWorld:
    """See ``pipelines.joined``."""
    return _CtrlWorld(folder, group)
