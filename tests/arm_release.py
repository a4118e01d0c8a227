"""A small release of an arm in the layouts of trainers, and how a test changes one file so that only its content is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from jobs import texts
from jobs.options import TextsOptions
from pipelines.tfrecord import framed, read_payload, scan_shard
from pipelines.zarr_store import read_array, write_array
from schemas.action_recipe import ActionRecipe
from schemas.recipes import BuildRecipe, ViewsRecipe
from schemas.release_choices import CtrlWorldRecipe, SplitRecipe, TextChoice
from schemas.text_recipe import TextRecipe
from tests.arm_lake import arm_lake
from tests.chain import movie
from tests.clips import encode

FORMATS = ("cosmos_policy", "ctrlworld", "droid_raw", "rlds", "zarr")
LENGTHS = (12, 10, 10, 9, 12)
RECIPE = BuildRecipe(
    formats=FORMATS,
    views=ViewsRecipe(slots=("primary", "wrist_left"), height_px=64, width_px=64),
    horizon=4,
    unit_frames=60,
    texts=TextChoice(encoder="hashed"),
    split=SplitRecipe(val_fraction=0.3),
    ctrlworld=CtrlWorldRecipe(frame_stride=2),
)
RELATIVE = ActionRecipe(parts=("pose", "gripper"), reference="framewise", frame="base_axes", rotation="rot6d_rows")
"""Actions as UWM takes them: changes of the state, which only a lake can be asked about."""


def make_arm_lake(folder: Path) -> Path:
    """Five short recordings, three of a length that another has, with embeddings of what they were told."""
    lake = arm_lake(folder, LENGTHS)
    made = TextRecipe(encoder="hashed", options={"width": 1024}, dtype="bfloat16")
    assert texts.run(TextsOptions(str(lake), made, "", False, "inline")).exit_code == 0
    return lake


def change_records(path: Path, change: Callable[[list[Any]], object]) -> None:
    """Replaces the records of a shard by what ``change`` leaves of them, a list of messages ``tf.train.Example``."""
    from tensorflow_datasets.proto import tf_example_pb2

    payloads = [read_payload(path, record, 1 << 30, str(path)) for record in scan_shard(path)[0]]
    examples = [tf_example_pb2.Example.FromString(payload) for payload in payloads]
    change(examples)
    path.write_bytes(b"".join(framed(one.SerializeToString(deterministic=True)) for one in examples))


def change_array(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replaces an array of numbers of a Zarr store."""
    write_array(folder, change(read_array(folder)))


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Replaces a JSON file by what ``change`` leaves of it."""
    facts = json.loads(path.read_bytes())
    change(facts)
    path.write_text(json.dumps(facts))


def change_hdf5(path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replaces the values of a dataset of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        dataset: Any = file[name]
        dataset[...] = change(dataset[()])


def late_video(path: Path) -> None:
    """Every frame of a video a step late."""
    path.write_bytes(encode("h264", later(np.stack(list(movie([path]))))))


def swap(one: Path, other: Path) -> None:
    """Two files change places."""
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def later(values: Any) -> Any:
    """The first again, then all but the last: everything a step late."""
    return np.concatenate([values[:1], values[:-1]]) if isinstance(values, np.ndarray) else [values[0], *values[:-1]]


def nudged(values: np.ndarray) -> np.ndarray:
    """One number of all is a little larger, within what is usual for it."""
    changed = values.copy()
    row = len(changed) // 2
    changed[row] = (changed[row] + changed[row - 1]) / 2 + np.float32(1e-3)
    return changed
