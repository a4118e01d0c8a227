"""What every format owes: what goes in comes out, equal input gives equal bytes, and nothing unfinished looks finished.

A new file in ``pipelines/formats`` is under test by existing. What its readers see is compared in its own test file.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import registry
from pipelines.formats import CopyingWriter, Format, PictureWriter
from pipelines.video_writer import VideoWriter
from schemas.errors import ReleaseError
from schemas.time import parse_rate
from tests.chain import movie
from tests.fake_build import FakeBuild, build_of, builds, make_frames, needs_of, tree_bytes, write_build, write_unit

MEMBERS = registry.names("formats")
DATA = re.compile(
    r".*\.(parquet|mp4|tar|jsonl|pt|pth|pickle|h5|hdf5|npz|safetensors)|.*\.tfrecord-.*|[0-9]+(\.[0-9]+)*"
)
"""Names of files that samples lie in."""


def build_for(member: ModuleType, lengths: Sequence[int] = (7, 1, 12), **choices: Any) -> FakeBuild:
    return build_of(member.FORMAT.name, lengths, **choices)


@pytest.fixture(params=MEMBERS)
def member(request: pytest.FixtureRequest) -> ModuleType:
    return registry.load("formats", request.param)


def _of_texts(build: FakeBuild) -> dict[str, int]:
    """A text for each task, as FastWAM has them."""
    return {"samples": len(build.group.tasks), "frames": 0, "episodes": len(build.episodes)}


def _of_episode_texts(build: FakeBuild) -> dict[str, int]:
    return {"samples": len(build.episodes), "frames": 0, "episodes": len(build.episodes)}


def _of_segments(build: FakeBuild) -> dict[str, int]:
    """Whole episodes of five frames or more, cut to 1 + 4k frames."""
    lengths = [1 + (n - 1) // 4 * 4 for n in (e.plan.num_steps for e in build.episodes) if n >= 5]
    return {"samples": len(lengths), "frames": sum(lengths) * len(build.group.views), "episodes": len(lengths)}


def _of_every_third_frame(build: FakeBuild) -> dict[str, int]:
    """Every third step a frame, and a sample of each but the last four; the made-up step 3, which is frame 1, is invalid."""
    counts = [-(-episode.plan.num_steps // 3) for episode in build.episodes]
    samples = sum(max(1, count - 4) - (count > 5) for count in counts)
    return {"samples": samples, "frames": sum(counts) * len(build.group.views), "episodes": len(build.episodes)}


def _of_videos(build: FakeBuild) -> dict[str, int]:
    """A video for each view of each episode."""
    steps = sum(episode.plan.num_steps for episode in build.episodes)
    views = len(build.group.views)
    return {"samples": len(build.episodes) * views, "frames": steps * views, "episodes": len(build.episodes)}


COUNTS: Mapping[str, Callable[[FakeBuild], dict[str, int]]] = {
    "fastwam": _of_texts,
    "gigaworld": _of_episode_texts,
    "motus": _of_episode_texts,
    "lingbot": _of_segments,
    "ctrlworld": _of_every_third_frame,
    "cosmos_video": _of_videos,
}
"""Of formats whose samples are no steps or windows."""


def expected_counts(member: ModuleType, build: FakeBuild) -> dict[str, int]:
    """What ``count`` must find; frames count once per view and per step shown."""
    if member.FORMAT.name in COUNTS:
        return COUNTS[member.FORMAT.name](build)
    steps = sum(episode.plan.num_steps for episode in build.episodes)
    windows = sum(episode.plan.num_samples for episode in build.episodes)
    samples = windows if member.FORMAT.windowed else steps
    shown = windows * build.recipe.horizon if member.FORMAT.windowed else steps
    return {"samples": samples, "frames": shown * len(build.group.views), "episodes": len(build.episodes)}


def test_exports_a_format_of_its_own_name(member: ModuleType) -> None:
    exported: Format = member.FORMAT
    assert exported.name == member.__name__.rpartition(".")[2]
    assert isinstance(exported.windowed, bool)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_everything_written_is_counted(
    member: ModuleType, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    build = data.draw(builds(member.FORMAT.name))
    folder = tmp_path_factory.mktemp("release")
    write_build(member, build, folder)
    assert member.FORMAT.count(folder) == expected_counts(member, build)


def test_equal_input_gives_equal_bytes_however_frames_are_chunked(member: ModuleType, tmp_path: Path) -> None:
    latents = needs_of(member.FORMAT.name).get("latent_slots", ("primary",))
    write_build(member, build_for(member, latent_slots=latents), tmp_path / "one", chunk=5)
    write_build(member, build_for(member, latent_slots=latents), tmp_path / "two", chunk=3)
    one, two = tree_bytes(tmp_path / "one"), tree_bytes(tmp_path / "two")
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []


def test_units_may_be_written_in_any_order(member: ModuleType, tmp_path: Path) -> None:
    build = build_for(member)
    write_build(member, build, tmp_path / "one")
    facts = {unit.file_index: write_unit(member, build, unit, tmp_path / "two") for unit in reversed(build.units)}
    # facts travel between processes as JSON
    units = [(unit, json.loads(json.dumps(facts[unit.file_index]))) for unit in build.units]
    member.FORMAT.finish(build.group, build.recipe, units, tmp_path / "two")
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


def test_a_unit_can_be_written_again_over_what_a_crash_left(member: ModuleType, tmp_path: Path) -> None:
    build = build_for(member)
    write_build(member, build, tmp_path / "one")
    write_unit(member, build, build.units[0], tmp_path / "two", stop_before="end")
    write_build(member, build, tmp_path / "two")
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


@pytest.mark.parametrize("stop_before", ["end", "close", "finish"])
def test_a_crash_leaves_nothing_that_counts(member: ModuleType, tmp_path: Path, stop_before: str) -> None:
    build = build_for(member)
    for unit in build.units:
        write_unit(member, build, unit, tmp_path, stop_before=stop_before)
    with pytest.raises(ReleaseError, match="never finished"):
        member.FORMAT.count(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_file_cut_short_is_noticed(member: ModuleType, tmp_path: Path, share: float) -> None:
    build = build_for(member)
    write_build(member, build, tmp_path)
    found = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and DATA.fullmatch(path.name)]
    assert found
    assert member.FORMAT.count(tmp_path) == expected_counts(member, build)
    for path in found:
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        try:
            assert member.FORMAT.count(tmp_path) != expected_counts(member, build), path
        except ReleaseError as error:
            assert error.reason == "unreadable"  # noqa: PT017 - either is right
        path.write_bytes(data)


def test_departures_from_the_plan_are_refused(member: ModuleType, tmp_path: Path) -> None:
    build = build_for(member, (5, 4))
    first, second = build.episodes
    open_writer = member.FORMAT.open_unit
    with pytest.raises(ReleaseError, match="not the next one"):
        open_writer(build.units[0], build.recipe, tmp_path / "a").begin(second)
    with pytest.raises(ReleaseError, match="planned was"):
        open_writer(build.units[0], build.recipe, tmp_path / "b").begin(
            dataclasses.replace(first, action=first.action[:-1])
        )
    writer = open_writer(build.units[0], build.recipe, tmp_path / "c")
    if not isinstance(writer, PictureWriter):
        return
    writer.begin(first)
    frames = make_frames(build, first, "primary")
    writer.frames("primary", 0, frames[:2])
    for slot, start, pushed in (("primary", 3, frames[3:4]), ("secondary", 0, frames), ("wrist_left", 0, frames)):
        with pytest.raises(ReleaseError):
            writer.frames(slot, start, pushed)
    with pytest.raises(ReleaseError, match="2 frames for 5 steps"):
        writer.end()


def test_a_unit_that_lacks_an_episode_cannot_be_closed(member: ModuleType, tmp_path: Path) -> None:
    build = build_for(member, (5, 4))
    writer = member.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)
    with pytest.raises(ReleaseError, match="0 of 2 planned episodes"):
        writer.close()


def test_what_was_pushed_is_not_changed(member: ModuleType, tmp_path: Path) -> None:
    build = build_for(member, (6,))
    before = [
        field.copy() for field in (build.episodes[0].action, build.episodes[0].proprio, build.episodes[0].times_ns)
    ]
    for array in (build.episodes[0].action, build.episodes[0].proprio, build.episodes[0].times_ns):
        array.setflags(write=False)
    write_build(member, build, tmp_path)
    after = (build.episodes[0].action, build.episodes[0].proprio, build.episodes[0].times_ns)
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, two)


def test_frames_that_are_copied_count_and_show_like_those_that_are_pushed(member: ModuleType, tmp_path: Path) -> None:
    build = build_for(member)
    units = []
    for unit in build.units:
        writer = member.FORMAT.open_unit(unit, build.recipe, tmp_path / "copied")
        if not (isinstance(writer, CopyingWriter) and writer.copies and build.group.views):
            pytest.skip(f"{member.FORMAT.name} takes pictures")
        for plan in unit.episodes:
            episode = build.episodes[plan.episode_index]
            writer.begin(episode)
            for slot, height, width in build.group.views:
                frames = make_frames(build, episode, slot)
                clip = VideoWriter(
                    tmp_path / "clip.mp4", parse_rate(build.group.rate), height, width, build.recipe.video
                )
                clip.write(frames, key_frame=True)
                clip.close()
                writer.copy(slot, clip.path.read_bytes(), lambda steps, frames=frames: iter([frames[steps]]))
            writer.end()
        units.append((unit, writer.close()))
    member.FORMAT.finish(build.group, build.recipe, units, tmp_path / "copied")
    write_build(member, build, tmp_path / "pushed")
    assert member.FORMAT.count(tmp_path / "copied") == expected_counts(member, build)
    names = [path.relative_to(tmp_path / "copied") for path in sorted((tmp_path / "copied").rglob("*.mp4"))]
    assert names
    for name in names:
        copied, pushed = (np.stack(list(movie([tmp_path / folder / name]))) for folder in ("copied", "pushed"))
        assert copied.shape == pushed.shape
        assert np.abs(copied.astype(int) - pushed).mean(axis=(1, 2, 3)).max() < 3  # the next one's blue is 20 away
