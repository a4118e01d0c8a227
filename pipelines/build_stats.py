"""The statistics of a build: of steps as recorded and of chunks as written, gathered while it is planned, and their files."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.action_chunks import ActionChunks, ChunkLayout, RunningSketch
from pipelines.action_plan import ActionPlan
from pipelines.chunk_stats import ChunkSketch, ChunkStats, Outliers, StatsOf, outliers, require_same
from pipelines.stats import Stats, sketch, stats_from_json
from pipelines.stats_export import (
    called,
    fastwam_dataset_stats,
    gear_relative_horizon_stats,
    gear_relative_stats,
    gear_stats,
    gigaworld_norm_stats,
    openpi_norm_stats,
)
from schemas.action_recipe import ActionRecipe
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError, WamloomError
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe, StatisticsForm

KIND = "wamloom statistics"
FILE = "statistics.json"
MAX_STEP_NUMBERS = 2_048
"""Numbers of a chunk (steps times channels) up to which each step has statistics of its own: a quarter of a MiB each."""
MAX_CHUNK_NUMBERS = 1 << 25
"""Steps times slots of one chunk, which is in memory whole."""
MAX_FILE_BYTES = 1 << 28
"""Of statistics to be read."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAMES = {"joints": "joint", "position": "eef", "rotation": "eef_rotation"}


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """Of one group, before normalization."""

    of: StatsOf
    action: Stats
    """Of single steps, as recorded."""
    proprio: Stats
    chunks: ChunkStats
    """Of chunks as written; steps are () where there are too many numbers, or a step never counts."""
    is_exact: bool
    """Whether the quantiles of all steps together are exact; else to 1 part in 1,000 (see ``pipelines.stats``)."""
    outliers: tuple[Outliers, ...]
    recorded: ChunkStats | None = None
    """See ``GroupPlan.recorded``; steps are () where there are too many numbers, or a step never counts."""


