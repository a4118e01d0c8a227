"""Bad HDF5 files, raw DROID recordings and annotations through the command line: a row or a finding each, never a traceback.

Each case damages one recording; all of a source are ingested together, between good ones, so that one run shows what becomes
of every case and that none harms the others.
"""

import contextlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from jobs.cli import main
from pipelines.lake import Lake
from tests.clips import encode, pictures
from tests.droid_tree import EXT1, STEP_START, WRIST, columns, metadata, write_recording, write_rows
from tests.recorded import picture
from tests.recorded_hdf5 import demo, fill, padded, pixels, vectors, write_aloha, write_robomimic

Damage = Callable[[Path], Any]
STEPS = 12


def ingest(*arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, answer and stderr of ``wamloom ingest``."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["ingest", *map(str, arguments), "--executor", "inline", "--json"])
    assert "Traceback" not in err.getvalue()
    return code, json.loads(out.getvalue()), err.getvalue()


def rows_of(lake: Path) -> dict[str, dict[str, Any]]:
    """Rows by the key of each of their places."""
    columns = [
        "outcome",
        "reason",
        "message",
        "where",
        "hint",
        "locations",
        "findings",
        "num_steps",
        "instructions",
        "segments",
    ]
    rows = Lake.open(lake).rows("episodes", columns)
    return {place["key"]: row for row in rows for place in row["locations"]}


def card(folder: Path, source: str, fields: dict[str, str], **tables: dict[str, str]) -> Path:
    """A card with its embodiment: proprio of three channels, action of two."""
    folder.mkdir(exist_ok=True)
    (folder / "toy.toml").write_text(
        'name = "toy"\ntitle = "Toy"\ncontrol_rate = 10\nviews = ["primary"]\n'
        '[[proprio]]\nnames = ["a", "b", "c"]\n[[action]]\nnames = ["x", "y"]\n'
    )
    path = folder / f"toy_{source}.toml"
    path.write_text(
        f'name = "toy_{source}"\nversion = 1\ntitle = "Toy"\nsource = "{source}"\nembodiment = "toy"\nlicense = "CC0-1.0"\n'
        f'optional_views = ["primary"]\n'
        f'[[proprio]]\nfield = "{fields["proprio"]}"\n[[action]]\nfield = "{fields["action"]}"\n'
        f'[views]\n"{fields["view"]}" = "primary"\n'
    )
    return path


# --- hdf5 ------------------------------------------------------------------------------------------------------------


def one(**changes: Any) -> Damage:
    """A robomimic file of one demonstration with changes."""
    return lambda path: write_robomimic(path, {"demo_0": demo(0, STEPS, **changes)})


def edited(edit: Callable[[h5py.Group], Any]) -> Damage:
    def damage(path: Path) -> None:
        one()(path)
        with h5py.File(path, "a") as file:
            edit(file["data/demo_0"])

    return damage


def _bytes(change: Callable[[bytes], bytes]) -> Damage:
    def damage(path: Path) -> None:
        one()(path)
        path.write_bytes(change(path.read_bytes()))

    return damage


def _claimed(group: h5py.Group) -> None:
    del group["actions"]
    group.create_dataset("actions", (10**9, 2), "f8")


def _bomb(name: str, shape: tuple[int, ...], chunk: tuple[int, ...]) -> Callable[[h5py.Group], Any]:
    """Zeros all written, a thousand times smaller in the file than in memory."""

    def edit(group: h5py.Group) -> None:
        if name in group:
            del group[name]
        array = group.create_dataset(name, shape, "f8", chunks=chunk, compression="gzip")
        packed = zlib.compress(bytes(8 * int(np.prod(chunk))))
        for place in range(0, shape[0], chunk[0]):
            array.id.write_direct_chunk((place, *([0] * (len(shape) - 1))), packed)

    return edit


def _outside(path: Path) -> None:
    target = path.parent.parent / "outside" / path.name
    target.parent.mkdir(exist_ok=True)
    one()(target)
    path.symlink_to(target)


def _nested(group: h5py.Group) -> None:
    for _ in range(40):
        group = group.create_group("g")
    group["x"] = np.zeros(STEPS)


def _with_nan(width: int) -> np.ndarray:
    values = vectors(0, STEPS, width)
    values[4, 0] = np.nan
    return values


NOISE = "open\x00 the\x1b[2J <script>\u202e drawer\n"
LAST_EMPTY = np.pad(padded([picture(index) for index in range(STEPS - 1)])[0], ((0, 1), (0, 0)))
HDF5: dict[str, tuple[Damage, str]] = {
    " good": (one(), "kept"),
    "empty file": (lambda path: path.write_bytes(b""), "failed not_hdf5"),
    "a page": (lambda path: path.write_text("<html>404</html>"), "failed not_hdf5"),
    "cut": (_bytes(lambda data: data[: len(data) // 2]), "failed truncated"),
    "cut to head": (_bytes(lambda data: data[:90]), "failed truncated"),
    "another structure": (lambda path: fill(h5py.File(path, "w"), {"q": np.zeros((3, 2))}), "failed unknown_layout"),
    "no demo": (lambda path: write_robomimic(path, {}), "failed empty"),
    "escapes": (_outside, "failed path_escape"),
    "dangling link": (lambda path: path.symlink_to("nowhere.hdf5"), "failed missing_file"),
    "loop of links": (lambda path: path.symlink_to(path.name), "failed unreadable"),
    "external": (
        edited(lambda group: group.__setitem__("obs/x", h5py.ExternalLink("/etc/passwd", "/x"))),
        "failed external_link",
    ),
    "nested": (edited(_nested), "failed link_cycle"),
    "claimed rows": (edited(_claimed), "failed too_large"),
    "bomb": (edited(_bomb("obs/x", (STEPS, 1 << 26), (1, 1 << 22))), "failed too_large"),
    "no steps": (
        one(actions=np.zeros((0, 2)), obs__state=np.zeros((0, 3)), rewards=np.zeros(0), at_num_samples=0),
        "failed empty",
    ),
    "one step": (lambda path: write_robomimic(path, {"demo_0": demo(0, 1)}), "kept"),
    "no action": (one(actions=None), "failed missing_key"),
    "actions of texts": (one(actions=np.array([b"left"] * STEPS)), "failed not_numbers"),
    "actions of 1 dimension": (one(actions=np.zeros(STEPS)), "failed card"),
    "actions wide": (one(actions=vectors(0, STEPS, 9)), "failed card"),
    "actions scalar": (one(actions=3.0), "failed empty"),
    "actions complex": (one(actions=np.zeros((STEPS, 2), complex)), "failed not_numbers"),
    "no columns": (one(obs__none=np.zeros((STEPS, 0))), "kept"),
    "nan action": (one(actions=_with_nan(2)), "rejected nan_value"),
    "long double": (one(obs__exact=vectors(0, STEPS, 2).astype(np.longdouble)), "kept"),
    "big endian": (one(obs__state=vectors(0, STEPS, 3).astype(">f4")), "kept"),
    "fewer rows": (one(obs__state=vectors(0, STEPS - 1, 3)), "failed length_mismatch"),
    "fewer pictures": (one(obs__camera_image=pixels(0, STEPS - 1)), "kept frames_vs_steps"),
    "more pictures": (one(obs__camera_image=pixels(0, STEPS + 1)), "kept frames_vs_steps"),
    "no camera": (one(obs__camera_image=None), "kept"),
    "pictures cut": (
        one(obs__camera_image=padded([picture(i)[:300] for i in range(STEPS)])[0]),
        "failed corrupt_frame",
    ),
    "picture empty": (one(obs__camera_image=LAST_EMPTY), "failed bad_image"),
    "group as array": (one(obs__camera_image=None, obs__camera_image__x=np.zeros(STEPS)), "kept"),
    "megabyte of instruction": (one(at_ep_meta=json.dumps({"lang": "x" * (1 << 20)})), "kept very_long_instruction"),
    "noise in instruction": (one(at_ep_meta=json.dumps({"lang": NOISE})), "kept control_characters"),
    "half a character": (one(at_ep_meta='{"lang": "a\\ud800b"}'), "kept"),
    "deep json": (one(at_ep_meta="[" * 60000), "kept no_instruction"),
    "lang a number": (one(at_ep_meta='{"lang": 5}'), "kept"),
    "int of digits": (one(at_ep_meta='{"lang": "x", "n": ' + "9" * 20000 + "}"), "kept"),
    "promises nan": (one(at_num_samples=float("nan")), "failed length_mismatch"),
    "promises inf": (one(at_num_samples=float("inf")), "failed length_mismatch"),
    "rate": (
        lambda path: write_robomimic(
            path,
            {"demo_0": demo(0, STEPS)},
            **{"data__@env_args": '{"env_kwargs": {"control_freq": 1e-300, "robots": {"a": 1}}}'},
        ),
        "kept",
    ),
    "rate nan": (
        lambda path: write_robomimic(
            path, {"demo_0": demo(0, STEPS)}, **{"data__@env_args": '{"env_kwargs": {"control_freq": NaN}}'}
        ),
        "kept",
    ),
    "attribute reference": (edited(lambda group: group.attrs.__setitem__("ref", group.ref)), "kept"),
    "attribute compound": (edited(lambda group: group.attrs.__setitem__("c", np.zeros(2, [("a", "f4")]))), "kept"),
    "enum and bool": (
        edited(lambda group: group.create_dataset("obs/e", data=np.zeros(STEPS, h5py.enum_dtype({"A": 0})))),
        "kept",
    ),
    "name with 'odd' \"marks\" #1%2F:": (one(), "kept"),
    "line\nbreak": (one(), "failed path_escape"),
    "n" * 250: (one(), "kept"),
    os.fsdecode(b"not\xffutf8"): (one(), "failed path_escape"),
}


# --- droid_raw -------------------------------------------------------------------------------------------------------

MP4 = encode("h264", pictures(STEPS))


def recorded(facts: dict[str, Any] | None = None, videos: dict[str, bytes] | None = None, **changes: Any) -> Damage:
    """A recording of one camera with changes."""

    def damage(folder: Path) -> None:
        arrays: dict[str, Any] = {name: rows for name, rows in columns(STEPS).items() if "camera_type" not in name}
        arrays |= {name.replace("__", "/"): rows for name, rows in changes.items()}
        said = metadata(ext2_cam_serial=None, **(facts or {}))
        write_recording(
            folder.parent, folder.name, {name: rows for name, rows in arrays.items() if rows is not None}, said,
            {f"{WRIST}.mp4": MP4, **({f"{EXT1}.mp4": MP4} if videos is None else videos)},
        )  # fmt: skip

    return damage


def _text(name: str, text: str | bytes) -> Damage:
    def damage(folder: Path) -> None:
        recorded()(folder)
        (path,) = folder.glob(name)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    return damage


def _linked(name: str) -> Damage:
    def damage(folder: Path) -> None:
        recorded()(folder)
        (path,) = folder.glob(name)
        outside = folder.parents[4] / "outside" / f"{folder.name}{path.suffix}"
        outside.parent.mkdir(exist_ok=True)
        path.rename(outside)
        path.symlink_to(outside)

    return damage


def stamps(change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    return {STEP_START.replace("/", "__"): change(columns(STEPS)[STEP_START])}


def backwards(times: np.ndarray) -> np.ndarray:
    times = times.copy()
    times[5] -= 500
    return times


def video(data: bytes) -> Damage:
    return recorded(videos={f"{EXT1}.mp4": data})


DROID: dict[str, tuple[Damage, str]] = {
    " good": (recorded(), "kept"),
    "Sat_Jul_99_25:61:61_20233": (recorded(), "kept"),
    "line\nbreak": (recorded(), "failed path_escape"),
    "a+b #%2F 'quote'": (recorded(), "kept"),
    os.fsdecode(b"not\xffutf8"): (recorded(), "failed path_escape"),
    "video zero": (video(b""), "failed not_video"),
    "video html": (video(b"<html>404</html>"), "failed not_video"),
    "video zeros": (video(bytes(4096)), "failed not_video"),
    "video cut": (video(MP4[: len(MP4) // 2]), "failed truncated"),
    "video playlist": (video(b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/x.ts\n"), "failed not_video"),
    "video flipped": (video(MP4.replace(b"mdat", b"mdaX")), "failed truncated"),
    "video long": (video(encode("h264", pictures(STEPS + 2))), "failed length_mismatch"),
    "video short": (video(encode("h264", pictures(3))), "rejected frames_vs_steps"),
    "video missing": (recorded(videos={}), "failed missing_view"),
    "video link": (_linked(f"recordings/MP4/{EXT1}.mp4"), "failed path_escape"),
    "rows link": (_linked("trajectory.h5"), "failed path_escape"),
    "metadata link": (_linked("metadata_*.json"), "failed path_escape"),
    "rows html": (_text("trajectory.h5", "<html>"), "failed not_hdf5"),
    "rows structure": (
        lambda folder: (recorded()(folder), write_rows(folder / "trajectory.h5", {"q": np.zeros((3, 2))}, {})),
        "failed missing_field",
    ),
    "metadata deep": (_text("metadata_*.json", "[" * 100000), "failed missing_view"),
    "metadata twice": (_text("metadata_*.json", '{"uuid": "a", "uuid": "b"}'), "failed missing_view"),
    "metadata digits": (_text("metadata_*.json", '{"scene_id": ' + "9" * 5000 + "}"), "failed missing_view"),
    "metadata big int": (_text("metadata_*.json", '{"scene_id": ' + "9" * 300 + "}"), "failed missing_view"),
    "metadata big list": (_text("metadata_*.json", '{"x": [' + "[]," * 9_000_000 + "[]]}"), "failed missing_view"),
    "metadata nan": (recorded({"scene_id": float("nan"), "trajectory_length": float("inf")}), "kept"),
    "metadata lists": (
        recorded(
            {"current_task": ["a"], "success": "yes", "robot_serial": {"a": 1}, "lab": None, "droid_version": [1]}
        ),
        "kept unknown_recorder_version",
    ),
    "metadata half": (
        _text("metadata_*.json", '{"current_task": "a\\ud800", "lab": "\\udfff"}'),
        "failed missing_view",
    ),
    "metadata escapes": (recorded({"hdf5_path": "/etc/passwd", "left_mp4_path": "../../x.mp4"}), "kept"),
    "serial escapes": (recorded({"ext1_cam_serial": "../../../x"}), "failed missing_view"),
    "serial megabyte": (recorded({"ext1_cam_serial": "1" * (1 << 20)}), "failed missing_view"),
    "task megabyte": (recorded({"current_task": "x" * (1 << 20)}), "kept"),
    "task noise": (recorded({"current_task": NOISE}), "kept"),
    "pose infinite": (recorded({"ext1_cam_extrinsics": [1e400, 0, 0, 0, 0, 0]}), "kept"),
    "pose big int": (recorded({"ext1_cam_extrinsics": [10**400, 0, 0, 0, 0, 0]}), "kept"),
    "pose true": (recorded({"ext1_cam_extrinsics": [True, 0, 0, 0, 0, 0]}), "kept"),
    "uuid number": (recorded({"uuid": 5}), "kept"),
    "clock backwards": (recorded(**stamps(backwards)), "rejected clock_not_increasing"),
    "clock seconds": (recorded(**stamps(lambda times: times // 1000)), "rejected clock_not_increasing"),
    "clock mixed": (
        recorded(**stamps(lambda times: np.where(np.arange(STEPS) > 5, times // 1000, times))),
        "kept no_step_clock",
    ),
    "clock nanoseconds": (recorded(**stamps(lambda times: times * 1_000_000)), "kept rate_mismatch"),
    "clock zero": (recorded(**stamps(lambda times: times * 0)), "rejected clock_not_increasing"),
    "clock float nan": (recorded(**stamps(lambda times: times * np.nan)), "kept no_step_clock"),
    "clock extremes": (recorded(**stamps(lambda times: np.full(STEPS, np.iinfo(np.int64).min))), "kept no_step_clock"),
    "clock uint64": (
        recorded(**stamps(lambda times: np.full(STEPS, np.iinfo(np.uint64).max, np.uint64))),
        "kept no_step_clock",
    ),
    "clock two columns": (recorded(**stamps(lambda times: np.stack([times, times], 1))), "kept no_step_clock"),
    "clock missing": (recorded(**{STEP_START.replace("/", "__"): None}), "kept no_step_clock"),
    "nan action": (recorded(action__gripper_position=np.full(STEPS, np.nan)), "rejected nan_value"),
    "empty type": (recorded(**{f"observation__camera_type__{EXT1}": np.zeros((STEPS, 0), int)}), "kept"),
    "type of vectors": (recorded(**{f"observation__camera_type__{EXT1}": np.zeros((STEPS, 2))}), "kept"),
    "type nan": (recorded(**{f"observation__camera_type__{EXT1}": np.full(STEPS, np.nan)}), "kept nan_value"),
    "pose of no columns": (recorded(**{f"observation__camera_extrinsics__{EXT1}_left": np.zeros((STEPS, 0))}), "kept"),
    "pose scalar": (recorded(**{f"observation__camera_extrinsics__{EXT1}_left": np.zeros(STEPS)}), "kept"),
    "pose nan": (
        recorded(**{f"observation__camera_extrinsics__{EXT1}_left": np.full((STEPS, 6), np.nan)}),
        "kept nan_value",
    ),
    "intrinsics inf": (
        recorded(**{f"observation__camera_intrinsics__{EXT1}_left": np.full((STEPS, 3, 3), np.inf)}),
        "kept inf_value",
    ),
    "serial odd": (
        recorded(
            **{
                "observation__camera_extrinsics___left": np.zeros((STEPS, 6)),
                "observation__camera_type__a b": np.zeros(STEPS),
            }
        ),
        "kept",
    ),
    "one step": (
        lambda folder: write_recording(
            folder.parent,
            folder.name,
            {n: v for n, v in columns(1).items() if "camera_type" not in n},
            metadata(ext2_cam_serial=None),
            {f"{one}.mp4": encode("h264", pictures(1)) for one in (WRIST, EXT1)},
        ),
        "kept one_step_episode",
    ),
    "no steps": (
        lambda folder: write_recording(
            folder.parent, folder.name, {n: v[:0] for n, v in columns(1).items()}, metadata(), {}
        ),
        "failed empty",
    ),
    "claimed rows": (lambda folder: (recorded()(folder), _claim(folder / "trajectory.h5")), "failed too_large"),
    "nothing": (lambda folder: folder.mkdir(), "failed missing_file"),
}


# --- annotations -----------------------------------------------------------------------------------------------------

UUID = metadata()["uuid"]
PLACE = "AUTOLab/success/2023-07-07/Fri_Jul__7_09:42:23_2023"
RANGES = (
    f"gs://xembodiment_data/r2d2/r2d2-data-full/{PLACE}/recordings/MP4--gs://xembodiment_data/{PLACE}/trajectory.h5"
)


def ranges(value: Any) -> str:
    return json.dumps({RANGES: value})


def said(**entry: Any) -> str:
    return json.dumps({UUID: entry})


LANGUAGE = "language_instruction1"
TOLD: dict[str, tuple[str | bytes, str]] = {
    "ranges": (ranges([[5, STEPS], [0, 3]]), ""),
    "ranges beyond": (ranges([[0, 10**9]]), "keep_ranges_do_not_fit"),
    "ranges negative": (ranges([[-3, 3]]), "keep_ranges_do_not_fit"),
    "ranges overlap": (ranges([[0, 5], [3, 9]]), "keep_ranges_do_not_fit"),
    "ranges reversed": (ranges([[9, 5]]), "keep_ranges_do_not_fit"),
    "ranges of floats": (ranges([[0.5, 3.0]]), "keep_ranges_do_not_fit"),
    "ranges huge": (ranges([[10**30, 10**31]]), "keep_ranges_do_not_fit"),
    "ranges flat": (ranges([0, 3]), "keep_ranges_do_not_fit"),
    "ranges many": (ranges([[0, 3]] * 200_000), "keep_ranges_do_not_fit"),
    "ranges deep": (ranges([[[[0]]]]), "keep_ranges_do_not_fit"),
    "ranges nothing": (ranges([]), "keeps_nothing"),
    "half a character": (f'{{"{UUID}": {{"{LANGUAGE}": "a\\ud800"}}}}', "undecodable_text"),
    "megabyte": (said(**{LANGUAGE: "x" * (1 << 20)}), "very_long_instruction"),
    "noise": (said(**{LANGUAGE: NOISE}), "control_characters"),
    "empty text": (said(**{LANGUAGE: ""}), "empty_instruction"),
    "no text": (said(**{LANGUAGE: ["a"]}), "bad_annotation"),
    "pose nan": (f'{{"{UUID}": {{"{EXT1}": [NaN, 0, 0, 0, 0, 0]}}}}', "bad_annotation"),
    "pose big": (said(**{EXT1: [10**400, 0, 0, 0, 0, 0]}), "bad_annotation"),
    "intrinsics big": (said(**{EXT1: {"cameraMatrix": [10**400, 0, 0, 0]}}), "bad_annotation"),
    "serials": (said(wrist_cam_serial="../../x", ext1_cam_serial=10**400), "cameras_disagree"),
    "others": (said(**{LANGUAGE: "a"}).replace("AUTOLab", "ILIAD"), "unmatched_annotation"),
}
"""What a file of annotations says, and the rule of the finding that comes of it."""
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "twice": (f'{{"{UUID}": {{"{LANGUAGE}": "a"}}, "{UUID}": {{"{LANGUAGE}": "b"}}}}', "stands there twice"),
    "deep": ("[" * 100_000, "recursion"),
    "digits": (f'{{"{UUID}": {{"x": {"9" * 5000}}}}}', "digits"),
    "bomb": (f'{{"{UUID}": [{"[]," * 12_000_000}[]]}}', "values are more than"),
    "empty": ("{}", "it holds nothing"),
    "list": ("[]", "not an object"),
    "not utf8": (b'{"\xff": 1}', "not valid JSON"),
}


def test_bad_annotations_are_findings(tmp_path: Path) -> None:
    recorded()(tmp_path / "set" / PLACE)
    (tmp_path / "told").mkdir()
    for name, (content, _) in TOLD.items():
        (tmp_path / "told" / f"{name}.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    code, answer, _ = ingest(tmp_path / "set", "--lake", tmp_path / "lake", "--annotations", tmp_path / "told")
    assert (code, answer["kept"]) == (0, 1)
    (row,) = rows_of(tmp_path / "lake").values()
    found = {(one["where"], one["rule"]) for one in row["findings"]}
    about_files = {(f"{name}.json", rule) for name, (_, rule) in TOLD.items() if rule and not rule.endswith(_OF_TEXTS)}
    assert about_files <= found
    assert {rule for _, rule in TOLD.values() if rule.endswith(_OF_TEXTS)} <= {rule for _, rule in found}
    keep = [(one["start_ns"], one["stop_ns"]) for one in row["segments"] if one["kind"] == "keep"]
    assert sorted(keep) == [(0, 199_000_000), (332_000_000, 731_000_001)]


_OF_TEXTS = ("text", "instruction", "characters")
"""How rules about texts end, whose findings name the field."""


@pytest.mark.parametrize("name", REFUSED)
def test_annotations_that_cannot_be_read_stop_the_run(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    recorded()(tmp_path / "set" / PLACE)
    path = tmp_path / "file.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, answer, err = ingest(tmp_path / "set", "--lake", tmp_path / "lake", "--annotations", path)
    assert (code, answer["where"]) == (3, str(path))
    assert message in answer["error"]
    assert "\nhint: " in err
    assert not (tmp_path / "lake").exists()


def _claim(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset("action/more", (10**9,), "f8")


def unpadded(key: str) -> str:
    return re.sub(r"0+(?=\d)", "", key)


def check(cases: dict[str, tuple[Damage, str]], lake: Path, key_of: Callable[[str], str]) -> None:
    found = {unpadded(key): row for key, row in rows_of(lake).items()}
    wrong = []
    for name, (_, expected) in cases.items():
        place = key_of(name.encode("utf-8", "backslashreplace").decode())
        row = found.pop(place, None) or found.pop(f"{place}/data/demo_0", None)
        outcome, _, said = expected.partition(" ")
        if row is None or row["outcome"] != outcome:
            wrong.append((name, expected, row and (row["outcome"], row["reason"], row["message"])))
        elif outcome == "kept":
            rules = {one["rule"] for one in row["findings"]}
            wrong += [(name, expected, rules)] if said and said not in rules else []
        elif row["reason"] != said or not row["message"] or not row["hint"] or not row["where"]:
            wrong.append((name, expected, (row["reason"], row["message"], row["where"], row["hint"])))
    assert wrong == []
    assert found == {}


def test_bad_recordings_of_droid_are_rows(tmp_path: Path) -> None:
    day = tmp_path / "set/AUTOLab/success/2023-07-07"
    day.mkdir(parents=True)
    for name, (damage, _) in DROID.items():
        damage(day / name)
    allow = ("--set", "max_failed_fraction=1", "--set", "max_rejected_fraction=1")
    code, answer, _ = ingest(tmp_path / "set", "--lake", tmp_path / "lake", *allow)
    assert (code, answer["listed"]) == (0, len(DROID))
    check(DROID, tmp_path / "lake", lambda name: unpadded(f"AUTOLab/success/2023-07-07/{name}"))


def test_bad_hdf5_files_are_rows(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for name, (damage, _) in HDF5.items():
        damage(root / f"{name}.hdf5")
    fields = {"proprio": "obs/state", "action": "actions", "view": "obs/camera_image"}
    given = ("--card", card(tmp_path / "cards", "hdf5", fields), "--set", "max_failed_fraction=1")
    code, answer, _ = ingest(root, "--lake", tmp_path / "lake", *given)
    assert (code, answer["listed"]) == (0, len(HDF5))
    check(HDF5, tmp_path / "lake", unpadded)


def test_files_whose_names_differ_by_zeros_or_ending_are_all_listed(tmp_path: Path) -> None:
    names = ("a1.h5", "a01.h5", "a1.hdf5", "a2.h5")
    for number, name in enumerate(names):
        write_aloha(tmp_path / "set" / name, 4 + number)
    code, answer, _ = ingest(tmp_path / "set", "--lake", tmp_path / "lake", "--card", "aloha_static", "--dry-run")
    assert (code, answer["listed"]) == (0, len(names))
