"""Which step of a release each frame of a latent clip is: latents are numbered by source frames, trainers count steps."""

import numpy as np

from pipelines.resample import TOLERANCE_NS
from schemas.latent import ClipPlan


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
