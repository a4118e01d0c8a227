"""BEAST: a chunk as a B-spline per channel, and one token per control point; many steps, few tokens, smooth motion.

After "BEAST: Efficient Tokenization of B-Splines Encoded Action Sequences for Imitation Learning" (arXiv 2506.06072).
Tokens run control point by control point, and channel by channel within one, so that they tell of time in order.
"""

import json
from typing import Any

import numpy as np
from scipy.interpolate import BSpline, make_lsq_spline

from pipelines.chunks import checked, checked_tokens, to_fit
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError
from schemas.fingerprint import fingerprint

VERSION = 1
MAX_BINS = 65_536
MAX_DEGREE = 5

_FEW = 16
"""A channel of at most so many values, each on average in at least as many steps of the fit, does not move smoothly."""

_MAX_GAIN = 1000.0
"""Where so much of a rounding error would come back in a control point, it says more of errors than of the motion."""


class Beast:
    """A clamped B-spline per channel over uniform knots, its control points quantized; made by ``fit`` or ``load``.

    ``design`` float64 [T, K]: the K basis functions at the T steps of the horizon. ``solver`` float64 [K, T]: values of
    the steps to the control points of their least-squares spline. Both are saved with the tokenizer, so that its
    tokens depend on no library. ``low`` and ``high`` float64 [K, A]: the first and last of the ``num_bins`` evenly spaced
    levels of each control point of each channel, in the unit of the channel.

    A channel that is ``stepped`` (bool [A]), such as a gripper that jumps, has a spline of degree 0: K equal spans,
    and in each the (lower) median of its steps, a value that was commanded, not the mean of open and closed.

    ``error_bound`` [A]: how far quantization alone can move a decoded value, for a chunk of which nothing is clipped.
    Basis functions are positive and sum to one, so it is half the widest step between levels of the channel. How far
    the spline is from the chunk is *not* bounded: what is faster than its K control points is lost.
    """

    name = "beast"
    continuous = False

    def __init__(
        self,
        degree: int,
        num_bins: int,
        design: np.ndarray,
        solver: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        stepped: np.ndarray,
    ) -> None:
        self.degree = degree
        self.vocab_size = num_bins
        self.design = design
        self.solver = solver
        self.low = low
        self.high = high
        self.stepped = stepped
        self.horizon, self.num_basis = design.shape
        self.width = low.shape[1]
        self.fingerprint = fingerprint("beast", VERSION, degree, num_bins, design, solver, low, high, stepped)
        self.error_bound = (high - low).max(axis=0) / (num_bins - 1) / 2

    def encode(self, chunks: np.ndarray) -> list[np.ndarray]:
        """float [N, T, A] to N arrays of int64 tokens [K * A]. Raises LayoutError on NaN, another horizon or width."""
        points = control_points(checked(chunks, self.width, self.horizon), self.solver, self.stepped)
        span = self.high - self.low
        # An offset beyond the bounds is clipped before it is scaled: what is far outside would not fit an integer.
        offsets = np.clip(points, self.low, self.high) - self.low
        fractions = np.divide(offsets, span, out=np.zeros_like(points), where=span > 0)
        tokens = np.rint(fractions * (self.vocab_size - 1)).astype(np.int64)
        return [chunk.reshape(-1) for chunk in tokens]

    def decode(self, tokens: list[np.ndarray], horizon: int, width: int) -> np.ndarray:
        """N arrays of K * A tokens to float64 [N, horizon, width].

        Raises LayoutError for another horizon or width than the fitted one, where a sequence has another length or a
        token is outside the vocabulary.
        """
        if (horizon, width) != (self.horizon, self.width):
            raise LayoutError(
                f"splines of {self.horizon} steps of {self.width} channels cannot decode {horizon} of {width}",
                hint="load the tokenizer of this robot and recipe",
            )
        shape = (len(tokens), self.num_basis, width)
        rows = checked_tokens(tokens, self.num_basis * width, self.vocab_size).reshape(shape)
        top = self.vocab_size - 1
        # The last level is the bound itself, to the bit, so that a gripper opens all the way.
        points = np.where(rows == top, self.high, self.low + rows / top * (self.high - self.low))
        # Relative to the first control point, so that equal ones give this very value back.
        first = points[:, :1]
        values = np.zeros((len(tokens), horizon, width))
        for basis in range(self.num_basis):
            values += self.design[:, basis, None] * (points[:, basis, None] - first)
        values += first
        values[..., self.stepped] = points[:, _spans(horizon, self.num_basis)][..., self.stepped]
        return values

    def num_clipped(self, chunks: np.ndarray) -> int:
        """How many control points of ``chunks`` [N, T, A] lie outside the fitted bounds, and so decode to the bound."""
        points = control_points(checked(chunks, self.width, self.horizon), self.solver, self.stepped)
        return int(np.count_nonzero((points < self.low) | (points > self.high)))

    def to_json(self) -> str:
        """JSON that ``load`` reads back to the bit."""
        plain = {
            "name": self.name,
            "version": VERSION,
            "degree": self.degree,
            "num_bins": self.vocab_size,
            "design": self.design.tolist(),
            "solver": self.solver.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "stepped": self.stepped.tolist(),
            "fingerprint": self.fingerprint,
        }
        return json.dumps(plain)


