"""Reads WebDataset releases back: every sample's ``json`` tells its steps, and the group's index how many each shard has."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pipelines.probes import EpisodeRows, LatentSpan, SampleContent, episode_at
from pipelines.storage import inside
from schemas.errors import ReleaseError

_Members = dict[str, tuple[int, int]]
"""By suffix: where a member of a sample begins in its shard, and its size."""


class _WebDataset:
    """See ``Probe``. Holds the facts of one shard, and where its members lie."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        self._shards = json.loads((folder / "index.json").read_bytes())["shards"]
        self._open: tuple[Path, dict[int, tuple[dict[str, Any], _Members]]] | None = None

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        path, samples = self._shard(episode["first_sample"]) if episode["num_samples"] else (self._folder, {})
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
            proprio.append(self._array(path, members["proprio.npy"])[:count])
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
        path, samples = self._shard(episode["first_sample"])
        wanted: dict[int, np.ndarray] = {}
        for facts, members in samples.values():
            if facts["episode_id"] != episode["episode_id"]:
                continue
            for position in range(facts["num_steps"]):
                step = facts["step"] + position
                if step in steps and step not in wanted:
                    data = self._bytes(path, members[f"{view}.{position:03d}.jpg"])
                    wanted[step] = simplejpeg.decode_jpeg(data, colorspace="RGB")
        missing = [step for step in steps if step not in wanted]
        if missing:
            raise ReleaseError(f"no window shows step {missing[0]}", str(path), "build it again", "unreadable")
        return np.stack([wanted[step] for step in steps])

    def sample(self, number: int) -> SampleContent:
        episode = episode_at(self._group, number, "first_sample", "num_samples")
        path, samples = self._shard(number)
        facts, members = samples[number]
        chunk, tokens = self._array(path, members["action.npy"]), members.get("tokens.npy")
        last = facts["step"] + facts["num_steps"] - 1
        return SampleContent(
            episode_index=episode["episode_index"],
            step=facts["step"],
            steps=tuple(min(facts["step"] + offset, last) for offset in range(len(chunk))),
            chunk_names=tuple(self._group["action_chunk"]["names"]),
            chunk=chunk,
            mask=self._array(path, members["mask.npy"]),
            tokens=None if tokens is None else tuple(self._array(path, tokens).tolist()),
            latents=tuple(
                LatentSpan(
                    view,
                    span["latent_id"],
                    span["latent"],
                    tuple(span["frame_ids"]),
                    (span["times_ns"][0], span["times_ns"][1]),
                    values,
                )
                for view, spans in sorted(facts["latents"].items())
                for span, values in zip(spans, self._array(path, members[f"{view}.latent.npy"]), strict=True)
            ),
        )

    def _shard(self, number: int) -> tuple[Path, dict[int, tuple[dict[str, Any], _Members]]]:
        """The shard of a sample, and by number its samples."""
        first = 0
        for entry in self._shards:
            if number < first + entry["samples"]:
                break
            first += entry["samples"]
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
            yield json.loads(self._bytes(path, members["json"])), members

    def _array(self, path: Path, place: tuple[int, int]) -> np.ndarray:
        return np.asarray(np.load(io.BytesIO(self._bytes(path, place)), allow_pickle=False))

    def _bytes(self, path: Path, place: tuple[int, int]) -> bytes:
        offset, size = place
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def open_group(folder: Path, group: Mapping[str, Any]) -> _WebDataset:
    """The probe of a group's folder."""
    return _WebDataset(folder, group)
