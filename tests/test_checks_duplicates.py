"""The duplicate checks, over facts of several episodes, and the signatures of motion behind them."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.lake import Lake
from pipelines.twins import set_facts
from tests.chain import run_ingest, write_short
from tests.real import real_data
from validation.check import EpisodeFacts, judge_set
from validation.checks import duplicates
from validation.signature import Likeness, candidates, compare, from_bytes, signature, to_bytes, vectors_of


def fact(episode_id: str, *places: tuple[str, str, str], action: str = "", num_steps: int = 10) -> EpisodeFacts:
    return EpisodeFacts(episode_id, "bridge", places, num_steps, ("open it",), action or f"motion of {episode_id}")


def rules_of(facts: list[EpisodeFacts]) -> dict[str, list[str]]:
    return {key: sorted(f.rule for f in findings) for key, findings in duplicates.check_set(facts).items()}


def test_distinct_episodes_have_no_finding() -> None:
    assert rules_of([fact("a", ("sets/one", "train", "0")), fact("b", ("sets/one", "val", "0"))]) == {}


def test_the_same_episode_in_train_and_val() -> None:
    found = duplicates.check_set([fact("a", ("sets/one", "train", "train/0"), ("sets/one", "val", "val/0"))])
    leak = next(finding for finding in found["a"] if finding.rule == "split_leak")
    assert "train, val" in leak.message
    assert {finding.rule for finding in found["a"]} == {"split_leak", "found_twice"}


def test_the_same_episode_in_two_folders_of_one_split() -> None:
    assert rules_of([fact("a", ("sets/one", "train", "0"), ("sets/copy", "train", "0"))]) == {"a": ["found_twice"]}


def test_the_same_motion_under_another_id() -> None:
    facts = [
        fact("a", ("sets/one", "train", "0"), action="m"),
        fact("b", ("sets/two", "train", "0"), action="m"),
        fact("c", ("sets/two", "train", "1")),
    ]
    assert rules_of(facts) == {"a": ["same_motion"], "b": ["same_motion"]}
    assert "equal those of b (bridge)" in duplicates.check_set(facts)["a"][0].message


def test_the_same_motion_in_another_split_is_a_leak() -> None:
    facts = [fact("a", ("s", "train", "0"), action="m"), fact("b", ("t", "test", "0"), action="m")]
    assert rules_of(facts) == {"a": ["same_motion", "split_leak"], "b": ["same_motion", "split_leak"]}


def test_very_short_episodes_may_be_equal_by_chance() -> None:
    assert rules_of([fact("a", action="m", num_steps=2), fact("b", action="m", num_steps=2)]) == {}


def test_the_order_of_the_episodes_changes_nothing() -> None:
    facts = [
        fact("a", ("s", "train", "0"), action="m"),
        fact("b", ("t", "test", "0"), action="m"),
        fact("c", ("s", "train", "1"), ("s", "val", "1")),
    ]
    expected = judge_set(facts)
    assert set(expected) == {"a", "b", "c"}
    assert all(judge_set(list(order)) == expected for order in itertools.permutations(facts))


# --- signatures ------------------------------------------------------------------------------------------------------


def motion(seed: int, num_steps: int = 240, num_channels: int = 7) -> np.ndarray:
    """A hand that wanders, rests, and wanders on, with the noise of a measurement: float64 [T, C]."""
    source = np.random.default_rng(seed)
    knots = source.normal(0, 0.3, (num_steps // 12 + 4, num_channels))
    knots[6:9] = knots[6]
    places = np.linspace(0, len(knots) - 3, num_steps)
    ends = places.astype(int)
    part = (places - ends)[:, None]
    smooth = knots[ends] + (knots[ends + 1] - knots[ends]) * part * part * (3 - 2 * part)
    return smooth + source.normal(0, 1e-4, smooth.shape)


def recording(values: np.ndarray, proprio: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The vectors of an episode whose proprio follows its action, as fields of its source and as mapped."""
    proprio = 0.9 * np.roll(values, 1, axis=0) if proprio is None else proprio
    return vectors_of(values, proprio, {"action": values, "observation/state": proprio})


def is_candidate(*recordings: dict[str, np.ndarray]) -> bool:
    return (0, 1) in set(candidates([signature(one) for one in recordings]))


WRAPPINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda values: values.astype(np.float32),
    "three decimals": lambda values: values.round(3),
    "trimmed at both ends": lambda values: values[9:-23],
    "a third cut off": lambda values: values[80:],
    "every second row": lambda values: values[::2],
    "every third row, trimmed, rounded": lambda values: values[4:-7:3].round(3).astype(np.float32),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("seed", range(4))
