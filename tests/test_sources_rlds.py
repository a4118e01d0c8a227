import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.rlds import SOURCE
from pipelines.tfrecord import read_payload, scan_shard
from schemas.episode import EpisodeRef, RawEpisode
from schemas.errors import CorruptEpisode, MissingFile, SourceError
from schemas.recipes import Limits
from tests.fake_video import FakeVideo
from tests.real import real_data
from tests.recorded import (
    STEPS,
    example,
    frame_record,
    picture,
    rlds_episode,
    sequence,
    table,
    tensor,
    write_rlds,
)


def read(ref: EpisodeRef, limits: Limits | None = None) -> RawEpisode:
    return SOURCE.read(ref, FakeVideo(), limits or Limits())


def records(*numbers: int) -> list[bytes]:
    return [example(rlds_episode(number)) for number in numbers]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_rlds(tmp_path, {"train": [records(0, 1, 2), records(3)], "val": [records(4)]})


def shard(folder: Path, index: int = 0) -> Path:
    return folder / f"toy-train.tfrecord-{index:05d}-of-00002"


def failures(refs: list[EpisodeRef]) -> dict[str, str]:
    found = {}
    for ref in refs:
        try:
            read(ref)
        except (CorruptEpisode, MissingFile) as error:
            found[ref.key] = error.reason if error.hint else "no hint"
    return found


def one(tmp_path: Path, features: dict | None = None, **changes: object) -> EpisodeRef:
    root = write_rlds(tmp_path, {"train": [[example(rlds_episode(0, **changes))]]}, features)
    (ref,) = SOURCE.refs(str(root))
    return ref


def test_values_come_back_under_their_paths(folder: Path) -> None:
    refs = SOURCE.refs(str(folder))
    assert [ref.key for ref in refs] == [
        "train/00000/000000", "train/00000/000001", "train/00000/000002", "train/00001/000000", "val/00000/000000",
    ]  # fmt: skip
    video = FakeVideo()
    raw = SOURCE.read(refs[1], video, Limits())
    expected = rlds_episode(1)
    state, action = raw.stream("observation/state"), raw.stream("action")
    assert state is not None
    assert action is not None
    np.testing.assert_array_equal(state.values, expected["steps/observation/state"])
    assert state.values.dtype == np.float32
    assert action.values.dtype == np.float64  # as declared, though stored as 32 bits
    np.testing.assert_array_equal(action.values, expected["steps/action"])
    assert video.packed == [expected["steps/observation/image_0"]]
    assert raw.declared_rate is None
    np.testing.assert_array_equal(state.times_ns, np.arange(4))
    np.testing.assert_array_equal(raw.views[0].times_ns, np.arange(4))
    assert [(i.text, i.field, i.start_ns) for i in raw.instructions] == [("lift the cup", "language_instruction", None)]
    assert dict(raw.attributes)["episode_metadata/file_path"] == "/raw/1"
    assert raw.findings == ()
    assert raw.ref.split == "train"


@pytest.mark.parametrize("at", ["", "toy", "toy/1.0.0"])
def test_sets_are_found_from_above(folder: Path, at: str) -> None:
    root = folder.parent.parent
    assert SOURCE.datasets(str(root / at)) == [str(folder)]
    for name in ("features.json", "dataset_info.json"):
        (folder / name).unlink()
    assert SOURCE.datasets(str(root / at)) == [str(folder)]
    assert SOURCE.datasets(str(root / "nothing")) == []


def test_changing_language_has_spans(tmp_path: Path) -> None:
    raw = read(one(tmp_path, steps__language_instruction=[b"a", b"a", b"b", b"a"]))
    assert [(i.text, i.start_ns, i.stop_ns) for i in raw.instructions] == [("a", 0, 2), ("b", 2, 3), ("a", 3, 4)]


def test_language_as_code_points(tmp_path: Path) -> None:
    codes = np.array([[*map(ord, "push"), 0, 0]] * 4)
    steps = table(**STEPS["featuresDict"]["features"], instruction=tensor("int32", 6))
    raw = read(one(tmp_path, table(steps=sequence(steps)), steps__instruction=codes))
    assert "push" in [instruction.text for instruction in raw.instructions]


