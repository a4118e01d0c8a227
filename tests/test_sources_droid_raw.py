from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest

from pipelines import cards, hdf5_process
from pipelines.channels import to_episode
from pipelines.droid_cameras import held_apart
from pipelines.sample import write_sample
from pipelines.simulate import ROBOTS, simulate
from pipelines.sources.droid_raw import SOURCE
from pipelines.video import VideoTools
from schemas.episode import RawEpisode
from schemas.errors import CorruptEpisode, DecodeError, MissingFile
from schemas.findings import Severity
from schemas.recipes import Limits
from tests.clips import encode, pictures
from tests.droid_tree import (
    BEGUN_MS,
    EXT1,
    EXT2,
    FOLDER,
    STEP_START,
    UUID,
    WRIST,
    columns,
    metadata,
    write_recording,
    write_rows,
)
from tests.fake_video import FakeVideo

STAMPS = "observation/timestamp/cameras/"


def read(root: Path | str, frames: int = 5, limits: Limits | None = None) -> RawEpisode:
    (ref,) = SOURCE.refs(str(root))
    return SOURCE.read(ref, FakeVideo(frames), limits or Limits())


def rules(raw: RawEpisode) -> dict[str, str]:
    return {finding.rule: finding.where for finding in raw.findings if finding.rule != "frame_after_step"}


def test_a_recording_comes_back_whole(tmp_path: Path) -> None:
    write_recording(tmp_path)
    raw = read(tmp_path)
    written = columns()
    steps_ns = (written[STEP_START] - BEGUN_MS) * 1_000_000
    assert steps_ns[-1] == 266_000_000
    for name in ("action/cartesian_velocity", "action/joint_position", STEP_START):
        stream = raw.stream(name)
        assert stream is not None
        assert np.array_equal(stream.values, written[name])
        assert stream.values.dtype == written[name].dtype
    for stream in raw.streams:
        assert (stream.clock, stream.times_ns.tolist()) == ("source", steps_ns.tolist())
    flag = raw.stream("observation/controller_info/movement_enabled")
    assert flag is not None
    assert flag.values.dtype == bool
    views = {view.key: view for view in raw.views}
    assert list(views) == ["ext1", "ext2", "wrist"]
    for key, serial in (("wrist", WRIST), ("ext1", EXT1), ("ext2", EXT2)):
        captured = written[f"{STAMPS}{serial}_estimated_capture"]
        assert views[key].times_ns.tolist() == ((captured - BEGUN_MS) * 1_000_000).tolist()
        assert views[key].data == f"{FOLDER} {serial}".encode()
        assert (views[key].how, views[key].part) == ("copied", "whole")
    facts = dict(raw.attributes)
    expected = metadata()
    assert {name: facts[name] for name in ("uuid", "lab", "user", "building", "scene_id", "robot_serial")} == {
        name: expected[name] for name in ("uuid", "lab", "user", "building", "scene_id", "robot_serial")
    }
    assert (facts["success"], facts["recording_path"], facts["wrist_frame_times"]) == (
        True,
        FOLDER,
        "estimated_capture",
    )
    assert facts["velocity_scale_linear_m"] == 0.075
    assert raw.robot_type == "panda"
    assert [(one.text, one.field) for one in raw.instructions] == [("Move object to a new position", "current_task")]
    assert rules(raw) == {}


def test_the_shipped_card_gives_it_meaning(tmp_path: Path) -> None:
    write_recording(tmp_path)
    raw = read(tmp_path)
    fields = [*(stream.name for stream in raw.streams), *(view.key for view in raw.views)]
    card = cards.recognize("droid_raw", raw.ref.dataset, raw.robot_type, fields)
    episode = to_episode(raw, card, cards.load_embodiment(card.embodiment))
    written = columns()
    assert card.name == "droid_raw"
    action = ("cartesian_position", "joint_position", "gripper_position")
    assert np.array_equal(episode.action.values, np.column_stack([written[f"action/{name}"] for name in action]))
    assert np.array_equal(episode.proprio.values[:, 6:13], written["observation/robot_state/joint_positions"])
    assert episode.action.clock == "source"
    assert episode.success is True
    assert {slot: view.key for slot, view in episode.views.items()} == {
        "primary": "ext1", "secondary": "ext2", "wrist_left": "wrist",
    }  # fmt: skip


