import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.lerobot import SOURCE
from pipelines.video import VideoTools
from schemas.episode import RawEpisode
from schemas.errors import CorruptEpisode, MissingFile, SourceError
from schemas.recipes import Limits
from tests.fake_video import FakeVideo
from tests.real import real_data
from tests.recorded import lerobot_rows, write_lerobot

VERSIONS = ("v2.0", "v2.1", "v3.0")
FIRST = "data/chunk-000/episode_000000.parquet"


def read(root: Path, index: int = 0, limits: Limits | None = None) -> RawEpisode:
    return SOURCE.read(SOURCE.refs(str(root))[index], FakeVideo(4), limits or Limits())


def outcomes(root: Path | str, video: VideoTools | None = None) -> Counter[str]:
    found: Counter[str] = Counter()
    for ref in SOURCE.refs(str(root)):
        try:
            raw = SOURCE.read(ref, video or FakeVideo(), Limits())
        except (MissingFile, CorruptEpisode) as error:
            found[error.reason if error.hint else "no hint"] += 1
        else:
            found["ok"] += 1
            found["rows"] += len(raw.streams[0].values)
    return found


def rewrite(path: Path, **changes: Any) -> None:
    """Replaces columns of a Parquet file; None removes one."""
    table = pq.read_table(path)
    for name, values in changes.items():
        name = name.replace("__", ".")
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, values)
    pq.write_table(table, path)


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_values_and_pictures_come_back(tmp_path: Path, version: str, images: bool) -> None:
    root = write_lerobot(tmp_path / "toy", version, (4, 3), images)
    refs = SOURCE.refs(str(root))
    assert [(ref.key, ref.split, ref.version, ref.dataset) for ref in refs] == [
        ("episode_000000", "train", version, "toy"),
        ("episode_000001", "val", version, "toy"),
    ]
    video = FakeVideo(3)
    raw = SOURCE.read(refs[1], video, Limits())
    assert [(s.name, s.values.dtype.str, s.values.shape, s.clock) for s in raw.streams] == [
        ("action", "<f4", (3, 2), "declared"),
        ("next.success", "|b1", (3,), "declared"),
        ("observation.state", "<f4", (3, 3), "declared"),
    ]
    np.testing.assert_array_equal(
        raw.streams[2].values, (1 + np.arange(3)[:, None] / 10 + np.arange(3)).astype(np.float32)
    )
    np.testing.assert_array_equal(raw.streams[0].times_ns, [0, 100_000_000, 200_000_000])
    assert raw.declared_rate == Fraction(10)
    assert raw.robot_type == "toy_arm"
    assert [(i.text, i.field, i.start_ns) for i in raw.instructions] == [("lift the cup", "task", None)]
    assert raw.findings == ()
    (view,) = raw.views
    np.testing.assert_array_equal(view.times_ns, [0, 100_000_000, 200_000_000])
    if images:
        expected = [row["bytes"] for row in lerobot_rows(1, 4, 3, images=True)["camera"].to_pylist()]
        assert video.packed == [expected]
        assert (view.how, view.first_frame) == ("packed", 0)
    elif version == "v3.0":
        assert video.parts == [(str(root / "videos/camera/chunk-000/file-000.mp4"), 0.4, 3)]
        assert (view.how, view.first_frame) == ("cut", 1)
    else:
        assert view.data == b"episode 1"
        assert (view.how, view.first_frame) == ("copied", 0)


def test_content_not_place_is_identity(tmp_path: Path) -> None:
    raws = [read(write_lerobot(tmp_path / version / "toy", version, (4, 3), True)) for version in VERSIONS]
    assert len({raw.episode_id for raw in raws}) == 1
    assert raws[0].source_sha256 == raws[1].source_sha256
    other = write_lerobot(tmp_path / "other", "v2.1", (4, 3), True)
    rewrite(other / FIRST, action=lerobot_rows(5, 0, 4)["action"])
    assert read(other).episode_id != raws[0].episode_id
    assert read(other).source_sha256 != raws[0].source_sha256


