"""Reading one unit of an ingest: every episode read, mapped by its card, judged, and staged as a row."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pyarrow as pa

from pipelines import cards, registry
from pipelines.channels import to_episode
from pipelines.rows import Row, episode_row, failed_row, outcome_of, staged_table
from pipelines.segments import with_segments
from pipelines.sources import Source
from pipelines.storage import file_record, fsync_file, fsync_folder, writing
from pipelines.video import VideoTools
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Embodiment
from schemas.episode import EpisodeRef, RawEpisode
from schemas.errors import WamloomError
from schemas.recipes import IngestRecipe
from schemas.work import Outcome, UnitResult, WorkUnit
from validation.check import Subject, judge_episode
from validation.evidence import ViewEvidence

CardChoice = tuple[str, str]
"""A card and its embodiment as JSON: small, plain, the same on any machine."""


def recognize(raw: RawEpisode) -> tuple[DatasetCard, Embodiment]:
    """The shipped card that knows this recording, with its embodiment. Raises CardError where none does."""
    fields = [*(stream.name for stream in raw.streams), *(view.key for view in raw.views)]
    card = cards.recognize(raw.ref.source, raw.ref.dataset, raw.robot_type, fields, where=raw.ref.location)
    return card, cards.load_embodiment(card.embodiment)


class IngestWorker:
    """Turns a unit of episode references into one staged Arrow file of rows. Bad data becomes rows, never an exception."""

    def __init__(self, staging: str, recipe: IngestRecipe, choices: Mapping[str, CardChoice], version: str) -> None:
        self._staging = Path(staging)
        self._recipe = recipe
        self._choices = {
            location: (DatasetCard.model_validate_json(card), Embodiment.model_validate_json(embodiment))
            for location, (card, embodiment) in choices.items()
        }
        self._version = version
        self._video = VideoTools(recipe.limits)

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """Reads every episode of the unit and stages its rows."""
        rows = [self._row(ref) for ref in cast(tuple[EpisodeRef, ...], unit.payload)]
        return stage_rows(self._staging, unit.unit_id, rows)

    @staticmethod
    def lost(unit: WorkUnit, reason: str, message: str) -> UnitResult:
        """The outcomes of a unit that killed its worker again and again; the committer writes their rows."""
        outcomes = tuple(
            Outcome(ref.where, "failed", reason, message) for ref in cast(tuple[EpisodeRef, ...], unit.payload)
        )
        return UnitResult(unit.unit_id, outcomes)

    def close(self) -> None:
        """Ends the decoding child."""
        self._video.close()

    def _row(self, ref: EpisodeRef) -> Row:
        try:
            source = cast(Source, registry.load("sources", ref.source).SOURCE)
            raw = source.read(ref, self._video, self._recipe.limits)
            pair = self._choices.get(ref.location) or recognize(raw)
            episode = with_segments(to_episode(raw, *pair), self._recipe.segments)
            evidence = {}
            if self._recipe.video_check == "decode":
                evidence = {
                    slot: ViewEvidence.of(self._video.thumbnails(view, f"{ref.where} {view.key}"))
                    for slot, view in episode.views.items()
                }
        except WamloomError as error:
            return failed_row(ref, error, self._recipe.fingerprint, self._version)
        findings, measures, rejection = judge_episode(Subject(episode, evidence), self._recipe.gates)
        return episode_row(episode, findings, measures, rejection, self._recipe.fingerprint, self._version)


def stage_rows(staging: Path, unit_id: str, rows: list[Row]) -> UnitResult:
    """Writes rows durably where the driver finds them; one record batch each, so that it never holds more than it commits."""
    path = staging / f"{unit_id}.arrow"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    table = staged_table(rows)
    with writing(path):
        staging.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1)
        fsync_file(partial)
        partial.replace(path)
        fsync_folder(staging)
    return UnitResult(unit_id, tuple(outcome_of(row) for row in rows), (file_record(path, staging, table.num_rows),))
