"""Ingest of encoded video against copying the same files and hashing them, the least that anything could do."""

import contextlib
import hashlib
import io
import shutil
import tempfile
from pathlib import Path

from benchmarks.side_by_side import compare, machine
from jobs.cli import main as wamloom
from pipelines.sample import write_sample

EPISODES = 6


def main() -> None:
    """Prints the comparison for both ways of checking video."""
    print(machine())
    root = Path(tempfile.mkdtemp(prefix="wamloom-bench-"))
    try:
        write_sample(root / "recordings", "lerobot_v21", EPISODES, 0)
        files = [path for path in (root / "recordings").rglob("*") if path.is_file()]

        def copy_and_hash() -> None:
            shutil.rmtree(root / "copy", ignore_errors=True)
            shutil.copytree(root / "recordings", root / "copy")
            for path in files:
                hashlib.sha256(path.read_bytes()).hexdigest()

        for check in ("packets", "decode"):

            def ours(check: str = check) -> None:
                shutil.rmtree(root / "lake", ignore_errors=True)
                arguments = ["ingest", str(root / "recordings"), "--lake", str(root / "lake"), "--executor", "inline"]
                with contextlib.redirect_stdout(io.StringIO()):
                    assert wamloom([*arguments, "--set", f"video_check={check}"]) == 0

            pair = (("wamloom ingest", ours), ("copy + sha256", copy_and_hash))
            compare(f"ingest of LeRobot v2.1, video_check = {check}", *pair, 2 * EPISODES, "episode")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
