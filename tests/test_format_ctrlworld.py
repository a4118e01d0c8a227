"""Ctrl-World's annotations, videos and latents, read as it and its relatives read them: stand-ins of their loaders."""

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.annotations import sample_frames
from pipelines.barcode import Mark, draw, read_mark
from pipelines.formats import BuiltEpisode, ctrlworld
from pipelines.formats.fastwam import WITH_INSTRUCTION
from pipelines.lake import Lake
from pipelines.latent_steps import FrameLatents
from pipelines.selection import stored_episodes
from pipelines.torch_files import read_torch, write_torch
from pipelines.verify import verify_release
from pipelines.video_writer import VideoWriter
from schemas.embodiment import Channel
from schemas.errors import RecipeError, ReleaseError
from schemas.latent import ClipPlan, LatentClip
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, VideoRecipe, ViewsRecipe
from schemas.release_choices import CtrlWorldRecipe, SplitRecipe
from tests import tiny_models
from tests.chain import build_as_told, movie, read_json, run_build, run_encode, run_ingest
from tests.clips import encode, pictures
from tests.droid_tree import EXT1, EXT2, STEP_START, WRIST, columns, metadata, write_recording
from tests.fake_build import FakeBuild, frame_number, make_build, needs_of, write_build
from tests.real import real_data
from tests.release_chain import seal_again

NUM_HISTORY, NUM_FRAMES, DOWN_SAMPLE = 6, 5, 3
SPLITS = ("train", "val")
KEYS = (
    *("texts", "episode_id", "success", "video_length", "state_length", "raw_length", "videos", "states"),
    *(f"observation.state.{part}_position" for part in ("cartesian", "joint", "gripper")),
    *(f"action.{part}_position" for part in ("cartesian", "joint", "gripper")),
)
"""What Ctrl-World's ``extract_latent.py`` writes, but for ``latent_videos``, and ``action.joint_velocity`` which is no action
of ours."""


def fake(lengths: Sequence[int] = (7, 1, 40), **recipe: Any) -> FakeBuild:
    return make_build(lengths, **needs_of("ctrlworld", **recipe))


def ctrlworld_sample(folder: Path, name: str, split: str, index: int, cameras: int, skip: int = 1) -> dict[str, Any]:
    """What ``Dataset_mix.__getitem__`` of Ctrl-World makes of a sample, its random choices taken out; three views as they are."""
    sample = read_json(folder / "dataset_meta_info" / name / f"{split}_sample.json")[index]
    stat = read_json(folder / "dataset_meta_info" / name / "stat.json")
    label = read_json(folder / "annotation" / split / f"{sample['episode_id']}.json")
    frame_len = np.floor((len(label["observation.state.joint_position"]) - 1) / 3)
    now = sample["frame_ids"][0]
    ids = [now - i * skip * 4 for i in range(NUM_HISTORY, 0, -1)] + [now + i * skip for i in range(NUM_FRAMES)]
    rgb = [int(one) for one in np.clip(ids, 0, frame_len)]
    steps = np.array(rgb) * DOWN_SAMPLE
    latents = []
    for camera in range(cameras):
        video = torch.load(folder / label["latent_videos"][camera]["latent_video_path"])
        assert max(rgb) < len(video)  # the loader would show the last one instead
        latents.append(video[rgb])
    pose = np.array(label["observation.state.cartesian_position"])[steps]
    gripper = np.array(label["observation.state.gripper_position"])[steps][..., np.newaxis]
    action = np.concatenate((pose, gripper), axis=-1)
    low, high = (np.array(stat[key])[None, :] for key in ("state_01", "state_99"))
    action = np.clip(2 * (action - low) / (high - low + 1e-8) - 1, -1, 1)
    return {"text": label["texts"][0], "latents": latents, "action": action, "rgb": rgb, "steps": steps, "label": label}


def episode_of(build: FakeBuild, label: dict[str, Any]) -> BuiltEpisode:
    return build.episodes[label["episode_id"]]


