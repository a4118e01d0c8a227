"""The groups of a build: which episodes share a folder, in which order and split, and which of them share a file."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pipelines import registry
from pipelines.action_chunks import ActionChunks
from pipelines.action_plan import ActionPlan
from pipelines.build_stats import GivenStatistics, GroupStatistics, chunk_layout, relative_stats
from pipelines.formats import EpisodePlan, Format, GroupPlan, Split, UnitPlan, sized
from pipelines.joined_latents import LatentChoice
from pipelines.numbers import EpisodeNumbers, instruction_runs
from pipelines.rows import StoredEpisode
from pipelines.selection import chunks_of
from pipelines.tokenizers import Tokenizer
from pipelines.views import picture_sizes
from pipelines.windows import Windows
from schemas.embodiment import VIEW_SLOTS
from schemas.errors import RecipeError, WamloomError
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe
from schemas.time import rate_text
from schemas.work import WorkUnit

_SUCCESS = {True: "success", False: "failure", None: "unknown"}


@dataclass(slots=True)
class Member:
    """What the plan remembers of one episode: no pixels, chunks only as long as the tokenizer is not fitted."""

    plan: EpisodePlan
    """Its place in the group is still to come."""
    windows: Windows
    chunks: ActionChunks | None
    """None where there is no tokenizer to fit."""

    @staticmethod
    def of(
        episode: StoredEpisode, numbers: EpisodeNumbers, windows: Windows, chunks: ActionChunks | None, split: Split
    ) -> "Member":
        """What is remembered of ``episode``."""
        said = [one for one in episode.instructions if one.text.strip()]
        first = said[0].text if said else ""
        others = dict.fromkeys(one.text for one in said if one.start_ns is None and one.text != first)
        runs = instruction_runs(episode, numbers.times_ns)
        plan = EpisodePlan(
            episode.episode_id,
            0,
            0,
            numbers.num_steps,
            0,
            len(windows.starts),
            first,
            runs,
            () if runs else tuple(others),
            episode.success,
            split,
        )
        return Member(plan, windows, chunks)


def group_names(datasets: Sequence[str]) -> list[str]:
    """A name for each group of these data sets; from the second of one on with a number, and none twice."""
    taken, names = set(datasets), list[str]()
    for index, dataset in enumerate(datasets):
        name, number = dataset, datasets[: index + 1].count(dataset)
        while number > 1 and (name := f"{dataset}_{number}") in taken:
            number += 1
        taken.add(name)
        names.append(name)
    return names


def group_key(episode: StoredEpisode, numbers: EpisodeNumbers, recipe: BuildRecipe) -> tuple[Any, ...]:
    """What episodes of one group have in common, as ``plan_group`` takes it. Raises RecipeError where names clash."""
    views = () if recipe.content == "latents" else picture_sizes(recipe.views, episode.views)
    named = tuple((recipe.names.view(name), height, width) for name, height, width in views)
    twice = [name for name, _, _ in named if [other for other, _, _ in named].count(name) > 1]
    if twice:
        raise RecipeError(f"two views of {episode.dataset} would be called {twice[0]!r}", "names.views", "name both")
    # the lineage tells of each view by its name, beside action and proprio, and of a canvas beside the views on it
    taken = {"action", "proprio", *(VIEW_SLOTS if recipe.views.canvas else ())}
    if clash := next((name for name, _, _ in named if name in taken), None):
        raise RecipeError(
            f"a view of {episode.dataset} would be called {clash!r}, as something else in the lineage is",
            "names.views",
            "give it another name",
        )
    # robots of one name whose cards changed between two ingests are two robots
    robot = (episode.embodiment.name, fingerprint(episode.embodiment))
    success = _SUCCESS[episode.success] if recipe.split.by_success else ""
    return (episode.dataset, robot, rate_text(numbers.rate), named, episode.license, success)


def try_formats(units: Sequence[WorkUnit], recipe: BuildRecipe) -> None:
    """Opens each format for some units of each group in a scratch folder, so that what its encoder refuses is told before
    any work, as is what is too long: these are the unit with the longest episode and the one with the most steps."""
    groups: dict[str, list[UnitPlan]] = {}
    for plan in (cast(UnitPlan, unit.payload[0]) for unit in units):
        groups.setdefault(plan.group.name, []).append(plan)
    longest = [max(plans, key=lambda plan: max(e.num_steps for e in plan.episodes)) for plans in groups.values()]
    largest = [max(plans, key=lambda plan: sum(e.num_steps for e in plan.episodes)) for plans in groups.values()]
    for plan in {id(plan): plan for plan in (*longest, *largest)}.values():
        for name in recipe.formats:
            form = cast(Format, registry.load("formats", name).FORMAT)
            if form.beside and form.beside not in recipe.formats:
                raise RecipeError(
                    f"{name} writes into the folders of {form.beside}, which is not built",
                    "formats",
                    f"add {form.beside} to the formats",
                )
            if form.beside and name in recipe.sizes:
                message = f"{name} has the pictures of {form.beside}, and none of its own"
                raise RecipeError(message, f"sizes.{name}", f"set sizes.{form.beside}")
            own = sized(plan, recipe, name)
            _check_sizes(own.group, recipe)
            with tempfile.TemporaryDirectory(prefix="wamloom-plan-") as scratch:
                try:
                    form.open_unit(own, recipe, Path(scratch))
                except WamloomError as error:
                    hint = error.hint.replace("views.", f"sizes.{name}.") if name in recipe.sizes else error.hint
                    raise RecipeError(error.message, f"{name} of {plan.group.name}", hint, error.reason) from error


def _check_sizes(group: GroupPlan, recipe: BuildRecipe) -> None:
    for slot, height, width in group.views:
        if height * width > recipe.limits.max_pixels:
            raise RecipeError(
                f"view {slot} of {group.name} would be {width} x {height} px, limits.max_pixels is "
                f"{recipe.limits.max_pixels}",
                "views",
                "set a smaller views.height_px and views.width_px",
            )


def plan_group(
    name: str,
    key: tuple[Any, ...],
    members: list[Member],
    plan: ActionPlan,
    found: GroupStatistics,
    given: GivenStatistics | None,
    example: StoredEpisode,
    recipe: BuildRecipe,
) -> tuple[GroupPlan, tuple[EpisodePlan, ...]]:
    """The group ``name`` with its episodes in order, those of ``train`` first."""
    layout = chunk_layout(plan, given.chunks if given else found.chunks, recipe)
    tokenizer_json = None
    if recipe.tokenizer is not None and any(member.plan.num_samples for member in members):
        chunks, mask = chunks_of(members, recipe.horizon)
        fitted: Tokenizer = registry.load("tokenizers", recipe.tokenizer.name).fit(
            layout.used(layout.normalized(chunks, recipe)), mask, **recipe.tokenizer.options
        )
        # Continuous values are the action chunks that the release holds anyway.
        tokenizer_json = None if fitted.continuous else fitted.to_json()
    episodes, first_step, first_sample = [], 0, 0
    for index, member in enumerate(sorted(members, key=lambda one: one.plan.split == "val")):  # stable, train first
        episode = replace(member.plan, episode_index=index, first_step=first_step, first_sample=first_sample)
        episodes.append(episode)
        first_step += episode.num_steps
        first_sample += episode.num_samples
    group = GroupPlan(
        name=name,
        dataset=example.dataset,
        card=example.embodiment,
        rate=key[2],
        action_names=tuple(channel.name for channel in example.embodiment.action),
        proprio_names=tuple(channel.name for channel in example.embodiment.proprio),
        views=key[3],
        stats={"action": found.action.to_mapping(), "proprio": found.proprio.to_mapping()},
        chunk=layout,
        tasks=tuple(
            sorted({t for episode in episodes for _, _, said in episode.told(recipe.names.joined_by) for t in said})
        ),
        num_episodes=len(episodes),
        num_steps=first_step,
        license=example.license,
        tokenizer_json=tokenizer_json,
        given_stats=None
        if given is None
        else {"action": given.action.to_mapping(), "proprio": given.proprio.to_mapping()},
        relative=relative_stats(plan, found),
        recorded=found.recorded,
    )
    return group, tuple(episodes)


def plan_units(
    group: GroupPlan,
    episodes: Sequence[EpisodePlan],
    recipe: BuildRecipe,
    version: str,
    hashes: Mapping[str, Sequence[str]],
    latents: LatentChoice | None,
) -> list[WorkUnit]:
    """Units of even size, none with episodes of two splits; equal units have equal names wherever they are planned."""
    splits = [_even([e for e in episodes if e.split == split], group, recipe) for split in ("train", "val")]
    packs = [(pack, (n, len(some), some[0][0].first_step)) for some in splits for n, pack in enumerate(some)]
    units = []
    for index, (pack, place) in enumerate(packs):
        plan = UnitPlan(group, index, tuple(pack), len(packs), *place)
        inputs = [hashes[episode.episode_id] for episode in pack]
        unit_id = fingerprint("build-unit-3", plan, inputs, recipe.fingerprint, latents, version)
        units.append(WorkUnit(unit_id, (plan,), sum(episode.num_steps for episode in pack)))
    return units


def _even(episodes: Sequence[EpisodePlan], group: GroupPlan, recipe: BuildRecipe) -> list[list[EpisodePlan]]:
    """``episodes`` in order, in packs of about the same number of frames, as few as ``unit_frames`` asks for."""
    sizes = [episode.num_steps * max(1, len(group.views)) for episode in episodes]
    total, number = sum(sizes), math.ceil(sum(sizes) / recipe.unit_frames)
    packs: dict[int, list[EpisodePlan]] = {}
    before = 0
    for episode, size in zip(episodes, sizes, strict=True):
        packs.setdefault((2 * before + size) * number // (2 * total), []).append(episode)  # where its middle lies
        before += size
    return list(packs.values())
