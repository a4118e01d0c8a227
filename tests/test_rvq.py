"""The laws of residual codes: the nearest is found whatever the machine, levels only help, few chunks come back exactly."""

import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.tokenizers import rvq
from schemas.errors import LayoutError, RecipeError
from tests.real import real_data


def motions(num_chunks: int = 200, horizon: int = 8, width: int = 3, seed: int = 0) -> np.ndarray:
    """float64 [N, T, A]: random walks of channels with different units."""
    random = np.random.default_rng(seed)
    return np.cumsum(random.normal(size=(num_chunks, horizon, width)), axis=1) * 10.0 ** np.arange(width)


def errors(tokenizer: rvq.ResidualVQ, values: np.ndarray) -> np.ndarray:
    """float64 [N, T, A]: what decoding leaves, in standard deviations."""
    return np.asarray((tokenizer.decode(tokenizer.encode(values), *values.shape[1:]) - values) / tokenizer.scale)


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_the_nearest_code_is_found_and_ties_go_to_the_first(
    num_vectors: int, num_codes: int, num_numbers: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    # Whole numbers meet in exact ties, and far from zero a matrix product alone would lose what tells them apart.
    offset = random.choice([0, 10_000_000])
    vectors = random.integers(-2, 3, (num_vectors, num_numbers)) + float(offset)
    codes = random.integers(-2, 3, (num_codes, num_numbers)) + float(offset)
    distances = np.square(vectors[:, None] - codes).sum(axis=2)
    assert np.array_equal(rvq.nearest(vectors, codes), distances.argmin(axis=1))


@given(st.integers(1, 80), st.integers(1, 4), st.integers(2, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_level_makes_the_fit_worse_and_every_token_sequence_decodes(
    num_chunks: int, num_levels: int, codebook_size: int, seed: int
) -> None:
    values = motions(num_chunks, 4, 2, seed)
    tokenizer = rvq.fit(values, num_levels=num_levels, codebook_size=codebook_size)
    left = [1.0] * (num_levels + 1)
    for level in range(1, num_levels + 1):
        books = tokenizer.books[:level]
        part = rvq.ResidualVQ(codebook_size, 4, books, tokenizer.center, tokenizer.scale, tokenizer.low, tokenizer.high)
        left[level] = float(np.square(errors(part, values)).mean())
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(left))
    random = np.random.default_rng(seed)
    tokens = list(random.integers(0, codebook_size, (9, num_levels)) + codebook_size * np.arange(num_levels))
    decoded = tokenizer.decode(tokens, 4, 2)
    assert np.isfinite(decoded).all()
    if num_levels == 1:
        used = [sequence for sequence in tokens if sequence[0] < len(tokenizer.books[0])]
        again = tokenizer.encode(tokenizer.decode(used, 4, 2))
        assert all(np.array_equal(one, two) for one, two in zip(used, again, strict=True))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_fewer_different_chunks_than_codes_come_back(num_different: int, num_repeats: int, seed: int) -> None:
    different = motions(num_different, 4, 2, seed)
    values = np.tile(different, (num_repeats, 1, 1))
    tokenizer = rvq.fit(values, num_levels=3, codebook_size=16)
    assert [len(codes) for codes in tokenizer.books] == [num_different, 1, 1]
    assert tokenizer.vocab_size == 48, "levels keep their size"
    assert np.abs(errors(tokenizer, values)).max() <= 1e-12 if num_different > 1 else True
    unused = np.array([15, 16 + 15, 32 + 15])
    assert np.array_equal(tokenizer.decode([unused], 4, 2)[0], np.tile(tokenizer.center, (4, 1)))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_constant_channels_come_back_exactly(levels: list[float]) -> None:
    width = len(levels) + 1
    values = np.concatenate([motions(30, 8, 1), np.tile(np.array(levels), (30, 8, 1))], axis=2)
    tokenizer = rvq.fit(values, codebook_size=4)
    assert np.array_equal(tokenizer.decode(tokenizer.encode(values), 8, width)[..., 1:], values[..., 1:])
    alone = rvq.fit(values[..., 1:])
    assert np.array_equal(alone.decode(alone.encode(values[..., 1:]), 8, width - 1), values[..., 1:])


def test_rounding_noise_is_not_motion() -> None:
    values = motions()
    values[..., 1] = np.float32(0.7) + np.random.default_rng(0).normal(0, 5e-8, values.shape[:2])
    tokenizer = rvq.fit(values)
    assert tokenizer.scale[1] == 0
    assert np.abs(tokenizer.decode(tokenizer.encode(values), 8, 3)[..., 1] - 0.7).max() < 1e-6


def test_units_do_not_matter() -> None:
    values = motions()
    one, two = rvq.fit(values, codebook_size=16), rvq.fit(values * [1.0, 2.0**20, 2.0**-20], codebook_size=16)
    assert all(np.array_equal(a, b) for a, b in zip(one.books, two.books, strict=True))


def test_tokens_of_each_level_have_their_own_range() -> None:
    tokenizer = rvq.fit(motions(), num_levels=3, codebook_size=10)
    tokens = np.stack(tokenizer.encode(motions()))
    assert tokenizer.vocab_size == 30
    assert np.array_equal(tokens // 10, np.tile([0, 1, 2], (200, 1)))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.array([0, 16]), "2 tokens"),
        (np.array([[0, 16, 32]]), r"\(1, 3\)"),
        (np.array([0.0, 16.0, 32.0]), "float64"),
        (np.array([0, 16, 48]), "outside"),
        (np.array([-1, 16, 32]), "outside"),
        (np.array([16, 0, 32]), "token 16 is none of level 0"),
        (np.array([0, 16, 16]), "token 16 is none of level 2"),
    ],
)
def test_tokens_that_are_no_chunk_are_refused_naming_it(tokens: np.ndarray, message: str) -> None:
    tokenizer = rvq.fit(motions(), num_levels=3, codebook_size=16)
    with pytest.raises(LayoutError, match=message) as caught:
        tokenizer.decode([np.array([0, 16, 32]), tokens], 8, 3)
    assert caught.value.where == "chunk 1"
    assert caught.value.hint


def test_another_horizon_or_width_is_refused() -> None:
    tokenizer = rvq.fit(motions())
    tokens = tokenizer.encode(motions())
    for horizon, width in ((7, 3), (8, 2)):
        with pytest.raises(LayoutError, match="load the tokenizer of this robot and recipe"):
            tokenizer.decode(tokens, horizon, width)
        with pytest.raises(LayoutError, match="load the tokenizer of this robot and recipe"):
            tokenizer.encode(motions(2, horizon, width))


@pytest.mark.parametrize(
    "options",
    [
        {"num_levels": 0},
        {"num_levels": 65},
        {"num_levels": True},
        {"codebook_size": 1},
        {"codebook_size": 2**20},
        {"codebook_size": 16.0},
        {"seed": -1},
        {"seed": "0"},
    ],
)
def test_impossible_options_are_refused_with_a_hint(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as caught:
        rvq.fit(motions(), **options)
    assert caught.value.hint


def test_what_is_outside_the_range_is_counted_and_gets_the_nearest_code() -> None:
    values = motions()
    tokenizer = rvq.fit(values)
    assert tokenizer.num_clipped(values) == 0
    outside = values[:2].copy()
    outside[0, 3, 1] = 1e9
    outside[1, :, 2] = -1e9
    assert tokenizer.num_clipped(outside) == 9
    assert np.isfinite(tokenizer.decode(tokenizer.encode(outside), 8, 3)).all()
    outside[1, 5, 2] = 1e200
    with pytest.raises(LayoutError, match="chunk 1, step 5, channel 2"):
        tokenizer.encode(outside)
    with pytest.raises(LayoutError, match="normalize"):
        rvq.fit(values * 1e305)


def test_a_code_that_lost_its_chunks_moves_to_where_one_is_missing() -> None:
    # Found by search: with these draws one of five codes is nearest to none after a round, and four would be left.
    plane = [(23, 0), (21, 12), (17, 25), (9, 15), (12, 4), (13, 0), (15, 23), (21, 11), (26, 24), (11, 1), (12, 4)]
    vectors = np.array(plane, dtype=np.float64)
    codes, labels = rvq.kmeans(vectors, 5, np.random.default_rng(1550))
    assert np.array_equal(np.unique(labels), np.arange(5))
    assert np.square(vectors - codes[labels]).sum() < 110


SCRIPT = """
import numpy as np
from pipelines.tokenizers import rvq
chunks = np.cumsum(np.random.default_rng(5).normal(size=(3000, 16, 8)), axis=1)
print(rvq.fit(chunks, num_levels=2, codebook_size=128).fingerprint)
"""


def test_a_fit_is_bit_identical_in_any_process_and_with_any_number_of_threads() -> None:
    root = Path(__file__).resolve().parent.parent
    prints = set()
    for threads in ("1", "2", "3"):
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONHASHSEED": threads,
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        prints.add(done.stdout.strip())
    assert len(prints) == 1
    assert len(prints.pop()) == 64


def test_large_fits_are_drawn_from_and_memory_does_not_grow_with_the_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    values = motions(4000, 8, 3)
    monkeypatch.setattr(rvq, "MAX_FIT", 500)
    one, two = rvq.fit(values, codebook_size=32), rvq.fit(values, codebook_size=32)
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != rvq.fit(values, codebook_size=32, seed=1).fingerprint
    assert one.num_clipped(values) == 0, "the range is that of all"
    codes = np.random.default_rng(0).normal(size=(1024, 24))
    vectors = np.random.default_rng(1).normal(size=(50_000, 24))
    tracemalloc.start()
    rvq.nearest(vectors, codes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6, "all distances at once would be 410 MB"


@pytest.mark.real
def test_real_droid_motion_comes_back_from_four_tokens() -> None:
    episodes = []
    for path in sorted(real_data("droid100_thumbs").glob("*/trajectories/joint_positions.json")):
        rows = np.array(json.loads(path.read_text())["data"])[:, :7]
        chunks = rows[: len(rows) // 15 * 15].reshape(-1, 15, 7)
        episodes.append(chunks - chunks[:, :1])
    seen, unseen = np.concatenate(episodes[:80]), np.concatenate(episodes[80:])
    tokenizer = rvq.fit(seen)
    tokens = tokenizer.encode(unseen)
    assert {len(sequence) for sequence in tokens} == {4}
    error = np.abs(tokenizer.decode(tokens, 15, 7) - unseen)
    assert error.mean() < 0.35 * np.abs(unseen).mean()
