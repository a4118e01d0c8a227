"""The wavelet encoder is an oracle: exact, orthonormal, and one latent frame answers for exactly its own frames."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.encoders.wavelet import SPATIAL_STRIDES, Wavelet, load
from pipelines.windows import latent_of_frame
from schemas.errors import RecipeError


def extreme_frames(seed: int, num_frames: int, height: int, width: int) -> np.ndarray:
    """Noise, black, white and checkerboards: the values that strain the arithmetic most."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    for index, kind in enumerate(random.integers(0, 4, num_frames)):
        if kind == 1:
            frames[index] = random.choice([0, 255])
        elif kind == 2:
            frames[index] = 255 * random.integers(0, 2, frames[index].shape, dtype=np.uint8)
        elif kind == 3:
            frames[index] = 255 * ((np.arange(height)[:, None, None] + np.arange(width)[:, None]) % 2)
    return frames


@given(st.integers(0, 2**32), st.integers(0, 3), st.sampled_from(SPATIAL_STRIDES))
@settings(max_examples=40)
def test_decoding_gives_every_pixel_back(seed: int, groups: int, spatial: int) -> None:
    frames = extreme_frames(seed, 1 + 4 * groups, 2 * spatial, spatial)
    encoder = Wavelet(spatial)
    latents = encoder.encode(frames)
    assert np.array_equal(encoder.decode(latents), frames)
    error = np.abs(encoder.decode(latents.astype(np.float16)).astype(int) - frames)
    assert error.max() <= spatial // 8


@given(st.integers(0, 2**32), st.sampled_from(SPATIAL_STRIDES))
@settings(max_examples=20)
def test_the_basis_is_orthonormal(seed: int, spatial: int) -> None:
    one, two = extreme_frames(seed, 5, spatial, 2 * spatial), extreme_frames(seed + 1, 5, spatial, 2 * spatial)
    encoder = Wavelet(spatial)
    a, b = ((frames[1:].astype(np.float64) - 128) / 128 for frames in (one, two))
    x, y = (encoder.encode(frames)[1:].astype(np.float64) for frames in (one, two))
    assert np.isclose(np.sum(x * y), np.sum(a * b), rtol=1e-12, atol=1e-9)


def test_the_first_channels_are_the_means_and_the_leading_frame_has_no_motion() -> None:
    frames = extreme_frames(1, 9, 16, 24)
    latents = Wavelet().encode(frames)
    blocks = (frames.astype(np.float64) - 128) / 128
    means = blocks[1:5].reshape(4, 2, 8, 3, 8, 3).mean(axis=(0, 2, 4))
    assert np.allclose(latents[1, :3], means.transpose(2, 0, 1) * 16)
    assert not latents[0, 64 * 3 :].any()
    assert latents[1, 64 * 3 :].any()


def test_pixels_that_carry_their_frame_number_find_their_latent_frame() -> None:
    frames = np.full((21, 8, 8, 3), 128, dtype=np.uint8)
    encoder = Wavelet()
    still = encoder.encode(frames)
    for frame in range(len(frames)):
        marked = frames.copy()
        marked[frame] += 1 + frame
        changed = np.flatnonzero((encoder.encode(marked) != still).any(axis=(1, 2, 3)))
        assert changed.tolist() == [latent_of_frame(frame, encoder.leading_frames, encoder.temporal_stride)]


def test_the_settings_are_part_of_the_identity() -> None:
    assert load(None, {}).fingerprint == load(None, {"spatial": 8}).fingerprint
    assert load(None, {}).fingerprint != load(None, {"spatial": 16}).fingerprint
    assert (load(None, {}).channels, load(None, {"spatial": 16}).channels) == (768, 3072)


@pytest.mark.parametrize("spatial", [4, 8.0, "8", True, 0])
def test_other_strides_are_refused(spatial: float | str | bool) -> None:
    with pytest.raises(RecipeError, match="spatial"):
        load(None, {"spatial": spatial})


def test_weights_are_refused() -> None:
    with pytest.raises(RecipeError, match="no weights"):
        load("some/folder", {})
