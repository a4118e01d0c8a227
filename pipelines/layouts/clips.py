"""Writes simulated episodes as Ctrl-World and IRASim do: one JSON annotation per episode beside one MP4 per camera."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.simulate import SimulatedEpisode
from pipelines.video_writer import VideoWriter
from schemas.recipes import VideoRecipe

_SPLIT = "train"
_VIDEO = VideoRecipe(codec="h264", gop=12, crf=23, preset="veryfast")


def write(episodes: Sequence[SimulatedEpisode], folder: Path) -> None:
    """Writes the set into ``folder``, which must be empty or absent; all episodes are of one robot."""
    for index, episode in enumerate(episodes):
        videos = [f"videos/{_SPLIT}/{index}/{camera}.mp4" for camera in range(len(episode.robot.cameras))]
        for name, camera in zip(videos, episode.robot.cameras, strict=True):
            target = folder / name
            video = VideoWriter(target, episode.robot.control_rate, camera.height_px, camera.width_px, _VIDEO)
            for frame in episode.frames(camera.slot):
                video.write(frame[None])
            video.close()
        annotation = folder / "annotation" / _SPLIT / f"{index}.json"
        annotation.parent.mkdir(parents=True, exist_ok=True)
        annotation.write_text(json.dumps(_annotation(episode, index, videos), ensure_ascii=False))


def _annotation(episode: SimulatedEpisode, index: int, videos: Sequence[str]) -> dict[str, Any]:
    """The doubles nearest to the 32-bit numbers, so that nothing is lost in their decimals."""
    return {
        "texts": [episode.instruction],
        "episode_id": index,
        "success": int(episode.success),
        "video_length": len(episode.frame_numbers),
        "state_length": episode.num_steps,
        "videos": [{"video_path": name} for name in videos],
        "state": episode.proprio.tolist(),
        "action": episode.action.tolist(),
    }
