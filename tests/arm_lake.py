"""A lake of DROID recordings with poses, grippers, three cameras and calibrations, small and with numbered frames."""

from collections.abc import Sequence
from pathlib import Path

from tests.chain import run_ingest
from tests.clips import encode, pictures
from tests.droid_tree import EXT1, EXT2, WRIST, columns, metadata, write_recording


def arm_lake(root: Path, lengths: Sequence[int] = (12, 9, 7)) -> Path:
    """``root/lake``, of recordings of these lengths below ``root/recordings``; every third one is a failure."""
    for number, length in enumerate(lengths):
        outcome = "failure" if number % 3 == 2 else "success"
        folder = f"AUTOLab/{outcome}/2023-07-07/Fri_Jul__7_09:{42 + number}:23_2023"
        uuid = f"AUTOLab+5d05c5aa+2023-07-07-09h-{42 + number}m-23s"
        videos = {
            f"{serial}.mp4": encode("h264", pictures(length, tag=3 * number + camera))
            for camera, serial in enumerate((WRIST, EXT1, EXT2))
        }
        facts = metadata(uuid=uuid, success=outcome == "success", trajectory_length=length)
        write_recording(root / "recordings", folder, columns(length, seed=number), facts, videos)
    values = run_ingest([root / "recordings"], root / "lake").values
    assert values["kept"] == len(lengths), values["problems"]
    return root / "lake"
