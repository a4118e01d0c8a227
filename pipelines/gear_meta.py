"""What GR00T and DreamZero (the "GEAR" loaders) read beside a LeRobot 2 set: the names of parts, and of what they are relative.

The schema is ``LeRobotModalityMetadata`` of ``groot/vla/data/schema/lerobot.py`` (dreamzero; ``gr00t/data/schema.py`` of
Isaac-GR00T N1.5 is the same); parts are called as the configurations of both for DROID do.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from pipelines.chunk_stats import ChunkStats
from pipelines.lerobot_tables import ACTION, STATE, columns_of, video_key
from pipelines.parts import Part, is_measure, parts_of
from pipelines.release_plan import GroupPlan
from pipelines.stats_export import gear_relative_horizon_stats, gear_relative_stats
from schemas.embodiment import Channel, ChannelKind
from schemas.recipes import BuildRecipe

LANGUAGES = tuple(f"annotation.language.language_instruction{suffix}" for suffix in ("", "_2", "_3"))
"""Columns of task indices: the instruction of a step and two others of the episode; where there are fewer, they repeat."""

_WORDS = {"joints": "joint"}
_Run = tuple[str, tuple[int, ...]]
"""A name, and neighboring channels."""


def modality(group: GroupPlan, recipe: BuildRecipe) -> dict[str, Any]:
    """``meta/modality.json``: ``state`` and ``action`` in parts of neighboring channels, ``video`` and ``annotation``.

    A part whose channels are not neighbors is several entries, the later ones with a number. A further column of the recipe is
    one entry, called as the end of its name where no other is. ``rotation_type`` is said of axis-angle vectors only: by
    ``quaternion`` the loaders mean the real part first, and by ``euler_angles_...`` turns about moving axes
    (``RotationTransform`` of ``gr00t/data/transform/state_action.py``, through pytorch3d), which is not what stands here.
    """
    card = group.card
    found: dict[str, Any] = {
        "state": {
            name: _entry(STATE, run, card.proprio, recipe) for name, run in _runs(card.proprio, _parts(group, STATE))
        },
        "action": {
            name: _entry(ACTION, run, card.action, recipe) for name, run in _runs(card.action, _parts(group, ACTION))
        },
    }
    for name, column in columns_of(group, recipe).items():
        if name in (STATE, ACTION):
            continue
        kind, layout = ("action", card.action) if column.of == "action" else ("state", card.proprio)
        last = name.rpartition(".")[2]
        label = name.replace(".", "_") if last in found[kind] else last
        entry = _entry(name, column.channels, layout, recipe)
        found[kind][label] = entry | {"start": 0, "end": len(column.channels), "rotation_type": None}
    return found | {
        "video": {view: {"original_key": video_key(recipe, view)} for view, _, _ in group.views},
        "annotation": {name.removeprefix("annotation."): {"original_key": name} for name in LANGUAGES},
    }


def embodiment(group: GroupPlan, recipe: BuildRecipe) -> dict[str, str]:
    """``meta/embodiment.json``."""
    return {"robot_type": group.robot, "embodiment_tag": recipe.names.embodiment or group.robot}


def relative_files(group: GroupPlan, recipe: BuildRecipe) -> dict[str, Any]:
    """Name -> JSON of the statistics of relative actions, in ``meta``; {} where the loaders' own would be of something else.

    They take the action of each step of the horizon minus the state at its start, so these are written where the recipe's
    chunks are that: of actions as recorded, relative to the state at the start of the chunk. Those by step are left out where
    ``build_stats`` has none; the loaders then take their own.
    """
    actions = recipe.actions
    as_theirs = (actions.source, actions.base, actions.lead, actions.pose_scale) == ("action", "state", 0, 1.0)
    if not group.relative or not as_theirs or recipe.normalize != "none":
        return {}
    parts = _split(group.relative, _runs(group.card.action, _parts(group, ACTION)))
    files: dict[str, Any] = {"relative_stats_dreamzero.json": gear_relative_stats(parts)}
    if all(stats.steps for stats in parts.values()):
        by_step = gear_relative_horizon_stats(parts)
        files |= {"relative_horizon_stats_dreamzero.json": by_step, "relative_stats.json": by_step}
    return files


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
