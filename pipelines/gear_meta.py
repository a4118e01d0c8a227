"""What GR00T and DreamZero (the "GEAR" loaders) read beside a LeRobot 2 set: the names of parts, and of what they are relative.

The schema is ``LeRobotModalityMetadata`` of ``groot/vla/data/schema/lerobot.py`` (dreamzero; ``gr00t/data/schema.py`` of
Isaac-GR00T N1.5 is the same); parts are called as the configurations of both for DROID do.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from pipelines.chunk_stats import ChunkStats
from pipelines.lerobot_tables import ACTION, STATE, Column, columns_of, video_key
from pipelines.parts import Part, is_measure, parts_of
from pipelines.release_plan import GroupPlan
from pipelines.stats_export import called, gear_relative_horizon_stats, gear_relative_stats
from schemas.embodiment import Channel, ChannelKind
from schemas.errors import RecipeError
from schemas.recipes import BuildRecipe

LANGUAGES = tuple(f"annotation.language.language_instruction{suffix}" for suffix in ("", "_2", "_3"))
"""Columns of task indices: the instruction of a step and two others of the episode; where there are fewer, they repeat."""

_WORDS = {"joints": "joint"}
_TURNING = (ChannelKind.EULER, ChannelKind.QUATERNION, ChannelKind.AXIS_ANGLE, ChannelKind.ANGLE)
"""Kinds whose difference is a turn, where the loaders subtract the numbers."""
_Run = tuple[str, tuple[int, ...]]
"""A name, and neighboring channels."""


def modality(group: GroupPlan, recipe: BuildRecipe) -> dict[str, Any]:
    """``meta/modality.json``: ``state`` and ``action`` in parts of neighboring channels, ``video`` and ``annotation``.

    A part whose channels are not neighbors is several entries, the later ones with a number. A further column of the recipe is
    one entry, called as the end of its name where no other is. ``rotation_type`` is said of axis-angle vectors only: by
    ``quaternion`` the loaders mean the real part first, and by ``euler_angles_...`` turns about moving axes
    (``RotationTransform`` of ``gr00t/data/transform/state_action.py``, through pytorch3d), which is not what stands here.
    Raises RecipeError where ``names.parts`` names what the robot lacks, or gives two parts one name.
    """
    own = {column: dict(_runs(_layout(group, column), _parts(group, column))) for column in (STATE, ACTION)}
    _check_named(group, recipe, {name for parts in own.values() for name in parts})
    found: dict[str, Any] = {
        kind: {
            name: _entry(column, run, _layout(group, column), recipe)
            for name, run in called(own[column], recipe.names).items()
        }
        for kind, column in (("state", STATE), ("action", ACTION))
    }
    for name, column in _further(group, recipe).items():
        kind, whole = ("action", ACTION) if column.of == "action" else ("state", STATE)
        last = name.rpartition(".")[2]
        label = name.replace(".", "_") if last in found[kind] else last
        entry = _entry(name, column.channels, _layout(group, whole), recipe)
        found[kind][label] = entry | {"start": 0, "end": len(column.channels), "rotation_type": None}
    languages = {name.removeprefix("annotation."): {"original_key": name} for name in LANGUAGES}
    if recipe.names.instruction:
        languages[recipe.names.instruction] = {"original_key": LANGUAGES[0]}
    return found | {
        "video": {view: {"original_key": video_key(recipe, view)} for view, _, _ in group.views},
        "annotation": languages,
    }


def _check_named(group: GroupPlan, recipe: BuildRecipe, there: set[str]) -> None:
    missing = [name for name in recipe.names.parts if name not in there]
    if missing:
        told = f"it has {', '.join(sorted(there))}" if there else "it has none"
        hint = f"{told}; leave other robots out with --where"
        raise RecipeError(f"{group.card.name} has no part {missing[0]!r}", "names.parts", hint)


def _further(group: GroupPlan, recipe: BuildRecipe) -> dict[str, Column]:
    return {name: column for name, column in columns_of(group, recipe).items() if name not in (STATE, ACTION)}


def embodiment(group: GroupPlan, recipe: BuildRecipe) -> dict[str, str]:
    """``meta/embodiment.json``."""
    return {"robot_type": group.robot, "embodiment_tag": recipe.names.embodiment or group.robot}


def relative_files(group: GroupPlan, recipe: BuildRecipe) -> dict[str, Any]:
    """Name -> JSON of the statistics of relative actions, in ``meta``; {} where the loaders' own would be of something else.

    They take the action of each step of the horizon minus the state at its start, so these are written where the recipe's
    chunks are that: of actions as recorded, relative to the state at the start of the chunk. Of what turns (rotations, angles)
    the recipe's difference is the turn between the two, which the loaders do not take: GR00T's file leaves such parts out, and
    DreamZero's, which stand for all of its parts or none, are not written. Those by step are left out where ``build_stats``
    has none. Whatever is left out, the loaders compute.
    """
    actions = recipe.actions
    as_theirs = (actions.source, actions.base, actions.lead, actions.pose_scale) == ("action", "state", 0, 1.0)
    if not group.relative or not as_theirs or actions.frame == "tool" or recipe.normalize != "none":
        return {}
    layout = group.card.action
    runs = _runs(layout, _parts(group, ACTION))
    turning = {name for name, run in runs if any(layout[channel].kind in _TURNING for channel in run)}
    parts = _split(group.relative, runs)
    known = {name: stats for name, stats in parts.items() if name not in turning}
    found = called(known, recipe.names) | _finer(group, recipe, known, dict(runs))
    whole = len(known) == len(parts)
    files: dict[str, Any] = {"relative_stats_dreamzero.json": gear_relative_stats(found)} if whole else {}
    if found and all(stats.steps for stats in found.values()):
        files["relative_stats.json"] = by_step = gear_relative_horizon_stats(found)
        files |= {"relative_horizon_stats_dreamzero.json": by_step} if whole else {}
    return files


def _finer(
    group: GroupPlan, recipe: BuildRecipe, parts: Mapping[str, ChunkStats], runs: Mapping[str, tuple[int, ...]]
) -> dict[str, ChunkStats]:
    """Of the further columns that are within one of ``parts``, where states have a column of that name with these channels."""
    found: dict[str, ChunkStats] = {}
    told = modality(group, recipe)
    names = {
        kind: {entry["original_key"]: label for label, entry in told[kind].items()} for kind in ("state", "action")
    }
    further = _further(group, recipe)
    states = {names["state"][name]: column.names for name, column in further.items() if column.of == "proprio"}
    for name, column in further.items():
        label = names["action"].get(name, "")
        if column.of != "action" or column.flip or states.get(label) != column.names:
            continue
        for own, stats in parts.items():
            run = runs.get(own, ())
            if {*column.channels} <= {*run} and len(run) == len(stats.overall.mean):
                found[label] = stats.channels([run.index(channel) for channel in column.channels])
    return found


def _layout(group: GroupPlan, column: str) -> tuple[Channel, ...]:
    return group.card.action if column == ACTION else group.card.proprio


def _parts(group: GroupPlan, column: str) -> tuple[Part, ...]:
    card = group.card
    if column == ACTION:
        return parts_of(card.action, card.action_grippers)
    return parts_of(card.proprio, card.proprio_grippers)


def _runs(layout: tuple[Channel, ...], parts: Iterable[Part]) -> list[_Run]:
    """Every channel in exactly one run; names as ``build_stats.moved_slots`` has them, a number behind the second of one."""
    found: list[_Run] = []
    taken: dict[str, int] = {}
    for part in parts:
        for name, channels in _named(layout, part):
            label = f"{part.arm}_{name}" if part.arm else name
            for _, run in groupby(enumerate(channels), key=lambda pair: pair[1] - pair[0]):
                taken[label] = taken.get(label, 0) + 1
                number = taken[label]
                found.append((label if number == 1 else f"{label}_{number}", tuple(channel for _, channel in run)))
    return found


def _named(layout: tuple[Channel, ...], part: Part) -> list[_Run]:
    if part.kind == "pose":
        named = [("eef_position", part.position), ("eef_rotation", part.rotation)]
    elif part.kind == "gripper":
        named = [("gripper_position", part.channels)]
    else:
        word = _WORDS.get(part.kind, part.kind)
        places = tuple(channel for channel in part.channels if is_measure(layout[channel]))
        named = [(f"{word}_position", places), (word, tuple(c for c in part.channels if c not in places))]
    return sorted(((name, channels) for name, channels in named if channels), key=lambda one: one[1])


def _entry(column: str, channels: tuple[int, ...], layout: tuple[Channel, ...], recipe: BuildRecipe) -> dict[str, Any]:
    chosen = [layout[channel] for channel in channels]
    lows, highs = (
        [one.low for one in chosen if one.low is not None],
        [one.high for one in chosen if one.high is not None],
    )
    known = recipe.normalize == "none" and len(lows) == len(highs) == len(chosen)
    return {
        "original_key": column,
        "start": channels[0],
        "end": channels[-1] + 1,
        "rotation_type": "axis_angle" if all(one.kind is ChannelKind.AXIS_ANGLE for one in chosen) else None,
        "absolute": all(map(_is_absolute, chosen)),
        "dtype": "float32",
        "range": [min(lows), max(highs)] if known else None,
    }


def _is_absolute(channel: Channel) -> bool:
    """Whether this is neither a change nor a velocity; what nobody knows counts as absolute, as it does in the schema."""
    if channel.kind in (ChannelKind.POSITION, ChannelKind.ANGLE):
        return is_measure(channel)
    return channel.kind is not ChannelKind.COMMAND and "/s" not in channel.unit


def _split(relative: Mapping[str, ChunkStats], runs: Iterable[_Run]) -> dict[str, ChunkStats]:
    """``relative`` by the names of ``runs``: what lies in several runs is told apart, in their order."""
    widths: dict[str, dict[str, int]] = {}
    for label, channels in runs:
        stem = label if label in relative else label.rpartition("_")[0]
        widths.setdefault(stem, {})[label] = len(channels)
    found: dict[str, ChunkStats] = {}
    for name, stats in relative.items():
        mine = widths.get(name, {})
        if len(mine) < 2 or sum(mine.values()) != len(stats.overall.mean):
            found[name] = stats  # a rotation that is written otherwise than it was recorded is as wide as that
            continue
        start = 0
        for label, width in mine.items():
            found[label] = stats.channels(range(start, start + width))
            start += width
    return found
