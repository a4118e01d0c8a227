"""LeRobot v3.0: one Parquet file, one MP4 per view and one episode table per unit; ``info.json`` comes last.

Rows carry their lineage in columns of their own (``lineage.*``), which LeRobot's policies leave alone. Latents, where the
recipe asks for them, lie beside the data as ``latents/<slot>/episode_<index>_<clip>.safetensors``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from pipelines.formats import BuiltEpisode, GroupPlan, Pictures, UnitPlan, UnitProgress, UnitWriter, planned_counts
from pipelines.lerobot_tables import (
    CHUNK_SIZE,
    INDICES,
    PARQUET,
    PictureLevels,
    Rows,
    all_tasks,
    check_planned,
    check_times,
    columns_of,
    features,
    frames_per_second,
    group_stats,
    splits,
    video_key,
)
from pipelines.read_back import finished, num_frames, num_rows
from pipelines.stats import QUANTILES
from pipelines.storage import fsync_file, fsync_folder, json_bytes, write_durably
from pipelines.video_writer import VideoWriter
from schemas.latent import LatentClip
from schemas.recipes import BuildRecipe
from schemas.time import parse_rate

CODEBASE_VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"

_STATISTICS = ("min", "max", "mean", "std", "count", *QUANTILES)
_TOO_LONG = "lower unit_frames, so that fewer episodes share a file: those under 1,000 s are safe"


class _LeRobotUnit:
    """Writes one unit; see ``CopyingWriter``."""

    copies = True

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        self._unit, self._recipe, self._folder = unit, recipe, folder
        self._place = {"chunk_index": unit.file_index // CHUNK_SIZE, "file_index": unit.file_index % CHUNK_SIZE}
        self._progress = UnitProgress(unit)
        self._table = Rows(unit.group, recipe)
        first_frame = 0
        for episode in unit.episodes:  # of which the plan opens the longest units, so that it is told before any work
            check_times(unit.group, episode, first_frame, _TOO_LONG)
            first_frame += episode.num_steps
        rate = parse_rate(unit.group.rate)
        self._videos = {
            view: VideoWriter(
                self._path(VIDEO_PATH, video_key=video_key(recipe, view)), rate, height, width, recipe.video
            )
            for view, height, width in unit.group.views
        }
        data_path = self._path(DATA_PATH)
        data_path.parent.mkdir(parents=True, exist_ok=True)
        data_path.unlink(
            missing_ok=True
        )  # a writer of a failed attempt that still lives keeps the old file, not this one
        self._data_path = data_path
        self._data = pq.ParquetWriter(data_path, self._table.schema, **PARQUET)
        self._rows: list[dict[str, Any]] = []
        self._levels = PictureLevels(self._videos)
        self._first_frame = 0

    def _path(self, template: str, **names: str) -> Path:
        return self._folder / template.format(**self._place, **names)

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        self._levels.begin()
        self._data.write_table(self._table.table(episode))

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._progress.frames(slot, first_step, frames)
        self._videos[slot].write(frames, key_frame=first_step == 0)
        self._levels.add(slot, first_step, frames, self._progress.episode.plan.num_steps)

    def copy(self, slot: str, video: bytes, pictures: Pictures) -> None:
        num_steps, before = self._progress.episode.plan.num_steps, self._videos[slot].num_frames
        self._videos[slot].copy(video)
        self._progress.copied(slot, self._videos[slot].num_frames - before)
        self._levels.add_copied(slot, pictures, num_steps)

    def end(self) -> None:
        episode = self._progress.episode
        self._progress.end()
        for slot, clips in sorted(episode.latents.items()):
            digits = max(3, len(str(len(clips) - 1)))  # so that names sort as clips do
            for number, clip in enumerate(clips):
                name = f"latents/{slot}/episode_{episode.plan.episode_index:06d}_{number:0{digits}d}.safetensors"
                write_durably(self._folder / name, _latent_bytes(clip))
        self._rows.append(self._episode_row(episode))
        self._first_frame += episode.plan.num_steps

    def close(self) -> dict[str, Any]:
        self._progress.close()
        for video in self._videos.values():
            video.close()
        self._data.close()
        episodes_path = self._path(EPISODES_PATH)
        episodes_path.parent.mkdir(parents=True, exist_ok=True)
        schema = _episode_schema(self._unit.group, self._recipe)
        pq.write_table(pa.Table.from_pylist(self._rows, schema), episodes_path, **PARQUET)
        for path in (self._data_path, episodes_path):
            fsync_file(path)
            fsync_folder(path.parent)
        return self._levels.facts()

    def _episode_row(self, episode: BuiltEpisode) -> dict[str, Any]:
        plan = episode.plan
        chunk, file = self._place["chunk_index"], self._place["file_index"]
        row: dict[str, Any] = {
            "episode_index": plan.episode_index,
            "tasks": all_tasks(plan, self._recipe),
            "length": plan.num_steps,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": plan.first_step,
            "dataset_to_index": plan.first_step + plan.num_steps,
            "meta/episodes/chunk_index": chunk,
            "meta/episodes/file_index": file,
            # Cosmos 3 looks up DROID's keep-ranges by it: the path of the recording (``droid_lerobot_dataset.py``)
            "episode_id": episode.source_key,
            "lineage/episode_id": plan.episode_id,
            "lineage/location": episode.location,
            "lineage/source_key": episode.source_key,
        }
        for view, video in self._videos.items():
            key = f"videos/{video_key(self._recipe, view)}"
            row |= {
                f"{key}/chunk_index": chunk,
                f"{key}/file_index": file,
                f"{key}/from_timestamp": video.time_s(self._first_frame),
                f"{key}/to_timestamp": video.time_s(self._first_frame + plan.num_steps),
            }
        pictures = self._levels.end(plan.num_steps)
        stats = self._table.stats(episode) | {video_key(self._recipe, view): of for view, of in pictures.items()}
        row |= {f"stats/{feature}/{name}": value for feature, of in stats.items() for name, value in of.items()}
        return row


class _LeRobotV3:
    name = "lerobot_v3"
    beside = ""
    windowed = False
    takes_latents = True

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _LeRobotUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        plans = [unit for unit, _ in units]
        check_planned(group, plans)
        sink = pa.BufferOutputStream()
        pq.write_table(_tasks_table(group.tasks), sink, **PARQUET)
        write_durably(folder / "meta/tasks.parquet", sink.getvalue().to_pybytes())
        write_durably(folder / "meta/stats.json", json_bytes(group_stats(group, recipe, units)))
        write_durably(folder / "meta/info.json", json_bytes(_info(group, recipe, units)))
        return planned_counts(group, recipe, plans, self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        finished(folder / "meta/info.json")
        num_rows(folder / "meta/tasks.parquet")
        return {
            "samples": sum(map(num_rows, sorted((folder / "data").rglob("*.parquet")))),
            "frames": sum(map(num_frames, sorted(folder.rglob("*.mp4")))),
            "episodes": sum(map(num_rows, sorted((folder / "meta/episodes").rglob("*.parquet")))),
        }


def _episode_schema(group: GroupPlan, recipe: BuildRecipe) -> pa.Schema:
    fields: list[tuple[str, pa.DataType]] = [("episode_index", pa.int64()), ("tasks", pa.list_(pa.string()))]
    names = ("length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")
    fields += [(name, pa.int64()) for name in names]
    keys = [video_key(recipe, view) for view, _, _ in group.views]
    for key in keys:
        fields += [(f"videos/{key}/chunk_index", pa.int64()), (f"videos/{key}/file_index", pa.int64())]
        fields += [(f"videos/{key}/from_timestamp", pa.float64()), (f"videos/{key}/to_timestamp", pa.float64())]
    image = pa.list_(pa.list_(pa.list_(pa.float64())))
    kinds = {feature: pa.list_(pa.float64()) for feature in (*columns_of(group, recipe), *INDICES)}
    kinds |= dict.fromkeys(keys, image)
    for feature, kind in kinds.items():
        for name in _STATISTICS:
            fields.append((f"stats/{feature}/{name}", pa.list_(pa.int64()) if name == "count" else kind))
    fields += [("meta/episodes/chunk_index", pa.int64()), ("meta/episodes/file_index", pa.int64())]
    texts = ("episode_id", *(f"lineage/{name}" for name in ("episode_id", "location", "source_key")))
    return pa.schema([*fields, *((name, pa.string()) for name in texts)])


def _tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Task index by task, where the task is the index of the data frame that ``pandas.read_parquet`` makes of it."""
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for name, kind, stored in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _latent_bytes(clip: LatentClip) -> bytes:
    """One clip as safetensors. All metadata is under one key, since the library writes several in random order."""
    plan = clip.plan
    facts = {
        "latent_id": clip.latent_id,
        "episode_id": plan.episode_id,
        "slot": plan.slot,
        "encoder_fingerprint": plan.encoder_fingerprint,
        "views_fingerprint": plan.views_fingerprint,
        "rate": plan.rate_told,
        "frame_ids": plan.frame_ids,
        "times_ns": plan.times_ns,
        "temporal_stride": clip.temporal_stride,
        "leading_frames": clip.leading_frames,
        "axes": "LCHW",
    }
    metadata = {"wamloom": json.dumps(facts, sort_keys=True)}
    return safetensors.numpy.save({"latents": np.ascontiguousarray(clip.values)}, metadata=metadata)


def _info(group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": group.robot,
        "total_episodes": group.num_episodes,
        "total_frames": group.num_steps,
        "total_tasks": len(group.tasks),
        "chunks_size": CHUNK_SIZE,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": frames_per_second(group),
        "splits": splits([unit for unit, _ in units]),
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if group.views else None,
        "features": features(group, recipe, units),
    }


FORMAT = _LeRobotV3()
