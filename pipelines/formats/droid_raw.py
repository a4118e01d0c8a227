"""The tree that DROID's recorder writes, from which V-JEPA 2-AC trains: a folder per episode, with an MP4 per view.

``app/vjepa_droid/droid.py`` of facebookresearch/vjepa2 reads ``train.csv`` and ``val.csv`` (a folder a line), of each folder the
only JSON file, ``observation/robot_state/{cartesian_position,gripper_position}`` and the camera's extrinsics of
``trajectory.h5``, and the video of ``left_mp4_path``. Frame i belongs to row i; where it is told to sample by the camera's
clock (``temporal_sampling: physical``), it reads ``<serial>_timestamps.json`` beside the video, and finds each of its stamps in
``<serial>_frame_received``.

Its loader takes clips of 8 frames at 4 frames per second, and earlier versions of it fail on a video that is exactly as long as
one; shorter ones fail in all. Those episodes are not in the CSV files: ``wamloom.json`` lists them under ``too_short``.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipelines.episode_videos import EpisodeVideos
from pipelines.formats import (
    BuiltEpisode,
    EpisodePlan,
    GroupPlan,
    Pictures,
    UnitPlan,
    UnitProgress,
    UnitWriter,
    describe_group,
    planned_counts,
)
from pipelines.named_parts import (
    CARTESIAN,
    GRIPPER,
    JOINTS,
    NamedPart,
    named_parts,
    require_hdf5_texts,
    require_parts,
    require_recorded,
)
from pipelines.read_back import finished, num_frames, unreadable
from pipelines.rotations import convert
from pipelines.storage import json_bytes, write_durably
from schemas.episode import Calibration
from schemas.errors import RecipeError
from schemas.recipes import BuildRecipe
from schemas.slot_layout import RotationKind
from schemas.time import parse_rate

INDEX = "wamloom.json"
ROWS = "trajectory.h5"
VIDEOS = "recordings/MP4"
LAB = "WAMLOOM"
CLIP_FRAMES, CLIP_FPS = 8, 4
"""Of V-JEPA 2-AC's published configuration (``configs/train/vitg16/droid-256px-8f.yaml``)."""
ROLES = {
    "wrist_left": "wrist",
    "primary": "ext1",
    "secondary": "ext2",
    "tertiary": "ext3",
    "quaternary": "ext4",
    "wrist_right": "ext5",
}
"""What the recorder calls the cameras of the slots; it knows one hand, and the other one's is a standing camera to it."""
_EYES = {"ext1": "left", "ext2": "right"}
"""DROID's metadata name the videos of its two standing cameras so too, and V-JEPA 2-AC asks for the left one."""
_BEGUN = datetime(2000, 1, 1, tzinfo=UTC)
_ROWS_NAMES = {CARTESIAN: "cartesian_position", GRIPPER: "gripper_position", JOINTS: "joint_positions"}
"""What ``trajectory.h5`` calls the parts of the measured state."""
_NANOSECONDS_PER_MS = 1_000_000


