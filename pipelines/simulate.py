"""Two simulated robots that pick things up and put them down, so that everything can be tried without a recording.

``sample_arm`` is a six-joint arm commanded by absolute joint angles at 15 Hz, ``sample_gantry`` a gantry commanded by
small displacements at 20 Hz; their grippers count in opposite directions, as those of real data sets do. Equal seeds
give equal numbers and pixels, and an episode does not depend on how many others are made.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from pipelines.barcode import MAX_EPISODES, draw
from pipelines.picture import Lens, Room, Solid, background, paint
from pipelines.robots import Arm, Body, Gantry, Pose
from schemas.embodiment import ViewSlot
from schemas.time import TimeGrid


@dataclass(frozen=True, slots=True)
class SimulatedCamera:
    """A camera of a simulated robot, named by the view slot it fills."""

    slot: ViewSlot
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class SimulatedRobot:
    """A robot of the sample recordings: names of its vectors, its cameras, its control rate."""

    name: str
    control_rate: Fraction
    proprio_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: tuple[SimulatedCamera, ...]
    body: Body
    table_color: tuple[int, int, int]
    wall_color: tuple[int, int, int]
    number: int
    """Part of every seed and of the episode tag in the pixels."""

    def camera(self, slot: str) -> SimulatedCamera:
        """The camera that fills ``slot``; raises KeyError."""
        by_slot: dict[str, SimulatedCamera] = {camera.slot: camera for camera in self.cameras}
        return by_slot[slot]


_JOINTS = tuple(f"joint_{number}" for number in range(1, 7))

ROBOTS: tuple[SimulatedRobot, ...] = (
    SimulatedRobot(
        name="sample_arm",
        control_rate=Fraction(15),
        proprio_names=(*_JOINTS, "gripper"),
        action_names=(*_JOINTS, "gripper"),
        cameras=(SimulatedCamera("primary", 256, 192), SimulatedCamera("wrist_left", 192, 128)),
        body=Arm(),
        table_color=(196, 164, 124),
        wall_color=(170, 178, 186),
        number=0,
    ),
    SimulatedRobot(
        name="sample_gantry",
        control_rate=Fraction(20),
        proprio_names=("x", "y", "z", "yaw", "gripper"),
        action_names=("delta_x", "delta_y", "delta_z", "delta_yaw", "gripper"),
        cameras=(SimulatedCamera("primary", 256, 192),),
        body=Gantry(),
        table_color=(120, 132, 128),
        wall_color=(205, 200, 190),
        number=1,
    ),
)

_THINGS: tuple[tuple[str, str, tuple[int, int, int]], ...] = (
    ("red cube", "cube", (206, 52, 44)),
    ("green cube", "cube", (52, 152, 70)),
    ("blue ball", "ball", (48, 92, 204)),
    ("yellow can", "can", (232, 190, 40)),
)
_PLACES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("white plate", (238, 238, 232)),
    ("purple mat", (134, 84, 156)),
)
_SENTENCES = ("put the {thing} on the {place}", "pick up the {thing} and place it on the {place}")
_THING_M, _PLACE_M = 0.045, 0.13
_AREA_X, _AREA_Y = (0.25, 0.44), (-0.21, 0.21)
"""Metres: where things stand."""
_APART_M = 0.125
_ABOVE_M, _GRASP_M = 0.15, 0.022
_REACH_M = 0.03
"""A gripper that closes with a thing within this distance of its tip, seen from above, holds it."""
_MISS_EVERY, _MISS_M = 3, 0.07
"""Every third episode reaches this far beside the thing and fails: data without failures is not like real data."""
_RESPONSE, _GRIPPER_RESPONSE = 0.55, 0.4
"""Share of the way to the command that a joint goes within one step."""


@dataclass(frozen=True, slots=True)
class _World:
    """Where everything was at each step: joints [T, J], closure [T], the solids and their paths [T, n, 3]."""

    joints: np.ndarray
    closure: np.ndarray
    solids: tuple[Solid, ...]
    paths: np.ndarray
    room: Room


@dataclass(frozen=True, slots=True)
class SimulatedEpisode:
    """One simulated recording. ``proprio`` [T, P] is measured before ``action`` [T, A] is sent, both float32.

    To make a flawed recording for a test, use ``dataclasses.replace``: other numbers in ``action`` or ``proprio``,
    or other ``frame_numbers``.
    """

    robot: SimulatedRobot
    seed: int
    index: int
    times_ns: np.ndarray
    """int64 [T], the first step at 0."""
    action: np.ndarray
    proprio: np.ndarray
    instruction: str
    success: bool
    frame_numbers: np.ndarray
    """int64 [F]: which instants the cameras show; 0 .. T-1 unless a test leaves some out or repeats them."""
    world: _World = field(repr=False)

    @property
    def num_steps(self) -> int:
        """Rows of the action."""
        return len(self.action)

    @property
    def tag(self) -> int:
        """The episode tag in the pixels of its frames: different for the first 128 episodes of each robot."""
        half = MAX_EPISODES // 2
        return self.robot.number * half + self.index % half

    def frames(self, slot: str) -> Iterator[np.ndarray]:
        """uint8 RGB [H, W, 3] of each frame in turn, every one carrying its number and ``tag`` (see ``barcode``).

        Raises KeyError for a slot the robot does not fill.
        """
        camera = self.robot.camera(slot)
        body, world = self.robot.body, self.world
        standing = body.standing_lens(camera.width_px, camera.height_px) if slot == "primary" else None
        empty = None if standing is None else background(world.room, standing)
        for number in self.frame_numbers.tolist():
            bars, tool = body.bars(world.joints[number], float(world.closure[number]))
            lens = standing or _hand_lens(tool, camera)
            solids = [
                Solid(solid.shape, solid.color, center, solid.size_m)
                for solid, center in zip(world.solids, world.paths[number], strict=True)
            ]
            shown = bars if standing else bars[-2:]  # from the hand only its own fingers are seen
            yield draw(paint(world.room, lens, solids, shown, empty), number, self.tag)


def simulate(robot: SimulatedRobot, seed: int, index: int) -> SimulatedEpisode:
    """Episode ``index`` of ``robot`` under ``seed``: it follows its instruction, and fails if ``index % 3 == 2``."""
    draws = np.random.default_rng([seed, robot.number, index])
    thing, place, sentence = _choose(robot, seed, index)
    solids = _scene(draws)
    start, goal = solids[thing].center, solids[len(_THINGS) + place].center
    fails = index % _MISS_EVERY == _MISS_EVERY - 1
    poses, closures = _plan(robot, draws, start, goal, fails)
    action, joints, closure = _drive(robot, poses, closures)
    paths, held_to = _carry(robot.body, joints, closure, solids, thing)
    noise = draws.normal(0, robot.body.noise, joints.shape)
    gripper = np.clip(closure + draws.normal(0, 0.002, len(closure)), 0, 1)
    proprio = np.column_stack([joints + noise, robot.body.gripper(gripper)]).astype(np.float32)
    room = Room((0.05, 0.62, -0.38, 0.38), robot.table_color, robot.wall_color, int(draws.integers(2**31)))
    return SimulatedEpisode(
        robot=robot,
        seed=seed,
        index=index,
        times_ns=TimeGrid(0, robot.control_rate, len(action)).times_ns(),
        action=action,
        proprio=proprio,
        instruction=sentence,
        success=bool(np.linalg.norm(held_to[:2] - goal[:2]) < _PLACE_M / 2),
        frame_numbers=np.arange(len(action), dtype=np.int64),
        world=_World(joints, closure, solids, paths, room),
    )


def _choose(robot: SimulatedRobot, seed: int, index: int) -> tuple[int, int, str]:
    """Thing, place and instruction; neighbouring episodes differ."""
    pairs = [(thing, place) for thing in range(len(_THINGS)) for place in range(len(_PLACES))]
    order = np.random.default_rng([seed, robot.number]).permutation(len(pairs))
    thing, place = pairs[int(order[index % len(pairs)])]
    sentence = _SENTENCES[index % len(_SENTENCES)]
    return thing, place, sentence.format(thing=_THINGS[thing][0], place=_PLACES[place][0])


def _scene(draws: np.random.Generator) -> tuple[Solid, ...]:
    """Things and places, none on top of another."""
    spots: list[np.ndarray] = []
    while len(spots) < len(_THINGS) + len(_PLACES):
        spot = np.array([draws.uniform(*_AREA_X), draws.uniform(*_AREA_Y)])
        if all(np.linalg.norm(spot - other) > _APART_M for other in spots):
            spots.append(spot)
        elif draws.random() < 0.01:
            spots.clear()  # now and then the first spots leave no room for the rest
    things = [
        Solid(shape, color, np.array([*spot, _THING_M / 2]), _THING_M)
        for (_, shape, color), spot in zip(_THINGS, spots, strict=False)
    ]
    places = [
        Solid("disc", color, np.array([*spot, 0.002]), _PLACE_M)
        for (_, color), spot in zip(_PLACES, spots[len(_THINGS) :], strict=True)
    ]
    return (*things, *places)


def _plan(
    robot: SimulatedRobot, draws: np.random.Generator, start: np.ndarray, goal: np.ndarray, fails: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Wanted tool poses [T, 4] (x, y, z, yaw) and gripper closures [T], through minimum-jerk moves and pauses."""
    grasp_yaw, place_yaw = draws.uniform(-0.6, 0.6, 2)
    beside = draws.uniform(0, 2 * np.pi)
    grasp = start[:2] + (_MISS_M * np.array([np.cos(beside), np.sin(beside)]) if fails else draws.normal(0, 0.004, 2))
    put = goal[:2] + draws.normal(0, 0.01, 2)
    home = robot.body.home
    above_start, above_goal = Pose(grasp[0], grasp[1], _ABOVE_M, grasp_yaw), Pose(put[0], put[1], _ABOVE_M, place_yaw)
    at_start, at_goal = Pose(grasp[0], grasp[1], _GRASP_M, grasp_yaw), Pose(put[0], put[1], _GRASP_M + 0.008, place_yaw)
    pace = draws.uniform(0.85, 1.15)
    moves = (  # where to, how closed, seconds
        (home, 0.0, draws.uniform(0.4, 0.9) / pace),  # idle before the operator begins
        (above_start, 0.0, 1.2),
        (at_start, 0.0, 0.7),
        (at_start, 1.0, 0.45),
        (above_start, 1.0, 0.7),
        (above_goal, 1.0, 1.1),
        (at_goal, 1.0, 0.7),
        (at_goal, 0.0, 0.4),
        (above_goal, 0.0, 0.6),
        (home, 0.0, draws.uniform(0.8, 1.1)),
        (home, 0.0, draws.uniform(0.5, 1.0) / pace),  # idle until the recording is stopped
    )
    poses, closures = [np.array(home)], [0.0]
    for target, closed, seconds in moves:
        num_steps = max(2, round(float(robot.control_rate) * seconds * pace))
        share = np.arange(1, num_steps + 1) / num_steps
        # Flash and Hogan, The coordination of arm movements, J. Neurosci. 5(7), 1985
        eased = share**3 * (10 - 15 * share + 6 * share**2)
        origin, before = poses[-1], closures[-1]
        poses += list(origin + eased[:, None] * (np.array(target) - origin))
        closures += list(before + np.minimum(1, share * 2) * (closed - before))
    return np.array(poses), np.array(closures)


