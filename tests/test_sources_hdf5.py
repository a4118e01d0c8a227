"""The hdf5 source: its layouts value for value, what each refuses, and real recordings."""

import dataclasses
import io
import os
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from PIL import Image

from pipelines import cards, registry
from pipelines.channels import to_episode
from pipelines.hdf5_process import Reader
from pipelines.simulate import ROBOTS, simulate
from pipelines.sources.hdf5 import SOURCE
from pipelines.video import VideoTools
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Embodiment
from schemas.episode import RawEpisode
from schemas.errors import CorruptEpisode, SourceError, WamloomError
from schemas.recipes import Limits
from tests.clips import encode, pictures
from tests.fake_video import FakeVideo
from tests.real import real_data
from tests.recorded import picture
from tests.recorded_hdf5 import ENVIRONMENT, demo, fill, padded, pixels, vectors, write_aloha, write_robomimic


@pytest.fixture(scope="module")
def video():
    with VideoTools(Limits()) as tools:
        yield tools


def read(root: Path, index: int = 0, video: VideoTools | None = None, limits: Limits | None = None) -> RawEpisode:
    return SOURCE.read(SOURCE.refs(str(root))[index], video or FakeVideo(4), limits or Limits())


def outcome(root: Path, index: int = 0, limits: Limits | None = None) -> str:
    """The reason an episode cannot be read, which comes with a hint; or ok."""
    try:
        read(root, index, limits=limits)
    except WamloomError as error:
        return error.reason if error.hint and error.where else "no hint"
    return "ok"


def film(path: Path, num_frames: int) -> None:
    path.write_bytes(encode("h264", pictures(num_frames)))


def png_pixels(images: list[bytes]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(image))) for image in images])


