"""Action chunks against their references: inverse laws over random robots, trainers' own formulas as judges, all cards."""

import itertools
import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipelines.action_plan import ActionPlan
from pipelines.actions import from_opening, to_opening
from pipelines.cards import embodiment_names, load_embodiment
from pipelines.rotations import WIDTHS
from schemas.action_recipe import ActionRecipe
from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper
from schemas.errors import LayoutError, RecipeError
from schemas.recipes import parse_toml, validate_model
from tests.action_robots import embodiments, error, fitting
from tests.real import real_data

BOUND = 1e-9
RATE = Fraction(30_000, 1001)
seeds = st.integers(0, 2**32 - 1)
DROID = load_embodiment("droid")


def plan_of(robot: Embodiment, **choices: Any) -> ActionPlan:
    return ActionPlan.of(robot, ActionRecipe(**choices))


def kept(plan: ActionPlan, values: np.ndarray) -> tuple[np.ndarray, tuple[Channel, ...]]:
    return values[..., plan.kept], tuple(plan.recorded[column] for column in plan.kept)


def round_trip_error(plan: ActionPlan, shape: tuple[int, int], seed: int) -> float:
    random = np.random.default_rng(seed)
    chunks, base = fitting(plan.recorded, shape, random), fitting(plan.based_on, shape[:1], random)
    written = plan.transform(chunks, base, RATE)
    assert written.shape == (*shape, plan.width)
    assert written.dtype == np.float64
    assert not written[..., ~plan.mask].any()
    return error(plan.inverse(written, base, RATE), *kept(plan, chunks))


recipes = st.builds(
    dict,
    source=st.sampled_from(["action", "proprio"]),
    reference=st.sampled_from(["absolute", "chunk_start", "segment_start", "framewise", "velocity"]),
    base=st.sampled_from(["state", "self"]),
    frame=st.sampled_from(["base", "tool", "base_axes"]),
    rotation=st.sampled_from([None, *WIDTHS]),
    gripper=st.sampled_from([None, "recorded", "opening", "closing"]),
    gripper_reference=st.sampled_from(["absolute", "relative"]),
)


@settings(deadline=None, max_examples=300)
@given(robot=embodiments(), choices=recipes, seed=seeds)
def test_the_inverse_gives_back_what_was_recorded(robot: Embodiment, choices: dict[str, Any], seed: int) -> None:
    assume(not (choices["reference"] == "velocity" and choices["rotation"] not in (None, "axis_angle")))
    assume(not (choices["reference"] == "absolute" and choices["gripper_reference"] == "relative"))
    plan = plan_of(robot, **choices)
    assert len(plan.names) == plan.width == len(set(plan.names))
    assert round_trip_error(plan, (4, 6), seed) < BOUND


@settings(deadline=None, max_examples=20)
@given(
    seed=seeds,
    frame=st.sampled_from(["base", "tool", "base_axes"]),
    reference=st.sampled_from(["framewise", "velocity"]),
)
def test_long_chains_stay_far_under_the_bound(seed: int, frame: str, reference: str) -> None:
    # rounding grows with the number of steps T: about T times 1e-16 rad, and metres times that for positions
    plan = plan_of(DROID, reference=reference, frame=frame)
    assert round_trip_error(plan, (1, 2000), seed) < 2000 * 1e-15 * 20


@settings(deadline=None)
@given(robot=embodiments(), seed=seeds)
def test_absolute_as_recorded_changes_no_bit(robot: Embodiment, seed: int) -> None:
    chunks = np.random.default_rng(seed).normal(size=(3, 5, len(robot.action)))
    plan = plan_of(robot)
    assert np.array_equal(plan.transform(chunks), chunks)
    assert np.array_equal(plan.inverse(chunks), chunks)
    assert plan.names == tuple(channel.name for channel in robot.action)
    assert plan.written.channels == robot.action


