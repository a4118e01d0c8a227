"""Names, texts and files that would harm a release are told before any work, or by verify; nothing is written over."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipelines import registry
from pipelines.build_groups import try_formats
from pipelines.build_plan import plan_build
from pipelines.formats import cosmos_policy
from pipelines.lake import Lake
from pipelines.release import damaged_files
from schemas.errors import RecipeError
from schemas.recipes import BuildRecipe, ViewsRecipe, load_recipe
from schemas.release_choices import NamesRecipe, SplitRecipe
from schemas.work import WorkUnit
from tests.chain import run_ingest, write_short
from tests.fake_build import build_of, make_build, needs_of

RECIPES = Path(__file__).resolve().parents[1] / "jobs" / "recipes"
RECIPE = BuildRecipe(formats=("parquet",), views=ViewsRecipe(height_px=32, width_px=48), horizon=4, tokenizer=None)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Two short episodes of the arm, with a standing view and one of the wrist."""
    folder = tmp_path_factory.mktemp("arm")
    write_short(folder / "recordings", lengths=(8, 6), robot=0)
    assert run_ingest([folder / "recordings"], folder / "lake").values["kept"] == 2
    return Lake.open(str(folder / "lake"))


def refused(name: str, build: Any, folder: Path, **choices: Any) -> RecipeError:
    """What opening a unit with these choices of the recipe raises."""
    form = registry.load("formats", name).FORMAT
    with pytest.raises(RecipeError) as caught:
        form.open_unit(build.units[0], build.recipe.model_copy(update=choices), folder)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", ["droid_raw", "cosmos_policy"])
def test_a_text_that_hdf5_would_cut_is_told_before_any_work(name: str, tmp_path: Path) -> None:
    build = build_of(name, (4,), instructions=("nul\0byte",))
    assert "NUL" in refused(name, build, tmp_path).message


@pytest.mark.parametrize("view", ["action", "proprio"])
def test_a_view_never_takes_the_place_of_a_vector_in_the_lineage(lake: Lake, view: str) -> None:
    recipe = RECIPE.model_copy(update={"names": NamesRecipe(views={"primary": view})})
    with pytest.raises(RecipeError, match=f"would be called '{view}'"):
        plan_build(lake, recipe, "0")


def test_a_canvas_never_takes_the_place_of_a_view_in_the_lineage(lake: Lake, tmp_path: Path) -> None:
    canvas = tmp_path / "two.toml"
    canvas.write_text(
        'name = "two"\nversion = 1\nheight_px = 64\nwidth_px = 32\n[[tiles]]\nslot = "wrist_left"\nheight = "1/2"\n'
        '[[tiles]]\nslot = "primary"\ntop = "1/2"\nheight = "1/2"\n'
    )
    views = ViewsRecipe(canvas=str(canvas))
    assert plan_build(lake, RECIPE.model_copy(update={"views": views}), "0").num_steps == 14
    recipe = RECIPE.model_copy(update={"views": views, "names": NamesRecipe(views={"two": "primary"})})
    with pytest.raises(RecipeError, match="would be called 'primary'"):
        plan_build(lake, recipe, "0")


@pytest.mark.parametrize("name", ["lerobot_v3", "lerobot_v21"])
@pytest.mark.parametrize(
    ("images", "view"),
    [("lineage.frame_id.", "primary"), ("observation.", "state"), ("annotation.language.", "language_instruction")],
)
def test_a_video_never_takes_the_name_of_a_column(name: str, images: str, view: str, tmp_path: Path) -> None:
    build = make_build((4,), **needs_of(name, views=((view, 32, 48),), names=NamesRecipe(images=images)))
    assert refused(name, build, tmp_path).message.startswith(f"a view would be {images}{view}")


def test_a_set_without_anything_to_train_on_is_told(lake: Lake) -> None:
    plan = plan_build(lake, RECIPE.model_copy(update={"split": SplitRecipe(val_fraction=0.999999)}), "0")
    assert [note for note in plan.notes if "left for train" in note]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('names.views = { primry = "front" }', "'primry'"),
        (f'names.views = {{ primary = "{"x" * 101}" }}', "at most 100"),
        ('formats = ["parquet", "rlds", "parquet"]', "'parquet' is named twice"),
    ],
)
def test_choices_that_would_do_nothing_or_twice_the_same_are_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(BuildRecipe, text, "a recipe")


def test_a_link_that_was_laid_into_a_release_is_named(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "more.parquet").symlink_to(tmp_path / "elsewhere.parquet")
    (tmp_path / "release" / "folder").symlink_to(tmp_path)
    found = dict(damaged_files(tmp_path / "release", {"files": []}))
    assert found == dict.fromkeys(("folder", "more.parquet"), "is not in the manifest")


def test_fastwam_tells_what_it_has_no_embedding_of_before_any_work(tmp_path: Path) -> None:
    build = build_of("fastwam", (4,))
    assert build.recipe.texts is not None
    assert "joined" in refused("fastwam", build, tmp_path, names=NamesRecipe(joined_by=" | ")).message
    plain = build.recipe.texts.model_copy(update={"template": "plain"})
    assert refused("fastwam", build, tmp_path, texts=plain).reason == "other_prompt"
    stripped = build.recipe.texts.model_copy(update={"steps": None})
    group = dataclasses.replace(build.group, tasks=("  blanks  ",))
    unit = dataclasses.replace(build.units[0], group=group)
    blanks = dataclasses.replace(build, units=(unit,))
    assert refused("fastwam", blanks, tmp_path, texts=stripped).reason == "other_prompt"


def test_the_recipe_of_all_choices_is_the_one_that_holds_without_it() -> None:
    text = (RECIPES / "build.toml").read_text()
    assert load_recipe(BuildRecipe, text, "build.toml") == BuildRecipe()


@pytest.mark.parametrize(("name", "lengths"), [("lerobot_v3", (2100, 9000, 3)), ("lerobot_v21", (3, 4, 2200, 1, 5))])
def test_what_is_too_long_for_float32_is_told_before_any_work(name: str, lengths: tuple[int, ...]) -> None:
    build = make_build(lengths, rate="0.9", views=(("primary", 16, 40),), episodes_per_unit=2)
    units = [WorkUnit(str(unit.file_index), (unit,), 1) for unit in build.units]
    with pytest.raises(RecipeError, match="float32") as caught:
        try_formats(units, build.recipe.model_copy(update={"formats": (name,)}))
    assert caught.value.reason == "too_long"


def test_a_demonstration_of_cosmos_policy_is_no_hidden_file() -> None:
    plan = build_of("cosmos_policy", (4,), instructions=("open",)).units[0].episodes[0]
    assert cosmos_policy.is_demonstration(plan)
    for text in (".", "..", ".hidden words"):
        assert not cosmos_policy.is_demonstration(dataclasses.replace(plan, instruction=text))


@pytest.mark.parametrize("name", ["lerobot_v20", "lerobot_v21", "rlds", "zarr"])
def test_a_format_without_latents_is_never_built_of_latents_alone(name: str, tmp_path: Path) -> None:
    build = build_of(name, (4,), views=())
    assert "no latents" in refused(name, build, tmp_path, content="latents", encoder="wavelet").message