class TestRobomimic:
    def test_values_pictures_and_facts_come_back(self, tmp_path: Path) -> None:
        lengths = {f"demo_{number}": demo(number, number + 2) for number in (0, 1, 2, 10)}
        root = write_robomimic(
            tmp_path / "lift.hdf5", lengths, mask__train=[b"demo_1", b"demo_10"], mask__few=[b"demo_10"]
        )
        refs = SOURCE.refs(str(root))
        assert [ref.detail("group") for ref in refs] == ["data/demo_0", "data/demo_1", "data/demo_2", "data/demo_10"]
        assert [ref.split for ref in refs] == ["", "train", "", "train"]
        fake = FakeVideo(12)
        raw = SOURCE.read(refs[3], fake, Limits())
        assert raw.findings == ()
        assert (raw.declared_rate, raw.robot_type) == (Fraction(20), "Panda")
        assert [(one.text, one.field) for one in raw.instructions] == [("lift cup 10", "ep_meta")]
        streams = {stream.name: stream for stream in raw.streams}
        assert sorted(streams) == ["actions", "obs/state", "rewards"]
        np.testing.assert_array_equal(streams["actions"].values, vectors(10, 12, 2))
        np.testing.assert_array_equal(streams["obs/state"].values, vectors(10, 12, 3).astype(np.float32))
        assert streams["obs/state"].values.dtype == np.float32
        np.testing.assert_array_equal(streams["actions"].times_ns, np.arange(12) * 50_000_000)
        (view,) = raw.views
        assert view.key == "obs/camera_image"
        np.testing.assert_array_equal(view.times_ns, np.arange(12) * 50_000_000)
        np.testing.assert_array_equal(png_pixels(list(fake.packed[0])), pixels(10, 12))
        assert dict(raw.attributes)["mask"] == "few, train"

    def test_libero_says_its_task_once_for_all(self, tmp_path: Path) -> None:
        said = '{"language_instruction": "\\"open the drawer\\""}'
        root = write_robomimic(
            tmp_path / "t.hdf5", {"demo_0": demo(0, 3, at_ep_meta=None)}, **{"data__@problem_info": said}
        )
        assert [(one.text, one.field) for one in read(root).instructions] == [("open the drawer", "problem_info")]
        letters = '{"language_instruction": ["a", " ", "b"]}'
        root = write_robomimic(
            tmp_path / "u.hdf5", {"demo_0": demo(0, 3, at_ep_meta=None)}, **{"data__@problem_info": letters}
        )
        assert read(root, 1).instructions[0].text == "a b"

    @pytest.mark.parametrize("stored", ["pixels", "padded"])
    def test_what_next_obs_has_is_kept(self, tmp_path: Path, stored: str) -> None:
        seen = pixels(0, 5)
        files = [picture(10 * step) for step in range(5)]
        rows = seen if stored == "pixels" else padded(files)[0]
        changes = {"obs__camera_image": rows[:4], "next_obs__camera_image": rows[1:]}
        root = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0, 4, next_obs__state=vectors(9, 4, 3), **changes)})
        raw = read(root)
        np.testing.assert_array_equal(raw.stream("next_obs/state").values, vectors(9, 4, 3))
        assert raw.stream("next_obs/state").times_ns.tolist() == raw.stream("actions").times_ns.tolist()
        last = raw.stream("next_obs/camera_image")
        expected = seen[4] if stored == "pixels" else np.frombuffer(files[4], np.uint8)
        np.testing.assert_array_equal(last.values, expected[None])
        assert last.times_ns.tolist() == raw.stream("actions").times_ns[-1:].tolist()
        assert [view.key for view in raw.views] == ["obs/camera_image"]
        assert {(one.rule, one.where) for one in raw.findings} == {("next_obs_repeats", "next_obs/camera_image")}
        other = rows[1:].copy()
        other[1] = rows[0]
        root = write_robomimic(
            tmp_path / "b" / "b.hdf5", {"demo_0": demo(0, 4, **changes | {"next_obs__camera_image": other})}
        )
        raw = read(root)
        assert [view.key for view in raw.views] == ["next_obs/camera_image", "obs/camera_image"]
        assert raw.findings == ()

    def test_odd_members_give_findings(self, tmp_path: Path) -> None:
        extra = {"subtask_ends": np.arange(3), "complex": np.zeros(4, complex)}
        root = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0, 4, at_model_file="<x/>" * 2000, **extra)})
        raw = read(root)
        rules = Counter((finding.rule, finding.where) for finding in raw.findings)
        assert rules == {
            ("array_left_out", "subtask_ends"): 1,
            ("array_left_out", "complex"): 1, ("attribute_left_out", "model_file"): 1,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"actions": None}, "missing_key"),
            ({"actions": np.zeros((0, 2))}, "empty"),
            ({"obs__state": np.zeros((3, 3))}, "length_mismatch"),
            ({"rewards": np.zeros(5)}, "length_mismatch"),
            ({"at_num_samples": 9}, "length_mismatch"),
            ({"obs__camera_image": np.zeros((0, 24, 24, 3), np.uint8)}, "empty"),
        ],
    )
    def test_what_is_not_whole_is_said(self, tmp_path: Path, changes: dict, reason: str) -> None:
        root = write_robomimic(tmp_path / "a.hdf5", {"demo_0": demo(0, 4, **changes), "demo_1": demo(1, 4)})
        assert outcome(root) == reason
        assert outcome(root, 1) == "ok"

    def test_a_demonstration_that_only_the_mask_knows_is_missed(self, tmp_path: Path) -> None:
        root = write_robomimic(tmp_path / "a.hdf5", (4,), mask__train=[b"demo_0", b"demo_7"])
        assert [outcome(root, index) for index in range(2)] == ["ok", "missing_demo"]


