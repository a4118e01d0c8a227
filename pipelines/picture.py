"""Draws the scene of a simulated robot as a camera sees it: table, objects, links, gripper. Knows no motion and no file."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]

_OVERSAMPLING = 2
"""Drawn this much larger and averaged down, since PIL draws without anti-aliasing."""
_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 20, False)), np.sin(np.linspace(0, 2 * np.pi, 20, False))], axis=1)
_GRAIN = 3
"""Levels: enough that still parts of a picture are not perfectly flat, as no real camera's are."""
_NEAREST_M = 0.02
"""Points closer to the lens are moved to this distance, which keeps projections finite."""
_CUBE_FACES = ((0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5))
_FACE_SHADES = (0.55, 1.0, 0.8, 0.65, 0.7, 0.85)


@dataclass(frozen=True, slots=True)
class Lens:
    """A pinhole camera: where it stands, its axes (rows: right, down, forward) and focal length over image width."""

    position: np.ndarray
    axes: np.ndarray
    focal: float
    width_px: int
    height_px: int

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Oversampled pixels [n, 2] and depths in metres [n] of world points [n, 3]."""
        seen = (points - self.position) @ self.axes.T
        depth = np.maximum(seen[:, 2], _NEAREST_M)
        scale = self.focal * self.width_px * _OVERSAMPLING
        center = np.array([self.width_px, self.height_px]) * _OVERSAMPLING / 2
        return seen[:, :2] / depth[:, None] * scale + center, depth


def look_at(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Camera axes [3, 3] (rows: right, down, forward) of a camera at ``position`` that looks at ``target``."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, up)
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


@dataclass(frozen=True, slots=True)
class Solid:
    """An object on the table; ``center`` in metres, ``size_m`` its width."""

    shape: str
    """``cube``, ``ball``, ``can`` or ``disc`` (flat, to put things on)."""
    color: Color
    center: np.ndarray
    size_m: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A straight part of a robot from ``start`` to ``stop``, in metres."""

    start: np.ndarray
    stop: np.ndarray
    width_m: float
    color: Color
    joint: Color | None = None
    """Color of a round joint at ``start``."""


@dataclass(frozen=True, slots=True)
class Room:
    """What does not move. ``table`` is (low x, high x, low y, high y) in metres at height 0."""

    table: tuple[float, float, float, float]
    table_color: Color
    wall_color: Color
    grain_seed: int


def background(room: Room, lens: Lens) -> Image.Image:
    """Oversampled picture of the empty room with fine grain, which costs too much to draw for every frame."""
    image = Image.new("RGB", (lens.width_px * _OVERSAMPLING, lens.height_px * _OVERSAMPLING), room.wall_color)
    _paint_table(ImageDraw.Draw(image), room, lens)
    grain = np.random.default_rng(room.grain_seed).normal(0, _GRAIN, (lens.height_px, lens.width_px, 1))
    large = np.repeat(np.repeat(grain, _OVERSAMPLING, axis=0), _OVERSAMPLING, axis=1)
    return Image.fromarray(np.clip(np.asarray(image) + large, 0, 255).astype(np.uint8))


def paint(
    room: Room, lens: Lens, solids: Sequence[Solid], bars: Sequence[Bar], empty: Image.Image | None = None
) -> np.ndarray:
    """The scene as uint8 RGB [H, W, 3]; ``empty`` is the ``background`` of a camera that stands still."""
    if empty is None:
        image = Image.new("RGB", (lens.width_px * _OVERSAMPLING, lens.height_px * _OVERSAMPLING), room.wall_color)
        canvas = ImageDraw.Draw(image)
        _paint_table(canvas, room, lens)
    else:
        image = empty.copy()
        canvas = ImageDraw.Draw(image)
    for solid in solids:
        if solid.shape == "disc":
            _paint_disc(canvas, lens, solid.center, solid.size_m / 2, _shade(solid.color, 0.75))
            _paint_disc(canvas, lens, solid.center + np.array([0, 0, 0.004]), solid.size_m * 0.42, solid.color)
    shadow = _shade(room.table_color, 0.6)
    standing = [solid for solid in solids if solid.shape != "disc"]
    for solid in standing:
        _paint_disc(canvas, lens, np.array([*solid.center[:2], 0.001]), solid.size_m * 0.65, shadow)
    if bars:
        _paint_disc(canvas, lens, np.array([*bars[-1].stop[:2], 0.001]), 0.025, shadow)
    _paint_sorted(canvas, lens, standing, bars)
    return np.asarray(image.reduce(_OVERSAMPLING))


