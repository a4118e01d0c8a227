"""LeRobot v3.0: one Parquet file, one MP4 per view and one episode table per unit; ``info.json`` comes last.

Rows carry their lineage in columns of their own (``lineage.*``), which LeRobot's policies leave alone. Latents, where the
recipe asks for them, lie beside the data as ``latents/<slot>/episode_<index>_<clip>.safetensors``.
"""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from pipelines.formats import BuiltEpisode, EpisodePlan, GroupPlan, UnitPlan, UnitProgress, UnitWriter, planned_counts
from pipelines.image_stats import color_levels, image_stats, no_levels, sampled_steps, weighted_stats
from pipelines.stats import QUANTILES, Stats, center_and_scale, sketch, stats_from_json
from pipelines.stats_export import lerobot_stats
from pipelines.storage import fsync_file, fsync_folder, write_durably
from pipelines.video_writer import PIXEL_FORMAT, VideoWriter
from schemas.errors import ReleaseError
from schemas.latent import LatentClip
from schemas.recipes import BuildRecipe
from schemas.time import parse_rate

FILES_PER_CHUNK = 1000
"""LeRobot's ``chunks_size``."""
TOLERANCE_S = 1e-4
"""How far LeRobot lets a frame lie from the time it asks for."""
CODEBASE_VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
IMAGES = "observation.images."

_STATISTICS = ("min", "max", "mean", "std", "count", *QUANTILES)
_INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_PARQUET = {"compression": "zstd", "write_page_checksum": True}


class _LeRobotUnit:
    """Writes one unit; see ``UnitWriter``."""

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        self._unit, self._folder = unit, folder
        self._rate = parse_rate(unit.group.rate)
        self._place = _place(unit.file_index)
        self._progress = UnitProgress(unit)
        self._tasks = {task: index for index, task in enumerate(unit.group.tasks)}
        self._videos = {
            slot: VideoWriter(self._path(VIDEO_PATH, video_key=IMAGES + slot), self._rate, height, width, recipe.video)
            for slot, height, width in unit.group.views
        }
        data_path = self._path(DATA_PATH)
        data_path.parent.mkdir(parents=True, exist_ok=True)
        data_path.unlink(
            missing_ok=True
        )  # a writer of a failed attempt that still lives keeps the old file, not this one
        self._data_path = data_path
        self._data = pq.ParquetWriter(data_path, _data_schema(unit.group, recipe), **_PARQUET)
        self._rows: list[dict[str, Any]] = []
        self._levels = {slot: no_levels() for slot in self._videos}
        self._num_looked = dict.fromkeys(self._videos, 0)
        self._episode_levels: dict[str, np.ndarray] = {}
        self._first_frame = 0

    def _path(self, template: str, **names: str) -> Path:
        return self._folder / template.format(**self._place, **names)

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        unplanned = [text for _, _, text in episode.plan.texts if text not in self._tasks]
        if unplanned:
            raise ReleaseError(
                f"the instruction {unplanned[0]!r} is none of the group's tasks",
                self._unit.group.name,
                "plan the build again",
                "off_plan",
            )
        self._episode_levels = {slot: no_levels() for slot in self._videos}
        self._check_times(episode.plan)
        columns = _columns(episode, self._rate, self._tasks)
        self._data.write_table(_table(columns, self._data.schema))
        for slot, clips in sorted(episode.latents.items()):
            for number, clip in enumerate(clips):
                name = f"latents/{slot}/episode_{episode.plan.episode_index:06d}_{number:03d}.safetensors"
                write_durably(self._folder / name, _latent_bytes(clip))

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._progress.frames(slot, first_step, frames)
        self._videos[slot].write(frames, key_frame=first_step == 0)
        looked_at = sampled_steps(self._progress.episode.plan.num_steps)
        chosen = looked_at[(looked_at >= first_step) & (looked_at < first_step + len(frames))] - first_step
        self._episode_levels[slot] += color_levels(frames[chosen])

    def end(self) -> None:
        episode = self._progress.episode
        self._progress.end()
        self._rows.append(self._episode_row(episode))
        for slot, levels in self._episode_levels.items():
            self._levels[slot] += levels
            self._num_looked[slot] += len(sampled_steps(episode.plan.num_steps))
        self._first_frame += episode.plan.num_steps

    def close(self) -> dict[str, Any]:
        self._progress.close()
        for video in self._videos.values():
            video.close()
        self._data.close()
        episodes_path = self._path(EPISODES_PATH)
        episodes_path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(self._rows, _episode_schema(self._unit.group)), episodes_path, **_PARQUET)
        for path in (self._data_path, episodes_path):
            fsync_file(path)
            fsync_folder(path.parent)
        return {
            "levels": {slot: levels.tolist() for slot, levels in self._levels.items()},
            "looked_at": self._num_looked,
        }

    def _check_times(self, plan: EpisodePlan) -> None:
        """Raises ReleaseError where LeRobot, which compares times in float32, would refuse its own frames."""
        steps: np.ndarray = np.arange(plan.num_steps)
        exact = np.array([float((self._first_frame + step) / self._rate) for step in range(plan.num_steps)])
        start = float(self._first_frame / self._rate)
        asked = (start + (steps / float(self._rate)).astype(np.float32).astype(np.float64)).astype(np.float32)
        error = np.abs(asked - exact.astype(np.float32))
        if self._videos and error.max() >= TOLERANCE_S:
            raise ReleaseError(
                f"step {int(error.argmax())} lies {exact[error.argmax()]:.0f} s into its video, where LeRobot's float32 "
                "times are coarser than its tolerance",
                f"{self._unit.group.name}, episode {plan.episode_id}",
                "lower unit_frames, so that fewer episodes share a file: those under 1,000 s are safe",
                "too_long",
            )

    def _episode_row(self, episode: BuiltEpisode) -> dict[str, Any]:
        plan = episode.plan
        chunk, file = self._place["chunk_index"], self._place["file_index"]
        row: dict[str, Any] = {
            "episode_index": plan.episode_index,
            "tasks": list(dict.fromkeys(text for _, _, text in plan.texts)),
            "length": plan.num_steps,
            "data/chunk_index": chunk,
            "data/file_index": file,
            "dataset_from_index": plan.first_step,
            "dataset_to_index": plan.first_step + plan.num_steps,
            "meta/episodes/chunk_index": chunk,
            "meta/episodes/file_index": file,
            "lineage/episode_id": plan.episode_id,
            "lineage/location": episode.location,
            "lineage/source_key": episode.source_key,
        }
        for slot, video in self._videos.items():
            row |= {
                f"videos/{IMAGES}{slot}/chunk_index": chunk,
                f"videos/{IMAGES}{slot}/file_index": file,
                f"videos/{IMAGES}{slot}/from_timestamp": video.time_s(self._first_frame),
                f"videos/{IMAGES}{slot}/to_timestamp": video.time_s(self._first_frame + plan.num_steps),
            }
        indices = _index_columns(plan, self._rate, self._tasks)
        columns = {name: sketch(column[:, None].astype(np.float64)).stats() for name, column in indices.items()}
        stats: dict[str, Any] = {**lerobot_stats(_vector_stats(episode) | columns)}
        looked_at = len(sampled_steps(plan.num_steps))
        stats |= {IMAGES + slot: image_stats(levels, looked_at) for slot, levels in self._episode_levels.items()}
        row |= {f"stats/{feature}/{name}": value for feature, of in stats.items() for name, value in of.items()}
        return row


