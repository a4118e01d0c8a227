"""Zarr stores opened with care: what arrays they hold, which files the rows of an array lie in, and those rows.

A store is a folder, local or remote, or one zip file. Metadata is looked at before zarr sees it: only codecs that turn bytes into
numbers are admitted (``pickle`` and objects are not), and sizes are checked before anything is allocated.
"""

import functools
import itertools
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fsspec
import imagecodecs.numcodecs
import numpy as np
import zarr
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.storage import FsspecStore, LocalStore

from pipelines.places import is_url, place
from schemas.errors import CorruptEpisode, SourceError

MAX_CHUNK_BYTES = 1 << 28
"""A chunk is decoded whole, however few of its rows are wanted."""
MAX_OVERHEAD_BYTES = 1 << 16
"""By which a chunk may be longer than its content, where that does not compress."""
_BLOSC_HEADER = struct.Struct("<4xI4xI")
"""Bytes of content and of the whole chunk, as README_CHUNK_FORMAT of c-blosc describes it."""
MAX_METADATA_BYTES = 1 << 20
_HINT = "write the store again with zarr's own codecs, or fetch it again"
_CODECS = {
    *(
        "blosc",
        "zstd",
        "lz4",
        "zlib",
        "gzip",
        "bz2",
        "lzma",
        "delta",
        "shuffle",
        "packbits",
        "astype",
        "crc32",
        "crc32c",
    ),
    *("fixedscaleoffset", "quantize", "bitround", "fletcher32", "adler32", "jenkins_lookup3"),
    *("imagecodecs_jpegxl", "imagecodecs_jpeg", "imagecodecs_jpeg2k", "imagecodecs_png", "imagecodecs_webp"),
    *("imagecodecs_lzw", "imagecodecs_zstd", "imagecodecs_deflate", "imagecodecs_qoi"),
    *("bytes", "transpose", "sharding_indexed"),  # of Zarr 3
}
_STAMPS = ("CRC", "ETag", "etag", "mtime", "LastModified", "last_modified", "created")
"""What the file systems of fsspec say of a file that changes with its content, best first."""
_ERRORS = (ValueError, RuntimeError, KeyError, OSError, TypeError, zipfile.BadZipFile)
"""What zarr and its codecs raise for damaged metadata and chunks."""


@dataclass(frozen=True, slots=True)
class ArrayFacts:
    """What the metadata of an array says."""

    path: str
    """In the store, such as ``data/action``."""
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    separator: str
    prefix: str
    """Of chunk names: ``c`` + separator in Zarr 3, nothing in Zarr 2."""
    codec: str
    """The last one the bytes of a chunk went through; "" where they are plain."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk in memory."""
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def is_zip(location: str) -> bool:
    """Whether the location names one zip file rather than a folder."""
    return location.rstrip("/").endswith(".zip")


