"""Makes LeRobot sets of one long episode with several cameras cheaply: some seconds are encoded, their packets repeated."""

import itertools
import json
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

CAMERAS = ("primary", "secondary", "wrist_left")
RATE = 15
PATHS = {
    "lerobot_v21": (
        "data/chunk-000/episode_{episode_index:06d}.parquet",
        "videos/chunk-000/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    "lerobot_v3": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}
SHORT = 8
"""Frames of the episode that comes before the long one in shared files: no key frame stands where the long one begins."""
WIDTH = 7
"""Of the vectors of the simulated arm, whose card the set is mapped by."""


def encode_clip(path: Path, num_frames: int, width_px: int, height_px: int, crf: int, noise: int, seed: int) -> None:
    """A clip that moves and has grain, H.264 with a key frame every second."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(60, 200, (height_px // 8, width_px // 8, 3), dtype=np.uint8)
    options = {"g": str(RATE), "crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    with av.open(str(path), "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for index in range(num_frames):
            picture = np.kron(np.roll(blocks, index, axis=1), np.ones((8, 8, 1), np.int16))
            picture = picture[:height_px, :width_px] + rng.integers(-noise, noise + 1, (height_px, width_px, 3))
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), "rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def repeat_packets(clip: Path, path: Path, num_frames: int) -> None:
    """``num_frames`` frames made of the packets of ``clip``, over and over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(clip)) as source, av.open(str(path), "w", format="mp4") as output:
        template = source.streams.video[0]
        assert template.time_base is not None
        packets = [packet for packet in source.demux(template) if packet.size]
        pieces = [(bytes(one), one.pts, one.dts, one.duration, one.is_keyframe) for one in packets]
        span = int(Fraction(len(pieces), RATE) / template.time_base)
        stream = output.add_stream_from_template(template, opaque=True)
        stream.time_base = template.time_base
        for index in range(num_frames):
            turn, position = divmod(index, len(pieces))
            data, pts, dts, duration, is_key = pieces[position]
            packet = av.Packet(data)
            packet.stream, packet.time_base, packet.duration = stream, template.time_base, duration
            packet.pts, packet.dts = pts + turn * span, dts + turn * span
            packet.is_keyframe = is_key
            output.mux_one(packet)


def write_set(
    root: Path, layout: Literal["lerobot_v21", "lerobot_v3"], clips: dict[str, Path], num_frames: int
) -> tuple[Path, Path]:
    """A set of one episode of ``num_frames`` steps whose cameras show ``clips`` over and over; the set, and its card.

    v3 has the episode second in files it shares with a short first one, so that it has to be cut out.
    """
    folder = root / "long_arm"
    lengths = [num_frames] if layout == "lerobot_v21" else [SHORT, num_frames]
    keys = {slot: f"observation.images.{slot}" for slot in clips}
    tables = [_rows(index, sum(lengths[:index]), length) for index, length in enumerate(lengths)]
    (folder / "meta").mkdir(parents=True)
    data, video = PATHS[layout]
    if layout == "lerobot_v21":
        data_files = {data.format(episode_index=0): tables[0]}
        listed = [{"episode_index": 0, "tasks": ["stack the cubes"], "length": num_frames}]
        (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
        (folder / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "stack the cubes"}) + "\n")
        video_files = {slot: video.format(video_key=key, episode_index=0) for slot, key in keys.items()}
    else:
        data_files = {data.format(chunk_index=0, file_index=0): pa.concat_tables(tables)}
        video_files = {slot: video.format(video_key=key, chunk_index=0, file_index=0) for slot, key in keys.items()}
        _write_index(folder, lengths, list(keys.values()))
    for relative, table in data_files.items():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / relative)
    for slot, relative in video_files.items():
        repeat_packets(clips[slot], folder / relative, sum(lengths))
    features: dict[str, Any] = {
        name: {"dtype": "float32", "shape": [WIDTH], "names": None} for name in ("observation.state", "action")
    }
    features |= {key: {"dtype": "video", "shape": [1, 1, 3], "names": None} for key in keys.values()}
    features |= {
        name: {"dtype": dtype, "shape": [1], "names": None}
        for name, dtype in (
            ("timestamp", "float32"),
            ("frame_index", "int64"),
            ("episode_index", "int64"),
            ("index", "int64"),
            ("task_index", "int64"),
        )
    }
    info = {
        "codebase_version": "v2.1" if layout == "lerobot_v21" else "v3.0", "robot_type": "long_arm",
        "total_episodes": len(lengths), "total_frames": sum(lengths), "total_tasks": 1, "chunks_size": 1000, "fps": RATE,
        "splits": {"train": f"0:{len(lengths)}"}, "data_path": data, "video_path": video, "features": features,
    }  # fmt: skip
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    card = root / "long_arm.toml"
    views = "\n".join(f'"{key}" = "{slot}"' for slot, key in keys.items())
    card.write_text(
        'name = "long_arm"\nversion = 1\ntitle = "A long simulated episode"\nsource = "lerobot"\n'
        f'embodiment = "long_arm_robot"\nlicense = "CC0-1.0"\n[[proprio]]\nfield = "observation.state"\n'
        f'[[action]]\nfield = "action"\n[views]\n{views}\n'
    )
    robot = (resources.files("schemas") / "cards/embodiments/sample_arm.toml").read_text()
    robot = robot.replace('name = "sample_arm"', 'name = "long_arm_robot"')
    robot = robot.replace('views = ["primary", "wrist_left"]', f"views = {json.dumps(list(clips))}")
    for kind in ("datasets", "embodiments"):
        (root / "cards" / kind).mkdir(parents=True)
    (root / "cards" / "embodiments" / "long_arm_robot.toml").write_text(robot)
    return folder, card.rename(root / "cards" / "datasets" / card.name)


def _rows(episode: int, first: int, length: int) -> pa.Table:
    phase = np.linspace(0, length / 30, length)[:, None] + np.arange(WIDTH)
    proprio = np.sin(phase).astype(np.float32)
    proprio[:, -1] = (proprio[:, -1] > 0).astype(np.float32)

    def vectors(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), pa.float32()), WIDTH)

    return pa.table(
        {
            "observation.state": vectors(proprio),
            "action": vectors(np.roll(proprio, -1, axis=0)),
            "timestamp": pa.array((np.arange(length) / RATE).astype(np.float32)),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": first + np.arange(length),
            "task_index": np.zeros(length, np.int64),
        }
    )


def _write_index(folder: Path, lengths: list[int], keys: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    starts = [0, *itertools.accumulate(lengths)]
    for index, length in enumerate(lengths):
        row: dict[str, Any] = {
            "episode_index": index, "tasks": ["stack the cubes"], "length": length, "data/chunk_index": 0,
            "data/file_index": 0, "dataset_from_index": starts[index], "dataset_to_index": starts[index + 1],
            "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
        }  # fmt: skip
        for key in keys:
            row |= {
                f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0,
                f"videos/{key}/from_timestamp": starts[index] / RATE,
                f"videos/{key}/to_timestamp": starts[index + 1] / RATE,
            }  # fmt: skip
        rows.append(row)
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    frame = pd.DataFrame({"task_index": [0]}, index=pd.Index(["stack the cubes"], name="task"))
    frame.to_parquet(folder / "meta" / "tasks.parquet")
