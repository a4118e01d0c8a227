"""The decoding child: all native work on video files, in a process whose death costs one episode.

Runs as ``python -m pipelines.video_child SOCKET LIFELINE MEMORY_MB``; imports only av, numpy, simplejpeg and Pillow. Must
not be imported by the owner's side, which talks to it through ``video_process``.
"""

import contextlib
import math
import mmap
import os
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines import video_wire
from pipelines.lifeline import serve
from pipelines.video_cut import Written, cut, pack
from pipelines.video_demux import Facts, Refusal, glance, refused, scan
from pipelines.video_frames import FramePlan, frames, plan_frames
from pipelines.video_lift import lift

CHUNK_FRAMES = 64
CHUNK_BYTES = 24 << 20
"""Below the 32 MiB up to which glibc reuses freed memory, so that the owner's copies do not fault in fresh pages."""


@dataclass(slots=True)
class _Session:
    """A decode under way: pulled chunk by chunk, so that a long video never lies decoded in memory."""

    frames: Generator[np.ndarray]
    slot: np.ndarray
    """uint8 [n, H, W, 3] or [n, H, W], in several sizes [n, bytes of all], in the memory file the owner reads."""
    input: int
    """Descriptor of the video file."""
    output: "_Output"


@dataclass(slots=True)
class _Output:
    """A memory file that the owner reads frames from. Kept for the next decode: its pages are then there already."""

    descriptor: int
    mapped: mmap.mmap

    @classmethod
    def of_size(cls, num_bytes: int) -> "_Output":
        """A new one."""
        descriptor = video_wire.memory_file()
        os.ftruncate(descriptor, num_bytes)
        return cls(descriptor, mmap.mmap(descriptor, num_bytes))