def test_sets_are_found_even_when_damaged(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "a" / "toy")
    (tmp_path / "a" / "other").mkdir()
    assert SOURCE.datasets(str(tmp_path)) == SOURCE.datasets(str(root)) == [str(root)]
    (root / "meta" / "info.json").unlink()
    assert SOURCE.datasets(str(tmp_path)) == [str(root)]
    with pytest.raises(SourceError, match="missing"):
        SOURCE.refs(str(root))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "bad_index"),
        ('{"codebase_version": "v2.1", "fe', "bad_index"),
        ("[]", "bad_index"),
        ('{"a":' * 100_000, "bad_index"),
        ("{}", "unknown_version"),
        ('{"codebase_version": "v9.9"}', "unknown_version"),
        ('{"codebase_version": "v2.1"}', "bad_index"),
    ],
)
def test_a_damaged_info_stops_the_set(tmp_path: Path, content: str, reason: str) -> None:
    root = write_lerobot(tmp_path / "toy")
    (root / "meta" / "info.json").write_text(content)
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(root))
    assert caught.value.reason == reason
    assert caught.value.where.endswith("info.json")
    assert caught.value.hint
    if reason == "unknown_version":
        assert "v2.0, v2.1, v3.0" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fps": 0}, "bad_index"),
        ({"fps": "fast"}, "bad_index"),
        ({"fps": None}, "bad_index"),
        ({"features": ["a"]}, "bad_index"),
        ({"chunks_size": -1}, "bad_index"),
        ({"total_episodes": 10**12}, "bad_index"),
        ({"total_episodes": "many"}, "bad_index"),
        ({"data_path": "../../{episode_index:06d}.parquet"}, "path_escape"),
        ({"video_path": "/etc/{video_key}"}, "path_escape"),
        ({"data_path": "{episode_index.__class__}"}, "bad_template"),
        ({"data_path": "{episode_index:>1000000000d}"}, "bad_template"),
        ({"data_path": "data/{secret}"}, "bad_template"),
        ({"data_path": 7}, "bad_template"),
    ],
)
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_an_info_that_makes_no_sense_stops_the_set(tmp_path: Path, version: str, changes: dict, reason: str) -> None:
    root = write_lerobot(tmp_path / "toy", version, **changes)
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(root))
    assert caught.value.reason == reason
    assert caught.value.hint


def test_counters_that_make_no_sense_fail_their_episode(tmp_path: Path) -> None:
    wrong = {"frame_index": pa.array([0, 1, 2, 1 << 62]), "timestamp": pa.array([[0.0, 1.0]] * 4)}
    for number, (name, values) in enumerate(wrong.items()):
        root = write_lerobot(tmp_path / str(number))
        rewrite(root / FIRST, **{name: values})
        with pytest.raises(CorruptEpisode, match=name):
            read(root)