class _DroidUnit:
    """Writes one unit; see ``CopyingWriter``."""

    copies = True

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        require_recorded(recipe, "droid_raw")
        require_hdf5_texts(unit.group, "droid_raw")
        self._state, self._action = _parts(unit.group)
        self._unit, self._recipe, self._folder = unit, recipe, folder
        self._roles = _roles(unit.group, recipe)
        self._progress = UnitProgress(unit)
        self._videos = EpisodeVideos(self._progress, recipe, self._video)
        self._unknown: dict[str, list[str]] = {}

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        root = self._folder / folder_of(episode.plan)
        extrinsics = {view: _extrinsics(episode.calibrations.get(view, ())) for view in self._roles}
        missing = sorted(self._roles[view] for view, pose in extrinsics.items() if pose is None)
        if missing:
            self._unknown[episode.plan.episode_id] = missing
        write_durably(root / ROWS, self._rows(episode, extrinsics))
        for role in self._roles.values():
            received = json.dumps(_stamps_ms(episode, episode.times_ns).tolist())
            write_durably(root / VIDEOS / f"{serial_of(role)}_timestamps.json", received.encode())
        facts = json.dumps(_metadata(episode, self._unit.group, self._roles), indent=4, sort_keys=True)
        write_durably(root / f"metadata_{episode.plan.episode_id}.json", (facts + "\n").encode())

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._videos.frames(slot, first_step, frames)

    def copy(self, slot: str, video: bytes, _: Pictures) -> None:
        self._videos.copy(slot, video)

    def end(self) -> None:
        self._progress.end()
        self._videos.end()

    def close(self) -> dict[str, Any]:
        self._progress.close()
        return {"extrinsics_unknown": self._unknown}

    def _video(self, plan: EpisodePlan, view: str) -> Path:
        return self._folder / folder_of(plan) / VIDEOS / f"{serial_of(self._roles[view])}.mp4"

    def _rows(self, episode: BuiltEpisode, extrinsics: Mapping[str, np.ndarray | None]) -> bytes:
        num = episode.plan.num_steps
        columns: dict[str, np.ndarray] = {}
        for name, part in self._state.items():
            columns[f"observation/robot_state/{_ROWS_NAMES.get(name, name)}"] = _numbers(part, episode.proprio)
        for name, part in self._action.items():
            columns[f"action/{name}"] = _numbers(part, episode.action)
        for view, pose in extrinsics.items():
            serial = serial_of(self._roles[view])
            # what is not known is no number; the loader only uses it where camera_frame is set
            rows = np.full((num, 6), np.nan) if pose is None else np.tile(pose, (num, 1))
            columns[f"observation/camera_extrinsics/{serial}_left"] = rows
            kind = 0 if self._roles[view] == "wrist" else 1
            columns[f"observation/camera_type/{serial}"] = np.full(num, kind, dtype=np.int64)
            stamps = _stamps_ms(episode, episode.frame_times_ns[view])
            columns[f"observation/timestamp/cameras/{serial}_estimated_capture"] = stamps
            # a frame is in the video at the step that had it, and so twice where the camera is slower than the steps
            columns[f"observation/timestamp/cameras/{serial}_frame_received"] = _stamps_ms(episode, episode.times_ns)
        columns["observation/timestamp/control/step_start"] = _stamps_ms(episode, episode.times_ns)
        columns["wamloom/valid"] = episode.valid
        columns["wamloom/source_row"] = episode.source_rows
        if episode.selected is not None:
            columns["wamloom/selected"] = episode.selected
        robot = f"{self._unit.group.robot}-0"
        attributes: dict[str, Any] = {"current_task": episode.plan.instruction, "robot_serial_number": robot}
        if episode.plan.success is not None:
            attributes |= {"success": episode.plan.success}
        return hdf5_bytes(columns, attributes)


