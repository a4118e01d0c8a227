"""One folder for LingBot-VA, DreamZero and FastWAM: each finds there what its loader asks for, from made and from real DROID."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from jobs import texts
from jobs.options import TextsOptions
from pipelines.lake import Lake
from pipelines.text_rows import embedding_of
from pipelines.torch_files import write_torch
from pipelines.verify import verify_release
from schemas.recipes import ViewsRecipe
from schemas.text_recipe import TextRecipe
from tests import text_models, tiny_models
from tests.chain import build_as_told, read_json, run_ingest
from tests.real import real_data
from tests.release_chain import seal_again
from tests.test_format_lingbot import read_sample
from tests.test_format_texts import SENTENCE, fastwam_context
from tests.test_trainer_recipes import make_droid_lake, vector

SIZE = {"height_px": 32, "width_px": 64}
VIEWS = ViewsRecipe(**SIZE, fit="stretch")
WHERE = "array_length(instructions) > 0 AND num_steps < 250"
JOINTS = slice(6, 13)
CHUNK, SAMPLE = 24, 32
"""Actions of DreamZero's chunks and of FastWAM's samples."""
CAMERAS = tuple(f"observation.images.{name}_left" for name in ("exterior_image_1", "exterior_image_2", "wrist_image"))


@pytest.fixture(scope="module", params=["made", "real"])
def lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Recordings of DROID and the prompts that the head of the recipe tells to encode, by tiny models."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "made":
        make_droid_lake(root)
    else:
        run_ingest([real_data("ctrlworld_droid")], root / "lake")
    text_models.write_model(root / "umt5", "umt5")
    tiny_models.make("wan22", root / "wan22")
    for length, choices in ((512, {}), (128, {"template": "fastwam", "steps": ()})):
        prompts: dict[str, Any] = {"options": {"length": length}, "dtype": "bfloat16", **choices}
        recipe = TextRecipe(encoder="umt5", weights=str(root / "umt5"), **prompts)
        assert texts.run(TextsOptions(str(root / "lake"), recipe, "", False, "inline")).exit_code == 0
    return Lake.open(root / "lake")


@pytest.fixture(scope="module")
def folder(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    release = tmp_path_factory.mktemp("release") / "out"
    sizes = {"views": SIZE, "sizes.lerobot_v21": {"height_px": 36, "width_px": 64}}
    changes = [f"{place}.{key}={value}" for place, size in sizes.items() for key, value in size.items()]
    more = [word for change in changes for word in ("--set", change)]
    build_as_told("one_folder.toml", lake.root, release, lake.root.parent / "wan22", "--where", WHERE, *more)
    (found,) = (release / "lerobot_v21").iterdir()
    return found


@pytest.fixture(scope="module")
def episodes(folder: Path) -> list[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Of each episode its line, and action and state [T, 14] as recorded."""
    found = []
    for line in map(json.loads, (folder / "meta/episodes.jsonl").read_text().splitlines()):
        table = pd.read_parquet(folder / f"data/chunk-000/episode_{line['episode_index']:06d}.parquet")
        assert table["valid"].all()
        found.append((line, vector(table, "action"), vector(table, "observation.state")))
    return found


def test_videos_have_a_size_of_their_own_beside_latents(folder: Path) -> None:
    features = read_json(folder / "meta/info.json")["features"]
    assert {tuple(features[camera]["shape"]) for camera in CAMERAS} == {(36, 64, 3)}


def test_lingbot_va_finds_every_segment(folder: Path, lake: Lake, episodes: list[Any]) -> None:
    for line, action, _ in episodes:
        for segment in line["action_config"]:
            sample = read_sample(folder, {"episode_index": line["episode_index"], **segment}, action, CAMERAS)
            assert sample is not None
            number = sample["actions"].shape[0]
            assert sample["latents"].shape == (48, number, 2, 3 * 4)
            assert not sample["actions"][0].any()
            following = sample["actions"][1:].reshape(-1, action.shape[1])
            np.testing.assert_array_equal(following, action[: 12 * (number - 1)])
            stored = embedding_of(lake, segment["action_text"], "umt5", length=512, padded=False).values
            assert torch.equal(sample["text_emb"], torch.from_numpy(stored).to(torch.bfloat16))


