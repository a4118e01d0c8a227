"""LingBot-VA: beside LeRobot v2.1, the latents of every language segment and camera, with the text's embedding in each.

``latents/chunk-000/observation.images.<view>/episode_000000_<start>_<end>.pth`` as ``wan_va/dataset/lerobot_latent_dataset.py``
of Robbyant/lingbot-va reads it, and ``empty_emb.pt`` for its ``empty_emb_path``. A segment is a sample there, and one that
lacks a file of any camera is passed over without a word: ``meta/lingbot_left_out.json`` tells of each of them, and why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.formats import UnitWriter
from pipelines.latent_steps import clip_steps
from pipelines.read_back import read_index
from pipelines.release_plan import BuiltEpisode, GroupPlan, UnitPlan, UnitProgress
from pipelines.release_texts import check_texts, embedding_of, told
from pipelines.storage import json_bytes, write_durably
from pipelines.text_rows import EMPTY
from pipelines.torch_files import read_torch, tensor, write_torch
from schemas.errors import RecipeError, ReleaseError
from schemas.latent import LatentClip
from schemas.recipes import BuildRecipe
from schemas.time import parse_rate

CHUNKS_SIZE = 1000
"""Episodes of a ``chunk-XXX`` folder, as LeRobot v2.1 has them."""
IMAGES = "observation.images."
TEMPORAL_STRIDE = 4
"""Frames of a latent behind the first, which the loader reckons with (``_action_post_process``)."""
EMPTY_FILE = "empty_emb.pt"
LEFT_OUT = "meta/lingbot_left_out.json"
_WHOLE = 'encode with clip.kind = "whole" and clip.bounds = ["language"]'


@dataclass(frozen=True, slots=True)
class _Segment:
    """A run of steps with one instruction."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """Why the trainer cannot have a segment."""

    reason: str
    message: str


_Chosen = Mapping[str, tuple[np.ndarray, LatentClip]]
"""By view its clip, with the steps of its frames."""


class _LingBotUnit:
    """Writes one unit; see ``UnitWriter``."""

    def __init__(self, unit: UnitPlan, folder: Path) -> None:
        self._folder = folder
        self._rate = parse_rate(unit.group.rate)
        self._views = {name: (height, width) for name, height, width in unit.group.views}
        self._progress = UnitProgress(unit, with_frames=False)
        self._facts: dict[str, Any] = {
            "segments": 0,
            "files": 0,
            "frames": 0,
            "episodes": 0,
            "left_out": [],
            "notes": [],
        }
        self._encoders: set[tuple[str, str]] = set()
        self._texts: dict[str, Any] = {}

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)

    def end(self) -> None:
        episode = self._progress.episode
        self._progress.end()
        empty = embedding_of(episode, EMPTY)
        self._texts = told(empty)
        write_torch(self._folder / EMPTY_FILE, tensor(empty.values, "bfloat16"))
        clips = {view: self._clips(episode, view) for view in self._views}
        written = 0
        for start, stop, text in episode.plan.texts:
            segment = _Segment(start, stop, text)
            row = {
                "episode_index": episode.plan.episode_index,
                "start_frame": start,
                "end_frame": stop,
                "text": text,
            }
            chosen = _choose(segment, clips)
            if isinstance(chosen, _LeftOut):
                self._facts["left_out"].append({**row, **asdict(chosen)})
                continue
            for view, (steps, clip) in chosen.items():
                self._write(episode, segment, view, steps, clip)
            written += 1
            steps = next(iter(chosen.values()))[0]
            self._note(row, episode, segment, steps)
        self._facts["segments"] += written
        self._facts["episodes"] += bool(written)

    def close(self) -> dict[str, Any]:
        self._progress.close()
        return {**self._facts, "encoders": sorted(map(list, self._encoders)), "texts": self._texts}

    def _clips(self, episode: BuiltEpisode, view: str) -> list[tuple[np.ndarray | None, LatentClip]]:
        """The clips of a view, each with the steps of its frames, where they have steps."""
        found = []
        for clip in episode.latents.get(view, ()):
            self._check(episode, view, clip)
            found.append((clip_steps(clip.plan, episode.times_ns, episode.frame_ids[view]), clip))
        return found

    def _check(self, episode: BuiltEpisode, view: str, clip: LatentClip) -> None:
        where = f"episode {episode.plan.episode_id[:12]} view {view}"
        count, _, rows, columns = clip.values.shape
        if (clip.leading_frames, clip.temporal_stride) != (1, TEMPORAL_STRIDE):
            raise ReleaseError(
                f"LingBot-VA takes latents of 1 + 4k frames, these are of {clip.leading_frames} + {clip.temporal_stride}k",
                where,
                'encode with wan22, and name it: encoder = "wan22"',
                "encoder",
            )
        if len(clip.plan.frame_ids) != 1 + TEMPORAL_STRIDE * (count - 1):
            raise ReleaseError(
                f"{count} latents of {len(clip.plan.frame_ids)} frames, which are not 1 + 4k",
                where,
                _WHOLE,
                "frame_count",
            )
        height, width = self._views[view]
        if height % rows or width % columns or height // rows != width // columns:
            raise ReleaseError(
                f"latents of {columns} x {rows} are not of frames of {width} x {height}",
                where,
                "build with the [views] that the latents were encoded with",
                "sizes",
            )

    def _write(self, episode: BuiltEpisode, segment: _Segment, view: str, steps: np.ndarray, clip: LatentClip) -> None:
        plan = episode.plan
        count, channels, rows, columns = clip.values.shape
        height, width = self._views[view]
        embedding = embedding_of(episode, segment.text)
        content = {
            "latent": tensor(clip.values.transpose(0, 2, 3, 1).reshape(-1, channels), "bfloat16"),
            "latent_num_frames": count,
            "latent_height": rows,
            "latent_width": columns,
            "video_num_frames": len(steps),
            "video_height": height,
            "video_width": width,
            "text_emb": tensor(embedding.values, "bfloat16"),
            "text": segment.text,
            "frame_ids": steps.tolist(),
            "start_frame": segment.start,
            "end_frame": segment.stop,
            "fps": _number(self._rate / int(steps[1] - steps[0])),
            "ori_fps": _number(self._rate),
        }
        write_torch(self._folder / latent_file(plan.episode_index, view, segment.start, segment.stop), content)
        self._encoders.add((clip.plan.encoder_fingerprint, clip.plan.views_fingerprint))
        self._facts["files"] += 1
        self._facts["frames"] += len(steps)

    def _note(self, row: Mapping[str, Any], episode: BuiltEpisode, segment: _Segment, steps: np.ndarray) -> None:
        """What of a segment that is written is not in its latents, beyond a tail of less than one latent."""
        first, last, stride = int(steps[0]), int(steps[-1]), int(steps[1] - steps[0])
        invalid = int((~episode.valid[first : last + 1]).sum())
        if first > segment.start or last + TEMPORAL_STRIDE * stride < segment.stop or invalid:
            told_steps = {"first_frame": first, "last_frame": last, "invalid_steps": invalid}
            self._facts["notes"].append({**row, **told_steps})


class _LingBot:
    name = "lingbot"
    beside = "lerobot_v21"
    windowed = False
    takes_latents = True

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        check_texts(recipe, self.name)
        if recipe.content != "both" or not unit.group.views:
            raise RecipeError(
                "LingBot-VA trains on latents and wants the videos to be there too",
                "content",
                f'set content = "both" and encoder = "wan22"; {_WHOLE}',
                "no_latents",
            )
        if recipe.segments.is_set:
            raise RecipeError(
                "samples of LingBot-VA are whole language segments, of which [segments] can take no part",
                "segments",
                'leave skip and within out; encode with clip.within = "keep" for latents of kept ranges alone',
            )
        return _LingBotUnit(unit, folder)

    def finish(
        self,
        group: GroupPlan,
        recipe: BuildRecipe,  # noqa: ARG002 - of the protocol
        units: Sequence[tuple[UnitPlan, Mapping[str, Any]]],
        folder: Path,
    ) -> Mapping[str, int]:
        left_out = [row for _, facts in units for row in facts["left_out"]]
        written = sum(facts["segments"] for _, facts in units)
        planned = sum(len(episode.texts) for unit, _ in units for episode in unit.episodes)
        if written + len(left_out) != planned:
            raise ReleaseError(
                f"{written} segments are written and {len(left_out)} left out, planned were {planned}",
                group.name,
                "build again",
                "off_plan",
            )
        if not written and any(row["reason"] != "too_short" for row in left_out):
            raise ReleaseError(
                f"none of its {planned} segments has latents: {left_out[0]['message']}",
                group.name,
                _WHOLE,
                "no_latents",
            )
        cameras = [IMAGES + name for name, _, _ in group.views]
        index = {
            "format": self.name,
            "cameras": cameras,
            "segments": {"planned": planned, "written": written, "left_out": len(left_out)},
            "left_out": left_out,
            "notes": [row for _, facts in units for row in facts["notes"]],
            "encoders": sorted({tuple(one) for _, facts in units for one in facts["encoders"]}),
            "texts": units[0][1]["texts"],
        }
        write_durably(folder / LEFT_OUT, json_bytes(index))
        return {
            "samples": written,
            "frames": sum(facts["frames"] for _, facts in units),
            "episodes": sum(facts["episodes"] for _, facts in units),
        }

    def count(self, folder: Path) -> Mapping[str, int]:
        index = read_index(folder / LEFT_OUT)
        read_torch(folder / EMPTY_FILE)
        frames = 0
        cameras_of: dict[str, set[str]] = {}
        for path in sorted(folder.glob("latents/chunk-*/*/*.pth")):
            content = read_torch(path)
            sizes = [content[f"latent_{name}"] for name in ("num_frames", "height", "width")]
            if content["latent"].shape[0] != np.prod(sizes) or len(content["frame_ids"]) != content["video_num_frames"]:
                raise ReleaseError("its latents are not as many as it says", str(path), "build it again", "unreadable")
            frames += content["video_num_frames"]
            cameras_of.setdefault(path.stem, set()).add(path.parent.name)
        whole = [stem for stem, cameras in cameras_of.items() if cameras == set(index["cameras"])]
        episodes = {stem.split("_")[1] for stem in whole}
        return {"samples": len(whole), "frames": frames, "episodes": len(episodes)}


def latent_file(episode_index: int, view: str, start: int, stop: int) -> str:
    """Where the latents of a segment lie, relative to the folder of the set."""
    chunk = f"chunk-{episode_index // CHUNKS_SIZE:03d}"
    return f"latents/{chunk}/{IMAGES}{view}/episode_{episode_index:06d}_{start}_{stop}.pth"


def _choose(
    segment: _Segment, clips: Mapping[str, Sequence[tuple[np.ndarray | None, LatentClip]]]
) -> _Chosen | _LeftOut:
    """The clips inside the segment that are of the same steps in every view: of several the longest, and of those the first."""
    usable: dict[str, dict[tuple[int, ...], tuple[np.ndarray, LatentClip]]] = {}
    for view, of_view in clips.items():
        inside = [
            (steps, clip)
            for steps, clip in of_view
            if steps is not None and segment.start <= steps[0] and steps[-1] < segment.stop
        ]
        if not inside:
            if segment.stop - segment.start <= TEMPORAL_STRIDE:
                return _LeftOut("too_short", f"{view}: {segment.stop - segment.start} steps hold no 5 frames")
            lost = sum(steps is None for steps, _ in of_view)
            why = f"; {lost} clips are of frames that no steps show" if lost else ""
            return _LeftOut("no_clip", f"{view}: none of its {len(of_view)} clips lies inside the segment{why}")
        longer = [(steps, clip) for steps, clip in inside if len(steps) > 1]
        if not longer:
            return _LeftOut("too_short", f"{view}: clips of one frame, and the loader takes the stride from two")
        even = [(steps, clip) for steps, clip in longer if len(set(np.diff(steps).tolist())) == 1]
        if not even:
            return _LeftOut("uneven", f"{view}: its frames lie at uneven distances of steps")
        usable[view] = {}
        for steps, clip in even:
            usable[view].setdefault(tuple(steps.tolist()), (steps, clip))
    shared = set.intersection(*(set(of_view) for of_view in usable.values()))
    if not shared:
        return _LeftOut("views_differ", "no clip is of the same steps in every view")
    best = min(shared, key=lambda steps: (-len(steps), steps))
    return {view: of_view[best] for view, of_view in usable.items()}


def _number(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


FORMAT = _LingBot()
