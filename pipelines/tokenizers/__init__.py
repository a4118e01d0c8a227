"""Tokenizers: action chunks to integers (or, where ``continuous``, to the values themselves) and back. Each file is one.

A member module exports ``fit(chunks, mask, **options) -> Tokenizer`` and ``load(text) -> Tokenizer``.
"""

from typing import Protocol

import numpy as np


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
