"""Published SVD latents of real DROID recordings beside our frames of them: latent i is frame i, in every camera stream."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.clips import frame_grid
from pipelines.lake import Lake
from pipelines.selection import kept_ids, stored_episodes
from pipelines.video import VideoTools
from schemas.recipes import Limits, ViewsRecipe
from tests.chain import run_ingest
from tests.real import real_data

pytestmark = pytest.mark.real

SMALL = ViewsRecipe(height_px=24, width_px=40, fit="stretch", filter="area")
"""A pixel for each latent."""
LAGS = (-2, -1, 0, 1, 2)


def streams(lake: Lake, latents: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, published latents [T, 4, 24, 40], our frames [T, 24, 40, 3] of the same camera) of every camera stream."""
    video = VideoTools(Limits())
    try:
        for episode in stored_episodes(lake, [episode_id for episode_id, _ in kept_ids(lake, "")]):
            for slot, view in sorted(episode.views.items()):
                number, camera = int(episode.source_key.split("/")[-1]), view.key.split("/")[-1]
                path = next(latents.glob(f"*/{number}/{camera}.pt"), None)
                if path is None:
                    continue  # of most of these episodes no latents are beside the project
                (ids,) = frame_grid([view], 0, None).frame_ids
                whole = lake.video(episode.episode_id, slot, view)
                frames = np.concatenate(list(video.decode(whole, str(path), ids, SMALL)))
                yield str(path), torch.load(path, weights_only=True).float().numpy(), frames.astype(np.float64)
    finally:
        video.close()


def explained(latents: np.ndarray, frames: np.ndarray, lag: int) -> float:
    """The share of what changes from frame to frame that a linear map of the changes of latents explains, ``lag`` later."""
    count = len(frames) - abs(lag)
    before = np.diff(latents[max(0, lag) : max(0, lag) + count], axis=0).transpose(0, 2, 3, 1).reshape(-1, 4)
    after = np.diff(frames[max(0, -lag) : max(0, -lag) + count], axis=0).reshape(-1, 3)
    found, *_ = np.linalg.lstsq(before, after, rcond=None)
    return float(1 - np.square(after - before @ found).sum() / np.square(after).sum())


def test_every_published_latent_is_of_the_frame_of_its_index(tmp_path: Path) -> None:
    folder = real_data("ctrlworld_droid")
    run_ingest([folder], tmp_path / "lake")
    seen = 0
    for name, latents, frames in streams(Lake.open(str(tmp_path / "lake")), folder / "droid_subset/latent_videos"):
        assert latents.shape == (len(frames), 4, 24, 40), name
        by_lag = {lag: explained(latents, frames, lag) for lag in LAGS}
        assert max(by_lag, key=by_lag.__getitem__) == 0, (name, by_lag)
        assert by_lag[0] > 2 * max(by_lag[lag] for lag in LAGS if lag), (name, by_lag)
        seen += 1
    assert seen == len(list((folder / "droid_subset/latent_videos").glob("*/*/*.pt"))) >= 12
