"""Statistics of pictures from counts of pixel levels: exact over the pixels looked at, small, and merged by adding.

Which frames and pixels are looked at follows LeRobot 0.6.1 (``compute_stats.py``), so that its readers find what they
expect.
"""

from typing import Any

import numpy as np
from PIL import Image

from pipelines.stats import QUANTILES

_LEVELS = 256


def no_levels() -> np.ndarray:
    """int64 [3, 256] zeros: the counts of no picture."""
    return np.zeros((3, _LEVELS), dtype=np.int64)


def sampled_steps(num_steps: int) -> np.ndarray:
    """The steps whose pictures count in the statistics: LeRobot's choice (``estimate_num_samples`` of 0.6.1)."""
    number = max(min(num_steps, 100), min(int(num_steps**0.75), 10_000))
    return np.round(np.linspace(0, num_steps - 1, number)).astype(np.int64)


def color_levels(frame: np.ndarray) -> np.ndarray:
    """int64 [3, 256]: pixels of each level per colour of an RGB frame [H, W, 3]; large ones are thinned to about 150
    pixels, as LeRobot does.
    """
    height, width = frame.shape[:2]
    thin = 1 if max(height, width) < 300 else (width if width > height else height) // 150
    picture = Image.fromarray(np.ascontiguousarray(frame[::thin, ::thin]))  # counts three times as fast as NumPy
    return np.array(picture.histogram(), dtype=np.int64).reshape(3, _LEVELS)


def weighted_stats(values: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Statistics of ascending ``values``, each of which occurs ``counts`` times; quantiles are values that occur."""
    present = counts > 0
    values, counts = values[present].astype(np.float64), counts[present]
    total = int(counts.sum())
    mean = float(values @ counts) / total
    ends = np.cumsum(counts)
    quantiles = {
        name: float(values[np.searchsorted(ends, share * (total - 1), "right")]) for name, share in QUANTILES.items()
    }
    spread = float(np.sqrt(np.square(values - mean) @ counts / total))
    return {"min": float(values[0]), "max": float(values[-1]), "mean": mean, "std": spread, **quantiles}


def image_stats(levels: np.ndarray, num_frames: int) -> dict[str, Any]:
    """Statistics in 0..1 of shape (3, 1, 1) from the levels [3, 256] of ``num_frames`` frames."""
    scale = np.arange(_LEVELS) / (_LEVELS - 1)
    colors = [weighted_stats(scale, color) for color in levels]
    return {name: [[[color[name]]] for color in colors] for name in colors[0]} | {"count": [num_frames]}
