import dataclasses
import itertools
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import schemas
from pipelines.barcode import read_mark
from pipelines.robots import Arm, Gantry, Pose
from pipelines.sample import write_sample
from pipelines.simulate import ROBOTS, SimulatedEpisode, SimulatedRobot, simulate
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Embodiment, Gripper, Layout
from schemas.errors import UsageError
from schemas.time import NANOSECONDS

CARDS = Path(schemas.__file__).parent / "cards"
NUM_EPISODES = 3

robots = pytest.mark.parametrize("robot", ROBOTS, ids=lambda robot: robot.name)


@pytest.fixture(scope="module")
def v3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    write_sample(out, "lerobot_v3", NUM_EPISODES, seed=4)
    return out / "lerobot_v3"


def read_card(robot: SimulatedRobot) -> Embodiment:
    return Embodiment.model_validate(tomllib.loads((CARDS / "embodiments" / f"{robot.name}.toml").read_text()))


def series(robot: SimulatedRobot, count: int, seed: int = 0) -> Iterator[SimulatedEpisode]:
    return (simulate(robot, seed, index) for index in range(count))


def test_the_arm_reaches_what_its_joints_were_solved_for() -> None:
    body = Arm()
    poses = np.array(list(itertools.product((0.25, 0.35, 0.44), (-0.2, 0.0, 0.2), (0.02, 0.15), (-0.6, 0.5))))
    joints = body.solve(poses)
    joints[:, 3] = 0  # the slow roll of the forearm moves the hand by millimetres
    for pose, row in zip(poses, joints, strict=True):
        point, axes = body.tool(row)
        assert point == pytest.approx(pose[:3], abs=1e-9)
        assert axes[:, 0] == pytest.approx([0, 0, -1], abs=1e-9), "the hand does not point down"
        assert np.linalg.det(axes) == pytest.approx(1)
        assert axes[:, 1] == pytest.approx([-np.sin(pose[3]), np.cos(pose[3]), 0], abs=1e-9)


def test_displacements_of_the_gantry_add_up() -> None:
    body = Gantry()
    poses = np.random.default_rng(0).normal(size=(20, 4))
    assert body.follow(poses[0], body.command(poses))[:-1] == pytest.approx(poses[1:])
    point, axes = body.tool(np.array(Pose(0.3, 0.1, 0.2, 0.4)))
    assert point == pytest.approx([0.3, 0.1, 0.2])
    assert axes.T @ axes == pytest.approx(np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1)


@robots
def test_equal_seeds_give_equal_episodes(robot: SimulatedRobot) -> None:
    one, two, other = simulate(robot, 7, 1), simulate(robot, 7, 1), simulate(robot, 8, 1)
    assert np.array_equal(one.action, two.action)
    assert np.array_equal(one.proprio, two.proprio)
    for camera in robot.cameras:
        for first, second in itertools.islice(zip(one.frames(camera.slot), two.frames(camera.slot), strict=True), 5):
            assert np.array_equal(first, second)
    assert one.instruction == two.instruction
    assert not np.array_equal(one.action[:20], other.action[:20])


@robots
def test_numbers_are_those_of_a_robot_that_follows_its_commands(robot: SimulatedRobot) -> None:
    for episode in series(robot, 3):
        assert episode.action.dtype == episode.proprio.dtype == np.float32
        assert episode.action.shape == (episode.num_steps, len(robot.action_names))
        assert episode.proprio.shape == (episode.num_steps, len(robot.proprio_names))
        assert np.all(np.isfinite(episode.action))
        assert 60 <= episode.num_steps <= 220
        assert episode.times_ns[-1] == (episode.num_steps - 1) * NANOSECONDS // int(robot.control_rate)
        assert np.all(np.ptp(episode.proprio, axis=0) > 0), "a channel never moves"
        commanded = episode.action.astype(np.float64)
        if isinstance(robot.body, Gantry):
            commanded[:, :4] = episode.proprio[0, :4] + np.cumsum(commanded[:, :4], axis=0)
        lag_aware = [np.abs(episode.proprio[k:] - commanded[: len(commanded) - k]).mean() for k in (0, 1, 2, 3)]
        assert min(lag_aware) < 0.02, "proprio does not follow the action"
        assert int(np.argmin(lag_aware)) >= 1, "proprio is measured before the action takes effect"


@robots
def test_episodes_begin_and_end_idle(robot: SimulatedRobot) -> None:
    for episode in series(robot, 3):
        moved = np.abs(np.diff(episode.proprio, axis=0)).max(axis=1)
        assert np.all(moved[:4] < 0.01)
        assert np.all(moved[-4:] < 0.01)
        assert moved.max() > 0.01


