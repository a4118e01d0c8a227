"""LeRobot v2.1 with what GR00T and DreamZero read: one Parquet file and one MP4 per view for each episode."""

from pipelines.lerobot_v2 import LeRobotV2

FORMAT = LeRobotV2("lerobot_v21", "v2.1")
