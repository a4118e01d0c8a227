import json
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import ingest
from jobs.options import IngestOptions
from pipelines import cards, companions
from pipelines.channels import to_episode
from pipelines.droid_names import of_path, of_uuid
from pipelines.lake import Lake
from pipelines.sources.droid_raw import SOURCE
from schemas.episode import Calibration, EncodedView, EpisodeRef, Instruction, RawEpisode, Stream
from schemas.errors import CorruptEpisode, MissingFile, SourceError
from schemas.recipes import IngestRecipe, Limits
from tests.clips import encode, pictures
from tests.droid_tree import EXT1, EXT2, FOLDER, UUID, WRIST, write_recording
from tests.fake_video import FakeVideo

BUCKET = "gs://xembodiment_data/r2d2/r2d2-data-full/"
OTHER_FOLDER = "ILIAD/success/2023-04-21/Fri_Apr_21_10:44:20_2023"
OTHER_UUID = "ILIAD+7ae1bcff+2023-04-21-10h-44m-20s"
LANGUAGES = {
    OTHER_UUID: {"language_instruction1": "wipe the table"},
    UUID: {
        "language_instruction1": "put the cup on the plate",
        "language_instruction2": "",
        "language_instruction3": "cup",
    },
}
INTRINSICS = {
    UUID: {
        EXT1: {"cameraMatrix": [731.5, 642.0, 732.5, 361.0], "width": 1280, "height": 720},
        EXT2: {"cameraMatrix": [0, 0, 0, 0], "width": 1280, "height": 720},
    }
}
POSE = [0.1, 0.5, 0.3, -1.6, 0.1, -2.2]
EXTRINSICS = {UUID: {EXT1: POSE, "quality_metric": 0.8, "metric_type": "IOU", "relative_path": FOLDER}}
SUPERSET = {
    UUID: {
        EXT1: POSE, f"{EXT1}_metric_type": "Reprojection_error", f"{EXT1}_quality_metric": 1.5,
        EXT2: POSE[::-1], f"{EXT2}_metric_type": "Quality_metric", f"{EXT2}_quality_metric": 0.7,
        "relative_path": FOLDER,
    }
}  # fmt: skip
SERIALS = {UUID: {"wrist_cam_serial": WRIST, "ext1_cam_serial": EXT1, "ext2_cam_serial": EXT2}}


def range_key(folder: str) -> str:
    return f"{BUCKET}{folder}/recordings/MP4--{BUCKET}{folder}/trajectory.h5"


KEEP = {range_key(OTHER_FOLDER): [[0, 1]], range_key(FOLDER): [[0, 2], [3, 5]]}


