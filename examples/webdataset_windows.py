"""Trains on the windows of a WebDataset group of a release: python examples/webdataset_windows.py RELEASE/webdataset/GROUP

Whole shards go to ranks of torchrun (RANK, WORLD_SIZE) and their workers, each to one of them. Build with `unit_frames` so
low that there are several for each: who gets none has nothing to do.
"""

import os
import sys
from pathlib import Path

os.environ["WDS_SECURE"] = "1"  # nothing in a shard is ever unpickled
import webdataset
from torch.utils.data import DataLoader

NUM_WORKERS = 2


def main(folder: str) -> None:
    """Goes once over the group and prints what it saw."""
    shards = [str(path) for path in sorted(Path(folder).glob("shard-*.tar"))]
    dataset = webdataset.WebDataset(
        shards,
        shardshuffle=False,  # a number of shards to shuffle among, when training
        nodesplitter=webdataset.split_by_node,
        workersplitter=webdataset.split_by_worker,
        empty_check=False,
    ).decode("rgb8")
    for sample in DataLoader(dataset, batch_size=None, num_workers=NUM_WORKERS):
        facts = sample["json"]  # the walk of every step back to the recording, and which steps each latent frame covers
        chunk, mask = sample["action.npy"], sample["mask.npy"]  # float32 [H, W], bool [H]
        pictures = sorted(key for key in sample if key.endswith(".jpg"))  # uint8 [H, W, 3] each
        print("sample", facts["sample"], tuple(chunk.shape), int(mask.sum()), len(pictures), sample["txt"])


if __name__ == "__main__":  # workers import this file
    main(sys.argv[1])
