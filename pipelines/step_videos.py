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

    def fit(self, episodes: Sequence[Shown], view: str, size: tuple[int, int]) -> bool:
        """Whether ``view`` (a name of the release, of ``size`` height, width) of every one of these episodes can be taken over,
        into one file: an encoder that follows the recipe could have made it so.

        Raises DecodeError, LakeError.
        """
        if not self._recipe.video.reuse or self._recipe.views.canvas:
            return False
        slot, setups = self._recipe.names.slot(view), set()
        for stored, frames in episodes:
            setups.add(self._setup(stored, slot, frames[slot].rows, size))
            if "" in setups or len(setups) > 1:
                return False
        return True

    def of(self, episode: Shown, view: str) -> bytes:
        """The frames of a view that fits, one for each step, as an MP4 of nominal times. Raises DecodeError, LakeError."""
        stored, frames = episode
        slot = self._recipe.names.slot(view)
        found, rows = self._stored(stored, slot), frames[slot].rows
        first = found.first_frame + int(rows[0])
        return self._video.lift(found.data, first, len(rows), _where(stored, slot))

    def _stored(self, stored: StoredEpisode, slot: str) -> EncodedView:
        return self._lake.video(stored.episode_id, slot, stored.views[slot])

    def _setup(self, stored: StoredEpisode, slot: str, rows: np.ndarray, size: tuple[int, int]) -> str:
        """What has to be equal for frames to lie in one file; "" where they are not what the recipe asks for."""
        view, wanted = stored.views[slot], self._recipe.video
        as_filmed = view.part == "whole" and view.picture == UPRIGHT
        one_by_one = len(rows) > 0 and bool((np.diff(rows) == 1).all())
        if view.codec != wanted.codec or (view.height_px, view.width_px) != size or not (as_filmed and one_by_one):
            return ""
        if slot not in stored.decoded:  # perhaps damaged, which a decode of it will tell
            return ""
        facts = self._video.inspect(self._stored(stored, slot).data, _where(stored, slot))
        first = view.first_frame + int(rows[0])
        return facts.setup_sha256 if _is_made_so(facts, first, len(rows), wanted.gop) else ""


def _is_made_so(facts: VideoFacts, first: int, num_frames: int, gop: int) -> bool:
    """Whether these frames are as ``VideoWriter`` writes them: decoding may begin at the first, and at least every ``gop``."""
    if not facts.is_plain or facts.pix_fmt != PIXEL_FORMAT or facts.color not in _COLORS or facts.rotation_degrees:
        return False
    keys = np.array(facts.key_frames)
    inside = keys[(keys >= first) & (keys < first + num_frames)]
    ends = np.append(inside, first + num_frames)
    return (
        facts.sample_aspect == "1:1" and len(inside) > 0 and inside[0] == first and bool((np.diff(ends) <= gop).all())
    )


def _where(stored: StoredEpisode, slot: str) -> str:
    return f"episode {stored.episode_id[:12]} view {slot}"
