"""The proof of a release's rows: every row is there, at its time, with the frame and the numbers that its lineage says.

Formats are read back through their probes; with the lake, numbers and pictures are also compared with what it holds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pyarrow as pa

from pipelines import registry
from pipelines.alignment import ROUNDING_DB, UNLIKE_DB, best_lag, lagged_psnr, middle_by_lag
from pipelines.barcode import read
from pipelines.formats import Format
from pipelines.lake import Lake
from pipelines.numbers import EpisodeNumbers
from pipelines.probes import EpisodeRows, Probe
from pipelines.problems import Problem, Verification
from pipelines.release import STATISTICS
from pipelines.rows import StoredEpisode
from pipelines.simulate import ROBOTS
from pipelines.stats import Stats, center_and_scale, denormalize, normalize, stats_from_json
from pipelines.step_pictures import StepPictures
from schemas.errors import WamloomError
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe

TIME_TOLERANCE_S = 1e-4
"""LeRobot's own: how far a frame may lie from the time at which it is asked for."""
RUN_STEPS = 16
"""Consecutive steps from the middle of an episode whose pictures are compared at several lags."""
_ROUNDING = 2.0**-21
"""Of float32, as part of the size of a number, after normalization was undone."""
_MARKED = frozenset(robot.name for robot in ROBOTS)
"""Robots whose simulated pictures carry the number of their frame."""
_UNREADABLE = (WamloomError, av.FFmpegError, OSError, pa.ArrowException, ValueError, KeyError)


