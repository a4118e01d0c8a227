"""Ray: where units run in many processes or on many machines. The only place that imports Ray.

What Ray Data is told, and why: one unit is one block and one batch, so that one small row goes in and one comes out;
retries are finite and ``max_errored_blocks`` is 0, since its defaults retry a crash for ever and thin the data; one task
at a time per actor, so that a unit never pays for its neighbour's crash. Which units are being tried, and how often, is
kept by a small actor of our own: a unit whose worker died three times becomes a failed outcome instead of a retry.
"""

import atexit
import functools
import importlib
import json
import logging
import os
import queue
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported, as are those below
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
if "RAY_ADDRESS" not in os.environ:
    # Without this, Ray replaces 127.0.0.1 by the machine's address and listens on all of its interfaces.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import numpy as np
import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import schemas.errors
from jobs.execute import Executor, Worker, WorkerSpec, result_from_json, result_to_json
from jobs.run import Interrupted
from schemas.errors import UnitLost, UsageError, WamloomError
from schemas.work import UnitResult, WorkUnit

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Tries of one unit that may end without a result."""
MAX_STARTS = 4
"""Of one pool: Ray may give up on all of it because one actor died at a bad moment. Attempts at units count on."""
STALL_SECONDS = 1800.0
"""A job in which no unit finishes for this long is ended."""
START_SECONDS = 600.0
"""Longer than ``STALL_SECONDS`` only in tests: time for a cluster to bring up its first worker."""
END_SECONDS = 30.0
POLL_SECONDS = 0.2
OBJECT_STORE_BYTES = 256 * 1024**2
"""Rows are small; pixels never go through the object store."""
_PACKAGES = ("schemas", "validation", "pipelines", "jobs")


class _Attempts:
    """Runs as an actor beside the driver: which units are being tried, and how often each was tried without a result."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._in_flight: dict[str, tuple[str, float, Any]] = {}
        self._closed = False

    def begin(self, unit_id: str, place: str, actor: Any) -> int:
        """How often the unit has now been tried; 0 where the job is over and nothing must be tried any more."""
        if self._closed:
            return 0
        self._counts[unit_id] = self._counts.get(unit_id, 0) + 1
        self._in_flight[unit_id] = (place, time.monotonic(), actor)
        return self._counts[unit_id]

    def end(self, unit_id: str) -> None:
        """The unit gave a result."""
        self._counts.pop(unit_id, None)
        self._in_flight.pop(unit_id, None)

    def in_flight(self) -> list[tuple[str, str, float]]:
        """(unit, where, seconds) of every unit being tried, longest first."""
        now = time.monotonic()
        rows = [(unit_id, place, now - start) for unit_id, (place, start, _) in self._in_flight.items()]
        return sorted(rows, key=lambda row: -row[2])

    def close(self) -> list[Any]:
        """Lets nothing begin any more; the actors that are still at work."""
        self._closed = True
        return [actor for _, _, actor in self._in_flight.values()]


class _PoolWorker:
    """Runs in each actor of the pool: makes the line's worker once, and gives it one unit at a time."""

    def __init__(self, spec: WorkerSpec, units: Sequence[Any], attempts: Any) -> None:
        self._spec = spec
        self._units = units
        self._attempts = attempts
        self._worker: Worker | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        unit: WorkUnit = ray.get(self._units[int(batch["index"][0])])
        context = ray.get_runtime_context()
        place = f"node {context.get_node_id()[:8]} pid {os.getpid()}"
        attempt = ray.get(self._attempts.begin.remote(unit.unit_id, place, context.current_actor))
        if attempt == 0:
            return {"answer": [""]}
        try:
            answer = result_to_json(self._result(unit, attempt))
        except WamloomError as error:  # as a value: Ray would wrap it in a type of its own
            answer = _error_to_json(error)
        ray.get(self._attempts.end.remote(unit.unit_id))
        return {"answer": [answer]}

    def _result(self, unit: WorkUnit, attempt: int) -> UnitResult:
        if attempt > MAX_ATTEMPTS:
            message = f"the worker died {MAX_ATTEMPTS} times on this unit"
            return self._spec.worker_class().lost(unit, "worker_died", message)
        if self._worker is None:
            self._worker = self._spec.make()
            atexit.register(self._worker.close)
        return self._worker(unit)


