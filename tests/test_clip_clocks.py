"""Cameras of one episode whose clocks differ: no clip holds a picture that stands still since its camera is not there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jobs import ingest
from jobs.cli import main
from jobs.options import IngestOptions
from pipelines import registry
from pipelines.barcode import read
from pipelines.clip_encoder import load_encoder
from pipelines.lake import Lake
from pipelines.layouts.droid_raw import _SERIALS
from pipelines.simulate import ROBOTS, simulate
from pipelines.views import canvas_plan
from schemas.errors import LakeError
from schemas.recipes import ClipRecipe, EncodeRecipe, IngestRecipe, ViewsRecipe
from tests.chain import run_encode

NUM_STEPS = 31
PERIOD_NS = 1e9 / 15
CANVAS = """
name = "two"
version = 1
join = "{join}"
height_px = 256
width_px = 256
tiles = [
    {{ slot = "{first}", height = "1/2" }},
    {{ slot = "{second}", top = "1/2", height = "1/2" }},
]
"""


def clocked_lake(folder: Path, late_ms: int = 0, speed: float = 1.0) -> Path:
    """One recording as DROID's recorder writes it, whose wrist camera begins ``late_ms`` later and ticks ``speed`` as fast."""
    whole = simulate(ROBOTS[0], 0, 0)
    rows = slice(0, NUM_STEPS)
    episode = replace(
        whole,
        times_ns=whole.times_ns[rows],
        action=whole.action[rows],
        proprio=whole.proprio[rows],
        frame_numbers=whole.frame_numbers[rows],
    )
    registry.load("layouts", "droid_raw").write([episode], folder / "set")
    (path,) = (folder / "set").rglob("trajectory.h5")
    with h5py.File(path, "r+") as file:
        for clock in ("estimated_capture", "frame_received", "read_start", "read_end"):
            stamps = file[f"observation/timestamp/cameras/{_SERIALS['wrist_left']}_{clock}"]
            values = stamps[:]
            stamps[:] = values[0] + late_ms + ((values - values[0]) / speed).astype(np.int64)
    card = (Path(__file__).parents[1] / "schemas/cards/datasets/sample_arm_droid_raw.toml").read_text()
    assert 'clock = "declared"' in card
    (folder / "card.toml").write_text(card.replace('clock = "declared"', 'clock = "source"'))
    recipe = IngestRecipe.model_validate({"gates": {"rules": {"view_span": "info"}}})
    places, card_file = (str(folder / "set"),), str(folder / "card.toml")
    answer = ingest.run(IngestOptions(places, str(folder / "lake"), card_file, recipe, False, False, "inline"))
    assert answer.values["kept"] == 1, answer.values
    return folder / "lake"


def canvas(folder: Path, first: str = "primary", second: str = "wrist_left", join: str = "pixels") -> ViewsRecipe:
    path = folder / f"{first}-{join}.toml"
    path.write_text(CANVAS.format(first=first, second=second, join=join))
    return ViewsRecipe(canvas=str(path))


def rows_of(lake: Path) -> list[dict[str, Any]]:
    return Lake.open(str(lake)).table("latents").to_table().to_pylist()


def check_pictures(lake: Path, recipe: EncodeRecipe) -> dict[str, list[int]]:
    """Every tile carries the number the row names, and shows no frame longer than its camera does; the frames of each view."""
    plan = canvas_plan(recipe.views)
    assert plan is not None
    seen: dict[str, list[int]] = {}
    (row,) = Lake.open(str(lake)).rows("episodes", ["views"])
    clocks = {view["slot"]: np.asarray(view["times_ns"]) for view in row["views"]}
    for row in rows_of(lake):
        values = np.frombuffer(row["data"], row["dtype"]).reshape(row["shape"])
        encoder, whole = load_encoder(recipe), None
        if not plan.joins_latents:
            whole = encoder.decode(values)
        for area, tile in zip(plan.areas, row["tiles"], strict=True):
            shown = area.of(whole.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1) if whole is not None else None
            if shown is None:
                shown = encoder.decode(np.ascontiguousarray(area.of(values, encoder.spatial_stride)))
            assert [read(frame) for frame in shown] == tile["frame_ids"]
            behind = np.asarray(row["times_ns"]) - clocks[area.slot][tile["frame_ids"]]
            assert behind.min() >= -1
            assert behind.max() < np.median(np.diff(clocks[area.slot]))
            seen.setdefault(area.slot, []).extend(tile["frame_ids"])
    return seen


@pytest.mark.parametrize("join", ["pixels", "latents"])
@pytest.mark.parametrize("rate", [None, "15"])
@pytest.mark.parametrize(("late_ms", "speed"), [(400, 1.0), (-400, 1.0), (0, 2.0), (0, 0.5), (130, 3.0)])
def test_no_tile_stands_still(tmp_path: Path, late_ms: int, speed: float, rate: str | None, join: str) -> None:
    lake = clocked_lake(tmp_path, late_ms, speed)
    recipe = EncodeRecipe(views=canvas(tmp_path, join=join), rate=rate, clip=ClipRecipe(kind="whole"))
    values = run_encode(lake, recipe).values
    seen = check_pictures(lake, recipe)
    own_ms = PERIOD_NS / 1e6 / speed
    shown = [
        step
        for step in range(NUM_STEPS)
        if late_ms <= step * PERIOD_NS / 1e6 + 0.5 and step * PERIOD_NS / 1e6 < late_ms + NUM_STEPS * own_ms - 1
    ]
    assert abs(values["unseen_frames"].get("wrist_left", 0) - (NUM_STEPS - len(shown))) <= 1
    total = len(seen["primary"]) + values["uncovered_frames"] + sum(values["unseen_frames"].values())
    assert total == NUM_STEPS  # the account of frames closes


def test_a_view_at_a_higher_rate_than_its_own_ends_with_its_last_frame(tmp_path: Path) -> None:
    lake = clocked_lake(tmp_path, 0, 2.0)
    recipe = EncodeRecipe(
        views=ViewsRecipe(slots=("wrist_left",)), rate="30", clip=ClipRecipe(kind="fixed", num_frames=5)
    )
    values = run_encode(lake, recipe).values
    frames = sorted({frame for row in rows_of(lake) for frame in row["frame_ids"]})
    assert frames == list(range(NUM_STEPS))
    assert values["unseen_frames"] == {"wrist_left": 61 - NUM_STEPS}


def test_views_that_never_meet_make_no_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = clocked_lake(tmp_path, 5000)
    views = canvas(tmp_path)
    with pytest.raises(LakeError, match="at 31 more there is nothing of wrist_left"):
        run_encode(lake, EncodeRecipe(views=views))
    command = ["encode", "--lake", str(lake), "--set", f'views.canvas="{views.canvas}"', "--executor", "inline"]
    assert main(command) != 0
    assert "nothing of wrist_left" in capsys.readouterr().err


def test_a_run_says_which_view_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = clocked_lake(tmp_path, 400)
    command = [
        "encode",
        "--lake",
        str(lake),
        "--set",
        f'views.canvas="{canvas(tmp_path).canvas}"',
        "--executor",
        "inline",
    ]
    for more in (["--dry-run"], []):
        assert main([*command, *more]) == 0
        assert "6 frames lie in no clip: wrist_left has not begun there, or is over" in capsys.readouterr().err
