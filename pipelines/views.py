"""View recipes: the size a view gets. (How it is fitted is done by the decoder, straight to that size.)"""

from schemas.episode import EncodedView
from schemas.recipes import ViewsRecipe


def target_size(views: ViewsRecipe, view: EncodedView) -> tuple[int, int]:
    """(height, width) in pixels that the recipe gives the view; one edge alone keeps the view's aspect."""
    if views.height_px and views.width_px:
        return views.height_px, views.width_px
    if views.height_px:
        return views.height_px, max(1, round(view.shown_width_px * views.height_px / view.height_px))
    if views.width_px:
        return max(1, round(view.height_px * views.width_px / view.shown_width_px)), views.width_px
    return view.height_px, view.shown_width_px
