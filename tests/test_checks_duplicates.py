"""The duplicate checks, over facts of several episodes."""

import itertools

from validation.check import EpisodeFacts, judge_set
from validation.checks import duplicates


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
