"""Recordings made from cards: exactly the fields a card names, in its source's layout, with values its robot could have.

One function for each source writes one episode; ``record`` chooses it by ``card.source``. What a card does not say of how
its fields are stored (flags, integers, compressed tensors) stands in ``STORED``, as the published feature lists say; fields
that it only knows its data by are written too.
"""

import io
import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from PIL import Image

from schemas.dataset_card import ChannelMap, DatasetCard
from schemas.embodiment import ChannelKind, Embodiment, Gripper, Layout, rotation_starts
from tests import droid_tree
from tests.recorded import IMAGE, TEXT, example, picture, sequence, table, tensor, write_rlds
from tests.recorded_hdf5 import fill, padded
from tests.recorded_lerobot_v1 import CAMERA, write_lerobot_v1

NUM_STEPS = 12
INSTRUCTION = "lift the cup"
_DROID = {
    "observation/cartesian_position": tensor("float64", 6),
    "observation/joint_position": tensor("float64", 7),
    "observation/gripper_position": tensor("float64", 1),
    "action_dict/cartesian_position": tensor("float64", 6),
    "action_dict/joint_position": tensor("float64", 7),
    "action_dict/gripper_position": tensor("float64", 1),
}
_SCALAR_GRIPPER = {"action/gripper_closedness_action": tensor("float32")}
_GNM = {"observation/state": tensor("float64", 3), "action": tensor("float64", 2)}
STORED: dict[str, dict[str, dict[str, Any]]] = {
    "aloha_static_dataset": {"action": tensor("float32", 14)},
    "bc_z": {
        "action/future/xyz_residual": tensor("float32", 30),
        "action/future/axis_angle_residual": tensor("float32", 30),
        "action/future/target_close": tensor("int64", 10),
        "observation/episode_success": tensor("float32"),
    },
    "berkeley_autolab_ur5": {**_SCALAR_GRIPPER, "observation/robot_state": tensor("float32", 15)},
    "berkeley_gnm_cory_hall": _GNM,
    "berkeley_gnm_recon": _GNM,
    "berkeley_gnm_sac_son": _GNM,
    "berkeley_mvp_converted_externally_to_rlds": {"observation/gripper": tensor("bool")},
    "berkeley_rpt_converted_externally_to_rlds": {"observation/gripper": tensor("bool")},
    "bridge_oxe": {"action/open_gripper": tensor("bool")},
    "columbia_cairlab_pusht_real": _SCALAR_GRIPPER,
    "droid": _DROID,
    "droid_wipe": _DROID,
    "fmb": {"observation/state_gripper_pose": tensor("float32")},
    "gnm_dataset": _GNM,
    "kuka": {
        "observation/clip_function_input/base_pose_tool_reached": tensor("float32", 7, encoding="zlib"),
        "observation/gripper_closed": tensor("float32", 1, encoding="zlib"),
    },
    "language_table": {"observation/instruction": tensor("int32", 512)},
    "rh20t": {"action/gripper": tensor("int64"), "observation/gripper_width": tensor("float32")},
    "stanford_hydra_dataset_converted_externally_to_rlds": {"observation/state": tensor("float32", 27)},
    "toto": {"action/open_gripper": tensor("bool")},
    "uiuc_d3field": {"observation/state": tensor("float32", 4, 4)},
    "viola": _SCALAR_GRIPPER,
}
"""By card and field, where a field is more than a vector of float32 as wide as the card needs."""
_WITHOUT_LAST_ACTION = {"irasim_bridge", "irasim_rt1", "robohive_franka"}
"""Sets that hold no action for the last state."""


@dataclass(frozen=True)
class Recording:
    """What was written, and what a reader should make of it by the card."""

    place: Path
    proprio: np.ndarray
    action: np.ndarray


def record(card: DatasetCard, robot: Embodiment, root: Path, seed: int = 7) -> Recording:
    """One episode of ``NUM_STEPS`` steps under ``root``, in the layout of the card's source."""
    rng = np.random.default_rng(seed)
    proprio = vectors(robot.proprio, robot.proprio_grippers, rng)
    action = vectors(robot.action, robot.action_grippers, rng)
    num_actions = NUM_STEPS - (card.name in _WITHOUT_LAST_ACTION)
    fields: dict[str, np.ndarray] = {}
    _spread(fields, card.proprio, proprio, rng)
    _spread(fields, card.action, action, rng)
    for one in card.action:
        fields[one.field] = fields[one.field][:num_actions]
    return Recording(RECORDERS[card.source](card, robot, root, fields), proprio, action[:num_actions])