def test_ctrlworld_gets_the_latent_and_the_state_of_one_instant(tmp_path: Path) -> None:
    build = fake()
    write_build(ctrlworld, build, tmp_path)
    name, seen = build.group.name, 0
    for index in range(len(read_json(tmp_path / f"dataset_meta_info/{name}/train_sample.json"))):
        sample = ctrlworld_sample(tmp_path, name, "train", index, 2)
        episode = episode_of(build, sample["label"])
        assert sample["text"] == episode.plan.instruction
        for view, latent in zip(("primary", "wrist_left"), sample["latents"], strict=True):
            assert latent.dtype == torch.float32
            np.testing.assert_array_equal(latent.numpy(), episode.latents[view][0].values[sample["steps"]])
        stats = build.group.normalizing("proprio")
        state = episode.proprio[sample["steps"], :7].astype(np.float64)
        low, high = stats.q01[:7], stats.q99[:7]
        np.testing.assert_array_equal(sample["action"], np.clip(2 * (state - low) / (high - low + 1e-8) - 1, -1, 1))
        seen += 1
    assert seen == 1 + 1 + (14 - 4 - 1)  # all but the last four of 14 frames, and the one that is not valid


def test_irasim_and_vpp_get_states_latents_and_frames_of_one_index(tmp_path: Path) -> None:
    build = fake()
    write_build(ctrlworld, build, tmp_path)
    for path in (tmp_path / "annotation/train").iterdir():
        label = read_json(path)
        episode = episode_of(build, label)
        shown = episode.proprio[::3].astype(np.float64)
        count = len(label["state"])  # of frames, for both
        assert count == label["video_length"] == label["state_length"] == len(shown)
        np.testing.assert_array_equal(np.array(label["state"])[:, :6], shown[:, :6])
        np.testing.assert_array_equal(label["continuous_gripper_state"], shown[:, 6])
        for camera, view in enumerate(("primary", "wrist_left")):
            video = torch.load(tmp_path / label["latent_videos"][camera]["latent_video_path"])
            np.testing.assert_array_equal(video.numpy(), episode.latents[view][0].values[::3])
            marks = [read_mark(frame) for frame in movie([tmp_path / label["videos"][camera]["video_path"]])]
            numbers = range(0, episode.plan.num_steps, 3)
            assert marks == [Mark(frame_number(view, step), episode.plan.episode_index) for step in numbers]


def test_what_the_annotation_says_is_what_was_pushed(tmp_path: Path) -> None:
    build = fake((7, 4), content="frames", encoder=None)
    plan = dataclasses.replace(
        build.episodes[0].plan,
        success=False,
        split="val",
        instructions=((0, "reach"), (3, "lift")),
        other_instructions=("get it",),
    )
    unjudged = dataclasses.replace(build.episodes[1].plan, success=None)
    changed = tuple(
        dataclasses.replace(episode, plan=of) for episode, of in zip(build.episodes, (plan, unjudged), strict=True)
    )
    unit = dataclasses.replace(build.units[0], episodes=(plan, unjudged))
    write_build(ctrlworld, dataclasses.replace(build, episodes=changed, units=(unit,)), tmp_path)
    label, other = read_json(tmp_path / "annotation/val/0.json"), read_json(tmp_path / "annotation/train/1.json")
    assert label["texts"] == ["pick up the cube", "reach", "lift", "get it"]
    assert (label["success"], label["raw_length"], label["invalid_steps"]) == (0, 7, [3])
    assert "latent_videos" not in label
    assert "success" not in other
    episode = build.episodes[0]
    np.testing.assert_array_equal(label["observation.state.cartesian_position"], episode.proprio[:, :6].astype(float))
    np.testing.assert_array_equal(label["action.gripper_position"], episode.action[:, 6].astype(float))
    assert len(label["observation.state.joint_position"]) == 7  # of a robot whose joints nobody measured
    assert label["lineage"]["episode"] == episode.plan.episode_id
    index = read_json(tmp_path / "dataset_meta_info/made_up/index.json")
    assert (index["cameras"], index["video_rate"]) == (["primary", "wrist_left"], "5")
    assert index["num_episodes"] == {"train": 1, "val": 1}
    assert ctrlworld.FORMAT.count(tmp_path) == {"samples": 2, "frames": 2 * (3 + 2), "episodes": 2}


