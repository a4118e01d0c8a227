"""Encoders around pretrained models, on tiny random ones: against the libraries called directly, and in what they promise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import registry
from pipelines.encoders.ltx import KIND as LTX
from pipelines.latent_models import LatentModel
from pipelines.wan_latents import WAN21, WAN22
from schemas.errors import LayoutError, RecipeError
from tests.tiny_models import MAKERS, frames

Tiny = Callable[[str], Path]
NAMES = sorted(MAKERS)
GAUSSIAN = sorted(set(MAKERS) - {"cosmos", "vjepa2"})


def loaded(name: str, folder: Path, **options: Any) -> LatentModel:
    encoder: LatentModel = registry.load("encoders", name).load(str(folder), options)
    return encoder


def of(encoder: LatentModel, num_latents: int, seed: int = 0) -> np.ndarray:
    num_frames = encoder.leading_frames + encoder.temporal_stride * (num_latents - 1)
    return frames(num_frames, 2 * encoder.size_multiple, 3 * encoder.size_multiple, seed)


def pixels(clip: np.ndarray) -> torch.Tensor:
    """[1, 3, F, H, W] in -1..1, as pipelines of the library make them."""
    return torch.tensor(clip)[None].permute(0, 4, 1, 2, 3) / 255 * 2 - 1


def directly(name: str, folder: Path) -> Any:
    import diffusers

    kind = {
        "wan21": "AutoencoderKLWan",
        "wan22": "AutoencoderKLWan",
        "svd": "AutoencoderKLTemporalDecoder",
        "sdxl": "AutoencoderKL",
        "cosmos": "AutoencoderKLCosmos",
        "cogvideox": "AutoencoderKLCogVideoX",
        "hunyuan": "AutoencoderKLHunyuanVideo",
        "ltx": LTX,
    }[name]
    return getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False).eval()


def per_channel(values: Any) -> torch.Tensor:
    return torch.as_tensor(values).view(1, -1, 1, 1, 1)


def normalized(name: str, model: Any, z: torch.Tensor) -> torch.Tensor:
    """With constants written out as trainers have them."""
    if name in ("wan21", "wan22"):
        shape = WAN21 if name == "wan21" else WAN22
        return (z - per_channel(shape.mean)) / per_channel(shape.std)
    if name == "cosmos":
        mean, std = (
            torch.tensor(values).view(1, 16, -1, 1, 1)[:, :, : z.size(2)]
            for values in (model.config.latents_mean, model.config.latents_std)
        )
        return (z - mean) / std
    if name == "ltx":
        return (z - per_channel(model.latents_mean)) / per_channel(model.latents_std)
    return z * {"svd": 0.18215, "sdxl": 0.13025, "cogvideox": 1.15258426, "hunyuan": 0.476986}[name]


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"vjepa2"}))
def test_latents_are_those_of_the_library_with_the_constants(name: str, tiny_weights: Tiny) -> None:
    encoder, model = loaded(name, tiny_weights(name)), directly(name, tiny_weights(name))
    clip = of(encoder, 3)
    with torch.no_grad():
        if name in ("svd", "sdxl"):
            means = [model.encode(pixels(frame[None])[:, :, 0]).latent_dist.mode() for frame in clip]
            z = torch.stack(means, dim=2)
        else:
            z = model.encode(pixels(clip)).latent_dist.mode()
        expected = normalized(name, model, z)[0].transpose(0, 1).numpy()
    assert expected.std() > 0.01
    assert np.allclose(encoder.encode(clip), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["wan21", "wan22", "cosmos", "hunyuan", "cogvideox"])
def test_pictures_are_those_of_the_library(name: str, tiny_weights: Tiny) -> None:
    encoder, model = loaded(name, tiny_weights(name)), directly(name, tiny_weights(name))
    clip = of(encoder, 3)
    with torch.no_grad():
        picture = model.decode(model.encode(pixels(clip)).latent_dist.mode()).sample[0].permute(1, 2, 3, 0)
    expected = ((picture.clamp(-1, 1) + 1) * 127.5).numpy()
    assert np.abs(encoder.decode(encoder.encode(clip)) - expected).max() < 0.51


def test_shapes_of_the_published_models(tiny_weights: Tiny) -> None:
    """(stride in time, in space, channels, leading frames), as trainers count on."""
    facts = {name: loaded(name, tiny_weights(name)) for name in NAMES}
    found = {
        name: (one.temporal_stride, one.spatial_stride, one.channels, one.leading_frames) for name, one in facts.items()
    }
    assert found == {
        "wan21": (4, 8, 16, 1),
        "wan22": (4, 16, 48, 1),
        "cosmos": (8, 8, 16, 1),
        "ltx": (8, 32, 128, 1),
        "svd": (1, 8, 4, 1),
        "sdxl": (1, 8, 4, 1),
        "cogvideox": (4, 8, 16, 1),
        "hunyuan": (4, 8, 16, 1),
        "vjepa2": (2, 16, 48, 2),
    }
    assert {name for name, one in facts.items() if not one.can_decode} == {"vjepa2"}


def test_long_and_short_clips_in_turn_leave_nothing_behind(tiny_weights: Tiny) -> None:
    for name in ("wan21", "wan22"):
        used, fresh = loaded(name, tiny_weights(name)), loaded(name, tiny_weights(name))
        long, short = of(used, 4, seed=1), of(used, 1, seed=2)
        used.decode(used.encode(long))
        assert used.encode(short).tobytes() == fresh.encode(short).tobytes()
        with pytest.raises(LayoutError):
            used.encode(long[:-1])
        assert used.encode(long).tobytes() == fresh.encode(long).tobytes()


def test_batches_of_any_size_are_equal(tiny_weights: Tiny) -> None:
    clips = np.stack([of(loaded("wan21", tiny_weights("wan21")), 2, seed) for seed in range(5)])
    one, two, all_at_once = (
        loaded("wan21", tiny_weights("wan21"), batch_clips=size).encode_clips(clips) for size in (1, 2, 8)
    )
    assert np.allclose(one, two, atol=1e-5)
    assert np.allclose(one, all_at_once, atol=1e-5)


@pytest.mark.parametrize("name", GAUSSIAN)
def test_drawn_latents_can_be_drawn_again_and_lie_about_the_mean(name: str, tiny_weights: Tiny) -> None:
    mean, drawn = loaded(name, tiny_weights(name)), loaded(name, tiny_weights(name), sampling="sample")
    assert (mean.sampling, drawn.sampling) == ("mean", "sample")
    assert mean.fingerprint != drawn.fingerprint
    clips = np.stack([of(drawn, 2, seed) for seed in range(3)])
    together = drawn.encode_clips(clips)
    off = together - mean.encode_clips(clips)
    assert off.std() > 0.01
    assert not np.allclose(off[0], off[1], atol=0.01)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    assert np.allclose(drawn.encode(clips[1]), together[1], atol=1e-5)


def test_drawn_latents_have_the_deviation_that_the_model_states(tiny_weights: Tiny) -> None:
    folder = tiny_weights("sdxl")
    mean, drawn = loaded("sdxl", folder), loaded("sdxl", folder, sampling="sample")
    clip = frames(4, 64, 64)
    with torch.no_grad():
        model = directly("sdxl", folder)
        stated = model.encode(pixels(clip)[0].transpose(0, 1)).latent_dist.std.numpy()
    units = (drawn.encode(clip) - mean.encode(clip)) / 0.13025 / stated
    assert abs(float(units.mean())) < 0.15
    assert abs(float(units.std()) - 1) < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_identity_is_that_of_weights_and_choices_that_change_values(name: str, tiny_weights: Tiny) -> None:
    folder = tiny_weights(name)
    plain = loaded(name, folder)
    batch = "batch_frames" if name in ("svd", "sdxl") else "batch_clips"
    same = loaded(name, folder, threads=2, device="auto", size_multiple=2 * plain.size_multiple, **{batch: 7})
    assert same.fingerprint == plain.fingerprint
    assert same.size_multiple == 2 * plain.size_multiple
    others = [loaded(name, folder, dtype="bfloat16").fingerprint]
    if name == "vjepa2":
        others += [loaded(name, folder, per_frame=True).fingerprint, loaded(name, folder, layer_norm=True).fingerprint]
    assert len({plain.fingerprint, *others}) == 1 + len(others)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["wan21", "sdxl", "vjepa2", "ltx"])
def test_half_precision_is_near_the_full_one(name: str, dtype: str, tiny_weights: Tiny) -> None:
    full, half = loaded(name, tiny_weights(name)), loaded(name, tiny_weights(name), dtype=dtype)
    clip = of(full, 2)
    one, two = full.encode(clip), half.encode(clip)
    assert two.dtype == np.float32
    assert np.abs(one - two).max() < 0.1 * max(1.0, float(one.std()))
    assert one.tobytes() != two.tobytes()
    if half.can_decode:
        assert half.decode(two).shape == clip.shape


def test_size_multiple_is_what_the_model_behind_wants(tiny_weights: Tiny) -> None:
    encoder = loaded("wan21", tiny_weights("wan21"), size_multiple=16)
    assert encoder.encode(frames(1, 16, 32)).shape == (1, 16, 2, 4)
    with pytest.raises(LayoutError) as caught:
        encoder.encode(frames(1, 24, 40))
    assert "16x32 or 32x48" in caught.value.hint
    with pytest.raises(RecipeError, match="no multiple of 16"):
        loaded("wan22", tiny_weights("wan22"), size_multiple=24)


def test_cosmos_has_statistics_for_so_many_latents(tiny_weights: Tiny) -> None:
    encoder = loaded("cosmos", tiny_weights("cosmos"))
    with pytest.raises(LayoutError) as caught:
        encoder.encode(np.zeros((129, 8, 8, 3), np.uint8))
    assert "at most 121 frames" in caught.value.hint


def test_features_are_those_of_the_library_on_frames_of_its_size(tiny_weights: Tiny) -> None:
    from transformers import VJEPA2Model

    folder = tiny_weights("vjepa2")
    encoder, model = loaded("vjepa2", folder), VJEPA2Model.from_pretrained(folder).eval()
    clip = frames(4, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    values = ((torch.tensor(clip) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        tokens = model.get_vision_features(values[None])[0]
        pairs = model.get_vision_features(values[:, None].repeat(1, 2, 1, 1, 1))
    expected = tokens.reshape(2, 2, 2, 48).permute(0, 3, 1, 2).numpy()
    assert np.allclose(encoder.encode(clip), expected, atol=1e-5)
    alone = loaded("vjepa2", folder, per_frame=True, layer_norm=True)
    wanted = torch.nn.functional.layer_norm(pairs, (48,)).reshape(4, 2, 2, 48).permute(0, 3, 1, 2).numpy()
    assert np.allclose(alone.encode(clip), wanted, atol=1e-5)


def test_features_of_oblong_frames_have_the_places_of_their_patches(tiny_weights: Tiny) -> None:
    """Against the library told the place of every patch, which its own numbering has only for square frames of one size."""
    from transformers import VJEPA2Model

    folder = tiny_weights("vjepa2")
    encoder, model = loaded("vjepa2", folder), VJEPA2Model.from_pretrained(folder).eval()
    clip = frames(4, 32, 64)
    # A model trained on larger squares numbers the patches of a 2 x 4 grid so: place = frame * 64 + row * 8 + column.
    places = torch.tensor(
        [[frame * 64 + row * 8 + column for frame in range(2) for row in range(2) for column in range(4)]]
    )
    for layer in model.encoder.layer:
        layer.attention.grid_size = 8
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    values = ((torch.tensor(clip) / 255 - mean) / std).permute(0, 3, 1, 2)[None]
    with torch.no_grad():
        hidden = model.encoder.embeddings(values)
        for layer in model.encoder.layer:
            hidden = layer(hidden, places)[0]
        expected = model.encoder.layernorm(hidden).reshape(2, 2, 4, 48).permute(0, 3, 1, 2).numpy()
    assert np.allclose(encoder.encode(clip), expected, atol=1e-5)


def test_threads_and_random_numbers_of_the_process_are_put_back(tiny_weights: Tiny) -> None:
    encoder = loaded("ltx", tiny_weights("ltx"), threads=2)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    encoder.decode(encoder.encode(of(encoder, 1)))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 0},
        {"threads": True},
        {"batch_clips": 0},
        {"batch_clips": 1.5},
        {"dtype": "int8"},
        {"device": "meta"},
        {"device": "cuda:99"},
        {"sampling": "mode"},
        {"size_multiple": -8},
        {"size_multiple": 12},
        {"sha256": 5},
        {"batch_frames": 8},
    ],
    ids=str,
)
def test_impossible_options(options: dict[str, Any], tiny_weights: Tiny) -> None:
    with pytest.raises(RecipeError) as caught:
        loaded("wan21", tiny_weights("wan21"), **options)
    assert caught.value.hint
