"""The chain as commands on small recordings, for tests that break it off: what to run, and what must come out in the end.

``small_recordings`` holds five short episodes, three of them a second time under another name and one damaged, so that
kept and failed rows and rows with two places all have to survive.
"""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

from pipelines.lake import Lake
from pipelines.layouts import rlds
from pipelines.simulate import ROBOTS, simulate
from pipelines.storage import file_sha256, files_under
from tests.chain import first_steps

VERBS = ("ingest", "encode", "build")
FORMATS = ("lerobot_v3", "webdataset", "parquet")


def small_recordings(folder: Path, num_steps: int = 16) -> Path:
    """Writes the recordings; equal calls write equal bytes."""
    arm, gantry = ROBOTS
    rlds.write([first_steps(simulate(arm, 5, index), num_steps) for index in range(3)], folder / "arm" / arm.name)
    rlds.write(
        [first_steps(simulate(gantry, 5, index), num_steps) for index in range(2)], folder / "gantry" / gantry.name
    )
    shutil.copytree(folder / "arm", folder / "arm_again")
    shard = sorted((folder / "gantry").rglob("*.tfrecord*"))[0]
    data = bytearray(shard.read_bytes())
    data[-200] ^= 255  # in the second episode's record
    shard.write_bytes(data)
    return folder


class Chain:
    """Where one run of the chain lives, and its commands."""

    def __init__(self, recordings: Path, root: Path, executor: str = "inline") -> None:
        self.recordings = recordings
        self.root = root
        self.executor = executor
        self.lake = root / "lake"
        self.release = root / "release"
        root.mkdir(parents=True, exist_ok=True)

    def command(self, verb: str) -> list[str]:
        """Arguments of ``wamloom``; small units and commits, so that there are many moments to break it off."""
        lake = ["--lake", str(self.lake), "--executor", self.executor, "--json"]
        small = ["--set", "views.height_px=32", "--set", "views.width_px=32"]
        if verb == "ingest":
            allow = ["--set", "max_failed_fraction=1.0", "--set", 'gates.reject_at="never"']
            return ["ingest", str(self.recordings), *lake, "--set", "unit_mb=1", "--set", "commit_mb=1", *allow]
        if verb == "encode":
            return ["encode", *lake, *small, "--set", "unit_frames=40"]
        formats = ["--format", *FORMATS]
        return ["build", *lake, "--out", str(self.release), *formats, *small, "--set", "unit_frames=40"]

    def copy(self, root: Path) -> "Chain":
        """All of it, as it stands now, at another place."""
        shutil.copytree(self.root, root)
        return Chain(self.recordings, root, self.executor)


def lake_content(root: Path) -> dict[str, Any]:
    """What the lake says, apart from its file names and history; asserts that every key is there once."""
    lake = Lake.open(root)
    content: dict[str, Any] = {}
    columns = {
        "episodes": ["row_sha256", "outcome", "reason", "locations"],
        "latents": ["row_sha256", "data_sha256", "episode_id"],
    }
    for table, wanted in columns.items():
        rows = lake.rows(table, wanted)
        key = f"{table[:-1]}_id"
        content[table] = {row[key]: row for row in rows}
        assert len(content[table]) == len(rows), f"{table} has a key twice"
    return content


def release_content(root: Path) -> dict[str, str]:
    """By file: the hash of its bytes."""
    return {path.relative_to(root).as_posix(): file_sha256(path) for path in files_under(root)}


def differences(found: Chain, whole: Chain, verb: str) -> list[str]:
    """Where a chain that was broken off and finished differs from one that was not, after ``verb``."""
    told = []
    mine, theirs = lake_content(found.lake), lake_content(whole.lake)
    tables = ("episodes",) if verb == "ingest" else ("episodes", "latents")
    for table in tables:
        keys = set(mine[table]) | set(theirs[table])
        told += [f"{table} {key[:8]}" for key in sorted(keys) if mine[table].get(key) != theirs[table].get(key)]
    if verb == "build":
        files, expected = release_content(found.release), release_content(whole.release)
        told += [f"file {name}" for name in sorted(set(files) | set(expected)) if files.get(name) != expected.get(name)]
    return told + leftovers(found)


def leftovers(chain: Chain) -> list[str]:
    """What a finished run must not leave behind."""
    staging = chain.lake / "staging"
    left = [path.name for path in staging.iterdir() if path.name != "lock"] if staging.is_dir() else []
    strangers = [path.name for path in chain.root.iterdir() if path not in (chain.lake, chain.release)]
    return [f"left behind: {name}" for name in sorted([*left, *strangers])]


def moments(seed: int, count: int) -> list[float]:
    """``count`` numbers from 0 to 1, one in each equal part, in random order."""
    source = random.Random(seed)
    spread = [(index + source.random()) / count for index in range(count)]
    source.shuffle(spread)
    return spread


def answer_of(stdout: str) -> dict[str, Any]:
    """The JSON object of a command's stdout."""
    values: dict[str, Any] = json.loads(stdout)
    return values


def until(seconds: float, is_so: Any) -> bool:
    """Whether ``is_so()`` becomes true in time."""
    ends = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True