def vectors(layout: Layout, grippers: Sequence[Gripper], rng: np.random.Generator) -> np.ndarray:
    """[T, n]: within limits, grippers open or closed, quaternions of length 1; each number fits 32 bits."""
    columns = [
        rng.uniform(-1 if one.low is None else one.low, 1 if one.high is None else one.high, NUM_STEPS)
        for one in layout
    ]
    values = np.stack(columns, axis=1) if columns else np.zeros((NUM_STEPS, 0))
    for start in rotation_starts(layout, ChannelKind.QUATERNION, 4):
        values[:, start : start + 4] /= np.linalg.norm(values[:, start : start + 4], axis=1, keepdims=True)
    names = [one.name for one in layout]
    for gripper in grippers:
        opened = rng.permutation(np.arange(NUM_STEPS) % 2 == 0)
        values[:, names.index(gripper.channel)] = np.where(opened, gripper.open, gripper.closed)
    return values.astype(np.float32).astype(np.float64)


def _spread(
    fields: dict[str, np.ndarray], maps: Sequence[ChannelMap], values: np.ndarray, rng: np.random.Generator
) -> None:
    """Writes ``values`` where the maps would read them; columns that no map reads are random."""
    column = 0
    for one in maps:
        width = values.shape[1] - column if one.stop is None else one.stop - one.start
        have = fields.get(one.field, np.zeros((NUM_STEPS, 0), np.float32))
        missing = max(0, one.start + width - have.shape[1])
        have = np.concatenate([have, rng.uniform(-1, 1, (NUM_STEPS, missing)).astype(np.float32)], axis=1)
        have[:, one.start : one.start + width] = (values[:, column : column + width] - one.offset) / one.scale
        fields[one.field] = have
        column += width
    assert column == values.shape[1]


def _stored(values: np.ndarray, spec: dict[str, Any]) -> Any:
    """``values`` as the feature ``spec`` stores them."""
    content = spec["tensor"]
    shape = [int(size) for size in content["shape"].get("dimensions", [])]
    width = int(np.prod(shape, dtype=int))
    whole = np.zeros((NUM_STEPS, width))
    whole[:, : values.shape[1]] = values
    kind = np.dtype(content["dtype"])
    stored = np.rint(whole).astype(kind) if kind.kind in "iub" else whole.astype(np.float32)
    if content["encoding"] == "zlib":
        return [zlib.compress(row.astype("<f4").tobytes()) for row in stored]
    return stored