def test_a_recording_is_found_in_another_wrapping(wrapping: str, seed: int) -> None:
    whole = motion(seed)
    other = WRAPPINGS[wrapping](whole)
    one, two = recording(whole), vectors_of(other, np.zeros((len(other), 0)), {"somewhere": other[:, :4]})
    assert is_candidate(one, two), "only the action is there"
    found = compare(one, two)
    assert found is not None
    stride = {"every second row": 2, "every third row, trimmed, rounded": 3}.get(wrapping, 1)
    offset = {"trimmed at both ends": 9, "a third cut off": 80, "every third row, trimmed, rounded": 4}.get(wrapping, 0)
    assert (found.stride, found.offset, found.first_is_finer) == (stride, offset, True)
    assert found.share > 0.98
    assert found.max_difference <= 0.0006
    turned = compare(two, one)
    assert turned is not None
    assert (turned.stride, turned.offset) == (
        stride,
        offset if stride > 1 else -offset if turned.first_is_finer else offset,
    )


def test_a_field_among_others_is_enough() -> None:
    whole = motion(1, num_channels=13)
    one = recording(whole[:, :6], whole[:, 6:])
    two = recording(motion(2, 200, 8), np.concatenate([whole[20:220, 9:], motion(3, 200, 3)], axis=1))
    assert is_candidate(one, two)
    assert compare(one, two) is None, "four of seven channels are another recording's"
    three = vectors_of(np.zeros((200, 0)), whole[20:220, 9:], {"joints": whole[20:220, 9:]})
    assert is_candidate(one, three)
    found = compare(one, three)
    assert found is not None
    assert (found.vector, found.other_vector, found.num_channels) == ("proprio", "proprio", 4)


