"""What every text encoder promises; a new member is under test by being there. Models are tiny, with random weights."""

from typing import Any

import numpy as np
import pytest

from pipelines import registry
from pipelines.text_encoders import TextEncoder
from schemas.errors import RecipeError, WamloomError
from tests.text_models import write_model

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "clip": [{}, {"output": "pooled"}, {"output": "projected"}, {"padding": "zero"}],
    "hashed": [{}, {"length": 5, "width": 3}],
    "sentence": [{}, {"pooling": "tokens", "length": 8}, {"pooling": "first", "normalize": False}],
    "umt5": [{"length": 16}, {"length": 7, "padding": "kept"}],
}
CASES = [
    (name, options) for name in registry.names("text_encoders") for options in VARIANTS.get(name, [{"length": 12}])
]
PROMPTS = [
    "pick up the red cup",
    "",
    "put it down on a table",
    "Robot video of the red cup and a table recorded from point view",
]

pytestmark = pytest.mark.parametrize(("name", "options"), CASES, ids=[f"{name}-{options}" for name, options in CASES])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    root = tmp_path_factory.mktemp("weights")
    made: dict[str, str | None] = {"hashed": None}
    for name in registry.names("text_encoders"):
        if name not in made:
            write_model(root / name, name)
            made[name] = str(root / name)
    return made


def opened(name: str, options: dict[str, Any], weights: dict[str, str | None]) -> TextEncoder:
    encoder: TextEncoder = registry.load("text_encoders", name).load(weights[name], options)
    return encoder


def test_shapes_follow_from_what_it_states(name: str, options: dict[str, Any], weights: dict[str, str | None]) -> None:
    encoder = opened(name, options, weights)
    values, mask = encoder.encode(PROMPTS)
    assert encoder.name == name
    assert (values.dtype, values.shape) == (np.float32, (len(PROMPTS), encoder.length, encoder.width))
    assert (mask.dtype, mask.shape) == (np.bool_, (len(PROMPTS), encoder.length))
    assert np.isfinite(values).all()
    assert mask[:, 0].all(), "a prompt has at least its end mark, the empty one too"
    assert not np.any(np.diff(mask.astype(int), axis=1) > 0), "padding is on the right"
    if options.get("padding", "kept" if name == "clip" else "zero") == "zero":
        assert not values[~mask].any()
    none, nothing = encoder.encode([])
    assert (none.shape, nothing.shape) == ((0, encoder.length, encoder.width), (0, encoder.length))


def test_a_prompt_does_not_depend_on_its_batch(
    name: str, options: dict[str, Any], weights: dict[str, str | None]
) -> None:
    encoder = opened(name, options, weights)
    values, mask = encoder.encode(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        one, seen = encoder.encode([prompt])
        assert np.allclose(one[0], values[number], atol=1e-5)
        assert np.array_equal(seen[0], mask[number])
    other = opened(name, options if name == "hashed" else {**options, "batch": 1}, weights)
    assert other.fingerprint == encoder.fingerprint
    assert np.allclose(other.encode(PROMPTS)[0], values, atol=1e-5)
    assert encoder.encode(PROMPTS)[0].tobytes() == values.tobytes()


def test_other_prompts_give_other_numbers(name: str, options: dict[str, Any], weights: dict[str, str | None]) -> None:
    values, _ = opened(name, options, weights).encode(PROMPTS)
    for one in range(len(PROMPTS)):
        for two in range(one):
            assert not np.allclose(values[one], values[two], atol=1e-3)


def test_unknown_options_are_refused(name: str, options: dict[str, Any], weights: dict[str, str | None]) -> None:
    with pytest.raises(RecipeError, match="option 'nonsense'"):
        opened(name, {**options, "nonsense": 1}, weights)
    for wrong in (0, "many", True, 2.0):
        with pytest.raises(RecipeError, match="length"):
            opened(name, {**options, "length": wrong}, weights)


def test_weights_that_are_not_there_are_an_error_before_any_work(
    name: str, options: dict[str, Any], weights: dict[str, str | None]
) -> None:
    with pytest.raises(WamloomError) as caught:
        registry.load("text_encoders", name).load("no/such/folder/here", options)
    assert "--weights" in caught.value.hint
