"""What LeRobot's versions have in common, as the formats write them: columns, features, statistics and the names of files.

A row is a step. Beside LeRobot's own columns stand the lineage (``lineage.*``), ``valid`` and ``selected``, which policies
leave alone, and the further columns that the recipe names.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.image_stats import color_levels, image_stats, no_levels, sampled_steps, weighted_stats
from pipelines.parts import parts_of
from pipelines.release_plan import BuiltEpisode, EpisodePlan, GroupPlan, Pictures, UnitPlan
from pipelines.stats import QUANTILES, Stats, center_and_scale, sketch, stats_from_json
from pipelines.stats_export import lerobot_stats
from pipelines.video_writer import PIXEL_FORMAT
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe
from schemas.release_choices import ColumnRecipe
from schemas.time import parse_rate

CHUNK_SIZE = 1000
"""LeRobot's ``chunks_size``: files in a folder."""
TOLERANCE_S = 1e-4
"""How far LeRobot lets a frame lie from the time it asks for."""
STATE = "observation.state"
ACTION = "action"
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
PARQUET = {"compression": "zstd", "write_page_checksum": True}

EPISODE_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
EPISODE_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
"""Of versions 2.0 and 2.1, as ``info.json`` tells them."""


def episode_chunk(episode_index: int) -> int:
    """The number of the ``chunk-XXX`` folder of an episode, in versions 2.0 and 2.1."""
    return episode_index // CHUNK_SIZE


def episode_path(template: str, episode_index: int, **names: str) -> str:
    """``template`` (such as ``EPISODE_DATA``) filled in for an episode of versions 2.0 and 2.1, relative to the data set."""
    return template.format(episode_chunk=episode_chunk(episode_index), episode_index=episode_index, **names)


def video_key(recipe: BuildRecipe, view: str) -> str:
    """The feature that holds a view, and in versions 2.0 and 2.1 its folder."""
    return recipe.names.images + view


@dataclass(frozen=True, slots=True)
class Column:
    """A column of float32 numbers: channels of a robot's vector."""

    of: str
    """``action`` or ``proprio``."""
    channels: tuple[int, ...]
    """Of that vector, in the order they are written."""
    names: tuple[str, ...]
    flip: bool = False
    """Whether 1 - g is written."""

    def values(self, episode: BuiltEpisode) -> np.ndarray:
        """float32 [T, A]."""
        chosen: np.ndarray = getattr(episode, self.of)[:, list(self.channels)]
        return 1 - chosen if self.flip else chosen

    def stats(self, whole: Stats) -> Stats:
        """Of this column, from those of the whole vector as it is written."""
        found = {
            one.name: getattr(whole, one.name)[list(self.channels)] for one in fields(whole) if one.name != "count"
        }
        if self.flip:
            mirrored = dict(zip(QUANTILES, reversed(QUANTILES), strict=True)) | {
                "min": "max",
                "max": "min",
                "mean": "mean",
            }
            found = {"std": found["std"]} | {name: 1 - found[other] for name, other in mirrored.items()}
        return Stats(whole.count, **found)


def columns_of(group: GroupPlan, recipe: BuildRecipe) -> dict[str, Column]:
    """Feature to column: the whole vectors (a robot without proprio has no state), then those of ``names.columns``.

    Raises RecipeError where the robot has no such channels, or the name is taken.
    """
    whole = {STATE: ("proprio", group.proprio_names), ACTION: ("action", group.action_names)}
    found = {
        feature: Column(of, tuple(range(len(names))), tuple(names)) for feature, (of, names) in whole.items() if names
    }
    taken = {*whole, *INDICES, *lineage(group), "valid", "selected", "task"}
    for key in (video_key(recipe, view) for view, _, _ in group.views):
        if key in taken or key.startswith("annotation."):
            hint = "set another names.images, or name the view otherwise"
            raise RecipeError(f"a view would be {key}, which is the name of a column", "names", hint)
        taken.add(key)
    for name, choice in recipe.names.columns.items():
        if name in taken or name.startswith("annotation."):
            raise RecipeError(f"{name} is the name of another column", "names.columns", "give it another name")
        found[name] = _further_column(group, recipe, name, choice)
    return found


