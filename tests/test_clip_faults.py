"""Clips and their joins under faults: mixed episodes in a batch, single frames at several rates, lakes of earlier versions."""

import itertools
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from jobs.cli import main
from pipelines.ahead import ahead
from pipelines.barcode import read
from pipelines.clip_encoder import load_encoder, shape_of
from pipelines.clips import EPISODE_COLUMNS, episode_clips
from pipelines.encoders import wavelet
from pipelines.lake import Lake
from pipelines.latent_check import check_latents
from pipelines.rows import row_sha256
from pipelines.verify import verify_lake
from pipelines.views import canvas_plan
from schemas.errors import CardError, LakeError, RecipeError
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, ViewsRecipe
from schemas.tables import LATENTS
from tests.chain import run_build, run_encode, run_ingest, tar_samples
from tests.quad_lake import quad_lake

PRIMARY = ViewsRecipe(slots=("primary",))
CANVAS = """
name = "either_wrist"
version = 1
join = "{join}"
height_px = 256
width_px = 256
tiles = [
    {{ slot = "primary", height = "1/2" }},
    {{ slot = "wrist_left", top = "1/2", height = "1/2", width = "1/2", optional = true }},
    {{ slot = "wrist_right", top = "1/2", left = "1/2", height = "1/2", width = "1/2", optional = true }},
]
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quad_lake(tmp_path_factory.mktemp("quad"), ("primary", "wrist_left"))


@pytest.fixture
def lake(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "lake"))


@pytest.fixture
def either(lake: Path, tmp_path: Path) -> Path:
    """A lake of two episodes: one has a left wrist camera, the other a right one."""
    quad_lake(tmp_path / "other", ("primary", "wrist_right"))
    for name in ("card", "quad"):
        path = tmp_path / "other" / f"{name}.toml"
        text = path.read_text().replace("quad_set", "other_set").replace('"quad"', '"other"')
        (path if name == "card" else path.with_stem("other")).write_text(text)
    answer = run_ingest([tmp_path / "other/quad"], lake, card=tmp_path / "other/card.toml")
    assert answer.values["kept"] == 1
    return lake


def rows_of(lake: Path) -> list[dict[str, Any]]:
    return Lake.open(str(lake)).table("latents").to_table().to_pylist()


def canvas_of(folder: Path, join: str) -> ViewsRecipe:
    file = folder / f"{join}.toml"
    file.write_text(CANVAS.format(join=join))
    return ViewsRecipe(canvas=str(file))


@pytest.mark.parametrize("join", ["pixels", "latents"])
def test_episodes_with_other_optional_tiles_in_one_batch(either: Path, tmp_path: Path, join: str) -> None:
    """Both have two tiles of one size; each goes to its own place."""
    recipe = EncodeRecipe(views=canvas_of(tmp_path, join), clip=ClipRecipe(kind="fixed", num_frames=5), batch_clips=8)
    assert run_encode(either, recipe).values["computed"] == len(rows_of(either)) == 12
    plan, encoder = canvas_plan(recipe.views), load_encoder(recipe)
    assert plan is not None
    shown = set()
    for row in rows_of(either):
        frames = {tile["slot"]: tile["frame_ids"] for tile in row["tiles"]}
        latent = np.frombuffer(row["data"], row["dtype"]).reshape(row["shape"])
        for area in plan.shown(tuple(frames)):
            decoded = encoder.decode(np.ascontiguousarray(area.of(latent, 8)))
            assert [read(frame) for frame in decoded] == frames[area.slot], area.slot
        shown.add(tuple(frames))
    assert shown == {("primary", "wrist_left"), ("primary", "wrist_right")}
    checks, problems = check_latents(Lake.open(str(either)), recipe, encoder, 99)
    assert not problems
    assert {check.lag for check in checks} == {0}
    build = BuildRecipe(
        formats=("webdataset",), horizon=5, views=recipe.views, content="both", encoder="wavelet", tokenizer=None
    )
    run_build(either, tmp_path / "out", build)
    known = {row["latent_id"] for row in rows_of(either)}
    for group in ("quad_set", "other_set"):
        spans = [
            span
            for sample in tar_samples(tmp_path / "out/webdataset" / group)
            for span in sample.facts["latents"]["either_wrist"]
        ]
        assert {span["latent_id"] for span in spans} <= known
        assert spans


@pytest.mark.parametrize("join", ["pixels", "latents"])
def test_one_tile_that_lags_or_is_of_something_else_is_found(either: Path, tmp_path: Path, join: str) -> None:
    """All tiles together would still match best at lag 0, and well enough."""
    recipe = EncodeRecipe(views=canvas_of(tmp_path, join), clip=ClipRecipe(kind="fixed", num_frames=9))
    run_encode(either, recipe)
    rows, encoder = rows_of(either), load_encoder(recipe)
    for number, row in enumerate(rows):
        latent = np.frombuffer(row["data"], "<f4").reshape(row["shape"])
        frames = encoder.decode(latent)
        part = frames[:, 128:, :128] if row["tiles"][1]["slot"] == "wrist_left" else frames[:, 128:, 128:]
        part[:] = 255 - part if number == 0 else part[np.clip(np.arange(9) - 2, 0, 8)]
        row["data"] = encoder.encode(frames).astype("<f4").tobytes()
    lance.write_dataset(pa.Table.from_pylist(rows, LATENTS), str(either / "latents.lance"), mode="overwrite")
    _, problems = check_latents(Lake.open(str(either)), recipe, encoder, 99)
    assert len(problems) == len(rows)
    assert sum("lag their frames by 2" in one.message for one in problems) == len(rows) - 1
    assert sum("to something else" in one.message for one in problems) == 1


def test_only_the_slots_of_the_recipe_are_checked(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_encode(lake, EncodeRecipe(clip=ClipRecipe(kind="fixed", num_frames=9)))
    assert main(["verify", str(lake), "--latents", "99", "--set", 'views.slots=["wrist_left"]']) == 0
    assert "3 clips decoded back" in capsys.readouterr().out
    assert main(["verify", str(lake), "--latents", "99"]) == 0
    assert "6 clips decoded back" in capsys.readouterr().out


def windows(lake: Path, out: Path, **choices: Any) -> dict[int, list[list[int]]]:
    """Steps of the latents of every window."""
    recipe = BuildRecipe(
        formats=("webdataset",), views=PRIMARY, content="latents", encoder="wavelet", tokenizer=None, **choices
    )
    run_build(lake, out, recipe)
    return {
        sample.facts["step"]: [span["steps"] for span in sample.facts["latents"]["primary"]]
        for sample in tar_samples(out / "webdataset/quad_set")
    }


def test_single_frames_at_two_rates_are_two_sets(lake: Path, tmp_path: Path) -> None:
    """One instant is the same at every rate, and its row tells of one: a build at the other would not find it."""
    for rate in ("5", "10"):
        answer = run_encode(lake, EncodeRecipe(views=PRIMARY, rate=rate, clip=ClipRecipe(kind="fixed", num_frames=1)))
        assert answer.values["cached"] == 0
    found = windows(lake, tmp_path / "out", rate="10", horizon=4)
    assert found == {
        first: [[step, step + 1] for step in range(first, min(17, first + 4))] for first in range(0, 17, 4)
    }
    found = windows(lake, tmp_path / "slow", rate="10", horizon=4, latent_rate="5", sample_stride=1)
    assert found[1] == [[0, 2], [2, 4], [4, 6]], "a frame of 5 Hz lasts two steps of 10 Hz"


def test_latents_of_one_window_do_not_overlap(lake: Path, tmp_path: Path) -> None:
    clip = ClipRecipe(kind="fixed", num_frames=9, phases=(0, 1, 2, 3))
    run_encode(lake, EncodeRecipe(views=PRIMARY, clip=clip))
    found = windows(lake, tmp_path / "out", horizon=12, sample_stride=1)
    assert found[5] == [[5, 9], [9, 10], [10, 14], [14, 18]]
    for first, steps in found.items():
        assert steps[0][0] <= first
        assert steps[-1][1] >= min(first + 12, 26)
        seams = [(one[1], two[0]) for one, two in itertools.pairwise(steps)]
        assert all(stop == start for stop, start in seams) or first > 6, "the last clip of a run may overlap"


def test_a_slower_clip_that_begins_with_the_window_is_taken_alone(lake: Path, tmp_path: Path) -> None:
    """It covers all 15 steps with the frames 0, 3, 6, 9 and 12, though the last step is behind the last frame."""
    run_encode(lake, EncodeRecipe(views=PRIMARY, frame_stride=3))
    run_encode(
        lake, EncodeRecipe(views=PRIMARY, frame_stride=3, clip=ClipRecipe(kind="fixed", num_frames=5, phases=(3,)))
    )
    build = BuildRecipe(
        formats=("webdataset",), views=PRIMARY, content="latents", encoder="wavelet", tokenizer=None,
        horizon=15, sample_stride=3, latent_rate="native/3",
    )  # fmt: skip
    run_build(lake, tmp_path / "out", build)
    samples = {sample.facts["step"]: sample for sample in tar_samples(tmp_path / "out/webdataset/quad_set")}
    assert [span["frame_ids"] for span in samples[3].facts["latents"]["primary"]] == [[3], [6, 9, 12, 15]]


def made_before_tiles(lake: Path) -> None:
    """Turns the table of latents into one of the version before canvases."""
    path = str(lake / "latents.lance")
    schema = pa.schema([field for field in LATENTS if field.name != "tiles"])
    rows = lance.dataset(path).to_table().drop_columns(["tiles"]).to_pylist()
    for row in rows:
        row["row_sha256"] = ""
        row["row_sha256"] = row_sha256(pa.Table.from_pylist([row], schema).combine_chunks().to_batches()[0])
    shutil.rmtree(path)
    lance.write_dataset(pa.Table.from_pylist(rows, schema), path, schema=schema, data_storage_version="2.2")


@pytest.mark.parametrize("encoded", [False, True])
def test_a_lake_from_before_canvases_is_read_and_grows(lake: Path, tmp_path: Path, encoded: bool) -> None:
    small = EncodeRecipe(views=PRIMARY, clip=ClipRecipe(kind="fixed", num_frames=9))
    if encoded:
        run_encode(lake, small)
    made_before_tiles(lake)
    assert verify_lake(Lake.open(str(lake))).ok
    if encoded:
        checks, problems = check_latents(Lake.open(str(lake)), small, load_encoder(small), 9)
        assert (len(checks), problems) == (3, [])
        assert run_encode(lake, small).values["computed"] == 0
    run_encode(lake, EncodeRecipe(views=ViewsRecipe(canvas="grid_2x2")))
    rows = rows_of(lake)
    assert sum(row["tiles"] is None for row in rows) == 3 * encoded
    assert sum(len(row["tiles"] or []) == 2 for row in rows) == 1
    assert verify_lake(Lake.open(str(lake))).ok


def test_a_lake_that_lacks_any_other_column_is_told(lake: Path) -> None:
    path = str(lake / "latents.lance")
    schema = pa.schema([field for field in LATENTS if field.name != "sampling"])
    shutil.rmtree(path)
    lance.write_dataset(schema.empty_table(), path, schema=schema, data_storage_version="2.2")
    with pytest.raises(LakeError, match="no column 'sampling'") as caught:
        run_encode(lake, EncodeRecipe(views=PRIMARY))
    assert "another version" in caught.value.hint


@pytest.mark.parametrize(
    "share", ["1e-400000", "1e999999999", "1/" + "9" * 4000, "1/9999999", "nan", "-1/2", "1_0/2_0"]
)
def test_shares_of_many_digits_are_refused_at_once(tmp_path: Path, share: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        f'name = "mine"\nversion = 1\nheight_px = 64\nwidth_px = 64\ntiles = [{{ slot = "primary", top = "{share}" }}]\n'
    )
    with pytest.raises(CardError, match="is no share"):
        canvas_plan(ViewsRecipe(canvas=str(file)))


def test_sizes_beyond_all_measure_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="less than or equal to 65536"):
        ViewsRecipe(height_px=10**400)
    file = tmp_path / "mine.toml"
    file.write_text(
        f'name = "mine"\nversion = 1\nheight_px = {10**400}\nwidth_px = 64\ntiles = [{{ slot = "primary" }}]\n'
    )
    with pytest.raises(CardError, match="less than or equal to 65536"):
        canvas_plan(ViewsRecipe(canvas=str(file)))


def test_an_encoder_that_breaks_leaves_no_thread_behind(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(clips: np.ndarray) -> np.ndarray:
        raise RuntimeError("out of memory")

    encoder = wavelet.load(None, {})
    monkeypatch.setattr(encoder, "encode_clips", broken)
    monkeypatch.setattr(wavelet, "load", lambda weights, options: encoder)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        run_encode(lake, EncodeRecipe(views=PRIMARY, clip=ClipRecipe(kind="fixed", num_frames=5)))
    assert not [one for one in threading.enumerate() if one.name.startswith("ahead")], caught.value


def test_who_stops_early_waits_for_the_item_under_way_and_no_more() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    taken = ahead(items(), 2)
    assert [next(taken), next(taken)] == [0, 1]
    taken.close()
    assert len(made) <= 4
    assert not [one for one in threading.enumerate() if one.name.startswith("ahead")]


@pytest.mark.parametrize(
    ("phases", "stride", "left"),
    [((0,), 1, 1), ((5,), 1, 5), ((0, 1), 1, 0), ((50,), 1, 26), ((3,), 3, 4), ((1,), 3, 0), ((0,), 3, 0)],
)
def test_frames_in_no_clip_are_counted_once(lake: Path, phases: tuple[int, ...], stride: int, left: int) -> None:
    """26 frames; a clip takes 1 + 4k of them, or of every third."""
    rows = Lake.open(str(lake)).rows("episodes", EPISODE_COLUMNS)
    recipe = EncodeRecipe(views=PRIMARY, frame_stride=stride, clip=ClipRecipe(phases=phases))
    assert episode_clips(rows[0], recipe, shape_of(load_encoder(recipe))).left == left


def test_phases_without_end_are_refused_before_they_fill_memory(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.clips.MAX_PLANNED_FRAMES", 60)
    run_encode(lake, EncodeRecipe(views=PRIMARY, clip=ClipRecipe(phases=(0, 0, 0, 0, 1))))
    with pytest.raises(RecipeError, match="more than 60 frames together"):
        run_encode(lake, EncodeRecipe(views=PRIMARY, clip=ClipRecipe(phases=(0, 1, 2))))


@pytest.mark.parametrize(
    "settings",
    [["template={instruction}\udcff"], ['extra_prompts=["\udcff"]'], ["template={x}", "fields.x=\udcff"]],
)
def test_prompts_that_are_no_text_are_refused(lake: Path, settings: list[str]) -> None:
    assert main(["texts", "--lake", str(lake), *(part for one in settings for part in ("--set", one))]) == 2