def test_broken_text_is_told_and_kept(tmp_path: Path) -> None:
    raw = read(one(tmp_path, steps__language_instruction=[b"caf\xe9"] * 4))
    assert [finding.rule for finding in raw.findings] == ["undecodable_text"]
    assert raw.instructions[0].text == "caf\ufffd"


def test_compressed_tensors_ragged_and_fixed_sequences(tmp_path: Path) -> None:
    depth = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    steps = table(
        is_first=tensor("bool"),
        depth=tensor("float32", 2, 3, encoding="zlib"),
        plain=tensor("float32", 2, 3, encoding="bytes"),
        even=sequence(tensor("int64")),
        uneven=sequence(tensor("int64")),
        triple=sequence(tensor("float32", 2), 3),
        none=tensor("float32", 0),
    )
    ref = one(
        tmp_path,
        table(steps=sequence(steps)),
        **{key: None for key in rlds_episode(0) if key != "steps/is_first"},
        steps__depth=[zlib.compress(row.tobytes()) for row in depth],
        steps__plain=[row.tobytes() for row in depth],
        steps__even__ragged_flat_values=np.arange(8),
        steps__even__ragged_row_lengths_0=np.full(4, 2),
        steps__uneven__ragged_flat_values=np.arange(4),
        steps__uneven__ragged_row_lengths_0=np.array([1, 3, 0, 0]),
        steps__triple=np.arange(24, dtype=np.float32),
        steps__none=np.zeros(0, np.float32),
    )
    raw = read(ref)
    shapes = {stream.name: stream.values.shape for stream in raw.streams}
    assert shapes == {
        "is_first": (4,), "depth": (4, 2, 3), "plain": (4, 2, 3), "even": (4, 2), "triple": (4, 3, 2), "none": (4, 0),
    }  # fmt: skip
    np.testing.assert_array_equal(raw.stream("depth").values, depth)  # type: ignore[union-attr]
    np.testing.assert_array_equal(raw.stream("plain").values, depth)  # type: ignore[union-attr]
    assert [(finding.rule, finding.where) for finding in raw.findings] == [("feature_left_out", "uneven")]


def test_a_compression_bomb_is_not_inflated(tmp_path: Path) -> None:
    steps = table(is_first=tensor("bool"), depth=tensor("uint8", 2, encoding="zlib"))
    bomb = zlib.compress(bytes(50_000_000))
    changes = {key: None for key in rlds_episode(0) if key != "steps/is_first"}
    ref = one(tmp_path, table(steps=sequence(steps)), **changes, steps__depth=[bomb] * 4)
    with pytest.raises(CorruptEpisode, match="has 3 bytes"):
        read(ref)


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"steps__observation__image_0": [picture(0)] * 3}, "length_mismatch", "4 steps.*image_0 has 3"),
        ({"steps__observation__image_0": [picture(0), b"", picture(0), picture(0)]}, "bad_image", "picture 1 of 4"),
        ({"steps__observation__image_0": [b"GIF89a"] * 4}, "bad_image", "neither JPEG nor PNG"),
        ({"steps__observation__state": np.zeros(11, np.float32)}, "wrong_shape", "11 values"),
        ({"steps__observation__state": np.zeros(9, np.float32)}, "length_mismatch", "state has 3"),
        ({"steps__observation__state": np.zeros(12, np.int64)}, "wrong_type", "int64_list"),
        ({"steps__action": None}, "missing_feature", "steps/action"),
        ({key.replace("/", "__"): [] for key in rlds_episode(0) if "steps/" in key}, "empty", "no steps"),
    ],
)
def test_records_that_contradict_features(tmp_path: Path, changes: dict, reason: str, message: str) -> None:
    with pytest.raises(CorruptEpisode, match=message) as caught:
        read(one(tmp_path, **changes))
    assert caught.value.reason == reason
    assert "record 0" in caught.value.where


def test_undeclared_features_are_told(tmp_path: Path) -> None:
    raw = read(one(tmp_path, steps__extra=np.zeros(4)))
    assert [(finding.rule, finding.where) for finding in raw.findings] == [("undeclared_feature", "steps/extra")]


