"""Ctrl-World, IRASim, VPP and Cosmos-Predict2: an annotation, a video per camera and latents of each frame, per episode.

``annotation/<split>/<id>.json``, ``videos/<split>/<id>/<camera>.mp4``, ``latent_videos/<split>/<id>/<camera>.pt`` float32
[frames, C, h, w], and ``dataset_meta_info/<group>/`` with the samples of each split and ``stat.json``. Read by ``Dataset_mix``
of Ctrl-World (``dataset/dataset_droid_exp33.py``, of VPP ``video_dataset/dataset_mix.py``, both as copies by others have
them) and ``Dataset_3D`` of bytedance/IRASim. Ctrl-World takes state ``3 * i`` for frame ``i``: ``[ctrlworld] frame_stride``.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.annotations import arm_numbers, check_arm, numbers_of_arm, sample_frames, samples_json
from pipelines.formats import UnitWriter, describe_group
from pipelines.latent_steps import FrameLatents
from pipelines.read_back import num_frames, read_index, read_json
from pipelines.release_plan import BuiltEpisode, EpisodePlan, GroupPlan, Pictures, Split, UnitPlan, UnitProgress
from pipelines.storage import json_bytes, write_durably
from pipelines.torch_files import read_torch, tensor, write_torch
from pipelines.video_writer import VideoWriter
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe
from schemas.time import parse_rate, rate_text

META = "dataset_meta_info"
SPLITS: tuple[Split, ...] = ("train", "val")


class _CtrlWorldUnit:
    """Writes one unit; see ``CopyingWriter``."""

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        self._unit, self._recipe, self._folder = unit, recipe, folder
        self._stride = recipe.ctrlworld.frame_stride
        self.copies = self._stride == 1
        self._rate = parse_rate(unit.group.rate) / self._stride
        self._progress = UnitProgress(unit)
        self._videos: dict[str, VideoWriter] = {}
        self._rows: list[dict[str, Any]] = []
        for _, height, width in unit.group.views:  # what the encoder refuses is told at once
            VideoWriter(folder / "trial.mp4", self._rate, height, width, recipe.video).abandon()

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        self._videos = {
            view: VideoWriter(
                self._folder / _video(episode.plan, camera), self._rate, height, width, self._recipe.video
            )
            for camera, (view, height, width) in enumerate(self._unit.group.views)
        }

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._progress.frames(slot, first_step, frames)
        shown = frames[-first_step % self._stride :: self._stride]
        if len(shown):
            self._videos[slot].write(shown, key_frame=first_step == 0)

    def copy(self, slot: str, video: bytes, _: Pictures) -> None:
        self._videos[slot].copy(video)
        self._progress.copied(slot, self._videos[slot].num_frames)

    def end(self) -> None:
        episode = self._progress.episode
        self._progress.end()
        for video in self._videos.values():
            video.close()
        self._videos = {}
        if self._recipe.content == "both":
            for camera, (view, _, _) in enumerate(self._unit.group.views):
                values = tensor(self._latents(episode, view), "float32")
                write_torch(self._folder / _latent(episode.plan, camera), values)
        text = json.dumps(self._annotation(episode), ensure_ascii=False, allow_nan=False)
        write_durably(self._folder / _annotation_file(episode.plan), (text + "\n").encode())
        usable = episode.valid if episode.selected is None else episode.valid & episode.selected
        self._rows.append(
            {
                "id": episode.plan.episode_index,
                "split": episode.plan.split,
                "num_frames": len(range(0, episode.plan.num_steps, self._stride)),
                "samples": sample_frames(usable, episode.chunk_stops, self._stride),
                "invalid_steps": int((~episode.valid).sum()),
            }
        )

    def close(self) -> dict[str, Any]:
        self._progress.close()
        return {"episodes": self._rows}

    def _latents(self, episode: BuiltEpisode, view: str) -> np.ndarray:
        """float32 [frames, C, h, w]: that of each frame of the video, from an encoder that sees each frame by itself."""
        where = f"episode {episode.plan.episode_id[:12]} view {view}"
        clips = episode.latents.get(view, ())
        for clip in clips:
            if (clip.leading_frames, clip.temporal_stride) != (1, 1):
                raise ReleaseError(
                    f"these formats take a latent for each frame, these are of {clip.temporal_stride} frames",
                    where,
                    'encode with svd (or sdxl, for IRASim), and name it: encoder = "svd"',
                    "encoder",
                )
        latents, found = FrameLatents(clips), []
        for step in range(0, episode.plan.num_steps, self._stride):
            frame, time_ns = int(episode.frame_ids[view][step]), int(episode.times_ns[step])
            # what does not count shows a picture that nobody took then, and has the latent that was there last
            values = latents.of(frame, time_ns) if episode.valid[step] else latents.before(frame, time_ns)
            if values is None:
                raise ReleaseError(
                    f"step {step} shows frame {frame}, which has no latent",
                    where,
                    "encode and build on one grid, such as rate = 15 with frame_stride = 3 and latent_rate = "
                    '"5"; or encode every frame (frame_stride = 1, latent_rate = "native")',
                    "no_latents",
                )
            found.append(values)
        return np.stack(found).astype(np.float32)

    def _annotation(self, episode: BuiltEpisode) -> dict[str, Any]:
        plan, cameras = episode.plan, range(len(self._unit.group.views))
        if not (np.isfinite(episode.proprio).all() and np.isfinite(episode.action).all()):
            raise ReleaseError(
                "numbers that are not finite have no place in JSON",
                f"episode {plan.episode_id[:12]}",
                "leave the episode out with --where",
                "not_finite",
            )
        num_frames = len(range(0, plan.num_steps, self._stride))
        facts: dict[str, Any] = {
            "texts": list(dict.fromkeys((plan.instruction, *(t for _, _, t in plan.texts), *plan.other_instructions))),
            "episode_id": plan.episode_index,
            "success": None if plan.success is None else int(plan.success),
            "video_length": num_frames,
            "state_length": num_frames,
            "raw_length": plan.num_steps,
            "videos": [{"video_path": _video(plan, camera)} for camera in cameras],
        }
        if facts["success"] is None:
            del facts["success"]  # nobody said
        if self._recipe.content == "both":
            facts["latent_videos"] = [{"latent_video_path": _latent(plan, camera)} for camera in cameras]
        facts |= numbers_of_arm(self._unit.group.card, episode.proprio, episode.action, self._stride)
        if not episode.valid.all():
            facts["invalid_steps"] = np.flatnonzero(~episode.valid).tolist()
        lineage = {"episode": plan.episode_id, "location": episode.location, "source_key": episode.source_key}
        return facts | {"lineage": lineage}


class _CtrlWorld:
    name = "ctrlworld"
    beside = ""
    windowed = False
    takes_latents = True

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        check_arm(unit.group.card, self.name)
        if recipe.normalize != "none":
            raise RecipeError(
                "these trainers normalize by stat.json, and the recipe would have done so before",
                "normalize",
                'set normalize = "none"',
            )
        if recipe.content == "latents" or not unit.group.views:
            raise RecipeError(
                "annotations are of videos, and there are none",
                "content",
                'set content = "both" for videos and latents, or "frames" for videos alone, and name the views',
            )
        return _CtrlWorldUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        rows = [row for _, facts in units for row in facts["episodes"]]
        if len(rows) != group.num_episodes:
            raise ReleaseError(
                f"{len(rows)} episodes were written, {group.num_episodes} were planned",
                group.name,
                "build again",
                "off_plan",
            )
        meta, stride = folder / META / group.name, recipe.ctrlworld.frame_stride
        samples = {
            split: samples_json({r["id"]: r["samples"] for r in rows if r["split"] == split}) for split in SPLITS
        }
        for split, found in samples.items():
            write_durably(meta / f"{split}_sample.json", (json.dumps(found) + "\n").encode())
        index = {
            "format": self.name,
            "group": group.name,
            **describe_group(group, recipe),
            "cameras": [name for name, _, _ in group.views],
            "frame_stride": stride,
            "video_rate": rate_text(parse_rate(group.rate) / stride),
            "num_episodes": {split: sum(row["split"] == split for row in rows) for split in SPLITS},
            "num_samples": {split: len(found) for split, found in samples.items()},
            "invalid_steps": {str(row["id"]): row["invalid_steps"] for row in rows if row["invalid_steps"]},
        }
        write_durably(meta / "index.json", json_bytes(index))
        arm, stats = arm_numbers(group.card.proprio, group.card.proprio_grippers), group.normalizing("proprio")
        state = [*arm.pose, *arm.gripper]
        bounds = {"state_01": stats.q01[state].tolist(), "state_99": stats.q99[state].tolist()}
        write_durably(meta / "stat.json", json_bytes(bounds))
        frames = sum(row["num_frames"] for row in rows) * len(group.views)
        return {"samples": sum(map(len, samples.values())), "frames": frames, "episodes": len(rows)}

    def count(self, folder: Path) -> Mapping[str, int]:
        found = sorted((folder / META).glob("*/stat.json"))
        if not found:
            raise ReleaseError("no stat.json: this release was never finished", str(folder), "build it again")
        meta = found[0].parent
        if {len(values) for values in read_index(meta / "stat.json").values()} != {7}:
            raise ReleaseError("it is not of 7 numbers", str(found[0]), "build it again", "unreadable")
        samples = frames = episodes = 0
        for split in SPLITS:
            lengths = {}
            for path in sorted((folder / "annotation" / split).glob("*.json")):
                facts = read_index(path)
                lengths[facts["episode_id"]] = facts["video_length"]
                frames += sum(num_frames(folder / one["video_path"]) for one in facts["videos"])
                for one in facts.get("latent_videos", ()):
                    if len(read_torch(folder / one["latent_video_path"])) != facts["video_length"]:
                        raise ReleaseError(
                            f"{one['latent_video_path']} is not of {facts['video_length']} frames",
                            str(path),
                            "build it again",
                            "unreadable",
                        )
            listed = read_json(meta / f"{split}_sample.json")
            samples += sum(max(one["frame_ids"]) < lengths.get(one["episode_id"], 0) for one in listed)
            episodes += len(lengths)
        return {"samples": samples, "frames": frames, "episodes": episodes}


def _annotation_file(plan: EpisodePlan) -> str:
    return f"annotation/{plan.split}/{plan.episode_index}.json"


def _video(plan: EpisodePlan, camera: int) -> str:
    return f"videos/{plan.split}/{plan.episode_index}/{camera}.mp4"


def _latent(plan: EpisodePlan, camera: int) -> str:
    return f"latent_videos/{plan.split}/{plan.episode_index}/{camera}.pt"


FORMAT = _CtrlWorld()
