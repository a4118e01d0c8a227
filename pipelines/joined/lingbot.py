"""Proves LingBot-VA's files: of every segment that is not told to be left out, in each view, its latents and its embedding."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.joined import JoinedEpisode
from pipelines.read_back import read_index
from pipelines.torch_files import read_numbers, read_torch
from pipelines.windows import latent_spans
from schemas.time import parse_rate

_IMAGES = "observation.images."


class _LingBot:
    """See ``JoinedProbe``. Holds which segments are left out."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder = folder
        index = read_index(folder / "meta/lingbot_left_out.json")
        self._left_out = {(row["episode_index"], row["start_frame"], row["end_frame"]) for row in index["left_out"]}
        self._views = [view["slot"] for view in group["views"]]
        self._rate = parse_rate(group["rate"])

    def problems(self, episode: JoinedEpisode) -> Iterator[str]:
        """See ``JoinedProbe``."""
        number = episode.plan.episode_index
        empty = self._folder / "empty_emb.pt"
        yield from episode.text(empty, "", read_numbers(empty, read_torch(empty), "bfloat16", 2), "bfloat16")
        wanted = {
            self._path(number, view, start, stop): (view, start, stop, text)
            for start, stop, text in episode.plan.texts
            for view in self._views
            if (number, start, stop) not in self._left_out
        }
        there = sorted(self._folder.glob(f"latents/*/*/episode_{number:06d}_*.pth"))
        yield from (f"{path}: the episode has no such segment" for path in there if path not in wanted)
        for path, (view, start, stop, text) in wanted.items():
            yield from self._segment(episode, path, view, (start, stop), text)

    def _segment(
        self, episode: JoinedEpisode, path: Path, view: str, span: tuple[int, int], text: str
    ) -> Iterator[str]:
        content = read_torch(path)
        if (content["start_frame"], content["end_frame"], content["text"]) != (*span, text):
            yield f"{path}: its segment is another, or has other words"
            return
        count, rows, columns = (int(content[f"latent_{name}"]) for name in ("num_frames", "height", "width"))
        flat = read_numbers(path, content["latent"], "bfloat16", 2)
        values = flat.reshape(count, rows, columns, -1).transpose(0, 3, 1, 2)
        steps = np.array(content["frame_ids"])
        if len(steps) < 2 or steps[0] < span[0] or steps[-1] >= span[1] or np.any(np.diff(steps, 2)):
            yield f"{path}: its frames are not at even distances inside its segment"
            return
        frames = episode.lineage[f"frame_id_{view}"].to_numpy()[steps]
        rate = self._rate / int(steps[1] - steps[0])
        if (content["ori_fps"], content["fps"]) != (float(self._rate), float(rate)):
            yield f"{path}: its rates are not those of its frames"
        stride = (len(frames) - 1) // max(1, count - 1)
        for latent, part in enumerate(latent_spans(1, stride, count)):
            shown = tuple(frames[slice(*part)].tolist())
            yield from episode.latent(path, view, shown, values[latent], "bfloat16", latent)
        yield from episode.text(path, text, read_numbers(path, content["text_emb"], "bfloat16", 2), "bfloat16")

    def _path(self, number: int, view: str, start: int, stop: int) -> Path:
        name = f"episode_{number:06d}_{start}_{stop}.pth"
        return self._folder / f"latents/chunk-{number // 1000:03d}" / (_IMAGES + view) / name


def open_group(folder: Path, group: Mapping[str, Any]) -> _LingBot:
    """See ``pipelines.joined``."""
    return _LingBot(folder, group)
