"""Runs two ways of doing the same work in turn, A B A B ..., and prints CPU and wall seconds and their ratio.

CPU seconds are those of the process and of every child it waited for, so that work in an isolated child counts.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

Work = Callable[[], None]


def machine() -> str:
    """The machine and the versions that matter, in a line."""
    cpu = next(
        (line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),  # noqa: SIM115, PTH123
        platform.machine(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("wamloom", "av", "pylance", "lerobot", "ray"))
    return f"{os.cpu_count()} x {cpu}, Python {platform.python_version()}, {packages}"


def _cost(work: Work) -> tuple[float, float]:
    before, wall = os.times(), time.perf_counter()
    work()
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return cpu, time.perf_counter() - wall


def compare(
    title: str,
    ours: tuple[str, Work],
    theirs: tuple[str, Work],
    units: int,
    unit: str,
    rounds: int = 3,
    *,
    cpu: bool = True,
) -> None:
    """Prints the median cost per unit of both, and the median of theirs / ours pair by pair; ``cpu`` or wall seconds alone."""
    pairs = [(_cost(ours[1]), _cost(theirs[1])) for _ in range(rounds)]
    print(f"\n{title}  ({rounds} rounds, {units} {unit}s)")
    for column, kind in ((0, "CPU"), (1, "wall")):
        if kind == "CPU" and not cpu:
            continue
        for index, (name, _) in enumerate((ours, theirs)):
            cost = statistics.median(pair[index][column] for pair in pairs) / units * 1000
            print(f"  {name:44} {cost:9.3f} {kind} ms/{unit}")
        ratio = statistics.median(pair[1][column] / pair[0][column] for pair in pairs)
        print(f"  {'ratio, second / first':44} {ratio:9.2f} x {kind}")
