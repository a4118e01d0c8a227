"""Writing LeRobot v3.0: our planned, one-pass writer against LeRobot's own add_frame / save_episode, on the same frames.

The frames are those of the simulated gantry, drawn beforehand; the numbers of both are random.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from lerobot.configs.video import RGBEncoderConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from benchmarks.side_by_side import compare, machine
from pipelines.formats import PictureWriter
from pipelines.formats.lerobot_v3 import FORMAT
from pipelines.simulate import ROBOTS, simulate
from schemas.recipes import BuildRecipe, VideoRecipe
from tests.fake_build import FakeBuild, make_build

EPISODES = 2


def write_ours(build: FakeBuild, frames: list[np.ndarray], folder: Path) -> None:
    """The whole data set by our format."""
    shutil.rmtree(folder, ignore_errors=True)
    facts = []
    for unit in build.units:
        writer = FORMAT.open_unit(unit, build.recipe, folder)
        assert isinstance(writer, PictureWriter)
        for plan in unit.episodes:
            writer.begin(build.episodes[plan.episode_index])
            writer.frames("primary", 0, frames[plan.episode_index])
            writer.end()
        facts.append((unit, writer.close()))
    FORMAT.finish(build.group, build.recipe, facts, folder)


def write_theirs(build: FakeBuild, frames: list[np.ndarray], folder: Path, encoder: RGBEncoderConfig) -> None:
    """The same by LeRobot's add_frame and save_episode, with the same codec, GOP, quality and preset."""
    shutil.rmtree(folder, ignore_errors=True)
    height, width = frames[0].shape[1:3]
    features = {
        "action": {"dtype": "float32", "shape": (len(build.group.action_names),), "names": None},
        "observation.state": {"dtype": "float32", "shape": (len(build.group.proprio_names),), "names": None},
        "observation.images.primary": {
            "dtype": "video",
            "shape": (height, width, 3),
            "names": ["height", "width", "channels"],
        },
    }
    dataset = LeRobotDataset.create("bench/theirs", 20, features, root=folder, rgb_encoder=encoder)
    for episode, part in zip(build.episodes, frames, strict=True):
        for step in range(len(part)):
            row = {"action": episode.action[step], "observation.state": episode.proprio[step], "task": "task"}
            dataset.add_frame(row | {"observation.images.primary": part[step]})
        dataset.save_episode()
    dataset.finalize()


def main() -> None:
    """Prints the comparison for H.264 and AV1."""
    print(machine())
    frames = [np.stack(list(simulate(ROBOTS[1], 0, index).frames("primary"))) for index in range(EPISODES)]
    height, width = frames[0].shape[1:3]
    root = Path(tempfile.mkdtemp(prefix="wamloom-bench-"))
    choices: tuple[tuple[Literal["h264", "av1"], str, str, int], ...] = (
        ("h264", "h264", "veryfast", 30),
        ("av1", "libsvtav1", "12", 30),
    )
    try:
        for codec, name, preset, crf in choices:
            recipe = BuildRecipe(tokenizer=None, video=VideoRecipe(codec=codec, gop=2, crf=crf, preset=preset))
            build = make_build(
                [len(part) for part in frames],
                rate="20",
                views=[("primary", height, width)],
                recipe=recipe,
                with_tokens=False,
            )
            encoder = RGBEncoderConfig(vcodec=name, g=2, crf=crf, preset=int(preset) if preset.isdigit() else preset)
            compare(
                f"LeRobot v3.0, {codec}, g=2, crf={crf}, {width}x{height}",
                ("wamloom", lambda build=build: write_ours(build, frames, root / "ours")),
                (
                    "LeRobotDataset",
                    lambda build=build, encoder=encoder: write_theirs(build, frames, root / "theirs", encoder),
                ),
                sum(len(part) for part in frames),
                "frame",
                3,
            )
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
