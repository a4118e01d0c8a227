"""Encoding one unit: every clip decoded ahead of the encoder, clips of one shape encoded together, rows staged."""

import contextlib
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa

from pipelines import registry
from pipelines.ahead import ahead
from pipelines.clip_reader import ClipReader
from pipelines.clips import ClipSource, EncoderShape, areas_of
from pipelines.encoders import Encoder
from pipelines.frame_encoder import FrameEncoder
from pipelines.lake import Lake
from pipelines.rows import Row, row_sha256
from pipelines.storage import file_record, fsync_file, fsync_folder, writing
from schemas.errors import FingerprintMismatch, LayoutError, WamloomError
from schemas.fingerprint import array_sha256
from schemas.latent import ClipPlan
from schemas.recipes import EncodeRecipe
from schemas.tables import LATENTS
from schemas.work import Outcome, UnitResult, WorkUnit

AHEAD = 2
"""Clips that are decoded before the encoder asks for them."""


def load_encoder(recipe: EncodeRecipe) -> Encoder:
    """The encoder of the recipe, ready to use. Raises UsageError, MissingFile or LayoutError before any work."""
    encoder = cast(Encoder, registry.load("encoders", recipe.encoder).load(recipe.weights, recipe.options))
    return FrameEncoder(encoder) if recipe.clip.kind == "frames" else encoder


def shape_of(encoder: Encoder) -> EncoderShape:
    """What clips have to know of ``encoder``."""
    return EncoderShape(
        encoder.name,
        encoder.fingerprint,
        encoder.temporal_stride,
        encoder.leading_frames,
        encoder.spatial_stride,
        encoder.size_multiple,
        encoder.channels,
    )


@dataclass(frozen=True, slots=True)
class _Pixels:
    """A clip as the encoder gets it: one picture a frame, or one for each tile; or the error that it has instead."""

    source: ClipSource
    clip: ClipPlan
    parts: tuple[np.ndarray, ...] = ()
    """uint8 [F, h, w, 3] each."""
    error: WamloomError | None = None

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def key(self) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
        """Clips of one key can be encoded together: the same views in the same places, since one episode may lack a view that
        another has."""
        return tuple(slot for slot, _ in self.clip.tiles), tuple(part.shape for part in self.parts)


def works_of(unit: WorkUnit) -> tuple[ClipSource, ...]:
    """What a planned unit encodes."""
    return cast(tuple[ClipSource, ...], unit.payload)


