"""Making items in a thread of their own, some ahead of who takes them, so that neither waits for the other."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor


def ahead[T](items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """``items`` in order, up to ``depth`` of them made before they are asked for, in one other thread.

    What making one raises is raised where it is taken. Closing this early ends the thread behind the item it is at.
    """
    end = object()
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting: deque[Future[T | object]] = deque(thread.submit(next, items, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]  # only the mark of the end is no T
        finally:
            for one in waiting:
                one.cancel()
