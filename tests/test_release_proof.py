"""Verification of a release: what is whole passes with its figures; what is wrong is found and named, with right hashes too."""

import json
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from jobs import report, verify
from jobs.options import Answer, ReportOptions, VerifyOptions
from pipelines.lake import Lake
from pipelines.verify import verify_release
from schemas.errors import UsageError
from schemas.recipes import BuildRecipe, ClipRecipe, EncodeRecipe, ViewsRecipe
from tests.chain import read_json, run_encode
from tests.quad_lake import quad_lake
from tests.release_chain import ARM, FORMATS, GANTRY, RECIPE, VIEWS, make_lake, make_release, rewrite, seal_again


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("proof"))


@pytest.fixture(scope="module")
def release(lake: Path) -> Path:
    return make_release(lake, lake.parent / "release")


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    """A release that a test may spoil."""
    return Path(shutil.copytree(release, tmp_path / "copy"))


def run(target: Path, **options: Any) -> Answer:
    return verify.run(VerifyOptions(str(target), **options))


@pytest.fixture(scope="module")
def certificate(release: Path, lake: Path) -> Path:
    """What the whole release is told of, against the lake."""
    path = release.parent / "proof.json"
    answer = run(release, lake=str(lake), certificate=str(path))
    assert (answer.exit_code, answer.values["problems"]) == (0, [])
    return path


def test_a_whole_release_passes_and_its_certificate_says_what_was_seen(
    release: Path, lake: Path, certificate: Path, tmp_path: Path
) -> None:
    told, manifest = read_json(certificate), read_json(release / "manifest.json")
    steps = sum(group["num_steps"] for group in manifest["groups"])
    frames = sum(group["num_steps"] * len(group["views"]) for group in manifest["groups"])
    checked = told["checked"]
    assert {checked[f"{name}_rows_reached"] for name in FORMATS} == {steps}
    assert {checked[f"{name}_frames_decoded"] for name in FORMATS} == {frames}
    assert checked["frames_compared_with_the_lake"] == len(FORMATS) * frames
    assert checked["runs_aligned"] + checked.get("runs_standing_still", 0) == len(FORMATS) * (5 + 2 * 2)
    assert checked["runs_aligned"] > 0
    assert checked["marks_read"] > 0
    assert checked["latents_compared_with_the_lake"] > 0
    widths = 2 * 5 + 2 * 7
    assert (
        checked["channels_recomputed"] == (len(FORMATS) - 1) * widths + widths // 2
    )  # windows hold no action of each step
    worst = told["worst"]
    assert {worst[name] for name in ("lag_frames", "time_error_s", "value_difference", "mark_difference")} == {0.0}
    assert worst["clock_error_s"] < 1e-6
    assert worst["psnr_db"] > 25
    assert worst["statistics_error"] < 1e-6
    assert told["lake"] == {"content": manifest["lake_content"], "is_unchanged": True}
    assert told["release"]["build"] == manifest["build"]
    run(release, lake=str(lake), certificate=str(tmp_path / "again.json"))
    again = read_json(tmp_path / "again.json")
    assert again | {"date": ""} == told | {"date": ""}
    assert told["date"]


def test_a_normalized_release_passes_too(lake: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "normalize": "quantile",
        "tokenizer": None,
        "rate": 7,
        "content": "frames",
        "encoder": None,
    }
    recipe = BuildRecipe.model_validate(RECIPE.model_dump() | changes)
    result = verify_release(make_release(lake, tmp_path / "out", recipe), Lake.open(lake))
    assert result.problems == []
    assert result.checked["channels_recomputed"] > 0
    assert 0 < result.worst["statistics_error"] < 1e-6


def _flipped_together(files: Sequence[Path]) -> list[list[Path]]:
    """A file of every kind by itself; of all others every second one, so that the files beside them are whole."""
    alone = {"manifest.json" if path.name == "manifest.json" else path.suffix: path for path in files}
    others = [path for path in files if path not in alone.values()]
    return [*([path] for path in alone.values()), others[::2], others[1::2]]


