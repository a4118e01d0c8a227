"""Opens the Parquet files with Hugging Face datasets."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path


def problems(folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]:
    """Reads every row; decodes the pictures of the first, the middle and the last."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()

    files = [str(path) for path in sorted((folder / "data").glob("*.parquet"))]
    found = []
    with tempfile.TemporaryDirectory(prefix="wamloom-verify-") as cache:
        dataset = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        read = len(dataset)
        if read != expected["samples"]:
            found.append(f"datasets finds {read} rows, the manifest says {expected['samples']}")
        some = {index: dataset[index]["index"] for index in {0, read // 2, max(0, read - 1)} if index < read}
        found += [f"datasets gives row {got} for {index}" for index, got in sorted(some.items()) if got != index]
        episodes = len(dataset.unique("episode_id"))
        if episodes != expected["episodes"]:
            found.append(f"datasets finds {episodes} episodes, the manifest says {expected['episodes']}")
    return found, read
