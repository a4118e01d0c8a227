"""The cameras of a raw DROID recording: which serial is which, when their frames were taken, where they stood.

Works on what was read from ``trajectory.h5`` and the metadata; opens nothing.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from schemas.episode import Calibration, Scalar
from schemas.findings import Finding, Severity

ROLES = ("wrist", "ext1", "ext2")
TYPES = "observation/camera_type/"
STAMPS = "observation/timestamp/cameras/"
EXTRINSICS = "observation/camera_extrinsics/"
INTRINSICS = "observation/camera_intrinsics/"
CLOCKS = ("estimated_capture", "frame_received", "read_end")
"""Times of a frame, best first: when it was exposed (reckoned by the recorder), when it had arrived, when it was read."""
_SERIAL = re.compile(r"[0-9A-Za-z]{1,32}")
_HAND = 0
_FAR = 1e9
"""Metres or radians that are none; also of whole numbers that no float can hold."""
_MAX_SPAN_MS = 10**11
"""Three years: stamps further from the first step than that are no times of this recording."""
_EYES = {"left": "", "right": "_right"}


def is_serial(value: Any) -> TypeGuard[str]:
    """Whether it can be a camera's serial, and so part of a file's name."""
    return isinstance(value, str) and _SERIAL.fullmatch(value) is not None


def choose(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any], findings: list[Finding]) -> dict[str, str]:
    """Camera key (``wrist``, ``ext1``, ``ext2``, further ``ext3`` ...) to serial.

    The metadata say so; where they do not, ``camera_type`` does: 0 is the hand, and the others are numbered in the order
    of their serials, as in RLDS. Where both speak and disagree there is a finding.
    """
    named: dict[str, str] = {}
    for role in ROLES:
        serial = metadata.get(f"{role}_cam_serial")
        if is_serial(serial) and serial not in named.values():
            named[role] = serial
        elif serial not in (None, ""):
            message = f"{role}_cam_serial is {serial!r}, which is no serial of its own; not used"
            findings.append(Finding("bad_camera_serial", Severity.WARNING, role, message[:300]))
    types = {name.removeprefix(TYPES): values for name, values in arrays.items() if name.startswith(TYPES)}
    kinds = {serial: values for serial, values in types.items() if is_serial(serial) and are_stamps(values)}
    typed = _by_type({serial: int(values[0]) for serial, values in kinds.items()})
    for role, serial in sorted(named.items()):
        other = typed.get(role)
        if other is not None and other != serial:
            message = f"the metadata name {serial} as {role}, the camera types of trajectory.h5 {other}; metadata taken"
            findings.append(Finding("cameras_disagree", Severity.WARNING, role, message))
    return named | {
        role: serial for role, serial in typed.items() if role not in named and serial not in named.values()
    }


def _by_type(types: Mapping[str, int]) -> dict[str, str]:
    hands = sorted(serial for serial, kind in types.items() if kind == _HAND)
    standing = sorted(serial for serial, kind in types.items() if kind != _HAND)
    chosen = {f"ext{number}": serial for number, serial in enumerate(standing, 1)}
    return chosen | ({"wrist": hands[0]} if len(hands) == 1 else {})


def frame_clock(arrays: Mapping[str, np.ndarray], serial: str, origin_ms: int | None) -> tuple[str, np.ndarray | None]:
    """Which stamps give the frames of a camera their times, and these in ns on the episode's clock, int64 [T].

    ("step_start", None) where there is nothing usable: then a frame has the time of its row.
    """
    for clock in CLOCKS:
        stamps = arrays.get(f"{STAMPS}{serial}_{clock}")
        if stamps is not None and origin_ms is not None:
            times_ns = since(stamps, origin_ms)
            if times_ns is not None:
                return clock, times_ns
    return "step_start", None


def held_apart(times_ns: np.ndarray, steps_ns: np.ndarray) -> tuple[np.ndarray, int]:
    """``times_ns`` [T] of frames, those of a picture that was read again moved on with the steps; and how many these are.

    The recorder writes a frame for each row, and where the camera was slower it is the one before, under the same stamp.
    Moved, it stays before the next stamp. Times that run backwards, or never change, are left as they are.
    """
    steps = np.diff(times_ns)
    if not steps.any() or (steps < 0).any():
        return times_ns, 0
    first = np.concatenate([[0], np.flatnonzero(steps) + 1])
    run = np.repeat(np.arange(len(first)), np.diff([*first, len(times_ns)]))
    moved = times_ns + np.maximum(steps_ns - steps_ns[first[run]], np.arange(len(run)) - first[run])
    ends = np.append(first[1:], len(times_ns))[run]
    following = np.append(times_ns[first[1:]], np.iinfo(np.int64).max)[run]
    return np.minimum(moved, following - (ends - np.arange(len(run)))), len(times_ns) - len(first)


def are_stamps(values: np.ndarray) -> bool:
    """Whether it is one whole number for each row."""
    return values.dtype.kind in "iu" and values.ndim == 1 and len(values) > 0


def since(stamps_ms: np.ndarray, origin_ms: int) -> np.ndarray | None:
    """Unix milliseconds [T] as nanoseconds after ``origin_ms``, exactly; None where they are no times of this recording."""
    if not are_stamps(stamps_ms) or abs(origin_ms) >= 1 << 62:
        return None
    if any(abs(int(one) - origin_ms) > _MAX_SPAN_MS for one in (stamps_ms.min(), stamps_ms.max())):
        return None
    return (stamps_ms.astype(np.int64) - np.int64(origin_ms)) * 1_000_000


def thrifty(name: str, values: np.ndarray) -> np.ndarray:
    """``values`` [T, ...]; of a calibration that is the same on all rows, one row that is seen T times.

    A station has dozens of them, and a long recording would hold gigabytes of equal rows.
    """
    if name.startswith((EXTRINSICS, INTRINSICS)) and len(values) and (values == values[0]).all():
        return np.broadcast_to(values[0].copy(), values.shape)
    return values


def calibrations(
    arrays: dict[str, np.ndarray], metadata: Mapping[str, Any], cameras: Mapping[str, str]
) -> list[Calibration]:
    """What the recording says of its cameras; takes out of ``arrays`` what a calibration tells in full.

    The pose of the hand camera moves with the hand: that one stays an array with its clock, and the calibration is its
    constant pose in the gripper. Serials that are none of ``cameras`` (calibrated once at that station) keep their number.
    """
    keys = {serial: key for key, serial in cameras.items()}
    found: list[Calibration] = []
    for name in sorted(arrays):
        values = arrays[name]
        prefix = next((one for one in (EXTRINSICS, INTRINSICS) if name.startswith(one)), None)
        if prefix is None or not len(values) or not (values == values[0]).all():
            continue
        serial, _, rest = name.removeprefix(prefix).partition("_")
        eye, _, offset = rest.partition("_")
        if eye not in _EYES or offset not in ("", "gripper_offset"):
            continue
        camera = keys.get(serial, serial) + _EYES[eye]
        note = f"serial {serial}, {eye} eye; the same on all {len(values)} rows"
        if prefix == EXTRINSICS and values.shape[1:] == (6,):
            frame = "gripper" if offset else "base"
            found.append(_pose(camera, f"trajectory.h5/{name}", values[0].tolist(), frame, note))
        elif prefix == INTRINSICS and values.shape[1:] == (3, 3) and _is_plain(values[0]):
            (fx, _, cx), (_, fy, cy), _ = values[0].tolist()
            found.append(Calibration(camera, f"trajectory.h5/{name}", intrinsics=(fx, fy, cx, cy), note=note))
        else:
            continue
        del arrays[name]
    for role in ROLES:
        pose = metadata.get(f"{role}_cam_extrinsics")
        if _is_pose(pose):
            note = "left eye, at the first row" + (": it moves with the hand" if role == "wrist" else "")
            found.append(_pose(role, f"metadata/{role}_cam_extrinsics", pose, "base", note))
    return found


def _pose(camera: str, origin: str, pose: Sequence[float], frame: Any, note: str) -> Calibration:
    return Calibration(
        camera,
        origin,
        extrinsics=tuple(float(part) for part in pose),
        convention="xyz_euler_xyz",
        frame=frame,
        note=note,
    )


def _is_plain(matrix: np.ndarray) -> bool:
    """Whether four numbers say it all: nothing but focal lengths and centre."""
    rest = matrix.copy()
    rest[0, 0] = rest[0, 2] = rest[1, 1] = rest[1, 2] = 0
    return bool(matrix.dtype.kind == "f" and np.isfinite(matrix).all() and (rest == np.diag([0.0, 0.0, 1.0])).all())


def _is_pose(value: Any) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and len(value) == 6
        and all(isinstance(part, int | float) and abs(part) < _FAR for part in value)
    )


def velocity_scales(version: Any) -> dict[str, Scalar]:
    """What one step of the normalized velocity commands is worth with a recorder of that version; {} where not known.

    Source: the parameters of the recorder, droid/misc/version_control of droid-dataset/droid.
    """
    try:
        number = float(version)
    except (TypeError, ValueError):
        return {}
    if number < 1.0 or number >= 2.0:
        return {}
    old = number < 1.1
    return {
        "velocity_scale_linear_m": 0.125 if old else 0.075,
        "velocity_scale_rotation_rad": 0.15,
        "velocity_scale_joints_rad": "0.2075 x 4, 0.251 x 3" if old else "0.2 x 7",
        "velocity_scale_gripper": 0.25,
    }
