"""Reads LeRobot 2.0 and 2.1 as GR00T's ``LeRobotEpisodeLoader`` does, with pandas and decord: the judge of what we write.

(``gr00t/data/dataset/lerobot_episode_loader.py``; LeRobot's own reader of version 2 is not installed beside that of 3, and
``make test-readers`` runs it in an environment of its own.)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE_S = 1e-4
"""How far a time may lie from that of its frame."""


def problems(folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]:
    """Reads every row of every episode, and of every video the first, middle and last frame; see ``pipelines.readers``."""
    info = json.loads((folder / "meta/info.json").read_bytes())
    modality = json.loads((folder / "meta/modality.json").read_bytes())
    stats = json.loads((folder / "meta/stats.json").read_bytes())
    tasks = {line["task_index"]: line["task"] for line in _lines(folder / "meta/tasks.jsonl")}
    episodes = _lines(folder / "meta/episodes.jsonl")
    found, read = [], 0
    for line in episodes:
        number = int(line["episode_index"])
        place = {"episode_chunk": number // info["chunks_size"], "episode_index": number}
        rows = _rows(folder / info["data_path"].format(**place), modality, stats, tasks)
        read += len(rows["index"])
        found += [f"episode {number}: {what}" for what in _row_problems(rows, line, read, info["fps"])]
        for view, entry in modality["video"].items():
            path = folder / info["video_path"].format(video_key=entry["original_key"], **place)
            height, width, _ = info["features"][entry["original_key"]]["shape"]
            frames, shape = _video(path)
            if (frames, shape) != (line["length"], (height, width, 3)):
                found.append(
                    f"{view} of episode {number}: {frames} frames {shape}, not {line['length']} of {width} x {height}"
                )
    for name, number in (("samples", read), ("episodes", len(episodes))):
        if number != expected[name]:
            found.append(f"{number} {name} are read, the manifest says {expected[name]}")
    return found, read


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _rows(
    path: Path, modality: Mapping[str, Any], stats: Mapping[str, Any], tasks: Mapping[int, str]
) -> dict[str, Any]:
    """The columns of an episode: each part by name, with statistics as wide as it is, and each annotation as text."""
    import pandas as pd

    table = pd.read_parquet(path)
    found: dict[str, Any] = {name: table[name].to_numpy() for name in ("index", "frame_index", "timestamp")}
    for kind in ("state", "action"):
        for name, entry in modality[kind].items():
            column = np.stack([np.atleast_1d(row) for row in table[entry["original_key"]]])
            part = column[:, entry["start"] : entry["end"]]
            widths = {len(values[entry["start"] : entry["end"]]) for values in stats[entry["original_key"]].values()}
            found[f"{kind}.{name}"] = part if widths == {part.shape[1]} else None
    for name, entry in modality["annotation"].items():
        found[f"annotation.{name}"] = [tasks[int(row)] for row in table[entry["original_key"]]]
    return found


def _row_problems(rows: Mapping[str, Any], line: Mapping[str, Any], read: int, fps: float) -> list[str]:
    length = line["length"]
    found = [f"{name} and its statistics differ in width" for name, values in rows.items() if values is None]
    if len(rows["index"]) != length:
        return [*found, f"{len(rows['index'])} rows, {length} are told"]
    if not np.array_equal(rows["index"], np.arange(read - length, read)):
        found.append("its rows do not follow those before")
    if np.abs(rows["timestamp"] - np.arange(length) / fps).max() > TOLERANCE_S:
        found.append("times are not those of the frames")
    strange = {text for name, values in rows.items() if name.startswith("annotation.") for text in values} - {
        *line["tasks"]
    }
    return [*found, *(f"the instruction {text!r} is not among its tasks" for text in sorted(strange))]


def _video(path: Path) -> tuple[int, tuple[int, ...]]:
    """Number of frames and the shape of the first, middle and last; by PyAV where decord 0.6 knows no codec (AV1)."""
    import av
    import decord

    with av.open(str(path)) as container:
        if container.streams.video[0].codec_context.name not in ("h264", "hevc"):
            shapes = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
            return len(shapes), shapes[0] if len(set(shapes)) == 1 else ()
    reader = decord.VideoReader(str(path), num_threads=1)
    shapes = [reader[index].asnumpy().shape for index in sorted({0, len(reader) // 2, len(reader) - 1})]
    return len(reader), shapes[0] if len(set(shapes)) == 1 else ()
