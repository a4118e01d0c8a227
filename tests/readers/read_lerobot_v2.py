"""Sets of version 2.0 and 2.1 with LeRobot 0.3.3, the last that reads them."""

from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from tests.readers.compare import main


def items(folder: Path) -> Any:
    """The data set, whose statistics are as wide as its features; windows of actions are those of the rows."""
    found = LeRobotDataset("made/up", root=folder, video_backend="pyav")
    period = 1 / found.fps
    for name in ("action", "observation.state"):
        assert np.shape(found.meta.stats[name]["mean"]) == found.meta.features[name]["shape"]
    for key in found.meta.video_keys:
        assert np.shape(found.meta.stats[key]["mean"]) == (3, 1, 1)
    window = LeRobotDataset(
        "made/up", root=folder, video_backend="pyav", delta_timestamps={"action": [0.0, period, 2 * period]}
    )
    rows = np.stack([np.asarray(found.hf_dataset[index]["action"]) for index in range(3)])
    np.testing.assert_array_equal(np.asarray(window[0]["action"]), rows)
    return found


if __name__ == "__main__":
    main(items)