class EncodeWorker:
    """Decodes and encodes the clips of a unit into one staged file. A view that cannot be read costs its own clips only."""

    def __init__(self, lake: str, versions: Mapping[str, int], staging: str, recipe: EncodeRecipe) -> None:
        self._lake = Lake.open(lake, dict(versions))
        self._staging = Path(staging)
        self._recipe = recipe
        self._encoder = load_encoder(recipe)
        self._reader = ClipReader(self._lake, recipe)
        self._canvas = self._reader.canvas

    @property
    def encoder(self) -> Encoder:
        """The encoder of the recipe."""
        return self._encoder

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """Encodes the unit. Raises FingerprintMismatch where the weights found here are not those of the plan."""
        planned = {clip.encoder_fingerprint for work in works_of(unit) for clip in work.clips}
        if planned - {self._encoder.fingerprint}:
            raise FingerprintMismatch(
                f"the encoder has the fingerprint {self._encoder.fingerprint}, not {min(planned)}",
                self._recipe.weights or self._recipe.encoder,
                "let every machine that works have the same weights, unchanged while it does; then run the same command again",
            )
        path = self._staging / f"{unit.unit_id}.arrow"
        with writing(path):
            return self._write(unit, path)

    def _write(self, unit: WorkUnit, path: Path) -> UnitResult:
        self._staging.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        outcomes: list[Outcome] = []
        num_rows = 0
        works = works_of(unit)
        with (
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, LATENTS) as writer,
            contextlib.closing(self.encoded(works)) as rows,  # a full disk must not leave a thread that decodes on
        ):
            for clip, batch in rows:
                if isinstance(batch, WamloomError):
                    where = batch.where or f"episode {clip.episode_id[:12]} view {clip.slot}"
                    outcomes.append(
                        Outcome(
                            clip.latent_id, "failed", batch.reason, batch.message, where, batch.hint, clip.episode_id
                        )
                    )
                    continue
                writer.write_batch(batch)
                outcomes.append(Outcome(clip.latent_id, "kept", content_id=clip.episode_id))
                num_rows += 1
        fsync_file(partial)
        partial.replace(path)
        fsync_folder(self._staging)
        frames = float(sum(len(clip.frame_ids) for work in works for clip in work.clips))
        return UnitResult(
            unit.unit_id, tuple(outcomes), (file_record(path, self._staging, num_rows),), (("frames", frames),)
        )

    @staticmethod
    def lost(unit: WorkUnit, reason: str, message: str) -> UnitResult:
        """The outcomes of a unit that killed its worker again and again."""
        works = works_of(unit)
        return UnitResult(
            unit.unit_id,
            tuple(Outcome(clip.latent_id, "failed", reason, message) for work in works for clip in work.clips),
        )

    def close(self) -> None:
        """Ends the decoding child."""
        self._reader.close()

    def encoded(
        self, works: Sequence[ClipSource]
    ) -> Generator[tuple[ClipPlan, pa.RecordBatch | WamloomError], None, None]:
        """The row of every clip of ``works`` in order, or why it has none. The next clips are decoded meanwhile."""
        with contextlib.closing(ahead(self._pixels(works), AHEAD)) as clips:
            for batch in self._batches(clips, self._recipe.batch_clips):
                for one, values in zip(batch, self._values(batch), strict=True):
                    if isinstance(values, WamloomError):
                        yield one.clip, values
                        continue
                    try:
                        row = self._row(one.clip, values)
                    except WamloomError as error:
                        yield one.clip, error
                        continue
                    yield one.clip, row

    def _pixels(self, works: Iterable[ClipSource]) -> Iterator[_Pixels]:
        """Every clip of ``works`` decoded; once a view cannot be read, none of its clips is tried again."""
        for work in works:
            failed: WamloomError | None = None
            for clip in work.clips:
                if failed is None:
                    try:
                        yield _Pixels(work, clip, self._reader.parts(work, clip))
                        continue
                    except WamloomError as error:
                        failed = error
                yield _Pixels(work, clip, error=failed)

    def _batches(self, clips: Iterator[_Pixels], limit: int) -> Iterator[list[_Pixels]]:
        """Neighbours of one shape, up to ``limit`` and as many as fit into the memory of a unit; failed ones alone."""
        batch: list[_Pixels] = []
        for one in clips:
            full = len(batch) >= limit
            large = sum(each.num_bytes for each in batch) + one.num_bytes > self._recipe.unit_mb * 1_000_000
            if batch and (full or large or one.error or batch[0].error or one.key != batch[0].key):
                yield batch
                batch = []
            batch.append(one)
        if batch:
            yield batch

    def _values(self, batch: Sequence[_Pixels]) -> list[np.ndarray | WamloomError]:
        """Latents [L, C, h, w] of each clip of a batch, or its error."""
        if batch[0].error is not None:
            return [one.error or batch[0].error for one in batch]
        try:
            parts = [
                self._encoder.encode_clips(np.stack(column))
                for column in zip(*(one.parts for one in batch), strict=True)
            ]
        except WamloomError as error:
            # one clip of several may be at fault: each for itself tells which
            return [error] if len(batch) == 1 else [value for one in batch for value in self._values([one])]
        if self._canvas is None or not self._canvas.joins_latents:
            return list(parts[0])
        areas = areas_of(self._canvas, batch[0].source)
        stride = self._encoder.spatial_stride
        return [self._canvas.latent(areas, [part[index] for part in parts], stride) for index in range(len(batch))]

    def _row(self, clip: ClipPlan, values: np.ndarray) -> pa.RecordBatch:
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
            "rate": clip.rate_told,
            "frame_ids": list(clip.frame_ids),
            "tiles": [{"slot": slot, "frame_ids": list(ids)} for slot, ids in clip.tiles],
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