def test_cameras_say_where_they_stood(tmp_path: Path) -> None:
    write_recording(tmp_path)
    raw = read(tmp_path)
    found = {one.origin: one for one in raw.calibrations}
    written = columns()
    prefix = "trajectory.h5/observation/camera_extrinsics/"
    assert {one.removeprefix(prefix): found[one].camera for one in found if one.startswith(prefix)} == {
        "11111111_left": "11111111",
        f"{EXT1}_left": "ext1",
        f"{EXT1}_right": "ext1_right",
        f"{WRIST}_left_gripper_offset": "wrist",
    }
    offset = found[f"{prefix}{WRIST}_left_gripper_offset"]
    assert (offset.frame, offset.convention) == ("gripper", "xyz_euler_xyz")
    assert offset.extrinsics == (0.03, 0.0, 0.05, 0.3, 0.0, 1.5)
    intrinsics = found[f"trajectory.h5/observation/camera_intrinsics/{EXT1}_left"].intrinsics
    assert intrinsics == (732.5, 732.75, 640.25, 360.5)
    assert found["metadata/ext1_cam_extrinsics"].frame == "base"
    moving = raw.stream(f"observation/camera_extrinsics/{WRIST}_left")
    assert moving is not None, "the pose of the hand camera changes, so it stays a stream"
    assert np.array_equal(moving.values, written[moving.name])
    assert raw.stream(f"observation/camera_extrinsics/{EXT1}_left") is None


@pytest.mark.parametrize("level", [0, 1, 2, 3, 4])
def test_a_location_may_be_any_level_of_the_tree(tmp_path: Path, level: int) -> None:
    write_recording(tmp_path / "set")
    write_recording(tmp_path / "set", FOLDER.replace("success", "failure").replace("42:23", "50:01"))
    location = tmp_path / "set" / "/".join(FOLDER.split("/")[:level])
    assert SOURCE.datasets(str(location)) == [str(location)]
    refs = SOURCE.refs(str(location))
    assert len(refs) == (2 if level < 2 else 1)
    raw = SOURCE.read(refs[-1], FakeVideo(5), Limits())
    assert dict(raw.attributes)["recording_path"] == FOLDER
    assert dict(raw.attributes)["success"] is True
    assert SOURCE.datasets(str(tmp_path)) == [str(tmp_path / "set")]


@pytest.mark.parametrize("name", ["2023-07-07", "success", "other"])
def test_other_folders_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "2023-07-08" / "images").mkdir(parents=True)
    (tmp_path / name / "notes.json").write_text("{}")
    assert SOURCE.datasets(str(tmp_path / name)) == []


@pytest.mark.parametrize(
    ("gone", "clock", "shift_ms"),
    [((), "estimated_capture", -11), (("estimated_capture",), "frame_received", 30),
     (("estimated_capture", "frame_received"), "read_end", 32),
     (("estimated_capture", "frame_received", "read_end"), "step_start", 0)],
)  # fmt: skip
def test_frames_have_the_best_times_there_are(tmp_path: Path, gone: tuple[str, ...], clock: str, shift_ms: int) -> None:
    arrays = {key: values for key, values in columns().items() if key not in {f"{STAMPS}{WRIST}_{one}" for one in gone}}
    write_recording(tmp_path, arrays=arrays)
    raw = read(tmp_path)
    (view,) = [view for view in raw.views if view.key == "wrist"]
    assert view.times_ns.tolist() == ((arrays[STEP_START] - BEGUN_MS + shift_ms) * 1_000_000).tolist()
    assert dict(raw.attributes)["wrist_frame_times"] == clock
    late = [finding for finding in raw.findings if (finding.rule, finding.where) == ("frame_after_step", "wrist")]
    assert len(late) == (shift_ms > 0)


def test_a_picture_that_was_read_again_is_there_again_a_row_later(tmp_path: Path) -> None:
    arrays = columns(6)
    stamps = arrays[f"{STAMPS}{EXT1}_estimated_capture"]
    stamps[[1, 2]] = stamps[0]
    stamps[3] = stamps[0] + 70  # sooner than two rows
    stamps[5] = stamps[4]
    write_recording(tmp_path, arrays=arrays)
    raw = read(tmp_path, 6)
    (view,) = [view for view in raw.views if view.key == "ext1"]
    began = int(stamps[0]) - BEGUN_MS
    assert [time / 1e6 - began for time in view.times_ns.tolist()] == pytest.approx([0, 66, 70, 70, 266, 332], abs=1e-5)
    assert (np.diff(view.times_ns) > 0).all()
    (held,) = [finding for finding in raw.findings if finding.rule == "frames_held"]
    assert (held.where, held.numbers) == ("ext1", (("num_frames", 3.0), ("num_steps", 6.0)))


