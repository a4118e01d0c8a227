"""Reads a LeRobot v2.1 folder as GR00T's loader does, with pandas and decord."""

from pipelines.lerobot_v2_reader import problems

__all__ = ["problems"]
