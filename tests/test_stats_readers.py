"""Contracts with those who read our statistics files: what each reader does, in a few lines, done to what we write.

Each reader below says the file of the trainer's code that it follows. It must take our form, give the numbers that our own
normalisation gives, and fall over, or give other numbers, where the form is wrong.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from pipelines.chunk_stats import StatsOf, normalize_steps, sketch_chunks
from pipelines.stats import normalize, sketch
from pipelines.stats_export import (
    fastwam_dataset_stats,
    gear_relative_horizon_stats,
    gear_relative_stats,
    gear_stats,
    gigaworld_norm_stats,
    openpi_norm_stats,
)

N, T, A, P = 60, 6, 4, 3
_RANDOM = np.random.default_rng(0)
CHUNKS = _RANDOM.normal([0.3, -2, 0, 5], [0.1, 1, 3, 0.5], (N, T, A)) * np.linspace(1, 2, T)[:, None]
STATES = _RANDOM.normal(size=(N, P))
ACTION = sketch_chunks(CHUNKS, None, StatsOf("action", "plan", "data", '{"reference": "chunk_start"}')).stats()
STATE = sketch(STATES).stats()
SIX = {"max", "min", "mean", "std", "q01", "q99"}


def as_read(plain: Any) -> Any:
    """Through a file, as every reader gets it."""
    return json.loads(json.dumps(plain, allow_nan=False))


def other(plain: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of ``plain`` that ``change`` has changed."""
    copy = as_read(plain)
    change(copy)
    return copy


# --- openpi: src/openpi/shared/normalize.py and src/openpi/transforms.py


@dataclass(config=ConfigDict(arbitrary_types_allowed=True))
class OpenpiStats:
    """``NormStats``: mean and std are required, quantiles may lack; whatever else there is is passed over."""

    mean: list[float]
    std: list[float]
    q01: list[float] | None = None
    q99: list[float] | None = None


class OpenpiFile(BaseModel):
    """``_NormStatsDict``: one key, and under it any names."""

    norm_stats: dict[str, OpenpiStats]


def openpi_normalized(plain: Any, sample: Mapping[str, np.ndarray], quantiles: bool) -> dict[str, np.ndarray]:
    """``Normalize``: of the keys that the statistics have, sliced to the width of the data; others stay as they are."""
    stats = OpenpiFile(**as_read(plain)).norm_stats
    result = dict(sample)
    for key, one in stats.items():
        x = result[key]
        if quantiles:
            assert one.q01 is not None
            assert one.q99 is not None
            low, high = np.array(one.q01)[..., : x.shape[-1]], np.array(one.q99)[..., : x.shape[-1]]
            result[key] = (x - low) / (high - low + 1e-6) * 2 - 1
        else:
            mean, std = np.array(one.mean)[..., : x.shape[-1]], np.array(one.std)[..., : x.shape[-1]]
            result[key] = (x - mean) / (std + 1e-6)
    return result


