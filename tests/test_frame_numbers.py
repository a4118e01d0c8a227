"""The proof of the chain: the number in the pixels is the frame that the lineage names, in every sample of every format.

What belongs to each step is worked out here from the simulated recordings and exact fractions, without the code that
resamples.
"""

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from pipelines.barcode import Mark, read_mark
from pipelines.encoders.wavelet import Wavelet
from pipelines.lake import Lake
from pipelines.rows import META_COLUMNS
from pipelines.sample import write_sample
from pipelines.simulate import ROBOTS, SimulatedEpisode, simulate
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, ViewsRecipe
from tests.chain import movie, picture, read_json, run_build, run_encode, run_ingest, tables, tar_samples, vectors

SEED, NUM_EPISODES, HORIZON = 3, 2, 8
FORMATS = ("lerobot_v3", "parquet", "webdataset")
LAYOUTS = ("rlds", "lerobot_v21", "lerobot_v3")
VIEWS = ViewsRecipe(height_px=64, width_px=96, fit="stretch")
SECOND = 10**9
HELD = {"sample_arm": {6}, "sample_gantry": {4}}
"""Proprio channels that are held (the grippers); all others go along straight lines."""


@dataclass(frozen=True)
class Expected:
    """An episode on a grid, in exact arithmetic."""

    truth: SimulatedEpisode
    rate: Fraction

    @property
    def source_rate(self) -> Fraction:
        return self.truth.robot.control_rate

    @property
    def num_steps(self) -> int:
        return int((self.truth.num_steps - 1) * self.rate / self.source_rate) + 1

    def time_ns(self, step: int) -> int:
        return int(step * SECOND / self.rate)

    def row(self, step: int) -> int:
        """The recorded step at or before: floor(step / rate * source rate)."""
        return int(step * self.source_rate / self.rate)

    def row_time_ns(self, row: int) -> int:
        return int(row * SECOND / self.source_rate)

    def action(self, step: int) -> np.ndarray:
        return self.truth.action[self.row(step)]

    def proprio(self, step: int) -> np.ndarray:
        row = self.row(step)
        before = self.truth.proprio[row]
        if step * self.source_rate / self.rate == row:
            return before
        after = self.truth.proprio[row + 1]
        start, stop = self.row_time_ns(row), self.row_time_ns(row + 1)
        along = Fraction(self.time_ns(step) - start, stop - start)
        held = HELD[self.truth.robot.name]
        return np.array(
            [
                float(low)
                if index in held
                else float(Fraction(float(low)) * (1 - along) + Fraction(float(high)) * along)
                for index, (low, high) in enumerate(zip(before, after, strict=True))
            ],
            dtype=np.float32,
        )

    def mark(self, step: int) -> Mark:
        return Mark(self.row(step), self.truth.tag)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for layout in LAYOUTS:
        write_sample(folder, layout, NUM_EPISODES, SEED)
    root = folder / "lake"
    values = run_ingest([folder / layout for layout in LAYOUTS], root).values
    # the first episodes of v2.1 and v3.0 hold the same packets and numbers: one row with two places each
    assert (values["listed"], values["kept"], values["already"]) == (12, 10, 2)
    return root


@pytest.fixture(scope="module")
def truths(lake: Path) -> dict[str, SimulatedEpisode]:
    """By episode id: what was simulated, found by name and number of the recording."""
    robots = {robot.name: robot for robot in ROBOTS}
    found = {}
    for row in Lake.open(lake).rows("episodes", ["embodiment", "locations"]):
        numbers = {int(place["key"].replace("/", "_").rsplit("_", 1)[1]) for place in row["locations"]}
        (number,) = numbers
        found[row["episode_id"]] = simulate(robots[row["embodiment"]], SEED, number)
    return found


def test_every_layout_gives_the_same_canonical_episode(lake: Path, truths: Mapping[str, SimulatedEpisode]) -> None:
    opened = Lake.open(lake)
    layouts: dict[tuple[str, int], set[str]] = {}
    for row in opened.rows("episodes", [*META_COLUMNS, "duration_ns"]):
        truth = truths[row["episode_id"]]
        for place in row["locations"]:
            layout = next(name for name in LAYOUTS if f"/{name}/" in place["location"])
            layouts.setdefault((truth.robot.name, truth.index), set()).add(layout)
        episode = opened.episode(row["episode_id"])
        streams = {stream.name: stream for stream in episode.streams}
        proprio = streams["observation/state" if episode.card.source == "rlds" else "observation.state"]
        for stream, values in ((streams["action"], truth.action), (proprio, truth.proprio)):
            assert stream.values.dtype == np.float32
            np.testing.assert_array_equal(stream.values, values)
            exact = [int(step * SECOND / truth.robot.control_rate) for step in range(truth.num_steps)]
            np.testing.assert_array_equal(stream.times_ns, exact)
        assert [one.text for one in episode.instructions] == [truth.instruction]
        assert episode.success == truth.success
        assert set(episode.views) == {camera.slot for camera in truth.robot.cameras}
        for view in episode.views.values():
            np.testing.assert_allclose(view.times_ns, exact, atol=1)
    assert layouts == {(robot.name, n): set(LAYOUTS) for robot in ROBOTS for n in range(NUM_EPISODES)}


