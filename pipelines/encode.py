"""The encode line: kept episodes -> one row of latents per clip x view recipe x encoder, computed once.

``plan_encode`` finds the clips and leaves out those the lake has, ``EncodeWorker`` decodes and encodes a unit into a
staged file, ``LatentCommitter`` puts staged rows into the lake.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from pipelines import registry
from pipelines.encoders import Encoder
from pipelines.lake import Lake
from pipelines.numbers import check_rate
from pipelines.resample import nearest_at_or_before
from pipelines.rows import Row, row_sha256, segment_of, view_of
from pipelines.storage import file_record, fsync_file, fsync_folder, writing
from pipelines.versions import superseded
from pipelines.video import VideoTools
from pipelines.views import target_size
from pipelines.windows import clip_frames, gaps_of, num_latent_frames, runs_between_gaps, uncovered
from schemas.dataset_card import DatasetCard
from schemas.episode import EncodedView
from schemas.errors import LakeError, LayoutError, RecipeError, WamloomError
from schemas.fingerprint import array_sha256, fingerprint
from schemas.latent import ClipPlan
from schemas.recipes import EncodeRecipe, ViewsRecipe
from schemas.tables import LATENTS
from schemas.time import TimeGrid, parse_rate, rate_text
from schemas.work import Outcome, UnitResult, WorkUnit

_COLUMNS = ["outcome", "views", "duration_ns", "control_rate", "num_steps", "dataset", "segments", "card_json"]


@dataclass(frozen=True, slots=True)
class ViewWork:
    """The clips of one view of one episode; small."""

    episode_id: str
    slot: str
    view: EncodedView
    """Without its video."""
    clips: tuple[ClipPlan, ...]


@dataclass(frozen=True, slots=True)
class EncodePlan:
    """What a run will do."""

    num_clips: int
    cached: int
    """Clips whose latents the lake has."""
    num_frames: int
    """Frames to encode, cached clips left out."""
    latent_bytes: int
    uncovered_frames: int
    """Frames in no clip, because a tail is too short for the encoder."""
    episodes: int
    units: tuple[WorkUnit, ...]
    encoder_fingerprint: str


def load_encoder(recipe: EncodeRecipe) -> Encoder:
    """The encoder of the recipe, ready to use. Raises UsageError, MissingFile or LayoutError before any work."""
    return cast(Encoder, registry.load("encoders", recipe.encoder).load(recipe.weights, recipe.options))


def views_fingerprint(views: ViewsRecipe) -> str:
    """Identity of how pixels are made; the choice of slots is not part of it, since every slot has its own row."""
    return fingerprint("views-1", views.model_dump(mode="json", exclude={"slots"}))


def plan_encode(lake: Lake, recipe: EncodeRecipe, encoder: Encoder, where: str = "") -> EncodePlan:
    """Finds the clips of every kept episode and packs those that are missing into units.

    Raises LakeError where no kept episode matches or no clip can be cut, RecipeError where a view's size does not fit the
    encoder or a clip would not fit into memory.
    """
    # not joined into one condition: a filter with a bracket of its own would reach episodes that were not kept
    old = superseded(lake)
    rows = [
        row
        for row in lake.rows("episodes", _COLUMNS, where)
        if row["outcome"] == "kept" and row["episode_id"] not in old
    ]
    if not rows:
        raise LakeError("no kept episode matches", str(lake.root), "see `wamloom status --lake LAKE`", "empty")
    views = views_fingerprint(recipe.views)
    cached_ids = {
        row["latent_id"]
        for row in lake.rows(
            "latents", [], f"encoder_fingerprint = '{encoder.fingerprint}' and views_fingerprint = '{views}'"
        )
    }
    works: list[ViewWork] = []
    num_clips = cached = num_frames = latent_bytes = left = 0
    for row in rows:
        card = DatasetCard.model_validate_json(row["card_json"])
        for value in row["views"]:
            if recipe.views.slots and value["slot"] not in recipe.views.slots:
                continue
            view = view_of(value, card)
            clips, missed = _clips(row, value["slot"], view, recipe, encoder, views)
            left += missed
            num_clips += len(clips)
            missing = tuple(clip for clip in clips if clip.latent_id not in cached_ids)
            cached += len(clips) - len(missing)
            for clip in missing:
                num_frames += len(clip.frame_ids)
                latent_bytes += _clip_bytes(view, clip, recipe, encoder)[1]
            if missing:
                works.append(ViewWork(row["episode_id"], value["slot"], view, missing))
    if not num_clips:
        views_wanted = ", ".join(recipe.views.slots) or "any view"
        raise LakeError(
            f"no clip of {views_wanted} can be cut from the {len(rows)} episodes that match ({left} frames are too few)",
            str(lake.root),
            "see their views with `wamloom show LAKE`; change views.slots, clip.num_frames or rate",
            "empty",
        )
    return EncodePlan(
        num_clips,
        cached,
        num_frames,
        latent_bytes,
        left,
        len(rows),
        tuple(_units(works, recipe, encoder)),
        encoder.fingerprint,
    )


def frame_grid(view: EncodedView, duration_ns: int, rate: Fraction | None) -> tuple[np.ndarray, np.ndarray]:
    """(frame ids, times) of the sequence that clips are cut from: the view's own frames, or the grid at ``rate``.

    The grid is the one a build at that rate uses: it begins with the first step, at 0, and ends at or before the last. A
    grid time before the first frame is left out.
    """
    if rate is None:
        return np.arange(view.num_frames, dtype=np.int64), view.times_ns
    times = TimeGrid.covering(0, duration_ns, rate).times_ns()
    ids = nearest_at_or_before(view.times_ns, times)
    return ids[ids >= 0], times[ids >= 0]


def _clips(
    row: Row, slot: str, view: EncodedView, recipe: EncodeRecipe, encoder: Encoder, views: str
) -> tuple[list[ClipPlan], int]:
    height, width = target_size(recipe.views, view)
    multiple = encoder.size_multiple
    if height % multiple or width % multiple:
        near = tuple(max(multiple, round(edge / multiple) * multiple) for edge in (height, width))
        raise RecipeError(
            f"{recipe.encoder} takes multiples of {multiple} px, and view {slot} of {row['dataset']} would be {height}x{width}",
            f"episode {row['episode_id'][:12]}",
            f"--set views.height_px={near[0]} --set views.width_px={near[1]}, or leave that view out of views.slots",
        )
    check_rate(recipe.rate, parse_rate(row["control_rate"]), row["dataset"])
    ids, times = frame_grid(view, row["duration_ns"], recipe.rate)
    gaps = gaps_of([segment_of(value) for value in row["segments"]], (slot,))
    spans = [
        (first + start, first + stop)
        for first, behind in runs_between_gaps(times, gaps)
        for start, stop in clip_frames(behind - first, encoder.leading_frames, encoder.temporal_stride, recipe.clip)
    ]
    clips = [
        ClipPlan(
            row["episode_id"],
            slot,
            views,
            encoder.fingerprint,
            tuple(ids[start:stop].tolist()),
            tuple(times[start:stop].tolist()),
            recipe.rate,
        )
        for start, stop in spans
    ]
    for clip in clips:
        need = sum(_clip_bytes(view, clip, recipe, encoder))
        if need > recipe.max_clip_mb * 1_000_000:
            raise RecipeError(
                f"a clip of {len(clip.frame_ids)} frames of {height}x{width} needs {need / 1e9:.1f} GB",
                f"episode {row['episode_id'][:12]} view {slot}",
                'set [clip] kind = "fixed", a smaller size, or a larger max_clip_mb',
            )
    return clips, sum(stop - start for start, stop in uncovered(len(ids), spans))


def _clip_bytes(view: EncodedView, clip: ClipPlan, recipe: EncodeRecipe, encoder: Encoder) -> tuple[int, int]:
    """Bytes of the pixels and of the latents of a clip."""
    height, width = target_size(recipe.views, view)
    latents = num_latent_frames(len(clip.frame_ids), encoder.leading_frames, encoder.temporal_stride)
    values = latents * encoder.channels * (height // encoder.spatial_stride) * (width // encoder.spatial_stride)
    return len(clip.frame_ids) * height * width * 3, values * np.dtype(recipe.dtype).itemsize


def _units(works: list[ViewWork], recipe: EncodeRecipe, encoder: Encoder) -> list[WorkUnit]:
    packs: list[tuple[list[ViewWork], int, int]] = []
    for work in works:
        frames = sum(len(clip.frame_ids) for clip in work.clips)
        num_bytes = sum(sum(_clip_bytes(work.view, clip, recipe, encoder)) for clip in work.clips)
        if packs:
            pack, packed_frames, packed_bytes = packs[-1]
            fits = packed_frames + frames <= recipe.unit_frames
            if fits and packed_bytes + num_bytes <= recipe.unit_mb * 1_000_000:
                packs[-1] = ([*pack, work], packed_frames + frames, packed_bytes + num_bytes)
                continue
        packs.append(([work], frames, num_bytes))
    return [
        WorkUnit(
            fingerprint("encode-1", [clip.latent_id for work in pack for clip in work.clips], recipe.dtype),
            tuple(pack),
            num_bytes,
        )
        for pack, _, num_bytes in packs
    ]


class EncodeWorker:
    """Decodes and encodes the clips of a unit into one staged file. A view that cannot be read costs its own clips only."""

    def __init__(self, lake: str, versions: Mapping[str, int], staging: str, recipe: EncodeRecipe) -> None:
        self._lake = Lake.open(lake, dict(versions))
        self._staging = Path(staging)
        self._recipe = recipe
        self._encoder = load_encoder(recipe)
        self._video = VideoTools(recipe.limits)

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """Encodes the unit."""
        path = self._staging / f"{unit.unit_id}.arrow"
        with writing(path):
            return self._write(unit, path)

    def _write(self, unit: WorkUnit, path: Path) -> UnitResult:
        self._staging.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        outcomes: list[Outcome] = []
        num_rows = 0
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, LATENTS) as writer:
            for work in cast(tuple[ViewWork, ...], unit.payload):
                done: set[str] = set()
                try:
                    for clip, values in self._encode(work):
                        writer.write_batch(self._batch(clip, values))
                        outcomes.append(Outcome(clip.latent_id, "kept", content_id=clip.episode_id))
                        done.add(clip.latent_id)
                        num_rows += 1
                except WamloomError as error:
                    where = error.where or f"episode {work.episode_id[:12]} view {work.slot}"
                    outcomes += [
                        Outcome(
                            clip.latent_id, "failed", error.reason, error.message, where, error.hint, clip.episode_id
                        )
                        for clip in work.clips
                        if clip.latent_id not in done
                    ]
        fsync_file(partial)
        partial.replace(path)
        fsync_folder(self._staging)
        frames = float(sum(len(clip.frame_ids) for work in unit.payload for clip in work.clips))
        return UnitResult(
            unit.unit_id, tuple(outcomes), (file_record(path, self._staging, num_rows),), (("frames", frames),)
        )

    @staticmethod
    def lost(unit: WorkUnit, reason: str, message: str) -> UnitResult:
        """The outcomes of a unit that killed its worker again and again."""
        works = cast(tuple[ViewWork, ...], unit.payload)
        return UnitResult(
            unit.unit_id,
            tuple(Outcome(clip.latent_id, "failed", reason, message) for work in works for clip in work.clips),
        )

    def close(self) -> None:
        """Ends the decoding child."""
        self._video.close()

    def _encode(self, work: ViewWork) -> Iterator[tuple[ClipPlan, np.ndarray]]:
        where = f"episode {work.episode_id[:12]} view {work.slot}"
        view = self._lake.video(work.episode_id, work.slot, work.view)
        for clip in work.clips:
            chunks = list(
                self._video.decode(view, where, np.asarray(clip.frame_ids, dtype=np.int64), self._recipe.views)
            )
            yield clip, self._encoder.encode(chunks[0] if len(chunks) == 1 else np.concatenate(chunks))

    def _batch(self, clip: ClipPlan, values: np.ndarray) -> pa.RecordBatch:
        stored = np.ascontiguousarray(values.astype(self._recipe.dtype))
        if not np.isfinite(stored).all():
            raise LayoutError(
                f"the encoder gave values that are not finite as {self._recipe.dtype}",
                f"episode {clip.episode_id[:12]} view {clip.slot}",
                'check the weights, or set dtype = "float32"',
                "latent_not_finite",
            )
        row: Row = {
            "latent_id": clip.latent_id,
            "episode_id": clip.episode_id,
            "slot": clip.slot,
            "encoder": self._encoder.name,
            "encoder_fingerprint": clip.encoder_fingerprint,
            "views_json": self._recipe.views.model_dump_json(exclude={"slots"}),
            "views_fingerprint": clip.views_fingerprint,
            "rate": "native" if clip.rate is None else rate_text(clip.rate),
            "frame_ids": list(clip.frame_ids),
            "times_ns": list(clip.times_ns),
            "start_ns": clip.times_ns[0],
            "stop_ns": clip.times_ns[-1] + 1,
            "temporal_stride": self._encoder.temporal_stride,
            "leading_frames": self._encoder.leading_frames,
            "axes": "LCHW",
            "normalization": self._encoder.normalization,
            "sampling": self._encoder.sampling,
            "dtype": stored.dtype.str,
            "shape": list(stored.shape),
            "data": stored.tobytes(),
            "data_sha256": array_sha256(stored),
            "row_sha256": "",
        }
        arrays = [pa.array([row[entry.name]], entry.type) for entry in LATENTS]
        batch = pa.RecordBatch.from_arrays(arrays, schema=LATENTS)
        index = LATENTS.get_field_index("row_sha256")
        return batch.set_column(index, LATENTS.field(index), pa.array([row_sha256(batch)], pa.string()))


@dataclass(slots=True)
class EncodeTotals:
    """The account of a run: clips = cached + computed + failed."""

    clips: int = 0
    cached: int = 0
    computed: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[Outcome] = field(default_factory=list)


class LatentCommitter:
    """Puts staged latents into the lake, a unit at a time, and keeps the account."""

    def __init__(self, lake: Lake, plan: EncodePlan, staging: Path) -> None:
        self._lake = lake
        self._staging = staging
        self.totals = EncodeTotals(clips=plan.num_clips, cached=plan.cached)

    def add(self, result: UnitResult) -> None:
        """Commits one unit; after this returns, its latents survive anything."""
        for record in result.files:
            path = self._staging / record.path
            with pa.memory_map(str(path)) as file:
                rows = pa.ipc.open_file(file).read_all()
            if rows.num_rows:
                self._lake.insert("latents", rows)
            path.unlink()
        for outcome in result.outcomes:
            if outcome.kind == "kept":
                self.totals.computed += 1
            else:
                self.totals.failed += 1
                self.totals.reasons[outcome.reason] += 1
                self.totals.problems.append(outcome)

    def close(self) -> EncodeTotals:
        """Proves the account. Raises LakeError where a planned clip has neither latents nor a failure."""
        totals = self.totals
        if totals.cached + totals.computed + totals.failed != totals.clips:
            raise LakeError(
                f"the account does not close: {totals.clips} clips, {totals.cached} cached, {totals.computed} computed, "
                f"{totals.failed} failed",
                str(self._lake.root),
                "run the same command again; it computes what is missing",
                "account",
            )
        return totals
