"""The picture checks, on small gray frames with known defects."""

import numpy as np
import pytest

from schemas.findings import Severity
from tests.check_subjects import by_rule, make_subject, moving_thumbs, sound_proprio
from validation.checks import picture


def test_a_living_camera_has_no_finding() -> None:
    assert picture.check_episode(make_subject(thumbs=moving_thumbs())) == []
    assert picture.check_episode(make_subject()) == []


@pytest.mark.parametrize("level", [0, 16])
def test_a_camera_that_is_always_black(level: int) -> None:
    found = by_rule(picture.check_episode(make_subject(thumbs=np.full((60, 16, 24), level, np.uint8))))
    assert set(found) == {"black_view"}
    assert (found["black_view"].where, found["black_view"].severity) == ("primary", Severity.WARNING)


def test_a_dark_scene_is_not_black() -> None:
    assert picture.check_episode(make_subject(thumbs=moving_thumbs() // 8)) == []


def test_a_camera_unplugged_half_way_gives_the_frame() -> None:
    thumbs = moving_thumbs()
    thumbs[33:] = 3
    found = by_rule(picture.check_episode(make_subject(thumbs=thumbs)))
    assert set(found) == {"black_frames"}
    assert found["black_frames"].index == 33
    assert dict(found["black_frames"].numbers)["num_frames"] == 27


def test_flat_green_frames_are_blank() -> None:
    thumbs = moving_thumbs()
    thumbs[10:12] = 79  # gray of RGB (0, 135, 0), what a decoder shows of zeroed luma and chroma
    found = by_rule(picture.check_episode(make_subject(thumbs=thumbs)))
    assert set(found) == {"blank_frames"}
    assert found["blank_frames"].index == 10


def test_frozen_frames_while_the_robot_moves() -> None:
    thumbs = moving_thumbs()
    thumbs[20:40] = thumbs[20]
    thumbs[30] += 1  # rounding of a decoder
    found = by_rule(picture.check_episode(make_subject(thumbs=thumbs)))
    assert set(found) == {"frozen_frames"}
    assert found["frozen_frames"].index == 20
    assert dict(found["frozen_frames"].numbers) == {"num_frames": 20, "seconds": pytest.approx(1.9)}


def test_less_than_a_second_is_no_freeze() -> None:
    thumbs = moving_thumbs()
    thumbs[20:30] = thumbs[20]
    assert picture.check_episode(make_subject(thumbs=thumbs)) == []


def test_a_wholly_frozen_view() -> None:
    thumbs = np.repeat(moving_thumbs()[:1], 60, axis=0)
    assert set(by_rule(picture.check_episode(make_subject(thumbs=thumbs)))) == {"frozen_view"}


def test_a_picture_that_stands_while_the_robot_rests_is_only_told() -> None:
    thumbs, proprio = moving_thumbs(), sound_proprio()
    thumbs[20:40] = thumbs[20]
    proprio[19:42] = proprio[19]
    found = by_rule(picture.check_episode(make_subject(thumbs=thumbs, proprio=proprio)))
    assert set(found) == {"still_frames"}
    assert found["still_frames"].severity is Severity.INFO


def test_a_slow_fade_is_no_freeze() -> None:
    thumbs = np.repeat(moving_thumbs()[:1], 60, axis=0) // 2 + np.arange(60, dtype=np.uint8)[:, None, None]
    assert picture.check_episode(make_subject(thumbs=thumbs)) == []
