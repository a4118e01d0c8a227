"""The child that decodes chunks of Zarr stores: a decoder that crashes, hangs or swells on a damaged one costs an episode.

Runs as ``python -m pipelines.zarr_child SOCKET LIFELINE MEMORY_MB``. It opens no file and knows no location: it is handed
the metadata of one array and the bytes of its chunks, and answers with rows. ``zarr_process`` asks.
"""

import json
import lzma
import os
import socket
import sys
import warnings
import zlib
from typing import Any

import imagecodecs.numcodecs
import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from pipelines import video_wire
from pipelines.lifeline import serve

_ERRORS = (
    *(ValueError, RuntimeError, KeyError, OSError, TypeError, IndexError, AttributeError, EOFError),
    *(zlib.error, lzma.LZMAError, ArithmeticError),
)
"""What zarr and its codecs raise for damaged metadata and chunks."""


def rows(files: dict[str, bytes], path: str, start: int, stop: int) -> np.ndarray:
    """Rows ``[start, stop)`` of the array ``path`` of the store that ``files`` make up; chunks not among them are fill value."""
    buffer = default_buffer_prototype().buffer
    store = MemoryStore({name: buffer.from_bytes(data) for name, data in files.items()}, read_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)  # on codecs without a Zarr 3 specification
        array: Any = zarr.open_array(store, path=path, mode="r")
        return np.asarray(array[start:stop])


def _files(descriptor: int, num_bytes: int) -> dict[str, bytes]:
    found = {}
    offset = num_bytes
    for name, length in json.loads(video_wire.read_part(descriptor, num_bytes)):
        found[str(name)] = video_wire.read_part(descriptor, length, offset)
        offset += length
    return found


def _serve(link: socket.socket) -> None:
    video_wire.send(link, {"kind": "ready"})
    while True:
        message, descriptors = video_wire.receive(link)
        try:
            files = _files(descriptors[0], message["index"])
        finally:
            video_wire.close_all(descriptors)
        try:
            values = rows(files, message["path"], message["start"], message["stop"])
        except _ERRORS as error:
            said = f"{type(error).__name__}: {error}"[:300]
            video_wire.send(link, {"kind": "error", "message": said, "hint": "", "reason": "damaged_chunk"})
            continue
        bulk = video_wire.memory_file([np.ascontiguousarray(values).reshape(-1).view(np.uint8).data])
        try:
            told = {"kind": "done", "dtype": values.dtype.str, "shape": list(values.shape)}
            video_wire.send(link, told, [bulk])
        finally:
            os.close(bulk)


def main(arguments: list[str]) -> int:
    """Serves the owner at the other end; the exit status is that of ``lifeline.serve``."""
    imagecodecs.numcodecs.register_codecs(verbose=False)
    zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1})  # one chunk at a time in memory
    return serve(arguments, _serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
