"""Which step of a release each frame of a latent clip is: latents are numbered by source frames, trainers count steps."""

import bisect
from collections.abc import Sequence

import numpy as np

from pipelines.resample import TOLERANCE_NS
from schemas.latent import ClipPlan, LatentClip


def clip_steps(clip: ClipPlan, times_ns: np.ndarray, frame_ids: np.ndarray) -> np.ndarray | None:
    """int64 [F], rising: the step at which each frame of ``clip`` is shown; None unless every one has a step of its own.

    ``times_ns`` and ``frame_ids`` (both [T]) tell the instant of each step of the episode and the source frame that the view
    shows then. A frame belongs to the step of its own instant, or, where a camera keeps other instants than the steps, to
    the first step that shows it.
    """
    if not len(times_ns):
        return None
    wanted, ids = np.asarray(clip.times_ns, np.int64), np.asarray(clip.frame_ids, np.int64)
    last = len(times_ns) - 1
    by_time = np.minimum(np.searchsorted(times_ns, wanted - TOLERANCE_NS), last)
    by_frame = np.minimum(np.searchsorted(frame_ids, ids), last)
    for steps in (by_time, by_frame):
        meets = steps is by_frame or bool((np.abs(times_ns[steps] - wanted) <= TOLERANCE_NS).all())
        if meets and np.array_equal(frame_ids[steps], ids) and bool((np.diff(steps) > 0).all()):
            return steps.astype(np.int64)
    return None


class FrameLatents:
    """The latents of one view from an encoder that sees each frame by itself, by the frame they are of."""

    def __init__(self, clips: Sequence[LatentClip]) -> None:
        rows = [
            (frame, time_ns, values)
            for clip in clips
            for frame, time_ns, values in zip(clip.plan.frame_ids, clip.plan.times_ns, clip.values, strict=False)
        ]
        rows.sort(key=lambda row: row[:2])
        self._places = [row[:2] for row in rows]
        self._values = [row[2] for row in rows]

    def of(self, frame: int, time_ns: int) -> np.ndarray | None:
        """That of ``frame`` as it is shown at ``time_ns``; None where it was not encoded.

        A frame that was encoded at several instants, which on a canvas have other views beside it, has that of the last
        one up to then.
        """
        found = self.before(frame, time_ns)
        if found is None or self._places[self._place(frame, time_ns)][0] != frame:
            return None
        return found

    def before(self, frame: int, time_ns: int) -> np.ndarray | None:
        """That of ``frame``, or of the last encoded one before it, else of the first; None where there is none at all."""
        return self._values[self._place(frame, time_ns)] if self._values else None

    def _place(self, frame: int, time_ns: int) -> int:
        last = bisect.bisect_right(self._places, (frame, time_ns + TOLERANCE_NS)) - 1
        first = bisect.bisect_left(self._places, (frame, -(1 << 63)))
        following = first < len(self._places) and self._places[first][0] == frame
        return first if following and last < first else max(last, 0)
