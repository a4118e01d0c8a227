"""What every encoder promises; a new member is under test by being there.

Pretrained models are tiny ones of the same classes, with random weights. The tiny autoencoder takes its weights from the real
recordings, and its tests skip where those are absent.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import registry
from pipelines.encoders import Encoder
from pipelines.windows import latent_spans, num_latent_frames
from schemas.errors import LayoutError, RecipeError, WamloomError
from tests.real import real_data

WEIGHTS = {"tiny_autoencoder": "taef2_weights"}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "wavelet": [{}, {"spatial": 16}],
    "wan21": [{}, {"sampling": "sample", "size_multiple": 16}],
    "svd": [{}, {"sampling": "sample", "batch_frames": 3}],
    "vjepa2": [{}, {"per_frame": True, "layer_norm": True}],
}
TRAINED = {"wavelet", "tiny_autoencoder"}
"""Encoders under test with weights, or without need of any, that let decoded pictures resemble what was encoded."""
LOOK_AHEAD = ["cogvideox-{}", "hunyuan-{}", "vjepa2-{}"]
"""Encoders whose latents depend on later frames of the clip, as their docstrings say."""
CASES = [(name, options) for name in registry.names("encoders") for options in VARIANTS.get(name, [{}])]

pytestmark = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{options}" for name, options in CASES])


@pytest.fixture
def weights(name: str, tiny_weights: Callable[[str], Path]) -> str | None:
    if name == "wavelet":
        return None
    return str(real_data(WEIGHTS[name]) if name in WEIGHTS else tiny_weights(name))


def opened(name: str, options: dict[str, Any], weights: str | None) -> Encoder:
    encoder: Encoder = registry.load("encoders", name).load(weights, options)
    return encoder


def looks_ahead(name: str, options: dict[str, Any]) -> bool:
    return f"{name}-{options}" in LOOK_AHEAD


def clip(encoder: Encoder, num_latents: int, seed: int = 0) -> np.ndarray:
    """Frames of a smooth moving pattern with some noise, of the smallest size that is not square."""
    num_frames = latent_spans(encoder.leading_frames, encoder.temporal_stride, num_latents)[-1][1]
    side = encoder.size_multiple
    time, y, x = np.ogrid[:num_frames, : 2 * side, : 3 * side]
    waves = np.stack([np.sin((x + (color + 1) * time) / 7 + y / (5 + color)) for color in range(3)], axis=-1)
    noise = np.random.default_rng(seed).normal(0, 4, waves.shape)
    return np.clip(127 + 90 * waves + noise, 0, 255).astype(np.uint8)


def test_shapes_follow_from_what_it_states(name: str, options: dict[str, Any], weights: str | None) -> None:
    encoder = opened(name, options, weights)
    assert encoder.name == name
    assert encoder.sampling in {"mean", "sample", "deterministic"}
    assert encoder.normalization
    assert encoder.leading_frames in {1, encoder.temporal_stride}
    assert encoder.size_multiple % encoder.spatial_stride == 0
    for num_latents in (1, 2, 4):
        frames = clip(encoder, num_latents)
        latents = encoder.encode(frames)
        assert latents.dtype == np.float32
        assert np.isfinite(latents).all()
        side = encoder.spatial_stride
        assert latents.shape == (num_latents, encoder.channels, frames.shape[1] // side, frames.shape[2] // side)
        assert num_latent_frames(len(frames), encoder.leading_frames, encoder.temporal_stride) == num_latents
        if encoder.can_decode:
            decoded = encoder.decode(latents)
            assert decoded.dtype == np.uint8
            assert decoded.shape == frames.shape
        else:
            with pytest.raises(LayoutError, match="decode"):
                encoder.decode(latents)


def test_decoding_resembles_what_was_encoded(name: str, options: dict[str, Any], weights: str | None) -> None:
    if name not in TRAINED:
        pytest.skip("its weights are random here")
    encoder = opened(name, options, weights)
    frames = clip(encoder, 2)
    error = encoder.decode(encoder.encode(frames)).astype(np.float64) - frames
    assert np.sqrt(np.mean(error**2)) < 16


def test_equal_frames_give_equal_bytes_and_are_left_as_they_are(
    name: str, options: dict[str, Any], weights: str | None
) -> None:
    one, two = opened(name, options, weights), opened(name, options, weights)
    assert one.fingerprint == two.fingerprint
    frames = clip(one, 3)
    frames.setflags(write=False)
    before = frames.copy()
    first, second = one.encode(frames), two.encode(frames.copy())
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() == one.encode(np.asfortranarray(frames)).tobytes()
    assert np.array_equal(frames, before)
    first.setflags(write=False)
    if one.can_decode:
        assert one.decode(first).tobytes() == two.decode(second).tobytes()


def test_clips_in_a_batch_are_what_they_are_alone(name: str, options: dict[str, Any], weights: str | None) -> None:
    encoder = opened(name, options, weights)
    clips = np.stack([clip(encoder, 3, seed) for seed in range(5)])
    clips[3] = 255 - clips[3]
    together = encoder.encode_clips(clips)
    assert together.dtype == np.float32
    for frames, latents in zip(clips, together, strict=True):
        assert np.allclose(encoder.encode(frames), latents, atol=1e-5)
    backwards = encoder.encode_clips(clips[::-1])[::-1]
    assert np.allclose(backwards, together, atol=1e-5)


def test_a_latent_frame_depends_on_no_later_frame(name: str, options: dict[str, Any], weights: str | None) -> None:
    if looks_ahead(name, options):
        pytest.skip("says that it looks ahead")
    encoder = opened(name, options, weights)
    spans = latent_spans(encoder.leading_frames, encoder.temporal_stride, 4)
    frames = clip(encoder, 4)
    changed = frames.copy()
    changed[spans[2][0] :] = 255 - changed[spans[2][0] :]
    one, two = encoder.encode(frames), encoder.encode(changed)
    assert np.allclose(one[:2], two[:2], atol=1e-4)
    least = 1e-2 if name in TRAINED else 1e-3
    assert not np.allclose(one[2], two[2], atol=least)
    assert not np.allclose(one[3], two[3], atol=least)


def test_a_prefix_equals_the_beginning_of_the_whole(name: str, options: dict[str, Any], weights: str | None) -> None:
    if looks_ahead(name, options):
        pytest.skip("says that it looks ahead")
    encoder = opened(name, options, weights)
    stop = latent_spans(encoder.leading_frames, encoder.temporal_stride, 2)[-1][1]
    frames = clip(encoder, 4)
    assert np.allclose(encoder.encode(frames[:stop]), encoder.encode(frames)[:2], atol=1e-4)


def test_wrong_sizes_and_counts_name_the_nearest_right_ones(
    name: str, options: dict[str, Any], weights: str | None
) -> None:
    encoder = opened(name, options, weights)
    frames = clip(encoder, 2)
    with pytest.raises(LayoutError) as caught:
        encoder.encode(frames[:, :-1])
    assert str(frames.shape[1]) in caught.value.hint
    assert str(frames.shape[1] - encoder.size_multiple) in caught.value.hint
    if encoder.temporal_stride > 1:
        with pytest.raises(LayoutError) as caught:
            encoder.encode(frames[:-1])
        assert str(len(frames)) in caught.value.hint
        assert str(len(frames) - encoder.temporal_stride) in caught.value.hint
    for wrong in (frames[:0], frames[..., :2], frames.astype(np.float32), frames[0]):
        with pytest.raises(LayoutError):
            encoder.encode(wrong)
    latents = encoder.encode(frames)
    for wrong in (latents[:, :-1], latents[0], latents[:0]):
        with pytest.raises(LayoutError):
            encoder.decode(wrong)


def test_unknown_options_are_refused(name: str, options: dict[str, Any], weights: str | None) -> None:
    with pytest.raises(RecipeError, match="option 'nonsense'"):
        registry.load("encoders", name).load(weights, {**options, "nonsense": 1})


def test_weights_that_are_not_there_are_an_error_before_any_work(
    name: str, options: dict[str, Any], weights: str | None
) -> None:
    with pytest.raises(WamloomError) as caught:
        registry.load("encoders", name).load("no/such/folder", options)
    assert "--weights" in caught.value.hint
