"""The whole chain on real recordings of four data sets in three layouts, by the command line, against their own bytes."""

import contextlib
import io
import json
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.cli import main
from pipelines.gather import gather_lake
from pipelines.lake import Lake
from pipelines.video import VideoTools
from schemas.recipes import Limits
from tests.chain import read_json, tables, tar_samples, vectors
from tests.real import real_data

pytestmark = pytest.mark.real

SETS = ("octo_bridge_rlds", "g1_lerobot_v21_subset", "gr00t_gr1_sim_lerobot_v2", "lerobot_v3_slices")
EPISODES = {"bridge": 25, "unitree_g1_inspire": 8, "gr1": 5, "pusht": 3}
STEPS = {"bridge": 250, "unitree_g1_inspire": 2138, "gr1": 2096, "pusht": 420}
VIEWS = {"bridge": 4, "unitree_g1_inspire": 1, "gr1": 1, "pusht": 1}
HORIZON = 16
SMALL = ("--set", "views.height_px=64", "--set", "views.width_px=96")
ALL_FORMATS = ("--format", "lerobot_v3", "parquet", "webdataset")


@dataclass(frozen=True)
class Run:
    """What a command said."""

    code: int
    values: dict[str, Any]
    err: str


def wamloom(*arguments: str | Path) -> Run:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, arguments), "--json"])
    return Run(code, json.loads(out.getvalue()), err.getvalue())


@dataclass(frozen=True)
class Chain:
    """The lake, and what each command said on the way."""

    lake: Path
    releases: Path
    locations: tuple[Path, ...]
    ingested: Run

    def build(self, name: str, *arguments: str) -> Run:
        return wamloom("build", "--lake", self.lake, "--out", self.releases / name, "--executor", "inline", *arguments)

    def encode(self, *arguments: str) -> Run:
        return wamloom("encode", "--lake", self.lake, "--executor", "inline", *arguments)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("real")
    locations = tuple(real_data(name) for name in SETS)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
        ingested = wamloom("ingest", *locations, "--lake", folder / "lake", "--executor", "inline")
        yield Chain(folder / "lake", folder, locations, ingested)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def native(chain: Chain) -> Path:
    assert chain.build("native", *ALL_FORMATS, *SMALL).code == 0
    return chain.releases / "native"


@pytest.fixture(scope="module")
def slow(chain: Chain) -> Path:
    """At 2 Hz: few enough rows for LeRobot, which takes 50 ms for each, to open them all in a test."""
    assert chain.build("slow", "--format", "lerobot_v3", "--set", "rate=2", *SMALL).code == 0
    return chain.releases / "slow"


@pytest.fixture(scope="module")
def bridge_records() -> dict[str, dict[str, Any]]:
    """Feature lists of every Bridge episode by the key the lake knows it under, parsed without wamloom."""
    from tensorflow_datasets.proto import tf_example_pb2

    found = {}
    for path in sorted(real_data("octo_bridge_rlds").rglob("*.tfrecord-*")):
        split, data, position, number = path.name.split("-")[1].split(".")[0], path.read_bytes(), 0, 0
        while position < len(data):
            length = int.from_bytes(data[position : position + 8], "little")
            example = tf_example_pb2.Example.FromString(data[position + 12 : position + 12 + length])
            found[f"{split}/00000/{number:06d}"] = dict(example.features.feature)
            position, number = position + 12 + length + 4, number + 1
    return found


def kept(chain: Chain, dataset: str) -> list[dict[str, Any]]:
    columns = ["dataset", "locations", "views", "num_steps"]
    return Lake.open(chain.lake).rows("episodes", columns, f"outcome = 'kept' and dataset = '{dataset}'")


def test_every_recording_is_accounted_for(chain: Chain) -> None:
    run = chain.ingested
    counts = {name: run.values[name] for name in ("listed", "kept", "rejected", "failed", "already")}
    assert counts == {"listed": 163, "kept": 41, "rejected": 0, "failed": 97, "already": 25}
    assert run.values["reasons"] == {"missing_file": 97}
    assert run.code == 4
    assert all(problem["hint"] and problem["where"] for problem in run.values["problems"])
    for dataset, number in EPISODES.items():
        rows = kept(chain, dataset)
        assert len(rows) == number
        assert sum(row["num_steps"] for row in rows) == STEPS[dataset]
        assert {len(row["views"]) for row in rows} == {VIEWS[dataset]}
    failed = Lake.open(chain.lake).rows("episodes", ["locations"], "outcome = 'failed'")
    assert len(failed) == 97
    assert {len(row["locations"]) for row in failed} == {1}


