"""Text embeddings beside LeRobot sets, read as FastWAM, GigaWorld-Policy and Motus read them: stand-ins of their loaders."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import texts
from jobs.options import TextsOptions
from pipelines import registry
from pipelines.build_latents import no_latents
from pipelines.build_plan import plan_build
from pipelines.build_unit import BuildWorker
from pipelines.formats import fastwam, gigaworld, motus
from pipelines.lake import Lake
from pipelines.stats import stats_from_json
from pipelines.text_rows import embedding_of
from pipelines.torch_files import read_torch, write_torch
from pipelines.verify import verify_release
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe, load_recipe
from schemas.release_choices import TextChoice, TextKind
from schemas.text_recipe import TextRecipe
from tests.chain import read_json, run_build, run_ingest, tables, write_short
from tests.fake_build import FakeBuild, make_build, needs_of, write_build
from tests.release_chain import seal_again

RECIPES = Path(__file__).resolve().parents[1] / "jobs" / "recipes"
TRAINERS = ("ctrlworld", "fastwam", "gigaworld", "lingbot", "motus")
SENTENCE = "A video recorded from a robot's point of view executing the following instruction: {task}"


def fake(name: str, lengths: tuple[int, ...] = (7, 1, 12), **recipe: Any) -> FakeBuild:
    return make_build(lengths, **needs_of(name, **recipe))


def fastwam_context(folder: Path, task: str, context_len: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What FastWAM's ``_get_cached_text_context`` does, and ``_get`` with it."""
    prompt = SENTENCE.format(task=task)
    name = f"{hashlib.sha256(prompt.encode('utf-8')).hexdigest()}.t5_len{context_len}.wan22ti2v5b.pt"
    payload = torch.load(folder / "text_embeds_cache" / name, map_location="cpu")
    context, mask = payload["context"], payload["mask"].bool()
    assert context.ndim == 2
    assert mask.ndim == 1
    assert context.shape[0] == mask.shape[0] == context_len
    context[~mask] = 0.0
    return context, mask


def test_fastwam_finds_every_task(tmp_path: Path) -> None:
    build = fake("fastwam")
    write_build(fastwam, build, tmp_path)
    for episode in build.episodes:
        for _, _, task in episode.plan.texts:
            context, mask = fastwam_context(tmp_path, task, 32)
            expected = torch.from_numpy(episode.embeddings[task].values).to(torch.bfloat16)
            assert context.dtype == torch.bfloat16
            assert mask.dtype == torch.bool
            assert mask.sum() == len(expected)
            assert torch.equal(context[mask], expected)
    names = {path.name for path in (tmp_path / "text_embeds_cache").iterdir()}
    assert len(names) == len(build.group.tasks) == 3


def test_fastwam_statistics_are_those_of_the_columns(tmp_path: Path) -> None:
    build = fake("fastwam")
    write_build(fastwam, build, tmp_path)
    found = json.loads((tmp_path / "dataset_stats.json").read_text())
    state = stats_from_json(json.dumps(build.group.stats["proprio"]))
    np.testing.assert_array_equal(found["state"]["default"]["global_q99"], state.q99)
    assert build.group.recorded is not None
    np.testing.assert_array_equal(found["action"]["default"]["global_min"], build.group.recorded.overall.min)
    assert (found["num_episodes"], found["num_transition"]) == (3, 20)


def test_a_file_of_another_shape_is_no_embedding(tmp_path: Path) -> None:
    build = fake("fastwam")
    write_build(fastwam, build, tmp_path)
    path = next((tmp_path / "text_embeds_cache").iterdir())
    torch.save({"context": torch.zeros(4, 8), "mask": torch.zeros(4)}, path)
    with pytest.raises(ReleaseError, match="not the embedding"):
        fastwam.FORMAT.count(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"texts": None}, "joins none"),
        ({"normalize": "quantile"}, "would have done so before"),
    ],
)
def test_fastwam_says_what_it_needs(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    build = fake("fastwam")
    recipe = build.recipe.model_copy(update=change)
    with pytest.raises(RecipeError, match=said) as caught:
        fastwam.FORMAT.open_unit(build.units[0], recipe, tmp_path)
    assert caught.value.hint


def test_fastwam_refuses_steps_without_instruction(tmp_path: Path) -> None:
    build = make_build((7, 5), **needs_of("fastwam") | {"instructions": ("pick", " ")})
    with pytest.raises(RecipeError, match="no instruction") as caught:
        fastwam.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)
    assert fastwam.WITH_INSTRUCTION in caught.value.hint


