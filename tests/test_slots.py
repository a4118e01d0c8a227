"""Slot layouts: every number in the slot its trainer's table says, a mask that tells, and the way back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.action_plan import ActionPlan
from pipelines.cards import load_embodiment, load_slot_layout, slot_layout_names
from pipelines.slots import Role, pick, place, robot_slots, slot_indices
from schemas.action_recipe import ActionRecipe
from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper
from schemas.errors import CardError, LayoutError, RecipeError
from schemas.slot_layout import SlotLayout
from tests.action_robots import error, fitting

LAYOUTS = slot_layout_names()


def two_arms() -> Embodiment:
    """Two arms with poses, seven joints, hands of six and grippers, in no trainer's order."""
    channels: list[Channel] = []
    for side in ("right", "left"):
        channels += [Channel(name=f"{side}_gripper", unit="1", kind=ChannelKind.GRIPPER)]
        channels += [
            Channel(name=f"{side}_joint_{number}", unit="rad", kind=ChannelKind.POSITION) for number in range(7)
        ]
        channels += [Channel(name=f"{side}_{axis}", unit="m", kind=ChannelKind.POSITION) for axis in "xyz"]
        channels += [Channel(name=f"{side}_q{axis}", unit="1", kind=ChannelKind.QUATERNION) for axis in "xyzw"]
        channels += [
            Channel(name=f"{side}_hand_{number}", unit="rad", kind=ChannelKind.POSITION) for number in range(6)
        ]
    grippers = tuple(Gripper(channel=f"{side}_gripper", open=0, closed=1) for side in ("left", "right"))
    layout = tuple(channels)
    return Embodiment(
        name="two_arms", title="", action=layout, proprio=layout, action_grippers=grippers, proprio_grippers=grippers
    )


def slots_of(robot: Embodiment, **choices: Any) -> dict[str, int]:
    plan = ActionPlan.of(robot, ActionRecipe(**choices))
    names = [channel.name for channel in plan.written.channels]
    return dict(zip(names, plan.indices.tolist(), strict=True))


def test_what_is_shipped() -> None:
    widths = {name: load_slot_layout(name).width for name in LAYOUTS}
    assert widths == {
        "being_h_200": 200,
        "cosmos3_64": 64,
        "dreamdojo_384": 384,
        "dreamzero_32": 32,
        "dreamzero_64": 64,
        "lingbot_30": 30,
        "rdt_128": 128,
    }
    for name in LAYOUTS:
        layout = load_slot_layout(name)
        assert layout.name == name
        assert layout.title
        assert layout.source


def test_lingbot() -> None:
    slots = slots_of(two_arms(), slots="lingbot_30", parts=["pose", "joints", "gripper"])
    expected = [
        *(f"left_{name}" for name in ("x", "y", "z", "qx", "qy", "qz", "qw")),
        *(f"right_{name}" for name in ("x", "y", "z", "qx", "qy", "qz", "qw")),
        *(f"left_joint_{number}" for number in range(7)),
        *(f"right_joint_{number}" for number in range(7)),
        "left_gripper",
        "right_gripper",
    ]
    assert sorted(slots, key=slots.__getitem__) == expected
    assert sorted(slots.values()) == list(range(30))


def test_rdt() -> None:
    slots = slots_of(two_arms(), slots="rdt_128", parts=["pose", "joints", "gripper"])
    for side, joints, gripper, place_, turn in (("right", 0, 10, 30, 33), ("left", 50, 60, 80, 83)):
        assert [slots[f"{side}_joint_{number}"] for number in range(7)] == list(range(joints, joints + 7))
        assert slots[f"{side}_gripper"] == gripper
        assert [slots[f"{side}_{axis}"] for axis in "xyz"] == list(range(place_, place_ + 3))
        assert [slots[f"{side}_rot6d_{number}"] for number in range(1, 7)] == list(range(turn, turn + 6))


