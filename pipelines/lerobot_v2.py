"""Writes LeRobot 2.0 and 2.1: one Parquet file and one MP4 per view for each episode, with what GR00T and DreamZero read.

What finishing needs of an episode (its statistics, the steps to leave out, where it came from) stands in the metadata of its
Parquet file, so that no list of all episodes is carried along. ``meta/info.json`` comes last.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.gear_meta import LANGUAGES, embodiment, modality, relative_files
from pipelines.lerobot_tables import (
    CHUNK_SIZE,
    EPISODE_DATA,
    EPISODE_VIDEO,
    PARQUET,
    TOLERANCE_S,
    PictureLevels,
    Rows,
    all_tasks,
    check_planned,
    check_times,
    episode_chunk,
    episode_path,
    features,
    frames_per_second,
    group_stats,
    json_lines,
    splits,
    video_key,
)
from pipelines.named_parts import require_pictures
from pipelines.read_back import finished, num_frames, num_rows, read_lines, unreadable
from pipelines.release_plan import (
    BuiltEpisode,
    EpisodePlan,
    GroupPlan,
    Pictures,
    UnitPlan,
    UnitProgress,
    planned_counts,
)
from pipelines.release_texts import episode_file
from pipelines.stats import QUANTILES
from pipelines.stats_export import GEAR
from pipelines.storage import json_bytes, write_durably
from pipelines.video_writer import VideoWriter
from schemas.errors import ReleaseError
from schemas.recipes import BuildRecipe
from schemas.time import parse_rate

_FACTS = b"wamloom"
_TOO_LONG = "leave such episodes out with --where: those under 1,000 s are safe"
_LINES = {"tasks": "total_tasks", "episodes": "total_episodes", "episodes_stats": "total_episodes"}
"""Files of lines in ``meta``, and what of ``info.json`` says how many they have."""


class _LeRobotV2Unit:
    """Writes one unit; see ``formats.CopyingWriter``."""

    copies = True

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        self._unit, self._recipe, self._folder = unit, recipe, folder
        self._progress = UnitProgress(unit)
        self._rows = Rows(unit.group, recipe, LANGUAGES)
        modality(unit.group, recipe)  # names that cannot be are told before any work
        self._levels = PictureLevels(view for view, _, _ in unit.group.views)
        for episode in unit.episodes:
            check_times(unit.group, episode, 0, _TOO_LONG)
            self._check_stamps(episode)
        # opened at once, so that sizes and settings which no video can have are told before any work
        self._videos = self._open_videos(unit.episodes[0])

    def _open_videos(self, plan: EpisodePlan) -> dict[str, VideoWriter]:
        rate = parse_rate(self._unit.group.rate)
        paths = {
            view: self._folder
            / episode_path(EPISODE_VIDEO, plan.episode_index, video_key=video_key(self._recipe, view))
            for view, _, _ in self._unit.group.views
        }
        return {
            view: VideoWriter(paths[view], rate, height, width, self._recipe.video)
            for view, height, width in self._unit.group.views
        }

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        self._levels.begin()
        if episode.plan != self._unit.episodes[0]:
            self._videos = self._open_videos(episode.plan)

    def _check_stamps(self, plan: EpisodePlan) -> None:
        """Raises ReleaseError where LeRobot's ``check_timestamps_sync`` would refuse the set: by float32, steps seem uneven."""
        stamps: np.ndarray = self._rows.indices(plan)["timestamp"]
        uneven = np.abs(np.diff(stamps) - 1 / float(self._rows.rate)) > TOLERANCE_S
        if uneven.any():
            raise ReleaseError(
                f"from {stamps[uneven.argmax()]:.0f} s on, LeRobot's float32 times are coarser than its tolerance",
                f"{self._unit.group.name}, episode {plan.episode_id}",
                _TOO_LONG,
                "too_long",
            )

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
        for video in self._videos.values():
            video.close()
        pictures = self._levels.end(episode.plan.num_steps)
        counted = episode.valid if episode.selected is None else episode.valid & episode.selected
        facts = {
            "stats": self._rows.stats(episode)
            | {video_key(self._recipe, view): stats for view, stats in pictures.items()},
            "left_out": np.flatnonzero(~counted).tolist(),
            "lineage": {
                "episode_id": episode.plan.episode_id,
                "location": episode.location,
                "source_key": episode.source_key,
            },
        }
        table = self._rows.table(episode).replace_schema_metadata({_FACTS: json.dumps(facts, sort_keys=True)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **PARQUET)
        path = self._folder / episode_path(EPISODE_DATA, episode.plan.episode_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, sink.getvalue().to_pybytes())

    def close(self) -> dict[str, Any]:
        self._progress.close()
        return self._levels.facts()


class LeRobotV2:
    """The formats of version 2; see ``formats.Format``."""

    beside = ""
    windowed = False
    takes_latents = False

    def __init__(self, name: str, version: str) -> None:
        """``version`` as ``info.json`` says it: ``v2.1`` has the statistics of each episode, ``v2.0`` only those of all."""
        self.name, self._version = name, version

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> _LeRobotV2Unit:
        """See ``formats.Format``."""
        require_pictures(recipe, self.name)
        return _LeRobotV2Unit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        """See ``formats.Format``."""
        plans = [unit for unit, _ in units]
        check_planned(group, plans)
        episodes = [episode for unit in plans for episode in unit.episodes]

        def lines(name: str, line: Callable[[EpisodePlan, Mapping[str, Any]], Any]) -> None:
            found = (line(episode, _facts(folder, episode)) for episode in episodes)
            write_durably(folder / f"meta/{name}.jsonl", json_lines(found))

        (folder / "meta").mkdir(parents=True, exist_ok=True)
        tasks = ({"task_index": index, "task": task} for index, task in enumerate(group.tasks))
        write_durably(folder / "meta/tasks.jsonl", json_lines(tasks))
        lines("episodes", lambda episode, facts: _episode_line(episode, facts, recipe))
        lines("step_filter", lambda episode, facts: _numbered(episode, step_indices=facts["left_out"]))
        if self._version != "v2.0":
            lines("episodes_stats", lambda episode, facts: _numbered(episode, stats=_plain(facts["stats"])))
        stats = group_stats(group, recipe, units, LANGUAGES)
        files = {
            "stats.json": {feature: {name: found[name] for name in GEAR} for feature, found in stats.items()},
            "modality.json": modality(group, recipe),
            "embodiment.json": embodiment(group, recipe),
            **relative_files(group, recipe),
            "info.json": self._info(group, recipe, units),
        }
        for name, content in files.items():
            write_durably(folder / "meta" / name, json_bytes(content))
        return planned_counts(group, recipe, plans, self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        """See ``formats.Format``: as its readers do, by the episodes that are listed."""
        info = json.loads(finished(folder / "meta/info.json").read_bytes())
        for name, total in (_LINES | {"step_filter": "total_episodes"}).items():
            path = folder / f"meta/{name}.jsonl"
            if name == "episodes_stats" and info["codebase_version"] == "v2.0":
                continue
            found = sum(1 for _ in read_lines(path))
            if found != info[total]:
                raise unreadable(path, f"{found} lines where {total} is {info[total]}")
        keys = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
        episodes = list(read_lines(folder / "meta/episodes.jsonl"))
        samples = frames = 0
        for line in episodes:
            index = int(line["episode_index"])
            path = folder / episode_path(info["data_path"], index)
            rows = num_rows(path)
            if rows != line["length"]:
                raise unreadable(path, f"{rows} rows where episodes.jsonl says {line['length']}")
            samples += rows
            frames += sum(num_frames(folder / episode_path(info["video_path"], index, video_key=key)) for key in keys)
        return {"samples": samples, "frames": frames, "episodes": len(episodes)}

    def _info(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]]
    ) -> dict[str, Any]:
        return {
            "codebase_version": self._version,
            "robot_type": group.robot,
            "total_episodes": group.num_episodes,
            "total_frames": group.num_steps,
            "total_tasks": len(group.tasks),
            "total_videos": group.num_episodes * len(group.views),
            "total_chunks": episode_chunk(group.num_episodes - 1) + 1,
            "chunks_size": CHUNK_SIZE,
            "fps": frames_per_second(group),
            "splits": splits([unit for unit, _ in units]),
            "data_path": EPISODE_DATA,
            "video_path": EPISODE_VIDEO if group.views else None,
            "features": features(group, recipe, units, LANGUAGES),
        }


