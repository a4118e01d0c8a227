"""Executors: the one seam between what a line plans and where it runs. Must not know what a unit means.

A line gives units and a ``WorkerSpec``; an executor gives back one ``UnitResult`` per unit, in whatever order they
finish. ``InlineExecutor`` works in this process; ``jobs.cluster.RayExecutor`` in a pool of Ray actors. Both give equal
results.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, cast

from schemas.errors import UsageError
from schemas.work import FileRecord, Outcome, UnitResult, WorkUnit

ExecutorName = Literal["auto", "ray", "inline"]
MAX_INLINE_UNITS = 4
"""``auto`` starts Ray, which takes seconds, only for more units than this."""


class Worker(Protocol):
    """Turns one unit into one result; made once per process, so that what is dear to open is opened once."""

    def __call__(self, unit: WorkUnit) -> UnitResult:
        """What became of every item of ``unit``. Bad data is an outcome; a WamloomError raised here stops the job."""
        ...

    def close(self) -> None:
        """Gives back what it holds open; called once, at the end."""
        ...

    @staticmethod
    def lost(unit: WorkUnit, reason: str, message: str) -> UnitResult:
        """A result that lists every item of ``unit`` as failed, because its worker died each time it was tried."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Which worker to make, and what one of them needs; small and plain, so that it travels to any process."""

    factory: str
    """``module:Class``, such as ``pipelines.ingest_unit:IngestWorker``."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0
    """Measured peak of one worker, for placing; 0: not known."""

    def worker_class(self) -> type[Worker]:
        """The class that ``factory`` names."""
        module_name, _, class_name = self.factory.partition(":")
        return cast("type[Worker]", getattr(importlib.import_module(module_name), class_name))

    def make(self) -> Worker:
        """A new worker."""
        make: Callable[..., Worker] = self.worker_class()
        return make(**self.kwargs)


class Executor(Protocol):
    """Runs units, each exactly to one result, or raises."""

    name: str

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        """One result per unit as they finish, in any order; ends early, without error, once ``stop()`` is true.

        Yields None from time to time while nothing has finished, so that whoever consumes may look around. Raises what
        a worker raised, and UnitLost where units hang or the executor gave up on them.
        """
        ...


class InlineExecutor:
    """Works through the units in order in this process, for debugging, tests and small jobs."""

    name = "inline"

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        """See ``Executor.run``; a worker that crashes natively takes this process with it."""
        if not units or stop():
            return
        work = worker.make()
        try:
            for unit in units:
                if stop():
                    return
                yield work(unit)
        finally:
            work.close()


def open_executor(name: ExecutorName, num_units: int) -> AbstractContextManager[Executor]:
    """A context that gives the executor and closes it at the end; ``auto`` decides by the number of units.

    Raises UsageError for an unknown name.
    """
    if name == "inline" or (name == "auto" and num_units <= MAX_INLINE_UNITS):
        return nullcontext(InlineExecutor())
    if name in ("ray", "auto"):
        from jobs.cluster import open_ray  # Ray takes a second to import

        return open_ray()
    raise UsageError(f"there is no executor {name!r}", hint="known: auto, inline, ray")


def result_to_json(result: UnitResult) -> str:
    """``result`` as JSON that ``result_from_json`` turns back into an equal value."""
    return json.dumps(asdict(result))


def result_from_json(text: str) -> UnitResult:
    """The inverse of ``result_to_json``."""
    values = json.loads(text)
    return UnitResult(
        unit_id=values["unit_id"],
        outcomes=tuple(Outcome(**{**row, "numbers": _pairs(row["numbers"])}) for row in values["outcomes"]),
        files=tuple(FileRecord(**row) for row in values["files"]),
        numbers=_pairs(values["numbers"]),
        report=values["report"],
    )


def _pairs(rows: Sequence[Sequence[Any]]) -> tuple[tuple[str, float], ...]:
    return tuple((name, value) for name, value in rows)
