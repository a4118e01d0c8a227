"""Reads Parquet releases back: the files of a group hold its steps in order, and its index says how many each has."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import simplejpeg

from pipelines.probes import EpisodeRows, SampleContent, episode_at
from pipelines.storage import inside


class _Parquet:
    """See ``Probe``. Holds the numbers of one file."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        self._files = json.loads((folder / "dataset_info.json").read_bytes())["files"]
        self._open: tuple[Path, pa.Table] | None = None

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        table = self._numbers(episode)
        steps = table["step"].to_numpy()
        return EpisodeRows(
            steps=steps,
            samples=table["index"].to_numpy(),
            times_ns=table["time_ns"].to_numpy(),
            source_rows=table["source_row"].to_numpy(),
            frame_ids={view["slot"]: table[f"frame_id_{view['slot']}"].to_numpy() for view in self._group["views"]},
            vectors={name: _array(table[name]) for name in ("action", "proprio") if name in table.column_names},
        )

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        path, first = self._place(episode)
        column = pq.read_table(path, columns=[f"image_{view}"], page_checksum_verification=True).column(0)
        found = [column[episode["first_step"] - first + step]["bytes"].as_py() for step in steps]
        return np.stack([simplejpeg.decode_jpeg(data, colorspace="RGB") for data in found])

    def sample(self, number: int) -> SampleContent:
        episode = episode_at(self._group, number, "first_step", "num_steps")
        path, first = self._place(episode)
        known = pq.read_schema(path).names
        columns = [name for name in ("action_chunk", "chunk_mask", "tokens") if name in known]
        row = pq.read_table(path, columns=columns).slice(number - first, 1).to_pylist()[0]
        step, mask = number - episode["first_step"], np.array(row["chunk_mask"], dtype=bool)
        last = episode["num_steps"] - 1
        chunk = np.array(row["action_chunk"], dtype=np.float32)
        return SampleContent(
            episode_index=episode["episode_index"],
            step=step,
            steps=tuple(min(step + offset, last) for offset in range(len(chunk))),
            chunk_names=tuple(self._group["action_chunk"]["names"]),
            chunk=chunk,
            mask=mask,
            tokens=None if row.get("tokens") is None else tuple(row["tokens"]),
            latents=(),
        )

    def _place(self, episode: Mapping[str, Any]) -> tuple[Path, int]:
        """The file of an episode, and the index of its first row."""
        first = 0
        for entry in self._files:
            if episode["first_step"] < first + entry["rows"]:
                break
            first += entry["rows"]
        return inside(self._folder, entry["file"]), first

    def _numbers(self, episode: Mapping[str, Any]) -> pa.Table:
        path, _ = self._place(episode)
        if self._open is None or self._open[0] != path:
            left_out = ("image_", "action_chunk", "chunk_mask", "tokens", "instruction", "episode_id")
            names = [name for name in pq.read_schema(path).names if not name.startswith(left_out)]
            self._open = path, pq.read_table(path, columns=names, page_checksum_verification=True)
        return self._open[1].filter(pc.field("episode_index") == episode["episode_index"])


def _array(column: pa.ChunkedArray) -> np.ndarray:
    whole = column.combine_chunks()
    return np.asarray(whole.flatten().to_numpy(zero_copy_only=False)).reshape(len(whole), -1)


def open_group(folder: Path, group: Mapping[str, Any]) -> _Parquet:
    """The probe of a group's folder."""
    return _Parquet(folder, group)