def _facts(folder: Path, episode: EpisodePlan) -> dict[str, Any]:
    path = folder / episode_path(EPISODE_DATA, episode.episode_index)
    try:
        found: dict[str, Any] = json.loads(pq.read_schema(path).metadata[_FACTS])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, error) from error
    return found


def _numbered(episode: EpisodePlan, **facts: Any) -> dict[str, Any]:
    return {"episode_index": episode.episode_index, **facts}


def _episode_line(episode: EpisodePlan, facts: Mapping[str, Any], recipe: BuildRecipe) -> dict[str, Any]:
    """A line of ``episodes.jsonl``; ``action_config`` is read by LingBot-VA (``wan_va/dataset/lerobot_latent_dataset.py``),
    where ``end_frame`` is the one behind the last, and ``t5_embedding_path`` by Motus (``data/lerobot/lerobot_dataset.py``)."""
    embedding = {"t5_embedding_path": episode_file(episode.episode_index)} if "motus" in recipe.formats else {}
    return embedding | {
        "episode_index": episode.episode_index,
        "tasks": all_tasks(episode, recipe),
        "length": episode.num_steps,
        "action_config": [
            {"start_frame": start, "end_frame": stop, "action_text": said[0]}
            for start, stop, said in episode.told(recipe.names.joined_by)
        ],
        "success": episode.success,
        "lineage": facts["lineage"],
    }


def _plain(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Version 2.1 knows no quantiles."""
    return {
        feature: {name: value for name, value in found.items() if name not in QUANTILES}
        for feature, found in stats.items()
    }
