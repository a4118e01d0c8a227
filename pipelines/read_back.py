"""Files of a release, read back as their users would: what every format's ``count`` does, and the errors it raises."""

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors

from schemas.errors import ReleaseError, WamloomError

UNREADABLE = (
    WamloomError,
    av.FFmpegError,
    safetensors.SafetensorError,
    OSError,
    pa.ArrowException,
    ArithmeticError,
    AttributeError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    EOFError,
    MemoryError,
    lzma.LZMAError,
    tarfile.TarError,
    zlib.error,
)
"""What a damaged file makes of reading it: libraries' own errors, h5py's RuntimeError among them, and, where it holds something
of another kind or shape than was written, those of looking into that."""


def unreadable(path: Path, error: object) -> ReleaseError:
    """The error of a file that cannot be read back."""
    return ReleaseError(f"cannot be read back: {error}", str(path), "build it again", "unreadable")


def finished(path: Path) -> Path:
    """``path``, the file that a format writes last. Raises ReleaseError where it is not there."""
    if not path.exists():
        raise ReleaseError(f"no {path.name}: this release was never finished", str(path.parent), "build it again")
    return path


def read_json(path: Path) -> Any:
    """A JSON file of a release. Raises ReleaseError where it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise unreadable(path, error) from error


def read_index(path: Path) -> dict[str, Any]:
    """A format's index file, which comes last. Raises ReleaseError where there is none, or it is damaged."""
    found = read_json(finished(path))
    if not isinstance(found, dict):
        raise unreadable(path, "it is no JSON object")
    return found


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON lines of a file. Raises ReleaseError where one is none, or the last was not ended."""
    try:
        data = path.read_bytes()
        if not data.endswith(b"\n"):
            raise ValueError("its last line has no end")
        for line in data.splitlines():
            yield json.loads(line)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def num_rows(path: Path) -> int:
    """Rows of a Parquet file, read whole. Raises ReleaseError where it cannot be."""
    try:
        return int(pq.read_table(path, page_checksum_verification=True).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


def num_frames(path: Path) -> int:
    """Frames of a video, without those that its end cuts short. Raises ReleaseError where it cannot be read."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise OSError("it holds no video")
            # a packet that the end of a file cuts short is marked corrupt
            return sum(p.pts is not None and not p.is_corrupt for p in container.demux(video=0))
    except (av.FFmpegError, OSError) as error:
        raise unreadable(path, error) from error


def read_frames(path: Path, numbers: Sequence[int]) -> np.ndarray:
    """uint8 RGB [n, H, W, 3] of a video: the frames at these rising places in the order they are shown. Raises ReleaseError."""
    wanted = set(numbers)
    found: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found.append(frame.to_ndarray(format="rgb24"))
                if len(found) == len(wanted):
                    break
    except (av.FFmpegError, OSError, IndexError) as error:
        raise unreadable(path, error) from error
    if len(found) != len(wanted):
        raise unreadable(path, f"{len(found)} of {len(wanted)} frames are there")
    return np.stack(found)
