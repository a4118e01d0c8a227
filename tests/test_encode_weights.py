"""Weights that change while a run goes on: latents never stand in the lake under the fingerprint of other weights."""

from pathlib import Path

import pytest

from pipelines.clip_encoder import load_encoder
from pipelines.encode_plan import plan_encode
from pipelines.encode_unit import EncodeWorker
from pipelines.lake import Lake
from schemas.errors import FingerprintMismatch
from schemas.recipes import ClipRecipe, EncodeRecipe, ViewsRecipe
from tests.quad_lake import quad_lake


def test_other_weights_than_the_plans_stop_the_run(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    from tests import tiny_models

    weights = tiny_models.make("sdxl", tmp_path / "weights")
    lake = Lake.open(str(quad_lake(tmp_path, ("primary",), num_steps=6)))
    recipe = EncodeRecipe(
        encoder="sdxl",
        weights=str(weights),
        views=ViewsRecipe(height_px=32, width_px=32),
        clip=ClipRecipe(kind="fixed", num_frames=3),
    )
    (unit,) = plan_encode(lake, recipe, load_encoder(recipe)).units
    (path,) = weights.glob("*.safetensors")
    tensors = safetensors.load_file(path)
    safetensors.save_file({name: value * 1.5 for name, value in tensors.items()}, path, metadata={"format": "pt"})
    worker = EncodeWorker(str(lake.root), lake.versions(), str(tmp_path / "staging"), recipe)
    with pytest.raises(FingerprintMismatch, match="the encoder has the fingerprint"):
        worker(unit)
    worker.close()
    assert not list((tmp_path / "staging").glob("*.arrow"))