def test_copies_in_train_and_val_are_one_row_and_a_finding(chain: Chain) -> None:
    rows = kept(chain, "bridge")
    assert [sorted(place["split"] for place in row["locations"]) for row in rows] == [["train", "val"]] * 25
    data = gather_lake(Lake.open(chain.lake), "test")
    rules = {episode.episode_id: {finding.rule for finding in episode.findings} for episode in data.episodes}
    assert {key for key, found in rules.items() if "split_leak" in found} == {row["episode_id"] for row in rows}


def test_stored_pictures_are_the_recorded_ones(chain: Chain, bridge_records: dict[str, dict[str, Any]]) -> None:
    opened = Lake.open(chain.lake)
    num_equal = 0
    with VideoTools(Limits()) as video:
        for row in kept(chain, "bridge"):
            episode = opened.episode(row["episode_id"])
            for slot, view in episode.views.items():
                whole = opened.video(row["episode_id"], slot, view)
                frames = np.concatenate(list(video.decode(whole, slot)))
                for place in row["locations"]:
                    images = bridge_records[place["key"]][f"steps/{view.key}"].bytes_list.value
                    assert len(images) == len(frames) == 10
                    assert all(image in whole.data for image in images), "a picture was compressed again"
                    for frame, image in zip(frames, images, strict=True):
                        np.testing.assert_array_equal(frame, np.asarray(Image.open(io.BytesIO(image)).convert("RGB")))
                        num_equal += 1
    assert num_equal == 25 * 10 * 4 * 2


