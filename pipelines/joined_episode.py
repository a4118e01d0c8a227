"""What the lake has for an episode of a release, as the members of ``pipelines.joined`` compare with it what a format holds."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.release_plan import EpisodePlan
from pipelines.text_rows import TextEmbedding
from pipelines.torch_files import tensor
from pipelines.windows import latent_spans
from schemas.latent import LatentClip
from schemas.text_recipe import TextDtype


@dataclass(frozen=True, slots=True)
class LakeLatent:
    """One latent frame of a clip."""

    clip: LatentClip
    latent: int

    @property
    def values(self) -> np.ndarray:
        """[C, h, w]."""
        return np.asarray(self.clip.values[self.latent])


@dataclass(frozen=True)
class JoinedEpisode:
    """One episode, as the release planned it, with what was to be joined to it."""

    plan: EpisodePlan
    lineage: pa.Table
    """Its rows of it."""
    clips: Mapping[str, Sequence[LatentClip]]
    """By view, in time order; {} where the lake has none."""
    joins_latents: bool
    """Whether the build joins latents."""
    embeddings: Mapping[str, TextEmbedding]
    """By instruction, and of the empty one: of the format's kind; {} where the build joins none."""
    is_unchanged: bool
    """Whether the lake has what it had when the release was built, and no further latents of the episode."""
    compared: Counter[str]
    """Counts what was compared."""

    @cached_property
    def latents(self) -> dict[tuple[str, tuple[int, ...]], list[LakeLatent]]:
        """By view and source frames: the latents that are of them; a causal one depends on its clip as well."""
        found: dict[tuple[str, tuple[int, ...]], list[LakeLatent]] = {}
        for view, clips in self.clips.items():
            for clip in clips:
                spans = latent_spans(clip.leading_frames, clip.temporal_stride, len(clip.values))
                for latent, span in enumerate(spans):
                    shown = view, clip.plan.frame_ids[slice(*span)]
                    found.setdefault(shown, []).append(LakeLatent(clip, latent))
        return found

    def latent(
        self,
        path: Path,
        view: str,
        frames: tuple[int, ...],
        values: np.ndarray,
        dtype: TextDtype | None = None,
        latent: int | None = None,
    ) -> Iterator[str]:
        """What is wrong with ``values`` [C, h, w], rounded to ``dtype`` or as the lake keeps them, that are held for these source
        frames; ``latent`` tells which of its clip it must be.
        """
        found = self.latents.get((view, frames), [])
        if not found:
            yield f"{path}: the lake has no latent of {_told(frames)} of {view}"
            return
        self.compared["latents_compared_with_the_lake"] += 1
        if not any(latent in (None, one.latent) and is_same(values, one.values, dtype) for one in found):
            yield f"{path}: the latent of {_told(frames)} of {view} is not the lake's"

    def text(self, path: Path, text: str, values: np.ndarray, dtype: TextDtype) -> Iterator[str]:
        """What is wrong with ``values`` [n, D], rounded to ``dtype``, that are held for an instruction of the episode."""
        self.compared["texts_compared_with_the_lake"] += 1
        if not is_same(values, self.embeddings[text].values, dtype):
            yield f"{path}: the embedding of {text[:80]!r} is not the lake's"


def is_same(held: np.ndarray, given: np.ndarray, dtype: TextDtype | None) -> bool:
    """Whether the lake's ``given``, rounded as the file's numbers were (None: not at all), are ``held``."""
    if dtype is None:
        return held.dtype == given.dtype and np.array_equal(held, given)
    return np.array_equal(held, tensor(given, dtype).float().numpy())


def _told(frames: tuple[int, ...]) -> str:
    return f"frame {frames[0]}" if len(frames) == 1 else f"frames {frames[0]} to {frames[-1]}"
