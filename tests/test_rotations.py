"""Rotations: every pair of ways of writing them, judged by scipy one row at a time, and by angles where names differ."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipelines.rotations import WIDTHS, angle_between, convert, from_matrix, nearest_matrices, to_matrix
from schemas.errors import LayoutError
from schemas.slot_layout import RotationKind
from tests.action_robots import turns

BOUND = 1e-9
ALL: list[RotationKind] = list(WIDTHS)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("kind", ALL)
@given(seed=seeds)
def test_every_kind_keeps_the_rotation(kind: RotationKind, seed: int) -> None:
    matrices = turns((3, 20), np.random.default_rng(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = from_matrix(matrices, kind)
        back = to_matrix(written, kind)
    assert written.shape == (3, 20, WIDTHS[kind])
    assert written.dtype == back.dtype == np.float64
    assert angle_between(back, matrices).max() < BOUND
    assert np.allclose(np.linalg.det(back), 1, atol=1e-12)


@pytest.mark.parametrize(("one", "two"), list(itertools.permutations(ALL, 2)))
@given(seed=seeds)
def test_there_and_back_between_any_two_kinds(one: RotationKind, two: RotationKind, seed: int) -> None:
    matrices = turns((20,), np.random.default_rng(seed))
    values = from_matrix(matrices, one)
    back = convert(convert(values, one, two), two, one)
    assert angle_between(to_matrix(back, one), matrices).max() < BOUND


@given(seed=seeds)
def test_values_come_back_where_they_are_the_only_ones(seed: int) -> None:
    random = np.random.default_rng(seed)
    axes = random.normal(size=(50, 3))
    vectors = axes / np.linalg.norm(axes, axis=1, keepdims=True) * random.uniform(0, 3.1, (50, 1))
    assert np.abs(convert(convert(vectors, "axis_angle", "matrix"), "matrix", "axis_angle") - vectors).max() < BOUND
    euler = random.uniform(-1, 1, (50, 3)) * [math.pi, 1.5, math.pi]
    assert np.abs(convert(convert(euler, "euler_xyz", "matrix"), "matrix", "euler_xyz") - euler).max() < BOUND
    quaternions = np.asarray(Rotation.random(50, rng=random).as_quat(canonical=True))
    back = convert(convert(quaternions, "quaternion_xyzw", "axis_angle"), "axis_angle", "quaternion_xyzw")
    assert np.abs(back - quaternions).max() < BOUND


@given(seed=seeds)
def test_scipy_agrees_row_by_row(seed: int) -> None:
    for matrix in turns((8,), np.random.default_rng(seed)):
        rotation = Rotation.from_matrix(matrix)
        quaternion = rotation.as_quat()
        for kind, values in {
            "quaternion_xyzw": quaternion,
            "axis_angle": rotation.as_rotvec(),
            "rot6d_columns": np.concatenate([matrix[:, 0], matrix[:, 1]]),
            "rot6d_rows": np.concatenate([matrix[0], matrix[1]]),
            "matrix": matrix.ravel(),
        }.items():
            assert angle_between(to_matrix(values, kind), matrix) < BOUND  # type: ignore[arg-type]
        mine = from_matrix(matrix, "quaternion_xyzw")
        assert min(np.abs(mine - quaternion).max(), np.abs(mine + quaternion).max()) < 1e-12


def test_euler_angles_are_about_fixed_axes_in_the_order_x_y_z() -> None:
    a, b, c = 0.3, -0.7, 1.9

    def about(axis: int, angle: float) -> np.ndarray:
        one, two = (axis + 1) % 3, (axis + 2) % 3
        matrix = np.eye(3)
        matrix[one, one] = matrix[two, two] = math.cos(angle)
        matrix[one, two], matrix[two, one] = -math.sin(angle), math.sin(angle)
        return matrix

    assert np.allclose(to_matrix(np.array([a, b, c]), "euler_xyz"), about(2, c) @ about(1, b) @ about(0, a), atol=1e-15)


@given(seed=seeds)
def test_conventions(seed: int) -> None:
    matrices = turns((100,), np.random.default_rng(seed))
    assert (from_matrix(matrices, "quaternion_xyzw")[:, 3] >= 0).all()
    assert (np.linalg.norm(from_matrix(matrices, "axis_angle"), axis=1) <= math.pi + 1e-12).all()
    euler = from_matrix(matrices, "euler_xyz")
    assert (np.abs(euler[:, 1]) <= math.pi / 2).all()
    assert (np.abs(euler) <= math.pi).all()


@pytest.mark.parametrize("pole", [math.pi / 2, -math.pi / 2])
@pytest.mark.parametrize("off", [0.0, 1e-16, 1e-12, 3e-8, 9e-8, 1e-6])
def test_at_the_poles_the_rotation_is_kept_without_a_warning(pole: float, off: float) -> None:
    angles = np.array([1.1, pole - math.copysign(off, pole), -2.2])
    matrix = to_matrix(angles, "euler_xyz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert angle_between(to_matrix(from_matrix(matrix, "euler_xyz"), "euler_xyz"), matrix) < 1e-14


def test_rows_are_the_columns_of_the_inverse() -> None:
    matrices = turns((50,), np.random.default_rng(3))
    rows = from_matrix(matrices, "rot6d_rows")
    assert np.allclose(rows, from_matrix(matrices.transpose(0, 2, 1), "rot6d_columns"), atol=1e-15)
    assert np.allclose(to_matrix(rows, "rot6d_columns"), matrices.transpose(0, 2, 1), atol=1e-12)


def test_a_rot6d_out_of_a_network_becomes_a_rotation_that_keeps_its_first_direction() -> None:
    values = np.random.default_rng(5).normal(size=(200, 6)) * 3
    matrices = to_matrix(values, "rot6d_columns")
    assert np.allclose(matrices.transpose(0, 2, 1) @ matrices, np.eye(3), atol=1e-14)
    assert np.allclose(matrices[:, :, 0], values[:, :3] / np.linalg.norm(values[:, :3], axis=1, keepdims=True))
    assert (np.sum(matrices[:, :, 1] * values[:, 3:], axis=1) > 0).all()


def test_a_rounded_matrix_becomes_the_nearest_rotation() -> None:
    exact = turns((100,), np.random.default_rng(7))
    rounded = np.round(exact, 4).reshape(100, 9)
    matrices = to_matrix(rounded, "matrix")
    assert np.allclose(matrices.transpose(0, 2, 1) @ matrices, np.eye(3), atol=1e-14)
    assert angle_between(matrices, exact).max() < 2e-4


@pytest.mark.parametrize(
    ("kind", "row", "why"),
    [
        ("quaternion_xyzw", [0, 0, 0, 0], "has no length"),
        ("rot6d_columns", [0, 0, 0, 0, 1, 0], "span no plane"),
        ("rot6d_columns", [1, 0, 0, 2, 0, 0], "span no plane"),
        ("rot6d_rows", [1, 2, 3, -1, -2, -3], "span no plane"),
        ("matrix", [2, 0, 0, 0, 1, 0, 0, 0, 1], "not orthonormal"),
        ("matrix", [1, 0, 0, 0, 1, 0, 0, 0, -1], "mirrors"),
        ("euler_xyz", [0, math.nan, 0], "not every number is finite"),
        ("axis_angle", [0, math.inf, 0], "not every number is finite"),
    ],
)
def test_what_is_no_rotation_is_refused_by_its_row(kind: RotationKind, row: list[float], why: str) -> None:
    values = from_matrix(np.broadcast_to(np.eye(3), (2, 4, 3, 3)), kind).copy()
    values[1, 2] = row
    with pytest.raises(LayoutError, match=why) as caught:
        to_matrix(values, kind)
    assert caught.value.where == "row 1, 2"
    assert caught.value.hint


def test_a_wrong_width_is_refused() -> None:
    with pytest.raises(LayoutError, match="quaternion_xyzw takes 4 numbers"):
        to_matrix(np.zeros((5, 3)), "quaternion_xyzw")
    with pytest.raises(LayoutError, match=r"are not \[\.\.\., 3, 3\]"):
        from_matrix(np.zeros((5, 9)), "euler_xyz")
    with pytest.raises(LayoutError, match="mirrors"):
        from_matrix(-np.eye(3), "euler_xyz")


@pytest.mark.parametrize("kind", ALL)
def test_nothing_and_single_rows(kind: RotationKind) -> None:
    assert to_matrix(np.zeros((0, 5, WIDTHS[kind])), kind).shape == (0, 5, 3, 3)
    assert from_matrix(np.zeros((0, 3, 3)), kind).shape == (0, WIDTHS[kind])
    assert np.allclose(to_matrix(from_matrix(np.eye(3), kind), kind), np.eye(3), atol=1e-15)


@given(angle=st.floats(0, 3.1), seed=seeds)
def test_angle_between(angle: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    first = turns((), random)
    axis = random.normal(size=3)
    turned = first @ Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix()
    assert abs(float(angle_between(first, turned)) - angle) < 1e-13


@given(seed=seeds)
def test_no_rotation_is_nearer_to_a_matrix_than_the_nearest(seed: int) -> None:
    random = np.random.default_rng(seed)
    given_matrices = random.normal(size=(20, 9))
    nearest = nearest_matrices(given_matrices)
    found = to_matrix(nearest, "matrix")
    assert np.allclose(np.linalg.det(found), 1, atol=1e-12)
    distance = np.linalg.norm(given_matrices - nearest, axis=1)
    for other in turns((50, 20), random).reshape(50, 20, 9):
        assert (np.linalg.norm(given_matrices - other, axis=1) >= distance - 1e-12).all()
    assert np.allclose(nearest_matrices(nearest), nearest, atol=1e-12)


@pytest.mark.parametrize("row", [np.zeros(9), np.full(9, np.nan), np.ones(9)])
def test_where_no_rotation_is_nearest_the_row_is_named(row: np.ndarray) -> None:
    with pytest.raises(LayoutError, match=r"row 1: .*is n"):
        nearest_matrices(np.stack([np.eye(3).reshape(9), row]))
    with pytest.raises(LayoutError, match="takes 9 numbers"):
        nearest_matrices(row[:8])
