"""Rotations between every way of writing them that trainers use; all go through matrices, in float64.

Kinds: ``euler_xyz`` are angles about the fixed axes x, y, z in that order, R = Rz(c) Ry(b) Rx(a), as DROID and scipy's
lower-case "xyz" have them. ``quaternion_xyzw`` has its real part last. ``axis_angle`` is the axis times the angle.
``rot6d_columns`` are the first two columns of the matrix one after the other (Zhou et al. 2019, arXiv 1812.07035; RDT's
docs/test_6drot.py; Cosmos's pose_utils). ``rot6d_rows`` are the first two rows (pytorch3d's matrix_to_rotation_6d; UMI's
pose_util): the columns of the inverse rotation, so the two must never be taken for each other. ``matrix`` is row by row.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from pipelines.resample import MIN_QUATERNION_NORM
from schemas.errors import LayoutError
from schemas.slot_layout import RotationKind

WIDTHS: dict[RotationKind, int] = {
    "euler_xyz": 3,
    "quaternion_xyzw": 4,
    "axis_angle": 3,
    "rot6d_columns": 6,
    "rot6d_rows": 6,
    "matrix": 9,
}
"""Numbers that each kind takes."""

ORTHONORMAL_TOLERANCE = 1e-3
"""How far M^T M may lie from 1 in a matrix that counts as a rotation: values rounded to four decimals pass."""
MIN_SINE = 1e-6
"""Of the angle between the two vectors of a rot6d; below, they span no plane."""


def to_matrix(values: np.ndarray, kind: RotationKind) -> np.ndarray:
    """Rotation matrices float64 [..., 3, 3] of ``values`` [..., w]; angles in radians.

    Quaternions are normalized, rot6d is made orthonormal by Gram-Schmidt, a matrix becomes the rotation nearest to it.
    Raises LayoutError that names the row where a value is not finite or is no rotation: a quaternion without length, a
    rot6d without a plane, a matrix that is not orthonormal or mirrors.
    """
    given = np.asarray(values, dtype=np.float64)
    if not given.ndim or given.shape[-1] != WIDTHS[kind]:
        raise LayoutError(
            f"{kind} takes {WIDTHS[kind]} numbers, not values of shape {given.shape}", hint="name its kind"
        )
    shape = given.shape[:-1]
    _refuse(np.asarray(~np.isfinite(given).all(axis=-1)), given, f"is no {kind}: not every number is finite")
    rows = given.reshape(-1, WIDTHS[kind])
    if not len(rows):
        return np.zeros((*shape, 3, 3))
    return _READERS[kind](rows, shape).reshape(*shape, 3, 3)


def from_matrix(matrices: np.ndarray, kind: RotationKind) -> np.ndarray:
    """float64 [..., w]: ``matrices`` [..., 3, 3] as ``kind``; angles in radians.

    Of several names of one rotation this gives: the quaternion with w >= 0; the axis-angle of length at most pi; Euler
    angles with the middle one in [-pi/2, pi/2] and the others in [-pi, pi], where at the poles, whose outer angles are
    only known together, any pair that gives the rotation is right. Raises LayoutError as ``to_matrix``.
    """
    given = np.asarray(matrices, dtype=np.float64)
    if given.ndim < 2 or given.shape[-2:] != (3, 3):
        raise LayoutError(f"matrices of shape {given.shape} are not [..., 3, 3]", hint="use to_matrix first")
    shape = given.shape[:-2]
    exact = to_matrix(given.reshape(*shape, 9), "matrix").reshape(-1, 3, 3)
    return _WRITERS[kind](exact).reshape(*shape, WIDTHS[kind])


def nearest_matrices(values: np.ndarray) -> np.ndarray:
    """float64 [..., 9]: the rotations nearest to ``values`` [..., 9], of the kind ``matrix``, however far they are.

    For what a model or a tokenizer gave back, which is never quite a rotation. Raises LayoutError that names the row where
    a value is not finite, or no rotation is nearest.
    """
    given = np.asarray(values, dtype=np.float64)
    if not given.ndim or given.shape[-1] != 9:
        raise LayoutError(f"a matrix takes 9 numbers, not values of shape {given.shape}", hint="name its kind")
    _refuse(np.asarray(~np.isfinite(given).all(axis=-1)), given, "is no matrix: not every number is finite")
    left, sizes, right = np.linalg.svd(given.reshape(*given.shape[:-1], 3, 3))
    _refuse(sizes[..., 1] <= MIN_SINE * np.maximum(sizes[..., 0], MIN_SINE), given, "is near no single rotation")
    mirrors = np.linalg.det(left @ right) < 0
    left[..., 2] *= np.where(mirrors, -1.0, 1.0)[..., None]
    return np.asarray(left @ right).reshape(given.shape)


def convert(values: np.ndarray, given: RotationKind, wanted: RotationKind) -> np.ndarray:
    """float64 [..., w']: the rotations ``values`` [..., w] of kind ``given`` as ``wanted``. Raises LayoutError."""
    return from_matrix(to_matrix(values, given), wanted)


def angle_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angle in radians [...] of the rotation between two matrices [..., 3, 3]; exact for small angles.

    From the Frobenius norm of the difference, 2 sqrt(2) sin(angle / 2), since the arc cosine of a trace loses half of the
    digits where rotations are nearly equal.
    """
    distance = np.linalg.norm(np.asarray(first) - np.asarray(second), axis=(-2, -1))
    return np.asarray(2 * np.arcsin(np.clip(distance / np.sqrt(8), 0, 1)))


def _refuse(bad: np.ndarray, given: np.ndarray, why: str) -> None:
    """Raises LayoutError for the first row [...] of ``given`` [..., w] that is ``bad``."""
    if not bad.any():
        return
    row = tuple(int(index) for index in np.argwhere(bad)[0])
    numbers = ", ".join(f"{number:g}" for number in given[row])
    raise LayoutError(
        f"({numbers}) {why}", f"row {', '.join(map(str, row)) or 0}", "check the card's channel order, or mask the step"
    )


def _read_euler(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    del shape
    return np.asarray(Rotation.from_euler("xyz", rows).as_matrix())


def _read_quaternion(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    short = np.linalg.norm(rows, axis=1) < MIN_QUATERNION_NORM
    _refuse(short.reshape(shape), rows.reshape(*shape, 4), "is no quaternion of a rotation: it has no length")
    return np.asarray(Rotation.from_quat(rows).as_matrix())


def _read_axis_angle(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    del shape
    return np.asarray(Rotation.from_rotvec(rows).as_matrix())


def _read_columns(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Gram-Schmidt, section B of Zhou et al.: the first keeps its direction, the second its half plane."""
    one, two = rows[:, :3], rows[:, 3:]
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1)
    third = np.cross(one, two)
    flat = np.linalg.norm(third, axis=1) <= MIN_SINE * lengths[0] * lengths[1]
    _refuse(flat.reshape(shape), rows.reshape(*shape, 6), "is no rot6d: its two vectors span no plane")
    x = one / lengths[0][:, None]
    z = third / np.linalg.norm(third, axis=1)[:, None]
    return np.stack([x, np.cross(z, x), z], axis=2)