class GroupGathering:
    """Takes the episodes of one group, one after the other, and gives their statistics."""

    def __init__(self, recipe: BuildRecipe, plan: ActionPlan) -> None:
        if recipe.horizon * plan.width > MAX_CHUNK_NUMBERS:
            raise RecipeError(
                f"chunks of {recipe.horizon} steps of {plan.width} numbers are more than {MAX_CHUNK_NUMBERS} numbers",
                "horizon",
                "shorten it, or choose a narrower slot layout",
            )
        wide = recipe.horizon * int(plan.mask.sum()) > MAX_STEP_NUMBERS
        asked = _what_needs_steps(recipe)
        if wide and asked:
            raise RecipeError(
                f"statistics of each of {recipe.horizon} steps of {int(plan.mask.sum())} numbers are more than "
                f"{MAX_STEP_NUMBERS} numbers",
                "horizon",
                f"shorten it, leave parts out with actions.parts, or leave out what needs them: {', '.join(asked)}",
            )
        self.plan, self._recipe = plan, recipe
        nowhere = StatsOf.of_plan(plan, "")
        self._steps = {name: RunningSketch(nowhere) for name in ("action", "proprio")}
        self._chunks = RunningSketch(nowhere, by_step=not wide)
        self._recorded = ActionPlan.of(plan.embodiment, ActionRecipe()) if "fastwam" in recipe.formats else None
        self._recorded_horizon = recipe.fastwam.horizon or recipe.horizon
        self._recorded_chunks = RunningSketch(nowhere)

    def add(self, chunks: ActionChunks, counted: np.ndarray) -> None:
        """An episode of T steps, of which ``counted`` bool [T] count."""
        for name, values in (("action", chunks.action), ("proprio", chunks.proprio)):
            if values.shape[1]:
                self._steps[name].add(values[:, None], counted[:, None])
        used = self.plan.mask
        for starts in chunks.blocks(chunks.windows.starts):
            values, mask = chunks.at(starts)
            self._chunks.add(values[..., used], mask)  # the other slots are zero, whatever there is
        if self._recorded and self._recorded_horizon * self._recorded.width <= MAX_STEP_NUMBERS:
            recorded = replace(chunks, plan=self._recorded, horizon=self._recorded_horizon)
            for starts in recorded.blocks(np.flatnonzero(chunks.windows.selected)):
                self._recorded_chunks.add(*recorded.at(starts))

    def statistics(self, episode_ids: Sequence[str]) -> GroupStatistics:
        """Of all episodes taken, which are ``episode_ids``. Raises LayoutError or RecipeError where no step counts."""
        recipe = self._recipe
        chosen = (recipe.segments, recipe.rate, recipe.horizon, recipe.sample_stride)
        of = StatsOf.of_plan(self.plan, fingerprint("stats-data-1", sorted(episode_ids), *chosen))
        action, proprio = (self._of_steps(name) for name in ("action", "proprio"))
        found, slots = self._chunks.sketch(), np.flatnonzero(self.plan.mask)
        if found is None or not found.overall.count:
            if not self.plan.as_recorded or _what_needs_steps(recipe):
                raise RecipeError(
                    "no chunk has a step that counts, to take statistics of",
                    "horizon",
                    "shorten it or actions.lead to what the episodes hold, or change segments",
                )
            stats = ChunkStats(of, action, ())
            return _in_float32(
                GroupStatistics(of, action, proprio, stats, True, (), self._as_recorded(of.data, action))
            )
        overall = found.overall
        # chunks as recorded are made of the steps: these, each counted once, are what both are normalized by
        whole = action if self.plan.as_recorded else self._in_slots(overall.stats())
        stats = ChunkStats(of, whole, tuple(map(self._in_slots, _step_stats(found))))
        if not stats.steps and _what_needs_steps(recipe):
            found.stats()  # raises, naming the step that never counts
        far = tuple(replace(one, channel=int(slots[one.channel])) for one in outliers(overall))
        recorded = self._as_recorded(of.data, action)
        return _in_float32(GroupStatistics(of, action, proprio, stats, overall.is_exact, far, recorded))

    def _as_recorded(self, data: str, action: Stats) -> ChunkStats | None:
        """Of the chunks of recorded actions, where they were asked for; all steps together are the single steps ``action``."""
        if self._recorded is None:
            return None
        found = self._recorded_chunks.sketch()
        return ChunkStats(StatsOf.of_plan(self._recorded, data), action, _step_stats(found) if found else ())

    def _in_slots(self, stats: Stats) -> Stats:
        """Of all slots; those without meaning are zero, and so are their statistics."""
        used, width = np.flatnonzero(self.plan.mask), self.plan.width

        def spread(values: np.ndarray) -> np.ndarray:
            slots: np.ndarray = np.zeros(width)
            slots[used] = values
            return slots

        names = [field.name for field in fields(stats) if field.name != "count"]
        return Stats(stats.count, **{name: spread(getattr(stats, name)) for name in names})

    def _of_steps(self, name: str) -> Stats:
        robot = self.plan.embodiment
        if not (robot.action if name == "action" else robot.proprio):
            return sketch(np.zeros((1, 0)), np.ones(1, dtype=bool)).stats()
        found = self._steps[name].sketch()
        if found is None or not found.overall.count:
            where = "segments" if self._recipe.segments.is_set else "where"
            hint = "is every step left out by segments.skip or segments.within, or without a measurement?"
            raise RecipeError(f"no step counts, to take statistics of the {name}", where, hint)
        return found.overall.stats()


def _what_needs_steps(recipe: BuildRecipe) -> list[str]:
    """What of the recipe asks for statistics of each step of the horizon."""
    relative = recipe.actions.reference != "absolute"
    forms = [form for form in recipe.statistics if form == "fastwam" or (form == "gear" and relative)]
    return [*forms, *(["normalize_by"] if recipe.normalize_by == "step" else [])]


def _in_float32(found: GroupStatistics) -> GroupStatistics:
    """``found``. Raises RecipeError where what is written would be infinite, since releases hold float32."""
    largest = float(np.finfo(np.float32).max)
    for name, stats in (("action", found.action), ("proprio", found.proprio), ("chunks", found.chunks.overall)):
        for one in (stats, *(found.chunks.steps if name == "chunks" else ())):
            if any((np.abs(values) > largest).any() or not np.isfinite(values).all() for values in (one.min, one.max)):
                raise RecipeError(
                    f"numbers from {one.min.min():g} to {one.max.max():g} do not fit into float32",
                    name,
                    "choose a smaller actions.pose_scale, or leave out with --where what was not recorded so",
                )
    return found


def _step_stats(found: ChunkSketch) -> tuple[Stats, ...]:
    """Of each step of the horizon; () where one never counts, or they were taken together."""
    if not all(step.count for step in found.steps):
        return ()
    return tuple(step.stats() for step in found.steps)


