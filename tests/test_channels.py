import contextlib
import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import cards, registry
from pipelines.channels import map_streams, to_episode
from pipelines.video import VideoTools
from schemas.dataset_card import ChannelMap, DatasetCard, Language
from schemas.embodiment import Embodiment
from schemas.episode import EncodedView, EpisodeRef, Instruction, RawEpisode, Stream
from schemas.errors import CardError, CorruptEpisode, MissingFile
from schemas.recipes import Limits
from tests.real import real_data

T = 4
STATE = np.arange(T * 3, dtype=np.float32).reshape(T, 3) / np.float32(3)
ACTION = np.arange(T * 2, dtype=np.float64).reshape(T, 2) / 7


def stream(name: str, values: np.ndarray, times: np.ndarray | None = None, clock: Any = "declared") -> Stream:
    return Stream(name, values, np.arange(len(values)) if times is None else times, clock)


def view(key: str, times: np.ndarray | None = None) -> EncodedView:
    return EncodedView(key, "mjpeg", "mov", b"x", 8, 8, np.arange(T) if times is None else times, "0", "packed")


def raw(**changes: Any) -> RawEpisode:
    ref = EpisodeRef("rlds", "/data", "toy", "1", "train", "train/0", "s", 1)
    streams = (stream("state", STATE), stream("action", ACTION), stream("success", np.array([0, 0, 0, 1])))
    whole = RawEpisode(ref, streams, (view("cam"),), (Instruction("go", "lang"),), None, "0")
    return dataclasses.replace(whole, **changes)


ARM = Embodiment.model_validate(
    {
        "name": "arm",
        "title": "",
        "control_rate": 3,
        "views": ["primary", "wrist_left"],
        "proprio": [{"names": ["x", "y", "z"]}],
        "action": [{"names": ["x", "y"]}],
    }
)


def card(**changes: Any) -> DatasetCard:
    values: dict[str, Any] = {
        "name": "toy",
        "version": 1,
        "title": "",
        "source": "rlds",
        "embodiment": "arm",
        "license": "MIT",
        "proprio": (ChannelMap(field="state"),),
        "action": (ChannelMap(field="action", stop=2),),
        "views": {"cam": "primary"},
    }
    return DatasetCard(**(values | changes))


def test_plain_indices_get_the_rate() -> None:
    spans = (Instruction("a", "lang", 0, 2), Instruction("b", "lang", 2, 4))
    episode = to_episode(raw(instructions=spans), card(), ARM)
    times = [0, 333_333_333, 666_666_666, 1_000_000_000]
    for one in (*episode.raw.streams, episode.action, episode.proprio, episode.views["primary"]):
        np.testing.assert_array_equal(one.times_ns, times)
    assert episode.control_rate == 3
    assert [(i.start_ns, i.stop_ns) for i in episode.instructions] == [(0, 666_666_666), (666_666_666, 1_333_333_333)]
    assert episode.raw.episode_id == raw(instructions=spans).episode_id
    faster = to_episode(raw(), card(control_rate=5), ARM)
    np.testing.assert_array_equal(faster.action.times_ns, np.arange(T) * 200_000_000)


def test_applying_a_card_twice_changes_nothing() -> None:
    once = to_episode(raw(), card(), ARM)
    twice = to_episode(once.raw, card(), ARM)
    np.testing.assert_array_equal(once.action.times_ns, twice.action.times_ns)
    np.testing.assert_array_equal(once.views["primary"].times_ns, twice.views["primary"].times_ns)


