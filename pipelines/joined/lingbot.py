"""Reads the latents of LingBot-VA's segments back, with the embedding in each file and the empty one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.joined import HeldLatent, HeldText
from pipelines.torch_files import read_torch
from pipelines.windows import latent_spans


class _LingBot:
    """See ``JoinedProbe``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, episode: Mapping[str, Any], lineage: pa.Table) -> Iterator[HeldLatent | HeldText]:
        empty = self._folder / "empty_emb.pt"
        yield HeldText(str(empty), "", read_torch(empty).float().numpy(), "bfloat16")
        pattern = f"latents/chunk-*/*/episode_{episode['episode_index']:06d}_*.pth"
        for path in sorted(self._folder.glob(pattern)):
            view = path.parent.name.removeprefix("observation.images.")
            content = read_torch(path)
            count, rows, columns = (content[f"latent_{name}"] for name in ("num_frames", "height", "width"))
            values = content["latent"].float().numpy().reshape(count, rows, columns, -1).transpose(0, 3, 1, 2)
            frames = lineage[f"frame_id_{view}"].to_numpy()[np.array(content["frame_ids"])]
            stride = (len(frames) - 1) // max(1, count - 1)
            for latent, span in enumerate(latent_spans(1, stride, count)):
                shown = tuple(frames[slice(*span)].tolist())
                yield HeldLatent(str(path), view, shown, values[latent], latent=latent, dtype="bfloat16")
            steps = content["start_frame"], content["end_frame"]
            yield HeldText(str(path), content["text"], content["text_emb"].float().numpy(), "bfloat16", steps=steps)


def open_group(folder: Path, group: Mapping[str, Any]) -> _LingBot:  # noqa: ARG001 - of the protocol
    """See ``pipelines.joined``."""
    return _LingBot(folder)
