"""What a tokenizer.json written by anybody may hold, and what of it is refused."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from pipelines import byte_pairs
from schemas.errors import LayoutError


def numbers(num_texts: int = 200, size: int = 40) -> list[str]:
    random = np.random.default_rng(0)
    return byte_pairs.texts(np.clip(random.normal(300, 3, (num_texts, size)), 0, 600).astype(np.uint32))


def plain_vocabulary() -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(byte_pairs.learned(numbers(), 400).to_str())
    return plain


def _vocab(plain: dict[str, Any]) -> dict[str, int]:
    vocab: dict[str, int] = plain["model"]["vocab"]
    return vocab


def _grown(plain: dict[str, Any]) -> None:
    _vocab(plain).update({f"x{number}": number for number in range(len(_vocab(plain)), byte_pairs.MAX_VOCAB + 1)})


MENDED: dict[str, Callable[[dict[str, Any]], object]] = {
    "another model": lambda plain: plain["model"].update(type="WordPiece"),
    "no model": lambda plain: plain.pop("model"),
    "a normalizer": lambda plain: plain.update(normalizer={"type": "NFKC"}),
    "a pre-tokenizer of words": lambda plain: plain.update(pre_tokenizer={"type": "Metaspace"}),
    "a prefix": lambda plain: plain["pre_tokenizer"].update(add_prefix_space=True),
    "no decoder": lambda plain: plain.update(decoder=None),
    "added tokens": lambda plain: plain.update(added_tokens=[{"id": 0, "content": "!"}]),
    "padding": lambda plain: plain.update(padding={"strategy": "BatchLongest"}),
    "chance": lambda plain: plain["model"].update(dropout=0.1),
    "an unknown token": lambda plain: plain["model"].update(unk_token="!"),
    "a suffix": lambda plain: plain["model"].update(end_of_word_suffix="</w>"),
    "a gap in the ids": lambda plain: _vocab(plain).update({"!": 10**6}),
    "an id twice": lambda plain: _vocab(plain).update({"!": 1}),
    "an id that is text": lambda plain: _vocab(plain).update({"!": "0"}),  # type: ignore[dict-item]
    "an id that is a fraction": lambda plain: _vocab(plain).update({"!": 0.0}),  # type: ignore[dict-item]
    "half a surrogate pair": lambda plain: _vocab(plain).update({"\ud800": len(_vocab(plain))}),
    "more tokens than taken": _grown,
    "a list of tokens": lambda plain: plain["model"].update(vocab=["a", "b"]),
    "no tokens": lambda plain: plain["model"].update(vocab={}, merges=[]),
    "no byte": lambda plain: plain["model"].update(vocab={"ab": 0}, merges=[]),
    "a merge of three": lambda plain: plain["model"]["merges"].append("a b c"),
    "a merge of nothing known": lambda plain: plain["model"]["merges"].append(["ab", "zz"]),
    "a merge of numbers": lambda plain: plain["model"]["merges"].append([1, 2]),
    "a merge of lists": lambda plain: plain["model"]["merges"].append([[], []]),
    "merges that are a number": lambda plain: plain["model"].update(merges=7),
}


@pytest.mark.parametrize("what", list(MENDED))
def test_a_vocabulary_of_another_kind_is_refused(what: str) -> None:
    plain = plain_vocabulary()
    MENDED[what](plain)
    with pytest.raises(LayoutError) as caught:
        byte_pairs.nearest_symbols(byte_pairs.read(json.loads(json.dumps(plain)), "tokenizer.json"))
    assert caught.value.hint
    assert what == "no byte" or caught.value.where == "tokenizer.json"


@pytest.mark.parametrize("plain", [None, 3, [], "model", {}, {"model": {}}])
def test_other_json_is_refused(plain: Any) -> None:
    with pytest.raises(LayoutError):
        byte_pairs.read(plain, "tokenizer.json")


def test_what_was_learned_reads_back_and_spells_every_number() -> None:
    vocabulary = byte_pairs.learned(numbers(), 400)
    assert vocabulary.get_vocab_size() == 400
    again = byte_pairs.read(json.loads(vocabulary.to_str()), "")
    assert again.to_str() == vocabulary.to_str()
    everything = "".join(map(chr, range(byte_pairs.NUM_SYMBOLS)))
    assert again.decode(again.encode(everything).ids) == everything
    assert np.array_equal(byte_pairs.nearest_symbols(again), np.arange(byte_pairs.NUM_SYMBOLS))


def test_merges_may_be_written_in_the_older_way() -> None:
    plain = plain_vocabulary()
    plain["model"]["merges"] = [" ".join(pair) for pair in plain["model"]["merges"]]
    text = numbers()[0]
    older = byte_pairs.read(plain, "").encode(text).ids
    assert older == byte_pairs.learned(numbers(), 400).encode(text).ids


def test_the_byte_characters_are_those_of_the_library() -> None:
    assert sorted(byte_pairs.byte_characters()) == sorted(pre_tokenizers.ByteLevel.alphabet())


def test_texts_are_one_character_a_number() -> None:
    rows = np.array([[0, 65, 0xD7FF], [300, 10, 0]], dtype=np.uint32)
    assert byte_pairs.texts(rows) == ["\0A\ud7ff", "\u012c\n\0"]
    assert byte_pairs.texts(rows[:0]) == []
