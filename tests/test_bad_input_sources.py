"""Bad JSON + mp4 sets, Zarr stores and cards through the command line: a row, a finding or one clear error each.

Each case damages one recording; those of a source are ingested together, between good ones, so that one run shows what becomes
of every case and that none harms the others.
"""

import bz2
import contextlib
import io
import json
import os
import shutil
import sys
import tomllib
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from jobs.cli import main
from pipelines.lake import Lake
from pipelines.sources.zarr import SOURCE as ZARR_SOURCE
from pipelines.video import VideoTools
from pipelines.zarr_process import Decoder
from schemas.errors import CorruptEpisode
from schemas.recipes import Limits
from tests.clips import encode, pictures, remux

Damage = Callable[[Path], Any]
STEPS = 6
MP4 = encode("h264", pictures(STEPS), rate=4)
SHIPPED = Path(__file__).parents[1] / "schemas" / "cards"


def ask(*arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of a command; an error names its hint."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, arguments), "--json"])
    assert "Traceback" not in err.getvalue()
    values = json.loads(out.getvalue())
    assert "error" not in values or (values["exit_code"] == code in (2, 3) and values["hint"])
    return code, values


def rows_of(lake: Path) -> dict[str, dict[str, Any]]:
    """Rows by set and key of each of their places."""
    columns = ["outcome", "reason", "message", "where", "hint", "locations", "findings"]
    rows = Lake.open(lake).rows("episodes", columns)
    return {f"{Path(place['location']).name}/{place['key']}": row for row in rows for place in row["locations"]}


def check_row(row: dict[str, Any], expected: str) -> None:
    """``expected`` is the reason of a row that was not kept, or ``kept`` and a rule among its findings."""
    outcome, _, rule = expected.partition(" ")
    if outcome == "kept":
        assert row["outcome"] == "kept", row
        assert not rule or rule in [one["rule"] for one in row["findings"]], row
    else:
        assert row["reason"] in expected.split("|"), row
        assert row["message"]
        assert row["where"]
        assert row["hint"] or row["outcome"] == "rejected"


# --- JSON + mp4 ------------------------------------------------------------------------------------------------------


def facts_of(name: str, **changes: Any) -> dict[str, Any]:
    """An annotation of the episode ``name``; ... takes a field out."""
    values = {
        "texts": ["put it down"],
        "episode_id": name,
        "videos": [{"video_path": f"videos/train/{name}/rgb.mp4"}],
        "state": (np.arange(STEPS * 7).reshape(STEPS, 7) / 90).tolist(),
        "action": (np.ones((STEPS - 1, 7)) / 3).tolist(),
        "continuous_gripper_state": [0, 0, 0.5, 1, 1, 1],
    }
    return {key: value for key, value in (values | changes).items() if value is not ...}


def annotate(root: Path, name: str, text: bytes | None = None, mp4: bytes | None = MP4, **changes: Any) -> None:
    path = root / "annotation/train" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(facts_of(name, **changes)).encode() if text is None else text)
    film = root / "videos/train" / name / "rgb.mp4"
    film.parent.mkdir(parents=True)
    if mp4 is not None:
        film.write_bytes(mp4)


def _patched(box: bytes, offset: int, value: bytes) -> bytes:
    at = MP4.index(box) + offset
    return MP4[:at] + value + MP4[at + len(value) :]


def _with(name: str, more: bytes) -> bytes:
    return json.dumps(facts_of(name)).encode()[:-1] + more + b"}"


def _linked(target: str) -> Callable[[Path, str], None]:
    def damage(root: Path, name: str) -> None:
        annotate(root, name, mp4=None)
        (root / "videos/train" / name / "rgb.mp4").symlink_to(target)

    return damage


def _pipe(root: Path, name: str) -> None:
    annotate(root, name)
    path = root / "annotation/train" / f"{name}.json"
    path.unlink()
    os.mkfifo(path)


def _video(data: bytes) -> Callable[[Path, str], None]:
    return lambda root, name: annotate(root, name, mp4=data)


def _json(text: bytes) -> Callable[[Path, str], None]:
    return lambda root, name: annotate(root, name, text)


def _said(**changes: Any) -> Callable[[Path, str], None]:
    return lambda root, name: annotate(root, name, **changes)


def _path(path: Any) -> Callable[[Path, str], None]:
    return _said(videos=[{"video_path": path}])