RELEASES = {
    "native": (None, ""),
    "arm at 5 Hz": (Fraction(5), "embodiment = 'sample_arm'"),
    "gantry at 7.5 Hz": (Fraction(15, 2), "embodiment = 'sample_gantry'"),
}


@pytest.fixture(scope="module", params=list(RELEASES))
def release(
    request: pytest.FixtureRequest, lake: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Fraction | None]:
    rate, where = RELEASES[request.param]
    out = tmp_path_factory.mktemp("release") / "out"
    recipe = BuildRecipe(
        formats=FORMATS, rate=rate, where=where, views=VIEWS, horizon=HORIZON, tokenizer=None, unit_frames=400
    )
    run_build(lake, out, recipe)
    return out, rate


def groups_of(
    out: Path, rate: Fraction | None, truths: Mapping[str, SimulatedEpisode]
) -> list[tuple[dict[str, Any], list[Expected]]]:
    """The groups of a manifest with what is expected of their episodes, in order."""
    found = []
    for group in read_json(out / "manifest.json")["groups"]:
        expected = []
        for entry in group["episodes"]:
            truth = truths[entry["episode_id"]]
            one = Expected(truth, rate or truth.robot.control_rate)
            assert entry["num_steps"] == one.num_steps
            expected.append(one)
        found.append((group, expected))
    return found


def steps_of(expected: Sequence[Expected]) -> list[tuple[Expected, int]]:
    return [(episode, step) for episode in expected for step in range(episode.num_steps)]


def test_lineage_names_rows_and_frames(
    release: tuple[Path, Fraction | None], truths: Mapping[str, SimulatedEpisode]
) -> None:
    out, rate = release
    for group, expected in groups_of(out, rate, truths):
        table = tables(out / "lineage" / group["name"])
        rows = steps_of(expected)
        wanted = {
            "index": list(range(len(rows))),
            "step": [step for _, step in rows],
            "time_ns": [episode.time_ns(step) for episode, step in rows],
            "source_row": [episode.row(step) for episode, step in rows],
            "source_time_ns": [episode.row_time_ns(episode.row(step)) for episode, step in rows],
            "valid": [True] * len(rows),
        }
        for view in group["views"]:
            wanted[f"frame_id_{view['slot']}"] = wanted["source_row"]
        for name, values in wanted.items():
            assert table[name].to_pylist() == values, name
        for view in group["views"]:
            shown = table[f"frame_time_ns_{view['slot']}"].to_numpy()
            np.testing.assert_allclose(shown, wanted["source_time_ns"], atol=1)


def test_parquet_rows(release: tuple[Path, Fraction | None], truths: Mapping[str, SimulatedEpisode]) -> None:
    out, rate = release
    for group, expected in groups_of(out, rate, truths):
        table = tables(out / "parquet" / group["name"] / "data")
        rows = steps_of(expected)
        assert table.num_rows == len(rows) == group["num_steps"]
        actions, proprios, chunks = (vectors(table[name]) for name in ("action", "proprio", "action_chunk"))
        masks = vectors(table["chunk_mask"])
        assert table["source_row"].to_pylist() == [episode.row(step) for episode, step in rows]
        for index, (episode, step) in enumerate(rows):
            np.testing.assert_array_equal(actions[index].astype(np.float32), episode.action(step))
            np.testing.assert_array_equal(proprios[index].astype(np.float32), episode.proprio(step))
            reached = [min(step + ahead, episode.num_steps - 1) for ahead in range(HORIZON)]
            np.testing.assert_array_equal(
                chunks[index].astype(np.float32), [episode.action(after) for after in reached]
            )
            assert masks[index].tolist() == [step + ahead < episode.num_steps for ahead in range(HORIZON)]
        for view in group["views"]:
            slot = view["slot"]
            marks = [read_mark(picture(image["bytes"])) for image in table[f"image_{slot}"].to_pylist()]
            assert marks == [episode.mark(step) for episode, step in rows]
            assert [mark.frame for mark in marks if mark] == table[f"frame_id_{slot}"].to_pylist()


