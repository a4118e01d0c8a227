"""LeRobot's and GigaAI's own readers, of versions that do not go with ours, on sets that we write: ``make test-readers``.

Each makes an environment of its own with uv, in a scratch folder, and downloads what it needs (gigabytes, since all bring
torch); so this is no part of ``make test``. pytest finds this file only where it is named.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readers.write_sets import main as write_sets

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

READERS = {
    "lerobot 0.3.3": ("3.11", ["lerobot==0.3.3"], "read_lerobot_v2.py", ("lerobot_v20", "lerobot_v21")),
    "lerobot 0.4.4": ("3.11", ["lerobot==0.4.4"], "read_lerobot_v3.py", ("lerobot_v3",)),
    "giga-datasets 1.1.0": (
        "3.11",
        ["giga-datasets==1.1.0", "lerobot==0.4.4"],
        "read_giga_datasets.py",
        ("lerobot_v3",),
    ),
}
"""What is read with what: Python, packages, the script, and the sets."""


def uv() -> str:
    """The program, of this project's setup or of the machine."""
    found = shutil.which("uv") or str(ROOT / ".venv-uv/bin/uv")
    if not Path(found).exists():
        pytest.fail("there is no uv; install it, or run make setup")
    return found


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_sets(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", READERS)
def test_reader(name: str, sets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    python, packages, script, versions = READERS[name]
    keep = os.environ.get("READERS_ENVIRONMENTS")  # a folder, so that a second run is quick
    place = Path(keep) if keep else tmp_path_factory.mktemp("environments")
    environment = place / name.replace(" ", "-")
    if not (environment / "bin/python").exists():
        subprocess.run([uv(), "venv", "--python", python, str(environment)], check=True)
        subprocess.run([uv(), "pip", "install", "--python", str(environment), *packages], check=True)
    folders = [str(path) for version in versions for path in sorted(sets.glob(f"{version}_*"))]
    assert folders
    told = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(place / "cache")}
    done = subprocess.run(
        [str(environment / "bin/python"), str(HERE / script), *folders], env=told, capture_output=True, text=True
    )
    print(done.stdout, done.stderr[-4000:], file=sys.stderr)
    assert done.returncode == 0
    assert done.stdout.count("rows and frames are right") == len(folders)