@pytest.mark.parametrize("stamps", [[0, 0, 0, 0], [0, 5, 5, 4], [1, 2, 3, 4]])
def test_a_clock_that_stands_or_runs_backwards_is_left_as_it_is(stamps: list[int]) -> None:
    times, held = held_apart(np.array(stamps), np.arange(4) * 10)
    assert (times.tolist(), held) == (stamps, 0)


def test_without_metadata_the_camera_types_decide(tmp_path: Path) -> None:
    write_recording(tmp_path, facts={})
    raw = read(tmp_path)
    facts = dict(raw.attributes)
    assert {role: facts[f"{role}_cam_serial"] for role in ("wrist", "ext1", "ext2")} == {
        "wrist": WRIST, "ext1": EXT1, "ext2": EXT2,
    }  # fmt: skip
    assert rules(raw) == {"missing_metadata": "metadata", "unknown_recorder_version": "recorder_version"}


def test_damaged_metadata_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = write_recording(
        tmp_path, attrs={"robot_serial_number": "panda-1", "version_number": "1.0", "success": True}
    )
    (path,) = folder.glob("metadata_*.json")
    path.write_text(path.read_text()[:-20])
    raw = read(tmp_path)
    facts = dict(raw.attributes)
    assert rules(raw) == {"bad_metadata": path.name}
    assert (facts["uuid"], facts["robot_serial"], facts["velocity_scale_linear_m"]) == (UUID, "panda-1", 0.125)


@pytest.mark.parametrize(
    ("frames", "rule", "severity"),
    [(5, None, None), (4, "video_one_frame_short", Severity.INFO), (2, "video_short", Severity.WARNING)],
)
def test_frames_pair_with_rows_from_the_first(
    tmp_path: Path, frames: int, rule: str | None, severity: Severity | None
) -> None:
    write_recording(tmp_path)
    raw = read(tmp_path, frames)
    found = {finding.rule: finding.severity for finding in raw.findings if finding.rule.startswith("video")}
    assert found == ({rule: severity} if rule else {})
    written = columns()[f"{STAMPS}{EXT1}_estimated_capture"]
    (view,) = [view for view in raw.views if view.key == "ext1"]
    assert view.times_ns.tolist() == ((written[:frames] - BEGUN_MS) * 1_000_000).tolist()


def test_stereo_files_show_their_left_half(tmp_path: Path) -> None:
    wide = encode("h264", pictures(5, 96, 384))
    videos = {f"{WRIST}-stereo.mp4": wide, f"{EXT1}.mp4": wide, f"{EXT2}.mp4": encode("h264", pictures(5))}
    write_recording(tmp_path, videos=videos)
    (ref,) = SOURCE.refs(str(tmp_path))
    with VideoTools(Limits()) as video:
        raw = SOURCE.read(ref, video, Limits())
    assert {view.key: (view.part, view.width_px) for view in raw.views} == {
        "wrist": ("left_half", 384), "ext1": ("left_half", 384), "ext2": ("whole", 160),
    }  # fmt: skip
    assert rules(raw) == {"stereo_without_suffix": "ext1"}
    assert all(view.data in videos.values() for view in raw.views), "the files are kept as they are"


def test_the_left_eye_alone_is_preferred(tmp_path: Path) -> None:
    names = [f"{serial}{ending}.mp4" for serial in (WRIST, EXT1, EXT2) for ending in ("", "-stereo")]
    write_recording(tmp_path, videos={name: name.encode() for name in names})
    raw = read(tmp_path)
    assert {view.data for view in raw.views} == {f"{serial}.mp4".encode() for serial in (WRIST, EXT1, EXT2)}
    assert set(rules(raw)) == {"stereo_left_out"}


def _drop(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-3000])


def _rows(**changes: Any) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        arrays: dict[str, Any] = {**columns(), **{name.replace("__", "/"): rows for name, rows in changes.items()}}
        write_rows(folder / "trajectory.h5", {name: rows for name, rows in arrays.items() if rows is not None}, {})

    return damage


