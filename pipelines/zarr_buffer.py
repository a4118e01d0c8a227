"""Zarr stores opened with care: what arrays they hold, which files the rows of an array lie in, and those rows.

A store is a folder, local or remote, or one zip file. Metadata is looked at before zarr sees it: only codecs that turn bytes into
numbers are admitted (``pickle`` and objects are not), and sizes are checked before anything is allocated. Bytes are read
here, and decoded in a child process (``zarr_process``).
"""

import bisect
import functools
import json
import lzma
import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from pipelines import zarr_process
from pipelines.places import place
from schemas.errors import CorruptEpisode, SourceError
from schemas.recipes import Limits

MAX_CHUNK_BYTES = 1 << 28
"""A chunk is decoded whole, however few of its rows are wanted."""
MAX_OVERHEAD_BYTES = 1 << 16
"""By which a chunk may be longer than its content, where that does not compress."""
_BLOSC_HEADER = struct.Struct("<4xI4xI")
"""Bytes of content and of the whole chunk, as README_CHUNK_FORMAT of c-blosc describes it."""
MAX_METADATA_BYTES = 1 << 20
_LINK_HINT = "replace links by the files they stand for"
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
_STAMPS = ("mark", "CRC", "ETag", "etag", "mtime", "LastModified", "last_modified", "created")
"""What the file systems of fsspec say of a file that changes with its content, best first."""
_READING_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What folders and damaged zip files raise."""
MAX_DIMENSIONS = 32
MAX_SIZE = 1 << 40
"""Of one dimension."""
_BLOCK_BYTES = 64 << 20
_BLOCK_CHUNKS = 4096
"""Rows are asked for in blocks of about so many bytes, of chunks and decoded, and so many chunks."""


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
    metadata: str
    """The file that says all this, relative to ``path``."""
    has_fill: bool
    """Whether it says what chunks hold that are not stored."""
    stored: list[tuple[tuple[int, ...], str]] = field(default_factory=list, compare=False, repr=False)
    """(index, file) of the chunks that are there, sorted."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk in memory."""
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def num_chunks(self, start: int, stop: int) -> int:
        """How many chunks rows ``[start, stop)`` should lie in, whether they are there or not."""
        if stop <= start:
            return 0
        across = (-(-size // chunk) for size, chunk in zip(self.shape[1:], self.chunks[1:], strict=True))
        return ((stop - 1) // self.chunks[0] - start // self.chunks[0] + 1) * math.prod(across)

    def files(self, start: int, stop: int) -> list[str]:
        """Those chunks of rows ``[start, stop)`` that are there."""
        if stop <= start:
            return []
        first = bisect.bisect_left(self.stored, ((start // self.chunks[0],), ""))
        last = bisect.bisect_left(self.stored, (((stop - 1) // self.chunks[0] + 1,), ""))
        return [name for _, name in self.stored[first:last]]

    def index_of(self, name: str) -> tuple[int, ...] | None:
        """Where in the array the chunk in the file ``name`` lies; None where it is no chunk of it."""
        stem = f"{self.path}/{self.prefix}"
        parts = name[len(stem) :].split(self.separator) if name.startswith(stem) else []
        if len(parts) != len(self.shape) or not all(part.isascii() and part.isdecimal() for part in parts):
            return None
        if any(len(part) > 1 and (part[0] == "0" or len(part) > 15) for part in parts):
            return None
        index = tuple(map(int, parts))
        inside = all(at * chunk < size for at, chunk, size in zip(index, self.chunks, self.shape, strict=True))
        return index if inside else None


def is_zip(location: str) -> bool:
    """Whether the location names one zip file rather than a folder."""
    return location.rstrip("/").endswith(".zip")


class ZarrBuffer:
    """One store. ``arrays`` by path; files are named relative to the store."""

    def __init__(self, location: str) -> None:
        """Raises SourceError where the store cannot be listed or its metadata is damaged or not admitted."""
        self.location = location
        root = place(location)
        self._folder = root if isinstance(root, Path) and not is_zip(location) else None
        try:
            if is_zip(location):
                self._fs: Any = fsspec.filesystem("zip", fo=root.open("rb"))
                self._base = ""
            else:
                self._fs, self._base = root.fs, root.path.rstrip("/")
            self.files: dict[str, Mapping[str, Any]] = dict(self._listed())
        except _READING_ERRORS as error:
            raise SourceError(f"the store cannot be opened: {error}"[:300], location, _HINT, "bad_index") from error
        self._said: dict[str, bytes] = {}  # metadata by file, to be decoded by as they were checked
        self.arrays = self._read_arrays()
        self._find_chunks()

    def _listed(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every file by its name in the store. Links to folders are refused, for what lies below would not show it."""
        if self._folder is None:
            start = len(self._base) + 1 if self._base else 0
            yield from ((name[start:], facts) for name, facts in self._fs.find(self._base, detail=True).items())
            return
        for folder, _, names in self._folder.walk(on_error=_raise):
            for name in names:  # links are not followed, so they are here
                path = folder / name
                relative = path.relative_to(self._folder).as_posix()
                if path.is_symlink() and path.is_dir():
                    raise SourceError(f"{relative!r} is a link"[:300], self.location, _LINK_HINT, "path_escape")
                if not relative.isprintable():
                    message = f"a file has the name {relative!a}"
                    raise SourceError(message[:300], self.location, "rename or remove it", "bad_index")
                if (facts := _facts_of(path)) is not None:
                    yield relative, facts

    def _find_chunks(self) -> None:
        """Raises SourceError for an array that has files of which none is a chunk: all of it would read as its fill value."""
        strange: dict[str, str] = {}
        for name in self.files:
            folder, _, file = name.rpartition("/")
            while folder and folder not in self.arrays:
                folder = folder.rpartition("/")[0]
            if not folder:
                continue
            array = self.arrays[folder]
            if (index := array.index_of(name)) is not None:
                array.stored.append((index, name))
            elif not file.startswith(".") and file != array.metadata:
                strange[folder] = name
        for folder, array in self.arrays.items():
            array.stored.sort()
            if folder in strange and not array.stored and array.num_chunks(0, array.shape[0] if array.shape else 0):
                message = f"none of the files of {folder} is a chunk of it, such as {strange[folder]}"
                raise SourceError(message[:300], self.location, _HINT, "bad_index")

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
            self._said[name] = self._bytes(name, size)
            value = json.loads(self._said[name])
        except (*_READING_ERRORS, RecursionError) as error:
            raise SourceError(f"the metadata cannot be read: {error}"[:300], where, _HINT, "bad_index") from error
        if not isinstance(value, dict):
            raise SourceError("the metadata is no JSON object", where, _HINT, "bad_index")
        return value

    def _bytes(self, name: str, size: int) -> bytes:
        """The content of a file of ``size`` bytes; one more where a local one is longer."""
        if self._folder is not None:
            with (self._folder / name).open("rb") as file:
                return file.read(max(size, 0) + 1)
        data: bytes = self._fs.cat_file(f"{self._base}/{name}" if self._base else name, start=0, end=size)
        return data

    def _facts_v2(self, folder: str, metadata: Mapping[str, Any]) -> ArrayFacts:
        compressor, filters = metadata.get("compressor"), _list(metadata.get("filters"))
        codecs = [one for one in (compressor, *filters) if one is not None]
        names = [one.get("id") if isinstance(one, dict) else one for one in codecs]
        self._admit(folder, names)
        codec = str(names[0]) if compressor else ""
        separator = str(metadata.get("dimension_separator") or ".")
        shape, chunks, dtype = (metadata.get(key) for key in ("shape", "chunks", "dtype"))
        has_fill = metadata.get("fill_value") is not None
        return self._facts(folder, shape, chunks, dtype, separator, "", codec, ".zarray", has_fill)

    def _facts_v3(self, folder: str, metadata: Mapping[str, Any]) -> ArrayFacts:
        names: list[Any] = []
        pending = _list(metadata.get("codecs"))
        while pending:
            codec = pending.pop()
            names.append(codec.get("name") if isinstance(codec, dict) else codec)
            inner = _table(_table(codec).get("configuration"))
            pending += [*_list(inner.get("codecs")), *_list(inner.get("index_codecs"))]
        self._admit(folder, names)
        encoding = _table(metadata.get("chunk_key_encoding"))
        separator = str(_table(encoding.get("configuration")).get("separator", "/"))
        prefix = f"c{separator}" if encoding.get("name", "default") == "default" else ""
        chunks = _table(_table(metadata.get("chunk_grid")).get("configuration")).get("chunk_shape")
        codec = "blosc" if "blosc" in names else ""
        shape, dtype = metadata.get("shape"), metadata.get("data_type")
        return self._facts(folder, shape, chunks, dtype, separator, prefix, codec, "zarr.json", has_fill=True)

    def _admit(self, folder: str, codecs: list[Any]) -> None:
        for codec in codecs:
            if not isinstance(codec, str) or codec not in _CODECS:
                message = f"the array {folder} is written with the codec {codec!r}"[:200]
                raise SourceError(
                    message, self.location, "write it with a codec that holds numbers only", "unsupported_format"
                )

    def _facts(
        self,
        folder: str,
        shape: Any,
        chunks: Any,
        dtype: Any,
        separator: str,
        prefix: str,
        codec: str,
        file: str,
        has_fill: bool,
    ) -> ArrayFacts:
        sizes, pieces = tuple(_list(shape)), tuple(_list(chunks))
        try:
            kind = np.dtype(dtype) if isinstance(dtype, str) else None
        except (TypeError, ValueError) as error:
            message = f"the array {folder} holds {dtype[:100]!r}: {error}"[:300]
            raise SourceError(message, self.location, _HINT, "bad_index") from error
        if kind is None or kind.kind not in "fiub" or kind.itemsize > 8:
            message = f"the array {folder} holds {str(dtype)[:100]}, not numbers"
            raise SourceError(message, self.location, "objects and texts are not read", "unsupported_format")
        whole = all(type(size) is int and 0 <= size <= MAX_SIZE for size in (*sizes, *pieces))
        fits = isinstance(shape, list) and isinstance(chunks, list) and len(sizes) == len(pieces) <= MAX_DIMENSIONS
        if not whole or not fits or 0 in pieces or separator not in (".", "/"):
            message = f"the array {folder} has the shape {str(shape)[:100]} in chunks of {str(chunks)[:100]}"
            raise SourceError(message, self.location, _HINT, "bad_index")
        facts = ArrayFacts(folder, sizes, pieces, kind, separator, prefix, codec, file, has_fill)
        if facts.chunk_bytes > MAX_CHUNK_BYTES:
            message = f"a chunk of the array {folder} has {facts.chunk_bytes} bytes, more than {MAX_CHUNK_BYTES}"
            raise SourceError(message, self.location, "write it in smaller chunks", "too_large")
        return facts

    def refuse_link(self, name: str) -> None:
        """Raises SourceError (``path_escape``) for a file that is a link: it could lead anywhere."""
        if self.files[name].get("islink"):
            raise SourceError(f"{name} is a link", self.location, _LINK_HINT, "path_escape")
        if self.files[name].get("type") == "other":
            raise SourceError(f"{name} is no file", self.location, "replace it by the file it stands for", "bad_index")

    def stamps(self, names: list[str]) -> list[tuple[str, int, str]]:
        """(name, size, what changes with its content) of those files that are there."""
        return [
            (name, int(facts.get("size") or 0), next((str(facts[key]) for key in _STAMPS if facts.get(key)), ""))
            for name in names
            if (facts := self.files.get(name)) is not None
        ]

    def look_again(self, names: list[str]) -> None:
        """Takes note of what became of these files since the store was listed, where that is a folder of this machine."""
        if self._folder is None:
            return
        for name in names:
            facts = _facts_of(self._folder / name)
            self.files[name] = {"size": -1} if facts is None else facts

    def rows(self, array: ArrayFacts, start: int, stop: int, limits: Limits, where: str) -> np.ndarray:
        """Rows ``[start, stop)`` [n, ...]. Raises CorruptEpisode (``damaged_chunk``) where a chunk cannot be decoded."""
        if not 0 <= start <= stop <= array.shape[0]:
            message = f"{array.path} has {array.shape[0]} rows, not {start} to {stop}"
            raise CorruptEpisode(message, where, _HINT, "length_mismatch")
        values: np.ndarray = np.empty((stop - start, *array.shape[1:]), array.dtype)
        for first, last in _blocks(array, start, stop):
            part = values[first - start : last - start]
            said = f"{array.path}/{array.metadata}"
            files = {said: self._said[said]}
            for name in array.files(first, last):
                files[name] = self._chunk(array, name, where)
            zarr_process.DECODER.rows(files, array.path, range(first, last), part, limits, where)
        return values

    def _chunk(self, array: ArrayFacts, name: str, where: str) -> bytes:
        """The bytes of a chunk. Raises CorruptEpisode for one longer than its content could be, one that is not as long as
        was listed, and one whose header lies about its size."""
        size = int(self.files[name].get("size") or 0)
        if size > array.chunk_bytes + MAX_OVERHEAD_BYTES:
            message = f"the chunk {name} has {size} bytes, its content {array.chunk_bytes}"
            raise CorruptEpisode(message, where, _HINT, "damaged_chunk")
        try:
            self.refuse_link(name)
            data = self._bytes(name, size)
        except SourceError as error:
            raise CorruptEpisode(error.message, where, error.hint, error.reason) from error
        except _READING_ERRORS as error:
            message = f"the chunk {name} cannot be read: {error}"[:400]
            raise CorruptEpisode(message, where, _HINT, "damaged_chunk") from error
        if len(data) != size:
            message = f"the chunk {name} had {size} bytes when it was listed"
            raise CorruptEpisode(message, where, "run the same command again", "changed_while_reading")
        if array.codec == "blosc":  # its decoder believes the header, and reads beyond the end of a chunk that was cut
            content, packed = _BLOSC_HEADER.unpack_from(data) if len(data) >= _BLOSC_HEADER.size else (0, 0)
            if packed != size or content > array.chunk_bytes:
                message = f"the chunk {name} has {size} bytes, its header says {packed} for {content} of content"
                raise CorruptEpisode(message, where, _HINT, "damaged_chunk")
        return data


def _raise(error: OSError) -> None:
    raise error


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _facts_of(path: Path) -> dict[str, Any] | None:
    """What matters of a local file, as fsspec would say it; None where it is gone."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    kind = "file" if stat.S_ISREG(status.st_mode) else "other"
    return {"size": status.st_size, "mtime": status.st_mtime_ns, "islink": stat.S_ISLNK(status.st_mode), "type": kind}


def _blocks(array: ArrayFacts, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Spans of rows that end at the borders of chunks."""
    chunk_rows = array.chunks[0]
    across = max(1, array.num_chunks(0, 1))
    num_bytes = max(1, across * array.chunk_bytes)
    step = chunk_rows * max(1, min(_BLOCK_BYTES // num_bytes, _BLOCK_CHUNKS // across))
    while start < stop:
        end = min(stop, (start // step + 1) * step)
        yield start, end
        start = end


@functools.lru_cache(maxsize=4)
def opened(location: str, stamp: str) -> ZarrBuffer:
    """The store at ``location``; kept open while ``stamp``, which changes with its index, stays the same."""
    del stamp
    return ZarrBuffer(location)
