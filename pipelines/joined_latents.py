"""Latents of a lake as a build joins them to the steps of an episode."""

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

import numpy as np

from pipelines.lake import Lake, quoted
from pipelines.resample import nominal_period_ns
from pipelines.rows import Row, StoredEpisode
from pipelines.views import shown_views
from schemas.episode import EncodedView
from schemas.errors import LakeError
from schemas.fingerprint import array_sha256
from schemas.latent import ClipPlan, LatentClip, hertz_of, is_same_rate
from schemas.recipes import BuildRecipe, ViewsRecipe
from schemas.time import NANOSECONDS, parse_rate, rate_text

LatentChoice = tuple[str, str]
"""(encoder fingerprint, views fingerprint) of the latents that a build joins."""


def of_choice(choice: LatentChoice) -> str:
    """The filter for rows of latents of a choice."""
    encoder, views = choice
    return f"encoder_fingerprint = {quoted(encoder)} and views_fingerprint = {quoted(views)}"


def latent_rate(recipe: BuildRecipe) -> str:
    """The rate of the latents that a build joins, as the lake tells it."""
    return recipe.latent_rate or ("native" if recipe.rate is None else rate_text(recipe.rate))


def sampling_of(recipe: BuildRecipe, grid: Fraction | None = None) -> tuple[str, int]:
    """``rate`` and ``frame_stride`` of an encode recipe that makes the latents a build joins; ``grid`` where the rate is chosen
    already, else that of the steps.
    """
    told = latent_rate(recipe)
    native, _, stride = told.partition("/")
    if native == "native":
        return native, int(stride or 1)
    grid = grid or recipe.rate
    if grid is not None:  # of which the frames are some
        times = grid / parse_rate(told)
        if times > 1 and times.denominator == 1:
            return rate_text(grid), int(times)
    return told, 1


def camera_hz(found: Mapping[str, EncodedView], name: str, views: ViewsRecipe) -> float:
    """Frames a second of a view, or of the first view of a canvas; 0 where they are not known."""
    view = found.get(shown_views(views, found).sources.get(name, name))
    period = nominal_period_ns(view.times_ns) if view is not None else 0
    return NANOSECONDS / period if period else 0.0


_COLUMNS = [
    "slot",
    "rate",
    "frame_ids",
    "tiles",
    "times_ns",
    "dtype",
    "shape",
    "data",
    "data_sha256",
    "temporal_stride",
    "leading_frames",
]


class JoinedLatents:
    """Those of one choice, by one recipe."""

    def __init__(self, lake: Lake, recipe: BuildRecipe, choice: LatentChoice | None) -> None:
        self._lake, self._recipe, self._choice = lake, recipe, choice

    def of(
        self, stored: StoredEpisode, made: Sequence[Row] = (), keys: Collection[str] | None = None
    ) -> dict[str, list[LatentClip]]:
        """By view, in time order: the latents of an episode that the lake has, and those ``made`` since; of ``keys`` alone, where
        some are given; {} without a choice.

        Raises LakeError where they are damaged.
        """
        if self._choice is None:
            return {}
        encoder, views = self._choice
        wanted = latent_rate(self._recipe)
        rows = self._lake.rows(
            "latents",
            _COLUMNS,
            f"episode_id = {quoted(stored.episode_id)} and {of_choice(self._choice)}",
        )
        clips: dict[str, list[LatentClip]] = {}
        names = shown_views(self._recipe.views, stored.views).sources
        rows = sorted([*rows, *made], key=lambda row: str(row["latent_id"]))
        rows = [row for row in rows if keys is None or row["latent_id"] in keys]
        for row in sorted(rows, key=lambda row: (row["slot"], row["times_ns"][0], len(row["times_ns"]))):
            hertz = camera_hz(stored.views, row["slot"], self._recipe.views)
            if row["slot"] not in names or not is_same_rate(row["rate"], wanted, hertz):
                continue
            values = np.frombuffer(row["data"], dtype=np.dtype(row["dtype"])).reshape(row["shape"])
            if array_sha256(values) != row["data_sha256"]:
                raise LakeError(
                    "the latents are damaged: their hash is another",
                    f"latent {row['latent_id'][:12]} of episode {stored.episode_id[:12]}",
                    "restore the lake from a copy, or encode into a new lake",
                    "hash_mismatch",
                )
            native, _, stride = row["rate"].partition("/")
            plan = ClipPlan(
                stored.episode_id,
                row["slot"],
                views,
                encoder,
                tuple(row["frame_ids"]),
                tuple(row["times_ns"]),
                None if native == "native" else parse_rate(row["rate"]),
                int(stride or 1) if native == "native" else 1,
                tuple((tile["slot"], tuple(tile["frame_ids"])) for tile in row["tiles"] or []),
            )
            clips.setdefault(self._recipe.names.view(row["slot"]), []).append(
                LatentClip(
                    plan,
                    values,
                    row["temporal_stride"],
                    row["leading_frames"],
                    row["latent_id"],
                    round(NANOSECONDS / rate) if (rate := hertz_of(row["rate"], hertz)) else 0,
                )
            )
        return clips
