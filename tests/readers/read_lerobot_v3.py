"""Sets of version 3.0 with LeRobot 0.4.4, which GigaWorld-Policy pins."""

from pathlib import Path
from typing import Any

from lerobot.datasets.lerobot_dataset import LeRobotDataset

from tests.readers.compare import main


def items(folder: Path) -> Any:
    """The data set."""
    return LeRobotDataset("made/up", root=folder, video_backend="pyav")


if __name__ == "__main__":
    main(items)
