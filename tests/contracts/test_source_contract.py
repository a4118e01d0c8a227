"""What every source must keep, whichever it is. A new member is under test by existing: give it golden data below."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipelines import registry
from pipelines.sources import Source
from pipelines.video import VideoTools
from schemas.episode import RawEpisode
from schemas.recipes import Limits
from tests.clips import encode, pictures
from tests.droid_tree import EXT1, FOLDER, columns, metadata, write_recording
from tests.recorded import example, rlds_episode, write_lerobot, write_rlds
from tests.recorded_hdf5 import pixels, vectors, write_robomimic
from tests.recorded_lerobot_v1 import write_lerobot_v1


def _rlds(root: Path) -> Path:
    return write_rlds(root, {"train": [[example(rlds_episode(0)), example(rlds_episode(1, 7))]]})


def _lerobot(root: Path) -> Path:
    return write_lerobot(root / "toy", "v3.0", (4, 7), images=True)


def _clips(root: Path) -> Path:
    for name, num_steps in (("0", 4), ("1", 7)):
        facts = {"videos": [f"videos/train/{name}/0.mp4"], "action": [[step, 0.5] for step in range(num_steps)]}
        for path, data in (
            (root / "toy" / "annotation" / "train" / f"{name}.json", json.dumps(facts).encode()),
            (root / "toy" / "videos" / "train" / name / "0.mp4", encode("h264", pictures(num_steps))),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return root / "toy"


def _hdf5(root: Path) -> Path:
    return write_robomimic(root / "toy" / "demo.hdf5", (4, 7))


def _droid_raw(root: Path) -> Path:
    facts = metadata(wrist_cam_serial=None, ext2_cam_serial=None)
    for index, num_rows in enumerate((4, 7)):
        arrays = {name: rows for name, rows in columns(num_rows).items() if "camera_type" not in name}
        folder = FOLDER.replace(":23_", f":{23 + index}_")
        write_recording(root / "toy", folder, arrays, facts, {f"{EXT1}.mp4": encode("h264", pictures(num_rows))})
    return root / "toy"


def _lerobot_v1(root: Path) -> Path:
    return write_lerobot_v1(root / "toy", (4, 7), films=[encode("h264", pictures(length)) for length in (4, 7)])


def _zarr(root: Path) -> Path:
    shown = np.concatenate([pixels(0, 4), pixels(1, 7)])
    group = zarr.create_group(str(root / "toy"), zarr_format=2)
    for name, values in (
        ("data/action", vectors(0, 11, 2)),
        ("data/state", vectors(1, 11, 3)),
        ("data/img", shown),
        ("meta/episode_ends", np.array([4, 11])),
    ):
        group.create_array(name, shape=values.shape, chunks=values.shape, dtype=values.dtype)[:] = values
    return root / "toy"


GOLDEN: dict[str, Callable[[Path], Path]] = {
    "droid_raw": _droid_raw,
    "hdf5": _hdf5,
    "clips": _clips,
    "lerobot": _lerobot,
    "lerobot_v1": _lerobot_v1,
    "rlds": _rlds,
    "zarr": _zarr,
}
"""Writes a set of two episodes of 4 and 7 steps with one camera, and returns its folder."""


@pytest.fixture(scope="module")
def video():
    with VideoTools(Limits()) as tools:
        yield tools


@pytest.fixture(params=registry.names("sources"))
def source_and_root(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Source, Path]:
    assert request.param in GOLDEN, f"the source {request.param} needs golden data in {Path(__file__).name}"
    return registry.load("sources", request.param).SOURCE, GOLDEN[request.param](tmp_path)


def facts(raw: RawEpisode) -> tuple:
    return (
        raw.episode_id,
        raw.source_sha256,
        raw.attributes,
        raw.findings,
        raw.instructions,
        [(one.identity, one.times_ns.tolist(), one.clock) for one in raw.streams],
        [(one.key, one.data, one.times_ns.tolist(), one.packets_sha256, one.first_frame) for one in raw.views],
    )


class TestSource:
    def test_is_named_as_its_file(self, source_and_root: tuple[Source, Path]) -> None:
        source, _ = source_and_root
        assert registry.load("sources", source.name).SOURCE is source

    def test_recognizes_its_own_and_nothing_else(self, source_and_root: tuple[Source, Path], tmp_path: Path) -> None:
        source, root = source_and_root
        assert source.datasets(str(root)) == source.datasets(str(tmp_path)) == [str(root)]
        for other in registry.names("sources"):
            if other != source.name:
                assert registry.load("sources", other).SOURCE.datasets(str(tmp_path)) == []
        (tmp_path / "empty").mkdir()
        assert source.datasets(str(tmp_path / "empty")) == source.datasets(str(tmp_path / "nothing")) == []

    def test_refs_are_deterministic_sorted_and_picklable(self, source_and_root: tuple[Source, Path]) -> None:
        source, root = source_and_root
        refs = source.refs(str(root))
        assert list(refs) == list(source.refs(str(root)))
        assert [ref.key for ref in refs] == sorted({ref.key for ref in refs})
        assert pickle.loads(pickle.dumps(refs)) == refs
        assert all(ref.source == source.name and ref.location == str(root) for ref in refs)
        assert all(ref.num_bytes > 0 for ref in refs)

    def test_reads_the_same_twice(self, source_and_root: tuple[Source, Path], video: VideoTools) -> None:
        source, root = source_and_root
        for ref, num_steps in zip(source.refs(str(root)), (4, 7), strict=True):
            first, second = source.read(ref, video, Limits()), source.read(ref, video, Limits())
            assert facts(first) == facts(second)
            assert pickle.loads(pickle.dumps(first)).episode_id == first.episode_id
            assert first.ref == ref
            assert len(first.source_sha256) == 64
            for stream in first.streams:
                assert stream.values.shape[0] == num_steps
                assert stream.times_ns.dtype == np.int64
                assert np.all(np.diff(stream.times_ns) > 0)
            (view,) = first.views
            assert view.num_frames == num_steps
            assert sum(len(chunk) for chunk in video.decode(view, "golden")) == num_steps

    def test_state_follows_the_files(self, source_and_root: tuple[Source, Path]) -> None:
        source, root = source_and_root
        before = source.refs(str(root))
        for path in root.rglob("*"):
            if path.is_file() and path.suffix not in (".json", ".jsonl"):
                path.write_bytes(path.read_bytes())
        after = source.refs(str(root))
        assert [ref.key for ref in before] == [ref.key for ref in after]
        assert all(old.state != new.state for old, new in zip(before, after, strict=True))
