"""Finds the real recordings beside the project; a test that needs them skips, saying so, where they are absent."""

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("WAMLOOM_REAL_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data"))


def real_data(name: str) -> Path:
    """The folder of the real recordings ``name``; skips the calling test where it is absent."""
    folder = ROOT / name
    if not folder.exists():
        pytest.skip(f"real recordings {name!r} are not beside the project (looked in {ROOT})")
    return folder