def _further_column(group: GroupPlan, recipe: BuildRecipe, name: str, choice: ColumnRecipe) -> Column:
    card, of, where = group.card, choice.of, f"names.columns.{name}"
    layout, grippers = (card.action, card.action_grippers) if of == "action" else (card.proprio, card.proprio_grippers)
    known = [channel.name for channel in layout]
    parts = parts_of(layout, grippers)
    if choice.part is not None:
        channels = [index for part in parts if part.kind == choice.part for index in part.channels]
        if not channels:
            kinds = sorted({part.kind for part in parts})
            told = f"it has {', '.join(kinds)}" if kinds else "it has no channel"
            raise RecipeError(f"the {of} of {card.name} has no part {choice.part!r}", where, told)
    else:
        missing = [channel for channel in choice.channels if channel not in known]
        if missing:
            hint = f"it has {', '.join(known)}" if known else "it has none"
            raise RecipeError(f"the {of} of {card.name} has no channel {missing[0]!r}", where, hint)
        channels = [known.index(channel) for channel in choice.channels]
    if choice.flip:
        ends = {part.channels[0]: part.gripper for part in parts if part.kind == "gripper"}
        odd = [known[c] for c in channels if (end := ends.get(c)) is None or {end.open, end.closed} != {0.0, 1.0}]
        if odd:
            message = f"{odd[0]} of {card.name} cannot be flipped: its card does not say that it is 0 and 1 at its ends"
            raise RecipeError(message, where, "leave flip out, or say open and closed in the card")
        if recipe.normalize != "none":
            raise RecipeError("1 - g of a normalized gripper means nothing", where, 'set normalize = "none"')
    return Column(of, tuple(channels), tuple(known[c] for c in channels), choice.flip)


def lineage(group: GroupPlan) -> tuple[str, ...]:
    """The columns that say where a step came from."""
    slots = tuple(f"lineage.frame_id.{slot}" for slot, _, _ in group.views)
    return ("lineage.source_row", "lineage.source_time_ns", *slots)


def flags(recipe: BuildRecipe) -> tuple[str, ...]:
    """The columns of truth values."""
    return ("valid", "selected") if recipe.segments.is_set else ("valid",)


def data_schema(group: GroupPlan, recipe: BuildRecipe, languages: Sequence[str] = ()) -> pa.Schema:
    """Of the files of rows; ``languages`` are further columns of task indices."""
    # LeRobot reads a feature of shape (1,) as a scalar column
    kinds = [
        (feature, pa.float32() if len(column.names) == 1 else pa.list_(pa.float32(), len(column.names)))
        for feature, column in columns_of(group, recipe).items()
    ]
    kinds += [(name, pa.float32() if name == "timestamp" else pa.int64()) for name in (*INDICES, *languages)]
    kinds += [(name, pa.int64()) for name in lineage(group)]
    return pa.schema([*kinds, *((name, pa.bool_()) for name in flags(recipe))])


class Rows:
    """Makes the rows of the episodes of one group."""

    def __init__(self, group: GroupPlan, recipe: BuildRecipe, languages: Sequence[str] = ()) -> None:
        """Raises RecipeError as ``columns_of``."""
        self.columns = columns_of(group, recipe)
        self.schema = data_schema(group, recipe, languages)
        self.rate = parse_rate(group.rate)
        self._group, self._recipe, self._languages = group, recipe, tuple(languages)
        self._tasks = {task: index for index, task in enumerate(group.tasks)}

    def indices(self, plan: EpisodePlan) -> dict[str, np.ndarray]:
        """Time and numbers of each step [T], and of each language column the task: where fewer were said, they repeat.

        Raises ReleaseError for an instruction that was not planned.
        """
        steps: np.ndarray = np.arange(plan.num_steps, dtype=np.int64)
        found = {
            "timestamp": (steps / float(self.rate)).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full_like(steps, plan.episode_index),
            "index": plan.first_step + steps,
        }
        for number, name in enumerate(("task_index", *self._languages)):
            nth = max(number - 1, 0)  # the first language column is the task
            runs = [
                np.full(stop - start, self._task(said[nth % len(said)], plan), dtype=np.int64)
                for start, stop, said in plan.told(self._recipe.names.joined_by)
            ]
            found[name] = np.concatenate(runs)
        return found

    def _task(self, text: str, plan: EpisodePlan) -> int:
        if text not in self._tasks:
            message, where = f"the instruction {text!r} is none of the group's tasks", f"episode {plan.episode_id}"
            raise ReleaseError(message, f"{self._group.name}, {where}", "plan the build again", "off_plan")
        return self._tasks[text]

    def table(self, episode: BuiltEpisode) -> pa.Table:
        """The rows of ``episode``."""
        found = {name: column.values(episode) for name, column in self.columns.items()}
        found |= self.indices(episode.plan)
        found |= {"lineage.source_row": episode.source_rows, "lineage.source_time_ns": episode.source_times_ns}
        found |= {f"lineage.frame_id.{slot}": ids for slot, ids in episode.frame_ids.items()}
        found |= {"valid": episode.valid} | ({} if episode.selected is None else {"selected": episode.selected})
        arrays = []
        for field in self.schema:
            flat = pa.array(np.ascontiguousarray(found[field.name]).reshape(-1))
            if pa.types.is_fixed_size_list(field.type):
                flat = pa.FixedSizeListArray.from_arrays(flat, field.type.list_size)
            arrays.append(flat.cast(field.type))
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def stats(self, episode: BuiltEpisode) -> dict[str, dict[str, Any]]:
        """LeRobot's statistics of one episode's vectors and indices: of its valid rows, or of all where none is."""
        mask = episode.valid if episode.valid.any() else None
        found = {name: sketch(column.values(episode), mask).stats() for name, column in self.columns.items()}
        numbers = self.indices(episode.plan)
        found |= {name: sketch(numbers[name][:, None].astype(np.float64)).stats() for name in INDICES}
        return lerobot_stats(found)


