"""Every format has its users' own reader as a judge, which passes what is right and tells what is not."""

from pathlib import Path

import pytest

from pipelines import registry
from tests.fake_build import build_of, write_build


def _written(name: str, folder: Path) -> dict[str, int]:
    member = registry.load("formats", name)
    build = build_of(name, (7, 1, 12))
    write_build(member, build, folder)
    return dict(member.FORMAT.count(folder))


NO_LIBRARY = {"cosmos_video", "ctrlworld", "fastwam", "gigaworld", "lingbot", "motus"}
"""Formats that only their trainers read, with ``torch.load``, ``pickle`` and ``json`` alone; ``count`` reads them so."""


def test_every_format_that_a_library_reads_has_a_reader() -> None:
    assert set(registry.names("readers")) == set(registry.names("formats")) - NO_LIBRARY


@pytest.mark.parametrize("name", registry.names("readers"))
def test_a_right_folder_has_no_problem_and_a_wrong_count_is_told(name: str, tmp_path: Path) -> None:
    expected = _written(name, tmp_path / "group")
    reader = registry.load("readers", name)
    problems, read = reader.problems(tmp_path / "group", expected)
    assert problems == []
    assert read > 0
    problems, _ = reader.problems(tmp_path / "group", {key: count + 1 for key, count in expected.items()})
    assert problems


def test_the_second_opinion_tells_neighboring_frames_apart(tmp_path: Path) -> None:
    _written("lerobot_v3", tmp_path / "group")
    reader = registry.load("readers", "lerobot_v3")
    video = next((tmp_path / "group" / "videos" / "observation.images.primary").rglob("*.mp4"))
    first, next_one = (reader.second_decoder(video, step / 15, 15) for step in (0, 1))
    assert abs(first - next_one).mean() > reader.MAX_MEAN_DIFFERENCE
