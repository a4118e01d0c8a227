"""The child that reads HDF5: libhdf5 crashes and hangs on some damaged files, and in here that costs one episode.

Runs as ``python -m pipelines.hdf5_child SOCKET LIFELINE MEMORY_MB``. Which layout a file has, what it lists and what an
episode of it holds is decided here; ``hdf5_process`` asks. Files are opened where they lie, by the location.
"""

import dataclasses
import json
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import h5py

from pipelines import hdf5_aloha, hdf5_droid, hdf5_files, hdf5_robohive, hdf5_robomimic, video_wire
from pipelines.hdf5_episode import Content, Listed
from pipelines.lifeline import serve
from pipelines.places import place
from schemas.errors import CorruptEpisode, SourceError
from schemas.recipes import Limits

LAYOUTS: dict[str, ModuleType] = {"robohive": hdf5_robohive, "robomimic": hdf5_robomimic, "aloha": hdf5_aloha}
"""What the files of the ``hdf5`` source are known by, tried in this order."""
DROID = "droid"
"""The layout of ``trajectory.h5``, which only its own source asks for."""
_READERS = {**LAYOUTS, DROID: hdf5_droid}
_SHOWN = 12


def listed(file: str, where: str) -> tuple[str, list[Listed], str]:
    """Layout and episodes of a file; of a file of no known layout "", nothing, and what it holds. Raises SourceError."""
    with hdf5_files.opened(cast(Path, place(file)), where) as root:
        members = hdf5_files.names(root, where)
        for name, layout in LAYOUTS.items():
            if layout.knows(root, members, where):
                return name, layout.listed(root, where), ""
        return "", [], _described(root, members, where)


def read(file: str, layout: str, group: str, limits: Limits, where: str) -> Content:
    """What an episode holds, its pictures as files. Raises SourceError."""
    with hdf5_files.opened(cast(Path, place(file)), where) as root:
        content: Content = _READERS[layout].read(root, group, limits, where)
        return content


def _described(root: h5py.Group, members: list[str], where: str) -> str:
    """The top-level members with their shapes."""
    told = []
    for name in members[:_SHOWN]:
        node = hdf5_files.member(root, name, where)
        told.append(f"{name} {list(node.shape or ())}" if isinstance(node, h5py.Dataset) else f"{name}/")
    return ", ".join(told) + (", ..." if len(members) > _SHOWN else "") if told else "nothing"


def _answer(message: dict[str, Any]) -> tuple[Any, list[bytes | memoryview]]:
    if message["do"] == "list":
        layout, episodes, held = listed(message["file"], message["where"])
        return {"layout": layout, "episodes": [dataclasses.astuple(one) for one in episodes], "held": held}, []
    limits = Limits.model_validate(message["limits"])
    return read(message["file"], message["layout"], message["group"], limits, message["where"]).plain()


def _serve(link: socket.socket) -> None:
    video_wire.send(link, {"kind": "ready"})
    while True:
        message, descriptors = video_wire.receive(link)
        video_wire.close_all(descriptors)
        try:
            header, parts = _answer(message)
        except SourceError as error:
            kind = "corrupt" if isinstance(error, CorruptEpisode) else "missing"
            said = {"message": error.message[:4000], "hint": error.hint, "reason": error.reason, "where": error.where}
            video_wire.send(link, {"kind": kind, **said})
            continue
        text = json.dumps(header).encode()
        bulk = video_wire.memory_file([text, *parts])
        del header, parts  # the owner takes its copy now
        try:
            video_wire.send(link, {"kind": "done", "header": len(text)}, [bulk])
        finally:
            os.close(bulk)


def main(arguments: list[str]) -> int:
    """Serves the owner at the other end; the exit status is that of ``lifeline.serve``."""
    return serve(arguments, _serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
