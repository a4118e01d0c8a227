"""Reads Ctrl-World's annotations back as it does: samples by ``dataset_meta_info``, episodes by their annotation, videos by the
paths in it; frame i of a video is step ``i * stride``.

Compared are the rows of each step, put together to the vectors of the lake: every float32 is written as the double it equals, so
nothing is lost. What has a row for each frame (``states``, ``joints``, ``state``, ``continuous_gripper_state``) must be made of
those. Which steps count is held, which of them are samples is held against that, and ``stat.json`` against the statistics. Times,
source rows and frame numbers are not in the annotations.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.annotations import arm_numbers, numbers_of_arm, vectors_of_arm
from pipelines.probes import EpisodeRows, SampleContent
from pipelines.read_back import num_frames, read_frames
from pipelines.storage import inside
from schemas.embodiment import Embodiment
from schemas.errors import ReleaseError

_META = "dataset_meta_info"


class _CtrlWorld:
    """See ``Probe``. Holds one annotation, and the samples."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        self._card = Embodiment.model_validate(group["card"])
        meta = folder / _META / group["name"]
        index = json.loads((meta / "index.json").read_bytes())
        self._stride: int = index["frame_stride"]
        self._cameras: list[str] = index["cameras"]
        listed = [json.loads((meta / f"{split}_sample.json").read_bytes()) for split in ("train", "val")]
        self._samples = [(split, one) for split, some in zip(("train", "val"), listed, strict=True) for one in some]
        self._open: tuple[int, dict[str, Any]] | None = None
        arm = arm_numbers(self._card.proprio, self._card.proprio_grippers)
        stats = group["stats"]["proprio"]
        wanted = {
            f"state_{n}": [stats[f"q{n}"][channel] for channel in (*arm.pose, *arm.gripper)] for n in ("01", "99")
        }
        if json.loads((meta / "stat.json").read_bytes()) != wanted:
            raise ReleaseError(
                "it is not that of the statistics", str(meta / "stat.json"), "build it again", "unreadable"
            )

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        facts = self._annotation(episode)
        proprio, action = vectors_of_arm(self._card, facts)
        num = len(proprio)
        valid: np.ndarray = np.ones(num, dtype=bool)
        valid[facts.get("invalid_steps", [])] = False
        begins = [
            one["frame_ids"][0] * self._stride
            for _, one in self._samples
            if one["episode_id"] == episode["episode_index"]
        ]
        return EpisodeRows(
            steps=np.arange(num),
            samples=None,
            times_ns=None,
            source_rows=None,
            frame_ids={},
            vectors={"proprio": proprio, "action": action},
            valid=valid,
            begins=np.array(begins, dtype=np.int64),
            shown=np.arange(0, num, self._stride),
            at_odds=tuple(self._at_odds(episode, facts, proprio, action)),
        )

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        return read_frames(self._video(episode, self._cameras.index(view)), [step // self._stride for step in steps])

    def sample(self, number: int) -> SampleContent:
        """The states from the sample's frame on, which are the actions there; the trainer adds those before by itself."""
        _, listed = self._samples[number]
        episode = self._group["episodes"][listed["episode_id"]]
        facts = self._annotation(episode)
        states = np.array(facts["states"], dtype=np.float32)
        frame = listed["frame_ids"][0]
        wanted: np.ndarray = frame + np.arange(self._group["horizon"])
        frames = np.minimum(wanted, len(states) - 1)
        steps = frames * self._stride
        arm = arm_numbers(self._card.proprio, self._card.proprio_grippers)
        return SampleContent(
            episode_index=episode["episode_index"],
            step=int(steps[0]),
            steps=tuple(steps.tolist()),
            chunk_names=tuple(self._group["proprio_names"][channel] for channel in (*arm.pose, *arm.gripper)),
            chunk=states[frames],
            mask=(wanted < len(states)) & ~np.isin(steps, facts.get("invalid_steps", [])),
            tokens=None,
            latents=(),
        )

    def _annotation(self, episode: Mapping[str, Any]) -> dict[str, Any]:
        number = episode["episode_index"]
        if self._open is None or self._open[0] != number:
            path = self._folder / "annotation" / episode["split"] / f"{number}.json"
            self._open = number, json.loads(path.read_bytes())
        return self._open[1]

    def _video(self, episode: Mapping[str, Any], camera: int) -> Path:
        return inside(self._folder, self._annotation(episode)["videos"][camera]["video_path"])

    def _at_odds(
        self, episode: Mapping[str, Any], facts: Mapping[str, Any], proprio: np.ndarray, action: np.ndarray
    ) -> Iterator[str]:
        if facts["lineage"]["episode"] != episode["episode_id"]:
            yield f"its annotation is of episode {facts['lineage']['episode'][:12]}"
        if any(split != episode["split"] for split, one in self._samples if one["episode_id"] == facts["episode_id"]):
            yield f"its samples are not all in {episode['split']}"
        frames = len(range(0, len(proprio), self._stride))
        success = None if episode["success"] is None else int(episode["success"])
        told = {"episode_id": episode["episode_index"], "success": success, "raw_length": len(proprio)}
        for key, value in (told | {"video_length": frames, "state_length": frames}).items():
            if facts.get(key) != value:
                yield f"its {key} is {facts.get(key)}, and should be {value}"
        if facts["texts"][:1] != [episode["instruction"]]:
            yield "its instruction is not that of the manifest"
        for name, values in numbers_of_arm(self._card, proprio, action, self._stride).items():
            if facts[name] != values:
                yield f"its {name} is not made of its rows"
        for camera, view in enumerate(self._cameras):
            shown = num_frames(self._video(episode, camera))
            if shown != frames:
                yield f"{view} has {shown} frames, and {frames} states"


def open_group(folder: Path, group: Mapping[str, Any]) -> _CtrlWorld:
    """The probe of a group's folder."""
    return _CtrlWorld(folder, group)
