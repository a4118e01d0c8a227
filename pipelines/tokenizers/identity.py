"""Chunks as they are, for models that take continuous actions and want no tokens.

It has the shape of a tokenizer so that a bench can put it beside the others; a release gets no tokens from it.
"""

import json
from typing import Any

import numpy as np

from pipelines.chunks import checked, checked_mask
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError
from schemas.fingerprint import fingerprint

CONTINUOUS = True
VERSION = 1
MAX_WIDTH = 65_536


class Identity:
    """Values of ``width`` channels, step by step; exact, so ``error_bound`` is 0 for every channel (float64 [A])."""

    name = "identity"
    continuous = CONTINUOUS
    vocab_size = 0

    def __init__(self, width: int) -> None:
        self.width = width
        self.fingerprint = fingerprint("identity", VERSION, width)
        self.error_bound = np.zeros(width)

    def encode(self, chunks: np.ndarray) -> list[np.ndarray]:
        """float [N, T, A] to N arrays of float64 values [T * A]. Raises LayoutError on NaN or another width."""
        return [chunk.reshape(-1).copy() for chunk in checked(chunks, self.width)]

    def decode(self, tokens: list[np.ndarray], horizon: int, width: int) -> np.ndarray:
        """N arrays of ``horizon * width`` float values to float64 [N, horizon, width].

        Raises LayoutError where a sequence has another length, holds integers (tokens of another kind) or NaN.
        """
        if width != self.width:
            raise LayoutError(
                f"values of {self.width} channels are not those of {width}", hint="load the tokenizer of this robot"
            )
        values = np.empty((len(tokens), horizon, width))
        for index, sequence in enumerate(tokens):
            array = np.asarray(sequence)
            if array.shape != (horizon * width,) or array.dtype.kind != "f" or not np.isfinite(array).all():
                raise LayoutError(
                    f"{array.size} values ({array.dtype}) are not {horizon} steps of {width} finite channels",
                    f"chunk {index}",
                    "pass what encode gave",
                )
            values[index] = array.reshape(horizon, width)
        return values

    def num_clipped(self, chunks: np.ndarray) -> int:
        """0: every finite value of ``chunks`` [N, T, A] is kept as it is. Raises LayoutError as ``encode`` does."""
        checked(chunks, self.width)
        return 0

    def to_json(self) -> str:
        """JSON that ``load`` reads back."""
        plain = {"name": self.name, "version": VERSION, "width": self.width, "fingerprint": self.fingerprint}
        return json.dumps(plain)


def fit(chunks: np.ndarray, mask: np.ndarray | None = None, **unknown: int | float | str | bool) -> Identity:
    """The identity on the channels of ``chunks`` [N, T, A]; it has no options, and only the width is taken from them.

    Raises RecipeError for any option, LayoutError where a value is NaN, shapes do not fit or every step is masked.
    """
    if unknown:
        raise RecipeError(f"identity does not know the option {sorted(unknown)[0]!r}", hint="it has no options")
    if chunks.ndim != 3 or not 0 < chunks.shape[2] <= MAX_WIDTH:
        raise LayoutError(f"chunks of shape {chunks.shape} are not [N, T, A]")
    steps = chunks[checked_mask(chunks, mask)]
    if not len(steps):
        raise LayoutError("no valid step", hint="is everything masked, or the selection empty?")
    checked(steps[None])
    return Identity(chunks.shape[2])


def load(text: str) -> Identity:
    """The tokenizer that ``to_json`` wrote. Raises LayoutError on other text, FingerprintMismatch on changed content."""
    try:
        plain: dict[str, Any] = json.loads(text)
        name, version, width, known = plain["name"], plain["version"], plain["width"], plain["fingerprint"]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LayoutError(f"not an identity tokenizer: {error!r}", hint="pass what to_json wrote") from error
    if name != Identity.name or version != VERSION or type(width) is not int or not 0 < width <= MAX_WIDTH:
        raise LayoutError(
            f"tokenizer {name!r} version {version!r} of {width!r} channels, not {Identity.name!r} version {VERSION}",
            hint="load it with the tokenizer, and the wamloom, that wrote it",
        )
    identity = Identity(width)
    if identity.fingerprint != known:
        raise FingerprintMismatch("the width is not that the fingerprint was taken of", hint="fit the tokenizer anew")
    return identity


__all__ = ["Identity", "fit", "load"]
