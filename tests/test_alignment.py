"""Lags of pictures against their source."""

import numpy as np
import pytest

from pipelines.alignment import best_lag, middle_by_lag


@pytest.mark.parametrize("lag", [-2, -1, 0, 1, 3])
def test_the_lag_of_noisy_pictures_is_found_on_the_same_pictures(lag: int) -> None:
    random = np.random.default_rng(0)
    source = random.integers(20, 230, (12, 8, 8, 3)).astype(np.uint8)
    noisy = (np.roll(source, lag, axis=0).astype(np.int64) + random.integers(-9, 10, source.shape)).astype(np.uint8)
    by_lag = middle_by_lag(noisy, source)
    assert sorted(by_lag) == list(range(-3, 4))
    assert best_lag(by_lag) == lag


def test_still_and_too_few_pictures_tell_no_lag() -> None:
    still = np.full((9, 4, 4, 3), 90, dtype=np.uint8)
    assert best_lag(middle_by_lag(still, still)) is None
    assert middle_by_lag(still[:2], still[:2]) == {}
