"""Runs ``wamloom`` commands in forks of a process that has everything imported, and makes them fail where told.

An audit hook sees every file operation that Python makes under a folder, and at the n-th kills the process or lets the
operation fail as a disk would; the code under test is the shipped one, unchanged. What Lance, Arrow and FFmpeg write by
themselves passes by the hook: kills by the clock (test_kill.py) and the limit on file sizes reach those.

A fork has nothing to import, which takes a process longer than the work of one small command: that time is saved, and
every moment of a command is one of its work.
"""

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.wreck import until

_MAKING = frozenset({"os.mkdir", "os.link", "os.symlink"})
_OPERATIONS = _MAKING | {"open", "os.rename", "os.remove", "os.rmdir"}
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True)
class Fault:
    """What goes wrong, at which operation under ``folder`` (from 1; 0: nothing, only count; no folder: nothing at all)."""

    folder: str = ""
    at: int = 0
    how: str = "kill"
    """``kill``; ``full``: from then on nothing new can be made; ``error``: that one operation fails; ``ulimit``: no file
    can grow beyond ``at`` bytes, in native code as well; ``time``: killed with its whole group after ``at`` milliseconds."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code, or minus the signal; operations seen under the folder; what outlived the kill."""

    code: int
    operations: dict[str, int]
    """By how they can go wrong (``kill``, ``full``, ``error``)."""
    out: str
    err: str
    left: Sequence[str] = ()


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


class Nursery:
    """Use the fixture ``nursery``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def run(self, arguments: Sequence[str], fault: Fault) -> Ended:
        """Runs one command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([list(arguments), asdict(fault)]) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def finish(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Runs one command that nothing disturbs; its answer."""
        ended = self.run(arguments, Fault())
        assert ended.code == 0, ended.err
        answer: dict[str, Any] = json.loads(ended.out)
        return answer


@contextlib.contextmanager
def open_nursery() -> Iterator[Nursery]:
    """A process of its own to fork from: Lance's threads, once started, would not survive the fork."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.nursery"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert (
                process.stdout.readline() == "ready\n"
            )  # how long a command takes is of interest, its imports are not
            yield Nursery(process)
        finally:
            process.stdin.close()


class _Hook:
    def __init__(self, fault: Fault, counter: int) -> None:
        self._fault = fault
        self._counter = counter
        self._counts = {"kill": 0, "full": 0, "error": 0}
        self._busy = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _OPERATIONS or self._busy:
            return
        path = self._path(event, args)
        if path is None or not path.startswith(self._fault.folder):
            return
        makes = event in _MAKING or (event == "open" and bool(args[2] & _FOR_WRITING))
        counted = {"kill": True, "full": makes, "error": makes or event != "open"}
        for how, is_one in counted.items():
            self._counts[how] += is_one
        os.pwrite(self._counter, json.dumps(self._counts).encode(), 0)
        count, at = self._counts[self._fault.how], self._fault.at
        reached = counted[self._fault.how] and at and count >= at
        if not reached or (self._fault.how == "error" and count > at):
            return
        if self._fault.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.ENOSPC if self._fault.how == "full" else errno.EIO
        raise OSError(number, os.strerror(number), path)

    def _path(self, event: str, args: tuple[Any, ...]) -> str | None:
        name = args[0]
        if not isinstance(name, str | bytes | os.PathLike):
            return None
        path = os.fsdecode(name)
        if event in ("os.remove", "os.rmdir") and args[1] != -1:  # relative to an open folder, as rmtree does
            path = str(Path(f"/proc/self/fd/{args[1]}").readlink() / path)
        return path


def _forked(arguments: list[str], fault: Fault) -> Ended:
    files = {name: os.memfd_create(name) for name in ("out", "err", "count")}
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(files["out"], 1)
            os.dup2(files["err"], 2)
            code = _child(arguments, fault, files["count"])
            sys.stdout.flush()
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
    status, left = _kill_in_time(child, fault.at / 1000) if fault.how == "time" else (os.waitpid(child, 0)[1], [])
    said = {name: os.pread(fd, 1 << 22, 0) for name, fd in files.items()}
    for fd in files.values():
        os.close(fd)
    return Ended(
        os.waitstatus_to_exitcode(status),
        json.loads(said["count"] or b"{}"),
        said["out"].decode(),
        said["err"].decode(errors="replace"),
        left,
    )


def _kill_in_time(child: int, seconds: float) -> tuple[int, list[str]]:
    """Status of the child, and what still lives of it although its whole group was killed."""
    os.setpgid(child, child)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status, []
        time.sleep(0.002)
    tree = family(psutil.Process(child))
    os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    until(20, lambda: not alive(tree))
    return status, alive(tree)


def _child(arguments: list[str], fault: Fault, counter: int) -> int:
    from jobs.cli import main

    if fault.how == "ulimit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.at, fault.at))
    elif fault.folder and fault.how != "time":
        sys.addaudithook(_Hook(fault, counter))
    return main(arguments)


def _serve() -> None:
    import jobs.build
    import jobs.cli
    import jobs.encode
    import jobs.ingest  # noqa: F401
    from pipelines import registry

    for family in ("sources", "encoders", "formats", "tokenizers"):
        for name in registry.names(family):
            registry.load(family, name)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        arguments, fault = json.loads(line)
        sys.stdout.write(json.dumps(asdict(_forked(arguments, Fault(**fault)))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
