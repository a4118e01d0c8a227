"""A run's private folder under the lake's staging, held by a lock while the run lives, gone when it ends."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.ingest import sweep
from pipelines.lake import Lake
from pipelines.storage import exclusive, remove_tree


@contextmanager
def run_staging(lake: Lake) -> Iterator[Path]:
    """An empty folder for this run; what runs that were killed left behind is removed first."""
    name = f"run-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    sweep(lake, name)
    folder = lake.staging / name
    lock = lake.staging / f"{name}.lock"
    with exclusive(lock, "staging"):
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            remove_tree(folder)
            lock.unlink(missing_ok=True)
