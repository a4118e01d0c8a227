"""LingBot-VA's latents, read as ``LatentLeRobotDataset`` reads them: a stand-in of its alignment, frozen from its code."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import texts
from jobs.options import TextsOptions
from pipelines.build_plan import plan_build
from pipelines.build_unit import BuildWorker
from pipelines.formats import BuiltEpisode, lingbot
from pipelines.lake import Lake
from pipelines.latent_steps import clip_steps
from pipelines.text_rows import embedding_of
from schemas.errors import RecipeError, ReleaseError
from schemas.latent import ClipPlan, LatentClip
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, SegmentFilter, ViewsRecipe
from schemas.release_choices import TextChoice
from schemas.text_recipe import TextRecipe
from tests.chain import read_json, run_encode
from tests.fake_build import FakeBuild, make_build, needs_of, write_build
from tests.gap_lake import NUM_STEPS, SECOND_TASK, TASKS, gap_lake

CAMERAS = ("observation.images.primary", "observation.images.wrist_left")


def fake(lengths: tuple[int, ...] = (7, 1, 12), views: Any = None) -> FakeBuild:
    sized = (("primary", 64, 96), ("wrist_left", 64, 64))
    return make_build(lengths, **needs_of("lingbot", views or sized))


def read_sample(
    folder: Path, row: dict[str, Any], action: np.ndarray, cameras: tuple[str, ...] = CAMERAS
) -> dict | None:
    """What the loader makes of one entry of ``action_config``; None where it passes over it.

    From ``_check_meta``, ``_get_range_latent_data``, ``_cat_video_latents`` and ``_action_post_process``.
    """
    episode, start, end = row["episode_index"], row["start_frame"], row["end_frame"]
    chunk = folder / "latents" / f"chunk-{episode // 1000:03d}"
    files = [chunk / camera / f"episode_{episode:06d}_{start}_{end}.pth" for camera in cameras]
    if not all(file.exists() for file in files):
        return None
    data = [torch.load(file, weights_only=False) for file in files]
    latents = [
        one["latent"].reshape(one["latent_num_frames"], one["latent_height"], one["latent_width"], -1) for one in data
    ]
    latent = torch.cat(latents, dim=2)  # along width
    ids = data[0]["frame_ids"]
    stride = ids[1] - ids[0]
    rows = np.pad(action[start:end][ids[0] - start :], ((4 * stride, 0), (0, 0)))
    count = (len(ids) - 1) // 4 + 1
    needed = count * stride * 4
    rows = rows[:needed]
    assert rows.shape[0] == needed
    assert count == len(latent)
    actions = rows.reshape(count, 4 * stride, -1)
    return {"latents": latent.permute(3, 0, 1, 2), "actions": actions, "text_emb": data[0]["text_emb"], "of": data}


def rows_of(episode: BuiltEpisode) -> list[dict[str, Any]]:
    """``action_config`` as LeRobot v2.1's writer puts it into ``episodes.jsonl``."""
    return [
        {"episode_index": episode.plan.episode_index, "start_frame": start, "end_frame": stop, "action_text": text}
        for start, stop, text in episode.plan.texts
    ]


