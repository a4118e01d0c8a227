"""Trains on a LeRobot v3.0 group of a release: python examples/lerobot_v3.py RELEASE/lerobot_v3/GROUP

Every rank of torchrun (RANK, WORLD_SIZE) reads its own steps, each step of the group once by one of them.
"""

import os
import sys

from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from torch.utils.data import DataLoader, Subset

HORIZON, NUM_WORKERS = 4, 2


def main(folder: str) -> None:
    """Goes once over the group and prints what it saw."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    fps = LeRobotDatasetMetadata("any/name", root=folder).fps
    chunk = {"action": [step / fps for step in range(HORIZON)]}  # `action_is_pad` tells what lies past the end
    dataset = LeRobotDataset("any/name", root=folder, delta_timestamps=chunk, video_backend="pyav")
    mine = Subset(dataset, range(rank, len(dataset), world))  # DistributedSampler would repeat some to make ranks even
    for batch in DataLoader(mine, batch_size=8, num_workers=NUM_WORKERS):
        pictures = {key: tuple(batch[key].shape) for key in dataset.meta.video_keys}  # float32 0..1 [B, 3, H, W]
        for index, task in zip(batch["index"].tolist(), batch["task"], strict=True):
            print("sample", index, tuple(batch["action"].shape[1:]), task)
    print("pictures", pictures)


if __name__ == "__main__":  # workers import this file
    main(sys.argv[1])
