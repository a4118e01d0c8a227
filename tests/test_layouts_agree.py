"""One simulated recording in every layout gives the same episode: values, clocks, frames, texts and success."""

from functools import cache

import numpy as np
import pytest

from pipelines import registry
from pipelines.barcode import read_mark
from pipelines.channels import to_episode
from pipelines.ingest import find_refs
from pipelines.ingest_unit import recognize
from pipelines.simulate import ROBOTS, SimulatedEpisode, simulate
from pipelines.sources import Source
from pipelines.video import VideoTools
from schemas.episode import Episode
from schemas.recipes import Limits
from schemas.time import NANOSECONDS
from tests.chain import first_steps

NUM_EPISODES, SEED, SHORT = 2, 7, 40
CLOCK_UNIT_NS = {"droid_raw": NANOSECONDS // 1000}
"""Layouts whose files count time in coarser units than nanoseconds: times are equal to within one unit."""
WITHOUT_LANGUAGE = {"zarr"}
WITHOUT_SUCCESS = {"zarr"}
LOSSLESS = {"zarr", "robomimic"}
"""Layouts that store raw pictures, which come back bit for bit."""


@cache
def _recorded() -> dict[str, list[SimulatedEpisode]]:
    """By robot: an episode in full, and the first steps of others."""
    made = {robot.name: [simulate(robot, SEED, index) for index in range(NUM_EPISODES)] for robot in ROBOTS}
    return {name: [whole, *(first_steps(one, SHORT) for one in rest)] for name, (whole, *rest) in made.items()}


@pytest.fixture(scope="module", params=registry.names("layouts"))
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Episode]]:
    """Name of the layout, and its episodes with their cards applied, sorted by robot and place."""
    layout = request.param
    folder = tmp_path_factory.mktemp(layout)
    member = registry.load("layouts", layout)
    for name, recorded in _recorded().items():
        if name in getattr(member, "ROBOTS", [name]):
            (folder / name).mkdir()
            member.write(recorded, folder / name)
    episodes = []
    with VideoTools(Limits()) as video:
        for ref in find_refs([str(folder)]):
            source: Source = registry.load("sources", ref.source).SOURCE
            raw = source.read(ref, video, Limits())
            episodes.append(to_episode(raw, *recognize(raw)))
    return layout, episodes


def _made(layout: str, episode: Episode) -> SimulatedEpisode:
    """The simulated recording that an episode is: its own numbers tell, so that no name has to be trusted."""
    values = episode.action.values
    for recorded in _recorded().values():
        for made in recorded:
            if values.shape == made.action.shape and np.array_equal(values.astype(np.float32), made.action):
                return made
    pytest.fail(f"{layout}: {episode.raw.ref.key} has the actions of no simulated recording")


def test_every_recording_is_there_once(told: tuple[str, list[Episode]]) -> None:
    layout, episodes = told
    found = [(made.robot.name, made.index) for made in (_made(layout, episode) for episode in episodes)]
    robots = {robot for robot, _ in found}
    assert robots, "a layout fits at least one of the sample robots"
    assert sorted(found) == [(robot, index) for robot in sorted(robots) for index in range(NUM_EPISODES)]


def test_values_and_clocks_are_those_of_the_recording(told: tuple[str, list[Episode]]) -> None:
    layout, episodes = told
    unit = CLOCK_UNIT_NS.get(layout, 0)
    for episode in episodes:
        made = _made(layout, episode)
        assert np.array_equal(episode.proprio.values.astype(np.float32), made.proprio)
        assert episode.control_rate == made.robot.control_rate
        for name, times_ns in (
            ("action", episode.action.times_ns),
            ("proprio", episode.proprio.times_ns),
            *((slot, view.times_ns) for slot, view in episode.views.items()),
        ):
            assert len(times_ns) == made.num_steps, name
            assert np.abs(times_ns - made.times_ns).max() <= unit, f"{layout} {name}"


def test_frames_are_those_of_the_recording(told: tuple[str, list[Episode]]) -> None:
    layout, episodes = told
    with VideoTools(Limits()) as video:
        for episode in episodes:
            made = _made(layout, episode)
            assert set(episode.views) == {camera.slot for camera in made.robot.cameras}
            for slot, view in episode.views.items():
                frames = np.concatenate(list(video.decode(view, f"{layout} {slot}")))
                marks = [read_mark(frame) for frame in frames]
                assert [mark and (mark.frame, mark.episode) for mark in marks] == [
                    (number, made.tag) for number in made.frame_numbers.tolist()
                ]
                if layout in LOSSLESS:
                    assert all(np.array_equal(one, other) for one, other in zip(frames, made.frames(slot), strict=True))
                else:
                    error = np.abs(frames[0].astype(int) - next(iter(made.frames(slot)))).mean()
                    assert error < 6, f"{layout}: {error} levels on average, which is more than compression does"


def test_language_and_success_are_those_of_the_recording(told: tuple[str, list[Episode]]) -> None:
    layout, episodes = told
    for episode in episodes:
        made = _made(layout, episode)
        texts = [instruction.text for instruction in episode.instructions]
        assert texts == ([] if layout in WITHOUT_LANGUAGE else [made.instruction])
        assert episode.success == (None if layout in WITHOUT_SUCCESS else made.success)
