"""Latents that a build makes itself: which they are, before any is there.

The identity of a release has the hashes of the rows that go into it. Of promised latents the keys stand for these hashes, until
they are made: keys name the frames and the encoder, so that an interrupted build is known again however many it had made.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from pipelines.clip_encoder import shape_of
from pipelines.clips import EPISODE_COLUMNS, ClipSource, episode_clips
from pipelines.encoders import Encoder
from pipelines.joined_latents import LatentChoice, of_choice, sampling_of
from pipelines.lake import Lake
from pipelines.rows import Row
from pipelines.selection import kept_rows
from pipelines.views import shown_views, views_fingerprint
from schemas.errors import RecipeError
from schemas.latent import ClipPlan
from schemas.recipes import BuildRecipe, EncodeRecipe, ViewsRecipe, validate_model


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

    @property
    def keys(self) -> set[str]:
        """Of all of them."""
        return {clip.latent_id for clip in self._clips()}

    def _clips(self) -> Iterator[ClipPlan]:
        return (clip for sources in self.sources.values() for source in sources for clip in source.clips)

    def only(self, episode_ids: Collection[str]) -> "PromisedLatents":
        """Those of these episodes."""
        return replace(self, sources={key: some for key, some in self.sources.items() if key in episode_ids})

    def missing(self, lake: Lake) -> dict[str, list[ClipSource]]:
        """By episode id: what the lake does not have."""
        there = {row["latent_id"] for row in lake.rows("latents", [], of_choice(self.choice))}
        found: dict[str, list[ClipSource]] = {}
        for episode_id, sources in self.sources.items():
            for source in sources:
                clips = tuple(clip for clip in source.clips if clip.latent_id not in there)
                if clips:
                    found.setdefault(episode_id, []).append(replace(source, clips=clips))
        return found


def completed(said: EncodeRecipe, recipe: BuildRecipe) -> EncodeRecipe:
    """The encode recipe that ``said`` means for a build by ``recipe``: fields that it does not set are as the build needs them.

    Raises RecipeError where the build would not join these latents.
    """
    if recipe.content == "frames":
        raise RecipeError("the build joins no latents", "content", 'set content = "both", or leave out --encode')
    if recipe.encoder is None:
        raise RecipeError("the build does not say whose latents it joins", "encoder", 'name one: encoder = "wavelet"')
    name = recipe.encoder.partition("@")[0]
    known = said.model_dump(exclude_unset=True)
    if known.get("encoder", name) != name:
        raise RecipeError(
            f"the build joins latents of {name}, and --encode names {known['encoder']}",
            "encoder",
            "leave encoder out of the recipe of --encode, or name the same one in that of the build",
        )
    rate, stride = sampling_of(recipe, said.rate)
    views = {**recipe.views.model_dump(exclude_unset=True), **known.pop("views", {})}
    needed = {"encoder": name, "rate": rate, "frame_stride": stride, "views": views}
    complete = validate_model(EncodeRecipe, {**needed, **known}, "--encode")
    canvases = recipe.views.canvas or complete.views.canvas
    if canvases and views_fingerprint(complete.views) != views_fingerprint(recipe.views):
        raise RecipeError(
            f"the build shows {_told(recipe.views)}, and --encode makes latents of {_told(complete.views)}",
            "views",
            "leave [views] out of the recipe of --encode",
        )
    return complete


def _told(views: ViewsRecipe) -> str:
    if not views.canvas:
        return "single views"
    return f"the canvas {views.canvas}" + (f" of {views.width_px}x{views.height_px}" if views.width_px else "")


def promise(lake: Lake, recipe: BuildRecipe, encode: EncodeRecipe, encoder: Encoder) -> PromisedLatents:
    """What a build by ``recipe`` encodes by ``encode``, which is ``completed``, of the episodes that match its ``where``.

    Raises RecipeError where they are another encoder's than the build joins, or a size does not fit the encoder.
    """
    shape = shape_of(encoder)
    beginning = (recipe.encoder or "").partition("@")[2]
    if not shape.fingerprint.startswith(beginning):
        raise RecipeError(
            f"the build joins latents of {recipe.encoder}, and --encode makes those of {shape.name}@{shape.fingerprint[:8]}",
            "encoder",
            f'give the weights and options of that one, or set encoder = "{shape.name}" in the recipe of the build',
        )
    sources: dict[str, tuple[ClipSource, ...]] = {}
    for row in kept_rows(lake, recipe.where, EPISODE_COLUMNS):
        shown = shown_views(recipe.views, {view["slot"] for view in row["views"]}).sources
        found = tuple(one for one in episode_clips(row, encode, shape).sources if one.clips and one.slot in shown)
        if found:
            sources[row["episode_id"]] = found
    return PromisedLatents((shape.fingerprint, views_fingerprint(encode.views)), sources)
