"""The examples run as a user runs them, and ranks with workers read every sample once."""

import contextlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.chain import read_json, tar_samples
from tests.release_chain import ARM, GANTRY, make_lake, make_release

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = {
    "lerobot_v3": ("{release}/lerobot_v3/{group}",),
    "webdataset_windows": ("{release}/webdataset/{group}",),
    "parquet_steps": ("{release}", "{group}"),
    "raw_latents": ("{release}", "{group}", "{fingerprint}"),
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    return make_release(make_lake(folder), folder / "release")


def expected(name: str, release: Path, group: str) -> set[str]:
    if name == "webdataset_windows":
        return {str(sample.facts["sample"]) for sample in tar_samples(release / "webdataset" / group)}
    if name == "raw_latents":
        paths = (release / "lerobot_v3" / group / "latents").rglob("*.safetensors")
        return {f"{path.stem} {path.parent.name}" for path in paths}
    (entry,) = (one for one in read_json(release / "manifest.json")["groups"] if one["name"] == group)
    train = {one["episode_id"] for one in entry["episodes"] if one["split"] == "train" or name == "lerobot_v3"}
    rows = pq.read_table(release / "parquet" / group / "data", columns=["index", "episode_id"]).to_pylist()
    return {str(row["index"]) for row in rows if row["episode_id"] in train}


def run(name: str, release: Path, group: str, tmp_path: Path, world: int) -> list[str]:
    """What the ranks say, which run at the same time, as torchrun starts them."""
    fingerprint = read_json(release / "manifest.json")["latents"]["encoder_fingerprint"]
    arguments = [one.format(release=release, group=group, fingerprint=fingerprint) for one in EXAMPLES[name]]
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *arguments]
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(world):
            home = tmp_path / str(rank)
            home.mkdir()
            own = {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}  # as torchrun sets them
            own |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
            # elsewhere, so that nothing of wamloom's own is on the path
            process = subprocess.Popen(
                command, env=os.environ | own, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            ranks.append(process)
        said = [process.communicate(timeout=300) for process in ranks]
    assert [process.returncode for process in ranks] == [0] * world, [err[-2000:] for _, err in said]
    return [out for out, _ in said]


def test_every_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_two_ranks_with_two_workers_read_everything_once(name: str, release: Path, tmp_path: Path) -> None:
    group = GANTRY
    pattern = r"^sample (\S+ primary|\S+ wrist_left)" if name == "raw_latents" else r"^sample (\S+)"
    found = [re.findall(pattern, said, re.MULTILINE) for said in run(name, release, group, tmp_path, 2)]
    assert all(found)  # both have something to do
    assert Counter(one for part in found for one in part) == Counter(expected(name, release, group))


def test_latents_of_another_encoder_are_refused(release: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "raw_latents.py"), str(release), ARM, "0" * 64]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "are of encoder" in done.stderr
