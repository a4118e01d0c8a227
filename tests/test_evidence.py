"""The numbers that stand for all frames of a view are those that all frames at once would give, however they are chunked."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from validation.evidence import SAME_LEVELS, ViewEvidence


def plainly(thumbs: np.ndarray) -> dict[str, list[int]]:
    """The same from all frames in memory, one after the other."""
    found: dict[str, list[int]] = {"change": [], "drift": []}
    start = 0
    for k in range(len(thumbs)):
        change = 255 if k == 0 else int(np.abs(thumbs[k].astype(int) - thumbs[k - 1]).max())
        shows = [thumbs[j].max() > 16 and int(thumbs[j].max()) - int(thumbs[j].min()) > 2 for j in (max(0, k - 1), k)]
        if not (k and change <= SAME_LEVELS and all(shows)):
            start = k
        found["change"].append(change)
        found["drift"].append(int(np.abs(thumbs[k].astype(int) - thumbs[start]).max()))
    return found


@given(
    st.lists(st.sampled_from([0, 1, 17, 18, 19, 20, 90, 255]), max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(0, 9),
)
def test_evidence_is_that_of_all_frames_at_once(levels: list[int], cuts: list[int], slope: int) -> None:
    ramp = np.arange(12, dtype=np.uint8).reshape(3, 4) * np.uint8(slope)
    thumbs = np.array([np.minimum(ramp + np.uint16(level), 255) for level in levels], np.uint8).reshape(-1, 3, 4)
    evidence = ViewEvidence.of(np.split(thumbs, sorted(cuts)))
    expected = plainly(thumbs)
    assert evidence.num_frames == len(levels)
    assert evidence.change.tolist() == expected["change"]
    assert evidence.drift.tolist() == expected["drift"]
    assert evidence.brightest.tolist() == [int(frame.max()) for frame in thumbs]
    assert evidence.darkest.tolist() == [int(frame.min()) for frame in thumbs]
    assert np.allclose(evidence.mean, [frame.mean() for frame in thumbs])
