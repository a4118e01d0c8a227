"""Reads LeRobot releases back as LeRobot does: by the paths, times and file numbers in their ``meta``.

What versions differ in is where an episode lies, which each tells as a ``Place``.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors
from av.video.stream import VideoStream

from pipelines.lerobot_tables import episode_path
from pipelines.probed import EpisodeRows, LatentSpan, SampleContent, episode_at
from pipelines.read_back import read_lines
from pipelines.release_plan import EpisodePlan
from pipelines.storage import inside
from pipelines.windows import latent_spans
from schemas.errors import ReleaseError
from schemas.time import parse_rate

_VECTORS = {"action": "action", "proprio": "observation.state"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a view of an episode lies in a video."""

    path: Path
    start_s: float
    """The time of its first frame in the file, as LeRobot adds it to those of the rows."""


class LeRobotProbe(ABC):
    """See ``Probe``. Holds the numbers of one file, and the times of the frames of one video of each view."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        self._info: dict[str, Any] = json.loads((folder / "meta/info.json").read_bytes())
        self._rate: Fraction = parse_rate(group["rate"])
        self._open: tuple[Path, pa.Table] | None = None
        self._words: dict[int, str] | None = None
        self._times: dict[str, tuple[Path, np.ndarray]] = {}
        self._keys = _keys_of_views(self._info["features"], [view["slot"] for view in group["views"]])

    @abstractmethod
    def _data(self, episode_index: int) -> Path:
        """The file of its rows, relative to the folder."""

    @abstractmethod
    def _place(self, episode_index: int, key: str) -> Place:
        """Where the feature ``key`` of an episode lies, relative to the folder."""

    @abstractmethod
    def _tasks(self) -> dict[int, str]:
        """The words that a task's number stands for."""

    def _segments(self, episode_index: int) -> list[tuple[int, int, str]] | None:  # noqa: ARG002 - of what versions add
        """(first step, step behind the last, words) of an episode, where the version tells them once more."""
        return None

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        """See ``Probe``."""
        table = self._numbers(episode)
        steps = table["frame_index"].to_numpy()
        error = np.abs(table["timestamp"].to_numpy() - (steps / float(self._rate)).astype(np.float32)).max(initial=0)
        views = [view["slot"] for view in self._group["views"]]
        return EpisodeRows(
            steps=steps,
            samples=table["index"].to_numpy(),
            times_ns=None,  # the rows have the times of a perfect clock
            source_rows=table["lineage.source_row"].to_numpy(),
            frame_ids={view: table[f"lineage.frame_id.{view}"].to_numpy() for view in views},
            vectors={
                name: _array(table[feature]) for name, feature in _VECTORS.items() if feature in table.column_names
            },
            clock_error_s=max([float(error), *(self._frame_error_s(episode, view) for view in views)]),
            at_odds=tuple(self._words_at_odds(EpisodePlan.told_by(episode), table["task_index"].to_numpy())),
        )

    def _words_at_odds(self, plan: EpisodePlan, numbers: np.ndarray) -> Iterator[str]:
        """Where rows, or the segments that are told beside them, have other words than the manifest."""
        if self._words is None:
            self._words = self._tasks()
        others = plan.other_instructions
        for start, stop, text in plan.texts:
            for number in np.unique(numbers[start:stop]).tolist():
                said = self._words.get(number, "")
                # a recipe may join all that was said into one task
                if said != text and not (others and said.startswith(text) and said.endswith(others[-1])):
                    yield f"steps {start} to {stop - 1} have the task {said[:80]!r}, and should have {text[:80]!r}"
        told = self._segments(plan.episode_index)
        if told is not None and [one[:2] for one in told] != [one[:2] for one in plan.texts]:
            yield "its segments are not those of the manifest"
        elif told is not None and any(
            not one[2].startswith(text) for one, (_, _, text) in zip(told, plan.texts, strict=True)
        ):
            yield "its segments have other words than the manifest's"

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        """See ``Probe``."""
        path, first, _ = self._video(episode, view)
        wanted = {first + step for step in steps}
        found: list[np.ndarray] = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            base = _time_base(stream)
            start = self._frame_times(path, view)[first]
            container.seek(int(start / base), stream=stream)  # every episode begins with a key frame
            for frame in container.decode(stream):
                number = -1 if frame.pts is None else round(frame.pts * base * self._rate)
                if number in wanted:
                    found.append(frame.to_ndarray(format="rgb24"))
                if number >= max(wanted):
                    break
        if len(found) != len(wanted):
            raise _lacking(
                path, f"{len(found)} of {len(wanted)} frames of episode {episode['episode_index']} are there"
            )
        return np.stack(found)

    def sample(self, number: int) -> SampleContent:
        """See ``Probe``."""
        episode = episode_at(self._group, number, "first_step", "num_steps")
        table, step, horizon = self._numbers(episode), number - episode["first_step"], self._group["horizon"]
        wanted: np.ndarray = step + np.arange(horizon)
        steps = np.minimum(wanted, episode["num_steps"] - 1)
        mask = (wanted < episode["num_steps"]) & table["valid"].to_numpy()[steps]
        action = _array(table["action"]) if "action" in table.column_names else np.zeros((len(table), 0), np.float32)
        return SampleContent(
            episode_index=episode["episode_index"],
            step=step,
            steps=tuple(steps.tolist()),
            chunk_names=tuple(self._group["action_names"]),
            chunk=action[steps],
            mask=mask,
            tokens=None,
            latents=tuple(self._latents(episode, table, step, int(steps[-1]))),
        )

    def _latents(self, episode: Mapping[str, Any], table: pa.Table, step: int, last: int) -> list[LatentSpan]:
        """Latent frames of every clip that is made of a frame of these steps."""
        found: list[LatentSpan] = []
        pattern = f"*/episode_{episode['episode_index']:06d}_*.safetensors"
        for path in sorted((self._folder / "latents").glob(pattern)):
            with safetensors.safe_open(str(path), "numpy") as file:
                facts = json.loads(file.metadata()["wamloom"])
                num_latents, *shape = file.get_slice("latents").get_shape()
            view = path.parent.name
            name = f"lineage.frame_id.{view}"
            times, ids = facts["times_ns"], facts["frame_ids"]
            # of a release without pictures, by the recorded times of its rows
            by_frame = name in table.column_names
            shown = table[name if by_frame else "lineage.source_time_ns"].to_numpy()[step : last + 1]
            known = ids if by_frame else times
            for latent, (start, stop) in enumerate(
                latent_spans(facts["leading_frames"], facts["temporal_stride"], num_latents)
            ):
                if known[stop - 1] >= shown[0] and known[start] <= shown[-1]:
                    end = times[stop] if stop < len(times) else times[-1] + 1
                    found.append(
                        LatentSpan(
                            view, facts["latent_id"], latent, tuple(ids[start:stop]), (times[start], end), tuple(shape)
                        )
                    )
        return found

    def _frame_error_s(self, episode: Mapping[str, Any], view: str) -> float:
        """How far the frames of an episode lie from the times at which LeRobot asks for them."""
        path, first, start_s = self._video(episode, view)
        steps = np.arange(episode["num_steps"])
        asked = start_s + (steps / float(self._rate)).astype(np.float32)
        times = self._frame_times(path, view)[first : first + episode["num_steps"]]
        if len(times) != len(asked):
            raise _lacking(path, f"{len(times)} frames for the {len(asked)} rows of episode {episode['episode_index']}")
        return float(np.abs(np.array([float(time) for time in times]) - asked).max())

    def _video(self, episode: Mapping[str, Any], view: str) -> tuple[Path, int, float]:
        """The video of an episode, and the number and the time of its first frame in it."""
        place = self._place(episode["episode_index"], self._keys[view])
        return inside(self._folder, str(place.path)), round(place.start_s * self._rate), place.start_s

    def _frame_times(self, path: Path, view: str) -> np.ndarray:
        """Seconds, as fractions, of every frame of a video, in the order they are shown."""
        if view not in self._times or self._times[view][0] != path:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                times = sorted(
                    packet.pts * _time_base(stream) for packet in container.demux(stream) if packet.pts is not None
                )
            self._times[view] = path, np.array(times, dtype=object)
        return self._times[view][1]

    def _numbers(self, episode: Mapping[str, Any]) -> pa.Table:
        path = inside(self._folder, str(self._data(episode["episode_index"])))
        if self._open is None or self._open[0] != path:
            self._open = path, pq.read_table(path, page_checksum_verification=True)
        return self._open[1].filter(pc.field("episode_index") == episode["episode_index"])


