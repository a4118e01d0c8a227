"""The build line: lake + recipe -> a release that trainers read.

``plan_build`` fixes every index, file name and statistic before a frame is decoded; ``BuildWorker`` decodes each view once
and writes the final files of its unit in every format; ``publish_build`` writes the indexes and the manifest.
"""

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import registry
from pipelines.formats import BuiltEpisode, EpisodePlan, Format, GroupPlan, UnitPlan, UnitWriter
from pipelines.lake import Lake, quoted
from pipelines.numbers import EpisodeNumbers, numbers_of
from pipelines.release import Staging, UnitFolder
from pipelines.rows import META_COLUMNS, StoredEpisode, stored_episode
from pipelines.stats import Sketch, Stats, empty_sketch, merge, normalize, sketch, stats_from_json
from pipelines.storage import file_record, files_under
from pipelines.tokenizers import Tokenizer
from pipelines.video import VideoTools
from pipelines.views import target_size
from pipelines.windows import sample_windows
from schemas.errors import LakeError, RecipeError, WamloomError
from schemas.fingerprint import array_sha256, fingerprint
from schemas.latent import ClipPlan, LatentClip
from schemas.recipes import BuildRecipe
from schemas.time import rate_text
from schemas.work import FileRecord, Outcome, UnitResult, WorkUnit

LINEAGE = "lineage"
"""Folder of the release with one Parquet file per unit: the walk from every step back to source row and frames."""

