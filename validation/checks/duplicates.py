"""Which episodes are there twice: under several names, in several splits, or with the same motion in other wrapping."""

from collections.abc import Iterator, Mapping, Sequence

from schemas.findings import Finding, Rule, Severity
from validation.check import EpisodeFacts
from validation.signature import Likeness

SPLIT_LEAK = Rule(
    "split_leak", Severity.WARNING, "the same recording lies in more than one split, such as train and val"
)
FOUND_TWICE = Rule("found_twice", Severity.INFO, "the same content lies in several places; the lake holds it once")
SAME_MOTION = Rule("same_motion", Severity.WARNING, "another episode has exactly the same action and proprio values")
CHANGED_SOURCE = Rule(
    "changed_source", Severity.INFO, "the files of this recording changed; the lake keeps the earlier version as well"
)
PROBABLE_DUPLICATE = Rule(
    "probable_duplicate",
    Severity.WARNING,
    "another episode has much the same numbers: the same recording trimmed, rounded, at another rate or in another layout",
)
RULES = (SPLIT_LEAK, FOUND_TWICE, SAME_MOTION, PROBABLE_DUPLICATE, CHANGED_SOURCE)

MIN_STEPS = 3
"""Fewer rows may be equal by chance."""
_SHOWN = 3


def check_set(facts: Sequence[EpisodeFacts]) -> dict[str, list[Finding]]:
    """Findings by episode id; an episode nobody shares anything with is left out."""
    by_id = {fact.episode_id: fact for fact in facts}
    same_motion: dict[str, list[str]] = {}
    for fact in facts:
        if fact.num_steps >= MIN_STEPS:
            same_motion.setdefault(fact.action_sha256, []).append(fact.episode_id)
    found: dict[str, list[Finding]] = {}
    for fact in facts:
        same = sorted({one for one in same_motion.get(fact.action_sha256, ()) if one != fact.episode_id})
        alike = sorted((one for one in fact.alike if one[0] in by_id), key=lambda one: (-one[1].share, one[0]))
        findings = list(_of_places(fact))
        if same:
            findings.append(_same_motion(fact, _named(same, by_id), len(same)))
        findings += [_probable(by_id[other], likeness) for other, likeness in alike[:_SHOWN]]
        findings += list(_leaks(fact, same, [other for other, _ in alike], by_id))
        if findings:
            found[fact.episode_id] = findings
    return found


def _of_places(fact: EpisodeFacts) -> Iterator[Finding]:
    """What the places of one episode say."""
    places = sorted(set(fact.locations))
    if len(places) > 1:
        named = _some([f"{location}#{key}" for location, _, key in places])
        message = f"the same content lies in {len(places)} places: {named}"
        yield Finding(
            FOUND_TWICE.name, FOUND_TWICE.severity, "episode", message, None, (("num_places", float(len(places))),)
        )


def _same_motion(fact: EpisodeFacts, named: str, count: int) -> Finding:
    message = f"all {fact.num_steps} rows of action and proprio equal those of {named}; pictures or texts differ"
    numbers = (("num_others", float(count)), ("num_steps", float(fact.num_steps)))
    return Finding(SAME_MOTION.name, SAME_MOTION.severity, "action", message, None, numbers)


def _probable(other: EpisodeFacts, likeness: Likeness) -> Finding:
    finer, coarser = ("this", "the other") if likeness.first_is_finer else ("the other", "this")
    every = "" if likeness.stride == 1 else f", every {likeness.stride} rows of which make one"
    message = (
        f"{likeness.share:.1%} of {likeness.num_moving} rows with motion of {likeness.vector} "
        f"({likeness.num_channels} channels) equal those of {likeness.other_vector} of {other.episode_id[:12]} "
        f"({other.dataset}) to within {likeness.max_difference:.2g}; row 0 of {coarser} lies beside row "
        f"{likeness.offset} of {finer}{every}"
    )
    numbers = (
        ("share", likeness.share),
        ("num_rows", float(likeness.num_rows)),
        ("num_moving", float(likeness.num_moving)),
        ("num_channels", float(likeness.num_channels)),
        ("offset", float(likeness.offset)),
        ("stride", float(likeness.stride)),
        ("max_difference", likeness.max_difference),
    )
    return Finding(PROBABLE_DUPLICATE.name, PROBABLE_DUPLICATE.severity, likeness.vector, message, None, numbers)


def _leaks(
    fact: EpisodeFacts, same: Sequence[str], alike: Sequence[str], by_id: Mapping[str, EpisodeFacts]
) -> Iterator[Finding]:
    """At most one finding: the strongest reason to say that the recording lies in several splits."""
    reasons: tuple[tuple[str, Sequence[str]], ...] = (
        ("the recording is", ()),
        ("the same motion is", same),
        ("probably the same recording is", alike),
    )
    for what, others in reasons:
        splits = _splits([fact, *(by_id[other] for other in others)])
        if len(splits) > 1:
            see = f" (see {_named(others, by_id)})" if others else ""
            message = f"{what} in the splits {', '.join(splits)}{see}"
            numbers = (("num_splits", float(len(splits))),)
            yield Finding(SPLIT_LEAK.name, SPLIT_LEAK.severity, "episode", message, None, numbers)
            return


def _splits(facts: Sequence[EpisodeFacts]) -> list[str]:
    """Names of the splits the episodes lie in; an episode may lie in none."""
    return sorted({split for fact in facts for _, split, _ in fact.locations if split})


def _named(episode_ids: Sequence[str], by_id: Mapping[str, EpisodeFacts]) -> str:
    return _some([f"{one[:12]} ({by_id[one].dataset})" for one in episode_ids])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
