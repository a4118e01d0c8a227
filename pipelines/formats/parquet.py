"""Parquet for Hugging Face ``datasets``: one row per step, pictures as JPEG in ``Image`` columns, one file per unit.

``load_dataset("<folder>")`` opens it, as does ``load_dataset("parquet", data_dir="<folder>")``; the features lie in the
schema of each file. Every row has the action chunk that begins there; tokens stand where a windowed sample begins and
are null elsewhere.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
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
from schemas.errors import ReleaseError
from schemas.recipes import BuildRecipe

JPEG_QUALITY = 95
"""With full chroma (4:4:4)."""
ROWS_PER_GROUP = 100
"""What ``datasets`` itself uses for tables with pictures: small enough for random access."""
MAX_GROUP_NUMBERS = 1 << 25
"""Of the action chunks of a row group, which is in memory whole; with very long ones it has fewer rows."""
INDEX = "dataset_info.json"
"""A name that ``datasets`` leaves out when it takes every file of a folder for data."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class _ParquetUnit:
    """Writes one unit; see ``UnitWriter``. Holds the compressed frames of one episode at a time."""

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        self._unit, self._recipe = unit, recipe
        self._path = folder / _file_name(unit)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(
            missing_ok=True
        )  # a writer of a failed attempt that still lives keeps the old file, not this one
        self._progress = UnitProgress(unit)
        self._schema = _schema(unit.group, recipe)
        self._file = pq.ParquetWriter(
            self._path,
            self._schema,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=["episode_id", "instruction"],  # nothing else repeats
        )
        self._jpegs: dict[str, list[bytes]] = {}
        self._num_rows = 0

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        self._jpegs = {slot: [] for slot, _, _ in self._unit.group.views}

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._progress.frames(slot, first_step, frames)
        self._jpegs[slot] += [
            bytes(
                simplejpeg.encode_jpeg(
                    np.ascontiguousarray(frame), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"
                )
            )
            for frame in frames
        ]

    def end(self) -> None:
        episode = self._progress.episode
        self._progress.end()
        size = max(1, self._recipe.horizon * len(self._unit.group.chunk.names))
        rows = max(1, min(ROWS_PER_GROUP, MAX_GROUP_NUMBERS // size))
        for start in range(0, episode.plan.num_steps, rows):
            steps = np.arange(start, min(start + rows, episode.plan.num_steps))
            columns = self._columns(episode, steps)
            arrays = [columns[name] for name in self._schema.names]
            self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=ROWS_PER_GROUP)
        self._num_rows += episode.plan.num_steps
        self._jpegs = {}

    def close(self) -> dict[str, Any]:
        self._progress.close()
        self._file.close()
        fsync_file(self._path)
        fsync_folder(self._path.parent)
        return {"rows": self._num_rows}

    def _columns(self, episode: BuiltEpisode, steps: np.ndarray) -> dict[str, pa.Array]:
        """Every column of the rows ``steps`` of the episode."""
        plan = episode.plan
        chunks, chunk_mask = episode.chunks.at(steps)
        columns = {
            "episode_id": pa.array([plan.episode_id] * len(steps), pa.string()),
            "episode_index": pa.array(np.full(len(steps), plan.episode_index), pa.int64()),
            "step": pa.array(steps, pa.int64()),
            "index": pa.array(plan.first_step + steps, pa.int64()),
            "time_ns": pa.array(episode.times_ns[steps], pa.int64()),
            "action_chunk": _fixed(chunks),
            "chunk_mask": _fixed(chunk_mask),
            "valid": pa.array(episode.valid[steps], pa.bool_()),
            "instruction": pa.array([plan.text_at(step) for step in steps.tolist()], pa.string()),
            "source_row": pa.array(episode.source_rows[steps], pa.int64()),
            "source_time_ns": pa.array(episode.source_times_ns[steps], pa.int64()),
        }
        if episode.selected is not None:
            columns["selected"] = pa.array(episode.selected[steps], pa.bool_())
        if self._unit.group.action_names:
            columns["action"] = _fixed(episode.action[steps])
        if self._unit.group.proprio_names:
            columns["proprio"] = _fixed(episode.proprio[steps])
        if episode.tokens is not None and "tokens" in self._schema.names:
            found = dict(zip(episode.sample_steps.tolist(), episode.tokens, strict=True))
            columns["tokens"] = pa.array([found.get(step) for step in steps.tolist()], pa.list_(pa.int64()))
        for slot, jpegs in self._jpegs.items():
            columns[f"frame_id_{slot}"] = pa.array(episode.frame_ids[slot][steps], pa.int64())
            names = [f"{plan.episode_id[:16]}-{step:06d}-{slot}.jpg" for step in steps.tolist()]
            images = pa.array([jpegs[step] for step in steps.tolist()], pa.binary())
            columns[f"image_{slot}"] = pa.StructArray.from_arrays(
                [images, pa.array(names, pa.string())], fields=list(_IMAGE)
            )
        missing = set(self._schema.names) - set(columns)
        if missing:
            raise ReleaseError(
                f"episode {plan.episode_id} lacks {sorted(missing)}",
                str(self._path),
                "plan the build again",
                "off_plan",
            )
        return columns


class _Parquet:
    name = "parquet"
    beside = ""
    windowed = False
    takes_latents = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _ParquetUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        num_rows = sum(facts["rows"] for _, facts in units)
        if num_rows != group.num_steps:
            raise ReleaseError(
                f"{num_rows} rows were written, {group.num_steps} were planned", group.name, "build again", "off_plan"
            )
        index = {
            "format": "parquet",
            "group": group.name,
            **describe_group(group, recipe),
            "num_rows": num_rows,
            "num_episodes": group.num_episodes,
            "files": [{"file": _file_name(unit), "rows": facts["rows"]} for unit, facts in units],
        }
        write_durably(folder / INDEX, json_bytes(index))
        return planned_counts(group, recipe, [unit for unit, _ in units], self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        finished(folder / INDEX)
        samples, frames, episodes = 0, 0, set()
        for path in sorted(folder.glob("data/*.parquet")):
            try:
                file = pq.ParquetFile(path, page_checksum_verification=True)
                names = [name for name in file.schema_arrow.names if name.startswith("image_")]
                for batch in file.iter_batches(ROWS_PER_GROUP, columns=["episode_id", *names]):
                    samples += batch.num_rows
                    episodes |= set(batch["episode_id"].to_pylist())
                    frames += sum(batch.num_rows - batch[name].field("bytes").null_count for name in names)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(path, error) from error
        return {"samples": samples, "frames": frames, "episodes": len(episodes)}


def _file_name(unit: UnitPlan) -> str:
    return f"data/{unit.file_index:05d}.parquet"


def _fixed(values: np.ndarray) -> pa.Array:
    """``values`` [n, ...] as n nested lists of fixed size."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _schema(group: GroupPlan, recipe: BuildRecipe) -> pa.Schema:
    """Arrow fields, and the same in the words of ``datasets`` (written out, since importing it takes seconds)."""
    action, proprio, chunk = len(group.action_names), len(group.proprio_names), len(group.chunk.names)
    fields: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
        "episode_id": (pa.string(), _value("string")),
        "episode_index": (pa.int64(), _value("int64")),
        "step": (pa.int64(), _value("int64")),
        "index": (pa.int64(), _value("int64")),
        "time_ns": (pa.int64(), _value("int64")),
        "action": (pa.list_(pa.float32(), action), _sequence(_value("float32"), action)),
        "proprio": (pa.list_(pa.float32(), proprio), _sequence(_value("float32"), proprio)),
        "valid": (pa.bool_(), _value("bool")),
        "instruction": (pa.string(), _value("string")),
        "action_chunk": (
            pa.list_(pa.list_(pa.float32(), chunk), recipe.horizon),
            _sequence(_sequence(_value("float32"), chunk), recipe.horizon),
        ),
        "chunk_mask": (pa.list_(pa.bool_(), recipe.horizon), _sequence(_value("bool"), recipe.horizon)),
        "tokens": (pa.list_(pa.int64()), _sequence(_value("int64"), -1)),
        "source_row": (pa.int64(), _value("int64")),
        "source_time_ns": (pa.int64(), _value("int64")),
    }
    for name, width in (("action", action), ("proprio", proprio)):
        if not width:
            del fields[name]
    if recipe.segments.is_set:
        fields["selected"] = (pa.bool_(), _value("bool"))
    if group.tokenizer_json is None:
        del fields["tokens"]
    for slot, _, _ in group.views:
        fields[f"frame_id_{slot}"] = (pa.int64(), _value("int64"))
        fields[f"image_{slot}"] = (_IMAGE, {"_type": "Image"})
    features = {"info": {"features": {name: feature for name, (_, feature) in fields.items()}}}
    return pa.schema(
        [(name, kind) for name, (kind, _) in fields.items()], metadata={"huggingface": json.dumps(features)}
    )


def _value(kind: str) -> dict[str, Any]:
    return {"dtype": kind, "_type": "Value"}


def _sequence(feature: dict[str, Any], length: int) -> dict[str, Any]:
    # versions of ``datasets`` before and after 4.0 read this name; "List" only the later ones
    return {"feature": feature, "length": length, "_type": "Sequence"}


FORMAT = _Parquet()
