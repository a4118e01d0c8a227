"""Whether two runs of pictures are of the same moments: how alike they are, and by how many frames one lags the other."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

MAX_LAG = 3
"""Frames by which pictures are shifted against their source, at most, to find where they match best."""
STILL_DB = 0.1
"""Lags that match this equally cannot be told apart: the picture stands still."""
UNLIKE_DB = 12.0
"""Pictures that match their source worse are of something else; black against a common picture is about 6 dB."""

ROUNDING_DB = 48.13
"""Of pictures that are off by one level of 255: what the rounding of colors alone can do."""


def lagged_psnr(pictures: np.ndarray, source: np.ndarray, lag: int) -> float:
    """dB between picture t and source t - lag, uint8 [F, H, W, 3] each, over all that both have; infinite where equal."""
    count = len(source) - abs(lag)
    one = pictures[max(0, lag) : max(0, lag) + count].astype(np.float64)
    error = float(np.square(one - source[max(0, -lag) : max(0, -lag) + count]).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def psnr_by_lag(pictures: np.ndarray, source: np.ndarray) -> dict[int, float]:
    """``lagged_psnr`` of every lag up to ``MAX_LAG`` at which frames are left."""
    lags = [lag for lag in range(-MAX_LAG, MAX_LAG + 1) if len(source) > abs(lag)]
    return {lag: lagged_psnr(pictures, source, lag) for lag in lags}


def middle_by_lag(pictures: np.ndarray, source: np.ndarray) -> dict[int, float]:
    """dB of the same middle pictures beside the source at every lag up to ``MAX_LAG`` that both ends leave room for.

    Of other pictures at each lag, those that were merely compressed better would decide. {} for fewer than three.
    """
    room = min(MAX_LAG, (len(source) - 1) // 2)
    middle = pictures[room : len(pictures) - room]
    lags = range(-room, room + 1) if room else ()
    return {lag: lagged_psnr(middle, source[room - lag : len(source) - room - lag], 0) for lag in lags}


def best_lag(by_lag: Mapping[int, float]) -> int | None:
    """The lag of the highest PSNR; None where lag 0 and another are within ``STILL_DB`` of it, so that nothing is told."""
    best = max(by_lag.values())
    if math.isinf(best):
        exact = [lag for lag, value in by_lag.items() if math.isinf(value)]
        return exact[0] if len(exact) == 1 else None
    near = [lag for lag, value in by_lag.items() if best - value <= STILL_DB]
    return near[0] if len(near) == 1 else None


def worst_lag(lags: Sequence[int | None]) -> int | None:
    """The lag of what lags most; 0 where none does and of one it is known; None where all stand still."""
    known = [lag for lag in lags if lag is not None]
    return max(known, key=abs) if known else None
