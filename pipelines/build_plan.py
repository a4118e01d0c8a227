"""The build line, planned: lake + recipe -> every index, file name and statistic, before a frame is decoded.

``build_unit.BuildWorker`` then decodes each view once and writes the final files of its unit in every format, and
``build_publish.publish_build`` the indexes, the statistics and the manifest.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipelines import registry
from pipelines.action_chunks import ActionChunks
from pipelines.action_plan import ActionPlan
from pipelines.build_latents import choose_latents, no_latents
from pipelines.build_stats import (
    GivenStatistics,
    GroupGathering,
    GroupStatistics,
    chunk_layout,
    given_statistics,
    statistics_files,
)
from pipelines.build_unit import LatentChoice
from pipelines.formats import EpisodePlan, Format, GroupPlan, UnitPlan
from pipelines.lake import Lake, quoted
from pipelines.numbers import EpisodeNumbers, check_rate, instruction_runs, numbers_of
from pipelines.rows import StoredEpisode
from pipelines.selection import action_plan, chunks_of, kept_ids, stored_episodes, telling
from pipelines.tokenizers import Tokenizer, check_offset
from pipelines.views import picture_sizes, shown_views
from pipelines.windows import Windows, plan_windows
from schemas.errors import LakeError, LayoutError, RecipeError, WamloomError
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe
from schemas.time import rate_text
from schemas.work import Outcome, WorkUnit


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
    statistics: Mapping[str, tuple[ActionPlan, GroupStatistics]]
    """By name of the group."""
    notes: tuple[str, ...] = ()
    """What of the recipe does not do what it may be thought to do."""

    def fingerprint(self, recipe: BuildRecipe, version: str) -> str:
        """Identity of the release: same recipe, lake content and version give the same bytes."""
        return fingerprint(
            "build-2", recipe.fingerprint, self.lake_content, version, [unit.unit_id for unit in self.units]
        )

    def statistics_of(self, group: GroupPlan, recipe: BuildRecipe) -> dict[str, Any]:
        """Name -> JSON of every statistics file of ``group``. Raises RecipeError where a form does not suit the recipe."""
        plan, found = self.statistics[group.name]
        facts = {
            "group": group.name,
            "robot": group.robot,
            "rate": group.rate,
            "horizon": recipe.horizon,
            "num_episodes": group.num_episodes,
            "num_steps": group.num_steps,
        }
        return statistics_files(recipe, plan, found, facts)

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
    """What the plan remembers of one episode: no pixels, chunks only as long as the tokenizer is not fitted."""

    episode_id: str
    num_steps: int
    windows: Windows
    instruction: str
    instructions: tuple[tuple[int, str], ...]
    chunks: ActionChunks | None
    """None where there is no tokenizer to fit."""

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
    latents, latent_hashes = choose_latents(lake, recipe, {episode_id for episode_id, _ in ids})
    ordered = sorted((episode_id for episode_id, _ in ids), key=lambda i: fingerprint("order-1", recipe.seed, i))
    members: dict[tuple[Any, ...], list[_Member]] = {}
    gathered: dict[tuple[Any, ...], GroupGathering] = {}
    given: dict[tuple[Any, ...], GivenStatistics | None] = {}
    examples: dict[tuple[Any, ...], StoredEpisode] = {}
    sources: dict[str, tuple[str, str, str]] = {}
    dropped: list[Outcome] = []
    inputs = {episode_id: [row_hash] for episode_id, row_hash in ids}
    bare: list[tuple[str, str]] = []
    all_windowed = all(cast(Format, registry.load("formats", name).FORMAT).windowed for name in recipe.formats)
    for episode in stored_episodes(lake, ordered):
        shown = shown_views(recipe.views, episode.views)
        slots = shown.slots
        if shown.missing:
            dropped.append(
                Outcome(
                    episode.episode_id, "rejected", "missing_view", _no_view(episode, shown.missing), episode.location
                )
            )
            continue
        if latents is not None:
            wanted = [(episode.episode_id, name) for name in shown.sources]
            bare += [one for one in wanted if one not in latent_hashes]
            inputs[episode.episode_id] += [found for one in wanted for found in latent_hashes.get(one, ())]
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
        key = _group_key(episode, numbers, recipe)
        if not episode.embodiment.action and recipe.actions.source == "action":
            raise _no_action(episode)
        if key not in gathered:
            plan = action_plan(episode, recipe)
            with telling(episode.embodiment.name, episode.dataset):
                gathered[key] = GroupGathering(recipe, plan)
                given[key] = None if recipe.stats_from is None else given_statistics(recipe.stats_from, plan, recipe)
        chunks = ActionChunks.of(gathered[key].plan, numbers, windows, recipe.horizon)
        try:
            chunks.check()
        except LayoutError as error:
            message = f"its action cannot be written as the recipe asks: {error.message} ({error.where})"
            dropped.append(Outcome(episode.episode_id, "rejected", "bad_action", message, episode.location))
            continue
        with telling(episode.embodiment.name, episode.dataset):
            gathered[key].add(chunks, numbers.valid & windows.selected)
        members.setdefault(key, []).append(
            _Member(
                episode.episode_id,
                numbers.num_steps,
                windows,
                _instruction(episode),
                instruction_runs(episode, numbers.times_ns),
                chunks.in_float32().without_unread() if recipe.tokenizer is not None else None,
            )
        )
        examples.setdefault(key, episode)
        sources[episode.episode_id] = (episode.location, episode.source_key, episode.license)
    if bare:
        raise no_latents(
            f"{len({episode_id for episode_id, _ in bare})} episodes have none of view {bare[0][1]}", lake, recipe
        )
    if not members:
        why = dropped[0].message if dropped else "all their steps lie in gaps"
        raise LakeError(f"every matching episode was dropped: {why}", str(lake.root), "change the recipe", "empty")
    planned = []
    notes: list[str] = []
    statistics: dict[str, tuple[ActionPlan, GroupStatistics]] = {}
    keys = sorted(members, key=str)
    for name, key in zip(_names([key[0] for key in keys]), keys, strict=True):
        plan = gathered[key].plan
        with telling(examples[key].embodiment.name, key[0]):
            found = gathered[key].statistics([member.episode_id for member in members[key]])
            statistics[name] = (plan, found)
            planned.append(_plan_group(name, key, members[key], plan, found, given[key], examples[key], recipe))
        notes += _notes(name, key[2], plan, given[key], recipe)
    units = [unit for group, episodes in planned for unit in _units(group, episodes, recipe, version, inputs, latents)]
    _try_formats(units, recipe)
    used = {episode.episode_id for _, episodes in planned for episode in episodes}
    content = fingerprint("lake-2", sorted((key, *hashes) for key, hashes in inputs.items() if key in used))
    whole = BuildPlan(
        tuple(group for group, _ in planned),
        tuple(planned),
        tuple(units),
        tuple(dropped),
        content,
        latents,
        sources,
        statistics,
        tuple(notes),
    )
    for group in whole.groups:
        whole.statistics_of(group, recipe)  # so that a form which does not suit the recipe is told before any work
    return whole


def _names(datasets: Sequence[str]) -> list[str]:
    """A name for each group of these data sets; from the second of one on with a number, and none twice."""
    taken, names = set(datasets), list[str]()
    for index, dataset in enumerate(datasets):
        name, number = dataset, datasets[: index + 1].count(dataset)
        while number > 1 and (name := f"{dataset}_{number}") in taken:
            number += 1
        taken.add(name)
        names.append(name)
    return names


def _no_view(episode: StoredEpisode, slot: str) -> str:
    others = ", ".join(sorted(episode.views))
    return f"has no view {slot}, only {others}" if others else f"has no view {slot}, nor any other"


def _notes(
    group: str, rate: str, plan: ActionPlan, given: GivenStatistics | None, recipe: BuildRecipe
) -> Sequence[str]:
    idle = [
        f"actions.{key} changes nothing of {group}, with its parts and this reference" for key in plan.without_effect
    ]
    other = given.differences(plan, rate, recipe.horizon) if given else []
    return [
        *idle,
        *(f"{recipe.stats_from} was made with {one}; relative actions are of another size there" for one in other),
    ]


def _instruction(episode: StoredEpisode) -> str:
    """The first instruction with text; the empty one where the episode has none."""
    return next((one.text for one in episode.instructions if one.text.strip()), "")


def _group_key(episode: StoredEpisode, numbers: EpisodeNumbers, recipe: BuildRecipe) -> tuple[Any, ...]:
    views = () if recipe.content == "latents" else picture_sizes(recipe.views, episode.views)
    # robots of one name whose cards changed between two ingests are two robots
    robot = (episode.embodiment.name, fingerprint(episode.embodiment))
    return (episode.dataset, robot, rate_text(numbers.rate), views, episode.license)


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


def _no_action(episode: StoredEpisode) -> RecipeError:
    robot = episode.embodiment.name
    return RecipeError(
        f"episodes of {robot} have no action, and samples of a release need one",
        episode.dataset,
        f'set actions.source = "proprio" for chunks of measured states; or leave these episodes out with --where '
        f'"embodiment != {quoted(robot)}"',
        "no_action",
    )


def _plan_group(
    name: str,
    key: tuple[Any, ...],
    members: list[_Member],
    plan: ActionPlan,
    found: GroupStatistics,
    given: GivenStatistics | None,
    example: StoredEpisode,
    recipe: BuildRecipe,
) -> tuple[GroupPlan, tuple[EpisodePlan, ...]]:
    layout = chunk_layout(plan, given.chunks if given else found.chunks, recipe)
    tokenizer_json = None
    if recipe.tokenizer is not None and any(member.num_samples for member in members):
        chunks, mask = chunks_of(members, recipe.horizon)
        fitted: Tokenizer = registry.load("tokenizers", recipe.tokenizer.name).fit(
            layout.used(layout.normalized(chunks, recipe)), mask, **recipe.tokenizer.options
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
        robot=example.embodiment.name,
        rate=key[2],
        action_names=tuple(channel.name for channel in example.embodiment.action),
        proprio_names=tuple(channel.name for channel in example.embodiment.proprio),
        views=key[3],
        stats={"action": found.action.to_mapping(), "proprio": found.proprio.to_mapping()},
        chunk=layout,
        tasks=tuple(sorted({text for episode in episodes for _, _, text in episode.texts})),
        num_episodes=len(episodes),
        num_steps=first_step,
        license=example.license,
        tokenizer_json=tokenizer_json,
        given_stats=None
        if given is None
        else {"action": given.action.to_mapping(), "proprio": given.proprio.to_mapping()},
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