class TestAloha:
    def test_raw_pictures_and_depth_are_kept_without_loss(self, tmp_path: Path, video: VideoTools) -> None:
        depth: np.ndarray = np.arange(4 * 24 * 24, dtype=np.uint16).reshape(4, 24, 24) * 17
        changes = {"observations__images_depth__cam_high": depth, "base_action": vectors(3, 4, 2), "at_task": "fold it"}
        raw = read(write_aloha(tmp_path / "episode_3.hdf5", 4, **changes), video=video)
        assert [one.text for one in raw.instructions] == ["fold it"]
        assert raw.declared_rate is None
        color, gray = raw.views
        assert [view.codec for view in raw.views] == ["png", "png"]
        np.testing.assert_array_equal(np.concatenate(list(video.decode(color, "test"))), pixels(0, 4))
        position = gray.data.index(b"\x89PNG")  # the first picture as it lies in the container
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(gray.data[position:]))), depth[0])
        np.testing.assert_array_equal(raw.stream("base_action").values, vectors(3, 4, 2))
        assert [stream.times_ns.tolist() for stream in raw.streams] == [[0, 1, 2, 3]] * 4

    @pytest.mark.parametrize("kind", ["padded", "variable", "fixed"])
    def test_encoded_pictures_are_kept_byte_for_byte(self, tmp_path: Path, kind: str) -> None:
        images = [picture(10 * step, size=16 + 8 * (step == 9)) for step in range(4)]
        rows, lengths = padded(images)
        stored = {"padded": rows, "fixed": np.array(images)}.get(kind)
        root = write_aloha(tmp_path / "episode_0.hdf5", 4, observations__images__cam_high=stored)
        with h5py.File(root / "episode_0.hdf5", "a") as file:
            if stored is None:
                type_ = h5py.vlen_dtype(np.uint8)
                held = file["observations"].require_group("images").create_dataset("cam_high", (4,), type_)
                for step, image in enumerate(images):
                    held[step] = np.frombuffer(image, np.uint8)
            file["compress_len"] = np.array([lengths], np.float32)
        fake = FakeVideo(4)
        raw = read(root, video=fake)
        assert fake.packed == [images]
        assert raw.findings == ()
        assert raw.stream("compress_len").values.tolist() == [[length] for length in lengths]
        with h5py.File(root / "episode_0.hdf5", "a") as file:
            file["compress_len"][0, 2] = 1
        raw = read(root, video=fake)
        assert fake.packed[-1] == images
        assert [finding.rule for finding in raw.findings] == ["compress_len_disagrees"]

    def test_videos_beside_it_are_read_where_it_has_no_pictures(self, tmp_path: Path, video: VideoTools) -> None:
        root = write_aloha(tmp_path / "episode_1.hdf5", 4, observations__images__cam_high=None)
        film(root / "episode_1_cam_high.mp4", 4)
        film(root / "episode_10_cam_high.mp4", 4)
        raw = read(root, video=video)
        (view,) = raw.views
        assert (view.key, view.how, view.times_ns.tolist()) == ("cam_high", "copied", [0, 1, 2, 3])
        assert view.data == (root / "episode_1_cam_high.mp4").read_bytes()
        fill_root = write_aloha(tmp_path / "other" / "episode_1.hdf5", 4)
        film(fill_root / "episode_1_video.mp4", 4)
        raw = read(fill_root, video=video)
        assert [view.key for view in raw.views] == ["observations/images/cam_high"]
        assert [finding.rule for finding in raw.findings] == ["side_video_left_out"]

    def test_robomind_is_read_alike(self, tmp_path: Path) -> None:
        path = tmp_path / "task" / "success_episodes" / "train" / "1014_1" / "data" / "trajectory.hdf5"
        path.parent.mkdir(parents=True)
        with h5py.File(path, "w") as file:
            members = {
                "puppet/joint_position": vectors(0, 4, 8), "master/joint_position": vectors(1, 4, 8),
                "language_raw": np.array([b"pick up the apple"]), "observations/rgb_images/top": padded([picture(1)] * 4)[0],
            }  # fmt: skip
            fill(file, members)
        assert SOURCE.datasets(str(tmp_path)) == [str(tmp_path / "task")]
        raw = read(tmp_path / "task")
        assert [view.key for view in raw.views] == ["observations/rgb_images/top"]
        assert [one.text for one in raw.instructions] == ["pick up the apple"]
        assert raw.ref.key == "success_episodes/train/001014_000001/data/trajectory"

    def test_cards_tell_raw_from_compressed(self, tmp_path: Path) -> None:
        rows, lengths = padded([picture(step) for step in range(4)])
        for name, changes in {
            "aloha_static": {},
            "aloha_static_jpeg": {
                "observations__images__cam_high": rows,
                "compress_len": np.array([lengths], np.float32),
            },
        }.items():
            raw = read(write_aloha(tmp_path / name / "episode_0.hdf5", 4, **changes))
            fields = [*(stream.name for stream in raw.streams), *(view.key for view in raw.views)]
            card = cards.recognize("hdf5", raw.ref.dataset, raw.robot_type, fields)
            assert card.name == name
            episode = to_episode(raw, card, cards.load_embodiment(card.embodiment))
            np.testing.assert_array_equal(episode.action.values, vectors(0, 4, 14))
            assert episode.action.times_ns.tolist() == [0, 20_000_000, 40_000_000, 60_000_000]


