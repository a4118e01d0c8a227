"""Bad input through the command line: never a traceback, never exit code 0, always the place and a hint.

Each case names its exit code, its reason (or rows of the ledger) and a part of its message. Damaged episodes are ingested
together, once for each source, so that one damaged set also shows that it does not harm the others.
"""

import contextlib
import io
import json
import os
import pickle
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from pipelines.lake import Lake
from pipelines.tfrecord import masked_crc
from tests.clips import encode, pictures
from tests.recorded import (
    FEATURES,
    example,
    frame_record,
    lerobot_rows,
    picture,
    rlds_episode,
    tensor,
    write_lerobot,
    write_rlds,
)

INLINE = ("--executor", "inline")
SMALL = ("--set", "views.height_px=16", "--set", "views.width_px=16")
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(autouse=True, scope="module")
def _keep_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    values: dict[str, Any]
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs a command with ``--json``: one object on stdout, and on an error also message and hint on stderr."""

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert captured.out.count("\n") == 1
        values = json.loads(captured.out)
        assert "Traceback" not in captured.err
        if "error" in values:
            assert values["exit_code"] == code != 0
            assert values["error"]
            assert values["hint"]
            assert captured.err.startswith("error: ")
            assert "\nhint: " in captured.err
        return Said(code, values, captured.err)

    return call


def toy_card(folder: Path, source: str) -> Path:
    """A card for the sets of ``tests.recorded``, with its embodiment beside it."""
    folder.mkdir(exist_ok=True)
    names = (
        'control_rate = 10\nviews = ["primary"]\n[[proprio]]\nnames = ["a", "b", "c"]\n[[action]]\nnames = ["x", "y"]\n'
    )
    (folder / "toy.toml").write_text(f'name = "toy"\ntitle = "Toy"\n{names}')
    rlds = source == "rlds"
    state, camera = ("observation/state", "observation/image_0") if rlds else ("observation.state", "camera")
    card = folder / f"toy_{source}.toml"
    card.write_text(
        f'name = "toy_{source}"\nversion = 1\ntitle = "Toy"\nsource = "{source}"\nembodiment = "toy"\nlicense = "CC0-1.0"\n'
        f'[[proprio]]\nfield = "{state}"\n[[action]]\nfield = "action"\n[views]\n"{camera}" = "primary"\n'
        + ('[language]\nfields = ["language_instruction"]\n' if rlds else "")
    )
    return card


def toy_rlds(root: Path, num_episodes: int = 3, features: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Version folder of a set whose second episode has ``changes``."""
    episodes = [example(rlds_episode(i, **(changes if i == 1 else {}))) for i in range(num_episodes)]
    return write_rlds(root, {"train": [episodes]}, features)


def toy_videos(root: Path, version: str = "v2.1", lengths: tuple[int, ...] = (4, 3), **changes: Any) -> Path:
    """A LeRobot set with real videos."""
    write_lerobot(root, version, lengths, **changes)
    for index, length in enumerate(lengths):
        path = root / f"videos/chunk-000/camera/episode_{index:06d}.mp4"
        path.write_bytes(encode("h264", pictures(length, tag=index), rate=10))
    return root


# --- places ----------------------------------------------------------------------------------------------------------


def _file(folder: Path) -> Path:
    (folder / "file.txt").write_text("hello")
    return folder / "file.txt"


def _pictures(folder: Path) -> Path:
    (folder / "a.jpg").write_bytes(picture(1))
    return folder


