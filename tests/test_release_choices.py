"""What a build recipe says of splits, names, mixtures and texts: seen in the release, and the same in every format."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import texts
from jobs.options import TextsOptions
from pipelines.build_plan import plan_build
from pipelines.build_texts import BuildTexts
from pipelines.formats import EpisodePlan, UnitPlan
from pipelines.holdout import validation_ids
from pipelines.lake import Lake
from pipelines.sample_look import look_at_sample
from pipelines.selection import stored_episodes
from pipelines.text_rows import embedding_of
from pipelines.verify import lineage_of, verify_release
from schemas.errors import LakeError, RecipeError
from schemas.recipes import BuildRecipe, SegmentFilter, ViewsRecipe, load_recipe
from schemas.release_choices import SplitRecipe, TextChoice
from schemas.text_recipe import TextRecipe
from tests.chain import read_json, run_build, run_ingest, tables, write_short
from tests.fake_build import tree_bytes

VIEWS = ViewsRecipe(height_px=32, width_px=48)
RECIPE = BuildRecipe(
    formats=("lerobot_v3", "parquet", "webdataset"), views=VIEWS, horizon=4, unit_frames=30, tokenizer=None
)
IDS = st.lists(st.text("0123456789abcdef", min_size=8, max_size=8), unique=True, min_size=1, max_size=60)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven short episodes of the gantry and two of the arm."""
    folder = tmp_path_factory.mktemp("recordings")
    write_short(folder, lengths=(12, 9, 5, 10, 7, 6, 11, 8, 5, 9, 13))
    write_short(folder, lengths=(8, 6), robot=0)
    root = tmp_path_factory.mktemp("lake") / "lake"
    assert run_ingest([folder], root).values["kept"] == 13
    return root


def _plans(units: tuple, group: str) -> list[UnitPlan]:
    plans = [unit.payload[0] for unit in units]
    return [plan for plan in plans if plan.group.name == group]


@given(ids=IDS, fraction=st.floats(0, 0.99), late=IDS)
def test_an_episode_stays_on_its_side_when_others_come(ids: list[str], fraction: float, late: list[str]) -> None:
    before = validation_ids(ids, fraction)
    after = validation_ids({*ids, *late}, fraction)
    assert before == {one for one in after if one in ids}
    assert validation_ids(ids, fraction / 2) <= before


def test_about_the_part_that_was_asked_for_is_chosen() -> None:
    ids = [f"{number:08x}" for number in range(4000)]
    assert len(validation_ids(ids, 0.1)) == pytest.approx(400, abs=80)  # four deviations of a fair draw
    assert validation_ids(ids, 0.0) == set()


@given(ids=IDS, fraction=st.floats(0, 0.99), data=st.data())
def test_copies_of_a_recording_lie_on_one_side(ids: list[str], fraction: float, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids))))
    chosen = validation_ids(ids, fraction, pairs)
    assert all((one in chosen) == (other in chosen) for one, other in pairs)


def test_splits_are_whole_files_and_ranges_of_episodes(lake: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"split": SplitRecipe(val_fraction=0.4)})
    plan = plan_build(Lake.open(str(lake)), recipe, "1")
    for group, episodes in plan.episodes:
        splits = [episode.split for episode in episodes]
        assert splits == sorted(splits), "train comes first"
        assert [episode.episode_index for episode in episodes] == list(range(len(episodes)))
        assert [e.first_step for e in episodes] == np.cumsum([0, *(e.num_steps for e in episodes)])[:-1].tolist()
        for unit in _plans(plan.units, group.name):
            assert len({episode.split for episode in unit.episodes}) == 1
    ids = [episode.episode_id for _, episodes in plan.episodes for episode in episodes]
    validation = {e.episode_id for _, episodes in plan.episodes for e in episodes if e.split == "val"}
    assert 0 < len(validation) < len(ids)
    assert validation == validation_ids(ids, 0.4)
    run_build(lake, tmp_path / "out", recipe)
    manifest = read_json(tmp_path / "out/manifest.json")
    told = {e["episode_id"] for group in manifest["groups"] for e in group["episodes"] if e["split"] == "val"}
    assert told == validation


