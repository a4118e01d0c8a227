"""Proves the latents in WebDataset's samples: those that cover a window, in time order."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.joined import JoinedEpisode
from pipelines.joined_episode import is_same
from pipelines.webdataset_shards import Shards
from pipelines.window_latents import window_latents
from schemas.latent import LatentClip
from schemas.time import NANOSECONDS, parse_rate


class _WebDataset:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._shards = Shards(folder)
        self._period_ns = int(NANOSECONDS / parse_rate(group["rate"]))

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        if not episode.plan.num_samples:
            return
        path, samples = self._shards.of(episode.plan.first_sample)
        for number, (facts, members) in samples.items():
            if facts["episode_id"] != episode.plan.episode_id:
                continue
            for view in sorted(episode.clips.keys() | facts["latents"].keys()):
                spans, name = facts["latents"].get(view, []), f"{view}.latent.npy"
                values = self._shards.array(path, members[name]) if name in members else np.zeros(0)
                clips = episode.clips.get(view, ())
                if episode.is_unchanged:
                    same = self._made_again(episode, clips, facts, spans, values)
                else:  # of further clips, others might be chosen
                    same = _are_there(episode, view, spans, values)
                episode.compared["latents_compared_with_the_lake"] += len(values)
                if not same:
                    yield f"{path} sample {number}: its latents of {view} are not those that the lake gives for its steps"

    def _made_again(
        self,
        episode: JoinedEpisode,
        clips: Sequence[LatentClip],
        facts: Mapping[str, Any],
        spans: Sequence[Mapping[str, Any]],
        values: np.ndarray,
    ) -> bool:
        times = episode.lineage["time_ns"].to_numpy()
        start, stop = facts["step"], facts["step"] + facts["num_steps"]
        given, told = window_latents(clips, times, self._period_ns, start, stop)
        return list(spans) == told and is_same(values, given, None)


def _are_there(episode: JoinedEpisode, view: str, spans: Sequence[Mapping[str, Any]], values: np.ndarray) -> bool:
    """Whether the lake has these latents of these frames, in the order of their ends."""
    if len(values) != len(spans) or np.any(np.diff([span["times_ns"][1] for span in spans]) <= 0):
        return False
    return all(
        any(
            (one.clip.latent_id, one.latent) == (span["latent_id"], span["latent"]) and is_same(held, one.values, None)
            for one in episode.latents.get((view, tuple(span["frame_ids"])), ())
        )
        for span, held in zip(spans, values, strict=True)
    )


def open_group(folder: Path, group: Mapping[str, Any]) -> _WebDataset:
    """See ``pipelines.joined``."""
    return _WebDataset(folder, group)