class Child:
    """Answers requests one at a time; several decodes may be open at once."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._sessions: dict[int, _Session] = {}
        self._next_session = 0
        self._spare: _Output | None = None

    def run(self) -> None:
        """Serves until the owner is gone."""
        actions: dict[str, Callable[[dict[str, Any], list[int]], None]] = {
            "glance": self._glance,
            "inspect": self._inspect,
            "cut": self._cut,
            "pack": self._pack,
            "lift": self._lift,
            "decode": self._decode,
            "next": self._next,
            "stop": self._stop,
        }
        video_wire.send(self._link, {"kind": "ready"})
        while True:
            message, descriptors = video_wire.receive(self._link)
            try:
                with refused():
                    actions[message["do"]](message, descriptors)
            except Refusal as error:
                text = error.message[:4000]
                reply = {"kind": "error", "reason": error.reason, "message": text, "hint": error.hint}
                video_wire.send(self._link, reply)
            finally:
                video_wire.close_all(descriptors)

    def _opened(self, num_frames: int) -> None:
        """Tells the owner how many frames to expect, which sets the deadline."""
        video_wire.send(self._link, {"kind": "opened", "frames": num_frames})

    def _reply_written(self, written: Written, output: int | None) -> None:
        times = video_wire.memory_file([np.ascontiguousarray(written.times_ns, dtype="<i8").data])
        try:
            reply = {
                "kind": "done",
                "frames": len(written.times_ns),
                "first_frame": written.first_frame,
                "packets_xxh3": written.packets_xxh3,
            }
            video_wire.send(self._link, reply, [times] if output is None else [times, output])
        finally:
            os.close(times)

    def _reply_facts(self, facts: Facts) -> None:
        times = np.ascontiguousarray(facts.times_ns, dtype="<i8")
        keys = np.ascontiguousarray(facts.key_frames, dtype="<i8")
        arrays = video_wire.memory_file([times.data, keys.data])
        try:
            reply = {"kind": "done", "frames": len(times), "keys": len(keys), "facts": facts.plain()}
            video_wire.send(self._link, reply, [arrays])
        finally:
            os.close(arrays)

    def _inspect(self, message: dict[str, Any], descriptors: list[int]) -> None:
        facts = scan(descriptors[0], message["limits"], self._opened, hashed=True, written_xxh3=message["written_xxh3"])
        self._reply_facts(facts)

    def _glance(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self._reply_facts(glance(descriptors[0], message["limits"], self._opened))

    def _cut(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self._opened(int(message["num_frames"]))
        with self._output(message, descriptors) as output:
            written = cut(descriptors[0], output, message["start_s"], message["num_frames"], message["limits"])
            self._reply_written(written, None if message["into_file"] else output)

    def _pack(self, message: dict[str, Any], descriptors: list[int]) -> None:
        sizes = np.frombuffer(video_wire.read_part(descriptors[1], 8 * message["count"]), "<i8")
        with self._output(message, descriptors) as output:
            written = pack(descriptors[0], sizes.tolist(), output, message["limits"])
            self._reply_written(written, None if message["into_file"] else output)

    def _lift(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self._opened(int(message["num_frames"]))
        with self._output(message, descriptors) as output:
            written = lift(descriptors[0], output, message["first"], message["num_frames"], message["limits"])
            self._reply_written(written, None if message["into_file"] else output)

    @staticmethod
    @contextlib.contextmanager
    def _output(message: dict[str, Any], descriptors: list[int]) -> Iterator[int]:
        """Where to write: the file the owner gave, else a new one in memory."""
        output = os.dup(descriptors[-1]) if message["into_file"] else video_wire.memory_file()
        try:
            yield output
        finally:
            os.close(output)

    def _decode(self, message: dict[str, Any], descriptors: list[int]) -> None:
        wanted: np.ndarray | None = None
        if message["num_ids"] is not None:
            wanted = np.frombuffer(video_wire.read_part(descriptors[1], 8 * message["num_ids"]), "<i8")
        source = os.dup(descriptors[0])
        try:
            plan = plan_frames(source, message, wanted, self._opened)
            self._open_session(source, plan)
        except BaseException:
            os.close(source)
            raise

    def _open_session(self, source: int, plan: FramePlan) -> None:
        shapes = [one.shape for one in plan.sizes]
        frame_bytes = sum(map(math.prod, shapes))
        count = max(1, min(CHUNK_FRAMES, CHUNK_BYTES // frame_bytes))
        spare, self._spare = self._spare, None
        if spare is None or len(spare.mapped) < count * frame_bytes:
            spare = _Output.of_size(max(CHUNK_BYTES, count * frame_bytes))
        frame_shape = shapes[0] if len(shapes) == 1 else (frame_bytes,)
        slot = np.frombuffer(spare.mapped, np.uint8, count * frame_bytes).reshape(count, *frame_shape)
        self._next_session += 1
        self._sessions[self._next_session] = _Session(frames(plan), slot, source, spare)
        reply = {"kind": "session", "session": self._next_session, "shapes": shapes, "slot": count}
        video_wire.send(self._link, reply, [spare.descriptor])

    def _end(self, session: _Session) -> None:
        session.frames.close()
        os.close(session.input)
        if self._spare is None and len(session.output.mapped) == CHUNK_BYTES:
            self._spare = session.output
        else:
            os.close(session.output.descriptor)

    def _next(self, message: dict[str, Any], _: list[int]) -> None:
        session = self._sessions.pop(message["session"])
        filled = 0
        try:
            for frame in session.frames:
                session.slot[filled] = frame
                filled += 1
                if filled == len(session.slot):
                    break
        except BaseException:
            self._end(session)
            raise
        is_last = filled < len(session.slot)
        if is_last:
            self._end(session)
        else:
            self._sessions[message["session"]] = session
        video_wire.send(self._link, {"kind": "chunk", "count": filled, "last": is_last})

    def _stop(self, message: dict[str, Any], _: list[int]) -> None:
        session = self._sessions.pop(message["session"], None)
        if session is not None:
            self._end(session)
        video_wire.send(self._link, {"kind": "stopped"})


def main(arguments: list[str]) -> int:
    """Serves the owner at the other end; the exit status is that of ``lifeline.serve``."""
    return serve(arguments, lambda link: Child(link).run())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
