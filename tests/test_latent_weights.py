"""Weights of pretrained models: where they are found, what they are, and every way in which they can be wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import registry
from pipelines.weights import weights_files, weights_folder
from schemas.errors import FingerprintMismatch, LayoutError, MissingFile, WamloomError
from tests.tiny_models import MAKERS, frames

Tiny = Callable[[str], Path]
FILE = "diffusion_pytorch_model.safetensors"


def loaded(name: str, folder: Path | str | None, **options: Any) -> Any:
    return registry.load("encoders", name).load(None if folder is None else str(folder), options)


@pytest.fixture
def wan(tiny_weights: Tiny, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(tiny_weights("wan21"), tmp_path / "wan"))


def change(folder: Path, **values: Any) -> None:
    """Sets keys of the configuration, or removes those that are None."""
    config = {**json.loads((folder / "config.json").read_text()), **values}
    (folder / "config.json").write_text(
        json.dumps({key: config[key] for key in config if values.get(key, 0) is not None})
    )


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)


def test_names_and_places_of_files_are_no_part_of_the_identity(wan: Path, tmp_path: Path) -> None:
    before = loaded("wan21", wan).fingerprint
    pipeline = tmp_path / "pipeline"
    shutil.copytree(wan, pipeline / "vae")
    (pipeline / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    assert loaded("wan21", pipeline).fingerprint == before
    change(wan, _diffusers_version="9.9", _name_or_path="elsewhere")
    (wan / "README.md").write_text("hello")
    for copy in ("diffusion_pytorch_model.fp16.safetensors", "wan_vae.safetensors"):
        shutil.copyfile(wan / FILE, wan / copy)
    assert loaded("wan21", wan).fingerprint == before


def test_weights_in_parts_are_read(wan: Path) -> None:
    from diffusers import AutoencoderKLWan

    clip = frames(5, 16, 16)
    before = loaded("wan21", wan).encode(clip)
    model = AutoencoderKLWan.from_pretrained(wan, low_cpu_mem_usage=False)
    (wan / FILE).unlink()
    model.save_pretrained(wan, max_shard_size="40KB")
    assert len(weights_files(wan)) > 1
    assert np.array_equal(loaded("wan21", wan).encode(clip), before)
    weights_files(wan)[1].unlink()
    with pytest.raises(LayoutError, match="damaged"):
        loaded("wan21", wan)


def test_other_weights_and_other_constants_are_another_encoder(wan: Path) -> None:
    fingerprints = {loaded("wan21", wan).fingerprint}
    clip = frames(5, 16, 16)
    latents = loaded("wan21", wan).encode(clip)

    def louder(tensors: dict[str, torch.Tensor]) -> None:
        tensors["encoder.conv_in.weight"] *= 1.5

    change_tensors(wan, louder)
    fingerprints.add(loaded("wan21", wan).fingerprint)
    change(wan, latents_mean=[0.5] * 16)
    other = loaded("wan21", wan)
    fingerprints.add(other.fingerprint)
    assert len(fingerprints) == 3
    assert "other than those of Wan 2.1" in other.normalization
    assert not np.allclose(other.encode(clip), latents, atol=1e-3)


def test_constants_that_a_configuration_leaves_out_are_the_published_ones(
    wan: Path, tiny_weights: Tiny, tmp_path: Path
) -> None:
    clip = frames(5, 32, 32)
    for name, folder in (("wan21", wan), ("wan22", Path(shutil.copytree(tiny_weights("wan22"), tmp_path / "wan22")))):
        before = loaded(name, folder).encode(clip)
        change(folder, latents_mean=None, latents_std=None)
        encoder = loaded(name, folder)
        assert np.array_equal(encoder.encode(clip), before)
        assert encoder.normalization.endswith(f"of Wan 2.{name[-1]}")


def test_pinned_weights(wan: Path) -> None:
    with pytest.raises(FingerprintMismatch) as caught:
        loaded("wan21", wan, sha256="0" * 64)
    found = next(word for word in caught.value.message.replace(",", "").split() if len(word) == 64)
    assert loaded("wan21", wan, sha256=found).channels == 16


def test_no_weights(wan: Path, tmp_path: Path) -> None:
    for place in (None, tmp_path / "nowhere", wan / FILE, "no/such/folder", ""):
        with pytest.raises(MissingFile) as caught:
            loaded("wan21", place)
        assert "--weights" in caught.value.hint
    (wan / FILE).rename(wan / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(MissingFile, match=r"only the variant .*fp16"):
        loaded("wan21", wan)
    (wan / "diffusion_pytorch_model.fp16.safetensors").rename(wan / "diffusion_pytorch_model.bin")
    with pytest.raises(MissingFile, match="safetensors"):
        loaded("wan21", wan)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"<html>not found</html>", b"\x10\0\0\0\0\0\0\0{", b"version https://git-lfs"]
)
def test_files_that_are_no_weights(data: bytes, wan: Path) -> None:
    (wan / FILE).write_bytes(data)
    with pytest.raises(LayoutError, match="damaged") as caught:
        loaded("wan21", wan)
    assert str(wan) in caught.value.where
    assert "fetch" in caught.value.hint


@pytest.mark.parametrize("name", ["wan21", "ltx", "vjepa2"])
def test_weights_that_are_cut_short(name: str, tiny_weights: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_weights(name), tmp_path / name))
    (file,) = weights_files(folder)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(LayoutError, match="damaged"):
        loaded(name, folder)


def test_weights_missing_left_over_and_of_another_shape(wan: Path) -> None:
    whole = (wan / FILE).read_bytes()

    def missing(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["encoder.conv_in.weight"]

    def left_over(tensors: dict[str, torch.Tensor]) -> None:
        tensors["encoder.extra.weight"] = torch.zeros(3)

    def another_shape(tensors: dict[str, torch.Tensor]) -> None:
        tensors["encoder.conv_in.weight"] = torch.zeros(3, 3)

    def not_finite(tensors: dict[str, torch.Tensor]) -> None:
        tensors["encoder.conv_in.bias"][:] = torch.nan

    for spoil, message in (
        (missing, "lacks encoder.conv_in"),
        (left_over, "too many: encoder.extra"),
        (another_shape, "conv_in"),
    ):
        (wan / FILE).write_bytes(whole)
        change_tensors(wan, spoil)
        with pytest.raises(LayoutError, match=message) as caught:
            loaded("wan21", wan)
        assert "conv_in" in caught.value.message or "extra" in caught.value.message
    (wan / FILE).write_bytes(whole)
    change_tensors(wan, not_finite)
    with pytest.raises(LayoutError, match="overflow"):
        loaded("wan21", wan).encode(frames(1, 8, 8))


def test_features_with_weights_missing(tiny_weights: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_weights("vjepa2"), tmp_path / "vjepa2"))
    (file,) = weights_files(folder)
    tensors = load_file(file)
    del tensors["encoder.layer.0.norm1.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(LayoutError, match=r"lacks encoder\.layer\.0\.norm1"):
        loaded("vjepa2", folder)


def test_overflow_of_float16_is_an_error_that_names_the_way_out(tiny_weights: Tiny, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_weights("sdxl"), tmp_path / "sdxl"))

    def loud(tensors: dict[str, torch.Tensor]) -> None:
        tensors["quant_conv.weight"] *= 1e7

    change_tensors(folder, loud)
    clip = frames(1, 16, 16)
    assert np.isfinite(loaded("sdxl", folder).encode(clip)).all()
    with pytest.raises(LayoutError, match="overflow float16") as caught:
        loaded("sdxl", folder, dtype="float16").encode(clip)
    assert "bfloat16" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "AutoencoderKL"},
        {"_class_name": None},
        {"_class_name": ["AutoencoderKLWan"]},
        {"patch_size": 2},
        {"dim_mult": [1, 1, 1]},
        {"dim_mult": "1111"},
        {"temperal_downsample": [False, False, True]},
        {"scale_factor_spatial": 16},
        {"z_dim": "16"},
        {"z_dim": 0},
        {"z_dim": 8},
        {"base_dim": 8},
        {"base_dim": "wide"},
        {"latents_mean": [0.0] * 15},
        {"latents_mean": 1.0},
        {"latents_std": [0.0] * 16},
        {"latents_std": ["a"] * 16},
        {"latents_mean": [float("nan")] * 16},
    ],
    ids=str,
)
def test_configurations_that_contradict_the_encoder(changes: dict[str, Any], wan: Path) -> None:
    change(wan, **changes)
    with pytest.raises(LayoutError) as caught:
        loaded("wan21", wan)
    assert str(wan) in caught.value.where
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff", "[" * 5000])
def test_configurations_that_are_none(text: str, wan: Path) -> None:
    (wan / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LayoutError):
        loaded("wan21", wan)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_encoder_refuses_the_models_of_others(name: str, tiny_weights: Tiny) -> None:
    other = "wan22" if name == "wan21" else "wan21"
    with pytest.raises(LayoutError) as caught:
        loaded(name, tiny_weights(other))
    assert other in caught.value.hint


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sdxl", {"scaling_factor": None}, "scaling_factor"),
        ("sdxl", {"scaling_factor": 0}, "not positive"),
        ("sdxl", {"block_out_channels": [8, 8]}, "spatial stride"),
        ("svd", {"scaling_factor": "0.18"}, "scaling_factor"),
        ("cogvideox", {"temporal_compression_ratio": 8}, "temporal_compression_ratio"),
        ("hunyuan", {"spatial_compression_ratio": 16}, "spatial_compression_ratio"),
        ("ltx", {"encoder_causal": False}, "encoder_causal"),
        ("ltx", {"patch_size": 8}, "damaged"),
        ("cosmos", {"latents_mean": [0.0] * 17}, "latents_mean"),
        ("cosmos", {"temporal_compression_ratio": 2}, "compresses 2x"),
        ("vjepa2", {"patch_size": 14}, "patch_size"),
        ("vjepa2", {"tubelet_size": 4}, "tubelet_size"),
        ("vjepa2", {"hidden_size": 64}, "vjepa2|VJEPA2|shapes"),
    ],
)
def test_configurations_that_contradict_other_encoders(
    name: str, changes: dict[str, Any], message: str, tiny_weights: Tiny, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_weights(name), tmp_path / name))
    change(folder, **changes)
    with pytest.raises(LayoutError, match=message):
        loaded(name, folder)


def test_an_image_model_with_a_shift_or_with_means(tiny_weights: Tiny, tmp_path: Path) -> None:
    clip = frames(1, 16, 16)
    plain = loaded("sdxl", tiny_weights("sdxl")).encode(clip) / 0.13025
    folder = Path(shutil.copytree(tiny_weights("sdxl"), tmp_path / "sdxl"))
    change(folder, scaling_factor=1.5305, shift_factor=0.0609)
    shifted = loaded("sdxl", folder)
    assert shifted.normalization == "(z - 0.0609) * 1.5305"
    assert np.allclose(shifted.encode(clip), (plain - 0.0609) * 1.5305, atol=1e-5)
    change(
        folder,
        scaling_factor=0.5,
        shift_factor=None,
        latents_mean=[1.0, 2.0, 3.0, 4.0],
        latents_std=[1.0, 2.0, 4.0, 8.0],
    )
    mean, std = (np.array(values, np.float32).reshape(4, 1, 1) for values in ([1, 2, 3, 4], [1, 2, 4, 8]))
    assert np.allclose(loaded("sdxl", folder).encode(clip), (plain - mean) * 0.5 / std, atol=1e-5)


# --- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """A repository of a whole pipeline, of which calls fetch what their patterns match."""

    def __init__(self, files: dict[str, Path | str], cache: Path) -> None:
        self.files, self.cache, self.calls = files, cache, list[dict[str, Any]]()

    def __call__(self, repo_id: str, **options: Any) -> str:
        from huggingface_hub.utils import filter_repo_objects

        self.calls.append({"repo_id": repo_id, **options})
        patterns = {key: options[key] for key in ("allow_patterns", "ignore_patterns")}
        self.cache.mkdir(exist_ok=True)
        for name in filter_repo_objects(self.files, **patterns):
            target, source = self.cache / name, self.files[name]
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(source, Path):
                shutil.copyfile(source, target)
            else:
                target.write_text(source)
        return str(self.cache)

    def fetched(self) -> set[str]:
        return {str(path.relative_to(self.cache)) for path in self.cache.rglob("*") if path.is_file()}


def test_of_a_pipeline_on_the_hub_only_the_autoencoder_is_fetched(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwanted = ("config.json", "big.safetensors", "transformer/config.json", "transformer/x.safetensors", "vae/old.bin")
    files: dict[str, Path | str] = dict.fromkeys(unwanted, "x")
    wanted = {"vae/config.json": wan / "config.json", f"vae/{FILE}": wan / FILE}
    hub = Hub({**files, **wanted, "vae/diffusion_pytorch_model.fp16.safetensors": "x"}, tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    encoder = loaded("wan21", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers@0fad780")
    assert encoder.fingerprint == loaded("wan21", wan).fingerprint
    assert hub.fetched() == set(wanted)
    assert [(call["repo_id"], call["revision"]) for call in hub.calls] == [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "0fad780")
    ]


def test_a_model_in_the_root_of_a_repository_is_fetched_without_its_folders(
    tiny_weights: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_weights("sdxl")
    files: dict[str, Path | str] = {"config.json": folder / "config.json", FILE: folder / FILE}
    hub = Hub(
        {**files, "unet/big.safetensors": "x", "vae_1_0/config.json": "x", "a.fp16.safetensors": "x"}, tmp_path / "c"
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    assert loaded("sdxl", "stabilityai/sdxl-vae").channels == 4
    assert hub.fetched() == set(files)
    assert hub.calls[0]["revision"] is None


def test_a_hub_that_cannot_be_reached_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import httpx
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("nobody/nothing-at-all", "nobody/not--allowed"):
        with pytest.raises(MissingFile, match="hub") as caught:
            loaded("wan21", name)
        assert caught.value.where == name
        assert "HF_TOKEN" in caught.value.hint

    def breaks_off(*_: object, **__: object) -> str:
        raise httpx.ReadTimeout("the read operation timed out")

    monkeypatch.setattr("huggingface_hub.snapshot_download", breaks_off)
    with pytest.raises(MissingFile, match="timed out"):
        weights_folder("nobody/nothing", ("vae",), "a test")


def test_a_repository_without_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub({"README.md": "x"}, tmp_path / "cache"))
    with pytest.raises(MissingFile, match=r"no config\.json"):
        loaded("wan21", "nobody/nothing")
    with pytest.raises(WamloomError):
        weights_folder("not a hub id at all", (), "a test")
