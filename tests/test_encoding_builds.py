"""A build that encodes on the way gives what encoding first and building then gives: the release, and the rows of the lake."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import build, cli, verify
from jobs.execute import Executor
from jobs.options import Answer, BuildOptions, VerifyOptions
from pipelines import made_latents, staged_rows
from pipelines.build_plan import plan_build
from pipelines.build_unit import BuildWorker, encodes
from pipelines.clip_encoder import load_encoder
from pipelines.encoders.wavelet import Wavelet
from pipelines.lake import Lake
from pipelines.made_latents import MadeLatents
from pipelines.promised_latents import completed, promise
from pipelines.video import VideoTools
from schemas.errors import FingerprintMismatch, LakeError, LayoutError, RecipeError, ReleaseMismatch
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, VideoRecipe, ViewsRecipe
from schemas.release_choices import SplitRecipe
from tests.chain import run_build, run_encode, run_ingest, write_short
from tests.fake_build import tree_bytes
from tests.quad_lake import quad_lake
from tests.test_release_bytes import Backwards, BrokenOff, OnRay

Copy = Callable[[], Path]
SMALL = ViewsRecipe(height_px=48, width_px=64)
CLIPS = EncodeRecipe(views=SMALL, clip=ClipRecipe(kind="fixed", num_frames=5, stride=3, phases=(0, 1)), batch_clips=2)
HALF = CLIPS.model_copy(update={"dtype": "float16"})
RECIPE = BuildRecipe(
    formats=("lerobot_v3", "webdataset"),
    content="both",
    encoder="wavelet",
    views=SMALL,
    horizon=4,
    unit_frames=18,
    tokenizer=None,
    split=SplitRecipe(val_fraction=0.3),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of the gantry, and one of the arm, with two cameras."""
    folder = tmp_path_factory.mktemp("recordings")
    write_short(folder, lengths=(12, 9, 16))
    write_short(folder, lengths=(8,), robot=0)
    root = tmp_path_factory.mktemp("lake") / "lake"
    assert run_ingest([folder], root).values["kept"] == 4
    return root


@pytest.fixture(scope="module")
def quad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode of four cameras, of the size that is asked for: they can be copied."""
    return quad_lake(tmp_path_factory.mktemp("quad"), num_steps=12)


@pytest.fixture
def fresh(source: Path, tmp_path: Path) -> Copy:
    """Copies of the lake without latents."""
    return lambda: copied(source, tmp_path)


def copied(source: Path, folder: Path) -> Path:
    number = len(list(folder.glob("lake*")))
    return Path(shutil.copytree(source, folder / f"lake{number}"))


def rows_of(lake: Path) -> list[dict[str, Any]]:
    rows = Lake.open(lake).table("latents").to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["latent_id"]))


@dataclass(frozen=True)
class Made:
    """The bytes of a release, and the rows of latents in its lake."""

    release: dict[str, bytes]
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def at_once(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What RECIPE and CLIPS give in one step, of units that are worked on in another order than elsewhere."""
    folder = tmp_path_factory.mktemp("at_once")
    lake = copied(source, folder)
    run_build(lake, folder / "out", RECIPE, Backwards(), CLIPS)
    return Made(tree_bytes(folder / "out"), rows_of(lake))


