"""Statistics of the real recordings here, held against those that others publish of the whole sets they are cut from.

That no value lies outside the published minima and maxima is told in ``tests.test_cards_oxe``; here are the middles and widths.
"""

from typing import Any

import numpy as np
import pytest

from pipelines import cards
from pipelines.chunk_stats import StatsOf, outliers, sketch_chunks
from pipelines.stats import Sketch, merge_all, sketch
from tests.real import real_data
from tests.test_cards_oxe import JOINTS, POSITIONS, episodes, published

OPENNESS = 10
"""Index of the right gripper in RDT's unified state: 0 closed, 1 open."""


def of_bridge() -> tuple[Sketch, Sketch, Sketch]:
    """Sketches of states, of changes of the pose to the next step, and of the gripper's command, merged over episodes.

    Open-pi-zero and CogACT write these changes as the action, after dropping step 0 (see ``tests.test_cards_oxe``).
    """
    card, robot = cards.load_pair("bridge")
    mine = episodes(real_data("octo_bridge_rlds"), card, robot)
    states = merge_all([sketch(one.proprio.values) for one in mine])
    changes = merge_all([sketch(np.diff(one.proprio.values[1:, :6], axis=0)) for one in mine])
    grippers = merge_all([sketch(one.action.values[:, 6:]) for one in mine])
    return states, changes, grippers


def apart(mine: np.ndarray, of_all: dict[str, Any], channels: slice) -> np.ndarray:
    """How many published standard deviations the means lie apart."""
    return np.abs(mine - np.array(of_all["mean"])[channels]) / np.array(of_all["std"])[channels]


@pytest.mark.real
def test_bridge_has_the_published_means_and_widths_as_far_as_its_sample_goes() -> None:
    """25 episodes of 10 steps, each there twice, of 60,064; four instructions in all, so few scenes and much approach."""
    states, changes, grippers = (one.stats() for one in of_bridge())
    openpizero = published("openpizero_bridge_statistics.json")
    for theirs in (openpizero["action"], published("cogact_oxe_dataset_statistics.json")["bridge_orig"]["action"]):
        # most are z, since these arms are still coming down (0.39 std), and roll (0.35)
        assert apart(changes.mean, theirs, slice(6)).max() < 0.5
        assert apart(grippers.mean, theirs, slice(6, 7)).max() < 0.5
        # steps of the beginnings are shorter than those of whole episodes, turns in roll are not
        ratio = changes.std / np.array(theirs["std"])[:6]
        assert ratio.min() > 0.3
        assert ratio.max() < 1.5
    # z is 1.7 std above the mean of all, as the arms come down all the while; all else is within one
    difference = apart(states.mean, openpizero["proprio"], slice(7))
    assert difference[2] < 2
    assert np.delete(difference, 2).max() < 1


@pytest.mark.real
def test_bridge_normalized_by_published_quantiles_lies_where_it_would_in_training() -> None:
    """q01 and q99 of all should leave out 2 of 100; in roll they leave out 8 of this sample, elsewhere at most 2."""
    _, seen, _ = of_bridge()
    theirs = published("openpizero_bridge_statistics.json")["action"]
    low, high = np.array(theirs["p01"])[:6], np.array(theirs["p99"])[:6]
    outside = seen.num_outside(low, high) / seen.count
    assert outside[3] < 0.1
    assert np.delete(outside, 3).max() <= 0.02
    # no step of the sample is one of the half turns that make the published extremes of yaw 6.28
    assert [one.count for one in outliers(seen)] == [0] * 6


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "most", "narrowest", "widest"),
    [
        # 100 episodes from all over DROID: joints 1 and 3 (turning the arm aside) move less in them than in all
        ("droid100_thumbs", 0.1, 0.7, 1.02),
        # 11 episodes of Ctrl-World's choice
        ("ctrlworld_droid", 0.2, 0.65, 1.25),
    ],
)
def test_droid_has_the_published_means_and_widths(name: str, most: float, narrowest: float, widest: float) -> None:
    """RDT counts how open the gripper is, DROID how closed; std does not mind the turn."""
    card, robot = cards.load_pair(name)
    stats = merge_all([sketch(one.proprio.values) for one in episodes(real_data(name), card, robot)]).stats()
    droid = published("rdt_dataset_stat.json")["droid"]
    names = [channel.name for channel in robot.proprio]
    (gripper,) = robot.proprio_grippers
    channels = ["x", "y", "z", *(f"joint_{number}" for number in range(1, 8)), gripper.channel]
    mine = [names.index(channel) for channel in channels]
    theirs = [*POSITIONS, *JOINTS, OPENNESS]
    mean, std = np.array(droid["state_mean"])[theirs], np.array(droid["state_std"])[theirs]
    found = stats.mean[mine]
    found[-1] = (found[-1] - gripper.closed) / (gripper.open - gripper.closed)
    assert (np.abs(found - mean) / std).max() < most
    ratio = stats.std[mine] / std
    assert narrowest < ratio.min()
    assert ratio.max() < widest


@pytest.mark.real
def test_relative_droid_chunks_spread_along_the_horizon() -> None:
    """Why statistics are taken by step: joints relative to the start of the chunk move the further the later, so one
    range over all steps is too wide for the first and too narrow for the last."""
    card, robot = cards.load_pair("droid100_thumbs")
    names = [channel.name for channel in robot.proprio]
    joints = [names.index(f"joint_{number}") for number in range(1, 8)]
    horizon, parts = 16, []
    for one in episodes(real_data("droid100_thumbs"), card, robot):
        values = one.proprio.values[:, joints]
        starts = np.arange(0, len(values), horizon)
        rows = starts[:, None] + np.arange(horizon)
        chunks = values[np.minimum(rows, len(values) - 1)] - values[starts][:, None]
        parts.append((chunks, rows < len(values)))
    chunks, mask = (np.concatenate(each) for each in zip(*parts, strict=True))
    stats = sketch_chunks(chunks, mask, StatsOf("proprio", "joints to chunk start", "droid100")).stats()
    assert stats.overall.count == mask.sum() == 32_212
    assert [step.count for step in stats.steps] == mask.sum(axis=0).tolist()
    assert not stats.steps[0].std.any()
    assert (np.diff(stats.by_step("std"), axis=0) > 0).all()
    spread = (stats.by_step("q99") - stats.by_step("q01")) / (stats.overall.q99 - stats.overall.q01)
    assert (spread[1] < 0.2).all()
    assert (spread[-1] > 1.2).all()
