"""How a child process lives: it serves its owner, dies with it, and keeps to its memory. Standard library only."""

import fcntl
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from pipelines.video_wire import Disconnected

OUT_OF_MEMORY = 77
"""Exit status of a child that ran out of memory and could not even say so."""


def serve(arguments: Sequence[str], run: Callable[[socket.socket], None]) -> int:
    """Runs ``run`` on the link to the owner, as ``SOCKET LIFELINE MEMORY_MB`` say; the exit status: 0 when the owner is gone."""
    link, lifeline, memory_mb = (int(argument) for argument in arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_owner(lifeline)
    limit_memory(memory_mb)
    try:
        run(socket.socket(fileno=link))
    except Disconnected:
        return 0
    except MemoryError:
        return OUT_OF_MEMORY
    return 0


def die_with_owner(lifeline: int) -> None:
    """Has the kernel send SIGKILL when the owner's end of the pipe closes: at once, and even if this process hangs."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it closed before we asked
        sys.exit(0)


def limit_memory(memory_mb: int) -> None:
    """Allows ``memory_mb`` of address space beyond what the imports took, and no core dumps."""
    with open("/proc/self/statm") as status:  # noqa: PTH123
        pages = int(status.read().split()[0])
    allowed = pages * resource.getpagesize() + (memory_mb << 20)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        allowed = min(allowed, most)
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