def test_the_loader_gets_latents_texts_and_the_actions_between_frames(tmp_path: Path) -> None:
    build = fake()
    write_build(lingbot, build, tmp_path)
    read = 0
    for episode in build.episodes:
        for row in rows_of(episode):
            sample = read_sample(tmp_path, row, episode.action)
            if row["end_frame"] < 5:
                assert sample is None
                continue
            assert sample is not None
            read += 1
            left, right = (episode.latents[view][0].values for view in ("primary", "wrist_left"))
            expected = torch.from_numpy(np.concatenate([left, right], axis=3)).to(torch.bfloat16)  # L C h w
            assert torch.equal(sample["latents"], expected.permute(1, 0, 2, 3))
            assert not sample["actions"][0].any()
            following = episode.action[: 4 * (len(left) - 1)]
            np.testing.assert_array_equal(sample["actions"][1:].reshape(len(following), -1), following)
            embedding = torch.from_numpy(episode.embeddings[row["action_text"]].values).to(torch.bfloat16)
            assert torch.equal(sample["text_emb"], embedding)
            for one, (height, width) in zip(sample["of"], ((64, 96), (64, 64)), strict=True):
                assert one["text"] == row["action_text"]
                assert (one["start_frame"], one["end_frame"]) == (row["start_frame"], row["end_frame"])
                assert (one["fps"], one["ori_fps"]) == (15, 15)
                assert (one["video_height"], one["video_width"]) == (height, width)
                assert one["video_num_frames"] == len(one["frame_ids"]) == 1 + 4 * (len(left) - 1)
                assert {type(number) for number in one["frame_ids"]} == {int}
    assert read == 2
    empty = torch.load(tmp_path / "empty_emb.pt", weights_only=False)
    assert torch.equal(empty, torch.from_numpy(build.episodes[0].embeddings[""].values).to(torch.bfloat16))
    told = json.loads((tmp_path / "meta/lingbot_left_out.json").read_text())
    assert told["segments"] == {"planned": 3, "written": 2, "left_out": 1}
    assert [(one["episode_index"], one["reason"]) for one in told["left_out"]] == [(1, "too_short")]


def cut(build: FakeBuild, runs: tuple[tuple[int, str], ...], clips: dict[str, list[LatentClip]]) -> FakeBuild:
    """``build`` of one episode with other runs of instructions and other latents."""
    (episode,) = build.episodes
    plan = dataclasses.replace(episode.plan, instructions=runs)
    embeddings = {text: episode.embeddings[""] for _, text in runs} | {"": episode.embeddings[""]}
    changed = dataclasses.replace(episode, plan=plan, latents=clips, embeddings=embeddings)
    unit = dataclasses.replace(build.units[0], episodes=(plan,))
    return dataclasses.replace(build, episodes=(changed,), units=(unit,))


def clip_of(
    episode: BuiltEpisode, view: str, steps: range | list[int], size: tuple[int, int] | None = None
) -> LatentClip:
    """A clip of the frames that the view shows at ``steps``."""
    ids = tuple(episode.frame_ids[view][list(steps)].tolist())
    plan = ClipPlan(
        episode.plan.episode_id,
        view,
        "views",
        "encoder",
        ids,
        tuple(episode.times_ns[list(steps)].tolist()),
        Fraction(15),
    )
    values = np.full(
        (1 + (len(ids) - 1) // 4, 2, *(size or episode.latents[view][0].values.shape[2:])), steps[0], np.float32
    )
    return LatentClip(plan, values, 4, 1, plan.latent_id, 0)


def test_each_segment_takes_the_longest_clip_inside_it(tmp_path: Path) -> None:
    build = fake((40,), views=(("primary", 64, 64),))
    (episode,) = build.episodes
    clips = [
        clip_of(episode, "primary", steps)
        for steps in (range(5), range(1, 10), range(2, 19, 2), range(11, 20), range(22, 31), range(31, 36))
    ]
    build = cut(build, ((0, "reach"), (20, "grasp"), (31, "lift"), (36, "wait")), {"primary": clips})
    write_build(lingbot, build, tmp_path)
    rows = rows_of(build.episodes[0])
    found = [read_sample(tmp_path, row, episode.action, CAMERAS[:1]) for row in rows]
    assert [one and one["of"][0]["frame_ids"] for one in found] == [
        list(range(1, 10)),  # as long as others, and the first of these
        list(range(22, 31)),
        list(range(31, 36)),
        None,
    ]
    told = json.loads((tmp_path / "meta/lingbot_left_out.json").read_text())
    assert told["segments"] == {"planned": 4, "written": 3, "left_out": 1}
    assert [(one["start_frame"], one["first_frame"], one["last_frame"]) for one in told["notes"]] == [
        (0, 1, 9),
        (20, 22, 30),
    ]
    assert told["notes"][0]["invalid_steps"] == 1
    assert lingbot.FORMAT.count(tmp_path) == {"samples": 3, "frames": 9 + 9 + 5, "episodes": 1}


def test_a_stride_shows_in_frame_ids_and_fps_and_in_the_actions(tmp_path: Path) -> None:
    build = fake((40,), views=(("primary", 64, 64),))
    (episode,) = build.episodes
    build = cut(build, ((0, "reach"),), {"primary": [clip_of(episode, "primary", range(2, 38, 3)[:9])]})
    write_build(lingbot, build, tmp_path)
    sample = read_sample(tmp_path, rows_of(build.episodes[0])[0], episode.action, CAMERAS[:1])
    assert sample is not None
    assert sample["of"][0]["frame_ids"] == list(range(2, 27, 3))
    assert (sample["of"][0]["fps"], sample["of"][0]["ori_fps"]) == (5, 15)
    np.testing.assert_array_equal(sample["actions"][1:].reshape(24, -1), episode.action[2:26])


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ({"primary": [range(5)], "wrist_left": []}, "no_clip"),
        ({"primary": [range(5)], "wrist_left": [range(1, 6)]}, "views_differ"),
        ({"primary": [range(5)], "wrist_left": [range(1)]}, "too_short"),
        ({"primary": [range(5)], "wrist_left": [[0, 1, 2, 3, 5]]}, "uneven"),
    ],
)
def test_a_segment_that_lacks_a_camera_is_told(steps: dict[str, list], reason: str, tmp_path: Path) -> None:
    build = fake((24,))
    (episode,) = build.episodes
    clips = {view: [clip_of(episode, view, run) for run in runs] for view, runs in steps.items()}
    whole = {view: [clip_of(episode, view, range(12, 21))] for view in steps}
    build = cut(build, ((0, "reach"), (12, "lift")), {view: clips[view] + whole[view] for view in steps})
    write_build(lingbot, build, tmp_path)
    told = json.loads((tmp_path / "meta/lingbot_left_out.json").read_text())
    assert [(one["start_frame"], one["reason"]) for one in told["left_out"]] == [(0, reason)]
    assert lingbot.FORMAT.count(tmp_path)["samples"] == 1