@settings(deadline=None)
@given(robot=embodiments(), seed=seeds, reference=st.sampled_from(["chunk_start", "framewise", "velocity"]))
def test_standing_still_is_zero(robot: Embodiment, seed: int, reference: str) -> None:
    plan = plan_of(robot, reference=reference, base="self", rotation="axis_angle", parts=["pose", "joints", "other"])
    base = fitting(plan.recorded, (3,), np.random.default_rng(seed))
    written = plan.transform(np.repeat(base[:, None], 4, axis=1), base, RATE)
    moved = [number for number, name in enumerate(plan.names) if name.startswith(("delta_", "velocity_"))]
    assert moved
    assert np.abs(written[..., moved]).max() < 1e-12 * float(RATE)


# --- trainers' own formulas, one row at a time


def droid_chunks(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return fitting(DROID.action, (5, 8), random), fitting(DROID.proprio, (5,), random)


def test_dreamzero_and_openpi_joint_deltas_with_an_absolute_gripper() -> None:
    chunks, states = droid_chunks()
    plan = plan_of(DROID, parts=["joints", "gripper"], reference="chunk_start", slots="dreamzero_32")
    written = plan.transform(chunks, states)
    for chunk, step in itertools.product(range(5), range(8)):
        expected = [*(chunks[chunk, step, 6:13] - states[chunk, 6:13]), chunks[chunk, step, 13]]
        assert np.array_equal(written[chunk, step], [*expected, *[0.0] * 24])
    assert plan.mask.tolist() == [True] * 8 + [False] * 24
    assert plan.unmoved == ()


def test_lingbot_pose_against_the_first_of_the_segment() -> None:
    chunks, states = droid_chunks()
    plan = plan_of(DROID, parts=["pose", "gripper"], reference="segment_start", base="self", slots="lingbot_30")
    first = chunks[:, 0]
    written = plan.transform(chunks, first)
    assert written.shape[-1] == 30
    for chunk, step in itertools.product(range(5), range(8)):
        zero, one = (Rotation.from_euler("xyz", pose[3:6]) for pose in (first[chunk], chunks[chunk, step]))
        quaternion = (zero.inv() * one).as_quat()
        assert np.allclose(written[chunk, step, :3], chunks[chunk, step, :3] - first[chunk, :3], atol=1e-15)
        found = written[chunk, step, 3:7]
        assert min(np.abs(found - quaternion).max(), np.abs(found + quaternion).max()) < BOUND
        assert written[chunk, step, 28] == chunks[chunk, step, 13]
    assert np.flatnonzero(plan.mask).tolist() == [*range(7), 28]
    assert not np.array_equal(plan.transform(chunks, states), written)


def test_cosmos_pose_in_the_frame_before() -> None:
    chunks, states = droid_chunks()
    choices = {"parts": ["pose", "gripper"], "reference": "framewise", "frame": "tool", "slots": "cosmos3_64"}
    written = plan_of(DROID, **choices, rotation="rot6d_columns").transform(chunks, states)
    for chunk in range(5):
        before = np.eye(4)
        before[:3, :3], before[:3, 3] = Rotation.from_euler("xyz", states[chunk, 3:6]).as_matrix(), states[chunk, :3]
        for step in range(8):
            now = np.eye(4)
            now[:3, :3] = Rotation.from_euler("xyz", chunks[chunk, step, 3:6]).as_matrix()
            now[:3, 3] = chunks[chunk, step, :3]
            delta = np.linalg.inv(before) @ now
            expected = [*delta[:3, 3], *delta[:3, 0], *delta[:3, 1], 1 - chunks[chunk, step, 13]]
            assert np.allclose(written[chunk, step, :10], expected, atol=BOUND)
            before = now


def test_v_jepa_2_ac_differences_along_the_axes_of_the_base() -> None:
    chunks, states = droid_chunks()
    choices = {"parts": ["pose", "gripper"], "reference": "framewise", "frame": "base_axes"}
    written = plan_of(DROID, **choices, gripper_reference="relative").transform(chunks, states)
    for chunk, step in itertools.product(range(5), range(8)):
        before, now = states[chunk] if step == 0 else chunks[chunk, step - 1], chunks[chunk, step]
        turned = Rotation.from_euler("xyz", now[3:6]) * Rotation.from_euler("xyz", before[3:6]).inv()
        assert np.allclose(written[chunk, step, :3], now[:3] - before[:3], atol=1e-15)
        found = Rotation.from_euler("xyz", written[chunk, step, 3:6])
        assert (found.inv() * turned).magnitude() < BOUND
        assert np.isclose(written[chunk, step, 6], now[13] - before[13], atol=1e-15)


def test_velocities_are_differences_by_the_period() -> None:
    chunks, states = droid_chunks()
    rate = Fraction(15)
    plan = plan_of(DROID, reference="velocity", frame="tool", slots="robot")
    written = plan.transform(chunks, states, rate)
    before, now = chunks[2, 3], chunks[2, 4]
    zero, one = Rotation.from_euler("xyz", before[3:6]), Rotation.from_euler("xyz", now[3:6])
    assert np.allclose(written[2, 4, :3], zero.inv().apply(now[:3] - before[:3]) * 15, atol=BOUND)
    assert np.allclose(written[2, 4, 3:6], (zero.inv() * one).as_rotvec() * 15, atol=BOUND)
    assert np.allclose(written[2, 4, 6:13], (now[6:13] - before[6:13]) * 15, atol=BOUND)
    assert written[2, 4, 13] == now[13]
    assert [channel.unit for channel in plan.written.channels[:7]] == ["m/s"] * 3 + ["rad/s"] * 4


@pytest.mark.real
def test_real_droid_states_give_irasims_actions() -> None:
    found = sorted((real_data("ctrlworld_droid") / "droid_subset" / "annotation").glob("*/*.json"))
    assert found
    plan = plan_of(DROID, source="proprio", parts=["pose"], reference="framewise", frame="tool")
    for path in found:
        poses = np.array(json.loads(path.read_text())["observation.state.cartesian_position"])
        states = np.concatenate([poses, np.zeros((len(poses), 8))], axis=1)
        written = plan.transform(states[None, 1:], states[:1])[0]
        for step in range(len(poses) - 1):
            before, now = (Rotation.from_euler("xyz", pose[3:]).as_matrix() for pose in poses[step : step + 2])
            assert np.allclose(written[step, :3], before.T @ (poses[step + 1, :3] - poses[step, :3]), atol=BOUND)
            turned = Rotation.from_euler("xyz", written[step, 3:]).as_matrix()
            assert np.allclose(turned, before.T @ now, atol=BOUND)
        back = plan.inverse(written[None], states[:1])[0]
        assert error(back, *kept(plan, states[1:])) < BOUND


# --- angles, grippers, bases


def test_an_angle_that_wraps_takes_the_short_way() -> None:
    robot = Embodiment(
        name="turntable",
        title="",
        action=(Channel(name="heading", unit="deg", kind=ChannelKind.ANGLE),),
        proprio=(Channel(name="heading", unit="deg", kind=ChannelKind.ANGLE),),
    )
    plan = plan_of(robot, reference="chunk_start")
    written = plan.transform(np.array([[[-170.0], [10.0], [170.0]]]), np.array([[170.0]]))
    assert written.ravel().tolist() == [20.0, -160.0, 0.0]
    assert plan.inverse(written, np.array([[170.0]])).ravel().tolist() == [190.0, 10.0, 170.0]


@given(
    value=st.floats(-300, 300),
    ends=st.sampled_from([(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (0.08, 0.0), (0.0, 255.0), (0.1, 0.3)]),
)
def test_openings_are_linear_between_closed_and_open_and_come_back(value: float, ends: tuple[float, float]) -> None:
    gripper = Gripper(channel="g", open=ends[0], closed=ends[1])
    assert to_opening(np.array(list(ends)), gripper).tolist() == [1.0, 0.0]
    assert from_opening(np.array([1.0, 0.0]), gripper) == pytest.approx(ends, abs=1e-16)
    assert abs(float(from_opening(to_opening(np.array(value), gripper), gripper)) - value) < 1e-12


def test_gripper_conventions_of_a_robot_that_counts_how_closed_it_is() -> None:
    chunks, _ = droid_chunks()
    recorded, opening, closing = (
        plan_of(DROID, parts=["gripper"], gripper=choice).transform(chunks)
        for choice in ("recorded", "opening", "closing")
    )
    assert np.array_equal(recorded, chunks[..., 13:])
    assert np.array_equal(opening, 1 - recorded)
    assert np.array_equal(closing, recorded)


def test_a_relative_gripper_needs_the_same_quantity_or_openings_on_both_sides() -> None:
    robot = load_embodiment("franka_osc")  # width in metres measured, -1 to 1 commanded
    choices = {"parts": ["gripper"], "reference": "chunk_start", "gripper_reference": "relative"}
    with pytest.raises(RecipeError, match=r"franka_osc cannot be relative .* another quantity"):
        plan_of(robot, **choices)
    plan = plan_of(robot, **choices, gripper="opening")
    chunks, states = np.zeros((1, 2, 7)), np.zeros((1, 8))
    chunks[0, :, 6], states[0, 7] = [-1.0, 1.0], 0.02
    assert plan.transform(chunks, states).ravel() == pytest.approx([0.75, -0.25])
    assert plan.inverse(plan.transform(chunks, states), states).ravel() == pytest.approx([-1.0, 1.0])


def test_the_base_is_picked_by_reference_and_source() -> None:
    random = np.random.default_rng(0)
    action, proprio = fitting(DROID.action, (50,), random), fitting(DROID.proprio, (50,), random)
    chunks, segments = np.array([4, 30]), np.array([0, 20])

    def base(**choices: Any) -> np.ndarray:
        return plan_of(DROID, **choices).base(action, proprio, chunks, segments)

    assert np.array_equal(base(reference="chunk_start"), proprio[chunks])
    assert np.array_equal(base(reference="segment_start"), proprio[segments])
    assert np.array_equal(base(reference="segment_start", base="self"), action[segments])
    assert np.array_equal(base(reference="framewise", source="proprio", base="self"), proprio[chunks])


# --- what a card does not allow


@pytest.mark.parametrize(
    ("robot", "choices", "why"),
    [
        (
            "widowx",
            {"reference": "chunk_start"},
            "delta_x, delta_y.* are changes, velocities or other commands already",
        ),
        ("libero_panda", {"reference": "framewise"}, "changes, velocities or other commands already"),
        ("franka_cable", {"reference": "velocity"}, "velocity_x.* are changes, velocities or other commands already"),
        ("xarm_weblab", {"reference": "segment_start"}, "the card does not say what x, y, z, yaw, pitch, roll are"),
        ("droid", {"reference": "chunk_start", "parts": ["gripper"]}, "no channel but grippers is used"),
        ("franka_insert", {"reference": "chunk_start"}, "x, y, z of the action .* it is not there"),
        ("franka_insert", {"reference": "chunk_start", "base": "self", "frame": "tool"}, "no axes of a tool"),
        ("kuka_iiwa_peg", {"gripper": "opening"}, "does not say what opens gripper"),
        ("droid", {"slots": "rdt_128", "rotation": "rot6d_rows"}, "as rot6d_rows, but the slots take rot6d_columns"),
        ("droid", {"parts": ["hand"]}, "none of the channels asked for"),
        ("droid_measured", {}, "none of the channels asked for"),
    ],
)
def test_what_a_card_does_not_allow_is_said(robot: str, choices: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError, match=why) as caught:
        plan_of(load_embodiment(robot), **choices)
    assert caught.value.hint


def test_commands_beside_joints_stay_and_are_named() -> None:
    plan = plan_of(load_embodiment("mobile_aloha"), reference="chunk_start")
    assert plan.unmoved == ("base_1", "base_2")
    assert [name for name in plan.names if not name.startswith("delta_")] == [
        "left_gripper",
        "right_gripper",
        *plan.unmoved,
    ]


def test_missing_or_misshapen_arrays_are_refused() -> None:
    chunks, states = droid_chunks()
    plan = plan_of(DROID, reference="velocity")
    with pytest.raises(LayoutError, match=r"chunks of shape \(8, 14\)"):
        plan.transform(chunks[0], states, RATE)
    with pytest.raises(LayoutError, match="needs a base"):
        plan.transform(chunks)
    with pytest.raises(LayoutError, match=r"base of shape \(4, 14\) are not \[5, 14\]"):
        plan.transform(chunks, states[:4], RATE)
    with pytest.raises(LayoutError, match="need a rate"):
        plan.transform(chunks, states)
    with pytest.raises(LayoutError, match=r"written of shape \(5, 8, 13\)"):
        plan.inverse(plan.transform(chunks, states, RATE)[..., 1:], states, RATE)
    broken = chunks.copy()
    broken[3, 2, 4] = math.nan
    with pytest.raises(LayoutError, match="not every number is finite") as caught:
        plan.transform(broken, states, RATE)
    assert caught.value.where == "row 3, 2"


def test_inputs_are_left_as_they_are() -> None:
    chunks, states = droid_chunks()
    for array in (chunks, states):
        array.setflags(write=False)
    plan = plan_of(DROID, reference="framewise", gripper="opening", rotation="matrix")
    written = plan.transform(chunks, states)
    written.setflags(write=False)
    plan.inverse(written, states)


def test_no_chunks_and_no_steps() -> None:
    for reference, shape in itertools.product(["chunk_start", "framewise", "velocity"], [(0, 8), (3, 0)]):
        assert round_trip_error(plan_of(DROID, reference=reference), shape, 0) == 0


# --- recipes


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('referense = "absolute"', "unknown key 'referense'"),
        ('reference = "relative"', "reference"),
        ('rotation = "rot6d"', "rotation"),
        ('reference = "velocity"\nrotation = "euler_xyz"', "a velocity has no rotation of kind euler_xyz"),
        ('gripper_reference = "relative"', "grippers cannot be relative where the reference is absolute"),
        ('parts = ["joints", "joints"]', "names a part twice"),
    ],
)
def test_wrong_recipes_are_errors_that_name_the_key(text: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        validate_model(ActionRecipe, parse_toml(text, "recipe.toml"), "recipe.toml")


def test_fingerprints_follow_the_numbers() -> None:
    choices: list[dict[str, Any]] = [
        {},
        {"reference": "chunk_start"},
        {"reference": "chunk_start", "frame": "tool"},
        {"rotation": "rot6d_columns"},
        {"rotation": "rot6d_rows"},
        {"gripper": "opening"},
        {"slots": "cosmos3_64"},
        {"slots": "dreamzero_64"},
        {"slots": "rdt_128"},
    ]
    prints = [plan_of(DROID, **one).fingerprint for one in choices]
    assert len(set(prints)) == len(prints)
    assert prints == [plan_of(DROID, **one).fingerprint for one in choices]
    flipped = DROID.model_copy(update={"action_grippers": (Gripper(channel="gripper", open=1, closed=0),)})
    assert plan_of(flipped, gripper="opening").fingerprint != plan_of(DROID, gripper="opening").fingerprint


@settings(deadline=None, max_examples=5)
@given(seed=seeds)
def test_every_card_comes_back_from_every_reference_it_allows(seed: int) -> None:
    allowed = 0
    for name, source, reference in itertools.product(
        embodiment_names(), ["action", "proprio"], ["absolute", "chunk_start", "framewise", "velocity"]
    ):
        robot = load_embodiment(name)
        rotation = "rot6d_rows" if reference != "velocity" else None
        try:
            plan = plan_of(robot, source=source, reference=reference, base="self", rotation=rotation)
        except RecipeError:
            continue
        allowed += 1
        assert round_trip_error(plan, (3, 5), seed) < BOUND, (name, source, reference)
    assert allowed > 200
