"""A run's private folder under the lake's staging, held by a lock while the run lives, gone when it ends."""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.lake import LOCK, Lake
from pipelines.storage import exclusive, remove_tree
from schemas.errors import LakeError


@contextmanager
def run_staging(lake: Lake) -> Iterator[Path]:
    """An empty folder for this run; what runs that were killed left behind is removed first."""
    folder = lake.staging / f"run-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    lock = folder.with_suffix(".lock")
    with ExitStack() as held:
        with lake.alone():  # nobody sweeps away a lock that is there but not yet held
            _sweep(lake.staging)
            held.enter_context(exclusive(lock, "staging"))
        folder.mkdir()
        try:
            yield folder
        finally:
            remove_tree(folder)
            lock.unlink(missing_ok=True)


def _sweep(staging: Path) -> None:
    """Removes the folders and locks of runs that are no more: the kernel has freed their locks."""
    for folder in sorted({path.with_suffix("") for path in staging.iterdir() if path.name != LOCK}):
        lock = folder.with_suffix(".lock")
        try:
            with exclusive(lock, "staging"):
                remove_tree(folder)
                lock.unlink(missing_ok=True)
        except LakeError as error:
            if error.reason != "busy":
                raise
