"""FAST beside a plain reading of the published algorithm, on real recordings and published vocabularies."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.fft import dct, idct
from tokenizers import Tokenizer

from pipelines import byte_pairs
from pipelines.tokenizers import fast
from schemas.errors import LayoutError, RecipeError
from tests.real import real_data

PUBLISHED = ("act_1024", "lerobot_local15d_h50", "universal_fast_plus", "univla_bridge_t5_s50", "univla_calvin_a10_s50")


def published_encode(folder: Path, chunks: np.ndarray) -> list[list[int]]:
    """One chunk after the other, as the published processor does it; it fails on what is out of range."""
    config = json.loads((folder / "processor_config.json").read_text())
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = []
    for chunk in chunks:
        coefficients = np.around(dct(chunk, axis=0, norm="ortho") * config["scale"])
        text = "".join(map(chr, (coefficients.flatten() - config["min_token"]).astype(int)))
        tokens.append(vocabulary.encode(text).ids)
    return tokens


def published_decode(folder: Path, tokens: list[int], horizon: int, width: int) -> np.ndarray:
    config = json.loads((folder / "processor_config.json").read_text())
    text = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(tokens)
    coefficients = np.array(list(map(ord, text))) + config["min_token"]
    decoded: np.ndarray = idct(coefficients.reshape(horizon, width) / config["scale"], axis=0, norm="ortho")
    return decoded


def droid_chunks() -> np.ndarray:
    """float64 [113, 15, 8]: joint velocities and gripper commands of the 7 training episodes of Ctrl-World's DROID at 15 Hz,
    mapped so that their q01..q99 are -1..1 and cut off there (openpi does not cut off: 25.8 tokens then, and 72 chunks)."""
    names = ("action.joint_velocity", "action.gripper_position")
    episodes = []
    for path in sorted((real_data("ctrlworld_droid") / "droid_subset" / "annotation" / "train").glob("*.json")):
        plain = json.loads(path.read_text())
        episodes.append(
            np.concatenate([np.array(plain[name]).reshape(plain["raw_length"], -1) for name in names], axis=1)
        )
    q01, q99 = np.quantile(np.concatenate(episodes), [0.01, 0.99], axis=0)
    normalized = [np.clip((rows - q01) / (q99 - q01) * 2 - 1, -1, 1) for rows in episodes]
    return np.stack([rows[start : start + 15] for rows in normalized for start in range(0, len(rows) - 14, 15)])


def smooth(num_chunks: int = 60, horizon: int = 16, width: int = 3, seed: int = 0) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(0, 0.1, (num_chunks, horizon, width))
    return np.cumsum(steps, axis=1)


def published_folder(folder: Path, **changes: Any) -> Path:
    """A published folder as FAST writes it, made of a vocabulary fitted here; ``changes`` are to its config."""
    tokenizer = fast.fit(smooth(), normalize=False)
    folder.mkdir()
    (folder / "tokenizer.json").write_text(tokenizer.vocabulary.to_str())
    config = {"scale": 10, "min_token": tokenizer.min_token, "vocab_size": tokenizer.vocab_size, **changes}
    (folder / "processor_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.real
def test_the_universal_vocabulary_gives_the_published_tokens_on_real_chunks() -> None:
    folder = real_data("fast_tokenizer") / "universal_fast_plus"
    chunks = droid_chunks()
    tokenizer = fast.load_published(folder)
    tokens = tokenizer.encode(chunks)
    assert [row.tolist() for row in tokens] == published_encode(folder, chunks)
    assert np.mean([len(row) for row in tokens]) == pytest.approx(25.63, abs=0.01)
    assert tokenizer.num_clipped(chunks) == 0
    decoded = tokenizer.decode(tokens, 15, 8)
    assert np.array_equal(decoded, np.stack([published_decode(folder, row.tolist(), 15, 8) for row in tokens]))
    errors = np.abs(decoded - chunks)
    assert (errors <= tokenizer.error_bound(15)).all()
    assert errors.mean() < 0.02


@pytest.mark.real
def test_chunks_below_the_range_of_a_vocabulary_are_told_and_none_is_lost() -> None:
    chunks = droid_chunks()
    tokenizer = fast.load_published(real_data("fast_tokenizer") / "univla_bridge_t5_s50")
    coefficients = np.around(dct(chunks, axis=1, norm="ortho") * 50)
    clipped = tokenizer.clipped(chunks)
    assert np.array_equal(clipped, (coefficients < -112).any(axis=(1, 2)))
    assert (len(chunks), clipped.sum()) == (113, 71)
    assert tokenizer.num_clipped(chunks) == np.count_nonzero(coefficients < -112)
    tokens = tokenizer.encode(chunks)
    assert tokenizer.num_invalid(tokens, 15, 8) == 0
    decoded = tokenizer.decode(tokens, 15, 8)
    assert np.allclose(decoded, idct(np.maximum(coefficients, -112) / 50, axis=1, norm="ortho"), atol=1e-12)
    assert (np.abs(decoded - chunks)[~clipped] <= tokenizer.error_bound(15)).all()


@pytest.mark.real
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_folder_gives_what_its_own_files_give(name: str) -> None:
    folder = real_data("fast_tokenizer") / name
    tokenizer = fast.load_published(folder)
    width = tokenizer.width or 7
    assert width == (15 if name == "lerobot_local15d_h50" else 7)
    chunks = np.clip(smooth(80, 50, width, seed=1), -1, 1)
    chunks[:, :, -1] = np.sign(chunks[:, :, -1])
    clipped = tokenizer.clipped(chunks)
    assert not clipped.all()
    tokens = tokenizer.encode(chunks)
    expected = published_encode(folder, chunks[~clipped])
    assert [row.tolist() for row, out in zip(tokens, clipped, strict=True) if not out] == expected
    decoded = tokenizer.decode(tokens, 50, width)
    assert (np.abs(decoded - chunks)[~clipped] <= tokenizer.error_bound(50)).all()
    again = fast.load(tokenizer.to_json())
    assert again.fingerprint == tokenizer.fingerprint
    assert all(np.array_equal(a, b) for a, b in zip(tokens, again.encode(chunks), strict=True))


@pytest.mark.real
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_number_is_clipped_just_where_the_vocabulary_cannot_spell_it(name: str) -> None:
    folder = real_data("fast_tokenizer") / name
    theirs = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "processor_config.json").read_text())
    tokenizer = fast.load_published(folder)
    symbols = np.concatenate(
        [np.arange(5000), np.arange(5000, byte_pairs.NUM_SYMBOLS, 97), [byte_pairs.NUM_SYMBOLS - 1]]
    )
    spelled = np.array([theirs.decode(theirs.encode(chr(symbol)).ids) == chr(symbol) for symbol in symbols])
    # A chunk of one step is its own transform.
    width = tokenizer.width or 1
    chunks = np.repeat((symbols + config["min_token"]) / config["scale"], width).reshape(-1, 1, width)
    assert np.array_equal(~tokenizer.clipped(chunks), spelled)
    decoded = tokenizer.decode(tokenizer.encode(chunks), 1, width)[:, 0, 0] * config["scale"] - config["min_token"]
    usable = np.flatnonzero([theirs.decode(theirs.encode(chr(s)).ids) == chr(s) for s in range(5000)])
    nearest = np.abs(usable[None, :] - symbols[:, None]).min(axis=1)
    near = symbols < 4000
    assert np.allclose(np.abs(decoded - symbols)[near], nearest[near], atol=1e-6)


def test_values_beyond_every_character_are_clamped_and_counted(tmp_path: Path) -> None:
    tokenizer = fast.load_published(published_folder(tmp_path / "published"))
    chunks = np.array([0.5, 1e4, -1e4, 1e308, -1e308, -np.finfo(float).max]).reshape(-1, 1, 1)
    assert tokenizer.clipped(chunks).tolist() == [False, True, True, True, True, True]
    assert tokenizer.num_clipped(chunks) == 5
    decoded = tokenizer.decode(tokenizer.encode(chunks), 1, 1)[:, 0, 0]
    low, high = tokenizer.min_token / 10, (byte_pairs.NUM_SYMBOLS - 1 + tokenizer.min_token) / 10
    assert np.allclose(decoded, [0.5, high, low, high, low, low])


shapes = st.tuples(st.integers(1, 6), st.integers(2, 40), st.integers(1, 9))
anything = shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-1e6, 1e6, allow_subnormal=False)))


@given(anything, st.sampled_from([0.5, 10.0, 100.0]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_decoding_stays_within_the_stated_error(chunks: np.ndarray, scale: float) -> None:
    _, horizon, width = chunks.shape
    tokenizer = fast.fit(chunks, scale=scale, vocab_size=300)
    tokens = tokenizer.encode(chunks)
    assert all(0 < len(row) <= 3 * horizon * width for row in tokens)
    assert all(0 <= row.min() <= row.max() < tokenizer.vocab_size for row in tokens)
    assert tokenizer.num_invalid(tokens, horizon, width) == 0
    decoded = tokenizer.decode(tokens, horizon, width)
    inside = ~tokenizer.clipped(chunks)
    assert (tokenizer.num_clipped(chunks) == 0) == inside.all()
    rounding = 1e-9 * (tokenizer.spread + np.abs(tokenizer.center)) + 1e-9 * np.abs(chunks).max()
    assert (np.abs(decoded - chunks)[inside] <= tokenizer.error_bound(horizon) + rounding).all()


@given(arrays(np.float64, (5, 16, 4), elements=st.integers(-80, 80).map(lambda number: number / 80)))
@settings(max_examples=100, deadline=None)
def test_ties_are_rounded_as_one_chunk_alone_would_be(chunks: np.ndarray) -> None:
    # A chunk that holds still on such a grid has coefficients just halfway between two numbers.
    chunks[:, 1:, :2] = chunks[:, :1, :2]
    tokenizer = fast.fit(smooth(20, 16, 4), normalize=False)
    expected = []
    for chunk in chunks:
        numbers = np.around(dct(chunk, axis=0, norm="ortho") * 10).flatten() - tokenizer.min_token
        expected.append(tokenizer.vocabulary.encode("".join(map(chr, numbers.astype(int)))).ids)
    assert [row.tolist() for row in tokenizer.encode(chunks)] == expected


def test_any_token_alone_decodes_as_the_library_decodes_it(tmp_path: Path) -> None:
    tokenizer = fast.load_published(published_folder(tmp_path / "published"))
    num_spelled = 0
    for token in range(tokenizer.vocab_size):
        text = tokenizer.vocabulary.decode([token])
        sequence = [np.array([token])]
        if "\ufffd" in text:
            assert tokenizer.num_invalid(sequence, len(text), 1) == 1
        else:
            expected = idct((np.array([*map(ord, text)]) + tokenizer.min_token) / 10, norm="ortho")
            assert np.array_equal(tokenizer.decode(sequence, len(text), 1)[0, :, 0], expected)
            num_spelled += 1
    assert num_spelled > 300


def test_the_saved_vocabulary_is_read_by_the_library() -> None:
    chunks = smooth()
    tokenizer = fast.fit(chunks, normalize=False)
    saved = json.loads(tokenizer.to_json())
    theirs = Tokenizer.from_str(json.dumps(saved["vocabulary"]))
    for chunk, tokens in zip(chunks, tokenizer.encode(chunks), strict=True):
        numbers = np.around(dct(chunk, axis=0, norm="ortho") * saved["scale"]).flatten() - saved["min_token"]
        assert theirs.encode("".join(map(chr, numbers.astype(int)))).ids == tokens.tolist()


def test_equal_values_give_equal_bytes_in_another_process() -> None:
    script = """
