"""Reading random windows through LeRobot's own reader: files that we wrote against files that LeRobot wrote by its defaults.

The frames are those of the simulated gantry, or 100 of each video that is named (all of one size); the same for both. A window
is one picture in three over a second, as a world model reads it, beside 16 actions. PyTorch has one thread, as in the workers
of a DataLoader. Most of what that reader does is the same for both (copies of pictures, rows to tensors), so that beside it the
decoding of the same windows stands alone.
"""

import argparse
import os
import shutil
import tempfile
from fractions import Fraction
from itertools import islice
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import av
import av.logging
import numpy as np
import torch
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from torch.utils.data import DataLoader, Subset

from benchmarks.bench_lerobot_writer import write_ours, write_theirs
from benchmarks.side_by_side import compare, machine
from pipelines.simulate import ROBOTS, simulate
from schemas.recipes import BuildRecipe, VideoRecipe
from tests.fake_build import FakeBuild, make_build

EPISODES = 4
WINDOWS = 60
LIMIT = 100
RATE = 20
HORIZON = 16
OTHER_GOPS = (2, 8)
LOADED = 20


def opened(folder: Path, backend: str, *, windowed: bool = True) -> LeRobotDataset:
    """The data set as a trainer opens it that reads windows, or steps."""
    if not windowed:
        return LeRobotDataset("bench/any", root=folder, video_backend=backend)
    pictures = [step / RATE for step in range(0, RATE + 1, 3)]
    deltas = {"observation.images.primary": pictures, "action": [step / RATE for step in range(HORIZON)]}
    return LeRobotDataset("bench/any", root=folder, delta_timestamps=deltas, video_backend=backend)


def read(dataset: LeRobotDataset, order: np.ndarray) -> None:
    """Every window of ``order`` once."""
    for index in order:
        dataset[int(index)]


def load(dataset: LeRobotDataset, order: np.ndarray) -> None:
    """Every window of ``order`` once, by a DataLoader with a worker for each core, as trainers read."""
    subset = Subset(dataset, order.tolist())
    for _ in DataLoader(subset, batch_size=4, num_workers=os.cpu_count() or 1):
        pass


def decode(folder: Path, order: np.ndarray) -> None:
    """The pictures of every window of ``order`` alone, by PyAV, sought and decoded as LeRobot does it."""
    (path,) = folder.rglob("*.mp4")
    for index in order:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            first, last = (Fraction(int(index) + step, RATE) / stream.time_base for step in (0, RATE))
            container.seek(round(first) - 1, stream=stream)
            for frame in container.decode(stream):
                frame.to_ndarray(format="rgb24")
                if frame.pts >= last:
                    break


def frames_of(path: str) -> np.ndarray:
    """The first frames of a video."""
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), LIMIT)])


def psnr(folder: Path, frames: list[np.ndarray]) -> float:
    """Of the whole video, in dB."""
    (path,) = folder.rglob("*.mp4")
    with av.open(str(path)) as container:
        errors = [
            np.square(frame.to_ndarray(format="rgb24").astype(np.float32) - given).mean()
            for frame, given in zip(container.decode(video=0), np.concatenate(frames), strict=True)
        ]
    return float(10 * np.log10(255**2 / np.mean(errors)))


def main() -> None:
    """Prints the comparison for both backends that LeRobot has, and what other distances of key frames would change."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--crf", type=int, default=VideoRecipe().crf, help="of ours, such as one of LeRobot's PSNR")
    options = parser.parse_args()
    paths: list[str] = options.videos
    print(machine())
    torch.set_num_threads(1)
    av.logging.set_level(av.logging.ERROR)
    simulated = (np.stack(list(simulate(ROBOTS[1], 0, index).frames("primary"))) for index in range(EPISODES))
    frames = [frames_of(path) for path in paths] or list(simulated)
    height, width = frames[0].shape[1:3]
    order = np.random.default_rng(0).integers(0, sum(map(len, frames)) - RATE, WINDOWS)
    root = Path(tempfile.mkdtemp(prefix="wamloom-bench-"))
    usual = VideoRecipe().gop
    try:
        for gop in (usual, *OTHER_GOPS):
            build = made(frames, gop, options.crf)
            write_ours(build, frames, root / str(gop))
        write_theirs(build, frames, root / "theirs", RGBEncoderConfig())
        for name in (str(usual), *map(str, OTHER_GOPS), "theirs"):
            size = sum(path.stat().st_size for path in (root / name / "videos").rglob("*.mp4"))
            each = size / sum(map(len, frames))
            print(f"{name}: {each:.0f} bytes of video a frame, {psnr(root / name, frames):.1f} dB")
        compare(
            f"decoding such windows by PyAV alone, {width}x{height}",
            ("written by wamloom", lambda: decode(root / str(usual), order)),
            ("written by LeRobot", lambda: decode(root / "theirs", order)),
            WINDOWS,
            "window",
            3,
        )
        for backend in ("torchcodec", "pyav"):
            try:
                ours, theirs = (opened(root / name, backend) for name in (str(usual), "theirs"))
                read(ours, order[:1])
                read(theirs, order[:1])
            except (ImportError, RuntimeError) as error:
                print(f"\n{backend} does not work here: {str(error).splitlines()[0]}")
                continue
            compare(
                f"windows of {len(range(0, RATE + 1, 3))} pictures {width}x{height} through LeRobotDataset, {backend}",
                ("written by wamloom", lambda ours=ours: read(ours, order)),
                ("written by LeRobot", lambda theirs=theirs: read(theirs, order)),
                WINDOWS,
                "window",
                3,
            )
        many = np.concatenate([order] * LOADED)
        loaded = [opened(root / name, "pyav") for name in (str(usual), "theirs")]
        compare(
            f"such windows by a DataLoader with {os.cpu_count()} workers, its start included, pyav",
            ("written by wamloom", lambda: load(loaded[0], many)),
            ("written by LeRobot", lambda: load(loaded[1], many)),
            len(many),
            "window",
            3,
            cpu=False,
        )
        for what, windowed in (("window", True), ("single picture", False)):
            for gop in OTHER_GOPS:
                pair = [opened(root / str(one), "pyav", windowed=windowed) for one in (usual, gop)]
                compare(
                    f"{what}s through LeRobotDataset, pyav, {width}x{height}",
                    (f"a key frame every {usual}", lambda pair=pair: read(pair[0], order)),
                    (f"a key frame every {gop}", lambda pair=pair: read(pair[1], order)),
                    WINDOWS,
                    what,
                    3,
                )
    finally:
        shutil.rmtree(root)


def made(frames: list[np.ndarray], gop: int, crf: int) -> FakeBuild:
    """A build of these episodes."""
    return make_build(
        [len(part) for part in frames],
        rate=str(RATE),
        views=[("primary", *frames[0].shape[1:3])],
        recipe=BuildRecipe(tokenizer=None, video=VideoRecipe(gop=gop, crf=crf)),
        with_tokens=False,
        episodes_per_unit=len(frames),
    )


if __name__ == "__main__":
    main()
