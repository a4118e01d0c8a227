"""The keys, shapes and numbers of the statistics files of trainers, frozen."""

import json
import math
from typing import Any

import numpy as np
import pytest

from pipelines.chunk_stats import StatsOf, sketch_chunks
from pipelines.stats import QUANTILES, sketch
from pipelines.stats_export import (
    fastwam_dataset_stats,
    gear_relative_horizon_stats,
    gear_relative_stats,
    gear_stats,
    gigaworld_norm_stats,
    lerobot_stats,
    lerobot_v21_episode,
    openpi_norm_stats,
)
from schemas.errors import FingerprintMismatch, LayoutError

CHUNKS = np.random.default_rng(0).normal(size=(50, 4, 3))
STATES = np.random.default_rng(1).normal(size=(50, 4, 2))
RELATIVE = StatsOf("action", "plan", "data", '{"reference": "chunk_start"}')
ABSOLUTE = StatsOf("action", "plan", "data", '{"reference": "absolute"}')
ACTION = sketch_chunks(CHUNKS, None, RELATIVE).stats()
STATE = sketch_chunks(STATES, None, StatsOf("proprio", "plan", "data")).stats()
SIX = {"mean", "std", "min", "max", "q01", "q99"}


def shape_of(value: Any) -> tuple[int, ...]:
    return np.shape(value)


def survives_json(plain: Any) -> bool:
    return bool(json.loads(json.dumps(plain, allow_nan=False)) == plain)


def test_lerobot_v3_has_quantiles_and_one_count() -> None:
    plain = lerobot_stats({"observation.state": STATE.overall, "action": ACTION.overall})
    assert list(plain) == ["observation.state", "action"]
    assert set(plain["action"]) == {"count", "mean", "std", "min", "max", *QUANTILES}
    assert plain["action"]["count"] == [200]
    assert all(shape_of(values) == (3,) for name, values in plain["action"].items() if name != "count")
    assert plain["action"]["q10"] == ACTION.overall.q10.tolist()
    assert survives_json(plain)


def test_lerobot_reads_it_as_its_own() -> None:
    from lerobot.datasets.compute_stats import aggregate_stats

    halves = [
        {
            feature: {name: np.array(values) for name, values in stats.items()}
            for feature, stats in lerobot_stats({"action": sketch(part).stats()}).items()
        }
        for part in (CHUNKS[:20], CHUNKS[20:])
    ]
    together = aggregate_stats(halves)["action"]
    whole = sketch(CHUNKS).stats()
    assert together["count"].tolist() == [200]
    assert np.allclose(together["mean"], whole.mean)
    assert np.allclose(together["std"], whole.std)
    assert np.array_equal(together["max"], whole.max)


def test_lerobot_v21_is_a_line_an_episode_without_quantiles() -> None:
    plain = lerobot_v21_episode(7, {"action": ACTION.overall})
    assert list(plain) == ["episode_index", "stats"]
    assert plain["episode_index"] == 7
    assert set(plain["stats"]["action"]) == {"count", "mean", "std", "min", "max"}
    assert plain["stats"]["action"]["count"] == [200]
    assert survives_json(plain)


def test_gear_has_six_statistics_a_column() -> None:
    plain = gear_stats({"observation.state": STATE.overall, "action": ACTION.overall})
    assert set(plain) == {"observation.state", "action"}
    assert set(plain["action"]) == SIX
    assert shape_of(plain["observation.state"]["q99"]) == (2,)
    assert survives_json(plain)


def test_gear_relative_statistics_are_by_action_and_by_step() -> None:
    parts = {"joint_position": ACTION.channels([0, 1])}
    overall, stepwise = gear_relative_stats(parts), gear_relative_horizon_stats(parts)
    assert set(overall) == set(stepwise) == {"joint_position"}
    assert set(overall["joint_position"]) == set(stepwise["joint_position"]) == SIX
    assert shape_of(overall["joint_position"]["q01"]) == (2,)
    assert shape_of(stepwise["joint_position"]["q01"]) == (4, 2)
    assert stepwise["joint_position"]["max"] == CHUNKS[:, :, :2].max(axis=0).tolist()
    assert overall["joint_position"]["max"] == CHUNKS[:, :, :2].max(axis=(0, 1)).tolist()
    assert survives_json(overall)
    assert survives_json(stepwise)


