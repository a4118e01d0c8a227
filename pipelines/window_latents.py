"""Which latents of an episode cover a window of its steps: what WebDataset's samples hold, and what a proof makes again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.resample import TOLERANCE_NS
from pipelines.windows import latent_spans
from schemas.latent import LatentClip


@dataclass(frozen=True, slots=True)
class _Span:
    """A latent frame in time."""

    start_ns: int
    stop_ns: int
    clip: int
    latent: int
    frames: tuple[int, int]
    """Of its clip, half open."""


def _spans(clips: Sequence[LatentClip], period_ns: int) -> Iterator[_Span]:
    for number, clip in enumerate(clips):
        times = clip.plan.times_ns
        frame_ns = times[-1] - times[-2] if len(times) > 1 else clip.period_ns or period_ns
        spans = latent_spans(clip.leading_frames, clip.temporal_stride, len(clip.values))
        for latent, (first, last) in enumerate(spans):
            stop_ns = times[last] if last < len(times) else times[-1] + frame_ns
            yield _Span(times[first], stop_ns, number, latent, (first, last))


def window_latents(
    clips: Sequence[LatentClip], times_ns: np.ndarray, period_ns: int, start: int, stop: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """The latent frames [L, C, h, w] that cover steps ``[start, stop)`` of an episode with these ``times_ns`` [T], ``period_ns``
    apart, and of each its clip, times and steps.

    Clips may overlap: a clip that begins where the window does and covers it is taken alone, since a causal latent depends
    on where its clip begins. Else each moment is taken from the clip that the moment before was, as long as it has one; then
    from one with a latent that begins there, so that none overlaps the one before; then from the earliest. ``steps`` is the
    half-open span of episode steps that a latent frame covers, which may reach beyond the window.
    """
    window_start, last_step = int(times_ns[start]), int(times_ns[stop - 1])
    # recorded times are rounded, and the end of the last frame is reckoned: a nanosecond overlaps nothing
    window_stop = last_step + period_ns - TOLERANCE_NS
    inside = [
        span
        for span in _spans(clips, period_ns)
        if span.start_ns < window_stop and span.stop_ns > window_start + TOLERANCE_NS
    ]
    ends = {span.clip: span.stop_ns for span in inside}
    for number, clip in enumerate(clips):
        begins = abs(clip.plan.times_ns[0] - window_start) <= TOLERANCE_NS
        # up to the last step, or, of frames further apart than steps, past the middle of it
        reaches = (
            clip.plan.times_ns[-1] >= last_step - TOLERANCE_NS or ends.get(number, 0) >= last_step + period_ns // 2
        )
        if begins and reaches:
            inside = [span for span in inside if span.clip == number]
            break
    chosen: list[_Span] = []
    covered = window_start
    while covered < window_stop and (left := [span for span in inside if span.stop_ns > covered + TOLERANCE_NS]):
        chosen.append(min(left, key=lambda span: _preference(span, covered, chosen[-1].clip if chosen else -1)))
        covered = chosen[-1].stop_ns
    told = [
        {
            "clip": span.clip,
            "latent": span.latent,
            "latent_id": clips[span.clip].latent_id,
            "times_ns": [span.start_ns, span.stop_ns],
            "steps": np.searchsorted(
                times_ns, [span.start_ns - TOLERANCE_NS, span.stop_ns - TOLERANCE_NS], side="left"
            ).tolist(),
            "frame_ids": list(clips[span.clip].plan.frame_ids[slice(*span.frames)]),
        }
        for span in chosen
    ]
    if chosen:
        return np.stack([clips[span.clip].values[span.latent] for span in chosen]), told
    shape = clips[0].values.shape[1:] if clips else (0, 0, 0)
    return np.zeros((0, *shape), dtype=clips[0].values.dtype if clips else np.float32), told


def _preference(span: _Span, moment_ns: int, clip_before: int) -> tuple[int, bool, bool, int, int]:
    """Sorts the latents that end behind a moment: the one to take for it comes first."""
    late = max(0, span.start_ns - moment_ns - TOLERANCE_NS)
    return late, span.clip != clip_before, span.start_ns < moment_ns - TOLERANCE_NS, span.clip, span.latent
