"""A recording with a gap, a rest and two instructions, as a lake: for tests of what must not cross them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.chain import run_ingest
from tests.recorded import write_lerobot

NUM_STEPS, GAP, REST, SECOND_TASK = 30, 10, slice(14, 22), 20
"""Time stands still between rows 9 and 10 (0.6 s pass, at 10 Hz); the robot rests in rows 14 to 21."""
TASKS = ("lift the cup", "put it down")
CARD = """
name = "toy_set"
version = 1
title = "A toy"
source = "lerobot"
embodiment = "toy_arm"
license = "CC0-1.0"
clock = "source"
[[proprio]]
field = "observation.state"
[[action]]
field = "action"
[views]
camera = "primary"
"""
ROBOT = """
name = "toy_arm"
title = "A toy arm"
control_rate = 10
views = ["primary"]
[[proprio]]
names = ["a", "b", "c"]
unit = "rad"
kind = "position"
[[action]]
names = ["a", "b"]
unit = "rad"
kind = "position"
"""


def gap_lake(folder: Path, action: bool = True) -> Path:
    """Writes the recording into ``folder`` and returns the lake; ``action`` False: of a robot that tells only its states."""
    root = write_lerobot(folder / "set", lengths=(NUM_STEPS,), images=True, splits={"train": "0:1"})
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(path)
    seconds = np.arange(NUM_STEPS) / 10 + np.where(np.arange(NUM_STEPS) >= GAP, 0.5, 0)
    changes = {
        "timestamp": pa.array(seconds.astype(np.float32)),
        "task_index": pa.array((np.arange(NUM_STEPS) >= SECOND_TASK).astype(np.int64)),
    }
    for name in ("observation.state", "action"):
        values = np.array(table[name].to_pylist())
        values = values * (1 + 0.5 * np.arange(values.shape[1]))  # no two channels move alike
        values[REST] = values[REST.start]
        changes[name] = pa.array(values.astype(np.float32).tolist(), table.schema.field(name).type)
    for name, column in changes.items():
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, path, write_page_checksum=True)
    lines = [f'{{"task_index": {index}, "task": "{task}"}}\n' for index, task in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("".join(lines))
    robot, card = ROBOT, CARD
    if not action:
        robot = "action = []\n" + robot[: robot.index("[[action]]")]
        card = card.replace('[[action]]\nfield = "action"\n', "")
    (folder / "toy_arm.toml").write_text(robot)
    (folder / "card.toml").write_text(card)
    answer = run_ingest([root], folder / "lake", card=folder / "card.toml")
    assert answer.values["kept"] == 1, answer.values
    return folder / "lake"
