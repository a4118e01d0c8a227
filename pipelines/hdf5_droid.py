"""``trajectory.h5`` of a raw DROID recording: every array of numbers by its path, whatever number of rows it has.

Which rows belong together, and what they mean, is decided by the source; this is what runs in the child that reads HDF5.
"""

import h5py

from pipelines import droid_cameras, hdf5_files
from pipelines.hdf5_episode import Content, add_numbers
from schemas.recipes import Limits


def read(root: h5py.Group, group: str, limits: Limits, where: str) -> Content:  # noqa: ARG001 the file is the episode
    """All arrays and attributes of the file; ``num_steps`` is not counted and stays 0. Raises CorruptEpisode."""
    content = Content(where, 0)
    content.attributes |= hdf5_files.attributes(root, where)
    for name, array in hdf5_files.arrays(root, where):
        if array.dtype.kind not in "biuf" or not array.shape:
            message = f"{name} holds {array.dtype} {array.shape}, not numbers for each row; not read"
            content.note("field_left_out", name, message)
        else:
            add_numbers(content, name, array, limits)
            content.numbers[name] = droid_cameras.thrifty(name, content.numbers[name])
    return content