def _link(folder: Path) -> None:
    with h5py.File(folder / "trajectory.h5", "a") as file:
        file["action/more"] = h5py.ExternalLink("/etc/passwd", "/x")


def _escaping_file(folder: Path) -> None:
    path = folder / "trajectory.h5"
    outside = folder.parent.parent.parent.parent.parent / "outside.h5"
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_drop("trajectory.h5"), "missing_file"),
        (_cut("trajectory.h5"), "truncated"),
        (lambda folder: (folder / "trajectory.h5").write_bytes(b""), "not_hdf5"),
        (_link, "external_link"),
        (_escaping_file, "path_escape"),
        (_rows(action__joint_position=np.zeros((3, 7))), "length_mismatch"),
        (_rows(**{name.replace("/", "__"): rows[:0] for name, rows in columns().items()}), "empty"),
    ],
)
def test_damage_is_one_error_with_a_reason(tmp_path: Path, damage: Callable[[Path], Any], reason: str) -> None:
    root = tmp_path / "a" / "set"
    damage(write_recording(root))
    (ref,) = SOURCE.refs(str(root))
    with pytest.raises((MissingFile, CorruptEpisode)) as caught:
        SOURCE.read(ref, FakeVideo(5), Limits())
    assert caught.value.reason == reason
    assert caught.value.hint
    assert ref.key in caught.value.where


def test_more_frames_than_rows_cannot_be_paired(tmp_path: Path) -> None:
    write_recording(tmp_path)
    with pytest.raises(CorruptEpisode) as caught:
        read(tmp_path, frames=6)
    assert caught.value.reason == "length_mismatch"


def test_a_truncated_video_costs_its_recording_and_a_missing_one_leaves_its_slot_empty(tmp_path: Path) -> None:
    whole = encode("h264", pictures(5))
    videos = {f"{serial}.mp4": whole for serial in (WRIST, EXT1, EXT2)}
    folder = write_recording(tmp_path, videos=videos)
    with VideoTools(Limits()) as video:
        (folder / "recordings/MP4" / f"{EXT1}.mp4").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DecodeError):
            SOURCE.read(SOURCE.refs(str(tmp_path))[0], video, Limits())
        (folder / "recordings/MP4" / f"{EXT1}.mp4").unlink()
        raw = SOURCE.read(SOURCE.refs(str(tmp_path))[0], video, Limits())
    assert [view.key for view in raw.views] == ["ext2", "wrist"]
    assert rules(raw) == {"missing_video": "ext1"}
    card, embodiment = cards.load_pair("droid_raw")
    with pytest.raises(CorruptEpisode) as caught:
        to_episode(raw, card, embodiment)
    assert caught.value.reason == "missing_view"


def test_arrays_beyond_the_limit_are_not_read(tmp_path: Path) -> None:
    write_recording(tmp_path)
    with pytest.raises(CorruptEpisode) as caught:
        read(tmp_path, limits=Limits(max_array_bytes=1000))
    assert caught.value.reason == "too_large"