class TestRoboHive:
    def write(self, path: Path, **changes: object) -> Path:
        with h5py.File(path, "w") as file:
            for number in (0, 1, 2, 10):
                actions = vectors(number, 5, 2)
                actions[-1] = np.nan
                members = {"time": np.arange(5) * 0.08, "actions": actions, "observations": vectors(number, 5, 3)}
                members |= {"env_infos/empty": np.full(5, np.nan, np.float16), "env_infos/solved": np.arange(5) == 4}
                members |= {key.replace("__", "/"): value for key, value in changes.items()}
                fill(file.create_group(f"Trial{number}"), members)
        return path.parent

    def test_recorded_times_and_the_action_that_was_not_taken(self, tmp_path: Path) -> None:
        root = self.write(tmp_path / "a_trace.h5")
        assert [ref.detail("group") for ref in SOURCE.refs(str(root))] == ["Trial0", "Trial1", "Trial2", "Trial10"]
        raw = read(root, 3)
        assert raw.stream("actions").values.tolist() == vectors(10, 5, 2)[:-1].tolist()
        assert raw.stream("observations").times_ns.tolist() == [0, 80_000_000, 160_000_000, 240_000_000, 320_000_000]
        assert {stream.clock for stream in raw.streams} == {"source"}
        rules = {(finding.rule, finding.where) for finding in raw.findings}
        assert rules == {("no_last_action", "actions"), ("placeholder_left_out", "env_infos/empty")}

    def test_an_action_lost_on_the_way_stays(self, tmp_path: Path) -> None:
        actions = vectors(0, 5, 2)
        actions[2:] = np.nan
        raw = read(self.write(tmp_path / "a_trace.h5", actions=actions))
        np.testing.assert_array_equal(raw.stream("actions").values, actions)

    def test_times_that_are_none_fail(self, tmp_path: Path) -> None:
        assert outcome(self.write(tmp_path / "a.h5", time=np.array([0, 1, np.nan, 3, 4]))) == "bad_times"

    def test_the_video_of_a_trial(self, tmp_path: Path, video: VideoTools) -> None:
        root = self.write(tmp_path / "test.h5")
        film(root / "test_left-top_10.mp4", 5)
        keys = [[view.key for view in read(root, index, video).views] for index in range(4)]
        assert keys == [[], [], [], ["left-top"]]
        assert read(root, 3, video).views[0].times_ns.tolist() == [0, 80_000_000, 160_000_000, 240_000_000, 320_000_000]