def control_points(values: np.ndarray, solver: np.ndarray, stepped: np.ndarray) -> np.ndarray:
    """float64 [N, K, A]: least-squares control points of ``values`` [N, T, A]; for ``stepped`` channels medians of spans.

    Summed step by step rather than as a matrix product, whose last bits depend on how many chunks there are and on the
    machine. Values are taken relative to the first step, so that a constant chunk has constant control points exactly.
    Raises LayoutError where numbers are too large to be added.
    """
    num_basis, horizon = solver.shape
    first = values[:, :1]
    points = np.zeros((len(values), num_basis, values.shape[2]))
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(horizon):
            points += solver[:, step, None] * (values[:, step, None] - first)
        points += first
    spans = _spans(horizon, num_basis)
    for span in range(num_basis):
        ordered = np.sort(values[:, spans == span][..., stepped], axis=1)
        points[:, span, stepped] = ordered[:, (ordered.shape[1] - 1) // 2]
    if not np.isfinite(points).all():
        raise LayoutError("actions are too large for a spline", hint="normalize the actions")
    return points


def _spans(horizon: int, num_basis: int) -> np.ndarray:
    """int64 [T]: which of the K equal spans each step lies in; none is empty, as K <= T."""
    return np.arange(horizon) * num_basis // horizon


def fit(
    chunks: np.ndarray,
    mask: np.ndarray | None = None,
    *,
    num_basis: int = 8,
    degree: int = 4,
    num_bins: int = 256,
    stepped: int | str = "auto",
    **unknown: int | float | str | bool,
) -> Beast:
    """Splines for chunks of the horizon of ``chunks`` [N, T, A]; masked steps are held (``mask`` [N, T]; None: none are).

    Degree 4, 256 bins, time from 0 to 1 over the chunk, and bounds per channel and control point that are the least and
    greatest of the fit are those of the published code of the paper. With such bounds nothing that was fitted is clipped,
    and ``error_bound`` holds for it; a quantile would bound nothing. The default ``num_basis`` is for chunks of 8 to
    32 steps. The paper's ridge is left out: refusing a spline that the steps do not determine well does without, and
    control points that were decoded are found again.

    ``stepped`` says which channels are piecewise constant: "auto" (those of few values), "none", or channel numbers
    such as "6,13".

    Raises RecipeError for a wrong option or one that does not fit the horizon, LayoutError where a value is NaN, shapes
    do not fit or every step is masked.
    """
    if unknown:
        hint = "its options: num_basis, degree, num_bins, stepped"
        raise RecipeError(f"beast does not know the option {sorted(unknown)[0]!r}", hint=hint)
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or not 2 <= num_bins <= MAX_BINS:
        raise RecipeError(f"num_bins = {num_bins!r} is not possible", hint=f"set num_bins from 2 to {MAX_BINS}")
    values = to_fit(chunks, mask)
    design, solver = _basis(values.shape[1], num_basis, degree)
    channels = _stepped(values, stepped)
    points = control_points(values, solver, channels)
    low, high = points.min(axis=0), points.max(axis=0)
    with np.errstate(over="ignore"):
        if not np.isfinite(high - low).all():
            raise LayoutError("actions are too far apart for levels between them", hint="normalize the actions")
    return Beast(degree, num_bins, design, solver, low, high, channels)


def _basis(horizon: int, num_basis: int, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """``design`` [T, K] and ``solver`` [K, T] of clamped uniform knots. Raises RecipeError where there is no such spline."""
    if isinstance(degree, bool) or not isinstance(degree, int) or not 1 <= degree <= MAX_DEGREE:
        raise RecipeError(f"degree = {degree!r} is not possible", hint=f"set degree from 1 to {MAX_DEGREE}")
    if isinstance(num_basis, bool) or not isinstance(num_basis, int) or num_basis <= degree:
        raise RecipeError(
            f"num_basis = {num_basis!r} is not possible with degree {degree}", hint=f"set num_basis above {degree}"
        )
    if num_basis > horizon:
        raise RecipeError(
            f"num_basis = {num_basis} is more than the {horizon} steps of a chunk",
            hint=f"set num_basis from {degree + 1} to {horizon}"
            if degree < horizon
            else f"fit to chunks of more than {degree} steps, or set a lower degree",
        )
    inner = np.linspace(0, 1, num_basis - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    times = np.linspace(0, 1, horizon)
    design = np.asarray(BSpline.design_matrix(times, knots, degree).toarray(), dtype=np.float64)
    # The map is linear: the splines of unit impulses are its columns.
    solver = np.asarray(make_lsq_spline(times, np.eye(horizon), knots, k=degree).c, dtype=np.float64)
    gain = np.abs(solver).sum(axis=1).max()
    if not gain <= _MAX_GAIN:
        raise RecipeError(
            f"{horizon} steps hardly determine {num_basis} control points of degree {degree}",
            hint="lower num_basis or degree",
        )
    return design, solver


def _stepped(values: np.ndarray, stepped: int | str) -> np.ndarray:
    """bool [A]: the channels of ``values`` [N, T, A] that get piecewise constant splines. Raises RecipeError."""
    width = values.shape[2]
    if stepped == "none":
        return np.zeros(width, dtype=bool)
    if stepped == "auto":
        num_values = np.array([len(np.unique(values[..., channel])) for channel in range(width)])
        num_steps = values.shape[0] * values.shape[1]
        return np.asarray((num_values <= _FEW) & (num_values * _FEW <= num_steps))
    numbers = [] if isinstance(stepped, bool) else str(stepped).split(",")
    if not numbers or not all(text.strip().isdecimal() and int(text) < width for text in numbers):
        raise RecipeError(
            f"stepped = {stepped!r} is not possible",
            hint=f'set stepped to "auto", "none", or channel numbers below {width} such as "{width - 1}"',
        )
    return np.isin(np.arange(width), [int(text) for text in numbers])


def load(text: str) -> Beast:
    """The tokenizer that ``to_json`` wrote. Raises LayoutError on other text, FingerprintMismatch on changed content."""
    try:
        plain: dict[str, Any] = json.loads(text)
        name, version, known = plain["name"], plain["version"], plain["fingerprint"]
        degree, num_bins, flags = plain["degree"], plain["num_bins"], plain["stepped"]
        arrays = [np.array(plain[key], dtype=np.float64) for key in ("design", "solver", "low", "high")]
        stepped = np.array(flags)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LayoutError(f"not a beast tokenizer: {error!r}", hint="pass what to_json wrote") from error
    if name != Beast.name or version != VERSION:
        raise LayoutError(
            f"tokenizer {name!r} version {version!r}, not {Beast.name!r} version {VERSION}",
            hint="load it with the tokenizer, and the wamloom, that wrote it",
        )
    design, solver, low, high = arrays
    whole = all(type(number) is int for number in (degree, num_bins)) and 2 <= num_bins <= MAX_BINS
    flagged = stepped.dtype == bool  # any other value would pass for one of the two
    matrices = (
        design.ndim == low.ndim == 2 and design.shape[0] >= design.shape[1] > 0 and solver.shape == design.T.shape
    )
    bounds = low.shape == high.shape and low.shape[:1] == design.shape[1:] and low.shape[1:] == stepped.shape != (0,)
    if (
        not (whole and flagged and matrices and bounds)
        or not all(np.isfinite(array).all() for array in arrays)
        or (low > high).any()
    ):
        shapes = f"design {design.shape}, solver {solver.shape}, low {low.shape}, high {high.shape}"
        raise LayoutError(f"{shapes} are not splines", hint="pass what to_json wrote")
    tokenizer = Beast(degree, num_bins, design, solver, low, high, stepped)
    if tokenizer.fingerprint != known:
        raise FingerprintMismatch(
            "the splines are not those the fingerprint was taken of", hint="fit the tokenizer anew"
        )
    return tokenizer


__all__ = ["Beast", "control_points", "fit", "load"]
