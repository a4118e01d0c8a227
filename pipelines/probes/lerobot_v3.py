"""Reads LeRobot v3.0 releases back as LeRobot does: several episodes to a file, found by the rows of ``meta/episodes``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.lerobot_probe import LeRobotProbe, Place


class _LeRobotV3(LeRobotProbe):
    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        super().__init__(folder, group)
        rows = [row for path in sorted((folder / "meta/episodes").rglob("*.parquet")) for row in _episode_rows(path)]
        self._episodes = {row["episode_index"]: row for row in rows}

    def _data(self, episode_index: int) -> Path:
        row = self._episodes[episode_index]
        names = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        return Path(self._info["data_path"].format(**names))

    def _tasks(self) -> dict[int, str]:
        table = pq.read_table(self._folder / "meta/tasks.parquet", page_checksum_verification=True)
        return dict(zip(table["task_index"].to_pylist(), table["task"].to_pylist(), strict=True))

    def _place(self, episode_index: int, key: str) -> Place:
        row = self._episodes[episode_index]
        names = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
        path = Path(self._info["video_path"].format(video_key=key, **names))
        return Place(path, row[f"videos/{key}/from_timestamp"])


def _episode_rows(path: Path) -> list[dict[str, Any]]:
    names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
    rows: list[dict[str, Any]] = pq.read_table(path, columns=names, page_checksum_verification=True).to_pylist()
    return rows


def open_group(folder: Path, group: Mapping[str, Any]) -> _LeRobotV3:
    """The probe of a group's folder."""
    return _LeRobotV3(folder, group)
