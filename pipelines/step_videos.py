"""Views whose compressed frames a release takes over from the lake as they are: nothing is lost, and next to nothing computed."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.lake import Lake
from pipelines.numbers import Origin
from pipelines.rows import StoredEpisode
from pipelines.video import VideoTools
from pipelines.video_facts import VideoFacts
from pipelines.video_writer import PIXEL_FORMAT
from schemas.dataset_card import UPRIGHT
from schemas.episode import EncodedView
from schemas.recipes import BuildRecipe

Shown = tuple[StoredEpisode, Mapping[str, Origin]]
"""An episode, and which frame of every slot its steps show, as ``numbers_of`` gives them."""
_COLORS = (
    "unspecified",
    "unspecified/tv",
    "smpte170m/tv",
    "bt470bg/tv",
    "smpte170m/unspecified",
    "bt470bg/unspecified",
)
"""Tags of what is BT.601 in limited range, as frames without a tag are taken to be here."""


class StepVideos:
    """Finds such views by one recipe, and gives their frames. ``video`` does the reading and stays the caller's."""

    def __init__(self, lake: Lake, recipe: BuildRecipe, video: VideoTools) -> None:
        self._lake, self._recipe, self._video = lake, recipe, video

    def misfit(self, episodes: Sequence[Shown], view: str, size: tuple[int, int]) -> str:
        """Why ``view`` (a name of the release, of ``size`` height, width) of these episodes cannot be taken over into one file;
        "" where it can: an encoder that follows the recipe could have made it so.

        Raises DecodeError, LakeError.
        """
        if not self._recipe.video.reuse:
            return "video.reuse is false"
        if self._recipe.views.canvas:
            return "a canvas is made of several views"
        slot, setups = self._recipe.names.slot(view), set()
        for stored, frames in episodes:
            misfit = self._misfit(stored, slot, frames[slot].rows, size)
            if misfit:
                return misfit
            facts = self._facts(stored, slot)
            misfit = _not_made_so(facts, *self._span(stored, slot, frames[slot].rows), self._recipe.video.gop)
            setups.add(facts.setup_sha256)
            if misfit or len(setups) > 1:
                return misfit or "its episodes were compressed in different ways"
        return ""

    def of(self, episode: Shown, view: str) -> bytes:
        """The frames of a view that fits, one for each step, as an MP4 of nominal times. Raises DecodeError, LakeError."""
        stored, frames = episode
        slot = self._recipe.names.slot(view)
        first, count = self._span(stored, slot, frames[slot].rows)
        return self._video.lift(self._stored(stored, slot).data, first, count, _where(stored, slot))

    def _stored(self, stored: StoredEpisode, slot: str) -> EncodedView:
        return self._lake.video(stored.episode_id, slot, stored.views[slot])

    def _facts(self, stored: StoredEpisode, slot: str) -> VideoFacts:
        return self._video.inspect(self._stored(stored, slot).data, _where(stored, slot))

    def _span(self, stored: StoredEpisode, slot: str, rows: np.ndarray) -> tuple[int, int]:
        """The first of the frames in the video, and how many there are."""
        return stored.views[slot].first_frame + int(rows[0]), len(rows)

    def _misfit(self, stored: StoredEpisode, slot: str, rows: np.ndarray, size: tuple[int, int]) -> str:
        """What the lake's row tells of it, before the video is opened."""
        view, wanted = stored.views[slot], self._recipe.video
        if view.codec != wanted.codec:
            return f"it is {view.codec}, asked for is {wanted.codec}"
        if (view.height_px, view.width_px) != size:
            return f"it is {view.width_px}x{view.height_px}, asked for is {size[1]}x{size[0]}"
        if view.part != "whole" or view.picture != UPRIGHT:
            return "its pictures are cut or turned"
        if len(rows) == 0 or not bool((np.diff(rows) == 1).all()):
            return "its steps do not show one frame after the other"
        if slot not in stored.decoded:  # perhaps damaged, which a decode of it will tell
            return "it was ingested without being decoded"
        return ""


def _not_made_so(facts: VideoFacts, first: int, num_frames: int, gop: int) -> str:
    """Why these frames are not as ``VideoWriter`` writes them; "" where they are: decoding may begin at the first, and at least
    every ``gop``."""
    if not facts.is_plain:
        return "its frames are reordered, hidden or interlaced, or its settings change"
    if facts.pix_fmt != PIXEL_FORMAT or facts.color not in _COLORS:
        return f"its pixels are {facts.pix_fmt}, {facts.color}"
    if facts.rotation_degrees or facts.sample_aspect != "1:1":
        return "players turn or stretch it"
    keys = np.array(facts.key_frames)
    inside = keys[(keys >= first) & (keys < first + num_frames)]
    if len(inside) == 0 or inside[0] != first:
        return "an episode does not begin with a key frame"
    between = int(np.diff(np.append(inside, first + num_frames)).max())
    return "" if between <= gop else f"its key frames lie up to {between} apart, asked for is {gop}"


def _where(stored: StoredEpisode, slot: str) -> str:
    return f"episode {stored.episode_id[:12]} view {slot}"
