"""Raw DROID recordings as small as they can be, written from plain values, for tests to read and to damage."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

WRIST, EXT1, EXT2 = "19824535", "22246076", "29838012"
STEP_START = "observation/timestamp/control/step_start"
BEGUN_MS = 1_688_750_543_000
FOLDER = "AUTOLab/success/2023-07-07/Fri_Jul__7_09:42:23_2023"
UUID = "AUTOLab+5d05c5aa+2023-07-07-09h-42m-23s"


def columns(num_rows: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """What ``trajectory.h5`` holds of ``num_rows`` rows, 66 and 67 ms apart by turns."""
    draws = np.random.default_rng([seed, num_rows])
    joints = np.cumsum(draws.normal(0, 0.01, (num_rows, 7)), axis=0) + np.array([0, 0, 0, -2, 0, 2, 0])
    pose = np.cumsum(draws.normal(0, 0.01, (num_rows, 6)), axis=0)
    steps_ms = BEGUN_MS + np.arange(num_rows) * 66 + np.arange(num_rows) // 2
    found = {
        "action/cartesian_position": pose + 0.01,
        "action/cartesian_velocity": draws.uniform(-1, 1, (num_rows, 6)),
        "action/joint_position": joints + 0.01,
        "action/gripper_position": np.linspace(0, 1, num_rows),
        "observation/robot_state/cartesian_position": pose,
        "observation/robot_state/joint_positions": joints,
        "observation/robot_state/gripper_position": np.linspace(0, 0.9, num_rows),
        "observation/controller_info/movement_enabled": np.ones(num_rows, dtype=bool),
        STEP_START: steps_ms,
        "observation/timestamp/control/step_end": steps_ms + 60,
    }
    for kind, serial in enumerate((WRIST, EXT2, EXT1)):
        found[f"observation/camera_type/{serial}"] = np.full(num_rows, kind)
        received = steps_ms + 30 + kind
        found[f"observation/timestamp/cameras/{serial}_frame_received"] = received
        found[f"observation/timestamp/cameras/{serial}_estimated_capture"] = received - 41
        found[f"observation/timestamp/cameras/{serial}_read_end"] = received + 2
    standing = np.tile([0.1, 0.5, 0.3, -1.6, 0.1, -2.2], (num_rows, 1))
    found[f"observation/camera_extrinsics/{EXT1}_left"] = standing
    found[f"observation/camera_extrinsics/{EXT1}_right"] = standing + np.array([0.12, 0, 0, 0, 0, 0])
    found["observation/camera_extrinsics/11111111_left"] = standing  # calibrated once, not there any more
    found[f"observation/camera_extrinsics/{WRIST}_left"] = pose + 0.05
    found[f"observation/camera_extrinsics/{WRIST}_left_gripper_offset"] = np.tile(
        [0.03, 0.0, 0.05, 0.3, 0.0, 1.5], (num_rows, 1)
    )
    intrinsics = np.array([[732.5, 0, 640.25], [0, 732.75, 360.5], [0, 0, 1]])
    found[f"observation/camera_intrinsics/{EXT1}_left"] = np.tile(intrinsics, (num_rows, 1, 1))
    return found


def metadata(**changes: Any) -> dict[str, Any]:
    """What the metadata say; None takes a key out."""
    facts: dict[str, Any] = {
        "uuid": UUID,
        "lab": "AUTOLab",
        "user": "A User",
        "user_id": "5d05c5aa",
        "date": "2023-07-07",
        "timestamp": "2023-07-07-09h-42m-23s",
        "hdf5_path": "success/2023-07-07/Fri_Jul__7_09:42:23_2023/trajectory.h5",
        "building": "Berkeley",
        "scene_id": 8288363487,
        "success": True,
        "robot_serial": "panda-295341-1325132",
        "droid_version": "1.1",
        "current_task": "Move object to a new position",
        "trajectory_length": 5,
        "wrist_cam_serial": WRIST,
        "ext1_cam_serial": EXT1,
        "ext2_cam_serial": EXT2,
        "ext1_cam_extrinsics": [0.1, 0.5, 0.3, -1.6, 0.1, -2.2],
    }
    return {key: value for key, value in (facts | changes).items() if value is not None}


def write_recording(
    root: Path,
    folder: str = FOLDER,
    arrays: dict[str, np.ndarray] | None = None,
    facts: dict[str, Any] | None = None,
    videos: dict[str, bytes] | None = None,
    attrs: dict[str, Any] | None = None,
) -> Path:
    """One recording below ``root``; returns its folder. ``videos`` by file name; None: made-up bytes for three cameras."""
    target = root / folder
    (target / "recordings" / "MP4").mkdir(parents=True)
    write_rows(target / "trajectory.h5", columns() if arrays is None else arrays, attrs or {})
    facts = metadata() if facts is None else facts
    if facts:
        (target / f"metadata_{facts.get('uuid', UUID)}.json").write_text(json.dumps(facts))
    if videos is None:
        videos = {f"{serial}.mp4": f"{folder} {serial}".encode() for serial in (WRIST, EXT1, EXT2)}
    for name, data in videos.items():
        (target / "recordings" / "MP4" / name).write_bytes(data)
    return target


def write_rows(path: Path, arrays: dict[str, np.ndarray], attrs: dict[str, Any]) -> None:
    """``trajectory.h5`` anew."""
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
        file.attrs.update(attrs)
