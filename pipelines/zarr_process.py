"""The owner's side of the child that decodes Zarr chunks: starts it, asks it against a deadline, ends it when it hangs.

One child serves this process, started at the first question and again after a loss or a number of questions.
"""

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines import video_wire
from pipelines.video_process import Budget, DecodingChild
from schemas.errors import CorruptEpisode, DecodeError
from schemas.recipes import Limits

_PROGRAM = (sys.executable, "-P", "-m", "pipelines.zarr_child")
_QUESTIONS_PER_CHILD = 2000
_LEAST_SECONDS = 60.0
_SECONDS_PER_BYTE = 1e-6
"""A megabyte a second, once decoded: far less than any codec does."""
_HINT = "the chunk is damaged or hostile; write the store again, or fetch it again"


class Decoder:
    """The child of this process; questions take turns."""

    def __init__(self, program: Sequence[str] = _PROGRAM, least_seconds: float = _LEAST_SECONDS) -> None:
        self._program = program
        self._least_seconds = least_seconds
        self._lock = threading.Lock()
        self._child: DecodingChild | None = None
        self._owner = 0

    def rows(
        self, files: Mapping[str, bytes], path: str, span: range, like: np.ndarray, limits: Limits, where: str
    ) -> None:
        """Fills ``like`` [n, ...] with the rows ``span`` of the array ``path`` of the store that ``files`` make up.

        Raises CorruptEpisode where they cannot be decoded, or are of another type or shape; UnitLost.
        """
        what = f"rows {span.start} to {span.stop} of {path} cannot be decoded"
        budget = Budget(0.0, self._least_seconds + like.nbytes * _SECONDS_PER_BYTE, 0)
        index = json.dumps([(name, len(data)) for name, data in files.items()]).encode()
        bulk = video_wire.memory_file([index, *files.values()])
        told = {"path": path, "start": span.start, "stop": span.stop, "index": len(index)}
        try:
            with self._lock:
                child = self._ready(limits)
                reply, received = child.ask(told, [bulk], budget, where)
                with child.believed(received, where):
                    if (reply["dtype"], tuple(reply["shape"])) != (like.dtype.str, like.shape):
                        message = f"{what}: they come as {reply['dtype']} {reply['shape']}"
                        raise CorruptEpisode(message[:400], where, _HINT, "damaged_chunk")
                    if like.nbytes:
                        video_wire.read_into(received[0], memoryview(like.reshape(-1).view(np.uint8)), 0)
        except DecodeError as error:
            hint = error.hint if error.reason == "memory_limit" else _HINT
            raise CorruptEpisode(f"{what}: {error.message}"[:400], where, hint, error.reason) from error
        finally:
            os.close(bulk)

    def _ready(self, limits: Limits) -> DecodingChild:
        child = self._child if self._owner == os.getpid() else None
        if child is not None and (child.files >= _QUESTIONS_PER_CHILD or child.is_spent or not child.is_alive):
            child.end()
            child = None
        if child is None:
            child = self._child = DecodingChild(limits.decode_memory_mb, self._program)
            self._owner = os.getpid()
        child.files += 1
        return child


DECODER = Decoder()
