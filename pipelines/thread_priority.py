"""Undoes what libraries do to the scheduling of this process."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_TASKS = Path("/proc/self/task")


@contextlib.contextmanager
def kept_priority() -> Iterator[None]:
    """Leaves the calling thread, and those that begin meanwhile, scheduled as the calling thread was before.

    SVT-AV1 gives its threads and its caller the highest real-time priority (``SCHED_FIFO`` 99) where it may, as for root in a
    container: then whatever the process starts has it too, and one endless loop keeps everything else off a core for good.
    """
    if not hasattr(os, "sched_getscheduler"):  # only Linux has it, and only there it is done
        yield
        return
    policy, param, before = os.sched_getscheduler(0), os.sched_getparam(0), _threads()
    try:
        yield
    finally:
        for thread in {0, *(_threads() - before)}:
            with contextlib.suppress(ProcessLookupError):  # a thread that has ended
                os.sched_setscheduler(thread, policy, param)


def _threads() -> set[int]:
    return {int(path.name) for path in _TASKS.iterdir()} if _TASKS.is_dir() else set()
