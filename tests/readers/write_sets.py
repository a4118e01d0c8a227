"""Writes made-up sets of LeRobot 2.0, 2.1 and 3.0 into a folder, and beside each what a reader must find: ``expected.npz``."""

import sys
from pathlib import Path

import numpy as np

from pipelines import registry
from tests.fake_build import FakeBuild, frame_number, make_build, write_build

VERSIONS = ("lerobot_v20", "lerobot_v21", "lerobot_v3")
RATES = ("15", "30000/1001")


def main(folder: Path) -> None:
    """A set for each version and rate."""
    for version in VERSIONS:
        for number, rate in enumerate(RATES):
            build = make_build((7, 1, 12), rate=rate)
            place = folder / f"{version}_{number}"
            write_build(registry.load("formats", version), build, place / "set")
            np.savez(place / "expected.npz", **_expected(build))


def _expected(build: FakeBuild) -> dict[str, np.ndarray]:
    episodes = build.episodes
    steps = [(episode.plan, step) for episode in episodes for step in range(episode.plan.num_steps)]
    return {
        "action": np.concatenate([episode.action for episode in episodes]),
        "observation.state": np.concatenate([episode.proprio for episode in episodes]),
        "lineage.source_row": np.concatenate([episode.source_rows for episode in episodes]),
        "valid": np.concatenate([episode.valid for episode in episodes]),
        "task": np.array([plan.instruction for plan, _ in steps]),
        "episode_index": np.array([plan.episode_index for plan, _ in steps]),
        "frame_index": np.array([step for _, step in steps]),
        **{
            f"mark.observation.images.{view}": np.array(
                [(frame_number(view, step), plan.episode_index) for plan, step in steps]
            )
            for view, _, _ in build.group.views
        },
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
