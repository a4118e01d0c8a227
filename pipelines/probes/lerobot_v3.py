"""Reads LeRobot v3.0 releases back as LeRobot does: by the paths, times and file numbers in its ``meta``."""

import json
from collections.abc import Mapping, Sequence
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

from pipelines.probes import EpisodeRows, LatentSpan, SampleContent, episode_at
from pipelines.storage import inside
from pipelines.windows import latent_spans
from schemas.errors import ReleaseError
from schemas.time import parse_rate

_IMAGES = "observation.images."
_VECTORS = {"action": "action", "proprio": "observation.state"}


class _LeRobot:
    """See ``Probe``. Holds the numbers of one file, and the times of the frames of one video of each view."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        self._info = json.loads((folder / "meta/info.json").read_bytes())
        self._rate: Fraction = parse_rate(group["rate"])
        rows = [row for path in sorted((folder / "meta/episodes").rglob("*.parquet")) for row in _episode_rows(path)]
        self._episodes = {row["episode_index"]: row for row in rows}
        self._open: tuple[Path, pa.Table] | None = None
        self._times: dict[str, tuple[Path, np.ndarray]] = {}

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
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
        )

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        path, first = self._video(episode, view)
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
            raise ReleaseError(
                f"{len(found)} of {len(wanted)} frames of episode {episode['episode_index']} are there",
                str(path),
                "build it again",
                "unreadable",
            )
        return np.stack(found)

    def sample(self, number: int) -> SampleContent:
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
        path, first = self._video(episode, view)
        row, steps = self._episodes[episode["episode_index"]], np.arange(episode["num_steps"])
        asked = row[f"videos/{_IMAGES}{view}/from_timestamp"] + (steps / float(self._rate)).astype(np.float32)
        times = self._frame_times(path, view)[first : first + episode["num_steps"]]
        if len(times) != len(asked):
            raise ReleaseError(
                f"{len(times)} frames for the {len(asked)} rows of episode {episode['episode_index']}",
                str(path),
                "build it again",
                "unreadable",
            )
        return float(np.abs(np.array([float(time) for time in times]) - asked).max())

    def _video(self, episode: Mapping[str, Any], view: str) -> tuple[Path, int]:
        """The video of an episode, and the number of its first frame in it."""
        row, key = self._episodes[episode["episode_index"]], _IMAGES + view
        names = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
        path = inside(self._folder, self._info["video_path"].format(video_key=key, **names))
        return path, round(row[f"videos/{key}/from_timestamp"] * self._rate)

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
        row = self._episodes[episode["episode_index"]]
        names = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
        path = inside(self._folder, self._info["data_path"].format(**names))
        if self._open is None or self._open[0] != path:
            self._open = path, pq.read_table(path, page_checksum_verification=True)
        return self._open[1].filter(pc.field("episode_index") == episode["episode_index"])


def _time_base(stream: VideoStream) -> Fraction:
    """Seconds of one tick."""
    if stream.time_base is None:
        raise ReleaseError("a video does not tell its time base", hint="build it again", reason="unreadable")
    return stream.time_base


def _episode_rows(path: Path) -> list[dict[str, Any]]:
    names = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
    rows: list[dict[str, Any]] = pq.read_table(path, columns=names, page_checksum_verification=True).to_pylist()
    return rows


def _array(column: pa.ChunkedArray) -> np.ndarray:
    whole = column.combine_chunks()
    flat = whole.flatten() if pa.types.is_fixed_size_list(whole.type) else whole  # one channel is a scalar column
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(whole), -1)


def open_group(folder: Path, group: Mapping[str, Any]) -> _LeRobot:
    """The probe of a group's folder."""
    return _LeRobot(folder, group)
