"""Puts the numbers of a stored episode on the grid of a recipe: which action, proprio and frame belong to each step.

Pure: the driver plans with it, the worker writes with it, verification repeats it, and all three agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipelines.channels import map_streams
from pipelines.resample import (
    TOLERANCE_NS,
    Resampled,
    gap_ns,
    hold_layout,
    nearest_at_or_before,
    nominal_period_ns,
    resample,
)
from pipelines.rows import StoredEpisode
from pipelines.windows import step_span
from schemas.episode import EncodedView, Stream
from schemas.errors import LayoutError, RecipeError
from schemas.time import TimeGrid

MAX_UPSAMPLING = 20
"""How many times its control rate an episode may be put on a grid; beyond, it is a mistake that would fill a disk."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where each of T steps came from in one stream or view, and whether that still tells of the step."""

    rows: np.ndarray
    """int64 [T]: row of the stream or frame of the view, at or before the step (the first one before it began)."""
    times_ns: np.ndarray
    """int64 [T]: recorded time of that row."""
    residual_ns: np.ndarray
    """int64 [T]: time of the step minus time of that row; negative before the stream began."""
    valid: np.ndarray
    """bool [T]: False before the first row, from one period behind the last row on, and in a gap."""


@dataclass(frozen=True, slots=True)
class EpisodeNumbers:
    """T steps on one grid. ``valid`` is False where any stream or view has nothing to say of the step (see ``Origin``)."""

    rate: Fraction
    """Steps per second (nominal where the source's own clock is kept)."""
    times_ns: np.ndarray
    action: np.ndarray
    """float64 [T, A]: the command in force at each step (held, never averaged)."""
    proprio: np.ndarray
    """float64 [T, P]: by channel kind."""
    valid: np.ndarray
    commands: Origin
    """Of the action."""
    measured: Origin
    """Of the proprio; where it is interpolated, the row before."""
    frames: Mapping[str, Origin]
    """Of each view."""

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
    step_ns = TimeGrid(0, episode.control_rate, 1).period_ns
    commands, measured = (
        resample(
            stream.values,
            stream.times_ns,
            layout,
            times,
            period_ns=nominal_period_ns(stream.times_ns) or step_ns,
        )
        for stream, layout in (
            (action, hold_layout(episode.embodiment.action)),
            (proprio, episode.embodiment.proprio),
        )
    )
    frames = {slot: _frames(episode.views[slot], times, step_ns) for slot in slots}
    origins = (_origin(commands), _origin(measured))
    return EpisodeNumbers(
        rate or episode.control_rate,
        times,
        commands.values,
        measured.values,
        np.logical_and.reduce([one.valid for one in (*origins, *frames.values())]),
        *origins,
        frames,
    )


def _origin(stream: Resampled) -> Origin:
    return Origin(stream.source_rows, stream.source_times_ns, stream.residual_ns, stream.valid)


def _frames(view: EncodedView, times: np.ndarray, step_ns: int) -> Origin:
    """The frame shown at each step. A view that pauses or ends shows its last frame on, valid for one period of its own.

    Raises LayoutError for a view without frames.
    """
    if not view.num_frames:
        raise LayoutError(f"the view of camera {view.key} has no frames", hint="leave it out with views.slots")
    found = nearest_at_or_before(view.times_ns, times)
    ids = np.maximum(found, 0)
    shown = view.times_ns[ids]
    residual = times - shown
    period = nominal_period_ns(view.times_ns) or step_ns
    last = ids == view.num_frames - 1
    following = view.times_ns[np.minimum(ids + 1, view.num_frames - 1)]
    over = (last | (following - shown > gap_ns(period))) & (residual + TOLERANCE_NS >= period)
    return Origin(ids, shown, residual, (found >= 0) & ~over)


def instruction_runs(episode: StoredEpisode, times_ns: np.ndarray) -> tuple[tuple[int, str], ...]:
    """(first step, text) wherever the instruction changes: the first one with text whose span holds the step.

    One without a span holds everywhere; () where such a one comes first, or there is none.
    """
    said = [one for one in episode.instructions if one.text.strip()]
    if not said or said[0].start_ns is None:
        return ()
    chosen: np.ndarray = np.full(len(times_ns), len(said))
    for number, one in reversed(list(enumerate(said))):
        start, stop = 0, len(times_ns)
        if one.start_ns is not None and one.stop_ns is not None:
            start, stop = step_span(times_ns, one.start_ns, one.stop_ns)
        chosen[start:stop] = number
    texts = [*(one.text for one in said), ""]
    starts = [0, *(np.flatnonzero(np.diff(chosen)) + 1).tolist()]
    return tuple((start, texts[chosen[start]]) for start in starts)
