"""LeRobot sets of version 1 as its own scripts saved them: ``datasets`` writes the table, safetensors the index."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import safetensors.numpy

from tests.recorded import picture

FPS = 10
CAMERA = "observation.image"
FEATURES: dict[str, Any] = {
    "observation.state": datasets.Sequence(datasets.Value("float32"), length=2),
    "action": datasets.Sequence(datasets.Value("float32"), length=2),
    "episode_index": datasets.Value("int64"),
    "frame_index": datasets.Value("int64"),
    "timestamp": datasets.Value("float32"),
    "next.reward": datasets.Value("float32"),
    "next.done": datasets.Value("bool"),
    "next.success": datasets.Value("bool"),
    "index": datasets.Value("int64"),
    "language_instruction": datasets.Value("string"),
}


def film_name(index: int) -> str:
    return f"videos/{CAMERA}_episode_{index:06d}.mp4"


def rows(lengths: Sequence[int], images: bool) -> dict[str, Any]:
    """The columns of the whole table; instructions are left out unless a test gives some."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    step = np.concatenate([np.arange(length) for length in lengths])
    last = np.concatenate([np.arange(length) == length - 1 for length in lengths])
    columns: dict[str, Any] = {
        "observation.state": np.stack([owner + step / 10, owner - step / 7], 1).astype(np.float32),
        "action": np.stack([owner + step / 3, -step / 9], 1).astype(np.float32),
        "episode_index": owner,
        "frame_index": step,
        "timestamp": (step / FPS).astype(np.float32),
        "next.reward": last.astype(np.float32),
        "next.done": last,
        "next.success": last,
        "index": np.arange(len(owner)),
    }
    if images:
        pictures = [picture(10 * int(i) + int(t), "PNG") for i, t in zip(owner, step, strict=True)]
        columns[CAMERA] = [{"bytes": data, "path": None} for data in pictures]
    else:
        moments = [(film_name(int(i)), float(t) / FPS) for i, t in zip(owner, step, strict=True)]
        columns[CAMERA] = [{"path": path, "timestamp": moment} for path, moment in moments]
    return columns


def write_lerobot_v1(
    root: Path,
    lengths: Sequence[int] = (4, 3),
    images: bool = False,
    shards: int = 1,
    parquet: bool = False,
    films: Sequence[bytes] = (),
    columns: dict[str, Any] | None = None,
    **info: Any,
) -> Path:
    """A set with one camera; ``columns`` replaces or adds columns of the table, ``info`` entries of info.json."""
    told = rows(lengths, images) | (columns or {})
    kinds = {name: FEATURES[name] for name in told if name != CAMERA}
    if CAMERA in told:  # what LeRobot's VideoFrame is in Arrow
        kinds[CAMERA] = (
            datasets.Image() if images else {"path": datasets.Value("string"), "timestamp": datasets.Value("float32")}
        )
    table = datasets.Dataset.from_dict(told, features=datasets.Features(kinds))
    (root / "meta_data").mkdir(parents=True)
    if parquet:
        (root / "data").mkdir()
        for shard in range(shards):
            part = table.shard(shards, shard, contiguous=True)
            part.to_parquet(root / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet")
    else:
        table.save_to_disk(root / "train", num_shards=shards)
    facts = {"codebase_version": "v1.6", "fps": FPS, "video": not images}
    if not images:
        facts["encoding"] = {"vcodec": "libsvtav1", "pix_fmt": "yuv420p", "g": 2, "crf": 30}
        (root / "videos").mkdir()
        for index in range(len(lengths)):
            (root / film_name(index)).write_bytes(films[index] if films else f"episode {index}".encode())
    kept = {name: value for name, value in (facts | info).items() if value is not None}
    (root / "meta_data" / "info.json").write_text(json.dumps(kept))
    stops = np.cumsum(lengths)
    write_index(root, stops - np.array(lengths), stops)
    safetensors.numpy.save_file({"action/mean": np.zeros(2, np.float32)}, root / "meta_data" / "stats.safetensors")
    return root


def write_index(root: Path, starts: Any, stops: Any, kind: Any = np.int64) -> None:
    index = {"from": np.asarray(starts, kind), "to": np.asarray(stops, kind)}
    safetensors.numpy.save_file(index, root / "meta_data" / "episode_data_index.safetensors")