class TestFiles:
    """What a file may not do, whatever layout it is of. The episode beside it in the same file reads on."""

    def damaged(self, root: Path, damage) -> Path:
        write_robomimic(root / "a.hdf5", {"demo_0": demo(0, 4), "demo_1": demo(1, 4)})
        with h5py.File(root / "a.hdf5", "a") as file:
            damage(file["data/demo_0"])
        return root

    def check(self, root: Path, damage, reason: str, limits: Limits | None = None) -> None:
        self.damaged(root, damage)
        assert outcome(root, 0, limits) == reason
        assert outcome(root, 1) == "ok"

    def test_links_to_other_files_are_not_followed(self, tmp_path: Path) -> None:
        other = tmp_path / "secret" / "other.bin"
        other.parent.mkdir()
        with h5py.File(other, "w") as file:
            file["x"] = np.arange(12.0).reshape(4, 3)

        def link(demo: h5py.Group) -> None:
            demo["obs/extra"] = h5py.ExternalLink(str(other), "/x")

        def storage(demo: h5py.Group) -> None:
            demo.create_dataset("obs/extra", (4, 3), "f8", external=[(str(other), 0, 96)])

        def virtual(demo: h5py.Group) -> None:
            layout = h5py.VirtualLayout((4, 3), "f8")
            layout[:] = h5py.VirtualSource(str(other), "x", (4, 3))
            demo.create_virtual_dataset("obs/extra", layout)

        for name, damage in {"external_link": link, "external_storage": storage, "virtual": virtual}.items():
            root = self.damaged(tmp_path / name, damage)
            os.utime(other, ns=(1, other.stat().st_mtime_ns))  # read long before it was written
            self.assert_reason(root, name)
            assert other.stat().st_atime_ns == 1, "the other file was read"
        other.read_bytes()
        if other.stat().st_atime_ns == 1:
            pytest.skip("this disk does not keep when a file was read, so nothing is proven")

    def assert_reason(self, root: Path, reason: str) -> None:
        assert outcome(root, 0) == reason
        assert outcome(root, 1) == "ok"

    def test_links_inside_are_followed_and_circles_are_not(self, tmp_path: Path) -> None:
        def soft(demo: h5py.Group) -> None:
            demo["obs/again"] = h5py.SoftLink("/data/demo_0/obs/state")

        root = self.damaged(tmp_path / "soft", soft)
        raw = read(root)
        np.testing.assert_array_equal(raw.stream("obs/again").values, raw.stream("obs/state").values)

        def up(demo: h5py.Group) -> None:
            demo["obs/up"] = h5py.SoftLink("/data/demo_0")

        def itself(demo: h5py.Group) -> None:
            demo["obs/x"] = h5py.SoftLink("/data/demo_0/obs/x")

        def hard(demo: h5py.Group) -> None:
            demo["obs/up"] = demo

        def nowhere(demo: h5py.Group) -> None:
            demo["obs/x"] = h5py.SoftLink("/nothing/there")

        for damage, reason in (
            (up, "link_cycle"),
            (itself, "link_cycle"),
            (hard, "link_cycle"),
            (nowhere, "broken_link"),
        ):
            self.check(tmp_path / damage.__name__, damage, reason)

    def test_sizes_are_checked_before_anything_is_read(self, tmp_path: Path) -> None:
        def bomb(demo: h5py.Group) -> None:
            data = demo.create_dataset("obs/bomb", (4, 1 << 24), "f8", chunks=(1, 1 << 16), compression="gzip")
            data[0, :4] = 1

        self.check(tmp_path / "bomb", bomb, "too_large", Limits(max_array_bytes=1 << 20))
        assert outcome(tmp_path / "bomb") == "never_written"

        def chunk(demo: h5py.Group) -> None:
            demo.create_dataset("obs/one", (4,), "f8", maxshape=(None,), chunks=(1 << 26,))[:] = 1

        self.check(tmp_path / "chunk", chunk, "too_large", Limits(max_array_bytes=1 << 20))

    def test_values_that_nobody_wrote_are_not_zeros(self, tmp_path: Path) -> None:
        def contiguous(demo: h5py.Group) -> None:
            demo.create_dataset("obs/late", (4, 1 << 24), "f8")

        def chunked(demo: h5py.Group) -> None:
            demo.create_dataset("obs/late", (4, 3), "f8", chunks=(1, 3))[:3] = 1

        for damage in (contiguous, chunked):
            self.check(tmp_path / damage.__name__, damage, "never_written")

    def test_filters_that_are_not_built_in_are_refused(self, tmp_path: Path) -> None:
        def foreign(demo: h5py.Group) -> None:
            properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            properties.set_chunk((4, 3))
            properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # zstd, by the registry of filters
            space = h5py.h5s.create_simple((4, 3))
            h5py.h5d.create(demo["obs"].id, b"zstd", h5py.h5t.IEEE_F64LE, space, dcpl=properties)

        self.check(tmp_path / "foreign", foreign, "unsupported_filter")

    def test_cut_files_and_flipped_bits(self, tmp_path: Path) -> None:
        whole = write_aloha(tmp_path / "whole" / "episode_0.hdf5").joinpath("episode_0.hdf5").read_bytes()
        cuts = [0, 4, 100, 1000, len(whole) // 2, len(whole) - 1]
        found = []
        for cut in cuts:
            path = tmp_path / "cut" / f"episode_{cut}.hdf5"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(whole[:cut])
        found = [outcome(tmp_path / "cut", index) for index in range(len(cuts))]
        assert found[:2] == ["not_hdf5"] * 2
        assert set(found[2:]) <= {"truncated", "corrupt"}

        def sealed(demo: h5py.Group) -> None:
            del demo["obs/state"]
            values = vectors(0, 4, 3)
            demo.create_dataset("obs/state", data=values, fletcher32=True, chunks=(4, 3))

        root = self.damaged(tmp_path / "bits", sealed)
        data = bytearray((root / "a.hdf5").read_bytes())
        data[data.index(vectors(0, 4, 3).tobytes()) + 5] ^= 1
        (root / "a.hdf5").write_bytes(bytes(data))
        self.assert_reason(root, "corrupt")

    def test_every_cut_and_flip_is_a_row(self, tmp_path: Path) -> None:
        """Seeded damage at many places: an outcome each, and never another kind of error."""
        data = write_robomimic(tmp_path / "a" / "a.hdf5", (3,)).joinpath("a.hdf5").read_bytes()
        draws = np.random.default_rng(7)
        seen: Counter[str] = Counter()
        root = tmp_path / "b"
        root.mkdir()
        for _ in range(150):
            mutant = bytearray(data)
            for position in draws.integers(0, 4096, 3):
                mutant[position] ^= 1 << int(draws.integers(8))
            (root / "a.hdf5").write_bytes(bytes(mutant))
            try:
                for index in range(len(SOURCE.refs(str(root)))):
                    seen[outcome(root, index)] += 1
            except SourceError as error:
                seen[error.reason] += 1
        assert sum(seen.values()) >= 150
        assert len(seen) > 2

    def test_unknown_structures_say_what_they_hold(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "odd.h5", "w") as file:
            fill(file, {"q": np.zeros((3, 2)), "group/x": np.zeros(2)})
        with pytest.raises(SourceError, match=r"group/, q \[3, 2\]") as error:
            SOURCE.refs(str(tmp_path))
        assert error.value.reason == "unknown_layout"
        assert "robomimic" in error.value.hint
        write_aloha(tmp_path / "episode_0.hdf5")
        assert [outcome(tmp_path, index) for index in range(2)] == ["ok", "unknown_layout"]

    def test_a_file_changed_since_it_was_listed(self, tmp_path: Path) -> None:
        root = write_aloha(tmp_path / "episode_0.hdf5")
        (ref,) = SOURCE.refs(str(root))
        write_aloha(tmp_path / "episode_0.hdf5", 5)
        with pytest.raises(CorruptEpisode) as error:
            SOURCE.read(ref, FakeVideo(), Limits())
        assert error.value.reason == "changed_while_reading"

    def test_content_not_place_is_identity(self, tmp_path: Path) -> None:
        first, second = (read(write_aloha(tmp_path / name / f"{name}_5.hdf5")) for name in ("a", "b"))
        assert (first.episode_id, first.source_sha256) == (second.episode_id, second.source_sha256)
        assert first.attributes != second.attributes
        assert read(tmp_path / "a" / "a_5.hdf5").episode_id == first.episode_id
        moved = write_aloha(tmp_path / "c" / "a.hdf5", action=vectors(5, 4, 14))
        assert read(moved).episode_id != first.episode_id

    def test_files_of_others_are_left_alone(self, tmp_path: Path) -> None:
        write_aloha(tmp_path / "trajectory.h5")
        assert SOURCE.datasets(str(tmp_path)) == []


@pytest.mark.real
class TestReal:
    def test_robosuite_demonstration(self, video: VideoTools) -> None:
        (root,) = SOURCE.datasets(str(real_data("robocasa_hdf5")))
        (ref,) = SOURCE.refs(root)
        raw = SOURCE.read(ref, video, Limits())
        with h5py.File(Path(root) / "demo.hdf5") as file:
            for stream in raw.streams:
                np.testing.assert_array_equal(stream.values, file[f"data/demo_1/{stream.name}"][()])
        card = cards.recognize("hdf5", ref.dataset, raw.robot_type, [stream.name for stream in raw.streams])
        episode = to_episode(raw, card, cards.load_embodiment(card.embodiment))
        assert (episode.num_steps, episode.control_rate, card.name) == (174, 20, "robosuite_wipe_panda")
        simulated_s = raw.stream("states").values[:, 0]
        np.testing.assert_allclose(episode.action.times_ns / 1e9, simulated_s - simulated_s[0], atol=1e-9)

    def test_robohive_trace_and_its_oddities(self, video: VideoTools) -> None:
        (root,) = SOURCE.datasets(str(real_data("robohive_h5")))
        refs = SOURCE.refs(root)
        assert len(refs) == 11
        trace = Path(root) / "random_policy20230302-070139_trace.h5"
        with h5py.File(trace) as file:
            assert len(file) == 10
            for number, ref in enumerate(refs[:10]):
                raw = SOURCE.read(ref, video, Limits())
                card = cards.recognize("hdf5", ref.dataset, raw.robot_type, [stream.name for stream in raw.streams])
                episode = to_episode(raw, card, cards.load_embodiment(card.embodiment))
                trial = file[f"Trial{number}"]
                assert np.isnan(trial["actions"][-1]).all()
                np.testing.assert_array_equal(episode.action.values, trial["actions"][:-1])
                np.testing.assert_array_equal(episode.proprio.values[:, :9], trial["env_infos/obs_dict/qp_robot"][()])
                np.testing.assert_array_equal(
                    episode.proprio.times_ns, np.rint(trial["time"][()] * 1e9).astype(np.int64)
                )
                assert (len(episode.proprio.values), episode.num_steps, episode.success) == (51, 50, False)
                assert Counter(one.rule for one in raw.findings) == {"no_last_action": 1, "placeholder_left_out": 4}
        with pytest.raises(CorruptEpisode, match=r"action_type \[10\], ddq \[10, 1000, 7\]") as error:
            SOURCE.read(refs[10], video, Limits())
        assert error.value.reason == "unknown_layout"


class TestChild:
    """Whatever becomes of the child that reads, the next file is read."""

    READY = (
        "import socket, sys, os, time; from pipelines import video_wire; link = socket.socket(fileno=int(sys.argv[1]));"
        "video_wire.send(link, {'kind': 'ready'}); video_wire.receive(link);"
    )

    @pytest.mark.parametrize(
        ("then", "reason"),
        [
            ("time.sleep(60)", "deadline"),
            ("os.abort()", "reader_crashed"),
            ("sys.exit(77)", "memory_limit"),
            ("video_wire.send(link, {'kind': 'done', 'header': 1 << 60}); time.sleep(60)", "reader_crashed"),
        ],
    )
    def test_a_child_that_is_lost_costs_one_question(self, then: str, reason: str) -> None:
        reader = Reader((sys.executable, "-P", "-c", self.READY + then), least_seconds=0.5)
        for _ in range(2):  # a new child each time
            with pytest.raises(CorruptEpisode) as error:
                reader.ask({"do": "list", "file": "any.h5", "where": "here"}, Limits(), 0)
            assert (error.value.reason, error.value.where) == (reason, "here")
            assert error.value.hint

    def test_a_file_that_libhdf5_never_ends_with(self, tmp_path: Path) -> None:
        """A size in the heap that holds texts of variable length, changed so that libhdf5 2.0 goes round in it."""
        path = write_robomimic(tmp_path / "a.hdf5", (3, 2)) / "a.hdf5"
        data = bytearray(path.read_bytes())
        heap = data.index(b"GCOL")
        first = int.from_bytes(data[heap + 24 : heap + 32], "little")
        data[heap + 32 + -(-first // 8) * 8 + 8] = 127
        path.write_bytes(bytes(data))
        reader = Reader(least_seconds=3.0)
        told = {"do": "read", "file": str(path), "layout": "robomimic", "group": "data/demo_0", "where": "here"}
        with pytest.raises(CorruptEpisode) as error:
            reader.ask({**told, "limits": Limits().model_dump()}, Limits(), 0)
        assert error.value.reason in ("deadline", "corrupt")  # another libhdf5 may see it
        whole = write_robomimic(tmp_path / "b" / "b.hdf5") / "b.hdf5"
        header, bulk = reader.ask({"do": "list", "file": str(whole), "where": "there"}, Limits(), 0)
        bulk.close()
        assert header["layout"] == "robomimic"


def made_from(card: DatasetCard, embodiment: Embodiment, path: Path) -> Path:
    """A file with exactly the fields and cameras that the card names, where its layout has them."""
    members: dict[str, Any] = {}
    for maps, layout in ((card.action, embodiment.action), (card.proprio, embodiment.proprio)):
        done = 0
        for one in maps:
            width = len(layout) - done if one.stop is None else one.stop - one.start
            done += width
            members[one.field] = vectors(1, 12, one.start + width)
    for name in card.recognize.fields:
        members.setdefault(name, vectors(2, 12, 1))
    for key in card.views:
        members[key] = pixels(0, 12)
    for key in card.depth:
        members[key] = pixels(0, 12)[..., 0].astype(np.uint16) * 3
    if card.success_field:
        members[card.success_field] = np.arange(12) == 11
    if "compress_len" in members:
        members["compress_len"] = np.zeros((1, 12), np.float32)
    prefix = "Trial0/" if "robohive" in card.name else "" if "action" in members else "data/demo_0/"
    if card.clock == "source":
        members["time"] = np.arange(12) / 10
    with h5py.File(path, "w") as file:
        if prefix.startswith("data"):
            file.require_group("data").attrs["env_args"] = ENVIRONMENT
        fill(file, {f"{prefix}{name}": values for name, values in members.items()})
    return path.parent


CARDS = [name for name in cards.dataset_card_names() if cards.load_dataset_card(name).source == "hdf5"]


@pytest.mark.parametrize("name", CARDS)
def test_every_card_reads_back_what_is_made_from_it(tmp_path: Path, name: str) -> None:
    card, embodiment = cards.load_pair(name)
    folder = tmp_path / (card.recognize.datasets or ("any",))[0]
    folder.mkdir()
    raw = read(made_from(card, embodiment, folder / "episode_0.hdf5"), video=FakeVideo(12))
    fields = [*(stream.name for stream in raw.streams), *(view.key for view in raw.views)]
    assert cards.recognize("hdf5", raw.ref.dataset, raw.robot_type, fields).name == name
    episode = to_episode(raw, card, embodiment)
    for stream, maps in ((episode.action, card.action), (episode.proprio, card.proprio)):
        expected = np.concatenate([vectors(1, 12, one.stop or 99)[:, one.start :] for one in maps], axis=1)
        np.testing.assert_array_equal(stream.values, expected[:, : stream.values.shape[1]])
    assert set(episode.views) == set(card.views.values())
    assert set(episode.depth) == set(card.depth.values())
    assert episode.success is (True if card.success_field else None)


def test_remote_files_are_read_where_they_lie(tmp_path: Path) -> None:
    local = write_aloha(tmp_path / "episode_0.hdf5")
    store = fsspec.filesystem("memory")
    store.pipe("/hdf5_test/set/episode_0.hdf5", (local / "episode_0.hdf5").read_bytes())
    try:
        (root,) = SOURCE.datasets("memory://hdf5_test")
        raw = SOURCE.read(SOURCE.refs(root)[0], FakeVideo(), Limits())
    finally:
        store.rm("/hdf5_test", recursive=True)
    assert raw.episode_id == read(local).episode_id
    assert raw.ref.dataset == "set"


def test_sample_pictures_come_back_as_they_were_drawn(tmp_path: Path, video: VideoTools) -> None:
    """Raw ones bit for bit; ALOHA's JPEG with red and blue swapped, as its card says."""
    episode = simulate(ROBOTS[1], 3, 0)
    few = dataclasses.replace(
        episode, action=episode.action[:8], proprio=episode.proprio[:8], frame_numbers=episode.frame_numbers[:8]
    )
    drawn = np.stack(list(few.frames("primary")))
    shown = {}
    for layout in ("robomimic", "aloha"):
        registry.load("layouts", layout).write([few], tmp_path / layout / "sample_gantry")
        raw = read(tmp_path / layout / "sample_gantry", video=video)
        (shown[layout],) = [np.concatenate(list(video.decode(view, layout))) for view in raw.views]
    np.testing.assert_array_equal(shown["robomimic"], drawn)
    right, swapped = (
        np.abs(pixels.astype(int) - drawn).mean() for pixels in (shown["aloha"][..., ::-1], shown["aloha"])
    )
    assert right < 3 < swapped