def test_numbers_without_a_field_of_their_own_are_kept(tmp_path: Path) -> None:
    build = make_build((5,), **needs_of("ctrlworld") | {"proprio_width": 9, "action_width": 8})
    write_build(ctrlworld, build, tmp_path)
    label, (episode,) = read_json(tmp_path / "annotation/train/0.json"), build.episodes
    np.testing.assert_array_equal(label["observation.state.others"], episode.proprio[:, 7:].astype(float))
    np.testing.assert_array_equal(label["action.others"], episode.action[:, 7:].astype(float))


def test_samples_keep_off_gaps_and_what_is_left_out() -> None:
    whole, twelve = np.ones(36, bool), np.full(36, 36)
    assert sample_frames(whole, twelve, 3) == list(range(8))
    assert sample_frames(whole[:6], np.full(6, 6), 3) == [0]
    gap = np.where(np.arange(36) < 20, 20, 36)  # frames 0 to 6, and 7 to 11
    assert sample_frames(whole, gap, 3) == [0, 1, 2, 7]
    half = np.arange(36) >= 12
    assert sample_frames(half, twelve, 3) == [4, 5, 6, 7]
    assert sample_frames(whole, twelve, 6) == [0, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalize": "quantile"}, "would have done so before"),
        ({"content": "latents"}, "there are none"),
    ],
)
def test_it_says_what_it_needs(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    build = fake((7,))
    with pytest.raises(RecipeError, match=said):
        ctrlworld.FORMAT.open_unit(build.units[0], build.recipe.model_copy(update=change), tmp_path)


def test_a_robot_without_a_pose_is_refused(tmp_path: Path) -> None:
    build = make_build((7,), **needs_of("ctrlworld") | {"arm": False})
    with pytest.raises(RecipeError, match="no such pose"):
        ctrlworld.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)
    card = fake((7,)).group.card
    names = (*card.proprio, Channel(name="second_gripper", unit="1", kind=card.proprio[6].kind))
    group = dataclasses.replace(build.group, card=card.model_copy(update={"proprio": names}))
    with pytest.raises(RecipeError, match="no such gripper"):
        ctrlworld.FORMAT.open_unit(dataclasses.replace(build.units[0], group=group), build.recipe, tmp_path)


@pytest.mark.parametrize(("stride", "kept", "reason"), [(4, 1.0, "encoder"), (1, 0.6, "no_latents")])
def test_frames_without_a_latent_of_their_own_are_refused(
    stride: int, kept: float, reason: str, tmp_path: Path
) -> None:
    build = make_build((9,), **needs_of("ctrlworld") | {"latent_stride": stride})
    (episode,) = build.episodes
    latents = {}
    for view, (clip,) in episode.latents.items():
        count = int(kept * len(clip.plan.frame_ids))
        plan = dataclasses.replace(
            clip.plan, frame_ids=clip.plan.frame_ids[:count], times_ns=clip.plan.times_ns[:count]
        )
        latents[view] = [dataclasses.replace(clip, plan=plan, values=clip.values[:count])]
    build = dataclasses.replace(build, episodes=(dataclasses.replace(episode, latents=latents),))
    with pytest.raises(ReleaseError) as caught:
        write_build(ctrlworld, build, tmp_path)
    assert caught.value.reason == reason


