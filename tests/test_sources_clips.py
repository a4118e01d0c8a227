"""The clips source: annotations and folders of trajectories, in sets of other people's making and in damaged ones."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from pipelines.channels import to_episode
from pipelines.ingest_unit import recognize
from pipelines.resample import nearest_at_or_before, resample
from pipelines.sources.clips import SOURCE
from pipelines.video import VideoTools
from schemas.episode import Episode, RawEpisode
from schemas.errors import CorruptEpisode, MissingFile, WamloomError
from schemas.recipes import BuildRecipe, Limits
from schemas.time import NANOSECONDS, TimeGrid
from tests import clips
from tests.chain import run_build, run_ingest, tables, vectors
from tests.real import real_data

T = 7


@pytest.fixture(scope="module")
def video():
    with VideoTools(Limits()) as tools:
        yield tools


@pytest.fixture(scope="module")
def mp4() -> bytes:
    return clips.encode("h264", clips.pictures(T), rate=4)


def annotation(**changes: Any) -> dict[str, Any]:
    """IRASim's shape: T states, T - 1 actions, a gripper that closes half-way at row 3."""
    state = np.arange(T * 7).reshape(T, 7) / 9
    state[:, 6] = np.arange(T) < 3
    closed = [0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]
    values = {
        "task": "robot_trajectory_prediction",
        "texts": ["put it down"],
        "videos": [{"video_path": "videos/train/3/rgb.mp4"}],
        "latent_videos": [{"latent_video_path": "latent_videos/train/3/0.pt"}],
        "episode_id": "3",
        "state": state.tolist(),
        "action": (np.ones((T - 1, 7)) / 3).tolist(),
        "continuous_gripper_state": closed,
    }
    return {key: value for key, value in (values | changes).items() if value is not ...}


def write(root: Path, mp4: bytes, facts: Any, split: str = "train", name: str = "3") -> Path:
    path = root / "annotation" / split / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(facts if isinstance(facts, bytes) else json.dumps(facts).encode())
    film = root / "videos" / split / name / "rgb.mp4"
    film.parent.mkdir(parents=True, exist_ok=True)
    film.write_bytes(mp4)
    return root


def read_one(root: Path | str, video: VideoTools) -> RawEpisode:
    (ref,) = SOURCE.refs(str(root))
    return SOURCE.read(ref, video, Limits())


# --- the shapes ------------------------------------------------------------------------------------------------------


def test_an_irasim_annotation_keeps_its_lengths_and_turns_its_gripper(
    tmp_path: Path, mp4: bytes, video: VideoTools
) -> None:
    raw = read_one(write(tmp_path / "bridge", mp4, annotation()), video)
    assert {stream.name: stream.values.shape for stream in raw.streams} == {
        "action": (T - 1, 7),
        "continuous_gripper_state": (T,),
        "state": (T, 7),
    }
    facts = dict(raw.attributes)
    assert facts["latent_videos/0"] == "latent_videos/train/3/0.pt"
    assert facts["videos/0/container_fps"] == 4.0
    assert (raw.ref.split, raw.ref.key, raw.ref.dataset) == ("train", "train/000003", "bridge")
    episode = to_episode(raw, *recognize(raw))
    assert episode.card.name == "irasim_bridge"
    np.testing.assert_array_equal(episode.action.times_ns, np.arange(T - 1) * 200_000_000)
    for clock in (episode.proprio, episode.views["primary"]):
        np.testing.assert_array_equal(clock.times_ns, np.arange(T) * 200_000_000)
    np.testing.assert_array_equal(episode.proprio.values[:, 6], [1, 1, 1, 0.5, 0, 0, 0])
    gripper = episode.embodiment.proprio_grippers[0]
    binary = raw.stream("state")
    assert binary is not None
    assert (gripper.open, gripper.closed) == (binary.values[0, 6], binary.values[-1, 6])
    assert [one.text for one in episode.instructions] == ["put it down"]
    again = to_episode(episode.raw, episode.card, episode.embodiment)
    np.testing.assert_array_equal(again.action.times_ns, episode.action.times_ns)


