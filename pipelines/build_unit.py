"""Writing one unit of a build: every view decoded once (or copied, where it already is what is asked for), every format
written from that, every step's lineage kept.
"""

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import registry
from pipelines.action_chunks import ActionChunks, ChunkLayout
from pipelines.action_plan import ActionPlan
from pipelines.build_texts import BuildTexts, text_kinds
from pipelines.clip_encoder import ClipEncoder
from pipelines.clip_reader import ClipPixels
from pipelines.clips import ClipSource
from pipelines.formats import BuiltEpisode, EpisodePlan, Format, GroupPlan, PictureWriter, UnitPlan, sized
from pipelines.joined_latents import JoinedLatents, LatentChoice
from pipelines.lake import Lake
from pipelines.numbers import EpisodeNumbers, Origin, numbers_of
from pipelines.release import LINEAGE, UnitFolder
from pipelines.rows import Row, StoredEpisode
from pipelines.staged_rows import staged_rows
from pipelines.stats import normalize
from pipelines.storage import writing
from pipelines.tokenizers import Tokenizer
from pipelines.unit_pictures import Target, UnitPictures
from pipelines.views import shown_views
from pipelines.windows import Windows, plan_windows
from schemas.episode import Calibration
from schemas.errors import LakeError, WamloomError
from schemas.recipes import BuildRecipe, EncodeRecipe
from schemas.tables import LATENTS
from schemas.work import Outcome, UnitResult, WorkUnit

STAGED_LATENTS = "latents"
"""Folder of a build's staging with what has yet to come into the lake."""


@dataclass(frozen=True, slots=True)
class UnitLatents:
    """What a unit of a build that makes latents has beside its plan."""

    works: tuple[ClipSource, ...]
    """To be encoded."""
    keys: frozenset[str]
    """Of all that it joins, so that what comes into the lake meanwhile is not joined; other hashes may be among them."""


def latents_of_unit(unit: WorkUnit) -> UnitLatents | None:
    """None in builds that make none."""
    return cast(UnitLatents, unit.payload[1]) if len(unit.payload) > 1 else None


def encodes(unit: WorkUnit) -> bool:
    """Whether a unit of a build has something to encode."""
    found = latents_of_unit(unit)
    return found is not None and bool(found.works)


def staged_latents(staging: Path, unit_id: str) -> Path:
    """Where a unit leaves the latents that it made, for the lake."""
    return staging / STAGED_LATENTS / f"{unit_id}.arrow"


