"""A release on disk: a private working folder, one durable record per finished unit, and one atomic act that publishes.

While a build runs, everything lies in ``<release>.staging``. When every unit has its record, the index files and the
manifest are written there, and the folder is renamed to its name at once: a release is there whole or not at all.
"""

import contextlib
import errno
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage import (
    exclusive,
    file_record,
    file_sha256,
    files_under,
    fsync_file,
    fsync_folder,
    inside,
    publish_once,
    remove_tree,
    write_durably,
)
from schemas.errors import AlreadyPublished, LakeError, ReleaseError, ReleaseMismatch, SourceError
from schemas.fingerprint import bytes_sha256
from schemas.work import FileRecord

MANIFEST = "manifest.json"
LINEAGE = "lineage"
"""Folder of a release with one Parquet file per unit: the walk from every step back to source row and frames."""
STATISTICS = "stats"
"""Folder of a release where the statistics of each group lie."""
_PLAN = "plan.json"
_SEAL = "manifest_sha256"
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
"""What a rename answers where something lies at the new name."""


def is_release(folder: str | Path) -> bool:
    """Whether ``folder`` has the manifest that makes it a release."""
    return (Path(folder) / MANIFEST).is_file()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest. Raises ReleaseError where there is none, or where it is damaged."""
    path = Path(folder) / MANIFEST
    if not path.is_file() and any(Path(folder).glob("*.lance")):
        hint = "restore the missing table from a copy; if the very first ingest was cut short, run that again"
        raise LakeError("this is a lake of which a table is missing", str(folder), hint, "torn_table")
    if not path.is_file():
        hint = (
            "a build that did not finish leaves no release; run it again" if Path(folder).exists() else "check the path"
        )
        raise ReleaseError("there is no release here: no manifest.json", str(folder), hint, "no_release")
    data = path.read_bytes()
    try:
        manifest = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(f"the manifest is damaged: {error}", str(path), "build it again", "damaged") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != "wamloom release" or "files" not in manifest:
        raise ReleaseError(
            "this manifest.json is not wamloom's", str(path), "name a folder made by `wamloom build`", "damaged"
        )
    if data != manifest_bytes(manifest) or manifest.pop(_SEAL, "") != _seal(manifest):
        raise ReleaseError(
            "the manifest is not as it was written: its hash is another", str(path), "build it again", "damaged"
        )
    return manifest


def _seal(manifest: Mapping[str, Any]) -> str:
    """What the manifest says of itself, so that a flipped bit in it is noticed as in every other file."""
    return bytes_sha256(manifest_bytes(manifest))


class Staging:
    """The working folder of one build; survives kills, and is taken up again by the same build."""

    def __init__(self, release: Path, build_fingerprint: str) -> None:
        """Use ``open_staging``."""
        self.release = release
        self.root = release.with_name(release.name + ".staging")
        self.lock = release.with_name(release.name + ".staging.lock")
        self.files = self.root / "files"
        self._fingerprint = build_fingerprint

    def _begin(self) -> None:
        plan = self.root / _PLAN
        text = json.dumps({"build": self._fingerprint}).encode()
        if not plan.is_file() or plan.read_bytes() != text:
            remove_tree(self.root)  # another recipe's unfinished work; nobody else holds the lock
            self.root.mkdir(parents=True)
            write_durably(plan, text)
        remove_tree(self.root / "units")
        self.files.mkdir(exist_ok=True)

    def finished(self, unit_id: str) -> dict[str, Any] | None:
        """The record of a unit whose files are all there and whole, or None."""
        path = _record(self.root, unit_id)
        if not path.is_file():
            return None
        record: dict[str, Any] = json.loads(path.read_bytes())
        for entry in record["files"]:
            file = self.files / entry["path"]
            if not file.is_file() or file.stat().st_size != entry["num_bytes"] or file_sha256(file) != entry["sha256"]:
                return None
        return record

    def publish(self, manifest: Mapping[str, Any], indexes: Sequence[FileRecord]) -> None:
        """Writes the manifest and gives the release its name. Raises ReleaseMismatch if something came to lie there."""
        for record in indexes:
            fsync_file(self.files / record.path)
        for folder in sorted({path.parent for path in files_under(self.files)}):
            fsync_folder(folder)
        write_durably(self.files / MANIFEST, manifest_bytes({**manifest, _SEAL: _seal(manifest)}))
        try:
            self.files.rename(self.release)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            raise ReleaseMismatch(
                f"something came to lie at the release's place: {error}", str(self.release), "give --out another folder"
            ) from error
        fsync_folder(self.release.parent)
        remove_tree(self.root)


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The manifest's one text: sorted keys, readable."""
    return (json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


@contextmanager
def open_staging(release: Path, build_fingerprint: str, known_as: str = "") -> Iterator[Staging]:
    """The working folder of a build, held by this process alone. ``known_as`` is what it is taken up again by, where that is not
    the fingerprint of the release.

    Raises AlreadyPublished where this very release is there, ReleaseMismatch where another one or other things are.
    """
    staging = Staging(release, known_as or build_fingerprint)
    try:
        check_target(release, build_fingerprint)
    except AlreadyPublished:
        if staging.root.exists() or staging.lock.exists():
            # of a run that was killed after the release had its name, unless one is just now clearing away
            with contextlib.suppress(LakeError), _held(staging):
                remove_tree(staging.root)
        raise
    with _held(staging):
        check_target(release, build_fingerprint)
        staging._begin()
        yield staging


@contextmanager
def _held(staging: Staging) -> Iterator[None]:
    """Holds the lock of a working folder, which goes with the folder."""
    with exclusive(staging.lock, f"the release {staging.release.name}"):
        try:
            yield
        finally:
            if not staging.root.exists():
                staging.lock.unlink(missing_ok=True)


def check_target(release: Path, build_fingerprint: str) -> None:
    """Raises AlreadyPublished or ReleaseMismatch unless ``release`` is absent or an empty folder."""
    if release.is_dir() and is_release(release):
        if read_manifest(release)["build"] == build_fingerprint:
            raise AlreadyPublished("this release is finished: same recipe, same lake", str(release))
        raise ReleaseMismatch(
            "another release lies here (other recipe, lake or version of wamloom)",
            str(release),
            "give --out a new folder",
        )
    if release.exists() and (not release.is_dir() or any(release.iterdir())):
        raise ReleaseMismatch("the place is not empty", str(release), "give --out a new folder")


def forget_unit(staging_root: Path, unit_id: str) -> None:
    """Lets a unit be written again."""
    _record(staging_root, unit_id).unlink(missing_ok=True)


def _record(staging_root: Path, unit_id: str) -> Path:
    return staging_root / "records" / f"{unit_id}.json"


class UnitFolder:
    """A worker's private corner of the staging folder, emptied before it starts."""

    def __init__(self, staging_root: Path, unit_id: str, attempt: str) -> None:
        """``attempt`` keeps two attempts at one unit apart."""
        self._root = staging_root
        self._unit_id = unit_id
        self.folder = staging_root / "units" / f"{unit_id}.{attempt}"
        remove_tree(self.folder)
        self.folder.mkdir(parents=True)

    def finish(self, facts: Mapping[str, Any], misfits: Iterable[tuple[str, str]] = ()) -> tuple[FileRecord, ...]:
        """Moves the files to their final names and leaves the durable record of the unit, in this order: ``facts`` by format,
        and of each view why it was not copied as it is ("": it was).

        A unit that another attempt finished already gives the same names and bytes, so that neither is harmed.
        """
        records = tuple(file_record(path, self.folder) for path in files_under(self.folder))
        final = self._root / "files"
        for record in records:
            fsync_file(self.folder / record.path)
            target = final / record.path
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.folder / record.path).replace(target)
        for parent in sorted({(final / record.path).parent for record in records}):
            fsync_folder(parent)
        record_path = _record(self._root, self._unit_id)
        files = [asdict(record) for record in records]
        body = {"unit_id": self._unit_id, "files": files, "facts": facts, "misfits": sorted(set(misfits))}
        text = (json.dumps(body, sort_keys=True) + "\n").encode()
        if not publish_once(record_path, text) and record_path.read_bytes() != text:
            # a record whose files were damaged since: this attempt has just replaced them
            write_durably(record_path, text)
        remove_tree(self.folder)
        return records


def lineage_of(folder: Path, group: str) -> pa.Table:
    """The lineage of every step of a group, in index order."""
    files = sorted(inside(folder, f"{LINEAGE}/{group}").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file, page_checksum_verification=True) for file in files])


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of every file that is missing, changed or not in the manifest."""
    expected = {entry["path"]: entry for entry in manifest["files"]}
    for name, entry in sorted(expected.items()):
        try:
            path = inside(folder, name)
        except SourceError as error:
            yield name, f"is not there: {error.message}"
            continue
        if not path.is_file():
            yield name, "is missing"
        elif path.stat().st_size != entry["num_bytes"]:
            yield name, f"has {path.stat().st_size} bytes, the manifest says {entry['num_bytes']}"
        elif (found := file_sha256(path)) != entry["sha256"]:
            yield name, f"has sha256 {found[:16]}, the manifest says {entry['sha256'][:16]}"
    for path in sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in expected and name != MANIFEST:
            yield name, "is not in the manifest"
