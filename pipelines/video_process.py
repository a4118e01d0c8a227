"""The owner's side of the decoding child: starts it, talks to it against a deadline, ends it whatever state it is in.

The kernel kills the child when its owner is gone (however it went): the child holds the reading end of a pipe nobody
writes to and asks for SIGKILL when the other end closes. That works for a child that hangs in native code, and unlike
PR_SET_PDEATHSIG it follows the process, not the thread that happened to start it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import video_wire
from pipelines.lifeline import OUT_OF_MEMORY
from schemas.episode import VideoFile
from schemas.errors import DecodeError, UnitLost

_START_SECONDS = 120.0
"""Importing av and numpy takes 0.3 s; a machine under load may need much longer."""


@dataclass(slots=True)
class Budget:
    """The time the child may take over one file; only waiting for the child counts."""

    seconds_per_1000_frames: float
    allowed: float
    """Seconds; the least, until the child says how many frames there are."""
    max_frames: int
    used: float = 0.0

    def expect(self, num_frames: int) -> None:
        """Allows for ``num_frames``."""
        self.allowed = max(self.allowed, self.seconds_per_1000_frames * min(num_frames, self.max_frames) / 1000)


class DecodingChild:
    """One running child. After any error raised here, other than one the child itself replied, it is ended.

    It starts in the background; the first request waits for it. Both raise UnitLost where it does not start.
    """

    def __init__(self, memory_mb: int, command: Sequence[str] | None) -> None:
        self.files = 0
        """Requests so far that opened something."""
        self.open_sessions = 0
        self.is_spent = False
        """Whether it has met its memory limit: what it holds on to is then anyone's guess."""
        self._process, self._link, lifeline, self._said = _started(memory_mb, command)
        self._end = weakref.finalize(self, _end, self._process, self._link, lifeline, self._said)
        self._is_ready = False

    def _await_ready(self) -> None:
        """Until it has imported what it needs. Raises UnitLost."""
        try:
            reply, descriptors = video_wire.receive(self._link, time.monotonic() + _START_SECONDS)
            video_wire.close_all(descriptors)
        except (video_wire.Disconnected, video_wire.Nonsense, TimeoutError) as error:
            last_words = video_wire.read_part(self._said, os.fstat(self._said).st_size)[-2000:].decode(errors="replace")
            self.end()
            hint = last_words.strip().splitlines()[-1] if last_words.strip() else "it said nothing"
            raise UnitLost("the decoding child did not start", hint=hint) from error
        except BaseException:  # interrupted half-way: the conversation cannot be taken up again
            self.end()
            raise
        if reply.get("kind") != "ready":
            self.end()
            raise UnitLost("the decoding child did not start", hint=f"it said {str(reply)[:200]}")
        self._is_ready = True

    @property
    def is_alive(self) -> bool:
        """Whether it has neither been ended nor ended by itself."""
        return bool(self._end.alive) and self._process.poll() is None

    def ask(
        self, message: dict[str, Any], descriptors: Sequence[int], budget: Budget, where: str
    ) -> tuple[dict[str, Any], list[int]]:
        """The reply to ``message``, and descriptors that the caller closes.

        Raises DecodeError: what the child says is wrong with the file, or ``deadline``, ``memory_limit``,
        ``decoder_crashed`` where the child is lost.
        """
        if not self._is_ready and self._end.alive:
            self._await_ready()
        request: dict[str, Any] | None = message
        while True:
            begun = time.monotonic()
            reply, received = self._exchange(request, descriptors, budget.allowed - budget.used, where)
            budget.used += time.monotonic() - begun
            if reply.get("kind") != "opened":
                return reply, received
            with self.believed(received, where):
                budget.expect(count_in(reply, "frames"))
            request = None

    def _exchange(
        self, message: dict[str, Any] | None, descriptors: Sequence[int], seconds: float, where: str
    ) -> tuple[dict[str, Any], list[int]]:
        if not self._end.alive:
            raise DecodeError("the decoding child was lost on another video", where, "read it again", "decoder_crashed")
        ends = time.monotonic() + seconds
        try:
            if message is not None:
                self._link.settimeout(max(seconds, 0.001))
                video_wire.send(self._link, message, descriptors)
            reply, received = video_wire.receive(self._link, ends)
        except TimeoutError as error:
            self.end()
            text = f"the decoder gave no answer within its {seconds:.1f} s"
            hint = "raise limits.seconds_per_1000_frames if it only was slow"
            raise DecodeError(text, where, hint, "deadline") from error
        except video_wire.Disconnected as error:
            raise self._lost(where) from error
        except video_wire.Nonsense as error:
            raise self._disbelieved(where) from error
        except BaseException:  # interrupted half-way: the conversation cannot be taken up again
            self.end()
            raise
        if reply.get("kind") == "error":
            video_wire.close_all(received)
            self.is_spent = self.is_spent or reply.get("reason") == "memory_limit"
            raise DecodeError(str(reply.get("message")), where, str(reply.get("hint")), str(reply.get("reason")))
        return reply, received

    @contextlib.contextmanager
    def believed(self, received: Sequence[int], where: str) -> Iterator[None]:
        """For reading a reply: closes ``received``; ends the child and raises DecodeError where it cannot be true."""
        try:
            yield
        except (video_wire.Nonsense, KeyError, IndexError, TypeError, ValueError) as error:
            raise self._disbelieved(where) from error
        finally:
            video_wire.close_all(received)

    def _disbelieved(self, where: str) -> DecodeError:
        self.end()
        return DecodeError("the decoding child answers nonsense", where, "the file may be hostile", "decoder_crashed")

    def _lost(self, where: str) -> DecodeError:
        """Why the child is gone."""
        try:
            status = self._process.wait(5)
        except subprocess.TimeoutExpired:
            status = 0  # it closed the socket but does not end
        self.end()
        hint = "the file is damaged or hostile; the other files are not affected"
        if status in (OUT_OF_MEMORY, -signal.SIGKILL):
            return DecodeError("the decoder ran out of memory", where, "raise limits.decode_memory_mb", "memory_limit")
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return DecodeError(f"the decoder crashed ({name})", where, hint, "decoder_crashed")

    def end(self) -> None:
        """Kills the child and waits for it. Safe to call twice."""
        self._end()


