"""Encoding one unit: every clip decoded ahead of the encoder, clips of one shape encoded together, rows staged."""

import contextlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from pipelines.clip_encoder import ClipEncoder
from pipelines.clip_reader import ClipReader
from pipelines.clips import ClipSource
from pipelines.encoders import Encoder
from pipelines.lake import Lake
from pipelines.staged_rows import staged_rows
from pipelines.storage import file_record, writing
from schemas.errors import WamloomError
from schemas.latent import ClipPlan
from schemas.recipes import EncodeRecipe
from schemas.tables import LATENTS
from schemas.work import Outcome, UnitResult, WorkUnit


def works_of(unit: WorkUnit) -> tuple[ClipSource, ...]:
    """What a planned unit encodes."""
    return cast(tuple[ClipSource, ...], unit.payload)


class EncodeWorker:
    """Decodes and encodes the clips of a unit into one staged file. A view that cannot be read costs its own clips only."""

    def __init__(self, lake: str, versions: Mapping[str, int], staging: str, recipe: EncodeRecipe) -> None:
        self._staging = Path(staging)
        self._clips = ClipEncoder(recipe)
        self._reader = ClipReader(Lake.open(lake, dict(versions)), recipe)

    @property
    def encoder(self) -> Encoder:
        """The encoder of the recipe."""
        return self._clips.encoder

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """Encodes the unit. Raises FingerprintMismatch where the weights found here are not those of the plan."""
        self._clips.check(works_of(unit))
        path = self._staging / f"{unit.unit_id}.arrow"
        with writing(path):
            return self._write(unit, path)

    def _write(self, unit: WorkUnit, path: Path) -> UnitResult:
        outcomes: list[Outcome] = []
        num_rows = 0
        works = works_of(unit)
        with (
            staged_rows(path, LATENTS) as writer,
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
        frames = float(sum(len(clip.frame_ids) for work in works for clip in work.clips))
        return UnitResult(
            unit.unit_id, tuple(outcomes), (file_record(path, self._staging, num_rows),), (("frames", frames),)
        )

    def encoded(
        self, works: Sequence[ClipSource]
    ) -> Generator[tuple[ClipPlan, pa.RecordBatch | WamloomError], None, None]:
        """The row of every clip of ``works`` in order, or why it has none."""
        return self._clips.encoded(self._reader.read(works))

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
