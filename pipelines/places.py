"""Where recordings lie: local folders and fsspec URLs (``s3://``, ``gs://``, ``hf://``, ``https://``), behind one path type.

A location is a text that holds no secret; ``place`` makes a path of it that lists, opens and reads alike wherever it lies.
"""

import errno
import os
import re
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from upath import UPath

from pipelines.remote import Remote, forget_all, remote
from schemas.errors import SourceError, UsageError

SCHEMES = ("s3", "gs", "gcs", "hf", "http", "https", "file", "memory", "az", "abfs")
"""What a location may begin with; URLs inside data are never followed."""
KEPT_BYTES = 4 << 30
"""Of copies of shared remote files, for each process."""
_THREADS = 32
_PART_BYTES = 32 << 20
_SECRETS = "give credentials by environment or profile (docs/formats.md); a location is stored and shown"


def is_url(location: str) -> bool:
    """Whether ``location`` is a URL rather than a local path."""
    return "://" in location


def is_remote(path: Path | UPath) -> bool:
    """Whether ``path`` lies elsewhere than in the local file system."""
    return not isinstance(path, Path)


def place(location: str) -> UPath:
    """The path of ``location``; opens nothing. ``str`` of it is the stable text of the place, which ``place`` takes again.

    Raises UsageError for a scheme that is not one of ``SCHEMES`` and for a URL with user name, password, query or fragment:
    those are no part of a place and may be secret, so they are not repeated. SourceError where a package is missing.
    """
    if not is_url(location):
        return UPath(location)
    scheme, _, rest = location.partition("://")
    if scheme.lower() not in SCHEMES:
        known = f"known: {', '.join(SCHEMES)}, or a folder"
        named = f"{scheme}://" if re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", scheme) else "this"
        raise UsageError(f"{named} is no place for recordings", hint=known)
    scheme = {"gcs": "gs"}.get(scheme.lower(), scheme.lower())
    if scheme == "file":
        return UPath("/" + unquote(rest.partition("/")[2]))
    try:
        host = urlsplit(f"//{rest}")
        host.port  # noqa: B018  raises for a port that is no number, such as half a password
    except ValueError:
        raise UsageError("not a valid URL", f"{scheme}://", _SECRETS) from None  # its text has the password
    names_container = scheme in ("az", "abfs") and ":" not in host.netloc
    if "@" in host.netloc and not names_container:
        raise UsageError("user name and password have no place in a location", f"{scheme}://{host.hostname}", _SECRETS)
    if "?" in rest or "#" in rest or "::" in rest:
        bare = f"{scheme}://{re.split('[?#]|::', rest)[0]}"
        raise UsageError("a location has no query, fragment or chain", bare, _SECRETS)
    parts = rest.split("/")
    if any(ord(character) < 32 for character in rest) or ".." in parts or not (parts[0] or scheme == "memory"):
        raise UsageError("not a valid location", f"{scheme}://", "name bucket or host, and the folder")
    system = remote(scheme)
    path = UPath(f"{scheme}://{'/'.join(part for part in parts if part not in ('', '.'))}")
    path._fs_cached = system  # every path derived from it asks this system
    return path


def lists(path: Path | UPath) -> bool:
    """Whether folders can be listed there; web servers cannot, so that what lies there must be named by an index."""
    return isinstance(path, Path) or _system(path).lists


def state(path: Path | UPath) -> tuple[int, int | str]:
    """Size and modification time in ns of a local file, or what the store says of its content. Raises OSError."""
    if isinstance(path, Path):
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    facts = _system(path).info(path.path)
    return facts["size"], facts["mark"]


def state_below(root: Path | UPath, relative: str) -> tuple[int, int | str]:
    """``state`` of the file ``relative`` names under ``root``. Raises OSError."""
    if isinstance(root, Path):
        return state(root / relative)
    facts = _system(root).info("/".join([root.path.rstrip("/"), *_parts(root, relative)]))
    return facts["size"], facts["mark"]


def below(root: UPath, relative: str) -> UPath:
    """``root / relative`` for a remote root, whatever characters ``relative`` has. Raises FileNotFoundError for ``..``."""
    return root.joinpath(*_parts(root, relative))


def _parts(root: UPath, relative: str) -> list[str]:
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), relative)
    return parts if lists(root) else [quote(part) for part in parts]


def together[One, Other](
    function: Callable[[One], Other], items: Iterable[One], where: Path | UPath
) -> Iterable[Other]:
    """``function`` of each of ``items`` in order; at a remote place many at a time, since each waits for answers."""
    if isinstance(where, Path):
        return map(function, items)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, items))


def look_up(root: Path | UPath, relatives: Iterable[str]) -> None:
    """Asks for these files under ``root`` at once where each has to be asked for; the answers are remembered for a while."""
    if isinstance(root, Path) or lists(root):
        return
    paths = [below(root, name).path for name in set(relatives) if ".." not in name]
    together(_system(root).entry, paths, root)


def read_range(path: Path | UPath, start: int, stop: int) -> bytes:
    """The bytes ``[start, stop)``, fewer where a local file ends before. Raises OSError, SourceError."""
    if not isinstance(path, Path):
        return _system(path).cat_file(path.path, start, stop)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def copy_to(path: UPath, file: int) -> None:
    """Writes all bytes of the remote file ``path`` to the descriptor ``file``. Raises OSError, SourceError."""
    size, _ = state(path)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if size > free:
        hint = "make room there, or set TMPDIR to a folder on a larger disk"
        raise SourceError(f"its copy needs {size} bytes, {free} are free", str(path), hint, "no_space")
    for start in range(0, size, _PART_BYTES):
        data = read_range(path, start, min(size, start + _PART_BYTES))
        while data:
            data = data[os.write(file, data) :]


class _Copies:
    """Copies of remote files in unnamed local ones, which the kernel removes when this process ends, however it ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, int, int | str], int] = OrderedDict()

    def path(self, path: UPath) -> Path:
        size, mark = state(path)
        key = (str(path), size, mark)
        with self._lock:
            if key not in self._files:
                while self._files and sum(size for _, size, _ in self._files) + size > KEPT_BYTES:
                    os.close(self._files.popitem(last=False)[1])
                with tempfile.TemporaryFile(prefix="wamloom-") as file:
                    copy_to(path, file.fileno())
                    self._files[key] = os.dup(file.fileno())
            self._files.move_to_end(key)
            return Path(f"/proc/{os.getpid()}/fd/{self._files[key]}")


_copies = _Copies()


def local_file(path: Path | UPath) -> Path:
    """``path`` itself where it is local, else a copy of the whole file, kept while ``KEPT_BYTES`` last, the latest longest.

    For what libraries cannot read by ranges and many episodes share. The copy holds at least until the next call; it may be
    opened by other processes of this user while this one lives. Raises OSError, SourceError.
    """
    return path if isinstance(path, Path) else _copies.path(path)


def refusal(path: Path | UPath) -> SourceError | None:
    """Why nothing is seen at ``path``, where a web server refused to say; else None."""
    return None if isinstance(path, Path) else _system(path).refusal(path.path)


def forget() -> None:
    """Drops what is remembered of remote listings, so that the next look is a fresh one."""
    forget_all()


def _system(path: UPath) -> Remote:
    system = path.fs
    if not isinstance(system, Remote):
        raise TypeError(f"{path!r} was not made by place()")
    return system
