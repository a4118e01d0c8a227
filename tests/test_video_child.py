"""The decoding child may crash, hang, bloat, lie or be orphaned: it costs one file, and leaves nothing behind."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.video import VideoTools
from schemas.episode import EncodedView
from schemas.errors import DecodeError, UnitLost
from schemas.recipes import Limits
from tests import clips

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def long_view() -> EncodedView:
    data = clips.encode("h264_long", clips.pictures(150))
    with VideoTools(Limits()) as tools:
        return clips.view_of(tools.inspect(data, "clip"), data)


@pytest.fixture
def tools() -> Iterator[VideoTools]:
    with VideoTools(Limits(seconds_per_1000_frames=20), _least_seconds=3.0) as opened:
        yield opened


def children() -> list[psutil.Process]:
    own = psutil.Process().children()
    return [child for child in own if "pipelines.video_child" in " ".join(child.cmdline())]


def child_of(tools: VideoTools) -> psutil.Process:
    """The child that ``tools`` has just started."""
    before = set(children())
    with pytest.raises(DecodeError):
        tools.inspect(b"", "nothing")
    (child,) = set(children()) - before
    return child


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (signal.SIGSEGV, "decoder_crashed"),
        (signal.SIGABRT, "decoder_crashed"),
        (signal.SIGKILL, "memory_limit"),
        (signal.SIGSTOP, "deadline"),
    ],
)
def test_a_lost_child_costs_one_file(tools: VideoTools, long_view: EncodedView, sent: int, reason: str) -> None:
    child = child_of(tools)
    chunks = tools.decode(long_view, "bad")
    next(chunks)
    os.kill(child.pid, sent)
    with pytest.raises(DecodeError) as caught:
        list(chunks)
    assert (caught.value.reason, caught.value.where) == (reason, "bad")
    assert not child.is_running()
    shown = np.concatenate(list(tools.decode(long_view, "good")))
    assert clips.numbers(shown) == list(range(150))


def test_a_child_that_dies_between_files_costs_none(tools: VideoTools, long_view: EncodedView) -> None:
    child = child_of(tools)
    child.kill()
    child.wait(5)
    assert clips.thumbs(tools, long_view).shape[0] == 150


def test_a_decode_beside_the_one_that_crashed_says_so(tools: VideoTools, long_view: EncodedView) -> None:
    child = child_of(tools)
    first, second = tools.decode(long_view, "first"), tools.decode(long_view, "second")
    next(first)
    next(second)
    child.kill()
    for chunks, where in ((first, "first"), (second, "second")):
        with pytest.raises(DecodeError) as caught:
            next(chunks)
        assert caught.value.where == where


def test_a_command_that_cannot_run_is_told_and_leaves_nothing() -> None:
    before = psutil.Process().num_fds()
    with VideoTools(Limits(), _command=["/no/such/command"]) as tools:
        for use in (tools.start, lambda: tools.inspect(b"", "nothing")):
            with pytest.raises(UnitLost, match="No such file"):
                use()
    assert psutil.Process().num_fds() == before


def test_ctrl_c_does_not_reach_the_child(tools: VideoTools, long_view: EncodedView) -> None:
    child = child_of(tools)
    os.kill(child.pid, signal.SIGINT)
    time.sleep(0.05)
    assert child.is_running()
    assert os.getpgid(child.pid) != os.getpgid(0)
    assert clips.thumbs(tools, long_view).shape[0] == 150


OWNER = """
import os, signal, sys
from pipelines.video import VideoTools
from schemas.errors import DecodeError
from schemas.recipes import Limits
import psutil

tools = VideoTools(Limits())
try:
    tools.inspect(b"", "nothing")
except DecodeError:
    pass
(child,) = psutil.Process().children()
if sys.argv[1] == "stopped":
    os.kill(child.pid, signal.SIGSTOP)
print(child.pid, flush=True)
if sys.argv[1] == "leaves":
    sys.exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["killed", "stopped", "leaves"])
