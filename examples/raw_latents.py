"""Reads the latents beside a LeRobot v3.0 group: python examples/raw_latents.py RELEASE GROUP [ENCODER_FINGERPRINT]

Latents are safetensors, one clip a file, [L, C, h, w]. Given a fingerprint, those of another encoder are refused. Clips go to
ranks of torchrun (RANK, WORLD_SIZE) and their workers, each to one of them.
"""

import json
import os
import sys
from pathlib import Path

from safetensors import safe_open
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

NUM_WORKERS = 2


class Clips(IterableDataset):
    """(name, latents [L, C, h, w], facts) of every clip that falls to this worker."""

    def __init__(self, release: Path, group: str) -> None:
        self.files = sorted((release / "lerobot_v3" / group / "latents").rglob("*.safetensors"))

    def __iter__(self):
        info, rank = get_worker_info(), int(os.environ.get("RANK", "0"))
        workers, worker = (info.num_workers, info.id) if info else (1, 0)
        parts = int(os.environ.get("WORLD_SIZE", "1")) * workers
        for path in self.files[rank * workers + worker :: parts]:
            with safe_open(str(path), "pt") as file:
                # frame_ids, times_ns, temporal_stride, leading_frames and the fingerprints of encoder and views
                yield str(path), file.get_tensor("latents"), json.loads(file.metadata()["wamloom"])


def main(release: str, group: str, fingerprint: str = "") -> None:
    """Goes once over the clips and prints what it saw."""
    made_by = json.loads((Path(release) / "manifest.json").read_text())["latents"]["encoder_fingerprint"]
    if fingerprint and fingerprint != made_by:
        sys.exit(f"these latents are of encoder {made_by}, not {fingerprint}")
    for path, latents, facts in DataLoader(Clips(Path(release), group), batch_size=None, num_workers=NUM_WORKERS):
        print("sample", Path(path).stem, facts["slot"], tuple(latents.shape), len(facts["frame_ids"]))


if __name__ == "__main__":  # workers import this file
    main(*sys.argv[1:])
