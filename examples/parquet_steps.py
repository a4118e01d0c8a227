"""Trains on the steps of a release in Parquet: python examples/parquet_steps.py RELEASE GROUP [SPLIT]

The head of the release's README.md names groups and splits, so `datasets` opens the release by itself. Every rank of torchrun
(RANK, WORLD_SIZE) reads its own steps, each step once by one of them.
"""

import os
import sys

import datasets
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

NUM_WORKERS = 2


def main(release: str, group: str, split: str = "train") -> None:
    """Goes once over the split and prints what it saw."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    rows = datasets.load_dataset(release, group, split=split)
    mine = split_dataset_by_node(rows, rank=rank, world_size=world)
    numbers = mine.select_columns(["index", "action_chunk", "chunk_mask", "valid"]).with_format("torch")
    for batch in DataLoader(numbers, batch_size=8, num_workers=NUM_WORKERS):
        chunk, mask = batch["action_chunk"], batch["chunk_mask"]  # float32 [B, H, W], bool [B, H]
        for index, one in zip(batch["index"].tolist(), mask, strict=True):
            print("sample", index, tuple(chunk.shape[1:]), int(one.sum()))
    for name in (name for name in mine.column_names if name.startswith("image_")):
        print("picture", name, mine[0][name].size, mine[0]["instruction"])  # a PIL image


if __name__ == "__main__":  # workers import this file
    main(*sys.argv[1:])
