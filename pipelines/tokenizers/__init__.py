"""Tokenizers: action chunks to integers (or, where ``continuous``, to the values themselves) and back. Each file is one.

A member module exports ``fit(chunks, mask, **options) -> Tokenizer`` and ``load(text) -> Tokenizer``, and
``CONTINUOUS = True`` if its tokenizers are continuous.
"""

from typing import Protocol

import numpy as np

from pipelines import registry
from schemas.errors import RecipeError
from schemas.recipes import TokenizerRecipe


class Tokenizer(Protocol):
    """Reversible, to a stated error, on values inside the fitted range."""

    name: str
    continuous: bool
    """True: ``encode`` gives float64 values, not tokens, and ``vocab_size`` is 0; a release then has no tokens."""
    vocab_size: int
    fingerprint: str

    def encode(self, chunks: np.ndarray) -> list[np.ndarray]:
        """float [N, T, A] to N arrays of int64 tokens in [0, vocab_size), or of float64 values."""
        ...

    def decode(self, tokens: list[np.ndarray], horizon: int, width: int) -> np.ndarray:
        """N arrays of tokens to float64 [N, horizon, width]."""
        ...

    def num_clipped(self, chunks: np.ndarray) -> int:
        """How many numbers of ``chunks`` [N, T, A] lie outside what can be represented, and so come back as the nearest."""
        ...

    def to_json(self) -> str:
        """Plain JSON that ``load`` turns back into an equal tokenizer."""
        ...


def is_continuous(name: str) -> bool:
    """Whether tokenizer ``name`` gives values instead of token ids. Raises UsageError for an unknown name."""
    return bool(getattr(registry.load("tokenizers", name), "CONTINUOUS", False))


def check_offset(recipe: TokenizerRecipe | None) -> None:
    """Raises RecipeError where ``recipe`` moves the token ids of a tokenizer that gives none."""
    if recipe is not None and recipe.offset and is_continuous(recipe.name):
        raise RecipeError(
            f"{recipe.name} keeps the values of actions and gives no token ids, so offset = {recipe.offset} moves nothing",
            "tokenizer.offset",
            "leave offset out, or name a tokenizer that gives ids: "
            + ", ".join(name for name in registry.names("tokenizers") if not is_continuous(name)),
        )
