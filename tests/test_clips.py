"""Clips and canvases: decoding the latents gives back the very frames whose numbers a row names, in every view and phase."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.encode import run as run_encode_options
from jobs.options import EncodeOptions, StatusOptions
from jobs.status import run as run_status
from pipelines.barcode import read
from pipelines.cards import canvas_names
from pipelines.clip_encoder import load_encoder
from pipelines.encoders import wavelet
from pipelines.frame_encoder import FrameEncoder
from pipelines.lake import Lake
from pipelines.views import CanvasPlan, canvas_plan, views_fingerprint
from schemas.errors import CardError, LakeError, RecipeError
from schemas.latent import is_same_rate
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, ViewsRecipe
from tests.chain import picture, run_build, run_encode, tables, tar_samples
from tests.gap_lake import GAP, NUM_STEPS, SECOND_TASK, gap_lake
from tests.quad_lake import SLOTS, quad_lake

SIZES = {  # of canvases, such that every tile is a multiple of 8 px (wavelet) and its strip of 40 blocks can be read
    "cosmos3_concat": (288, 256),
    "ctrlworld_stack": (576, 256),
    "dreamzero_2x2": (256, 256),
    "dreamzero_droid": (256, 256),
    "fastwam_robotwin": (288, 256),
    "grid_2x2": (192, 256),
    "lingbot_t": (288, 256),
    "lingbot_width": (128, 768),
    "side_by_side": (128, 256),
    "t_384x320": (256, 256),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quad_lake(tmp_path_factory.mktemp("quad"))


@pytest.fixture
def lake(source: Path, tmp_path: Path) -> Path:
    """A lake of its own for each test: latents stay in it."""
    return Path(shutil.copytree(source, tmp_path / "lake"))


def rows_of(lake: Path) -> list[dict[str, Any]]:
    return Lake.open(str(lake)).table("latents").to_table().to_pylist()


def latents_of(row: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(row["data"], row["dtype"]).reshape(row["shape"])


def decoded(row: dict[str, Any], recipe: EncodeRecipe) -> np.ndarray:
    return load_encoder(recipe).decode(latents_of(row))


def views(canvas: str) -> ViewsRecipe:
    height, width = SIZES[canvas]
    return ViewsRecipe(canvas=canvas, height_px=height, width_px=width)


def test_every_shipped_canvas_is_tried_here() -> None:
    assert sorted(SIZES) == canvas_names()


TOLD = {(None, 1): "native", (None, 3): "native/3", ("5", 1): "5", ("10", 2): "5", ("20", 1): "20"}
"""How the lake tells a rate and a stride."""


@pytest.mark.parametrize("canvas", sorted(SIZES))
def test_a_clip_decodes_to_the_frames_it_names(lake: Path, canvas: str) -> None:
    plan = canvas_plan(views(canvas))
    assert plan is not None
    for (rate, stride), told in TOLD.items():
        if told == "5":
            continue  # the frames of native/3: the lake has them, under the name they got first
        clip = ClipRecipe(kind="fixed", num_frames=5)
        recipe = EncodeRecipe(views=views(canvas), rate=rate, frame_stride=stride, clip=clip)
        run_encode(lake, recipe)
        rows = [row for row in rows_of(lake) if row["rate"] == told]
        assert rows
        for row in rows:
            check_row(row, plan, recipe)
            period = 1e9 / float(rate or 15) * stride
            assert np.diff(row["times_ns"]) == pytest.approx(period, abs=2)


def test_a_stride_on_a_grid_is_a_grid(lake: Path) -> None:
    small = ViewsRecipe(slots=("primary",))
    run_encode(lake, EncodeRecipe(views=small, rate="10", frame_stride=2))
    assert {row["rate"] for row in rows_of(lake)} == {"5"}
    assert run_encode(lake, EncodeRecipe(views=small, rate="5")).values["computed"] == 0


def check_row(row: dict[str, Any], plan: CanvasPlan, recipe: EncodeRecipe) -> None:
    """Every tile of every frame that the latents decode to carries the number that the row names."""
    assert row["slot"] == plan.name
    assert [tile["slot"] for tile in row["tiles"]] == [area.slot for area in plan.areas]
    assert row["frame_ids"] == row["tiles"][0]["frame_ids"]
    encoder, latent = load_encoder(recipe), latents_of(row)
    whole = None if plan.joins_latents else encoder.decode(latent)
    for area, tile in zip(plan.areas, row["tiles"], strict=True):
        if whole is None:
            shown = encoder.decode(np.ascontiguousarray(area.of(latent, 8)))
        else:
            shown = whole[:, area.top : area.top + area.height, area.left : area.left + area.width]
        assert [read(frame) for frame in shown] == tile["frame_ids"], area.slot


@pytest.mark.parametrize(("rate", "stride"), [(None, 1), (None, 2)])
@pytest.mark.parametrize("kind", ["whole", "fixed", "frames"])
@pytest.mark.parametrize("phases", [(0,), (0, 1, 2, 3)])
def test_clips_begin_at_every_phase(
    lake: Path, kind: Any, phases: tuple[int, ...], rate: str | None, stride: int
) -> None:
    clip = ClipRecipe(kind=kind, num_frames=9, phases=phases)
    recipe = EncodeRecipe(views=ViewsRecipe(slots=("primary",)), rate=rate, frame_stride=stride, clip=clip)
    answer = run_encode(lake, recipe)
    rows = rows_of(lake)
    assert len(rows) == answer.values["computed"] == len({row["latent_id"] for row in rows})
    assert not rows[0]["tiles"]
    begun = set()
    for row in rows:
        assert [read(frame) for frame in decoded(row, recipe)] == row["frame_ids"]
        assert (row["temporal_stride"] == 1) == (kind == "frames")
        begun.add(row["frame_ids"][0])
    if rate is None:
        first = set(phases)
        assert first <= begun
        if kind != "fixed":
            assert begun == first


def test_phases_that_end_with_the_same_clip_have_it_once(lake: Path) -> None:
    recipe = EncodeRecipe(
        views=ViewsRecipe(slots=("primary",)), clip=ClipRecipe(kind="fixed", num_frames=9, phases=(0, 1, 9))
    )
    values = run_encode(lake, recipe).values
    starts = [row["frame_ids"][0] for row in rows_of(lake)]
    assert sorted(starts) == [0, 1, 9, 10, 17]
    assert values["clips"] == values["computed"] == 5


def test_another_phase_encodes_only_what_is_new_and_says_what_it_saved(lake: Path) -> None:
    one = EncodeRecipe(views=ViewsRecipe(slots=("primary",)), clip=ClipRecipe(kind="fixed", num_frames=9))
    run_encode(lake, one)
    two = one.model_copy(update={"clip": ClipRecipe(kind="fixed", num_frames=9, phases=(0, 4))})
    answer = run_encode(lake, two)
    assert (answer.values["cached"], answer.values["computed"], answer.values["cached_frames"]) == (3, 2, 27)
    assert "(27 frames saved)" in answer.lines[0]


def test_frames_by_themselves_are_not_frames_within_a_clip() -> None:
    encoder = wavelet.load(None, {})
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    alone = FrameEncoder(encoder)
    latents = alone.encode(frames)
    assert latents.shape[0] == 5
    for index in range(5):
        assert np.array_equal(latents[index], encoder.encode(frames[index : index + 1])[0])
    assert np.array_equal(alone.decode(latents), frames)
    assert alone.fingerprint != encoder.fingerprint


def test_clips_end_where_language_does_and_stay_within_a_kind(tmp_path: Path) -> None:
    lake = gap_lake(tmp_path)
    small = ViewsRecipe(height_px=32, width_px=32)
    run_encode(lake, EncodeRecipe(views=small, clip=ClipRecipe(kind="frames", bounds=("language",))))
    spans = sorted((row["frame_ids"][0], row["frame_ids"][-1] + 1) for row in rows_of(lake))
    assert spans == [(0, GAP), (GAP, SECOND_TASK), (SECOND_TASK, NUM_STEPS)]
    answer = run_encode(lake, EncodeRecipe(views=small, clip=ClipRecipe(kind="frames", within="idle")))
    inside = [row["frame_ids"] for row in rows_of(lake) if row["frame_ids"][0] not in (0, GAP, SECOND_TASK)]
    assert answer.values["computed"] == len(inside) == 1
    assert inside[0] == list(range(15, 22))


def test_an_episode_without_a_needed_view_is_told_and_has_black_for_an_optional_one(tmp_path: Path) -> None:
    lake = quad_lake(tmp_path, slots=("primary", "wrist_left"))
    with pytest.raises(LakeError, match="1 have no view secondary"):
        run_encode(lake, EncodeRecipe(views=views("dreamzero_droid")))
    recipe = EncodeRecipe(views=views("grid_2x2"), clip=ClipRecipe(kind="fixed", num_frames=5))
    run_encode(lake, recipe)
    frames = decoded(rows_of(lake)[0], recipe)
    assert [tile["slot"] for tile in rows_of(lake)[0]["tiles"]] == ["primary", "wrist_left"]
    assert not frames[:, :96, 128:].any()
    assert not frames[:, 96:, 128:].any()


@pytest.mark.parametrize("content", ["frames", "both"])
def test_a_build_shows_canvases_and_joins_their_latents(lake: Path, tmp_path: Path, content: Any) -> None:
    canvas = views("dreamzero_droid")
    run_encode(lake, EncodeRecipe(views=canvas, clip=ClipRecipe(kind="fixed", num_frames=9, stride=8)))
    recipe = BuildRecipe(
        formats=("webdataset", "parquet"),
        horizon=8,
        views=canvas,
        content=content,
        encoder=None if content == "frames" else "wavelet",
        tokenizer=None,
    )
    run_build(lake, tmp_path / "out", recipe)
    table = tables(tmp_path / "out/parquet")
    plan = canvas_plan(canvas)
    assert plan is not None
    for step, cell in enumerate(table["image_dreamzero_droid"].to_pylist()):
        frame = picture(cell["bytes"])
        assert frame.shape == (256, 256, 3)
        for area in plan.areas:
            assert read(frame[area.top : area.top + area.height, area.left : area.left + area.width]) == step
    lineage = tables(tmp_path / "out/lineage")
    for slot in ("dreamzero_droid", "wrist_left", "primary", "secondary"):
        assert lineage[f"frame_id_{slot}"].to_pylist() == list(range(26))
    if content == "both":
        for sample in tar_samples(tmp_path / "out/webdataset/quad_set"):
            spans = sample.facts["latents"]["dreamzero_droid"]
            assert sample.array("dreamzero_droid.latent.npy").shape[0] == len(spans) > 0
            assert spans[0]["frame_ids"][0] == sample.facts["step"] or sample.facts["step"] == 24


def test_a_window_takes_the_clip_that_begins_with_it(lake: Path, tmp_path: Path) -> None:
    """Whole clips and clips at every fourth frame lie in one lake: a causal latent depends on where its clip begins."""
    small = ViewsRecipe(slots=("primary",))
    run_encode(lake, EncodeRecipe(views=small))
    run_encode(lake, EncodeRecipe(views=small, clip=ClipRecipe(kind="fixed", num_frames=5, stride=4)))
    recipe = BuildRecipe(
        formats=("webdataset",), horizon=5, sample_stride=4, views=small, content="both", encoder="wavelet"
    )
    run_build(lake, tmp_path / "out", recipe)
    seen = 0
    for sample in tar_samples(tmp_path / "out/webdataset/quad_set"):
        step = sample.facts["step"]
        spans = sample.facts["latents"]["primary"]
        if step % 4 == 0 and 0 < step <= 16:
            assert [span["latent"] for span in spans] == [0, 1]
            assert spans[0]["frame_ids"] == [step]
            seen += 1
    assert seen >= 3


def test_a_build_may_join_latents_of_another_rate(lake: Path, tmp_path: Path) -> None:
    small = ViewsRecipe(slots=("primary",))
    run_encode(lake, EncodeRecipe(views=small, frame_stride=3))
    recipe = BuildRecipe(
        formats=("webdataset",), horizon=12, views=small, content="latents", encoder="wavelet", tokenizer=None
    )
    with pytest.raises(LakeError, match="none in the lake"):
        run_build(lake, tmp_path / "no", recipe)
    for number, rate in enumerate(("5", "native/3")):  # of a camera at 15 Hz these are the same frames
        run_build(lake, tmp_path / str(number), recipe.model_copy(update={"latent_rate": rate}))
    run_build(lake, tmp_path / "out", recipe.model_copy(update={"latent_rate": "native/3"}))
    first = next(iter(tar_samples(tmp_path / "out/webdataset/quad_set")))
    assert first.facts["latents"]["primary"][0]["frame_ids"] == [0]
    assert first.facts["latents"]["primary"][1]["frame_ids"] == [3, 6, 9, 12]


@pytest.mark.parametrize(
    ("told", "wanted", "hertz", "same"),
    [
        ("native", "native", 0.0, True),
        ("native", "15", 15.0, True),
        ("native/3", "5", 15.0002, True),
        ("native/3", "5", 14.9, False),
        ("native", "15", 0.0, False),
        ("30000/1001", "native", 29.97003, True),
        ("5", "native/2", 15.0, False),
        ("5", "10", 15.0, False),
    ],
)
def test_rates_of_one_sense_are_the_same(told: str, wanted: str, hertz: float, same: bool) -> None:
    assert is_same_rate(told, wanted, hertz) is is_same_rate(wanted, told, hertz) is same


def test_of_several_sets_one_is_named(lake: Path, tmp_path: Path) -> None:
    small, smaller = (ViewsRecipe(slots=("primary",), height_px=size, width_px=size) for size in (64, 32))
    for spatial, size in ((8, small), (16, small), (8, smaller)):
        run_encode(lake, EncodeRecipe(views=size, options={"spatial": spatial}))
    recipe = BuildRecipe(formats=("webdataset",), views=small, content="latents", encoder="wavelet", tokenizer=None)
    with pytest.raises(RecipeError, match="2 different sets") as caught:
        run_build(lake, tmp_path / "no", recipe)
    named = re.search(r"wavelet@[0-9a-f]{8}", caught.value.hint)
    assert named
    told = [line for line in run_status(StatusOptions(str(lake))).lines if "latents: " in line]
    assert len(told) == 3  # one line a set, by weights and views
    assert sorted(line.endswith("64x64 px") for line in told) == [False, True, True]
    assert any(f"by {named[0]} of primary at " in line for line in told)
    run_build(lake, tmp_path / "out", recipe.model_copy(update={"encoder": named[0]}))


def test_a_dry_run_measures_and_writes_nothing(lake: Path) -> None:
    recipe = EncodeRecipe(views=views("grid_2x2"))
    before = sorted(path.name for path in lake.rglob("*"))
    answer = run_encode_options(EncodeOptions(str(lake), recipe, "", True, "inline"))
    assert answer.values["hours"] > 0
    assert answer.values["frames"] == 25
    assert "of its own clips, decoded, encoded and committed" in answer.lines[1]
    assert before == sorted(path.name for path in lake.rglob("*"))
    run_encode(lake, recipe)
    again = run_encode_options(EncodeOptions(str(lake), recipe, "", True, "inline"))
    assert (again.values["frames"], again.values["cached_frames"], again.values["hours"]) == (0, 25, None)


@pytest.mark.parametrize(
    ("choices", "message", "hint"),
    [
        (
            {"canvas": "dreamzero_droid", "height_px": 100, "width_px": 100},
            "multiples of 8",
            "height_px=96 .*width_px=96",
        ),
        ({"canvas": "cosmos3_concat", "height_px": 100, "width_px": 100}, "not be whole pixels", "height_px=99 "),
        (
            {"canvas": "lingbot_t", "height_px": 36, "width_px": 32},
            "tile of primary is 24x32 at 12",
            "height_px=48 .*=32",
        ),
    ],
)
def test_sizes_that_do_not_fit_name_the_nearest_that_do(lake: Path, choices: Any, message: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        run_encode(lake, EncodeRecipe(views=ViewsRecipe(**choices)))
    assert re.search(hint, caught.value.hint), caught.value.hint


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ('[{ slot = "primary" }, { slot = "primary", top = "1/2", height = "1/2" }]', "two tiles show one view"),
        ('[{ slot = "primary" }, { slot = "secondary", top = "1/2", height = "1/2" }]', "overlap"),
        ('[{ slot = "primary", top = "1/2" }]', "reaches over the edge"),
        ('[{ slot = "primary", height = 0 }]', "has no size"),
        ('[{ slot = "primary", height = 0.5 }]', "is no share"),
        ('[{ slot = "primary", height = "1/0" }]', "is no share"),
        ('[{ slot = "primary", optional = true }]', "cannot be optional"),
        ("[]", "at least 1"),
    ],
)
def test_a_canvas_that_cannot_be_is_refused(tmp_path: Path, tiles: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'name = "mine"\nversion = 1\nheight_px = 64\nwidth_px = 64\ntiles = {tiles}\n')
    with pytest.raises(CardError, match=message):
        canvas_plan(ViewsRecipe(canvas=str(file)))


def test_a_canvas_of_ones_own_is_known_by_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = 'name = "mine"\nversion = 1\nheight_px = 64\nwidth_px = 64\ntiles = [{ slot = "primary" }]\n'
    file.write_text(text)
    before = views_fingerprint(ViewsRecipe(canvas=str(file)))
    file.write_text(text + 'title = "the same"\n')
    assert views_fingerprint(ViewsRecipe(canvas=str(file))) == before
    file.write_text(text.replace('"primary" }', '"primary", fit = "crop" }'))
    assert views_fingerprint(ViewsRecipe(canvas=str(file))) != before


def test_slots_beside_a_canvas_are_refused() -> None:
    with pytest.raises(ValueError, match="leave out slots and fit"):
        ViewsRecipe(canvas="grid_2x2", slots=SLOTS)


def test_frames_by_themselves_are_counted_from_the_start_of_the_episode(tmp_path: Path) -> None:
    lake = gap_lake(tmp_path)
    small = ViewsRecipe(height_px=32, width_px=32)
    frames = ClipRecipe(kind="frames", bounds=("language",))
    run_encode(lake, EncodeRecipe(views=small, frame_stride=3, clip=frames))
    spans = sorted(row["frame_ids"] for row in rows_of(lake))
    assert spans == [[0, 3, 6, 9], [12, 15, 18], [21, 24, 27]]  # the runs begin at 0, 10 and 20
    run_encode(lake, EncodeRecipe(views=small, rate=5, frame_stride=2, clip=frames))
    times = [time for row in rows_of(lake) if row["rate"] == "5/2" for time in row["times_ns"]]
    assert times
    assert all(time % 400_000_000 == 0 for time in times)
