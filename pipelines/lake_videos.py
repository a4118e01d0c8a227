"""The videos of a lake that are too large for its table: whole files under ``videos``, named by their content.

A file gets its name before the row that tells of it is committed, and both while no other run changes rows. So a row never
names a file that is not there, and a file without a row is what a run left behind that died between the two.
"""

import contextlib
import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from pipelines.rows import VIDEO_FOLDER, VIDEO_SUFFIXES
from pipelines.storage import files_under, fsync_folder, inside
from schemas.episode import EncodedView, VideoFile
from schemas.errors import LakeError

_MEND = "restore the lake from a copy, or ingest that episode again into a new lake"


def publish(root: Path, staged: Path, file: str) -> None:
    """Gives the durable file ``staged`` its name ``file`` in the lake too; nothing happens where it has that name already."""
    path = inside(root, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.link(staged, path)
    if path.stat().st_size != staged.stat().st_size:  # torn by a disk that lost what it had promised to hold
        path.unlink()
        os.link(staged, path)
    for folder in (path.parent, path.parent.parent, root):
        fsync_folder(folder)


class VideoFolder:
    """The large videos of the lake at ``root``, for reading."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sound: set[tuple[str, int, int, int]] = set()
        """Path, inode, size and time of change of the files whose hash was found right."""

    def file(self, view: EncodedView, where: str) -> VideoFile:
        """The file of ``view``, its path absolute.

        It is read and hashed the first time this process asks for it, and again when it has changed since: reading costs a
        small part of decoding, and every clip of a long episode asks. Raises LakeError where it is missing or damaged.
        """
        if not isinstance(view.data, VideoFile):
            raise TypeError("a view whose video is no file")
        path = inside(self._root, view.data.path)
        where = f"{path} ({where})"
        try:
            with path.open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                mark = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
                if mark not in self._sound:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                    if found != view.sha256:
                        message = f"the video is damaged: sha256 {found[:16]}, expected {view.sha256[:16]}"
                        raise LakeError(message, where, _MEND, "hash_mismatch")
                    self._sound.add(mark)
        except FileNotFoundError as error:
            raise LakeError("the file of the video is missing", where, _MEND, "missing_view") from error
        except OSError as error:
            raise LakeError(f"the video cannot be read: {error.strerror}", where, reason="damaged") from error
        return VideoFile(str(path), status.st_size)

    def strays(self, known: Collection[str]) -> list[Path]:
        """Files under ``videos`` that are none of ``known``."""
        folder = self._root / VIDEO_FOLDER
        if not folder.is_dir():
            return []
        return [path for path in files_under(folder) if path.relative_to(self._root).as_posix() not in known]


def staged_names(folder: Path) -> set[str]:
    """Names of the videos that lie in the units of a run's staging folder."""
    return {path.name for path in folder.glob("*/*") if path.suffix in VIDEO_SUFFIXES.values()}


def sweep(root: Path, names: Iterable[str], known: Collection[str]) -> None:
    """Removes those of the files ``names`` that are none of ``known``."""
    for path in VideoFolder(root).strays(known):
        if path.name in set(names):
            path.unlink()