def _paint_sorted(canvas: ImageDraw.ImageDraw, lens: Lens, solids: Sequence[Solid], bars: Sequence[Bar]) -> None:
    """Far things first, so that near ones cover them."""
    things: list[Solid | Bar] = [*solids, *bars]
    centers = np.array(
        [thing.center if isinstance(thing, Solid) else (thing.start + thing.stop) / 2 for thing in things]
    )
    distances = np.linalg.norm(centers - lens.position, axis=1)
    for index in np.argsort(-distances, kind="stable"):
        thing = things[int(index)]
        if isinstance(thing, Bar):
            _paint_bar(canvas, lens, thing)
        elif thing.shape == "ball":
            _paint_ball(canvas, lens, thing)
        elif thing.shape == "can":
            _paint_can(canvas, lens, thing)
        else:
            _paint_cube(canvas, lens, thing)


def _paint_table(canvas: ImageDraw.ImageDraw, room: Room, lens: Lens) -> None:
    low_x, high_x, low_y, high_y = room.table
    corners = np.array([[low_x, low_y, 0], [high_x, low_y, 0], [high_x, high_y, 0], [low_x, high_y, 0]])
    _polygon(canvas, lens.project(corners)[0], room.table_color)
    line = _shade(room.table_color, 0.88)
    for y in np.arange(low_y, high_y + 1e-9, 0.1):
        ends, _ = lens.project(np.array([[low_x, y, 0], [high_x, y, 0]]))
        canvas.line([tuple(end) for end in ends], fill=line, width=_OVERSAMPLING)
    for x in np.arange(low_x, high_x + 1e-9, 0.1):
        ends, _ = lens.project(np.array([[x, low_y, 0], [x, high_y, 0]]))
        canvas.line([tuple(end) for end in ends], fill=line, width=_OVERSAMPLING)


def _paint_disc(canvas: ImageDraw.ImageDraw, lens: Lens, center: np.ndarray, radius_m: float, color: Color) -> None:
    rim = np.column_stack([center[:2] + _CIRCLE * radius_m, np.full(len(_CIRCLE), center[2])])
    _polygon(canvas, lens.project(rim)[0], color)


def _paint_cube(canvas: ImageDraw.ImageDraw, lens: Lens, solid: Solid) -> None:
    half = solid.size_m / 2
    corners = np.array([[x, y, z] for z in (-half, half) for y in (-half, half) for x in (-half, half)]) + solid.center
    pixels, depth = lens.project(corners)
    faces = sorted(range(6), key=lambda face: -float(depth[list(_CUBE_FACES[face])].mean()))
    for face in faces:
        _polygon(canvas, pixels[list(_CUBE_FACES[face])], _shade(solid.color, _FACE_SHADES[face]))


def _paint_can(canvas: ImageDraw.ImageDraw, lens: Lens, solid: Solid) -> None:
    half = np.array([0, 0, solid.size_m * 0.6])
    radius_m = solid.size_m * 0.4
    (bottom, top), depth = lens.project(np.stack([solid.center - half, solid.center + half]))
    width = 2 * radius_m * lens.focal * lens.width_px * _OVERSAMPLING / float(depth.mean())
    _paint_disc(canvas, lens, solid.center - half, radius_m, _shade(solid.color, 0.75))
    canvas.line([tuple(bottom), tuple(top)], fill=_shade(solid.color, 0.75), width=max(1, round(width)))
    _paint_disc(canvas, lens, solid.center + half, radius_m, solid.color)


def _paint_ball(canvas: ImageDraw.ImageDraw, lens: Lens, solid: Solid) -> None:
    (middle,), (depth,) = lens.project(solid.center[None])
    radius = solid.size_m / 2 * lens.focal * lens.width_px * _OVERSAMPLING / depth
    _circle(canvas, middle, radius, _shade(solid.color, 0.8))
    _circle(canvas, middle - radius * 0.25, radius * 0.55, solid.color)


def _paint_bar(canvas: ImageDraw.ImageDraw, lens: Lens, bar: Bar) -> None:
    (start, stop), depth = lens.project(np.stack([bar.start, bar.stop]))
    width = bar.width_m * lens.focal * lens.width_px * _OVERSAMPLING / float(depth.mean())
    canvas.line([tuple(start), tuple(stop)], fill=bar.color, width=max(1, round(width)))
    if bar.joint is not None:
        _circle(canvas, start, width * 0.7, bar.joint)


def _polygon(canvas: ImageDraw.ImageDraw, pixels: np.ndarray, color: Color) -> None:
    canvas.polygon([tuple(pixel) for pixel in pixels], fill=color)


def _circle(canvas: ImageDraw.ImageDraw, middle: np.ndarray, radius: float, color: Color) -> None:
    canvas.ellipse([*(middle - radius), *(middle + radius)], fill=color)


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = (int(part * factor) for part in color)
    return red, green, blue
