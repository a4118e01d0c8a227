"""Zarr 2 stores in folders, written file by file: metadata as the library zarr writes it, chunks compressed with one thread, so
that equal numbers give equal bytes; and the reading back of such stores, chunk by chunk, which notices one that was cut."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from pipelines.read_back import unreadable
from pipelines.storage import write_durably

BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 0, "blocksize": 0}
_HEADER = struct.Struct("<4xIII")
"""Of a Blosc chunk: bytes of content, of a block, of the whole."""
CHUNK_BYTES = 2_000_000
"""About so many of numbers lie in one chunk, as UWM chooses them."""


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """What ``.zarray`` says."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype

    @staticmethod
    def of_rows(values: np.ndarray) -> "ZarrArray":
        """For ``values`` [N, ...], some rows to a chunk."""
        width = max(1, int(np.prod(values.shape[1:], dtype=np.int64)) * values.dtype.itemsize)
        rows = max(1, min(len(values), -(-CHUNK_BYTES // width)))
        return ZarrArray(values.shape, (rows, *values.shape[1:]), values.dtype)

    def to_json(self, fill: Any = 0) -> bytes:
        """``.zarray``."""
        return to_json(
            {
                "chunks": list(self.chunks),
                "compressor": BLOSC,
                "dtype": self.dtype.str,
                "fill_value": False if self.dtype.kind == "b" else fill,
                "filters": None,
                "order": "C",
                "shape": list(self.shape),
                "zarr_format": 2,
            }
        )

    @property
    def chunk_bytes(self) -> int:
        """Of one chunk, not compressed."""
        return int(np.prod(self.chunks, dtype=np.int64)) * self.dtype.itemsize

    def name(self, number: int) -> str:
        """The file of chunk ``number`` along the first axis; along the others there is one."""
        return ".".join([str(number), *("0" for _ in self.shape[1:])])


def compressed(values: np.ndarray) -> bytes:
    """A chunk of ``values``; the same bytes as ``numcodecs.Blosc(**BLOSC)`` gives them with one thread."""
    return bytes(
        imagecodecs.blosc_encode(
            np.ascontiguousarray(values).tobytes(),
            level=5,
            compressor="lz4",
            shuffle="noshuffle",
            typesize=values.dtype.itemsize,
            numthreads=1,
        )
    )


def write_group(folder: Path, attributes: Mapping[str, Any] | None = None) -> None:
    """Makes ``folder`` a group."""
    write_durably(folder / ".zgroup", to_json({"zarr_format": 2}))
    if attributes is not None:
        write_durably(folder / ".zattrs", to_json(attributes))


def write_array(folder: Path, values: np.ndarray) -> None:
    """All of an array: chunks, then metadata."""
    array = ZarrArray.of_rows(values)
    rows = array.chunks[0]
    for number, start in enumerate(range(0, len(values), rows)):
        part = values[start : start + rows]
        if len(part) < rows:  # chunks at the edge are whole ones
            part = np.concatenate([part, np.zeros((rows - len(part), *part.shape[1:]), part.dtype)])
        write_durably(folder / array.name(number), compressed(part))
    write_durably(folder / ".zarray", array.to_json())


def open_array(folder: Path) -> ZarrArray:
    """What ``write_array`` or ``ZarrArray.to_json`` said. Raises ReleaseError where it is missing or damaged."""
    path = folder / ".zarray"
    try:
        said = json.loads(path.read_bytes())
        array = ZarrArray(tuple(said["shape"]), tuple(said["chunks"]), np.dtype(said["dtype"]))
        if said["compressor"] != BLOSC or array.shape[1:] != array.chunks[1:] or array.dtype.kind not in "biuf":
            raise ValueError("it is not of the kind that is written here")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unreadable(path, error) from error
    return array


def read_chunk(folder: Path, array: ZarrArray, number: int) -> np.ndarray:
    """Chunk ``number`` [rows, ...]. Raises ReleaseError where it is missing, cut or damaged."""
    path = folder / array.name(number)
    try:
        data = path.read_bytes()
        # the decoder believes the header, and would read beyond the end
        content, _, whole = _HEADER.unpack_from(data)
        if whole != len(data) or content != array.chunk_bytes:
            raise ValueError(f"{len(data)} bytes, its header says {whole} of {content}")
        values = np.frombuffer(imagecodecs.blosc_decode(data), dtype=array.dtype)
        return values.reshape(array.chunks)
    except (OSError, ValueError, struct.error, RuntimeError) as error:
        raise unreadable(path, error) from error


def read_array(folder: Path) -> np.ndarray:
    """All rows. Raises ReleaseError where something is missing or damaged."""
    array = open_array(folder)
    chunks = [read_chunk(folder, array, number) for number in range(-(-array.shape[0] // array.chunks[0]))]
    values: np.ndarray = np.concatenate(chunks) if chunks else np.empty(array.shape, array.dtype)
    return values[: array.shape[0]]


def to_json(value: Any) -> bytes:
    """As zarr writes its metadata."""
    return json.dumps(value, indent=4, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()


__all__: Sequence[str] = (
    "BLOSC",
    "ZarrArray",
    "compressed",
    "open_array",
    "read_array",
    "read_chunk",
    "to_json",
    "write_array",
    "write_group",
)
