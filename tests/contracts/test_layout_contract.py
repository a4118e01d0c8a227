"""Every layout: what its source lists and reads back is what was simulated, and equal episodes give equal bytes."""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipelines import cards, registry
from pipelines.barcode import read_mark
from pipelines.channels import to_episode
from pipelines.simulate import ROBOTS, SimulatedEpisode, SimulatedRobot, simulate
from pipelines.sources import Source
from pipelines.storage import file_sha256, files_under
from pipelines.video import VideoTools
from schemas.episode import EpisodeRef
from schemas.recipes import Limits

NUM_EPISODES = 3
WORDLESS = ("zarr",)
"""Layouts without a place for language."""
NAMELESS = {"droid_raw": "droid"}
"""Layouts whose files do not name their set, and what their source calls it."""


@pytest.fixture(scope="module", params=registry.names("layouts"))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A layout, and a folder with one set of each robot in it."""
    out = tmp_path_factory.mktemp(request.param)
    for robot in held(request.param):
        registry.load("layouts", request.param).write(simulated(robot), out / robot.name)
    return request.param, out


def held(layout: str) -> list[SimulatedRobot]:
    """The robots that the layout has a place for."""
    names = getattr(registry.load("layouts", layout), "ROBOTS", [robot.name for robot in ROBOTS])
    return [robot for robot in ROBOTS if robot.name in names]


@functools.cache
def simulated(robot: SimulatedRobot) -> list[SimulatedEpisode]:
    return [simulate(robot, 5, index) for index in range(NUM_EPISODES)]


def source_of(folder: Path) -> tuple[Source, str]:
    """The only source that knows ``folder``, and the root it names there."""
    sources: list[Source] = [registry.load("sources", name).SOURCE for name in registry.names("sources")]
    ((source, (root,)),) = [(source, roots) for source in sources if (roots := source.datasets(str(folder)))]
    return source, root


def test_equal_episodes_give_equal_bytes(written: tuple[str, Path], tmp_path: Path) -> None:
    layout, out = written
    robot = held(layout)[-1]
    registry.load("layouts", layout).write(simulated(robot), tmp_path / "again")
    hashes = [
        {path.relative_to(root): file_sha256(path) for path in files_under(root)}
        for root in (out / robot.name, tmp_path / "again")
    ]
    assert hashes[0]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("robot", ROBOTS, ids=lambda robot: robot.name)
class TestLayout:
    @pytest.fixture(autouse=True)
    def _held(self, written: tuple[str, Path], robot: SimulatedRobot) -> None:
        if robot not in held(written[0]):
            pytest.skip(f"{written[0]} has no place for {robot.name}")

    def test_one_source_knows_it_and_lists_every_episode(
        self, written: tuple[str, Path], robot: SimulatedRobot
    ) -> None:
        source, root = source_of(written[1] / robot.name)
        refs = source.refs(root)
        assert len(refs) == NUM_EPISODES
        assert {ref.dataset for ref in refs} == {NAMELESS.get(written[0], robot.name)}

    def test_the_numbers_are_bit_for_bit_those_simulated(
        self, written: tuple[str, Path], robot: SimulatedRobot
    ) -> None:
        numbers = read_numbers(written[1] / robot.name)
        assert len(numbers) == NUM_EPISODES
        for (action, proprio), episode in zip(numbers, simulated(robot), strict=True):
            assert action.dtype == proprio.dtype == np.float32
            assert np.array_equal(action, episode.action)
            assert np.array_equal(proprio, episode.proprio)

    def test_its_source_and_card_find_everything_where_it_belongs(
        self, written: tuple[str, Path], robot: SimulatedRobot
    ) -> None:
        source, root = source_of(written[1] / robot.name)
        with VideoTools(Limits()) as video:
            for ref, simulation in zip(in_order(source.refs(root)), simulated(robot), strict=True):
                raw = source.read(ref, video, Limits())
                assert raw.findings == ()
                fields = [stream.name for stream in raw.streams] + [view.key for view in raw.views]
                card = cards.recognize(source.name, ref.dataset, raw.robot_type, fields)
                assert card.embodiment == robot.name
                episode = to_episode(raw, card, cards.load_embodiment(robot.name))
                for stream, values in ((episode.action, simulation.action), (episode.proprio, simulation.proprio)):
                    assert np.array_equal(stream.values, values)
                    assert np.array_equal(stream.times_ns, simulation.times_ns)
                assert episode.success == (simulation.success if card.success_field else None)
                assert all(np.array_equal(view.times_ns, simulation.times_ns) for view in episode.views.values())
                texts = [] if written[0] in WORDLESS else [simulation.instruction]
                assert [instruction.text for instruction in raw.instructions] == texts
                assert {card.views[view.key] for view in raw.views} == {camera.slot for camera in robot.cameras}
                expected = [(number, simulation.tag) for number in range(simulation.num_steps)]
                for view in raw.views:
                    frames = np.concatenate(list(video.decode(view, ref.where)))
                    assert frames.shape[1:3] == (view.height_px, view.width_px)
                    assert [read_mark(frame) for frame in frames] == expected


def in_order(refs: Sequence[EpisodeRef]) -> list[EpisodeRef]:
    """As they were recorded: raw DROID sorts them by success first."""
    return sorted(refs, key=lambda ref: re.split("/(?:success|failure)/", ref.key)[-1])


def read_numbers(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Action and proprio of every episode in order, read without any code of ours beyond the record framing."""
    trajectories = sorted(folder.rglob("trajectory.h5"), key=lambda path: path.parent.name)
    if trajectories:
        return [droid_numbers(path) for path in trajectories]
    annotations = sorted((folder / "annotation").rglob("*.json"))
    if annotations:
        facts = [json.loads(path.read_text()) for path in annotations]
        return [(np.array(one["action"], np.float32), np.array(one["state"], np.float32)) for one in facts]
    if (folder / "meta" / "episode_ends").is_dir():
        return zarr_numbers(folder)
    if files := sorted(folder.glob("*.hdf5")):
        return hdf5_numbers(files)
    parquets = sorted((folder / "data").rglob("*.parquet"))
    if parquets:
        return lerobot_numbers(parquets)
    return rlds_numbers(folder)