class _LeRobotV3:
    name = "lerobot_v3"
    beside = ""
    windowed = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _LeRobotUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        episodes = [episode for unit, _ in units for episode in unit.episodes]
        num_steps = sum(episode.num_steps for episode in episodes)
        if (len(episodes), num_steps) != (group.num_episodes, group.num_steps):
            raise ReleaseError(
                f"{len(episodes)} episodes and {num_steps} steps were written, "
                f"{group.num_episodes} and {group.num_steps} were planned",
                group.name,
                "plan the build again",
                "off_plan",
            )
        sink = pa.BufferOutputStream()
        pq.write_table(_tasks_table(group.tasks), sink, **_PARQUET)
        write_durably(folder / "meta/tasks.parquet", sink.getvalue().to_pybytes())
        write_durably(folder / "meta/stats.json", _json(_group_stats(group, recipe, episodes, units)))
        write_durably(folder / "meta/info.json", _json(_info(group, recipe, episodes)))
        return planned_counts(group, recipe, [unit for unit, _ in units], self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        info_path = folder / "meta/info.json"
        if not info_path.exists():
            raise ReleaseError("no meta/info.json: this release was never finished", str(folder), "build it again")
        samples, episodes, frames = 0, 0, 0
        for path in sorted([*folder.rglob("*.parquet"), *folder.rglob("*.mp4")]):
            try:
                if path.suffix == ".mp4":
                    with av.open(str(path)) as container:
                        # a packet that the end of a file cuts short is marked corrupt
                        frames += sum(p.pts is not None and not p.is_corrupt for p in container.demux(video=0))
                    continue
                num_rows = pq.read_table(path, page_checksum_verification=True).num_rows
            except (pa.ArrowException, av.FFmpegError, OSError) as error:
                raise ReleaseError(
                    f"cannot be read back: {error}", str(path), "build it again", "unreadable"
                ) from error
            samples += num_rows if path.is_relative_to(folder / "data") else 0
            episodes += num_rows if path.is_relative_to(folder / "meta/episodes") else 0
        return {"samples": samples, "frames": frames, "episodes": episodes}


def _place(file_index: int) -> dict[str, int]:
    return {"chunk_index": file_index // FILES_PER_CHUNK, "file_index": file_index % FILES_PER_CHUNK}


def _vectors(group: GroupPlan) -> dict[str, tuple[str, ...]]:
    """LeRobot feature to channel names; a robot without proprio has no state feature."""
    named = {"observation.state": group.proprio_names, "action": group.action_names}
    return {feature: names for feature, names in named.items() if names}


def _lineage(group: GroupPlan) -> tuple[str, ...]:
    slots = tuple(f"lineage.frame_id.{slot}" for slot, _, _ in group.views)
    return ("lineage.source_row", "lineage.source_time_ns", *slots)


def _data_schema(group: GroupPlan, recipe: BuildRecipe) -> pa.Schema:
    # LeRobot reads a feature of shape (1,) as a scalar column
    fields = [
        (feature, pa.float32() if len(names) == 1 else pa.list_(pa.float32(), len(names)))
        for feature, names in _vectors(group).items()
    ]
    fields += [(name, pa.float32() if name == "timestamp" else pa.int64()) for name in _INDICES]
    fields += [(name, pa.int64()) for name in _lineage(group)]
    return pa.schema([*fields, *((name, pa.bool_()) for name in _flags(recipe))])


def _flags(recipe: BuildRecipe) -> tuple[str, ...]:
    return ("valid", "selected") if recipe.segments.is_set else ("valid",)


def _episode_schema(group: GroupPlan) -> pa.Schema:
    fields: list[tuple[str, pa.DataType]] = [("episode_index", pa.int64()), ("tasks", pa.list_(pa.string()))]
    names = ("length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")
    fields += [(name, pa.int64()) for name in names]
    for slot, _, _ in group.views:
        key = f"videos/{IMAGES}{slot}"
        fields += [(f"{key}/chunk_index", pa.int64()), (f"{key}/file_index", pa.int64())]
        fields += [(f"{key}/from_timestamp", pa.float64()), (f"{key}/to_timestamp", pa.float64())]
    image = pa.list_(pa.list_(pa.list_(pa.float64())))
    kinds = {feature: pa.list_(pa.float64()) for feature in (*_vectors(group), *_INDICES)}
    kinds |= {IMAGES + slot: image for slot, _, _ in group.views}
    for feature, kind in kinds.items():
        for name in _STATISTICS:
            fields.append((f"stats/{feature}/{name}", pa.list_(pa.int64()) if name == "count" else kind))
    fields += [("meta/episodes/chunk_index", pa.int64()), ("meta/episodes/file_index", pa.int64())]
    return pa.schema(
        [*fields, *((f"lineage/{name}", pa.string()) for name in ("episode_id", "location", "source_key"))]
    )


def _index_columns(plan: EpisodePlan, rate: Fraction, tasks: Mapping[str, int]) -> dict[str, np.ndarray]:
    steps: np.ndarray = np.arange(plan.num_steps, dtype=np.int64)
    task_index = np.concatenate([np.full(stop - start, tasks[text]) for start, stop, text in plan.texts])
    return {
        "timestamp": (steps / float(rate)).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full_like(steps, plan.episode_index),
        "index": plan.first_step + steps,
        "task_index": task_index.astype(np.int64),
    }


def _columns(episode: BuiltEpisode, rate: Fraction, tasks: Mapping[str, int]) -> dict[str, np.ndarray]:
    columns = {"observation.state": episode.proprio, "action": episode.action}
    columns |= _index_columns(episode.plan, rate, tasks)
    columns |= {"lineage.source_row": episode.source_rows, "lineage.source_time_ns": episode.source_times_ns}
    columns |= {f"lineage.frame_id.{slot}": ids for slot, ids in episode.frame_ids.items()}
    selected = {} if episode.selected is None else {"selected": episode.selected}
    return columns | {"valid": episode.valid} | selected


def _table(columns: Mapping[str, np.ndarray], schema: pa.Schema) -> pa.Table:
    arrays = []
    for field in schema:
        flat = pa.array(np.ascontiguousarray(columns[field.name]).reshape(-1))
        if pa.types.is_fixed_size_list(field.type):
            flat = pa.FixedSizeListArray.from_arrays(flat, field.type.list_size)
        arrays.append(flat.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


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
        "latent_id": plan.latent_id,
        "episode_id": plan.episode_id,
        "slot": plan.slot,
        "encoder_fingerprint": plan.encoder_fingerprint,
        "views_fingerprint": plan.views_fingerprint,
        "rate": "native" if plan.rate is None else str(plan.rate),
        "frame_ids": plan.frame_ids,
        "times_ns": plan.times_ns,
        "temporal_stride": clip.temporal_stride,
        "leading_frames": clip.leading_frames,
        "axes": "LCHW",
    }
    metadata = {"wamloom": json.dumps(facts, sort_keys=True)}
    return safetensors.numpy.save({"latents": np.ascontiguousarray(clip.values)}, metadata=metadata)


def _vector_stats(episode: BuiltEpisode) -> dict[str, Stats]:
    """Statistics of the valid rows, or of all where none is."""
    mask = episode.valid if episode.valid.any() else None
    vectors = {"observation.state": episode.proprio, "action": episode.action}
    return {name: sketch(values, mask).stats() for name, values in vectors.items() if values.shape[1]}


def _group_stats(
    group: GroupPlan,
    recipe: BuildRecipe,
    episodes: Sequence[EpisodePlan],
    units: Sequence[tuple[UnitPlan, Mapping[str, Any]]],
) -> dict[str, Any]:
    planned = {"observation.state": "proprio", "action": "action"}
    stats: dict[str, Any] = {}
    for feature in _vectors(group):
        given = stats_from_json(json.dumps({name: list(v) for name, v in group.stats[planned[feature]].items()}))
        center, scale = center_and_scale(group.normalizing(planned[feature]), recipe.normalize)
        written = {name: (np.array(value) - center) / scale for name, value in given.to_mapping().items()}
        stats[feature] = {name: value.tolist() for name, value in written.items()}
        stats[feature] |= {"std": (given.std / scale).tolist(), "count": [given.count]}
    lengths = np.array([episode.num_steps for episode in episodes])
    steps: np.ndarray = np.arange(lengths.max(initial=0))
    longer = len(lengths) - np.searchsorted(np.sort(lengths), steps, "right")
    frame_index = weighted_stats(steps, longer)
    task_index = {task: index for index, task in enumerate(group.tasks)}
    runs = [(task_index[text], stop - start) for episode in episodes for start, stop, text in episode.texts]
    per_task = np.bincount([task for task, _ in runs], weights=[steps for _, steps in runs]).astype(np.int64)
    last = group.num_steps - 1
    found = {
        "timestamp": {name: value / float(parse_rate(group.rate)) for name, value in frame_index.items()},
        "frame_index": frame_index,
        "episode_index": weighted_stats(np.array([episode.episode_index for episode in episodes]), lengths),
        "index": {
            "min": 0.0,
            "max": float(last),
            "mean": last / 2,
            "std": float(np.sqrt((group.num_steps**2 - 1) / 12)),
        }
        | {name: share * last for name, share in QUANTILES.items()},
        "task_index": weighted_stats(np.arange(len(per_task)), per_task),
    }
    for name, values in found.items():
        stats[name] = {statistic: [value] for statistic, value in values.items()} | {"count": [group.num_steps]}
    for slot, _, _ in group.views:
        levels = np.sum([np.array(facts["levels"][slot], dtype=np.int64) for _, facts in units], axis=0)
        stats[IMAGES + slot] = image_stats(levels, sum(facts["looked_at"][slot] for _, facts in units))
    return stats


def _splits(episodes: Sequence[EpisodePlan]) -> dict[str, str]:
    """Ranges of episode indices; the plan has those of ``train`` first."""
    train = sum(episode.split == "train" for episode in episodes)
    spans = {"train": (0, train), "val": (train, len(episodes))}
    return {name: f"{start}:{stop}" for name, (start, stop) in spans.items() if start < stop}


def _info(group: GroupPlan, recipe: BuildRecipe, episodes: Sequence[EpisodePlan]) -> dict[str, Any]:
    rate = parse_rate(group.rate)
    # LeRobot declares fps as int but only multiplies by it: 7.5 and 30000/1001 read back right as JSON numbers
    fps = rate.numerator if rate.denominator == 1 else float(rate)
    features: dict[str, Any] = {
        feature: {"dtype": "float32", "shape": [len(names)], "names": list(names)}
        for feature, names in _vectors(group).items()
    }
    for slot, height, width in group.views:
        features[IMAGES + slot] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": recipe.video.codec,
                "video.pix_fmt": PIXEL_FORMAT,
                "video.fps": fps,
                "video.channels": 3,
                "video.g": recipe.video.gop,
                "video.crf": recipe.video.crf,
                "is_depth_map": False,
                "has_audio": False,
            },
        }
    scalar = {"shape": [1], "names": None}
    features |= {name: {"dtype": "float32" if name == "timestamp" else "int64", **scalar} for name in _INDICES}
    features |= {name: {"dtype": "int64", **scalar} for name in _lineage(group)}
    features |= {name: {"dtype": "bool", **scalar} for name in _flags(recipe)}
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": group.robot,
        "total_episodes": group.num_episodes,
        "total_frames": group.num_steps,
        "total_tasks": len(group.tasks),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": _splits(episodes),
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if group.views else None,
        "features": features,
    }


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


FORMAT = _LeRobotV3()
