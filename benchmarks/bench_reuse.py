"""A release whose frames are copied against one whose frames are decoded and compressed again, of the same recordings.

The recording is one long episode of LeRobot v2.1, H.264 with g=2, whose picture moves and has grain. The whole build is
compared, numbers and statistics of pictures included, and beside it what is done of a view alone, the start of the child that
reads videos included. That no pixel changes where frames are copied is looked at too.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.long_set import RATE, write_set
from benchmarks.side_by_side import compare, machine
from jobs import build, ingest
from jobs.options import BuildOptions, IngestOptions
from pipelines.lake import Lake
from pipelines.video import VideoTools
from pipelines.video_writer import VideoWriter
from schemas.recipes import BuildRecipe, IngestRecipe, Limits, VideoRecipe

FRAMES = 2400
SLOT = "primary"


def pixels(paths: list[Path]) -> set[str]:
    """A hash of every frame."""
    found: set[str] = set()
    for path in paths:
        with av.open(str(path)) as container:
            found |= {
                hashlib.sha256(frame.to_ndarray(format="rgb24")).hexdigest() for frame in container.decode(video=0)
            }
    return found


def building(root: Path, reuse: bool) -> Callable[[], None]:
    """Builds LeRobot v2.1 from the lake."""
    recipe = BuildRecipe(formats=("lerobot_v21",), tokenizer=None, video=VideoRecipe(reuse=reuse))

    def work() -> None:
        shutil.rmtree(root / f"out-{reuse}", ignore_errors=True)
        build.run(BuildOptions(str(root / "lake"), str(root / f"out-{reuse}"), recipe, False, "inline"))

    return work


def writing(root: Path, lake: Lake, reuse: bool) -> Callable[[], None]:
    """Writes the view of the episode into a video, with a child of its own, whose time counts."""

    def work() -> None:
        (row,) = lake.rows("episodes", ["episode_id"], "outcome = 'kept'")
        episode = row["episode_id"]
        view = lake.video(episode, SLOT, lake.episode(episode).views[SLOT])
        writer = VideoWriter(root / "v.mp4", Fraction(RATE), view.height_px, view.width_px, VideoRecipe())
        with VideoTools(Limits()) as tools:
            if reuse:
                tools.inspect(view.data, episode)
                writer.copy(tools.lift(view.data, view.first_frame, view.num_frames, episode))
            else:
                for number, chunk in enumerate(tools.decode(view, episode, np.arange(view.num_frames))):
                    writer.write(chunk, key_frame=number == 0)
        writer.close()

    return work


def clip(path: Path, width_px: int, height_px: int) -> Path:
    """A second of H.264 as this house writes it."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(60, 200, (height_px // 8, width_px // 8, 3)), np.ones((8, 8, 1), np.int64))
    writer = VideoWriter(path, Fraction(RATE), height_px, width_px, VideoRecipe())
    for number in range(RATE):
        picture = np.roll(blocks, number, axis=1) + rng.integers(-8, 9, blocks.shape)
        writer.write(picture.astype(np.uint8)[None], key_frame=number == 0)
    writer.close()
    return path


def compare_size(root: Path, width_px: int, height_px: int) -> None:
    """Prints the comparisons for pictures of a size."""
    folder, card = write_set(root, "lerobot_v21", {SLOT: clip(root / "clip.mp4", width_px, height_px)}, FRAMES)
    ingest.run(IngestOptions((str(folder),), str(root / "lake"), str(card), IngestRecipe(), False, False, "inline"))
    lake, size = Lake.open(str(root / "lake")), f"{width_px}x{height_px}"
    ways = ("frames copied", "frames decoded and compressed")
    whole, view = (
        [(way, make(reuse)) for way, reuse in zip(ways, (True, False), strict=True)]
        for make in (lambda reuse: building(root, reuse), lambda reuse: writing(root, lake, reuse))
    )
    compare(f"the whole build, LeRobot v2.1, {size}", *whole, FRAMES, "frame")
    recorded, copied = (pixels(sorted(path.rglob("*.mp4"))) for path in (folder, root / "out-True"))
    print(f"  frames that are not the recording's: {len(copied - recorded)} of {len(copied)} different ones")
    compare(f"one view alone, {size}", *view, FRAMES, "frame")


def main() -> None:
    """Prints the comparisons for two sizes."""
    print(machine())
    for width_px, height_px in ((320, 176), (640, 480)):
        root = Path(tempfile.mkdtemp(prefix="wamloom-bench-"))
        try:
            compare_size(root, width_px, height_px)
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
