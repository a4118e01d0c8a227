"""Remote files behind one read-only fsspec file system: the same requests and the same errors wherever they lie.

Of the implementations of fsspec it uses listing, facts of a file, and reading a range; their retries stay theirs. It adds
what they lack alike: listings that are remembered, but not for ever; ranges that are checked; answers as SourceError.
"""

import errno
import io
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import fsspec
from fsspec.spec import AbstractFileSystem

from pipelines import stores
from schemas.errors import SourceError

FRESH_S = 60.0
"""How long a listing is believed; a large one for twenty times as long as it took."""
BLOCK_BYTES = 1 << 20
"""What is read at once of an open file; larger reads are one request."""
_BLOCKS = 16
_SMALL_BYTES, _KEPT_BYTES = 4 << 20, 32 << 20
"""Whole files up to the first size are kept up to the second together: each episode reads its set's index again."""
_MAX_ENTRIES = 500_000
"""Of remembered listings, together."""
_MARKS = (
    "ETag", "etag", "md5Hash", "crc32c", "content_md5", "Content-MD5", "Digest", "blob_id", "generation",
    "LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created",
)  # fmt: skip
"""What stores say of the content of a file, the best first."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a store says of one name."""

    kind: Literal["file", "directory", "forbidden", "unsized"]
    size: int = 0
    mark: str = ""
    """Changes when the content does, as far as the store tells."""


_lock = threading.Lock()
_systems: dict[str, "Remote"] = {}


def remote(scheme: str) -> "Remote":
    """The file system of a scheme, one for each process. Raises SourceError where its package is not installed."""
    with _lock:
        if scheme not in _systems:
            try:
                inner = fsspec.filesystem(scheme, **stores.options(scheme))
                stores.failures(scheme)
            except ImportError as error:
                hint = "pip install 'wamloom[remote]'" if scheme in ("s3", "gs") else f"pip install {error.name}"
                message = f"reading {scheme}:// needs a package that is not installed"
                raise SourceError(message, f"{scheme}://", hint, "missing_driver") from error
            _systems[scheme] = Remote(inner, scheme)
        return _systems[scheme]


def forget_all() -> None:
    """Drops what all file systems of this process remember of listings."""
    with _lock:
        for system in _systems.values():
            system.forget()