def source_vectors(
    row: dict[str, Any], bridge_records: dict[str, dict[str, Any]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(action, proprio) of every place of a row, straight from the source's files."""
    found = {}
    for place in row["locations"]:
        if row["dataset"] == "bridge":
            record = bridge_records[place["key"]]
            action, proprio = (
                np.array(record[f"steps/{name}"].float_list.value, dtype=np.float32).reshape(10, 7)
                for name in ("action", "observation/state")
            )
        else:
            number = int(place["key"].rsplit("_", 1)[1])
            parts = [pq.read_table(path) for path in sorted(Path(place["location"]).glob("data/*/*.parquet"))
                     if "episode_" not in path.name or path.stem == f"episode_{number:06d}"]  # fmt: skip
            (table,) = parts
            keep = table["episode_index"].to_numpy() == number
            action, proprio = (
                np.array(table[name].to_pylist(), dtype=table.schema.field(name).type.value_type.to_pandas_dtype())[
                    keep
                ]
                for name in ("action", "observation.state")
            )
        found[place["key"]] = (action, proprio)
    return found


@pytest.mark.parametrize("dataset", list(EPISODES))
def test_numbers_are_the_source_s_in_lake_and_release(
    chain: Chain, native: Path, bridge_records: dict[str, dict[str, Any]], dataset: str
) -> None:
    opened = Lake.open(chain.lake)
    table = tables(native / "parquet" / dataset / "data")
    ids = np.array(table["episode_id"].to_pylist())
    released = {name: vectors(table[name]) for name in ("action", "proprio")}
    windows = list(tar_samples(native / "webdataset" / dataset))
    lerobot = tables(native / "lerobot_v3" / dataset / "data")
    num_rows = 0
    for row in kept(chain, dataset):
        streams = {stream.name: stream for stream in opened.episode(row["episode_id"]).streams}
        for action, proprio in source_vectors(row, bridge_records).values():
            for names, values in ((("action",), action), (("observation/state", "observation.state"), proprio)):
                (stored,) = [streams[name] for name in names if name in streams]
                np.testing.assert_array_equal(stored.values, values)
            mine = np.flatnonzero(ids == row["episode_id"])
            assert len(mine) == len(action)
            for name, feature, values in (("action", "action", action), ("proprio", "observation.state", proprio)):
                wanted = values.astype(np.float32)
                np.testing.assert_array_equal(released[name][mine].astype(np.float32), wanted)
                np.testing.assert_array_equal(vectors(lerobot[feature])[mine].astype(np.float32), wanted)
            for window in windows:
                if window.facts["episode_id"] == row["episode_id"]:
                    reached = np.minimum(window.facts["step"] + np.arange(HORIZON), len(action) - 1)
                    np.testing.assert_array_equal(window.array("action.npy"), action[reached].astype(np.float32))
                    assert window.facts["source_rows"] == reached.tolist()
        num_rows += len(mine)
    assert num_rows == table.num_rows == STEPS[dataset]


def test_latents_of_two_encoders_are_computed_once_and_join_a_release(chain: Chain) -> None:
    weights = real_data("taef2_weights")
    sizes = ("--set", "views.height_px=32", "--set", "views.width_px=48")
    haar = ("--encoder", "wavelet", "--where", "dataset in ('bridge', 'pusht')", *sizes)
    first, second = chain.encode(*haar), chain.encode(*haar)
    pushed = [row["num_steps"] - (row["num_steps"] - 1) % 4 for row in kept(chain, "pusht")]
    assert (first.code, first.values["computed"], first.values["frames"]) == (0, 103, 25 * 4 * 9 + sum(pushed))
    assert (second.values["computed"], second.values["cached"], second.values["frames"]) == (0, 103, 0)
    primary = ("--where", "dataset = 'bridge'", "--set", 'views.slots=["primary"]')
    tiny = chain.encode("--encoder", "tiny_autoencoder", "--weights", str(weights), *primary)
    assert (tiny.code, tiny.values["computed"], tiny.values["frames"]) == (0, 25, 250)
    for encoder, slots in (("wavelet", 4), ("tiny_autoencoder", 1)):
        where = primary if slots == 1 else primary[:2]
        run = chain.build(encoder, "--format", "webdataset", "lerobot_v3", "--set", "content=both",
                          "--set", f"encoder={encoder}", *where, *SMALL)  # fmt: skip
        assert run.code == 0
        samples = list(tar_samples(chain.releases / encoder / "webdataset" / "bridge"))
        assert len(samples) == 25
        for sample in samples:
            assert len(sample.facts["latents"]) == slots
            for slot, spans in sample.facts["latents"].items():
                latents = sample.array(f"{slot}.latent.npy")
                covered = [step for span in spans for step in range(*span["steps"])]
                assert covered == list(range(9 if encoder == "wavelet" else 10))
                assert latents.shape == ((3, 768, 4, 6) if encoder == "wavelet" else (10, 32, 8, 8))
                assert np.isfinite(latents).all()
                assert latents.std() > 0
        assert wamloom("verify", chain.releases / encoder).code == 0
    assert wamloom("verify", chain.lake).values["checked"]["latents"] == 128


def test_lerobot_opens_every_group_and_every_row(slow: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    groups = read_json(slow / "manifest.json")["groups"]
    assert {group["name"] for group in groups} == set(EPISODES)
    for group in groups:
        folder = slow / "lerobot_v3" / group["name"]
        past = {f"observation.images.{view['slot']}": [-0.5, 0.0] for view in group["views"]}
        deltas = {"action": [step * 0.5 for step in range(HORIZON)], **past}
        dataset = LeRobotDataset("made/up", root=folder, video_backend="pyav", delta_timestamps=deltas)
        assert dataset.fps == 2
        assert len(dataset) == group["num_steps"]
        assert dataset.num_episodes == EPISODES[group["name"]]
        table = tables(folder / "data")
        actions, owners = vectors(table["action"]).astype(np.float32), table["episode_index"].to_numpy()
        for index in range(len(dataset)):
            item = dataset[index]
            last = int(np.flatnonzero(owners == owners[index])[-1])
            reached = np.minimum(index + np.arange(HORIZON), last)
            np.testing.assert_array_equal(item["action"].numpy(), actions[reached])
            assert item["action_is_pad"].tolist() == (index + np.arange(HORIZON) > last).tolist()
            assert all(item[name].shape == (2, 3, 64, 96) for name in past)


def test_hugging_face_datasets_opens_parquet_and_webdataset(native: Path) -> None:
    import datasets

    counts = read_json(native / "manifest.json")["counts"]
    for name, steps in STEPS.items():
        rows = datasets.load_dataset(str(native / "parquet" / name), split="train", streaming=True)
        seen = Counter(row["episode_id"] for row in rows.select_columns(["episode_id", "step", "action_chunk"]))
        assert (sum(seen.values()), len(seen)) == (steps, EPISODES[name])
        shards = sorted(str(path) for path in (native / "webdataset" / name).glob("*.tar"))
        samples = datasets.load_dataset("webdataset", data_files={"train": shards}, split="train", streaming=True)
        number = 0
        for sample in samples.decode(False):
            number += 1
            assert len(sample["json"]["frame_ids"]) == VIEWS[name]
        assert number == counts["webdataset"][name]["samples"]
        assert counts["webdataset"][name]["episodes"] == EPISODES[name]
    first = next(iter(datasets.load_dataset(str(native / "parquet" / "bridge"), split="train", streaming=True)))
    assert first["image_primary"].size == (96, 64)


def test_verify_names_the_file_of_any_flipped_byte(chain: Chain, native: Path, slow: Path) -> None:
    for target in (chain.lake, native, slow):
        run = wamloom("verify", target)
        assert (run.code, run.values["problems"]) == (0, [])
    random = np.random.default_rng(0)
    files = [path for path in sorted(slow.rglob("*")) if path.is_file()]
    assert len(files) > 20
    manifest = [path for path in files if path.name == "manifest.json"]  # is read first, and tells of all others
    others = [path for path in files if path not in manifest]
    assert len(manifest) == 1
    for damaged in (manifest, others[::2], others[1::2], others[:1]):  # those beside them are whole
        whole = {path: path.read_bytes() for path in damaged}
        for path, data in whole.items():
            changed = bytearray(data)
            changed[random.integers(len(data))] ^= 1 << random.integers(8)
            path.write_bytes(changed)
        run = wamloom("verify", slow)
        assert run.code == 5
        assert sorted(problem["where"] for problem in run.values["problems"]) == sorted(map(str, damaged))
        for path, data in whole.items():
            path.write_bytes(data)
    assert wamloom("verify", slow).code == 0


def test_again_is_nothing_new_and_retry_takes_up_what_failed(chain: Chain) -> None:
    def again(*arguments: str) -> tuple[int, Sequence[int]]:
        run = wamloom("ingest", *chain.locations, "--lake", chain.lake, "--executor", "inline", *arguments)
        names = ("listed", "kept", "rejected", "failed", "already", "already_failed")
        return run.code, [run.values[name] for name in names]

    assert again() == (4, [163, 0, 0, 0, 163, 97])
    assert again("--retry") == (4, [163, 0, 0, 97, 66, 0])
    counts = Counter(row["outcome"] for row in Lake.open(chain.lake).rows("episodes", ["outcome"]))
    assert counts == {"kept": 41, "failed": 97}
    assert wamloom("verify", chain.lake).code == 0


def test_gr_1_under_the_names_of_its_own_modality(chain: Chain) -> None:
    """What GR00T's loader takes by part, instruction and statistics of relative actions, against the source's own description."""
    recipe = Path(__file__).resolve().parents[1] / "jobs/recipes/groot_gr1.toml"
    assert chain.build("groot_gr1", "--recipe", str(recipe), *SMALL, "--where", "embodiment = 'gr1'").code == 0
    root, source = chain.releases / "groot_gr1/lerobot_v21/gr1", real_data("gr00t_gr1_sim_lerobot_v2")
    modality, theirs = (read_json(folder / "meta/modality.json") for folder in (root, source))
    assert {*modality["state"]} == {*theirs["state"]}
    assert {*modality["video"]} == {*theirs["video"]}
    relative = read_json(root / "meta/relative_stats.json")
    moved: dict[str, list[np.ndarray]] = {name: [] for name in relative}
    assert {*moved} == {"left_arm", "right_arm", "left_hand", "right_hand", "waist"}
    for line in map(json.loads, (root / "meta/episodes.jsonl").read_text().splitlines()):
        ours = pq.read_table(root / f"data/chunk-000/episode_{line['episode_index']:06d}.parquet")
        recorded = pq.read_table(source / f"data/chunk-000/{line['lineage']['source_key']}.parquet")
        for kind, column in (("state", "observation.state"), ("action", "action")):
            for name, entry in theirs[kind].items():
                place = modality[kind][name]
                found = vectors(ours[place["original_key"]])[:, place["start"] : place["end"]]
                told = vectors(recorded[column])[:, entry["start"] : entry["end"]].astype(np.float32)
                np.testing.assert_array_equal(found, told)
        for name, chunks in moved.items():
            span = slice(modality["action"][name]["start"], modality["action"][name]["end"])
            state, action = (vectors(ours[column])[:, span] for column in ("observation.state", "action"))
            starts = np.arange(len(state) - HORIZON + 1)
            chunks.append(action[starts[:, None] + np.arange(HORIZON)] - state[starts][:, None])
    for name, episodes in moved.items():
        for statistic in ("min", "max", "mean", "std"):
            expected = getattr(np.concatenate(episodes).astype(np.float64), statistic)(axis=0)
            np.testing.assert_allclose(relative[name][statistic], expected, atol=1e-6)