def test_dreamzero_finds_its_relative_statistics(folder: Path, episodes: list[Any]) -> None:
    chunks = []
    for _, action, state in episodes:
        starts = np.arange(len(action) - CHUNK + 1)
        rows = starts[:, None] + np.arange(CHUNK)
        chunks.append(action[rows][:, :, JOINTS] - state[starts, None, JOINTS])
    relative = np.concatenate(chunks)
    by_step = read_json(folder / "meta/relative_horizon_stats_dreamzero.json")["joint_position"]
    overall = read_json(folder / "meta/relative_stats_dreamzero.json")["joint_position"]
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(by_step[name], getattr(relative, name)(axis=0), atol=1e-6)
        np.testing.assert_allclose(overall[name], getattr(relative.reshape(-1, 7), name)(axis=0), atol=1e-6)
    assert set(read_json(folder / "meta/modality.json")["video"]) == {name.rpartition(".")[2] for name in CAMERAS}


def test_fastwam_finds_its_texts_and_statistics(folder: Path, lake: Lake, episodes: list[Any]) -> None:
    """Its samples begin at every step, so each step of them is of all actions that are so far into their episode."""
    for line in map(json.loads, (folder / "meta/tasks.jsonl").read_text().splitlines()):
        context, mask = fastwam_context(folder, line["task"], 128)
        stored = embedding_of(lake, SENTENCE.format(task=line["task"]), "umt5", length=128, padded=False).values
        assert torch.equal(context[mask], torch.from_numpy(stored).to(torch.bfloat16))
    stats = read_json(folder / "dataset_stats.json")
    actions, states = ([episode[at] for episode in episodes] for at in (1, 2))
    for name in ("min", "max", "mean", "std"):
        for kind, values in (("action", actions), ("state", states)):
            whole = getattr(np.concatenate(values), name)(axis=0)
            np.testing.assert_allclose(stats[kind]["default"][f"global_{name}"], whole, atol=1e-6)
        steps = [getattr(np.concatenate([one[t:] for one in actions]), name)(axis=0) for t in range(SAMPLE)]
        np.testing.assert_allclose(stats["action"]["default"][f"stepwise_{name}"], steps, atol=1e-6)
    assert (stats["num_episodes"], stats["num_transition"]) == (len(episodes), sum(map(len, actions)))


def test_latents_and_texts_are_proven_against_the_lake_and_what_was_changed_is_named(
    folder: Path, lake: Lake, tmp_path: Path
) -> None:
    release, many = folder.parent.parent, 1000
    whole = verify_release(release, lake, num_episodes=many)
    assert whole.ok
    files = sorted((folder / "latents").rglob("*.pth"))
    assert whole.checked["latents_compared_with_the_lake"] == sum(
        torch.load(path, weights_only=True)["latent_num_frames"] for path in files
    )
    texts_of_fastwam, empty = whole.checked["episodes"], whole.checked["episodes"]
    assert whole.checked["texts_compared_with_the_lake"] >= len(files) + texts_of_fastwam + empty
    changes: dict[str, Any] = {
        "is not the lake's": lambda content: {**content, "latent": content["latent"].flip(0)},
        "the embedding of": lambda content: {**content, "text_emb": content["text_emb"].flip(0)},
        "has other words": lambda content: {**content, "text": "something else"},
    }
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    path = copy / files[0].relative_to(release)
    content = torch.load(path, weights_only=True)
    for message, change in changes.items():
        write_torch(path, change(content))
        seal_again(copy)
        problems = verify_release(copy, lake, num_episodes=many).problems
        assert problems
        assert all(str(path) in found.message and message in found.message for found in problems)
    write_torch(path, content)
    path.rename(path.with_name(path.name.replace(".pth", "0.pth")))
    seal_again(copy)
    problems = verify_release(copy, lake, num_episodes=many).problems
    assert any("the episode has no such segment" in found.message for found in problems)
    assert any("cannot be read back" in found.message for found in problems)