def _netcdf(folder: Path) -> Path:
    (folder / "demo.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(2040))
    return folder


def _mp4s(folder: Path) -> Path:
    (folder / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    return folder


def _loop(folder: Path) -> Path:
    (folder / "self").symlink_to(folder)
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    return folder


@pytest.mark.parametrize(
    ("place", "code", "reason", "said"),
    [
        pytest.param(lambda f: f / "no", 3, "missing_file", "there is nothing here", id="wrong path"),
        pytest.param(_file, 3, "unknown_layout", "it is a file", id="file"),
        pytest.param(lambda f: f, 3, "unknown_layout", "it is empty", id="empty"),
        pytest.param(_pictures, 3, "unknown_layout", "it holds a.jpg", id="pictures"),
        pytest.param(_netcdf, 3, "unknown_layout", "it holds demo.nc", id="netcdf"),
        pytest.param(_mp4s, 3, "unknown_layout", "it holds a.mp4", id="mp4"),
        pytest.param(_loop, 3, "unknown_layout", "it holds a, b, self", id="link loops"),
        pytest.param(lambda f: _loop(f) / "a", 2, "usage", "symbolic links", id="link to itself"),
        pytest.param(lambda f: "", 2, "usage", "the path is empty", id="unset variable"),
        pytest.param(lambda f: "a\0b", 2, "usage", "is not a path", id="nul"),
        pytest.param(lambda f: f / ("x" * 300), 2, "usage", "too long", id="long"),
        pytest.param(lambda f: "ftp://host/set", 2, "usage", "is no place for recordings", id="url"),
        pytest.param(lambda f: f / "quo'te\n\"ü:", 3, "missing_file", "there is nothing here", id="odd name"),
    ],
)
def test_places_that_hold_no_recordings(
    place: Callable[[Path], object], code: int, reason: str, said: str, run: Callable[..., Said], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    found = run("ingest", place(folder), "--lake", tmp_path / "lake", *INLINE)
    assert (found.code, found.values["reason"]) == (code, reason)
    assert said in found.values["error"]
    assert not (tmp_path / "lake").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads whatever the permissions say")
def test_a_folder_that_may_not_be_read(run: Callable[..., Said], tmp_path: Path) -> None:
    folder = toy_rlds(tmp_path / "in")
    folder.chmod(0)
    found = run("ingest", tmp_path / "in", "--lake", tmp_path / "lake", *INLINE)
    folder.chmod(0o755)
    assert (found.code, found.values["where"]) == (3, str(folder))


@pytest.mark.parametrize("verb", ["status", "verify", "show", "report", "encode", "build"])
@pytest.mark.parametrize("what", ["missing", "file", "other", "empty"])
def test_readers_of_a_lake_on_wrong_places(verb: str, what: str, run: Callable[..., Said], tmp_path: Path) -> None:
    place = tmp_path / what
    if what == "file":
        place.write_text("x")
    elif what != "missing":
        place.mkdir()
    if what == "other":
        (place / "notes.txt").write_text("x")
    flag = ["--lake"] if verb in ("status", "encode", "build") else []
    more = {"report": ["--out", tmp_path / "r.html"], "build": ["--out", tmp_path / "out"]}.get(verb, [])
    found = run(verb, *flag, place, *more)
    assert (found.code, found.values["where"]) == (3, str(place))
    assert found.values["reason"] in ("no_lake", "no_release")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "r.html").exists()


# --- the index of a set ----------------------------------------------------------------------------------------------

JSON_DAMAGE = {
    "zero bytes": b"",
    "torn": b'{"codebase_version": "v2.1", "fe',
    "list": b"[1, 2]",
    "number": b"3",
    "null": b"null",
    "nested": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000,
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "endless number": b'{"fps": ' + b"9" * 5000 + b"}",
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("damage", JSON_DAMAGE)
@pytest.mark.parametrize("file", ["meta/info.json", "meta/episodes.jsonl", "features.json", "dataset_info.json"])
def test_index_files_that_are_no_index(file: str, damage: str, run: Callable[..., Said], tmp_path: Path) -> None:
    lerobot = file.startswith("meta")
    root = write_lerobot(tmp_path / "set", images=True) if lerobot else toy_rlds(tmp_path / "set", 1)
    (root / file).write_bytes(JSON_DAMAGE[damage])
    found = run("ingest", root, "--lake", tmp_path / "lake", *INLINE)
    assert (found.code, found.values["reason"], found.values["where"]) == (3, "bad_index", str(root / file))
    assert not (tmp_path / "lake").exists()


INFO_DAMAGE: list[tuple[str, Any, str, str]] = [
    ("codebase_version", "v9.9", "unknown_version", "codebase_version is 'v9.9'"),
    ("codebase_version", None, "unknown_version", "codebase_version is 'None'"),
    ("fps", None, "bad_index", "fps"),
    ("fps", "ten", "bad_index", "fps"),
    ("fps", -1, "bad_index", "fps"),
    ("fps", True, "bad_index", "fps"),
    ("fps", [10], "bad_index", "fps"),
    ("fps", 1e9, "bad_index", "fps"),
    ("features", None, "bad_index", "features"),
    ("features", [], "bad_index", "features"),
    ("features", {"action": None}, "bad_index", "features"),
    ("chunks_size", 0, "bad_index", "chunks_size"),
    ("chunks_size", True, "bad_index", "chunks_size"),
    ("chunks_size", "x", "bad_index", "chunks_size"),
    ("total_episodes", -1, "bad_index", "total_episodes"),
    ("total_episodes", 10**9, "bad_index", "total_episodes"),
    ("total_episodes", "2", "bad_index", "total_episodes"),
    ("data_path", "../../etc/passwd", "path_escape", "leaves its root"),
    ("data_path", "/etc/passwd", "path_escape", "leaves its root"),
    ("data_path", "http://x/y.parquet", "path_escape", "leaves its root"),
    ("data_path", "data/{episode_index.__class__}.parquet", "bad_template", "data_path"),
    ("data_path", "{0}", "bad_template", "data_path"),
    ("data_path", 3, "bad_template", "data_path"),
    ("video_path", "../{video_key}.mp4", "path_escape", "leaves its root"),
]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize(("key", "value", "reason", "said"), INFO_DAMAGE, ids=lambda value: str(value)[:24])
def test_values_of_info_json(
    key: str, value: Any, reason: str, said: str, version: str, run: Callable[..., Said], tmp_path: Path
) -> None:
    root = write_lerobot(tmp_path / "set", version, images=True, **{key: value})
    found = run("ingest", root, "--lake", tmp_path / "lake", *INLINE)
    assert (found.code, found.values["reason"]) == (3, reason)
    assert said in found.values["error"]
    assert str(root) in found.values["where"]
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    "row",
    [
        {"episode_index": "0"},
        {"episode_index": None},
        {"episode_index": -1},
        {"episode_index": 0.5},
        {"episode_index": True},
        {"episode_index": 10**20},
        {"length": "4"},
        {"length": -4},
        {"length": None},
        {"tasks": [[1], None]},
        {"tasks": [5]},
    ],
    ids=str,
)
def test_values_of_episodes_jsonl(row: dict[str, Any], run: Callable[..., Said], tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "set", images=True)
    path = root / "meta/episodes.jsonl"
    path.write_text(json.dumps({"episode_index": 0, "tasks": ["lift"], "length": 4} | row))
    found = run("ingest", root, "--lake", tmp_path / "lake", *INLINE)
    assert (found.code, found.values["reason"], found.values["where"]) == (3, "bad_index", str(path))
    assert "line 1" in found.values["error"]


SPLIT = {"name": "train", "shardLengths": ["3"]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"splits": "x"}, "bad_index"),
        ({"splits": None}, "bad_index"),
        ({"splits": [SPLIT | {"shardLengths": ["-1"]}]}, "bad_index"),
        ({"splits": [SPLIT | {"shardLengths": ["9" * 30]}]}, "bad_index"),
        ({"splits": [SPLIT | {"shardLengths": ["90000000"]}]}, "bad_index"),  # promised records are made one by one
        ({"name": None}, "bad_index"),
        ({"splits": [SPLIT | {"filepathTemplate": "../../../etc/passwd", "shardLengths": ["3", "3"]}]}, "path_escape"),
        ({"splits": [SPLIT | {"filepathTemplate": "/etc/passwd", "shardLengths": ["3", "3"]}]}, "path_escape"),
        ({"fileFormat": "array_record"}, "unsupported_format"),
    ],
    ids=str,
)
def test_values_of_dataset_info(changes: dict[str, Any], reason: str, run: Callable[..., Said], tmp_path: Path) -> None:
    root = toy_rlds(tmp_path / "set")
    info = json.loads((root / "dataset_info.json").read_text())
    (root / "dataset_info.json").write_text(json.dumps(info | changes))
    found = run("ingest", root, "--lake", tmp_path / "lake", *INLINE)
    assert (found.code, found.values["reason"]) == (3, reason)
    assert str(root) in found.values["where"]


