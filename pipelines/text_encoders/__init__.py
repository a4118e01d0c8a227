"""Text encoders: prompts to embeddings. Each file is one; heavy libraries are imported inside.

A member module exports ``load(weights: str | None, options: Mapping[str, ...]) -> TextEncoder``.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class TextEncoder(Protocol):
    """Turns prompts into token embeddings, all of one padded length."""

    name: str
    fingerprint: str
    """Changes with weights, vocabulary, options and version."""
    width: int
    """D, numbers of a token."""
    length: int
    """L: tokens of a padded prompt; longer ones are cut there."""

    def encode(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [N, L, D], and bool [N, L] of the tokens that are of the prompt (its end mark included)."""
        ...