def test_what_does_not_count_has_the_latent_that_was_there_last(tmp_path: Path) -> None:
    build = make_build((9,), **needs_of("ctrlworld"))
    (episode,) = build.episodes
    valid, latents = episode.valid.copy(), {}
    valid[6:] = False  # step 6 shows a frame that was never encoded
    for view, (clip,) in episode.latents.items():
        plan = dataclasses.replace(clip.plan, frame_ids=clip.plan.frame_ids[:4], times_ns=clip.plan.times_ns[:4])
        latents[view] = [dataclasses.replace(clip, plan=plan, values=clip.values[:4])]
    build = dataclasses.replace(build, episodes=(dataclasses.replace(episode, latents=latents, valid=valid),))
    write_build(ctrlworld, build, tmp_path)
    for camera, view in enumerate(("primary", "wrist_left")):
        video = torch.load(tmp_path / f"latent_videos/train/0/{camera}.pt").numpy()
        np.testing.assert_array_equal(video, latents[view][0].values[[0, 3, 3]])


def test_a_frame_on_several_canvases_has_the_latent_of_the_instant() -> None:
    values = np.arange(4.0)[:, None]
    plan = ClipPlan("e", "canvas", "v", "f", (0, 0, 0, 3), (0, 100_000_000, 200_000_000, 300_000_000), None)
    found = FrameLatents([LatentClip(plan, values, 1, 1, "id", 0)])
    for time_ns, latent in ((0, 0), (100_000_000, 1), (250_000_000, 2), (-70_000_000, 0)):
        assert found.of(0, time_ns) == latent
    assert found.of(1, 100_000_000) is None
    assert (found.before(2, 0), found.before(3, 0), FrameLatents([]).before(0, 0)) == (2, 3, None)


def test_latents_of_other_lengths_than_the_video_are_noticed(tmp_path: Path) -> None:
    write_build(ctrlworld, fake((9,)), tmp_path)
    torch.save(torch.zeros(2, 4, 3, 4), tmp_path / "latent_videos/train/0/1.pt")
    with pytest.raises(ReleaseError, match="not of 3 frames"):
        ctrlworld.FORMAT.count(tmp_path)


# --- from recordings -------------------------------------------------------------------------------------------------


