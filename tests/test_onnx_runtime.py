"""ONNX Runtime in the place of torch: the same latents under the same name, or an error that says so."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.encoders.tiny_autoencoder import TinyAutoencoder, load
from schemas.errors import RecipeError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The encoder half of a tiny autoencoder with 8 channels inside, and random weights."""
    torch.manual_seed(0)
    tensors: dict[str, torch.Tensor] = {"0.weight": torch.randn(8, 3, 3, 3) / 4, "0.bias": torch.randn(8) / 4}
    for index in (2, 6, 10):
        tensors[f"{index}.weight"] = torch.randn(8, 8, 3, 3) / 9
    for index in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        for conv in (0, 2, 4):
            tensors[f"{index}.conv.{conv}.weight"] = torch.randn(8, 8, 3, 3) / 9
            tensors[f"{index}.conv.{conv}.bias"] = torch.randn(8) / 9
    for index in (11, 12, 13):
        tensors[f"{index}.pool.0.weight"] = torch.randn(16, 8, 1, 1) / 3
        tensors[f"{index}.pool.1.weight"] = torch.rand(16)
        tensors[f"{index}.pool.1.bias"] = torch.randn(16) / 9
        tensors[f"{index}.pool.3.weight"] = torch.randn(8, 16, 1, 1) / 4
    tensors |= {"14.weight": torch.randn(4, 8, 3, 3) / 9, "14.bias": torch.randn(4) / 9}
    torch.save(tensors, tmp_path / "small_encoder.pth")
    return tmp_path


@pytest.fixture
def pair(weights: Path) -> tuple[TinyAutoencoder, TinyAutoencoder]:
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    return load(str(weights), {}), load(str(weights), {"runtime": "onnx", "batch_frames": 3, "threads": 2})


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 48, 88), (7, 64, 32)])
def test_latents_are_those_of_torch(pair: tuple[TinyAutoencoder, TinyAutoencoder], size: tuple[int, ...]) -> None:
    ours, theirs = pair
    assert ours.fingerprint == theirs.fingerprint, "what runs the network changes no more than rounding"
    frames = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = ours.encode(frames)
    found = theirs.encode(frames)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-4 * expected.std()
    assert np.array_equal(theirs.encode(frames), found)


def test_latents_that_differ_are_an_error_and_not_written(pair: tuple[TinyAutoencoder, TinyAutoencoder]) -> None:
    _, theirs = pair
    frames = np.full((2, 16, 16, 3), 90, np.uint8)
    theirs.encode(frames)
    with torch.no_grad():
        theirs._encoder._network[14].bias.add_(0.01)
    theirs.encode(frames)  # a size is held against torch once
    with pytest.raises(RecipeError, match="from those of torch") as caught:
        theirs.encode(frames[:, :8])
    assert caught.value.hint == 'set the option runtime to "torch"'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "cannot run in 'tensorrt'"),
        ({"runtime": "onnx", "dtype": "bfloat16"}, "for float32 on the CPU"),
        ({"runtime": "onnx", "device": "cuda"}, "for float32 on the CPU"),
    ],
)
def test_impossible_choices(weights: Path, options: dict[str, int | float | str | bool], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load(str(weights), options)
    assert caught.value.hint


def test_a_package_that_is_not_installed_is_named(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RecipeError, match="onnxruntime") as caught:
        load(str(weights), {"runtime": "onnx"})
    assert "wamloom[onnx]" in caught.value.hint


def test_the_package_that_exports_is_asked_for_too(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RecipeError, match="onnx") as caught:
        load(str(weights), {"runtime": "onnx"})
    assert "wamloom[onnx]" in caught.value.hint
