"""What every probe owes: it is of a format, and gives back what was pushed, by itself and in order."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import registry
from pipelines.probes import Probe
from tests.chain import read_json
from tests.release_chain import RECIPE, make_lake, make_release

MEMBERS = registry.names("probes")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probes")
    return make_release(make_lake(folder), folder / "release")


def test_probes_are_of_formats_and_this_recipe_has_them_all() -> None:
    assert set(MEMBERS) <= set(registry.names("formats"))
    assert set(MEMBERS) == set(RECIPE.formats)


@pytest.mark.parametrize("name", MEMBERS)
def test_rows_frames_and_samples_are_of_one_episode(name: str, release: Path) -> None:
    windowed = registry.load("formats", name).FORMAT.windowed
    first, count = ("first_sample", "num_samples") if windowed else ("first_step", "num_steps")
    for group in read_json(release / "manifest.json")["groups"]:
        probe: Probe = registry.load("probes", name).open_group(release / name / group["name"], group)
        for episode in reversed(group["episodes"]):  # any order, if slower
            rows = probe.rows(episode)
            assert rows.samples.tolist() == list(range(episode[first], episode[first] + episode[count]))
            assert len(rows.steps) == len(rows.source_rows) > 0
            assert set(rows.frame_ids) == {view["slot"] for view in group["views"]}
            steps = np.unique(rows.steps)[[0, -1]].tolist()
            for view in group["views"]:
                frames = probe.frames(episode, view["slot"], steps)
                assert (frames.dtype, frames.shape) == (np.uint8, (2, view["height_px"], view["width_px"], 3))
            content = probe.sample(episode[first])
            assert content.episode_index == episode["episode_index"]
            assert content.steps[0] == content.step
            assert content.chunk.shape == (RECIPE.horizon, len(content.chunk_names))
            assert (content.mask.shape, content.mask.dtype) == ((RECIPE.horizon,), np.bool_)
