"""LeRobot's own reader is the judge: every row, every frame by the number in its pixels, at whole and broken rates."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings

from pipelines.barcode import Mark, read_mark
from pipelines.formats import lerobot_v3
from pipelines.stats import normalize, sketch, stats_from_json
from schemas.errors import ReleaseError
from schemas.recipes import BuildRecipe, VideoRecipe
from schemas.time import parse_rate
from tests.fake_build import FakeBuild, builds, frame_number, make_build, make_frames, write_build, write_unit

STATE, ACTION = "observation.state", "action"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def open_dataset(folder: Path, **options):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("made/up", root=folder, video_backend="pyav", **options)


def check_against(build: FakeBuild, dataset) -> None:
    row = 0
    for episode in build.episodes:
        for step in range(episode.plan.num_steps):
            item = dataset[row]
            # LeRobot gives a vector of one channel as a scalar
            np.testing.assert_array_equal(item[ACTION].numpy().reshape(-1), episode.action[step])
            if build.group.proprio_names:
                np.testing.assert_array_equal(item[STATE].numpy().reshape(-1), episode.proprio[step])
            assert item["task"] == episode.plan.instruction
            assert item["index"] == row == episode.plan.first_step + step
            assert (item["episode_index"], item["frame_index"]) == (episode.plan.episode_index, step)
            assert item["timestamp"] == pytest.approx(step / float(parse_rate(build.group.rate)), abs=1e-5)
            assert item["lineage.source_row"] == episode.source_rows[step]
            assert item["lineage.source_time_ns"] == episode.source_times_ns[step]
            assert bool(item["valid"]) == episode.valid[step]
            for slot, _, _ in build.group.views:
                assert item[f"lineage.frame_id.{slot}"] == episode.frame_ids[slot][step]
                pixels = (item[f"observation.images.{slot}"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
                assert read_mark(pixels) == Mark(frame_number(slot, step), episode.plan.episode_index % 256)
            row += 1
    assert row == len(dataset)


@pytest.mark.parametrize(("rate", "codec"), [("15", "h264"), ("5", "av1"), ("7.5", "h264"), ("30000/1001", "h264")])
def test_lerobot_reads_every_row_and_frame(tmp_path: Path, rate: str, codec: str) -> None:
    recipe = BuildRecipe(horizon=4, video=VideoRecipe(codec=codec))
    build = make_build(rate=rate, recipe=recipe)
    write_build(lerobot_v3, build, tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.meta.total_episodes == 3
    assert dataset.fps == float(parse_rate(rate))
    check_against(build, dataset)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(build=builds())
def test_whatever_is_written_is_read(build: FakeBuild, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("release")
    write_build(lerobot_v3, build, folder)
    check_against(build, open_dataset(folder))


@pytest.mark.parametrize("rate", ["15", "7.5"])
def test_windows_through_delta_timestamps(tmp_path: Path, rate: str) -> None:
    build = make_build((9, 6), rate=rate)
    write_build(lerobot_v3, build, tmp_path)
    period = float(1 / parse_rate(rate))
    deltas = [0.0, period, 2 * period]
    image = "observation.images.primary"
    dataset = open_dataset(tmp_path, delta_timestamps={ACTION: deltas, image: [-period, 0.0]})
    for episode in build.episodes:
        for step in range(episode.plan.num_steps):
            item = dataset[episode.plan.first_step + step]
            reached = np.minimum(step + np.arange(3), episode.plan.num_steps - 1)
            np.testing.assert_array_equal(item[ACTION].numpy(), episode.action[reached])
            assert item[f"{ACTION}_is_pad"].tolist() == [step + i >= episode.plan.num_steps for i in range(3)]
            pixels = (item[image].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
            marks = [read_mark(frame) for frame in pixels]
            assert marks == [Mark(max(step - 1, 0), episode.plan.episode_index), Mark(step, episode.plan.episode_index)]


def test_without_views_and_with_single_channels(tmp_path: Path) -> None:
    build = make_build(views=(), action_width=1, proprio_width=0)
    write_build(lerobot_v3, build, tmp_path)
    dataset = open_dataset(tmp_path)
    actions = np.concatenate([episode.action for episode in build.episodes])
    assert [float(dataset[i][ACTION]) for i in range(len(dataset))] == actions[:, 0].tolist()
    assert STATE not in dataset.features
    assert lerobot_v3.FORMAT.count(tmp_path) == {"samples": 20, "frames": 0, "episodes": 3}


def test_videos_hold_exactly_the_rows_and_episodes_start_on_key_frames(tmp_path: Path) -> None:
    build = make_build((7, 1, 1, 12), episodes_per_unit=4, recipe=BuildRecipe(video=VideoRecipe(gop=5)))
    write_build(lerobot_v3, build, tmp_path)
    starts = {0, 7, 8, 9}
    with av.open(str(tmp_path / "videos/observation.images.primary/chunk-000/file-000.mp4")) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        assert stream.average_rate == Fraction(15)
        assert stream.time_base is not None
        assert [packet.pts * stream.time_base for packet in packets] == [Fraction(i, 15) for i in range(21)]
        assert starts <= {i for i, packet in enumerate(packets) if packet.is_keyframe}
    episodes = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    begins = [row["videos/observation.images.primary/from_timestamp"] for row in episodes]
    assert begins == [0.0, 7 / 15, 8 / 15, 9 / 15]
    assert episodes[-1]["videos/observation.images.primary/to_timestamp"] == 21 / 15


def test_statistics_describe_what_is_in_the_files(tmp_path: Path) -> None:
    plain = make_build(recipe=BuildRecipe(normalize="none"))
    write_build(lerobot_v3, plain, tmp_path / "plain")
    stats = json.loads((tmp_path / "plain/meta/stats.json").read_text())
    assert stats[ACTION]["q99"] == pytest.approx(list(plain.group.stats["action"]["q99"]))
    assert stats[ACTION]["count"] == [20]
    rows = pd.concat(pd.read_parquet(path) for path in sorted((tmp_path / "plain/data").rglob("*.parquet")))
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        assert stats[name]["mean"] == pytest.approx([rows[name].mean()])
        assert stats[name]["std"] == pytest.approx([rows[name].std(ddof=0)])
        assert (stats[name]["min"], stats[name]["max"]) == (
            pytest.approx([rows[name].min()]),
            pytest.approx([rows[name].max()]),
        )
    frames = np.concatenate([make_frames(plain, episode, "primary") for episode in plain.episodes]) / 255
    image = stats["observation.images.primary"]
    np.testing.assert_allclose(np.array(image["mean"]), frames.mean(axis=(0, 1, 2)).reshape(3, 1, 1), rtol=1e-9)
    np.testing.assert_allclose(np.array(image["std"]), frames.std(axis=(0, 1, 2)).reshape(3, 1, 1), rtol=1e-9)
    one = pq.read_table(tmp_path / "plain/meta/episodes/chunk-000/file-001.parquet").to_pylist()[0]
    last = plain.episodes[2]
    assert one["stats/action/max"] == pytest.approx(last.action[last.valid].max(axis=0).tolist())
    assert np.array(one["stats/observation.images.primary/q50"]).shape == (3, 1, 1)


def test_statistics_of_normalized_actions_are_those_of_the_normalized_numbers(tmp_path: Path) -> None:
    build = make_build(recipe=BuildRecipe(normalize="quantile"))
    write_build(lerobot_v3, build, tmp_path)
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    given = stats_from_json(json.dumps({name: list(v) for name, v in build.group.stats["action"].items()}))
    raw = np.concatenate([episode.action for episode in build.episodes])
    expected = sketch(normalize(raw, given, "quantile")).stats()
    for name in ("mean", "std", "min", "max", "q01", "q50", "q99"):
        np.testing.assert_allclose(stats[ACTION][name], getattr(expected, name), atol=1e-9)


def test_the_walk_back_and_the_latents_beside(tmp_path: Path) -> None:
    build = make_build(latent_slots=("primary",))
    write_build(lerobot_v3, build, tmp_path)
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["lineage/source_key"] for row in rows] == ["train/000000", "train/000001"]
    assert rows[0]["lineage/episode_id"] == build.episodes[0].plan.episode_id
    path = tmp_path / "latents/primary/episode_000002_000.safetensors"
    clip = build.episodes[2].latents["primary"][0]
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["latents"], clip.values)
    with safetensors.safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["wamloom"])
    assert facts["frame_ids"] == list(clip.plan.frame_ids)
    assert facts["latent_id"] == clip.plan.latent_id


def test_tasks_come_back_as_the_index_of_a_data_frame(tmp_path: Path) -> None:
    build = make_build()
    write_build(lerobot_v3, build, tmp_path)
    tasks = pd.read_parquet(tmp_path / "meta/tasks.parquet")
    assert tasks.index.tolist() == list(build.group.tasks)
    assert tasks["task_index"].tolist() == [0, 1, 2]


def test_odd_sizes_are_refused_with_the_mend(tmp_path: Path) -> None:
    build = make_build(views=(("primary", 64, 95),))
    with pytest.raises(ReleaseError, match="even sizes") as caught:
        write_unit(lerobot_v3, build, build.units[0], tmp_path)
    assert "views.width_px = 96" in caught.value.hint


def test_times_that_float32_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    build = make_build((1000, 300), rate="0.9", views=(("primary", 16, 40),), episodes_per_unit=2)
    with pytest.raises(ReleaseError, match="float32") as caught:
        write_unit(lerobot_v3, build, build.units[0], tmp_path, chunk=1000)
    assert "unit_frames" in caught.value.hint


def test_files_beyond_the_first_thousand_go_to_the_next_chunk(tmp_path: Path) -> None:
    build = make_build((3,), views=())
    unit = dataclasses.replace(build.units[0], file_index=1002, files_in_group=1003)
    write_unit(lerobot_v3, build, unit, tmp_path)
    assert (tmp_path / "data/chunk-001/file-002.parquet").exists()
    row = pq.read_table(tmp_path / "meta/episodes/chunk-001/file-002.parquet").to_pylist()[0]
    assert (row["data/chunk_index"], row["data/file_index"]) == (1, 2)
