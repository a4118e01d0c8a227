"""Small recordings in the source layouts, written from plain values, for tests to read and to damage."""

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.tfrecord import masked_crc


def picture(value: int, kind: str = "JPEG", size: int = 16) -> bytes:
    """A flat gray picture."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value % 256, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def frame_record(payload: bytes) -> bytes:
    """``payload`` as a TFRecord."""
    header = struct.pack("<Q", len(payload))
    return header + struct.pack("<I", masked_crc(header)) + payload + struct.pack("<I", masked_crc(payload))


def example(features: dict[str, Any]) -> bytes:
    """A serialized tf.train.Example; bytes, floats and integers in flat lists."""
    from tensorflow_datasets.proto import tf_example_pb2

    message = tf_example_pb2.Example()
    for key, values in features.items():
        feature = message.features.feature[key]
        flat = list(np.asarray(values).reshape(-1).tolist()) if not isinstance(values, list) else values
        if flat and isinstance(flat[0], bytes):
            feature.bytes_list.value.extend(flat)
        elif flat and isinstance(flat[0], float):
            feature.float_list.value.extend(flat)
        else:
            feature.int64_list.value.extend(int(value) for value in flat)
    return message.SerializeToString(deterministic=True)


def tensor(dtype: str, *dimensions: int, encoding: str = "none") -> dict[str, Any]:
    shape = {"dimensions": [str(size) for size in dimensions]} if dimensions else {}
    return {"pythonClassName": "Tensor", "tensor": {"shape": shape, "dtype": dtype, "encoding": encoding}}


TEXT = {"pythonClassName": "Text", "text": {}}
IMAGE = {"pythonClassName": "Image", "image": {"shape": {"dimensions": ["16", "16", "3"]}, "dtype": "uint8"}}


def table(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": features}}


def sequence(feature: dict[str, Any], length: int = -1) -> dict[str, Any]:
    return {"pythonClassName": "Dataset", "sequence": {"feature": feature, "length": str(length)}}


STEPS = table(
    observation=table(state=tensor("float32", 3), image_0=IMAGE),
    action=tensor("float64", 2),
    is_first=tensor("bool"),
    is_last=tensor("bool"),
    language_instruction=TEXT,
)
FEATURES = table(steps=sequence(STEPS), episode_metadata=table(file_path=TEXT, has_image_0=tensor("bool")))


def rlds_episode(number: int, num_steps: int = 4, **changes: Any) -> dict[str, Any]:
    """Feature values of one episode; ``changes`` by key with ``/`` written ``__``; None removes."""
    steps = np.arange(num_steps)
    values: dict[str, Any] = {
        "steps/observation/state": np.float32(number + steps[:, None] / 10 + np.arange(3)),
        "steps/observation/image_0": [picture(10 * number + int(step)) for step in steps],
        "steps/action": np.float32(number - steps[:, None] / 8 + np.arange(2)),
        "steps/is_first": steps == 0,
        "steps/is_last": steps == num_steps - 1,
        "steps/language_instruction": [b"lift the cup"] * num_steps,
        "episode_metadata/file_path": [f"/raw/{number}".encode()],
        "episode_metadata/has_image_0": np.array([True]),
    }
    values |= {key.replace("__", "/"): value for key, value in changes.items()}
    return {key: value for key, value in values.items() if value is not None}


def write_rlds(
    root: Path, splits: dict[str, list[list[bytes]]], features: dict[str, Any] | None = None, name: str = "toy"
) -> Path:
    """``splits``: shards of serialized records by split; returns the version folder."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(json.dumps(features or FEATURES))
    listing = []
    for split, shards in splits.items():
        listing.append({"name": split, "shardLengths": [str(len(shard)) for shard in shards], "numBytes": "1"})
        for index, shard in enumerate(shards):
            path = folder / f"{name}-{split}.tfrecord-{index:05d}-of-{len(shards):05d}"
            path.write_bytes(b"".join(frame_record(record) for record in shard))
    info = {"name": name, "version": "1.0.0", "fileFormat": "tfrecord", "splits": listing}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def lerobot_rows(index: int, start: int, length: int, fps: float = 10, images: bool = False) -> dict[str, Any]:
    """Columns of one episode."""
    steps = np.arange(length)
    columns: dict[str, Any] = {
        "observation.state": pa.array(
            (index + steps[:, None] / 10 + np.arange(3)).astype(np.float32).tolist(), pa.list_(pa.float32())
        ),
        "action": pa.FixedSizeListArray.from_arrays(
            pa.array((index - steps[:, None] / 8 + np.arange(2)).astype(np.float32).reshape(-1)), 2
        ),
        "next.success": pa.array((steps == length - 1).tolist()),
        "timestamp": pa.array((steps / fps).astype(np.float32)),
        "frame_index": pa.array(steps),
        "episode_index": pa.array(np.full(length, index)),
        "index": pa.array(start + steps),
        "task_index": pa.array(np.zeros(length, np.int64)),
    }
    if images:
        columns["camera"] = pa.array(
            [{"bytes": picture(10 * index + int(step), "PNG"), "path": None} for step in steps],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    return columns


def write_lerobot(
    root: Path, version: str = "v2.1", lengths: Sequence[int] = (4, 3), images: bool = False, **changes: Any
) -> Path:
    """A set with one camera: pictures in the rows, or a file of made-up bytes per video. ``changes`` go into info.json."""
    v3 = version == "v3.0"
    (root / "meta").mkdir(parents=True)
    features: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": [["a", "b", "c"]]},
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["a", "b"]}},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        "camera": {"dtype": "image" if images else "video", "shape": [16, 16, 3], "names": None},
    }
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1]}
    info = {
        "codebase_version": version,
        "robot_type": "toy_arm",
        "fps": 10,
        "chunks_size": 1000,
        "total_episodes": len(lengths),
        "features": features,
        "splits": {"train": f"0:{len(lengths) - 1}", "val": f"{len(lengths) - 1}:{len(lengths)}"},
    }
    (root / "meta" / "info.json").write_text(json.dumps(info | changes))
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    episodes = [lerobot_rows(i, starts[i], length, images=images) for i, length in enumerate(lengths)]
    videos = root / "videos" / ("camera/chunk-000" if v3 else "chunk-000/camera")
    if not images:
        videos.mkdir(parents=True)
    if v3:
        (root / "data" / "chunk-000").mkdir(parents=True)
        (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        whole = pa.concat_tables([pa.table(columns) for columns in episodes])
        pq.write_table(whole, root / "data/chunk-000/file-000.parquet", row_group_size=5, write_page_checksum=True)
        rows: dict[str, Any] = {
            "episode_index": list(range(len(lengths))),
            "tasks": [["lift the cup"]] * len(lengths),
            "length": list(lengths),
            "data/chunk_index": [0] * len(lengths),
            "data/file_index": [0] * len(lengths),
            "dataset_from_index": starts[:-1],
            "dataset_to_index": starts[1:],
            "stats/action/mean": [[0.0, 0.0]] * len(lengths),
        }
        if not images:
            rows["videos/camera/chunk_index"] = rows["videos/camera/file_index"] = [0] * len(lengths)
            rows["videos/camera/from_timestamp"] = [start / 10 for start in starts[:-1]]
            (videos / "file-000.mp4").write_bytes(b"all the episodes")
        pq.write_table(pa.table(rows), root / "meta/episodes/chunk-000/file-000.parquet")
        pq.write_table(pa.table({"task_index": [0], "task": ["lift the cup"]}), root / "meta/tasks.parquet")
        return root
    (root / "data" / "chunk-000").mkdir(parents=True)
    for index, columns in enumerate(episodes):
        path = root / "data" / "chunk-000" / f"episode_{index:06d}.parquet"
        pq.write_table(pa.table(columns), path, write_page_checksum=True)
        if not images:
            (videos / f"episode_{index:06d}.mp4").write_bytes(f"episode {index}".encode())
    lines = [{"episode_index": i, "tasks": ["lift the cup"], "length": n} for i, n in enumerate(lengths)]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    (root / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": "lift the cup"}) + "\n")
    return root
