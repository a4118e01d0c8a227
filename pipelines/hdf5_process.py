"""The owner's side of the child that reads HDF5: starts it, asks it against a deadline, and ends it when it hangs.

One child serves this process, started at the first question and again after a loss or a number of files.
"""

import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from pipelines import hdf5_child, video_wire
from pipelines.hdf5_episode import Content, Listed
from pipelines.video_process import Budget, DecodingChild, count_in
from schemas.errors import CorruptEpisode, DecodeError, MissingFile
from schemas.recipes import Limits

_PROGRAM = (sys.executable, "-P", "-m", "pipelines.hdf5_child")
_FILES_PER_CHILD = 300
_LEAST_SECONDS = 60.0
_SECONDS_PER_BYTE = 1e-6
"""A megabyte a second: a slow store, and pictures that have to be packed as PNG."""
_HINT = "the file is damaged or hostile; the other files are not affected"


class Reader:
    """The child of this process; questions take turns."""

    def __init__(self, program: Sequence[str] = _PROGRAM, least_seconds: float = _LEAST_SECONDS) -> None:
        self._program = program
        self._least_seconds = least_seconds
        self._lock = threading.Lock()
        self._child: DecodingChild | None = None
        self._owner = 0

    def ask(self, message: dict[str, Any], limits: Limits, num_bytes: int) -> tuple[Any, "_Bulk"]:
        """The header of the reply and the bytes behind it. Raises CorruptEpisode, MissingFile, UnitLost."""
        where = message["where"]
        seconds = self._least_seconds + num_bytes * _SECONDS_PER_BYTE
        budget = Budget(limits.seconds_per_1000_frames, seconds, limits.max_frames)
        with self._lock:
            child = self._ready(limits)
            try:
                reply, received = child.ask(message, [], budget, where)
                if reply["kind"] in ("corrupt", "missing"):
                    video_wire.close_all(received)
                    kind = CorruptEpisode if reply["kind"] == "corrupt" else MissingFile
                    raise kind(*(str(reply.get(name)) for name in ("message", "where", "hint", "reason")))
                with child.believed(received, where):
                    length = count_in(reply, "header")
                    bulk = _Bulk(os.dup(received[0]), length)
                    return json.loads(video_wire.read_part(received[0], length)), bulk
            except DecodeError as error:
                text = error.message.replace("decoding child", "child that reads HDF5").replace(
                    "decoder", "HDF5 reader"
                )
                reason = error.reason.replace("decoder", "reader")
                raise CorruptEpisode(text, where, error.hint or _HINT, reason) from error

    def _ready(self, limits: Limits) -> DecodingChild:
        child = self._child if self._owner == os.getpid() else None
        if child is not None and (child.files >= _FILES_PER_CHILD or not child.is_alive):
            child.end()
            child = None
        if child is None:
            # arrays lie there once as they are read, once as they are sent
            memory_mb = limits.decode_memory_mb + (2 * limits.max_array_bytes >> 20)
            child = self._child = DecodingChild(memory_mb, self._program)
            self._owner = os.getpid()
        child.files += 1
        return child


class _Bulk:
    """Bytes of a reply, taken one after the other."""

    def __init__(self, descriptor: int, offset: int) -> None:
        self._descriptor = descriptor
        self._offset = offset

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises Nonsense."""
        data = video_wire.read_part(self._descriptor, count, self._offset)
        self._offset += count
        return data

    def close(self) -> None:
        """Gives the memory back."""
        os.close(self._descriptor)


_READER = Reader()


def listed(file: str, where: str) -> tuple[str, list[Listed], str]:
    """As ``hdf5_child.listed``, asked of the child. Raises SourceError."""
    if file.startswith("memory:"):  # exists in this process alone
        return hdf5_child.listed(file, where)
    header, bulk = _READER.ask({"do": "list", "file": file, "where": where}, Limits(), 0)
    bulk.close()
    return header["layout"], [Listed(*episode) for episode in header["episodes"]], header["held"]


def read(file: str, layout: str, group: str, limits: Limits, num_bytes: int, where: str) -> Content:
    """As ``hdf5_child.read``, asked of the child. Raises SourceError."""
    if file.startswith("memory:"):
        return hdf5_child.read(file, layout, group, limits, where)
    told = {"do": "read", "file": file, "layout": layout, "group": group, "limits": limits.model_dump(), "where": where}
    header, bulk = _READER.ask(told, limits, num_bytes)
    try:
        return Content.from_plain(where, header, bulk.take)
    except (video_wire.Nonsense, KeyError, TypeError, ValueError) as error:
        raise CorruptEpisode("the child that reads HDF5 answers nonsense", where, _HINT, "reader_crashed") from error
    finally:
        bulk.close()
