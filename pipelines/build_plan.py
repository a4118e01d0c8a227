"""The build line, planned: lake + recipe -> every index, file name and statistic, before a frame is decoded.

``build_unit.BuildWorker`` then decodes each view once and writes the final files of its unit in every format, and
``build_publish.publish_build`` the indexes, the statistics and the manifest.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pipelines import registry
from pipelines.action_chunks import ActionChunks
from pipelines.action_plan import ActionPlan
from pipelines.build_groups import Member, group_key, group_names, plan_group, plan_units, try_formats
from pipelines.build_latents import choose_latents, no_clips, no_latents
from pipelines.build_sources import content_hash, latent_hashes_of, latents_of, row_hashes_of, sources_of, texts_of
from pipelines.build_stats import (
    GivenStatistics,
    GroupGathering,
    GroupStatistics,
    given_statistics,
    statistics_files,
)
from pipelines.build_texts import BuildTexts, text_kinds
from pipelines.build_unit import UnitLatents
from pipelines.clips import ClipSource
from pipelines.formats import EpisodePlan, Format, GroupPlan, UnitPlan
from pipelines.holdout import validation_ids
from pipelines.joined_latents import LatentChoice
from pipelines.lake import Lake, quoted
from pipelines.numbers import check_rate, numbers_of
from pipelines.promised_latents import PromisedLatents
from pipelines.rows import StoredEpisode
from pipelines.selection import action_plan, kept_ids, stored_episodes, telling
from pipelines.tokenizers import check_offset
from pipelines.twins import twin_pairs
from pipelines.views import shown_views
from pipelines.windows import plan_windows
from schemas.errors import LakeError, LayoutError, RecipeError
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe
from schemas.work import Outcome, WorkUnit

_DROPPED = "choose another recipe, or other choices in this one, that suits these robots; `wamloom show LAKE` lists the episodes"


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything a build will write, before any of it is written."""

    groups: tuple[GroupPlan, ...]
    episodes: tuple[tuple[GroupPlan, tuple[EpisodePlan, ...]], ...]
    units: tuple[WorkUnit, ...]
    dropped: tuple[Outcome, ...]
    hashes: Mapping[str, Sequence[str]]
    """By episode id: the hashes of its row, its latents and its texts, as far as they go in."""
    latents: LatentChoice | None
    sources: Mapping[str, tuple[str, str, str]]
    """By episode id: location, key, licence."""
    statistics: Mapping[str, tuple[ActionPlan, GroupStatistics]]
    """By name of the group."""
    inputs: Mapping[str, Any]
    """``sources``, ``latents`` and ``texts`` of the manifest: what went in, as ``build_sources`` tells it."""
    notes: tuple[str, ...] = ()
    """What of the recipe does not do what it may be thought to do."""
    unit_names: Sequence[str] = ()
    """Of units that were built while latents were promised: what they would be called had these been there."""

    @property
    def lake_content(self) -> str:
        """Hash of the keys and row hashes of all episodes, latents and texts that went in: equal content, equal hash, whatever
        its history."""
        return content_hash(self.hashes)

    def fingerprint(self, recipe: BuildRecipe, version: str) -> str:
        """Identity of the release: same recipe, lake content and version give the same bytes."""
        names = self.unit_names or [unit.unit_id for unit in self.units]
        return fingerprint("build-2", recipe.fingerprint, self.lake_content, version, names)

    def encoding(self, missing: Mapping[str, Sequence[ClipSource]]) -> "BuildPlan":
        """The same, of latents that are promised, with units that encode what of their episodes is ``missing``, by episode id."""
        units = []
        for unit in self.units:
            plan = cast(UnitPlan, unit.payload[0])
            ids = [episode.episode_id for episode in plan.episodes]
            works = tuple(work for episode_id in ids for work in missing.get(episode_id, ()))
            keys = frozenset(key for episode_id in ids for key in self.hashes[episode_id])
            units.append(replace(unit, payload=(plan, UnitLatents(works, keys))))
        return replace(self, units=tuple(units))

    def settled(self, lake: Lake, recipe: BuildRecipe, version: str) -> "BuildPlan":
        """The plan of the same build with latents that were promised and are in ``lake`` now: as if they had always been."""
        names = row_hashes_of(lake, self.latents)
        hashes = {key: tuple(names.get(one, one) for one in some) for key, some in self.hashes.items()}
        units = [
            unit
            for group, episodes in self.episodes
            for unit in plan_units(group, episodes, recipe, version, hashes, self.latents)
        ]
        told = latents_of(lake, self.latents, {one for some in hashes.values() for one in some})
        inputs = {**self.inputs, "latents": told}
        return replace(self, hashes=hashes, inputs=inputs, unit_names=[unit.unit_id for unit in units])

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

    def shares(self, recipe: BuildRecipe) -> dict[str, float]:
        """By group: the part of training samples to take from it, so that data sets stand to each other as their weights
        and the groups of one as their steps; {} where the recipe has no mixture. Raises RecipeError where it does not fit.
        """
        if not recipe.mixture:
            return {}
        found = sorted({group.dataset for group in self.groups})
        odd = sorted(set(found) ^ set(recipe.mixture))
        if odd:
            lacks = "has no weight" if odd[0] in found else "is not in this build"
            raise RecipeError(f"the data set {odd[0]!r} {lacks}", "mixture", f"weigh each of {', '.join(found)}")
        steps: Counter[str] = Counter()
        for group in self.groups:
            steps[group.dataset] += group.num_steps
        whole = sum(recipe.mixture.values())
        return {
            group.name: recipe.mixture[group.dataset] / whole * group.num_steps / steps[group.dataset]
            for group in self.groups
        }

    @property
    def num_samples(self) -> int:
        """Windowed samples of all groups."""
        return sum(episode.num_samples for _, episodes in self.episodes for episode in episodes)

    @property
    def num_steps(self) -> int:
        """Steps of all groups."""
        return sum(group.num_steps for group in self.groups)