def test_recorded_times_are_kept_only_where_the_card_wants_them() -> None:
    times = np.array([0, 90, 210, 300]) * 1_000_000
    streams = tuple(dataclasses.replace(one, times_ns=times, clock="source") for one in raw().streams)
    own = np.array([45, 150]) * 1_000_000
    sensor = Stream("force", np.zeros(2), own, "source")
    recorded = raw(streams=(*streams, sensor), declared_rate=Fraction(10), views=(view("cam", times),))
    kept = to_episode(recorded, card(clock="source"), ARM)
    np.testing.assert_array_equal(kept.action.times_ns, times)
    assert kept.action.clock == "source"
    declared = to_episode(recorded, card(), ARM)
    np.testing.assert_array_equal(declared.action.times_ns, np.arange(T) * 100_000_000)
    assert not declared.findings
    slow = tuple(dataclasses.replace(one, times_ns=times * 3 // 2, clock="source") for one in raw().streams)
    (told,) = to_episode(
        raw(streams=slow, declared_rate=Fraction(10), views=(view("cam", times),)), card(), ARM
    ).findings
    assert told.rule == "recorded_rate_differs"
    assert dict(told.numbers)["recorded_hz"] == pytest.approx(20 / 3)
    np.testing.assert_array_equal(declared.views["primary"].times_ns, np.arange(T) * 100_000_000)
    assert declared.action.clock == "declared"
    carried = declared.raw.stream("force")
    assert carried is not None
    assert (carried.clock, carried.times_ns.tolist()) == ("declared", [50_000_000, 150_000_000])


def test_cameras_with_clocks_of_their_own_never_mix_with_another_clock() -> None:
    times = np.array([0, 90, 210, 300]) * 1_000_000
    streams = tuple(dataclasses.replace(one, times_ns=times, clock="source") for one in raw().streams)
    frames = np.array([-10, 45, 90, 255, 320]) * 1_000_000
    recorded = raw(streams=streams, declared_rate=Fraction(10), views=(view("cam", frames),))
    np.testing.assert_array_equal(to_episode(recorded, card(clock="source"), ARM).views["primary"].times_ns, frames)
    moved = to_episode(recorded, card(), ARM).views["primary"].times_ns
    assert moved.tolist() == [-10_000_000, 50_000_000, 100_000_000, 250_000_000, 320_000_000]
    per_step = raw(streams=streams, declared_rate=Fraction(10), views=(view("cam", times + 7_000_000),))
    paired = to_episode(per_step, card(), ARM)
    np.testing.assert_array_equal(paired.views["primary"].times_ns, paired.action.times_ns)


def test_a_card_corrects_a_wrong_declared_rate() -> None:
    times = np.array([0, 1, 2, 5]) * 100_000_000  # frames 3 and 4 were dropped
    streams = tuple(dataclasses.replace(one, times_ns=times) for one in raw().streams)
    episode = to_episode(
        raw(streams=streams, declared_rate=Fraction(10), views=(view("cam", times),)), card(control_rate=15), ARM
    )
    expected = [0, 66_666_666, 133_333_333, 333_333_333]
    np.testing.assert_array_equal(episode.action.times_ns, expected)
    np.testing.assert_array_equal(episode.views["primary"].times_ns, expected)


def test_values_are_exactly_the_sources() -> None:
    episode = to_episode(raw(), card(), ARM)
    assert episode.proprio.values.dtype == np.float64
    np.testing.assert_array_equal(episode.proprio.values, STATE.astype(np.float64))
    np.testing.assert_array_equal(episode.action.values, ACTION)


@given(scale=st.floats(-5, 5).filter(bool), offset=st.floats(-5, 5), start=st.integers(0, 2))
def test_slices_scale_and_offset(scale: float, offset: float, start: int) -> None:
    maps = (
        ChannelMap(field="state", start=start, stop=start + 1, scale=scale, offset=offset),
        ChannelMap(field="action"),
    )
    episode = to_episode(raw(), card(proprio=maps), ARM)
    np.testing.assert_allclose(episode.proprio.values[:, 0], STATE[:, start].astype(float) * scale + offset)
    np.testing.assert_array_equal(episode.proprio.values[:, 1:], ACTION)
    action, proprio = map_streams(episode.raw.streams, card(proprio=maps), ARM)
    np.testing.assert_array_equal(proprio.values, episode.proprio.values)
    np.testing.assert_array_equal(action.values, episode.action.values)


def test_scalars_and_flags_count_as_one_column() -> None:
    maps = (ChannelMap(field="success"), ChannelMap(field="action"))
    assert to_episode(raw(), card(proprio=maps), ARM).proprio.values[-1, 0] == 1.0


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"proprio": (ChannelMap(field="stat"),)}, "wants the field 'stat'", "did you mean 'state'"),
        ({"proprio": (ChannelMap(field="state", stop=7),)}, "columns 0 to 7 of state, which has 3", "start and stop"),
        ({"proprio": (ChannelMap(field="state", start=3),)}, "columns 3 to 3 of state", "start and stop"),
        ({"proprio": (ChannelMap(field="state", stop=2),)}, "proprio gets 2 columns", "layout"),
        ({"proprio": ()}, "proprio gets 0 columns", "layout"),
    ],
)
def test_a_card_that_does_not_fit_is_the_cards_error(changes: dict, message: str, hint: str) -> None:
    with pytest.raises(CardError) as caught:
        to_episode(raw(), card(**changes), ARM)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_success_that_an_episode_does_not_state_is_unknown_and_told() -> None:
    episode = to_episode(raw(), card(success_field="won"), ARM)
    assert episode.success is None
    assert [finding.rule for finding in episode.findings] == ["missing_success"]


