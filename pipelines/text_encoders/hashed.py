"""A stand-in that needs no weights: every word becomes the same numbers everywhere. It knows no meaning; not for training.

It is what tests, demonstrations and dry tries of a pipeline encode with, at no cost and without a download.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from schemas.errors import RecipeError
from schemas.fingerprint import fingerprint

VERSION = 1
_OPTIONS = {"length": 32, "width": 64}
_MOST = 4096
_WORD = re.compile(r"\w+|[^\w\s]")
_END = "\0"
"""Stands at the end of every prompt, the empty one too; no word is equal to it."""


class Hashed:
    """A token per word or sign, and one for the end: bytes of hashes of word and place, scaled to [-1, 1]."""

    name = "hashed"

    def __init__(self, length: int, width: int) -> None:
        self.length = length
        self.width = width
        self.fingerprint = fingerprint("hashed", VERSION, width)

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [N, L, D] and bool [N, L]; upper and lower case are told apart, white space is not."""
        values = np.zeros((len(prompts), self.length, self.width), dtype=np.float32)
        mask = np.zeros((len(prompts), self.length), dtype=bool)
        for number, prompt in enumerate(prompts):
            tokens = [*_WORD.findall(prompt)[: self.length - 1], _END]
            mask[number, : len(tokens)] = True
            for place, token in enumerate(tokens):
                values[number, place] = self._vector(token, place)
        return values, mask

    def _vector(self, token: str, place: int) -> np.ndarray:
        digits = hashlib.shake_128(f"{place} {token}".encode()).digest(self.width)
        return (np.frombuffer(digits, dtype=np.uint8).astype(np.float32) - 127.5) / np.float32(127.5)


def load(weights: str | None, options: Mapping[str, int | float | str | bool]) -> Hashed:
    """The encoder; its options are ``length`` (32) and ``width`` (64). Raises RecipeError for anything else."""
    if weights is not None:
        raise RecipeError("the encoder hashed has no weights", hint="leave --weights out, or name another encoder")
    unknown = sorted(set(options) - set(_OPTIONS))
    if unknown:
        raise RecipeError(f"hashed does not know the option {unknown[0]!r}", hint=f"its options: {', '.join(_OPTIONS)}")
    chosen = {**_OPTIONS, **options}
    for name, value in chosen.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            raise RecipeError(f"hashed cannot do {name} = {value!r}", hint=f"a whole number from 1 to {_MOST}")
    return Hashed(int(chosen["length"]), int(chosen["width"]))
