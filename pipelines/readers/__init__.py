"""Readers: the judges of our formats. Each file is named like its format and opens a group with its users' own library.

A member module exports ``problems(folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]``: what is wrong with
the group's folder, and how many samples the library read. The libraries are imported inside: they are heavy.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Reader(Protocol):
    """What a member module must be."""

    def problems(self, folder: Path, expected: Mapping[str, int]) -> tuple[list[str], int]:
        """What the users' own library finds wrong, and the samples it read. ``expected`` is the manifest's count."""
        ...