def test_flags_that_deny_pictures_and_ends(tmp_path: Path) -> None:
    raw = read(one(tmp_path, episode_metadata__has_image_0=np.array([False]), steps__is_last=np.zeros(4, bool)))
    assert {finding.rule for finding in raw.findings} == {"flag_denies_picture", "last_step_not_marked"}
    same = read(
        one(
            tmp_path / "b",
            episode_metadata__has_image_0=np.array([False]),
            steps__observation__image_0=[picture(0)] * 4,
        )
    )
    assert same.findings == ()  # one picture throughout is the placeholder the flag speaks of


def test_a_flipped_payload_bit_fails_one_record(folder: Path) -> None:
    data = bytearray(shard(folder).read_bytes())
    data[len(data) // 2] ^= 4
    shard(folder).write_bytes(data)
    assert failures(list(SOURCE.refs(str(folder)))) == {"train/00000/000001": "corrupt_record"}


def test_a_broken_length_loses_what_is_behind_it_by_name(folder: Path) -> None:
    second = scan_shard(shard(folder))[0][1].offset - 12
    data = bytearray(shard(folder).read_bytes())
    data[second + 6] = 0x7F  # a giant length
    shard(folder).write_bytes(data)
    refs = SOURCE.refs(str(folder))
    assert len(refs) == 5
    assert failures(list(refs)) == {"train/00000/000001": "corrupt_record", "train/00000/000002": "missing_record"}


def test_every_cut_keeps_the_count(folder: Path) -> None:
    data = shard(folder).read_bytes()
    starts = [record.offset - 12 for record in scan_shard(shard(folder))[0]]
    for cut in [0, 1, 11, 12, 13, starts[1] - 1, starts[1], starts[1] + 5, starts[2] + 40, len(data) - 1]:
        shard(folder).write_bytes(data[:cut])
        refs = SOURCE.refs(str(folder))
        whole = sum(stop <= cut for stop in [*starts[1:], len(data)])
        assert len(refs) == 5
        found = failures([ref for ref in refs if ref.key.startswith("train/00000")])
        assert len(found) == 3 - whole
        assert set(found.values()) <= {"truncated", "missing_record"}


def test_trailing_zeros_are_one_failure(folder: Path) -> None:
    with shard(folder).open("ab") as file:
        file.write(bytes(1000))
    refs = SOURCE.refs(str(folder))
    assert failures(list(refs)) == {"train/00000/000003": "corrupt_record"}
    assert len(refs) == 6


def test_a_missing_shard_fails_its_promised_records(folder: Path) -> None:
    shard(folder).unlink()
    refs = SOURCE.refs(str(folder))
    assert len(refs) == 5
    assert set(failures(list(refs)).values()) == {"missing_file"}
    assert len(failures(list(refs))) == 3


def test_more_than_promised_is_read_and_told(folder: Path) -> None:
    with shard(folder, 1).open("ab") as file:
        file.write(frame_record(records(9)[0]))
    (folder / "toy-test.tfrecord-00000-of-00001").write_bytes(frame_record(records(8)[0]))
    refs = {ref.key: ref for ref in SOURCE.refs(str(folder))}
    assert len(refs) == 7
    for key in ("train/00001/000001", "test/00000/000000"):
        assert [finding.rule for finding in read(refs[key]).findings] == ["not_in_index"]


def test_without_counts_shard_names_still_tell_what_is_missing(folder: Path) -> None:
    (folder / "dataset_info.json").unlink()
    shard(folder).unlink()
    refs = SOURCE.refs(str(folder))
    assert failures(list(refs)) == {"train/00000/000000": "missing_file"}
    assert [ref.key for ref in refs] == ["train/00000/000000", "train/00001/000000", "val/00000/000000"]
    assert [finding.rule for finding in read(refs[1]).findings] == ["not_in_index"]


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"a":' * 100_000, "\x00"])
def test_a_damaged_index_stops_the_set(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(folder))
    assert name in caught.value.where
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset_info.json", {"name": "toy", "splits": [{"name": "train", "shardLengths": ["x"]}]}),
        ("dataset_info.json", {"name": "toy", "splits": [{"name": "train", "shardLengths": ["1" * 30]}]}),
        ("dataset_info.json", {"name": "toy", "splits": 3}),
        ("dataset_info.json", {"name": "toy", "fileFormat": "riegeli"}),
        ("features.json", table(action=tensor("float32", 2))),
        ("features.json", {"type": "FeaturesDict", "content": {}}),
        ("features.json", table(steps=sequence(table(action={"tensor": {"shape": {"dimensions": ["x"]}}})))),
    ],
)
def test_an_index_that_makes_no_sense_stops_the_set(folder: Path, name: str, content: dict) -> None:
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(folder))
    assert name in caught.value.where
    assert caught.value.hint


