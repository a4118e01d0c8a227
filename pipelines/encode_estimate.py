"""How long a planned encode run takes: some of its own clips go the whole way, into a lake that is thrown away."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.clip_encoder import shape_of
from pipelines.clips import ClipSource
from pipelines.encode_unit import EncodeWorker, works_of
from pipelines.encoders import Encoder
from pipelines.lake import Lake
from pipelines.staged_rows import commit_staged
from pipelines.windows import nearest_clip_lengths
from schemas.fingerprint import fingerprint
from schemas.latent import ClipPlan
from schemas.recipes import EncodeRecipe
from schemas.work import WorkUnit

MEASURED_S = 5.0
"""What is measured takes about so long, at least one batch of clips as the run has them."""
MAX_MEASURED_S = 30.0
"""A batch that would take longer is measured with fewer clips; one clip that would, by its beginning."""
FIRST_LATENTS = 4
"""Latent frames of a clip, besides its first, that go first: libraries load meanwhile, and caches fill."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a run in one process takes on this machine, as busy as it is now."""

    once_s: float
    """To open the encoder, and what the first batch takes more than others."""
    per_pixel_s: float
    """Decoded, encoded, written and committed."""

    def seconds(self, num_pixels: int) -> float:
        """Of a run that encodes so many, in one process."""
        return self.once_s + self.per_pixel_s * num_pixels


def measure(lake: Lake, recipe: EncodeRecipe, units: Sequence[WorkUnit], scratch: Path) -> Pace | None:
    """The pace of ``units``, by some of their clips; None where there are none. Writes into the empty folder ``scratch``.

    Short clips go first, and tell how many whole ones, in whole batches, take ``MEASURED_S``. These go twice, unless that
    takes too long, and the slower time counts.
    """
    works = [work for unit in units for work in works_of(unit)]
    if not works:
        return None
    begun = time.perf_counter()
    worker = EncodeWorker(str(lake.root), lake.versions(), str(scratch / "staging"), recipe)
    try:
        opened_s = time.perf_counter() - begun
        trial = _Trial(worker, Lake.create(scratch / "lake"), scratch / "staging")
        encoder = worker.encoder
        short = _short(works, encoder.leading_frames + FIRST_LATENTS * encoder.temporal_stride, encoder)
        first_s, again_s = trial.run(short), trial.run(short)
        frame_s = again_s / _frames(short)
        clip_s = frame_s * max(len(clip.frame_ids) for work in works for clip in work.clips)
        if clip_s > MAX_MEASURED_S:
            whole = _short(works, max(_frames(short), int(MAX_MEASURED_S / frame_s)), encoder)
        else:
            number = max(int(MEASURED_S / 2 / clip_s), recipe.batch_clips)
            whole = _middle(works, max(1, min(number, int(MAX_MEASURED_S / clip_s))))
        seconds = trial.run(whole)
        if seconds <= MEASURED_S:
            seconds = max(seconds, trial.run(whole))
        pixels = sum(len(clip.frame_ids) * work.height * work.width for work in whole for clip in work.clips)
        return Pace(opened_s + max(0.0, first_s - again_s), seconds / pixels)
    finally:
        worker.close()


class _Trial:
    """Runs of a worker, each with its commit."""

    def __init__(self, worker: EncodeWorker, lake: Lake, staging: Path) -> None:
        self._worker = worker
        self._lake = lake
        self._staging = staging
        self._number = 0

    def run(self, works: Sequence[ClipSource]) -> float:
        """Seconds."""
        self._number += 1
        unit = WorkUnit(fingerprint("trial-1", self._number), tuple(works), 0)
        begun = time.perf_counter()
        commit_staged(self._lake, "latents", self._staging, self._worker(unit).files)
        return time.perf_counter() - begun


def _frames(works: Sequence[ClipSource]) -> int:
    return sum(len(clip.frame_ids) for work in works for clip in work.clips)


def _middle(works: Sequence[ClipSource], number: int) -> list[ClipSource]:
    """Up to ``number`` clips: neighbours from the middle of the episode of usual length, then of those most like it, since
    what decoding takes depends on where in its video a clip lies."""
    usual = statistics.median(len(work.clips) for work in works)
    found: list[ClipSource] = []
    for work in sorted(works, key=lambda one: abs(len(one.clips) - usual)):
        count = min(number, len(work.clips))
        if not count:
            break
        first = (len(work.clips) - count) // 2
        found.append(replace(work, clips=work.clips[first : first + count]))
        number -= count
    return found


def _short(works: Sequence[ClipSource], num_frames: int, encoder: Encoder) -> list[ClipSource]:
    """The first frames of such a clip, as many as the encoder can take, at most ``num_frames``."""
    shape = shape_of(encoder)
    return [
        replace(
            work,
            clips=tuple(_cut(clip, num_frames, shape.leading_frames, shape.temporal_stride) for clip in work.clips),
        )
        for work in _middle(works, 1)
    ]


def _cut(clip: ClipPlan, num_frames: int, leading_frames: int, temporal_stride: int) -> ClipPlan:
    length = nearest_clip_lengths(min(num_frames, len(clip.frame_ids)), leading_frames, temporal_stride)[0]
    return replace(
        clip,
        frame_ids=clip.frame_ids[:length],
        times_ns=clip.times_ns[:length],
        tiles=tuple((slot, ids[:length]) for slot, ids in clip.tiles),
    )