def _read_rows(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return _read_columns(rows, shape).transpose(0, 2, 1)


def _read_matrix(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    matrices = rows.reshape(-1, 3, 3)
    skew = np.abs(matrices.transpose(0, 2, 1) @ matrices - np.eye(3)).max(axis=(1, 2)) > ORTHONORMAL_TOLERANCE
    _refuse(skew.reshape(shape), rows.reshape(*shape, 9), "is no rotation: its columns are not orthonormal")
    mirrors = np.linalg.det(matrices) < 0
    _refuse(mirrors.reshape(shape), rows.reshape(*shape, 9), "is no rotation but mirrors")
    left, _, right = np.linalg.svd(matrices)
    return np.asarray(left @ right)


def _write_euler(matrices: np.ndarray) -> np.ndarray:
    """The outer angles from what is left when the last one is undone, which holds at the poles too.

    scipy gives up the third angle within 1e-7 rad of a pole, and with it as much of the rotation.
    """
    m = matrices.transpose(1, 2, 0)
    last = np.arctan2(m[1, 0], m[0, 0])
    sine, cosine = np.sin(last), np.cos(last)
    middle = np.arctan2(-m[2, 0], cosine * m[0, 0] + sine * m[1, 0])
    first = np.arctan2(sine * m[0, 2] - cosine * m[1, 2], cosine * m[1, 1] - sine * m[0, 1])
    return np.stack([first, middle, last], axis=1)


def _write_quaternion(matrices: np.ndarray) -> np.ndarray:
    return np.asarray(Rotation.from_matrix(matrices).as_quat(canonical=True))


def _write_axis_angle(matrices: np.ndarray) -> np.ndarray:
    return np.asarray(Rotation.from_matrix(matrices).as_rotvec())


def _write_columns(matrices: np.ndarray) -> np.ndarray:
    return matrices[:, :, :2].transpose(0, 2, 1)


def _write_rows(matrices: np.ndarray) -> np.ndarray:
    return matrices[:, :2]


def _write_matrix(matrices: np.ndarray) -> np.ndarray:
    return matrices


_READERS: dict[RotationKind, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "euler_xyz": _read_euler,
    "quaternion_xyzw": _read_quaternion,
    "axis_angle": _read_axis_angle,
    "rot6d_columns": _read_columns,
    "rot6d_rows": _read_rows,
    "matrix": _read_matrix,
}
"""Of rows [M, w] that are finite, with the shape [...] the caller knows them by, to matrices [M, 3, 3]."""
_WRITERS: dict[RotationKind, Callable[[np.ndarray], np.ndarray]] = {
    "euler_xyz": _write_euler,
    "quaternion_xyzw": _write_quaternion,
    "axis_angle": _write_axis_angle,
    "rot6d_columns": _write_columns,
    "rot6d_rows": _write_rows,
    "matrix": _write_matrix,
}
"""Of exact matrices [M, 3, 3] to rows [M, ...]."""
