"""What LeRobot 2.1 and 3.0 say alike of a simulated episode: features, columns, statistics, and its encoded frames."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.simulate import SimulatedEpisode, SimulatedRobot
from pipelines.video_writer import PIXEL_FORMAT, VideoWriter
from schemas.recipes import VideoRecipe
from schemas.time import NANOSECONDS

VIDEO = VideoRecipe(codec="h264", gop=2, crf=23, preset="veryfast")
"""LeRobot's distance between key frames. A shared file has one every second frame, wherever its episodes begin."""
IMAGES = "observation.images."
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_LOOKED_AT, _PIXEL_STEP = 10, 8
"""Frames per episode, and the distance of the pixels in them, that image statistics are made of."""
_SCALARS = {
    "next.reward": pa.float32(),
    "next.done": pa.bool_(),
    "next.success": pa.bool_(),
    "timestamp": pa.float32(),
    "frame_index": pa.int64(),
    "episode_index": pa.int64(),
    "index": pa.int64(),
    "task_index": pa.int64(),
}


def features(robot: SimulatedRobot) -> dict[str, Any]:
    """The ``features`` of ``info.json``, in LeRobot's order."""
    found: dict[str, Any] = {
        "observation.state": {
            "dtype": "float32",
            "shape": [len(robot.proprio_names)],
            "names": list(robot.proprio_names),
        },
        "action": {"dtype": "float32", "shape": [len(robot.action_names)], "names": list(robot.action_names)},
    }
    for camera in robot.cameras:
        found[IMAGES + camera.slot] = {
            "dtype": "video",
            "shape": [camera.height_px, camera.width_px, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": camera.height_px,
                "video.width": camera.width_px,
                "video.codec": VIDEO.codec,
                "video.pix_fmt": PIXEL_FORMAT,
                "video.is_depth_map": False,
                "video.fps": int(robot.control_rate),
                "video.channels": 3,
                "has_audio": False,
            },
        }
    for name, kind in _SCALARS.items():
        dtype = "bool" if pa.types.is_boolean(kind) else "float32" if pa.types.is_floating(kind) else "int64"
        found[name] = {"dtype": dtype, "shape": [1], "names": None}
    return found


def task_list(episodes: Sequence[SimulatedEpisode]) -> list[str]:
    """Distinct instructions in order of appearance; the place of one is its task index."""
    return list(dict.fromkeys(episode.instruction for episode in episodes))


def columns(
    episode: SimulatedEpisode, episode_index: int, first_row: int, tasks: Sequence[str]
) -> dict[str, np.ndarray]:
    """Values of every feature that is no video, one row per step."""
    num_steps = episode.num_steps
    is_last = np.arange(num_steps) == num_steps - 1
    succeeded = is_last & episode.success
    return {
        "observation.state": episode.proprio,
        "action": episode.action,
        "next.reward": succeeded.astype(np.float32),
        "next.done": is_last,
        "next.success": succeeded,
        "timestamp": (episode.times_ns / NANOSECONDS).astype(np.float32),
        "frame_index": np.arange(num_steps),
        "episode_index": np.full(num_steps, episode_index),
        "index": first_row + np.arange(num_steps),
        "task_index": np.full(num_steps, tasks.index(episode.instruction)),
    }


def table(values: Mapping[str, np.ndarray]) -> pa.Table:
    """``columns`` as Arrow: vectors are lists of fixed size."""
    arrays = {}
    for name, column in values.items():
        if column.ndim == 2:
            flat = pa.array(column.reshape(-1), pa.float32())
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
        else:
            arrays[name] = pa.array(column, _SCALARS[name])
    return pa.table(arrays)


def open_video(episode: SimulatedEpisode, slot: str, path: Any) -> VideoWriter:
    """A writer for the frames of that camera at the robot's rate."""
    camera = episode.robot.camera(slot)
    return VideoWriter(path, episode.robot.control_rate, camera.height_px, camera.width_px, VIDEO)


def add_frames(video: VideoWriter, episode: SimulatedEpisode, slot: str) -> np.ndarray:
    """Appends the frames of the episode; returns some pixels of some of them, float64 [n, h, w, 3] in 0 .. 1."""
    total = len(episode.frame_numbers)
    chosen = set(np.linspace(0, total - 1, min(_LOOKED_AT, total)).round().astype(int).tolist())
    samples = []
    for index, frame in enumerate(episode.frames(slot)):
        video.write(frame[None])
        if index in chosen:
            samples.append(frame[::_PIXEL_STEP, ::_PIXEL_STEP] / 255.0)
    return np.stack(samples)


def statistics(values: Mapping[str, np.ndarray], pixels: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """min, max, mean, std, count and quantiles of every feature: per channel, images as LeRobot's [3][1][1] lists."""
    found = {name: dict(_stats(column.reshape(len(column), -1), len(column))) for name, column in values.items()}
    for slot, samples in pixels.items():
        per_channel = dict(_stats(samples.reshape(-1, 3), len(samples)))
        count = per_channel.pop("count")
        found[IMAGES + slot] = {key: [[[part]] for part in parts] for key, parts in per_channel.items()}
        found[IMAGES + slot]["count"] = count
    return found


def _stats(rows: np.ndarray, count: int) -> Iterator[tuple[str, list[Any]]]:
    numbers = rows.astype(np.float64)
    yield "min", numbers.min(axis=0).tolist()
    yield "max", numbers.max(axis=0).tolist()
    yield "mean", numbers.mean(axis=0).tolist()
    yield "std", numbers.std(axis=0).tolist()
    yield "count", [count]
    for name, share in QUANTILES.items():
        yield name, np.quantile(numbers, share, axis=0).tolist()