class Remote(AbstractFileSystem):  # type: ignore[misc]
    """Reads and lists; writes nothing. Missing files are FileNotFoundError, other refusals SourceError."""

    cachable = False
    protocol = "remote"

    def __init__(self, inner: AbstractFileSystem, scheme: str) -> None:
        """Use ``remote``."""
        super().__init__()
        self._inner = inner
        self._scheme = scheme
        self.lists = scheme not in stores.HTTP
        """Whether folders can be listed. Pages of links that some web servers make are not believed."""
        self._known: OrderedDict[str, tuple[float, dict[str, Entry] | None]] = OrderedDict()
        self._num_known = 0
        self._known_lock = threading.Lock()
        self._small: OrderedDict[tuple[str, int, str], bytes] = OrderedDict()

    def forget(self) -> None:
        """Drops what is remembered of listings."""
        with self._known_lock:
            self._known.clear()
            self._num_known = 0

    # --- what fsspec and UPath call -----------------------------------------------------------------------------------

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size, type and ``mark`` (what the store says of its content). Raises FileNotFoundError, SourceError."""
        path = self._strip_protocol(path)
        entry = self.entry(path)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._url(path))
        if entry.kind == "forbidden":
            raise self._no_rights(path, "403")
        if entry.kind == "unsized":
            hint = "copy the data set to a disk or another store"
            raise SourceError("the server does not say how large this file is", self._url(path), hint, "no_size")
        return {"name": path, "size": entry.size, "type": entry.kind, "mark": entry.mark}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Children of a folder, or the file itself. Raises FileNotFoundError, SourceError."""
        path = self._strip_protocol(path)
        listing = self._listing(path) if self.lists else None
        if listing is None:
            found = [self.info(path)]
        else:
            found = [
                {"name": f"{path}/{name}", "size": entry.size, "type": entry.kind, "mark": entry.mark}
                for name, entry in sorted(listing.items())
            ]
        return found if detail else [row["name"] for row in found]

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **_: Any
    ) -> Any:
        """Every file under ``path``, by one deep listing, which is remembered for all its folders."""
        path = self._strip_protocol(path)
        if not self.lists:
            return {} if detail else []
        if maxdepth is None:
            found = self._deep(path, withdirs)
            return dict(sorted(found.items())) if detail else sorted(found)
        return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is something; False also where a web server will not say."""
        entry = self.entry(self._strip_protocol(path), may_be_folder=True)
        return entry is not None and entry.kind != "forbidden"

    def isfile(self, path: str) -> bool:
        """Whether it is a file."""
        entry = self.entry(self._strip_protocol(path))
        return entry is not None and entry.kind in ("file", "unsized")

    def isdir(self, path: str) -> bool:
        """Whether it is a folder that can be listed."""
        entry = self.entry(self._strip_protocol(path), may_be_folder=True) if self.lists else None
        return entry is not None and entry.kind == "directory"

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes from ``start`` to ``end`` in one request; raises SourceError where fewer or more come."""
        path = self._strip_protocol(path)
        if start is None or end is None or start < 0 or end < 0:
            start, end, _step = slice(start, end).indices(self.info(path)["size"])
        if end <= start:
            return b""
        with self._told(path):
            data: bytes = self._inner.cat_file(path, start=start, end=end, **stores.EXACTLY.get(self._scheme, {}))
        if len(data) != end - start:
            message = f"{len(data)} bytes came where {end - start} were asked for"
            raise SourceError(message, self._url(path), "was it changed just now? run the same command again", "short")
        return data

    def whole(self, path: str) -> bytes:
        """All bytes of a file, once for as long as it does not change where it is small."""
        facts = self.info(path)
        key = (path, facts["size"], facts["mark"])
        with self._known_lock:
            if key in self._small:
                self._small.move_to_end(key)
                return self._small[key]
        data = self.cat_file(path, 0, facts["size"])
        if facts["mark"] and len(data) <= _SMALL_BYTES:
            with self._known_lock:
                self._small[key] = data
                while sum(map(len, self._small.values())) > _KEPT_BYTES:
                    self._small.popitem(last=False)
        return data

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BufferedReader:
        if mode != "rb":
            raise io.UnsupportedOperation(f"recordings are only read, not opened with {mode!r}")
        entry = self.info(path)
        if entry["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._url(path))
        return io.BufferedReader(_RemoteFile(self, path, entry["size"]), 1 << 16)

    # --- what is remembered -------------------------------------------------------------------------------------------

    def entry(self, path: str, may_be_folder: bool = False) -> Entry | None:
        """What the store says of ``path``, from the listing of its folder where there are listings; None: nothing there.

        The folder a user names, which nothing around it is known of, is listed itself: what lies above it may be very large,
        or there are no rights to it.
        """
        if not self.lists:
            return self._asked_once(path)
        folder, _, name = path.rpartition("/")
        if len(path.strip("/").split("/")) <= self._root_depth(path):
            return None if self._listing(path) is None else Entry("directory")
        is_first = may_be_folder and not self._is_known(folder) and not self._is_known(folder.rpartition("/")[0])
        if (is_first or self._is_known(path)) and self._listing(path) is not None:
            return Entry("directory")
        listing = self._listing(folder)
        return None if listing is None else listing.get(name)

    def _asked_once(self, path: str) -> Entry | None:
        with self._known_lock:
            until, found = self._known.get(path, (0.0, None))
        started = time.monotonic()
        if until <= started:
            asked = self._asked(path)
            found = None if asked is None else {"": asked}
            self._remember(path, found, started)
        return None if found is None else found[""]

    def _is_known(self, folder: str) -> bool:
        with self._known_lock:
            return self._known.get(folder, (0.0, None))[0] > time.monotonic()

    def _root_depth(self, path: str) -> int:
        """How many leading parts name the bucket or repository, which nothing above it lists."""
        if self._scheme == "hf":
            return 3 if path.partition("/")[0] in ("datasets", "spaces", "models", "buckets") else 2
        return 0 if self._scheme == "memory" else 1

    def _remember(self, path: str, found: dict[str, Entry] | None, started: float) -> None:
        now = time.monotonic()
        with self._known_lock:
            _, before = self._known.pop(path, (0.0, None))
            self._known[path] = (now + max(FRESH_S, 20 * (now - started)), found)
            self._num_known += len(found or ()) + 1 - (0 if before is None else len(before) + 1)
            while self._num_known > _MAX_ENTRIES and len(self._known) > 1:
                _, (_, oldest) = self._known.popitem(last=False)
                self._num_known -= len(oldest or ()) + 1

    def _listing(self, folder: str) -> dict[str, Entry] | None:
        """The entries of a folder by name; None where there is no such folder."""
        with self._known_lock:
            until, found = self._known.get(folder, (0.0, None))
            above, _, name = folder.rpartition("/")
            above_until, siblings = self._known.get(above, (0.0, None))
        now = time.monotonic()
        if until > now:
            return found
        if above_until > now and siblings is not None and name not in siblings:
            return None
        try:
            with self._told(folder):
                rows = self._inner.ls(folder, detail=True, **self._anew)
        except (FileNotFoundError, NotADirectoryError):
            rows = None
        if rows is not None and [row["name"].strip("/") for row in rows if row["type"] == "file"] == [
            folder.strip("/")
        ]:
            rows = None  # a file lists itself
        found = None if rows is None else {}
        for row in rows or ():
            name = row["name"].rstrip("/").rpartition("/")[2]
            if found is not None and row["name"].strip("/") != folder.strip("/"):
                found[name] = _entry(row)
        self._remember(folder, found, now)
        return found

    @property
    def _anew(self) -> dict[str, Any]:
        return {"refresh": True} if self._scheme == "hf" else {}

    def _deep(self, root: str, withdirs: bool) -> dict[str, dict[str, Any]]:
        started = time.monotonic()
        with self._told(root):
            rows: Mapping[str, dict[str, Any]] = self._inner.find(root, detail=True, **self._anew)
        folders: dict[str, dict[str, Entry]] = {}
        found: dict[str, dict[str, Any]] = {}
        for path, row in rows.items():
            if path.endswith("/") or row["type"] != "file":
                continue  # the mark of an empty folder
            entry = _entry(row)
            found[path] = {"name": path, "size": entry.size, "type": entry.kind, "mark": entry.mark}
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, {})[name] = entry
            while folder.startswith(f"{root}/"):
                folder, _, name = folder.rpartition("/")
                folders.setdefault(folder, {})[name] = Entry("directory")
        for folder, entries in folders.items():
            self._remember(folder, entries, started)
            if withdirs and folder != root:
                found[folder] = {"name": folder, "size": 0, "type": "directory", "mark": ""}
        return found

    def _asked(self, path: str) -> Entry | None:
        """What a web server says of a file; a refusal may mean that there is none."""
        try:
            with self._told(path):
                return _entry(self._inner.info(path))
        except FileNotFoundError as error:  # fsspec says so whatever went wrong
            cause = error.__cause__ or error.__context__
            status = getattr(cause, "status", None)
            if status == 403:
                return Entry("forbidden")
            if cause is None or isinstance(cause, FileNotFoundError) or status in (404, 405, 410):
                return None
            raise self._error(path, cause) from error

    # --- what went wrong ----------------------------------------------------------------------------------------------

    def _url(self, path: str) -> str:
        return path if "://" in path else f"{self._scheme}://{path.lstrip('/')}"

    @contextmanager
    def _told(self, path: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise
        except stores.failures(self._scheme) as error:
            raise self._error(path, error) from error

    def _error(self, path: str, error: BaseException) -> SourceError:
        """As one a user can act on. What a library says is not passed on: it may hold a signed address."""
        answer = getattr(error, "response", None)
        named = "status" if hasattr(error, "status") else "code"
        codes = (getattr(error, named, None), getattr(answer, "status_code", None))
        status = next((str(code) for code in codes if code), "")
        kind = type(error).__name__
        if isinstance(error, PermissionError) or status in ("401", "403") or "Credentials" in kind or "Auth" in kind:
            return self._no_rights(path, status or kind)
        if isinstance(error, stores.NoRanges):
            hint = "copy the data set to a disk or another store, or serve it by a server that knows Range requests"
            return SourceError("the server cannot send parts of a file", self._url(path), hint, "no_ranges")
        said = ", ".join(part for part in (kind, status, getattr(error, "strerror", None) or "") if part)
        hint = "check address and network, then run the same command again (--retry takes failed episodes up)"
        return SourceError(f"no answer that helps ({said})", self._url(path), hint, "unreachable")

    def _no_rights(self, path: str, said: str) -> SourceError:
        hint = "give the credentials by environment or profile (docs/formats.md), never in the location"
        return SourceError(f"the store refuses to show this ({said})", self._url(path), hint, "no_rights")

    def refusal(self, path: str) -> SourceError | None:
        """The error to raise where nothing was recognized under ``path`` and a web server refused to say; else None."""
        with self._known_lock:
            for name, (_, found) in self._known.items():
                if name.startswith(path) and found and found.get("") == Entry("forbidden"):
                    return self._no_rights(name, "403")
        return None


def _entry(row: Mapping[str, Any]) -> Entry:
    if row["type"] != "file":
        return Entry("directory")
    if row.get("size") is None:
        return Entry("unsized")
    lfs = row.get("lfs")
    if isinstance(lfs, Mapping) and lfs.get("sha256"):
        return Entry("file", int(row["size"]), f"sha256={lfs['sha256']}")
    mark = next((f"{name}={row[name]}" for name in _MARKS if row.get(name)), "")
    return Entry("file", int(row["size"]), mark)


class _RemoteFile(io.RawIOBase):
    """A remote file that is read by blocks, the latest of which are kept; a large read is one request of its own."""

    def __init__(self, system: Remote, path: str, size: int) -> None:
        self._system = system
        self._path = path
        self._size = size
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = base + offset
        return self._position

    def readall(self) -> bytes:
        data = self._range(self._position, self._size) if self._position else self._system.whole(self._path)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._range(self._position, min(self._size, self._position + len(view)))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _range(self, start: int, stop: int) -> bytes:
        if start >= stop:
            return b""
        first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        if last - first >= _BLOCKS // 2:
            return self._system.cat_file(self._path, start, stop)
        wanted = range(first, last + 1)
        missing = [number for number in wanted if number not in self._blocks]
        if missing:
            begin, end = missing[0] * BLOCK_BYTES, min(self._size, (missing[-1] + 1) * BLOCK_BYTES)
            data = self._system.cat_file(self._path, begin, end)
            for number in range(missing[0], missing[-1] + 1):
                place = number * BLOCK_BYTES - begin
                self._blocks[number] = data[place : place + BLOCK_BYTES]
        for number in wanted:
            self._blocks.move_to_end(number)
        data = b"".join(self._blocks[number] for number in wanted)
        while len(self._blocks) > _BLOCKS:
            self._blocks.popitem(last=False)
        return data[start - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]
