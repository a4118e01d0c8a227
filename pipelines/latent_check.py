"""Are the latents of a lake of the frames they name? Some clips are decoded back and compared with their source."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.alignment import UNLIKE_DB, best_lag, psnr_by_lag, worst_lag
from pipelines.clip_reader import ClipReader
from pipelines.clips import ClipSource, areas_of
from pipelines.encoders import Encoder
from pipelines.lake import Lake, quoted
from pipelines.problems import Problem
from pipelines.rows import Row
from pipelines.views import Area, picture_sizes, views_fingerprint
from schemas.episode import EncodedView
from schemas.errors import LakeError, UsageError
from schemas.fingerprint import fingerprint
from schemas.latent import ClipPlan
from schemas.recipes import EncodeRecipe

UNIT_MEAN, UNIT_STD = 2.0, (0.1, 10.0)
"""Within these lie the mean and the deviation of latents that should have 0 and 1; robot video is not what encoders saw."""

_COLUMNS = [
    "slot", "frame_ids", "tiles", "times_ns", "dtype", "shape", "data", "encoder_fingerprint", "views_fingerprint",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClipCheck:
    """What was found of one clip."""

    latent_id: str
    where: str
    psnr: float
    """dB at lag 0, over all frames, of the worst tile; infinite where decoding gives the very pixels."""
    lag: int | None
    """Frames by which the latents lag their source where they match best; None: the picture stands still."""
    mean: float
    std: float
    """Of the latents."""

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON; an infinite PSNR is null."""
        psnr = None if math.isinf(self.psnr) else round(self.psnr, 2)
        return {"latent_id": self.latent_id, "where": self.where, "psnr_db": psnr, "lag": self.lag,
                "mean": round(self.mean, 4), "std": round(self.std, 4)}  # fmt: skip


def check_latents(
    lake: Lake, recipe: EncodeRecipe, encoder: Encoder, number: int
) -> tuple[list[ClipCheck], list[Problem]]:
    """Up to ``number`` clips of the recipe's encoder and views, chosen by a hash, and what is wrong with them.

    Raises LakeError where there are none, UsageError where the encoder does not decode.
    """
    if not encoder.can_decode:
        raise UsageError(
            f"{encoder.name} gives features, which do not decode to pictures", hint="verify without --latents"
        )
    condition = (
        f"encoder_fingerprint = {quoted(encoder.fingerprint)} and "
        f"views_fingerprint = {quoted(views_fingerprint(recipe.views))}"
    )
    slots = recipe.views.slots  # of which the fingerprint does not tell
    rows = lake.rows("latents", ["slot"], condition)
    ids = [row["latent_id"] for row in rows if not slots or row["slot"] in slots]
    if not ids:
        raise LakeError(
            f"there are no {encoder.name} latents of these weights and views",
            str(lake.root),
            "give the recipe they were encoded with (--recipe, --encoder, --weights, --set)",
            "no_latents",
        )
    chosen = sorted(ids, key=lambda latent_id: fingerprint("check-1", latent_id))[:number]
    reader = ClipReader(lake, recipe)
    checks, problems = [], []
    try:
        for latent_id in chosen:
            (row,) = lake.rows("latents", ["episode_id", *_COLUMNS], f"latent_id = {quoted(latent_id)}")
            one = _check(lake, reader, recipe, encoder, row)
            checks.append(one)
            problems += [Problem(one.where, message) for message in _wrong(one, encoder)]
    finally:
        reader.close()
    return checks, problems


def _wrong(check: ClipCheck, encoder: Encoder) -> list[str]:
    found = []
    if check.psnr < UNLIKE_DB:
        found.append(f"the latents decode to something else than their frames: {check.psnr:.1f} dB")
    if check.lag:
        found.append(f"the latents lag their frames by {check.lag}")
    low, high = UNIT_STD
    if encoder.unit_scale and not (abs(check.mean) <= UNIT_MEAN and low <= check.std <= high):
        found.append(
            f"the latents have mean {check.mean:.3g} and deviation {check.std:.3g}, and should have about 0 and 1"
        )
    return found


def _check(lake: Lake, reader: ClipReader, recipe: EncodeRecipe, encoder: Encoder, row: Row) -> ClipCheck:
    episode = lake.episode(row["episode_id"])
    tiles = tuple((tile["slot"], tuple(tile["frame_ids"])) for tile in row["tiles"] or [])
    clip = ClipPlan(
        row["episode_id"],
        row["slot"],
        row["views_fingerprint"],
        row["encoder_fingerprint"],
        tuple(row["frame_ids"]),
        tuple(row["times_ns"]),
        None,
        tiles=tiles,
    )
    source = _source(row["slot"], [slot for slot, _ in tiles] or [row["slot"]], episode.views, recipe, clip)
    values = np.frombuffer(row["data"], np.dtype(row["dtype"])).reshape(row["shape"]).astype(np.float32)
    pictures = reader.parts(source, clip)
    if reader.canvas is None:
        decoded: list[np.ndarray] = [encoder.decode(values)]
    else:  # tile by tile, since one may lag, or be of something else, where all together look well
        areas = areas_of(reader.canvas, source)
        if reader.canvas.joins_latents:
            stride = encoder.spatial_stride
            decoded = [encoder.decode(np.ascontiguousarray(area.of(values, stride))) for area in areas]
        else:
            decoded = _cut(encoder.decode(values), areas)
            pictures = tuple(_cut(pictures[0], areas))
    by_lag = [psnr_by_lag(one, two) for one, two in zip(decoded, pictures, strict=True)]
    return ClipCheck(
        str(row["latent_id"]),
        f"latent {row['latent_id'][:12]} of {source.where}",
        min(one[0] for one in by_lag),
        worst_lag([best_lag(one) for one in by_lag]),
        float(values.mean()),
        float(values.std()),
    )


def _source(
    name: str, slots: list[str], views: Mapping[str, EncodedView], recipe: EncodeRecipe, clip: ClipPlan
) -> ClipSource:
    of_one = recipe.views if recipe.views.canvas else recipe.views.model_copy(update={"slots": (name,)})
    ((_, height, width),) = picture_sizes(of_one, views)
    return ClipSource(clip.episode_id, name, height, width, tuple((slot, views[slot]) for slot in slots), (clip,))


def _cut(pictures: np.ndarray, areas: Sequence[Area]) -> list[np.ndarray]:
    """uint8 [F, h, w, 3] of each area of ``pictures`` [F, H, W, 3]."""
    return [pictures[:, area.top : area.top + area.height, area.left : area.left + area.width] for area in areas]
