"""What all tokenizers ask of action chunks [N, T, A] and of token sequences before they look at a number."""

import numpy as np

from schemas.errors import LayoutError


def checked(chunks: np.ndarray, width: int | None = None, horizon: int | None = None) -> np.ndarray:
    """``chunks`` as float64 [N, T, A], every number finite; A and T as given, where they are.

    Raises LayoutError that names the chunk, step and channel.
    """
    shape = f"[N, {'T' if horizon is None else horizon}, {'A' if width is None else width}]"
    wrong_width = chunks.ndim == 3 and width is not None and chunks.shape[2] != width
    wrong_horizon = chunks.ndim == 3 and horizon is not None and chunks.shape[1] != horizon
    if chunks.ndim != 3 or not chunks.shape[2] or wrong_width or wrong_horizon:
        raise LayoutError(
            f"chunks of shape {chunks.shape} are not {shape}", hint="load the tokenizer of this robot and recipe"
        )
    values = np.asarray(chunks, dtype=np.float64)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        chunk, step, channel = (int(index) for index in bad[0])
        raise LayoutError(
            f"{values[chunk, step, channel]} has no token",
            f"chunk {chunk}, step {step}, channel {channel}",
            "fill masked steps with a held value before encoding",
        )
    return values


def checked_mask(chunks: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """bool [N, T]: True where a step counts; ``mask`` None: everywhere. Raises LayoutError where shapes do not fit."""
    if mask is None:
        return np.ones(chunks.shape[:2], dtype=bool)
    if mask.shape != chunks.shape[:2]:
        raise LayoutError(f"a mask of shape {mask.shape} does not fit chunks of shape {chunks.shape}")
    return np.asarray(mask, dtype=bool)


def held(chunks: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Chunks [M, T, A] with every masked step replaced by the last valid one before it, or the first valid one after.

    This is what releases write past the end of a window. Chunks without a valid step are left out, so M <= N.
    """
    some = mask.any(axis=1)
    chunks, mask = chunks[some], mask[some]
    steps = np.arange(mask.shape[1])
    last = np.maximum.accumulate(np.where(mask, steps, -1), axis=1)
    rows = np.where(last >= 0, last, mask.argmax(axis=1)[:, None])
    return np.asarray(np.take_along_axis(chunks, rows[:, :, None], axis=1))


def to_fit(chunks: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """float64 [M, T, A], at least one chunk, every number finite: what a tokenizer of whole chunks is fitted to.

    Masked steps are held as ``held`` does. Raises LayoutError on NaN, wrong shapes, or where every step is masked.
    """
    if chunks.ndim != 3 or not chunks.shape[1] or not chunks.shape[2]:
        raise LayoutError(f"chunks of shape {chunks.shape} are not [N, T, A]", hint="cut the actions into chunks first")
    filled = checked(held(chunks, checked_mask(chunks, mask)))
    if not len(filled):
        raise LayoutError("no valid step to fit to", hint="is everything masked, or the selection empty?")
    return filled


def checked_tokens(tokens: list[np.ndarray], length: int, vocab_size: int) -> np.ndarray:
    """int64 [N, length] from N sequences of ``length`` integers in [0, vocab_size).

    Raises LayoutError that names the chunk.
    """
    rows = np.empty((len(tokens), length), dtype=np.int64)
    hint = "decode what this tokenizer encoded, or count the chunk as an invalid decode"
    for index, sequence in enumerate(tokens):
        array = np.asarray(sequence)
        if array.shape != (length,) or array.dtype.kind not in "iu":
            found = f"{array.size} tokens of shape {array.shape} ({array.dtype})"
            raise LayoutError(f"{found} are not the {length} integers of a chunk", f"chunk {index}", hint)
        if array.size and not 0 <= array.min() <= array.max() < vocab_size:
            raise LayoutError(f"a token is outside [0, {vocab_size})", f"chunk {index}", hint)
        rows[index] = array
    return rows
