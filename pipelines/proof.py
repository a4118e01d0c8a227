"""The proof of a release's rows: every row is there, at its time, with the frame and the numbers that its lineage says.

Formats are read back through their probes; with the lake, numbers and pictures are also compared with what it holds. What a
format does not hold is told as not checked.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from pipelines import registry
from pipelines.action_chunks import ActionChunks
from pipelines.action_plan import ActionPlan
from pipelines.alignment import ROUNDING_DB, UNLIKE_DB, best_lag, lagged_psnr, middle_by_lag
from pipelines.barcode import read
from pipelines.formats import Format
from pipelines.joined_proof import JoinedProof
from pipelines.lake import Lake
from pipelines.numbers import EpisodeNumbers
from pipelines.probes import EpisodeRows, Probe
from pipelines.problems import Problem, Verification
from pipelines.read_back import UNREADABLE
from pipelines.release import STATISTICS
from pipelines.rows import StoredEpisode
from pipelines.simulate import ROBOTS
from pipelines.stats import Stats, center_and_scale, denormalize, normalize, stats_from_json
from pipelines.step_pictures import StepPictures
from pipelines.views import shown_views
from pipelines.windows import plan_windows
from schemas.action_recipe import ActionRecipe
from schemas.errors import LakeError, WamloomError
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe

TIME_TOLERANCE_S = 1e-4
"""LeRobot's own: how far a frame may lie from the time at which it is asked for."""
RUN_STEPS = 16
"""Consecutive steps from the middle of an episode whose pictures are compared at several lags."""
_ROUNDING = 2.0**-21
"""Of float32, as part of the size of a number, after normalization was undone or rotations were written in another way."""
_MARKED = frozenset(robot.name for robot in ROBOTS)
"""Robots whose simulated pictures carry the number of their frame."""


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
        self._channels: dict[tuple[str, str], list[int]] = {}
        self._broken: set[str] = set()
        self._joined = None if lake is None else JoinedProof(lake, recipe, manifest, result)
        for name, groups in manifest["counts"].items():
            if group["name"] not in groups:
                continue
            form = cast(Format, registry.load("formats", name).FORMAT)
            self._windowed[name] = form.windowed
            where = folder / (form.beside or name) / group["name"]
            has_rows = name in registry.names("probes")
            if not has_rows and not form.beside:
                self._skipped(f"{name} is hashed and counted; its rows are not read back")
            try:
                if has_rows:
                    self._probes[name] = registry.load("probes", name).open_group(where, group)
                if self._joined is not None:
                    self._joined.open(name, where, group)
            except UNREADABLE as error:
                result.problems.append(Problem(str(where), f"cannot be read back: {error}"))
            else:
                self._places[name] = str(where)

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
        for name, place in self._places.items():
            where = f"{place} episode {episode['episode_index']}"
            try:
                found = self._row_by_row(name, episode, lineage, stored, numbers) if name in self._probes else []
            except UNREADABLE as error:
                found = [f"cannot be read back: {error}"]
                self._broken.add(name)
            yield from (Problem(where, message) for message in found)
            if self._joined is None or stored is None or episode["episode_id"] not in self._chosen:
                continue
            try:
                for message in self._joined.of(name, episode, lineage, stored):
                    yield Problem(where, message)
            except LakeError as error:
                yield Problem(error.where, error.message)
            except WamloomError as error:
                yield Problem(where, f"what it joins: {error.where}: {error.message}")
            except UNREADABLE as error:
                yield Problem(where, f"what it joins cannot be read back: {error!r}")

    def end(self) -> Iterator[Problem]:
        """Problems of the group as a whole: whether its statistics are those of its rows."""
        file = self._folder / STATISTICS / self._group["name"] / "statistics.json"
        written = json.loads(file.read_bytes())
        for (name, vector), parts in sorted(self._seen.items()):
            if name in self._broken:
                continue
            stats = stats_from_json(json.dumps(written[vector]["stats"]))
            rows: np.ndarray = np.concatenate(parts)
            for message in self._statistics(rows, stats, vector, self._channels[name, vector]):
                yield Problem(self._places[name], f"{vector}: {message}")

    def _row_by_row(
        self,
        name: str,
        episode: Mapping[str, Any],
        lineage: pa.Table,
        stored: StoredEpisode | None,
        numbers: EpisodeNumbers | None,
    ) -> list[str]:
        """What is wrong with the rows and pictures that a format has of an episode."""
        probe = self._probes[name]
        rows = probe.rows(episode)
        found = list(self._rows(name, episode, rows, lineage, numbers))
        if stored is not None and numbers is not None and not found:
            found += self._made(name, rows, stored, numbers)
        if episode["episode_id"] in self._chosen and len(rows.steps):
            found += self._frames(name, probe, episode, rows, lineage, stored, numbers)
        return found

    def _rows(
        self,
        name: str,
        episode: Mapping[str, Any],
        rows: EpisodeRows,
        lineage: pa.Table,
        numbers: EpisodeNumbers | None,
    ) -> Iterator[str]:
        yield from rows.at_odds
        windowed = self._windowed[name]
        first, count = ("first_sample", "num_samples") if windowed else ("first_step", "num_steps")
        wanted = np.arange(episode[first], episode[first] + episode[count])
        if rows.samples is not None and not np.array_equal(np.sort(rows.samples), wanted):
            yield f"its samples are not {episode[first]} to {episode[first] + episode[count] - 1}, each once"
            return
        if not windowed and not np.array_equal(rows.steps, np.arange(episode["num_steps"])):
            yield "its rows are not its steps, in order"
            return
        self._result.checked[f"{name}_rows_reached"] += len(rows.steps)
        self._not_held(name, rows)
        yield from self._times(rows, lineage)
        steps = rows.steps
        if rows.source_rows is not None and not np.array_equal(
            rows.source_rows, lineage["source_row"].to_numpy()[steps]
        ):
            yield "its source rows are not those of the lineage"
        for view, ids in rows.frame_ids.items():
            if not np.array_equal(ids, lineage[f"frame_id_{view}"].to_numpy()[steps]):
                yield f"the frames of {view} are not those of the lineage"
        valid, selected = (lineage[key].to_numpy(zero_copy_only=False) for key in ("valid", "selected"))
        yield from self._counting(rows, valid, selected)
        self._see(name, rows, valid & selected)
        for vector, values in rows.vectors.items():
            if numbers is None:
                continue
            given = normalize(getattr(numbers, vector), self._normalizing(vector), self._recipe.normalize)
            held = given[steps][:, self._held(rows, vector)].astype(np.float32)
            differs = np.abs(values - held)
            self._result.saw("value_difference", float(np.nanmax(differs, initial=0)))
            if not np.array_equal(values, held, equal_nan=True):
                yield f"its {vector} is not what the lake gives for this recipe"

    def _held(self, rows: EpisodeRows, vector: str) -> list[int]:
        """Which numbers of the group the columns of a vector are."""
        return list(rows.channels.get(vector, range(len(self._group[f"{vector}_names"]))))

    def _see(self, name: str, rows: EpisodeRows, counted: np.ndarray) -> None:
        """Keeps the numbers of the steps that count, to compute the statistics of them anew."""
        once, places = np.unique(rows.steps, return_index=True)
        vectors = {vector: (self._held(rows, vector), values) for vector, values in rows.vectors.items()}
        if rows.firsts is not None and self._recipe.actions == ActionRecipe():
            vectors["action"] = list(range(rows.firsts.shape[1])), rows.firsts  # the very rows of the command
        for vector, (channels, values) in vectors.items():
            self._channels[name, vector] = channels
            self._seen.setdefault((name, vector), []).append(values[places[counted[once]]])

    def _skipped(self, told: str) -> None:
        if told not in self._result.skipped:
            self._result.skipped.append(told)

    def _not_held(self, name: str, rows: EpisodeRows) -> None:
        """Tells what the format has nothing of."""
        there = {
            "times": rows.times_ns is not None or rows.clock_error_s is not None,
            "source rows": rows.source_rows is not None,
            "frame numbers": bool(rows.frame_ids) or not self._group["views"],
        }
        lacks = [what for what, is_there in there.items() if not is_there]
        if lacks:
            self._skipped(f"{name} does not hold of its steps: {', '.join(lacks)}")
        as_recorded = rows.firsts is not None and self._recipe.actions == ActionRecipe()
        for vector, channels in rows.channels.items():
            names = self._group[f"{vector}_names"]
            if len(channels) < len(names) and not (vector == "action" and as_recorded):
                what = f"{len(channels)} of the {len(names)} numbers of the {vector} of {self._group['robot']}"
                self._skipped(f"{name} holds {what} as they were")
        if self._pictures is None and rows.firsts is not None and not as_recorded:
            self._skipped(f"the actions of {name} are made of the recorded ones; without a lake they are not compared")

    def _times(self, rows: EpisodeRows, lineage: pa.Table) -> Iterator[str]:
        def told(column: str) -> np.ndarray:
            times: np.ndarray = lineage[column].to_numpy()[rows.steps]
            if not rows.rounded_ns:
                return times
            since: np.ndarray = times - lineage["time_ns"][0].as_py() + rows.rounded_ns // 2
            return since // rows.rounded_ns * rows.rounded_ns

        if rows.times_ns is not None:
            away = np.abs(rows.times_ns - told("time_ns")).max(initial=0)
            self._result.saw("time_error_s", float(away) / 1e9)
            if away:
                yield f"a row lies {away} ns from its step"
        for view, times in rows.frame_times_ns.items():
            away = np.abs(times - told(f"frame_time_ns_{view}")).max(initial=0)
            self._result.saw("time_error_s", float(away) / 1e9)
            if away:
                yield f"a frame of {view} lies {away} ns from its time"
        if rows.clock_error_s is not None:
            self._result.saw("clock_error_s", rows.clock_error_s)
            if rows.clock_error_s > TIME_TOLERANCE_S:
                yield f"a row or frame lies {rows.clock_error_s:.3g} s from its time, {TIME_TOLERANCE_S} s are allowed"

    def _counting(self, rows: EpisodeRows, valid: np.ndarray, selected: np.ndarray) -> Iterator[str]:
        """What is wrong with which steps the format says count, and which are samples."""
        if rows.valid is not None:
            wanted = valid[rows.steps]
            if (rows.valid & ~wanted).any() or (rows.firsts is None and (wanted & ~rows.valid).any()):
                yield "the rows that count are not those of the lineage"
        if rows.selected is not None and not np.array_equal(rows.selected, selected[rows.steps]):
            yield "the rows that windows may hold are not those of the lineage"
        if rows.begins is not None:
            known = rows.steps if rows.shown is None else rows.shown
            if not np.isin(rows.begins, known).all() or not np.array_equal(rows.begins, np.unique(rows.begins)):
                yield "its samples are not of its frames, each once and in order"
            elif not (valid & selected)[rows.begins].all():
                yield "a sample is of a step that does not count"

    def _made(self, name: str, rows: EpisodeRows, stored: StoredEpisode, numbers: EpisodeNumbers) -> Iterator[str]:
        """What is wrong with numbers that were made of the lake's: by making them again."""
        for made in rows.made:
            given = made.of(getattr(numbers, made.vector).astype(np.float32))[rows.steps]
            if not self._alike(made.values, given):
                yield f"its {made.name} is not what the lake's {made.vector} gives"
        if rows.firsts is None:
            return
        shown = shown_views(self._recipe.views, stored.views)
        plan = self._plan(stored)
        if plan is None:
            self._skipped(
                f"the actions of {name}: the robot's card or the slots are others than those they were made by"
            )
            return
        windows = plan_windows(numbers.times_ns, stored.segments, shown.slots, self._recipe)
        chunks = ActionChunks.of(plan, numbers, windows, self._recipe.horizon)
        parts = [chunks.at(starts) for starts in chunks.blocks(rows.steps)]
        given = np.concatenate([values[:, 0] for values, _ in parts])
        counts = np.concatenate([mask[:, 0] for _, mask in parts]) & numbers.valid[rows.steps]
        self._result.checked[f"{name}_actions_made_again"] += len(given)
        if not self._alike(rows.firsts, given):
            yield "its actions are not what the lake gives for this recipe"
        if rows.valid is not None and not np.array_equal(rows.valid, counts):
            yield "the rows that count are not those that the lake gives for this recipe"

    def _plan(self, stored: StoredEpisode) -> ActionPlan | None:
        """How the release's chunks were made; None where that is not known any more, since a layout of slots is a file."""
        try:
            plan = ActionPlan.of(stored.embodiment, self._recipe.actions)
        except WamloomError:
            return None
        return plan if plan.fingerprint == self._group["action_chunk"]["plan"] else None

    def _alike(self, values: np.ndarray, given: np.ndarray) -> bool:
        """Whether they are the same but for the rounding of angles, which another processor may do otherwise."""
        wanted = given.astype(np.float32)
        if values.shape != wanted.shape:
            return False
        self._result.saw("value_difference", float(np.nanmax(np.abs(values - wanted), initial=0)))
        return bool(np.allclose(values, wanted, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True))

    def _normalizing(self, vector: str) -> Stats:
        return stats_from_json(json.dumps(self._group["stats"][vector]))

    def _statistics(self, rows: np.ndarray, whole: Stats, vector: str, channels: list[int]) -> Iterator[str]:
        """What is wrong with ``rows`` [N, A] of these channels, as written, beside the statistics before normalization."""
        if not rows.size:
            return
        stats, by = _of_channels(whole, channels), _of_channels(self._normalizing(vector), channels)
        values = denormalize(rows.astype(np.float64), by, self._recipe.normalize)
        span = np.maximum(np.abs(stats.min), np.abs(stats.max)) + (stats.max - stats.min)
        _, scale = center_and_scale(by, self._recipe.normalize)
        allowed = _ROUNDING * (span + scale * np.abs(rows).max(axis=0)) + 1e-12
        names = [self._group[f"{vector}_names"][channel] for channel in channels]
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
        there = np.unique(rows.steps) if rows.shown is None else rows.shown
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
    """Up to ``RUN_STEPS`` of rising ``steps`` that follow each other as closely as any two, from their middle."""
    apart = np.diff(steps)
    closest = apart.min() if len(apart) else 1
    parts = np.split(steps, np.flatnonzero(apart != closest) + 1)
    longest = max(parts, key=len)
    start = max(0, (len(longest) - RUN_STEPS) // 2)
    return np.asarray(longest[start : start + RUN_STEPS])


def _of_channels(stats: Stats, channels: list[int]) -> Stats:
    """The statistics of some channels alone."""
    names = [field.name for field in fields(Stats) if field.name != "count"]
    return replace(stats, **{name: getattr(stats, name)[channels] for name in names})
