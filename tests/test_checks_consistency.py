"""Shifted actions and contradicting flags are found; sound recordings, simulated and real, raise no alarm."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.cards import load_embodiment
from schemas.embodiment import Channel, ChannelKind, Embodiment
from schemas.episode import Episode
from schemas.time import TimeGrid
from tests.check_subjects import ARM, by_rule, make_subject
from tests.real import real_data
from tests.test_segments import annotations, droid_episode, read_vectors
from validation.check import Subject
from validation.checks.consistency import check_episode
from validation.measures import measure_episode
from validation.motion import action_lag


def wandering(num_steps: int, lag: int, seed: int = 0) -> Episode:
    """A hand that follows its commands ``lag`` steps later (negative: before them), at 10 Hz."""
    random = np.random.default_rng(seed)
    way = np.cumsum(random.normal(size=(num_steps + 60, 2)), axis=0) * 0.01
    told = way[30 : 30 + num_steps]
    done = way[30 - lag : 30 - lag + num_steps]
    still = np.zeros((num_steps, 1))
    proprio = np.concatenate([done[:, :1], still, still, done[:, 1:], still], axis=1)
    proprio += random.normal(scale=1e-4, size=proprio.shape)
    return make_subject(np.concatenate([told, still], axis=1), proprio).episode


@pytest.mark.parametrize("lag", [0, 1, 3, 10])
def test_what_a_robot_can_do_is_measured_and_not_reported(lag: int) -> None:
    episode = wandering(100, lag)
    found = action_lag(episode)
    assert found is not None
    assert found.steps == lag
    assert check_episode(Subject(episode, {})) == []
    measures = {one.name: one.value for one in measure_episode(episode, {})}
    assert measures["action_lag"] == lag / 10


@pytest.mark.parametrize("lag", [-1, -2, -10, 12, 20])
def test_a_shift_that_no_robot_can_do_is_reported_with_its_size(lag: int) -> None:
    found = by_rule(check_episode(Subject(wandering(100, lag), {})))
    assert set(found) == {"action_lag"}
    assert dict(found["action_lag"].numbers)["lag"] == lag


def test_commands_that_are_changes_already_are_compared_as_they_are() -> None:
    episode = wandering(100, 0)
    layout = tuple(Channel(name=f"delta_{name}", kind=ChannelKind.COMMAND) for name in ("x", "joint"))
    robot = ARM.model_copy(update={"action": (*layout, ARM.action[2])})
    changes = np.diff(episode.action.values, axis=0, append=episode.action.values[-1:])
    for shift in (0, 2, -3):
        action = replace(episode.action, values=np.roll(changes, -shift, axis=0))
        found = action_lag(replace(episode, embodiment=robot, action=action))
        assert found is not None
        assert found.steps == shift


def test_where_nothing_can_be_said_nothing_is() -> None:
    random = np.random.default_rng(0)
    unlike = make_subject(random.normal(size=(200, 3)), random.normal(size=(200, 5)))
    assert action_lag(unlike.episode) is None
    assert action_lag(wandering(40, -3)) is None, "too short"
    still = make_subject(np.zeros((100, 3)), np.zeros((100, 5)))
    assert action_lag(still.episode) is None
    broken = wandering(100, -3)
    broken.action.values[5] = np.nan
    assert action_lag(broken) is None
    other = Embodiment(name="other", title="No names in common", control_rate=10, proprio=ARM.proprio, action=())
    nothing = replace(broken, embodiment=other, action=replace(broken.action, values=np.zeros((100, 0))))
    assert action_lag(nothing) is None


def test_contradicting_words_on_success_are_found() -> None:
    episode = make_subject().episode

    def judged(success: bool | None, key: str, **attributes: str | bool) -> list[str]:
        raw = replace(episode.raw, ref=replace(episode.raw.ref, key=key), attributes=tuple(attributes.items()))
        return [one.message for one in check_episode(Subject(replace(episode, raw=raw, success=success), {}))]

    assert judged(True, "lab/success/2023/a") == []
    assert judged(None, "lab/failure/2023/a") == []
    assert judged(None, "train/success") == [], "the name of the episode itself is no folder"
    assert judged(True, "lab/failure/2023/a") == ["the card says success, the place says failure"]
    assert judged(None, "x", is_success=False, file_path="gs://a/success/b.h5") == [
        "file_path says success, is_success says failure"
    ]
    assert judged(False, "x", note="success/failure/a") == []


@pytest.mark.real
def test_droid_lags_as_arms_do_and_shifts_of_it_are_found() -> None:
    lags: Counter[int] = Counter()
    for path in annotations():
        action, proprio, _ = read_vectors(path)
        sound = droid_episode(action, proprio, None)
        found = action_lag(sound)
        assert found is not None
        lags[found.steps] += 1
        assert check_episode(Subject(sound, {})) == []
        for shift in (8, 22):
            early = droid_episode(action[:-shift], proprio[shift:], None)
            late = droid_episode(action[shift:], proprio[:-shift], None)
            assert by_rule(check_episode(Subject(early, {})))["action_lag"].message
            if shift == 22:
                assert "after the action asks" in by_rule(check_episode(Subject(late, {})))["action_lag"].message
    assert set(lags) == {3, 4, 5}


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "robot", "stride"),
    [("g1_lerobot_v21_subset", "unitree_g1_inspire", 5), ("gr00t_gr1_sim_lerobot_v2", "gr1", 1)],
)
def test_humanoids_raise_no_false_alarm(folder: str, robot: str, stride: int) -> None:
    embodiment = load_embodiment(robot)
    files = sorted(Path(real_data(folder)).rglob("*.parquet"))[::stride]
    assert len(files) >= 5
    for file in files:
        table = pq.read_table(file, columns=["action", "observation.state"])
        action, proprio = (np.array(table[name].to_pylist(), dtype=np.float64) for name in table.column_names)
        times = TimeGrid(0, embodiment.control_rate, len(action)).times_ns()
        episode = make_subject(action, proprio, times_ns=times, embodiment=embodiment).episode
        assert check_episode(Subject(replace(episode, control_rate=embodiment.control_rate), {})) == []