@dataclass(frozen=True, slots=True)
class GivenStatistics:
    """What a ``statistics.json`` holds that normalizes: of the chunks, and of single steps."""

    chunks: ChunkStats
    action: Stats
    proprio: Stats
    made_with: Mapping[str, str]
    """``rate`` and ``horizon`` of the build that they are of, as text."""

    def differences(self, plan: ActionPlan, rate: str, horizon: int) -> list[str]:
        """What of the build that they are of makes relative chunks larger or smaller than those of this one."""
        reference = plan.recipe.reference
        here = {
            **({"rate": rate} if reference in ("chunk_start", "segment_start", "framewise") else {}),
            **({"horizon": str(horizon)} if reference == "chunk_start" else {}),
        }
        return [
            f"{name} {self.made_with[name]}, not {value}"
            for name, value in here.items()
            if self.made_with[name] != value
        ]


def given_statistics(path: str, plan: ActionPlan, recipe: BuildRecipe) -> GivenStatistics:
    """The statistics of another build, for chunks of ``plan``.

    Raises FingerprintMismatch where they are of other quantities and says which, RecipeError where the file is none.
    """
    hint = "give the statistics.json that lies in stats/<group> of a release"
    try:
        if not Path(path).is_file():  # a pipe or a device may never end
            raise RecipeError("there is no such file", path, hint)
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise RecipeError(f"larger than {MAX_FILE_BYTES} bytes", path, hint)
        plain = json.loads(Path(path).read_bytes(), object_pairs_hook=_once)
        if plain["kind"] != KIND:
            raise ValueError(f"kind {plain['kind']!r}")
        of = StatsOf(**{key: str(value) for key, value in plain["of"].items()})
        if not (_DIGEST.fullmatch(of.data) and _DIGEST.fullmatch(of.plan)):
            raise ValueError("of.data or of.plan is no fingerprint")
        _require_same(of, plan, str(plain["robot"]), path)
        of = StatsOf.of_plan(plan, of.data)  # what the file says for people is not taken over
        steps = tuple(_stats(step) for step in plain["chunks"]["steps"])
        chunks = ChunkStats(of, _stats(plain["chunks"]["overall"]), steps)
        made_with = {name: str(plain[name]) for name in ("rate", "horizon")}
        given = GivenStatistics(chunks, _stats(plain["action"]["stats"]), _stats(plain["proprio"]["stats"]), made_with)
    except KeyError as error:
        raise RecipeError(f"not statistics of a build: there is no {error}", path, hint) from error
    except LayoutError as error:
        raise RecipeError(f"not statistics of a build: {error.message}", path, hint) from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RecipeError(f"not statistics of a build: {error}", path, hint) from error
    widths = {len(one.mean) for one in (chunks.overall, *steps)}
    recorded = (len(plan.embodiment.action), len(plan.embodiment.proprio))
    if widths != {plan.width} or (len(given.action.mean), len(given.proprio.mean)) != recorded:
        raise RecipeError("the statistics do not have as many channels as the robot", path, hint)
    if any(one.min[~plan.mask].any() or one.max[~plan.mask].any() for one in (chunks.overall, *steps)):
        raise RecipeError("not statistics of a build: slots without meaning are not zero", path, hint)
    if recipe.normalize_by == "step" and len(steps) != recipe.horizon:
        raise RecipeError(
            f"they are of {len(steps)} steps, the horizon is {recipe.horizon}",
            path,
            'set the same horizon, or normalize_by = "all"',
        )
    return given


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of ``pairs``. Raises ValueError where a key is there twice, since readers differ on which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _require_same(of: StatsOf, plan: ActionPlan, robot: str, path: str) -> None:
    try:
        require_same(of, StatsOf.of_plan(plan, ""))
    except FingerprintMismatch as error:
        told = robot[:200] if robot.isprintable() else repr(robot[:200])
        whose = "" if robot == plan.embodiment.name else f"; they are of {told}, not {plan.embodiment.name}"
        raise FingerprintMismatch(error.message + whose, path, error.hint) from error


def _stats(plain: Any) -> Stats:
    """Statistics that some numbers can have. Raises LayoutError for others: what they scaled would be wrong in silence."""
    found = stats_from_json(json.dumps(plain))
    numbers = [number for values in plain.values() for number in values]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise LayoutError("a statistic is no number")
    rising = (found.min, found.q01, found.q10, found.q50, found.q90, found.q99, found.max)
    rounding = 1e-9 * np.maximum(np.abs(found.min), np.abs(found.max))
    pairs = [*pairwise(rising), (found.min, found.mean), (found.mean, found.max), (0.0, found.std)]
    pairs.append((found.std, (found.max - found.min) / 2))
    if any((low > high + rounding).any() for low, high in pairs) or (found.std < 0).any():
        raise LayoutError("min, q01, q10, q50, q90, q99 and max do not rise, or mean or std cannot be theirs")
    if len(found.mean) and (found.count < 1 or any(count != found.count for count in plain["count"])):
        raise LayoutError("count is no number of rows")
    return found


