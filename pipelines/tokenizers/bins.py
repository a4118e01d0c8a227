"""One token per action and step: the bin its value falls into, with uniform or quantile bins for each channel.

Tokens run step by step, channel by channel within a step. Values outside the fitted range get the outermost bin and are
counted by ``num_clipped``.
"""

import json
from typing import Any

import numpy as np

from pipelines.chunks import checked, checked_mask, checked_tokens
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError
from schemas.fingerprint import fingerprint

VERSION = 1
KINDS = ("quantile", "uniform")
MAX_BINS = 65_536

_CAP_ROUNDS = 64
"""Each round brings the weight of frequent values nearer to one bin's share; what remains is far below a bin."""


class Bins:
    """Bins per channel, made by ``fit`` or ``load``. ``edges`` float64 [A, num_bins + 1], ``centers`` [A, num_bins].

    A value lies in the last bin whose lower edge it reaches. ``centers`` are what tokens decode to. Uniform: the middle
    of the bin, so within the fitted range ``error_bound`` [A] is half a bin width (plus rounding). Quantile: the median
    of the fitted values in the bin (a channel of at most ``num_bins`` values, such as a gripper, gets exactly these
    back), the middle where it is empty; ``error_bound`` is then the largest distance from a center to an edge of its bin.
    """

    name = "bins"
    continuous = False

    def __init__(self, kind: str, edges: np.ndarray, centers: np.ndarray) -> None:
        self.kind = kind
        self.edges = edges
        self.centers = centers
        self.vocab_size = centers.shape[1]
        self.width = centers.shape[0]
        self.fingerprint = fingerprint("bins", VERSION, kind, edges, centers)
        distances = np.maximum(centers - edges[:, :-1], edges[:, 1:] - centers)
        self.error_bound = distances.max(axis=1)

    def encode(self, chunks: np.ndarray) -> list[np.ndarray]:
        """float [N, T, A] to N arrays of int64 tokens [T * A]. Raises LayoutError on NaN or another width."""
        values = checked(chunks, self.width)
        tokens = np.empty(values.shape, dtype=np.int64)
        for channel in range(self.width):
            # The outer edges take no part: what lies beyond them falls into the outermost bins.
            inner = self.edges[channel, 1:-1]
            tokens[..., channel] = np.searchsorted(inner, values[..., channel], side="right")
        return [chunk.reshape(-1) for chunk in tokens]

    def decode(self, tokens: list[np.ndarray], horizon: int, width: int) -> np.ndarray:
        """N arrays of ``horizon * width`` tokens to float64 [N, horizon, width].

        Raises LayoutError where a sequence has another length or a token is outside the vocabulary.
        """
        if width != self.width:
            raise LayoutError(
                f"bins of {self.width} channels cannot decode {width}", hint="load the tokenizer of this robot"
            )
        rows = checked_tokens(tokens, horizon * width, self.vocab_size).reshape(len(tokens), horizon, width)
        return np.asarray(self.centers[np.arange(width), rows])

    def num_clipped(self, chunks: np.ndarray) -> int:
        """How many values of ``chunks`` [N, T, A] lie outside the fitted range, and so decode to its end."""
        values = checked(chunks, self.width)
        return int(np.count_nonzero((values < self.edges[:, 0]) | (values > self.edges[:, -1])))

    def to_json(self) -> str:
        """JSON that ``load`` reads back to the bit."""
        plain = {
            "name": self.name,
            "version": VERSION,
            "kind": self.kind,
            "edges": self.edges.tolist(),
            "centers": self.centers.tolist(),
            "fingerprint": self.fingerprint,
        }
        return json.dumps(plain)


