"""Proves the latents that lie beside LeRobot v3.0: a file for each clip of a view, in time order."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from pipelines.joined import JoinedEpisode
from pipelines.joined_episode import is_same
from pipelines.read_back import unreadable
from schemas.latent import LatentClip


class _LeRobotV3:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "latents"

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        number = episode.plan.episode_index
        for view in sorted(episode.clips.keys() | {path.name for path in self._folder.glob("*")}):
            known = {clip.latent_id: clip for clip in episode.clips.get(view, ())}
            there: list[str] = []
            found = (self._folder / view).glob(f"episode_{number:06d}_*.safetensors")
            for path in sorted(found, key=lambda path: int(path.stem.rpartition("_")[2])):
                try:
                    with safetensors.safe_open(str(path), "numpy") as file:
                        told, values = json.loads(file.metadata()["wamloom"]), file.get_tensor("latents")
                except (safetensors.SafetensorError, LookupError, TypeError) as error:
                    raise unreadable(path, error) from error
                there.append(told["latent_id"])
                if told["latent_id"] not in known:
                    yield f"{path}: the lake has no such clip of {view}"
                    continue
                episode.compared["latents_compared_with_the_lake"] += len(values)
                yield from (f"{path}: {what}" for what in _differences(told, values, known[told["latent_id"]]))
            if there != list(known) and (episode.is_unchanged or len(there) != len(set(there))):
                where = self._folder / view
                yield f"{where}: it has {len(there)} clips of the episode, the lake {len(known)}, or they are in another order"


def _differences(told: Mapping[str, Any], values: np.ndarray, clip: LatentClip) -> Iterator[str]:
    facts = {
        "episode_id": clip.plan.episode_id,
        "slot": clip.plan.slot,
        "rate": clip.plan.rate_told,
        "frame_ids": list(clip.plan.frame_ids),
        "times_ns": list(clip.plan.times_ns),
        "temporal_stride": clip.temporal_stride,
        "leading_frames": clip.leading_frames,
        "encoder_fingerprint": clip.plan.encoder_fingerprint,
        "views_fingerprint": clip.plan.views_fingerprint,
    }
    yield from (f"its {name} is not that of the lake's clip" for name, value in facts.items() if told[name] != value)
    if not is_same(values, clip.values, None):
        yield "its latents are not the lake's"


def open_group(folder: Path, group: Mapping[str, Any]) -> _LeRobotV3:  # noqa: ARG001 - of the protocol
    """See ``pipelines.joined``."""
    return _LeRobotV3(folder)
