"""What every tokenizer promises; a new member is under test by being there."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import registry
from pipelines.tokenizers import Tokenizer, bins, is_continuous
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError, WamloomError
from tests.real import real_data

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "beast": [{}, {"num_basis": 5, "num_bins": 1024}, {"num_basis": 4, "degree": 2, "num_bins": 64, "stepped": "none"}],
    "bins": [{}, {"num_bins": 64, "kind": "uniform"}, {"num_bins": 2, "kind": "quantile"}],
    "fast": [{}, {"vocab_size": 256, "scale": 50}, {"vocab_size": 2048, "scale": 2.5}],
    "rvq": [{}, {"num_levels": 2, "codebook_size": 8}, {"num_levels": 8, "codebook_size": 3, "seed": 7}],
}
CASES = [(name, options) for name in registry.names("tokenizers") for options in VARIANTS.get(name, [{}])]
every_tokenizer = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=[f"{name}-{options}" for name, options in CASES]
)


def chunks(num_chunks: int = 40, horizon: int = 8, seed: int = 0) -> np.ndarray:
    """float64 [N, T, 5] as robots give them: smooth motions of different size, a gripper, a channel that never moves."""
    random = np.random.default_rng(seed)
    walk = np.cumsum(random.normal(0, [1.0, 0.01, 300.0], (num_chunks, horizon, 3)), axis=1)
    gripper = (random.random((num_chunks, 1, 1)) < 0.3) * np.ones((1, horizon, 1))
    return np.concatenate([walk, gripper, np.full((num_chunks, horizon, 1), 0.7)], axis=2)


def fitted(name: str, options: dict[str, Any], values: np.ndarray, mask: np.ndarray | None = None) -> Tokenizer:
    tokenizer: Tokenizer = registry.load("tokenizers", name).fit(values, mask, **options)
    return tokenizer


@every_tokenizer
def test_tokens_lie_in_the_vocabulary_and_decode_to_the_shape(name: str, options: dict[str, Any]) -> None:
    values = chunks()
    tokenizer = fitted(name, options, values)
    assert tokenizer.name == name
    assert tokenizer.continuous == is_continuous(name)
    tokens = tokenizer.encode(values)
    assert len(tokens) == len(values)
    for sequence in tokens:
        assert sequence.ndim == 1
        if tokenizer.continuous:
            assert sequence.dtype == np.float64
            assert tokenizer.vocab_size == 0
        else:
            assert sequence.dtype == np.int64
            assert 0 <= sequence.min() <= sequence.max() < tokenizer.vocab_size
    decoded = tokenizer.decode(tokens, 8, 5)
    assert decoded.shape == values.shape
    assert decoded.dtype == np.float64
    assert np.isfinite(decoded).all()
    assert tokenizer.encode(values[:0]) == []
    assert tokenizer.decode([], 8, 5).shape == (0, 8, 5)
    assert tokenizer.num_clipped(values) == 0


@every_tokenizer
def test_decoding_explains_most_of_the_motion(name: str, options: dict[str, Any]) -> None:
    values = chunks()
    tokenizer = fitted(name, options, values)
    error = tokenizer.decode(tokenizer.encode(values), 8, 5) - values
    assert (np.square(error).mean(axis=(0, 1)) <= 0.5 * values.var(axis=(0, 1)) + 1e-18).all()


@every_tokenizer
def test_chunks_do_not_depend_on_their_company(name: str, options: dict[str, Any]) -> None:
    values = chunks()
    tokenizer = fitted(name, options, values)
    tokens = tokenizer.encode(values)
    alone = [tokenizer.encode(values[index : index + 1])[0] for index in range(len(values))]
    assert all(np.array_equal(one, two) for one, two in zip(tokens, alone, strict=True))
    assert np.array_equal(tokenizer.decode(tokens, 8, 5)[3:4], tokenizer.decode(tokens[3:4], 8, 5))


@every_tokenizer
def test_json_reads_back_to_an_equal_tokenizer(name: str, options: dict[str, Any]) -> None:
    values = chunks()
    one = fitted(name, options, values)
    text = one.to_json()
    json.loads(text)
    two = registry.load("tokenizers", name).load(text)
    assert two.fingerprint == one.fingerprint
    assert two.vocab_size == one.vocab_size
    assert two.to_json() == text
    tokens = one.encode(values)
    assert all(np.array_equal(a, b) for a, b in zip(tokens, two.encode(values), strict=True))
    assert one.decode(tokens, 8, 5).tobytes() == two.decode(tokens, 8, 5).tobytes()


@every_tokenizer
def test_equal_fits_have_equal_fingerprints_and_others_do_not(name: str, options: dict[str, Any]) -> None:
    values = chunks()
    assert fitted(name, options, values).fingerprint == fitted(name, options, values.copy()).fingerprint
    if not fitted(name, options, values).continuous:  # which has nothing to fit
        assert fitted(name, options, values).fingerprint != fitted(name, options, values * 2).fingerprint


@every_tokenizer
def test_masked_steps_are_never_used_in_a_fit(name: str, options: dict[str, Any]) -> None:
    values = chunks()
    mask = np.random.default_rng(1).random(values.shape[:2]) < 0.7
    other = values.copy()
    other[~mask] = 1e9
    holes = values.copy()
    holes[~mask] = np.nan
    prints = {fitted(name, options, array, mask).fingerprint for array in (values, other, holes)}
    assert len(prints) == 1
    unmasked = fitted(name, options, other)
    assert unmasked.continuous or unmasked.fingerprint not in prints


@every_tokenizer
def test_what_cannot_be_encoded_is_refused(name: str, options: dict[str, Any]) -> None:
    values = chunks()
    tokenizer = fitted(name, options, values)
    holes = values.copy()
    holes[2, 3, 1] = np.nan
    with pytest.raises(LayoutError):
        tokenizer.encode(holes)
    with pytest.raises(LayoutError):
        tokenizer.num_clipped(holes)
    with pytest.raises(LayoutError):
        fitted(name, options, holes)
    with pytest.raises(LayoutError):
        tokenizer.encode(values[..., :-1])
    with pytest.raises(LayoutError):
        fitted(name, options, values, np.zeros(values.shape[:2], dtype=bool))
    with pytest.raises(RecipeError):
        fitted(name, {**options, "nonsense": 1}, values)
    with pytest.raises(LayoutError):
        tokenizer.decode([np.array([tokenizer.vocab_size] * 40)], 8, 5)
    with pytest.raises(LayoutError):
        tokenizer.decode([np.array([-1] * 40)], 8, 5)


@every_tokenizer
def test_foreign_text_is_refused(name: str, options: dict[str, Any]) -> None:
    module = registry.load("tokenizers", name)
    for text in ("", "{}", "[1]", '{"name": "something else"}'):
        with pytest.raises(LayoutError):
            module.load(text)


finite = st.floats(-1e6, 1e6, allow_subnormal=False) | st.sampled_from([0.0, 1.0])


@given(st.lists(finite, min_size=1, max_size=80), st.sampled_from(bins.KINDS), st.integers(2, 40))
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_bins_stay_within_their_stated_error(numbers: list[float], kind: str, num_bins: int) -> None:
    values = np.array(numbers).reshape(1, -1, 1)
    tokenizer = bins.fit(values, num_bins=num_bins, kind=kind)
    decoded = tokenizer.decode(tokenizer.encode(values), len(numbers), 1)
    span = values.max() - values.min()
    rounding = 1e-12 * np.abs(values).max()
    assert (np.abs(decoded - values) <= tokenizer.error_bound + rounding).all()
    if kind == "uniform":
        assert tokenizer.error_bound[0] <= span / num_bins / 2 + rounding
    assert tokenizer.num_clipped(values) == 0
    assert (np.diff(tokenizer.edges) >= 0).all()
    assert ((tokenizer.centers >= tokenizer.edges[:, :-1]) & (tokenizer.centers <= tokenizer.edges[:, 1:])).all()
    again = tokenizer.decode(tokenizer.encode(decoded), len(numbers), 1)
    assert np.array_equal(again, decoded), "what was decoded once encodes to itself"


def test_bins_clip_what_is_outside_and_count_it() -> None:
    tokenizer = bins.fit(np.linspace(0, 1, 101).reshape(1, 101, 1), num_bins=10, kind="uniform")
    outside = np.array([-5.0, 0.0, 0.5, 1.0, 1.5, 9.0]).reshape(1, 6, 1)
    assert tokenizer.num_clipped(outside) == 3
    assert tokenizer.encode(outside)[0].tolist() == [0, 0, 5, 9, 9, 9]
    assert np.allclose(tokenizer.decode(tokenizer.encode(outside), 6, 1)[0, :, 0], [0.05, 0.05, 0.55, 0.95, 0.95, 0.95])


def test_bins_run_step_by_step() -> None:
    values = np.arange(12.0).reshape(1, 4, 3)
    tokenizer = bins.fit(values, num_bins=4, kind="uniform")
    assert tokenizer.encode(values)[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_quantile_bins_give_discrete_channels_back_exactly() -> None:
    values = np.repeat([0.0, 0.0, 0.0, 1.0, 0.25], 40).reshape(5, 40, 1)
    tokenizer = bins.fit(values)
    assert np.array_equal(tokenizer.decode(tokenizer.encode(values), 40, 1), values)


def test_a_frequent_value_takes_one_bin_and_no_more() -> None:
    # 99 % of the time the gripper stays open; plain quantiles would put all edges but two there.
    values = np.concatenate([np.zeros(100_000), np.linspace(0.2, 1, 1000)]).reshape(1, -1, 1)
    tokenizer = bins.fit(values)
    decoded = tokenizer.decode(tokenizer.encode(values), values.shape[1], 1)
    assert np.abs(decoded - values).max() < 0.8 / 250
    twice = np.concatenate([np.zeros(100_000), np.ones(3)]).reshape(1, -1, 1)
    tokenizer = bins.fit(twice)
    assert np.array_equal(tokenizer.decode(tokenizer.encode(twice), twice.shape[1], 1), twice)


def _changed(value: Any) -> Iterator[Any]:
    """``value`` with one thing changed at a time, as deep as it goes; of a list its first and its last item."""
    yield from (other for other in (None, "ab", 5, 4.5, [], {}, [[1.0]]) if type(other) is not type(value))
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, -1 - value, value + 0.5, str(value), 10**400)
    elif isinstance(value, float):
        yield from (value + max(1e-9, abs(value) * 1e-9), value + 1e9, -1 - value, math.inf, math.nan, 10**400)
    elif isinstance(value, str):
        yield from (value + " ", "")
    elif isinstance(value, list) and value:
        yield from ([], value[:-1], [*value, value[-1]], value[0])
        for index in {0, len(value) - 1}:
            yield from ([*value[:index], other, *value[index + 1 :]] for other in _changed(value[index]))
    elif isinstance(value, dict):
        for key in list(value)[:12]:
            yield {other: value[other] for other in value if other != key}
            yield from ({**value, key: other} for other in _changed(value[key]))


@every_tokenizer
def test_what_was_changed_after_it_was_saved_never_loads_as_another_tokenizer(
    name: str, options: dict[str, Any]
) -> None:
    load = registry.load("tokenizers", name).load
    text = fitted(name, options, chunks()).to_json()
    refusals: list[WamloomError] = []
    for changed in _changed(json.loads(text)):
        try:
            same = load(json.dumps(changed))
        except (LayoutError, FingerprintMismatch) as error:
            refusals.append(error)
        else:  # what tells nothing, such as the version of a format within
            assert same.to_json() == text
    assert all(error.hint for error in refusals)
    assert {type(error) for error in refusals} == {LayoutError, FingerprintMismatch}


@every_tokenizer
def test_every_key_of_what_was_saved_counts(name: str, options: dict[str, Any]) -> None:
    load = registry.load("tokenizers", name).load
    saved = json.loads(fitted(name, options, chunks()).to_json())
    for key in saved:
        with pytest.raises(LayoutError) as caught:
            load(json.dumps({other: saved[other] for other in saved if other != key}))
        assert caught.value.hint


@pytest.mark.parametrize("value", ["[" * 5000 + "]" * 5000, "9" * 400, "NaN", '{"a": 1}', '"\\ud800"', "[[1], [1, 2]]"])
@pytest.mark.parametrize("name", registry.names("tokenizers"))
def test_no_text_at_all_upsets_loading(name: str, value: str) -> None:
    load = registry.load("tokenizers", name).load
    saved = fitted(name, {}, chunks()).to_json()
    changed = [f'{saved[:-1]}, "{key}": {value}}}' for key in json.loads(saved)]  # of two equal keys the last counts
    for text in (value, *changed):
        with pytest.raises((LayoutError, FingerprintMismatch)) as caught:
            load(text)
        assert caught.value.hint


@pytest.mark.parametrize("options", [{"num_bins": 1}, {"num_bins": 2**20}, {"num_bins": True}, {"kind": "log"}])
def test_impossible_bins_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        bins.fit(chunks(), **options)


@pytest.mark.real
def test_real_droid_chunks_come_back_within_millimeters() -> None:
    episodes = []
    for folder in sorted(path for path in real_data("droid100_thumbs").iterdir() if path.is_dir()):
        plain = json.loads((folder / "trajectories" / "cartesian_position__trajectory.json").read_text())
        rows = np.array(plain["data"])[:, :3]
        episodes += [rows[start : start + 15] for start in range(0, len(rows) - 14, 15)]
    values = np.stack(episodes)
    errors = {}
    for kind in bins.KINDS:
        tokenizer = bins.fit(values, num_bins=256, kind=kind)
        decoded = tokenizer.decode(tokenizer.encode(values), 15, 3)
        errors[kind] = np.abs(decoded - values).mean()
    assert errors["uniform"] < 2.5e-3
    assert errors["quantile"] < errors["uniform"], "bins follow the data"
