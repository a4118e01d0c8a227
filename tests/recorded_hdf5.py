"""Small HDF5 recordings in the layouts of the source, written from plain values, for tests to read and to damage."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SIZE = 24


def pixels(number: int, num_steps: int) -> np.ndarray:
    """uint8 [T, 24, 24, 3]: no two values alike in the first pixels."""
    draws = np.random.default_rng([number, num_steps])
    return draws.integers(0, 256, (num_steps, SIZE, SIZE, 3), dtype=np.uint8)


def vectors(number: int, num_steps: int, width: int) -> np.ndarray:
    """float64 [T, width]."""
    values: np.ndarray = number + np.arange(num_steps)[:, None] / 8 + np.arange(width)
    return values


def fill(group: h5py.Group, members: dict[str, Any]) -> None:
    """Arrays by path; attributes where the path begins with @ (``data/@total``); None leaves one out."""
    for path, value in members.items():
        folder, _, name = path.rpartition("/")
        at = group.require_group(folder) if folder else group
        if value is not None and name.startswith("@"):
            at.attrs[name[1:]] = value
        elif value is not None:
            at[name] = value


def demo(number: int, num_steps: int, **changes: Any) -> dict[str, Any]:
    """Members of one demonstration; ``changes`` by path with / written __ and @ written at_."""
    members: dict[str, Any] = {
        "actions": vectors(number, num_steps, 2),
        "rewards": (np.arange(num_steps) == num_steps - 1).astype(np.float64),
        "obs/state": vectors(number, num_steps, 3).astype(np.float32),
        "obs/camera_image": pixels(number, num_steps),
        "@num_samples": num_steps,
        "@ep_meta": json.dumps({"lang": f"lift cup {number}"}),
    }
    return members | {key.replace("__", "/").replace("at_", "@"): value for key, value in changes.items()}


ENVIRONMENT = json.dumps({"env_name": "Lift", "env_kwargs": {"robots": ["Panda"], "control_freq": 20}})


def write_robomimic(path: Path, demos: dict[str, dict[str, Any]] | Sequence[int] = (4, 7), **members: Any) -> Path:
    """A file of demonstrations, by name or by their lengths; returns its folder."""
    if not isinstance(demos, dict):
        demos = {f"demo_{number}": demo(number, length) for number, length in enumerate(demos)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        fill(file, {"data/@env_args": ENVIRONMENT, **{key.replace("__", "/"): value for key, value in members.items()}})
        for name, one in demos.items():
            fill(file.require_group(f"data/{name}"), one)
    return path.parent


def write_aloha(path: Path, num_steps: int = 4, **changes: Any) -> Path:
    """An ALOHA episode with raw pictures; ``changes`` by path with / written __; returns its folder."""
    members: dict[str, Any] = {
        "@sim": False,
        "action": vectors(0, num_steps, 14),
        "observations/qpos": vectors(1, num_steps, 14),
        "observations/qvel": vectors(2, num_steps, 14),
        "observations/images/cam_high": pixels(0, num_steps),
    }
    members |= {key.replace("__", "/").replace("at_", "@"): value for key, value in changes.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        fill(file, members)
    return path.parent


def padded(images: Sequence[bytes]) -> tuple[np.ndarray, list[int]]:
    """Pictures as rows padded with zeros, and their lengths."""
    rows: np.ndarray = np.zeros((len(images), max(map(len, images)) + 5), np.uint8)
    for row, image in zip(rows, images, strict=True):
        row[: len(image)] = np.frombuffer(image, np.uint8)
    return rows, [len(image) for image in images]