class BuildWorker:
    """Writes the files of a unit in every format, from one decode of every view."""

    def __init__(
        self,
        lake: str,
        versions: Mapping[str, int],
        staging: str,
        recipe: BuildRecipe,
        latents: LatentChoice | None,
        encode: EncodeRecipe | None = None,
    ) -> None:
        """``latents`` are joined. Those that a unit names besides its plan are made by ``encode`` and staged for the lake."""
        self._lake = Lake.open(lake, dict(versions))
        self._staging = Path(staging)
        self._recipe = recipe
        self._joined = JoinedLatents(self._lake, recipe, latents)
        self._encode = encode
        self._encoder: ClipEncoder | None = None
        self._formats = {name: cast(Format, registry.load("formats", name).FORMAT) for name in recipe.formats}
        self._pictures = UnitPictures(self._lake, recipe, encode)
        self._texts = {name: BuildTexts(self._lake, kind) for name, kind in text_kinds(recipe).items()}

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """Writes one unit. Raises WamloomError where the lake is damaged: a planned index must never be left empty."""
        with writing(self._staging):
            return self._write(unit)

    @staticmethod
    def lost(unit: WorkUnit, reason: str, message: str) -> UnitResult:
        """A build cannot go on without a unit, since its indices are planned; the driver stops on these outcomes."""
        plan = cast(UnitPlan, unit.payload[0])
        return UnitResult(unit.unit_id, tuple(Outcome(e.episode_id, "failed", reason, message) for e in plan.episodes))

    def close(self) -> None:
        """Ends the decoding child."""
        self._pictures.close()

    def _write(self, unit: WorkUnit) -> UnitResult:
        plan = cast(UnitPlan, unit.payload[0])
        corner = UnitFolder(self._staging, unit.unit_id, f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
        units = {name: sized(plan, self._recipe, name) for name in self._formats}
        writers = {
            name: form.open_unit(units[name], self._recipe, corner.folder / (form.beside or name) / plan.group.name)
            for name, form in self._formats.items()
        }
        targets = [
            Target(writer, units[name], self._recipe.size_of(name))
            for name, writer in writers.items()
            if isinstance(writer, PictureWriter)
        ]
        read = [self._read(episode) for episode in plan.episodes]
        misfits = self._pictures.misfits([(stored, numbers.frames) for stored, numbers in read], targets)
        copied = frozenset(kind for kind, misfit in misfits.items() if not misfit)
        lineage: list[pa.Table] = []
        latents, shared = latents_of_unit(unit), self._pictures.shared_clips
        works = latents.works if latents else ()
        with ExitStack() as opened:
            staged = opened.enter_context(self._staged_latents(unit, works)) if works else None
            for episode, (stored, numbers) in zip(plan.episodes, read, strict=True):
                built = self._built(plan, episode, stored, numbers)
                for name, writer in writers.items():
                    own = self._texts.get(name)
                    writer.begin(
                        built if own is None else replace(built, embeddings=own.embeddings_of(stored, episode))
                    )
                shown = (stored, numbers.frames)
                clips = [work for work in works if work.episode_id == episode.episode_id]
                pictures = self._pictures.pass_by(shown, numbers.num_steps, targets, copied, clips)
                made = self._passed(pictures, staged)
                built.latents.update(self._joined.of(stored, made, latents.keys if latents else None))
                for writer in writers.values():
                    writer.end()
                lineage.append(_lineage_table(plan.group.name, built, numbers, self._recipe))
        facts = {name: writer.close() for name, writer in writers.items()}
        path = corner.folder / LINEAGE / plan.group.name / f"{plan.file_index:05d}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.concat_tables(lineage), path, compression="zstd", write_page_checksum=True)
        files = corner.finish(facts, [(view, misfit) for (view, _, _), misfit in misfits.items()])
        outcomes = tuple(Outcome(e.episode_id, "kept", content_id=e.episode_id) for e in plan.episodes)
        steps = float(sum(e.num_steps for e in plan.episodes))
        told = {
            "frames": steps * len(plan.group.views),
            "steps": steps,
            "shared_clips": float(self._pictures.shared_clips - shared),
        }
        return UnitResult(unit.unit_id, outcomes, files, tuple(told.items()))

    def _staged_latents(
        self, unit: WorkUnit, works: Iterable[ClipSource]
    ) -> AbstractContextManager[pa.ipc.RecordBatchFileWriter]:
        """The file for latents that ``unit`` makes; opens the encoder, of which the weights are looked at."""
        if self._encode is None:
            raise ValueError("a unit with clips needs an encode recipe")
        self._encoder = self._encoder or ClipEncoder(self._encode)
        self._encoder.check(works)
        return staged_rows(staged_latents(self._staging, unit.unit_id), LATENTS)

    def _passed(self, clips: Iterator[ClipPixels], staged: pa.ipc.RecordBatchFileWriter | None) -> list[Row]:
        """Lets the pictures of an episode pass, and stages the rows of the ``clips`` that come on the way, which it returns.

        Pictures pass in another thread than the encoder's. Raises what a clip that cannot be read or encoded has instead.
        """
        if self._encoder is None or staged is None:
            for _ in clips:
                raise ValueError("a clip that nobody planned")
            return []
        rows: list[Row] = []
        with closing(self._encoder.encoded(clips)) as encoded:
            for _, row in encoded:
                if isinstance(row, WamloomError):
                    raise row
                staged.write_batch(row)
                rows += row.to_pylist()
        return rows

    def _read(self, plan: EpisodePlan) -> tuple[StoredEpisode, EpisodeNumbers]:
        stored = self._lake.episode(plan.episode_id)
        return stored, numbers_of(stored, self._recipe.rate, shown_views(self._recipe.views, stored.views).slots)

    def _built(self, unit: UnitPlan, plan: EpisodePlan, stored: StoredEpisode, numbers: EpisodeNumbers) -> BuiltEpisode:
        shown = shown_views(self._recipe.views, stored.views)
        windows = plan_windows(numbers.times_ns, stored.segments, shown.slots, self._recipe)
        slot_of = self._recipe.names.slot
        pictures = {name: numbers.frames[shown.sources[slot_of(name)]] for name, _, _ in unit.group.views}
        if (numbers.num_steps, len(windows.starts)) != (plan.num_steps, plan.num_samples):
            raise LakeError(
                f"{numbers.num_steps} steps and {len(windows.starts)} windows where {plan.num_steps} and "
                f"{plan.num_samples} were planned",
                f"episode {plan.episode_id[:12]}",
                reason="damaged",
            )
        chunks = self._chunks(unit.group, stored, numbers, windows)
        action, proprio = (
            normalize(values, unit.group.normalizing(name), self._recipe.normalize)
            for name, values in (("action", numbers.action), ("proprio", numbers.proprio))
        )
        return BuiltEpisode(
            plan=plan,
            times_ns=numbers.times_ns,
            action=action.astype(np.float32),
            proprio=proprio.astype(np.float32),
            chunks=chunks,
            valid=numbers.valid,
            source_rows=numbers.commands.rows,
            source_times_ns=numbers.commands.times_ns,
            frame_ids={name: origin.rows for name, origin in pictures.items()},
            frame_times_ns={name: origin.times_ns for name, origin in pictures.items()},
            tokens=_tokens(unit.group, self._recipe, chunks),
            sample_steps=windows.starts,
            chunk_stops=windows.chunk_stops,
            selected=windows.selected if self._recipe.segments.is_set else None,
            latents={},  # joined once its pictures have passed, which some are made of
            embeddings=self._texts[""].embeddings_of(stored, plan) if self._texts else {},
            calibrations=self._calibrations(unit.group, stored),
            location=stored.location,
            source_key=stored.source_key,
        )

    def _calibrations(self, group: GroupPlan, stored: StoredEpisode) -> dict[str, tuple[Calibration, ...]]:
        slots = {view: self._recipe.names.slot(view) for view, _, _ in group.views if not self._recipe.views.canvas}
        return {
            view: tuple(one for one in stored.calibrations if stored.card.views.get(one.camera) == slot)
            for view, slot in slots.items()
        }

    def _chunks(
        self, group: GroupPlan, stored: StoredEpisode, numbers: EpisodeNumbers, windows: Windows
    ) -> "_ReleasedChunks":
        plan = ActionPlan.of(stored.embodiment, self._recipe.actions, group.chunk.slots)
        if plan.fingerprint != group.chunk.plan:
            raise LakeError(
                "its robot is not the one the build was planned with",
                f"episode {stored.episode_id[:12]}",
                reason="damaged",
            )
        return _ReleasedChunks(ActionChunks.of(plan, numbers, windows, self._recipe.horizon), group.chunk, self._recipe)


@dataclass(frozen=True, slots=True)
class _ReleasedChunks:
    """Chunks as they are written: see ``formats.ChunkSource``."""

    chunks: ActionChunks
    layout: ChunkLayout
    recipe: BuildRecipe

    def normalized(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, mask = self.chunks.at(steps)
        return self.layout.normalized(values, self.recipe), mask

    def at(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(steps), self.chunks.horizon)
        values: np.ndarray = np.empty((*shape, self.chunks.plan.width), dtype=np.float32)
        mask: np.ndarray = np.empty(shape, dtype=bool)
        done = 0
        for some in self.chunks.blocks(steps):  # what is computed on the way is many times as large
            part = slice(done, done + len(some))
            values[part], mask[part] = self.normalized(some)
            done += len(some)
        return values, mask


def _tokens(group: GroupPlan, recipe: BuildRecipe, chunks: _ReleasedChunks) -> list[np.ndarray] | None:
    """Tokens of each sample's chunk, with the offset of the recipe.

    A chunk that reaches past the end, a gap or a bound repeats the last action, as the samples do.
    """
    if recipe.tokenizer is None or group.tokenizer_json is None:
        return None
    tokenizer: Tokenizer = registry.load("tokenizers", recipe.tokenizer.name).load(group.tokenizer_json)
    found: list[np.ndarray] = []
    for starts in chunks.chunks.blocks(chunks.chunks.windows.starts):
        values = group.chunk.used(chunks.normalized(starts)[0])
        found += [tokens + recipe.tokenizer.offset for tokens in tokenizer.encode(values)]
    return found


def _lineage_table(group: str, built: BuiltEpisode, numbers: EpisodeNumbers, recipe: BuildRecipe) -> pa.Table:
    """One row per step: which row of the action, of the proprio, and which frame of every view it came from, how far in
    time that lies before the step, and whether it still tells of the step."""
    plan, num = built.plan, built.plan.num_steps
    columns: dict[str, Any] = {
        "index": np.arange(plan.first_step, plan.first_step + num, dtype=np.int64),
        "episode_id": pa.array([plan.episode_id] * num).dictionary_encode(),
        "episode_index": np.full(num, plan.episode_index, dtype=np.int64),
        "step": np.arange(num, dtype=np.int64),
        "time_ns": built.times_ns,
        "valid": built.valid,
        "selected": np.ones(num, dtype=bool) if built.selected is None else built.selected,
        **_origin_columns("source_row", "source_time_ns", "action", numbers.commands),
        **_origin_columns("proprio_row", "proprio_time_ns", "proprio", numbers.measured),
    }
    if built.frame_ids:
        # of a canvas its own name, with the frames of its first view, and every view on it
        shown = shown_views(recipe.views, numbers.frames).sources
        frames = {} if recipe.views.canvas == "" else dict(numbers.frames)
        frames |= {recipe.names.view(name): numbers.frames[slot] for name, slot in shown.items()}
        for name, origin in sorted(frames.items()):
            columns |= _origin_columns(f"frame_id_{name}", f"frame_time_ns_{name}", name, origin)
    table = pa.table(columns)
    return table.replace_schema_metadata({"group": group})


def _origin_columns(row: str, time: str, name: str, origin: Origin) -> dict[str, np.ndarray]:
    return {
        row: origin.rows,
        time: origin.times_ns,
        f"residual_ns_{name}": origin.residual_ns,
        f"valid_{name}": origin.valid,
    }
