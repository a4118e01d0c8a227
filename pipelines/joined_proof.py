"""The proof of what a release joins: every latent and embedding that is looked at is the one that the lake has for those frames
or that instruction.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from pipelines import registry
from pipelines.build_texts import BuildTexts, text_kinds
from pipelines.formats import Format
from pipelines.joined import JoinedProbe
from pipelines.joined_latents import JoinedLatents
from pipelines.lake import Lake
from pipelines.probed import HeldLatent, HeldText
from pipelines.probes import Probe
from pipelines.problems import Verification
from pipelines.release_plan import EpisodePlan
from pipelines.rows import StoredEpisode
from pipelines.torch_files import tensor
from pipelines.windows import latent_spans
from schemas.recipes import BuildRecipe
from schemas.text_recipe import TextDtype

_Candidate = tuple[str, int, np.ndarray]
"""Id of the row in the lake, which latent of it, and its numbers [C, h, w]."""


class JoinedProof:
    """Compares with the latents of the set that a manifest names, and with the embeddings that a recipe asks for."""

    def __init__(
        self, lake: Lake, recipe: BuildRecipe, latents: Mapping[str, Any] | None, result: Verification
    ) -> None:
        choice = None if latents is None else (latents["encoder_fingerprint"], latents["views_fingerprint"])
        self._latents = JoinedLatents(lake, recipe, choice)
        self._texts = {name: BuildTexts(lake, kind) for name, kind in text_kinds(recipe).items()}
        self._result = result
        self._probes: dict[str, tuple[JoinedProbe | None, bool]] = {}
        self._known: tuple[str, dict[tuple[str, tuple[int, ...]], list[_Candidate]]] = ("", {})

    def open(self, name: str, folder: Path, group: Mapping[str, Any]) -> None:
        """A format of a group is looked at, which lies in ``folder``."""
        has_some = name in registry.names("joined")
        probe = registry.load("joined", name).open_group(folder, group) if has_some else None
        self._probes[name] = probe, cast(Format, registry.load("formats", name).FORMAT).windowed

    def of(
        self, name: str, episode: Mapping[str, Any], lineage: pa.Table, stored: StoredEpisode, rows: Probe | None
    ) -> Iterator[str]:
        """What is wrong with what a format holds for an episode; of those that have latents in samples, with a few of these."""
        probe, windowed = self._probes[name]
        plan = EpisodePlan.told_by(episode)
        if probe is not None:
            for held in probe.of(episode, lineage):
                if isinstance(held, HeldLatent):
                    yield from self._latent(held, stored)
                else:
                    yield from self._text(name, held, stored, plan)
        elif rows is not None:
            first, count = (plan.first_sample, plan.num_samples) if windowed else (plan.first_step, plan.num_steps)
            for number in sorted({first, first + count // 2, first + count - 1}) if count else ():
                for span in rows.sample(number).latents:
                    said = span.view, span.frame_ids, span.values, span.latent_id, span.latent
                    yield from self._latent(HeldLatent(f"sample {number}", *said), stored)

    def _latent(self, held: HeldLatent, stored: StoredEpisode) -> Iterator[str]:
        found = self._candidates(stored).get((held.view, held.frame_ids), [])
        if not found:
            yield f"{held.where}: the lake has no latent of frames {_told(held.frame_ids)} of {held.view}"
            return
        self._result.checked["latents_compared_with_the_lake"] += 1
        if not any(
            held.latent_id in (None, row) and held.latent in (None, at) and _same(held.values, values, held.dtype)
            for row, at, values in found
        ):
            yield f"{held.where}: the latent of frames {_told(held.frame_ids)} of {held.view} is not the lake's"

    def _text(self, name: str, held: HeldText, stored: StoredEpisode, plan: EpisodePlan) -> Iterator[str]:
        start, stop = held.steps or (0, 0)
        if held.steps is not None and (start, stop, held.text) not in plan.texts:
            yield f"{held.where}: steps {start} to {stop - 1} have other words than {held.text[:80]!r}"
            return
        texts = self._texts.get(name, self._texts.get(""))
        embedding = None if texts is None else texts.embeddings_of(stored, plan).get(held.text)
        if embedding is None:
            yield f"{held.where}: {held.text[:80]!r} is no instruction of this episode"
            return
        self._result.checked["texts_compared_with_the_lake"] += 1
        count = len(embedding.values)
        rest = held.values[count:]
        is_whole = not rest.any() if held.is_padded else not len(rest)
        if not is_whole or not _same(held.values[:count], embedding.values, held.dtype):
            yield f"{held.where}: the embedding of {held.text[:80]!r} is not the lake's"

    def _candidates(self, stored: StoredEpisode) -> dict[tuple[str, tuple[int, ...]], list[_Candidate]]:
        """By view and source frames: the latents of an episode that are of them; a causal one depends on its clip as well."""
        if self._known[0] != stored.episode_id:
            found: dict[tuple[str, tuple[int, ...]], list[_Candidate]] = {}
            for view, clips in self._latents.of(stored).items():
                for clip in clips:
                    spans = latent_spans(clip.leading_frames, clip.temporal_stride, len(clip.values))
                    for latent, span in enumerate(spans):
                        shown = view, clip.plan.frame_ids[slice(*span)]
                        found.setdefault(shown, []).append((clip.latent_id, latent, clip.values[latent]))
            self._known = stored.episode_id, found
        return self._known[1]


def _same(held: np.ndarray, given: np.ndarray, dtype: TextDtype | None) -> bool:
    """Whether they are equal once the lake's are rounded as the file's were."""
    wanted = given if dtype is None else tensor(given, dtype).float().numpy()
    return np.array_equal(held, wanted)


def _told(frames: tuple[int, ...]) -> str:
    return str(frames[0]) if len(frames) == 1 else f"{frames[0]} to {frames[-1]}"
