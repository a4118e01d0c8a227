"""The hours that a dry run tells, against what the run takes."""

import time
from pathlib import Path

import numpy as np
import pytest

from pipelines import encode_estimate
from pipelines.clip_encoder import load_encoder
from pipelines.encode_estimate import measure
from pipelines.encode_plan import plan_encode
from pipelines.encoders import wavelet
from pipelines.lake import Lake
from schemas.recipes import ClipRecipe, EncodeRecipe, ViewsRecipe
from tests.chain import run_encode
from tests.quad_lake import quad_lake

COMMIT_S, CLIP_S = 0.2, 0.15


def test_the_estimate_is_of_whole_clips_with_what_each_costs_and_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder that takes longer for each frame the longer its clip is, and a commit as dear as a third of the rest."""
    lake = quad_lake(tmp_path, ("primary",), num_steps=60)
    monkeypatch.setattr(encode_estimate, "MEASURED_S", 2.0)
    encode, insert = wavelet.Wavelet.encode_clips, Lake.insert

    def slow(self: wavelet.Wavelet, clips: np.ndarray) -> np.ndarray:
        time.sleep(CLIP_S * len(clips) * (clips.shape[1] / 25) ** 2)
        return encode(self, clips)

    def dear(self: Lake, name: str, rows: object) -> int:
        time.sleep(COMMIT_S)
        return insert(self, name, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(wavelet.Wavelet, "encode_clips", slow)
    monkeypatch.setattr(Lake, "insert", dear)
    recipe = EncodeRecipe(
        views=ViewsRecipe(height_px=64, width_px=64),
        clip=ClipRecipe(kind="fixed", num_frames=25, stride=3),
        batch_clips=4,
    )
    opened = Lake.open(str(lake))
    plan = plan_encode(opened, recipe, load_encoder(recipe))
    versions = opened.versions()
    pace = measure(opened, recipe, plan.units, tmp_path / "scratch")
    assert pace is not None
    assert Lake.open(str(lake)).versions() == versions  # the lake itself is as it was
    seconds = run_encode(lake, recipe).values["seconds"]
    assert seconds / 1.6 < pace.seconds(plan.num_pixels) < seconds * 1.6


def test_a_clip_that_takes_minutes_is_measured_by_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(str(quad_lake(tmp_path, ("primary",), num_steps=60)))
    monkeypatch.setattr(encode_estimate, "MAX_MEASURED_S", 0.5)
    encode = wavelet.Wavelet.encode_clips
    lengths: list[int] = []

    def slow(self: wavelet.Wavelet, clips: np.ndarray) -> np.ndarray:
        lengths.append(clips.shape[1])
        time.sleep(0.05 * clips.shape[1])
        return encode(self, clips)

    monkeypatch.setattr(wavelet.Wavelet, "encode_clips", slow)
    recipe = EncodeRecipe(views=ViewsRecipe(height_px=64, width_px=64))
    plan = plan_encode(lake, recipe, load_encoder(recipe))
    pace = measure(lake, recipe, plan.units, tmp_path / "scratch")
    assert pace is not None
    assert pace.seconds(plan.num_pixels) > 0.05 * plan.num_frames
    assert max(lengths) < plan.num_frames


def test_nothing_to_encode_takes_no_time(tmp_path: Path) -> None:
    lake = Lake.open(str(quad_lake(tmp_path, ("primary",), num_steps=6)))
    assert measure(lake, EncodeRecipe(), (), tmp_path / "scratch") is None
