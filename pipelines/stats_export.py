"""Statistics in the forms that trainers read, as plain dicts to be written as JSON.

Every function here is pure and recomputes nothing: the numbers are the data set's own (population std, quantiles over
all valid values), also where a trainer's own script approximates them. Where that script repeats the last action past the
end of an episode (openpi, FastWAM, GigaWorld-Policy) or takes whole chunks only (DreamZero), ours counts each recorded step
of each chunk and nothing else. What each reader does with the file is told in each function, with the file of its code that
says so, and done again in ``tests/test_stats_readers.py``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.chunk_stats import ChunkStats
from pipelines.stats import QUANTILES, Stats
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError
from schemas.release_choices import NamesRecipe

GIGAWORLD_WIDTH = 32
"""Of the vectors of GigaWorld-Policy 0.5; its own script calls it ``--model-dim``."""

GEAR = ("mean", "std", "min", "max", "q01", "q99")
"""The statistics that GEAR's readers (DreamZero, GR00T) ask for."""
_OPENPI = ("mean", "std", "q01", "q99")
_PREFIX = "action."
"""Of the keys of a trainer's configuration, not of those of its files."""
_FASTWAM = ("min", "max", "mean", "std", "q01", "q99")


def lerobot_stats(features: Mapping[str, Stats], quantiles: bool = True) -> dict[str, dict[str, list[float]]]:
    """LeRobot's ``meta/stats.json`` of vectors: by feature min, max, mean, std, q01, q10, q50, q90, q99 as [A], count as [1].

    Version 3.0 has the quantiles, 2.1 does not (``quantiles`` False). Of pictures see ``pipelines.image_stats``.
    """
    left_out = () if quantiles else tuple(QUANTILES)
    return {
        feature: {
            name: [stats.count] if name == "count" else values
            for name, values in stats.to_mapping().items()
            if name not in left_out
        }
        for feature, stats in features.items()
    }


def lerobot_v21_episode(episode_index: int, features: Mapping[str, Stats]) -> dict[str, Any]:
    """One line of LeRobot v2.1's ``meta/episodes_stats.jsonl``: the statistics of one episode's features."""
    return {"episode_index": episode_index, "stats": lerobot_stats(features, quantiles=False)}


def gear_stats(columns: Mapping[str, Stats]) -> dict[str, dict[str, list[float]]]:
    """GEAR's ``meta/stats.json`` (DreamZero, GR00T): by column of the Parquet files mean, std, min, max, q01, q99 as [A].

    The reader slices each by ``start`` and ``end`` of ``modality.json``, so every column named there as ``original_key``
    must be in it. One that lacks one of the six makes DreamZero take its own statistics and write over the file
    (``groot/vla/data/dataset/lerobot.py``, ``_get_lerobot_stats_meta`` and ``_get_metadata``); GR00T does so too where a
    column of floats is missing (``gr00t/data/stats.py``, ``check_stats_validity``).
    """
    return {column: _named(stats, GEAR) for column, stats in columns.items()}


def called[Of](parts: Mapping[str, Of], names: NamesRecipe) -> dict[str, Of]:
    """``parts`` by the names that ``names.parts`` gives them. Raises RecipeError where two would have one name."""
    found: dict[str, Of] = {}
    for own, part in parts.items():
        name = names.parts.get(own, own)
        if name in found:
            raise RecipeError(f"two parts would be called {name!r}", "names.parts", "name both")
        found[name] = part
    return found


def gear_relative_stats(parts: Mapping[str, ChunkStats]) -> dict[str, dict[str, list[float]]]:
    """DreamZero's ``meta/relative_stats_dreamzero.json``: mean, std, min, max, q01, q99 as [A] over all steps of the
    relative chunks, by name of an action in ``modality.json`` without ``action.``, such as ``joint_position``.

    Absolute parts (by default whatever is named a gripper) do not belong in it; pick the others with
    ``ChunkStats.channels``. The reader takes an action that it does not find here as absolute, without a word
    (``groot/vla/data/dataset/lerobot.py``, ``_get_metadata``). Raises FingerprintMismatch where a part is of absolute
    actions, or relative to anything but the start of its chunk, LayoutError for a name that no reader would find.
    """
    _check_relative(parts)
    return {name: _named(stats.overall, GEAR) for name, stats in parts.items()}


def gear_relative_horizon_stats(parts: Mapping[str, ChunkStats]) -> dict[str, dict[str, list[list[float]]]]:
    """DreamZero's ``meta/relative_horizon_stats_dreamzero.json``, and GR00T N1.6's ``meta/relative_stats.json``: as
    ``gear_relative_stats``, each statistic [T][A], a row for each step of the horizon.

    The reader keeps every statistic of a part as it stands, so nothing but [T][A] belongs here; a sample of k * T steps is
    normalized as k chunks, so T is to be the trainer's action horizon (24 for DROID). The form is that of
    ``_get_lerobot_relative_horizon_stats_meta`` in ``groot/vla/data/dataset/lerobot.py``; what is done with it was read in
    copies by others of ``PerHorizonNormalizer`` (``groot/vla/data/transform/state_action.py``). For GR00T it is that of
    ``calculate_stats_for_key`` in ``gr00t/data/stats.py``, which does joints only. Raises as ``gear_relative_stats``.
    """
    _check_relative(parts)
    return {part: {name: stats.by_step(name).tolist() for name in GEAR} for part, stats in parts.items()}