def plan_build(lake: Lake, recipe: BuildRecipe, version: str, promised: PromisedLatents | None = None) -> BuildPlan:
    """Reads the numbers of every kept episode that matches, and plans groups, indices, statistics and units.

    Latents that are ``promised`` count as there; once they are, ``settled`` tells what was built.

    Raises LakeError where nothing matches, RecipeError where the recipe does not fit the data.
    """
    if not recipe.formats:
        raise RecipeError("no format is named", hint=f"known: {', '.join(registry.names('formats'))}")
    check_offset(recipe.tokenizer)
    ids = kept_ids(lake, recipe.where)
    latents, latent_hashes = choose_latents(lake, recipe, {episode_id for episode_id, _ in ids}, promised=promised)
    ordered = sorted((episode_id for episode_id, _ in ids), key=lambda i: fingerprint("order-1", recipe.seed, i))
    members: dict[tuple[Any, ...], list[Member]] = {}
    gathered: dict[tuple[Any, ...], GroupGathering] = {}
    given: dict[tuple[Any, ...], GivenStatistics | None] = {}
    examples: dict[tuple[Any, ...], StoredEpisode] = {}
    sources: dict[str, tuple[str, str, str]] = {}
    dropped: list[Outcome] = []
    inputs = {episode_id: [row_hash] for episode_id, row_hash in ids}
    bare: list[tuple[str, str]] = []
    texts = {name: BuildTexts(lake, kind) for name, kind in text_kinds(recipe).items()}
    text_rows: dict[str, set[str]] = {name: set() for name in texts}
    validation = _validation(lake, [episode_id for episode_id, _ in ids], recipe)
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
            inputs[episode.episode_id] += latent_hashes_of(episode, recipe, latent_hashes)
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
        key = group_key(episode, numbers, recipe)
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
            Member.of(
                episode,
                numbers,
                windows,
                chunks.in_float32().without_unread() if recipe.tokenizer is not None else None,
                "val" if episode.episode_id in validation else "train",
            )
        )
        for name, joined in texts.items():
            rows = joined.hashes_of(episode, members[key][-1].plan)
            inputs[episode.episode_id] += rows
            text_rows[name].update(rows)
        examples.setdefault(key, episode)
        sources[episode.episode_id] = (episode.location, episode.source_key, episode.license)
    if bare:
        lacking = len({episode_id for episode_id, _ in bare})
        if promised is not None:
            raise no_clips(f"{lacking} episodes have none of view {bare[0][1]}", lake)
        raise no_latents(f"{lacking} episodes have none of view {bare[0][1]}", lake, recipe)
    if not members:
        why = dropped[0].message if dropped else "all their steps lie in gaps"
        raise LakeError(f"every matching episode was dropped: {why}", str(lake.root), _DROPPED, "empty")
    planned = []
    notes: list[str] = []
    statistics: dict[str, tuple[ActionPlan, GroupStatistics]] = {}
    keys = sorted(members, key=str)
    for name, key in zip(
        group_names(["_".join(part for part in (key[0], key[5]) if part) for key in keys]), keys, strict=True
    ):
        plan = gathered[key].plan
        with telling(examples[key].embodiment.name, key[0]):
            found = gathered[key].statistics([member.plan.episode_id for member in members[key]])
            statistics[name] = (plan, found)
            planned.append(plan_group(name, key, members[key], plan, found, given[key], examples[key], recipe))
        notes += _notes(name, key[2], plan, given[key], recipe)
    notes += _idle(recipe)
    splits = {episode.split for _, episodes in planned for episode in episodes}
    if recipe.split.val_fraction and "val" not in splits:
        notes.append(f"no episode fell into val: {recipe.split.val_fraction} of so few may be none")
    if "train" not in splits:
        notes.append(f"no episode is left for train: {recipe.split.val_fraction} of so few may be all")
    units = [
        unit for group, episodes in planned for unit in plan_units(group, episodes, recipe, version, inputs, latents)
    ]
    try_formats(units, recipe)
    used = {episode.episode_id for _, episodes in planned for episode in episodes}
    hashes = {key: tuple(rows) for key, rows in inputs.items() if key in used}
    whole = BuildPlan(
        tuple(group for group, _ in planned),
        tuple(planned),
        tuple(units),
        tuple(dropped),
        hashes,
        latents,
        sources,
        statistics,
        {
            "sources": sources_of(lake, used),
            "latents": latents_of(lake, latents, {one for some in hashes.values() for one in some}),
            "texts": texts_of(lake, recipe, text_rows),
        },
        tuple(notes),
    )
    whole.shares(recipe)
    for group in whole.groups:
        whole.statistics_of(group, recipe)  # so that a form which does not suit the recipe is told before any work
    return whole


