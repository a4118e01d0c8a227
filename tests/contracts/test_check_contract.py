"""The contract of checks, over every member: rules are declared, nothing is changed, nothing raises."""

import copy
import dataclasses
import math
import re
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines import registry
from schemas.findings import Finding, Rule
from schemas.recipes import Gates
from tests.check_subjects import make_subject, moving_thumbs, sound_action, sound_proprio
from validation.check import EpisodeFacts, Subject, judge_episode, judge_set, members, rules

NUMBERS = st.floats(width=64, allow_nan=True, allow_infinity=True)
LEVELS = st.integers(0, 255)


@st.composite
def subjects(draw: st.DrawFn) -> Subject:
    """Valid in shape, anything in content: any floats, any times, any texts, any pictures, any lengths."""
    rows = draw(st.integers(0, 25))
    others = draw(st.sampled_from([rows, rows, max(rows - 1, 0), rows + 1, rows + 9]))
    frames = draw(st.sampled_from([rows, rows, rows + 1, 0, 3 * rows]))
    times = arrays.arrays(np.int64, st.just(rows), elements=st.integers(-(2**62), 2**62))
    even = st.just(np.arange(rows, dtype=np.int64) * 100_000_000)
    views = st.just(np.arange(frames, dtype=np.int64) * 100_000_000)
    return make_subject(
        action=draw(arrays.arrays(np.float64, (rows, 3), elements=NUMBERS)),
        proprio=draw(arrays.arrays(np.float64, (others, 5), elements=NUMBERS)),
        times_ns=draw(st.one_of(even, times)),
        clock=draw(st.sampled_from(["source", "declared"])),
        frames_ns=draw(
            st.one_of(views, arrays.arrays(np.int64, st.just(frames), elements=st.integers(-(2**62), 2**62)))
        ),
        thumbs=draw(st.one_of(st.none(), arrays.arrays(np.uint8, (frames, 2, 3), elements=LEVELS))),
        texts=draw(st.lists(st.text(st.characters(), max_size=30), max_size=3)),
        extra={
            "flags": np.zeros(rows, dtype=bool),
            "wide": draw(arrays.arrays(np.float32, (rows, 2, 2), elements=st.floats(width=32))),
        },
    )


def check_finding(finding: Finding, member_rules: set[str]) -> None:
    assert finding.rule in member_rules
    assert finding.where
    assert finding.message
    assert finding.index is None or finding.index >= 0
    assert all(name and isinstance(float(value), float) for name, value in finding.numbers)


@pytest.fixture(params=registry.names("checks"))
def member(request: pytest.FixtureRequest) -> ModuleType:
    return registry.load("checks", request.param)


class TestCheck:
    """What every member of ``validation/checks`` promises."""

    def test_rules_are_declared(self, member: ModuleType) -> None:
        assert member.RULES
        assert hasattr(member, "check_episode") or hasattr(member, "check_set")
        for rule in member.RULES:
            assert isinstance(rule, Rule)
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)+", rule.name)
            assert rule.meaning
            assert not rule.meaning.endswith(".")

    @given(subject=subjects())
    @settings(
        max_examples=40,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    def test_never_changes_and_never_raises(self, member: ModuleType, subject: Subject) -> None:
        if not hasattr(member, "check_episode"):
            return
        before = copy.deepcopy(subject)
        with np.errstate(all="ignore"):
            first = member.check_episode(subject)
            again = member.check_episode(subject)
        assert repr(first) == repr(again)
        for finding in first:
            check_finding(finding, {rule.name for rule in member.RULES})
        for stream, old in zip(subject.episode.raw.streams, before.episode.raw.streams, strict=True):
            assert stream.values.tobytes() == old.values.tobytes()
            assert stream.times_ns.tobytes() == old.times_ns.tobytes()
        for slot, evidence in subject.evidence.items():
            assert repr(evidence) == repr(before.evidence[slot])
        assert subject.episode.instructions == before.episode.instructions

    def test_works_on_arrays_that_may_not_be_written(self, member: ModuleType) -> None:
        subject = make_subject(action=sound_action(), proprio=sound_proprio(), thumbs=moving_thumbs(), clock="source")
        for stream in (*subject.episode.raw.streams, subject.episode.action, subject.episode.proprio):
            stream.values.setflags(write=False)
            stream.times_ns.setflags(write=False)
        for numbers in dataclasses.astuple(subject.evidence["primary"]):
            numbers.setflags(write=False)
        if hasattr(member, "check_episode"):
            assert member.check_episode(subject) == []
        if hasattr(member, "check_set"):
            assert member.check_set([EpisodeFacts("a", "set", (("s", "train", "0"),), 60, ("open it",), "m")]) == {}
            assert member.check_set([]) == {}


def test_the_members_are_those_of_the_registry() -> None:
    assert [member.__name__.rsplit(".", 1)[-1] for member in members()] == registry.names("checks")


def test_no_rule_has_two_owners() -> None:
    assert len(rules()) == sum(len(member.RULES) for member in members())


@given(subject=subjects())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_judging_anything_valid_gives_finite_measures(subject: Subject) -> None:
    findings, measures, rejection = judge_episode(subject, Gates())
    assert all(math.isfinite(measure.value) for measure in measures)
    assert (rejection is not None) == any(finding.severity == "error" for finding in findings)
    assert len({measure.name for measure in measures}) == len(measures)


def test_judging_no_episodes_as_a_set_gives_nothing() -> None:
    assert judge_set([]) == {}
