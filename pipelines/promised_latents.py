"""Latents that a build makes itself: which they are, before any is there.

The identity of a release has the hashes of the rows that go into it. Of promised latents the keys stand for these hashes, until
they are made: keys name the frames and the encoder, so that an interrupted build is known again however many it had made.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pipelines.clip_encoder import shape_of
from pipelines.clips import EPISODE_COLUMNS, ClipSource, episode_clips
from pipelines.encoders import Encoder
from pipelines.joined_latents import LatentChoice
from pipelines.lake import Lake, quoted
from pipelines.rows import Row
from pipelines.selection import kept_rows
from pipelines.views import shown_views, views_fingerprint
from schemas.errors import RecipeError
from schemas.latent import ClipPlan
from schemas.recipes import BuildRecipe, EncodeRecipe


@dataclass(frozen=True, slots=True)
class PromisedLatents:
    """Every clip that an encode recipe cuts from the views that a build shows."""

    choice: LatentChoice
    sources: Mapping[str, tuple[ClipSource, ...]]
    """By episode id."""

    def among(self, rows: Iterable[Row]) -> list[Row]:
        """These and those ``rows`` of a lake that are of the same set, by key, which is their ``row_sha256``, too."""
        found = {
            row["latent_id"]: {**row, "row_sha256": row["latent_id"]}
            for row in rows
            if (row["encoder_fingerprint"], row["views_fingerprint"]) == self.choice
        }
        for clip in self._clips():
            found[clip.latent_id] = {
                "latent_id": clip.latent_id,
                "episode_id": clip.episode_id,
                "slot": clip.slot,
                "rate": clip.rate_told,
                "encoder_fingerprint": clip.encoder_fingerprint,
                "views_fingerprint": clip.views_fingerprint,
                "row_sha256": clip.latent_id,
            }
        return [found[key] for key in sorted(found)]

    def _clips(self) -> Iterator[ClipPlan]:
        return (clip for sources in self.sources.values() for source in sources for clip in source.clips)

    def missing(self, lake: Lake) -> dict[str, list[ClipSource]]:
        """By episode id: what the lake does not have."""
        encoder, views = self.choice
        condition = f"encoder_fingerprint = {quoted(encoder)} and views_fingerprint = {quoted(views)}"
        there = {row["latent_id"] for row in lake.rows("latents", [], condition)}
        found: dict[str, list[ClipSource]] = {}
        for episode_id, sources in self.sources.items():
            for source in sources:
                clips = tuple(clip for clip in source.clips if clip.latent_id not in there)
                if clips:
                    found.setdefault(episode_id, []).append(replace(source, clips=clips))
        return found


def promise(lake: Lake, recipe: BuildRecipe, encode: EncodeRecipe, encoder: Encoder) -> PromisedLatents:
    """What a build by ``recipe`` encodes by ``encode``, of the episodes that match its ``where``.

    Raises RecipeError where the build would not join these latents, or a size does not fit the encoder.
    """
    shape = shape_of(encoder)
    name, _, beginning = (recipe.encoder or "").partition("@")
    if recipe.content == "frames":
        raise RecipeError("the build joins no latents", "content", 'set content = "both", or leave out --encode')
    if name != shape.name or not shape.fingerprint.startswith(beginning):
        raise RecipeError(
            f"the build joins latents of {recipe.encoder}, and --encode makes those of {shape.name}@{shape.fingerprint[:8]}",
            "encoder",
            f'set encoder = "{shape.name}" in the recipe of the build',
        )
    views = views_fingerprint(encode.views)
    if recipe.views.canvas and views != views_fingerprint(recipe.views):
        raise RecipeError(
            f"the build shows the canvas {recipe.views.canvas}, and --encode makes latents of other pictures",
            "views",
            "give both recipes the same [views]",
        )
    sources: dict[str, tuple[ClipSource, ...]] = {}
    for row in kept_rows(lake, recipe.where, EPISODE_COLUMNS):
        shown = shown_views(recipe.views, {view["slot"] for view in row["views"]}).sources
        found = tuple(one for one in episode_clips(row, encode, shape).sources if one.slot in shown)
        if found:
            sources[row["episode_id"]] = found
    return PromisedLatents((shape.fingerprint, views), sources)