def test_fastwam_refuses_a_task_that_it_would_halve(tmp_path: Path) -> None:
    """``augment_instruction`` of its processor splits a task at ``@``, for Chinese and English, and takes what is behind."""
    build = make_build((7, 5), **needs_of("fastwam") | {"instructions": ("pick", "place @ the table")})
    with pytest.raises(RecipeError, match="behind an @") as caught:
        fastwam.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)
    assert caught.value.reason == "other_prompt"


def test_fastwam_refuses_a_robot_without_action(tmp_path: Path) -> None:
    build = fake("fastwam", (7,))
    unit = dataclasses.replace(build.units[0], group=dataclasses.replace(build.group, action_names=()))
    with pytest.raises(RecipeError, match="the robot has none"):
        fastwam.FORMAT.open_unit(unit, build.recipe, tmp_path)


def test_fastwam_refuses_embeddings_of_another_sentence(tmp_path: Path) -> None:
    plain = make_build((7,), **needs_of("gigaworld"))
    build = dataclasses.replace(fake("fastwam", (7,)), episodes=plain.episodes)
    with pytest.raises(ReleaseError, match="FastWAM asks for") as caught:
        write_build(fastwam, build, tmp_path)
    assert "steps=[]" in caught.value.hint


@pytest.mark.parametrize("member", [gigaworld, motus])
def test_every_episode_has_its_embedding(member: Any, tmp_path: Path) -> None:
    build = fake(member.FORMAT.name)
    write_build(member, build, tmp_path)
    for episode in build.episodes:
        # GigaWorld-Policy: its pattern; Motus: ``t5_folder_name`` and the same name
        path = tmp_path / "t5_embedding" / f"episode_{episode.plan.episode_index:06d}.pt"
        values = torch.load(path, map_location="cpu")
        assert isinstance(values, torch.Tensor)
        assert values.dtype == torch.float32
        np.testing.assert_array_equal(values.numpy(), episode.embeddings[episode.plan.instruction].values)
        assert values.unsqueeze(0)[0].float().ndim == 2  # what Motus takes of a tensor [S, D]


def test_instructions_that_one_embedding_cannot_tell_are_told(tmp_path: Path) -> None:
    build = fake("motus", (9,))
    (episode,) = build.episodes
    plan = dataclasses.replace(episode.plan, instructions=((0, ""), (3, "reach"), (6, "grasp")))
    embeddings = {
        **episode.embeddings,
        "reach": episode.embeddings["pick up the cube"],
        "grasp": episode.embeddings[""],
    }
    changed = dataclasses.replace(episode, plan=plan, embeddings=embeddings)
    unit = dataclasses.replace(build.units[0], episodes=(plan,))
    write_build(motus, dataclasses.replace(build, episodes=(changed,), units=(unit,)), tmp_path)
    index = json.loads((tmp_path / "meta/t5_embedding.json").read_text())
    assert index["num_with_other_texts"] == 1
    assert (index["episodes"][0]["text"], index["episodes"][0]["other_texts"]) == ("reach", ["", "grasp"])


def test_without_texts_there_is_nothing_to_carry(tmp_path: Path) -> None:
    build = make_build((5,))
    for member in (gigaworld, motus):
        with pytest.raises(RecipeError, match="joins none"):
            member.FORMAT.open_unit(build.units[0], BuildRecipe(), tmp_path)


