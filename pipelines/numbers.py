"""Puts the numbers of a stored episode on the grid of a recipe: which action, proprio and frame belong to each step.

Pure: the driver plans with it, the worker writes with it, verification repeats it, and all three agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipelines.channels import map_streams
from pipelines.resample import hold_layout, nearest_at_or_before, nominal_period_ns, resample
from pipelines.rows import StoredEpisode
from schemas.episode import EncodedView, Stream
from schemas.errors import RecipeError
from schemas.time import TimeGrid

MAX_UPSAMPLING = 20
"""How many times its control rate an episode may be put on a grid; beyond, it is a mistake that would fill a disk."""
_MAX_STALE_PERIODS = 2.5
"""A frame older than this many periods (of the slower of camera and grid) does not show its step; as for gaps elsewhere."""


@dataclass(frozen=True, slots=True)
class EpisodeNumbers:
    """T steps on one grid. ``valid`` is False where a stream had ended, a gap lies, or a view shows no frame in time."""

    rate: Fraction
    """Steps per second (nominal where the source's own clock is kept)."""
    times_ns: np.ndarray
    action: np.ndarray
    """float64 [T, A]: the command in force at each step (held, never averaged)."""
    proprio: np.ndarray
    """float64 [T, P]: by channel kind."""
    valid: np.ndarray
    source_rows: np.ndarray
    source_times_ns: np.ndarray
    frame_ids: Mapping[str, np.ndarray]
    frame_times_ns: Mapping[str, np.ndarray]

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.times_ns)


def check_rate(rate: Fraction | None, control_rate: Fraction, dataset: str) -> None:
    """Raises RecipeError for a rate so far above the control rate that it can only be a mistake; None is native."""
    if rate is not None and rate > MAX_UPSAMPLING * control_rate:
        raise RecipeError(
            f"rate {rate} Hz is over {MAX_UPSAMPLING} times the {control_rate} Hz of {dataset}",
            "rate",
            "set a lower rate; more would only repeat commands and frames",
        )


def grid_times(action: Stream, rate: Fraction | None) -> np.ndarray:
    """int64 [T]: the action's own instants at the native rate, else the grid from its first to its last instant."""
    if rate is None or len(action.times_ns) == 0:
        return action.times_ns
    return TimeGrid.covering(int(action.times_ns[0]), int(action.times_ns[-1]), rate).times_ns()


def numbers_of(episode: StoredEpisode, rate: Fraction | None, slots: tuple[str, ...]) -> EpisodeNumbers:
    """The episode on the native (None) or given rate, with the frames of ``slots``. Raises LayoutError or CardError."""
    action, proprio = map_streams(episode.streams, episode.card, episode.embodiment)
    times = grid_times(action, rate)
    period = _period_ns(action, episode.control_rate)
    commands = resample(action.values, action.times_ns, hold_layout(episode.embodiment.action), times, period_ns=period)
    measured = resample(proprio.values, proprio.times_ns, episode.embodiment.proprio, times, period_ns=period)
    valid = commands.valid & measured.valid
    frame_ids: dict[str, np.ndarray] = {}
    frame_times: dict[str, np.ndarray] = {}
    for slot in slots:
        ids, shown, fresh = _frames(episode.views[slot], times)
        frame_ids[slot], frame_times[slot] = ids, shown
        valid = valid & fresh
    return EpisodeNumbers(
        rate or episode.control_rate,
        times,
        commands.values,
        measured.values,
        valid,
        commands.source_rows,
        commands.source_times_ns,
        frame_ids,
        frame_times,
    )


def _period_ns(action: Stream, control_rate: Fraction) -> int:
    return nominal_period_ns(action.times_ns) or TimeGrid(0, control_rate, 1).period_ns


def _frames(view: EncodedView, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(frame ids, their times, whether they show the step). A step before the first frame gets it, and is not valid."""
    found = nearest_at_or_before(view.times_ns, times)
    ids = np.maximum(found, 0)
    shown = view.times_ns[ids]
    period = max(nominal_period_ns(view.times_ns), nominal_period_ns(times))
    limit = _MAX_STALE_PERIODS * period if period else np.inf
    return ids, shown, (found >= 0) & (times - shown <= limit)
