"""A build that makes its latents on the way against encoding first and building then, of the same recordings.

Both write LeRobot v2.1 and WebDataset at 160x120 beside latents, and both give the same release. ``wavelet`` costs little, so
that decoding shows; of an encoder that takes long the part of decoding is small, and so is what is saved.
"""

import shutil
import tempfile
from pathlib import Path

from benchmarks.bench_reuse import clip
from benchmarks.long_set import write_set
from benchmarks.side_by_side import compare, machine
from jobs import build, encode, ingest
from jobs.options import BuildOptions, EncodeOptions, IngestOptions
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, IngestRecipe, VideoRecipe, ViewsRecipe

FRAMES = 1200
VIEWS = ViewsRecipe(height_px=120, width_px=160)
ENCODE = EncodeRecipe(views=VIEWS, clip=ClipRecipe(kind="fixed", num_frames=9), dtype="float16")
RECIPE = BuildRecipe(
    formats=("lerobot_v21", "webdataset"),
    content="both",
    encoder="wavelet",
    views=VIEWS,
    tokenizer=None,
    video=VideoRecipe(reuse=False),
)


def two_steps(root: Path) -> None:
    """Encodes, then builds."""
    lake, out = fresh(root)
    encode.run(EncodeOptions(str(lake), ENCODE, "", False, "inline"))
    build.run(BuildOptions(str(lake), str(out), RECIPE, False, "inline"))


def one_step(root: Path) -> None:
    """Builds, and encodes on the way."""
    lake, out = fresh(root)
    build.run(BuildOptions(str(lake), str(out), RECIPE, False, "inline", ENCODE))


def fresh(root: Path) -> tuple[Path, Path]:
    """A copy of the lake, without latents, and where the release is to lie."""
    for name in ("copy", "out"):
        shutil.rmtree(root / name, ignore_errors=True)
    return Path(shutil.copytree(root / "lake", root / "copy")), root / "out"


def main() -> None:
    """Prints the comparison at two sizes of the recordings."""
    print(machine())
    for width, height in ((320, 240), (640, 480)):
        root = Path(tempfile.mkdtemp(prefix="wamloom-bench-"))
        try:
            folder, card = write_set(root, "lerobot_v21", {"primary": clip(root / "clip.mp4", width, height)}, FRAMES)
            ingest.run(
                IngestOptions((str(folder),), str(root / "lake"), str(card), IngestRecipe(), False, False, "inline")
            )
            compare(
                f"latents and pictures of recordings of {width}x{height}",
                ("wamloom build --encode", lambda root=root: one_step(root)),
                ("wamloom encode, then wamloom build", lambda root=root: two_steps(root)),
                FRAMES,
                "frame",
            )
        finally:
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