@pytest.mark.parametrize(
    ("folder", "card", "rate"), [("fractal_rt1", "irasim_rt1", 3), ("languagetable", "irasim_language_table", 10)]
)
def test_sets_are_told_apart_by_name_and_structure(
    folder: str, card: str, rate: int, tmp_path: Path, mp4: bytes, video: VideoTools
) -> None:
    facts = annotation()
    if card.endswith("table"):
        facts = {
            "actions": np.ones((T, 2)).tolist(),
            "video_path": "videos/train/3/rgb.mp4",
            "latent_video_path": "latent_videos/train/3.pt",
            "episode_id": "000027",
        }
    raw = read_one(write(tmp_path / folder, mp4, facts), video)
    episode = to_episode(raw, *recognize(raw))
    assert (episode.card.name, episode.control_rate) == (card, rate)
    assert list(episode.views) == ["primary"]
    assert any(name.startswith("latent_video") for name, _ in raw.attributes)


def test_splits_keys_and_state(tmp_path: Path, mp4: bytes) -> None:
    root = tmp_path / "bridge"
    for split, name in (("val", "10"), ("train", "9"), ("train", "10"), ("train", "000010"), ("train", "x")):
        write(root, mp4, annotation(), split, name)
    refs = SOURCE.refs(str(root))
    keys = ["annotation/train/10.json", "train/000009", "train/000010", "train/x", "val/000010"]
    assert [ref.key for ref in refs] == keys
    assert [ref.split for ref in refs] == ["train"] * 4 + ["val"]
    (root / "videos" / "val" / "10" / "rgb.mp4").write_bytes(mp4 + b"\0")
    after = SOURCE.refs(str(root))
    assert [old.state == new.state for old, new in zip(refs, after, strict=True)] == [True] * 4 + [False]


def test_videos_at_unusual_places_are_found_and_watched(tmp_path: Path, mp4: bytes, video: VideoTools) -> None:
    root = write(
        tmp_path / "bridge", mp4, annotation(videos=[{"video_path": "bridge/films/a.mp4"}, {"video_path": ""}])
    )
    (root / "films").mkdir()
    (root / "videos" / "train" / "3" / "rgb.mp4").rename(root / "films" / "a.mp4")
    (ref,) = SOURCE.refs(str(root))
    raw = SOURCE.read(ref, video, Limits())
    assert [view.key for view in raw.views] == ["videos/0"]
    assert [(finding.rule, finding.where) for finding in raw.findings] == [("camera_without_video", "videos/1")]
    (root / "films" / "a.mp4").write_bytes(mp4)
    with pytest.raises(CorruptEpisode, match="changed"):
        SOURCE.read(ref, video, Limits())


def test_sets_in_object_stores(tmp_path: Path, mp4: bytes, video: VideoTools) -> None:
    store = fsspec.filesystem("memory")
    write(tmp_path / "bridge", mp4, annotation())
    write_folder(tmp_path / "folders", mp4)
    for name in ("bridge", "folders"):
        root = tmp_path / name
        for path in root.rglob("*.*"):
            store.pipe(f"/clips/{name}/{path.relative_to(root)}", path.read_bytes())
    roots = SOURCE.datasets("memory://clips")
    assert len(roots) == 2
    for remote, local in zip(roots, (tmp_path / "bridge", tmp_path / "folders"), strict=True):
        assert read_one(remote, video).episode_id == read_one(local, video).episode_id


def test_what_json_can_say_and_tables_cannot(tmp_path: Path, mp4: bytes, video: VideoTools) -> None:
    changes = {"texts": ["a \ud83d", None], "big": 1 << 70, "nan": float("nan"), "stamps": [1 << 60, (1 << 60) + 1]}
    more = {"done": [False] * T, "gaps": [0.5, None], "none": [], "meta": {"lab": "x", "deep": {"a": 1}}, "boxes": [{}]}
    raw = read_one(write(tmp_path / "bridge", mp4, annotation(**changes, **more)), video)
    assert [one.text for one in raw.instructions] == ["a \ufffd", ""]
    facts = dict(raw.attributes)
    assert (facts["big"], facts["nan"], facts["meta/lab"]) == (str(1 << 70), "nan", "x")
    values = {stream.name: stream.values for stream in raw.streams}
    assert values["stamps"].tolist() == [1 << 60, (1 << 60) + 1]
    assert values["done"].dtype == bool
    np.testing.assert_array_equal(values["gaps"], [0.5, np.nan])
    assert len(values["none"]) == 0
    assert [finding.where for finding in raw.findings] == ["meta/deep", "boxes"]


