"""Cosmos-Predict2 video post-training: ``videos``, ``metas`` and ``t5_xxl`` with a file each per view of an episode.

``cosmos_predict2/data/dataset_video.py`` of nvidia-cosmos/cosmos-predict2 takes the videos of ``dataset_dir/videos`` for which
``t5_xxl`` has a pickle of the same name: a list with one float32 array [n, 1024], n at most 512, which it pads. It spreads its
frames over the whole video. ``metas`` are the prompts as text. Each split is such a folder, and every view of every episode a
video, so that a model sees all of them; ``views.canvas`` makes one video of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy import ndarray

from pipelines.episode_videos import EpisodeVideos
from pipelines.formats import (
    BuiltEpisode,
    EpisodePlan,
    GroupPlan,
    Pictures,
    UnitPlan,
    UnitProgress,
    UnitWriter,
    describe_group,
)
from pipelines.pickle_files import pickled_arrays
from pipelines.read_back import num_frames, read_index
from pipelines.release_texts import check_texts, embedding_of, episode_text, told
from pipelines.storage import json_bytes, write_durably
from schemas.errors import RecipeError, ReleaseError
from schemas.fingerprint import bytes_sha256
from schemas.recipes import BuildRecipe

INDEX = "wamloom.json"
TOKENS, WIDTH = 512, 1024
"""Of T5-11B's embeddings, as the loader pads them."""


class _CosmosVideoUnit:
    """Writes one unit; see ``CopyingWriter``."""

    copies = True

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        check_texts(recipe, "cosmos_video")
        if not unit.group.views:
            raise RecipeError(
                "cosmos_video is made of videos, and the build has no frames",
                "content",
                'set content = "frames" or "both"; robots without a camera have nothing for this trainer',
                "no_view",
            )
        self._recipe, self._folder = recipe, folder
        self._progress = UnitProgress(unit)
        self._videos = EpisodeVideos(self._progress, recipe, lambda plan, view: self._path(plan, "videos", view, "mp4"))
        self._rows: list[dict[str, Any]] = []

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        text = episode_text(episode.plan)
        embedding = embedding_of(episode, text)
        length, width = embedding.values.shape
        if width != WIDTH or length > TOKENS:
            raise ReleaseError(
                f"Cosmos-Predict2 takes embeddings of at most {TOKENS} x {WIDTH}, and {text[:80]!r} has {length} x {width}",
                f"episode {episode.plan.episode_id[:12]}",
                "make them with `wamloom texts --encoder t5` and the weights of T5-11B",
                "text_shape",
            )
        data = pickled_arrays([embedding.values])
        for view, _, _ in self._progress.unit.group.views:
            write_durably(self._path(episode.plan, "metas", view, "txt"), embedding.prompt.encode())
            write_durably(self._path(episode.plan, "t5_xxl", view, "pickle"), data)
        self._rows.append(
            {
                "episode_index": episode.plan.episode_index,
                "episode_id": episode.plan.episode_id,
                "split": episode.plan.split,
                "num_steps": episode.plan.num_steps,
                "invalid_steps": int((~episode.valid).sum()),
                "text": text,
                "other_texts": sorted({one for _, _, one in episode.plan.texts} - {text}),
                "t5_sha256": bytes_sha256(data),
                **told(embedding),
            }
        )

    def frames(self, slot: str, first_step: int, frames: ndarray) -> None:
        self._videos.frames(slot, first_step, frames)

    def copy(self, slot: str, video: bytes, _: Pictures) -> None:
        self._videos.copy(slot, video)

    def end(self) -> None:
        self._progress.end()
        self._videos.end()

    def close(self) -> dict[str, Any]:
        self._progress.close()
        return {"episodes": self._rows}

    def _path(self, plan: EpisodePlan, kind: str, view: str, ending: str) -> Path:
        return self._folder / plan.split / kind / f"episode_{plan.episode_index:06d}_{view}.{ending}"


class _CosmosVideo:
    name = "cosmos_video"
    beside = ""
    windowed = False
    takes_latents = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _CosmosVideoUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        rows = [row for _, facts in units for row in facts["episodes"]]
        described = {"format": self.name, "group": group.name, **describe_group(group, recipe), "episodes": rows}
        write_durably(folder / INDEX, json_bytes(described))
        videos = len(rows) * len(group.views)
        return {"samples": videos, "frames": group.num_steps * len(group.views), "episodes": len(rows)}

    def count(self, folder: Path) -> Mapping[str, int]:
        index = read_index(folder / INDEX)
        found = {"samples": 0, "frames": 0, "episodes": 0}
        for row in index["episodes"]:
            root = folder / row["split"]
            videos = sorted((root / "videos").glob(f"episode_{row['episode_index']:06d}_*.mp4"))
            for video in videos:
                text = root / "t5_xxl" / f"{video.stem}.pickle"
                if not text.exists() or bytes_sha256(text.read_bytes()) != row["t5_sha256"]:
                    raise ReleaseError(
                        "is not the embedding that was written", str(text), "build it again", "unreadable"
                    )
                found["frames"] += num_frames(video)
                found["samples"] += 1
            found["episodes"] += bool(videos)
        return found


FORMAT = _CosmosVideo()
