"""Opens a LeRobot v3.0 folder with LeRobot itself, and has decord decode the same frames as a second opinion."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MAX_MEAN_DIFFERENCE = 3.0
"""Levels of 255 by which two right decoders may differ on average; another frame differs by more wherever things move."""


def problems(folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]:
    """Reads the first, middle and last step of every episode; compares pixels with decord's where it knows the codec."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    # the backend that needs no FFmpeg of the system
    dataset = LeRobotDataset(f"wamloom/{folder.name}", root=folder, video_backend="pyav")
    found = []
    if len(dataset) != expected["samples"]:
        found.append(f"LeRobot finds {len(dataset)} samples, the manifest says {expected['samples']}")
    if dataset.num_episodes != expected["episodes"]:
        found.append(f"LeRobot finds {dataset.num_episodes} episodes, the manifest says {expected['episodes']}")
    read = 0
    for number in range(min(dataset.num_episodes, expected["episodes"])):
        episode = dataset.meta.episodes[number]
        start, stop = int(episode["dataset_from_index"]), int(episode["dataset_to_index"])
        for index in sorted({start, (start + stop) // 2, stop - 1}):
            item = dataset[index]
            read += 1
            if int(item["index"]) != index or int(item["episode_index"]) != number:
                found.append(
                    f"LeRobot gives step {int(item['index'])} of episode {int(item['episode_index'])} for {index}"
                )
            for key in dataset.meta.video_keys:
                seconds = float(episode[f"videos/{key}/from_timestamp"]) + float(item["timestamp"])
                path = folder / str(dataset.meta.get_video_file_path(number, key))
                other = second_decoder(path, seconds, dataset.meta.fps)
                if other is None:
                    continue
                frame = item[key].numpy().transpose(1, 2, 0) * 255.0
                difference = float(np.abs(frame - other).mean())
                if difference > MAX_MEAN_DIFFERENCE:
                    found.append(f"{key} at {index}: LeRobot and decord differ by {difference:.1f} levels")
    return found, read


def second_decoder(path: Path, seconds: float, fps: float) -> np.ndarray | None:
    """float64 [H, W, 3] of the frame at ``seconds``; None for AV1, which decord 0.6 does not decode, and for frames so narrow
    that it takes the padding of their lines for a fourth channel (48 px, for one)."""
    import av
    import decord

    with av.open(str(path)) as container:
        if container.streams.video[0].codec_context.name not in ("h264", "hevc"):
            return None
    reader = decord.VideoReader(str(path), num_threads=1)
    picture = np.asarray(reader[round(seconds * fps)].asnumpy(), dtype=np.float64)
    return picture if picture.shape[2] == 3 else None