def test_a_release_of_which_nothing_can_be_trained_is_refused(tmp_path: Path) -> None:
    build = fake((24,))
    (episode,) = build.episodes
    build = cut(build, ((0, "reach"), (12, "lift")), dict(episode.latents))  # not cut where the instruction changes
    with pytest.raises(ReleaseError, match="none of its 2 segments") as caught:
        write_build(lingbot, build, tmp_path)
    assert "language" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"temporal_stride": 8}, "encoder"), ({"values": np.zeros((3, 2, 5, 6), np.float32)}, "frame_count")],
)
def test_latents_that_the_loader_would_misread_are_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    build = fake((7,))
    (episode,) = build.episodes
    clips = {"primary": [dataclasses.replace(episode.latents["primary"][0], **change)]}
    build = dataclasses.replace(build, episodes=(dataclasses.replace(episode, latents=episode.latents | clips),))
    with pytest.raises(ReleaseError) as caught:
        write_build(lingbot, build, tmp_path)
    assert caught.value.reason == reason


def test_latents_of_other_frames_than_the_videos_are_refused(tmp_path: Path) -> None:
    build = fake((7,))
    (episode,) = build.episodes
    clips = {"primary": [clip_of(episode, "primary", range(5), (5, 6))]}
    build = dataclasses.replace(build, episodes=(dataclasses.replace(episode, latents=episode.latents | clips),))
    with pytest.raises(ReleaseError, match="not of frames of 96 x 64"):
        write_build(lingbot, build, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"texts": None}, "joins none"),
        ({"content": "frames"}, "latents"),
        ({"segments": SegmentFilter(skip=("idle",))}, "whole language segments"),
    ],
)
def test_it_says_what_it_needs(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    build = fake((7,))
    with pytest.raises(RecipeError, match=said):
        lingbot.FORMAT.open_unit(build.units[0], build.recipe.model_copy(update=change), tmp_path)


def test_frames_are_found_by_instant_or_by_number() -> None:
    times, ids = np.arange(0, 900, 100), np.array([0, 0, 1, 1, 2, 2, 3, 3, 4])

    def steps(frames: tuple[int, ...], at: tuple[int, ...]) -> list[int] | None:
        found = clip_steps(ClipPlan("e", "primary", "v", "f", frames, at, None), times, ids)
        return None if found is None else found.tolist()

    assert steps((0, 1, 1), (100, 200, 301)) == [1, 2, 3]  # of the steps' own grid, where a frame may stay
    assert steps((0, 1, 3), (5, 190, 603)) == [0, 2, 6]  # a camera with other instants
    assert steps((0, 1, 1), (5, 190, 603)) is None  # two frames of one step
    assert steps((0, 9), (0, 100)) is None  # no step shows it
    assert steps((1,), (200,)) == [2]
    assert clip_steps(ClipPlan("e", "primary", "v", "f", (0,), (0,), None), times[:0], ids[:0]) is None


def test_latents_and_texts_of_the_lake(tmp_path: Path) -> None:
    """A recording with a gap behind step 9 and another instruction from step 20 on; its files go into a folder alone."""
    root, staging = gap_lake(tmp_path / "gap"), tmp_path / "staging"
    views = ViewsRecipe(height_px=32, width_px=32)
    encoding = EncodeRecipe(encoder="wavelet", views=views, clip=ClipRecipe(bounds=("language",)))
    assert run_encode(root, encoding).exit_code == 0
    made = texts.run(TextsOptions(str(root), TextRecipe(dtype="bfloat16"), "", False, "inline"))
    assert made.exit_code == 0
    lake = Lake.open(root)
    recipe = BuildRecipe(
        formats=("parquet",), content="both", encoder="wavelet", views=views, texts=TextChoice(encoder="hashed")
    )
    plan = plan_build(lake, recipe, "0")
    chosen = recipe.model_copy(update={"formats": ("lingbot",)})
    worker = BuildWorker(str(root), lake.versions(), str(staging), chosen, plan.latents)
    (unit,) = plan.units
    worker(unit)
    worker.close()
    (group,) = plan.groups
    folder = staging / "files" / "lerobot_v21" / group.name
    facts = read_json(staging / "records" / f"{unit.unit_id}.json")["facts"]["lingbot"]
    counts = lingbot.FORMAT.finish(group, recipe, [(unit.payload[0], facts)], folder)
    assert counts == lingbot.FORMAT.count(folder) == {"samples": 2, "frames": 9 + 9, "episodes": 1}
    action = np.arange(NUM_STEPS, dtype=np.float64)[:, None]
    clips = {tuple(row["frame_ids"]): row for row in lake.rows("latents", ["frame_ids", "data", "dtype", "shape"])}
    for (start, stop), text in zip(((0, SECOND_TASK), (SECOND_TASK, NUM_STEPS)), TASKS, strict=True):
        row = {"episode_index": 0, "start_frame": start, "end_frame": stop}
        sample = read_sample(folder, row, action, CAMERAS[:1])
        assert sample is not None
        content = sample["of"][0]
        assert content["frame_ids"] == list(range(start, start + 9))
        assert (content["fps"], content["ori_fps"], content["video_height"]) == (10, 10, 32)
        stored = clips[tuple(content["frame_ids"])]
        values = np.frombuffer(stored["data"], stored["dtype"]).reshape(stored["shape"])
        expected = torch.from_numpy(values.copy()).to(torch.bfloat16).permute(1, 0, 2, 3)
        assert torch.equal(sample["latents"], expected)
        assert sample["actions"][1:].ravel().tolist() == list(range(start, start + 8))
        embedding = embedding_of(lake, text, "hashed", padded=False).values
        assert torch.equal(sample["text_emb"], torch.from_numpy(embedding).to(torch.bfloat16))
    told = read_json(folder / "meta/lingbot_left_out.json")
    assert [(one["start_frame"], one["last_frame"]) for one in told["notes"]] == [(0, 8)]  # up to the gap
    assert told["texts"]["encoder"] == "hashed"
