"""Every kind of file operation fails or is the last one: the error is plain, and the same command makes it whole."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.nursery import Fault, Nursery
from tests.wreck import VERBS, Chain, answer_of, differences, leftovers, moments, small_recordings

POINTS = {"kill": 8, "full": 4, "error": 4}
"""How many operations of each verb are made to fail in each way, spread evenly over all of them."""


@dataclass(frozen=True)
class Nest:
    """What all tests here share: where commands run, the undisturbed chain, and its state before each verb."""

    nursery: Nursery
    whole: Chain
    before: dict[str, Chain]
    operations: dict[tuple[str, str], int]
    """By verb and way to fail: how many operations there are."""


@pytest.fixture(scope="module")
def nest(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Nest:
    root = tmp_path_factory.mktemp("crash")
    whole = Chain(small_recordings(root / "recordings"), root / "whole")
    before: dict[str, Chain] = {}
    operations: dict[tuple[str, str], int] = {}
    for verb in VERBS:
        before[verb] = whole.copy(root / f"before_{verb}")
        ended = nursery.run(whole.command(verb), Fault(str(whole.root)))
        assert ended.code == 0, ended.err
        operations |= {(verb, how): count for how, count in ended.operations.items()}
    assert leftovers(whole) == []
    return Nest(nursery, whole, before, operations)


@pytest.mark.crash
@pytest.mark.parametrize("how", POINTS)
@pytest.mark.parametrize("verb", VERBS)
def test_failing_at_an_operation_loses_and_doubles_nothing(verb: str, how: str, nest: Nest, tmp_path: Path) -> None:
    count = nest.operations[verb, how]
    broken = 0
    for index, part in enumerate(moments(7, POINTS[how])):
        at = 1 + int(part * count)
        chain = nest.before[verb].copy(tmp_path / str(index))
        ended = nest.nursery.run(chain.command(verb), Fault(str(chain.root), at, how))
        told = f"{verb} {how} at operation {at} of {count}: exit {ended.code}, {ended.err[-600:]}"
        if how == "kill":
            assert ended.code == -9, told
            if verb == "build" and chain.release.exists():  # under the release's name there is but the whole release
                assert all(one.startswith("left behind") for one in differences(chain, nest.whole, verb)), told
        elif ended.code != 0:  # a file that is only cleared away may well fail
            broken += 1
            assert ended.code == 3, told
            assert "Traceback" not in ended.err, told
            assert "error: " in ended.err, told
            assert "\nhint: " in ended.err, told
            facts = answer_of(ended.out)
            assert facts["reason"] in {"no_space", "disk_error", "commit"}, told
            assert str(chain.root) in facts["where"], told
        finished = nest.nursery.run(chain.command(verb), Fault(str(chain.root)))
        assert finished.code == 0, f"{told}\nthen {finished.err[-600:]}"
        assert differences(chain, nest.whole, verb) == [], told
    assert how == "kill" or broken >= POINTS[how] // 2
    print(f"{verb} {how}: {POINTS[how]} of {count} operations, all made whole")


@pytest.mark.crash
@pytest.mark.parametrize("verb", VERBS)
def test_files_that_cannot_grow_are_told_whoever_writes_them(verb: str, nest: Nest, tmp_path: Path) -> None:
    for limit in (6000, 40000):
        chain = nest.before[verb].copy(tmp_path / str(limit))
        ended = nest.nursery.run(chain.command(verb), Fault(str(chain.root), limit, "ulimit"))
        told = f"{verb} with files of at most {limit} bytes: exit {ended.code}, {ended.err[-600:]}"
        assert ended.code in (0, 3), told
        assert "Traceback" not in ended.err, told
        if ended.code:
            assert "\nhint: " in ended.err, told
        finished = nest.nursery.run(chain.command(verb), Fault(str(chain.root)))
        assert finished.code == 0, f"{told}\nthen {finished.err[-600:]}"
        assert differences(chain, nest.whole, verb) == [], told
