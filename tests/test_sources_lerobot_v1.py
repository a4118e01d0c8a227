"""LeRobot version 1: values, clocks and frames come back from every way a set lies, and damage is told where it is."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines import barcode, registry
from pipelines.cards import load_pair
from pipelines.channels import to_episode
from pipelines.ingest_unit import recognize
from pipelines.sources.lerobot_v1 import SOURCE
from pipelines.video import VideoTools
from schemas.episode import RawEpisode
from schemas.errors import CorruptEpisode, MissingFile, SourceError, WamloomError
from schemas.recipes import Limits
from tests.clips import encode, pictures
from tests.fake_video import FakeVideo
from tests.recorded_lerobot_v1 import CAMERA, FPS, film_name, rows, write_index, write_lerobot_v1

TABLE = "train/data-00000-of-00001.arrow"


def read(root: Path | str, index: int = 0, video: VideoTools | None = None, limits: Limits | None = None) -> RawEpisode:
    return SOURCE.read(SOURCE.refs(str(root))[index], video or FakeVideo(4), limits or Limits())


def outcomes(root: Path) -> list[str]:
    found = []
    for ref in SOURCE.refs(str(root)):
        length = json.loads(ref.detail("episode"))
        try:
            SOURCE.read(ref, FakeVideo(length["stop"] - length["start"]), Limits())
            found.append("ok")
        except (CorruptEpisode, MissingFile) as error:
            found.append(error.reason if error.hint and error.where else "no hint")
    return found


def frames_of(key: str, seconds: np.ndarray, path: str = film_name(0)) -> dict[str, Any]:
    return {key: [{"path": path, "timestamp": float(second)} for second in seconds]}


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize(("parquet", "shards"), [(False, 1), (False, 3), (True, 1), (True, 3)])
def test_values_clocks_and_pictures_come_back(tmp_path: Path, parquet: bool, shards: int, images: bool) -> None:
    root = write_lerobot_v1(tmp_path / "toy", (4, 3), images, shards, parquet)
    refs = SOURCE.refs(str(root))
    assert [(ref.key, ref.split, ref.version, ref.dataset) for ref in refs] == [
        ("episode_000000", "train", "v1.6", "toy"),
        ("episode_000001", "train", "v1.6", "toy"),
    ]
    video = FakeVideo(3)
    raw = SOURCE.read(refs[1], video, Limits())
    assert [(s.name, s.values.dtype.str, s.values.shape, s.clock) for s in raw.streams] == [
        ("action", "<f4", (3, 2), "declared"),
        ("next.done", "|b1", (3,), "declared"),
        ("next.reward", "<f4", (3,), "declared"),
        ("next.success", "|b1", (3,), "declared"),
        ("observation.state", "<f4", (3, 2), "declared"),
    ]
    written = rows((4, 3), images)
    for stream in raw.streams:
        np.testing.assert_array_equal(stream.values, written[stream.name][4:])
        np.testing.assert_array_equal(stream.times_ns, [0, 100_000_000, 200_000_000])
    assert raw.declared_rate == Fraction(10)
    assert raw.instructions == raw.findings == ()
    (view,) = raw.views
    np.testing.assert_array_equal(view.times_ns, [0, 100_000_000, 200_000_000])
    if images:
        assert video.packed == [[one["bytes"] for one in written[CAMERA][4:]]]
    else:
        assert view.data == b"episode 1"
        assert ("encoding/vcodec", "libsvtav1") in raw.attributes
    assert ("episode_index", 1) in raw.attributes


@pytest.mark.parametrize("images", [False, True])
def test_content_not_place_is_identity(tmp_path: Path, images: bool) -> None:
    places = [
        write_lerobot_v1(tmp_path / f"{parquet}{shards}" / "toy", (4, 3), images, shards, parquet)
        for parquet, shards in ((False, 1), (False, 2), (True, 2))
    ]
    fsspec.filesystem("memory").put(str(places[0]), f"/lerobot-v1-{images}/toy", recursive=True)
    raws = [read(place) for place in (*places, f"memory://lerobot-v1-{images}/toy")]
    assert len({(raw.episode_id, raw.source_sha256) for raw in raws}) == 1


def test_frame_i_of_the_video_is_row_i(tmp_path: Path) -> None:
    lengths = (12, 30)
    films = [encode("h264", pictures(length, tag=tag), rate=FPS) for tag, length in enumerate(lengths)]
    root = write_lerobot_v1(tmp_path / "toy", lengths, films=films, shards=2)
    with VideoTools(Limits()) as video:
        for index, length in enumerate(lengths):
            raw = read(root, index, video)
            (view,) = raw.views
            np.testing.assert_array_equal(view.times_ns, raw.streams[0].times_ns)
            shown = np.concatenate(list(video.decode(view, "toy")))
            assert [barcode.read_mark(frame) for frame in shown] == [barcode.Mark(t, index) for t in range(length)]
            assert raw.findings == ()


def test_exactly_one_source_claims_a_set(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "owner" / "toy")
    claims = {name: registry.load("sources", name).SOURCE.datasets(str(tmp_path)) for name in registry.names("sources")}
    assert {name: found for name, found in claims.items() if found} == {"lerobot_v1": [str(root)]}
    (root / "meta").mkdir()
    (root / "meta" / "info.json").write_text("{}")
    claims = {name: registry.load("sources", name).SOURCE.datasets(str(tmp_path)) for name in registry.names("sources")}
    assert {name: found for name, found in claims.items() if found} == {"lerobot": [str(root)]}, "it was converted"


def test_push_t_maps_by_its_card(tmp_path: Path) -> None:
    raw = read(write_lerobot_v1(tmp_path / "pusht"))
    card, _ = recognize(raw)
    assert card.name == "pusht_v1"
    episode = to_episode(raw, *load_pair(card.name))
    np.testing.assert_array_equal(episode.action.values, rows((4, 3), False)["action"][:4])
    assert episode.control_rate == 10
    assert episode.success is True
    assert list(episode.views) == ["primary"]


def test_recorded_times_are_the_clock_and_frames_keep_their_own(tmp_path: Path) -> None:
    seconds = np.array([0, 0.11, 0.19, 0.33])
    columns = {"timestamp": seconds.astype(np.float32)} | frames_of(CAMERA, np.arange(4) / FPS)
    raw = read(write_lerobot_v1(tmp_path / "uneven", (4,), columns=columns))
    assert raw.streams[0].clock == "source"
    expected = np.rint(seconds.astype(np.float32).astype(np.float64) * 1e9).astype(np.int64)
    np.testing.assert_array_equal(raw.streams[0].times_ns, expected)
    np.testing.assert_array_equal(raw.views[0].times_ns, expected)
    # a video that began two frames before the first row, and goes on after the last
    root = write_lerobot_v1(tmp_path / "longer", (4,), columns=frames_of(CAMERA, (np.arange(4) + 2) / FPS))
    raw = read(root, video=FakeVideo(8))
    np.testing.assert_array_equal(raw.views[0].times_ns, (np.arange(8) - 2) * 100_000_000)
    assert raw.findings == ()


@pytest.mark.parametrize(
    ("moments", "frames", "first"), [((0, 1, 2, 3), 2, 2), ((0, 1, 3, 4), 6, 2), ((0, 1, 2, 9), 4, 3)]
)
def test_a_video_that_does_not_fit_its_rows_is_told(tmp_path: Path, moments: tuple, frames: int, first: int) -> None:
    root = write_lerobot_v1(tmp_path / "toy", (4,), columns=frames_of(CAMERA, np.array(moments) / FPS))
    raw = read(root, video=FakeVideo(frames))
    assert [(one.rule, one.where, one.index) for one in raw.findings] == [("frame_times_disagree", CAMERA, first)]
    assert raw.views[0].num_frames == frames


def test_language_is_a_column_of_its_own(tmp_path: Path) -> None:
    texts = ["lift the cup"] * 4 + ["push"] * 2 + ["tf.Tensor(b'pull', shape=(), dtype=string)"]
    root = write_lerobot_v1(tmp_path / "toy", columns={"language_instruction": texts})
    assert [(one.text, one.field, one.start_ns) for one in read(root).instructions] == [
        ("lift the cup", "language_instruction", None)
    ]
    raw = read(root, 1, FakeVideo(3))
    assert [(one.text, one.start_ns, one.stop_ns) for one in raw.instructions] == [
        ("push", 0, 200_000_000),
        (texts[-1], 200_000_000, 200_000_001),
    ]
    assert [one.rule for one in raw.findings] == ["printed_tensor"]


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"codebase_version": "v2.0"}, "unknown_version"),
        ({"codebase_version": "v10"}, "unknown_version"),
        ({"fps": None}, "bad_index"),
        ({"fps": True}, "bad_index"),
        ({"fps": "../.."}, "bad_index"),
    ],
)
def test_an_info_that_makes_no_sense_stops_the_set(tmp_path: Path, info: dict, reason: str) -> None:
    root = write_lerobot_v1(tmp_path / "toy", **info)
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(root))
    assert (caught.value.reason, bool(caught.value.hint)) == (reason, True)
    assert caught.value.where.endswith("info.json")


def test_sets_older_than_the_version_mark_are_read(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy", codebase_version=None)
    assert [ref.version for ref in SOURCE.refs(str(root))] == ["v1", "v1"]
    assert outcomes(root) == ["ok", "ok"]


@pytest.mark.parametrize(
    ("starts", "stops", "kind"),
    [
        ([0, 3], [4, 7], np.int64),
        ([0, 4], [4, 3], np.int64),
        ([-1, 4], [4, 7], np.int64),
        ([0, 4, 7], [4, 7], np.int64),
        ([[0, 4]], [[4, 7]], np.int64),
        ([0, 4], [4, 7], np.float32),
        ([0, 1 << 62], [4, -(1 << 62)], np.int64),
    ],
)
def test_an_index_that_does_not_rise_stops_the_set(tmp_path: Path, starts: Any, stops: Any, kind: Any) -> None:
    root = write_lerobot_v1(tmp_path / "toy")
    write_index(root, starts, stops, kind)
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(root))
    assert caught.value.reason == "bad_index"
    assert caught.value.where.endswith("episode_data_index.safetensors")


def test_a_damaged_or_missing_index_stops_the_set(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy")
    path = root / "meta_data" / "episode_data_index.safetensors"
    data = path.read_bytes()
    for content in (b"", data[:20], data[:-1], b"\xff" * 64, (1 << 62).to_bytes(8, "little") + data[8:]):
        path.write_bytes(content)
        with pytest.raises(SourceError, match="safetensors"):
            SOURCE.refs(str(root))
    path.unlink()
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(root))
    assert caught.value.reason == "missing_index"


@pytest.mark.parametrize(
    ("starts", "stops", "expected"),
    [
        ([0, 4], [4, 7], ["ok", "ok"]),
        ([0, 4, 7], [4, 7, 9], ["ok", "ok", "length_mismatch"]),
        ([0, 4], [4, 1 << 60], ["ok", "length_mismatch"]),
        ([0, 4], [4, 6], ["ok", "length_mismatch"]),
        ([0, 3], [3, 7], ["length_mismatch", "length_mismatch"]),
        ([0, 5], [5, 7], ["length_mismatch", "length_mismatch"]),
        ([0, 4, 4], [4, 4, 7], ["ok", "empty", "ok"]),
        ([0, 0], [0, 7], ["empty", "length_mismatch"]),
        ([4], [7], ["ok", "not_in_index"]),
        ([], [], []),
    ],
)
def test_the_index_is_counted_against_the_rows(tmp_path: Path, starts: list, stops: list, expected: list[str]) -> None:
    root = write_lerobot_v1(tmp_path / "toy")
    write_index(root, starts, stops)
    assert outcomes(root) == expected


def test_rows_behind_the_index_are_told(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy")
    write_index(root, [0], [4])
    (finding,) = read(root).findings
    assert (finding.rule, finding.numbers) == ("rows_not_in_index", (("num_rows", 3.0),))


def test_a_cut_table_costs_the_episodes_behind_the_cut(tmp_path: Path) -> None:
    lengths = (600, 700, 900)  # two batches of 1000 rows, and 200 more
    root = write_lerobot_v1(tmp_path / "toy", lengths)
    path = root / TABLE
    data = path.read_bytes()
    for keep, expected in (
        (len(data) - 8, ["ok", "ok", "ok"]),  # every row is there, only the end is not
        (len(data) - 30, ["ok", "ok", "corrupt_arrow"]),
        (len(data) * 6 // 10, ["ok", "corrupt_arrow", "corrupt_arrow"]),
        (100, ["corrupt_arrow"] * 3),
        (0, ["corrupt_arrow"] * 3),
    ):
        path.write_bytes(data[:keep])
        assert outcomes(root) == expected, keep
    path.unlink()
    assert outcomes(root) == ["missing_file"] * 3


@pytest.mark.parametrize("parquet", [False, True])
def test_a_missing_shard_shifts_no_rows(tmp_path: Path, parquet: bool) -> None:
    root = write_lerobot_v1(tmp_path / "toy", (4, 4, 4), shards=3, parquet=parquet)
    state = root / "train" / "state.json"
    state.unlink(missing_ok=True)
    assert outcomes(root) == ["ok"] * 3
    next(root.glob("*/*-00001-of-00003.*")).unlink()
    assert outcomes(root) == ["ok", "missing_file", "missing_file"]


def test_a_shard_that_ends_early_shifts_no_rows(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy", (4, 4), shards=2)
    path = root / "train" / "data-00000-of-00002.arrow"
    table = pa.ipc.open_stream(path.read_bytes()).read_all().slice(0, 2)
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)
    assert outcomes(root) == ["length_mismatch", "length_mismatch"]


def test_damaged_bytes_give_an_outcome_and_never_a_crash(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy", images=True)
    path = root / TABLE
    data = path.read_bytes()
    draws = np.random.default_rng(0)
    seen = set()
    for _ in range(150):
        damaged = bytearray(data)
        for place in draws.integers(0, len(data), 4):
            damaged[place] = draws.integers(0, 256)
        path.write_bytes(damaged)
        seen |= set(outcomes(root))
    assert "corrupt_arrow" in seen


def test_a_table_that_unfolds_is_refused(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy", images=True)
    path = root / TABLE
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    table = table.append_column("zeros", pa.array([bytes(1 << 20)] * table.num_rows))
    with pa.ipc.new_stream(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(table)
    assert outcomes(root) == ["corrupt_arrow"] * 2
    with pytest.raises(CorruptEpisode, match="allowed") as caught:
        read(write_lerobot_v1(tmp_path / "large"), limits=Limits(max_record_bytes=100))
    assert caught.value.reason == "too_large"


def test_columns_that_are_not_what_they_are_called_fail(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy")
    path = root / TABLE
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    for changed, reason in (
        (table.drop_columns("episode_index"), "missing_column"),
        (table.append_column("action", table["action"]), "duplicate_column"),
        (table.set_column(0, "episode_index", table["action"]), "duplicate_column"),
        (table.drop_columns("index").append_column("index", table["action"]), "wrong_shape"),
        (table.drop_columns("index").append_column("index", pa.array(["a"] * 7)), "wrong_shape"),
    ):
        with pa.ipc.new_stream(path, changed.schema) as stream:
            stream.write_table(changed)
        assert outcomes(root) == [reason] * 2


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../secret.mp4", "path_escape"),
        ("/etc/passwd", "path_escape"),
        ("https://example.org/a.mp4", "path_escape"),
        ("videos/link.mp4", "path_escape"),
        ("videos/other.mp4", "missing_file"),
        ("", "missing_file"),
        (None, "bad_video_column"),
    ],
)
def test_a_path_in_the_rows_never_leaves_the_set(tmp_path: Path, path: str | None, reason: str) -> None:
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    columns = {CAMERA: [{"path": path, "timestamp": step / FPS} for step in range(4)]}
    root = write_lerobot_v1(tmp_path / "toy", (4,), columns=columns)
    (root / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(WamloomError) as caught:
        read(root)
    assert caught.value.reason == reason


def test_a_name_in_state_json_never_leaves_the_set(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy")
    for files in ([{"filename": "../../secret.arrow"}], [], ["a"], 7, [{"filename": 3}], None):
        (root / "train" / "state.json").write_text(json.dumps({"_data_files": files}))
        with pytest.raises(SourceError) as caught:
            SOURCE.refs(str(root))
        assert caught.value.reason in ("path_escape", "bad_index")


def test_what_is_missing_or_changed_is_told(tmp_path: Path) -> None:
    root = write_lerobot_v1(tmp_path / "toy")
    ref = SOURCE.refs(str(root))[0]
    (root / film_name(1)).unlink()
    assert outcomes(root) == ["ok", "missing_file"]
    (root / film_name(0)).write_bytes(b"another video")
    with pytest.raises(CorruptEpisode, match="changed"):
        SOURCE.read(ref, FakeVideo(4), Limits())
    mixed = frames_of(CAMERA, np.arange(7) / FPS)
    mixed[CAMERA][2]["path"] = film_name(1)
    assert outcomes(write_lerobot_v1(tmp_path / "mixed", columns=mixed))[0] == "bad_video_column"
    wild = frames_of(CAMERA, np.array([0, np.nan, 0.2, 0.3]))
    assert outcomes(write_lerobot_v1(tmp_path / "wild", (4,), columns=wild)) == ["bad_times"]