class _DroidRaw:
    name = "droid_raw"
    beside = ""
    windowed = False
    takes_latents = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _DroidUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        shortest = CLIP_FRAMES * math.ceil(parse_rate(group.rate) / CLIP_FPS) + 1
        lists: dict[str, list[str]] = {"train": [], "val": []}
        too_short: list[str] = []
        for unit, _ in units:
            for episode in unit.episodes:
                (lists[episode.split] if episode.num_steps >= shortest else too_short).append(folder_of(episode))
        for split, folders in lists.items():
            if any(unit.episodes[0].split == split for unit, _ in units):
                write_durably(folder / f"{split}.csv", "".join(f"{one}\n" for one in folders).encode())
        described = {
            "format": self.name,
            "group": group.name,
            **describe_group(group, recipe),
            "shortest": shortest,
            "too_short": too_short,
            "extrinsics_unknown": {
                key: value for _, facts in units for key, value in facts["extrinsics_unknown"].items()
            },
            "cameras": {view: serial_of(role) for view, role in _roles(group, recipe).items()},
            "episodes": {folder_of(episode): episode.num_steps for unit, _ in units for episode in unit.episodes},
        }
        write_durably(folder / INDEX, json_bytes(described))
        return planned_counts(group, recipe, [unit for unit, _ in units], self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        finished(folder / INDEX)
        found = {"samples": 0, "frames": 0, "episodes": 0}
        for path in sorted(folder.rglob(ROWS)):
            try:
                with h5py.File(path, "r") as file:
                    steps = len(file["observation/robot_state/cartesian_position"][:])
                    file.visititems(_read_whole)
                (metadata,) = path.parent.glob("metadata_*.json")
                json.loads(metadata.read_bytes())
                for video in sorted((path.parent / VIDEOS).glob("*.mp4")):
                    found["frames"] += num_frames(video)
            except (OSError, RuntimeError, LookupError, ValueError) as error:
                raise unreadable(path, error) from error
            found["episodes"] += 1
            found["samples"] += steps
        return found


def folder_of(plan: EpisodePlan) -> str:
    """The folder of an episode in the tree, as DROID's names are made: laboratory, outcome, day, time. The time is made up of
    the episode's number, a minute for each, since a release knows no date; the episode's id stands in the metadata."""
    begun = _begun(plan)
    outcome = {True: "success", False: "failure", None: "unknown"}[plan.success]
    return f"{LAB}/{outcome}/{begun:%Y-%m-%d}/{begun.ctime().replace(' ', '_')}"


def serial_of(role: str) -> str:
    """A serial for a camera, since those of the source are not kept."""
    return f"{10_000_001 + 10_000_000 * list(ROLES.values()).index(role)}"


def hdf5_bytes(columns: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> bytes:
    """An HDF5 file of ``columns`` by path; equal content gives equal bytes, and damage to a column is noticed on reading."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("earliest", "v110"), track_order=False) as file:
        for name, values in sorted(columns.items()):
            file.create_dataset(
                name, data=values, track_times=False, fletcher32=values.size > 0, chunks=_chunks(values)
            )
        for name, value in sorted(attributes.items()):
            file.attrs[name] = value
    return buffer.getvalue()


def _chunks(values: np.ndarray) -> tuple[int, ...] | None:
    return values.shape if values.size else None


def _read_whole(_: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset):
        item[()]


def _parts(group: GroupPlan) -> tuple[dict[str, NamedPart], dict[str, NamedPart]]:
    """Of the measured state and of the recorded action."""
    card = group.card
    state = named_parts(card.proprio, card.proprio_grippers)
    require_parts(state, {CARTESIAN: 6, GRIPPER: 1}, "V-JEPA 2-AC", group.name)
    return state, named_parts(card.action, card.action_grippers)


def _roles(group: GroupPlan, recipe: BuildRecipe) -> dict[str, str]:
    """What the recorder would call each view's camera. Raises RecipeError where there is no left one."""
    roles = {view: ROLES.get(recipe.names.slot(view), "") for view, _, _ in group.views}
    if "" in roles.values() or "ext1" not in roles.values():
        raise RecipeError(
            f"V-JEPA 2-AC reads the left standing camera, and the views are {', '.join(sorted(roles)) or 'none'}",
            "views",
            "take the view primary, and no canvas",
            "no_view",
        )
    return roles


def _numbers(part: NamedPart, vectors: np.ndarray) -> np.ndarray:
    """float64 [T, width], of one number [T], as the recorder writes them."""
    values = part.of(vectors).astype(np.float64)
    return values[:, 0] if part.width == 1 else values


def _extrinsics(calibrations: Sequence[Calibration]) -> np.ndarray | None:
    """float64 [6]: the pose of the camera in the base frame, x, y, z and angles about the fixed axes; None where nobody says."""
    for one in calibrations:
        if one.frame != "base" or not one.extrinsics:
            continue
        values = np.array(one.extrinsics, dtype=np.float64)
        if one.convention == "xyz_euler_xyz":
            return values
        if one.convention == "matrix_4x4":
            matrix = values.reshape(4, 4)
            return _pose(matrix[:3, 3], matrix[:3, :3].reshape(9), "matrix")
        if one.convention:
            written: RotationKind = "axis_angle" if one.convention == "xyz_axis_angle" else "quaternion_xyzw"
            return _pose(values[:3], values[3:], written)
    return None


def _pose(place: np.ndarray, turn: np.ndarray, written: RotationKind) -> np.ndarray:
    pose: np.ndarray = np.concatenate([place, convert(turn, written, "euler_xyz")])
    return pose


def _begun(plan: EpisodePlan) -> datetime:
    return _BEGUN + timedelta(minutes=plan.episode_index)


def _stamps_ms(episode: BuiltEpisode, times_ns: np.ndarray) -> np.ndarray:
    """int64 [T], Unix milliseconds as the recorder stamps them, rounded to the nearest."""
    begun = int(_begun(episode.plan).timestamp()) * 1000
    half = _NANOSECONDS_PER_MS // 2
    stamps: np.ndarray = begun + (times_ns - episode.times_ns[0] + half) // _NANOSECONDS_PER_MS
    return stamps


def _metadata(episode: BuiltEpisode, group: GroupPlan, roles: Mapping[str, str]) -> dict[str, Any]:
    plan = episode.plan
    begun, path = _begun(plan), folder_of(plan).partition("/")[2]
    facts: dict[str, Any] = {
        "uuid": f"{LAB}+{plan.episode_id[:8]}+{begun:%Y-%m-%d-%Hh-%Mm-%Ss}",
        "lab": LAB,
        "date": f"{begun:%Y-%m-%d}",
        "timestamp": f"{begun:%Y-%m-%d-%Hh-%Mm-%Ss}",
        "hdf5_path": f"{path}/{ROWS}",
        "success": plan.success,
        "robot_serial": f"{group.robot}-0",
        "current_task": plan.instruction,
        "trajectory_length": plan.num_steps,
        "wamloom_episode_id": plan.episode_id,
        "wamloom_location": episode.location,
        "wamloom_source_key": episode.source_key,
        "wamloom_split": plan.split,
        "wamloom_instructions": [list(run) for run in plan.texts],
        "wamloom_other_instructions": list(plan.other_instructions),
    }
    for role in roles.values():
        video = f"{path}/{VIDEOS}/{serial_of(role)}.mp4"
        facts |= {f"{role}_cam_serial": serial_of(role), f"{role}_mp4_path": video}
        if role in _EYES:
            facts[f"{_EYES[role]}_mp4_path"] = video
    return facts


FORMAT = _DroidRaw()
