"""A run's private folder under the lake's staging, held by a lock while the run lives, gone when it ends."""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipelines.lake import LOCK, Lake
from pipelines.lake_videos import staged_names
from pipelines.storage import exclusive, remove_tree
from schemas.errors import LakeError


@contextmanager
def run_staging(lake: Lake) -> Iterator[Path]:
    """An empty folder for this run; what runs that were killed left behind is removed first."""
    folder = lake.staging / f"run-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    lock = folder.with_suffix(".lock")
    with ExitStack() as held:
        with lake.alone():  # nobody sweeps away a lock that is there but not yet held
            _sweep(lake)
            held.enter_context(exclusive(lock, "staging"))
        folder.mkdir()
        try:
            yield folder
        finally:
            if left := staged_names(folder):  # of a commit that failed
                with lake.alone():
                    lake.sweep_videos(left)
            remove_tree(folder)
            lock.unlink(missing_ok=True)


def _sweep(lake: Lake) -> None:
    """Removes the folders and locks of runs that are no more (the kernel has freed their locks), and videos without a row."""
    for folder in sorted({path.with_suffix("") for path in lake.staging.iterdir() if path.name != LOCK}):
        lock = folder.with_suffix(".lock")
        try:
            with exclusive(lock, "staging"):
                lake.sweep_videos(staged_names(folder))
                remove_tree(folder)
                lock.unlink(missing_ok=True)
        except LakeError as error:
            if error.reason != "busy":
                raise
