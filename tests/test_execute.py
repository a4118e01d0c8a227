"""Inline and Ray give equal results; dying, poisonous and hanging workers end as the contract says."""

import io
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.execute import Executor, InlineExecutor, Worker, WorkerSpec, open_executor, result_from_json, result_to_json
from jobs.progress import Tally, show_progress
from jobs.run import Interrupted, run_units
from schemas.errors import FingerprintMismatch, UnitLost, UsageError
from schemas.work import FileRecord, Outcome, UnitResult, WorkUnit


class _Base:
    def close(self) -> None:
        """Nothing is open."""

    @staticmethod
    def lost(unit: WorkUnit, reason: str, message: str) -> UnitResult:
        return UnitResult(unit.unit_id, tuple(Outcome(key, "failed", reason, message) for key in unit.payload))


@dataclass
class Echo(_Base):
    """Keeps every item, and says what it was made with."""

    suffix: str

    def __call__(self, unit: WorkUnit) -> UnitResult:
        outcomes = tuple(
            Outcome(key, "kept", content_id=key + self.suffix, numbers=(("size", 0.1),)) for key in unit.payload
        )
        files = (FileRecord(f"{unit.unit_id}.bin", 3, "00", 1),)
        return UnitResult(unit.unit_id, outcomes, files, (("frames", float(unit.num_bytes)),), '{"a": [1, 2]}')