def test_a_shard_that_claims_a_hundred_million_others(run: Callable[..., Said], tmp_path: Path) -> None:
    root = toy_rlds(tmp_path / "set", 1)
    (root / "dataset_info.json").unlink()
    (shard,) = root.glob("*.tfrecord-*")
    shard.rename(root / "toy-train.tfrecord-00000-of-99999999")
    found = run("ingest", root, "--lake", tmp_path / "lake", *INLINE)
    assert (found.code, found.values["reason"]) == (3, "bad_index")


@pytest.mark.parametrize(
    "spec",
    [{"tensor": {"shape": [1]}}, {"tensor": None}, 3, None, tensor("float32", "x")],
    ids=str,  # type: ignore[arg-type]
)
def test_features_that_are_not_described(spec: Any, run: Callable[..., Said], tmp_path: Path) -> None:
    features = json.loads(json.dumps(FEATURES))
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    steps["action"] = spec
    found = run("ingest", toy_rlds(tmp_path / "set", 1, features), "--lake", tmp_path / "lake", *INLINE)
    assert (found.code, found.values["reason"]) == (3, "bad_index")
    assert found.values["where"].endswith("features.json")


# --- damaged episodes: one ingest of many sets -----------------------------------------------------------------------

RECORDS = [frame_record(example(rlds_episode(number))) for number in range(3)]
FIRST, SECOND = len(RECORDS[0]), len(RECORDS[0]) + len(RECORDS[1])