import hashlib, numpy as np
from pipelines.tokenizers import fast
steps = np.random.default_rng(3).normal(0, 0.1, (300, 16, 3))
print(hashlib.sha256(fast.fit(np.cumsum(steps, axis=1)).to_json().encode()).hexdigest())
"""
    root = Path(__file__).resolve().parents[1]
    prints = set()
    for seed, threads in (("0", "1"), ("1", "4"), ("2", "2")):
        chosen = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads, "PYTHONPATH": str(root)}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=chosen)
        prints.add(done.stdout)
    assert len(prints) == 1


def test_sequences_that_spell_no_chunk_are_counted_or_refused() -> None:
    chunks = smooth()
    tokenizer = fast.fit(chunks)
    good = tokenizer.encode(chunks)[:3]
    lone = tokenizer.vocabulary.token_to_id(byte_pairs.byte_characters()[0xC5])
    bad: dict[str, np.ndarray] = {
        "short": good[0][:-1],
        "long": np.concatenate([good[0], good[0]]),
        "empty": np.array([], dtype=np.int64),
        "unknown": np.where(np.arange(len(good[0])) == 1, tokenizer.vocab_size, good[0]),
        "negative": np.where(np.arange(len(good[0])) == 1, -1, good[0]),
        "wrapped": np.full(48, 2**64 - 1, dtype=np.uint64),
        "floats": good[0].astype(np.float64),
        "two rows": np.stack([good[0], good[0]]),
        "half a character": np.full(48, lone),
        "endless": np.zeros(10**6, dtype=np.int64),
    }
    assert tokenizer.num_invalid(good, 16, 3) == 0
    for name, sequence in bad.items():
        with pytest.raises(LayoutError, match="chunk 2"):
            tokenizer.decode([*good[:2], sequence, good[2]], 16, 3)
        assert tokenizer.num_invalid([*good, sequence], 16, 3) == 1, name
    assert tokenizer.num_invalid([*good, *bad.values()], 16, 3) == len(bad)
    for horizon, width in ((16, 4), (0, 3)):
        with pytest.raises(LayoutError):
            tokenizer.num_invalid(good, horizon, width)


def test_normalizing_maps_the_ranges_and_comes_back() -> None:
    chunks = smooth() * [1.0, 1e-4, 500.0] + [0.0, 3.0, -2e4]
    tokenizer = fast.fit(chunks)
    low, high = np.quantile(chunks.reshape(-1, 3), [0.01, 0.99], axis=0)
    assert np.allclose(tokenizer.center, (low + high) / 2)
    assert np.allclose(tokenizer.spread, (high - low) / 2)
    plain = fast.fit((chunks - tokenizer.center) / tokenizer.spread, normalize=False)
    assert plain.vocabulary.to_str() == tokenizer.vocabulary.to_str()
    decoded = tokenizer.decode(tokenizer.encode(chunks), 16, 3)
    assert (np.abs(decoded - chunks) <= tokenizer.error_bound(16)).all()


def test_a_published_folder_is_used_as_it_is(tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "published")
    chunks = smooth(seed=5)
    tokenizer = fast.fit(chunks * 0.9, published=str(folder))
    assert tokenizer.width == 3
    assert tokenizer.vocabulary.to_str() == fast.load_published(folder).vocabulary.to_str()
    assert tokenizer.fingerprint == fast.fit(chunks, published=str(folder)).fingerprint
    assert [row.tolist() for row in tokenizer.encode(chunks)] == published_encode(folder, chunks)
    with pytest.raises(RecipeError, match="come from the published folder"):
        fast.fit(chunks, published=str(folder), scale=20.0)
    wide = published_folder(tmp_path / "wide", action_dim=7)
    with pytest.raises(LayoutError, match="7 channels"):
        fast.fit(chunks, published=str(wide))
    with pytest.raises(RecipeError, match="cannot be read"):
        fast.fit(chunks, published=str(tmp_path / "nowhere"))
    (folder / "processor_config.json").unlink()
    with pytest.raises(RecipeError, match="processor_config"):
        fast.load_published(folder)


@pytest.mark.parametrize(
    "options",
    [
        {"vocab_size": 255},
        {"vocab_size": 2**17},
        {"vocab_size": True},
        {"vocab_size": 512.0},
        {"scale": 0},
        {"scale": float("nan")},
        {"scale": 1e9},
        {"scale": "10"},
        {"normalize": 1},
        {"published": 3},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        fast.fit(smooth(), **options)


def test_single_steps_and_none_are_refused() -> None:
    with pytest.raises(LayoutError, match="whole chunks"):
        fast.fit(smooth(60, 1))
    with pytest.raises(LayoutError):
        fast.fit(smooth()).encode(np.zeros((2, 0, 3)))
    with pytest.raises(LayoutError, match="above"):
        fast.fit(np.full((3, 4, 1), 1.7e308))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "nonsense",
        '{"scale": 10}',
        "[" * 100_000,
        '{"scale": NaN, "min_token": -9, "vocab_size": 1024}',
        '{"scale": true, "min_token": -9, "vocab_size": 1024}',
        '{"scale": 10, "min_token": -9.5, "vocab_size": 1024}',
        '{"scale": 10, "min_token": -999999, "vocab_size": 1024}',
        '{"scale": 10, "min_token": -9, "vocab_size": 7}',
        '{"scale": 10, "min_token": -9, "vocab_size": null}',
        '{"scale": 10, "min_token": -9, "vocab_size": 1024, "action_dim": 0}',
        '{"scale": 10, "min_token": -9, "vocab_size": 1024, "action_dim": "7"}',
    ],
    ids=lambda text: text[:70],
)
def test_a_damaged_config_is_refused_with_its_file(text: str, tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "published")
    (folder / "processor_config.json").write_text(text)
    with pytest.raises(LayoutError, match=r"processor_config\.json") as caught:
        fast.load_published(folder)
    assert caught.value.hint


def test_files_that_are_too_large_or_no_text_are_refused(tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "published")
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(fast.MAX_FILE_BYTES + 1)
    with pytest.raises(LayoutError, match=str(fast.MAX_FILE_BYTES)):
        fast.load_published(folder)
    (folder / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(LayoutError, match="no JSON"):
        fast.load_published(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(LayoutError, match="no file"):
        fast.load_published(folder)
    shutil.rmtree(folder)
    with pytest.raises(RecipeError):
        fast.load_published(folder)


def test_a_damaged_vocabulary_is_refused_with_its_file(tmp_path: Path) -> None:
    folder = published_folder(tmp_path / "published")
    path = folder / "tokenizer.json"
    plain = json.loads(path.read_text())
    plain["pre_tokenizer"] = {"type": "Metaspace"}
    path.write_text(json.dumps(plain))
    with pytest.raises(LayoutError) as caught:
        fast.load_published(folder)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("part", "key", "change"),
    [
        ("pre_tokenizer", "use_regex", lambda _: 1),
        ("model", "merges", lambda merges: [*merges, merges[0]]),
        ("model", "merges", lambda merges: dict.fromkeys(" ".join(pair) for pair in merges)),
        ("model", "merges", lambda merges: merges * (byte_pairs.MAX_MERGES // len(merges) + 1)),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(
    part: str, key: str, change: Callable[[Any], Any], tmp_path: Path
) -> None:
    folder = published_folder(tmp_path / "published")
    path = folder / "tokenizer.json"
    plain = json.loads(path.read_text())
    assert plain["model"]["merges"]
    plain[part][key] = change(plain[part][key])
    path.write_text(json.dumps(plain))
    with pytest.raises(LayoutError) as caught:
        fast.load_published(folder)
    assert caught.value.where == str(path)
    assert caught.value.hint