def _png(mode: str, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (size, size), 7 if mode in ("L", "I;16") else (1, 2, 3, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def _rlds(card: DatasetCard, robot: Embodiment, root: Path, fields: dict[str, np.ndarray]) -> Path:
    specs = STORED.get(card.name, {})
    features: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for name, numbers in fields.items():
        spec = specs.get(name, tensor("float32", numbers.shape[1]))
        features[name], values[f"steps/{name}"] = spec, _stored(numbers, spec)
    for number, camera in enumerate(card.views):
        features[camera] = IMAGE
        values[f"steps/{camera}"] = [picture(10 * number + step) for step in range(NUM_STEPS)]
    for camera in card.depth:
        features[camera] = IMAGE
        values[f"steps/{camera}"] = [_png("RGBA" if card.name == "berkeley_autolab_ur5" else "I;16")] * NUM_STEPS
    for name in card.language.fields:
        if name in specs:  # Unicode code points, padded with zeros
            codes = np.zeros((NUM_STEPS, 512))
            codes[:, : len(INSTRUCTION)] = [ord(letter) for letter in INSTRUCTION]
            features[name], values[f"steps/{name}"] = specs[name], _stored(codes, specs[name])
        else:
            features[name], values[f"steps/{name}"] = TEXT, [INSTRUCTION.encode()] * NUM_STEPS
    outer: dict[str, dict[str, Any]] = {}
    success = card.success_field
    if success is not None and (success == "reward" or success.startswith("observation/")):
        features[success], values[f"steps/{success}"] = tensor("float32"), np.eye(NUM_STEPS, dtype=np.float32)[-1]
    elif success is not None:
        outer[success], values[success] = tensor("bool"), np.array([True])
    for name, step in (("is_first", 0), ("is_last", NUM_STEPS - 1)):
        features[name], values[f"steps/{name}"] = tensor("bool"), np.arange(NUM_STEPS) == step
    tree = _tree(outer)
    tree["featuresDict"]["features"]["steps"] = sequence(_tree(features))
    name = card.recognize.datasets[0]
    return write_rlds(root, {"train": [[example(values)]]}, tree, name)


def _tree(features: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Features by path as nested tables."""
    branches: dict[str, dict[str, dict[str, Any]]] = {}
    leaves: dict[str, dict[str, Any]] = {}
    for path, spec in features.items():
        first, _, rest = path.partition("/")
        if rest:
            branches.setdefault(first, {})[rest] = spec
        else:
            leaves[first] = spec
    return table(**leaves, **{name: _tree(inner) for name, inner in branches.items()})


def _lerobot(card: DatasetCard, robot: Embodiment, root: Path, fields: dict[str, np.ndarray]) -> Path:
    rate = card.control_rate or robot.control_rate or Fraction(10)
    place = root / (card.recognize.datasets or (card.name,))[0]
    features: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for name, numbers in fields.items():
        features[name] = {"dtype": "float32", "shape": [numbers.shape[1]], "names": None}
        columns[name] = pa.array(numbers.tolist(), pa.list_(pa.float32()))
    for camera in card.views:
        features[camera] = {"dtype": "image", "shape": [16, 16, 3], "names": ["height", "width", "channel"]}
        columns[camera] = pa.array([{"bytes": picture(step, "PNG"), "path": None} for step in range(NUM_STEPS)])
    if card.success_field is not None:
        features[card.success_field] = {"dtype": "bool", "shape": [1], "names": None}
        columns[card.success_field] = pa.array((np.arange(NUM_STEPS) == NUM_STEPS - 1).tolist())
    steps = np.arange(NUM_STEPS)
    for name, numbers in (
        ("frame_index", steps),
        ("episode_index", 0 * steps),
        ("index", steps),
        ("task_index", 0 * steps),
    ):
        features[name] = {"dtype": "int64", "shape": [1]}
        columns[name] = pa.array(numbers)
    features["timestamp"] = {"dtype": "float32", "shape": [1]}
    columns["timestamp"] = pa.array((steps / float(rate)).astype(np.float32))
    info = {
        "codebase_version": "v2.1",
        "robot_type": (card.recognize.robot_types or ("",))[0],
        "fps": float(rate),
        "chunks_size": 1000,
        "total_episodes": 1,
        "features": features,
        "splits": {"train": "0:1"},
    }
    (place / "meta").mkdir(parents=True)
    (place / "data" / "chunk-000").mkdir(parents=True)
    (place / "meta" / "info.json").write_text(json.dumps(info))
    line = {"episode_index": 0, "tasks": [INSTRUCTION], "length": NUM_STEPS}
    (place / "meta" / "episodes.jsonl").write_text(json.dumps(line) + "\n")
    (place / "meta" / "tasks.jsonl").write_text(json.dumps({"task_index": 0, "task": INSTRUCTION}) + "\n")
    pq.write_table(pa.table(columns), place / "data" / "chunk-000" / "episode_000000.parquet", write_page_checksum=True)
    return place


def _lerobot_v1(card: DatasetCard, robot: Embodiment, root: Path, fields: dict[str, np.ndarray]) -> Path:
    assert list(card.views) == [CAMERA]
    columns = fields | {name: [INSTRUCTION] * NUM_STEPS for name in card.language.fields}
    return write_lerobot_v1(root / _set_name(card), (NUM_STEPS,), images=True, columns=columns)


def _set_name(card: DatasetCard) -> str:
    """A name that the card would recognize."""
    return (card.recognize.datasets or (card.name,))[0].replace("*", "")


def _with_marks(card: DatasetCard, fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``fields`` and the others that the card knows its data by: one column, with rows at the rate the card says."""
    named = {*card.views, *card.depth, card.success_field}
    marks = {}
    for name in sorted(set(card.recognize.fields) - set(fields) - named):
        share = card.rates[name] / (card.control_rate or 1) if name in card.rates else 1
        marks[name] = np.ones((math.ceil(NUM_STEPS * share), 1), np.float32)
    return fields | marks


def _pixels(camera: int) -> np.ndarray:
    """uint8 [T, 16, 16, 3]."""
    steps = np.arange(NUM_STEPS, dtype=np.uint8)[:, None, None, None] + np.uint8(10 * camera)
    return np.broadcast_to(steps, (NUM_STEPS, 16, 16, 3))


def _clips(card: DatasetCard, robot: Embodiment, root: Path, fields: dict[str, np.ndarray]) -> Path:
    place = root / _set_name(card)
    facts: dict[str, Any] = {name: [INSTRUCTION] if name == "texts" else INSTRUCTION for name in card.language.fields}
    if card.success_field is not None:
        meant = [text for text, is_success in card.success_texts.items() if is_success]
        facts[card.success_field] = meant[0] if meant else 1
    if card.recognize.robot_types:
        facts |= {"robotEmbodiment": card.recognize.robot_types[0], "dataLength": NUM_STEPS}
        (place / "0" / "trajectories").mkdir(parents=True)
        (place / "0" / "information.json").write_text(json.dumps(facts))
        for name, numbers in fields.items():
            told = {"columns": [f"c{i}" for i in range(numbers.shape[1])], "data": numbers.tolist()}
            (place / "0" / "trajectories" / f"{name}.json").write_text(json.dumps(told))
        for camera in card.views:
            (place / "0" / f"{camera}.mp4").write_bytes(camera.encode())
        return place
    facts |= {name: numbers.tolist() for name, numbers in _with_marks(card, fields).items()}
    (place / "annotation" / "train").mkdir(parents=True)
    (place / "videos" / "train" / "0").mkdir(parents=True)
    for number, camera in enumerate(card.views):
        video = f"videos/train/0/{number}.mp4"
        (place / video).write_bytes(camera.encode())
        if camera.startswith("videos/"):
            facts.setdefault("videos", []).append({"video_path": video})
        else:
            facts[camera] = video
    (place / "annotation" / "train" / "0.json").write_text(json.dumps(facts))
    return place


def _zarr(card: DatasetCard, robot: Embodiment, root: Path, fields: dict[str, np.ndarray]) -> Path:
    place = root / _set_name(card)
    group = zarr.create_group(str(place), zarr_format=2)
    arrays = _with_marks(card, fields)
    for number, camera in enumerate(card.views):
        arrays[camera] = _pixels(number)
    for name, values in arrays.items():
        group.create_array(f"data/{name}", shape=values.shape, chunks=values.shape, dtype=values.dtype)[:] = values
    group.create_array("meta/episode_ends", shape=(1,), dtype="i8")[:] = [NUM_STEPS]
    return place


def _hdf5(card: DatasetCard, robot: Embodiment, root: Path, fields: dict[str, np.ndarray]) -> Path:
    """A RoboHive trial, an ALOHA episode or a demonstration of robomimic, as the names of the fields say."""
    place = root / _set_name(card)
    place.mkdir()
    members: dict[str, Any] = {**_with_marks(card, fields)}
    if card.success_field is not None:
        members[card.success_field] = (np.arange(NUM_STEPS) == NUM_STEPS - 1).astype(np.float64)
    lengths: list[list[int]] = []
    for number, camera in enumerate(sorted(card.views)):
        members[camera] = _pixels(number)
        if card.pictures and "observations/qpos" in fields:
            members[camera], found = padded([picture(10 * number + step) for step in range(NUM_STEPS)])
            lengths.append(found)
    if lengths:
        members["compress_len"] = np.array(lengths, np.float32)
    for camera in card.depth:
        members[camera] = _pixels(0)[..., 0].astype(np.uint16)
    if "time" in members:
        members["time"] = np.arange(NUM_STEPS) / 20
        members["actions"] = np.concatenate([members["actions"], np.full((1, members["actions"].shape[1]), np.nan)])
        members = {f"Trial0/{name}": values for name, values in members.items()}
    elif "observations/qpos" in fields:
        members |= {f"@{name}": INSTRUCTION for name in card.language.fields}
    else:
        members = {f"data/demo_0/{name}": values for name, values in members.items()}
        rate = float(card.control_rate or robot.control_rate or 10)
        robots = list(card.recognize.robot_types) or [robot.name]
        told = {"env_name": "Lift", "env_kwargs": {"robots": robots, "control_freq": rate}}
        members["data/@env_args"] = json.dumps(told)
        spoken = {"problem_info": ("data/@", "language_instruction"), "ep_meta": ("data/demo_0/@", "lang")}
        for name in card.language.fields:
            at, key = spoken[name]
            members[at + name] = json.dumps({key: INSTRUCTION})
    with h5py.File(place / "episode_0.hdf5", "w") as file:
        fill(file, members)
    return place


_SERIALS = {"wrist": droid_tree.WRIST, "ext1": droid_tree.EXT1, "ext2": droid_tree.EXT2}


def _droid_raw(card: DatasetCard, robot: Embodiment, root: Path, fields: dict[str, np.ndarray]) -> Path:
    arrays = {name: values for name, values in droid_tree.columns(NUM_STEPS).items() if "/timestamp/" in name}
    arrays |= {name: values[:, 0] if values.shape[1] == 1 else values for name, values in fields.items()}
    facts = droid_tree.metadata(
        **{f"{key}_cam_serial": _SERIALS[key] if key in card.views else None for key in _SERIALS},
        robot_serial=f"{(card.recognize.robot_types or ('panda',))[0]}-1",
        current_task=INSTRUCTION if "current_task" in card.language.fields else None,
        trajectory_length=NUM_STEPS,
    )
    videos = {f"{_SERIALS[key]}.mp4": key.encode() for key in card.views}
    droid_tree.write_recording(root, arrays=arrays, facts=facts, videos=videos)
    return root


Recorder = Callable[[DatasetCard, Embodiment, Path, dict[str, np.ndarray]], Path]
"""Writes the values [T, width] of each field, and what else the card names; returns the place a source reads."""
RECORDERS: dict[str, Recorder] = {
    "clips": _clips,
    "droid_raw": _droid_raw,
    "hdf5": _hdf5,
    "lerobot": _lerobot,
    "lerobot_v1": _lerobot_v1,
    "rlds": _rlds,
    "zarr": _zarr,
}
