"""Rotations that wrap within a chunk: B-splines cannot follow them, the bench says so, and the ways out that docs name work."""

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jobs.tokens import _wraps
from pipelines.action_plan import ActionPlan
from pipelines.cards import load_embodiment
from pipelines.rotations import from_matrix
from pipelines.stats import denormalize, normalize, sketch
from pipelines.token_errors import errors_by_quantity, wrapped_chunks
from pipelines.tokenizers import beast
from schemas.action_recipe import ActionRecipe
from schemas.embodiment import Channel, ChannelKind, Embodiment
from schemas.slot_layout import RotationKind

DROID = load_embodiment("droid")
N, T = 120, 16


def crossing() -> np.ndarray:
    """float64 [N, T, 14]: DROID's arm with its tool down, turning slowly, so that roll passes pi in about half of the chunks."""
    random = np.random.default_rng(0)
    start, speed = random.normal(0, 0.3, (N, 1, 14)), random.normal(0, 0.4, (N, 1, 14))
    chunks = start + speed * np.linspace(0, 1, T)[:, None]
    chunks[..., 3:6] = np.arctan2(np.sin(chunks[..., 3:6] + [np.pi, 0, 0]), np.cos(chunks[..., 3:6] + [np.pi, 0, 0]))
    chunks[..., 13] = 0
    return chunks


def degrees_off(**choices: Any) -> np.ndarray:
    """Errors of the rotation after B-spline tokens of what a plan writes."""
    chunks = crossing()
    plan = ActionPlan.of(DROID, ActionRecipe(base="self", **choices))
    written = plan.transform(chunks, chunks[:, 0])
    stats = sketch(written).stats()
    normal = normalize(written, stats, "quantile")
    tokenizer = beast.fit(normal)
    decoded = tokenizer.decode(tokenizer.encode(normal), T, plan.width)
    back = plan.inverse(denormalize(decoded, stats, "quantile"), chunks[:, 0])
    return errors_by_quantity(DROID, chunks.reshape(-1, 14), back.reshape(-1, 14))["deg"]


def test_splines_over_angles_that_wrap_are_far_off() -> None:
    assert degrees_off().max() > 90


@pytest.mark.parametrize(
    "choices", [{"rotation": "rot6d_columns"}, {"rotation": "rot6d_rows"}, {"reference": "chunk_start"}]
)
def test_what_the_docs_advise_keeps_them_close(choices: dict[str, str]) -> None:
    assert degrees_off(**choices).max() < 1


def test_the_channel_that_wraps_is_named_with_its_chunks() -> None:
    chunks = crossing()
    steps = np.abs(np.diff(chunks[..., 3], axis=1)) > np.pi
    mask = np.ones((N, T), dtype=bool)
    assert wrapped_chunks(DROID, chunks, mask) == {DROID.action[3].name: int(steps.any(axis=1).sum())}
    mask[:, 1:] = ~steps & mask[:, 1:]  # not between a step that counts and one that does not
    assert wrapped_chunks(DROID, chunks, mask) == {}
    assert wrapped_chunks(DROID, chunks[:, :1], mask[:, :1]) == {}
    assert wrapped_chunks(DROID, chunks[:0], mask[:0]) == {}


@pytest.mark.parametrize(
    ("kind", "written", "unit", "names"),
    [
        (ChannelKind.EULER, "euler_xyz", "rad", "roll"),
        (ChannelKind.EULER, "euler_xyz", "deg", "roll"),
        (ChannelKind.AXIS_ANGLE, "axis_angle", "rad", "roll, pitch, yaw"),
        (ChannelKind.QUATERNION, "quaternion_xyzw", "1", "roll, pitch, yaw, w"),
    ],
)
def test_every_kind_of_rotation_can_wrap(kind: ChannelKind, written: RotationKind, unit: str, names: str) -> None:
    labels = ("roll", "pitch", "yaw", "w")[: 4 if kind is ChannelKind.QUATERNION else 3]
    robot = Embodiment(
        name="robot", title="", proprio=(), action=tuple(Channel(name=name, unit=unit, kind=kind) for name in labels)
    )

    def turning(first: float) -> np.ndarray:
        """float64 [1, 20, w]: two degrees a step about x, from ``first`` on."""
        turns = Rotation.from_euler("x", first + 2 * np.arange(20)[:, None], degrees=True).as_matrix()
        values = from_matrix(turns, written)
        return np.asarray(np.rad2deg(values) if unit == "deg" else values)[None]

    mask = np.ones((2, 20), dtype=bool)
    chunks = np.concatenate([turning(161), turning(-20)])
    assert wrapped_chunks(robot, chunks, mask) == {names: 1}
    assert wrapped_chunks(robot, chunks[1:], mask[1:]) == {}


def test_angles_that_wrap_are_told_and_joints_are_not() -> None:
    robot = Embodiment(
        name="robot",
        title="",
        proprio=(),
        action=(
            Channel(name="heading", unit="deg", kind=ChannelKind.ANGLE),
            Channel(name="joint_1", unit="rad", kind=ChannelKind.POSITION),
        ),
    )
    chunks = np.array([[[179.0, 0], [-179, 6]], [[0, 0], [5, 0]]])
    assert wrapped_chunks(robot, chunks, np.ones((2, 2), dtype=bool)) == {"heading": 1}


def test_the_verb_tells_them_in_words() -> None:
    (line,) = _wraps({"measured_chunks": 8, "wrapped_chunks": {"roll": 3}})
    assert "roll: " in line
    assert "in 3 of 8 chunks" in line
    assert "docs/actions.md" in line
    assert _wraps({"measured_chunks": 8, "wrapped_chunks": {}}) == []
