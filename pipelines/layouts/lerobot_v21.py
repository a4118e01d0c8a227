"""Writes simulated episodes as a LeRobot 2.1 set: one Parquet file and one MP4 per camera for each episode."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipelines import lerobot_episode
from pipelines.lerobot_episode import IMAGES, QUANTILES
from pipelines.lerobot_tables import CHUNK_SIZE, EPISODE_DATA, EPISODE_VIDEO, episode_chunk, episode_path
from pipelines.simulate import SimulatedEpisode


def write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None:
    """Writes the set into ``folder``, which must be empty or absent; all episodes are of one robot."""
    robot = episodes[0].robot
    tasks = lerobot_episode.task_list(episodes)
    listed: list[dict[str, Any]] = []
    statistics: list[dict[str, Any]] = []
    first_row = 0
    for index, episode in enumerate(episodes):
        columns = lerobot_episode.columns(episode, index, first_row, tasks)
        path = folder / episode_path(EPISODE_DATA, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(lerobot_episode.table(columns), path)
        pixels: dict[str, np.ndarray] = {}
        for camera in robot.cameras:
            target = folder / episode_path(EPISODE_VIDEO, index, video_key=IMAGES + camera.slot)
            video = lerobot_episode.open_video(episode, camera.slot, target)
            pixels[camera.slot] = lerobot_episode.add_frames(video, episode, camera.slot)
            video.close()
        stats = lerobot_episode.statistics(columns, pixels)
        # 2.1 knows no quantiles
        plain = {
            name: {key: value for key, value in parts.items() if key not in QUANTILES} for name, parts in stats.items()
        }
        listed.append({"episode_index": index, "tasks": [episode.instruction], "length": episode.num_steps})
        statistics.append({"episode_index": index, "stats": plain})
        first_row += episode.num_steps
    num_chunks = episode_chunk(len(episodes) - 1) + 1
    info = {
        "codebase_version": "v2.1",
        "robot_type": robot.name,
        "total_episodes": len(episodes),
        "total_frames": first_row,
        "total_tasks": len(tasks),
        "total_videos": len(episodes) * len(robot.cameras),
        "total_chunks": num_chunks,
        "chunks_size": CHUNK_SIZE,
        "fps": int(robot.control_rate),
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": EPISODE_DATA,
        "video_path": EPISODE_VIDEO,
        "features": lerobot_episode.features(robot),
    }
    meta = folder / "meta"
    meta.mkdir()
    (meta / "info.json").write_text(json.dumps(info, indent=4))
    _write_lines(meta / "episodes.jsonl", listed)
    _write_lines(meta / "tasks.jsonl", [{"task_index": index, "task": task} for index, task in enumerate(tasks)])
    _write_lines(meta / "episodes_stats.jsonl", statistics)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