LatentChoice = tuple[str, str]
"""(encoder fingerprint, views fingerprint) of the latents that a build joins."""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything a build will write, before any of it is written."""

    groups: tuple[GroupPlan, ...]
    episodes: tuple[tuple[GroupPlan, tuple[EpisodePlan, ...]], ...]
    units: tuple[WorkUnit, ...]
    dropped: tuple[Outcome, ...]
    lake_content: str
    """Hash of the keys and row hashes of all episodes that went in: equal content, equal hash, whatever its history."""
    latents: LatentChoice | None
    sources: Mapping[str, tuple[str, str, str]]
    """By episode id: location, key, licence."""

    def fingerprint(self, recipe: BuildRecipe, version: str) -> str:
        """Identity of the release: same recipe, lake content and version give the same bytes."""
        return fingerprint(
            "build-1", recipe.fingerprint, self.lake_content, version, [unit.unit_id for unit in self.units]
        )

    @property
    def num_samples(self) -> int:
        """Windowed samples of all groups."""
        return sum(episode.num_samples for _, episodes in self.episodes for episode in episodes)

    @property
    def num_steps(self) -> int:
        """Steps of all groups."""
        return sum(group.num_steps for group in self.groups)


@dataclass(slots=True)
class _Member:
    """What the plan remembers of one episode: no pixels, actions only as long as the tokenizer is not fitted."""

    episode_id: str
    num_steps: int
    num_samples: int
    instruction: str
    action: np.ndarray


def plan_build(lake: Lake, recipe: BuildRecipe, version: str) -> BuildPlan:
    """Reads the numbers of every kept episode that matches, and plans groups, indices, statistics and units.

    Raises LakeError where nothing matches, RecipeError where the recipe does not fit the data.
    """
    if not recipe.formats:
        raise RecipeError("no format is named", hint=f"known: {', '.join(registry.names('formats'))}")
    condition = f"outcome = 'kept' and ({recipe.where})" if recipe.where else "outcome = 'kept'"
    ids = [(row["episode_id"], row["row_sha256"]) for row in lake.rows("episodes", ["row_sha256"], condition)]
    if not ids:
        raise LakeError(
            "no kept episode matches",
            str(lake.root),
            "see `wamloom status --lake LAKE`, and the recipe's `where`",
            "empty",
        )
    latents = _choose_latents(lake, recipe, [episode_id for episode_id, _ in ids])
    ordered = sorted((episode_id for episode_id, _ in ids), key=lambda i: fingerprint("order-1", recipe.seed, i))
    members: dict[tuple[Any, ...], list[_Member]] = {}
    sketches: dict[tuple[Any, ...], tuple[Sketch, Sketch]] = {}
    examples: dict[tuple[Any, ...], StoredEpisode] = {}
    sources: dict[str, tuple[str, str, str]] = {}
    dropped: list[Outcome] = []
    for episode in _stored(lake, ordered):
        slots = recipe.views.slots or tuple(sorted(episode.views))
        absent = [slot for slot in slots if slot not in episode.views]
        if absent:
            dropped.append(
                Outcome(episode.episode_id, "rejected", "missing_view", f"has no view {absent[0]}", episode.location)
            )
            continue
        numbers = numbers_of(episode, recipe.rate, slots)
        if not numbers.valid.any():
            dropped.append(
                Outcome(episode.episode_id, "rejected", "no_valid_step", "no step has all it needs", episode.location)
            )
            continue
        key = _group_key(episode, numbers, slots, recipe)
        starts = sample_windows(numbers.num_steps, recipe.horizon, recipe.sample_stride)
        members.setdefault(key, []).append(
            _Member(
                episode.episode_id,
                numbers.num_steps,
                len(starts),
                _instruction(episode),
                numbers.action[numbers.valid].astype(np.float32),
            )
        )
        examples.setdefault(key, episode)
        before = sketches.get(key) or (
            empty_sketch(numbers.action.shape[1]),
            empty_sketch(numbers.proprio.shape[1]),
        )
        sketches[key] = (
            merge(before[0], sketch(numbers.action, numbers.valid)),
            merge(before[1], sketch(numbers.proprio, numbers.valid)),
        )
        sources[episode.episode_id] = (episode.location, episode.source_key, episode.license)
    if not members:
        raise LakeError(
            f"every matching episode was dropped: {dropped[0].message}", str(lake.root), "change the recipe", "empty"
        )
    planned = []
    names: dict[str, int] = {}
    for key in sorted(members, key=str):
        names[key[0]] = names.get(key[0], 0) + 1
        name = key[0] if names[key[0]] == 1 else f"{key[0]}_{names[key[0]]}"
        planned.append(_plan_group(name, key, members[key], sketches[key], examples[key], recipe))
    units = [
        unit for group, episodes in planned for unit in _units(group, episodes, recipe, version, dict(ids), latents)
    ]
    used = {episode.episode_id for _, episodes in planned for episode in episodes}
    content = fingerprint("lake-1", sorted(pair for pair in ids if pair[0] in used))
    return BuildPlan(
        tuple(group for group, _ in planned), tuple(planned), tuple(units), tuple(dropped), content, latents, sources
    )


def _stored(lake: Lake, episode_ids: Sequence[str], batch: int = 64) -> Iterator[StoredEpisode]:
    for start in range(0, len(episode_ids), batch):
        part = episode_ids[start : start + batch]
        wanted = ", ".join(quoted(episode_id) for episode_id in part)
        found = {row["episode_id"]: row for row in lake.rows("episodes", META_COLUMNS, f"episode_id in ({wanted})")}
        for episode_id in part:
            yield stored_episode(found[episode_id])


def _instruction(episode: StoredEpisode) -> str:
    """The first instruction with text; the empty one where the episode has none."""
    return next((one.text for one in episode.instructions if one.text.strip()), "")


def _group_key(
    episode: StoredEpisode, numbers: EpisodeNumbers, slots: Sequence[str], recipe: BuildRecipe
) -> tuple[Any, ...]:
    views = (
        ()
        if recipe.content == "latents"
        else tuple((slot, *target_size(recipe.views, episode.views[slot])) for slot in slots)
    )
    return (episode.dataset, episode.embodiment.name, rate_text(numbers.rate), views, episode.license)


def _plan_group(
    name: str,
    key: tuple[Any, ...],
    members: list[_Member],
    sketches: tuple[Sketch, Sketch],
    example: StoredEpisode,
    recipe: BuildRecipe,
) -> tuple[GroupPlan, tuple[EpisodePlan, ...]]:
    action, proprio = (part.stats() for part in sketches)
    tokenizer_json = None
    if recipe.tokenizer is not None:
        chunks = np.concatenate([normalize(member.action, action, recipe.normalize) for member in members])[:, None, :]
        fitted: Tokenizer = registry.load("tokenizers", recipe.tokenizer.name).fit(
            chunks, None, **recipe.tokenizer.options
        )
        tokenizer_json = fitted.to_json()
    episodes, first_step, first_sample = [], 0, 0
    for index, member in enumerate(members):
        episodes.append(
            EpisodePlan(
                member.episode_id,
                index,
                first_step,
                member.num_steps,
                first_sample,
                member.num_samples,
                member.instruction,
            )
        )
        first_step += member.num_steps
        first_sample += member.num_samples
    group = GroupPlan(
        name=name,
        robot=example.embodiment.name,
        rate=key[2],
        action_names=tuple(channel.name for channel in example.embodiment.action),
        proprio_names=tuple(channel.name for channel in example.embodiment.proprio),
        views=key[3],
        stats={"action": action.to_mapping(), "proprio": proprio.to_mapping()},
        tasks=tuple(sorted({member.instruction for member in members})),
        num_episodes=len(episodes),
        num_steps=first_step,
        license=example.license,
        tokenizer_json=tokenizer_json,
    )
    return group, tuple(episodes)


def _units(
    group: GroupPlan,
    episodes: Sequence[EpisodePlan],
    recipe: BuildRecipe,
    version: str,
    row_hashes: Mapping[str, str],
    latents: LatentChoice | None,
) -> list[WorkUnit]:
    packs: list[list[EpisodePlan]] = []
    size = 0
    for episode in episodes:
        frames = episode.num_steps * max(1, len(group.views))
        if not packs or size + frames > recipe.unit_frames:
            packs.append([])
            size = 0
        packs[-1].append(episode)
        size += frames
    units = []
    for index, pack in enumerate(packs):
        plan = UnitPlan(group, index, tuple(pack), len(packs))
        inputs = [row_hashes[episode.episode_id] for episode in pack]
        unit_id = fingerprint("build-unit-1", plan, inputs, recipe.fingerprint, latents, version)
        units.append(WorkUnit(unit_id, (plan,), sum(episode.num_steps for episode in pack)))
    return units


def _choose_latents(lake: Lake, recipe: BuildRecipe, episode_ids: Sequence[str]) -> LatentChoice | None:
    """The one set of latents that serves the recipe. Raises RecipeError or LakeError where there is none or a choice."""
    if recipe.content == "frames":
        return None
    if recipe.encoder is None:
        raise RecipeError(f'content = "{recipe.content}" needs latents', hint='name their encoder: encoder = "wavelet"')
    rate = "native" if recipe.rate is None else rate_text(recipe.rate)
    condition = f"encoder = {quoted(recipe.encoder)} and rate = {quoted(rate)}"
    rows = lake.rows("latents", ["episode_id", "slot", "encoder_fingerprint", "views_fingerprint"], condition)
    wanted = set(episode_ids)
    choices = sorted({(r["encoder_fingerprint"], r["views_fingerprint"]) for r in rows if r["episode_id"] in wanted})
    run = f"wamloom encode --lake {lake.root.name} --encoder {recipe.encoder} --rate {rate}"
    if not choices:
        raise LakeError(
            f"the lake has no {recipe.encoder} latents at rate {rate}", str(lake.root), f"run `{run}`", "no_latents"
        )
    if len(choices) > 1:
        raise RecipeError(
            f"the lake has {len(choices)} different sets of {recipe.encoder} latents at rate {rate}",
            hint="keep one set per lake for now: encode into a lake of its own",
        )
    missing = wanted - {row["episode_id"] for row in rows}
    if missing:
        raise LakeError(
            f"{len(missing)} episodes have no {recipe.encoder} latents at rate {rate}",
            str(lake.root),
            f"run `{run}`",
            "no_latents",
        )
    return choices[0]


class BuildWorker:
    """Writes the files of a unit in every format, from one decode of every view."""

    def __init__(
        self, lake: str, versions: Mapping[str, int], staging: str, recipe: BuildRecipe, latents: LatentChoice | None
    ) -> None:
        self._lake = Lake.open(lake, dict(versions))
        self._staging = Path(staging)
        self._recipe = recipe
        self._latents = latents
        self._formats = {name: cast(Format, registry.load("formats", name).FORMAT) for name in recipe.formats}
        self._video = VideoTools(recipe.limits)

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """Writes one unit. Raises WamloomError where the lake is damaged: a planned index must never be left empty."""
        plan = cast(UnitPlan, unit.payload[0])
        corner = UnitFolder(self._staging, unit.unit_id, f"{os.getpid()}-{uuid.uuid4().hex[:8]}")
        writers = {
            name: form.open_unit(plan, self._recipe, corner.folder / name / plan.group.name)
            for name, form in self._formats.items()
        }
        lineage: list[pa.Table] = []
        for episode in plan.episodes:
            built, stored = self._built(plan, episode)
            self._push(plan, built, stored, list(writers.values()))
            lineage.append(_lineage_table(plan.group.name, built))
        facts = {name: writer.close() for name, writer in writers.items()}
        path = corner.folder / LINEAGE / plan.group.name / f"{plan.file_index:05d}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.concat_tables(lineage), path, compression="zstd", write_page_checksum=True)
        files = corner.finish(facts)
        outcomes = tuple(Outcome(e.episode_id, "kept", content_id=e.episode_id) for e in plan.episodes)
        steps = float(sum(e.num_steps for e in plan.episodes))
        return UnitResult(unit.unit_id, outcomes, files, (("frames", steps * len(plan.group.views)), ("steps", steps)))

    @staticmethod
    def lost(unit: WorkUnit, reason: str, message: str) -> UnitResult:
        """A build cannot go on without a unit, since its indices are planned; the driver stops on these outcomes."""
        plan = cast(UnitPlan, unit.payload[0])
        return UnitResult(unit.unit_id, tuple(Outcome(e.episode_id, "failed", reason, message) for e in plan.episodes))

    def close(self) -> None:
        """Ends the decoding child."""
        self._video.close()

    def _built(self, unit: UnitPlan, plan: EpisodePlan) -> tuple[BuiltEpisode, StoredEpisode]:
        stored = self._lake.episode(plan.episode_id)
        slots = tuple(slot for slot, _, _ in unit.group.views)
        numbers = numbers_of(stored, self._recipe.rate, self._recipe.views.slots or tuple(sorted(stored.views)))
        if numbers.num_steps != plan.num_steps:
            raise LakeError(
                f"{numbers.num_steps} steps where {plan.num_steps} were planned",
                f"episode {plan.episode_id[:12]}",
                reason="damaged",
            )
        action, proprio = (
            normalize(values, _stats(unit.group, name), self._recipe.normalize)
            for name, values in (("action", numbers.action), ("proprio", numbers.proprio))
        )
        starts = sample_windows(plan.num_steps, self._recipe.horizon, self._recipe.sample_stride)
        built = BuiltEpisode(
            plan=plan,
            times_ns=numbers.times_ns,
            action=action.astype(np.float32),
            proprio=proprio.astype(np.float32),
            valid=numbers.valid,
            source_rows=numbers.source_rows,
            source_times_ns=numbers.source_times_ns,
            frame_ids={slot: numbers.frame_ids[slot] for slot in slots},
            frame_times_ns={slot: numbers.frame_times_ns[slot] for slot in slots},
            tokens=_tokens(unit.group, self._recipe, action, starts),
            sample_steps=starts,
            latents=self._read_latents(stored) if self._latents else {},
            location=stored.location,
            source_key=stored.source_key,
        )
        return built, stored

    def _push(self, unit: UnitPlan, built: BuiltEpisode, stored: StoredEpisode, writers: Sequence[UnitWriter]) -> None:
        for writer in writers:
            writer.begin(built)
        for slot, _, _ in unit.group.views:
            where = f"episode {stored.episode_id[:12]} view {slot}"
            data = self._lake.video(stored.episode_id, slot, stored.blobs_sha256[slot])
            view = replace(stored.views[slot], data=data)
            step = 0
            for chunk in self._video.decode(view, where, built.frame_ids[slot], self._recipe.views):
                for writer in writers:
                    writer.frames(slot, step, chunk)
                step += len(chunk)
        for writer in writers:
            writer.end()

    def _read_latents(self, stored: StoredEpisode) -> dict[str, list[LatentClip]]:
        encoder, views = cast(LatentChoice, self._latents)
        rate = "native" if self._recipe.rate is None else rate_text(self._recipe.rate)
        rows = self._lake.rows(
            "latents",
            [
                "slot",
                "frame_ids",
                "times_ns",
                "dtype",
                "shape",
                "data",
                "data_sha256",
                "temporal_stride",
                "leading_frames",
            ],
            f"episode_id = {quoted(stored.episode_id)} and encoder_fingerprint = {quoted(encoder)} "
            f"and views_fingerprint = {quoted(views)} and rate = {quoted(rate)}",
        )
        clips: dict[str, list[LatentClip]] = {}
        for row in sorted(rows, key=lambda row: (row["slot"], row["times_ns"][0], len(row["times_ns"]))):
            if self._recipe.views.slots and row["slot"] not in self._recipe.views.slots:
                continue
            values = np.frombuffer(row["data"], dtype=np.dtype(row["dtype"])).reshape(row["shape"])
            if array_sha256(values) != row["data_sha256"]:
                raise LakeError(
                    "the latents are damaged: their hash is another",
                    f"latent {row['latent_id'][:12]} of episode {stored.episode_id[:12]}",
                    "restore the lake from a copy, or encode into a new lake",
                    "hash_mismatch",
                )
            plan = ClipPlan(
                stored.episode_id,
                row["slot"],
                views,
                encoder,
                tuple(row["frame_ids"]),
                tuple(row["times_ns"]),
                self._recipe.rate,
            )
            clips.setdefault(row["slot"], []).append(
                LatentClip(plan, values, row["temporal_stride"], row["leading_frames"])
            )
        return clips


def _stats(group: GroupPlan, name: str) -> Stats:
    return stats_from_json(json.dumps({key: list(value) for key, value in group.stats[name].items()}))


def _tokens(group: GroupPlan, recipe: BuildRecipe, action: np.ndarray, starts: np.ndarray) -> list[np.ndarray] | None:
    """Tokens of each sample's chunk; a chunk that reaches past the end repeats the last action, as the samples do."""
    if recipe.tokenizer is None or group.tokenizer_json is None:
        return None
    tokenizer: Tokenizer = registry.load("tokenizers", recipe.tokenizer.name).load(group.tokenizer_json)
    rows = np.minimum(starts[:, None] + np.arange(recipe.horizon), len(action) - 1)
    return tokenizer.encode(action[rows])


