"""Opens buffers of UWM and UMI with the library zarr."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def problems(folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]:
    """Reads every array of every buffer, pictures one frame at a time."""
    import numpy as np
    import zarr

    found: list[str] = []
    counts = {"samples": 0, "frames": 0, "episodes": 0}
    for path in sorted(folder.glob("*.zarr")):
        root: Any = zarr.open_group(str(path), mode="r", zarr_format=2)
        ends = np.asarray(root["meta/episode_ends"][:])
        counts["episodes"] += len(ends)
        counts["samples"] += root["meta/valid"].shape[0]
        for name, array in sorted(root["data"].arrays()):
            if array.shape[0] != ends[-1]:
                found.append(f"{path.name}: {name} has {array.shape[0]} rows, the last episode ends at {ends[-1]}")
            elif array.dtype == np.uint8:
                counts["frames"] += int(array.nchunks_initialized)  # one that is missing would read as black
                for row in range(array.shape[0]):
                    array[row]
            elif (numbers := np.asarray(array[:])).dtype != np.float32:
                found.append(f"{path.name}: {name} is {numbers.dtype}, trainers want float32")
    for what, number in counts.items():
        if number != expected[what]:
            found.append(f"zarr finds {number} {what}, the manifest says {expected[what]}")
    return found, counts["samples"]