CLIPS: dict[str, tuple[Callable[[Path, str], None], str]] = {
    "video empty": (_video(b""), "not_video"),
    "video cut": (_video(MP4[: len(MP4) // 2]), "truncated"),
    "video of HTML": (_video(b"<html>" * 99), "not_video"),
    "video of a playlist": (_video(b"#EXTM3U\nhttp://localhost:9/x\n"), "not_video"),
    "video and more": (_video(MP4 + b"x" * 100), "truncated"),
    "video of 4e9 frames": (_video(_patched(b"stts", 12, b"\xff")), "too_large"),
    "video of 1e9 samples": (_video(_patched(b"stsz", 12, b"\x3b\x9a\xca\x00")), "corrupt_frame|truncated"),
    "video too long": (_video(encode("h264", pictures(STEPS + 5), rate=4)), "frames_vs_steps"),
    "video uneven": (
        _video(encode("h264", pictures(STEPS), rate=30, times=[0, 1, 2, 30, 31, 90])),
        "kept uneven_frame_times",
    ),
    "video with edit list": (_video(remux(MP4, Fraction(-1, 4))), "kept"),
    "video is a pipe": (lambda r, n: (annotate(r, n, mp4=None), os.mkfifo(r / f"videos/train/{n}/rgb.mp4")), "missing_file"),  # type: ignore[dict-item]
    "video links out": (_linked("/etc/passwd"), "path_escape"),
    "video links to itself": (_linked("rgb.mp4"), "path_escape"),
    "json empty": (_json(b""), "bad_json"),
    "json torn": (_json(b'{"texts": ['), "bad_json"),
    "json list": (_json(b"[1]"), "bad_json"),
    "json deep": (_json(b'{"a":' * 200_000), "bad_json"),
    "json not UTF-8": (_json(b'{"a": "\xff"}'), "bad_json"),
    "json endless number": (_json(b'{"action": ' + b"9" * 5000 + b"}"), "bad_json"),
    "json twice": (_json(_with("json twice", b', "action": [[0]]')), "bad_json"),
    "json deep list": (_json(_with("json deep list", b', "x": ' + b"[" * 900 + b"]" * 900)), "not_numbers"),
    "json is a pipe": (_pipe, "bad_json"),
    "nan": (_said(action=[[float("nan")] * 7] * 5), "nan_value"),
    "infinite": (_said(action=[[float("inf")] * 7] * 5), "inf_value"),
    "ragged": (_said(action=[[0] * 7, [0] * 6]), "ragged"),
    "words": (_said(action=[["a"] * 7] * 5), "not_numbers"),
    "huge number": (_said(action=[[10**400] + [0] * 6] * 5), "not_numbers"),
    "no rows": (_said(state=[], action=[], continuous_gripper_state=[]), "empty"),
    "one row": (
        lambda root, name: annotate(
            root, name, mp4=encode("h264", pictures(1), rate=4),
            state=[[0.0] * 7], action=[[0.0] * 7], continuous_gripper_state=[0],
        ),
        "kept one_step_episode",
    ),
    "claims 1e9 rows": (_said(state_length=10**9), "length_mismatch"),
    "path up": (_path("../../../etc/passwd"), "path_escape"),
    "path absolute": (_path("/etc/passwd"), "path_escape"),
    "path elsewhere": (_path("http://localhost:9/x.mp4"), "path_escape"),
    "path half a character": (_path("\ud800.mp4"), "path_escape"),
    "path too long": (_path("x" * 300 + ".mp4"), "path_escape"),
    "path to a folder": (_path("videos/train"), "missing_file"),
    "path of JSON": (_path("annotation/train/path of JSON.json"), "not_video"),
    "path is a list": (_path(["a"]), "bad_json"),
    "thousand videos": (_said(videos=[{"video_path": "videos/train/thousand videos/rgb.mp4"}] * 1000), "too_large"),
    "text of controls": (_said(texts=["a\0\x1b[31m"]), "kept control_characters"),
    "text not a character": (_said(texts=["\ud800x"]), "kept undecodable_text"),
    "a:b c'\"ü;--": (lambda root, name: annotate(root, name), "kept"),
    "x" * 250: (lambda root, name: annotate(root, name), "kept"),
    "line\nbreak": (lambda root, name: annotate(root, name), "path_escape"),
}  # fmt: skip
"""By the name of the episode: what is done, and the row it leads to."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[int, dict[str, Any]], dict[str, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("clips")
    annotate(root / "bridge", "0")
    for name, (damage, _) in CLIPS.items():
        damage(root / "bridge", name)
    annotate(root / "bridge", "zz")
    answer = ask("ingest", root / "bridge", "--lake", root / "lake", "--executor", "inline")
    return answer, rows_of(root / "lake")


@pytest.mark.parametrize("name", CLIPS)
def test_bad_annotations_and_videos(name: str, clips: Any) -> None:
    check_row(clips[1][f"bridge/train/{name}"], CLIPS[name][1])


def test_the_account_of_annotations_closes(clips: Any) -> None:
    (code, values), rows = clips
    assert code == 4
    assert rows["bridge/train/000000"]["outcome"] == rows["bridge/train/zz"]["outcome"] == "kept"
    assert values["listed"] == len(CLIPS) + 2 == len(rows)
    assert values["listed"] == values["kept"] + values["rejected"] + values["failed"] + values["already"]


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    """An episode folder with ``files``, and a directory where one is None."""
    told = {"robotEmbodiment": "DROID", "taskState": "SUCCESS", "dataLength": STEPS}
    rows = {"cartesian_position__trajectory": [[0.1] * 6] * STEPS, "joint_positions": [[0.1] * 8] * STEPS}
    whole = {"information.json": json.dumps(told).encode(), "video.mp4": MP4}
    whole |= {f"trajectories/{name}.json": json.dumps({"data": values}).encode() for name, values in rows.items()}
    for name, data in (whole | files).items():
        (root / "ep" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "ep" / name).write_bytes(data)
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"information.json": b"{"}, "bad_json"),
        ({"information.json": b'{"dataLength": 1000000000}'}, "length_mismatch"),
        ({"trajectories/joint_positions.json": b'{"data": [{"a": 1}]}'}, "not_numbers"),
        ({"images/camera_images.json": b'{"columns": "c", "data": [["a"]]}'}, "bad_json"),
        ({"images/camera_images.json": b'{"columns": ["c", "c"], "data": [["a.jpg", "a.jpg"]]}'}, "bad_json"),
        ({"images/camera_images.json": b'{"columns": ["c"], "data": [["../video.mp4"]]}'}, "kept missing_pictures"),
        ({"images/camera_images.json": b'{"columns": ["c"], "data": [["d.jpg"]]}', "images/d.jpg/x": b""}, "bad_image"),
        (
            {"images/camera_images.json": b'{"columns": ["c"], "data": [["w.webp"]]}', "images/w.webp": b"RIFF"},
            "bad_image",
        ),
    ],
)
def test_bad_episode_folders(files: dict[str, bytes], expected: str, tmp_path: Path) -> None:
    root = _folder(tmp_path / "thumbs", files)
    code, _ = ask("ingest", root, "--lake", tmp_path / "lake", "--card", "droid100_thumbs", "--executor", "inline")
    assert code == (0 if expected.startswith("kept") else 4)
    (row,) = rows_of(tmp_path / "lake").values()
    check_row(row, expected)


def test_names_and_links_that_would_lose_episodes_stop_their_set(tmp_path: Path) -> None:
    annotate(tmp_path / "bridge", "1")
    (tmp_path / "bridge/annotation/val").symlink_to(tmp_path / "bridge/annotation/train")
    odd = tmp_path / "odd" / "bridge"
    annotate(odd, os.fsdecode(b"\xff"), _with("1", b""))
    good = tmp_path / "good" / "bridge"
    annotate(good, "1")
    code, values = ask(
        "ingest", tmp_path / "bridge", odd, good, "--lake", tmp_path / "lake", "--executor", "inline"
    )  # fmt: skip
    assert (code, values["kept"]) == (4, 1)
    assert [one["reason"] for one in values["set_problems"]] == ["path_escape", "bad_name"]


# --- Zarr ------------------------------------------------------------------------------------------------------------

ENDS = (STEPS, 2 * STEPS)


def buffer(root: Path, ends: Any = ENDS, codec: Any = "auto", **changes: np.ndarray) -> zarr.Group:
    """A buffer as Push-T's, of two episodes, whose chunks end with them."""
    draws, rows = np.random.default_rng(0), ENDS[-1]
    arrays = {
        "action": draws.uniform(0, 512, (rows, 2)).astype(np.float32),
        "state": draws.uniform(0, 512, (rows, 5)).astype(np.float32),
        "img": draws.integers(0, 256, (rows, 16, 16, 3)).astype(np.uint8),
        "keypoint": draws.normal(size=(rows, 9, 2)).astype(np.float32),
        "n_contacts": np.ones((rows, 1), np.float32),
    }
    group = zarr.create_group(str(root), zarr_format=2)
    for name, values in (arrays | changes).items():
        chunks = (STEPS, *values.shape[1:])
        array = group.create_array(
            f"data/{name}", shape=values.shape, chunks=chunks, dtype=values.dtype, compressors=codec
        )
        array[:] = values
    group.create_array("meta/episode_ends", shape=np.shape(ends), dtype="i8")[:] = ends
    return group


def _described(name: str = "data/action", **changes: Any) -> Damage:
    def damage(root: Path) -> None:
        buffer(root)
        path = root / name / ".zarray"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def _chunk(change: Callable[[bytes], bytes], name: str = "action/0.0", codec: Any = "auto") -> Damage:
    def damage(root: Path) -> None:
        buffer(root, codec=codec)
        path = root / "data" / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def _replaced(name: str, by: Callable[[Path], Any]) -> Damage:
    def damage(root: Path) -> None:
        buffer(root)
        path = root / name
        shutil.move(path, root.parent.parent / f"moved {root.name} {path.name}")
        by(path)

    return damage


def _claims(rows: int) -> Damage:
    def damage(root: Path) -> None:
        buffer(root, (STEPS, rows))
        for path in (root / "data").glob("*/.zarray"):
            told = json.loads(path.read_text())
            path.write_text(json.dumps({**told, "shape": [rows, *told["shape"][1:]]}))

    return damage


def _loops(root: Path) -> None:
    buffer(root)
    for name in "ab":
        (root / "data" / name).symlink_to("..")


def _zipped(change: Callable[[Path], Any]) -> Damage:
    def damage(root: Path) -> None:
        buffer(root)
        target = root.with_name(f"{root.name}.zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
            for member in sorted(root.rglob("*")):
                if member.is_file():
                    file.write(member, member.relative_to(root).as_posix())
        shutil.rmtree(root)
        change(target)

    return damage


def _zip_entry(offset: int, value: bytes) -> Callable[[Path], None]:
    """Changes what the directory of a zip file says of a chunk."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        at = data.rindex(b"data/action/0.0") - 46 + offset
        data[at : at + len(value)] = value
        path.write_bytes(bytes(data))

    return change


def _hostile_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../evil", b"x")
        file.writestr("data/more/.zarray", b" " * (1 << 26))


STORES: dict[str, tuple[Damage, str, str]] = {
    "whole": (buffer, "kept", "kept"),
    "cut": (_chunk(lambda data: data[:20]), "damaged_chunk", "kept"),
    "no bytes": (_chunk(lambda data: b""), "damaged_chunk", "kept"),
    "type of numbers": (_chunk(lambda data: data[:3] + b"\0" + data[4:]), "damaged_chunk", "kept"),
    "size of blocks": (_chunk(lambda data: data[:8] + b"\xff\xff\xff\x7f" + data[12:]), "damaged_chunk", "kept"),
    "long": (_chunk(lambda data: data + bytes(1_000_000)), "damaged_chunk", "kept"),
    "picture cut": (_chunk(lambda data: data[:100], "img/1.0.0.0"), "kept", "damaged_chunk"),
    "zlib": (_chunk(lambda data: b"\x12\x34" * 30, codec=numcodecs.Zlib()), "damaged_chunk", "kept"),
    "zlib cut": (_chunk(lambda data: data[:-4], codec=numcodecs.Zlib()), "damaged_chunk", "kept"),
    "gzip cut": (_chunk(lambda data: data[:-4], codec=numcodecs.GZip()), "damaged_chunk", "kept"),
    "lzma": (_chunk(lambda data: b"\x12\x34" * 30, codec=numcodecs.LZMA()), "damaged_chunk", "kept"),
    "bomb": (
        _chunk(lambda data: bz2.compress(bytes(1 << 24)) * 64, codec=numcodecs.BZ2()),
        "memory_limit|damaged_chunk",
        "kept",
    ),
    "1e9 rows": (_claims(10**9), "kept", "too_large"),
    "1e6 pictures": (_claims(10**6), "kept", "missing_chunks"),
    "rows missing": (_described(shape=[STEPS + 1, 2]), "kept", "length_mismatch"),
    "no step": (lambda root: buffer(root, (0, STEPS)), "empty", "kept"),
    "one step": (lambda root: buffer(root, (1, ENDS[-1])), "kept one_step_episode", "kept"),
    "rows behind": (lambda root: buffer(root, (3, STEPS)), "kept", "kept rows_behind_the_end"),
    "no fill": (
        lambda root: (_described(fill_value=None)(root), (root / "data/action/0.0").unlink()),
        "missing_chunks",
        "kept",
    ),
    "zeros": (lambda root: (buffer(root), (root / "data/n_contacts/0.0").unlink()), "kept chunk_not_stored", "kept"),
    "nan": (lambda root: buffer(root, action=np.full((ENDS[-1], 2), np.nan, np.float32)), "nan_value", "nan_value"),
    "pictures gone": (lambda root: (buffer(root), (root / "data/img/0.0.0.0").unlink()), "missing_chunks", "kept"),
    "chunk links out": (
        _replaced("data/action/0.0", lambda path: path.symlink_to("/etc/passwd")),
        "path_escape",
        "kept",
    ),
    "chunk is a pipe": (_replaced("data/action/0.0", os.mkfifo), "bad_index", "kept"),
    "stray files": (
        lambda root: (buffer(root), [(root / "data/action" / name).touch() for name in ("x", "00.0", "9.9", "٣.0")]),
        "kept",
        "kept",
    ),
    "zip size": (_zipped(_zip_entry(24, b"\x05\0\0\0")), "damaged_chunk|changed_while_reading", "kept"),
    "zip method": (_zipped(_zip_entry(10, b"\x63\0")), "damaged_chunk", "kept"),
    "zip encrypted": (_zipped(_zip_entry(8, b"\x01")), "damaged_chunk", "kept"),
}
"""By name: what is done to a store, and the rows of its two episodes."""

SETS: dict[str, tuple[Damage, str]] = {
    "shape of text": (_described(shape="ab"), "bad_index"),
    "shape of 4000 digits": (_described(shape=[10**4000, 2]), "bad_index"),
    "shape of 100 000": (_described(shape=[1] * 100_000, chunks=[1] * 100_000), "bad_index"),
    "chunks of 1e12": (_described(chunks=[10**12, 2]), "bad_index|too_large"),
    "no type": (_described(dtype=None), "unsupported_format"),
    "objects": (_described(dtype="|O", filters=[{"id": "pickle"}]), "unsupported_format"),
    "codec is a list": (_described(compressor={"id": ["x"]}), "unsupported_format"),
    "filters are a number": (_described(filters=5, compressor={"id": "__class__"}), "unsupported_format"),
    "separator": (_described(dimension_separator="/../"), "bad_index"),
    "another separator": (_described(dimension_separator="/"), "bad_index"),
    "deep": (lambda root: (buffer(root), (root / "data/action/.zarray").write_bytes(b"[" * 100_000)), "bad_index"),
    "zarr 3 of nonsense": (
        lambda root: (
            buffer(root),
            (root / "data/action/zarr.json").write_text(
                json.dumps(
                    {"node_type": "array", "codecs": [5, {"name": [1]}], "chunk_grid": 5, "chunk_key_encoding": [1]}
                )
            ),
        ),
        "unsupported_format",
    ),
    "ends fall": (lambda root: buffer(root, (12, 6)), "bad_index"),
    "ends below 0": (lambda root: buffer(root, (-5, 6)), "bad_index"),
    "a million ends": (lambda root: buffer(root, np.zeros(1_000_001)), "bad_index"),
    "no ends": (lambda root: buffer(root, np.zeros(0)), "empty"),
    "folder links out": (_replaced("data/action", lambda path: path.symlink_to("/etc")), "path_escape"),
    "folders link around": (_loops, "path_escape"),
    "index links out": (_replaced("meta/episode_ends/0", lambda path: path.symlink_to("/etc/passwd")), "path_escape"),
    "metadata is a pipe": (_replaced("data/action/.zarray", os.mkfifo), "bad_index"),
    "zip cut": (_zipped(lambda path: path.write_bytes(path.read_bytes()[:-100])), "bad_index"),
    "zip of HTML": (_zipped(lambda path: path.write_bytes(b"<html>" * 99)), "bad_index"),
    "zip bomb": (_zipped(_hostile_zip), "bad_index"),
}
"""Those that cannot be listed, and why."""


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[int, dict[str, Any]], dict[str, dict[str, Any]]]:
    root = tmp_path_factory.mktemp("zarr")
    (root / "sets").mkdir()
    for name, damage in {name: case[0] for name, case in (STORES | SETS).items()}.items():
        damage(root / "sets" / f"{name}.zarr")
    memory = ("--set", "limits.decode_memory_mb=384")
    answer = ask(
        "ingest", root / "sets", "--lake", root / "lake", "--card", "pusht_zarr", *memory, "--executor", "inline"
    )
    return answer, rows_of(root / "lake")


@pytest.mark.parametrize("name", STORES)
def test_bad_chunks(name: str, stores: Any) -> None:
    _, first, second = STORES[name]
    place = f"{name}.zarr.zip" if name.startswith("zip") else f"{name}.zarr"
    check_row(stores[1][f"{place}/episode_000000"], first)
    check_row(stores[1][f"{place}/episode_000001"], second)


@pytest.mark.parametrize("name", SETS)
def test_bad_stores(name: str, stores: Any) -> None:
    (code, values), _ = stores
    assert code == 4
    (told,) = [one for one in values["set_problems"] if f"/{name}.zarr" in one["where"]]
    assert told["reason"] in SETS[name][1].split("|")
    assert told["hint"]


def test_the_account_of_stores_closes(stores: Any) -> None:
    (_, values), rows = stores
    assert (values["listed"], values["unreadable_sets"]) == (2 * len(STORES), len(SETS))
    assert values["listed"] == values["kept"] + values["rejected"] + values["failed"] + values["already"]
    assert len(rows) == values["listed"]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "decoder_crashed"),
        ("import time; time.sleep(60)", "deadline"),
        ("answer(dtype='<f4', shape=[10**12])", "damaged_chunk"),
        ("answer(dtype='<f4', shape=[2, 2])", "decoder_crashed"),
    ],
)
def test_a_decoder_that_crashes_hangs_or_lies_costs_one_question(program: str, reason: str) -> None:
    child = (
        "import socket, sys; from pipelines import video_wire\n"
        "link = socket.socket(fileno=int(sys.argv[1])); video_wire.send(link, {'kind': 'ready'})\n"
        "answer = lambda **said: video_wire.send(link, {'kind': 'done', **said})\n"
        f"while video_wire.receive(link): {program}"
    )
    seconds = 1.0 if reason == "deadline" else 30.0
    decoder = Decoder((sys.executable, "-c", child), least_seconds=seconds)
    for _ in range(2):  # and is started anew
        with pytest.raises(CorruptEpisode) as caught:
            decoder.rows({}, "data/x", range(2), np.empty((2, 2), np.float32), Limits(), "here")
        assert (caught.value.reason, caught.value.where) == (reason, "here")
        assert caught.value.hint


def test_a_chunk_that_changes_after_the_store_was_opened_is_told(tmp_path: Path) -> None:
    buffer(tmp_path / "a.zarr")
    refs = ZARR_SOURCE.refs(str(tmp_path / "a.zarr"))
    with VideoTools(Limits()) as video:
        ZARR_SOURCE.read(refs[0], video, Limits())
        path = tmp_path / "a.zarr/data/action/1.0"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        os.utime(path, (1, 1))
        with pytest.raises(CorruptEpisode) as caught:
            ZARR_SOURCE.read(refs[1], video, Limits())
    assert caught.value.reason == "changed_while_reading"


# --- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "old", "new", "said"),
    [
        ("card", "control_rate = 5", "control_rate = 1e-300", "out of range"),
        ("card", "control_rate = 5", "control_rate = true", "is not a rate"),
        ("card", "control_rate = 5", 'control_rate = "' + "9" * 5000 + '"', "is not a rate"),
        ("card", "control_rate = 5", "control_rate = 5\ncontrol_rate = 6", "not valid TOML"),
        ("card", "control_rate = 5", "contrl_rate = 5", "unknown key 'contrl_rate'"),
        ("card", "stop = 6", "start = -3\nstop = 6", "start"),
        ("card", "stop = 6", "start = 6\nstop = 3", "not behind start"),
        ("card", "stop = 6", "stop = " + "9" * 4000, "stop"),
        ("card", "scale = -1.0", "scale = nan", "scale"),
        ("card", "scale = -1.0", "scale = 0", "scale of 0"),
        ("card", 'name = "irasim_bridge"', 'name = "../x"', "name"),
        ("card", "irasim_widowx", "../x", "is not a name"),
        ("card", "irasim_widowx", "a" * 300, "there is no card"),
        ("card", '"videos/1" = "secondary"', '"videos/1" = "primary"', "same view slot"),
        ("card", "version = 1", "version" + ".a" * 50_000 + " = 1", "nested too deep"),
        ("card", "version = 1", "version = " + "[" * 50_000, "not valid TOML"),
        ("robot", 'unit = "m"', 'unit = "m"\nlow = nan', "low"),
        ("robot", 'unit = "m"', 'unit = "m"\nlow = 5\nhigh = 1', "above high"),
        ("robot", 'unit = "m"', "unit = 5", "unit"),
    ],
    ids=lambda text: text[:20],
)
def test_cards_that_make_no_sense(which: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    card, robot = tmp_path / "card.toml", tmp_path / "irasim_widowx.toml"
    shutil.copy(SHIPPED / "datasets/irasim_bridge.toml", card)
    shutil.copy(SHIPPED / "embodiments/irasim_widowx.toml", robot)
    path = {"card": card, "robot": robot}[which]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    code, values = ask("cards", "check", card, tmp_path)
    assert (code, values["reason"]) == (2, "card")
    assert said in values["error"]


@pytest.mark.parametrize("card", ["~nobody-here/x.toml", "d.toml", "loop.toml", "pipe.toml", "x" * 200])
def test_cards_that_are_no_files(card: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.toml").mkdir()
    Path("loop.toml").symlink_to("loop.toml")
    os.mkfifo("pipe.toml")
    assert ask("cards", "check", card, tmp_path)[0] == 2


ODD = 'action_"\n]\x7f'
DRAFTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no streams": (
        {"state": ..., "action": ..., "continuous_gripper_state": ...},
        ["which stream is the action", "which streams are the proprio"],
    ),
    "no cameras": ({"videos": ...}, ["which licence"]),
    "10 000 wide": ({"action": [[0.5] * 10_000] * 5}, ["which stream is the action"]),
    "nan": ({"action": [[None] * 7] * 5}, ["action_0, column 0 of action, not a finite number"]),
    "no rows": ({"action": []}, ["which stream is the action"]),
    "one row": ({"action": [[0.0] * 7], "state": [[0.0] * 7]}, ["units and kinds"]),
    "odd names": (
        {"action": ..., "state": ..., ODD: [[1.0] * 2] * 5, "state\0": [1.0] * 5},
        ["units and kinds"],
    ),
    "odd texts": ({"texts": ["'''\"\"\"\n\\ \x00\x7f\x85\ud83d\ude00 <b>"]}, ["are these texts instructions"]),
}


@pytest.mark.parametrize("name", DRAFTS)
def test_drafts_of_odd_sets_are_toml_and_ask(name: str, tmp_path: Path) -> None:
    changes, questions = DRAFTS[name]
    annotate(tmp_path / name, "0", **changes)
    code, values = ask("cards", "new", tmp_path / name)
    assert code == 0
    card, robot = tomllib.loads(values["card"]), tomllib.loads(values["embodiment"])
    assert card["embodiment"] == robot["name"]
    for question in questions:
        assert any(question in one for one in values["questions"]), values["questions"]
    if name == "odd names":
        assert [one["field"] for one in card["action"]] == [ODD]
        assert "state\0" in [one["field"] for one in card["proprio"]]


@pytest.mark.parametrize("name", ["../../x", "", "a\0", "x" * 300, 'a"b', "ü"])
def test_names_of_drafts_are_names(name: str, tmp_path: Path) -> None:
    annotate(tmp_path / "bridge", "0")
    code, values = ask("cards", "new", tmp_path / "bridge", "--name", name, "--out", tmp_path / "a" / "b")
    assert code == 2
    assert "is no name for a card" in values["error"]
    assert not list(tmp_path.rglob("*.toml"))


def test_a_check_of_nothing_but_nan_does_not_agree(tmp_path: Path) -> None:
    annotate(tmp_path / "bridge", "0", action=[[None] * 7] * 5)
    code, values = ask("cards", "check", "irasim_bridge", tmp_path / "bridge")
    assert (code, values["agrees"]) == (5, False)
    assert {one["what"] for one in values["disagreements"]} >= {"no_finite_value"}