def _lineage_table(group: str, built: BuiltEpisode) -> pa.Table:
    """One row per step: where its action, and the frame of every view, came from."""
    plan, num = built.plan, built.plan.num_steps
    columns: dict[str, Any] = {
        "index": np.arange(plan.first_step, plan.first_step + num, dtype=np.int64),
        "episode_id": pa.array([plan.episode_id] * num).dictionary_encode(),
        "episode_index": np.full(num, plan.episode_index, dtype=np.int64),
        "step": np.arange(num, dtype=np.int64),
        "time_ns": built.times_ns,
        "valid": built.valid,
        "source_row": built.source_rows,
        "source_time_ns": built.source_times_ns,
    }
    for slot in sorted(built.frame_ids):
        columns[f"frame_id_{slot}"] = built.frame_ids[slot]
        columns[f"frame_time_ns_{slot}"] = built.frame_times_ns[slot]
    table = pa.table(columns)
    return table.replace_schema_metadata({"group": group})


def publish_build(
    staging: Staging, plan: BuildPlan, recipe: BuildRecipe, version: str, packages: Mapping[str, str]
) -> dict[str, Any]:
    """Writes the index files and the manifest from the records of all units, publishes, and returns the manifest.

    Raises WamloomError where a unit has no whole record.
    """
    records: dict[str, dict[str, Any]] = {}
    for unit in plan.units:
        record = staging.finished(unit.unit_id)
        if record is None:
            raise WamloomError(
                "a unit has no finished record",
                unit.unit_id,
                "run the same command again; it writes what is missing",
                reason="unit",
            )
        records[unit.unit_id] = record
    written = {entry["path"] for record in records.values() for entry in record["files"]}
    for path in files_under(staging.files):
        if path.relative_to(staging.files).as_posix() not in written:
            path.unlink()  # an index file of a publication that was cut short
    counts: dict[str, dict[str, Any]] = {}
    for name in recipe.formats:
        form = cast(Format, registry.load("formats", name).FORMAT)
        for group, episodes in plan.episodes:
            folder = staging.files / name / group.name
            facts = [
                (cast(UnitPlan, unit.payload[0]), records[unit.unit_id]["facts"][name])
                for unit in plan.units
                if cast(UnitPlan, unit.payload[0]).group.name == group.name
            ]
            form.finish(group, recipe, facts, folder)
            samples = sum(e.num_samples for e in episodes) if form.windowed else group.num_steps
            counts.setdefault(name, {})[group.name] = {
                "samples": samples,
                "frames": group.num_steps * len(group.views),
                "episodes": group.num_episodes,
            }
    indexes = [
        file_record(path, staging.files)
        for path in files_under(staging.files)
        if path.relative_to(staging.files).as_posix() not in written
    ]
    units = [FileRecord(**entry) for record in records.values() for entry in record["files"]]
    manifest = {
        "kind": "wamloom release",
        "build": plan.fingerprint(recipe, version),
        "wamloom": version,
        "packages": dict(sorted(packages.items())),
        "recipe": recipe.model_dump(mode="json"),
        "lake_content": plan.lake_content,
        "latents": None if plan.latents is None else {"encoder": plan.latents[0], "views": plan.latents[1]},
        "counts": counts,
        "groups": [_group_entry(plan, group, episodes) for group, episodes in plan.episodes],
        "dropped": [asdict(outcome) for outcome in plan.dropped],
        "licenses": sorted({group.license for group in plan.groups}),
        "files": [asdict(record) for record in sorted([*units, *indexes], key=lambda record: record.path)],
    }
    staging.publish(manifest, indexes)
    return manifest


def _group_entry(plan: BuildPlan, group: GroupPlan, episodes: Sequence[EpisodePlan]) -> dict[str, Any]:
    return {
        "name": group.name,
        "robot": group.robot,
        "rate": group.rate,
        "action_names": list(group.action_names),
        "proprio_names": list(group.proprio_names),
        "views": [{"slot": slot, "height_px": height, "width_px": width} for slot, height, width in group.views],
        "stats": {name: {key: list(value) for key, value in part.items()} for name, part in group.stats.items()},
        "tokenizer": None if group.tokenizer_json is None else json.loads(group.tokenizer_json),
        "license": group.license,
        "num_steps": group.num_steps,
        "episodes": [
            asdict(episode)
            | {"location": plan.sources[episode.episode_id][0], "source_key": plan.sources[episode.episode_id][1]}
            for episode in episodes
        ],
    }