def test_the_split_ranges_are_where_lerobot_looks(lake: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"split": SplitRecipe(val_fraction=0.4), "formats": ("lerobot_v3",)})
    run_build(lake, tmp_path / "out", recipe)
    manifest = read_json(tmp_path / "out/manifest.json")
    for group in manifest["groups"]:
        splits = read_json(tmp_path / "out/lerobot_v3" / group["name"] / "meta/info.json")["splits"]
        train = sum(episode["split"] == "train" for episode in group["episodes"])
        total = len(group["episodes"])
        wanted = {"train": f"0:{train}", "val": f"{train}:{total}"}
        assert splits == {name: span for name, span in wanted.items() if len(set(span.split(":"))) == 2}


def test_files_are_of_even_size(lake: Path) -> None:
    plan = plan_build(Lake.open(str(lake)), RECIPE, "1")
    for group in plan.groups:
        sizes = [
            sum(episode.num_steps for episode in unit.episodes) * len(group.views)
            for unit in _plans(plan.units, group.name)
        ]
        longest = max(e.num_steps for _, episodes in plan.episodes for e in episodes) * len(group.views)
        assert max(sizes) - min(sizes) <= 2 * longest
        assert len(sizes) <= -(-sum(sizes) // RECIPE.unit_frames)


def test_successes_and_failures_are_folders_of_their_own(lake: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"split": SplitRecipe(by_success=True), "formats": ("parquet",)})
    run_build(lake, tmp_path / "out", recipe)
    manifest = read_json(tmp_path / "out/manifest.json")
    known = {e.episode_id: e.success for e in stored_episodes(Lake.open(str(lake)), _ids(manifest))}
    assert len(set(known.values())) > 1, "the recordings should differ in this"
    for group in manifest["groups"]:
        found = {known[episode["episode_id"]] for episode in group["episodes"]}
        assert len(found) == 1
        word = {True: "success", False: "failure", None: "unknown"}[found.pop()]
        assert group["name"].endswith(f"_{word}")
        assert {episode["success"] for episode in group["episodes"]} == {known[group["episodes"][0]["episode_id"]]}


def _ids(manifest: dict) -> list[str]:
    return [episode["episode_id"] for group in manifest["groups"] for episode in group["episodes"]]


def test_views_have_their_names_in_every_format(lake: Path, tmp_path: Path) -> None:
    recipe = load_recipe(BuildRecipe, '[names.views]\nprimary = "front_cam"\n', "test")
    recipe = RECIPE.model_copy(update={"names": recipe.names})
    run_build(lake, tmp_path / "named", recipe)
    run_build(lake, tmp_path / "plain", RECIPE)
    named, plain = tmp_path / "named", tmp_path / "plain"
    source = Lake.open(str(lake))
    assert verify_release(named, source, readers=True).ok
    group = next(one for one in read_json(named / "manifest.json")["groups"] if "arm" in one["name"])
    name = group["name"]
    assert group["views"][0]["slot"] == "front_cam"
    info = read_json(named / "lerobot_v3" / name / "meta/info.json")
    assert "observation.images.front_cam" in info["features"]
    assert "observation.images.primary" not in info["features"]
    one, two = (tables(folder / "parquet" / name / "data") for folder in (named, plain))
    assert one["image_front_cam"].to_pylist()[3]["bytes"] == two["image_primary"].to_pylist()[3]["bytes"]
    assert lineage_of(named, name)["frame_id_front_cam"].equals(lineage_of(plain, name)["frame_id_primary"])
    assert look_at_sample(named, 0, "lerobot_v3", name).origin.frames  # its walk back knows the name


def test_names_that_clash_are_refused(lake: Path) -> None:
    recipe = load_recipe(BuildRecipe, '[names.views]\nprimary = "wrist_left"\n', "test")
    with pytest.raises(RecipeError, match=r"two views of .* would be called 'wrist_left'"):
        plan_build(Lake.open(str(lake)), RECIPE.model_copy(update={"names": recipe.names}), "1")
    for bad in ('primary = "../up"', 'primary = "a"\nsecondary = "a"'):
        with pytest.raises(RecipeError, match=r"names\.views"):
            load_recipe(BuildRecipe, f"[names.views]\n{bad}\n", "test")


