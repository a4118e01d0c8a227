"""robomimic, robosuite, robocasa and LIBERO files: ``data/demo_N`` holds ``actions``, ``states``, ``obs/...``; ``mask`` splits.

Row t of ``next_obs`` is what was seen after action t. Its numbers are streams like others; pictures that repeat those of
``obs`` one step later, as robomimic writes them, are compared and only the last one is kept, as the stream of one row
``next_obs/<camera>``. The rate and the robot come from the
description of the environment (``env_args`` or ``env_info``), instructions from ``problem_info`` (LIBERO) or a
demonstration's ``ep_meta`` (robocasa).
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import h5py

from pipelines import hdf5_files
from pipelines.hdf5_episode import (
    Content,
    Listed,
    add_last_picture,
    collect,
    count_steps,
    json_object,
    repeats_later,
)
from schemas.episode import Instruction, Scalar
from schemas.errors import CorruptEpisode
from schemas.findings import Severity
from schemas.recipes import Limits

MARKS = "a group data with demonstrations (robomimic, robosuite, LIBERO)"
_STEPS = ("actions", "states", "rewards", "dones", "robot_states")
_NEXT = "next_obs/"
_SPLITS = ("train", "valid", "val", "test")
_MIN_HZ, _MAX_HZ = 0.001, 100_000


def knows(root: h5py.Group, members: list[str], where: str) -> bool:
    """Whether there is a group ``data`` of groups, and none of the arrays are at the top."""
    if "data" not in members:
        return False
    data = hdf5_files.member(root, "data", where)
    if not isinstance(data, h5py.Group):
        return False
    inside = hdf5_files.names(data, where)
    demos = [name for name in inside if re.fullmatch(r"demo_?\d+", name)]
    return bool(demos) or (not inside and bool({"env", "env_args", "env_info"} & set(data.attrs)))


def listed(root: h5py.Group, where: str) -> list[Listed]:
    """One for each group of ``data``, and one for each name in ``mask`` that has none."""
    data = _data(root, where)
    demos = hdf5_files.names(data, where)
    masks = _masks(root, where)
    found = []
    for demo in demos:
        inside = [mask for mask in _SPLITS if demo in masks.get(mask, ())]
        found.append(Listed(f"data/{demo}", inside[0] if inside else ""))
    for name in sorted({name for members in masks.values() for name in members} - set(demos)):
        message = f"mask names the demonstration {name}, which data does not hold"
        found.append(Listed(f"data/{name}", problem="missing_demo", message=message))
    return found


def read(root: h5py.Group, group: str, limits: Limits, where: str) -> Content:
    """One demonstration. Raises CorruptEpisode."""
    data = _data(root, where)
    name = group.rpartition("/")[2]
    demo = hdf5_files.member(data, name, where)
    if not isinstance(demo, h5py.Group):
        raise CorruptEpisode(f"{group} is not a group", where, "leave it out of data", "missing_key")
    arrays = hdf5_files.arrays(demo, where)
    content = Content(where, count_steps(arrays, ("actions",), where))
    by_name = dict(arrays)
    repeated = {
        name: array
        for name, array in arrays
        if (seen := by_name.get(name.removeprefix("next_"))) is not None
        and name.startswith(_NEXT)
        and repeats_later(array, seen, limits, where)
    }
    collect(content, [one for one in arrays if one[0] not in repeated], _is_of_steps, limits)
    for name, array in repeated.items():
        add_last_picture(content, name, array, limits)
        message = (
            f"the pictures of {name} are those of {name.removeprefix('next_')} one step later; the last one is kept"
        )
        content.note("next_obs_repeats", name, message, Severity.INFO)
    said = hdf5_files.attributes(data, where)
    own = hdf5_files.attributes(demo, where)
    for key, value in (*said.items(), *own.items()):
        content.attribute(key, value)
    masks = sorted(mask for mask, members in _masks(root, where).items() if name in members)
    if masks:
        content.attribute("mask", ", ".join(masks))
    promised = own.get("num_samples")
    if isinstance(promised, (int, float)) and promised != content.num_steps:
        message = f"num_samples is {promised}, actions has {content.num_steps} rows"
        raise CorruptEpisode(message, where, "the recorder lost rows; leave it out", "length_mismatch")
    content.instructions += _instructions(said, own)
    environment = _environment(said)
    robots = environment.get("robots")
    content.robot_type = hdf5_files.clean("+".join(map(str, robots)) if isinstance(robots, list) else str(robots or ""))
    content.declared_rate = _rate(environment.get("control_freq"))
    return content


def _data(root: h5py.Group, where: str) -> h5py.Group:
    data = hdf5_files.member(root, "data", where)
    if not isinstance(data, h5py.Group):
        raise CorruptEpisode("data is not a group", where, "fetch the file again", "missing_key")
    return data


def _masks(root: h5py.Group, where: str) -> dict[str, list[str]]:
    """Names of demonstrations by mask."""
    mask = hdf5_files.member(root, "mask", where)
    if not isinstance(mask, h5py.Group):
        return {}
    return {name: hdf5_files.texts(array, Limits(), where) for name, array in hdf5_files.arrays(mask, where)}


def _is_of_steps(name: str) -> bool:
    return name in _STEPS or name.startswith("obs/")


def _environment(said: Mapping[str, Scalar]) -> dict[str, Any]:
    """What builds the simulated environment: ``env_args.env_kwargs`` of robomimic, ``env_info`` of robosuite."""
    kwargs = json_object(said.get("env_args")).get("env_kwargs")
    return kwargs if isinstance(kwargs, dict) else json_object(said.get("env_info"))


def _rate(value: Any) -> Fraction | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _MIN_HZ <= value <= _MAX_HZ:
        return None
    return Fraction(value).limit_denominator(1_000_000)


def _instructions(said: Mapping[str, Scalar], own: Mapping[str, Scalar]) -> list[Instruction]:
    found = []
    task = json_object(said.get("problem_info")).get("language_instruction")
    if isinstance(task, list):  # LIBERO wrote some as a list of letters
        task = "".join(map(str, task))
    if isinstance(task, str):
        found.append(Instruction(hdf5_files.clean(task.strip('"')), "problem_info"))
    spoken = json_object(own.get("ep_meta")).get("lang")
    if isinstance(spoken, str):
        found.append(Instruction(hdf5_files.clean(spoken), "ep_meta"))
    return found
