"""What a child process does first: it dies with its owner, and keeps to its memory. Standard library only."""

import fcntl
import os
import resource
import select
import signal
import sys


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
