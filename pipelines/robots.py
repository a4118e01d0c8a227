"""Bodies of the simulated robots: their kinematics there and back, and the bars they are drawn with. No motion, no file."""

from typing import NamedTuple, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from pipelines.picture import Bar, Lens, look_at

_STEEL, _DARK, _ORANGE, _BLUE = (150, 154, 160), (52, 54, 60), (222, 118, 38), (66, 110, 160)
_FINGER_M, _OPEN_M = 0.055, 0.036


class Pose(NamedTuple):
    """Where the point between the finger tips is, in metres, and the turn of the fingers about the vertical, in rad."""

    x: float
    y: float
    z: float
    yaw: float


class Body(Protocol):
    """The mechanics of a robot with J joints and one gripper."""

    @property
    def home(self) -> Pose:
        """Where the tool waits."""
        ...

    @property
    def noise(self) -> tuple[float, ...]:
        """Standard deviation of each joint's sensor, in the joint's unit."""
        ...

    def solve(self, poses: np.ndarray) -> np.ndarray:
        """Joints [T, J] that bring the tool to ``poses`` [T, 4]."""
        ...

    def tool(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tool point [3] and axes [3, 3] (columns: along the fingers, across them, the third) at ``joints`` [J]."""
        ...

    def command(self, joints: np.ndarray) -> np.ndarray:
        """What is sent to follow ``joints`` [T, J]."""
        ...

    def follow(self, start: np.ndarray, commands: np.ndarray) -> np.ndarray:
        """The joints [T, J] that ``commands`` ask for; inverse of ``command``."""
        ...

    def gripper(self, closure: np.ndarray) -> np.ndarray:
        """The gripper's number for a closure between 0 (open) and 1; its own inverse."""
        ...

    def bars(self, joints: np.ndarray, closure: float) -> tuple[list[Bar], tuple[np.ndarray, np.ndarray]]:
        """The parts to draw, the two fingers last, and what ``tool`` returns."""
        ...

    def standing_lens(self, width_px: int, height_px: int) -> Lens:
        """The camera that stands beside the robot."""
        ...


class Arm:
    """Six turning joints: base, shoulder, elbow, forearm roll, wrist, hand roll (rad). The gripper counts 0 open, 1 closed."""

    home = Pose(0.28, 0.0, 0.20, 0.0)
    noise = (5e-4,) * 6
    _shoulder_m, _upper_m, _lower_m, _hand_m = 0.20, 0.30, 0.28, 0.14

    def solve(self, poses: np.ndarray) -> np.ndarray:
        """Joints [T, 6] with the hand pointing down and the elbow up; poses out of reach are stretched towards."""
        x, y, z, yaw = poses.T
        base = np.arctan2(y, x)
        reach, height = np.hypot(x, y), z + self._hand_m - self._shoulder_m
        product = 2 * self._upper_m * self._lower_m
        bend = np.arccos(np.clip((reach**2 + height**2 - self._upper_m**2 - self._lower_m**2) / product, -1, 1))
        lift = np.arctan2(self._lower_m * np.sin(bend), self._upper_m + self._lower_m * np.cos(bend))
        shoulder = np.arctan2(height, reach) + lift
        # a slow roll of the forearm, small enough to keep the hand in place, so that no joint stands still throughout
        roll = 0.03 * np.sin(np.linspace(0, 2 * np.pi, len(poses)))
        return np.column_stack([base, shoulder, -bend, roll, bend - shoulder - np.pi / 2, base - yaw])

    def tool(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tool point [3] and axes [3, 3]."""
        points, axes = self._chain(joints)
        return points[-1], axes

    def command(self, joints: np.ndarray) -> np.ndarray:
        """The joints themselves: absolute position control."""
        return joints

    def follow(self, start: np.ndarray, commands: np.ndarray) -> np.ndarray:  # noqa: ARG002 (absolute: no start needed)
        """The commands themselves."""
        return commands

    def gripper(self, closure: np.ndarray) -> np.ndarray:
        """The closure itself."""
        return closure

    def bars(self, joints: np.ndarray, closure: float) -> tuple[list[Bar], tuple[np.ndarray, np.ndarray]]:
        """Pedestal, upper arm, forearm, hand, fingers."""
        points, axes = self._chain(joints)
        base, shoulder, elbow, wrist, tip = points
        palm = tip - _FINGER_M * axes[:, 0]
        bars = [
            Bar(base, shoulder, 0.10, _DARK),
            Bar(shoulder, elbow, 0.062, _ORANGE, _DARK),
            Bar(elbow, wrist, 0.05, _ORANGE, _DARK),
            Bar(wrist, palm, 0.04, _STEEL, _DARK),
            *_fingers(tip, axes, closure),
        ]
        return bars, (tip, axes)

    def standing_lens(self, width_px: int, height_px: int) -> Lens:
        """In front of the robot, to its left, above the table."""
        position = np.array([1.05, 0.52, 0.62])
        axes = look_at(position, np.array([0.26, 0.0, 0.19]), np.array([0.0, 0.0, 1.0]))
        return Lens(position, axes, 0.95, width_px, height_px)

    def _chain(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points [5, 3] from base to tool, and the axes of the hand."""
        base, shoulder, elbow, roll, wrist, hand = joints
        upper = Rotation.from_euler("ZY", [base, -shoulder])
        lower = upper * Rotation.from_euler("Y", -elbow)
        held = lower * Rotation.from_euler("XYX", [roll, -wrist, hand])
        origin = np.array([0, 0, self._shoulder_m])
        bend = origin + upper.apply([self._upper_m, 0, 0])
        end = bend + lower.apply([self._lower_m, 0, 0])
        return np.stack([np.zeros(3), origin, bend, end, end + held.apply([self._hand_m, 0, 0])]), held.as_matrix()


class Gantry:
    """Three sliding axes (m) and a turn about the vertical (rad). The gripper counts 1 open, 0 closed."""

    home = Pose(0.30, 0.0, 0.18, 0.0)
    noise = (3e-4, 3e-4, 3e-4, 1e-3)
    _beam_m = 0.36

    def solve(self, poses: np.ndarray) -> np.ndarray:
        """The poses themselves: the axes are those of the world."""
        return poses

    def tool(self, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tool point [3] and axes [3, 3]; the fingers point down."""
        cosine, sine = np.cos(joints[3]), np.sin(joints[3])
        axes = np.array([[0.0, -sine, cosine], [0.0, cosine, sine], [-1.0, 0.0, 0.0]])
        return joints[:3], axes

    def command(self, joints: np.ndarray) -> np.ndarray:
        """How far to go from each step's joints to the next; the last step stays."""
        return np.diff(joints, axis=0, append=joints[-1:])

    def follow(self, start: np.ndarray, commands: np.ndarray) -> np.ndarray:
        """The sum of the displacements so far, that of the step included."""
        reached: np.ndarray = start + np.cumsum(commands, axis=0)
        return reached

    def gripper(self, closure: np.ndarray) -> np.ndarray:
        """How open it is."""
        return 1 - closure

    def bars(self, joints: np.ndarray, closure: float) -> tuple[list[Bar], tuple[np.ndarray, np.ndarray]]:
        """Rails, beam, column, fingers."""
        tip, axes = self.tool(joints)
        palm = tip - _FINGER_M * axes[:, 0]
        x, y, top = tip[0], tip[1], self._beam_m
        rails = [Bar(np.array([0.08, side, top]), np.array([0.58, side, top]), 0.03, _DARK) for side in (-0.34, 0.34)]
        bars = [
            *rails,
            Bar(np.array([x, -0.34, top]), np.array([x, 0.34, top]), 0.035, _STEEL),
            Bar(np.array([x, y, top + 0.05]), palm, 0.04, _BLUE, _DARK),
            *_fingers(tip, axes, closure),
        ]
        return bars, (tip, axes)

    def standing_lens(self, width_px: int, height_px: int) -> Lens:
        """In front of the table, to its right."""
        position = np.array([1.15, -0.35, 0.66])
        axes = look_at(position, np.array([0.32, 0.0, 0.12]), np.array([0.0, 0.0, 1.0]))
        return Lens(position, axes, 1.05, width_px, height_px)


def _fingers(tip: np.ndarray, axes: np.ndarray, closure: float) -> list[Bar]:
    """Palm and two fingers, apart by how open the gripper is."""
    along, across = axes[:, 0], axes[:, 1]
    apart = (_OPEN_M * (1 - closure) + 0.018 * closure) * across
    palm = tip - _FINGER_M * along
    spread = (_OPEN_M + 0.006) * across
    return [
        Bar(palm - spread, palm + spread, 0.016, _DARK),
        Bar(palm - apart, tip - apart, 0.014, _DARK),
        Bar(palm + apart, tip + apart, 0.014, _DARK),
    ]