def test_shard_templates_do_not_leave_the_root(folder: Path) -> None:
    split = {"name": "train", "shardLengths": ["1"], "filepathTemplate": "../../{DATASET}.{FILEFORMAT}"}
    (folder / "dataset_info.json").write_text(json.dumps({"name": "toy", "splits": [split]}))
    with pytest.raises(SourceError) as caught:
        SOURCE.refs(str(folder))
    assert caught.value.reason == "path_escape"


def test_records_above_the_limit_are_not_read(folder: Path) -> None:
    with pytest.raises(CorruptEpisode) as caught:
        read(SOURCE.refs(str(folder))[0], Limits(max_record_bytes=100))
    assert caught.value.reason == "too_large"


def test_a_change_between_listing_and_reading_is_noticed(folder: Path) -> None:
    ref = SOURCE.refs(str(folder))[0]
    with shard(folder).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CorruptEpisode) as caught:
        read(ref)
    assert caught.value.reason == "changed_while_reading"


@settings(max_examples=60, deadline=None)
@given(payloads=st.lists(st.binary(max_size=40), max_size=6), flip=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, payloads: list, flip: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("shard") / "shard"
    whole = b"".join(map(frame_record, payloads))
    path.write_bytes(whole)
    found, damage = scan_shard(path)
    assert damage is None
    assert [read_payload(path, record, 100, "x") for record in found] == payloads
    if whole:
        data = bytearray(whole)
        data[flip % len(data)] ^= 1 << bit
        path.write_bytes(data)
        found, damage = scan_shard(path)
        intact = []
        for record in found:
            try:
                intact.append(read_payload(path, record, 100, "x"))
            except CorruptEpisode:
                damage = damage or True  # type: ignore[assignment]
        assert damage
        assert all(payload in payloads for payload in intact)
        assert len(intact) < len(payloads)


def test_tensorflow_is_never_imported(folder: Path) -> None:
    code = (
        "import sys; from tests.test_sources_rlds import SOURCE, read; "
        f"raw = read(SOURCE.refs({str(folder)!r})[0]); assert raw.streams; "
        "sys.exit('tensorflow' in sys.modules)"
    )
    here = Path(__file__).resolve().parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=here, check=False).returncode == 0


@pytest.mark.real
def test_bridge_recordings() -> None:
    root = real_data("octo_bridge_rlds")
    (location,) = SOURCE.datasets(str(root))
    refs = SOURCE.refs(location)
    assert len(refs) == 50
    assert {ref.split for ref in refs} == {"train", "val"}
    assert {ref.dataset for ref in refs} == {"bridge_dataset"}
    identities: dict[str, set[str]] = {"train": set(), "val": set()}
    for ref in refs:
        video = FakeVideo()
        raw = SOURCE.read(ref, video, Limits())
        identities[ref.split].add(raw.episode_id)
        assert {stream.name: stream.values.shape for stream in raw.streams}["language_embedding"] == (10, 512)
        assert [view.key for view in raw.views] == [f"observation/image_{i}" for i in range(4)]
        rules = [finding.rule for finding in raw.findings]
        assert rules == ["flag_denies_picture"] * 3 + ["last_step_not_marked"]
        assert len(raw.instructions) == 1
        payload = read_payload(
            Path(location) / ref.detail("shard"), scan_shard(Path(location) / ref.detail("shard"))[0][int(ref.detail("record"))],
            1 << 30, "",
        )  # fmt: skip
        assert all(image in payload for images in video.packed for image in images)  # not a byte is changed
        assert len(re.findall(rb"\xff\xd8\xff\xe0", payload)) == 40
    assert identities["train"] == identities["val"]
    assert len(identities["train"]) == 25