def openpi_unnormalized(plain: Any, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``Unnormalize`` with quantiles: strict, so every key of the statistics is in the data; what is wider stays."""
    stats = OpenpiFile(**as_read(plain)).norm_stats
    result = dict(sample)
    for key, one in stats.items():
        low, high, x = np.array(one.q01), np.array(one.q99), result[key]
        width = low.shape[-1]
        result[key] = np.concatenate(
            [(x[..., :width] + 1) / 2 * (high - low + 1e-6) + low, x[..., width:]],
            axis=-1,
        )
    return result


def test_openpi_normalizes_and_turns_back_what_its_model_pads() -> None:
    plain = openpi_norm_stats(STATE, ACTION.overall)
    sample = {"state": STATES[0], "actions": CHUNKS[0]}
    for quantiles, kind in ((True, "quantile"), (False, "z_score")):
        found = openpi_normalized(plain, sample, quantiles)
        assert np.allclose(found["actions"], normalize(CHUNKS[0], ACTION.overall, kind), atol=1e-4)
        assert np.allclose(found["state"], normalize(STATES[0], STATE, kind), atol=1e-4)
    normal = openpi_normalized(plain, sample, True)
    padded = {key: np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, 32 - x.shape[-1])]) for key, x in normal.items()}
    back = openpi_unnormalized(plain, padded)
    assert np.allclose(back["actions"][:, :A], CHUNKS[0])
    assert not back["actions"][:, A:].any()


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(plain.pop("norm_stats")),  # no top key
        lambda plain: plain["norm_stats"].update(action=plain["norm_stats"].pop("actions")),  # LeRobot's name
        lambda plain: plain["norm_stats"]["actions"].pop("std"),
        lambda plain: plain["norm_stats"]["actions"].pop("q99"),
        lambda plain: plain["norm_stats"].update(gripper=plain["norm_stats"]["actions"]),  # no such data
    ],
)
def test_openpi_falls_over_another_form(change: Callable[[Any], Any]) -> None:
    plain = other(openpi_norm_stats(STATE, ACTION.overall), change)
    with pytest.raises((ValidationError, KeyError, AssertionError)):
        openpi_unnormalized(plain, openpi_normalized(plain, {"state": STATES[0], "actions": CHUNKS[0]}, True))


# --- GEAR: groot/vla/data/dataset/lerobot.py of DreamZero, and copies of its groot/vla/data/transform/state_action.py


class GearStats(BaseModel):
    """``DatasetStatisticalValues``: all six are required, whatever else there is is passed over."""

    max: Any
    min: Any
    mean: Any
    std: Any
    q01: Any
    q99: Any


MODALITY = {"joint_position": ("action", 0, 3), "gripper_position": ("action", 3, 4)}
"""Of ``modality.json``: name to (original_key, start, end)."""


def gear_read(stats: Any, relative: Any, horizon: Any, names: Mapping[str, tuple[str, int, int]]) -> dict[str, Any]:
    """``_get_metadata``: the statistics of each action, the most special first; what it does not find is absolute."""
    columns = {column: GearStats.model_validate(one).model_dump() for column, one in as_read(stats).items()}
    relative = {part: GearStats.model_validate(one).model_dump() for part, one in as_read(relative).items()}
    horizon = as_read(horizon)
    found: dict[str, Any] = {}
    for name, (column, start, end) in names.items():
        if name in horizon:
            found[name] = GearStats.model_validate(horizon[name]).model_dump()
        elif name in relative:
            found[name] = relative[name]
        else:
            found[name] = {key: np.array(values)[np.arange(start, end)] for key, values in columns[column].items()}
    return found


def gear_normalized(statistics: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """``Normalizer`` and ``PerHorizonNormalizer`` in mode ``q99``: a channel without range stays, all is clamped to -1..1.

    With statistics [H][A], x [k * H, A] is taken as k chunks. That all statistics must have that shape is said by a later
    copy of the code only.
    """
    values = {key: np.array(one, dtype=np.float64) for key, one in statistics.items()}
    if any(one.ndim == 2 for one in values.values()):
        if len({one.shape for one in values.values()}) != 1:
            raise ValueError("statistics of each step must have one shape")
        horizon, width = values["q01"].shape
        if x.shape[-1] != width or (x.shape[-2] > horizon and x.shape[-2] % horizon):
            raise ValueError("the sample does not fit the statistics")
        x = x.reshape(-1, horizon, width)
    low, high = values["q01"], values["q99"]
    spread = np.where(high == low, 1, high - low)
    normal = np.where(high == low, x, 2 * (x - low) / spread - 1)
    return np.clip(normal, -1, 1)


def gear_files() -> tuple[Any, Any, Any]:
    parts = {"joint_position": ACTION.channels([0, 1, 2])}
    columns = {"observation.state": STATE, "action": ACTION.overall}
    return gear_stats(columns), gear_relative_stats(parts), gear_relative_horizon_stats(parts)


def test_dreamzero_normalizes_joints_by_the_step_and_grippers_as_they_are() -> None:
    stats, relative, horizon = gear_files()
    found = gear_read(stats, relative, horizon, MODALITY)
    assert all(set(one) == SIX for one in found.values())
    joints = CHUNKS[:2, :, :3].reshape(2 * T, 3)  # two chunks in a row, as DreamZero's loader has them
    expected = normalize_steps(CHUNKS[:2, :, :3], ACTION.channels([0, 1, 2]), "quantile", clamp=1)
    assert np.allclose(gear_normalized(found["joint_position"], joints), expected)
    expected = normalize(CHUNKS[..., 3:], ACTION.channels([3]).overall, "quantile", clamp=1)
    assert np.allclose(gear_normalized(found["gripper_position"], CHUNKS[..., 3:]), expected)
    overall = gear_read(stats, relative, {}, MODALITY)["joint_position"]
    expected = normalize(CHUNKS[..., :3], ACTION.channels([0, 1, 2]).overall, "quantile", clamp=1)
    assert np.allclose(gear_normalized(overall, CHUNKS[..., :3]), expected)


def test_dreamzero_takes_an_action_it_does_not_find_as_absolute() -> None:
    stats, relative, horizon = gear_files()
    wrong = {f"action.{name}": one for name, one in horizon.items()}
    found = gear_read(stats, relative, wrong, MODALITY)["joint_position"]
    assert np.ndim(found["q01"]) == 1  # not those of each step, and nobody said so


@pytest.mark.parametrize(
    "change",
    [
        lambda stats, relative, horizon: stats["action"].pop("q01"),
        lambda stats, relative, horizon: stats.pop("action"),
        lambda stats, relative, horizon: relative["joint_position"].pop("max"),
        lambda stats, relative, horizon: horizon["joint_position"].pop("std"),
        lambda stats, relative, horizon: horizon["joint_position"].update(mean=[0.0] * 3),  # not of each step
        lambda stats, relative, horizon: horizon["joint_position"].update(
            {key: np.transpose(one).tolist() for key, one in horizon["joint_position"].items()}
        ),
    ],
)
def test_dreamzero_falls_over_another_form(change: Callable[[Any, Any, Any], Any]) -> None:
    stats, relative, horizon = as_read(gear_files())
    change(stats, relative, horizon)
    joints = CHUNKS[:2, :, :3].reshape(2 * T, 3)
    with pytest.raises((ValidationError, KeyError, ValueError)):
        gear_normalized(gear_read(stats, relative, horizon, MODALITY)["joint_position"], joints)


def test_gr00t_takes_the_relative_statistics_of_each_step() -> None:
    """``calculate_stats_for_key`` of ``gr00t/data/stats.py``: numpy's statistics of [N, T, A] over the first axis."""
    found = as_read(gear_files()[2])["joint_position"]
    joints = CHUNKS[..., :3]
    assert set(found) == SIX
    for key, expected in (
        ("max", joints.max(axis=0)),
        ("min", joints.min(axis=0)),
        ("mean", joints.mean(axis=0)),
        ("std", joints.std(axis=0)),
        ("q01", np.quantile(joints, 0.01, axis=0)),
        ("q99", np.quantile(joints, 0.99, axis=0)),
    ):
        assert np.allclose(found[key], expected), key


# --- FastWAM: copies of its src/fastwam/datasets/lerobot/utils/normalizer.py and base_lerobot_dataset.py


def fastwam_normalized(plain: Any, kind: str, key: str, x: np.ndarray, stepwise: bool, mode: str) -> np.ndarray:
    """``load_dataset_stats_from_json``, ``LinearNormalizer`` and ``SingleFieldLinearNormalizer``: float32, statistics by
    prefix, of states always ``global_``; a range below 1e-4 is centered only; all is clamped to -5..5."""
    prefix = "stepwise_" if stepwise and kind == "action" else "global_"
    found = as_read(plain)[kind][key]
    stats = {
        name.removeprefix(prefix): np.array(one, dtype=np.float32)
        for name, one in found.items()
        if name.startswith(prefix)
    }
    if mode == "z-score":
        scale = 1 / (stats["std"] + 1e-8)
        offset = -stats["mean"] * scale
    else:
        low, high = (stats["min"], stats["max"]) if mode == "min/max" else (stats["q01"], stats["q99"])
        still = high - low < 1e-4
        scale = 2 / np.where(still, 2, high - low)
        offset = np.where(still, -low, -1 - scale * low)
    return np.clip(x * scale + offset, -5, 5)


@pytest.mark.parametrize(("mode", "kind"), [("min/max", "min_max"), ("q01/q99", "quantile"), ("z-score", "z_score")])
def test_fastwam_normalizes_by_the_step_or_over_all(mode: str, kind: Any) -> None:
    plain = fastwam_dataset_stats({"default": STATE}, {"default": ACTION}, 5, N)
    found = fastwam_normalized(plain, "action", "default", CHUNKS, False, mode)
    assert np.allclose(found, normalize(CHUNKS, ACTION.overall, kind, clamp=5), atol=1e-4)
    found = fastwam_normalized(plain, "action", "default", CHUNKS, True, mode)
    assert np.allclose(found, normalize_steps(CHUNKS, ACTION, kind, clamp=5), atol=1e-4)
    found = fastwam_normalized(plain, "state", "default", STATES[:, None], True, mode)
    assert np.allclose(found, normalize(STATES[:, None], STATE, kind, clamp=5), atol=1e-4)


def test_fastwams_own_file_has_the_same_shapes() -> None:
    """``get_dataset_stats``: actions [N, T, A] and states [N, 1, P], statistics over the first axis, and of those again
    over the steps."""
    plain = as_read(fastwam_dataset_stats({"default": STATE}, {"default": ACTION}, 5, N))
    for kind, values in (("action", CHUNKS), ("state", STATES[:, None])):
        found = plain[kind]["default"]
        assert np.allclose(found["stepwise_min"], values.min(axis=0))
        assert np.allclose(found["global_min"], values.min(axis=0).min(axis=0))
        assert np.allclose(found["stepwise_mean"], values.mean(axis=0))
        assert set(found) == {f"{prefix}_{name}" for prefix in ("stepwise", "global") for name in SIX}
    assert (plain["num_episodes"], plain["num_transition"]) == (5, N)


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(plain.pop("action")),  # keys not under action
        lambda plain: plain["action"].update(plain["action"].pop("default")),  # no key
        lambda plain: plain["action"]["default"].update(
            stepwise_q01=np.transpose(plain["action"]["default"]["stepwise_q01"]).tolist()
        ),
        lambda plain: plain["action"]["default"].pop("stepwise_q99"),
    ],
)
def test_fastwam_falls_over_another_form(change: Callable[[Any], Any]) -> None:
    plain = other(fastwam_dataset_stats({"default": STATE}, {"default": ACTION}, 5, N), change)
    with pytest.raises((KeyError, ValueError)):
        fastwam_normalized(plain, "action", "default", CHUNKS, True, "q01/q99")


