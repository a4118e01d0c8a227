"""Tokenizers: action chunks to integers and back. Each file is one.

A member module exports ``fit(chunks, mask, **options) -> Tokenizer`` and ``load(text) -> Tokenizer``.
"""

from typing import Protocol

import numpy as np


class Tokenizer(Protocol):
    """Reversible, to a stated error, on values inside the fitted range."""

    name: str
    vocab_size: int
    fingerprint: str

    def encode(self, chunks: np.ndarray) -> list[np.ndarray]:
        """float [N, T, A] to N arrays of int64 tokens in [0, vocab_size)."""
        ...

    def decode(self, tokens: list[np.ndarray], horizon: int, width: int) -> np.ndarray:
        """N arrays of tokens to float64 [N, horizon, width]."""
        ...

    def to_json(self) -> str:
        """Plain JSON that ``load`` turns back into an equal tokenizer."""
        ...