def _drive(robot: SimulatedRobot, poses: np.ndarray, closures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions float32 [T, A], and the joints [T, J] and closure [T] of a robot that follows them with a lag."""
    body = robot.body
    wanted = body.solve(poses)
    action = np.column_stack([body.command(wanted), body.gripper(closures)]).astype(np.float32)
    targets = body.follow(wanted[0], action[:, :-1].astype(np.float64))
    closing = body.gripper(action[:, -1].astype(np.float64))
    joints, closure = np.empty_like(targets), np.empty_like(closing)
    joints[0], closure[0] = wanted[0], 0.0
    for step in range(1, len(action)):
        joints[step] = joints[step - 1] + _RESPONSE * (targets[step - 1] - joints[step - 1])
        closure[step] = closure[step - 1] + _GRIPPER_RESPONSE * (closing[step - 1] - closure[step - 1])
    return action, joints, closure


def _carry(
    body: Body, joints: np.ndarray, closure: np.ndarray, solids: tuple[Solid, ...], thing: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centers [T, n, 3] of all solids, and where the thing came to rest: it moves only while it is held."""
    paths = np.repeat(np.array([solid.center for solid in solids])[None], len(joints), axis=0)
    tips = np.array([body.tool(row)[0] for row in joints])
    center, offset = solids[thing].center, None
    for step, tip in enumerate(tips):
        near = np.linalg.norm(tip[:2] - center[:2]) < _REACH_M and tip[2] < _THING_M
        if offset is None and closure[step] > 0.7 and near:
            offset = center - tip
        elif offset is not None and closure[step] < 0.5:
            center, offset = np.array([*center[:2], _THING_M / 2]), None
        if offset is not None:
            center = tip + offset
        paths[step, thing] = center
    return paths, center


def _hand_lens(tool: tuple[np.ndarray, np.ndarray], camera: SimulatedCamera) -> Lens:
    """A camera a hand's breadth above the finger tips that looks along the fingers."""
    tip, axes = tool
    forward, across = axes[:, 0], axes[:, 1]
    position = tip - 0.13 * forward - 0.035 * np.cross(forward, across)
    return Lens(
        position, np.stack([across, np.cross(forward, across), forward]), 0.62, camera.width_px, camera.height_px
    )