def test_rdt_velocities_have_slots_of_their_own_and_none_for_turning() -> None:
    slots = slots_of(two_arms(), slots="rdt_128", parts=["joints", "gripper"], reference="velocity")
    assert slots["velocity_right_joint_0"] == 15
    assert slots["velocity_left_joint_6"] == 71
    assert slots["right_gripper"] == 10
    with pytest.raises(RecipeError, match="right angular_velocity has no slot"):
        slots_of(two_arms(), slots="rdt_128", parts=["pose"], reference="velocity")
    with pytest.raises(RecipeError, match="velocity_right_hand_0 does not fit: right other has no slot"):
        slots_of(two_arms(), slots="being_h_200", parts=["hand"], reference="velocity")


def test_being_h() -> None:
    slots = slots_of(two_arms(), slots="being_h_200")
    for side, start, gripper, hand, joints in (("right", 0, 18, 20, 50), ("left", 9, 19, 32, 57)):
        assert [slots[f"{side}_{name}"] for name in ("x", "y", "z", "rx", "ry", "rz")] == list(range(start, start + 6))
        assert slots[f"{side}_gripper"] == gripper
        assert [slots[f"{side}_hand_{number}"] for number in range(6)] == list(range(hand, hand + 6))
        assert [slots[f"{side}_joint_{number}"] for number in range(7)] == list(range(joints, joints + 7))
    slots = slots_of(load_embodiment("gr1"), slots="being_h_200", parts=["joints", "hand", "waist"])
    assert [slots[f"waist_{number}"] for number in range(3)] == [66, 67, 68]
    with pytest.raises(RecipeError, match="neck_2 does not fit: head has room for 2 numbers only"):
        slots_of(load_embodiment("gr1"), slots="being_h_200", parts=["head"])


def test_the_side_of_a_single_arm() -> None:
    robot = load_embodiment("droid")
    assert slots_of(robot, slots="lingbot_30")["joint_1"] == 14
    assert slots_of(robot, slots="rdt_128")["joint_1"] == 0
    assert slots_of(robot, slots="being_h_200")["joint_1"] == 50


def test_padded_vectors_keep_the_order_of_the_robot() -> None:
    for name in ("dreamzero_32", "dreamzero_64", "cosmos3_64"):
        assert list(slots_of(load_embodiment("droid"), slots=name).values()) == list(range(14))
    with pytest.raises(RecipeError, match="does not fit") as caught:
        slots_of(load_embodiment("gr1"), slots="dreamzero_32")
    assert "the vector has room for 32 numbers only" in str(caught.value)


def test_dreamdojo_has_a_room_for_each_robot() -> None:
    robot = load_embodiment("sample_arm")
    starts = {"gr1": 0, "gr1_gloves": 29, "g1": 58, "yam": 101, "agibot": 147, "mano": 220, "latent": 352}
    assert load_slot_layout("dreamdojo_384").blocks == tuple(starts)
    for block, start in starts.items():
        assert list(slots_of(robot, slots="dreamdojo_384", block=block).values()) == list(range(start, start + 7))
    for block, what in (("", "block names none"), ("franka", "there is no block 'franka'")):
        with pytest.raises(RecipeError, match=what) as caught:
            slots_of(robot, slots="dreamdojo_384", block=block)
        assert "gr1_gloves" in caught.value.hint
    with pytest.raises(RecipeError, match="there is no block 'gr1'"):
        slots_of(robot, slots="lingbot_30", block="gr1")


def test_two_numbers_in_one_slot_are_refused() -> None:
    layout = SlotLayout.model_validate(
        {
            "name": "one",
            "width": 4,
            "single_arm": "left",
            "slots": [{"part": "joints", "arm": "left", "start": 0, "width": 4}],
        }
    )
    roles = (Role("joints", "", 0), Role("joints", "left", 0))
    with pytest.raises(RecipeError, match="a and b both belong in number 0"):
        slot_indices(layout, roles, ("a", "b"))


