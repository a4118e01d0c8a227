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
    title: str, ours: tuple[str, Work], theirs: tuple[str, Work], units: int, unit: str, rounds: int = 3
) -> None:
    """Prints the median cost per unit of both, and the median of theirs / ours pair by pair."""
    pairs = [(_cost(ours[1]), _cost(theirs[1])) for _ in range(rounds)]
    print(f"\n{title}  ({rounds} rounds, {units} {unit}s)")
    for index, (name, _) in enumerate((ours, theirs)):
        cpu = statistics.median(pair[index][0] for pair in pairs) / units * 1000
        wall = statistics.median(pair[index][1] for pair in pairs) / units * 1000
        print(f"  {name:44} {cpu:9.3f} CPU ms/{unit}  {wall:9.3f} wall ms/{unit}")
    cpu_ratio = statistics.median(pair[1][0] / pair[0][0] for pair in pairs)
    wall_ratio = statistics.median(pair[1][1] / pair[0][1] for pair in pairs)
    print(f"  ratio (second / first)                       {cpu_ratio:9.2f} x CPU      {wall_ratio:9.2f} x wall")