def test_lerobot_rows_and_videos(release: tuple[Path, Fraction | None], truths: Mapping[str, SimulatedEpisode]) -> None:
    out, rate = release
    for group, expected in groups_of(out, rate, truths):
        folder = out / "lerobot_v3" / group["name"]
        table = tables(folder / "data")
        rows = steps_of(expected)
        assert table.num_rows == len(rows)
        actions, proprios = vectors(table["action"]), vectors(table["observation.state"])
        assert table["lineage.source_row"].to_pylist() == [episode.row(step) for episode, step in rows]
        for index, (episode, step) in enumerate(rows):
            np.testing.assert_array_equal(actions[index].astype(np.float32), episode.action(step))
            np.testing.assert_array_equal(proprios[index].astype(np.float32), episode.proprio(step))
        for view in group["views"]:
            slot = view["slot"]
            files = sorted((folder / "videos" / f"observation.images.{slot}").rglob("*.mp4"))
            marks = [read_mark(frame) for frame in movie(files)]
            assert marks == [episode.mark(step) for episode, step in rows]
            assert [mark.frame for mark in marks if mark] == table[f"lineage.frame_id.{slot}"].to_pylist()


def test_webdataset_windows(release: tuple[Path, Fraction | None], truths: Mapping[str, SimulatedEpisode]) -> None:
    out, rate = release
    for group, expected in groups_of(out, rate, truths):
        samples = list(tar_samples(out / "webdataset" / group["name"]))
        windows = [(episode, start) for episode in expected for start in range(0, episode.num_steps, HORIZON)]
        assert [sample.facts["sample"] for sample in samples] == list(range(len(windows)))
        for sample, (episode, start) in zip(samples, windows, strict=True):
            facts = sample.facts
            steps = [min(start + ahead, episode.num_steps - 1) for ahead in range(HORIZON)]
            assert facts["step"] == start
            assert truths[facts["episode_id"]] is episode.truth
            assert facts["times_ns"] == [episode.time_ns(step) for step in steps]
            assert facts["source_rows"] == [episode.row(step) for step in steps]
            np.testing.assert_array_equal(sample.array("action.npy"), [episode.action(step) for step in steps])
            np.testing.assert_array_equal(sample.array("proprio.npy"), [episode.proprio(step) for step in steps])
            inside = [start + ahead < episode.num_steps for ahead in range(HORIZON)]
            assert sample.array("mask.npy").tolist() == inside
            assert facts["num_steps"] == sum(inside)
            for view in group["views"]:
                slot = view["slot"]
                marks = [read_mark(picture(sample.members[f"{slot}.{place:03d}.jpg"])) for place in range(HORIZON)]
                assert marks == [episode.mark(step) for step in steps]
                assert [mark.frame for mark in marks if mark] == facts["frame_ids"][slot]


@dataclass(frozen=True)
class LatentCase:
    """Latents of one data set, and the build that joins them."""

    dataset: str
    rate: Fraction | None
    clip: ClipRecipe
    content: str
    dtype: str = "float32"


WHOLE, TILES, LAPS = (
    ClipRecipe(),
    ClipRecipe(kind="fixed", num_frames=9),
    ClipRecipe(kind="fixed", num_frames=13, stride=6),
)
LATENTS = {
    "native, whole": LatentCase("sample_arm_rlds", None, WHOLE, "both"),
    "native, fixed that overlap": LatentCase("sample_arm_lerobot", None, LAPS, "latents", "float16"),
    "5 Hz, whole": LatentCase("sample_arm_lerobot", Fraction(5), WHOLE, "latents"),
    "5 Hz, fixed": LatentCase("sample_arm_rlds", Fraction(5), TILES, "both"),
    "7.5 Hz, whole": LatentCase("sample_gantry_rlds", Fraction(15, 2), WHOLE, "both"),
    "7.5 Hz, fixed that overlap": LatentCase("sample_gantry_lerobot", Fraction(15, 2), LAPS, "latents"),
}


