"""Peak memory of ingesting one very long episode: 2 hours, 3 cameras, 15 Hz, as LeRobot 2.1 and 3.0.

Sampled while a ``wamloom ingest`` of its own runs: proportional set sizes (shared pages divided among their users) of the
driver, its workers and their decoding children, and what they hold in anonymous memory files, mapped or not.

    python -m benchmarks.bench_memory [--hours 2] [--executor inline] [--check packets]
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.long_set import CAMERAS, RATE, encode_clip, write_set
from benchmarks.side_by_side import machine

LIMIT_MB = 1536
SAMPLE_S = 0.1
CRFS = (21, 26)
"""Give videos of about 370 MB, which become files of the lake, and of 60 MB, which are just small enough for blobs."""


def role(process: psutil.Process) -> str:
    """What the process is to the run; "" for Ray's own servers, which are there whatever is ingested."""
    words = process.cmdline()
    if "pipelines.video_child" in words:
        return "decoding child"
    if "jobs.cli" in words:
        return "driver"
    return "worker" if words and "_PoolWorker" in words[0] else ""


def held_mb(process: psutil.Process) -> tuple[float, dict[int, int]]:
    """MiB of its proportional set, and bytes of the anonymous memory files it has open, by inode."""
    memory = process.memory_full_info().pss / (1 << 20)
    files: dict[int, int] = {}
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        if "memfd:wamloom" in str(link.readlink()):
            status = link.stat()
            files[status.st_ino] = status.st_blocks * 512
    return memory, files


def watch(command: list[str]) -> tuple[dict[str, float], float, str]:
    """Runs ``command``; MiB by role at the moment of the highest sum, the seconds it took, and what it printed."""
    peak: dict[str, float] = {}
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=said) as run:
        while run.poll() is None:
            now: dict[str, float] = {}
            files: dict[int, int] = {}
            for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
                try:
                    name = role(process)
                    if name:
                        memory, held = held_mb(process)
                        now[name] = now.get(name, 0.0) + memory
                        files |= held
                except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, ProcessLookupError):
                    continue
            now["memory files"] = sum(files.values()) / (1 << 20)
            if sum(now.values()) > sum(peak.values()):
                peak = now
            time.sleep(SAMPLE_S)
        said.seek(0)
        assert run.returncode == 0, said.read()
        return peak, time.monotonic() - begun, said.read()


def main() -> None:
    """Prints the peak for both layouts and sizes, with and without looking at every frame."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--executor", choices=("inline", "ray"), default="inline")
    parser.add_argument("--check", choices=("packets", "decode"), action="append")
    parser.add_argument("--layout", choices=("lerobot_v21", "lerobot_v3"), action="append")
    parser.add_argument("--crf", type=int, action="append")
    given = parser.parse_args()
    num_frames = int(given.hours * 3600 * RATE)
    print(machine())
    root = Path(tempfile.mkdtemp(prefix="wamloom-bench-"))
    try:
        for crf in given.crf or CRFS:
            clips = {slot: root / f"{slot}.mp4" for slot in CAMERAS}
            for number, clip in enumerate(clips.values()):
                encode_clip(clip, 20 * RATE, 320, 176, crf, 10, number)
            for layout in given.layout or ("lerobot_v21", "lerobot_v3"):
                folder, card = write_set(root / layout, layout, clips, num_frames)
                size = sum(path.stat().st_size for path in folder.rglob("*.mp4")) / 1e6
                print(f"\n{layout}: {given.hours} hours, {len(clips)} x {num_frames} frames, {size:.0f} MB of video")
                for check in given.check or ("packets", "decode"):
                    measure(folder, card, root / "lake", given.executor, check)
                shutil.rmtree(root / layout)
    finally:
        shutil.rmtree(root)


def measure(folder: Path, card: Path, lake: Path, executor: str, check: str) -> None:
    """Ingests the set into a new lake and prints the peak."""
    shutil.rmtree(lake, ignore_errors=True)
    command = [sys.executable, "-W", "ignore", "-m", "jobs.cli", "ingest", str(folder), "--card", str(card)]
    command += ["--lake", str(lake), "--executor", executor, "--set", f"video_check={check}", "--json"]
    peak, seconds, said = watch(command)
    answer = json.loads(said)
    assert answer["kept"] == answer["listed"], answer
    total = sum(peak.values())
    parts = ", ".join(f"{name} {memory:.0f}" for name, memory in peak.items())
    verdict = "under" if total < LIMIT_MB else "OVER"
    told = f"peak {total:.0f} MiB ({parts}), {verdict} {LIMIT_MB}, {seconds:.0f} s"
    print(f"  {executor}, video_check={check}: {told}", flush=True)


if __name__ == "__main__":
    main()
