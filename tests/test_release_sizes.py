"""Formats of one build may show pictures in different sizes: from one decode, each as if it had been built alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import build
from jobs.options import BuildOptions
from pipelines.gather import gather_release
from pipelines.lake import Lake
from pipelines.verify import verify_release
from pipelines.video import VideoTools
from schemas.errors import RecipeError
from schemas.recipes import BuildRecipe, ViewsRecipe, load_recipe
from tests.chain import movie, read_json, run_build, run_ingest, write_short
from tests.fake_build import tree_bytes

VIEWS = ViewsRecipe(height_px=96, width_px=128)
SIZES = {"lerobot_v21": {"height_px": 64, "width_px": 80}, "webdataset": {"height_px": 32, "width_px": 48}}
FORMATS = ("lerobot_v3", "lerobot_v21", "webdataset")


def recipe(formats: tuple[str, ...], views: ViewsRecipe = VIEWS, sizes: Any = None) -> BuildRecipe:
    return BuildRecipe(formats=formats, views=views, sizes=sizes or {}, horizon=4, tokenizer=None)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of the gantry, and one of the arm, with two cameras."""
    folder = tmp_path_factory.mktemp("recordings")
    write_short(folder, lengths=(12, 9, 5))
    write_short(folder, lengths=(8,), robot=0)
    root = tmp_path_factory.mktemp("lake") / "lake"
    assert run_ingest([folder], root).values["kept"] == 4
    return root


def test_each_format_is_as_if_it_were_built_alone(lake: Path, tmp_path: Path) -> None:
    run_build(lake, tmp_path / "together", recipe(FORMATS, sizes=SIZES))
    for name in FORMATS:
        run_build(lake, tmp_path / name, recipe((name,), VIEWS.model_copy(update=SIZES.get(name, {}))))
        assert tree_bytes(tmp_path / "together" / name) == tree_bytes(tmp_path / name / name)


def test_a_view_is_decoded_once_for_all_sizes(lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    whole = VideoTools.decode_sizes

    def counting(self: VideoTools, view: Any, where: str, ids: Any, views: Any, sizes: Any) -> Any:
        asked.append(len(sizes))
        return whole(self, view, where, ids, views, sizes)

    monkeypatch.setattr(VideoTools, "decode_sizes", counting)
    run_build(lake, tmp_path / "release", recipe(FORMATS, sizes=SIZES))
    assert asked == [3] * 5, "three episodes with one view and one with two"


def test_verify_holds_every_size_against_the_lake(lake: Path, tmp_path: Path) -> None:
    run_build(lake, tmp_path / "release", recipe(FORMATS, sizes=SIZES))
    found = verify_release(tmp_path / "release", Lake.open(str(lake)), readers=True)
    assert found.problems == []
    assert found.checked["webdataset_frames_decoded"] > 0
    sizes = {frame.shape for frame in movie(sorted((tmp_path / "release/lerobot_v21").rglob("*.mp4")))}
    assert sizes == {(64, 80, 3)}
    info = read_json(next((tmp_path / "release/lerobot_v21").rglob("info.json")))
    assert info["features"]["observation.images.primary"]["shape"] == [64, 80, 3]


def test_card_and_page_tell_every_size(lake: Path, tmp_path: Path) -> None:
    run_build(lake, tmp_path / "release", recipe(FORMATS, sizes=SIZES))
    card = (tmp_path / "release/README.md").read_text()
    assert "primary 96x128" in card
    assert "Every view has another size in: lerobot_v21 64x80, webdataset 32x48." in card
    found = gather_release(tmp_path / "release", "0")
    cameras = {(one.codec, one.height_px, one.width_px) for group in found.datasets for one in group.cameras}
    sized = {(f"as built for {name}", one["height_px"], one["width_px"]) for name, one in SIZES.items()}
    assert cameras == {("as built", 96, 128)} | sized


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_sizes_are_fitted_as_the_views_say(lake: Path, tmp_path: Path, fit: Any) -> None:
    views = ViewsRecipe(height_px=96, width_px=128, fit=fit)
    run_build(lake, tmp_path / "both", recipe(("lerobot_v3", "parquet"), views, {"parquet": SIZES["webdataset"]}))
    run_build(lake, tmp_path / "one", recipe(("parquet",), views.model_copy(update=SIZES["webdataset"])))
    assert tree_bytes(tmp_path / "both/parquet") == tree_bytes(tmp_path / "one/parquet")


def test_the_size_of_the_source_may_stand_beside_another(lake: Path, tmp_path: Path) -> None:
    run_build(
        lake,
        tmp_path / "r",
        recipe(("lerobot_v3", "lerobot_v21"), ViewsRecipe(), {"lerobot_v21": SIZES["lerobot_v21"]}),
    )
    shapes = {name: {f.shape for f in movie(sorted((tmp_path / "r" / name).rglob("*.mp4")))} for name in FORMATS[:2]}
    assert shapes["lerobot_v21"] == {(64, 80, 3)}
    assert all(np.prod(shape) > 64 * 80 * 3 for shape in shapes["lerobot_v3"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('formats = ["parquet"]\n[sizes.rlds]\nheight_px = 8\nwidth_px = 8', "none of the formats"),
        ('formats = ["parquet"]\n[sizes.parquet]\nheight_px = 8', "width_px"),
        ('formats = ["parquet"]\n[sizes.parquet]\nheight_px = 0\nwidth_px = 8', "greater than 0"),
        ('[views]\ncanvas = "grid_2x2"\n[sizes.lerobot_v3]\nheight_px = 8\nwidth_px = 8', "a canvas has its own"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(BuildRecipe, text, "a recipe")


def test_a_size_that_video_cannot_have_is_told_before_any_work(lake: Path, tmp_path: Path) -> None:
    odd = recipe(("parquet", "lerobot_v21"), sizes={"lerobot_v21": {"height_px": 63, "width_px": 80}})
    with pytest.raises(RecipeError, match="lerobot_v21") as caught:
        run_build(lake, tmp_path / "release", odd)
    assert "64" in caught.value.hint
    assert not (tmp_path / "release/manifest.json").exists()


def test_a_format_in_the_folders_of_another_has_no_size_of_its_own(lake: Path, tmp_path: Path) -> None:
    beside = recipe(("lerobot_v21", "fastwam"), sizes={"fastwam": SIZES["webdataset"]})
    with pytest.raises(RecipeError, match="the pictures of lerobot_v21") as caught:
        run_build(lake, tmp_path / "release", beside)
    assert caught.value.hint == "set sizes.lerobot_v21"


def test_a_dry_run_tells_the_sizes(lake: Path, tmp_path: Path) -> None:
    told = build.run(BuildOptions(str(lake), str(tmp_path / "out"), recipe(FORMATS, sizes=SIZES), True, "inline")).lines
    assert any(line.endswith("views primary 128x96, wrist_left 128x96") for line in told)
    assert "    lerobot_v21 shows primary 80x64, wrist_left 80x64" in told
