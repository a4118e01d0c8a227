"""The build line: lake + recipe -> a release that trainers read.

``plan_build`` fixes every index, file name and statistic before a frame is decoded; ``build_unit.BuildWorker`` decodes each view
once and writes the final files of its unit in every format; ``publish_build`` writes the indexes and the manifest.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipelines import registry
from pipelines.build_unit import LatentChoice
from pipelines.formats import EpisodePlan, Format, GroupPlan, UnitPlan, describe_group
from pipelines.lake import Lake, quoted
from pipelines.numbers import EpisodeNumbers, check_rate, instruction_runs, numbers_of
from pipelines.release import Staging
from pipelines.rows import StoredEpisode
from pipelines.selection import chunks_of, kept_ids, stored_episodes
from pipelines.stats import Sketch, empty_sketch, merge, normalize, sketch
from pipelines.storage import file_record, files_under
from pipelines.tokenizers import Tokenizer, check_offset
from pipelines.views import target_size
from pipelines.windows import Windows, plan_windows
from schemas.errors import LakeError, RecipeError, WamloomError
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe
from schemas.time import rate_text
from schemas.work import FileRecord, Outcome, WorkUnit


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything a build will write, before any of it is written."""

    groups: tuple[GroupPlan, ...]
    episodes: tuple[tuple[GroupPlan, tuple[EpisodePlan, ...]], ...]
    units: tuple[WorkUnit, ...]
    dropped: tuple[Outcome, ...]
    lake_content: str
    """Hash of the keys and row hashes of all episodes and latents that went in: equal content, equal hash, whatever its
    history."""
    latents: LatentChoice | None
    sources: Mapping[str, tuple[str, str, str]]
    """By episode id: location, key, licence."""

    def fingerprint(self, recipe: BuildRecipe, version: str) -> str:
        """Identity of the release: same recipe, lake content and version give the same bytes."""
        return fingerprint(
            "build-2", recipe.fingerprint, self.lake_content, version, [unit.unit_id for unit in self.units]
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
    windows: Windows
    instruction: str
    instructions: tuple[tuple[int, str], ...]
    action: np.ndarray
    """float32 [T, A]"""
    valid: np.ndarray
    """bool [T]"""

    @property
    def num_samples(self) -> int:
        return len(self.windows.starts)


def plan_build(lake: Lake, recipe: BuildRecipe, version: str) -> BuildPlan:
    """Reads the numbers of every kept episode that matches, and plans groups, indices, statistics and units.

    Raises LakeError where nothing matches, RecipeError where the recipe does not fit the data.
    """
    if not recipe.formats:
        raise RecipeError("no format is named", hint=f"known: {', '.join(registry.names('formats'))}")
    check_offset(recipe.tokenizer)
    ids = kept_ids(lake, recipe.where)
    latents, latent_hashes = _choose_latents(lake, recipe, {episode_id for episode_id, _ in ids})
    ordered = sorted((episode_id for episode_id, _ in ids), key=lambda i: fingerprint("order-1", recipe.seed, i))
    members: dict[tuple[Any, ...], list[_Member]] = {}
    sketches: dict[tuple[Any, ...], tuple[Sketch, Sketch]] = {}
    examples: dict[tuple[Any, ...], StoredEpisode] = {}
    sources: dict[str, tuple[str, str, str]] = {}
    dropped: list[Outcome] = []
    inputs = {episode_id: [row_hash] for episode_id, row_hash in ids}
    bare: list[tuple[str, str]] = []
    all_windowed = all(cast(Format, registry.load("formats", name).FORMAT).windowed for name in recipe.formats)
    for episode in stored_episodes(lake, ordered):
        slots: tuple[str, ...] = recipe.views.slots or tuple(sorted(episode.views))
        absent = [slot for slot in slots if slot not in episode.views]
        if absent:
            dropped.append(
                Outcome(episode.episode_id, "rejected", "missing_view", f"has no view {absent[0]}", episode.location)
            )
            continue
        if latents is not None:
            bare += [(episode.episode_id, slot) for slot in slots if (episode.episode_id, slot) not in latent_hashes]
            inputs[episode.episode_id] += [
                found for slot in slots for found in latent_hashes.get((episode.episode_id, slot), ())
            ]
        check_rate(recipe.rate, episode.control_rate, episode.dataset)
        numbers = numbers_of(episode, recipe.rate, slots)
        if not numbers.valid.any():
            dropped.append(
                Outcome(episode.episode_id, "rejected", "no_valid_step", "no step has all it needs", episode.location)
            )
            continue
        windows = plan_windows(numbers.times_ns, episode.segments, slots, recipe)
        dropped += [
            Outcome(
                episode.episode_id, "rejected", reason, message, episode.location, numbers=(("windows", float(number)),)
            )
            for reason, message, number in windows.left_out
        ]
        if not len(windows.starts) and all_windowed:
            continue
        key = _group_key(episode, numbers, slots, recipe)
        counted = numbers.valid & windows.selected
        members.setdefault(key, []).append(
            _Member(
                episode.episode_id,
                numbers.num_steps,
                windows,
                _instruction(episode),
                instruction_runs(episode, numbers.times_ns),
                numbers.action.astype(np.float32),
                numbers.valid,
            )
        )
        examples.setdefault(key, episode)
        before = sketches.get(key) or (
            empty_sketch(numbers.action.shape[1]),
            empty_sketch(numbers.proprio.shape[1]),
        )
        sketches[key] = (
            merge(before[0], sketch(numbers.action, counted)),
            merge(before[1], sketch(numbers.proprio, counted)),
        )
        sources[episode.episode_id] = (episode.location, episode.source_key, episode.license)
    if bare:
        raise _no_latents(
            f"{len({episode_id for episode_id, _ in bare})} episodes have none of view {bare[0][1]}", lake, recipe
        )
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
    units = [unit for group, episodes in planned for unit in _units(group, episodes, recipe, version, inputs, latents)]
    _try_formats(units, recipe)
    used = {episode.episode_id for _, episodes in planned for episode in episodes}
    content = fingerprint("lake-2", sorted((key, *hashes) for key, hashes in inputs.items() if key in used))
    return BuildPlan(
        tuple(group for group, _ in planned), tuple(planned), tuple(units), tuple(dropped), content, latents, sources
    )


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


def _try_formats(units: Sequence[WorkUnit], recipe: BuildRecipe) -> None:
    """Opens each format once per group in a scratch folder, so that what its encoder refuses is told before any work."""
    groups = {plan.group.name: plan for plan in (cast(UnitPlan, unit.payload[0]) for unit in units)}
    for plan in groups.values():
        for slot, height, width in plan.group.views:
            if height * width > recipe.limits.max_pixels:
                raise RecipeError(
                    f"view {slot} of {plan.group.name} would be {width} x {height} px, limits.max_pixels is "
                    f"{recipe.limits.max_pixels}",
                    "views",
                    "set a smaller views.height_px and views.width_px",
                )
        for name in recipe.formats:
            form = cast(Format, registry.load("formats", name).FORMAT)
            with tempfile.TemporaryDirectory(prefix="wamloom-plan-") as scratch:
                try:
                    form.open_unit(plan, recipe, Path(scratch))
                except WamloomError as error:
                    raise RecipeError(
                        error.message, f"{name} of {plan.group.name}", error.hint, error.reason
                    ) from error


def _plan_group(
    name: str,
    key: tuple[Any, ...],
    members: list[_Member],
    sketches: tuple[Sketch, Sketch],
    example: StoredEpisode,
    recipe: BuildRecipe,
) -> tuple[GroupPlan, tuple[EpisodePlan, ...]]:
    robot = example.embodiment.name
    if not example.embodiment.action:
        message = f"the {len(members)} episodes of {robot} have no action, and samples of a release need one"
        raise RecipeError(message, name, f"leave them out with --where \"embodiment != '{robot}'\"", "no_action")
    action, proprio = (part.stats() for part in sketches)
    tokenizer_json = None
    if recipe.tokenizer is not None and any(member.num_samples for member in members):
        chunks, mask = chunks_of(members, recipe.horizon)
        fitted: Tokenizer = registry.load("tokenizers", recipe.tokenizer.name).fit(
            normalize(chunks, action, recipe.normalize), mask, **recipe.tokenizer.options
        )
        # Continuous values are the action chunks that the release holds anyway.
        tokenizer_json = None if fitted.continuous else fitted.to_json()
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
                member.instructions,
            )
        )
        first_step += member.num_steps
        first_sample += member.num_samples
    group = GroupPlan(
        name=name,
        robot=robot,
        rate=key[2],
        action_names=tuple(channel.name for channel in example.embodiment.action),
        proprio_names=tuple(channel.name for channel in example.embodiment.proprio),
        views=key[3],
        stats={"action": action.to_mapping(), "proprio": proprio.to_mapping()},
        tasks=tuple(sorted({text for episode in episodes for _, _, text in episode.texts})),
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
    hashes: Mapping[str, Sequence[str]],
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
        inputs = [hashes[episode.episode_id] for episode in pack]
        unit_id = fingerprint("build-unit-2", plan, inputs, recipe.fingerprint, latents, version)
        units.append(WorkUnit(unit_id, (plan,), sum(episode.num_steps for episode in pack)))
    return units


def _choose_latents(
    lake: Lake, recipe: BuildRecipe, wanted: set[str]
) -> tuple[LatentChoice | None, dict[tuple[str, str], list[str]]]:
    """The one set of latents that serves the recipe, and its row hashes by episode and slot.

    Raises RecipeError or LakeError where there is none, or a choice.
    """
    if recipe.content == "frames":
        return None, {}
    if recipe.encoder is None:
        raise RecipeError(f'content = "{recipe.content}" needs latents', hint='name their encoder: encoder = "wavelet"')
    rate = _latent_rate(recipe)
    condition = f"encoder = {quoted(recipe.encoder)} and rate = {quoted(rate)}"
    columns = ["episode_id", "slot", "encoder_fingerprint", "views_fingerprint", "row_sha256"]
    rows = [row for row in lake.rows("latents", columns, condition) if row["episode_id"] in wanted]
    choices = sorted({(row["encoder_fingerprint"], row["views_fingerprint"]) for row in rows})
    if not choices:
        raise _no_latents("there are none in the lake", lake, recipe)
    if len(choices) > 1:
        raise RecipeError(
            f"the lake has {len(choices)} different sets of {recipe.encoder} latents at rate {rate}",
            hint="keep one set per lake for now: encode into a lake of its own",
        )
    hashes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        hashes.setdefault((row["episode_id"], row["slot"]), []).append(row["row_sha256"])
    return choices[0], hashes


def _latent_rate(recipe: BuildRecipe) -> str:
    return "native" if recipe.rate is None else rate_text(recipe.rate)


def _no_latents(what: str, lake: Lake, recipe: BuildRecipe) -> LakeError:
    rate = _latent_rate(recipe)
    return LakeError(
        f"{recipe.encoder} latents at rate {rate} are needed, and {what}",
        str(lake.root),
        f"run `wamloom encode --lake {lake.root.name} --encoder {recipe.encoder} --set rate={rate}`; leave out views "
        "with views.slots, and episodes too short for a clip with --where",
        "no_latents",
    )


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
            windows = sum(episode.num_samples for episode in episodes)
            shown = windows * recipe.horizon if form.windowed else group.num_steps  # a window past the end is padded
            counts.setdefault(name, {})[group.name] = {
                "samples": windows if form.windowed else group.num_steps,
                "frames": shown * len(group.views),
                "episodes": sum(1 for one in episodes if one.num_samples or not form.windowed),
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
        "groups": [_group_entry(plan, recipe, group, episodes) for group, episodes in plan.episodes],
        "dropped": [asdict(outcome) for outcome in plan.dropped],
        "licenses": sorted({group.license for group in plan.groups}),
        "files": [asdict(record) for record in sorted([*units, *indexes], key=lambda record: record.path)],
    }
    staging.publish(manifest, indexes)
    return manifest


def _group_entry(
    plan: BuildPlan, recipe: BuildRecipe, group: GroupPlan, episodes: Sequence[EpisodePlan]
) -> dict[str, Any]:
    return {
        "name": group.name,
        **describe_group(group, recipe),
        "num_steps": group.num_steps,
        "episodes": [
            asdict(episode)
            | {"location": plan.sources[episode.episode_id][0], "source_key": plan.sources[episode.episode_id][1]}
            for episode in episodes
        ],
    }