def test_fields_of_other_lengths_are_the_episodes_error() -> None:
    short = stream("short", np.zeros((T - 1, 1)))
    maps = (ChannelMap(field="action"), ChannelMap(field="short"))
    with pytest.raises(CorruptEpisode, match=r"4 steps.*3 steps") as caught:
        to_episode(raw(streams=(*raw().streams, short)), card(proprio=maps), ARM)
    assert caught.value.reason == "length_mismatch"


def test_views_fill_slots() -> None:
    both = raw(views=(view("cam"), view("spare")))
    episode = to_episode(both, card(), ARM)
    assert {slot: one.key for slot, one in episode.views.items()} == {"primary": "cam"}
    assert [(f.rule, f.where) for f in episode.findings] == [("camera_not_in_card", "spare")]
    wants = card(views={"cam": "primary", "wrist": "wrist_left"})
    with pytest.raises(CorruptEpisode, match=r"wrist.*found: cam, spare") as caught:
        to_episode(both, wants, ARM)
    assert caught.value.reason == "missing_view"
    assert set(to_episode(both, wants.model_copy(update={"optional_views": ("wrist_left",)}), ARM).views) == {"primary"}


def test_language_is_filtered_and_ordered() -> None:
    said = (
        Instruction("Valid ", "a"), Instruction("second", "b"), Instruction("first", "a"), Instruction(" ", "a"),
        Instruction("elsewhere", "c"),
    )  # fmt: skip
    language = Language(fields=("a", "b"), ignore=("valid",))
    episode = to_episode(raw(instructions=said), card(language=language), ARM)
    assert [i.text for i in episode.instructions] == ["first", "second"]
    assert [f.rule for f in episode.findings] == [
        "placeholder_instruction", "empty_instruction", "language_not_in_card",
    ]  # fmt: skip
    assert [i.text for i in to_episode(raw(instructions=said), card(), ARM).instructions] == [
        "Valid ", "second", "first", "elsewhere",
    ]  # fmt: skip


def test_success() -> None:
    assert to_episode(raw(), card(), ARM).success is None
    assert to_episode(raw(), card(success_field="success"), ARM).success is True
    lost = (*raw().streams[:2], stream("success", np.zeros((T, 1), bool)))
    assert to_episode(raw(streams=lost), card(success_field="success"), ARM).success is False
    assert to_episode(raw(attributes=(("won", False),)), card(success_field="won"), ARM).success is False


def test_the_input_is_left_alone() -> None:
    whole = raw()
    before = [one.times_ns.copy() for one in whole.streams]
    to_episode(whole, card(), ARM)
    for one, times in zip(whole.streams, before, strict=True):
        np.testing.assert_array_equal(one.times_ns, times)


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "source", "name", "shapes", "period_ns"),
    [
        ("octo_bridge_rlds", "rlds", "bridge", ((10, 7), (10, 7)), 200_000_000),
        ("g1_lerobot_v21_subset", "lerobot", "unitree_g1_inspire", ((290, 26), (290, 26)), 33_333_333),
        ("gr00t_gr1_sim_lerobot_v2", "lerobot", "gr1", ((416, 44), (416, 44)), 50_000_000),
        ("lerobot_v3_slices", "lerobot", "pusht", ((161, 2), (161, 2)), 100_000_000),
    ],
)
def test_real_recordings_find_their_card(folder: str, source: str, name: str, shapes: tuple, period_ns: int) -> None:
    member = registry.load("sources", source).SOURCE
    refs = [ref for place in member.datasets(str(real_data(folder))) for ref in member.refs(place)]
    found = None
    with VideoTools(Limits()) as video:
        for ref in refs:
            with contextlib.suppress(MissingFile):
                found = member.read(ref, video, Limits())
                break
    assert found is not None
    names = [*(one.name for one in found.streams), *(one.key for one in found.views)]
    chosen = cards.recognize(source, found.ref.dataset, found.robot_type, names, where=str(Path(found.ref.location)))
    assert chosen.name == name
    episode = to_episode(found, chosen, cards.load_embodiment(chosen.embodiment))
    assert (episode.action.values.shape, episode.proprio.values.shape) == shapes
    assert episode.action.times_ns[1] == period_ns
    assert len(episode.instructions) == 1
    for one in episode.views.values():
        assert one.num_frames == episode.num_steps
        assert abs(int(one.times_ns[1]) - period_ns) <= 1_000_000