def _keys_of_views(features: Mapping[str, Any], views: Sequence[str]) -> dict[str, str]:
    """View to feature: all features that are videos have the same words before the name of the view."""
    videos = [key for key, feature in features.items() if feature["dtype"] == "video"]
    heads = {key.removesuffix(view) for key in videos for view in views if key.endswith(view)}
    head = next((one for one in sorted(heads) if {one + view for view in views} == set(videos)), "")
    return {view: head + view for view in views}


def _lacking(path: Path, message: str) -> ReleaseError:
    return ReleaseError(message, str(path), "build it again", "unreadable")


def _time_base(stream: VideoStream) -> Fraction:
    """Seconds of one tick."""
    if stream.time_base is None:
        raise ReleaseError("a video does not tell its time base", hint="build it again", reason="unreadable")
    return stream.time_base


def _array(column: pa.ChunkedArray) -> np.ndarray:
    whole = column.combine_chunks()
    flat = whole.flatten() if pa.types.is_fixed_size_list(whole.type) else whole  # one channel is a scalar column
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(whole), -1)


class LeRobotV2Probe(LeRobotProbe):
    """Of versions 2.0 and 2.1: a Parquet file, and a video of each view, for each episode."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        super().__init__(folder, group)
        self._lines = {line["episode_index"]: line for line in read_lines(folder / "meta/episodes.jsonl")}

    def _tasks(self) -> dict[int, str]:
        return {line["task_index"]: line["task"] for line in read_lines(self._folder / "meta/tasks.jsonl")}

    def _segments(self, episode_index: int) -> list[tuple[int, int, str]]:
        segments = self._lines[episode_index]["action_config"]
        return [(one["start_frame"], one["end_frame"], one["action_text"]) for one in segments]

    def _data(self, episode_index: int) -> Path:
        return Path(episode_path(self._info["data_path"], episode_index))

    def _place(self, episode_index: int, key: str) -> Place:
        return Place(Path(episode_path(self._info["video_path"], episode_index, video_key=key)), 0.0)
