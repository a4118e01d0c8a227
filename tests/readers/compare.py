"""Holds what a reader gives against what was written. Runs in the environments of other readers, with numpy alone."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.barcode import read_mark


def check(folder: Path, items: Callable[[Path], Any]) -> None:
    """Compares every value and the number in every frame of every item that ``items`` gives of the set in ``folder``."""
    expected = dict(np.load(folder / "expected.npz"))
    read = items(folder / "set")
    count = len(expected["task"])
    assert len(read) == count, f"{len(read)} items, {count} were written"
    for index in range(count):
        item = read[index]
        for name, values in expected.items():
            _check(name, item, values[index])
    print(f"{folder.name}: {count} rows and frames are right")


def _check(name: str, item: Mapping[str, Any], value: Any) -> None:
    if name.startswith("mark."):
        frame = (np.asarray(item[name.removeprefix("mark.")]).transpose(1, 2, 0) * 255).round().astype(np.uint8)
        assert tuple(read_mark(frame)) == tuple(value), name
    elif name == "task":
        assert item[name] == value, name
    else:
        np.testing.assert_array_equal(np.asarray(item[name]), value, name)


def main(items: Callable[[Path], Any]) -> None:
    """Checks every folder of the command line."""
    for folder in sys.argv[1:]:
        check(Path(folder), items)
