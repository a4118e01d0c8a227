"""WebDataset: one tar per unit, one window of ``horizon`` steps per sample, read with the stock decoders.

Members of a sample are adjacent and share a key of ``[A-Za-z0-9_-]``: ``json`` (lineage), ``action.npy``, ``mask.npy``,
``proprio.npy``, ``tokens.npy``, ``txt``, and per view ``<slot>.<step>.jpg`` and / or ``<slot>.latent.npy``. Windows that
reach beyond the episode, or a gap in it, repeat the last step before and are masked there. A window has the instruction
of its first step. Nothing in a tar depends on clock, user or host.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pipelines.formats import (
    BuiltEpisode,
    GroupPlan,
    UnitPlan,
    UnitProgress,
    UnitWriter,
    describe_group,
    planned_counts,
)
from pipelines.read_back import finished, unreadable
from pipelines.storage import fsync_file, fsync_folder, json_bytes, write_durably
from pipelines.window_latents import window_latents
from schemas.errors import ReleaseError
from schemas.recipes import BuildRecipe
from schemas.time import NANOSECONDS, parse_rate

JPEG_QUALITY = 95
"""With full chroma (4:4:4)."""
_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHARD_MEMBER_BYTES = 1 << 33
"""USTAR holds sizes below 8 GiB."""
_BLOCK_NUMBERS = 1 << 20
"""Of chunks that are made at a time: many at once cost far less than one by one, all at once may not fit into memory."""


class _Shard:
    """Writes one unit; see ``UnitWriter``. Holds the compressed frames of one episode at a time."""

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        self._unit, self._recipe = unit, recipe
        self._path = folder / f"shard-{unit.file_index:06d}.tar"
        folder.mkdir(parents=True, exist_ok=True)
        self._path.unlink(
            missing_ok=True
        )  # a writer of a failed attempt that still lives keeps the old file, not this one
        self._progress = UnitProgress(unit)
        self._period_ns = int(NANOSECONDS / parse_rate(unit.group.rate))
        self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - closed in close()
        self._jpegs: dict[str, list[bytes]] = {}
        self._keys: set[str] = set()

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        self._jpegs = {slot: [] for slot, _, _ in self._unit.group.views}

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._progress.frames(slot, first_step, frames)
        self._jpegs[slot] += [_jpeg(frame) for frame in frames]

    def end(self) -> None:
        episode = self._progress.episode
        self._progress.end()
        for number, (step, chunk, counts) in enumerate(_chunks(episode, self._unit.group, self._recipe.horizon)):
            key = f"{episode.plan.episode_id[:16]}-{step:06d}"
            if not _KEY.fullmatch(key) or key in self._keys:
                raise ReleaseError(
                    f"{key!r} is not a key of its own made of letters, digits, - and _",
                    str(self._path),
                    "episode ids are hex digits that differ in the first 16; was this one made elsewhere?",
                    "bad_key",
                )
            self._keys.add(key)
            for suffix, data in self._members(episode, number, step, chunk, counts):
                self._add(f"{key}.{suffix}", data)
        self._jpegs = {}

    def close(self) -> dict[str, Any]:
        self._progress.close()
        self._tar.close()
        fsync_file(self._path)
        fsync_folder(self._path.parent)
        return {"samples": len(self._keys)}

    def _members(
        self, episode: BuiltEpisode, number: int, step: int, chunk: np.ndarray, counts: np.ndarray
    ) -> Iterable[tuple[str, bytes]]:
        """(suffix, content) of one sample."""
        wanted: np.ndarray = step + np.arange(self._recipe.horizon)
        stop = min(step + self._recipe.horizon, int(episode.chunk_stops[step]))
        there = wanted < stop
        steps = np.minimum(wanted, stop - 1)
        text = episode.plan.text_at(step)
        latents = {
            slot: window_latents(clips, episode.times_ns, self._period_ns, step, stop)
            for slot, clips in sorted(episode.latents.items())
        }
        lineage = {
            "sample": episode.plan.first_sample + number,
            "group": self._unit.group.name,
            "robot": self._unit.group.robot,
            "rate": self._unit.group.rate,
            "license": self._unit.group.license,
            "episode_id": episode.plan.episode_id,
            "episode_index": episode.plan.episode_index,
            "location": episode.location,
            "source_key": episode.source_key,
            "instruction": text,
            "step": step,
            "num_steps": int(there.sum()),
            "times_ns": episode.times_ns[steps].tolist(),
            "source_rows": episode.source_rows[steps].tolist(),
            "source_times_ns": episode.source_times_ns[steps].tolist(),
            "frame_ids": {slot: ids[steps].tolist() for slot, ids in sorted(episode.frame_ids.items())},
            "frame_times_ns": {slot: times[steps].tolist() for slot, times in sorted(episode.frame_times_ns.items())},
            "latents": {slot: spans for slot, (_, spans) in latents.items()},
        }
        yield "json", json.dumps(lineage, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        yield "action.npy", _npy(chunk)
        yield "mask.npy", _npy(counts)
        yield "proprio.npy", _npy(episode.proprio[steps])
        if episode.tokens is not None:
            yield "tokens.npy", _npy(episode.tokens[number].astype(np.int64))
        yield "txt", text.encode()
        for slot, jpegs in self._jpegs.items():
            for position, at in enumerate(steps.tolist()):
                yield f"{slot}.{position:03d}.jpg", jpegs[at]
        for slot, (values, _) in latents.items():
            yield f"{slot}.latent.npy", _npy(values)

    def _add(self, name: str, data: bytes) -> None:
        if len(data) >= _MAX_SHARD_MEMBER_BYTES:
            raise ReleaseError(f"{name} has {len(data)} bytes", str(self._path), "lower horizon", "too_large")
        member = tarfile.TarInfo(name)  # mtime 0, uid and gid 0, no names
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))


class _WebDataset:
    name = "webdataset"
    beside = ""
    windowed = True
    takes_latents = True

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _Shard(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        for unit, facts in units:
            planned = sum(episode.num_samples for episode in unit.episodes)
            if facts["samples"] != planned:
                raise ReleaseError(
                    f"shard {unit.file_index} holds {facts['samples']} samples, planned were {planned}",
                    group.name,
                    "build again",
                    "off_plan",
                )
        index = {
            "format": "webdataset",
            "group": group.name,
            **describe_group(group, recipe),
            "num_samples": sum(facts["samples"] for _, facts in units),
            "num_episodes": group.num_episodes,
            "shards": [
                {"file": f"shard-{unit.file_index:06d}.tar", "samples": facts["samples"]} for unit, facts in units
            ],
        }
        write_durably(folder / "index.json", json_bytes(index))
        return planned_counts(group, recipe, [unit for unit, _ in units], self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        finished(folder / "index.json")
        samples, frames, episodes = 0, 0, set()
        for path in sorted(folder.glob("shard-*.tar")):
            try:
                with tarfile.open(path, "r:") as tar:
                    for member in tar:
                        key, _, suffix = member.name.partition(".")
                        file = tar.extractfile(member)
                        if not member.isfile() or not _KEY.fullmatch(key) or file is None:
                            raise ReleaseError(f"unexpected member {member.name!r}", str(path), "build it again")
                        frames += suffix.endswith(".jpg")
                        if suffix == "json":
                            samples += 1
                            episodes.add(json.loads(file.read())["episode_id"])
            except (tarfile.TarError, OSError, ValueError, KeyError) as error:
                raise unreadable(path, error) from error
            if path.stat().st_size % tarfile.RECORDSIZE:
                raise ReleaseError(
                    "cut short: not a whole number of records", str(path), "build it again", "unreadable"
                )
        return {"samples": samples, "frames": frames, "episodes": len(episodes)}


def _chunks(episode: BuiltEpisode, group: GroupPlan, horizon: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first step, chunk [H, W], bool [H] of what counts) of every sample, in order."""
    size = max(1, _BLOCK_NUMBERS // (horizon * len(group.chunk.names)))
    for first in range(0, len(episode.sample_steps), size):
        steps = episode.sample_steps[first : first + size]
        yield from zip(steps.tolist(), *episode.chunks.at(steps), strict=True)


def _jpeg(frame: np.ndarray) -> bytes:
    pixels = np.ascontiguousarray(frame)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"))


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


FORMAT = _WebDataset()
