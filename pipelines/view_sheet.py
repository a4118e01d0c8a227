"""A sheet of what a view recipe makes of one episode: some of its frames, as the encoder would see them, in one picture."""

import numpy as np

from pipelines.clips import frame_grid
from pipelines.lake import Lake
from pipelines.rows import StoredEpisode
from pipelines.sheet import Sheet, draw_sheet, sheet_size
from pipelines.video import VideoTools
from pipelines.views import canvas_plan, shown_views, target_size
from schemas.errors import LakeError
from schemas.recipes import EncodeRecipe, ViewsRecipe


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
    sheet_size(sizes, num_frames)  # before anything is decoded
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
    return draw_sheet(sizes, pictures, times[columns])


def _frames(
    lake: Lake, video: VideoTools, episode: StoredEpisode, slot: str, ids: np.ndarray, views: ViewsRecipe
) -> np.ndarray:
    view = lake.video(episode.episode_id, slot, episode.views[slot])
    where = f"episode {episode.episode_id[:12]} view {slot}"
    return np.concatenate(list(video.decode(view, where, ids, views)))
