"""Which episodes are there twice: under several names, in several splits, or with the same motion in other wrapping."""

from collections.abc import Sequence

from schemas.findings import Finding, Rule, Severity
from validation.check import EpisodeFacts

SPLIT_LEAK = Rule(
    "split_leak", Severity.WARNING, "the same recording lies in more than one split, such as train and val"
)
FOUND_TWICE = Rule("found_twice", Severity.INFO, "the same content lies in several places; the lake holds it once")
SAME_MOTION = Rule("same_motion", Severity.WARNING, "another episode has exactly the same action and proprio values")
CHANGED_SOURCE = Rule(
    "changed_source", Severity.INFO, "the files of this recording changed; the lake keeps the earlier version as well"
)
RULES = (SPLIT_LEAK, FOUND_TWICE, SAME_MOTION, CHANGED_SOURCE)

MIN_STEPS = 3
"""Fewer rows may be equal by chance."""
_SHOWN = 3


def check_set(facts: Sequence[EpisodeFacts]) -> dict[str, list[Finding]]:
    """Findings by episode id; an episode nobody shares anything with is left out."""
    found: dict[str, list[Finding]] = {}
    same_motion: dict[str, list[EpisodeFacts]] = {}
    for fact in facts:
        places = sorted(set(fact.locations))
        if len(places) > 1:
            named = _some([f"{location}#{key}" for location, _, key in places])
            message = f"the same content lies in {len(places)} places: {named}"
            count = (("num_places", float(len(places))),)
            finding = Finding(FOUND_TWICE.name, FOUND_TWICE.severity, "episode", message, None, count)
            found.setdefault(fact.episode_id, []).append(finding)
        splits = _splits([fact])
        if len(splits) > 1:
            message = f"the recording is in the splits {', '.join(splits)}"
            found.setdefault(fact.episode_id, []).append(_leak(message, splits))
        if fact.num_steps >= MIN_STEPS:
            same_motion.setdefault(fact.action_sha256, []).append(fact)
    for group in same_motion.values():
        by_id = {fact.episode_id: fact for fact in group}
        if len(by_id) < 2:
            continue
        splits = _splits(group)
        for episode_id, fact in sorted(by_id.items()):
            others = sorted(set(by_id) - {episode_id})
            named = _some([f"{other[:12]} ({by_id[other].dataset})" for other in others])
            message = (
                f"all {fact.num_steps} rows of action and proprio equal those of {named}; pictures or texts differ"
            )
            numbers = (("num_others", float(len(others))), ("num_steps", float(fact.num_steps)))
            findings = found.setdefault(episode_id, [])
            findings.append(Finding(SAME_MOTION.name, SAME_MOTION.severity, "action", message, None, numbers))
            if len(splits) > 1 and len(_splits([fact])) < 2:
                message = f"the same motion is in the splits {', '.join(splits)} (see {named})"
                findings.append(_leak(message, splits))
    return found


def _splits(facts: Sequence[EpisodeFacts]) -> list[str]:
    """Names of the splits the episodes lie in; an episode may lie in none."""
    return sorted({split for fact in facts for _, split, _ in fact.locations if split})


def _leak(message: str, splits: Sequence[str]) -> Finding:
    return Finding(
        SPLIT_LEAK.name, SPLIT_LEAK.severity, "episode", message, None, (("num_splits", float(len(splits))),)
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
