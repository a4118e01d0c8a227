"""Writes simulated episodes as a LeRobot 3.0 set: several episodes share a Parquet file and, per camera, an MP4."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import lerobot_episode
from pipelines.lerobot_episode import IMAGES
from pipelines.simulate import SimulatedEpisode

_PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_DATA = f"data/{_PLACE}.parquet"
_VIDEO = f"videos/{{video_key}}/{_PLACE}.mp4"
_FILES_PER_CHUNK = 1000
_EPISODES_PER_DATA_FILE = 4
_EPISODES_PER_VIDEO_FILE = 2
"""Of the first camera, and one more for each further one: in real sets, file and offset differ between cameras too."""


def write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None:
    """Writes the set into ``folder``, which must be empty or absent; all episodes are of one robot."""
    robot = episodes[0].robot
    tasks = lerobot_episode.task_list(episodes)
    rows, columns = _write_data(episodes, tasks, folder)
    pixels: dict[str, list[np.ndarray]] = {}
    for position, camera in enumerate(robot.cameras):
        per_file = _EPISODES_PER_VIDEO_FILE + position
        pixels[camera.slot] = _write_videos(episodes, camera.slot, per_file, rows, folder)
    for index, row in enumerate(rows):
        looked_at = {slot: samples[index] for slot, samples in pixels.items()}
        for name, parts in lerobot_episode.statistics(columns[index], looked_at).items():
            row.update({f"stats/{name}/{key}": value for key, value in parts.items()})
        row.update({"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
    meta = folder / "meta"
    index_path = meta / "episodes" / f"{_PLACE.format(chunk_index=0, file_index=0)}.parquet"
    index_path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), index_path)
    frame = pd.DataFrame({"task_index": range(len(tasks))}, index=pd.Index(tasks, name="task"))
    frame.to_parquet(meta / "tasks.parquet")
    everything = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    all_pixels = {slot: np.concatenate(samples) for slot, samples in pixels.items()}
    statistics = lerobot_episode.statistics(everything, all_pixels)
    (meta / "stats.json").write_text(json.dumps(statistics, indent=4))
    info = {
        "codebase_version": "v3.0",
        "robot_type": robot.name,
        "total_episodes": len(episodes),
        "total_frames": sum(episode.num_steps for episode in episodes),
        "total_tasks": len(tasks),
        "chunks_size": _FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(robot.control_rate),
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": _DATA,
        "video_path": _VIDEO,
        "features": lerobot_episode.features(robot),
    }
    (meta / "info.json").write_text(json.dumps(info, indent=4))


def _write_data(
    episodes: Sequence[SimulatedEpisode], tasks: Sequence[str], folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, np.ndarray]]]:
    """Writes the Parquet files; returns the beginnings of the index rows, and the columns of each episode."""
    rows: list[dict[str, Any]] = []
    columns: list[dict[str, np.ndarray]] = []
    first_row = 0
    for index, episode in enumerate(episodes):
        chunk, file = divmod(index // _EPISODES_PER_DATA_FILE, _FILES_PER_CHUNK)
        columns.append(lerobot_episode.columns(episode, index, first_row, tasks))
        rows.append(
            {
                "episode_index": index,
                "tasks": [episode.instruction],
                "length": episode.num_steps,
                "data/chunk_index": chunk,
                "data/file_index": file,
                "dataset_from_index": first_row,
                "dataset_to_index": first_row + episode.num_steps,
            }
        )
        first_row += episode.num_steps
    for start in range(0, len(episodes), _EPISODES_PER_DATA_FILE):
        place = {"chunk_index": rows[start]["data/chunk_index"], "file_index": rows[start]["data/file_index"]}
        path = folder / _DATA.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        shared = columns[start : start + _EPISODES_PER_DATA_FILE]
        pq.write_table(pa.concat_tables([lerobot_episode.table(values) for values in shared]), path)
    return rows, columns


def _write_videos(
    episodes: Sequence[SimulatedEpisode], slot: str, per_file: int, rows: list[dict[str, Any]], folder: Path
) -> list[np.ndarray]:
    """Writes the MP4 files of one camera and enters them into ``rows``; returns the pixels looked at, per episode."""
    key = IMAGES + slot
    pixels: list[np.ndarray] = []
    for start in range(0, len(episodes), per_file):
        chunk, file = divmod(start // per_file, _FILES_PER_CHUNK)
        video = lerobot_episode.open_video(
            episodes[start], slot, folder / _VIDEO.format(video_key=key, chunk_index=chunk, file_index=file)
        )
        from_timestamp = 0.0
        for index in range(start, min(start + per_file, len(episodes))):
            pixels.append(lerobot_episode.add_frames(video, episodes[index], slot))
            # a sum of doubles, as LeRobot makes it: the last digits are off in real sets as well
            to_timestamp = from_timestamp + len(episodes[index].frame_numbers) / float(
                episodes[index].robot.control_rate
            )
            rows[index].update(
                {
                    f"videos/{key}/chunk_index": chunk,
                    f"videos/{key}/file_index": file,
                    f"videos/{key}/from_timestamp": from_timestamp,
                    f"videos/{key}/to_timestamp": to_timestamp,
                }
            )
            from_timestamp = to_timestamp
        video.close()
    return pixels