def load(folder: Path, **files: Any) -> companions.Companions:
    """The annotations of ``files``, each written under the name it is given as."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return companions.load([str(folder)])


def applied(said: companions.Companions, raw: RawEpisode) -> RawEpisode:
    return said.apply(raw, said.marked(raw.ref))


def raw_shaped(root: Path, folder: str = FOLDER) -> RawEpisode:
    write_recording(root, folder)
    (ref,) = SOURCE.refs(str(root))
    return SOURCE.read(ref, FakeVideo(5), Limits())


def rlds_shaped(folder: str = FOLDER, num_steps: int = 5) -> RawEpisode:
    """As the RLDS source reads DROID: plain indices for times, and the paths of the raw recording."""
    ref = EpisodeRef("rlds", "/data/droid", "droid", "1.0.1", "train", "train/00017/000042", "state", 1)
    steps: np.ndarray = np.arange(num_steps)
    cameras = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
    return RawEpisode(
        ref=ref,
        streams=(Stream("action_dict/joint_position", np.zeros((num_steps, 7)), steps, "declared"),),
        views=tuple(
            EncodedView(f"observation/{name}", "mjpeg", "mov", b"x", 320, 180, steps, name, "packed")
            for name in cameras
        ),
        instructions=(Instruction("put the cup on the plate", "language_instruction"),),
        declared_rate=None,
        source_sha256="0" * 64,
        attributes=(
            ("episode_metadata/file_path", f"/nfs/kun2/datasets/r2d2/r2d2-data-full/{folder}/trajectory.h5"),
            (
                "episode_metadata/recording_folderpath",
                f"/nfs/kun2/datasets/r2d2/r2d2-data-full/{folder}/recordings/MP4",
            ),
        ),
    )


def rules(raw: RawEpisode) -> set[str]:
    return {finding.rule for finding in raw.findings} - {"frame_after_step"}


def spans(raw: RawEpisode) -> list[tuple[int, int]]:
    return [(segment.start_ns, segment.stop_ns) for segment in raw.segments if segment.kind == "keep"]


def test_names_of_a_recording_agree() -> None:
    path, uuid = of_path(f"{BUCKET}{FOLDER}/recordings/MP4"), of_uuid(UUID)
    assert path is not None
    assert uuid is not None
    assert path.key == uuid.key == ("AUTOLab", "2023-07-07T09:42:23")
    blanks = of_path("AUTOLab/success/2023-07-07/Fri Jul  7 09_42_23 2023/trajectory.h5")
    assert blanks is not None
    assert blanks.key == path.key
    assert of_path("/archive/success/story") is None
    assert of_uuid("episode_000000") is None


def test_keep_ranges_are_the_times_of_their_steps(tmp_path: Path) -> None:
    said = load(tmp_path / "said", keep=KEEP)
    raw = applied(said, raw_shaped(tmp_path / "raw"))
    times_ns = raw.streams[0].times_ns
    assert spans(raw) == [(0, times_ns[2]), (times_ns[3], times_ns[4] + 1)]
    assert {segment.label for segment in raw.segments} == {"annotations/keep.json"}
    rlds = applied(said, rlds_shaped())
    assert spans(rlds) == [(0, 2), (3, 5)]
    assert not rules(rlds)


def test_keep_ranges_follow_the_clock_of_the_card(tmp_path: Path) -> None:
    raw = applied(load(tmp_path / "said", keep={range_key(FOLDER): [[1, 5]]}), raw_shaped(tmp_path / "raw"))
    card, embodiment = cards.load_pair("droid_raw")
    declared = to_episode(raw, card.model_copy(update={"clock": "declared"}), embodiment)
    (segment,) = declared.raw.segments
    period_ns = 1_000_000_000 * Fraction(1, 15)
    assert (segment.start_ns, segment.stop_ns) == (int(period_ns), int(5 * period_ns))


def test_the_order_of_a_file_means_nothing(tmp_path: Path) -> None:
    others = {
        range_key(f"AUTOLab/success/2023-07-07/Fri_Jul__7_09:{minute:02d}:23_2023"): [[0, 1]]
        for minute in range(60)
        if minute != 42
    }
    entries = list((others | {range_key(FOLDER): [[1, 3]]}).items())
    for seed in range(3):
        random.Random(seed).shuffle(entries)
        said = load(tmp_path / "said", keep=dict(entries))
        assert spans(applied(said, rlds_shaped())) == [(1, 3)]


@pytest.mark.parametrize(
    "moved",
    [
        FOLDER.replace("success", "failure"),
        FOLDER.replace(":", "_"),
        FOLDER.replace("__", "_ ").replace("Fri_", "Fri "),
    ],
)
def test_a_recording_that_moved_is_the_same(tmp_path: Path, moved: str) -> None:
    said = load(tmp_path / "said", keep=KEEP, languages=LANGUAGES)
    for raw in (raw_shaped(tmp_path / "another" / "disk", moved), rlds_shaped(moved)):
        found = applied(said, raw)
        assert len(spans(found)) == 2
        assert "put the cup on the plate" in [instruction.text for instruction in found.instructions]


def test_of_two_recordings_of_one_second_the_outcome_and_the_uuid_decide(tmp_path: Path) -> None:
    failed = FOLDER.replace("success", "failure")
    said = load(tmp_path / "said", keep={range_key(failed): [[0, 1]], range_key(FOLDER): [[2, 3]]})
    assert spans(applied(said, rlds_shaped(failed))) == [(0, 1)]
    assert spans(applied(said, rlds_shaped())) == [(2, 3)]
    other_user = UUID.replace("5d05c5aa", "ffffffff")
    texts = {UUID: {"language_instruction1": "mine"}, other_user: {"language_instruction1": "theirs"}}
    said = load(tmp_path / "users", languages=texts)
    assert "mine" in [one.text for one in applied(said, raw_shaped(tmp_path / "raw")).instructions]
    found = applied(said, rlds_shaped())
    assert [one.text for one in found.instructions] == ["put the cup on the plate"], "not known whose it is"
    assert rules(found) == {"unmatched_annotation"}
    said = load(tmp_path / "users", languages=texts, paths={UUID: FOLDER, other_user: OTHER_FOLDER})
    assert "mine" in [one.text for one in applied(said, rlds_shaped()).instructions], "the file of paths knows"
    said = load(tmp_path / "only_theirs", languages={other_user: {"language_instruction1": "theirs"}})
    assert rules(applied(said, raw_shaped(tmp_path / "again"))) == {"unmatched_annotation"}


def test_paths_lead_to_a_uuid_of_another_second(tmp_path: Path) -> None:
    late = UUID.replace("42m-23s", "42m-29s")
    said = load(tmp_path / "said", paths={late: FOLDER, OTHER_UUID: OTHER_FOLDER}, languages={late: LANGUAGES[UUID]})
    assert "cup" in [one.text for one in applied(said, rlds_shaped()).instructions]


def test_languages_are_instructions_whose_field_names_the_file(tmp_path: Path) -> None:
    raw = applied(load(tmp_path / "said", my_texts=LANGUAGES), raw_shaped(tmp_path / "raw"))
    added = [(one.text, one.field) for one in raw.instructions if one.field.startswith("annotations/")]
    assert added == [
        ("put the cup on the plate", "annotations/my_texts.json/language_instruction1"),
        ("", "annotations/my_texts.json/language_instruction2"),
        ("cup", "annotations/my_texts.json/language_instruction3"),
    ]
    card, embodiment = cards.load_pair("droid_raw")
    episode = to_episode(raw, card, embodiment)
    assert [one.text for one in episode.instructions] == ["put the cup on the plate", "cup"]
    assert "empty_instruction" in {finding.rule for finding in episode.findings}


def test_a_text_that_only_the_recorder_asked_for_is_not_lost(tmp_path: Path) -> None:
    raw = raw_shaped(tmp_path / "raw")
    asked = next(one.text for one in raw.instructions if one.field.endswith("current_task"))
    raw = applied(load(tmp_path / "said", texts={UUID: {"language_instruction1": asked}}), raw)
    assert [one.text for one in to_episode(raw, *cards.load_pair("droid_raw")).instructions] == [asked]


@pytest.mark.parametrize("shape", ["raw", "rlds"])
def test_calibrations_name_the_cameras_of_the_source(tmp_path: Path, shape: str) -> None:
    said = load(tmp_path / "said", a=INTRINSICS, b=EXTRINSICS, c=SUPERSET, serials=SERIALS)
    before = raw_shaped(tmp_path / "raw") if shape == "raw" else rlds_shaped()
    names = (
        ("ext1", "ext2")
        if shape == "raw"
        else ("observation/exterior_image_1_left", "observation/exterior_image_2_left")
    )
    raw = applied(said, before)
    found = [one for one in raw.calibrations if one.origin.startswith("annotations/")]
    assert found[0] == Calibration(
        names[0], "annotations/a.json", (731.5, 732.5, 642.0, 361.0), 1280, 720, note=f"serial {EXT1}"
    )
    assert [(one.camera, one.origin, one.extrinsics) for one in found[1:]] == [
        (names[0], "annotations/b.json", tuple(POSE)),
        (names[0], "annotations/c.json", tuple(POSE)),
        (names[1], "annotations/c.json", tuple(POSE[::-1])),
    ]
    assert {(one.convention, one.frame) for one in found[1:]} == {("xyz_euler_xyz", "base")}
    assert "IOU" in found[1].note
    assert "Reprojection_error" in found[2].note
    assert "0.7" in found[3].note
    assert rules(raw) == {"zero_intrinsics"}
    assert dict(raw.attributes)["wrist_cam_serial"] == WRIST


def test_without_serials_a_camera_keeps_its_number(tmp_path: Path) -> None:
    raw = applied(load(tmp_path / "said", intrinsics=INTRINSICS), rlds_shaped())
    assert [one.camera for one in raw.calibrations] == [EXT1]


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"keep": {range_key(FOLDER): []}}, "keeps_nothing"),
        ({"keep": {range_key(FOLDER): [[0, 7]]}}, "keep_ranges_do_not_fit"),
        ({"keep": {range_key(FOLDER): [[3, 2]]}}, "keep_ranges_do_not_fit"),
        ({"keep": {range_key(FOLDER): [[0, True]]}}, "keep_ranges_do_not_fit"),
        ({"keep": {range_key(FOLDER): "all of it", range_key(OTHER_FOLDER): []}}, None),
        ({"intrinsics": {OTHER_UUID: INTRINSICS[UUID], UUID: {EXT1: {"cameraMatrix": [1, 2]}}}}, "bad_annotation"),
        ({"extrinsics": {OTHER_UUID: EXTRINSICS[UUID], UUID: {EXT1: [0, 0, 0, 0, 0, float("nan")]}}}, "bad_annotation"),
        ({"serials": {UUID: {"ext1_cam_serial": EXT2}}}, "cameras_disagree"),
        ({"languages": {OTHER_UUID: LANGUAGES[OTHER_UUID]}}, "unmatched_annotation"),
    ],
)
def test_wrong_and_missing_entries_are_findings(tmp_path: Path, content: dict[str, Any], rule: str | None) -> None:
    before = raw_shaped(tmp_path / "raw")
    if rule is None:
        with pytest.raises(SourceError):
            load(tmp_path / "said", **content)
        return
    raw = applied(load(tmp_path / "said", **content), before)
    assert rules(raw) == {rule}
    assert (raw.segments, raw.calibrations, raw.instructions) == (
        before.segments, before.calibrations, before.instructions,
    )  # fmt: skip


def test_a_recording_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    said = load(tmp_path / "said", keep=KEEP)
    before = rlds_shaped("no/such/path")
    raw = applied(said, before)
    assert rules(raw) == {"unmatched_annotation"}
    assert raw.episode_id == before.episode_id


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "not json", '{"a": 1}', '{"0": [[0, 5]]}', json.dumps({UUID: {"other": 1}})],
)
def test_files_that_are_none_of_them_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "strange.json").write_text(content)
    for place in (tmp_path, tmp_path / "strange.json"):
        with pytest.raises(SourceError) as caught:
            companions.load([str(place)])
        assert "strange.json" in caught.value.where
        assert caught.value.hint


def test_places_without_annotations_are_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing.json"):
        with pytest.raises(MissingFile) as caught:
            companions.load([str(place)])
        assert caught.value.hint


def test_files_that_change_after_planning_are_noticed(tmp_path: Path) -> None:
    raw = rlds_shaped()
    planned = load(tmp_path / "said", keep=KEEP).marked(raw.ref)
    with pytest.raises(CorruptEpisode) as caught:
        load(tmp_path / "said", keep={range_key(FOLDER): [[0, 1]]}).apply(raw, planned)
    assert caught.value.reason == "changed_while_reading"


def ingested(location: Path, lake: Path, annotations: Sequence[Path]) -> dict[str, Any]:
    recipe = IngestRecipe(annotations=tuple(str(one) for one in annotations))
    return dict(ingest.run(IngestOptions((str(location),), str(lake), None, recipe, False, False, "inline")).values)


def test_other_annotations_make_a_new_version_of_a_place(tmp_path: Path) -> None:
    videos = {f"{serial}.mp4": encode("h264", pictures(5)) for serial in (WRIST, EXT1, EXT2)}
    write_recording(tmp_path / "raw", videos=videos)
    said = tmp_path / "said"
    load(said, keep=KEEP, languages=LANGUAGES)
    lake = tmp_path / "lake"
    first = ingested(tmp_path / "raw", lake, [])
    assert (first["kept"], first["already"]) == (1, 0), first
    second = ingested(tmp_path / "raw", lake, [said])
    assert (second["kept"], second["already"]) == (1, 0)
    again = ingested(tmp_path / "raw", lake, [said / "keep.json", said / "languages.json"])
    assert (again["kept"], again["already"]) == (0, 1), "the same files, named otherwise"
    columns = ["outcome", "segments", "instructions", "locations"]
    rows = sorted(Lake.open(lake).rows("episodes", columns), key=lambda row: len(row["segments"]))
    assert [row["outcome"] for row in rows] == ["kept", "kept"]
    assert [segment["kind"] for segment in rows[1]["segments"]].count("keep") == 2
    assert [one["text"] for one in rows[1]["instructions"]] == ["put the cup on the plate", "cup"]
    assert max(place["revision"] for place in rows[1]["locations"]) == 2
