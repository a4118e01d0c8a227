"""Reads Cosmos Policy's HDF5 files back as it does: each is an episode, a demonstration or a rollout.

Compared are the measured state (``robot_states`` or ``proprio``), the actions (made anew from the lake, by what the recipe asks),
which rows count, and the pictures. Times, source rows and frame numbers are not in the files.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipelines.probes import EpisodeRows, SampleContent, of_steps
from pipelines.storage import inside
from schemas.errors import ReleaseError

_ENDING = "_demo.hdf5"


class _CosmosPolicy:
    """See ``Probe``. Holds no file."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        index = json.loads((folder / "wamloom.json").read_bytes())
        self._files = {episode: file for file, episode in index["files"].items()}
        self._arrays: dict[str, dict[str, Any]] = index["arrays"]

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        names = self._names(episode)
        with h5py.File(self._path(episode), "r") as read:
            file: Any = read
            actions, proprio = file[names["actions"]][:], file[names["proprio"]][:]
            valid = file["wamloom/valid"][:]
            attributes = dict(file.attrs)
            shown = {view: len(file[name]) for view, name in names["views"].items()}
        odd = list(self._at_odds(episode, attributes))
        odd += [
            f"{view} has {count} pictures for {len(actions)} rows"
            for view, count in shown.items()
            if count != len(actions)
        ]
        return EpisodeRows(
            steps=np.arange(len(actions)),
            samples=episode["first_step"] + np.arange(len(actions)),
            times_ns=None,
            source_rows=None,
            frame_ids={},
            vectors={"proprio": proprio} if self._group["proprio_names"] else {},
            firsts=actions,
            valid=valid,
            at_odds=tuple(odd),
        )

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        with h5py.File(self._path(episode), "r") as file:
            pictures: Any = file[self._names(episode)["views"][view]]
            return np.stack([pictures[step] for step in steps])

    def sample(self, number: int) -> SampleContent:
        return of_steps(self._group, number, self._group["action_chunk"]["names"], self.rows)

    def _names(self, episode: Mapping[str, Any]) -> dict[str, Any]:
        """What the arrays of an episode are called."""
        return self._arrays[
            "demo" if self._path(episode).is_relative_to(self._folder.resolve() / "demos") else "rollout"
        ]

    def _path(self, episode: Mapping[str, Any]) -> Path:
        if episode["episode_id"] not in self._files:
            raise ReleaseError("no file is of this episode", str(self._folder), "build it again", "unreadable")
        return inside(self._folder, self._files[episode["episode_id"]])

    def _at_odds(self, episode: Mapping[str, Any], attributes: Mapping[str, Any]) -> Iterator[str]:
        file = Path(self._files[episode["episode_id"]])
        demo = file.parts[0] == "demos"
        if attributes["episode_id"] != episode["episode_id"]:
            yield f"its file is that of episode {attributes['episode_id'][:12]}"
        if episode["split"] not in file.parts[1:3]:
            yield f"its file is {file}, and it is of {episode['split']}"
        if demo and episode["success"] is False:
            yield "it failed, and is given as a demonstration"
        if "success" in attributes and bool(attributes["success"]) != (episode["success"] is not False):
            yield "its success is not that of the manifest"
        # the trainer makes the instruction of a demonstration from the name of LIBERO's file, or of ALOHA's folder
        told = {attributes["task_description"]} if "task_description" in attributes else set()
        if demo:
            words = file.name.removesuffix(_ENDING) if file.name.endswith(_ENDING) else file.parts[1]
            told.add(words.replace("_", " "))
        if told != {episode["instruction"]}:
            yield "its instruction is not that of the manifest"


def open_group(folder: Path, group: Mapping[str, Any]) -> _CosmosPolicy:
    """The probe of a group's folder."""
    return _CosmosPolicy(folder, group)
