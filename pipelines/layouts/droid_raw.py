"""Writes simulated episodes as DROID's recorder writes its own: a folder per recording with ``trajectory.h5`` and MP4s."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from pipelines.simulate import SimulatedEpisode
from pipelines.video_writer import VideoWriter
from schemas.recipes import VideoRecipe

ROBOTS = ("sample_arm",)
"""Absolute joint positions; the gantry is told displacements, which this layout has no place for."""
LAB = "WAMLOOM"
VERSION = "1.1"
_FIRST = datetime(2024, 1, 1, 9, 0, 0, tzinfo=UTC)
_APART = timedelta(minutes=2)
_SERIALS = {"wrist_left": "10000001", "primary": "20000001"}
_ROLES = {"wrist_left": "wrist", "primary": "ext1"}
_TYPES = {"wrist_left": 0, "primary": 1}
_LATENCY_MS = 41
_CONTAINER_RATE = Fraction(60)
"""What the recorder stamps on its files: the camera's rate, not that of the frames."""
_VIDEO = VideoRecipe(codec="h264", gop=2, crf=23, preset="veryfast")


def write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None:
    """Writes the tree into ``folder``, which must be empty or absent; all episodes are of one robot."""
    for episode in episodes:
        begun = _FIRST + _APART * episode.index
        outcome = "success" if episode.success else "failure"
        target = folder / LAB / outcome / f"{begun:%Y-%m-%d}" / begun.ctime().replace(" ", "_")
        (target / "recordings" / "MP4").mkdir(parents=True)
        _write_rows(episode, begun, target / "trajectory.h5")
        for slot, serial in _SERIALS.items():
            camera = episode.robot.camera(slot)
            path = target / "recordings" / "MP4" / f"{serial}.mp4"
            video = VideoWriter(path, _CONTAINER_RATE, camera.height_px, camera.width_px, _VIDEO)
            for frame in episode.frames(slot):
                video.write(frame[None])
            video.close()
        metadata = _metadata(episode, begun, target.relative_to(folder / LAB).as_posix())
        (target / f"metadata_{metadata['uuid']}.json").write_text(json.dumps(metadata, indent=4))


def _metadata(episode: SimulatedEpisode, begun: datetime, path: str) -> dict[str, Any]:
    uuid = f"{LAB}+{episode.seed:08x}+{begun:%Y-%m-%d-%Hh-%Mm-%Ss}"
    facts: dict[str, Any] = {
        "uuid": uuid,
        "lab": LAB,
        "user": "wamloom sample",
        "user_id": f"{episode.seed:08x}",
        "date": f"{begun:%Y-%m-%d}",
        "timestamp": f"{begun:%Y-%m-%d-%Hh-%Mm-%Ss}",
        "hdf5_path": f"{path}/trajectory.h5",
        "building": "simulated",
        "scene_id": episode.index,
        "success": episode.success,
        "robot_serial": f"{episode.robot.name}-{episode.robot.number}",
        "droid_version": VERSION,
        "current_task": episode.instruction,
        "trajectory_length": episode.num_steps,
    }
    for slot, serial in _SERIALS.items():
        facts[f"{_ROLES[slot]}_cam_serial"] = serial
        facts[f"{_ROLES[slot]}_mp4_path"] = f"{path}/recordings/MP4/{serial}.mp4"
    return facts


def _write_rows(episode: SimulatedEpisode, begun: datetime, path: Path) -> None:
    start_ms = int(begun.timestamp()) * 1000
    steps_ms = start_ms + episode.times_ns // 1_000_000
    action, proprio = episode.action.astype(np.float64), episode.proprio.astype(np.float64)
    columns: dict[str, np.ndarray] = {
        "action/joint_position": action[:, :-1],
        "action/gripper_position": action[:, -1],
        "action/cartesian_position": _poses(episode, action[:, :-1]),
        "observation/robot_state/joint_positions": proprio[:, :-1],
        "observation/robot_state/gripper_position": proprio[:, -1],
        "observation/robot_state/cartesian_position": _poses(episode, proprio[:, :-1]),
        "observation/controller_info/movement_enabled": np.ones(episode.num_steps, dtype=bool),
        "observation/timestamp/skip_action": np.zeros(episode.num_steps, dtype=bool),
    }
    for delay_ms, stamp in enumerate(("step_start", "policy_start", "control_start", "sleep_start")):
        columns[f"observation/timestamp/control/{stamp}"] = steps_ms + 2 * delay_ms
    columns["observation/timestamp/control/step_end"] = np.append(steps_ms[1:], steps_ms[-1] + 66)
    for slot, serial in _SERIALS.items():
        stamps = f"observation/timestamp/cameras/{serial}_"
        columns[f"{stamps}estimated_capture"] = steps_ms  # the simulation shows each instant as it is
        columns[f"{stamps}frame_received"] = steps_ms + _LATENCY_MS
        columns[f"{stamps}read_start"] = steps_ms + _LATENCY_MS
        columns[f"{stamps}read_end"] = steps_ms + _LATENCY_MS + 1
        columns[f"observation/camera_type/{serial}"] = np.full(episode.num_steps, _TYPES[slot], dtype=np.int64)
    camera = episode.robot.camera("primary")
    lens = episode.robot.body.standing_lens(camera.width_px, camera.height_px)
    pose = np.concatenate([lens.position, Rotation.from_matrix(lens.axes.T).as_euler("xyz")])
    columns[f"observation/camera_extrinsics/{_SERIALS['primary']}_left"] = np.tile(pose, (episode.num_steps, 1))
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values)
        file.attrs["current_task"] = episode.instruction
        file.attrs["robot_serial_number"] = f"{episode.robot.name}-{episode.robot.number}"
        file.attrs["success"] = episode.success
        file.attrs["version_number"] = VERSION


def _poses(episode: SimulatedEpisode, joints: np.ndarray) -> np.ndarray:
    """Position in metres and Euler angles about the fixed axes xyz of the tool at ``joints`` [T, J], as [T, 6]."""
    tools = [episode.robot.body.tool(row) for row in joints]
    # third axis along the fingers, as the flange of a Franka has it
    turns = Rotation.from_matrix(np.stack([np.roll(axes, -1, axis=1) for _, axes in tools])).as_euler("xyz")
    return np.column_stack([np.stack([point for point, _ in tools]), turns])
