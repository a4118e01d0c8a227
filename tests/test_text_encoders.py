"""Text encoders against the transformers library called by hand, and against weights and vocabularies that are wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from pipelines.text_encoders import clip, hashed, sentence, t5, umt5
from pipelines.text_models import clean_as_wan
from schemas.errors import FingerprintMismatch, LayoutError, MissingFile, RecipeError
from tests.text_models import write_model

PROMPTS = ["pick up the red cup", "", "put it down on a table and put the cup on it"]
END = [239, 157, 186]
"""Bytes of the end mark in the first place, by SHAKE-128."""
LOADS = {"umt5": umt5.load, "t5": t5.load, "clip": clip.load, "sentence": sentence.load}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    root = tmp_path_factory.mktemp("models")
    return {name: (root / name, write_model(root / name, name)) for name in LOADS}


def tokens(folder: Path, prompts: list[str], length: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask as a padding tokenizer makes them."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=length)
    tokenizer.enable_padding(length=length, pad_id=pad_id)
    found = tokenizer.encode_batch(prompts)
    return torch.tensor([one.ids for one in found]), torch.tensor([one.attention_mask for one in found])


@pytest.mark.parametrize("name", ["umt5", "t5"])
@pytest.mark.parametrize("length", [16, 6])
def test_t5_equals_the_library_and_is_zero_beyond_the_prompt(
    models: dict[str, tuple[Path, Any]], name: str, length: int
) -> None:
    folder, model = models[name]
    values, mask = LOADS[name](str(folder), {"length": length, "batch": 2}).encode(PROMPTS)
    ids, seen = tokens(folder, PROMPTS, length, 0)
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=seen).last_hidden_state.numpy()
    assert np.array_equal(mask, seen.numpy().astype(bool))
    assert np.abs(values - expected * seen.numpy()[..., None]).max() < 1e-5
    assert mask[1].sum() == 1, "the empty prompt is its end mark"
    assert mask[2].sum() == min(length, 13), "a longer prompt is cut, and keeps its end mark"
    assert ids[2, mask[2].sum() - 1] == ids[1, 0]


def test_clip_equals_the_library_in_all_places_and_vectors(models: dict[str, tuple[Path, Any]]) -> None:
    folder, model = models["clip"]
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    ids, seen = tokens(folder, PROMPTS, 77, size - 1)
    with torch.inference_mode():
        projected = model(input_ids=ids)
    states = projected.last_hidden_state.numpy()
    values, mask = clip.load(str(folder), {}).encode(PROMPTS)
    assert np.abs(values - states).max() < 1e-5
    assert np.array_equal(mask, seen.numpy().astype(bool))
    ends = seen.numpy().sum(1) - 1
    pooled, one = clip.load(str(folder), {"output": "pooled"}).encode(PROMPTS)
    assert np.abs(pooled[:, 0] - states[np.arange(len(PROMPTS)), ends]).max() < 1e-5
    assert one.all()
    given, _ = clip.load(str(folder), {"output": "projected"}).encode(PROMPTS)
    assert given.shape == (len(PROMPTS), 1, 12)
    assert np.abs(given[:, 0] - projected.text_embeds.numpy()).max() < 1e-5
    zeroed, _ = clip.load(str(folder), {"padding": "zero"}).encode(PROMPTS)
    assert np.abs(zeroed - states * seen.numpy()[..., None]).max() < 1e-5


def test_a_sentence_is_the_mean_of_its_tokens_at_length_one(models: dict[str, tuple[Path, Any]]) -> None:
    folder, model = models["sentence"]
    ids, seen = tokens(folder, PROMPTS, 256, 0)
    with torch.inference_mode():
        states = model(input_ids=ids, attention_mask=seen).last_hidden_state.numpy()
    weight = seen.numpy()[..., None]
    mean = (states * weight).sum(1) / weight.sum(1)
    values, _ = sentence.load(str(folder), {}).encode(PROMPTS)
    assert np.abs(values[:, 0] - mean / np.linalg.norm(mean, axis=1, keepdims=True)).max() < 1e-5
    raw, _ = sentence.load(str(folder), {"normalize": False}).encode(PROMPTS)
    assert np.abs(raw[:, 0] - mean).max() < 1e-5
    every, mask = sentence.load(str(folder), {"pooling": "tokens", "normalize": False}).encode(PROMPTS)
    assert np.abs(every - states * weight).max() < 1e-5
    assert np.array_equal(mask, seen.numpy().astype(bool))


def test_what_changes_numbers_changes_the_fingerprint(models: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder = models["umt5"][0]
    plain = umt5.load(str(folder), {})
    for same in ({"length": 64}, {"batch": 3}, {"threads": 2}, {"device": "cpu"}):
        assert umt5.load(str(folder), same).fingerprint == plain.fingerprint
    for other in ({"dtype": "bfloat16"}, {"clean": "none"}, {"padding": "kept"}):
        assert umt5.load(str(folder), other).fingerprint != plain.fingerprint
    vectors = models["sentence"][0]
    assert sentence.load(str(vectors), {"length": 9}).fingerprint != sentence.load(str(vectors), {}).fingerprint
    write_model(tmp_path / "other", "umt5", seed=1)
    assert umt5.load(str(tmp_path / "other"), {}).fingerprint != plain.fingerprint
    shutil.copytree(folder, tmp_path / "words")
    words = (tmp_path / "words/tokenizer.json").read_text()
    (tmp_path / "words/tokenizer.json").write_text(words.replace('"cup"', '"mug"'))
    assert umt5.load(str(tmp_path / "words"), {}).fingerprint != plain.fingerprint
    assert hashed.load(None, {"width": 8}).fingerprint != hashed.load(None, {}).fingerprint


def test_computing_in_bfloat16_is_near(models: dict[str, tuple[Path, Any]]) -> None:
    folder = models["umt5"][0]
    exact, _ = umt5.load(str(folder), {"length": 16}).encode(PROMPTS)
    near, _ = umt5.load(str(folder), {"length": 16, "dtype": "bfloat16"}).encode(PROMPTS)
    assert 0 < np.abs(near - exact).max() < 0.1 * np.abs(exact).max()


def test_threads_are_put_back(models: dict[str, tuple[Path, Any]]) -> None:
    before = torch.get_num_threads()
    t5.load(str(models["t5"][0]), {"threads": 2}).encode(PROMPTS)
    assert torch.get_num_threads() == before


def test_folders_of_pipelines_are_found(models: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder = models["umt5"][0]
    shutil.copytree(folder, tmp_path / "repo/text_encoder")
    (tmp_path / "repo/tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "repo/text_encoder" / name).rename(tmp_path / "repo/tokenizer" / name)
    expected = umt5.load(str(folder), {}).fingerprint
    for place in ("repo", "repo/text_encoder"):
        assert umt5.load(str(tmp_path / place), {}).fingerprint == expected
    (tmp_path / "repo/tokenizer").rename(tmp_path / "words")
    with pytest.raises(MissingFile, match=r"(?s)no tokenizer.json.*option tokenizer"):
        umt5.load(str(tmp_path / "repo"), {})
    assert umt5.load(str(tmp_path / "repo"), {"tokenizer": str(tmp_path / "words")}).fingerprint == expected


def spoilt(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_weights_of_something_else_are_refused(models: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="of the type 't5', not umt5"):
        umt5.load(str(models["t5"][0]), {})
    with pytest.raises(MissingFile, match=r"(?s)needs weights.*--weights"):
        t5.load(None, {})
    with pytest.raises(FingerprintMismatch, match="not 00"):
        t5.load(str(models["t5"][0]), {"sha256": "00"})
    with pytest.raises(RecipeError, match="the model takes 77"):
        clip.load(str(models["clip"][0]), {"length": 78})
    with pytest.raises(RecipeError, match="no device 'gpu'"):
        t5.load(str(models["t5"][0]), {"device": "gpu"})
    with pytest.raises(RecipeError, match="leaves no room"):
        t5.load(str(models["t5"][0]), {"length": 1})

    code = spoilt(models["sentence"][0], tmp_path / "code")
    config = json.loads((code / "config.json").read_text())
    own = {**config, "model_type": "of_its_own", "auto_map": {"AutoModel": "code.Model"}}
    (code / "config.json").write_text(json.dumps(own))
    with pytest.raises(LayoutError, match="of the type 'of_its_own'"):
        sentence.load(str(code), {})


def test_torn_weights_and_vocabularies_name_their_file(models: dict[str, tuple[Path, Any]], tmp_path: Path) -> None:
    folder = models["t5"][0]
    torn = spoilt(folder, tmp_path / "torn")
    data = (torn / "model.safetensors").read_bytes()
    (torn / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(LayoutError, match="torn: cannot be opened as a T5 text encoder"):
        t5.load(str(torn), {}).encode([""])

    import safetensors.torch

    short = spoilt(folder, tmp_path / "short")
    weights = safetensors.torch.load_file(short / "model.safetensors")
    name = next(name for name in weights if "layer.0" in name)
    del weights[name]
    safetensors.torch.save_file(weights, short / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LayoutError, match=f"1 weights are missing, such as {name}"):
        t5.load(str(short), {}).encode([""])

    words = spoilt(folder, tmp_path / "words")
    (words / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(LayoutError, match=r"words/tokenizer.json: is no vocabulary"):
        t5.load(str(words), {})
    shutil.copyfile(models["clip"][0] / "tokenizer.json", words / "tokenizer.json")
    config = json.loads((words / "config.json").read_text())
    (words / "config.json").write_text(json.dumps({**config, "vocab_size": 3}))
    with pytest.raises(LayoutError, match="tokens, the model 3"):
        t5.load(str(words), {})
    for path in words.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    (words / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingFile, match=r"no \*.safetensors"):
        t5.load(str(words), {})


def test_cleaning_is_that_of_wan_without_ftfy(models: dict[str, tuple[Path, Any]]) -> None:
    assert clean_as_wan("  put &amp;amp; the\n\tcup   &lt;down&gt; ") == "put & the cup <down>"
    assert clean_as_wan("don\u2019t") == "don\u2019t"
    folder = str(models["umt5"][0])
    dirty, clean = umt5.load(folder, {"length": 9}).encode(["pick&#32;up \n cup", "pick up cup"])[0]
    assert np.array_equal(dirty, clean)
    raw, clean = umt5.load(folder, {"length": 9, "clean": "none"}).encode(["pick&#32;up cup", "pick up cup"])[0]
    assert not np.array_equal(raw, clean)


def test_hashed_is_the_same_everywhere() -> None:
    values, mask = hashed.load(None, {"length": 4, "width": 3}).encode(["Lift it", "", "a b c d e"])
    assert mask.sum(1).tolist() == [3, 1, 4]
    assert np.abs(values).max() <= 1
    assert np.allclose(values[1, 0] * 127.5 + 127.5, END)
