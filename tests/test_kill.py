"""``kill -9`` at random moments, then the same commands: the lake and the release are as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.wreck import VERBS, Chain, answer_of, differences, moments, small_recordings, until

SEED = 20
KILLS = {"ingest": 6, "encode": 5, "build": 6}
"""In this process; three more under Ray make twenty."""
_ROOT = Path(__file__).parent.parent


def family(process: psutil.Process) -> list[psutil.Process]:
    """The process and all that came from it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [process]


def alive(processes: list[psutil.Process]) -> list[str]:
    told = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                told.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        except psutil.NoSuchProcess:
            continue
    return told


def workers_of(tree: list[psutil.Process]) -> list[str]:
    """Those alive that are not Ray's own agents."""
    return [told for told in alive(tree) if "DashboardAgent" not in told and "RuntimeEnvAgent" not in told]


@contextmanager
def started(arguments: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """``wamloom`` as a process of its own, leader of its group."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "jobs.cli", *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def finish(chain: Chain, verb: str) -> dict[str, object]:
    with started(chain.command(verb)) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return answer_of(out)


def kill_group(process: "subprocess.Popen[str]") -> None:
    """The whole group at once; nothing that came from it may live on."""
    tree = family(psutil.Process(process.pid))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert until(20, lambda: not alive(tree)), alive(tree)


@dataclass(frozen=True)
class Whole:
    """The undisturbed run, and how long each verb took."""

    chain: Chain
    seconds: dict[str, float]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    root = tmp_path_factory.mktemp("kill")
    chain = Chain(small_recordings(root / "recordings"), root / "whole")
    seconds = {}
    for verb in VERBS:
        begun = time.monotonic()
        finish(chain, verb)
        seconds[verb] = time.monotonic() - begun
    return Whole(chain, seconds)


@pytest.mark.kill
def test_kills_at_random_moments_lose_and_double_nothing(whole: Whole, tmp_path: Path) -> None:
    chain = Chain(whole.chain.recordings, tmp_path / "chain")
    hits = 0
    for verb in VERBS:
        for part in moments(SEED, KILLS[verb]):
            wait = part * whole.seconds[verb]
            with started(chain.command(verb)) as process:
                try:
                    process.wait(timeout=wait)
                    hit = False
                except subprocess.TimeoutExpired:
                    kill_group(process)
                    hit = True
            hits += hit
            print(f"{verb} after {wait:.2f} of {whole.seconds[verb]:.2f} s: {'killed' if hit else 'had finished'}")
        finish(chain, verb)
        assert differences(chain, whole.chain, verb) == []
    print(f"{hits} kills hit, no row lost or doubled, every file of the release equal")
    assert hits >= sum(KILLS.values()) // 2


@pytest.mark.kill
@pytest.mark.ray
def test_kills_under_ray_lose_and_double_nothing(whole: Whole, tmp_path: Path) -> None:
    source = random.Random(SEED)
    chain = Chain(whole.chain.recordings, tmp_path / "chain", "ray")
    for verb, what in (("ingest", "group"), ("encode", "worker"), ("build", "driver")):
        with started(chain.command(verb)) as process:
            driver = psutil.Process(process.pid)

            def workers(driver: psutil.Process = driver) -> list[psutil.Process]:
                return [one for one in family(driver) if any("_PoolWorker" in part for part in one.cmdline()[:1])]

            assert until(120, lambda: workers() or process.poll() is not None)
            time.sleep(source.random())
            tree = family(driver)
            if what == "worker":
                for worker in workers()[:1]:
                    worker.kill()
                _, err = process.communicate(timeout=300)
                assert process.returncode == 0, err  # its units are tried again by another
            elif what == "driver":
                driver.kill()
            else:
                kill_group(process)
        # The cluster ends with its driver; two helpers of Ray's first ask a dead server for a minute, and disturb nobody:
        # that is not waited for.
        assert until(60, lambda tree=tree: not workers_of(tree)), workers_of(tree)
        print(f"{verb} under ray: {what} killed")
        finish(chain, verb)
        assert differences(chain, whole.chain, verb) == []