def test_every_flipped_byte_is_found_and_named(copy: Path) -> None:
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    assert {"manifest.json", "README.md", "croissant.json"} <= {path.name for path in files}
    assert {".parquet", ".mp4", ".tar", ".safetensors", ".json", ".jsonl", ".md"} == {path.suffix for path in files}
    flips = 0
    for changed in _flipped_together(files):
        whole = {path: path.read_bytes() for path in changed}
        for share in (0, 1 / 3, 1 / 2, 1):
            for path, data in whole.items():
                damaged = bytearray(data)
                damaged[min(int(len(data) * share), len(data) - 1)] ^= 1 << (flips % 8)
                path.write_bytes(damaged)
                flips += 1
            problems = verify_release(copy).problems
            assert sorted(problem.where for problem in problems) == sorted(map(str, changed)), share
        for path, data in whole.items():
            path.write_bytes(data)
    assert flips == 4 * len(files)
    assert verify_release(copy, num_episodes=1).ok


def test_a_lost_file_and_a_stranger_are_named(copy: Path) -> None:
    (copy / "croissant.json").unlink()
    (copy / "stranger.txt").write_text("x")
    found = {(Path(problem.where).name, problem.message) for problem in verify_release(copy).problems}
    assert found == {("croissant.json", "the file is missing"), ("stranger.txt", "the file is not in the manifest")}


def _later(values: list[Any]) -> list[Any]:
    return [values[0], *values[:-1]]


def _off(values: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[number * 1.5 + 1 for number in row] for row in values]


