"""Proves the latents in WebDataset's samples: those that cover a window, in time order."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.joined import JoinedEpisode
from pipelines.joined_episode import is_same
from pipelines.webdataset_shards import Shards


class _WebDataset:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path) -> None:
        self._shards = Shards(folder)

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        if not episode.plan.num_samples:
            return
        path, samples = self._shards.of(episode.plan.first_sample)
        for number, (facts, members) in samples.items():
            if facts["episode_id"] != episode.plan.episode_id:
                continue
            where = f"{path} sample {number}"
            times = facts["times_ns"][0], facts["times_ns"][facts["num_steps"] - 1]
            for view in sorted(episode.clips.keys() | facts["latents"].keys()):
                spans = facts["latents"].get(view, [])
                values = (
                    self._shards.array(path, members[f"{view}.latent.npy"]) if f"{view}.latent.npy" in members else ()
                )
                if len(values) != len(spans):
                    yield f"{where}: it has {len(values)} latents of {view}, and tells of {len(spans)}"
                    continue
                starts = [span["times_ns"][0] for span in spans]
                if np.any(np.diff(starts) <= 0):
                    yield f"{where}: its latents of {view} are not in the order of time"
                begin = {clip.plan.times_ns[0] for clip in episode.clips.get(view, ())}
                if not spans and episode.is_unchanged and any(times[0] <= one <= times[1] for one in begin):
                    yield f"{where}: it has no latents of {view}, and the lake has some of these frames"
                for span, held in zip(spans, values, strict=True):
                    yield from self._latent(episode, where, view, span, held)

    def _latent(
        self, episode: JoinedEpisode, where: str, view: str, span: Mapping[str, Any], values: np.ndarray
    ) -> Iterator[str]:
        episode.compared["latents_compared_with_the_lake"] += 1
        found = [
            one
            for one in episode.latents.get((view, tuple(span["frame_ids"])), [])
            if (one.clip.latent_id, one.latent) == (span["latent_id"], span["latent"])
        ]
        what = f"{where}: latent {span['latent']} of a clip of {view}"
        if not found:
            yield f"{what} is of other frames than the lake's, or of a clip that it does not have"
        elif found[0].clip.plan.times_ns[found[0].frames[0]] != span["times_ns"][0]:
            yield f"{what} is told to be of another time than it is"
        elif not is_same(values, found[0].values, None):
            yield f"{what} is not the lake's"


def open_group(folder: Path, group: Mapping[str, Any]) -> _WebDataset:  # noqa: ARG001 - of the protocol
    """See ``pipelines.joined``."""
    return _WebDataset(folder)
