"""Sets of version 3.0 with giga-datasets 1.1.0, through which GigaWorld-Policy reads them."""

from pathlib import Path
from typing import Any

from giga_datasets import LeRobotDataset

from tests.readers.compare import main


def items(folder: Path) -> Any:
    """The data set, with every column."""
    return LeRobotDataset(data_path=str(folder), data_columns=None)


if __name__ == "__main__":
    main(items)
