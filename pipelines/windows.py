"""Windows over frames and steps: which frames make a clip, which frames a latent frame spans, where samples begin.

The one place that maps frames to latent frames and back. All windows are half-open index ranges ``(start, stop)``.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.resample import TOLERANCE_NS
from schemas.episode import Segment
from schemas.errors import LayoutError, RecipeError
from schemas.recipes import BuildRecipe, ClipRecipe

Span = tuple[int, int]


def is_clip_length(num_frames: int, leading_frames: int, temporal_stride: int) -> bool:
    """Whether an encoder can take exactly ``num_frames``: ``leading_frames + temporal_stride * k``, k >= 0."""
    return num_frames >= leading_frames and (num_frames - leading_frames) % temporal_stride == 0


def nearest_clip_lengths(num_frames: int, leading_frames: int, temporal_stride: int) -> list[int]:
    """The clip lengths next to ``num_frames`` that an encoder can take: one below (if any) and one above, or itself."""
    if num_frames <= leading_frames:
        return [leading_frames]
    below = num_frames - (num_frames - leading_frames) % temporal_stride
    return [below] if below == num_frames else [below, below + temporal_stride]


def num_latent_frames(num_frames: int, leading_frames: int, temporal_stride: int) -> int:
    """Latent frames that ``num_frames`` give: ``1 + k``. Raises LayoutError that names the nearest right lengths."""
    if not is_clip_length(num_frames, leading_frames, temporal_stride):
        near = " or ".join(str(n) for n in nearest_clip_lengths(num_frames, leading_frames, temporal_stride))
        raise LayoutError(
            f"a clip of {num_frames} frames does not fit the encoder ({leading_frames} + {temporal_stride} * k)",
            hint=f"pass {near} frames",
        )
    return 1 + (num_frames - leading_frames) // temporal_stride


def clip_frames(num_frames: int, leading_frames: int, temporal_stride: int, recipe: ClipRecipe) -> list[Span]:
    """The clips of a sequence of ``num_frames`` frames, in order of their starts; [] where it is too short for one.

    ``whole`` and ``frames``: one clip, the longest prefix the encoder can take; at most ``temporal_stride - 1`` frames at the
    end are left over. ``fixed``: clips of ``recipe.num_frames`` every ``recipe.stride`` frames, and one more that ends with the
    last frame if the regular ones stop short of it. ``uncovered`` says what is in no clip.

    Raises RecipeError where ``recipe.num_frames`` is not a length the encoder can take, naming the nearest that are.
    """
    if recipe.kind != "fixed":
        if num_frames < leading_frames:
            return []
        return [(0, nearest_clip_lengths(num_frames, leading_frames, temporal_stride)[0])]
    length = recipe.num_frames
    if not is_clip_length(length, leading_frames, temporal_stride):
        near = " or ".join(str(n) for n in nearest_clip_lengths(length, leading_frames, temporal_stride))
        raise RecipeError(
            f"clip.num_frames = {length} does not fit the encoder ({leading_frames} + {temporal_stride} * k frames)",
            hint=f"set clip.num_frames to {near}",
        )
    if num_frames < length:
        return []
    starts = list(range(0, num_frames - length + 1, recipe.stride or length))
    if starts[-1] + length < num_frames:
        starts.append(num_frames - length)
    return [(start, start + length) for start in starts]


def uncovered(num_frames: int, clips: list[Span]) -> list[Span]:
    """The runs of frames that lie in none of ``clips``, in order."""
    free = np.ones(num_frames + 2, dtype=bool)
    free[[0, -1]] = False
    for start, stop in clips:
        free[start + 1 : stop + 1] = False
    edges = np.flatnonzero(np.diff(free.astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def latent_spans(leading_frames: int, temporal_stride: int, num_latents: int) -> list[Span]:
    """The frames of its clip that each latent frame spans: the leading ones, then ``temporal_stride`` each."""
    stops = [leading_frames + temporal_stride * latent for latent in range(num_latents)]
    return list(zip([0, *stops[:-1]], stops, strict=True)) if stops else []


def latent_of_frame(frame: int, leading_frames: int, temporal_stride: int) -> int:
    """The latent frame that spans ``frame`` of its clip: the inverse of ``latent_spans``. Raises ValueError if negative."""
    if frame < 0:
        raise ValueError(f"there is no frame {frame}")
    return 0 if frame < leading_frames else 1 + (frame - leading_frames) // temporal_stride


def sample_windows(num_steps: int, horizon: int, stride: int | None = None) -> np.ndarray:
    """int64 [S]: first step of each sample of ``horizon`` steps, every ``stride`` (None: ``horizon``, so they tile).

    They go on until one reaches the last step, so at most the last window is partial (see ``window_lengths``), and every
    step is in a window unless ``stride`` exceeds ``horizon``. Raises RecipeError for a horizon or stride below 1.
    """
    step = horizon if stride is None else stride
    if horizon < 1 or step < 1:
        raise RecipeError(f"horizon {horizon} and stride {step} must be at least 1", hint="set horizon, sample_stride")
    if num_steps < 1:
        return np.zeros(0, dtype=np.int64)
    return np.arange(0, max(1, min(num_steps, num_steps - horizon + step)), step, dtype=np.int64)


def window_lengths(starts: np.ndarray, num_steps: int, horizon: int) -> np.ndarray:
    """int64 [S]: steps of each window that exist; the rest of its ``horizon`` is padding, to be masked."""
    return np.asarray(np.minimum(horizon, num_steps - np.asarray(starts, dtype=np.int64)), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Windows:
    """The samples of an episode of T steps: S windows that never cross a gap, and what a filter left out."""

    starts: np.ndarray
    """int64 [S]: first step of each."""
    chunk_stops: np.ndarray
    """int64 [T]: where a chunk that begins at a step must end at the latest: at the next gap or bound, or behind the last
    step."""
    run_starts: np.ndarray
    """int64 [T]: where the run between gaps and bounds begins that a step lies in; a step inside a gap is its own."""
    selected: np.ndarray
    """bool [T]: whether a window of the recipe may hold the step."""
    left_out: tuple[tuple[str, str, int], ...]
    """(reason, message, number of windows) of those that the filter left out."""


def step_span(times_ns: np.ndarray, start_ns: int, stop_ns: int) -> Span:
    """The steps at ``times_ns`` (rising) that lie in a half-open span of time; empty where they step over it.

    A span that ends behind the last step, be it by a nanosecond as sources write it, holds that step.
    """
    start, stop = np.searchsorted(times_ns, [start_ns - TOLERANCE_NS, stop_ns - TOLERANCE_NS])
    ends_behind = len(times_ns) > 0 and stop_ns > int(times_ns[-1])
    return int(start), len(times_ns) if ends_behind else int(stop)


def runs_between_gaps(times_ns: np.ndarray, gaps: Sequence[Segment], bounds: Sequence[Segment] = ()) -> list[Span]:
    """The runs of steps between gaps, in order, cut where one of ``bounds`` starts or ends; steps inside a gap are in none."""
    inside: np.ndarray = np.zeros(len(times_ns), dtype=bool)
    cuts = {0, len(times_ns)}
    for bound in bounds:
        cuts |= set(step_span(times_ns, bound.start_ns, bound.stop_ns))
    for gap in gaps:
        start, stop = step_span(times_ns, gap.start_ns, gap.stop_ns)
        cuts |= {start, stop}
        inside[start:stop] = True
    edges = sorted(cuts)
    return [span for span in itertools.pairwise(edges) if not inside[span[0]]]


def gaps_of(segments: Sequence[Segment], slots: Sequence[str]) -> list[Segment]:
    """The gaps of action and proprio, and of the views ``slots``."""
    return [one for one in segments if one.kind == "gap" and one.label in ("action", "proprio", *slots)]


def plan_windows(
    times_ns: np.ndarray, segments: Sequence[Segment], slots: Sequence[str], recipe: BuildRecipe
) -> Windows:
    """The windows of the steps at ``times_ns``: they tile each run between gaps and bounds as ``sample_windows`` says.

    Of these the recipe's ``segments`` leave some out. ``slots`` are the views whose gaps count.
    """
    horizon, stride, chosen = recipe.horizon, recipe.sample_stride, recipe.segments
    num_steps = len(times_ns)
    chunk_stops: np.ndarray = np.arange(1, num_steps + 1, dtype=np.int64)
    parts: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    run_starts: np.ndarray = np.arange(num_steps, dtype=np.int64)
    bounds = [one for one in segments if one.kind in chosen.bounds]
    for start, stop in runs_between_gaps(times_ns, gaps_of(segments, slots), bounds):
        chunk_stops[start:stop] = stop
        run_starts[start:stop] = start
        parts.append(start + sample_windows(stop - start, horizon, stride))
    starts = np.concatenate(parts)
    stops = np.minimum(starts + horizon, chunk_stops[starts])
    selected: np.ndarray = np.ones(num_steps, dtype=bool)
    taken: np.ndarray = np.ones(len(starts), dtype=bool)
    left_out: list[tuple[str, str, int]] = []

    def leave_out(unwanted: np.ndarray, reason: str, message: str) -> None:
        number = int((unwanted & taken).sum())
        taken[unwanted] = False
        if number:
            left_out.append((reason, message, number))

    for kind in chosen.skip:
        touched: np.ndarray = np.zeros(len(starts), dtype=bool)
        for first, behind in (step_span(times_ns, one.start_ns, one.stop_ns) for one in segments if one.kind == kind):
            touched |= (starts < behind) & (stops > first)
            selected[first:behind] = False
        leave_out(touched, f"window_touches_{kind}", f"windows that touch a span of kind {kind}")
    if chosen.within is not None:
        inside: np.ndarray = np.zeros(len(starts), dtype=bool)
        held: np.ndarray = np.zeros(num_steps, dtype=bool)
        for first, behind in (
            step_span(times_ns, one.start_ns, one.stop_ns) for one in segments if one.kind == chosen.within
        ):
            inside |= (starts >= first) & (stops <= behind)
            held[first:behind] = True
        selected &= held
        kind = chosen.within
        leave_out(~inside, f"window_outside_{kind}", f"windows that are not wholly inside one span of kind {kind}")
    return Windows(starts[taken], chunk_stops, run_starts, selected, tuple(left_out))


def chunk_rows(windows: Windows, starts: np.ndarray, horizon: int, lead: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Steps int64 [N, horizon] of the chunks that begin ``lead`` steps behind each of ``starts`` [N], and bool
    [N, horizon] whether a step lies in its chunk.

    A chunk that reaches past the end of the episode, into a gap or over a bound repeats the last step before.
    """
    steps = starts[:, None] + lead + np.arange(horizon)
    stops = windows.chunk_stops[starts][:, None]
    return np.minimum(steps, stops - 1), steps < stops