def fit(
    chunks: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    num_bins: int = 256,
    kind: str = "quantile",
    **unknown: int | float | str | bool,
) -> Bins:
    """Bins for ``chunks`` [N, T, A], from the steps where ``mask`` [N, T] is True (None: all).

    Raises RecipeError for a wrong option, LayoutError where a value is NaN, shapes do not fit or every step is masked.
    """
    if unknown:
        raise RecipeError(f"bins does not know the option {sorted(unknown)[0]!r}", hint="its options: num_bins, kind")
    if kind not in KINDS:
        raise RecipeError(f"bins cannot be {kind!r}", hint=f"set kind to {' or '.join(KINDS)}")
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or not 2 <= num_bins <= MAX_BINS:
        raise RecipeError(f"num_bins = {num_bins!r} is not possible", hint=f"set num_bins from 2 to {MAX_BINS}")
    if chunks.ndim != 3 or not chunks.shape[2]:
        raise LayoutError(f"chunks of shape {chunks.shape} are not [N, T, A]")
    width = chunks.shape[2]
    steps = chunks[checked_mask(chunks, mask)]
    if not len(steps):
        raise LayoutError("no valid step to fit bins to", hint="is everything masked, or the selection empty?")
    columns = checked(steps[None], width)[0].T
    edges = np.empty((width, num_bins + 1))
    centers = np.empty((width, num_bins))
    for channel, column in enumerate(columns):
        if kind == "uniform":
            # linspace puts the ends exactly on the extremes; a constant channel has all edges, and so all centers, equal.
            edges[channel] = np.linspace(column.min(), column.max(), num_bins + 1)
            centers[channel] = _middles(edges[channel])
        else:
            ordered = np.sort(column)
            edges[channel] = _quantile_edges(ordered, num_bins)
            centers[channel] = _medians(ordered, edges[channel])
    return Bins(kind, edges, centers)


def _middles(edges: np.ndarray) -> np.ndarray:
    return np.asarray(edges[:-1] + (edges[1:] - edges[:-1]) / 2)


def _quantile_edges(ordered: np.ndarray, num_bins: int) -> np.ndarray:
    """Edges that share the sorted values out evenly; one value that is very frequent takes one bin and no more.

    Plain quantiles would all fall on it, and what is rare beside it (a gripper that opens once) would be lost. Each of
    at most ``num_bins`` distinct values has a bin of its own.
    """
    distinct, counts = np.unique(ordered, return_counts=True)
    if len(distinct) <= num_bins:
        homes = np.arange(len(distinct)) * (num_bins - 1) // max(1, len(distinct) - 1)
    else:
        weights = counts.astype(np.float64)
        for _ in range(_CAP_ROUNDS):
            weights = np.minimum(weights, weights.sum() / num_bins)
        ends = np.cumsum(weights)
        homes = ((ends - weights / 2) / ends[-1] * num_bins).astype(np.int64)
    first = np.searchsorted(homes, np.arange(1, num_bins))
    lower, upper = distinct[np.maximum(first - 1, 0)], distinct[np.minimum(first, len(distinct) - 1)]
    middle = lower + (upper - lower) / 2
    # Halfway between neighboring floats is the lower one, which belongs to the bin below.
    return np.concatenate([distinct[:1], np.where(middle > lower, middle, upper), distinct[-1:]])


def _medians(ordered: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The median of the sorted values in each bin, the middle of the bin where it has none (as between equal edges)."""
    starts = np.concatenate([[0], np.searchsorted(ordered, edges[1:-1], side="left"), [len(ordered)]])
    counts = np.diff(starts)
    lower = np.clip(starts[:-1] + (counts - 1) // 2, 0, len(ordered) - 1)
    upper = np.clip(starts[:-1] + counts // 2, 0, len(ordered) - 1)
    medians = ordered[lower] + (ordered[upper] - ordered[lower]) / 2
    return np.where(counts > 0, medians, _middles(edges))


def load(text: str) -> Bins:
    """The tokenizer that ``to_json`` wrote. Raises LayoutError on other text, FingerprintMismatch on changed content."""
    try:
        plain: dict[str, Any] = json.loads(text)
        name, version, kind, known = plain["name"], plain["version"], plain["kind"], plain["fingerprint"]
        edges = np.array(plain["edges"], dtype=np.float64)
        centers = np.array(plain["centers"], dtype=np.float64)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LayoutError(f"not a bins tokenizer: {error!r}", hint="pass what to_json wrote") from error
    if name != Bins.name or version != VERSION or kind not in KINDS:
        raise LayoutError(
            f"tokenizer {name!r} version {version!r} kind {kind!r}, not {Bins.name!r} version {VERSION}",
            hint="load it with the tokenizer, and the wamloom, that wrote it",
        )
    fits = edges.ndim == centers.ndim == 2 and edges.shape == (centers.shape[0], centers.shape[1] + 1)
    if not fits or centers.shape[1] < 2 or not np.isfinite(edges).all() or not np.isfinite(centers).all():
        shapes = f"edges {edges.shape} and centers {centers.shape}"
        raise LayoutError(f"{shapes} are not bins", hint="pass what to_json wrote")
    bins = Bins(kind, edges, centers)
    if bins.fingerprint != known:
        raise FingerprintMismatch("the bins are not those the fingerprint was taken of", hint="fit the tokenizer anew")
    return bins


__all__ = ["Bins", "fit", "load"]