def test_absolute_statistics_never_pass_for_relative_ones() -> None:
    absolute = {"joint_position": sketch_chunks(CHUNKS, None, ABSOLUTE).stats()}
    for export in (gear_relative_stats, gear_relative_horizon_stats):
        with pytest.raises(FingerprintMismatch, match=r"joint_position: .*absolute"):
            export(absolute)


def test_a_name_that_no_reader_would_find_is_refused() -> None:
    for export in (gear_relative_stats, gear_relative_horizon_stats):
        with pytest.raises(LayoutError, match=r"action\.joint_position would be looked for as joint_position"):
            export({"action.joint_position": ACTION})


def test_openpi_calls_them_state_and_actions() -> None:
    plain = openpi_norm_stats(STATE.overall, ACTION.overall)
    assert list(plain) == ["norm_stats"]
    assert set(plain["norm_stats"]) == {"state", "actions"}
    assert set(plain["norm_stats"]["actions"]) == {"mean", "std", "q01", "q99"}
    assert shape_of(plain["norm_stats"]["state"]["mean"]) == (2,)
    assert plain["norm_stats"]["actions"]["q01"] == ACTION.overall.q01.tolist()
    assert survives_json(plain)


def test_fastwam_has_steps_and_all_of_them_of_the_whole_data_set() -> None:
    plain = fastwam_dataset_stats({"default": STATE.overall}, {"default": ACTION}, 5, 50)
    assert set(plain) == {"state", "action", "num_episodes", "num_transition"}
    assert (plain["num_episodes"], plain["num_transition"]) == (5, 50)
    action = plain["action"]["default"]
    assert set(action) == {f"{prefix}_{name}" for prefix in ("stepwise", "global") for name in SIX}
    assert {shape_of(values) for name, values in action.items() if name.startswith("stepwise")} == {(4, 3)}
    assert {shape_of(values) for name, values in action.items() if name.startswith("global")} == {(3,)}
    assert shape_of(plain["state"]["default"]["stepwise_mean"]) == (1, 2)
    assert shape_of(plain["state"]["default"]["global_mean"]) == (2,)
    assert np.allclose(action["global_q99"], np.quantile(CHUNKS, 0.99, axis=(0, 1)))
    assert np.allclose(action["stepwise_q01"], np.quantile(CHUNKS, 0.01, axis=0))
    assert survives_json(plain)


def test_gigaworld_is_padded_with_zeros() -> None:
    plain = gigaworld_norm_stats(STATE.overall, ACTION.overall)
    assert list(plain) == ["norm_stats"]
    assert set(plain["norm_stats"]) == {"observation.state", "action"}
    for values in plain["norm_stats"].values():
        assert set(values) == SIX
        assert {shape_of(value) for value in values.values()} == {(32,)}
    action = plain["norm_stats"]["action"]
    assert action["q99"][:3] == ACTION.overall.q99.tolist()
    assert not any(action["std"][3:])
    assert survives_json(plain)
    assert shape_of(gigaworld_norm_stats(STATE.overall, ACTION.overall, 3)["norm_stats"]["action"]["min"]) == (3,)
    with pytest.raises(LayoutError, match="3 channels do not fit into 2"):
        gigaworld_norm_stats(STATE.overall, ACTION.overall, 2)


def test_every_number_is_finite_and_plain_even_of_one_still_step() -> None:
    still = sketch_chunks(np.zeros((1, 2, 3)), None, RELATIVE).stats()
    plain = fastwam_dataset_stats({}, {"default": still}, 1, 1)
    assert plain["action"]["default"]["stepwise_std"] == [[0.0] * 3] * 2
    assert all(type(value) is float and math.isfinite(value) for value in plain["action"]["default"]["global_mean"])