def test_a_file_that_libhdf5_never_ends_with_costs_its_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size in the heap of texts, changed so that libhdf5 2.0 goes round in it: the source asks the child for it."""
    good = write_recording(tmp_path / "good", attrs={"building": "one", "lab": "two"})
    bad = write_recording(tmp_path / "bad", attrs={"building": "one", "lab": "two"}) / "trajectory.h5"
    data = bytearray(bad.read_bytes())
    heap = data.index(b"GCOL")
    first = int.from_bytes(data[heap + 24 : heap + 32], "little")
    data[heap + 32 + -(-first // 8) * 8 + 8] = 127
    bad.write_bytes(bytes(data))
    monkeypatch.setattr(hdf5_process, "_READER", hdf5_process.Reader(least_seconds=3.0))
    with pytest.raises(CorruptEpisode) as error:
        read(tmp_path / "bad")
    assert error.value.reason in ("deadline", "corrupt")  # another libhdf5 may see it
    assert dict(read(good).attributes)["building"] == "Berkeley"


def test_remote_recordings_are_read_where_they_lie(tmp_path: Path) -> None:
    local = read(write_recording(tmp_path))
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "AUTOLab"), "/droid_raw_test/AUTOLab", recursive=True)
    try:
        raw = read("memory://droid_raw_test")
    finally:
        store.rm("/droid_raw_test", recursive=True)
    assert raw.episode_id == local.episode_id


def test_a_key_seen_late_is_left_out_and_told(tmp_path: Path) -> None:
    late = {"action/target_cartesian_position": np.zeros((3, 6)), f"{STAMPS}{EXT1}_estimated_capture": np.arange(4)}
    write_recording(tmp_path, arrays=columns() | late)
    raw = read(tmp_path)
    assert {finding.where for finding in raw.findings if finding.rule == "field_seen_late"} == set(late)
    assert not {stream.name for stream in raw.streams} & set(late)
    assert dict(raw.attributes)["ext1_frame_times"] == "frame_received"


def test_clocks_that_are_none_are_not_used(tmp_path: Path) -> None:
    seconds = {STEP_START: columns()[STEP_START].astype(np.float64)}
    write_recording(tmp_path / "floats", arrays=columns() | seconds)
    raw = read(tmp_path / "floats")
    assert {stream.clock for stream in raw.streams} == {"declared"}
    assert raw.streams[0].times_ns.tolist() == [0, 1, 2, 3, 4], "plain indices, for the card to give a rate"
    assert rules(raw) == {"no_step_clock": STEP_START}
    zeros = {f"{STAMPS}{EXT1}_estimated_capture": np.zeros(5, dtype=np.int64)}
    write_recording(tmp_path / "zeros", arrays=columns() | zeros)
    assert dict(read(tmp_path / "zeros").attributes)["ext1_frame_times"] == "frame_received"


def test_a_clock_that_runs_backwards_is_kept_as_it_is(tmp_path: Path) -> None:
    steps_ms = columns()[STEP_START]
    steps_ms[3] -= 200
    write_recording(tmp_path, arrays=columns() | {STEP_START: steps_ms})
    assert read(tmp_path).streams[0].times_ns.tolist() == ((steps_ms - steps_ms[0]) * 1_000_000).tolist()


@pytest.mark.parametrize("bad", ["../../../../etc/passwd", "/etc/passwd"])
def test_paths_and_serials_of_the_metadata_are_never_followed(tmp_path: Path, bad: str) -> None:
    write_recording(tmp_path, facts=metadata(ext1_mp4_path=bad, ext1_cam_serial=bad))
    raw = read(tmp_path)
    assert {"metadata_path_outside", "bad_camera_serial"} <= set(rules(raw))
    assert dict(raw.attributes)["ext1_cam_serial"] == EXT1, "the camera types still know"


def test_the_folder_has_the_last_word_on_success(tmp_path: Path) -> None:
    write_recording(tmp_path, FOLDER.replace("success", "failure"))
    raw = read(tmp_path)
    assert dict(raw.attributes)["success"] is False
    assert rules(raw) == {"success_disagrees": "success"}


def test_files_changed_after_listing_are_noticed(tmp_path: Path) -> None:
    folder = write_recording(tmp_path)
    (ref,) = SOURCE.refs(str(tmp_path))
    (folder / "recordings/MP4" / f"{EXT1}.mp4").write_bytes(b"another one")
    with pytest.raises(CorruptEpisode) as caught:
        SOURCE.read(ref, FakeVideo(5), Limits())
    assert caught.value.reason == "changed_while_reading"


def test_a_folder_without_files_is_listed_and_fails(tmp_path: Path) -> None:
    write_recording(tmp_path)
    (tmp_path / FOLDER).with_name("Fri_Jul__7_10:00:00_2023").mkdir()
    refs = SOURCE.refs(str(tmp_path))
    assert len(refs) == 2
    with pytest.raises(MissingFile):
        SOURCE.read(refs[1], FakeVideo(5), Limits())


def test_what_sample_writes_reads_back_with_its_recorded_clock(tmp_path: Path) -> None:
    (written,) = write_sample(tmp_path, "droid_raw", 1, seed=4)
    (ref,) = SOURCE.refs(written.folder)
    with VideoTools(Limits()) as video:
        raw = SOURCE.read(ref, video, Limits())
    truth = simulate(ROBOTS[0], 4, 0)
    action = raw.stream("action/joint_position")
    assert action is not None
    assert np.array_equal(action.values, truth.action[:, :-1].astype(np.float64))
    assert np.array_equal(action.times_ns, truth.times_ns // 1_000_000 * 1_000_000)
    assert {view.times_ns.tolist() == action.times_ns.tolist() for view in raw.views} == {True}
    assert (raw.robot_type, dict(raw.attributes)["success"]) == ("sample_arm", truth.success)