def count_in(reply: dict[str, Any], name: str) -> int:
    """The count ``name`` of a reply. Raises Nonsense."""
    value = reply.get(name)
    if not isinstance(value, int) or value < 0:
        raise video_wire.Nonsense
    return value


def _started(memory_mb: int, command: Sequence[str] | None) -> tuple[subprocess.Popen[bytes], socket.socket, int, int]:
    """The process, the link to it, the lifeline whose end is its end, and the file of its last words. Raises UnitLost."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    program = command or [sys.executable, "-P", "-m", "pipelines.video_child"]
    with contextlib.ExitStack() as given, contextlib.ExitStack() as kept:
        try:
            link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            kept.callback(link.close)
            given.callback(theirs.close)
            lifeline_end, lifeline = os.pipe()
            kept.callback(os.close, lifeline)
            given.callback(os.close, lifeline_end)
            said = video_wire.memory_file()
            kept.callback(os.close, said)
            process = subprocess.Popen(  # noqa: S603 - our own module
                [*program, str(theirs.fileno()), str(lifeline_end), str(memory_mb)],
                pass_fds=[theirs.fileno(), lifeline_end],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "OMP_NUM_THREADS": "1"},
                process_group=0,  # Ctrl-C goes to the whole group: the owner decides, not the terminal
            )
        except OSError as error:
            raise UnitLost("the decoding child did not start", hint=str(error)) from error
        kept.pop_all()
    return process, link, lifeline, said


def _end(process: subprocess.Popen[bytes], link: socket.socket, lifeline: int, said: int) -> None:
    link.close()
    os.close(lifeline)
    os.close(said)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    process.wait()


@contextlib.contextmanager
def files_of(contents: Sequence[bytes | memoryview | VideoFile]) -> Iterator[list[int]]:
    """A file for each of ``contents``, in memory unless it is one already, closed in the end."""
    descriptors: list[int] = []
    try:
        for content in contents:
            if isinstance(content, VideoFile):
                descriptors.append(os.open(content.path, os.O_RDONLY | os.O_CLOEXEC))
            else:
                descriptors.append(video_wire.memory_file([content]))
        yield descriptors
    finally:
        video_wire.close_all(descriptors)


@contextlib.contextmanager
def closing(descriptors: Sequence[int]) -> Iterator[None]:
    """Closes them in the end."""
    try:
        yield
    finally:
        video_wire.close_all(descriptors)
