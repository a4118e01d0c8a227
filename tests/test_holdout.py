"""What is held out of a fit: a part chosen by hash, whatever the order, and never one of two copies."""

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pipelines.holdout import families, held_out

IDS = [f"episode {index}" for index in range(20)]
pairs_of_ids = st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from([*IDS, "another"])), max_size=25)


def test_what_is_held_out_hangs_on_nothing_but_the_episodes() -> None:
    held = held_out(IDS, 0.2)
    assert len(held) == 4
    assert held_out(IDS[::-1], 0.2) == held
    assert held < held_out(IDS, 0.5)
    assert len(held_out(IDS[:2], 0.01)) == len(held_out(IDS[:2], 0.99)) == 1
    assert held_out(IDS[:1], 0.2) == held_out(IDS, 0) == set()


@given(pairs_of_ids, st.floats(0.01, 0.99), st.randoms(use_true_random=False))
def test_copies_lie_on_one_side_whatever_the_order(
    pairs: list[tuple[str, str]], holdout: float, random: Random
) -> None:
    held = held_out(IDS, holdout, pairs)
    told = families(IDS, pairs)
    assert sorted(one for family in told for one in family) == sorted(IDS)
    for family in told:
        assert family <= held or not family & held
    assert bool(held) == (len(told) > 1)
    assert held < set(IDS)
    others, turned = IDS.copy(), [pair[::-1] for pair in pairs]
    random.shuffle(others)
    random.shuffle(turned)
    assert held_out(others, holdout, turned) == held


def test_families_reach_over_episodes_that_are_not_asked_for() -> None:
    pairs = [("a", "elsewhere"), ("elsewhere", "b"), ("c", "c")]
    assert set(families("abc", pairs)) == {frozenset("ab"), frozenset("c")}


def test_a_long_chain_is_one_family() -> None:
    ids = [str(index) for index in range(50_000)]
    assert families(ids, pairwise(ids)) == [frozenset(ids)]
    assert held_out(ids, 0.2, pairwise(ids)) == set()


def test_large_families_are_fitted_to_as_long_as_others_can_be_held_out() -> None:
    copies = list(pairwise(IDS[:15]))
    assert held_out(IDS, 0.2, copies) < set(IDS[15:])
    assert len(held_out(IDS, 0.2, copies)) == 4
    halves = [*pairwise(IDS[:12]), *pairwise(IDS[12:])]
    assert held_out(IDS, 0.2, halves) == set(IDS[12:]), "the smaller one, where both are too large"
