"""Chunks of one episode: which of their steps count, in blocks or at once, and statistics that come little by little."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import action_chunks
from pipelines.action_chunks import ActionChunks, RunningSketch
from pipelines.action_plan import ActionPlan
from pipelines.chunk_stats import StatsOf, sketch_chunks
from pipelines.windows import Windows
from schemas.action_recipe import ActionRecipe, Reference
from schemas.embodiment import Channel, ChannelKind, Embodiment
from schemas.errors import LayoutError

NUM_STEPS, HORIZON = 12, 4
RNG = np.random.default_rng(3)
ARM = Embodiment(
    name="toy_arm",
    title="A toy arm",
    proprio=tuple(Channel(name=f"joint_{i}", kind=ChannelKind.POSITION, unit="rad") for i in range(2)),
    action=tuple(Channel(name=f"joint_{i}", kind=ChannelKind.POSITION, unit="rad") for i in range(2)),
)
QUATERNION = tuple(Channel(name=f"q{axis}", kind=ChannelKind.QUATERNION, unit="1") for axis in "xyzw")
TOOL = Embodiment(name="toy_tool", title="A tool that turns", proprio=QUATERNION, action=QUATERNION)


def chunks_of(
    recipe: ActionRecipe,
    robot: Embodiment = ARM,
    valid: np.ndarray | None = None,
    base_valid: np.ndarray | None = None,
    stops: tuple[int, ...] = (NUM_STEPS,),
) -> ActionChunks:
    every = np.ones(NUM_STEPS, dtype=bool)
    edges = [0, *stops]
    chunk_stops = np.repeat(stops, np.diff(edges))
    run_starts = np.repeat(edges[:-1], np.diff(edges))
    return ActionChunks(
        ActionPlan.of(robot, recipe),
        Windows(np.arange(0, NUM_STEPS, HORIZON), chunk_stops, run_starts, every, ()),
        HORIZON,
        Fraction(10),
        RNG.normal(size=(NUM_STEPS, len(robot.action))),
        RNG.normal(size=(NUM_STEPS, len(robot.proprio))),
        every if valid is None else valid,
        every if base_valid is None else base_valid,
    )


def but(*steps: int) -> np.ndarray:
    found = np.ones(NUM_STEPS, dtype=bool)
    found[list(steps)] = False
    return found


@pytest.mark.parametrize(
    ("reference", "masked"),
    [
        ("absolute", {(2, 0), (1, 1), (0, 2)}),
        ("chunk_start", {(2, 0), (1, 1), (0, 2)}),
        ("framewise", {(2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (0, 3)}),
        ("velocity", {(2, 0), (1, 1), (0, 2), (2, 1), (1, 2), (0, 3)}),
    ],
)
def test_a_step_that_does_not_count_takes_with_it_what_is_relative_to_it(
    reference: Reference, masked: set[tuple[int, int]]
) -> None:
    chunks = chunks_of(ActionRecipe(reference=reference), valid=but(2))
    _, mask = chunks.at(np.arange(3))
    assert {(int(chunk), int(step)) for chunk, step in np.argwhere(~mask)} == masked


def test_a_chunk_relative_to_a_step_without_a_state_does_not_count() -> None:
    assert chunks_of(ActionRecipe(), base_valid=but(0)).at(np.arange(3))[1].all()
    relative = chunks_of(ActionRecipe(reference="chunk_start"), base_valid=but(1))
    assert relative.at(np.arange(3))[1].tolist() == [[True] * 4, [False] * 4, [True] * 4]
    to_run = chunks_of(ActionRecipe(reference="segment_start"), base_valid=but(6), stops=(6, 12))
    assert to_run.at(np.array([1, 6, 8]))[1].any(axis=1).tolist() == [True, False, False]


def test_a_view_that_lags_does_not_forbid_a_base() -> None:
    """The first step has a state but no frame yet: it does not count itself, and others may be relative to it."""
    chunks = chunks_of(ActionRecipe(reference="segment_start"), valid=but(0))
    assert chunks.at(np.arange(3))[1].tolist() == [[False, True, True, True], [True] * 4, [True] * 4]


@pytest.mark.parametrize("lead", [0, 1])
def test_measured_states_may_be_the_actions_that_lead_to_them(lead: int) -> None:
    chunks = chunks_of(ActionRecipe(source="proprio", reference="framewise", lead=lead))
    values, mask = chunks.at(np.arange(NUM_STEPS))
    assert mask.sum(axis=1).tolist() == [min(HORIZON, max(0, NUM_STEPS - lead - step)) for step in range(NUM_STEPS)]
    moves = np.diff(chunks.proprio, axis=0)
    if lead:
        assert values[3] == pytest.approx(moves[3:7])
    else:
        assert not values[3, 0].any(), "a state is no way from itself"
        assert values[3, 1:] == pytest.approx(moves[3:6])


@pytest.mark.parametrize("reference", ["absolute", "chunk_start", "segment_start", "framewise", "velocity"])
def test_blocks_and_float32_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, reference: Reference) -> None:
    chunks = chunks_of(ActionRecipe(reference=reference), stops=(7, 12))
    starts = np.arange(NUM_STEPS)
    whole, mask = chunks.at(starts)
    monkeypatch.setattr(action_chunks, "BLOCK_NUMBERS", HORIZON * 2 * 3)
    parts = list(chunks.blocks(starts))
    assert [len(part) for part in parts] == [3, 3, 3, 3]
    assert np.array_equal(np.concatenate([chunks.at(part)[0] for part in parts]), whole)
    assert np.array_equal(np.concatenate([chunks.at(part)[1] for part in parts]), mask)
    assert chunks.in_float32().without_unread().at(starts)[0] == pytest.approx(whole, abs=1e-5)


def test_a_rotation_that_is_none_is_found_wherever_it_lies() -> None:
    chunks = chunks_of(ActionRecipe(reference="chunk_start"), robot=TOOL)
    chunks.check()
    chunks.action[9] = 0
    with pytest.raises(LayoutError, match="9"):
        chunks.check()
    chunks_of(ActionRecipe(), robot=TOOL).check()


def test_a_number_that_is_none_is_named_unless_it_does_not_count() -> None:
    chunks = chunks_of(ActionRecipe(), valid=but(4))
    chunks.proprio[4] = np.nan
    chunks.check()
    chunks.proprio[5, 1] = np.inf
    with pytest.raises(LayoutError, match="step 5, channel 1: proprio is inf"):
        chunks.check()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 60), st.booleans(), st.integers(0, 1000))
def test_little_by_little_gives_what_one_pass_gives(sizes: list[int], block: int, by_step: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    of = StatsOf("action", "plan", "data")
    parts = [(random.normal(size=(size, 3, 2)), random.random((size, 3)) < 0.7) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(action_chunks, "BLOCK_NUMBERS", block)
        running = RunningSketch(of, by_step)
        for values, mask in parts:
            running.add(values, mask)
        found = running.sketch()
    assert found is not None
    assert len(found.steps) == (3 if by_step else 1)
    values, mask = (np.concatenate(column) for column in zip(*parts, strict=True))
    wanted = sketch_chunks(values, mask, of).overall
    assert found.overall.count == wanted.count == mask.sum()
    if wanted.count:
        assert np.array_equal(found.overall.stats().q99, wanted.stats().q99)
        assert found.overall.stats().mean == pytest.approx(wanted.stats().mean, abs=1e-12)


def test_nothing_added_is_no_statistic() -> None:
    assert RunningSketch(StatsOf("action", "plan", "data")).sketch() is None
