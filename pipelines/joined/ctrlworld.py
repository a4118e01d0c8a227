"""Proves the latents of Ctrl-World: one for each frame of a video, of which frame i is step ``i * stride``."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.joined import JoinedEpisode
from pipelines.joined_episode import is_same
from pipelines.latent_steps import FrameLatents
from pipelines.read_back import read_index
from pipelines.torch_files import read_numbers, read_torch


class _CtrlWorld:
    """See ``JoinedProbe``. Holds the index."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder = folder
        index = read_index(folder / "dataset_meta_info" / group["name"] / "index.json")
        self._stride: int = index["frame_stride"]
        self._cameras: list[str] = index["cameras"]

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        if not episode.joins_latents:
            return
        name = f"{episode.plan.split}/{episode.plan.episode_index}"
        annotation = self._folder / "annotation" / f"{name}.json"
        listed = [one["latent_video_path"] for one in json.loads(annotation.read_bytes()).get("latent_videos", ())]
        wanted = [f"latent_videos/{name}/{camera}.pt" for camera in range(len(self._cameras))]
        if listed != wanted:
            yield f"{annotation}: its latents are not those of its cameras, in their order"
            return
        valid = episode.lineage["valid"].to_numpy(zero_copy_only=False)[:: self._stride]
        times = episode.lineage["time_ns"].to_numpy()[:: self._stride]
        for view, one in zip(self._cameras, wanted, strict=True):
            path = self._folder / one
            values = read_numbers(path, read_torch(path), "float32", 4)
            frames = episode.lineage[f"frame_id_{view}"].to_numpy()[:: self._stride]
            if len(values) != len(frames):
                yield f"{path}: it has {len(values)} latents for {len(frames)} frames"
                continue
            known = FrameLatents(episode.clips.get(view, ()))
            for at, (frame, time_ns) in enumerate(zip(frames.tolist(), times.tolist(), strict=True)):
                if valid[at]:
                    yield from episode.latent(path, view, (frame,), values[at], "float32")
                    continue
                before = known.before(frame, time_ns)  # what does not count has the latent that was there last
                if episode.is_unchanged and (before is None or not is_same(values[at], before, "float32")):
                    yield f"{path}: the latent of step {at * self._stride}, which does not count, is not the one before it"


def open_group(folder: Path, group: Mapping[str, Any]) -> _CtrlWorld:
    """See ``pipelines.joined``."""
    return _CtrlWorld(folder, group)