def write_droid(folder: Path, lengths: Sequence[int]) -> Path:
    """A set as Ctrl-World makes it of DROID, with numbers in the pixels: rows at 15 Hz, videos and states at 5 Hz."""
    draws = np.random.default_rng(5)
    for index, length in enumerate(lengths):
        split, count = "val" if index == 1 else "train", -(-length // 3)
        videos = [f"videos/{split}/{index}/{camera}.mp4" for camera in range(3)]
        for camera, name in enumerate(videos):
            video = VideoWriter(folder / name, Fraction(5), 64, 96, VideoRecipe())
            for number in range(count):
                grey = np.full((64, 96, 3), 60 + 12 * (number % 8) + 9 * camera, np.uint8)
                video.write(draw(grey, number + 1000 * camera, index)[None], key_frame=number == 0)
            video.close()
        walk = np.cumsum(draws.normal(0, 0.01, (length, 27)), axis=0).astype(np.float32).astype(float)
        state, action = (
            {
                "cartesian_position": walk[:, at : at + 6].tolist(),
                "joint_position": (walk[:, at + 6 : at + 13] + [0, 0, 0, -2, 0, 2, 0]).astype(np.float32).astype(float).tolist(),
                "gripper_position": np.linspace(0, 1, length).astype(np.float32).astype(float).tolist(),
            }
            for at in (0, 13)
        )  # fmt: skip
        states = np.column_stack([state["cartesian_position"], state["gripper_position"]])[::3]
        facts = {
            "texts": ["put the marker into the mug", "stack the cups", ""][index % 3 : index % 3 + 1],
            "episode_id": index,
            "success": index % 2,
            "video_length": count,
            "state_length": count,
            "raw_length": length,
            "videos": [{"video_path": name} for name in videos],
            "states": states.tolist(),
            **{f"observation.state.{name}": values for name, values in state.items()},
            **{f"action.{name}": values for name, values in action.items()},
        }
        path = folder / "annotation" / split / f"{index}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts))
    return folder


def labels(folder: Path) -> dict[str, dict[str, Any]]:
    """The annotations under ``folder`` by where they are of: the recorded, or the released with its lineage."""
    found = {}
    for path in sorted(folder.glob("annotation/*/*.json")):
        label = read_json(path)
        key = label["lineage"]["source_key"] if "lineage" in label else f"{path.parent.name}/{int(path.stem):06d}"
        found[key] = label
    return found


def check_round_trip(source: Path, release: Path) -> None:
    """Bit for bit what the files said: numbers, texts, lengths, keys."""
    recorded, written = labels(source), labels(release)
    assert sorted(recorded) == sorted(written)
    for key, label in written.items():
        before = recorded[key]
        assert set(KEYS) <= set(label)
        same = [name for name in (*KEYS, "joints") if name in before and name not in ("episode_id", "videos")]
        assert {name: label[name] for name in same} == {name: before[name] for name in same}, key
        assert len(label["videos"]) == len(before["videos"]) == 3
        for camera in range(3):
            assert sum(1 for _ in movie([release / label["videos"][camera]["video_path"]])) == before["video_length"]


def test_a_set_comes_back_from_the_lake_as_it_was(tmp_path: Path) -> None:
    source, lake = write_droid(tmp_path / "droid", (25, 16, 14)), tmp_path / "lake"
    answer = run_ingest([source], lake)
    assert answer.values["kept"] == 3, answer.values
    assert len(Lake.open(lake).rows("episodes", ["episode_id"], WITH_INSTRUCTION)) == 2  # one says nothing
    weights = tiny_models.make("svd", tmp_path / "svd")
    recipe = EncodeRecipe(encoder="svd", weights=str(weights), clip=ClipRecipe(kind="frames"))
    assert run_encode(lake, recipe).exit_code == 0
    out = tmp_path / "release"
    build = BuildRecipe(
        formats=("ctrlworld",),
        content="both",
        encoder="svd",
        latent_rate="native",
        split=SplitRecipe(val_fraction=0.4),
        seed=1,
    )
    run_build(lake, out, build)
    (folder,) = (out / "ctrlworld").iterdir()
    check_round_trip(source, folder)
    latents = {
        (row["episode_id"], row["slot"], frame): values
        for row in Lake.open(lake).rows("latents", ["episode_id", "slot", "frame_ids", "data", "dtype", "shape"])
        for frame, values in zip(
            row["frame_ids"], np.frombuffer(row["data"], row["dtype"]).reshape(row["shape"]), strict=True
        )
    }
    for label in labels(folder).values():
        index = int(label["lineage"]["source_key"].rpartition("/")[2])
        for camera, slot in enumerate(("primary", "secondary", "wrist_left")):
            marks = [read_mark(frame) for frame in movie([folder / label["videos"][camera]["video_path"]])]
            assert marks == [Mark(number + 1000 * camera, index) for number in range(label["video_length"])]
            video = torch.load(folder / label["latent_videos"][camera]["latent_video_path"])
            assert video.shape[:2] == (label["video_length"], 4)
            for number, values in enumerate(video.numpy()):
                np.testing.assert_array_equal(values, latents[label["lineage"]["episode"], slot, number])
    for split in SPLITS:
        for index in range(len(read_json(folder / f"dataset_meta_info/{folder.name}/{split}_sample.json"))):
            assert ctrlworld_sample(folder, folder.name, split, index, 3)["action"].shape == (11, 7)
    result = verify_release(out, Lake.open(lake))
    assert result.ok
    assert result.checked["latents_compared_with_the_lake"] == len(latents)
    path = next(folder.rglob("*.pt"))
    write_torch(path, read_torch(path).flip(0))
    seal_again(out)
    problems = verify_release(out, Lake.open(lake)).problems
    assert problems
    assert all(found.message.startswith(f"{path}: the latent of frame ") for found in problems)
    write_torch(path, read_torch(path).flip(0))
    annotation = next(folder.glob("annotation/*/*.json"))
    facts = read_json(annotation)
    annotation.write_text(json.dumps({**facts, "latent_videos": facts["latent_videos"][::-1]}))
    seal_again(out)
    (problem,) = verify_release(out, Lake.open(lake)).problems
    assert problem.message.startswith(f"{annotation}: its latents are not those of its cameras")


def cartesian_at(columns: dict[str, np.ndarray], seconds: np.ndarray) -> np.ndarray:
    """x, y, z of a recording at these seconds [N, 3]."""
    own = (columns[STEP_START] - columns[STEP_START][0]) / 1e3
    pose = columns["observation/robot_state/cartesian_position"]
    return np.stack([np.interp(seconds, own, pose[:, axis]) for axis in range(3)], axis=1)


def test_recordings_of_15_hz_make_data_of_5_hz_also_where_a_camera_was_late_or_stopped_early(tmp_path: Path) -> None:
    told = columns(31)
    for row in (12, 17):  # these arrive after their rows began: what is shown then is the frame before
        told[f"observation/timestamp/cameras/{EXT1}_estimated_capture"][row] += 25
    serials = {EXT1: 31, EXT2: 30, WRIST: 31}
    videos = {f"{one}.mp4": encode("h264", pictures(count, tag=3)) for one, count in serials.items()}
    write_recording(tmp_path / "droid", arrays=told, facts=metadata(trajectory_length=31), videos=videos)
    lake = tmp_path / "lake"
    assert run_ingest([tmp_path / "droid"], lake).values["kept"] == 1
    weights = tiny_models.make("svd", tmp_path / "svd")
    small = ["--set", "views.height_px=96", "--set", "views.width_px=160"]
    build_as_told("ctrlworld.toml", lake, tmp_path / "release", weights, *small)
    (folder,) = (tmp_path / "release" / "ctrlworld").iterdir()
    (label,) = labels(folder).values()
    assert (label["raw_length"], label["video_length"]) == (30, 10)  # the rows are 66.5 ms apart: 2 s hold 30 instants
    latents = {
        (row["slot"], frame): values
        for row in Lake.open(lake).rows("latents", ["slot", "frame_ids", "data", "dtype", "shape"])
        for frame, values in zip(
            row["frame_ids"], np.frombuffer(row["data"], row["dtype"]).reshape(row["shape"]), strict=True
        )
    }
    shown = {"primary": [0, 3, 6, 9, 11, 15, 18, 21, 24, 27], "secondary": list(range(0, 30, 3))}
    for camera, slot in enumerate(("primary", "secondary", "wrist_left")):
        frames = shown.get(slot, shown["secondary"])
        marks = [read_mark(frame) for frame in movie([folder / label["videos"][camera]["video_path"]])]
        assert marks == [Mark(frame, 3) for frame in frames]
        video = torch.load(folder / label["latent_videos"][camera]["latent_video_path"]).numpy()
        np.testing.assert_array_equal(video, np.stack([latents[slot, frame] for frame in frames]))
    np.testing.assert_allclose(np.array(label["states"])[:, :3], cartesian_at(told, np.arange(10) / 5), atol=1e-6)
    for index in range(6):
        sample = ctrlworld_sample(folder, folder.name, "train", index, 3)
        np.testing.assert_array_equal(sample["steps"], 3 * np.array(sample["rgb"]))


def test_slow_cameras_come_through_droids_own_tree(tmp_path: Path) -> None:
    source, lake, again = write_droid(tmp_path / "droid", (25, 16)), tmp_path / "lake", tmp_path / "again"
    run_ingest([source], lake)
    run_build(lake, tmp_path / "raw", BuildRecipe(formats=("droid_raw",)))
    answer = run_ingest([tmp_path / "raw" / "droid_raw"], again).values
    assert answer["kept"] == 2, answer["problems"]
    clip = ClipRecipe(kind="frames")
    assert run_encode(again, EncodeRecipe(rate=15, frame_stride=3, clip=clip)).exit_code == 0
    recipe = BuildRecipe(formats=("ctrlworld",), rate=15, content="both", encoder="wavelet", latent_rate="5")
    run_build(again, tmp_path / "release", recipe)
    (folder,) = (tmp_path / "release" / "ctrlworld").iterdir()
    recorded = {label["raw_length"]: label for label in labels(source).values()}
    for label in labels(folder).values():
        count = label["video_length"]
        before = recorded[min(recorded, key=lambda length: abs(length - label["raw_length"]))]
        assert count == before["video_length"]
        np.testing.assert_allclose(np.array(label["states"])[:, :3], np.array(before["states"])[:, :3], atol=1e-6)
        for camera in range(3):
            marks = [read_mark(frame) for frame in movie([folder / label["videos"][camera]["video_path"]])]
            assert [mark and mark.frame - 1000 * camera for mark in marks] == list(range(count))


def commanded(lake: Lake) -> list[bytes]:
    """The joints that every episode commands, whatever its name."""
    ids = [row["episode_id"] for row in lake.rows("episodes", ["episode_id"])]
    streams = [stream for episode in stored_episodes(lake, ids) for stream in episode.streams]
    return sorted(one.values.tobytes() for one in streams if one.name == "action.joint_position")


def test_a_release_is_a_set_that_can_be_ingested(tmp_path: Path) -> None:
    source, lake = write_droid(tmp_path / "droid", (40, 31)), tmp_path / "lake"
    run_ingest([source], lake)
    run_build(lake, tmp_path / "release", BuildRecipe(formats=("ctrlworld",)))
    again = run_ingest([tmp_path / "release" / "ctrlworld"], tmp_path / "second")
    assert again.values["kept"] == 2, again.values
    one, two = (commanded(Lake.open(root)) for root in (lake, tmp_path / "second"))
    assert one == two


def test_another_stride_takes_other_frames(tmp_path: Path) -> None:
    source, lake = write_droid(tmp_path / "droid", (20,)), tmp_path / "lake"
    run_ingest([source], lake)
    recipe = BuildRecipe(
        formats=("ctrlworld",), rate=5, ctrlworld=CtrlWorldRecipe(frame_stride=1), views=ViewsRecipe(slots=("primary",))
    )
    run_build(lake, tmp_path / "release", recipe)
    (label,) = labels(next((tmp_path / "release" / "ctrlworld").iterdir())).values()
    assert (label["video_length"], label["raw_length"], len(label["videos"])) == (7, 7, 1)


@pytest.mark.real
def test_real_episodes_come_back_from_the_lake_as_they_were(tmp_path: Path) -> None:
    source, lake = real_data("ctrlworld_droid"), tmp_path / "lake"
    run_ingest([source], lake)
    run_build(lake, tmp_path / "release", BuildRecipe(formats=("ctrlworld",)))
    (folder,) = (tmp_path / "release" / "ctrlworld").iterdir()
    check_round_trip(source / "droid_subset", folder)
    written = labels(folder)
    assert sum(label["video_length"] for label in written.values()) == 854
    ids = {label["episode_id"]: int(label["lineage"]["source_key"].rpartition("/")[2]) for label in written.values()}
    ours = {
        (ids[one["episode_id"]], *one["frame_ids"])
        for one in read_json(folder / f"dataset_meta_info/{folder.name}/train_sample.json")
    }
    theirs = {
        (one["episode_id"], *one["frame_ids"])
        for split in SPLITS
        for one in read_json(source / f"dataset_meta_info/droid_subset/{split}_sample.json")
    }
    named = {episode for episode, _ in theirs}
    assert len(named) == 9  # its list for validation leaves out two episodes that lie beside it
    assert {one for one in ours if one[0] in named} == theirs
