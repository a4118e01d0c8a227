"""How the decoding child and its owner talk: short JSON messages on a socket, bulk in anonymous memory files.

Nothing here trusts the other side's sizes, and nothing is ever unpickled. Standard library only, since the child has to
start fast.
"""

import json
import mmap
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 1 << 20
"""Larger things travel in memory files."""


class Disconnected(Exception):
    """The other side is gone."""


class Nonsense(Exception):
    """The other side is there, but what it says cannot be so."""


def send(link: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Sends one message, and copies of the open ``descriptors`` with it. Raises Disconnected, TimeoutError."""
    text = json.dumps(message).encode()
    if len(text) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(text)} bytes")
    frame = _LENGTH.pack(len(text)) + text
    try:
        sent = socket.send_fds(link, [frame], list(descriptors))
        link.sendall(frame[sent:])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Disconnected from error


def receive(link: socket.socket, ends: float | None = None) -> tuple[dict[str, Any], list[int]]:
    """The next message and the descriptors that came with it (the receiver closes them).

    ``ends`` is a ``time.monotonic`` instant. Raises Disconnected, Nonsense, TimeoutError.
    """
    descriptors: list[int] = []
    try:
        (length,) = _LENGTH.unpack(_receive_exactly(link, _LENGTH.size, descriptors, ends))
        if length > MAX_MESSAGE_BYTES:
            raise Nonsense
        try:
            message = json.loads(_receive_exactly(link, length, descriptors, ends))
        except ValueError as error:
            raise Nonsense from error
        if not isinstance(message, dict):
            raise Nonsense
    except BaseException:
        close_all(descriptors)
        raise
    return message, descriptors


def _receive_exactly(link: socket.socket, count: int, descriptors: list[int], ends: float | None) -> bytes:
    received = bytearray()
    while len(received) < count:
        if ends is not None:
            link.settimeout(max(ends - time.monotonic(), 0.001))
        try:
            part, new, _, _ = socket.recv_fds(link, count - len(received), 4)
        except ConnectionResetError as error:
            raise Disconnected from error
        descriptors += new
        if not part:
            raise Disconnected
        received += part
    return bytes(received)


def close_all(descriptors: Sequence[int]) -> None:
    """Closes every one of ``descriptors``."""
    for descriptor in descriptors:
        os.close(descriptor)


def memory_file(parts: Sequence[bytes | memoryview] = ()) -> int:
    """Descriptor of a new anonymous file that holds ``parts`` in a row; gone when its last descriptor is closed."""
    descriptor = os.memfd_create("wamloom-video", os.MFD_CLOEXEC)
    try:
        for part in parts:
            write_all(descriptor, part)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Appends all of ``data``; one ``write`` takes less than 2 GiB."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest[: 1 << 30]) :]


def read_into(descriptor: int, target: memoryview, offset: int) -> None:
    """Fills ``target`` from ``offset`` of the file. Raises Nonsense where the file is too short."""
    rest = target.cast("B")
    while rest:
        count = os.preadv(descriptor, [rest[: 1 << 30]], offset)
        if count == 0:
            raise Nonsense
        rest, offset = rest[count:], offset + count


def read_part(descriptor: int, num_bytes: int, offset: int = 0) -> bytes:
    """``num_bytes`` of the file from ``offset``. Raises Nonsense where it is shorter, before allocating."""
    if num_bytes < 0 or offset + num_bytes > os.fstat(descriptor).st_size:
        raise Nonsense
    if num_bytes == 0:
        return b""
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    with mmap.mmap(descriptor, offset + num_bytes - start, prot=mmap.PROT_READ, offset=start) as mapped:
        return mapped[offset - start :]