@pytest.fixture(scope="module")
def encoded(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lake with the latents of CLIPS."""
    lake = copied(source, tmp_path_factory.mktemp("encoded"))
    run_encode(lake, CLIPS)
    return lake


@pytest.fixture(scope="module")
def of_halves(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The release of latents that were encoded before it, with HALF."""
    folder = tmp_path_factory.mktemp("of_halves")
    lake = copied(source, folder)
    run_encode(lake, HALF)
    run_build(lake, folder / "out", RECIPE)
    return tree_bytes(folder / "out")


def both_ways(first: Path, second: Path, recipe: BuildRecipe, encode: EncodeRecipe, out: Path) -> Answer:
    """Builds in two steps and in one, and compares; returns the answer of the latter."""
    run_encode(first, encode, recipe.where)
    run_build(first, out / "two", recipe)
    answer = run_build(second, out / "one", recipe, encode=encode)
    assert tree_bytes(out / "one") == tree_bytes(out / "two")
    assert rows_of(second) == rows_of(first)
    assert answer.values["encoded_clips"] == len(rows_of(first)) > 0
    assert not answer.values["already"]
    assert not list(out.glob("*.staging*"))
    return answer


@pytest.mark.parametrize(
    ("changes", "encode"),
    [
        ({}, {}),
        ({"views": ViewsRecipe(height_px=32, width_px=32), "formats": ("parquet",)}, {}),
        ({"views": ViewsRecipe(), "video": VideoRecipe(reuse=False)}, {}),
        ({"rate": "10", "where": "num_steps > 9"}, {"rate": "10"}),
        ({"formats": ("parquet",)}, {"clip": ClipRecipe(kind="frames")}),
        ({"names": {"primary": "exterior"}, "where": "embodiment = 'sample_gantry'"}, {}),
    ],
    ids=["as pictures", "other size", "source size", "on a grid", "frame by frame", "other names"],
)
def test_clips_of_frames_that_steps_show_share_their_decode(
    fresh: Copy, tmp_path: Path, changes: dict[str, Any], encode: dict[str, Any]
) -> None:
    recipe = RECIPE.model_copy(update=changes) if "names" not in changes else renamed(changes)
    answer = both_ways(
        fresh(), fresh(), BuildRecipe.model_validate(recipe.model_dump()), with_(CLIPS, encode), tmp_path
    )
    assert answer.values["shared_clips"] == answer.values["encoded_clips"]


def renamed(changes: dict[str, Any]) -> BuildRecipe:
    names = RECIPE.names.model_copy(update={"views": changes["names"]})
    return RECIPE.model_copy(update={"names": names, "where": changes["where"]})


def with_(recipe: EncodeRecipe, changes: dict[str, Any]) -> EncodeRecipe:
    return EncodeRecipe.model_validate({**recipe.model_dump(), **changes})


@pytest.mark.parametrize(
    ("changes", "encode"),
    [
        ({}, {"views": ViewsRecipe(height_px=48, width_px=64, fit="stretch")}),
        ({"rate": "5", "latent_rate": "native", "where": "num_steps > 9"}, {}),
    ],
    ids=["fitted otherwise", "cameras faster than steps"],
)
def test_other_clips_are_decoded_for_themselves(
    fresh: Copy, tmp_path: Path, changes: dict[str, Any], encode: dict[str, Any]
) -> None:
    recipe = BuildRecipe.model_validate({**RECIPE.model_dump(), **changes})
    answer = both_ways(fresh(), fresh(), recipe, with_(CLIPS, encode), tmp_path)
    assert answer.values["shared_clips"] == 0


@pytest.mark.parametrize(("canvas", "is_shared"), [("grid_2x2", True), ("lingbot_t", False)])
def test_canvases(quad: Path, tmp_path: Path, canvas: str, is_shared: bool) -> None:
    """Those that are joined as latents have tiles that no step shows."""
    height, width = {"grid_2x2": (192, 256), "lingbot_t": (288, 256)}[canvas]
    views = ViewsRecipe(canvas=canvas, height_px=height, width_px=width)
    recipe = RECIPE.model_copy(update={"views": views, "formats": ("lerobot_v3",)})
    answer = both_ways(
        copied(quad, tmp_path), copied(quad, tmp_path), recipe, CLIPS.model_copy(update={"views": views}), tmp_path
    )
    assert answer.values["shared_clips"] == (answer.values["encoded_clips"] if is_shared else 0)


def test_frames_that_are_copied_are_decoded_for_their_clips_alone(quad: Path, tmp_path: Path) -> None:
    views = ViewsRecipe(slots=("primary", "wrist_left"))
    encode = CLIPS.model_copy(update={"views": views})
    alone = RECIPE.model_copy(update={"views": views, "formats": ("lerobot_v3",)})
    answer = both_ways(copied(quad, tmp_path), copied(quad, tmp_path), alone, encode, tmp_path / "alone")
    assert answer.values["copied_frames"] > 0
    assert answer.values["shared_clips"] == 0
    beside = alone.model_copy(update={"formats": ("lerobot_v3", "webdataset")})
    answer = both_ways(copied(quad, tmp_path), copied(quad, tmp_path), beside, encode, tmp_path / "beside")
    assert answer.values["copied_frames"] > 0
    assert answer.values["shared_clips"] == answer.values["encoded_clips"]


def test_each_view_is_decoded_once(fresh: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decodes: list[str] = []
    whole = VideoTools.decode_sizes

    def counting(self: VideoTools, view: Any, where: str, *rest: Any) -> Any:
        decodes.append(where)
        return whole(self, view, where, *rest)

    lake = fresh()
    monkeypatch.setattr(VideoTools, "decode_sizes", counting)
    run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert sorted(decodes) == sorted(set(decodes))
    assert len(decodes) == 3 + 2


def test_only_what_the_lake_lacks_is_encoded(fresh: Copy, at_once: Made, tmp_path: Path) -> None:
    lake = fresh()
    run_encode(lake, CLIPS, "embodiment = 'sample_arm'")
    there = len(rows_of(lake))
    answer = run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert 0 < answer.values["encoded_clips"] == len(rows_of(lake)) - there
    assert tree_bytes(tmp_path / "out") == at_once.release


def test_what_is_dropped_is_not_encoded(fresh: Copy, tmp_path: Path) -> None:
    """Of the gantry, which lacks a view that is asked for."""
    lake = fresh()
    views = ViewsRecipe(slots=("primary", "wrist_left"), height_px=48, width_px=64)
    recipe = RECIPE.model_copy(update={"views": views})
    answer = run_build(lake, tmp_path / "out", recipe, encode=CLIPS.model_copy(update={"views": views}))
    assert answer.values["dropped"] == 3
    assert len({row["episode_id"] for row in rows_of(lake)}) == 1
    assert run_build(lake, tmp_path / "out", recipe, encode=CLIPS.model_copy(update={"views": views})).values["already"]


def test_the_same_again_is_there_already_and_another_is_refused(fresh: Copy, tmp_path: Path) -> None:
    lake = fresh()
    run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    for encode in (CLIPS, None):
        assert run_build(lake, tmp_path / "out", RECIPE, encode=encode).values["already"]
    others = with_(CLIPS, {"clip": ClipRecipe(kind="fixed", num_frames=5, stride=2)})
    with pytest.raises(ReleaseMismatch):
        run_build(lake, tmp_path / "out", RECIPE, encode=others)
    assert tree_bytes(tmp_path / "out")


def test_an_interrupted_build_goes_on_and_encodes_nothing_twice(fresh: Copy, at_once: Made, tmp_path: Path) -> None:
    lake = fresh()
    with pytest.raises(KeyboardInterrupt):
        run_build(lake, tmp_path / "out", RECIPE, BrokenOff(), CLIPS)
    assert not (tmp_path / "out").exists()
    made = len(rows_of(lake))
    answer = run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert 0 < answer.values["encoded_clips"] == len(rows_of(lake)) - made < len(rows_of(lake))
    assert tree_bytes(tmp_path / "out") == at_once.release


def die_before_commit(lake: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds until the latents of the first unit would come into the lake."""

    def die(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(made_latents, "commit_file", die)
        with pytest.raises(KeyboardInterrupt):
            run_build(lake, out, RECIPE, encode=CLIPS)


def test_latents_of_a_unit_that_was_done_when_the_run_died_come_into_the_lake(
    fresh: Copy, at_once: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = fresh()
    die_before_commit(lake, tmp_path / "out", monkeypatch)
    assert not rows_of(lake)
    answer = run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert 0 < answer.values["encoded_clips"] < len(rows_of(lake))
    assert rows_of(lake) == at_once.rows
    assert tree_bytes(tmp_path / "out") == at_once.release


@pytest.mark.ray
def test_on_ray(fresh: Copy, at_once: Made, tmp_path: Path, ray_executor: Executor) -> None:
    for num_workers in (1, 2):
        lake, out = fresh(), tmp_path / str(num_workers)
        run_build(lake, out, RECIPE, OnRay(ray_executor, num_workers), CLIPS)
        assert tree_bytes(out) == at_once.release
        assert rows_of(lake) == at_once.rows


def test_a_lake_that_went_back_gets_what_it_lacks_again(fresh: Copy, at_once: Made, tmp_path: Path) -> None:
    lake, before = fresh(), fresh()
    with pytest.raises(KeyboardInterrupt):
        run_build(lake, tmp_path / "out", RECIPE, BrokenOff(), CLIPS)
    shutil.rmtree(lake)
    before.rename(lake)
    answer = run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert answer.values["encoded_clips"] == len(rows_of(lake))
    assert tree_bytes(tmp_path / "out") == at_once.release


def test_latents_that_another_run_put_there_meanwhile_count(
    fresh: Copy, of_halves: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of the same frames and encoder, but not of the same numbers: here of another dtype."""
    lake = fresh()
    whole = made_latents.commit_file

    def late(*args: Any) -> int:
        monkeypatch.undo()
        run_encode(lake, HALF)
        return whole(*args)

    monkeypatch.setattr(made_latents, "commit_file", late)
    with pytest.raises(LakeError, match="another run has put other latents"):
        run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert tree_bytes(tmp_path / "out") == of_halves


def test_latents_left_by_a_run_that_died_give_way_to_those_that_came_since(
    fresh: Copy, of_halves: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = fresh()
    die_before_commit(lake, tmp_path / "out", monkeypatch)
    run_encode(lake, HALF)
    run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert tree_bytes(tmp_path / "out") == of_halves


def test_latents_that_come_after_the_plan_are_not_joined(
    fresh: Copy, at_once: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = fresh()
    whole = MadeLatents.take_up

    def late(self: MadeLatents, staging: Path) -> Lake:
        run_encode(lake, with_(CLIPS, {"clip": ClipRecipe(kind="fixed", num_frames=5, phases=(2,))}))
        return whole(self, staging)

    monkeypatch.setattr(MadeLatents, "take_up", late)
    run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert tree_bytes(tmp_path / "out") == at_once.release


def test_a_release_is_verified_beside_other_latents_of_its_encoder(fresh: Copy, tmp_path: Path) -> None:
    lake, out = fresh(), tmp_path / "out"
    for size in (32, 64):
        run_encode(lake, with_(CLIPS, {"views": ViewsRecipe(height_px=size, width_px=size)}))
    run_build(lake, out, RECIPE, encode=with_(CLIPS, {"views": ViewsRecipe(height_px=96, width_px=128)}))
    told = verify.run(VerifyOptions(str(out), str(lake)))
    assert told.values["ok"], told.values["problems"]
    assert told.values["lake"]["is_unchanged"]


def test_latents_come_into_the_lake_in_pieces(fresh: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_rows, "COMMIT_BYTES", 700_000)
    pieces: list[int] = []
    whole = Lake.insert

    def counting(self: Lake, name: str, rows: Any) -> int:
        pieces.append(rows.num_rows)
        return whole(self, name, rows)

    monkeypatch.setattr(Lake, "insert", counting)
    lake = fresh()
    answer = run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert max(pieces) == 2 < len(pieces)  # rows of 294,912 bytes of latents
    assert sum(pieces) == answer.values["encoded_clips"] == len(rows_of(lake))


def test_a_clip_that_cannot_be_encoded_stops_the_build(
    fresh: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wavelet, "encode_clips", lambda _, clips: np.full((len(clips), 2, 768, 6, 8), np.nan, "f4"))
    lake = fresh()
    with pytest.raises(LayoutError, match="not finite"):
        run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS)
    assert not (tmp_path / "out").exists()
    assert not rows_of(lake)


def test_other_weights_than_the_plans_stop_the_build(fresh: Copy, tmp_path: Path) -> None:
    lake = Lake.open(fresh())
    (work, *_), *_ = promise(lake, RECIPE, CLIPS, load_encoder(CLIPS)).sources.values()
    plan = plan_build(lake, RECIPE, "0", promise(lake, RECIPE, CLIPS, load_encoder(CLIPS)))
    unit = plan.encoding({work.episode_id: [work]}).units
    others = CLIPS.model_copy(update={"options": {"spatial": 16}})
    worker = BuildWorker(str(lake.root), lake.versions(), str(tmp_path), RECIPE, plan.latents, others)
    with pytest.raises(FingerprintMismatch, match="the encoder has the fingerprint"):
        worker(next(one for one in unit if encodes(one)))
    worker.close()


@pytest.mark.parametrize(
    ("changes", "encode", "told"),
    [
        ({"content": "frames"}, {}, "joins no latents"),
        ({"encoder": None}, {}, "does not say whose latents"),
        ({"encoder": "wan22"}, {"encoder": "wavelet"}, "latents of wan22, and --encode names wavelet"),
        ({"encoder": "wavelet@abcdef"}, {}, "makes those of wavelet@"),
        ({"rate": "10", "where": "num_steps > 9"}, {"rate": "native"}, "of those of --encode are at another"),
        ({"views": {"canvas": "side_by_side"}}, {"views": {"fit": "crop"}}, "leave out slots and fit"),
        ({"views": {"canvas": "side_by_side"}}, {"views": {"canvas": "grid_2x2"}}, "latents of the canvas grid_2x2"),
        ({}, {"views": {"canvas": "grid_2x2", "height_px": None, "width_px": None}}, "of the canvas grid_2x2"),
        ({}, {"clip": {"kind": "fixed", "num_frames": 9}}, "episodes have none of view primary"),
        ({}, {"clip": {"kind": "fixed", "num_frames": 9997}}, "no episode has any"),
        ({}, {"views": {"width_px": 90}}, "set views.height_px=48 and views.width_px=88 where it is encoded"),
    ],
)
def test_latents_that_would_not_be_joined_are_refused(
    fresh: Copy, encoded: Path, tmp_path: Path, changes: dict[str, Any], encode: dict[str, Any], told: str
) -> None:
    recipe = BuildRecipe.model_validate({**RECIPE.model_dump(), **changes})
    # what the lake has already does not help
    lake = fresh() if "clip" in encode else copied(encoded, tmp_path)
    clip = {"clip": CLIPS.clip.model_dump(), **encode}
    with pytest.raises((RecipeError, LakeError)) as caught:
        run_build(lake, tmp_path / "out", recipe, encode=EncodeRecipe.model_validate(clip))
    assert told in f"{caught.value.message} {caught.value.hint}"


def test_a_dry_run_tells_what_would_be_encoded_and_writes_nothing(fresh: Copy, tmp_path: Path) -> None:
    lake = fresh()
    before = tree_bytes(lake)
    answer = build.run(BuildOptions(str(lake), str(tmp_path / "out"), RECIPE, True, "inline", CLIPS))
    assert tree_bytes(lake) == before
    assert not (tmp_path / "out").exists()
    assert (
        answer.values["clips_to_encode"]
        == run_build(lake, tmp_path / "out", RECIPE, encode=CLIPS).values["encoded_clips"]
    )


def test_the_command_takes_from_the_build_what_the_encode_recipe_does_not_say(
    fresh: Copy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "encode.toml").write_text('[clip]\nkind = "fixed"\nnum_frames = 5\n')
    (tmp_path / "build.toml").write_text(
        'content = "both"\nencoder = "wavelet"\nhorizon = 4\nrate = 20\nlatent_rate = "10"\nwhere = "num_steps > 9"\n'
        "[views]\nheight_px = 32\nwidth_px = 32\n"
    )
    lake, out = fresh(), tmp_path / "out"
    told = ["build", "--lake", str(lake), "--out", str(out), "--recipe", str(tmp_path / "build.toml")]
    told += ["--executor", "inline"]
    assert (
        cli.main([*told, "--encode", str(tmp_path / "encode.toml"), "clip.stride=3", "--encode", "options.spatial=16"])
        == 0
    )
    assert "were encoded and are in the lake" in capsys.readouterr().out
    rows = rows_of(lake)
    assert {(row["rate"], *row["shape"][2:]) for row in rows} == {("10", 2, 2)}
    assert cli.main([*told, "--weights", str(tmp_path)]) == 2
    assert "--encode" in capsys.readouterr().err
    assert cli.main([*told, "--encode", "a.toml", "b.toml"]) == 2
    assert "one recipe" in capsys.readouterr().err
    assert cli.main([*told, "--encode", "wavelet"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "said", "meant"),
    [
        ({}, {}, (None, 1)),
        ({"latent_rate": "native/3"}, {}, (None, 3)),
        ({"rate": 15, "latent_rate": "5"}, {}, (15, 3)),
        ({"rate": 15, "latent_rate": "5"}, {"rate": 15}, (15, 3)),
        ({"rate": 15, "latent_rate": "5"}, {"rate": 10}, (10, 2)),
        ({"rate": 15, "latent_rate": "5"}, {"frame_stride": 3}, (15, 3)),
        ({"rate": 10, "latent_rate": "4"}, {}, (4, 1)),
        ({"rate": "15/2"}, {}, (Fraction(15, 2), 1)),
    ],
)
def test_what_an_encode_recipe_does_not_say_is_as_the_build_needs_it(
    recipe: dict[str, Any], said: dict[str, Any], meant: tuple[Any, int]
) -> None:
    build_recipe = BuildRecipe.model_validate({**RECIPE.model_dump(), **recipe})
    found = completed(EncodeRecipe.model_validate({**said, "views": {"fit": "stretch"}}), build_recipe)
    assert (found.rate, found.frame_stride) == meant
    assert found.encoder == "wavelet"
    assert found.views == ViewsRecipe(height_px=48, width_px=64, fit="stretch")