@robots
def test_every_third_episode_fails_and_instructions_differ(robot: SimulatedRobot) -> None:
    for seed in (0, 1, 2):
        episodes = list(series(robot, 9, seed))
        assert [episode.success for episode in episodes] == [index % 3 != 2 for index in range(9)]
        assert len({episode.instruction for episode in episodes}) >= 6


@robots
def test_frames_carry_their_numbers_and_move(robot: SimulatedRobot) -> None:
    episode = simulate(robot, 0, 2)
    for camera in robot.cameras:
        frames = np.stack(list(episode.frames(camera.slot)))
        assert frames.shape == (episode.num_steps, camera.height_px, camera.width_px, 3)
        assert camera.height_px % 32 == camera.width_px % 32 == 0
        assert [read_mark(frame) for frame in frames] == [(number, episode.tag) for number in range(len(frames))]
        below = frames[:, camera.height_px // 8 :].astype(np.int64)
        changed = np.abs(np.diff(below, axis=0)).max(axis=-1) > 24
        assert changed.mean(axis=(1, 2)).max() > 0.005, "nothing moves in the picture"
        assert below.std() > 20, "the picture is empty"


def test_tags_tell_episodes_and_robots_apart() -> None:
    tags = [simulate(robot, 0, index).tag for robot in ROBOTS for index in range(4)]
    assert len(set(tags)) == len(tags)


def test_a_flawed_recording_shows_the_frames_it_was_given() -> None:
    episode = dataclasses.replace(simulate(ROBOTS[1], 0, 0), frame_numbers=np.array([0, 1, 1, 5]))
    assert [read_mark(frame) for frame in episode.frames("primary")] == [(n, episode.tag) for n in (0, 1, 1, 5)]


def check_layout(layout: Layout, names: tuple[str, ...], values: np.ndarray) -> None:
    assert tuple(channel.name for channel in layout) == names
    for channel, column in zip(layout, values.T, strict=True):
        assert channel.low is not None
        assert channel.high is not None
        assert channel.low <= column.min() <= column.max() <= channel.high, channel.name


def check_gripper(grippers: tuple[Gripper, ...], robot: SimulatedRobot) -> None:
    (gripper,) = grippers
    assert (gripper.channel, gripper.open) == ("gripper", robot.body.gripper(np.array(0.0)))
    assert gripper.closed == robot.body.gripper(np.array(1.0))


@robots
def test_the_embodiment_card_describes_the_robot(robot: SimulatedRobot) -> None:
    card = read_card(robot)
    assert card.control_rate == robot.control_rate
    assert card.views == tuple(camera.slot for camera in robot.cameras)
    for seed in range(4):
        for episode in series(robot, 3, seed):
            check_layout(card.proprio, robot.proprio_names, episode.proprio)
            check_layout(card.action, robot.action_names, episode.action)
    check_gripper(card.proprio_grippers, robot)
    check_gripper(card.action_grippers, robot)


@robots
@pytest.mark.parametrize("source", ["rlds", "lerobot", "clips"])
def test_the_data_set_card_names_robot_source_and_every_camera(robot: SimulatedRobot, source: str) -> None:
    path = CARDS / "datasets" / f"{robot.name}_{source}.toml"
    card = DatasetCard.model_validate(tomllib.loads(path.read_text()))
    assert (card.name, card.source, card.embodiment) == (path.stem, source, robot.name)
    assert card.recognize.datasets == (robot.name,)
    assert sorted(card.views.values()) == sorted(camera.slot for camera in robot.cameras)


def test_lerobot_reads_the_shared_files_as_written(v3_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    for robot in ROBOTS:
        data = LeRobotDataset(f"wamloom/{robot.name}", root=v3_folder / robot.name, video_backend="pyav")
        assert data.meta.robot_type == robot.name
        assert data.meta.total_episodes == NUM_EPISODES
        first_row = 0
        for index in range(NUM_EPISODES):
            episode = simulate(robot, 4, index)
            for step in (0, 1, episode.num_steps // 2, episode.num_steps - 1):
                sample = data[first_row + step]
                assert np.array_equal(sample["action"].numpy(), episode.action[step])
                assert np.array_equal(sample["observation.state"].numpy(), episode.proprio[step])
                assert sample["task"] == episode.instruction
                is_last = step == episode.num_steps - 1
                assert bool(sample["next.success"]) == (is_last and episode.success)
                for camera in robot.cameras:
                    pixels = sample[f"observation.images.{camera.slot}"].numpy().transpose(1, 2, 0) * 255
                    assert read_mark(pixels.round().astype(np.uint8)) == (step, episode.tag)
            first_row += episode.num_steps
        assert len(data) == first_row
        stats = data.meta.stats
        actions = np.concatenate([episode.action for episode in series(robot, NUM_EPISODES, 4)]).astype(np.float64)
        assert stats["action"]["mean"] == pytest.approx(actions.mean(axis=0))
        assert stats["observation.images.primary"]["mean"].shape == (3, 1, 1)


def test_some_episode_of_a_shared_file_does_not_begin_with_a_key_frame(v3_folder: Path) -> None:
    import av
    import pyarrow.parquet as pq

    starts: list[bool] = []
    for robot in ROBOTS:
        key = "observation.images.primary"
        rows = pq.read_table(
            v3_folder / robot.name / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        ).to_pylist()
        with av.open(str(v3_folder / robot.name / "videos" / key / "chunk-000" / "file-000.mp4")) as container:
            keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
        rate = int(robot.control_rate)
        shared = [row for row in rows if row[f"videos/{key}/file_index"] == 0]
        assert len(shared) > 1
        assert len(keys) == sum(row["length"] for row in shared)
        starts += [keys[round(row[f"videos/{key}/from_timestamp"] * rate)] for row in shared]
    assert not all(starts)


@pytest.fixture(scope="module")
def rlds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample")
    write_sample(out, "rlds", NUM_EPISODES, seed=4)
    return out / "rlds"


@robots
def test_tensorflow_datasets_reads_the_records(robot: SimulatedRobot, rlds_folder: Path) -> None:
    import tensorflow_datasets as tfds

    from pipelines.tfrecord import read_payload, scan_shard

    root = rlds_folder / robot.name / "1.0.0"
    builder = tfds.builder_from_directory(str(root))
    assert builder.name == robot.name
    split = builder.info.splits["train"]
    assert split.num_examples == NUM_EPISODES
    assert split.shard_lengths == [2, 1]
    found = 0
    for shard in split.filepaths:
        records, damage = scan_shard(Path(shard))
        assert damage is None
        for record in records:
            payload = read_payload(Path(shard), record, 1 << 30, str(shard))
            example = builder.info.features.deserialize_example_np(payload)
            episode = simulate(robot, 4, found)
            steps = list(example["steps"])
            assert len(steps) == episode.num_steps
            assert np.array_equal(np.stack([step["action"] for step in steps]), episode.action)
            assert np.array_equal(np.stack([step["observation"]["state"] for step in steps]), episode.proprio)
            assert steps[0]["language_instruction"].decode() == episode.instruction
            assert [bool(step["is_last"]) for step in steps] == [False] * (len(steps) - 1) + [True]
            assert bool(steps[-1]["reward"]) == episode.success
            for camera in robot.cameras:
                frames = [step["observation"][f"{camera.slot}_image"] for step in steps[::20]]
                assert [read_mark(frame) for frame in frames] == [
                    (number, episode.tag) for number in range(0, len(steps), 20)
                ]
            found += 1
    assert found == NUM_EPISODES


def test_lerobot_21_counts_what_it_holds(tmp_path: Path) -> None:
    written = write_sample(tmp_path, "lerobot_v21", 2, seed=1)
    for robot, sample in zip(ROBOTS, written, strict=True):
        meta = Path(sample.folder) / "meta"
        info = json.loads((meta / "info.json").read_text())
        rows = [json.loads(line) for line in (meta / "episodes.jsonl").read_text().splitlines()]
        assert info["codebase_version"] == "v2.1"
        assert info["total_frames"] == sample.num_steps == sum(row["length"] for row in rows)
        assert info["total_videos"] == len(list(Path(sample.folder).rglob("*.mp4"))) == 2 * len(robot.cameras)
        stats = [json.loads(line) for line in (meta / "episodes_stats.jsonl").read_text().splitlines()]
        action = simulate(robot, 1, 1).action.astype(np.float64)
        assert stats[1]["stats"]["action"]["max"] == action.max(axis=0).tolist()
        assert np.shape(stats[1]["stats"]["observation.images.primary"]["mean"]) == (3, 1, 1)


def test_a_sample_is_not_written_over_another(tmp_path: Path) -> None:
    planned = write_sample(tmp_path, "rlds", 1, dry_run=True)
    assert not any(tmp_path.iterdir()), "a dry run writes"
    target = Path(planned[1].folder)
    target.mkdir(parents=True)
    with pytest.raises(UsageError) as caught:
        write_sample(tmp_path, "rlds", 1)
    assert caught.value.where == str(target)
    assert not (tmp_path / "rlds" / "sample_arm").exists(), "something was written before the refusal"


@pytest.mark.parametrize(("layout", "count", "seed"), [("rldss", 1, 0), ("rlds", 0, 0), ("rlds", 1, -1)])
def test_wrong_wishes_are_refused_with_a_hint(tmp_path: Path, layout: str, count: int, seed: int) -> None:
    with pytest.raises(UsageError) as caught:
        write_sample(tmp_path, layout, count, seed)
    assert caught.value.hint
    assert not any(tmp_path.iterdir())
