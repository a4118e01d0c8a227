"""Progress of a job on stderr: a bar where a person watches, else a plain line every ten seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.work import UnitResult

LINE_SECONDS = 10.0
_KINDS = ("kept", "already", "rejected", "failed")


class ProgressView(Protocol):
    """Shows how far a job is."""

    def update(self, result: UnitResult) -> None:
        """One more unit is done."""
        ...

    def tick(self) -> None:
        """Nothing new, but time has passed."""
        ...


class Tally:
    """Counts units and outcomes, and says so in a few words; ``clock`` gives seconds."""

    def __init__(self, num_units: int, now: float) -> None:
        self.num_units = num_units
        self.num_done = 0
        self.start = now
        self.counts = dict.fromkeys(_KINDS, 0)

    def add(self, result: UnitResult) -> None:
        """Counts ``result``."""
        self.num_done += 1
        for outcome in result.outcomes:
            self.counts[outcome.kind] += 1

    def items(self) -> str:
        """Such as ``12 kept, 1 failed``."""
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count) or "0 items"

    def rate(self, now: float) -> str:
        """Items per second since the start, such as ``3.2 items/s``."""
        seconds = now - self.start
        return f"{sum(self.counts.values()) / seconds:.1f} items/s" if seconds > 0 else "- items/s"

    def line(self, title: str, now: float) -> str:
        """The plain line: done, items, rate, time left."""
        left = self.num_units - self.num_done
        seconds = (now - self.start) / self.num_done * left if self.num_done else None
        time_left = "time left unknown" if seconds is None else f"{_duration(seconds)} left"
        return f"{title}: {self.num_done}/{self.num_units} units, {self.items()}, {self.rate(now)}, {time_left}"


class _Bar:
    def __init__(self, title: str, num_units: int, progress: Progress) -> None:
        self._tally = Tally(num_units, time.monotonic())
        self._progress = progress
        self._task = progress.add_task(title, total=num_units, items="", rate="")

    def update(self, result: UnitResult) -> None:
        self._tally.add(result)
        self._progress.update(self._task, advance=1, items=self._tally.items(), rate=self._tally.rate(time.monotonic()))

    def tick(self) -> None:
        self._progress.refresh()


class _Lines:
    def __init__(self, title: str, num_units: int, stream: TextIO) -> None:
        self._tally = Tally(num_units, time.monotonic())
        self._title = title
        self._stream = stream
        self._next = time.monotonic() + LINE_SECONDS

    def update(self, result: UnitResult) -> None:
        self._tally.add(result)
        self.tick()

    def tick(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._stream.write(self._tally.line(self._title, now) + "\n")
            self._stream.flush()
            self._next = now + LINE_SECONDS


def _duration(seconds: float) -> str:
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def show_progress(title: str, num_units: int, stream: TextIO | None = None) -> Iterator[ProgressView]:
    """A view of ``num_units`` units that writes to ``stream`` (stderr), and goes away when done."""
    target = sys.stderr if stream is None else stream
    if not target.isatty():
        yield _Lines(title, num_units, target)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("units"),
        TextColumn("{task.fields[items]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=target), transient=True) as progress:
        yield _Bar(title, num_units, progress)