def test_what_rests_or_only_switches_is_no_evidence() -> None:
    rests = np.repeat(np.linspace(-1, 1, 7)[None], 300, axis=0)
    switches = np.repeat((np.arange(300) // 50 % 2).astype(float)[:, None], 2, axis=1)
    ramp = np.repeat(np.arange(300.0)[:, None], 3, axis=1)
    for values in (rests, switches, ramp, rests[:0], np.full((90, 3), np.nan), np.full((90, 3), np.inf)):
        assert len(signature(recording(values, values))) == 0
        assert compare(recording(values, values), recording(values, values)) is None


def test_the_same_rest_between_other_motions_is_no_evidence() -> None:
    one, two = motion(1), motion(2)
    one[60:200] = two[60:200] = motion(3)[0]
    assert not is_candidate(recording(one), recording(two))
    assert compare(recording(one), recording(two)) is None


def test_replayed_commands_and_falling_things_are_no_duplicate() -> None:
    commands, one, two, things = motion(1), motion(2), motion(3), motion(4)
    assert compare(recording(commands, one), recording(commands, two)) is None
    with_things = [
        vectors_of(values, values, {"state": values, "object": things, "clock": things[:, :1]}) for values in (one, two)
    ]
    assert compare(*with_things) is None


def test_many_recordings_have_no_false_pair_and_all_true_ones() -> None:
    recordings = [recording(motion(seed, 120 + seed % 50, 6)) for seed in range(150)]
    copies = [recording(motion(seed, 120 + seed % 50, 6)[11:]) for seed in range(0, 150, 15)]
    signatures = [signature(one) for one in [*recordings, *copies]]
    pairs = set(candidates(signatures))
    true = {(15 * index, 150 + index) for index in range(10)}
    assert true <= pairs
    assert len(pairs) < 150, "of 12,720"
    both = [*recordings, *copies]
    assert {(i, j) for i, j in pairs if compare(both[i], both[j])} == true


def test_many_copies_are_all_found_and_cost_no_square() -> None:
    same = [signature(recording(motion(1)[: 200 + index % 7])) for index in range(120)]
    pairs = list(candidates(same))
    assert {one for pair in pairs for one in pair} == set(range(120))
    assert len(pairs) < 120 * 60


@pytest.mark.parametrize("value", [0.0, -1e300, np.nan, np.inf])
def test_any_numbers_have_a_signature(value: float) -> None:
    values = motion(5)
    values[17, 2] = value
    fields = {
        "text": np.array(["a"] * 240),
        "flag": values[:, 0] > 0,
        "wide": np.zeros((240, 2, 200)),
        "none": values[:0],
        "tiny": values * 1e-310,
        "huge": motion(5) * 1e305,
    }
    vectors = vectors_of(values, values[:, :0], fields)
    assert "field text" not in vectors
    exact, hashes = from_bytes(to_bytes(vectors))
    assert len(exact) == 64
    assert np.array_equal(hashes, signature(vectors))
    found = compare(vectors, recording(motion(5)))
    assert found is not None
    assert found.num_channels >= 6


def likeness(**changes: float) -> Likeness:
    facts = {"num_channels": 7, "num_rows": 90, "num_moving": 80, "share": 0.975, "max_difference": 5e-4, "offset": 12}
    return Likeness(vector="action", other_vector="field a", stride=3, first_is_finer=True, **(facts | changes))  # type: ignore[arg-type]


def test_a_probable_duplicate_tells_its_evidence_to_both() -> None:
    one, two = fact("a", ("s", "train", "0")), fact("b", ("t", "train", "0"))
    found = duplicates.check_set(
        [alike(one, ("b", likeness())), alike(two, ("a", likeness().turned)), fact("c", ("s", "val", "1"))]
    )
    assert {key: [f.rule for f in findings] for key, findings in found.items()} == {
        "a": ["probable_duplicate"],
        "b": ["probable_duplicate"],
    }
    assert dict(found["a"][0].numbers)["share"] == 0.975
    assert dict(found["a"][0].numbers)["offset"] == 12
    assert "97.5% of 80 rows with motion of action" in found["a"][0].message
    assert "beside row 12 of this" in found["a"][0].message
    assert "beside row 12 of the other" in found["b"][0].message
    assert (found["a"][0].where, found["b"][0].where) == ("action", "field a")


def test_a_probable_duplicate_in_another_split_is_a_leak() -> None:
    facts = [
        alike(fact("a", ("s", "train", "0")), ("b", likeness())),
        alike(fact("b", ("t", "val", "0")), ("a", likeness())),
    ]
    assert rules_of(facts) == {"a": ["probable_duplicate", "split_leak"], "b": ["probable_duplicate", "split_leak"]}


def alike(fact_of: EpisodeFacts, *others: tuple[str, Likeness]) -> EpisodeFacts:
    return EpisodeFacts(
        fact_of.episode_id, fact_of.dataset, fact_of.locations, fact_of.num_steps, fact_of.instructions,
        fact_of.action_sha256, others,
    )  # fmt: skip


# --- lakes -----------------------------------------------------------------------------------------------------------


def kept(root: Path) -> list[str]:
    return [row["episode_id"] for row in Lake.open(root).rows("episodes", ["outcome"]) if row["outcome"] == "kept"]


def test_the_same_recordings_in_other_layouts_and_lengths(tmp_path: Path) -> None:
    places = [
        write_short(tmp_path / "a", "rlds", (60, 50, 40)),
        write_short(tmp_path / "b", "lerobot_v21", (52, 44)),
    ]
    assert run_ingest(places, tmp_path / "lake").values["kept"] == 5
    facts = set_facts(Lake.open(tmp_path / "lake"), kept(tmp_path / "lake"))
    by_steps = {one.num_steps: one for one in facts}
    pairs = {(one.num_steps, next(two.num_steps for two in facts if two.episode_id == other))
             for one in facts for other, _ in one.alike}  # fmt: skip
    assert pairs == {(60, 52), (52, 60), (50, 44), (44, 50)}
    ((_, evidence),) = by_steps[60].alike
    assert (evidence.offset, evidence.stride, evidence.share, evidence.max_difference) == (0, 1, 1.0, 0.0)
    assert evidence.num_rows == 52
    assert {f.rule for findings in judge_set(facts).values() for f in findings} == {"probable_duplicate"}


@pytest.mark.real
def test_real_recordings_that_differ_make_no_pair(tmp_path: Path) -> None:
    """Bridge holds the same 25 in train and val; pusht and GR-1 hold none twice."""
    folders = ("octo_bridge_rlds", "gr00t_gr1_sim_lerobot_v2", "lerobot_v3_slices/pusht_image_slice")
    places = [real_data(folder) for folder in folders]
    run_ingest(places, tmp_path / "lake")
    facts = set_facts(Lake.open(tmp_path / "lake"), kept(tmp_path / "lake"))
    assert len(facts) >= 25 + 5 + 3
    assert [one.episode_id for one in facts if one.alike] == []
