"""Byte-level byte-pair vocabularies whose text is numbers, one character each: learned, or read from a tokenizer.json.

What is read is JSON written by anybody. The vocabulary is built from parts that were looked at, so that what the library
would do to the rest does not matter; nothing here runs code from a file.
"""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from schemas.errors import LayoutError

MAX_VOCAB = 65_536
MAX_MERGES = 2 * MAX_VOCAB
"""One for each token that is no byte; a few more where two of them make the same token."""
NUM_BYTES = 256
NUM_SYMBOLS = 0xD800
"""A number is written as one character, and from 0xD800 on come the surrogates, which are none."""


def learned(texts: list[str], vocab_size: int) -> Tokenizer:
    """The vocabulary of at most ``vocab_size`` tokens for ``texts``; every byte is one, so no text is beyond it.

    Each text is one word: words split at letters and digits would mean nothing where characters are numbers. Equal texts
    give an equal vocabulary in any process.
    """
    vocabulary = _byte_level(models.BPE(), use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    vocabulary.train_from_iterator(texts, trainer)
    return vocabulary


def read(plain: Any, where: str) -> Tokenizer:
    """The byte-level BPE of a parsed tokenizer.json. Raises LayoutError where it is another, or contradicts itself.

    It is built from the parts looked at here, so that what the library would do to foreign JSON does not matter.
    """
    try:
        model, splitter, decoder = plain["model"], plain["pre_tokenizer"], plain["decoder"]
        settings = [
            *((key, plain.get(key), (None, [])) for key in ("normalizer", "truncation", "padding", "added_tokens")),
            *((key, model.get(key), (None, "")) for key in ("unk_token", "dropout", "continuing_subword_prefix")),
            *(
                (key, model.get(key), (None, "", False))
                for key in ("end_of_word_suffix", "byte_fallback", "ignore_merges")
            ),
            ("model", model["type"], ("BPE",)),
            ("pre_tokenizer", splitter["type"], ("ByteLevel",)),
            ("add_prefix_space", splitter["add_prefix_space"], (False,)),
            ("decoder", decoder["type"], ("ByteLevel",)),
        ]
        use_regex = splitter.get("use_regex", True)
        vocab: dict[str, int] = dict(model["vocab"])
        if not isinstance(model["merges"], list) or len(model["merges"]) > MAX_MERGES:
            raise unfit(f"merges are not a list of at most {MAX_MERGES}", where)
        merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        "".join(vocab).encode()  # half a surrogate pair is no character
        ids = sorted(vocab.values())
        whole = all(len(pair) == 2 and {*pair, pair[0] + pair[1]} <= vocab.keys() for pair in merges)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise unfit(f"{error!r}", where) from error
    for key, value, allowed in settings:
        if value not in allowed:
            raise unfit(f"{key} = {value!r}", where)
    if not isinstance(use_regex, bool):
        raise unfit(f"use_regex = {use_regex!r}", where)
    if not 0 < len(ids) <= MAX_VOCAB:
        raise unfit(f"{len(ids)} tokens, where at most {MAX_VOCAB} are taken", where)
    if ids != list(range(len(ids))) or not all(type(number) is int for number in ids):
        raise unfit("the ids of the tokens are not 0, 1, 2, ...", where)
    if not whole:
        raise unfit("a merge of tokens that are not in the vocabulary", where)
    if len({*merges}) < len(merges):
        raise unfit("a merge that stands there twice", where)
    return _byte_level(models.BPE(vocab=vocab, merges=merges), use_regex)


def texts(symbols: np.ndarray) -> list[str]:
    """One text of each row of [N, size]."""
    size = symbols.shape[1]
    joined = symbols.astype("<u4").tobytes().decode("utf-32-le")
    return [joined[start : start + size] for start in range(0, len(joined), size)]


def _byte_level(model: models.BPE, use_regex: bool) -> Tokenizer:
    vocabulary = Tokenizer(model)
    vocabulary.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    vocabulary.decoder = decoders.ByteLevel()
    return vocabulary


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2): itself if it can be seen, else one from 256."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = (chr(number) for number in range(NUM_BYTES, 2 * NUM_BYTES))
    return [chr(byte) if byte in seen else next(unseen) for byte in range(NUM_BYTES)]


def nearest_symbols(vocabulary: Tokenizer) -> np.ndarray:
    """uint32 [NUM_SYMBOLS]: each symbol, or the nearest of those whose every byte the vocabulary knows.

    A byte that it does not know would be left out of the tokens without a word.
    """
    known = np.array([vocabulary.token_to_id(character) is not None for character in byte_characters()])
    symbols = np.arange(NUM_SYMBOLS)
    tail = known[0x80 | symbols & 0x3F]
    middle = known[0x80 | symbols >> 6 & 0x3F]
    one, two, three = known[symbols & 0x7F], known[0xC0 | symbols >> 6 & 0x1F], known[0xE0 | symbols >> 12]
    spelled = np.where(symbols < 0x80, one, np.where(symbols < 0x800, two & tail, three & middle & tail))
    usable = np.flatnonzero(spelled)
    if not len(usable):
        raise LayoutError("the vocabulary can spell no number", hint="it is not that of FAST")
    after = np.searchsorted(usable, symbols).clip(0, len(usable) - 1)
    above, below = usable[after], usable[(after - 1).clip(0)]
    return np.where(np.abs(above - symbols) <= np.abs(symbols - below), above, below).astype(np.uint32)


def unfit(what: str, where: str | Path) -> LayoutError:
    """The error for files that are not what they should be."""
    return LayoutError(f"not a vocabulary of FAST: {what[:200]}", str(where), "take a FAST folder as it was published")