def test_shares_follow_the_weights_and_the_steps(lake: Path, tmp_path: Path) -> None:
    plan = plan_build(Lake.open(str(lake)), RECIPE, "1")
    datasets = sorted({group.dataset for group in plan.groups})
    assert len(datasets) == 2
    recipe = RECIPE.model_copy(update={"mixture": dict(zip(datasets, (3.0, 1.0), strict=True))})
    shares = plan_build(Lake.open(str(lake)), recipe, "1").shares(recipe)
    of_set = {name: sum(shares[g.name] for g in plan.groups if g.dataset == name) for name in datasets}
    assert of_set == pytest.approx({datasets[0]: 0.75, datasets[1]: 0.25})
    run_build(lake, tmp_path / "out", recipe.model_copy(update={"formats": ("parquet",)}))
    assert read_json(tmp_path / "out/manifest.json")["mixture"] == pytest.approx(shares)
    for bad in ({datasets[0]: 1.0}, {**recipe.mixture, "no_such_set": 1.0}):
        with pytest.raises(RecipeError, match=r"has no weight|is not in this build"):
            plan_build(Lake.open(str(lake)), RECIPE.model_copy(update={"mixture": bad}), "1")


def _encode_texts(lake: Path, recipe: TextRecipe) -> None:
    texts.run(TextsOptions(str(lake), recipe, "", False, "inline"))


def test_a_build_joins_the_embeddings_of_its_prompts(lake: Path, tmp_path: Path) -> None:
    choice = TextChoice(encoder="hashed", template="In: {instruction}")
    recipe = RECIPE.model_copy(update={"texts": choice, "formats": ("parquet",)})
    with pytest.raises(LakeError, match="have no embedding by 'hashed', such as 'In: ") as caught:
        plan_build(Lake.open(str(lake)), recipe, "1")
    assert f"`wamloom texts --lake {lake.name} --encoder hashed --template 'In: {{instruction}}'`" in caught.value.hint
    one = TextChoice(encoder="umt5", template="fastwam", steps=(), length=128)
    with pytest.raises(LakeError) as caught:
        plan_build(Lake.open(str(lake)), recipe.model_copy(update={"texts": one}), "1")
    assert "--weights FOLDER --template fastwam --set steps='[]' --set options.length=128`" in caught.value.hint
    _encode_texts(lake, TextRecipe(template=choice.template, options={"length": 8, "width": 4}))
    source = Lake.open(str(lake))
    plan = plan_build(source, recipe, "1")
    joined = BuildTexts(source, choice)
    for _, episodes in plan.episodes:
        for episode in episodes:
            (stored,) = stored_episodes(source, [episode.episode_id])
            found = joined.embeddings_of(stored, episode)
            assert set(found) == {"", *(text for _, _, text in episode.texts)}
            for text, embedding in found.items():
                prompt = f"In: {text.strip()}" if text else ""
                wanted = embedding_of(source, prompt, "hashed", padded=False)
                np.testing.assert_array_equal(embedding.values, wanted.values)
                assert embedding.prompt == prompt
    # other texts are another release, though the recipe is the same
    whole = plan.fingerprint(recipe, "1")
    assert whole == plan_build(Lake.open(str(lake)), recipe, "1").fingerprint(recipe, "1")
    _encode_texts(lake, TextRecipe(template=choice.template, options={"length": 12, "width": 4}))
    with pytest.raises(LakeError, match="2 kinds of embeddings"):
        plan_build(Lake.open(str(lake)), recipe, "1")
    other = recipe.model_copy(update={"texts": choice.model_copy(update={"length": 12})})
    assert plan_build(Lake.open(str(lake)), other, "1").lake_content != plan.lake_content


def test_a_template_that_makes_several_prompts_is_refused() -> None:
    plan = EpisodePlan("e" * 64, 0, 0, 5, 0, 1, "pick | place")
    assert plan.texts == ((0, 5, "pick | place"),)
    assert replace(plan, instructions=((0, "pick"), (3, "place"))).texts == ((0, 3, "pick"), (3, 5, "place"))


def test_the_same_choices_give_the_same_bytes(lake: Path, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"split": SplitRecipe(val_fraction=0.4, by_success=True)})
    for name in ("one", "two"):
        run_build(lake, tmp_path / name, recipe)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    files = pq.ParquetFile(next((tmp_path / "one/parquet").rglob("*.parquet")))
    assert files.metadata.num_rows > 0
    assert recipe.segments == SegmentFilter()