@pytest.fixture(scope="module", params=list(LATENTS))
def joined(
    request: pytest.FixtureRequest, lake: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, LatentCase]:
    case = LATENTS[request.param]
    where = f"dataset = '{case.dataset}'"
    answer = run_encode(
        lake, EncodeRecipe(rate=case.rate, views=VIEWS, clip=case.clip, dtype=case.dtype, unit_frames=300), where
    )
    assert answer.values["computed"] == answer.values["clips"] > 0
    out = tmp_path_factory.mktemp("release") / "out"
    recipe = BuildRecipe(
        formats=("lerobot_v3", "webdataset"),
        rate=case.rate,
        where=where,
        views=VIEWS,
        horizon=HORIZON,
        content=case.content,
        encoder="wavelet",
        tokenizer=None,
        unit_frames=400,
    )
    run_build(lake, out, recipe)
    return out, case


def numbers_in(latent: np.ndarray, is_leading: bool) -> list[Mark | None]:
    """The marks in the frames of one latent frame: one of the leading one, else four."""
    wavelet = Wavelet()
    if is_leading:
        return [read_mark(frame) for frame in wavelet.decode(latent[None])]
    before = np.zeros_like(latent)  # groups of four do not depend on the frame before
    return [read_mark(frame) for frame in wavelet.decode(np.stack([before, latent]))[1:]]


def test_latent_clips_hold_the_frames_they_name(
    joined: tuple[Path, LatentCase], truths: Mapping[str, SimulatedEpisode]
) -> None:
    out, case = joined
    ((group, expected),) = groups_of(out, case.rate, truths)
    folder = out / "lerobot_v3" / group["name"] / "latents"
    clips: Counter[tuple[str, str]] = Counter()
    covered: dict[tuple[str, str], set[int]] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safetensors.safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()["wamloom"])
            values = file.get_tensor("latents")
        episode = next(one for one in expected if truths[facts["episode_id"]] is one.truth)
        steps = [round(Fraction(time) * episode.rate / SECOND) for time in facts["times_ns"]]
        # clips at the native rate carry the times of the frames, all others those of the grid
        np.testing.assert_allclose(facts["times_ns"], [episode.time_ns(step) for step in steps], atol=1)
        assert steps == list(range(steps[0], steps[0] + len(steps)))
        assert facts["frame_ids"] == [episode.row(step) for step in steps]
        marks = [read_mark(frame) for frame in Wavelet().decode(values)]
        assert marks == [episode.mark(step) for step in steps]
        clips[facts["episode_id"], facts["slot"]] += 1
        covered.setdefault((facts["episode_id"], facts["slot"]), set()).update(steps)
    slots = [camera.slot for camera in expected[0].truth.robot.cameras]
    wanted = list(itertools.product([entry["episode_id"] for entry in group["episodes"]], slots))
    assert set(clips) == set(wanted)
    for key in wanted:
        episode = next(one for one in expected if truths[key[0]] is one.truth)
        if case.clip.kind == "whole":
            assert clips[key] == 1
            assert covered[key] == set(range(episode.num_steps - (episode.num_steps - 1) % 4))
        else:
            assert clips[key] > 1
            assert covered[key] == set(range(episode.num_steps))


def test_windows_have_the_latents_of_their_steps(
    joined: tuple[Path, LatentCase], truths: Mapping[str, SimulatedEpisode]
) -> None:
    out, case = joined
    ((group, expected),) = groups_of(out, case.rate, truths)
    num_latents = 0
    seen: dict[tuple[str, str], set[int]] = {}
    for sample in tar_samples(out / "webdataset" / group["name"]):
        facts = sample.facts
        episode = next(one for one in expected if truths[facts["episode_id"]] is one.truth)
        window = set(range(facts["step"], facts["step"] + facts["num_steps"]))
        assert ("primary.000.jpg" in sample.members) == (case.content == "both")
        for slot, spans in facts["latents"].items():
            values = sample.array(f"{slot}.latent.npy")
            assert values.dtype == np.dtype(case.dtype)
            assert len(values) == len(spans)
            covered: set[int] = set()
            for value, span in zip(values, spans, strict=True):
                marks = numbers_in(value, span["latent"] == 0)
                start, stop = span["steps"]
                assert marks == [episode.mark(step) for step in range(start, stop)]
                assert [mark.frame for mark in marks if mark] == span["frame_ids"]
                assert set(range(start, stop)) & window, "a latent frame that has nothing to do with its window"
                covered |= set(range(start, stop))
                num_latents += 1
            tail = (episode.num_steps - 1) % 4 if case.clip.kind == "whole" else 0
            assert window - covered <= set(range(episode.num_steps - tail, episode.num_steps))
            seen.setdefault((facts["episode_id"], slot), set()).update(covered)
    assert num_latents > 0
    for (episode_id, _), steps in seen.items():
        episode = next(one for one in expected if truths[episode_id] is one.truth)
        assert len(steps) >= episode.num_steps - 3
