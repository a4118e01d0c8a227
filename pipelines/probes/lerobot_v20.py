"""Reads LeRobot v2.0 releases back as their readers do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.lerobot_probe import LeRobotV2Probe


def open_group(folder: Path, group: Mapping[str, Any]) -> LeRobotV2Probe:
    """The probe of a group's folder."""
    return LeRobotV2Probe(folder, group)