@dataclass
class Dies(_Base):
    """Ends its process on units whose first item says so: ``once`` or ``always``."""

    folder: str

    def __call__(self, unit: WorkUnit) -> UnitResult:
        with (Path(self.folder) / unit.unit_id).open("a") as file:
            file.write("x")
        tries = (Path(self.folder) / unit.unit_id).stat().st_size
        if unit.payload[0] == "always" or (unit.payload[0] == "once" and tries == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return UnitResult(unit.unit_id, tuple(Outcome(key, "kept") for key in unit.payload))


class Refuses(_Base):
    """Raises an error that must stop the job."""

    def __call__(self, unit: WorkUnit) -> UnitResult:
        raise FingerprintMismatch("made by another recipe", f"unit {unit.unit_id}", "encode again")


class Hangs(_Base):
    """Never comes back."""

    def __call__(self, unit: WorkUnit) -> UnitResult:
        time.sleep(3600)
        raise AssertionError


class SendsSignal(_Base):
    """Signals its own process during the second unit, as a user would."""

    def __call__(self, unit: WorkUnit) -> UnitResult:
        if unit.payload[0] != "0":
            os.kill(os.getpid(), int(unit.payload[1]))
        return UnitResult(unit.unit_id, (Outcome(unit.payload[0], "kept"),))


def _units(count: int) -> list[WorkUnit]:
    return [WorkUnit(f"unit{i}", (f"item{i}a", f"item{i}b"), i) for i in range(count)]


def _spec(worker: type, **kwargs: object) -> WorkerSpec:
    return WorkerSpec(f"{worker.__module__}:{worker.__name__}", kwargs)


def _run(units: Sequence[WorkUnit], spec: WorkerSpec, executor: Executor) -> dict[str, UnitResult]:
    results: list[UnitResult] = []
    run_units(units, spec, results.append, executor=executor)
    assert len({result.unit_id for result in results}) == len(results)
    return {result.unit_id: result for result in results}


def test_inline_gives_one_result_per_distinct_unit() -> None:
    units = _units(3)
    results = _run([*units, units[0]], _spec(Echo, suffix="!"), InlineExecutor())
    assert list(results) == ["unit0", "unit1", "unit2"]
    assert results["unit2"].outcomes[0].content_id == "item2a!"


@pytest.mark.ray
def test_ray_gives_what_inline_gives(ray_executor: Executor) -> None:
    spec = _spec(Echo, suffix="?")
    assert _run(_units(7), spec, ray_executor) == _run(_units(7), spec, InlineExecutor())


@pytest.mark.ray
def test_killed_worker_is_retried_and_poison_fails_alone(ray_executor: Executor, tmp_path: Path) -> None:
    from jobs.cluster import MAX_ATTEMPTS, MAX_STARTS

    units = [WorkUnit(f"unit{i}", (word, f"second{i}")) for i, word in enumerate(["fine", "once", "always"])]
    results = _run(units, _spec(Dies, folder=str(tmp_path)), ray_executor)
    kinds = {unit.payload[0]: {o.kind for o in results[unit.unit_id].outcomes} for unit in units}
    assert kinds == {"fine": {"kept"}, "once": {"kept"}, "always": {"failed"}}
    assert [(o.key, o.reason) for o in results["unit2"].outcomes] == [
        ("always", "worker_died"),
        ("second2", "worker_died"),
    ]
    assert (tmp_path / "unit2").stat().st_size == MAX_ATTEMPTS
    # Where Ray gives up on the whole pool for one dead actor, what was on its way from the others is done again.
    assert 2 <= (tmp_path / "unit1").stat().st_size <= 1 + MAX_STARTS


@pytest.mark.ray
def test_a_pool_that_ray_gives_up_on_is_started_again(ray_executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from jobs.cluster import RayExecutor

    class GivesUp(RayExecutor):
        """Ends as Ray does when an actor is unavailable: with one result, ``times`` times; the other answers are lost."""

        def __init__(self, times: int) -> None:
            super().__init__()
            self.times = times

        def _results(self, *arguments: Any) -> Iterator[UnitResult | None]:
            results = [result for result in super()._results(*arguments) if result is not None]
            if self.times:
                self.times -= 1
                yield results[0]
                unavailable = ray.exceptions.ActorUnavailableError("unavailable", None)
                raise UnitLost("Ray gave up: the actor is unavailable") from unavailable
            yield from results

    expected = _run(_units(4), _spec(Echo, suffix="?"), InlineExecutor())
    assert _run(_units(4), _spec(Echo, suffix="?"), GivesUp(1)) == expected
    monkeypatch.setattr("jobs.cluster.MAX_STARTS", 2)  # each takes seconds, and the last is told by its number alone
    with pytest.raises(UnitLost, match="gave up"):
        _run(_units(6), _spec(Echo, suffix="?"), GivesUp(2))


@pytest.mark.ray
def test_error_of_a_worker_keeps_its_type_and_stops_the_job(ray_executor: Executor) -> None:
    for executor in (InlineExecutor(), ray_executor):
        with pytest.raises(FingerprintMismatch) as caught:
            _run(_units(1), _spec(Refuses), executor)
        assert (caught.value.where, caught.value.hint, caught.value.reason) == (
            "unit unit0",
            "encode again",
            "fingerprint",
        )


@pytest.mark.ray
def test_hanging_unit_is_named_and_ended(ray_executor: Executor) -> None:
    from jobs.cluster import RayExecutor

    with pytest.raises(UnitLost, match=r"no unit finished for \d+ s; in flight: unit\d on node") as caught:
        _run(_units(3), _spec(Hangs), RayExecutor(stall_seconds=1))
    assert caught.value.reason == "stalled"
    assert set(_run(_units(2), _spec(Echo, suffix=""), ray_executor)) == {"unit0", "unit1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_after_the_unit_in_hand(number: signal.Signals) -> None:
    units = [WorkUnit(f"unit{i}", (str(i), int(number))) for i in range(4)]
    results: list[str] = []
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        run_units(units, _spec(SendsSignal), lambda result: results.append(result.unit_id), executor="inline")
    assert results == ["unit0", "unit1"]
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) == before


class _Forgetful:
    """An executor that loses the last unit and repeats the first."""

    name = "forgetful"

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        work: Worker = worker.make()
        yield work(units[0])
        yield None
        for unit in units[:-1]:
            yield work(unit)


def test_unit_without_a_result_stops_the_job_and_a_second_result_counts_once() -> None:
    results: list[str] = []
    with pytest.raises(UnitLost, match="1 of 3 units gave no result, such as unit2"):
        run_units(_units(3), _spec(Echo, suffix=""), lambda r: results.append(r.unit_id), executor=_Forgetful())
    assert results == ["unit0", "unit1"]


def test_result_is_equal_after_json_and_holds_no_arrays() -> None:
    outcome = Outcome("ü", "failed", "reason", "message", "where", "hint", "content", (("n", 0.1),))
    result = UnitResult("id", (outcome,), (FileRecord("a", 1, "00", 2),), (("x", 1e300),), "{}")
    assert result_from_json(result_to_json(result)) == result
    with pytest.raises(TypeError):
        result_to_json(UnitResult("id", (), report=np.zeros(3)))  # type: ignore[arg-type]


def test_auto_is_inline_for_few_units() -> None:
    with open_executor("auto", 2) as executor:
        assert executor.name == "inline"
    with pytest.raises(UsageError, match="no executor 'dask'"):
        open_executor("dask", 2)  # type: ignore[arg-type]


def test_progress_line_says_done_items_rate_and_time_left() -> None:
    tally = Tally(4, now=100.0)
    tally.add(UnitResult("a", (Outcome("x", "kept"), Outcome("y", "rejected"), Outcome("z", "kept"))))
    assert tally.line("ingest", 102.0) == "ingest: 1/4 units, 2 kept, 1 rejected, 1.5 items/s, 6 s left"
    stream = io.StringIO()
    with show_progress("ingest", 4, stream) as view:
        view.update(replace(UnitResult("a", ())))
    assert stream.getvalue() == ""