def all_tasks(plan: EpisodePlan, recipe: BuildRecipe) -> list[str]:
    """What was said of an episode, each once."""
    return list(dict.fromkeys(text for _, _, said in plan.told(recipe.names.joined_by) for text in said))


def check_times(group: GroupPlan, plan: EpisodePlan, first_frame: int, hint: str) -> None:
    """Raises ReleaseError where LeRobot, which compares times in float32, would refuse its own frames: too far into a file."""
    rate = parse_rate(group.rate)
    steps: np.ndarray = np.arange(plan.num_steps)
    exact = np.array([float((first_frame + step) / rate) for step in range(plan.num_steps)])
    stamps = (steps / float(rate)).astype(np.float32)
    asked = (float(first_frame / rate) + stamps.astype(np.float64)).astype(np.float32)
    error = np.abs(asked - exact.astype(np.float32))
    if group.views and error.max() >= TOLERANCE_S:
        raise ReleaseError(
            f"step {int(error.argmax())} lies {exact[error.argmax()]:.0f} s into its video, where LeRobot's float32 "
            "times are coarser than its tolerance",
            f"{group.name}, episode {plan.episode_id}",
            hint,
            "too_long",
        )


class PictureLevels:
    """Counts the levels of pixels, per view, of one episode after the other and of all."""

    def __init__(self, views: Iterable[str]) -> None:
        self._total = {view: no_levels() for view in views}
        self._looked_at = dict.fromkeys(self._total, 0)
        self._episode: dict[str, np.ndarray] = {}
        self._copied: set[str] = set()

    def begin(self) -> None:
        """An episode begins."""
        self._episode = {view: no_levels() for view in self._total}

    def add(self, view: str, first_step: int, frames: np.ndarray, num_steps: int) -> None:
        """Frames of the episode, which has ``num_steps``."""
        looked_at = sampled_steps(num_steps)
        chosen = looked_at[(looked_at >= first_step) & (looked_at < first_step + len(frames))] - first_step
        for index in chosen:
            self._episode[view] += color_levels(frames[index])

    def add_copied(self, view: str, pictures: Pictures, num_steps: int) -> None:
        """The frames of the episode are copied: of those that count, the pictures are asked for."""
        self._copied.add(view)
        for chunk in pictures(sampled_steps(num_steps)):
            for frame in chunk:
                self._episode[view] += color_levels(frame)

    def end(self, num_steps: int) -> dict[str, dict[str, Any]]:
        """The statistics of the episode, by view."""
        number = len(sampled_steps(num_steps))
        for view, levels in self._episode.items():
            self._total[view] += levels
            self._looked_at[view] += number
        return {view: image_stats(levels, number) for view, levels in self._episode.items()}

    def facts(self) -> dict[str, Any]:
        """What ``group_stats`` needs of a unit, as JSON."""
        levels = {view: found.tolist() for view, found in self._total.items()}
        return {"levels": levels, "looked_at": self._looked_at, "copied": sorted(self._copied)}


