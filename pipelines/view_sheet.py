"""A sheet of what a view recipe makes of one episode: some of its frames, as the encoder would see them, in one picture."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pipelines.clips import frame_grid
from pipelines.lake import Lake
from pipelines.rows import StoredEpisode
from pipelines.video import VideoTools
from pipelines.views import canvas_plan, shown_views, target_size
from schemas.errors import LakeError, RecipeError
from schemas.recipes import EncodeRecipe, ViewsRecipe

MAX_SHEET_PIXELS = 1 << 26
_MARGIN, _LINE = 6, 16
"""Pixels around pictures, and of a line of text."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A PNG and what is on it."""

    png: bytes
    width: int
    height: int
    rows: tuple[tuple[str, int, int], ...]
    """(name, height, width) of the pictures of each row."""
    times_ns: tuple[int, ...]
    """Of the columns."""


def view_sheet(lake: Lake, episode: StoredEpisode, recipe: EncodeRecipe, num_frames: int) -> Sheet:
    """``num_frames`` columns, evenly over the episode, and a row for each picture that the recipe shows.

    Raises LakeError where the episode lacks a view that is asked for, RecipeError where the sheet would be too large.
    """
    shown = shown_views(recipe.views, episode.views)
    where = f"episode {episode.episode_id[:12]}"
    if shown.missing:
        raise LakeError(
            f"it has no view {shown.missing}",
            where,
            f"it has {', '.join(sorted(episode.views)) or 'none'}",
            "missing_view",
        )
    canvas = canvas_plan(recipe.views)
    views = [episode.views[slot] for slot in shown.slots]
    sizes = (
        [(canvas.name, canvas.height, canvas.width)]
        if canvas
        else [(slot, *target_size(recipe.views, view)) for slot, view in zip(shown.slots, views, strict=True)]
    )
    width = max(size[2] for size in sizes) * num_frames + _MARGIN * (num_frames + 1)
    height = sum(size[1] + _LINE + _MARGIN for size in sizes) + _LINE + _MARGIN
    if width * height > MAX_SHEET_PIXELS:
        raise RecipeError(
            f"the sheet would have {width} x {height} pixels", "views", "show fewer frames, or set a smaller size"
        )
    grid = frame_grid(views, int(max(view.times_ns[-1] for view in views)), recipe.rate)
    ids, times = grid.frame_ids, grid.times_ns
    if not len(times):
        raise LakeError("there is no moment at which every view has a frame", where, reason="empty")
    columns = np.unique(np.linspace(0, len(times) - 1, num_frames).round().astype(np.int64))
    video = VideoTools(recipe.limits)
    try:
        decoded = [
            _frames(lake, video, episode, slot, one[columns], views_of)
            for slot, one, views_of in zip(
                shown.slots,
                ids,
                [area.views for area in canvas.shown(shown.slots)] if canvas else [recipe.views] * len(views),
                strict=True,
            )
        ]
    finally:
        video.close()
    pictures = [canvas.picture(canvas.shown(shown.slots), decoded)] if canvas else decoded
    return _drawn(sizes, pictures, times[columns], (width, height))


def _frames(
    lake: Lake, video: VideoTools, episode: StoredEpisode, slot: str, ids: np.ndarray, views: ViewsRecipe
) -> np.ndarray:
    view = lake.video(episode.episode_id, slot, episode.views[slot])
    where = f"episode {episode.episode_id[:12]} view {slot}"
    return np.concatenate(list(video.decode(view, where, ids, views)))


def _drawn(
    sizes: list[tuple[str, int, int]], pictures: list[np.ndarray], times: np.ndarray, size: tuple[int, int]
) -> Sheet:
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    step = max(width for _, _, width in sizes) + _MARGIN
    for column, time_ns in enumerate(times.tolist()):
        pen.text((_MARGIN + column * step, _MARGIN // 2), f"{time_ns / 1e9:.3f} s", fill="black")
    top = _LINE + _MARGIN
    for (name, height, width), frames in zip(sizes, pictures, strict=True):
        pen.text((_MARGIN, top), f"{name}, {height} x {width} px (height x width)", fill="black")
        for column, frame in enumerate(frames):
            sheet.paste(Image.fromarray(frame), (_MARGIN + column * step, top + _LINE))
        top += height + _LINE + _MARGIN
    data = io.BytesIO()
    sheet.save(data, "PNG")
    return Sheet(data.getvalue(), *size, tuple(sizes), tuple(times.tolist()))