def _claim(length: int) -> Callable[[bytes], bytes]:
    head = struct.pack("<Q", length)
    header = head + struct.pack("<I", masked_crc(head))
    return lambda data: data[:FIRST] + header + data[FIRST:]


def _flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


SHARDS: dict[str, tuple[Callable[[bytes], bytes], int, dict[str, int]]] = {
    "whole": (lambda data: data, 3, {}),
    "cut in record": (lambda data: data[: SECOND - 7], 1, {"truncated": 1, "missing_record": 1}),
    "cut at boundary": (lambda data: data[:SECOND], 2, {"missing_record": 1}),
    "cut in header": (lambda data: data[: SECOND + 5], 2, {"truncated": 1}),
    "zero bytes": (lambda data: b"", 0, {"missing_record": 3}),
    "flipped payload": (_flip(FIRST + 200), 2, {"corrupt_record": 1}),
    "flipped length": (_flip(FIRST + 1), 1, {"corrupt_record": 1, "missing_record": 1}),
    "trailing zeros": (lambda data: data + bytes(64), 3, {"corrupt_record": 1}),
    "claims 1 GB": (_claim(1 << 30), 1, {"truncated": 1, "missing_record": 1}),
    "claims 2^64": (_claim(2**64 - 1), 1, {"truncated": 1, "missing_record": 1}),
    "no Example": (lambda data: data[:FIRST] + frame_record(b"garbage" * 9) + data[SECOND:], 2, {"corrupt_record": 1}),
    "HTML": (lambda data: b"<html>" + b"x" * 999, 0, {"corrupt_record": 1, "missing_record": 2}),
}
"""By name: the damage, how many episodes are kept, failures by reason."""

_NO_STEPS = {key.replace("/", "__"): value for key, value in rlds_episode(0, 0).items() if key.startswith("steps")}
_ONE_STEP = {key.replace("/", "__"): value for key, value in rlds_episode(9, 1).items() if key.startswith("steps")}
_BOMB = picture(1)
_BOMB = _BOMB[: _BOMB.index(b"\xff\xc0") + 5] + b"\xff\xff\xff\xff" + _BOMB[_BOMB.index(b"\xff\xc0") + 9 :]

EPISODES: dict[str, tuple[dict[str, Any], str, str]] = {
    "nan": ({"steps__action": np.float32([[0, 0], [0, np.nan], [0, 0], [0, 0]])}, "rejected", "nan_value"),
    "inf": ({"steps__action": np.float32([[0, 0], [0, np.inf], [0, 0], [0, 0]])}, "rejected", "inf_value"),
    "no steps": (_NO_STEPS, "failed", "empty"),
    "one step": (_ONE_STEP, "kept", ""),
    "lengths differ": ({"steps__action": np.zeros((3, 2), np.float32)}, "failed", "length_mismatch"),
    "no action": ({"steps__action": None}, "failed", "missing_feature"),
    "integer action": ({"steps__action": np.arange(8)}, "failed", "wrong_type"),
    "HTML pictures": ({"steps__observation__image_0": [b"<html>"] * 4}, "failed", "bad_image"),
    "cut pictures": ({"steps__observation__image_0": [picture(9)[:100]] * 4}, "failed", "corrupt_frame"),
    "picture bomb": ({"steps__observation__image_0": [_BOMB] * 4}, "failed", "corrupt_frame"),
    "two sizes": (
        {"steps__observation__image_0": [picture(1, size=s) for s in (16, 16, 32, 16)]},
        "failed",
        "corrupt_frame",
    ),
    "text not UTF-8": ({"steps__language_instruction": [b"caf\xe9"] * 4}, "kept", ""),
    "text of 1 MB": ({"steps__language_instruction": [b"x" * 1_000_000] * 4}, "kept", ""),
    "control characters": ({"steps__language_instruction": [b"a\0\x1b[31m\r\n"] * 4}, "kept", ""),
    "hostile text": ({"steps__language_instruction": [HOSTILE.encode()] * 4}, "kept", ""),
}
"""By name: what is changed in the second of two episodes, and the row that it leads to."""