def test_embeddings_of_the_lake_lie_beside_lerobot(tmp_path: Path) -> None:
    run_ingest([write_short(tmp_path / "set")], tmp_path / "lake")
    made = texts.run(TextsOptions(str(tmp_path / "lake"), TextRecipe(dtype="bfloat16"), "", False, "inline"))
    assert made.exit_code == 0
    recipe = BuildRecipe(formats=("lerobot_v3", "gigaworld"), texts=TextChoice(encoder="hashed"), unit_frames=10)
    run_build(tmp_path / "lake", tmp_path / "release", recipe)
    (folder,) = (tmp_path / "release" / "lerobot_v3").iterdir()
    assert not (tmp_path / "release" / "gigaworld").exists()
    episodes = tables(folder / "meta" / "episodes").to_pylist()
    lake = Lake.open(tmp_path / "lake")
    assert len(episodes) == 2
    for episode in episodes:
        values = torch.load(folder / "t5_embedding" / f"episode_{episode['episode_index']:06d}.pt", map_location="cpu")
        expected = embedding_of(lake, episode["tasks"][0], "hashed", padded=False).values
        assert values.dtype == torch.bfloat16
        np.testing.assert_array_equal(values.float().numpy(), expected)
    assert verify_release(tmp_path / "release").ok
    manifest = read_json(tmp_path / "release" / "manifest.json")
    assert manifest["counts"]["gigaworld"] == {folder.name: {"samples": 2, "frames": 0, "episodes": 2}}
    (folder / "t5_embedding" / "episode_000001.pt").unlink()
    assert not verify_release(tmp_path / "release").ok


def test_one_folder_has_the_texts_of_two_trainers(tmp_path: Path) -> None:
    """FastWAM asks for a sentence of its own, of another length than what the other formats carry."""
    run_ingest([write_short(tmp_path / "set")], tmp_path / "lake")
    plain = TextRecipe(options={"length": 32})
    for prompts in (plain, TextRecipe(template="fastwam", steps=(), options={"length": 24})):
        assert texts.run(TextsOptions(str(tmp_path / "lake"), prompts, "", False, "inline")).exit_code == 0
    own = TextKind(encoder="hashed", length=24, template="fastwam", steps=())
    choice = TextChoice(encoder="hashed", length=32, formats={"fastwam": own})
    recipe = BuildRecipe(formats=("lerobot_v21", "motus", "fastwam"), texts=choice, unit_frames=10)
    run_build(tmp_path / "lake", tmp_path / "release", recipe)
    (folder,) = (tmp_path / "release" / "lerobot_v21").iterdir()
    lake = Lake.open(tmp_path / "lake")
    tasks = {row["task"] for row in map(json.loads, (folder / "meta" / "tasks.jsonl").read_text().splitlines())}
    assert tasks
    for task in tasks:
        context, mask = fastwam_context(folder, task, 24)
        stored = embedding_of(lake, SENTENCE.format(task=task), "hashed", length=24, padded=False).values
        assert torch.equal(context[mask], torch.from_numpy(stored).to(torch.bfloat16))
    episodes = [json.loads(line) for line in (folder / "meta" / "episodes.jsonl").read_text().splitlines()]
    for episode in episodes:
        values = torch.load(folder / "t5_embedding" / f"episode_{episode['episode_index']:06d}.pt", map_location="cpu")
        stored = embedding_of(lake, episode["tasks"][0], "hashed", length=32, padded=False).values
        np.testing.assert_array_equal(values.numpy(), stored)
    told = read_json(tmp_path / "release" / "manifest.json")["texts"]
    kinds = [(kind["template"], kind["length"]) for kind in (told, told["formats"]["fastwam"])]
    assert kinds == [("plain", 32), ("fastwam", 24)]
    result = verify_release(tmp_path / "release", lake)
    assert result.ok
    assert result.checked["texts_compared_with_the_lake"] == 2 * len(episodes)
    longer = TextRecipe(options={"length": 48})
    assert texts.run(TextsOptions(str(tmp_path / "lake"), longer, "", False, "inline")).exit_code == 0
    assert verify_release(tmp_path / "release", Lake.open(tmp_path / "lake")).ok
    path = folder / "t5_embedding" / "episode_000000.pt"
    write_torch(path, read_torch(path).flip(0))
    seal_again(tmp_path / "release")
    (problem,) = verify_release(tmp_path / "release", lake).problems
    assert f"{path}: the embedding of" in problem.message
    assert problem.message.endswith("is not the lake's")


def test_texts_of_a_format_that_is_not_built_are_an_error() -> None:
    text = 'formats = ["lerobot_v21"]\ntexts = { encoder = "hashed", formats = { fastwam = { encoder = "hashed" } } }'
    with pytest.raises(RecipeError, match=r"texts\.formats has 'fastwam', which is none of the formats lerobot_v21"):
        load_recipe(BuildRecipe, text, "own.toml")


@pytest.mark.parametrize("name", ["dreamzero", "gigaworld", "groot", "one_folder"])
def test_statistics_of_chunks_are_of_those_that_begin_at_every_step(name: str) -> None:
    path = RECIPES / f"{name}.toml"
    assert load_recipe(BuildRecipe, path.read_text(), str(path)).sample_stride == 1