def test_the_child_dies_with_its_owner(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", OWNER, how], cwd=ROOT, capture_output=True, text=True, check=False)
    pid = int(done.stdout)
    ends = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends, "the child outlived its owner"
        time.sleep(0.02)


FAULTY = """
import json, os, socket, struct, sys, time
from pipelines import video_wire

link = socket.socket(fileno=int(sys.argv[2]))
video_wire.send(link, {"kind": "ready"})
video_wire.receive(link)
answer = {
    "nonsense": lambda: link.sendall(struct.pack("<I", 7) + b"not js["),
    "giant": lambda: link.sendall(struct.pack("<I", 2**32 - 1)),
    "empty": lambda: video_wire.send(link, {}),
    "liar": lambda: video_wire.send(link, {"kind": "done", "frames": 2**40, "keys": 0, "facts": {}},
                                    [video_wire.memory_file([b"short"])]),
    "frames": lambda: video_wire.send(link, {"kind": "session", "session": 1, "shapes": [[10**6, 10**6, 3]], "slot": 64},
                                      [video_wire.memory_file([b"short"])]),
    "exits": lambda: sys.exit(3),
}[sys.argv[1]]
answer()
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["nonsense", "giant", "empty", "liar", "frames", "exits"])
def test_a_child_that_was_taken_over_is_not_believed(long_view: EncodedView, how: str) -> None:
    with VideoTools(Limits(), _command=[sys.executable, "-c", FAULTY, how], _least_seconds=3.0) as tools:
        for read in (lambda: tools.inspect(long_view.data, "x"), lambda: list(tools.decode(long_view, "x"))):
            with pytest.raises(DecodeError) as caught:
                read()
            assert caught.value.reason == "decoder_crashed"


def test_a_child_that_cannot_start_is_no_fault_of_the_file() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no decoder here')"]
    with VideoTools(Limits(), _command=command) as tools, pytest.raises(UnitLost, match="no decoder here"):
        tools.inspect(b"", "x")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def test_nothing_is_left_behind(long_view: EncodedView) -> None:
    with VideoTools(Limits()) as tools:
        child = child_of(tools)

        def use() -> None:
            tools.inspect(long_view.data, "x")
            next(tools.decode(long_view, "x"))  # given up after one chunk
            clips.thumbs(tools, long_view)
            tools.decode(long_view, "x")  # never begun
            with pytest.raises(DecodeError):
                list(tools.decode(clips.view_of(tools.inspect(long_view.data, "x"), long_view.data[:3000]), "x"))
            with pytest.raises(DecodeError):
                tools.pack([b"no image"], "x")

        use()
        gc.collect()
        before, memory = (descriptors(os.getpid()), descriptors(child.pid)), child.memory_info().rss
        for _ in range(20):
            use()
        gc.collect()
        assert (descriptors(os.getpid()), descriptors(child.pid)) == before
        assert child.memory_info().rss < memory + (30 << 20)
    assert not child.is_running()
    assert descriptors(os.getpid()) < before[0]


def test_a_child_is_replaced_after_a_few_hundred_files() -> None:
    with VideoTools(Limits()) as tools:
        first = child_of(tools)
        data = clips.encode("h264", clips.pictures(2))
        for _ in range(301):
            tools.inspect(data, "x")
        assert not first.is_running()
        assert tools.inspect(data, "x").num_packets == 2


def test_close_may_be_called_twice_and_use_starts_again(long_view: EncodedView) -> None:
    tools = VideoTools(Limits())
    tools.close()
    assert tools.inspect(long_view.data, "x").num_packets == 150
    chunks = tools.decode(long_view, "x")
    next(chunks)
    tools.close()
    tools.close()
    with pytest.raises(DecodeError):
        next(chunks)
    assert tools.inspect(long_view.data, "x").num_packets == 150
    tools.close()


def test_importing_the_tools_loads_no_native_video_library() -> None:
    code = "import sys, pipelines.video; sys.exit(any(name in sys.modules for name in ('av', 'simplejpeg', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