def test_a_layout_of_ones_own(tmp_path: Path) -> None:
    card = tmp_path / "mine.toml"
    card.write_text(
        """
name = "mine"
width = 12
rotation = "matrix"
gripper = "opening"
slots = [
    { part = "gripper", start = 0, width = 1 },
    { part = "rotation", start = 3, width = 9 },
]
"""
    )
    robot = load_embodiment("droid")
    with pytest.raises(RecipeError, match="x does not fit: position has no slot"):
        slots_of(robot, slots=str(card), parts=["pose", "gripper"])
    card.write_text(
        card.read_text()
        .replace("width = 12", "width = 15")
        .replace("]\n", "    { part = 'position', start = 12, width = 3 },\n]\n")
    )
    slots = slots_of(robot, slots=str(card), parts=["pose", "gripper"])
    assert slots["gripper"] == 0
    assert slots["r11"] == 3
    assert slots["x"] == 12
    card.write_text('name = "mine"\nwidth = 12\nslot = []\n')
    with pytest.raises(CardError, match="unknown key 'slot'") as caught:
        load_slot_layout(str(card))
    assert "did you mean 'slots'" in caught.value.hint
    with pytest.raises(CardError, match="there is no card 'lingbot_31'"):
        load_slot_layout("lingbot_31")


@pytest.mark.parametrize(
    ("slots", "why"),
    [
        ([{"part": "joints", "start": 0, "width": 7}, {"part": "gripper", "start": 6, "width": 1}], "overlap at 6"),
        ([{"part": "joints", "start": 4, "width": 7}], "ends at 11, the vector at 10"),
        ([{"part": "joints", "start": 0, "width": 3}, {"part": "joints", "start": 3, "width": 3}], "two slots"),
        ([{"part": "elbow", "start": 0, "width": 3}], "part"),
        ([], "slots"),
    ],
)
def test_a_table_that_cannot_be_is_refused(slots: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        SlotLayout.model_validate({"name": "wrong", "width": 10, "slots": slots})


@settings(deadline=None)
@given(
    width=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(), (3,), (2, 5), (0, 4)]),
)
def test_pick_undoes_place(width: int, seed: int, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(seed)
    indices = random.permutation(width)[: random.integers(0, width + 1)]
    vector = random.normal(size=(*shape, len(indices)))
    values, mask = place(vector, indices, width)
    assert values.shape == (*shape, width)
    assert sorted(indices) == np.flatnonzero(mask).tolist()
    assert not values[..., ~mask].any()
    assert np.array_equal(pick(values, indices, width), vector)


@pytest.mark.parametrize("name", ["robot", *LAYOUTS])
@pytest.mark.parametrize("reference", ["absolute", "chunk_start", "framewise"])
def test_vectors_come_back_out_of_their_slots(name: str, reference: str) -> None:
    block = "yam" if name == "dreamdojo_384" else ""
    parts = ("pose", "joints", "gripper")
    recipe = ActionRecipe(slots=name, block=block, parts=parts, reference=reference)  # type: ignore[arg-type]
    robot = two_arms()
    plan = ActionPlan.of(robot, recipe)
    random = np.random.default_rng(4)
    chunks, base = fitting(robot.action, (6, 5), random), fitting(robot.proprio, (6,), random)
    written = plan.transform(chunks, base)
    assert written.shape == (6, 5, plan.width)
    assert plan.mask.sum() == len(plan.written.channels)
    layout = tuple(robot.action[column] for column in plan.kept)
    assert error(plan.inverse(written, base), chunks[..., plan.kept], layout) < 1e-9


def test_wrong_widths_are_refused() -> None:
    with pytest.raises(LayoutError, match="3 numbers do not fit 2 slots"):
        place(np.zeros(3), np.array([0, 1]), 5)
    with pytest.raises(LayoutError, match="4 numbers are not 5"):
        pick(np.zeros(4), np.array([0, 1]), 5)
    assert robot_slots(7).width == 7