CHANGES: dict[str, tuple[str, dict[str, Callable[[list[Any]], list[Any]]], bool, str]] = {
    "parquet pictures a step late": (f"parquet/{ARM}/data", {"image_primary": _later}, False, "shows frame"),
    "parquet pictures a step late, by the lake": (
        f"parquet/{ARM}/data",
        {"image_primary": _later},
        True,
        "lags the lake",
    ),
    "parquet frames renumbered": (f"parquet/{GANTRY}/data", {"frame_id_primary": _later}, False, "frames of primary"),
    "parquet times": (
        f"parquet/{GANTRY}/data",
        {"time_ns": lambda v: [one + 1 for one in v]},
        False,
        "1 ns from its step",
    ),
    "parquet steps twice": (f"parquet/{GANTRY}/data", {"index": _later}, False, "its samples are not"),
    "parquet source rows": (f"parquet/{GANTRY}/data", {"source_row": _later}, False, "source rows"),
    "parquet actions": (f"parquet/{GANTRY}/data", {"action": _off}, False, "outside the least and greatest"),
    "parquet actions, by the lake": (
        f"parquet/{GANTRY}/data",
        {"proprio": _later},
        True,
        "its proprio is not what the lake",
    ),
    "lerobot times": (
        f"lerobot_v3/{GANTRY}/data",
        {"timestamp": lambda v: [one + 0.001 for one in v]},
        False,
        "0.0001 s are allowed",
    ),
    "lerobot episodes elsewhere in the video": (
        f"lerobot_v3/{GANTRY}/meta/episodes",
        {"videos/observation.images.primary/from_timestamp": lambda v: [one + 0.05 for one in v]},
        False,
        "frames for the",
    ),
    "lerobot states": (
        f"lerobot_v3/{GANTRY}/data",
        {"observation.state": _off},
        False,
        "outside the least and greatest",
    ),
    "lerobot v2.1 times": (
        f"lerobot_v21/{GANTRY}/data",
        {"timestamp": lambda v: [one + 0.001 for one in v]},
        False,
        "0.0001 s are allowed",
    ),
    "lerobot v2.1 actions": (f"lerobot_v21/{GANTRY}/data", {"action": _off}, False, "outside the least and greatest"),
    "lerobot v2.0 steps twice": (f"lerobot_v20/{GANTRY}/data", {"index": _later}, False, "its samples are not"),
    "lineage": (f"lineage/{GANTRY}", {"frame_id_primary": _later}, True, "not those the lake gives"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_wrong_content_with_right_hashes_is_found(name: str, copy: Path, lake: Path) -> None:
    folder, columns, with_lake, message = CHANGES[name]
    path = sorted((copy / folder).rglob("*.parquet"))[0]
    rewrite(path, columns)
    seal_again(copy)
    result = verify_release(copy, Lake.open(lake) if with_lake else None)
    assert any(message in problem.message for problem in result.problems), result.problems
    if folder.startswith("lineage"):
        return
    where = "/".join(folder.split("/")[:2])  # and nothing else is blamed
    assert {where in problem.where for problem in result.problems} == {True}


def test_a_video_of_another_episode_is_found(copy: Path, lake: Path) -> None:
    one, two = sorted((copy / "lerobot_v21" / GANTRY).rglob("*.mp4"))[:2]
    one.write_bytes(two.read_bytes())
    seal_again(copy)
    result = verify_release(copy, Lake.open(lake))
    assert {"lerobot_v21" in problem.where for problem in result.problems} == {True}
    assert any("frames for the" in problem.message for problem in result.problems), result.problems


def test_words_of_other_steps_or_episodes_are_named(copy: Path) -> None:
    (tasks,) = (copy / "lerobot_v3").glob("sample_gantry*/meta/tasks.parquet")
    rewrite(tasks, {"task_index": lambda numbers: numbers[::-1]})
    (lines,) = (copy / "lerobot_v21").glob("sample_gantry*/meta/episodes.jsonl")
    first, *rest = map(json.loads, lines.read_text().splitlines())
    first["action_config"][0]["action_text"] = "something else"
    lines.write_text("".join(json.dumps(line) + "\n" for line in (first, *rest)))
    seal_again(copy)
    problems = verify_release(copy).problems
    assert {Path(one.where.partition(" episode")[0]).parent.name for one in problems} == {"lerobot_v3", "lerobot_v21"}
    assert all("have the task" in one.message or "have other words" in one.message for one in problems)


def test_latents_that_are_not_the_lakes_are_named(copy: Path, lake: Path) -> None:
    path = sorted((copy / "lerobot_v3").rglob("*.safetensors"))[0]
    with safetensors.safe_open(str(path), "numpy") as file:
        values, told = file.get_tensor("latents"), file.metadata()
    path.write_bytes(safetensors.numpy.save({"latents": values[::-1].copy()}, metadata=told))
    shard = sorted((copy / "webdataset").rglob("*.tar"))[0]
    with tarfile.open(shard) as tar:
        members = [member for member in tar if member.name.endswith(".latent.npy")]
    with shard.open("r+b") as file:
        for member in members:
            file.seek(member.offset_data + member.size - 1)
            last = file.read(1)[0]
            file.seek(member.offset_data + member.size - 1)
            file.write(bytes([last ^ 1]))
    seal_again(copy)
    problems = verify_release(copy, Lake.open(lake)).problems
    wrong = ("its latents are not the lake's", "its latents of primary are not those that the lake gives for its steps")
    assert all(one.message.endswith(wrong) or "wrist" in one.message for one in problems)
    assert {Path(one.where.partition(" episode")[0]).parent.name for one in problems} == {"lerobot_v3", "webdataset"}


CLIPS_AT_ODDS = {
    "gone": "clips of the episode, the lake",
    "twice": "clips of the episode, the lake",
    "of another episode": "the lake has no such clip",
    "no latents": "cannot be read back",
}


@pytest.mark.parametrize("damage", CLIPS_AT_ODDS)
def test_clips_that_are_gone_or_left_over_are_named(damage: str, copy: Path, lake: Path) -> None:
    path = sorted((copy / "lerobot_v3").rglob("*.safetensors"))[0]
    if damage == "gone":
        path.unlink()
    elif damage == "twice":
        shutil.copy(path, path.with_name(path.name.replace("_000.", "_007.")))
    elif damage == "of another episode":
        path.rename(path.with_name(path.name.replace("episode_000000_000", "episode_000001_007")))
    else:
        path.write_bytes(b"nothing of the kind")
    seal_again(copy)
    problems = verify_release(copy, Lake.open(lake)).problems
    assert all("lerobot_v3" in one.where for one in problems)
    assert any(CLIPS_AT_ODDS[damage] in one.message for one in problems)


def test_windows_of_overlapping_clips_are_made_again(lake: Path, tmp_path: Path) -> None:
    more = Path(shutil.copytree(lake, tmp_path / "lake"))
    run_encode(more, EncodeRecipe(views=VIEWS, clip=ClipRecipe(phases=(0, 1, 2, 3))))
    recipe = RECIPE.model_copy(update={"formats": ("webdataset", "lerobot_v3"), "sample_stride": 1})
    release = make_release(more, tmp_path / "release", recipe)
    result = verify_release(release, Lake.open(more))
    assert result.problems == []
    assert result.checked["latents_compared_with_the_lake"] > 100


def test_clips_on_a_canvas_and_of_one_frame_tell_their_row_of_the_lake(tmp_path: Path) -> None:
    quad_lake(tmp_path / "quad", num_steps=7)
    lake = Lake.open(tmp_path / "quad" / "lake")
    views = ViewsRecipe(canvas="grid_2x2", height_px=96, width_px=128)
    run_encode(lake.root, EncodeRecipe(views=views, frame_stride=3, clip=ClipRecipe(kind="fixed", num_frames=1)))
    recipe = BuildRecipe(
        formats=("lerobot_v3", "webdataset"),
        content="both",
        encoder="wavelet",
        latent_rate="native/3",
        views=views,
        horizon=4,
        tokenizer=None,
    )
    release = make_release(lake.root, tmp_path / "release", recipe)
    told = []
    for path in (release / "lerobot_v3").rglob("*.safetensors"):
        with safetensors.safe_open(str(path), "numpy") as file:
            facts = json.loads(file.metadata()["wamloom"])
        told.append((facts["latent_id"], facts["rate"]))
    rows = lake.rows("latents", ["latent_id", "rate"])
    assert sorted(told) == sorted((row["latent_id"], row["rate"]) for row in rows)
    assert verify_release(release, lake).problems == []


def test_latents_of_another_encoder_are_refused(release: Path) -> None:
    assert run(release, recipe=EncodeRecipe(encoder="wavelet"), encoder=True).exit_code == 0
    other = EncodeRecipe(encoder="wavelet", options={"spatial": 16})
    answer = run(release, recipe=other, encoder=True)
    assert answer.exit_code == 5
    assert "must not decode them" in answer.values["problems"][0]["message"]


def test_the_report_shows_the_certificate(release: Path, certificate: Path, tmp_path: Path) -> None:
    proof, page = Path(shutil.copy(certificate, tmp_path / "proof.json")), tmp_path / "page.html"
    report.run(ReportOptions(str(release), str(page), False, certificate=str(proof)))
    told, text = read_json(proof), page.read_text()
    assert "Alignment certificate" in text
    assert told["date"] in text
    assert "frames compared with the lake" in text
    report.run(ReportOptions(str(release), str(page), False))
    bare = page.read_text()
    assert "Alignment certificate" in bare
    assert "were not compared with the lake" in bare
    told["release"]["build"] = "0" * 64
    for wrong in (json.dumps(told), "{", "[]", json.dumps({"kind": "x"})):
        proof.write_text(wrong)
        with pytest.raises(UsageError, match="certificate"):
            report.run(ReportOptions(str(release), str(page), False, certificate=str(proof)))


def test_a_lake_that_has_grown_is_no_fault_of_the_release(release: Path, lake: Path, tmp_path: Path) -> None:
    grown = Path(shutil.copytree(lake, tmp_path / "lake"))
    run_encode(grown, EncodeRecipe(views=VIEWS, clip=ClipRecipe(kind="fixed", num_frames=5)))
    answer = run(release, lake=str(grown))
    assert answer.exit_code == 0, answer.values["problems"]
    assert answer.values["lake"]["is_unchanged"] is False
    assert np.isfinite(answer.values["worst"]["psnr_db"])


@pytest.mark.parametrize("name", ["parquet/sample_arm_rlds/dataset_info.json", "webdataset/sample_arm_rlds/index.json"])
def test_an_index_that_tells_nothing_is_a_problem_and_no_crash(copy: Path, name: str) -> None:
    (copy / name).write_text("{}")
    seal_again(copy)
    problems = verify_release(copy).problems
    assert [problem.where for problem in problems] == [str((copy / name).parent)]
    assert "cannot be read back" in problems[0].message
