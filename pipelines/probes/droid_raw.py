"""Reads trees of DROID's recorder back as V-JEPA 2-AC does: folders by the CSV files, of each the only JSON file,
``trajectory.h5`` and the videos by the camera's serial, whose frame i belongs to row i.

Compared are the parts of measured state and command, put together again: float64 of float32, so that nothing is lost; rotations
that were written as Euler angles are compared as such, and channels that have no name are not held. Times, those of frames too,
are whole milliseconds from the first step. Frame numbers and the cameras' poses are not compared: the rows hold no former, and
the lineage no latter.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipelines.named_parts import CARTESIAN, GRIPPER, JOINTS, joined, named_parts
from pipelines.probes import EpisodeRows, SampleContent, check_widths, converted, of_steps
from pipelines.read_back import num_frames, read_frames
from pipelines.storage import inside
from schemas.embodiment import Embodiment
from schemas.errors import ReleaseError

_STATE, _TIMES = "observation/robot_state", "observation/timestamp"
_NAMES = {CARTESIAN: "cartesian_position", GRIPPER: "gripper_position", JOINTS: "joint_positions"}
_NS_PER_MS = 1_000_000


class _DroidRaw:
    """See ``Probe``. Holds the metadata of all episodes, and the rows of none."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        card = Embodiment.model_validate(group["card"])
        self._state = named_parts(card.proprio, card.proprio_grippers)
        self._action = named_parts(card.action, card.action_grippers)
        index = json.loads((folder / "wamloom.json").read_bytes())
        self._serials: dict[str, str] = index["cameras"]
        self._lists = {"": list(index["too_short"])}
        for split in ("train", "val"):
            path = folder / f"{split}.csv"
            self._lists[split] = path.read_text().splitlines() if path.exists() else []
        self._episodes: dict[str, tuple[str, str, dict[str, Any]]] = {}
        for split, names in self._lists.items():
            for name in names:
                (metadata,) = inside(folder, name).glob("*.json")
                facts = json.loads(metadata.read_bytes())
                self._episodes[facts["wamloom_episode_id"]] = split, name, facts

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        split, name, facts = self._of(episode)
        path = self._folder / name / "trajectory.h5"
        columns: dict[str, np.ndarray] = {}
        with h5py.File(path, "r") as file:
            file.visititems(lambda key, item: _keep(columns, key, item))
            task = file.attrs["current_task"]
        state = {part: columns[f"{_STATE}/{_NAMES.get(part, part)}"] for part in self._state}
        action = {part: columns[f"action/{part}"] for part in self._action}
        odd = list(self._at_odds(episode, split, facts))
        if task != episode["instruction"]:
            odd.append("its instruction is not that of the manifest")
        state, action = _narrow(state, odd), _narrow(action, odd)
        num = len(columns["wamloom/valid"])
        check_widths(self._state, state, num, str(path))
        check_widths(self._action, action, num, str(path))
        begun = datetime.strptime(facts["timestamp"], "%Y-%m-%d-%Hh-%Mm-%Ss").replace(tzinfo=UTC)
        times = {
            key: (values - int(begun.timestamp()) * 1000) * _NS_PER_MS
            for key, values in columns.items()
            if key.startswith(_TIMES)
        }
        for view in self._serials:
            shown = num_frames(self._video(name, view))
            if shown != num:
                odd.append(f"{view} has {shown} frames for {num} rows")
            video = self._video(name, view)
            stamps = json.loads(video.with_name(f"{video.stem}_timestamps.json").read_bytes())
            received = columns[f"{_TIMES}/cameras/{video.stem}_frame_received"].tolist()
            if not stamps == received == columns[f"{_TIMES}/control/step_start"].tolist():
                odd.append(f"the clock of {view} is not that of the steps")
        of_state, proprio = joined(self._state, state, num)
        of_action, command = joined(self._action, action, num)
        return EpisodeRows(
            steps=np.arange(num),
            samples=episode["first_step"] + np.arange(num),
            times_ns=times[f"{_TIMES}/control/step_start"],
            source_rows=columns["wamloom/source_row"],
            frame_ids={},
            vectors={"proprio": proprio, "action": command},
            channels={"proprio": of_state, "action": of_action},
            made=(*converted("proprio", self._state, state), *converted("action", self._action, action)),
            valid=columns["wamloom/valid"],
            selected=columns.get("wamloom/selected"),
            rounded_ns=_NS_PER_MS,
            frame_times_ns={
                view: times[f"{_TIMES}/cameras/{serial}_estimated_capture"] for view, serial in self._serials.items()
            },
            at_odds=tuple(odd),
        )

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        return read_frames(self._video(self._of(episode)[1], view), steps)

    def sample(self, number: int) -> SampleContent:
        names = self._group["action_names"]
        held = sorted(channel for part in self._action.values() for channel in part.kept if channel is not None)
        return of_steps(self._group, number, [names[channel] for channel in held], self.rows)

    def _of(self, episode: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        """The list that has an episode, its folder and its metadata."""
        if episode["episode_id"] not in self._episodes:
            raise ReleaseError("no folder is of this episode", str(self._folder), "build it again", "unreadable")
        return self._episodes[episode["episode_id"]]

    def _video(self, name: str, view: str) -> Path:
        """As the metadata say where it is: the last part of the path counts."""
        return self._folder / name / "recordings/MP4" / f"{self._serials[view]}.mp4"

    def _at_odds(self, episode: Mapping[str, Any], split: str, facts: Mapping[str, Any]) -> Iterator[str]:
        if split and split != episode["split"]:
            yield f"it is listed in {split}.csv, and is of {episode['split']}"
        told = {"success": "success", "trajectory_length": "num_steps", "wamloom_split": "split"}
        for key, name in told.items():
            if facts[key] != episode[name]:
                yield f"its {key} is {facts[key]}, the manifest says {episode[name]}"
        for key, path in facts.items():
            serial = facts.get(f"{key.removesuffix('_mp4_path')}_cam_serial")
            if key.endswith("_mp4_path") and serial and Path(path).stem != serial:
                yield f"its {key} is {path}, its camera is {serial}"


def _keep(columns: dict[str, np.ndarray], key: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset):
        columns[key] = item[()]


def _narrow(values: Mapping[str, np.ndarray], odd: list[str]) -> dict[str, np.ndarray]:
    """float32 [T, width] of each part; what would lose something is told."""
    found = {name: one.astype(np.float32).reshape(len(one), -1) for name, one in values.items()}
    odd += [
        f"its {name} has numbers that are no float32"
        for name, one in values.items()
        if not np.array_equal(found[name].ravel(), one.ravel(), equal_nan=True)
    ]
    return found


def open_group(folder: Path, group: Mapping[str, Any]) -> _DroidRaw:
    """The probe of a group's folder."""
    return _DroidRaw(folder, group)