def droid_numbers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import h5py

    with h5py.File(path) as file:
        action = (file["action/joint_position"][()], file["action/gripper_position"][()])
        state = file["observation/robot_state"]
        proprio = (state["joint_positions"][()], state["gripper_position"][()])
    return np.column_stack(action).astype(np.float32), np.column_stack(proprio).astype(np.float32)


def zarr_numbers(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    import zarr

    action, state, ends = (
        np.asarray(zarr.open_array(str(folder / name), mode="r")[:])
        for name in ("data/action", "data/state", "meta/episode_ends")
    )
    return list(zip(np.split(action, ends[:-1]), np.split(state, ends[:-1]), strict=True))


def lerobot_numbers(parquets: list[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([pq.read_table(path) for path in parquets])
    episodes = table["episode_index"].to_numpy()
    action, proprio = (
        table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        for name in ("action", "observation.state")
    )
    return [(action[episodes == index], proprio[episodes == index]) for index in np.unique(episodes)]


def hdf5_numbers(files: list[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    import h5py

    found = []
    for path in files:
        with h5py.File(path) as file:
            if "data" not in file:
                found.append((file["action"][()], file["observations/qpos"][()]))
                continue
            demos = [file["data"][f"demo_{index}"] for index in range(len(file["data"]))]
            found += [(demo["actions"][()], demo["obs/state"][()]) for demo in demos]
    return found


def rlds_numbers(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    from tensorflow_datasets.proto import tf_example_pb2

    from pipelines.tfrecord import read_payload, scan_shard

    found = []
    for shard in sorted(folder.rglob("*.tfrecord-*")):
        for record in scan_shard(shard)[0]:
            example = tf_example_pb2.Example.FromString(read_payload(shard, record, 1 << 30, str(shard)))
            feature = example.features.feature
            num_steps = len(feature["steps/is_first"].int64_list.value)
            found.append(
                tuple(
                    np.array(feature[f"steps/{name}"].float_list.value, dtype=np.float32).reshape(num_steps, -1)
                    for name in ("action", "observation/state")
                )
            )
    return found