# --- damage ----------------------------------------------------------------------------------------------------------

DAMAGE: dict[str, tuple[Any, str]] = {
    "zero bytes": (b"", "bad_json"),
    "torn": (b'{"state": [[1, 2', "bad_json"),
    "list": (b"[1]", "bad_json"),
    "nested": (b'{"state": ' + b"[" * 100_000, "bad_json"),
    "not UTF-8": (b'{"a": "\xff\xfe"}', "bad_json"),
    "endless number": (b'{"a": ' + b"9" * 5000 + b"}", "bad_json"),
    "bomb": (b'{"a": [' + b"[]," * 100_000 + b"[]]}", "too_large"),
    "ragged": (annotation(state=[[1, 2], [3]]), "ragged"),
    "numbers and lists": (annotation(state=[1, [3]]), "ragged"),
    "words": (annotation(state=[1, "two"]), "not_numbers"),
    "nothing": (annotation(state=[], action=[], continuous_gripper_state=[]), "empty"),
    "path out": (annotation(videos=[{"video_path": "../../etc/passwd"}]), "path_escape"),
    "absolute path": (annotation(videos=[{"video_path": "/etc/passwd"}]), "path_escape"),
    "url": (annotation(videos=[{"video_path": "http://x/y.mp4"}]), "path_escape"),
    "no path": (annotation(videos=[{"video_path": 7}]), "bad_json"),
    "no file": (annotation(videos=[{"video_path": "videos/train/3/other.mp4"}]), "missing_file"),
    "its own JSON": (annotation(videos=[{"video_path": "annotation/train/3.json"}]), "not_video"),
    "other frames": (annotation(video_length=T + 2), "length_mismatch"),
    "other states": (annotation(state_length=T - 2), "length_mismatch"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_costs_the_episode_with_its_reason(damage: str, tmp_path: Path, mp4: bytes, video: VideoTools) -> None:
    facts, reason = DAMAGE[damage]
    (ref,) = SOURCE.refs(str(write(tmp_path / "bridge", mp4, facts)))
    with pytest.raises(WamloomError) as caught:
        SOURCE.read(ref, video, Limits(max_record_bytes=10_000_000))
    assert caught.value.reason == reason
    assert "3" in caught.value.where


def test_one_frame_more_or_less_is_a_finding(tmp_path: Path, mp4: bytes, video: VideoTools) -> None:
    raw = read_one(write(tmp_path / "bridge", mp4, annotation(video_length=T + 1)), video)
    (finding,) = raw.findings
    assert (finding.rule, finding.numbers) == ("length_mismatch", (("declared", T + 1.0), ("found", float(T))))


def test_latents_are_never_opened(tmp_path: Path, mp4: bytes, video: VideoTools) -> None:
    root = write(tmp_path / "bridge", mp4, annotation())
    latents = root / "latent_videos" / "train" / "3" / "0.pt"
    latents.parent.mkdir(parents=True)
    latents.symlink_to("/dev/full/nothing")  # whoever opens it fails
    assert read_one(root, video).stream("state") is not None


def test_a_bad_episode_harms_no_other(tmp_path: Path, mp4: bytes) -> None:
    root = write(tmp_path / "bridge", mp4, annotation())
    nan = annotation()
    nan["action"][2][1] = float("nan")
    for name, facts in (("4", b"{"), ("5", nan), ("6", annotation(action=[]))):
        write(
            root,
            mp4,
            facts if isinstance(facts, bytes) else facts | {"videos": [f"videos/train/{name}/rgb.mp4"]},
            name=name,
        )
    found = run_ingest([root], tmp_path / "lake").values
    assert (found["listed"], found["kept"], found["rejected"], found["failed"]) == (4, 1, 1, 2)
    assert found["reasons"] == {"bad_json": 1, "nan_value": 1, "empty": 1}


# --- folders of trajectories -----------------------------------------------------------------------------------------


def write_folder(root: Path, mp4: bytes, **changes: Any) -> Path:
    folder = root / "episode_0"
    (folder / "trajectories").mkdir(parents=True)
    (folder / "images").mkdir()
    information = {"robotEmbodiment": "DROID", "armSamplingRate": 10, "videoSamplingRate": 10, "dataLength": T}
    information |= {"taskDescription": "go", "taskState": "FAILURE"} | changes
    (folder / "information.json").write_text(json.dumps(information))
    for name, width in (("joint_positions", 8), ("cartesian_position__trajectory", 6)):
        table = {"columns": [f"c{k}" for k in range(width)], "data": (np.ones((T, width)) / 2).tolist()}
        (folder / "trajectories" / f"{name}.json").write_text(json.dumps(table))
    index = {"columns": ["left"], "data": [[f"left_{row}.webp"] for row in range(T)]}
    (folder / "images" / "camera_images.json").write_text(json.dumps(index))
    (folder / "video.mp4").write_bytes(mp4)
    return root


def test_a_folder_of_trajectories(tmp_path: Path, mp4: bytes, video: VideoTools) -> None:
    from PIL import Image

    raw = read_one(write_folder(tmp_path / "set", mp4), video)
    assert raw.declared_rate == 10
    assert {finding.rule for finding in raw.findings} == {"container_rate", "missing_pictures"}
    episode = to_episode(raw, *recognize(raw))
    assert (episode.control_rate, episode.success, episode.action.values.shape) == (15, False, (T, 0))
    for clock in (episode.proprio, episode.views["wrist_left"]):
        np.testing.assert_array_equal(clock.times_ns, TimeGrid(0, Fraction(15), T).times_ns())
    assert dict(raw.column_names)["cartesian_position__trajectory"] == tuple(f"c{k}" for k in range(6))
    pictures = clips.pictures(T)
    for row, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / "set" / "episode_0" / "images" / f"left_{row}.webp", lossless=True)
    view = next(view for view in read_one(tmp_path / "set", video).views if view.key == "left")
    np.testing.assert_array_equal(np.concatenate(list(video.decode(view, "left"))), pictures)
    (tmp_path / "set" / "episode_0" / "images" / "left_3.webp").unlink()
    with pytest.raises(MissingFile, match="1 of 7"):
        read_one(tmp_path / "set", video)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "information.json").unlink(), "missing_file"),
        (lambda folder: (folder / "trajectories" / "joint_positions.json").write_text('{"data": 3}'), "bad_json"),
        (
            lambda folder: (folder / "images" / "camera_images.json").write_text('{"columns": ["a"], "data": [1]}'),
            "bad_json",
        ),
        (lambda folder: (folder / "video.mp4").write_text("<html>"), "not_video"),
    ],
)
def test_a_damaged_folder(
    damage: Callable[[Path], object], reason: str, tmp_path: Path, mp4: bytes, video: VideoTools
) -> None:
    root = write_folder(tmp_path / "set", mp4)
    damage(root / "episode_0")
    with pytest.raises(WamloomError) as caught:
        read_one(root, video)
    assert caught.value.reason == reason


