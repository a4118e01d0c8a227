"""Runs the units of a line: picks the executor, shows progress, logs one line per unit, and stops cleanly on a signal."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType

from jobs.execute import Executor, ExecutorName, WorkerSpec, open_executor
from jobs.progress import show_progress
from schemas.errors import UnitLost
from schemas.work import UnitResult, WorkUnit

_log = logging.getLogger(__name__)


class Interrupted(BaseException):  # like KeyboardInterrupt, so that no library takes it for an error of its own
    """A signal asked the job to end; what had finished was handed over before this is raised."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signal_number


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How a run went."""

    executor: str
    num_units: int
    seconds: float


@dataclass(slots=True)
class _Stop:
    """What the signal handlers leave for the loop to see, so that no commit is ever cut in the middle."""

    signal_number: int | None = None

    def asked(self) -> bool:
        return self.signal_number is not None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise Interrupted(number)  # asked twice: do not wait for the unit in hand
        self.signal_number = number


@contextmanager
def _signals(stop: _Stop) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_units(
    units: Sequence[WorkUnit],
    worker: WorkerSpec,
    on_result: Callable[[UnitResult], None],
    *,
    executor: ExecutorName | Executor = "auto",
    title: str = "units",
) -> RunFacts:
    """Gives every unit's result to ``on_result``, in the calling thread and in whatever order they finish.

    Equal units (by id) are run once. Raises Interrupted after SIGINT or SIGTERM, once every finished result has been
    handed over; UnitLost where units hang or get no result; and whatever a worker or ``on_result`` raises. A caller that
    commits in batches commits the last one in a ``finally``.
    """
    distinct = list({unit.unit_id: unit for unit in units}.values())
    start = time.monotonic()
    if not distinct:
        return RunFacts(executor if isinstance(executor, str) else executor.name, 0, 0.0)
    opened = open_executor(executor, len(distinct)) if isinstance(executor, str) else nullcontext(executor)
    stop = _Stop()
    missing = {unit.unit_id for unit in distinct}
    with opened as chosen, _signals(stop), show_progress(title, len(distinct)) as progress:
        last = time.monotonic()
        for result in chosen.run(distinct, worker, stop.asked):
            if result is None:
                progress.tick()
                continue
            if result.unit_id not in missing:
                continue  # a retry whose first result also arrived
            missing.remove(result.unit_id)
            on_result(result)
            progress.update(result)
            now = time.monotonic()
            _log_unit(title, result, now - last)
            last = now
        if stop.signal_number is not None and missing:
            raise Interrupted(stop.signal_number)
        name = chosen.name
    if missing:
        listed = ", ".join(sorted(missing)[:3])
        raise UnitLost(
            f"{len(missing)} of {len(distinct)} units gave no result, such as {listed}",
            hint="run the same command again: finished units are not repeated",
        )
    return RunFacts(name, len(distinct), time.monotonic() - start)


def _log_unit(title: str, result: UnitResult, seconds: float) -> None:
    counts: dict[str, int] = {}
    for outcome in result.outcomes:
        counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
    facts = " ".join(f"{kind}={count}" for kind, count in sorted(counts.items()))
    _log.info("%s unit_id=%s seconds_since_last=%.2f %s", title, result.unit_id, seconds, facts)