@dataclass(frozen=True)
class Ingested:
    """One ingest of many sets, and the rows it led to by the name of the set."""

    lake: Path
    code: int
    values: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]]
    again: tuple[int, dict[str, Any]]


def answer_of(*arguments: object) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command, for fixtures that live longer than a test."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main([*map(str, arguments), "--json"])
    return code, json.loads(out.getvalue())


def ingest_all(sets: Path, lake: Path, card: Path) -> Ingested:
    command = ("ingest", *sorted(sets.iterdir()), "--lake", lake, "--card", card, *INLINE)
    code, values = answer_of(*command)
    assert code == 4, values
    again = answer_of(*command)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in Lake.open(lake).rows("episodes", ["outcome", "reason", "message", "where", "hint", "locations"]):
        for place in row["locations"]:
            name = Path(place["location"]).relative_to(sets).parts[0]
            rows.setdefault(name, []).append(row | {"key": place["key"]})
    return Ingested(lake, code, values, rows, again)


def counted(rows: list[dict[str, Any]]) -> tuple[int, dict[str, int]]:
    """Kept ones, and the others by reason; every one of those says where and how to mend it."""
    reasons: dict[str, int] = {}
    for row in rows:
        if row["outcome"] != "kept":
            assert row["message"]
            assert row["where"]
            assert row["hint"] or row["outcome"] == "rejected"
            reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return len(rows) - sum(reasons.values()), reasons


ODD_NAME = "quo'te \"ü:\n;--"


