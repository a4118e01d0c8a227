"""From the pixels of clips to rows of latents: clips of one shape encoded together, decoded ahead of the encoder."""

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import pyarrow as pa

from pipelines import registry
from pipelines.ahead import ahead
from pipelines.clip_reader import ClipPixels
from pipelines.clips import ClipSource, EncoderShape, areas_of
from pipelines.encoders import Encoder
from pipelines.frame_encoder import FrameEncoder
from pipelines.rows import Row, row_sha256
from pipelines.views import canvas_plan
from schemas.errors import FingerprintMismatch, LayoutError, WamloomError
from schemas.fingerprint import array_sha256
from schemas.latent import ClipPlan
from schemas.recipes import EncodeRecipe
from schemas.tables import LATENTS

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


class ClipEncoder:
    """The encoder of a recipe, loaded, and what becomes of clips by it."""

    def __init__(self, recipe: EncodeRecipe) -> None:
        self._recipe = recipe
        self._encoder = load_encoder(recipe)
        self._canvas = canvas_plan(recipe.views)

    @property
    def encoder(self) -> Encoder:
        """The encoder of the recipe."""
        return self._encoder

    def check(self, works: Iterable[ClipSource]) -> None:
        """Raises FingerprintMismatch where the weights found here are not those that ``works`` were planned for."""
        planned = {clip.encoder_fingerprint for work in works for clip in work.clips}
        if planned - {self._encoder.fingerprint}:
            raise FingerprintMismatch(
                f"the encoder has the fingerprint {self._encoder.fingerprint}, not {min(planned)}",
                self._recipe.weights or self._recipe.encoder,
                "let every machine that works have the same weights, unchanged while it does; then run the same command again",
            )

    def encoded(
        self, clips: Iterator[ClipPixels]
    ) -> Generator[tuple[ClipPlan, pa.RecordBatch | WamloomError], None, None]:
        """The row of every clip in order, or why it has none. The next ``clips`` are made meanwhile, in a thread."""
        with contextlib.closing(ahead(clips, AHEAD)) as made:
            for batch in self._batches(made, self._recipe.batch_clips):
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

    def _batches(self, clips: Iterator[ClipPixels], limit: int) -> Iterator[list[ClipPixels]]:
        """Neighbours of one shape, up to ``limit`` and as many as fit into the memory of a unit; failed ones alone."""
        batch: list[ClipPixels] = []
        for one in clips:
            full = len(batch) >= limit
            large = sum(each.num_bytes for each in batch) + one.num_bytes > self._recipe.unit_mb * 1_000_000
            if batch and (full or large or one.error or batch[0].error or one.key != batch[0].key):
                yield batch
                batch = []
            batch.append(one)
        if batch:
            yield batch

    def _values(self, batch: Sequence[ClipPixels]) -> list[np.ndarray | WamloomError]:
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