class ZarrBuffer:
    """One store. ``arrays`` by path; files are named relative to the store."""

    def __init__(self, location: str) -> None:
        """Raises SourceError where the store cannot be listed or its metadata is damaged or not admitted."""
        imagecodecs.numcodecs.register_codecs(verbose=False)
        self.location = location
        root = place(location)
        try:
            if is_zip(location):
                self._fs: Any = fsspec.filesystem("zip", fo=root.open("rb"))
                self._base = ""
                self._store: Any = FsspecStore(
                    AsyncFileSystemWrapper(self._fs, asynchronous=True), read_only=True, path=""
                )
            else:
                self._fs, self._base = root.fs, root.path.rstrip("/")
                remote = is_url(location)
                options = dict(root.storage_options)
                self._store = (
                    FsspecStore.from_url(str(root), storage_options=options, read_only=True)
                    if remote
                    else LocalStore(location, read_only=True)
                )
            found: Mapping[str, Mapping[str, Any]] = self._fs.find(self._base, detail=True)
        except (OSError, zipfile.BadZipFile) as error:
            raise SourceError(f"the store cannot be opened: {error}", location, _HINT, "bad_index") from error
        start = len(self._base) + 1 if self._base else 0
        self.files: dict[str, Mapping[str, Any]] = {name[start:]: facts for name, facts in found.items()}
        self.arrays = self._read_arrays()

    def _read_arrays(self) -> dict[str, ArrayFacts]:
        found: dict[str, ArrayFacts] = {}
        for name in sorted(self.files):
            folder, _, file = name.rpartition("/")
            if file == ".zarray":
                found[folder] = self._facts_v2(folder, self._metadata(name))
            elif file == "zarr.json":
                metadata = self._metadata(name)
                if metadata.get("node_type") == "array":
                    found[folder] = self._facts_v3(folder, metadata)
        return found

    def _metadata(self, name: str) -> dict[str, Any]:
        where = f"{self.location}/{name}"
        size = int(self.files[name].get("size") or 0)
        if size > MAX_METADATA_BYTES:
            raise SourceError(f"{size} bytes of metadata", where, _HINT, "bad_index")
        self.refuse_link(name)
        try:
            value = json.loads(self._fs.cat_file(f"{self._base}/{name}" if self._base else name))
        except (OSError, ValueError, RecursionError, zipfile.BadZipFile) as error:
            raise SourceError(f"the metadata cannot be read: {error}"[:300], where, _HINT, "bad_index") from error
        if not isinstance(value, dict):
            raise SourceError("the metadata is no JSON object", where, _HINT, "bad_index")
        return value

    def _facts_v2(self, folder: str, metadata: Mapping[str, Any]) -> ArrayFacts:
        codecs = [one for one in (metadata.get("compressor"), *(metadata.get("filters") or [])) if one is not None]
        names = [one.get("id") if isinstance(one, dict) else one for one in codecs]
        self._admit(folder, names)
        codec = str(names[0]) if metadata.get("compressor") else ""
        separator = str(metadata.get("dimension_separator") or ".")
        shape, chunks, dtype = (metadata.get(key) for key in ("shape", "chunks", "dtype"))
        return self._facts(folder, shape, chunks, dtype, separator, "", codec)

    def _facts_v3(self, folder: str, metadata: Mapping[str, Any]) -> ArrayFacts:
        names: list[Any] = []
        pending = list(metadata.get("codecs") or [])
        while pending:
            codec = pending.pop()
            names.append(codec.get("name") if isinstance(codec, dict) else codec)
            inner = codec.get("configuration") if isinstance(codec, dict) else None
            if isinstance(inner, dict):
                pending += [*(inner.get("codecs") or []), *(inner.get("index_codecs") or [])]
        self._admit(folder, names)
        encoding = metadata.get("chunk_key_encoding") or {}
        separator = str((encoding.get("configuration") or {}).get("separator", "/"))
        prefix = f"c{separator}" if encoding.get("name", "default") == "default" else ""
        chunks = ((metadata.get("chunk_grid") or {}).get("configuration") or {}).get("chunk_shape")
        codec = "blosc" if "blosc" in names else ""
        return self._facts(folder, metadata.get("shape"), chunks, metadata.get("data_type"), separator, prefix, codec)

    def _admit(self, folder: str, codecs: list[Any]) -> None:
        for codec in codecs:
            if codec not in _CODECS:
                message = f"the array {folder} is written with the codec {codec!r}"[:200]
                raise SourceError(
                    message, self.location, "write it with a codec that holds numbers only", "unsupported_format"
                )

    def _facts(
        self, folder: str, shape: Any, chunks: Any, dtype: Any, separator: str, prefix: str, codec: str
    ) -> ArrayFacts:
        try:
            sizes, pieces, kind = tuple(shape), tuple(chunks), np.dtype(dtype)
        except (TypeError, ValueError) as error:
            raise SourceError(
                f"the array {folder} is not described: {error}"[:300], self.location, _HINT, "bad_index"
            ) from error
        whole = all(isinstance(size, int) and not isinstance(size, bool) for size in (*sizes, *pieces))
        if (
            not whole
            or len(sizes) != len(pieces)
            or any(size < 0 for size in sizes)
            or any(size < 1 for size in pieces)
        ):
            message = f"the array {folder} has the shape {sizes} in chunks of {pieces}"[:300]
            raise SourceError(message, self.location, _HINT, "bad_index")
        if kind.kind not in "fiub":
            message = f"the array {folder} holds {kind}, not numbers"
            raise SourceError(message, self.location, "objects and texts are not read", "unsupported_format")
        facts = ArrayFacts(folder, sizes, pieces, kind, separator, prefix, codec)
        if facts.chunk_bytes > MAX_CHUNK_BYTES:
            message = f"a chunk of the array {folder} has {facts.chunk_bytes} bytes, more than {MAX_CHUNK_BYTES}"
            raise SourceError(message, self.location, "write it in smaller chunks", "too_large")
        return facts

    def refuse_link(self, name: str) -> None:
        """Raises SourceError (``path_escape``) for a file that is a link: it could lead anywhere."""
        if self.files[name].get("islink"):
            hint = "replace links by the files they stand for"
            raise SourceError(f"{name} is a link", self.location, hint, "path_escape")

    def chunks_of(self, array: ArrayFacts, start: int, stop: int) -> list[str]:
        """Files that rows ``[start, stop)`` of the array lie in, whether they are there or not."""
        if stop <= start:
            return []
        spans = [range(start // array.chunks[0], (stop - 1) // array.chunks[0] + 1)]
        spans += [range(-(-size // chunk)) for size, chunk in zip(array.shape[1:], array.chunks[1:], strict=True)]
        stem = f"{array.path}/{array.prefix}"
        return [stem + array.separator.join(map(str, index)) for index in itertools.product(*spans)]

    def stamps(self, names: list[str]) -> list[tuple[str, int, str]]:
        """(name, size, what changes with its content) of those files that are there."""
        return [
            (name, int(facts.get("size") or 0), next((str(facts[key]) for key in _STAMPS if facts.get(key)), ""))
            for name in names
            if (facts := self.files.get(name)) is not None
        ]

    def rows(self, array: ArrayFacts, start: int, stop: int, where: str) -> np.ndarray:
        """Rows ``[start, stop)`` [n, ...]. Raises CorruptEpisode (``damaged_chunk``) where a chunk cannot be decoded."""
        for name in self.chunks_of(array, start, stop):
            if name in self.files:
                self.refuse_link(name)
                self._check_chunk(array, name, where)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", category=UserWarning)  # on codecs without a Zarr 3 specification
                opened: Any = zarr.open_array(self._store, path=array.path, mode="r")
                values = np.asarray(opened[start:stop])
        except _ERRORS as error:
            message = f"rows {start} to {stop} of {array.path} cannot be decoded: {error}"[:400]
            raise CorruptEpisode(message, where, _HINT, "damaged_chunk") from error
        if len(values) != stop - start:
            message = f"{array.path} gives {len(values)} rows instead of {stop - start}"
            raise CorruptEpisode(message, where, _HINT, "length_mismatch")
        return values

    def _check_chunk(self, array: ArrayFacts, name: str, where: str) -> None:
        """Raises CorruptEpisode for a chunk longer than its content could be, and for one whose header lies about its size."""
        size = int(self.files[name].get("size") or 0)
        if size > array.chunk_bytes + MAX_OVERHEAD_BYTES:
            message = f"the chunk {name} has {size} bytes, its content {array.chunk_bytes}"
            raise CorruptEpisode(message, where, _HINT, "damaged_chunk")
        if array.codec == "blosc":  # its decoder believes the header, and reads beyond the end of a chunk that was cut
            header = self._fs.cat_file(f"{self._base}/{name}" if self._base else name, start=0, end=_BLOSC_HEADER.size)
            content, packed = _BLOSC_HEADER.unpack(header) if len(header) == _BLOSC_HEADER.size else (0, 0)
            if packed != size or content > array.chunk_bytes:
                message = f"the chunk {name} has {size} bytes, its header says {packed} for {content} of content"
                raise CorruptEpisode(message, where, _HINT, "damaged_chunk")


@functools.lru_cache(maxsize=4)
def opened(location: str, stamp: str) -> ZarrBuffer:
    """The store at ``location``; kept open while ``stamp``, which changes with its index, stays the same."""
    del stamp
    return ZarrBuffer(location)