def group_stats(
    group: GroupPlan,
    recipe: BuildRecipe,
    units: Sequence[tuple[UnitPlan, Mapping[str, Any]]],
    languages: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """LeRobot's ``stats.json`` of a group: of the numbers as written, with quantiles; exact for indices."""
    stats: dict[str, dict[str, Any]] = {}
    for feature, column in columns_of(group, recipe).items():
        found = column.stats(_as_written(group, recipe, column.of))
        stats |= lerobot_stats({feature: found})
    episodes = [episode for unit, _ in units for episode in unit.episodes]
    lengths = np.array([episode.num_steps for episode in episodes])
    steps: np.ndarray = np.arange(lengths.max(initial=0))
    longer = len(lengths) - np.searchsorted(np.sort(lengths), steps, "right")
    frame_index = weighted_stats(steps, longer)
    last = group.num_steps - 1
    numbers = {
        "timestamp": {name: value / float(parse_rate(group.rate)) for name, value in frame_index.items()},
        "frame_index": frame_index,
        "episode_index": weighted_stats(np.array([episode.episode_index for episode in episodes]), lengths),
        "index": {
            "min": 0.0,
            "max": float(last),
            "mean": last / 2,
            "std": float(np.sqrt((group.num_steps**2 - 1) / 12)),
        }
        | {name: share * last for name, share in QUANTILES.items()},
    }
    task_index = {task: index for index, task in enumerate(group.tasks)}
    for number, name in enumerate(("task_index", *languages)):
        nth = max(number - 1, 0)
        per_task: np.ndarray = np.zeros(len(group.tasks), dtype=np.int64)
        for episode in episodes:
            for start, stop, said in episode.told(recipe.names.joined_by):
                per_task[task_index[said[nth % len(said)]]] += stop - start
        numbers[name] = weighted_stats(np.arange(len(per_task)), per_task)
    for name, values in numbers.items():
        stats[name] = {statistic: [value] for statistic, value in values.items()} | {"count": [group.num_steps]}
    for view, _, _ in group.views:
        levels = np.sum([np.array(facts["levels"][view], dtype=np.int64) for _, facts in units], axis=0)
        stats[video_key(recipe, view)] = image_stats(levels, sum(facts["looked_at"][view] for _, facts in units))
    return stats


def _as_written(group: GroupPlan, recipe: BuildRecipe, name: str) -> Stats:
    """The statistics of ``action`` or ``proprio`` after normalization."""
    given = stats_from_json(json.dumps({key: list(values) for key, values in group.stats[name].items()}))
    center, scale = center_and_scale(group.normalizing(name), recipe.normalize)
    moved = {one.name: (getattr(given, one.name) - center) / scale for one in fields(given) if one.name != "count"}
    return replace(given, **moved | {"std": given.std / scale})


def features(
    group: GroupPlan,
    recipe: BuildRecipe,
    units: Sequence[tuple[UnitPlan, Mapping[str, Any]]],
    languages: Sequence[str] = (),
) -> dict[str, Any]:
    """``features`` of ``info.json``."""
    copied = {view for _, facts in units for view in facts["copied"]}
    found: dict[str, Any] = {
        feature: {"dtype": "float32", "shape": [len(column.names)], "names": list(column.names)}
        for feature, column in columns_of(group, recipe).items()
    }
    for view, height, width in group.views:
        found[video_key(recipe, view)] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": recipe.video.codec,
                "video.pix_fmt": PIXEL_FORMAT,
                "video.fps": frames_per_second(group),
                "video.channels": 3,
                # frames that were taken over have the quality and the key frames that the recording has
                **({} if view in copied else {"video.g": recipe.video.gop, "video.crf": recipe.video.crf}),
                "is_depth_map": False,
                "has_audio": False,
            },
        }
    scalar = {"shape": [1], "names": None}
    found |= {name: {"dtype": "float32" if name == "timestamp" else "int64", **scalar} for name in INDICES}
    found |= {name: {"dtype": "int64", **scalar} for name in (*languages, *lineage(group))}
    return found | {name: {"dtype": "bool", **scalar} for name in flags(recipe)}


def frames_per_second(group: GroupPlan) -> int | float:
    """LeRobot declares fps as int but only multiplies by it: 7.5 and 30000/1001 read back right as JSON numbers."""
    rate: Fraction = parse_rate(group.rate)
    return rate.numerator if rate.denominator == 1 else float(rate)


def splits(units: Sequence[UnitPlan]) -> dict[str, str]:
    """Ranges of episodes: those of ``train`` come first; a split without any is left out."""
    plans = [episode for unit in units for episode in unit.episodes]
    train = sum(episode.split == "train" for episode in plans)
    ranges = {"train": (0, train), "val": (train, len(plans))}
    return {name: f"{start}:{stop}" for name, (start, stop) in ranges.items() if stop > start}


def check_planned(group: GroupPlan, units: Sequence[UnitPlan]) -> None:
    """Raises ReleaseError unless the units have all that was planned of the group."""
    plans = [episode for unit in units for episode in unit.episodes]
    num_steps = sum(episode.num_steps for episode in plans)
    if (len(plans), num_steps) != (group.num_episodes, group.num_steps):
        raise ReleaseError(
            f"{len(plans)} episodes and {num_steps} steps were written, "
            f"{group.num_episodes} and {group.num_steps} were planned",
            group.name,
            "plan the build again",
            "off_plan",
        )


def json_lines(values: Iterable[Any]) -> bytes:
    """One JSON value a line. Readers split at newlines only, so other separators may stand in texts."""
    return b"".join(
        (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode() for value in values
    )