@pytest.fixture(scope="module")
def rlds(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    root = tmp_path_factory.mktemp("rlds")
    for name, (damage, _, _) in SHARDS.items():
        (shard,) = toy_rlds(root / "sets" / name).glob("*.tfrecord-*")
        shard.write_bytes(damage(shard.read_bytes()))
    for name, (changes, _, _) in EPISODES.items():
        toy_rlds(root / "sets" / name, 2, **changes)
    toy_rlds(root / "sets" / ODD_NAME, 1)
    return ingest_all(root / "sets", root / "lake", toy_card(root / "cards", "rlds"))


@pytest.mark.parametrize("name", SHARDS)
def test_damaged_shards(name: str, rlds: Ingested) -> None:
    _, kept, reasons = SHARDS[name]
    assert counted(rlds.rows[name]) == (kept, reasons)


@pytest.mark.parametrize("name", EPISODES)
def test_damaged_records(name: str, rlds: Ingested) -> None:
    _, outcome, reason = EPISODES[name]
    (row,) = [row for row in rlds.rows[name] if row["key"].endswith("/000001")]
    assert (row["outcome"], row["reason"]) == (outcome, reason)
    (other,) = [row for row in rlds.rows[name] if row["key"].endswith("/000000")]
    assert other["outcome"] == "kept"


def check_account(found: Ingested) -> None:
    values = found.values
    assert found.code == 4
    assert values["listed"] == values["kept"] + values["rejected"] + values["failed"] + values["already"]
    code, again = found.again
    assert code == 4  # what failed is still failed
    assert again["already"] == again["listed"] == values["listed"]
    assert again["already_failed"] == values["failed"] > 0


def test_the_account_closes_and_a_second_ingest_is_no_success(rlds: Ingested) -> None:
    check_account(rlds)
    assert counted(rlds.rows[ODD_NAME]) == (1, {})


def test_a_claimed_gigabyte_is_not_allocated(rlds: Ingested, run: Callable[..., Said], tmp_path: Path) -> None:
    import resource

    for name in ("claims 1 GB", "claims 2^64"):
        place = next(row for row in rlds.rows[name])["locations"][0]["location"]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run("ingest", place, "--lake", tmp_path / name, "--dry-run")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_hostile_text_is_escaped_in_the_report(rlds: Ingested, run: Callable[..., Said], tmp_path: Path) -> None:
    assert run("report", rlds.lake, "--out", tmp_path / "r.html").code == 0
    assert HOSTILE not in (tmp_path / "r.html").read_text()


# --- LeRobot files ---------------------------------------------------------------------------------------------------


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flip_middle(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 0xFF
    file.write_bytes(bytes(data))


def _rows(file: Path, **changes: Any) -> None:
    columns = lerobot_rows(0, 0, 4) | changes
    pq.write_table(
        pa.table({key: value for key, value in columns.items() if value is not None}), file, write_page_checksum=True
    )


DATA, VIDEO = "data/chunk-000/episode_000000.parquet", "videos/chunk-000/camera/episode_000000.mp4"
PLAYLIST = b"#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/x.ts\n"
LEROBOT: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "zero video": (VIDEO, lambda f: f.write_bytes(b""), "failed", "not_video"),
    "cut video": (VIDEO, _cut, "failed", "truncated not_video"),
    "HTML video": (VIDEO, lambda f: f.write_bytes(b"<!doctype html><html>" * 99), "failed", "not_video"),
    "playlist video": (VIDEO, lambda f: f.write_bytes(PLAYLIST), "failed", "not_video"),
    "no video": (VIDEO, lambda f: f.unlink(), "failed", "missing_file"),
    "linked video": (VIDEO, lambda f: (f.unlink(), f.symlink_to("/etc/passwd")), "failed", "path_escape"),
    "zero parquet": (DATA, lambda f: f.write_bytes(b""), "failed", "corrupt_parquet"),
    "cut parquet": (DATA, _cut, "failed", "corrupt_parquet"),
    "flipped parquet": (DATA, _flip_middle, "failed", "corrupt_parquet"),
    "no rows": (DATA, lambda f: pq.write_table(pq.read_table(f).slice(0, 0), f), "failed", "length_mismatch"),
    "fewer rows": (DATA, lambda f: pq.write_table(pq.read_table(f).slice(1), f), "failed", "length_mismatch"),
    "no action": (DATA, lambda f: _rows(f, action=None), "failed", "missing_column"),
    "nan action": (
        DATA,
        lambda f: _rows(f, action=pa.array([[0.0, np.nan]] * 4, pa.list_(pa.float32()))),
        "rejected",
        "nan_value",
    ),
    "nan times": (DATA, lambda f: _rows(f, timestamp=pa.array([0, np.nan, 0.2, 0.3])), "failed", "bad_times"),
    "torn tasks": ("meta/tasks.jsonl", lambda f: f.write_bytes(b'{"task_ind'), "kept", ""),
    "zero tasks": ("meta/tasks.jsonl", lambda f: f.write_bytes(b""), "kept", ""),
}
"""By name: file, damage, and outcome and reason of the first of two episodes (several: one of them; none: any)."""


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    root = tmp_path_factory.mktemp("lerobot")
    model = toy_videos(root / "model")
    for name, (file, damage, _, _) in LEROBOT.items():
        shutil.copytree(model, root / "sets" / name)
        damage(root / "sets" / name / file)
    return ingest_all(root / "sets", root / "lake", toy_card(root / "cards", "lerobot"))


@pytest.mark.parametrize("name", LEROBOT)
def test_damaged_lerobot_files(name: str, lerobot: Ingested) -> None:
    _, _, outcome, reason = LEROBOT[name]
    (row,) = [row for row in lerobot.rows[name] if row["key"] == "episode_000000"]
    assert row["outcome"] == outcome, row
    assert not reason or row["reason"] in reason.split()
    (other,) = [row for row in lerobot.rows[name] if row["key"] == "episode_000001"]
    assert other["outcome"] == "kept"
    counted(lerobot.rows[name])


def test_the_lerobot_account_closes(lerobot: Ingested) -> None:
    check_account(lerobot)


def test_a_damaged_table_of_tasks_is_a_finding(tmp_path: Path, run: Callable[..., Said]) -> None:
    root = write_lerobot(tmp_path / "set", images=True)
    (root / "meta/tasks.jsonl").write_bytes(b'{"task_ind')
    card = toy_card(tmp_path / "cards", "lerobot")
    assert run("ingest", root, "--lake", tmp_path / "lake", "--card", card, *INLINE).code == 0
    for row in Lake.open(tmp_path / "lake").rows("episodes", ["findings"]):
        assert "damaged_tasks" in [finding["rule"] for finding in row["findings"]]


def test_an_action_of_text_is_a_card_that_does_not_fit(run: Callable[..., Said], tmp_path: Path) -> None:
    root = toy_videos(tmp_path / "set")
    _rows(root / DATA, action=pa.array(["x"] * 4))
    card = toy_card(tmp_path / "cards", "lerobot")
    found = run("ingest", root, "--lake", tmp_path / "lake", "--card", card, *INLINE)
    assert (found.code, found.values["reason"]) == (2, "card")
    assert not (tmp_path / "lake").exists()


# --- cards and recipes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('names = ["x", "y"]', 'names = ["x", "y", "z"]'), "action gets 2 columns"),
        (('names = ["a", "b", "c"]', 'names = ["a"]'), "proprio gets 3 columns"),
        (('field = "action"', 'field = "actoin"'), "wants the field 'actoin'"),
        (('"observation/image_0" = "primary"', '"front" = "primary"'), "knows none of the cameras"),
        (("[views]", "[veiws]"), "unknown key 'veiws'"),
        (("version = 1", 'version = "x"'), "version"),
        (("version = 1", "version = "), "not valid TOML"),
        (("version = 1", "version = " + "9" * 5000), "not valid TOML"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_cards_that_do_not_fit(change: tuple[str, str], said: str, run: Callable[..., Said], tmp_path: Path) -> None:
    card = toy_card(tmp_path / "cards", "rlds")
    for file in card.parent.iterdir():
        file.write_text(file.read_text().replace(*change))
    root = toy_rlds(tmp_path / "set")
    found = run("ingest", root, "--lake", tmp_path / "lake", "--card", card, *INLINE)
    assert (found.code, found.values["reason"]) == (2, "card")
    assert said in found.values["error"]
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode", "--encoder", "wavelett"], "did you mean 'wavelet'?"),
        (["encode", "--encoder", "os.path"], "known: "),
        (["encode", "--encoder", ".."], "known: "),
        (["encode", "--set", "options.spatial=7"], "spatial"),
        (["encode", "--set", "options.nope=1"], "spatial"),
        (["encode", "--set", "clip.kind=fixed", "--set", "clip.num_frames=16"], "13 or 17"),
        (["encode", "--set", "clip.num_frames=" + "9" * 5000], "found"),
        (["encode", "--set", "rate=nan"], "write Hz"),
        (["encode", "--set", "views.height_px=33", "--set", "views.width_px=33"], "views.height_px=32"),
        (["encode", "--where", "nope = 1"], "write SQL"),
        (["encode", "--where", "1=1) or (1=1"], "write SQL"),
        (["build", "--where", "outcome = 'failed') or (outcome = 'rejected'"], "write SQL"),
        (["encode", "--where", "num_steps > 1) and nonsense"], "write SQL"),
        (["encode", "--where", "'; drop table episodes; --"], "write SQL"),
        (["build", "--format", "parquett"], "did you mean 'parquet'?"),
        (["build", "--format", "json.tool"], "known: "),
        (["build", "--format", "../x"], "known: "),
        (["build", "--set", "tokenizer.name=os.path"], "known: "),
        (["build", "--set", "horizon=10000000000"], "found"),
        (["build", "--set", "formats=[]"], "known: "),
        (["build", "--set", "horizn=3"], "did you mean 'horizon'?"),
        (["build", "--set", "sizes.lerobot_v3.heigth_px=64"], "did you mean 'height_px'?"),
        (["build", "--set", "sizes.lerobot_v3.height_px=64"], "give it too, beside height_px"),
        (["build", "--set", "sizes.parquet={height_px=64,width_px=64}"], "docs/recipes.md"),
        (["build", "--set", "sizes.lerobot_v3={height_px=63,width_px=64}"], "sizes.lerobot_v3.height_px = 64"),
        (["build", "--set", "frame_stride=3"], "recipes for `wamloom encode`"),
        (["encode", "--set", "formats=[]"], "recipes for `wamloom build`"),
    ],
    ids=str,
)
def test_wrong_wishes_are_2(
    arguments: list[str], said: str, rlds: Ingested, run: Callable[..., Said], tmp_path: Path
) -> None:
    verb, *rest = arguments
    out = ["--out", tmp_path / "out"] if verb == "build" else []
    found = run(verb, "--lake", rlds.lake, *out, *rest, *INLINE)
    assert found.code == 2
    assert said in found.values["hint"]
    assert not (tmp_path / "out").exists()


