"""LeRobot v2.0 with what GR00T and DreamZero read: as v2.1, without the statistics of single episodes."""

from pipelines.lerobot_v2 import LeRobotV2

FORMAT = LeRobotV2("lerobot_v20", "v2.0")