class GroupProof:
    """Proves one group, episode by episode in their order; problems are yielded, what was seen is kept in ``result``.

    The pictures of up to ``num_episodes`` episodes, chosen by a hash, are decoded. To be closed.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        group: Mapping[str, Any],
        recipe: BuildRecipe,
        lake: Lake | None,
        result: Verification,
        num_episodes: int,
    ) -> None:
        self._folder, self._group, self._recipe, self._result = folder, group, recipe, result
        self._pictures = None if lake is None else StepPictures(lake, recipe)
        ids = sorted((episode["episode_id"] for episode in group["episodes"]), key=lambda i: fingerprint("proof-1", i))
        self._chosen = frozenset(ids[:num_episodes])
        self._probes: dict[str, Probe] = {}
        self._places: dict[str, str] = {}
        self._windowed: dict[str, bool] = {}
        self._seen: dict[tuple[str, str], list[np.ndarray]] = {}
        self._broken: set[str] = set()
        for name, groups in manifest["counts"].items():
            if group["name"] not in groups:
                continue
            form = cast(Format, registry.load("formats", name).FORMAT)
            if name not in registry.names("probes"):
                told = f"{name} is hashed and counted; its rows are not read back"
                if told not in result.skipped:
                    result.skipped.append(told)
                continue
            self._windowed[name] = form.windowed
            where = folder / (form.beside or name) / group["name"]
            self._places[name] = str(where)
            try:
                self._probes[name] = registry.load("probes", name).open_group(where, group)
            except _UNREADABLE as error:
                result.problems.append(Problem(str(where), f"cannot be read back: {error}"))

    def close(self) -> None:
        """Ends what was opened."""
        if self._pictures is not None:
            self._pictures.close()

    def episode(
        self,
        episode: Mapping[str, Any],
        lineage: pa.Table,
        stored: StoredEpisode | None,
        numbers: EpisodeNumbers | None,
    ) -> Iterator[Problem]:
        """Problems of one episode. ``lineage`` are its rows of it; ``stored`` and ``numbers`` are what the lake has of it."""
        for name, probe in self._probes.items():
            place = f"{self._places[name]} episode {episode['episode_index']}"
            try:
                rows = probe.rows(episode)
                found = list(self._rows(name, episode, rows, lineage, numbers))
                if episode["episode_id"] in self._chosen and len(rows.steps):
                    found += self._frames(name, probe, episode, rows, lineage, stored, numbers)
            except _UNREADABLE as error:
                found = [f"cannot be read back: {error}"]
                self._broken.add(name)
            yield from (Problem(place, message) for message in found)

    def end(self) -> Iterator[Problem]:
        """Problems of the group as a whole: whether its statistics are those of its rows."""
        file = self._folder / STATISTICS / self._group["name"] / "statistics.json"
        written = json.loads(file.read_bytes())
        for (name, vector), parts in sorted(self._seen.items()):
            if name in self._broken:
                continue
            stats = stats_from_json(json.dumps(written[vector]["stats"]))
            rows: np.ndarray = np.concatenate(parts)
            for message in self._statistics(rows, stats, vector):
                yield Problem(self._places[name], f"{vector}: {message}")

    def _rows(
        self,
        name: str,
        episode: Mapping[str, Any],
        rows: EpisodeRows,
        lineage: pa.Table,
        numbers: EpisodeNumbers | None,
    ) -> Iterator[str]:
        windowed = self._windowed[name]
        first, count = ("first_sample", "num_samples") if windowed else ("first_step", "num_steps")
        wanted = np.arange(episode[first], episode[first] + episode[count])
        if not np.array_equal(np.sort(rows.samples), wanted):
            yield f"its samples are not {episode[first]} to {episode[first] + episode[count] - 1}, each once"
            return
        if not windowed and not np.array_equal(rows.steps, np.arange(episode["num_steps"])):
            yield "its rows are not its steps, in order"
            return
        self._result.checked[f"{name}_rows_reached"] += len(rows.steps)
        steps = rows.steps
        if rows.times_ns is not None:
            away = np.abs(rows.times_ns - lineage["time_ns"].to_numpy()[steps]).max(initial=0)
            self._result.saw("time_error_s", float(away) / 1e9)
            if away:
                yield f"a row lies {away} ns from its step"
        if rows.clock_error_s is not None:
            self._result.saw("clock_error_s", rows.clock_error_s)
            if rows.clock_error_s > TIME_TOLERANCE_S:
                yield f"a row or frame lies {rows.clock_error_s:.3g} s from its time, {TIME_TOLERANCE_S} s are allowed"
        if not np.array_equal(rows.source_rows, lineage["source_row"].to_numpy()[steps]):
            yield "its source rows are not those of the lineage"
        for view, ids in rows.frame_ids.items():
            if not np.array_equal(ids, lineage[f"frame_id_{view}"].to_numpy()[steps]):
                yield f"the frames of {view} are not those of the lineage"
        counted = lineage["valid"].to_numpy(zero_copy_only=False) & lineage["selected"].to_numpy(zero_copy_only=False)
        for vector, values in rows.vectors.items():
            once, places = np.unique(steps, return_index=True)
            self._seen.setdefault((name, vector), []).append(values[places[counted[once]]])
            if numbers is None:
                continue
            given = normalize(getattr(numbers, vector), self._normalizing(vector), self._recipe.normalize)
            differs = np.abs(values - given[steps].astype(np.float32))
            self._result.saw("value_difference", float(np.nanmax(differs, initial=0)))
            if not np.array_equal(values, given[steps].astype(np.float32), equal_nan=True):
                yield f"its {vector} is not what the lake gives for this recipe"

    def _normalizing(self, vector: str) -> Stats:
        return stats_from_json(json.dumps(self._group["stats"][vector]))

    def _statistics(self, rows: np.ndarray, stats: Stats, vector: str) -> Iterator[str]:
        """What is wrong with ``rows`` [N, A], as written, beside the statistics of the values before normalization."""
        if not len(rows):
            return
        by = self._normalizing(vector)
        values = denormalize(rows.astype(np.float64), by, self._recipe.normalize)
        span = np.maximum(np.abs(stats.min), np.abs(stats.max)) + (stats.max - stats.min)
        _, scale = center_and_scale(by, self._recipe.normalize)
        allowed = _ROUNDING * (span + scale * np.abs(rows).max(axis=0)) + 1e-12
        names = self._group[f"{vector}_names"]
        beyond = np.maximum(stats.min - values.min(axis=0), values.max(axis=0) - stats.max)
        for channel in np.flatnonzero(beyond > allowed).tolist():
            yield f"{names[channel]} lies {beyond[channel]:.3g} outside the least and greatest value of the statistics"
        self._result.checked["channels_in_bounds"] += rows.shape[1]
        if len(rows) != stats.count:
            return  # windows may leave steps out; then the bounds are all that holds
        found = {
            "min": values.min(axis=0),
            "max": values.max(axis=0),
            "mean": values.mean(axis=0),
            "std": values.std(axis=0),
        }
        for what, one in found.items():
            away = np.abs(one - getattr(stats, what))
            self._result.saw("statistics_error", float((away / np.maximum(span, 1e-12)).max(initial=0)))
            for channel in np.flatnonzero(away > allowed).tolist():
                told = getattr(stats, what)[channel]
                yield f"the {what} of {names[channel]} is {one[channel]:.6g}, the statistics say {told:.6g}"
        self._result.checked["channels_recomputed"] += rows.shape[1]

    def _frames(
        self,
        name: str,
        probe: Probe,
        episode: Mapping[str, Any],
        rows: EpisodeRows,
        lineage: pa.Table,
        stored: StoredEpisode | None,
        numbers: EpisodeNumbers | None,
    ) -> Iterator[str]:
        there = np.unique(rows.steps)
        run = _middle_run(there)
        steps = np.unique(np.concatenate([there[:1], run, there[-1:]]))
        for view in (view["slot"] for view in self._group["views"]):
            shown = probe.frames(episode, view, steps.tolist())
            self._result.checked[f"{name}_frames_decoded"] += len(shown)
            ids = lineage[f"frame_id_{view}"].to_numpy()[steps]
            if self._group["robot"] in _MARKED:
                yield from self._marks(view, shown, ids)
            if self._pictures is not None and stored is not None and numbers is not None:
                size = self._recipe.size_of(name)
                chunks = self._pictures.in_sizes(stored, view, numbers.frames, steps, [size])
                given = np.concatenate([chunk for (chunk,) in chunks])
                yield from self._compared(view, shown, given, np.flatnonzero(np.isin(steps, run)))

    def _marks(self, view: str, shown: np.ndarray, ids: Sequence[int] | np.ndarray) -> Iterator[str]:
        """Whether the number in the pixels, where it can be read, is that of the frame."""
        for frame, number in zip(shown, ids, strict=True):
            mark = read(frame)
            if mark is None:
                continue  # scaled away, or on a canvas
            self._result.checked["marks_read"] += 1
            self._result.saw("mark_difference", float(abs(mark - int(number))))
            if mark != int(number):
                yield f"{view} shows frame {mark}, and the lineage says {int(number)}"
                return

    def _compared(self, view: str, shown: np.ndarray, given: np.ndarray, run: np.ndarray) -> Iterator[str]:
        if shown.shape != given.shape:
            yield f"{view} has pictures of {shown.shape[1:]}, the lake gives {given.shape[1:]}"
            return
        worst = min(lagged_psnr(one[None], two[None], 0) for one, two in zip(shown, given, strict=True))
        by_lag = middle_by_lag(shown[run], given[run])
        lag = best_lag(by_lag) if by_lag else None  # too few pictures tell nothing
        if lag and by_lag[0] >= ROUNDING_DB:
            lag = None  # they are the very pictures; where the next are as like, rounding would decide
        self._result.checked["frames_compared_with_the_lake"] += len(shown)
        self._result.checked[
            "runs_aligned" if lag == 0 else "runs_standing_still" if lag is None else "runs_lagging"
        ] += 1
        self._result.saw("psnr_db", worst, least=True)
        self._result.saw("lag_frames", float(abs(lag or 0)))
        if lag:
            yield f"{view} lags the lake's frames by {lag}"
        if worst < UNLIKE_DB:
            yield f"{view} shows something else than the lake's frame: {worst:.1f} dB"


def _middle_run(steps: np.ndarray) -> np.ndarray:
    """Up to ``RUN_STEPS`` consecutive ones of rising ``steps``, from their middle."""
    parts = np.split(steps, np.flatnonzero(np.diff(steps) != 1) + 1)
    longest = max(parts, key=len)
    start = max(0, (len(longest) - RUN_STEPS) // 2)
    return np.asarray(longest[start : start + RUN_STEPS])