@pytest.mark.parametrize(
    ("rate", "command"), [("native/3", "frame_stride=3`"), ("5", "rate=5`"), ("native", "rate=native`")]
)
def test_the_hint_for_missing_latents_is_a_command_that_works(rate: str, command: str, tmp_path: Path) -> None:
    recipe = BuildRecipe(content="both", encoder="wavelet", latent_rate=rate)
    lake = Lake.create(tmp_path / "lake")
    assert f"--set {command}" in no_latents("there are none in the lake", lake, recipe).hint


def test_latents_of_fewer_frames_than_steps_are_encoded_on_the_grid_of_the_steps(tmp_path: Path) -> None:
    recipe = load_recipe(BuildRecipe, (RECIPES / "one_folder.toml").read_text(), "one_folder.toml")
    hint = no_latents("there are none in the lake", Lake.create(tmp_path / "lake"), recipe).hint
    assert "--encoder wan22 --weights FOLDER --set rate=15 --set frame_stride=3`" in hint


def test_the_texts_of_a_lake_are_what_fastwam_and_motus_ask_for(tmp_path: Path) -> None:
    """Their files lie in a folder alone; the numbers, tasks and statistics are those of a build."""
    run_ingest([write_short(tmp_path / "set")], tmp_path / "lake")
    prompts = TextRecipe(template="fastwam", steps=(), options={"length": 24})
    assert texts.run(TextsOptions(str(tmp_path / "lake"), prompts, "", False, "inline")).exit_code == 0
    lake = Lake.open(tmp_path / "lake")
    choice = TextChoice(encoder="hashed", template="fastwam", steps=())
    chosen = BuildRecipe(formats=("fastwam", "motus"), horizon=4, texts=choice, unit_frames=10)
    recipe = chosen.model_copy(update={"formats": ("lerobot_v21", *chosen.formats)})
    plan = plan_build(lake, recipe, "0")
    worker = BuildWorker(str(lake.root), lake.versions(), str(tmp_path / "staging"), chosen, None)
    for unit in plan.units:
        worker(unit)
    worker.close()
    (group,) = plan.groups
    folder = tmp_path / "staging" / "files" / "lerobot_v21" / group.name
    records = [read_json(tmp_path / "staging" / "records" / f"{unit.unit_id}.json") for unit in plan.units]
    for member in (fastwam, motus):
        facts = [
            (unit.payload[0], record["facts"][member.FORMAT.name])
            for unit, record in zip(plan.units, records, strict=True)
        ]
        assert member.FORMAT.finish(group, recipe, facts, folder) == member.FORMAT.count(folder)
    assert len(plan.units) == 2
    assert group.tasks
    for task in group.tasks:
        context, mask = fastwam_context(folder, task, 24)
        stored = embedding_of(lake, SENTENCE.format(task=task), "hashed", padded=False).values
        assert torch.equal(context[mask], torch.from_numpy(stored).to(torch.bfloat16))
    stats = read_json(folder / "dataset_stats.json")
    ours = plan.statistics_of(group, recipe)["statistics.json"]
    assert stats["action"]["default"]["global_mean"] == ours["chunks"]["overall"]["mean"]
    assert group.recorded is not None
    assert stats["action"]["default"]["stepwise_q01"] == group.recorded.by_step("q01").tolist()
    assert len(group.recorded.steps) == 4
    assert stats["state"]["default"]["global_std"] == ours["proprio"]["stats"]["std"]
    for index, episode in enumerate(plan.episodes[0][1]):
        values = torch.load(folder / f"t5_embedding/episode_{index:06d}.pt", map_location="cpu")
        stored = embedding_of(lake, SENTENCE.format(task=episode.instruction), "hashed", padded=False).values
        np.testing.assert_array_equal(values.numpy(), stored)


@pytest.mark.parametrize("name", TRAINERS)
def test_the_recipe_of_a_trainer_is_one_that_its_format_takes(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(BuildRecipe, (RECIPES / f"{name}.toml").read_text(), name)
    assert name in recipe.formats
    form = registry.load("formats", name).FORMAT
    assert form.beside in (*recipe.formats, "")
    form.open_unit(make_build((12,), **needs_of(name)).units[0], recipe, tmp_path)