def chunk_layout(plan: ActionPlan, stats: ChunkStats, recipe: BuildRecipe) -> ChunkLayout:
    """What units need to know of chunks; statistics of steps only where they normalize."""
    steps = stats.steps if recipe.normalize_by == "step" else ()
    return ChunkLayout(
        plan.names,
        tuple(bool(one) for one in plan.mask),
        plan.unmoved,
        plan.fingerprint,
        ChunkStats(stats.of, stats.overall, steps),
        plan.slots.model_copy(update={"title": "", "source": "", "notes": ""}),
    )


def statistics_files(
    recipe: BuildRecipe, plan: ActionPlan, found: GroupStatistics, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Name -> JSON of every file of one group's statistics: ours, and those of the forms that the recipe names.

    ``facts`` tell of the group; ``num_episodes`` and ``num_steps`` must be among them. Raises WamloomError that names the
    form which does not suit the recipe.
    """
    files: dict[str, Any] = {
        FILE: {
            "kind": KIND,
            **facts,
            "of": asdict(found.of),
            "chunks": {
                "names": list(plan.names),
                "mask": plan.mask.tolist(),
                "quantiles_are_exact": found.is_exact,
                "overall": found.chunks.overall.to_mapping(),
                "steps": [step.to_mapping() for step in found.chunks.steps],
                "outliers": [asdict(one) for one in found.outliers],
            },
            "action": {"stats": found.action.to_mapping()},
            "proprio": {"stats": found.proprio.to_mapping()},
        }
    }
    for form in recipe.statistics:
        try:
            files |= _form_files(form, recipe, plan, found, facts)
        except WamloomError as error:
            raise RecipeError(
                f"statistics in the form of {form}: {error.message}", str(facts.get("group", "")), error.hint
            ) from error
    return files


def _form_files(
    form: StatisticsForm,
    recipe: BuildRecipe,
    plan: ActionPlan,
    found: GroupStatistics,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    chunks = found.chunks
    if form == "openpi":
        return {"norm_stats.json": openpi_norm_stats(found.proprio, chunks.overall)}
    if form == "gigaworld":
        return {"gigaworld_norm_stats.json": gigaworld_norm_stats(found.proprio, chunks.overall)}
    if form == "fastwam":
        state = {"default": found.proprio} if plan.embodiment.proprio else {}
        numbers = (int(facts["num_episodes"]), int(facts["num_steps"]))
        return {"dataset_stats.json": fastwam_dataset_stats(state, {"default": chunks}, *numbers)}
    columns = {"observation.state": found.proprio, "action": found.action}
    files: dict[str, Any] = {
        "stats.json": gear_stats({name: stats for name, stats in columns.items() if len(stats.mean)})
    }
    if recipe.actions.reference != "absolute":
        parts = called(_moved_stats(plan, chunks), recipe.names)
        files["relative_stats_dreamzero.json"] = gear_relative_stats(parts)
        files["relative_horizon_stats_dreamzero.json"] = gear_relative_horizon_stats(parts)
    return files


def relative_stats(plan: ActionPlan, found: GroupStatistics) -> dict[str, ChunkStats]:
    """Of what ``plan`` makes relative to the start of the chunk, by name; {} for any other reference."""
    return _moved_stats(plan, found.chunks) if plan.recipe.reference == "chunk_start" else {}


def _moved_stats(plan: ActionPlan, chunks: ChunkStats) -> dict[str, ChunkStats]:
    return {name: chunks.channels(slots) for name, slots in moved_slots(plan).items()}


def moved_slots(plan: ActionPlan) -> dict[str, list[int]]:
    """The slots of what is relative, by a name as modality.json has it: ``joint_position``, ``left_eef_position``."""
    numbers = {
        *plan.written.map.numbers,
        *(c for pose in plan.written.map.poses for c in (*pose.position, *pose.rotation)),
    }
    parts: dict[str, list[int]] = {}
    for number in sorted(numbers):
        role = plan.written.roles[number]
        name = _NAMES.get(role.part, role.part)
        label = name if name == "eef_rotation" else f"{name}_position"
        parts.setdefault(f"{role.arm}_{label}" if role.arm else label, []).append(int(plan.indices[number]))
    return parts
