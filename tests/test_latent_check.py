"""Latents decoded back: aligned ones pass, and shifted, foreign, torn or strange ones are found and named."""

import math
import shutil
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from jobs.cli import main
from pipelines.clip_encoder import load_encoder
from pipelines.encoders import wavelet
from pipelines.lake import Lake
from pipelines.latent_check import ClipCheck, _wrong, best_lag, check_latents
from pipelines.rows import row_sha256
from pipelines.verify import latent_problems, verify_lake
from schemas.errors import LakeError, UsageError
from schemas.fingerprint import array_sha256
from schemas.recipes import ClipRecipe, EncodeRecipe, ViewsRecipe
from schemas.tables import LATENTS
from tests.chain import run_encode, run_ingest
from tests.quad_lake import quad_lake
from tests.real import real_data

PLAIN = EncodeRecipe(views=ViewsRecipe(slots=("primary",)), clip=ClipRecipe(kind="fixed", num_frames=9))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quad_lake(tmp_path_factory.mktemp("quad"))


@pytest.fixture
def lake(source: Path, tmp_path: Path) -> Path:
    """A lake of its own for each test: latents stay in it."""
    return Path(shutil.copytree(source, tmp_path / "lake"))


def changed(lake: Path, values: np.ndarray, index: int = 0) -> None:
    """Puts other latents into a row, with the hashes of what is there now."""
    path = str(lake / "latents.lance")
    table = lance.dataset(path).to_table().sort_by("latent_id")
    row = table.slice(index, 1).to_pylist()[0] | {
        "data": values.astype("<f4").tobytes(),
        "shape": list(values.shape),
        "data_sha256": array_sha256(values.astype("<f4")),
        "row_sha256": "",
    }
    batch = pa.RecordBatch.from_arrays([pa.array([row[f.name]], f.type) for f in LATENTS], schema=LATENTS)
    row["row_sha256"] = row_sha256(batch)
    rest = [one for one in table.to_pylist() if one["latent_id"] != row["latent_id"]]
    lance.write_dataset(pa.Table.from_pylist([row, *rest], schema=LATENTS), path, mode="overwrite")


def first(lake: Path) -> tuple[dict[str, Any], np.ndarray]:
    row = lance.dataset(str(lake / "latents.lance")).to_table().sort_by("latent_id").slice(0, 1).to_pylist()[0]
    return row, np.frombuffer(row["data"], "<f4").reshape(row["shape"]).copy()


@pytest.mark.parametrize("canvas", ["", "dreamzero_droid", "ctrlworld_stack", "grid_2x2"])
@pytest.mark.parametrize("kind", ["whole", "fixed", "frames"])
def test_aligned_latents_match_at_lag_0(lake: Path, canvas: str, kind: Any) -> None:
    views = ViewsRecipe(canvas=canvas, height_px=96, width_px=96) if canvas else ViewsRecipe(slots=("primary",))
    recipe = EncodeRecipe(views=views, clip=ClipRecipe(kind=kind, num_frames=9))
    run_encode(lake, recipe)
    checks, problems = check_latents(Lake.open(str(lake)), recipe, load_encoder(recipe), 3)
    assert not problems
    assert {check.lag for check in checks} == {0}
    assert all(math.isinf(check.psnr) for check in checks), "wavelet loses nothing"


@pytest.mark.parametrize("lag", [-2, 1, 3])
def test_latents_that_lag_are_found(lake: Path, lag: int) -> None:
    run_encode(lake, PLAIN)
    encoder = wavelet.load(None, {})
    row, values = first(lake)
    frames = encoder.decode(values)
    index = np.clip(np.arange(len(frames)) - lag, 0, len(frames) - 1)
    changed(lake, encoder.encode(frames[index]))
    opened = Lake.open(str(lake))
    assert verify_lake(opened).ok, "its hashes are those of what is there"
    checks, problems = check_latents(opened, PLAIN, encoder, 10)
    assert [(one.latent_id, one.lag) for one in checks if one.lag] == [(row["latent_id"], lag)]
    assert [problem.message for problem in problems] == [f"the latents lag their frames by {lag}"]
    assert row["latent_id"][:12] in problems[0].where


