"""Reading one unit of an ingest: every episode read, mapped by its card, judged, and staged as a row."""

import contextlib
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import cast

import pyarrow as pa

from pipelines import cards, companions, registry
from pipelines.channels import to_episode
from pipelines.rows import Row, episode_row, failed_row, outcome_of, staged_batch, video_file
from pipelines.segments import with_segments
from pipelines.sources import Source
from pipelines.storage import writing
from pipelines.video import VideoTools
from pipelines.video_spool import Spool, SpoolError
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Embodiment
from schemas.episode import EncodedView, EpisodeRef, RawEpisode, VideoFile
from schemas.errors import DecodeError, WamloomError
from schemas.recipes import IngestRecipe
from schemas.tables import STAGED_EPISODES
from schemas.work import FileRecord, Outcome, UnitResult, WorkUnit
from validation.check import Subject, judge_episode
from validation.evidence import ViewEvidence

ROWS_SUFFIX = ".arrow"
"""Of the staged file of a unit's rows."""
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
        self._spool = Spool(self._staging / f"spool-{os.getpid()}-{uuid.uuid4().hex[:8]}", recipe.blob_mb * 1_000_000)
        self._video = VideoTools(recipe.limits, self._spool)
        self._video.start()
        self._annotations = companions.load(recipe.annotations)

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """Reads every episode of the unit and stages its rows, and its large videos as files of their own."""
        videos: dict[str, FileRecord] = {}
        rows = (self._row(ref, unit.unit_id, videos) for ref in cast(tuple[EpisodeRef, ...], unit.payload))
        try:
            result = stage_rows(self._staging, unit.unit_id, rows)
        except SpoolError as error:
            with writing(self._staging):
                raise error.error from error
        return replace(result, files=(*result.files, *videos.values()))

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
        self._spool.clear()

    def _row(self, ref: EpisodeRef, unit_id: str, videos: dict[str, FileRecord]) -> Row:
        """The row of one episode; the files of its large videos, if it is kept, are added to ``videos``."""
        try:
            return self._read(ref, unit_id, videos)
        finally:
            self._spool.clear()  # what became of no row

    def _read(self, ref: EpisodeRef, unit_id: str, videos: dict[str, FileRecord]) -> Row:
        try:
            source = cast(Source, registry.load("sources", ref.source).SOURCE)
            raw = source.read(companions.without_mark(ref), self._video, self._recipe.limits)
            raw = self._annotations.apply(raw, ref)
            pair = self._choices.get(ref.location) or recognize(raw)
            episode = with_segments(to_episode(raw, *pair), self._recipe.segments)
            evidence = {}
            if self._recipe.video_check == "decode":
                evidence = {
                    slot: ViewEvidence.of(self._video.thumbnails(view, f"{ref.where} {view.key}"))
                    for slot, view in episode.views.items()
                }
                for view in episode.depth.values():
                    self._check_depth(view, f"{ref.where} {view.key}")
        except WamloomError as error:
            return failed_row(ref, error, self._recipe.fingerprint, self._version)
        findings, measures, rejection = judge_episode(Subject(episode, evidence), self._recipe.gates)
        row = episode_row(episode, findings, measures, rejection, self._recipe.fingerprint, self._version)
        if rejection is None:
            for view in (*episode.views.values(), *episode.depth.values()):
                if isinstance(view.data, VideoFile):
                    self._stage_video(view.data, f"{unit_id}/{PurePosixPath(video_file(view)).name}", videos)
        return row

    def _check_depth(self, view: EncodedView, where: str) -> None:
        """Decodes every frame. Raises DecodeError, but keeps depth that is written otherwise, such as in colors."""
        try:
            for _ in self._video.decode_depth(view, where):
                pass
        except DecodeError as error:
            if error.reason != "unsupported_codec":
                raise

    def _stage_video(self, video: VideoFile, name: str, videos: dict[str, FileRecord]) -> None:
        path = self._staging / name
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            Path(video.path).replace(path)
        videos[name] = FileRecord(name, video.num_bytes, path.stem)


def stage_rows(staging: Path, unit_id: str, rows: Iterable[Row]) -> UnitResult:
    """Writes rows where the driver finds them, one record batch each, so that neither holds more than it works on.

    Nothing here is made durable: what a run that dies has staged is never read again.
    """
    path = staging / f"{unit_id}{ROWS_SUFFIX}"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    outcomes = []
    with contextlib.ExitStack() as opened:
        with writing(path):
            staging.mkdir(parents=True, exist_ok=True)
            sink = opened.enter_context(pa.OSFile(str(partial), "wb"))
            writer = opened.enter_context(pa.ipc.new_file(sink, STAGED_EPISODES))
        for row in rows:
            batch = staged_batch(row)
            outcomes.append(outcome_of(row))
            del row  # the next one is read while nothing of this one is held
            with writing(path):
                writer.write_batch(batch)
            del batch
        with writing(path):
            opened.close()
    with writing(path):
        partial.replace(path)
        record = FileRecord(path.name, path.stat().st_size, "", len(outcomes))
    return UnitResult(unit_id, tuple(outcomes), (record,))