# --- real recordings -------------------------------------------------------------------------------------------------


def real_episodes(name: str, video: VideoTools) -> list[Episode]:
    (root,) = SOURCE.datasets(str(real_data(name)))
    found = [SOURCE.read(ref, video, Limits()) for ref in SOURCE.refs(root)]
    card, embodiment = recognize(found[0])
    assert card.name == name
    return [to_episode(raw, card, embodiment) for raw in found]


@pytest.mark.real
def test_ctrlworld_resamples_to_its_own_5_hz(video: VideoTools) -> None:
    torch = pytest.importorskip("torch")
    episodes = real_episodes("ctrlworld_droid", video)
    assert len(episodes) == 11
    assert sum(episode.num_steps for episode in episodes) == 2547
    for slot in ("primary", "secondary", "wrist_left"):
        assert sum(episode.views[slot].num_frames for episode in episodes) == 854
    assert sum(episode.success is False for episode in episodes) == 7
    assert sum(any(f.rule == "empty_instruction" for f in episode.findings) for episode in episodes) == 5
    assert {episode.raw.ref.split for episode in episodes} == {"train", "val"}
    for episode in episodes:
        states = episode.raw.stream("states")
        assert states is not None
        grid = TimeGrid.covering(0, int(episode.action.times_ns[-1]), Fraction(5)).times_ns()
        np.testing.assert_array_equal(states.times_ns, grid)
        for vector, layout in (
            (episode.proprio, episode.embodiment.proprio),
            (episode.action, episode.embodiment.action),
        ):
            found = resample(vector.values, vector.times_ns, layout, grid)
            np.testing.assert_array_equal(found.values, vector.values[::3])
            np.testing.assert_array_equal(found.source_rows, np.arange(0, episode.num_steps, 3))
            assert not found.residual_ns.any()
        np.testing.assert_array_equal(episode.proprio.values[::3, [0, 1, 2, 3, 4, 5, 13]], states.values)
        facts = dict(episode.raw.attributes)
        for camera, slot in enumerate(("primary", "secondary", "wrist_left")):
            view = episode.views[slot]
            np.testing.assert_array_equal(nearest_at_or_before(view.times_ns, grid), np.arange(view.num_frames))
            path = Path(episode.raw.ref.location) / str(facts[f"latent_videos/{camera}"])
            if path.exists():
                assert len(torch.load(path, weights_only=True)) == view.num_frames


