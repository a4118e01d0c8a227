"""RoboHive and RoboSet traces: a group per trial with ``time`` in seconds, ``actions``, ``observations``, ``env_infos/...``.

A trial of h actions has h + 1 rows; the recorder fills the last action with NaN, since none was taken, and that row is not
an action. Arrays that hold nothing but NaN stand for an empty value in the recorder. A video whose name begins with that
of the file and ends with the number of a trial belongs to it.
"""

import re

import h5py
import numpy as np

from pipelines import hdf5_files
from pipelines.hdf5_episode import Content, Listed, collect, count_steps
from schemas.errors import CorruptEpisode
from schemas.findings import Severity
from schemas.recipes import Limits

MARKS = "groups Trial0, Trial1, ... or Rollout0, ... with actions and time (RoboHive, RoboSet)"
_TRIAL = re.compile(r"(Trial|Rollout)_?\d+")
_TIMES = ("time", "data/time", "env_infos/time")
_ACTIONS = ("actions", "data/ctrl_arm", "data/ctrl_ee")


def knows(root: h5py.Group, members: list[str], where: str) -> bool:  # noqa: ARG001 names are enough
    """Whether a member is named as a trial is."""
    return any(_TRIAL.fullmatch(name) for name in members)


def listed(root: h5py.Group, where: str) -> list[Listed]:
    """Every group."""
    return [Listed(name) for name in hdf5_files.names(root, where)]


def read(root: h5py.Group, group: str, limits: Limits, where: str) -> Content:
    """One trial. Raises CorruptEpisode."""
    trial = hdf5_files.member(root, group, where)
    if not isinstance(trial, h5py.Group):
        raise CorruptEpisode(f"{group} is not a group", where, "a trace holds one group per trial", "missing_key")
    arrays = hdf5_files.arrays(trial, where)
    content = Content(where, count_steps(arrays, (*_ACTIONS, *_TIMES), where))
    for key, value in hdf5_files.attributes(trial, where).items():
        content.attribute(key, value)
    collect(content, arrays, lambda name: "/" not in name or name.startswith("data/"), limits)
    content.seconds = next((content.numbers[name] for name in _TIMES if name in content.numbers), None)
    _without_placeholders(content)
    return content


def _without_placeholders(content: Content) -> None:
    for name, values in sorted(content.numbers.items()):
        if values.dtype.kind != "f" or not np.isnan(values.reshape(len(values), -1)).all(axis=1)[-1]:
            continue
        empty = np.isnan(values.reshape(len(values), -1)).all(axis=1)
        if empty.all():
            del content.numbers[name]
            message = f"{name} is NaN throughout: the recorder's sign for an empty value"
            content.note("placeholder_left_out", name, message, Severity.INFO)
        elif name in _ACTIONS and empty.sum() == 1:
            content.numbers[name] = values[:-1]
            message = f"the last row of {name} is NaN: no action was taken at the last state; it is not an action"
            content.note("no_last_action", name, message, Severity.INFO)
