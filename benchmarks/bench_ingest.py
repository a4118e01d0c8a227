"""Ingest of encoded video against copying the same bytes durably and hashing them, the least that anything could do.

The copy is fsynced, as the lake is. Ingest hashes a video twice: its file (identity of the bytes) and its packets (identity
of the recording); both hashes are done in the comparison too, and it is also shown against a single one. An episode that lies
in shared files (LeRobot v3) cannot be copied as a file: there the least is a stream copy, which FFmpeg's demuxer and muxer
do here, packet by packet, without a look at what they copy.
"""

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import av

from benchmarks.long_set import CAMERAS, encode_clip, write_set
from benchmarks.side_by_side import compare, machine
from jobs.cli import main as wamloom
from pipelines.sample import write_sample

EPISODES = 6
MEGABYTES = 500
"""Of each of the three videos of the long episodes."""
FAT = (1280, 720, 12, 10)
THIN = (320, 176, 20, 14)
"""Width, height, crf and grain of clips with about 170 kB and 8 kB a frame."""


def copying(root: Path, recordings: Path, num_hashes: int) -> Callable[[], None]:
    """Copies every file under ``recordings`` durably, and hashes its bytes ``num_hashes`` times."""
    files = [path for path in recordings.rglob("*") if path.is_file()]

    def work() -> None:
        shutil.rmtree(root / "copy", ignore_errors=True)
        for path in files:
            target = root / "copy" / path.relative_to(recordings)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            with target.open("rb") as file:
                os.fsync(file.fileno())
            for _ in range(num_hashes):
                with path.open("rb") as file:
                    hashlib.file_digest(file, "sha256")

    return work


def stream_copying(root: Path, recordings: Path) -> Callable[[], None]:
    """Copies the packets of every video durably into a new file, and hashes both packets and file."""
    files = sorted(recordings.rglob("*.mp4"))

    def work() -> None:
        shutil.rmtree(root / "copy", ignore_errors=True)
        for path in files:
            target = root / "copy" / path.relative_to(recordings)
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with av.open(str(path)) as source, av.open(str(target), "w", format="mp4") as output:
                stream = output.add_stream_from_template(source.streams.video[0], opaque=True)
                for packet in source.demux(source.streams.video[0]):
                    if packet.size:
                        digest.update(packet)
                        packet.stream = stream
                        output.mux_one(packet)
            with target.open("rb") as file:
                os.fsync(file.fileno())
                hashlib.file_digest(file, "sha256")

    return work


def ingesting(root: Path, recordings: Path, *options: str) -> Callable[[], None]:
    """Ingests ``recordings`` into a new lake, in this process."""

    def work() -> None:
        shutil.rmtree(root / "lake", ignore_errors=True)
        arguments = ["ingest", str(recordings), "--lake", str(root / "lake"), "--executor", "inline", *options]
        with contextlib.redirect_stdout(io.StringIO()):
            assert wamloom(arguments) == 0

    return work


def main() -> None:
    """Prints the comparisons: long episodes of large videos, and many short ones."""
    print(machine())
    root = Path(tempfile.mkdtemp(prefix="wamloom-bench-"))
    try:
        for name, (width_px, height_px, crf, noise) in (("large frames", FAT), ("small frames", THIN)):
            clip = root / "clip.mp4"
            encode_clip(clip, 60, width_px, height_px, crf, noise, 0)
            num_frames = MEGABYTES * 1_000_000 * 60 // clip.stat().st_size
            for layout in ("lerobot_v21", "lerobot_v3"):
                recordings = root / layout
                _, card = write_set(recordings, layout, dict.fromkeys(CAMERAS, clip), num_frames)
                os.sync()  # or the first rounds wait for the set to reach the disk
                ours = ingesting(root, recordings, "--card", str(card), "--set", "video_check=packets")
                title = f"{layout}, 3 videos of {MEGABYTES} MB, {name} ({num_frames} each)"
                least = [(f"durable copy + {hashes} x sha256", copying(root, recordings, hashes)) for hashes in (2, 1)]
                if layout == "lerobot_v3":
                    least[:0] = [("durable stream copy + 2 x sha256", stream_copying(root, recordings))]
                for theirs in least:
                    compare(title, ("wamloom ingest", ours), theirs, 1, "episode")
                shutil.rmtree(recordings)
        write_sample(root / "recordings", "lerobot_v21", EPISODES, 0)
        for check in ("packets", "decode"):
            ours = ingesting(root, root / "recordings", "--set", f"video_check={check}")
            theirs = ("durable copy + 2 x sha256", copying(root, root / "recordings", 2))
            title = f"LeRobot v2.1, short episodes, video_check = {check}"
            compare(title, ("wamloom ingest", ours), theirs, 2 * EPISODES, "episode")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