@pytest.mark.real
def test_ctrlworld_through_the_command_line_at_5_hz(tmp_path: Path) -> None:
    root = real_data("ctrlworld_droid")
    found = run_ingest([root], tmp_path / "lake").values
    assert (found["listed"], found["kept"]) == (11, 11)
    recipe = BuildRecipe(formats=("parquet",), rate=5, tokenizer=None)
    run_build(tmp_path / "lake", tmp_path / "release", recipe)
    (group,) = (tmp_path / "release" / "parquet").iterdir()
    rows = tables(group / "data")
    assert rows.num_rows == 854
    assert all(rows["valid"].to_pylist())
    states = {
        np.array(facts["states"], np.float32).tobytes()
        for facts in (json.loads(path.read_text()) for path in root.rglob("annotation/*/*.json"))
    }
    proprio = vectors(rows["proprio"])[:, [0, 1, 2, 3, 4, 5, 13]].astype(np.float32)
    episodes = rows["episode_index"].to_numpy()
    assert {proprio[episodes == index].tobytes() for index in np.unique(episodes)} == states
    lineage = tables(tmp_path / "release" / "lineage")
    step, frame = (lineage[name].to_numpy() for name in ("step", "frame_id_primary"))
    np.testing.assert_array_equal(frame, step)
    np.testing.assert_array_equal(lineage["source_row"].to_numpy(), 3 * step)


@pytest.mark.real
def test_droid_thumbs(video: VideoTools) -> None:
    episodes = real_episodes("droid100_thumbs", video)
    lengths = [episode.num_steps for episode in episodes]
    assert (len(episodes), sum(lengths), min(lengths), max(lengths)) == (100, 32_212, 13, 1_627)
    for episode in episodes:
        rules = [finding.rule for finding in episode.findings]
        assert [rules.count(rule) for rule in ("rate_corrected", "container_rate", "missing_pictures")] == [1, 1, 3]
        assert episode.control_rate == 15
        assert episode.success is (dict(episode.raw.attributes)["taskState"] == "SUCCESS")
        assert int(episode.proprio.times_ns[-1]) == (episode.num_steps - 1) * NANOSECONDS // 15
        assert episode.views["wrist_left"].num_frames == episode.num_steps
    assert len({dict(episode.raw.attributes)["operatorName"] for episode in episodes}) == 13
    assert sum(not episode.instructions for episode in episodes) == 54
    assert not any(episode.success for episode in episodes if "FAILURE" in dict(episode.raw.attributes)["taskState"])
