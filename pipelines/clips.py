"""Which frames of an episode make which latent clips, before any is decoded: of single views, and of canvases."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pipelines.numbers import check_rate
from pipelines.resample import is_over, nearest_at_or_before
from pipelines.rows import Row, segment_of, view_of
from pipelines.views import Area, CanvasPlan, canvas_plan, target_size, views_fingerprint
from pipelines.windows import Span, clip_frames, gaps_of, num_latent_frames, runs_between_gaps, step_span
from schemas.dataset_card import DatasetCard
from schemas.episode import EncodedView, Segment
from schemas.errors import RecipeError
from schemas.latent import ClipPlan
from schemas.recipes import ClipRecipe, EncodeRecipe
from schemas.time import TimeGrid, parse_rate

EPISODE_COLUMNS = ["outcome", "views", "duration_ns", "control_rate", "num_steps", "dataset", "segments", "card_json"]
"""Of a row of the lake: what ``episode_clips`` takes."""
MAX_PLANNED_FRAMES = 20_000_000
"""Of one view: clips that overlap at every phase could name more than memory holds, before any is decoded."""


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """What clips have to know of an encoder."""

    name: str
    fingerprint: str
    temporal_stride: int
    leading_frames: int
    spatial_stride: int
    size_multiple: int
    channels: int


@dataclass(frozen=True, slots=True)
class ClipSource:
    """What the clips of one row of latents are cut from: one view, or those of a canvas. Small."""

    episode_id: str
    slot: str
    """The view's, or the canvas' name."""
    height: int
    """Pixels that the encoder sees."""
    width: int
    views: tuple[tuple[str, EncodedView], ...]
    """(slot, view without its video); the first one's frames are the clip's."""
    clips: tuple[ClipPlan, ...]

    @property
    def where(self) -> str:
        """For messages."""
        return f"episode {self.episode_id[:12]} view {self.slot}"


@dataclass(frozen=True, slots=True)
class EpisodeClips:
    """Everything that an encode recipe takes of one episode."""

    sources: tuple[ClipSource, ...]
    left: int
    """Frames in no clip: tails too short for the encoder, and what lies before the first phase."""
    unseen: tuple[tuple[str, int], ...] = ()
    """(view, frames of the clips' sequence before its first frame or behind its last): they are in no clip either."""
    missing_view: str = ""
    """A view that the canvas needs and the episode lacks."""


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """The sequence that clips are cut from: G instants at which every view shows a frame."""

    times_ns: np.ndarray
    """int64 [G]."""
    numbers: np.ndarray
    """int64 [G], rising: the place of each in the whole sequence, from which instants without a picture are left out."""
    frame_ids: tuple[np.ndarray, ...]
    """int64 [G] of each view: its frame at or before each instant."""
    unseen: tuple[int, ...]
    """For each view, how many instants are left out since it has not begun or is over; one that several lack counts once."""


def frame_grid(views: Sequence[EncodedView], duration_ns: int, rate: Fraction | None, step_ns: int = 0) -> FrameGrid:
    """The first view's own frames, or the grid at ``rate``; at each instant every view shows the frame at or before it.

    The grid is the one a build at that rate uses: it begins with the first step, at 0, and ends at or before the last. A
    view shows its last frame for one period of its own (``step_ns`` where it has but one frame), as in builds: what lies
    behind that, or before its first frame, is left out, so that no picture stands still that nobody recorded.
    """
    times = views[0].times_ns if rate is None else TimeGrid.covering(0, duration_ns, rate).times_ns()
    shown: np.ndarray = np.ones(len(times), dtype=bool)
    ids, unseen = [], []
    for index, view in enumerate(views):
        found = nearest_at_or_before(view.times_ns, times)
        if rate is None and index == 0:
            ids.append(np.arange(view.num_frames, dtype=np.int64))
            unseen.append(0)
            continue
        ids.append(found)
        lacking = (found < 0) | is_over(view.times_ns, times, step_ns)
        unseen.append(int((shown & lacking).sum()))
        shown &= ~lacking
    return FrameGrid(times[shown], np.flatnonzero(shown), tuple(one[shown] for one in ids), tuple(unseen))


def episode_clips(row: Row, recipe: EncodeRecipe, shape: EncoderShape) -> EpisodeClips:
    """The clips of a kept episode, given as a row of the lake.

    Raises RecipeError where a size does not fit the encoder, or a clip would not fit into memory.
    """
    card = DatasetCard.model_validate_json(row["card_json"])
    found = {value["slot"]: view_of(value, card) for value in row["views"]}
    check_rate(recipe.rate, parse_rate(row["control_rate"]), row["dataset"])
    segments = [segment_of(value) for value in row["segments"]]
    views = views_fingerprint(recipe.views)
    canvas = canvas_plan(recipe.views)
    if canvas is not None:
        areas = canvas.shown(tuple(found))
        if not areas:
            return EpisodeClips((), 0, missing_view=canvas.missing(tuple(found)))
        canvas.check_multiple(shape.size_multiple, shape.name)
        shown = [(area.slot, found[area.slot]) for area in areas]
        size = (canvas.height, canvas.width)
        one, left, unseen = _clips(row, canvas.name, shown, size, segments, recipe, shape, views)
        return EpisodeClips((one,), left, unseen)
    sources, missed, unseen = [], 0, ()
    for slot, view in found.items():
        if recipe.views.slots and slot not in recipe.views.slots:
            continue
        size = target_size(recipe.views, view)
        _check_size(row, slot, size, recipe, shape)
        one, left, lacking = _clips(row, slot, [(slot, view)], size, segments, recipe, shape, views)
        sources.append(one)
        missed += left
        unseen += lacking
    return EpisodeClips(tuple(sources), missed, unseen)


def _check_size(row: Row, slot: str, size: tuple[int, int], recipe: EncodeRecipe, shape: EncoderShape) -> None:
    height, width = size
    multiple = shape.size_multiple
    if height % multiple or width % multiple:
        near = tuple(max(multiple, round(edge / multiple) * multiple) for edge in size)
        raise RecipeError(
            f"{recipe.encoder} takes multiples of {multiple} px, and view {slot} of {row['dataset']} would be {height}x{width}",
            f"episode {row['episode_id'][:12]}",
            f"set views.height_px={near[0]} and views.width_px={near[1]} where it is encoded, or views.slots without that view",
        )


def _clips(
    row: Row,
    slot: str,
    views: Sequence[tuple[str, EncodedView]],
    size: tuple[int, int],
    segments: Sequence[Segment],
    recipe: EncodeRecipe,
    shape: EncoderShape,
    fingerprint: str,
) -> tuple[ClipSource, int, tuple[tuple[str, int], ...]]:
    step_ns = TimeGrid(0, parse_rate(row["control_rate"]), 1).period_ns
    grid = frame_grid([view for _, view in views], row["duration_ns"], recipe.rate, step_ns)
    ids, times = grid.frame_ids, grid.times_ns
    gaps = gaps_of(segments, [name for name, _ in views])
    clips: dict[tuple[int, ...], ClipPlan] = {}
    wanted: np.ndarray = np.zeros(len(times), dtype=bool)
    covered: np.ndarray = np.zeros(len(times), dtype=bool)
    planned, least = 0, min(recipe.clip.phases)
    for run in _runs(times, gaps, segments, recipe.clip):
        wanted[_taken(grid, run, least % recipe.frame_stride, recipe)] = True  # also before every phase
        for phase in sorted(set(recipe.clip.phases)):
            taken = _taken(grid, run, phase, recipe)
            wanted[taken] = True
            spans = clip_frames(len(taken), shape.leading_frames, shape.temporal_stride, recipe.clip)
            planned += sum(stop - start for start, stop in spans)
            if planned > MAX_PLANNED_FRAMES:
                raise RecipeError(
                    f"its clips would have more than {MAX_PLANNED_FRAMES} frames together",
                    f"episode {row['episode_id'][:12]} view {slot}",
                    "give clip.phases fewer entries, or set a larger clip.stride",
                )
            for start, stop in spans:
                frames = taken[start:stop]
                covered[frames] = True
                clip = ClipPlan(
                    row["episode_id"],
                    slot,
                    fingerprint,
                    shape.fingerprint,
                    tuple(ids[0][frames].tolist()),
                    tuple(times[frames].tolist()),
                    recipe.rate,
                    recipe.frame_stride,
                    tuple((name, tuple(one[frames].tolist())) for (name, _), one in zip(views, ids, strict=True))
                    if recipe.views.canvas
                    else (),
                )
                clips.setdefault(tuple(frames.tolist()), clip)  # phases may end with the same tail
    source = ClipSource(row["episode_id"], slot, *size, tuple(views), tuple(clips.values()))
    for clip in source.clips:
        need = sum(clip_bytes(source, clip, recipe, shape))
        if need > recipe.max_clip_mb * 1_000_000:
            raise RecipeError(
                f"a clip of {len(clip.frame_ids)} frames of {size[0]}x{size[1]} needs {need / 1e9:.1f} GB",
                source.where,
                'set [clip] kind = "fixed", a smaller size, or a larger max_clip_mb',
            )
    unseen = tuple((name, count) for (name, _), count in zip(views, grid.unseen, strict=True) if count)
    return source, int((wanted & ~covered).sum()), unseen


def _taken(grid: FrameGrid, run: Span, phase: int, recipe: EncodeRecipe) -> np.ndarray:
    """Which of the frames of a run are taken: every ``frame_stride``-th from ``phase`` behind its start on.

    Frames that are encoded one by one are counted from the start of the episode instead, as trainers count them that take
    every third: no latent depends on where a run begins.
    """
    if recipe.clip.kind != "frames":
        return np.arange(run[0] + phase, run[1], recipe.frame_stride)
    numbers = grid.numbers[run[0] : run[1]]
    taken: np.ndarray = run[0] + np.flatnonzero((numbers >= phase) & ((numbers - phase) % recipe.frame_stride == 0))
    return taken


def _runs(times: np.ndarray, gaps: Sequence[Segment], segments: Sequence[Segment], recipe: ClipRecipe) -> list[Span]:
    """The runs of frames that clips are cut from: between gaps and bounds, and inside the kind that is wanted, if one is."""
    kinds = {*recipe.bounds, *([recipe.within] if recipe.within else [])}
    runs = runs_between_gaps(times, gaps, [one for one in segments if one.kind in kinds])
    if recipe.within is None:
        return runs
    spans = [step_span(times, one.start_ns, one.stop_ns) for one in segments if one.kind == recipe.within]
    return [run for run in runs if any(start <= run[0] and run[1] <= stop for start, stop in spans)]


def clip_bytes(source: ClipSource, clip: ClipPlan, recipe: EncodeRecipe, shape: EncoderShape) -> tuple[int, int]:
    """Bytes of the pixels and of the latents of a clip."""
    latents = num_latent_frames(len(clip.frame_ids), shape.leading_frames, shape.temporal_stride)
    stride = shape.spatial_stride
    values = latents * shape.channels * (source.height // stride) * (source.width // stride)
    return len(clip.frame_ids) * source.height * source.width * 3, values * np.dtype(recipe.dtype).itemsize


def areas_of(canvas: CanvasPlan, source: ClipSource) -> tuple[Area, ...]:
    """Where the views of ``source`` lie on the canvas that it was planned with, in their order."""
    return canvas.shown([slot for slot, _ in source.views])