# --- GigaWorld-Policy: world_action_model/transforms/wa_transforms_lerobot_pretrain.py


def gigaworld_normalized(plain: Any, key: str, x: np.ndarray, delta_mask: tuple[bool, ...], model: int) -> np.ndarray:
    """``__call__`` and ``_normalize_feature``: vectors cut to the mask and padded to the model, then the channels of the
    mask by q01 and q99, at least 1e-8 apart; those beyond stay 0. Nothing is clamped unless the configuration says so."""
    stats = as_read(plain)["norm_stats"][key]
    width = len(delta_mask)
    x = x[..., :width]
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, model - x.shape[-1])])
    low, high = (np.array(stats[name], dtype=np.float32).reshape(-1) for name in ("q01", "q99"))
    result = np.zeros_like(x)
    spread = np.maximum(high[:width] - low[:width], 1e-8)
    result[..., :width] = (x[..., :width] - low[:width]) / spread * 2 - 1
    return result


def test_gigaworld_normalizes_the_channels_of_its_mask() -> None:
    plain = gigaworld_norm_stats(STATE, ACTION.overall)
    found = gigaworld_normalized(plain, "action", CHUNKS, (True, True, True, False), 32)
    assert found.shape == (N, T, 32)
    assert np.allclose(found[..., :A], normalize(CHUNKS, ACTION.overall, "quantile"), atol=1e-4)
    assert not found[..., A:].any()
    found = gigaworld_normalized(plain, "observation.state", STATES, (True,) * P, 32)
    assert np.allclose(found[..., :P], normalize(STATES, STATE, "quantile"), atol=1e-4)


