"""The encode line, planned: which clips of which kept episodes the lake does not have yet, packed into units.

``encode_unit.EncodeWorker`` decodes and encodes a unit into a staged file, ``encode_commit.LatentCommitter`` puts staged rows
into the lake.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines.clip_encoder import shape_of
from pipelines.clips import EPISODE_COLUMNS, ClipSource, EncoderShape, clip_bytes, episode_clips
from pipelines.encoders import Encoder
from pipelines.lake import Lake
from pipelines.selection import kept_rows
from pipelines.views import views_fingerprint
from schemas.errors import LakeError
from schemas.fingerprint import fingerprint
from schemas.recipes import EncodeRecipe
from schemas.work import WorkUnit


@dataclass(frozen=True, slots=True)
class EncodePlan:
    """What a run will do."""

    num_clips: int
    cached: int
    """Clips whose latents the lake has."""
    cached_frames: int
    """Frames of these, which need not be encoded again."""
    num_frames: int
    """Frames to encode, cached clips left out."""
    num_pixels: int
    """Of these frames, as the encoder sees them."""
    latent_bytes: int
    uncovered_frames: int
    """Frames in no clip: tails too short for the encoder, and what lies before the first phase."""
    unseen_frames: Mapping[str, int]
    """Frames in no clip since a view that belongs to them has not begun or is over, by that view."""
    without_view: Mapping[str, int]
    """Episodes that lack a view the canvas needs, by that view; they have no clips."""
    episodes: int
    units: tuple[WorkUnit, ...]
    encoder_fingerprint: str


def plan_encode(lake: Lake, recipe: EncodeRecipe, encoder: Encoder, where: str = "") -> EncodePlan:
    """Finds the clips of every kept episode and packs those that are missing into units.

    Raises LakeError where no kept episode matches or no clip can be cut, RecipeError where a view's size does not fit the
    encoder or a clip would not fit into memory.
    """
    rows = kept_rows(lake, where, EPISODE_COLUMNS)
    shape, views = shape_of(encoder), views_fingerprint(recipe.views)
    cached_ids = {
        row["latent_id"]
        for row in lake.rows(
            "latents", [], f"encoder_fingerprint = '{shape.fingerprint}' and views_fingerprint = '{views}'"
        )
    }
    works: list[ClipSource] = []
    without: Counter[str] = Counter()
    unseen: Counter[str] = Counter()
    num_clips = cached = cached_frames = num_frames = num_pixels = latent_bytes = left = 0
    for row in rows:
        found = episode_clips(row, recipe, shape)
        left += found.left
        for slot, frames in found.unseen:
            unseen[slot] += frames
        if found.missing_view:
            without[found.missing_view] += 1
        for source in found.sources:
            num_clips += len(source.clips)
            missing = tuple(clip for clip in source.clips if clip.latent_id not in cached_ids)
            cached += len(source.clips) - len(missing)
            frames = sum(len(clip.frame_ids) for clip in missing)
            cached_frames += sum(len(clip.frame_ids) for clip in source.clips) - frames
            num_frames += frames
            num_pixels += frames * source.height * source.width
            latent_bytes += sum(clip_bytes(source, clip, recipe, shape)[1] for clip in missing)
            if missing:
                works.append(replace(source, clips=missing))
    if not num_clips:
        raise _no_clips(lake, recipe, len(rows), left, unseen, without)
    return EncodePlan(
        num_clips,
        cached,
        cached_frames,
        num_frames,
        num_pixels,
        latent_bytes,
        left,
        dict(sorted(unseen.items())),
        dict(sorted(without.items())),
        len(rows),
        tuple(_units(works, recipe, shape)),
        shape.fingerprint,
    )


def _no_clips(
    lake: Lake, recipe: EncodeRecipe, num_rows: int, left: int, unseen: Mapping[str, int], without: Mapping[str, int]
) -> LakeError:
    wanted = recipe.views.canvas or ", ".join(recipe.views.slots) or "any view"
    lacking = "".join(f"; {number} have no view {slot}" for slot, number in without.items())
    lacking += "".join(f"; at {number} more there is nothing of {slot}" for slot, number in unseen.items())
    return LakeError(
        f"no clip of {wanted} can be cut from the {num_rows} episodes that match ({left} frames are too few{lacking})",
        str(lake.root),
        "see their views with `wamloom show LAKE`; change views.slots or views.canvas, clip.num_frames or rate",
        "empty",
    )


def _units(works: list[ClipSource], recipe: EncodeRecipe, shape: EncoderShape) -> list[WorkUnit]:
    packs: list[tuple[list[ClipSource], int, int]] = []
    for work in works:
        frames = sum(len(clip.frame_ids) for clip in work.clips)
        num_bytes = sum(sum(clip_bytes(work, clip, recipe, shape)) for clip in work.clips)
        if packs:
            pack, packed_frames, packed_bytes = packs[-1]
            fits = packed_frames + frames <= recipe.unit_frames
            if fits and packed_bytes + num_bytes <= recipe.unit_mb * 1_000_000:
                packs[-1] = ([*pack, work], packed_frames + frames, packed_bytes + num_bytes)
                continue
        packs.append(([work], frames, num_bytes))
    return [
        WorkUnit(
            fingerprint("encode-1", [clip.latent_id for work in pack for clip in work.clips], recipe.dtype),
            tuple(pack),
            num_bytes,
        )
        for pack, _, num_bytes in packs
    ]