def _validation(lake: Lake, episode_ids: Sequence[str], recipe: BuildRecipe) -> set[str]:
    if not recipe.split.val_fraction:
        return set()
    return validation_ids(episode_ids, recipe.split.val_fraction, twin_pairs(lake, episode_ids))


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


def _idle(recipe: BuildRecipe) -> list[str]:
    usual = BuildRecipe()
    idle = [
        f"[{name}] of the recipe changes nothing, since the format {name} is not built"
        for name in ("ctrlworld", "fastwam", "zarr")
        if name not in recipe.formats and getattr(recipe, name) != getattr(usual, name)
    ]
    taking = [cast(Format, registry.load("formats", name).FORMAT).takes_latents for name in recipe.formats]
    if recipe.content != "frames" and not any(taking):
        idle.append(
            f'content = "{recipe.content}" changes nothing, since no latents lie in {", ".join(recipe.formats)}'
        )
    return idle


def _no_action(episode: StoredEpisode) -> RecipeError:
    robot = episode.embodiment.name
    return RecipeError(
        f"episodes of {robot} have no action, and samples of a release need one",
        episode.dataset,
        f'set actions.source = "proprio" for chunks of measured states; or leave these episodes out with --where '
        f'"embodiment != {quoted(robot)}"',
        "no_action",
    )