@pytest.mark.parametrize(
    "content", ["", '{"episode_index": 0, "len', "7\n", '{"episode_index": -1, "length": 4}', "\xff"]
)
def test_a_damaged_episode_list_stops_the_set(tmp_path: Path, content: str) -> None:
    root = write_lerobot(tmp_path / "toy")
    (root / "meta" / "episodes.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(root))
    assert caught.value.where.endswith("episodes.jsonl")


def test_a_damaged_episode_table_stops_the_set(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", "v3.0")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    data = path.read_bytes()
    for content in (b"", data[:-9], b"PAR1" * 9):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"Parquet|empty"):
            SOURCE.refs(str(root))
    path.write_bytes(data)
    rewrite(path, length=None)
    with pytest.raises(SourceError, match="length"):
        SOURCE.refs(str(root))


def test_a_list_cut_at_a_line_is_noticed(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", lengths=(4, 3, 2))
    path = root / "meta" / "episodes.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    (root / "data/chunk-000/episode_000002.parquet").unlink()
    refs = SOURCE.refs(str(root))
    assert [ref.key for ref in refs] == ["episode_000000", "episode_000001", "episode_000002"]
    found = SOURCE.read(refs[1], FakeVideo(3), Limits())
    assert [finding.rule for finding in found.findings] == ["not_in_index"]
    assert found.instructions[0].text == "lift the cup"
    with pytest.raises(CorruptEpisode) as caught:
        SOURCE.read(refs[2], FakeVideo(), Limits())
    assert caught.value.reason == "not_in_index"


def test_stray_data_files_are_listed_and_fail(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    pq.write_table(pa.table({"x": [1]}), root / "data" / "notes.parquet")
    (root / "data" / "bare").write_bytes((root / FIRST).read_bytes())
    (root / "data" / "readme.txt").write_text("words")
    assert outcomes(root) == {"ok": 2, "rows": 7, "not_in_index": 2}


def test_a_file_without_suffix_is_pointed_at(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    (root / FIRST).rename(root / FIRST.removesuffix(".parquet"))
    with pytest.raises(MissingFile) as caught:
        read(root)
    assert "without suffix" in caught.value.hint


@pytest.mark.parametrize("version", VERSIONS)
def test_a_missing_video_fails_its_episode(tmp_path: Path, version: str) -> None:
    root = write_lerobot(tmp_path / "toy", version)
    videos = sorted((root / "videos").rglob("*.mp4"))
    videos[0].unlink()
    assert outcomes(root)["missing_file"] == (2 if version == "v3.0" else 1)
    for video in videos[1:]:
        video.unlink()
    assert outcomes(root) == {"missing_file": 2}  # no camera at all: pictures are the point


@pytest.mark.parametrize("images", [False, True])
def test_a_camera_without_any_file_is_absent_with_a_finding(tmp_path: Path, images: bool) -> None:
    root = write_lerobot(tmp_path / "toy", images=images)
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    edit_info(root, features=features | {"wrist": {"dtype": "video", "shape": [16, 16, 3]}})
    raw = read(root)
    assert [view.key for view in raw.views] == ["camera"]
    assert [(finding.rule, finding.where) for finding in raw.findings] == [("declared_camera_without_files", "wrist")]


def test_chunk_index_in_a_v2_template(tmp_path: Path) -> None:
    template = "videos/chunk-{chunk_index:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    assert outcomes(write_lerobot(tmp_path / "toy", video_path=template))["ok"] == 2


def test_missing_bookkeeping_is_no_fault(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    rewrite(root / FIRST, frame_index=None, task_index=None, index=None, timestamp=None)
    raw = read(root)
    np.testing.assert_array_equal(raw.streams[0].times_ns, np.arange(4) * 100_000_000)
    assert raw.streams[0].clock == "declared"


def test_recorded_times_stay_recorded(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    rewrite(root / FIRST, timestamp=pa.array([1.6e9, 1.6e9 + 0.125, 1.6e9 + 0.25, 1.6e9 + 0.5]))
    raw = read(root)
    np.testing.assert_array_equal(raw.streams[0].times_ns, [0, 125_000_000, 250_000_000, 500_000_000])
    assert raw.streams[0].clock == "source"


def test_dropped_frames_leave_a_hole_on_the_declared_grid(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", fps=30)
    frames = np.array([5, 6, 9, 10])
    rewrite(root / FIRST, frame_index=pa.array(frames), timestamp=pa.array((frames / 30).astype(np.float32)))
    raw = read(root)
    np.testing.assert_array_equal(raw.streams[0].times_ns, [0, 33_333_333, 133_333_333, 166_666_666])


def test_declared_times_survive_an_hour_of_float32(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", lengths=(108_000,), images=False, fps=30)
    raw = SOURCE.read(SOURCE.refs(str(root))[0], FakeVideo(1), Limits())
    assert raw.streams[0].clock == "source"  # written at 10 Hz
    rewrite(root / FIRST, timestamp=pa.array((np.arange(108_000) / 30).astype(np.float32)))
    raw = SOURCE.read(SOURCE.refs(str(root))[0], FakeVideo(1), Limits())
    assert raw.streams[0].clock == "declared"
    assert raw.streams[0].times_ns[-1] == 107_999 * 1_000_000_000 // 30


def test_tasks_with_spans(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    lines = [{"task_index": i, "task": text} for i, text in enumerate(["lift\u2028it", "drop"])]
    (root / "meta" / "tasks.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    path = root / "meta" / "episodes.jsonl"
    path.write_text(path.read_text().replace('["lift the cup"]', '["lift\u2028it", "drop", "valid"]'))
    rewrite(root / FIRST, task_index=pa.array([0, 0, 1, 1]))
    found = [(i.text, i.start_ns, i.stop_ns) for i in read(root).instructions]
    assert found == [("lift\u2028it", 0, 200_000_000), ("drop", 200_000_000, 300_000_001), ("valid", None, None)]


@pytest.mark.parametrize(
    "tasks",
    [
        {"task_index": pa.array([0]), "__index_level_0__": pa.array(["lift the cup"])},
        {"task_index": pa.array([0.0]), "task": pa.array(["lift the cup"]).dictionary_encode()},
    ],
)
def test_forms_of_the_task_table(tmp_path: Path, tasks: dict) -> None:
    root = write_lerobot(tmp_path / "toy", "v3.0")
    pq.write_table(pa.table(tasks), root / "meta" / "tasks.parquet")
    rewrite(root / "meta/episodes/chunk-000/file-000.parquet", tasks=None)
    assert [instruction.text for instruction in read(root).instructions] == ["lift the cup"]


def test_text_columns_are_instructions(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    rewrite(root / FIRST, language=pa.array(["a", "a", "b", "b"]))
    raw = read(root)
    assert [(i.text, i.field, i.start_ns) for i in raw.instructions] == [
        ("lift the cup", "task", None), ("a", "language", 0), ("b", "language", 200_000_000),
    ]  # fmt: skip
    assert [finding.rule for finding in raw.findings] == ["undeclared_column"]


NESTED = pa.array([[{"role": "user"}]] * 4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"action": None}, "missing_column"),
        ({"action": pa.array([[1.0], [1.0, 2.0], [1.0], [1.0]])}, "ragged"),
        ({"action": pa.array([[1.0, 2.0], None, [1.0, 2.0], [1.0, 2.0]])}, "null_values"),
        ({"action": pa.array([[1.0, None]] * 4)}, "null_values"),
        ({"action": pa.array([[1.0, 2.0, 3.0]] * 4)}, "wrong_shape"),
        ({"timestamp": pa.array([0.0, float("nan"), 0.2, 0.3])}, "bad_times"),
        ({"timestamp": pa.array([0.0, 0.1, 0.2, 1e300])}, "bad_times"),
    ],
)
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_rows_that_contradict_the_index(tmp_path: Path, version: str, changes: dict, reason: str) -> None:
    root = write_lerobot(tmp_path / "toy", version, (4,))
    path = root / ("data/chunk-000/file-000.parquet" if version == "v3.0" else FIRST)
    rewrite(path, **changes)
    with pytest.raises(CorruptEpisode) as caught:
        read(root)
    assert caught.value.reason == reason
    assert caught.value.hint


def test_columns_without_a_place_are_told(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    rewrite(root / FIRST, chat=NESTED)
    rules = {(finding.rule, finding.where) for finding in read(root).findings}
    assert ("column_left_out", "chat") in rules


@pytest.mark.parametrize("image", [b"", b"GIF89a"])
def test_bad_pictures_are_named_by_step(tmp_path: Path, image: bytes) -> None:
    root = write_lerobot(tmp_path / "toy", images=True)
    good = lerobot_rows(0, 0, 4, images=True)["camera"].to_pylist()
    good[2]["bytes"] = image
    rewrite(root / FIRST, camera=pa.array(good, pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
    with pytest.raises(CorruptEpisode, match="picture 2 of 4"):
        read(root)


def test_pictures_by_path_stay_inside(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", images=True)
    rows = lerobot_rows(0, 0, 4, images=True)["camera"].to_pylist()
    (root / "one.png").write_bytes(rows[0]["bytes"])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rewrite(root / FIRST, camera=pa.array([{"bytes": None, "path": "one.png"}] * 4, kind))
    assert read(root).views[0].num_frames == 4
    rewrite(root / FIRST, camera=pa.array([{"bytes": None, "path": "../secret.png"}] * 4, kind))
    with pytest.raises(CorruptEpisode) as caught:
        read(root)
    assert caught.value.reason == "path_escape"


def test_row_counts_are_compared(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    pq.write_table(pa.table(lerobot_rows(0, 0, 3)), root / FIRST)
    with pytest.raises(CorruptEpisode, match=r"says 4 rows.* holds 3") as caught:
        read(root)
    assert caught.value.reason == "length_mismatch"


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("length", [4, 2], "dataset_from_index 4 to dataset_to_index 7"),
        ("dataset_to_index", [4, 9], "dataset_from_index 4 to dataset_to_index 9"),
        ("dataset_from_index", [0, 2], "dataset_from_index 2"),
    ],
)
def test_v3_spans_are_compared(tmp_path: Path, column: str, values: list[int], message: str) -> None:
    root = write_lerobot(tmp_path / "toy", "v3.0")
    rewrite(root / "meta/episodes/chunk-000/file-000.parquet", **{column: pa.array(values)})
    assert outcomes(root) == {"ok": 1, "rows": 4, "length_mismatch": 1}
    with pytest.raises(CorruptEpisode, match=message):
        read(root, 1)


def test_v3_spans_that_overlap_are_noticed(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", "v3.0")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rewrite(path, dataset_from_index=pa.array([0, 3]), dataset_to_index=pa.array([4, 6]))
    with pytest.raises(CorruptEpisode, match="rows 3 to 6 of the set, its own rows say 4 to 7"):
        read(root, 1)


def test_v3_wrong_file_index(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", "v3.0")
    rewrite(root / "meta/episodes/chunk-000/file-000.parquet", **{"data/file_index": pa.array([0, 7])})
    assert outcomes(root) == {"ok": 1, "rows": 4, "missing_file": 1}


def test_damaged_parquet_fails_one_episode_and_never_reads_wrong(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    path = root / FIRST
    data = path.read_bytes()
    truth = read(root).episode_id
    found: Counter[str] = Counter()
    for position in [*range(4, len(data), 13), -1]:
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            raw = read(root)
            # a damaged name in the footer makes a counter an unknown column, which a finding tells
            found["same" if raw.episode_id == truth else "told" if raw.findings else "wrong"] += 1
        except CorruptEpisode as error:
            found[error.reason] += 1
    assert found["corrupt_parquet"] > 10
    assert found["wrong"] == 0
    for cut in (0, 3, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        assert outcomes(root) == {"ok": 1, "rows": 3, "corrupt_parquet": 1}


def test_an_empty_episode_is_said_to_be_empty(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", "v2.1", (4, 0))
    assert outcomes(root) == {"ok": 1, "rows": 4, "empty": 1}


def test_a_small_file_that_unfolds_hugely_is_stopped(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    rewrite(root / FIRST, joke=pa.array([b"\x89PNG" + bytes(1_000_000)] * 4))
    with pytest.raises(CorruptEpisode) as caught:
        read(root, limits=Limits(max_record_bytes=3_000_000))
    assert caught.value.reason == "too_large"
    with pytest.raises(CorruptEpisode) as caught:
        read(root, limits=Limits(max_record_bytes=1000))
    assert caught.value.reason == "too_large"
    with pytest.raises(CorruptEpisode) as caught:
        read(root, limits=Limits(max_video_bytes=5))
    assert caught.value.reason == "too_large"


def test_links_out_of_the_set_are_refused(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy")
    outside = tmp_path / "secret.parquet"
    (root / FIRST).rename(outside)
    (root / FIRST).symlink_to(outside)
    with pytest.raises(CorruptEpisode) as caught:
        read(root)
    assert caught.value.reason == "path_escape"


def test_hostile_camera_names_are_refused(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "toy", images=True)
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    key = "../../../secret"
    edit_info(root, features=features | {key: {"dtype": "video", "shape": [1, 1, 3]}})
    (root / "videos" / "chunk-000").mkdir(parents=True)
    for index in range(2):
        path = root / "videos" / "chunk-000" / key / f"episode_{index:06d}.mp4"
        path.resolve().parent.mkdir(exist_ok=True)
        path.resolve().write_bytes(b"secret")
    assert outcomes(root) == {"path_escape": 2}


@pytest.mark.real
def test_g1_recordings() -> None:
    root = real_data("g1_lerobot_v21_subset")
    lengths = [json.loads(line)["length"] for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    there = [int(path.stem.removeprefix("episode_")) for path in (root / "videos").rglob("*.mp4")]
    assert len(there) == 8
    with VideoTools(Limits()) as video:
        found = outcomes(root, video)
    assert found == {"ok": 8, "missing_file": 92, "rows": sum(lengths[index] for index in there)}


@pytest.mark.real
def test_gr1_recordings() -> None:
    root = real_data("gr00t_gr1_sim_lerobot_v2")
    with VideoTools(Limits()) as video:
        assert outcomes(root, video) == {"ok": 5, "rows": 2096}
        raw = SOURCE.read(SOURCE.refs(str(root))[0], video, Limits())
    assert [instruction.text for instruction in raw.instructions][1] == "valid"
    assert [finding.where for finding in raw.findings] == ["observation.images.egoview"]
    (view,) = raw.views
    assert (view.codec, view.how, view.num_frames) == ("h264", "copied", 416)
    path = root / "videos/chunk-000/observation.images.ego_view/episode_000000.mp4"
    assert view.data == path.read_bytes()
    np.testing.assert_array_equal(view.times_ns[:3], [0, 50_000_000, 100_000_000])


@pytest.mark.real
def test_so101_recordings_have_no_rows() -> None:
    assert outcomes(real_data("so101_chess_lerobot_v21_partial")) == {"missing_file": 5}


@pytest.mark.real
def test_v3_slices() -> None:
    root = real_data("lerobot_v3_slices")
    found = {Path(place).name: outcomes(place) for place in SOURCE.datasets(str(root))}
    assert found == {
        "pusht_image_slice": {"ok": 3, "rows": 420},
        "pusht_slice": {"missing_file": 3},
        "data_editing_slice": {"missing_file": 2},
    }


@pytest.mark.real
@pytest.mark.parametrize(("name", "expected"), [("lerobotv2", "lerobotv2"), ("lerobotv3", "lerobotv3")])
def test_studio_sets_as_their_makers_expect(name: str, expected: str) -> None:
    folder = real_data("lerobot_studio_fixtures")
    facts = json.loads((folder / "expected" / f"{expected}.expected.json").read_text())
    root = folder / "datasets" / name
    refs = SOURCE.refs(str(root))
    assert len(refs) == facts["episodeCount"]
    with VideoTools(Limits()) as video:
        raws = [SOURCE.read(ref, video, Limits()) for ref in refs]
    assert [dict(raw.attributes)["episode_index"] for raw in raws] == [0, 1]
    assert sum(len(raw.streams[0].values) for raw in raws) == facts["totalEpisodeLength"]
    assert {instruction.text for raw in raws for instruction in raw.instructions} == set(facts["taskValues"])
    assert {ref.version for ref in refs} == {facts["version"]}
    places = [json.loads(ref.detail("episode")) for ref in refs]
    assert [place["data"] for place in places] == [facts["firstDataPath"], facts["lastDataPath"]]
    assert [list(place["videos"].values()) for place in places] == [[facts["firstVideoPath"]], [facts["lastVideoPath"]]]


@pytest.mark.real
def test_studio_images_and_invalid_sets() -> None:
    folder = real_data("lerobot_studio_fixtures")
    assert outcomes(folder / "datasets" / "lerobotv2-image") == {"ok": 2, "rows": 6}
    for place in SOURCE.datasets(str(folder / "invalid")):
        with pytest.raises(SourceError) as caught:
            SOURCE.refs(place)
        assert caught.value.reason == "missing_index"
