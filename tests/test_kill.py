"""``kill -9`` at random moments, then the same commands: the lake and the release are as if nothing had happened."""

import os
import random
import shutil
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

from tests.nursery import Fault, Nursery, alive, family
from tests.wreck import VERBS, Chain, differences, moments, small_recordings, until

SEED = 20
KILLS = {"ingest": 6, "encode": 5, "build": 6}
"""In forks, by the clock; three more under Ray make twenty."""
_ROOT = Path(__file__).parent.parent


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
def whole(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Whole:
    root = tmp_path_factory.mktemp("kill")
    chain = Chain(small_recordings(root / "recordings"), root / "whole")
    seconds = {}
    for verb in VERBS:
        begun = time.monotonic()
        nursery.finish(chain.command(verb))
        seconds[verb] = time.monotonic() - begun
    return Whole(chain, seconds)


@pytest.mark.kill
def test_kills_at_random_moments_lose_and_double_nothing(whole: Whole, nursery: Nursery, tmp_path: Path) -> None:
    chain = Chain(whole.chain.recordings, tmp_path / "chain")
    for verb in VERBS:
        before = chain.copy(tmp_path / f"before_{verb}")
        for part in moments(SEED, KILLS[verb]):
            wait_ms = int(1000 * part * whole.seconds[verb])
            while (ended := nursery.run(chain.command(verb), Fault(str(chain.root), wait_ms, "time"))).code == 0:
                # Faster than it was, or little was left to do: once more from the beginning, and sooner.
                assert differences(chain, whole.chain, verb) == []
                shutil.rmtree(chain.root)
                before.copy(chain.root)
                wait_ms //= 2
            assert ended.code == -signal.SIGKILL, ended.err
            assert ended.left == [], "nothing that came from it may live on"
            print(f"{verb} killed after {wait_ms} ms of {1000 * whole.seconds[verb]:.0f}")
        nursery.finish(chain.command(verb))
        assert differences(chain, whole.chain, verb) == []


@pytest.mark.kill
@pytest.mark.ray
def test_kills_under_ray_lose_and_double_nothing(whole: Whole, nursery: Nursery, tmp_path: Path) -> None:
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
        # Without Ray, whose start is most of such a command: what was broken off lies in the lake and the release, and
        # that a cluster starts after one that was killed is what the next verb shows.
        nursery.finish(Chain(chain.recordings, chain.root).command(verb))
        assert differences(chain, whole.chain, verb) == []
