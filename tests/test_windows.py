"""Laws of windows: spans tile, the map to latent frames has an inverse, nothing is left out without being named."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.windows import (
    clip_frames,
    is_clip_length,
    latent_of_frame,
    latent_spans,
    nearest_clip_lengths,
    num_latent_frames,
    sample_windows,
    uncovered,
    window_lengths,
)
from schemas.errors import LayoutError, RecipeError
from schemas.recipes import ClipRecipe

encoders = st.sampled_from([(1, 4), (1, 8), (1, 1), (4, 4), (2, 2)])
"""(leading frames, temporal stride): Wan, LTX, per frame, and two that are not causal."""


@given(encoders, st.integers(1, 40))
def test_latent_spans_tile_and_the_map_back_is_their_inverse(encoder: tuple[int, int], num_latents: int) -> None:
    leading, stride = encoder
    spans = latent_spans(leading, stride, num_latents)
    assert len(spans) == num_latents
    assert spans[0] == (0, leading)
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    assert num_latent_frames(spans[-1][1], leading, stride) == num_latents
    for latent, (start, stop) in enumerate(spans):
        assert [latent_of_frame(frame, leading, stride) for frame in range(start, stop)] == [latent] * (stop - start)


def test_the_published_facts_of_causal_encoders() -> None:
    assert [num_latent_frames(frames, 1, 4) for frames in (1, 5, 17, 33, 81)] == [1, 2, 5, 9, 21]
    assert latent_spans(1, 4, 3) == [(0, 1), (1, 5), (5, 9)]
    assert latent_spans(1, 4, 0) == []
    with pytest.raises(ValueError, match="no frame"):
        latent_of_frame(-1, 1, 4)


@given(encoders, st.integers(0, 200))
def test_the_nearest_lengths_are_right_and_nearest(encoder: tuple[int, int], num_frames: int) -> None:
    near = nearest_clip_lengths(num_frames, *encoder)
    assert all(is_clip_length(length, *encoder) for length in near)
    if is_clip_length(num_frames, *encoder):
        assert near == [num_frames]
        return
    assert not any(is_clip_length(length, *encoder) for length in range(min(num_frames, near[0]) + 1, near[-1]))
    with pytest.raises(LayoutError) as caught:
        num_latent_frames(num_frames, *encoder)
    assert all(str(length) in caught.value.hint for length in near)


@given(encoders, st.integers(0, 300))
def test_a_whole_clip_leaves_less_than_one_latent_frame(encoder: tuple[int, int], num_frames: int) -> None:
    leading, stride = encoder
    clips = clip_frames(num_frames, leading, stride, ClipRecipe(kind="whole"))
    missing = uncovered(num_frames, clips)
    if num_frames < leading:
        assert clips == []
        assert missing == ([(0, num_frames)] if num_frames else [])
        return
    assert len(clips) == 1
    assert clips[0][0] == 0
    assert is_clip_length(clips[0][1], leading, stride)
    assert sum(stop - start for start, stop in missing) < stride
    assert all(start >= clips[0][1] for start, _ in missing)


@given(encoders, st.integers(0, 300), st.integers(0, 8), st.one_of(st.none(), st.integers(1, 60)))
def test_fixed_clips_cover_everything_they_can(
    encoder: tuple[int, int], num_frames: int, more: int, stride: int | None
) -> None:
    leading, temporal = encoder
    length = leading + temporal * more
    clips = clip_frames(num_frames, leading, temporal, ClipRecipe(kind="fixed", num_frames=length, stride=stride))
    if num_frames < length:
        assert clips == []
        return
    assert all(stop - start == length and start >= 0 for start, stop in clips)
    assert clips[0][0] == 0
    assert clips[-1][1] == num_frames
    assert clips == sorted(set(clips))
    if stride is None or stride <= length:
        assert uncovered(num_frames, clips) == []


def test_a_clip_length_the_encoder_cannot_take_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        clip_frames(100, 1, 4, ClipRecipe(kind="fixed", num_frames=16))
    assert "13 or 17" in caught.value.hint


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=5))
def test_uncovered_is_the_complement(num_frames: int, pairs: list[tuple[int, int]]) -> None:
    clips = [(min(pair), max(pair)) for pair in pairs if max(pair) <= num_frames]
    covered = {frame for start, stop in clips for frame in range(start, stop)}
    runs = uncovered(num_frames, clips)
    assert {frame for start, stop in runs for frame in range(start, stop)} == set(range(num_frames)) - covered
    assert all(before[1] < after[0] for before, after in pairwise(runs))


@given(st.integers(0, 300), st.integers(1, 40), st.one_of(st.none(), st.integers(1, 60)))
def test_sample_windows_cover_every_step_with_at_most_one_partial(
    num_steps: int, horizon: int, stride: int | None
) -> None:
    starts = sample_windows(num_steps, horizon, stride)
    lengths = window_lengths(starts, num_steps, horizon)
    assert starts.dtype == np.int64
    assert ((lengths > 0) & (lengths <= horizon)).all()
    assert (lengths[:-1] == horizon).all() or (stride is not None and stride > horizon)
    assert np.array_equal(starts, np.arange(len(starts)) * (stride or horizon))
    covered = {step for start, length in zip(starts, lengths, strict=True) for step in range(start, start + length)}
    if stride is None or stride <= horizon:
        assert covered == set(range(num_steps))
        assert lengths.sum() == num_steps or stride is not None
    assert len(starts) == len(set(starts.tolist())) >= min(1, num_steps)


def test_sample_windows_by_example() -> None:
    assert sample_windows(10, 4).tolist() == [0, 4, 8]
    assert window_lengths(sample_windows(10, 4), 10, 4).tolist() == [4, 4, 2]
    assert sample_windows(10, 4, 1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert sample_windows(3, 16, 1).tolist() == [0]
    assert sample_windows(10, 2, 5).tolist() == [0, 5]
    with pytest.raises(RecipeError):
        sample_windows(10, 0)