class RayExecutor:
    """Runs units in a pool of Ray actors, on the cluster this process is connected to."""

    name = "ray"

    def __init__(self, stall_seconds: float = STALL_SECONDS) -> None:
        self._stall_seconds = stall_seconds

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        """See ``Executor.run``. A unit whose worker died three times gives ``worker.lost(unit)``."""
        if not units or stop():
            return
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        attempts = ray.remote(_Attempts).options(num_cpus=0, scheduling_strategy=here).remote()
        left = {unit.unit_id: unit for unit in units}
        for start in range(1, MAX_STARTS + 1):
            answers: queue.SimpleQueue[str] = queue.SimpleQueue()
            rows = _rows(list(left.values()), worker, attempts)
            feeding = _in_thread(functools.partial(_feed, rows, answers))
            try:
                for result in self._results(feeding, answers, attempts, stop):
                    if result is not None:
                        left.pop(result.unit_id, None)
                    yield result
            except UnitLost as error:
                if not left:
                    return
                if start == MAX_STARTS or not isinstance(error.__cause__, ray.exceptions.RayError):
                    raise
                _log.warning("%s; starting again with %d units", error.message, len(left))
            else:
                return
            finally:
                if not feeding.done():
                    _end(feeding, attempts)

    def _results(
        self, feeding: "Future[None]", answers: "queue.SimpleQueue[str]", attempts: Any, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        last = time.monotonic()
        while not stop():
            ended = feeding.done()  # asked before the queue is: what came before the end is in the queue by then
            try:
                answer = answers.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if ended:
                    self._finish(feeding, attempts)
                    return
                self._raise_if_stalled(time.monotonic() - last, attempts)
                yield None
                continue
            last = time.monotonic()
            yield _answer_from_json(answer)
        while not answers.empty():
            yield _answer_from_json(answers.get())

    def _raise_if_stalled(self, idle_seconds: float, attempts: Any) -> None:
        if idle_seconds <= self._stall_seconds:
            return
        started = bool(ray.get(attempts.in_flight.remote()))
        if started or idle_seconds > max(self._stall_seconds, START_SECONDS):
            raise UnitLost(
                f"no unit finished for {idle_seconds:.0f} s; {_in_flight(attempts)}",
                hint="run the same command again: finished units are not repeated",
                reason="stalled",
            )

    def _finish(self, feeding: "Future[None]", attempts: Any) -> None:
        try:
            feeding.result()
        except ray.exceptions.RayTaskError:
            raise  # a defect in our own code: its traceback is what helps
        except ray.exceptions.RayError as error:
            raise UnitLost(
                f"Ray gave up: {str(error).strip().splitlines()[0]}; {_in_flight(attempts)}",
                hint="run the same command again: finished units are not repeated",
            ) from error


@contextmanager
def open_ray(stall_seconds: float = STALL_SECONDS) -> Iterator[Executor]:
    """An executor on the cluster of ``RAY_ADDRESS`` (or the one already joined), else on one of this machine's own.

    A cluster started here listens on loopback only, has no dashboard, and ends with the context.
    """
    started = not ray.is_initialized()
    if started:
        # Lance warns at every fork; Ray's own are followed by exec at once.
        warnings.filterwarnings("ignore", message="lance is not fork-safe")
        address = os.environ.get("RAY_ADDRESS")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        with _keeping_sigterm():
            if address:
                folders = [str(Path(importlib.import_module(name).__path__[0])) for name in _PACKAGES]
                ray.init(address=address, runtime_env={"py_modules": folders}, **quiet)
            else:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    object_store_memory=OBJECT_STORE_BYTES,
                    **quiet,
                )
    try:
        yield RayExecutor(stall_seconds)
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Leaves SIGTERM to the job: ``ray.init`` gives it a handler of its own, which ends the process with status 15."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:
            raise Interrupted(signal.SIGTERM) from ended
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _error_to_json(error: WamloomError) -> str:
    return json.dumps({"error": type(error).__name__, "facts": list(error.args)})


def _answer_from_json(text: str) -> UnitResult:
    """The result in ``text``; raises the WamloomError in it, if it holds one."""
    if text.startswith('{"error"'):
        values = json.loads(text)
        kind: type[WamloomError] = getattr(schemas.errors, values["error"])
        raise kind(*values["facts"])
    return result_from_json(text)


def _rows(units: Sequence[WorkUnit], worker: WorkerSpec, attempts: Any) -> ray.data.Dataset:
    """The lazy Ray data set with one row per unit and answer."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    fit = int(total.get("CPU", 0) // worker.num_cpus) if worker.num_cpus else len(units)
    if worker.num_gpus:
        fit = min(fit, int(total.get("GPU", 0) // worker.num_gpus))
    if fit < 1:
        raise UsageError(
            f"a worker needs {worker.num_cpus:g} CPUs and {worker.num_gpus:g} GPUs, and the cluster has "
            f"{total.get('CPU', 0):g} and {total.get('GPU', 0):g}",
            hint="use a larger cluster, or --executor inline",
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{"index": index} for index in range(len(units))]
    # Units wait in the object store one by one, so that an actor fetches only those it works on.
    references = [ray.put(unit) for unit in units]
    # Rows come from memory, without read tasks, so the pool may take every CPU without starving them.
    pool = ray.data.ActorPoolStrategy(size=min(fit, len(units)), max_tasks_in_flight_per_actor=1)
    with warnings.catch_warnings():
        # The named parameters of Ray 2.60 lack the two limits that keep retries finite.
        warnings.simplefilter("ignore", DeprecationWarning)
        return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _PoolWorker,
            batch_size=1,
            batch_format="numpy",
            fn_constructor_args=(worker, references, attempts),
            compute=pool,
            num_cpus=worker.num_cpus,
            num_gpus=worker.num_gpus or None,
            memory=worker.memory_bytes or None,
            # An actor lives through many units: it may die MAX_ATTEMPTS times for each, and no more.
            max_restarts=MAX_ATTEMPTS * len(units),
            max_task_retries=MAX_ATTEMPTS,
        )


def _feed(rows: ray.data.Dataset, answers: "queue.SimpleQueue[str]") -> None:
    for row in rows.iter_rows():
        answers.put(row["answer"])


def _in_thread(work: Callable[[], None]) -> "Future[None]":
    """Runs ``work`` in a thread that does not keep the process alive; its exception, if any, is in the future."""
    pool = ThreadPoolExecutor(max_workers=1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def _in_flight(attempts: Any) -> str:
    try:
        rows = ray.get(attempts.in_flight.remote(), timeout=10)
    except ray.exceptions.RayError:
        return "units in flight unknown"
    if not rows:
        return "no unit had started"
    listed = "; ".join(f"{unit_id} on {place} for {seconds:.0f} s" for unit_id, place, seconds in rows[:5])
    return f"in flight: {listed}"


def _end(feeding: "Future[None]", attempts: Any) -> None:
    """Ends the pool's work: what is running is killed for good, what waits is answered without being tried."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it reports each killed actor as its own failure
    for actor in ray.get(attempts.close.remote()):
        ray.kill(actor)
    wait([feeding], timeout=END_SECONDS)
