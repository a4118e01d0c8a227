"""Files that are one episode each: ALOHA, ACT and Cobot Magic (``observations/qpos``, ``action``), RoboMIND (``puppet``).

Pictures are raw, or JPEG in rows padded with zeros whose lengths ``compress_len`` repeats; depth is uint16. The files say
no rate. Videos whose name begins with that of the file are read where the file has no pictures.
"""

import h5py
import numpy as np

from pipelines import hdf5_files
from pipelines.hdf5_episode import JPEG, Content, Listed, collect, count_steps, is_language
from schemas.episode import Instruction
from schemas.recipes import Limits

MARKS = "observations with qpos beside action (ALOHA, ACT, Cobot Magic), or puppet and observations (RoboMIND)"
_LENGTHS = "compress_len"
_OF_STEPS = ("action", "base_action", "observations/", "puppet/", "master/", "reward")
_ROBOMIND = (
    "puppet/joint_position",
    "puppet/joint_position_left",
    "puppet/end_effector",
    "puppet/end_effector_left",
    "master/joint_position",
    "master/joint_position_left",
)


def knows(root: h5py.Group, members: list[str], where: str) -> bool:
    """Whether there is a group ``observations`` beside ``action``, ``puppet`` or ``master``."""
    if not {"action", "puppet", "master"} & set(members):
        return False
    return (
        isinstance(hdf5_files.member(root, "observations", where), h5py.Group) if "observations" in members else False
    )


def listed(root: h5py.Group, where: str) -> list[Listed]:  # noqa: ARG001 the file is the episode
    """The file itself."""
    return [Listed("")]


def read(root: h5py.Group, group: str, limits: Limits, where: str) -> Content:  # noqa: ARG001
    """The file's episode. Raises CorruptEpisode."""
    arrays = hdf5_files.arrays(root, where)
    lengths = dict(arrays).get(_LENGTHS)
    content = Content(where, count_steps(arrays, ("action", *_ROBOMIND), where))
    for key, value in hdf5_files.attributes(root, where).items():
        if is_language(key) and isinstance(value, str) and value:
            content.instructions.append(Instruction(value, key))
        else:
            content.attribute(key, value)
    collect(content, [one for one in arrays if one[0] != _LENGTHS], _is_of_steps, limits)
    if lengths is not None:
        _compare_lengths(content, hdf5_files.numbers(lengths, limits, where))
    return content


def _is_of_steps(name: str) -> bool:
    return name.startswith(_OF_STEPS)


def _compare_lengths(content: Content, lengths: np.ndarray) -> None:
    """``compress_len`` [cameras, T] against the pictures; kept as a stream [T, cameras], for it tells how they were made."""
    encoded = sorted((name, images) for name, images in content.pictures.items() if images[0].startswith(JPEG))
    found = [[len(image) for image in images] for _, images in encoded]
    if lengths.ndim != 2 or lengths.shape[1] != content.num_steps:
        message = f"{_LENGTHS} is {list(lengths.shape)}, the episode has {content.num_steps} steps; not read"
        content.note("array_left_out", _LENGTHS, message)
        return
    if lengths.tolist() != found:
        message = f"{_LENGTHS} disagrees with the pictures, which were cut at the end of their own data"
        content.note("compress_len_disagrees", _LENGTHS, message)
    content.numbers[_LENGTHS] = np.ascontiguousarray(lengths.T)
