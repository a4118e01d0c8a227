"""What every probe owes: it is of a format, and gives back what was pushed, by itself and in order."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import registry
from pipelines.probes import Probe
from tests import arm_release, release_chain
from tests.chain import read_json

MEMBERS = registry.names("probes")
PLAIN, OF_ARMS = release_chain.FORMATS, arm_release.FORMATS


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By format: a release that has it."""
    folder = tmp_path_factory.mktemp("probes")
    plain = release_chain.make_release(release_chain.make_lake(folder / "plain"), folder / "plain/release")
    lake = arm_release.make_arm_lake(folder / "arm")
    arm = release_chain.make_release(lake, folder / "arm/release", arm_release.RECIPE)
    return dict.fromkeys(PLAIN, plain) | dict.fromkeys(OF_ARMS, arm)


def test_probes_are_of_formats_and_these_releases_have_them_all() -> None:
    assert set(MEMBERS) <= set(registry.names("formats"))
    assert set(MEMBERS) == {*PLAIN, *OF_ARMS}
    assert set(registry.names("joined")) <= set(registry.names("formats"))


@pytest.mark.parametrize("name", MEMBERS)
def test_rows_frames_and_samples_are_of_one_episode(name: str, releases: dict[str, Path]) -> None:
    windowed = registry.load("formats", name).FORMAT.windowed
    first, count = ("first_sample", "num_samples") if windowed else ("first_step", "num_steps")
    release = releases[name]
    manifest = read_json(release / "manifest.json")
    for group in manifest["groups"]:
        probe: Probe = registry.load("probes", name).open_group(release / name / group["name"], group)
        seen = 0
        for episode in reversed(group["episodes"]):  # any order, if slower
            rows = probe.rows(episode)
            assert rows.at_odds == ()
            assert (rows.samples is None) != (rows.begins is None)
            if rows.samples is not None:
                assert rows.samples.tolist() == list(range(episode[first], episode[first] + episode[count]))
            seen += len(rows.samples if rows.begins is None else rows.begins)
            columns = [rows.source_rows, rows.times_ns, rows.valid, rows.selected, rows.firsts]
            columns += [*rows.vectors.values(), *rows.frame_ids.values(), *(made.values for made in rows.made)]
            assert {len(column) for column in columns if column is not None} == {len(rows.steps)} != {0}
            assert set(rows.frame_ids) in ({view["slot"] for view in group["views"]}, set())
            for vector, values in rows.vectors.items():
                held = rows.channels.get(vector, group[f"{vector}_names"])
                assert (values.dtype, values.shape[1]) == (np.float32, len(held))
            shown = np.unique(rows.steps) if rows.shown is None else rows.shown
            for view in group["views"]:
                frames = probe.frames(episode, view["slot"], shown[[0, -1]].tolist())
                assert (frames.dtype, frames.shape) == (np.uint8, (2, view["height_px"], view["width_px"], 3))
        assert seen == manifest["counts"][name][group["name"]]["samples"]
        for number in (0, seen - 1):
            content = probe.sample(number)
            assert content.steps[0] == content.step
            assert content.chunk.shape == (manifest["recipe"]["horizon"], len(content.chunk_names))
            assert (content.mask.shape, content.mask.dtype) == ((manifest["recipe"]["horizon"],), np.bool_)
            assert content.step in probe.rows(group["episodes"][content.episode_index]).steps