def test_no_filter_reaches_what_was_not_kept(rlds: Ingested, run: Callable[..., Said], tmp_path: Path) -> None:
    plain = run("encode", "--lake", rlds.lake, *SMALL, "--dry-run")
    wide = run("encode", "--lake", rlds.lake, *SMALL, "--dry-run", "--where", "outcome = ')' or true")
    assert (plain.code, wide.code) == (0, 0)
    assert wide.values["clips"] == plain.values["clips"] > 0
    for text in ("outcome = 'failed'", "outcome = 'failed' or outcome = 'rejected'"):
        assert run("encode", "--lake", rlds.lake, "--where", text).values["reason"] == "empty"
        found = run("build", "--lake", rlds.lake, "--out", tmp_path / "out", "--where", text)
        assert (found.code, found.values["reason"]) == (3, "empty")


@pytest.mark.parametrize(
    "text",
    [b"x = ", b"\xff\xfe", b"unitmb = 1", b"unit_mb = 'x'", b"gates = 3", b"a = " + b"[" * 50_000, b"unit_mb = 0"],
)
def test_recipe_files(text: bytes, run: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(text)
    found = run("ingest", tmp_path, "--lake", tmp_path / "lake", "--recipe", tmp_path / "r.toml")
    assert (found.code, found.values["where"], found.values["reason"]) == (2, str(tmp_path / "r.toml"), "recipe")


@pytest.mark.parametrize("settings", ["clip.kind=fixed clip.num_frames=1001", "views.slots=['tertiary']"])
def test_no_clip_at_all_is_told(settings: str, rlds: Ingested, run: Callable[..., Said]) -> None:
    found = run("encode", "--lake", rlds.lake, *(part for one in settings.split() for part in ("--set", one)), *INLINE)
    assert (found.code, found.values["reason"]) == (3, "empty")


@pytest.mark.parametrize("target", ["folder", "file", "under a file", "lake"])
def test_outputs_that_are_in_the_way(target: str, rlds: Ingested, run: Callable[..., Said], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    place = {"under a file": tmp_path / "file" / "x", "lake": rlds.lake}.get(target, tmp_path / target)
    assert run("build", "--lake", rlds.lake, "--out", place, *INLINE).code == 2
    if target != "file":  # a report may replace a file
        assert run("report", rlds.lake, "--out", place).code == 2
    assert (tmp_path / "folder" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "x"
    if target != "lake":
        found = run("ingest", toy_rlds(tmp_path / "set"), "--lake", place, "--card", toy_card(tmp_path / "c", "rlds"))
        assert found.code in (2, 3)


# --- lakes, weights, episodes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["episodes", "latents", "texts"])
@pytest.mark.parametrize("verb", ["status", "verify", "show", "report", "encode"])
def test_half_a_lake(verb: str, table: str, rlds: Ingested, run: Callable[..., Said], tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(rlds.lake, lake)
    shutil.rmtree(lake / f"{table}.lance")
    more = ["--out", tmp_path / "r.html"] if verb == "report" else []
    found = run(verb, *(["--lake"] if verb in ("status", "encode") else []), lake, *more)
    assert (found.code, found.values["reason"]) == (3, "torn_table")
    assert str(lake) in found.values["where"]


@pytest.mark.parametrize("num_bytes", [0, 100])
def test_a_torn_newest_manifest(num_bytes: int, rlds: Ingested, run: Callable[..., Said], tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(rlds.lake, lake)
    newest = min((lake / "episodes.lance" / "_versions").glob("*.manifest"))  # their names count down
    newest.write_bytes(newest.read_bytes()[:num_bytes])
    for arguments in (["status", "--lake", lake], ["show", lake], ["encode", "--lake", lake]):
        found = run(*arguments)
        assert (found.code, found.values["reason"]) == (3, "torn_table")
        assert "episodes.lance" in found.values["where"]
    assert run("verify", lake).code == 5


def test_flipped_bytes_in_a_lake(rlds: Ingested, run: Callable[..., Said], tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    shutil.copytree(rlds.lake, lake)
    blobs = sorted(
        (lake / "episodes.lance" / "data").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size
    )
    data = bytearray(blobs[-1].read_bytes())
    for at in range(0, len(data), 400):
        data[at] ^= 0xFF
    blobs[-1].write_bytes(bytes(data))
    found = run("verify", lake)
    assert found.code in (3, 5)
    assert str(lake) in str(found.values)


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("kind", ["pickle", "cut", "HTML", "empty", "none"])
def test_weights_that_are_none(kind: str, rlds: Ingested, run: Callable[..., Said], tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = tmp_path / "weights"
    folder.mkdir()
    contents = {
        "pickle": pickle.dumps({"w": _Touch(canary)}),
        "cut": b"PK\x03\x04" + bytes(99),
        "HTML": b"<html>",
        "empty": b"",
    }
    if kind in contents:
        (folder / "x_encoder.pth").write_bytes(contents[kind])
    found = run("encode", "--lake", rlds.lake, "--encoder", "tiny_autoencoder", "--weights", folder, *INLINE)
    assert found.code == 3
    assert str(folder) in found.values["where"]
    assert not canary.exists()


@pytest.mark.parametrize("prefix", ["zzz", "", "' or 1=1 --", "%"])
def test_episodes_that_are_not_one(prefix: str, rlds: Ingested, run: Callable[..., Said]) -> None:
    found = run("show", rlds.lake, "--episode", prefix)
    assert found.code == 3
    assert "with an id that begins with" in found.values["error"]
