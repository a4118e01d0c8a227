"""View recipes: the size of a view, and canvases that make several views one picture, or one latent."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.cards import load_canvas
from schemas.canvas import Canvas, Fit, Tile
from schemas.embodiment import ViewSlot
from schemas.episode import EncodedView
from schemas.errors import LayoutError, RecipeError
from schemas.fingerprint import fingerprint
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


@dataclass(frozen=True, slots=True)
class Area:
    """Where a tile lies on a canvas, in pixels."""

    slot: ViewSlot
    top: int
    left: int
    height: int
    width: int
    optional: bool
    views: ViewsRecipe
    """How its view becomes pixels of this size."""

    def of(self, picture: np.ndarray, stride: int = 1) -> np.ndarray:
        """The part of ``picture`` [..., H, W] (divided by ``stride``) that this tile covers; a view of it."""
        top, left = self.top // stride, self.left // stride
        return picture[..., top : top + self.height // stride, left : left + self.width // stride]


@dataclass(frozen=True, slots=True)
class CanvasPlan:
    """A canvas at one size."""

    canvas: Canvas
    height: int
    width: int
    areas: tuple[Area, ...]

    @property
    def name(self) -> str:
        """What the canvas is called where views have slots."""
        return self.canvas.name

    @property
    def joins_latents(self) -> bool:
        """Whether tiles are encoded each by itself."""
        return self.canvas.join == "latents"

    def shown(self, slots: Sequence[str]) -> tuple[Area, ...]:
        """The areas of the views in ``slots``; () where one that is not optional is missing."""
        if any(area.slot not in slots and not area.optional for area in self.areas):
            return ()
        return tuple(area for area in self.areas if area.slot in slots)

    def missing(self, slots: Sequence[str]) -> str:
        """The first view that has to be there and is not; empty where none is."""
        return next((area.slot for area in self.areas if area.slot not in slots and not area.optional), "")

    def picture(self, areas: Sequence[Area], tiles: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [F, H, W, 3] of ``tiles`` uint8 [F, h, w, 3], one for each of ``areas``; black elsewhere."""
        canvas: np.ndarray = np.zeros((len(tiles[0]), self.height, self.width, 3), dtype=np.uint8)
        for area, tile in zip(areas, tiles, strict=True):
            canvas[:, area.top : area.top + area.height, area.left : area.left + area.width] = tile
        return canvas

    def latent(self, areas: Sequence[Area], tiles: Sequence[np.ndarray], stride: int) -> np.ndarray:
        """float32 [L, C, H/stride, W/stride] of latents [L, C, h/stride, w/stride]; zero elsewhere."""
        num_latents, channels = tiles[0].shape[:2]
        shape = (num_latents, channels, self.height // stride, self.width // stride)
        canvas: np.ndarray = np.zeros(shape, dtype=np.float32)
        for area, tile in zip(areas, tiles, strict=True):
            area.of(canvas, stride)[:] = tile
        return canvas

    def check_multiple(self, multiple: int, encoder: str) -> None:
        """Raises RecipeError, naming the nearest right size, where an encoder cannot take what it is to be given."""
        if self.joins_latents:
            for area in self.areas:
                edges = (area.top, area.left, area.height, area.width)
                if any(edge % multiple for edge in edges):
                    raise RecipeError(
                        f"{encoder} takes multiples of {multiple} px, and the tile of {area.slot} is {area.height}x{area.width} "
                        f"at {area.top}, {area.left}",
                        f"views.canvas {self.name}",
                        self._hint(multiple),
                    )
        elif self.height % multiple or self.width % multiple:
            raise RecipeError(
                f"{encoder} takes multiples of {multiple} px, and the canvas would be {self.height}x{self.width}",
                f"views.canvas {self.name}",
                self._hint(multiple),
            )

    def _hint(self, multiple: int) -> str:
        height, width = nearest_size(self.canvas, self.height, self.width, multiple)
        return f"set views.height_px={height} and views.width_px={width} where it is encoded"


def canvas_plan(views: ViewsRecipe) -> CanvasPlan | None:
    """The canvas of a recipe at its size; None where it has none.

    Raises CardError where there is no such canvas, RecipeError where its tiles would not be whole pixels, naming the nearest
    size at which they are.
    """
    if not views.canvas:
        return None
    canvas = load_canvas(views.canvas)
    height, width = canvas.height_px, canvas.width_px
    if views.height_px and views.width_px:
        height, width = views.height_px, views.width_px
    elif views.height_px:
        height, width = views.height_px, max(1, round(width * views.height_px / height))
    elif views.width_px:
        height, width = max(1, round(height * views.width_px / width)), views.width_px
    for tile in canvas.tiles:
        edges = (tile.top * height, tile.height * height, tile.left * width, tile.width * width)
        if any(edge.denominator != 1 for edge in edges):
            near = nearest_size(canvas, height, width, 1)
            raise RecipeError(
                f"the tile of {tile.slot} would not be whole pixels on a canvas of {height}x{width}",
                f"views.canvas {canvas.name}",
                f"--set views.height_px={near[0]} --set views.width_px={near[1]}",
            )
    return CanvasPlan(canvas, height, width, tuple(_area(tile, canvas, height, width, views) for tile in canvas.tiles))


def _area(tile: Tile, canvas: Canvas, height: int, width: int, views: ViewsRecipe) -> Area:
    top, left = int(tile.top * height), int(tile.left * width)
    tall, wide = int(tile.height * height), int(tile.width * width)
    fit: Fit = tile.fit or canvas.fit
    how = ViewsRecipe(height_px=tall, width_px=wide, fit=fit, filter=views.filter)
    return Area(tile.slot, top, left, tall, wide, tile.optional, how)


def nearest_size(canvas: Canvas, height: int, width: int, multiple: int) -> tuple[int, int]:
    """The (height, width) next to the given one at which every edge of every tile is a multiple of ``multiple`` pixels."""
    found = []
    for size, shares in (
        (height, [share for tile in canvas.tiles for share in (tile.top, tile.height)]),
        (width, [share for tile in canvas.tiles for share in (tile.left, tile.width)]),
    ):
        step = multiple * math.lcm(*(share.denominator for share in shares))
        found.append(max(step, round(size / step) * step))
    return found[0], found[1]


@dataclass(frozen=True, slots=True)
class ShownViews:
    """What a recipe shows of one episode."""

    slots: tuple[str, ...]
    """The views that are looked at."""
    sources: Mapping[str, str]
    """What samples call a picture, and the view whose frames it has: a slot and itself, or a canvas and its first view."""
    missing: str = ""
    """A view that has to be there and is not."""


def shown_views(views: ViewsRecipe, found: Collection[str]) -> ShownViews:
    """What ``views`` shows of an episode that has the views ``found``."""
    canvas = canvas_plan(views)
    if canvas is None:
        slots: tuple[str, ...] = views.slots or tuple(sorted(found))
        missing = next((slot for slot in slots if slot not in found), "")
        return ShownViews(slots, {slot: slot for slot in slots}, missing)
    areas = canvas.shown(tuple(found))
    if not areas:
        return ShownViews((), {}, canvas.missing(tuple(found)))
    slots = tuple(area.slot for area in areas)
    return ShownViews(slots, {canvas.name: slots[0]})


def picture_sizes(views: ViewsRecipe, found: Mapping[str, EncodedView]) -> tuple[tuple[str, int, int], ...]:
    """(name, height, width) in pixels of every picture that ``views`` shows of an episode with the views ``found``."""
    canvas = canvas_plan(views)
    if canvas is not None:
        return ((canvas.name, canvas.height, canvas.width),)
    return tuple((slot, *target_size(views, found[slot])) for slot in shown_views(views, found).slots)


def views_fingerprint(views: ViewsRecipe) -> str:
    """Identity of how pixels are made; the choice of slots is not part of it, since every slot has its own row."""
    plan = canvas_plan(views)
    if plan is None:
        return fingerprint("views-1", views.model_dump(mode="json", exclude={"slots", "canvas"}))
    meaning = plan.canvas.model_dump(mode="json", exclude={"title", "source", "notes", "height_px", "width_px"})
    return fingerprint("canvas-1", meaning, plan.height, plan.width, views.filter)


def check_tiles(tiles: Sequence[np.ndarray], where: str) -> None:
    """Raises LayoutError where the tiles of one canvas have different numbers of frames, or of latent frames."""
    if len({len(tile) for tile in tiles}) > 1:
        raise LayoutError(f"the tiles have {', '.join(str(len(tile)) for tile in tiles)} frames", where)
