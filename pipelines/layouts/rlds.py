"""Writes simulated episodes as an RLDS set, the folder tensorflow-datasets makes, without importing TensorFlow."""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pipelines.simulate import SimulatedEpisode, SimulatedRobot
from pipelines.tfrecord import framed

VERSION = "1.0.0"
_SPLIT = "train"
_EPISODES_PER_SHARD = 2
_JPEG_QUALITY = 95
"""What tensorflow-datasets uses."""


def write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None:
    """Writes the set into ``folder / "1.0.0"``, which must be empty or absent; all episodes are of one robot."""
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    robot = episodes[0].robot
    root = folder / VERSION
    root.mkdir(parents=True, exist_ok=True)
    features = _features(robot)
    serializer = ExampleSerializer(features.get_serialized_info())
    starts = range(0, len(episodes), _EPISODES_PER_SHARD)
    shard_lengths: list[int] = []
    num_bytes = 0
    for number, start in enumerate(starts):
        shard = episodes[start : start + _EPISODES_PER_SHARD]
        with (root / f"{robot.name}-{_SPLIT}.tfrecord-{number:05d}-of-{len(starts):05d}").open("wb") as file:
            for episode in shard:
                example = serializer.get_tf_example(features.encode_example(_example(episode)))
                payload = example.SerializeToString(deterministic=True)
                num_bytes += len(payload)
                file.write(framed(payload))
        shard_lengths.append(len(shard))
    features.save_config(root)
    _write_info(robot, root, shard_lengths, num_bytes)


def _features(robot: SimulatedRobot) -> Any:
    from tensorflow_datasets import features

    def vector(names: Sequence[str], what: str) -> Any:
        return features.Tensor(shape=(len(names),), dtype=np.float32, doc=f"{what}: {', '.join(names)}.")

    observation: dict[str, Any] = {
        f"{camera.slot}_image": features.Image(
            shape=(camera.height_px, camera.width_px, 3), dtype=np.uint8, encoding_format="jpeg"
        )
        for camera in robot.cameras
    }
    observation["state"] = vector(robot.proprio_names, "Measured")
    flag = {"dtype": np.bool_}
    return features.FeaturesDict(
        {
            "steps": features.Dataset(
                {
                    "observation": features.FeaturesDict(observation),
                    "action": vector(robot.action_names, "Commanded"),
                    "discount": features.Scalar(dtype=np.float32),
                    "reward": features.Scalar(dtype=np.float32, doc="1 on the last step of a success."),
                    "is_first": features.Scalar(**flag),
                    "is_last": features.Scalar(**flag),
                    "is_terminal": features.Scalar(**flag),
                    "language_instruction": features.Text(),
                }
            ),
            "episode_metadata": features.FeaturesDict({"file_path": features.Text()}),
        }
    )


def _example(episode: SimulatedEpisode) -> dict[str, Any]:
    outcome = "success" if episode.success else "failure"
    path = f"{episode.robot.name}/{outcome}/seed_{episode.seed}/episode_{episode.index:06d}"
    return {"steps": list(_steps(episode)), "episode_metadata": {"file_path": path}}


def _steps(episode: SimulatedEpisode) -> Iterator[dict[str, Any]]:
    cameras = [camera.slot for camera in episode.robot.cameras]
    last = episode.num_steps - 1
    shown = (episode.frames(slot) for slot in cameras)
    for step, *frames in zip(range(episode.num_steps), *shown, strict=True):  # RLDS has one picture per step
        observation: dict[str, Any] = {
            # a file is stored as it is; an array would be encoded by TensorFlow
            f"{slot}_image": io.BytesIO(simplejpeg.encode_jpeg(frame, _JPEG_QUALITY, colorsubsampling="420"))
            for slot, frame in zip(cameras, frames, strict=True)
        }
        observation["state"] = episode.proprio[step]
        yield {
            "observation": observation,
            "action": episode.action[step],
            "discount": np.float32(1),
            "reward": np.float32(step == last and episode.success),
            "is_first": step == 0,
            "is_last": step == last,
            "is_terminal": step == last,
            "language_instruction": episode.instruction,
        }


def _write_info(robot: SimulatedRobot, root: Path, shard_lengths: Sequence[int], num_bytes: int) -> None:
    """The JSON form of tensorflow-datasets' ``DatasetInfo`` message, in which 64-bit integers are strings."""
    info = {
        "description": f"Simulated recordings of {robot.name} at {robot.control_rate} Hz.",
        "fileFormat": "tfrecord",
        "name": robot.name,
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": _SPLIT,
                "numBytes": str(num_bytes),
                "shardLengths": [str(length) for length in shard_lengths],
            }
        ],
        "version": VERSION,
    }
    (root / "dataset_info.json").write_text(json.dumps(info, indent=2))
