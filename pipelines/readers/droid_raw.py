"""Opens the tree as V-JEPA 2-AC does: h5py for the rows, decord for the videos, and the CSV files with pandas."""

import json
from collections.abc import Mapping
from pathlib import Path


def problems(folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]:
    """Every row and the number of frames of every video; the last frame of each is decoded."""
    import h5py
    from decord import VideoReader, cpu

    found: list[str] = []
    counts = {"samples": 0, "frames": 0, "episodes": 0}
    folders = {str(path.parent.relative_to(folder)) for path in folder.rglob("trajectory.h5")}
    index = json.loads((folder / "wamloom.json").read_bytes())
    listed = [line for path in sorted(folder.glob("*.csv")) for line in path.read_text().splitlines()]
    if sorted([*listed, *index["too_short"]]) != sorted(folders):
        found.append("the CSV files and the episodes that are too short for them are not those of the tree")
    for name in sorted(folders):
        root = folder / name
        (metadata,) = root.glob("*.json")
        facts = json.loads(metadata.read_bytes())
        with h5py.File(root / "trajectory.h5") as file:
            state = file["observation"]["robot_state"]
            rows = len(state["cartesian_position"])
            shapes = state["cartesian_position"].shape, state["gripper_position"].shape
        if shapes != ((rows, 6), (rows,)):
            found.append(f"{name}: the state has the shapes {shapes}")
        for key in sorted(key for key in facts if key.endswith("_mp4_path") and not key.startswith(("left", "right"))):
            video = VideoReader(str(root / "recordings/MP4" / facts[key].split("recordings/MP4/")[-1]), ctx=cpu(0))
            if len(video) != rows:
                found.append(f"{name}: decord finds {len(video)} frames of {key}, there are {rows} rows")
            video[len(video) - 1]
            counts["frames"] += len(video)
        counts["samples"] += rows
        counts["episodes"] += 1
    for what, number in counts.items():
        if number != expected[what]:
            found.append(f"h5py and decord find {number} {what}, the manifest says {expected[what]}")
    return found, counts["samples"]
