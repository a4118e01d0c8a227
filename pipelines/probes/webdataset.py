"""Reads WebDataset releases back: every sample's ``json`` tells its steps, and the group's index how many each shard has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pipelines.probes import EpisodeRows, LatentSpan, SampleContent, episode_at
from pipelines.webdataset_shards import Shards
from schemas.errors import ReleaseError


class _WebDataset:
    """See ``Probe``."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        self._shards = Shards(folder)

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        path, samples = self._shards.of(episode["first_sample"]) if episode["num_samples"] else (self._folder, {})
        found = {number: one for number, one in samples.items() if one[0]["episode_id"] == episode["episode_id"]}
        names = [view["slot"] for view in self._group["views"]]
        steps: list[int] = []
        times: list[int] = []
        rows: list[int] = []
        proprio: list[np.ndarray] = []
        frames: dict[str, list[int]] = {name: [] for name in names}
        for facts, members in found.values():
            count = facts["num_steps"]  # what follows repeats the last
            steps += range(facts["step"], facts["step"] + count)
            times += facts["times_ns"][:count]
            rows += facts["source_rows"][:count]
            for name in names:
                frames[name] += facts["frame_ids"][name][:count]
            proprio.append(self._shards.array(path, members["proprio.npy"])[:count])
        widths = len(self._group["proprio_names"])
        return EpisodeRows(
            steps=np.array(steps, dtype=np.int64),
            samples=np.array(list(found), dtype=np.int64),
            times_ns=np.array(times, dtype=np.int64),
            source_rows=np.array(rows, dtype=np.int64),
            frame_ids={name: np.array(ids, dtype=np.int64) for name, ids in frames.items()},
            vectors={"proprio": np.concatenate(proprio)} if proprio and widths else {},
        )

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        path, samples = self._shards.of(episode["first_sample"])
        wanted: dict[int, np.ndarray] = {}
        for facts, members in samples.values():
            if facts["episode_id"] != episode["episode_id"]:
                continue
            for position in range(facts["num_steps"]):
                step = facts["step"] + position
                if step in steps and step not in wanted:
                    data = self._shards.read(path, members[f"{view}.{position:03d}.jpg"])
                    wanted[step] = simplejpeg.decode_jpeg(data, colorspace="RGB")
        missing = [step for step in steps if step not in wanted]
        if missing:
            raise ReleaseError(f"no window shows step {missing[0]}", str(path), "build it again", "unreadable")
        return np.stack([wanted[step] for step in steps])

    def sample(self, number: int) -> SampleContent:
        episode = episode_at(self._group, number, "first_sample", "num_samples")
        path, samples = self._shards.of(number)
        facts, members = samples[number]
        chunk, tokens = self._shards.array(path, members["action.npy"]), members.get("tokens.npy")
        last = facts["step"] + facts["num_steps"] - 1
        return SampleContent(
            episode_index=episode["episode_index"],
            step=facts["step"],
            steps=tuple(min(facts["step"] + offset, last) for offset in range(len(chunk))),
            chunk_names=tuple(self._group["action_chunk"]["names"]),
            chunk=chunk,
            mask=self._shards.array(path, members["mask.npy"]),
            tokens=None if tokens is None else tuple(self._shards.array(path, tokens).tolist()),
            latents=tuple(
                LatentSpan(
                    view,
                    span["latent_id"],
                    span["latent"],
                    tuple(span["frame_ids"]),
                    (span["times_ns"][0], span["times_ns"][1]),
                    tuple(self._shards.array(path, members[f"{view}.latent.npy"]).shape[1:]),
                )
                for view, spans in sorted(facts["latents"].items())
                for span in spans
            ),
        )


def open_group(folder: Path, group: Mapping[str, Any]) -> _WebDataset:
    """The probe of a group's folder."""
    return _WebDataset(folder, group)
