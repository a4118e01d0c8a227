"""Small made rows of the episodes table, for tests that need a lake and no recordings."""

import pyarrow as pa

from pipelines.rows import Row, staged_table
from schemas.tables import STAGED_EPISODES


def made_row(episode_id: str, *, video: bytes | None = b"video", key: str = "e0", outcome: str = "kept") -> Row:
    """A row that hashes and stores, without meaning."""
    row: Row = {field.name: None for field in STAGED_EPISODES}
    return row | {
        "episode_id": episode_id,
        "outcome": outcome,
        "reason": "",
        "dataset": "made",
        "locations": [{"location": "/data", "key": key, "split": "train", "dataset": "made", "state": "s", "revision": 1}],
        "streams": [
            {"name": "x", "dtype": "<f8", "shape": [2], "data": bytes(16), "times_ns": [0, 1], "clock": "declared"}
        ],
        "views": [
            {
                "slot": "primary", "key": "cam", "codec": "h264", "container": "mov", "width_px": 4, "height_px": 4,
                "num_frames": 1, "first_frame": 0, "times_ns": [0], "num_bytes": len(video or b""),
                "sha256": __import__("hashlib").sha256(video or b"").hexdigest(), "packets_sha256": "p", "how": "copied",
                "is_depth": False, "file": "",
            }
        ],
        "video_primary": video,
        "num_steps": 2,
        "duration_ns": 1,
    }  # fmt: skip


def made_table(*rows: Row) -> pa.Table:
    """The rows as staged."""
    return staged_table(rows)
