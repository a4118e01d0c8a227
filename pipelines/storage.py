"""Files: durable writes and hashes on a local disk, and paths that stay under their root wherever that is."""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from upath import UPath

from pipelines import places
from schemas.errors import LakeError, SourceError, WamloomError
from schemas.work import FileRecord

MAX_PATH_CHARS = 1024
MAX_NAME_BYTES = 255
_AGAIN = "then run the same command again: what had finished is kept"
_PLACE_ERRORS = {
    errno.ENOSPC: ("no_space", f"make room on that disk, {_AGAIN}"),
    errno.EDQUOT: ("no_space", f"the quota is used up; make room, {_AGAIN}"),
    errno.EFBIG: ("file_too_large", f"raise the limit on file sizes (ulimit -f), {_AGAIN}"),
    errno.EROFS: ("read_only", "name a folder on a disk that can be written"),
    errno.EACCES: ("no_rights", f"give this user the rights to it, {_AGAIN}"),
    errno.EPERM: ("no_rights", f"give this user the rights to it, {_AGAIN}"),
    errno.EIO: ("disk_error", f"the disk or its connection fails; mend it, {_AGAIN}"),
    errno.ENAMETOOLONG: ("bad_path", "name a shorter path"),
    errno.ENOTDIR: ("bad_path", "a part of this path is a file; name another one"),
    errno.EISDIR: ("bad_path", "this is a folder; name a file"),
    errno.EEXIST: ("bad_path", "something else lies there; name another path"),
    errno.ELOOP: ("bad_path", "its links lead back to themselves; name another path"),
    errno.ENOENT: ("bad_path", f"it is not there, or cannot be made there; check the path, {_AGAIN}"),
}
"""What a disk says that is no defect of ours: reason and hint."""


def inside[AnyPath: (Path, UPath)](root: AnyPath, relative: str) -> AnyPath:
    """``root / relative`` with links resolved, which must lie under ``root``; raises SourceError otherwise.

    Refuses absolute paths, ``..``, drives, URLs, control characters, halves of characters and names longer than a file can
    have: a path that comes from data never escapes, and never names another host.
    """
    hint = "the recording names a file outside its own folder; it is damaged or hostile"
    bad = (
        len(relative) > MAX_PATH_CHARS
        or relative.startswith(("/", "\\", "~"))
        or "://" in relative
        or "\\" in relative
        or any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in relative)
        or (len(relative) > 1 and relative[1] == ":")
        or any(part == ".." or len(part.encode(errors="replace")) > MAX_NAME_BYTES for part in relative.split("/"))
    )
    if bad:
        raise SourceError(
            f"the path {relative[:200]!r} leaves its root, or is none that is read", str(root), hint, "path_escape"
        )
    if not isinstance(root, Path):
        return places.below(root, relative)
    base = root.resolve()
    try:
        path = (base / relative).resolve()
    except (RuntimeError, OSError) as error:  # links that lead to themselves
        raise SourceError(
            f"the path {relative!r} leads nowhere: {error}"[:500], str(base), hint, "path_escape"
        ) from error
    if not path.is_relative_to(base):
        raise SourceError(f"the path {relative!r} leads out of its root by a link", str(base), hint, "path_escape")
    return path


def file_sha256(path: Path) -> str:
    """64 hex digits of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_record(path: Path, root: Path, num_rows: int = 0) -> FileRecord:
    """Size and hash of ``path``, named relative to ``root``."""
    return FileRecord(path.relative_to(root).as_posix(), path.stat().st_size, file_sha256(path), num_rows)


def fsync_file(path: Path) -> None:
    """Makes the content of ``path`` survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Makes the names in ``path`` survive a power loss."""
    fsync_file(path)


def disk_error(error: OSError, place: Path | None = None) -> WamloomError | None:
    """``error`` as one a user can act on, if it says that the disk is full, read-only, failing or not ours; else None.

    ``place`` is what was being written, for errors that do not name a file themselves.
    """
    known = _PLACE_ERRORS.get(error.errno or 0)
    if known is None:
        return None
    reason, hint = known
    named = error.filename if isinstance(error.filename, str | os.PathLike) else place
    return WamloomError(os.strerror(error.errno or 0), "" if named is None else os.fspath(named), hint, reason)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Raises what a full, read-only or failing disk answers as a WamloomError that names the file, or else ``place``."""
    try:
        yield
    except OSError as error:
        told = disk_error(error, place)
        if told is None:
            raise
        raise told from error


def _partial(path: Path, data: bytes) -> Path:
    """``data``, durable, beside ``path`` under a name that nobody reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return partial


def json_bytes(value: Any) -> bytes:
    """A JSON file for people and programs: equal values give equal bytes."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_durably(path: Path, data: bytes) -> None:
    """``data`` under ``path``, whole or not at all, replacing what was there; fsynced with its folder."""
    partial = _partial(path, data)
    partial.replace(path)
    fsync_folder(path.parent)


def publish_once(path: Path, data: bytes) -> bool:
    """``data`` under ``path`` if nothing is there yet, in one atomic act; False if somebody was first."""
    partial = _partial(path, data)
    try:
        os.link(partial, path)  # unlike rename, link never overwrites
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    fsync_folder(path.parent)
    return True


@contextlib.contextmanager
def exclusive(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Holds a lock file for one writer at a time; the kernel frees it when its holder dies.

    Where it is taken, raises LakeError with reason ``busy``, or waits until it is free.
    """
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LakeError(
                f"another run is writing {what}",
                str(path),
                "wait for it to end; it frees the lock even when it is killed",
                "busy",
            ) from error
        yield


def files_under(folder: Path) -> list[Path]:
    """Every regular file under ``folder``, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def remove_tree(folder: Path) -> None:
    """Deletes ``folder`` and everything in it, if it exists."""
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def state_of(root: Path | UPath, relatives: Iterable[str]) -> list[tuple[str, int, int | str]]:
    """(relative name, size, what changes with the content) of each file, sorted; a missing file has size -1.

    The last is the modification time in ns of a local file, and what the store says of a remote one (``places.state``).
    """
    facts: list[tuple[str, int, int | str]] = []
    for name in sorted(set(relatives)):
        try:
            size, mark = places.state_below(root, name)
        except OSError:
            size, mark = -1, 0
        facts.append((name, size, mark))
    return facts