def test_gigaworld_may_mask_more_channels_than_the_robot_has() -> None:
    """A robot with fewer channels than the mask: the reader needs statistics for all of the mask, and gets them."""
    found = gigaworld_normalized(gigaworld_norm_stats(STATE, ACTION.overall), "action", CHUNKS, (True,) * 14, 32)
    assert np.allclose(found[..., :A], normalize(CHUNKS, ACTION.overall, "quantile"), atol=1e-4)
    assert np.array_equal(found[..., A:14], np.full((N, T, 14 - A), -1.0))


def test_gigaworlds_own_file_is_of_vectors_padded_with_zeros() -> None:
    """``pad_feature`` and ``feature_stats`` of ``scripts/compute_wam_task_norm.py``."""
    padded = np.pad(CHUNKS.reshape(-1, A), [(0, 0), (0, 32 - A)])
    found = as_read(gigaworld_norm_stats(STATE, ACTION.overall))["norm_stats"]["action"]
    assert set(found) == SIX
    for name in ("mean", "std", "min", "max"):
        assert np.allclose(found[name], getattr(padded, name)(axis=0)), name
    assert np.allclose(found["q01"], np.quantile(padded, 0.01, axis=0))


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.update(plain.pop("norm_stats")),
        lambda plain: plain["norm_stats"].update(state=plain["norm_stats"].pop("observation.state")),
        lambda plain: plain["norm_stats"]["observation.state"].pop("q01"),
        lambda plain: plain["norm_stats"]["observation.state"].update(q01=[0.0] * P),  # not padded
    ],
)
def test_gigaworld_falls_over_another_form(change: Callable[[Any], Any]) -> None:
    plain = other(gigaworld_norm_stats(STATE, ACTION.overall), change)
    with pytest.raises((KeyError, ValueError)):
        gigaworld_normalized(plain, "observation.state", STATES, (True,) * 14, 32)
