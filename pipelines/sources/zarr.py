"""Zarr replay buffers as diffusion-policy and UMI write them: ``data/<key>`` [N, ...] and ``meta/episode_ends``, cumulative.

A set is a folder (``.zarr``) or one zip file (``.zarr.zip``). Rows between two ends are an episode. Arrays of pictures
become views, as PNG and so without loss: uint8 [N, H, W, 3] or [N, H, W, 1], uint16 [N, H, W] or [N, H, W, 1] (depth), and
floats [N, H, W, 3] that are all whole numbers from 0 to 255. All other numbers are streams. Buffers declare no rate and
hold no language: times are plain step indices.

A chunk that is not stored reads as the array's fill value, as Zarr wants it; how many were not there is a finding.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from pipelines.json_episode import scalar
from pipelines.places import place
from pipelines.recordings import pixels_view, set_folders
from pipelines.video import VideoTools
from pipelines.zarr_buffer import ArrayFacts, ZarrBuffer, opened
from schemas.episode import EncodedView, EpisodeRef, RawEpisode, Scalar, Stream
from schemas.errors import CorruptEpisode, SourceError
from schemas.findings import Finding, Severity
from schemas.fingerprint import array_sha256, fingerprint
from schemas.recipes import Limits

_DATA, _META, _ENDS = "data/", "meta/", "meta/episode_ends"
_MARKS = (f"{_ENDS}/.zarray", f"{_ENDS}/zarr.json")
_ZIP = ".zarr.zip"
_MAX_EPISODES = 1_000_000
_FRAMES_AT_ONCE = 64
_HINT = "fetch the store again; meta/episode_ends and the arrays of data belong together"


class ZarrSource:
    """The ``zarr`` source."""

    name = "zarr"

    def datasets(self, location: str) -> list[str]:
        """Folders with ``meta/episode_ends``, and files named ``.zarr.zip``."""
        if location.endswith(_ZIP):
            return [location] if place(location).is_file() else []
        zips: list[str] = []

        def is_set(folder: Any) -> bool:
            zips.extend(str(child) for child in folder.iterdir() if child.name.endswith(_ZIP))
            return any((folder / mark).is_file() for mark in _MARKS)

        return sorted([*set_folders(location, is_set), *zips])

    def refs(self, location: str) -> Sequence[EpisodeRef]:
        """One per end. Raises SourceError where the ends do not rise, or the metadata is damaged."""
        buffer = ZarrBuffer(location)
        ends = _ends(buffer)
        arrays = _arrays(buffer)
        dataset = location.rstrip("/").rpartition("/")[2].removesuffix(".zip").removesuffix(".zarr") or self.name
        return [
            EpisodeRef(
                source=self.name,
                location=location,
                dataset=dataset,
                version="",
                split="",
                key=_key(index),
                state=_state(buffer, arrays, start, stop),
                num_bytes=sum(size for _, size, _ in buffer.stamps(_files(arrays, start, stop))),
                details=(("rows", f"{start}:{stop}"), ("stamp", _stamp(buffer))),
            )
            for index, (start, stop) in enumerate(itertools.pairwise([0, *ends]))
        ]

    def read(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> RawEpisode:
        """The rows of one episode. Raises CorruptEpisode or DecodeError."""
        buffer = opened(ref.location, ref.detail("stamp"))
        start, stop = (int(part) for part in ref.detail("rows").split(":"))
        arrays = _arrays(buffer)
        if stop <= start:
            raise CorruptEpisode("the episode has no rows", ref.where, "leave it out of the data set", "empty")
        if stop - start > limits.max_frames:
            message = f"the episode has {stop - start} rows, more than the {limits.max_frames} allowed"
            raise CorruptEpisode(message, ref.where, "raise limits.max_frames in the recipe", "too_large")
        short = [array for array in arrays if array.shape[0] < stop]
        if short:
            message = f"{short[0].path} has {short[0].shape[0]} rows, the episode ends at {stop}"
            raise CorruptEpisode(message, ref.where, _HINT, "length_mismatch")
        num_bytes = 0
        for array in arrays:
            own = (stop - start) * array.row_bytes
            num_bytes = max(own, num_bytes if _shows_pictures(array) else num_bytes + own)
            if num_bytes > limits.max_array_bytes:
                message = f"the arrays up to {array.path} would take {num_bytes} bytes"
                raise CorruptEpisode(message, ref.where, "raise limits.max_array_bytes in the recipe", "too_large")
        _check_unchanged(buffer, arrays, start, stop, ref)
        findings = [*_missing_chunks(arrays, start, stop, ref.where), *_rows_behind(buffer, arrays, ref)]
        times_ns: np.ndarray = np.arange(stop - start, dtype=np.int64)
        streams: list[Stream] = []
        views: list[EncodedView] = []
        digests: list[tuple[str, str]] = []
        for array in arrays:
            name = array.path.removeprefix(_DATA)
            frames = _Frames(buffer, array, range(start, stop), limits, ref.where)
            if _shows_pictures(array) and frames.are_pictures():
                view = pixels_view(name, frames, times_ns, video, ref.where)
                views.append(view)
                digests.append((name, view.packets_sha256))
            else:
                values = buffer.rows(array, start, stop, limits, ref.where)
                streams.append(Stream(name, values, times_ns, "declared"))
                digests.append((name, array_sha256(values)))
        attributes = tuple(_attributes(buffer, ref, limits))
        _check_unchanged(buffer, arrays, start, stop, ref)
        return RawEpisode(
            ref=ref,
            streams=tuple(streams),
            views=tuple(views),
            instructions=(),
            declared_rate=None,
            source_sha256=fingerprint("zarr-1", digests),
            attributes=attributes,
            findings=tuple(findings),
        )


def _ends(buffer: ZarrBuffer) -> list[int]:
    facts = buffer.arrays.get(_ENDS)
    if facts is None or len(facts.shape) != 1 or facts.dtype.kind not in "iu" or facts.shape[0] > _MAX_EPISODES:
        raise SourceError("meta/episode_ends is no row of whole numbers", buffer.location, _HINT, "bad_index")
    missing = facts.num_chunks(0, facts.shape[0]) - len(facts.stored)
    if missing:
        raise SourceError(f"{missing} chunks of meta/episode_ends are missing", buffer.location, _HINT, "missing_index")
    try:
        ends = [int(end) for end in buffer.rows(facts, 0, facts.shape[0], Limits(), buffer.location)]
    except CorruptEpisode as error:
        reason = error.reason if error.reason == "path_escape" else "bad_index"
        raise SourceError(error.message, buffer.location, error.hint, reason) from error
    if any(stop < start for start, stop in itertools.pairwise([0, *ends])):
        raise SourceError("the ends of the episodes do not rise", buffer.location, _HINT, "bad_index")
    return ends


def _arrays(buffer: ZarrBuffer) -> list[ArrayFacts]:
    """The arrays of rows, in order of their names."""
    return [array for path, array in sorted(buffer.arrays.items()) if path.startswith(_DATA) and array.shape]


def _files(arrays: Sequence[ArrayFacts], start: int, stop: int) -> list[str]:
    return [name for array in arrays for name in array.files(start, min(stop, array.shape[0]))]


def _state(buffer: ZarrBuffer, arrays: Sequence[ArrayFacts], start: int, stop: int) -> str:
    """Changes with the rows of the episode, not with those behind it, unless they share a chunk."""
    columns = [(array.path, array.shape[1:], array.dtype.str) for array in arrays]
    return fingerprint(columns, stop - start, buffer.stamps(_files(arrays, start, stop)))


def _check_unchanged(buffer: ZarrBuffer, arrays: Sequence[ArrayFacts], start: int, stop: int, ref: EpisodeRef) -> None:
    buffer.look_again(_files(arrays, start, stop))
    if _state(buffer, arrays, start, stop) != ref.state:
        message = "its files changed after they were listed"
        raise CorruptEpisode(message, ref.where, "run the same command again", "changed_while_reading")


def _stamp(buffer: ZarrBuffer) -> str:
    return fingerprint(buffer.stamps(sorted(name for name in buffer.files if name.startswith(_META))))


def _missing_chunks(arrays: Sequence[ArrayFacts], start: int, stop: int, where: str) -> list[Finding]:
    """A finding for each array; pictures most of which would be made up are refused (CorruptEpisode)."""
    found = []
    for array in arrays:
        wanted = array.num_chunks(start, stop)
        missing = wanted - len(array.files(start, stop))
        if missing and (not array.has_fill or (_shows_pictures(array) and 2 * missing > wanted)):
            what = "nothing says what they hold" if not array.has_fill else "most pictures would be made up"
            message = f"{missing} of {wanted} chunks of {array.path} are not there, and {what}"
            hint = "fetch the store again, or write it with write_empty_chunks if there is nothing in them"
            raise CorruptEpisode(message, where, hint, "missing_chunks")
        if missing:
            message = f"{missing} of {wanted} chunks of {array.path} are not stored and read as its fill value"
            numbers = (("num_chunks", float(missing)),)
            name = array.path.removeprefix(_DATA)
            found.append(Finding("chunk_not_stored", Severity.WARNING, name, message, None, numbers))
    return found


def _rows_behind(buffer: ZarrBuffer, arrays: Sequence[ArrayFacts], ref: EpisodeRef) -> Iterator[Finding]:
    """Rows behind the end of the last episode, told where that is read."""
    stop = int(ref.detail("rows").partition(":")[2])
    longest = max((array.shape[0] for array in arrays), default=0)
    if ref.key == _key(buffer.arrays[_ENDS].shape[0] - 1) and longest > stop:
        message = f"{longest - stop} rows lie behind the end of the last episode and belong to none; they are not read"
        numbers = (("num_rows", float(longest - stop)),)
        yield Finding("rows_behind_the_end", Severity.WARNING, "episode_ends", message, None, numbers)


def _key(index: int) -> str:
    return f"episode_{index:06d}"


def _attributes(buffer: ZarrBuffer, ref: EpisodeRef, limits: Limits) -> Iterator[tuple[str, Scalar]]:
    """Numbers that ``meta`` holds for each episode, beside its ends."""
    index = int(ref.key.rpartition("_")[2])
    count = buffer.arrays[_ENDS].shape[0]
    for path, array in sorted(buffer.arrays.items()):
        if path.startswith(_META) and path != _ENDS and array.shape == (count,):
            value = buffer.rows(array, index, index + 1, limits, ref.where)[0].item()
            yield path.removeprefix(_META), scalar(value)


def _shows_pictures(array: ArrayFacts) -> bool:
    shape, kind = array.shape, array.dtype
    if min(shape[1:3], default=0) < 8:  # a matrix, not a picture
        return False
    if kind.kind == "f":
        return shape[3:] == (3,)
    if kind == np.uint8:
        return shape[3:] in ((1,), (3,))
    return kind == np.uint16 and shape[3:] in ((), (1,))


class _Frames:
    """The pictures of an episode, some rows at a time."""

    def __init__(self, buffer: ZarrBuffer, array: ArrayFacts, rows: range, limits: Limits, where: str) -> None:
        self._buffer, self._array, self._rows, self._limits, self._where = buffer, array, rows, limits, where

    def _blocks(self) -> Iterator[np.ndarray]:
        for start in self._rows[::_FRAMES_AT_ONCE]:
            stop = min(start + _FRAMES_AT_ONCE, self._rows.stop)
            yield self._buffer.rows(self._array, start, stop, self._limits, self._where)

    def are_pictures(self) -> bool:
        """Whether floats are whole numbers from 0 to 255, so that they are bytes without loss."""
        if self._array.dtype.kind != "f":
            return True
        return all(np.array_equal(block, np.clip(np.rint(block), 0, 255)) for block in self._blocks())

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._blocks():
            frames = block.astype(np.uint8) if block.dtype.kind == "f" else block
            pictures: np.ndarray = frames[..., 0] if frames.shape[3:] == (1,) else frames
            yield from cast(Sequence[np.ndarray], pictures)


SOURCE = ZarrSource()
