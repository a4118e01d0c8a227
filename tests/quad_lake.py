"""A simulated arm with four cameras whose frames carry their own number, as a lake: for tests of canvases and clips."""

from dataclasses import replace
from pathlib import Path

from pipelines import registry
from pipelines.simulate import ROBOTS, SimulatedCamera, simulate
from schemas.embodiment import ViewSlot
from tests.chain import run_ingest

SLOTS: tuple[ViewSlot, ...] = ("primary", "secondary", "wrist_left", "wrist_right")
NUM_STEPS = 26
RATE = 15
CARD = """
name = "quad_set"
version = 1
title = "Four cameras"
source = "lerobot"
embodiment = "quad"
license = "CC0-1.0"
success_field = "next.success"
[[proprio]]
field = "observation.state"
[[action]]
field = "action"
[views]
"""


def quad_lake(folder: Path, slots: tuple[ViewSlot, ...] = SLOTS, num_steps: int = NUM_STEPS) -> Path:
    """Writes one recording of ``num_steps`` with cameras in ``slots`` into ``folder``, and returns the lake."""
    cameras = tuple(SimulatedCamera(slot, 256, 192) for slot in slots)
    whole = simulate(replace(ROBOTS[0], name="quad", cameras=cameras), 0, 0)
    rows = slice(0, num_steps)
    episode = replace(
        whole,
        times_ns=whole.times_ns[rows],
        action=whole.action[rows],
        proprio=whole.proprio[rows],
        frame_numbers=whole.frame_numbers[rows],
    )
    (folder / "quad").mkdir(parents=True)
    registry.load("layouts", "lerobot_v3").write([episode], folder / "quad")
    robot = (Path(__file__).parents[1] / "schemas/cards/embodiments/sample_arm.toml").read_text()
    robot = robot.replace('"sample_arm"', '"quad"').replace('["primary", "wrist_left"]', str(list(slots)))
    (folder / "quad.toml").write_text(robot.replace("'", '"'))
    views = "".join(f'"observation.images.{slot}" = "{slot}"\n' for slot in slots)
    (folder / "card.toml").write_text(CARD + views)
    answer = run_ingest([folder / "quad"], folder / "lake", card=folder / "card.toml")
    assert answer.values["kept"] == 1, answer.values
    return folder / "lake"