def openpi_norm_stats(state: Stats, actions: Stats) -> dict[str, dict[str, dict[str, list[float]]]]:
    """openpi's ``norm_stats.json``: mean, std, q01, q99 as [A] of ``state`` and of ``actions`` as the model sees them, so
    of relative ones where the policy is trained on these.

    Not padded: openpi normalizes first and pads to the model's width after that; what a model predicts beyond A is left as
    it is. Keys besides these two are an error there when a model's output is turned back (``src/openpi/shared/normalize.py``;
    ``Normalize`` and ``Unnormalize`` of ``src/openpi/transforms.py``).
    """
    return {"norm_stats": {"state": _named(state, _OPENPI), "actions": _named(actions, _OPENPI)}}


def fastwam_dataset_stats(
    state: Mapping[str, Stats], action: Mapping[str, ChunkStats], num_episodes: int, num_transitions: int
) -> dict[str, Any]:
    """FastWAM's ``dataset_stats.json`` (``pretrained_norm_stats`` in its configurations): under ``state`` and ``action``, by
    key (``default`` for the columns without one), ``stepwise_`` [T][A] and ``global_`` [A] min, max, mean, std, q01, q99;
    beside them ``num_episodes`` and ``num_transition``. States are of single steps, so [1][A].

    The reader takes ``global_`` of states always, and of actions unless ``use_stepwise_action_norm``, where T must be its
    action horizon. From ``BaseLerobotDataset.get_dataset_stats``, ``LinearNormalizer`` and ``load_dataset_stats_from_json``
    of ``src/fastwam/datasets/lerobot``, as copies of that code by others have it; the first repository was not at hand.
    FastWAM's own script takes q01 and q99 as the least and greatest of the quantiles of single episodes, and weighs
    episodes alike in the mean. Ours are those of the data set, so its range is wider than ours where episodes differ.
    """
    return {
        "state": {key: _fastwam(stats, (stats,)) for key, stats in state.items()},
        "action": {key: _fastwam(stats.overall, stats.steps) for key, stats in action.items()},
        "num_episodes": num_episodes,
        "num_transition": num_transitions,
    }


def gigaworld_norm_stats(
    state: Stats, action: Stats, width: int = GIGAWORLD_WIDTH
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """GigaWorld-Policy's norm JSON: mean, std, min, max, q01, q99 of ``observation.state`` and ``action``, as [width].

    Channels that the robot lacks are all zeros, since the trainer pads its vectors with zeros before it takes statistics
    (``scripts/compute_wam_task_norm.py``, ``pad_feature``). It reads only as many as its ``delta_mask`` has, from the front,
    and divides by at least 1e-8 (``world_action_model/transforms/wa_transforms_lerobot_pretrain.py``): a channel without range
    is not left out. ``action`` is relative to the state at the start of the chunk, grippers absolute. Raises LayoutError
    where a vector is wider than ``width``.
    """
    return {"norm_stats": {"observation.state": _padded(state, width), "action": _padded(action, width)}}


def _named(stats: Stats, names: tuple[str, ...]) -> dict[str, list[float]]:
    return {name: getattr(stats, name).tolist() for name in names}


def _fastwam(overall: Stats, steps: Sequence[Stats]) -> dict[str, Any]:
    found: dict[str, Any] = {f"stepwise_{name}": [getattr(step, name).tolist() for step in steps] for name in _FASTWAM}
    return found | {f"global_{name}": value for name, value in _named(overall, _FASTWAM).items()}


def _padded(stats: Stats, width: int) -> dict[str, list[float]]:
    missing = width - len(stats.mean)
    if missing < 0:
        raise LayoutError(
            f"{len(stats.mean)} channels do not fit into {width}", hint="leave parts out, or widen the model"
        )
    return {name: np.pad(getattr(stats, name), (0, missing)).tolist() for name in GEAR}


def _check_relative(parts: Mapping[str, ChunkStats]) -> None:
    for part, stats in parts.items():
        if stats.of.reference not in ("chunk_start", ""):
            raise FingerprintMismatch(
                f"these are statistics of {stats.of.reference} actions, under a name that trainers read as relative to "
                "the state at the start of the chunk",
                part,
                'build the chunks with reference = "chunk_start"',
            )
        if part.startswith(_PREFIX):
            raise LayoutError(
                f"{part} would be looked for as {part.removeprefix(_PREFIX)}", hint=f"leave {_PREFIX} out"
            )