def test_latents_of_another_picture_are_found(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_encode(lake, PLAIN)
    encoder = wavelet.load(None, {})
    _, values = first(lake)
    changed(lake, encoder.encode(255 - encoder.decode(values)))
    settings = ["--set", 'views.slots=["primary"]', "--set", "clip.kind=fixed"]
    assert main(["verify", str(lake), "--latents", "9", *settings]) == 5
    assert "decode to something else than their frames" in capsys.readouterr().out


def test_what_stands_still_tells_no_lag() -> None:
    assert best_lag({-1: 30.0, 0: 30.05, 1: 29.0}) is None
    assert best_lag({-1: 29.0, 0: 30.05, 1: 29.0}) == 0
    assert best_lag({-1: math.inf, 0: math.inf, 1: 29.0}) is None
    assert best_lag({-1: 31.0, 0: math.inf, 1: 29.0}) == 0


def test_latents_far_from_unit_scale_are_told_where_they_should_be_near_it() -> None:
    encoder = wavelet.load(None, {})
    strange = ClipCheck("a", "b", 30.0, 0, 4.0, 1.0)
    assert not _wrong(strange, encoder)
    encoder.unit_scale = True
    assert "mean 4 and deviation 1" in _wrong(strange, encoder)[0]
    assert not _wrong(ClipCheck("a", "b", 30.0, None, 0.1, 0.9), encoder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [3, 4, 4]}, "are not 3x4x4 values"),
        ({"shape": [2, 4, 4, 4]}, "512 bytes are not 2x4x4x4|768 bytes are not"),
        ({"frame_ids": list(range(8))}, "3 latent frames of 8 frames"),
        ({"frame_ids": list(range(5)), "times_ns": list(range(5))}, "3 latent frames of 5 frames"),
        ({"times_ns": [0]}, "its times or tiles are not of 9 frames"),
        ({"tiles": [{"slot": "primary", "frame_ids": [1]}]}, "its times or tiles"),
        ({"data": np.full(192, np.nan, "<f4").tobytes()}, "not all finite"),
    ],
)
def test_a_row_that_contradicts_itself_is_told(change: dict[str, Any], message: str) -> None:
    row: dict[str, Any] = {
        "shape": [3, 4, 4, 4],
        "dtype": "<f4",
        "data": np.zeros(192, "<f4").tobytes(),
        "frame_ids": list(range(9)),
        "times_ns": list(range(9)),
        "leading_frames": 1,
        "temporal_stride": 4,
        "tiles": [],
    }
    assert not list(latent_problems(row))
    with pytest.raises(AssertionError, match=message):
        assert not list(latent_problems(row | change))


def test_what_cannot_be_checked_is_said(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LakeError, match="no wavelet latents of these weights and views"):
        check_latents(Lake.open(str(lake)), PLAIN, wavelet.load(None, {}), 3)
    features = wavelet.load(None, {})
    features.can_decode = False
    with pytest.raises(UsageError, match="do not decode to pictures"):
        check_latents(Lake.open(str(lake)), PLAIN, features, 3)


PSNR = {
    "wrist_left": (32.5, 38.1),  # data/README.md says 33.5 to 37.1 dB; measured by frame: 32.2 to 39.9, median 35.5
    "primary": (30.3, 32.3),  # the views of the room have more detail: 28.5 to 34.0, median 31.3
    "secondary": (31.0, 33.0),  # 29.3 to 34.2, median 32.0
}
"""Between which the median clip of each view of DROID lies, in dB."""


@pytest.mark.real
def test_the_tiny_autoencoder_on_real_droid_is_aligned_and_as_good_as_told(tmp_path: Path) -> None:
    """Of the wiring see tests/test_tiny_autoencoder.py."""
    run_ingest([real_data("ctrlworld_droid")], tmp_path / "lake")
    recipe = EncodeRecipe(
        encoder="tiny_autoencoder",
        weights=str(real_data("taef2_weights")),
        clip=ClipRecipe(kind="fixed", num_frames=3, stride=1000),
    )
    run_encode(tmp_path / "lake", recipe, "num_steps in (184, 239, 370)")  # three of eleven, to save minutes
    lake = Lake.open(str(tmp_path / "lake"))
    slots = {row["latent_id"]: row["slot"] for row in lake.rows("latents", ["slot"])}
    checks, problems = check_latents(lake, recipe, load_encoder(recipe), 1000)
    assert not problems
    assert {check.lag for check in checks} <= {0, None}
    for slot, (least, most) in PSNR.items():
        found = [check for check in checks if slots[check.latent_id] == slot]
        assert len(found) == 6, "the first and the last clip of every one of these episodes"
        assert sum(check.lag == 0 for check in found) >= len(found) / 2
        assert least <= float(np.median([check.psnr for check in found])) <= most, slot
