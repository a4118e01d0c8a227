"""The protocol of checks: what a check is given, and how the findings of all are gathered and gated.

A check is a module in ``validation/checks/`` with ``RULES`` and ``check_episode`` or ``check_set`` (or both). It never
changes what it is given, never opens a file, and never raises on a valid episode, however bad its numbers are.
"""

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

import validation.checks
from schemas.episode import Episode
from schemas.errors import RecipeError, RejectEpisode
from schemas.findings import Finding, Measure, Rule, Severity
from schemas.recipes import Gates
from validation import reading
from validation.evidence import ViewEvidence
from validation.measures import measure_episode
from validation.signature import Likeness

SEVERITIES = (Severity.INFO, Severity.WARNING, Severity.ERROR)
"""From mild to bad."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an episode check judges. ``evidence`` is empty where the recipe does not decode."""

    episode: Episode
    evidence: Mapping[str, ViewEvidence]


@dataclass(frozen=True, slots=True)
class EpisodeFacts:
    """What a set check is given of each kept episode: small facts from the lake, no pixels."""

    episode_id: str
    dataset: str
    locations: tuple[tuple[str, str, str], ...]
    """(location, split, key) of every place it was found."""
    num_steps: int
    instructions: tuple[str, ...]
    action_sha256: str
    """Hash of the action and proprio values alone."""
    alike: tuple[tuple[str, Likeness], ...] = ()
    """Other episodes with much the same numbers, by id, and how far they are."""


@functools.cache
def members() -> tuple[ModuleType, ...]:
    """The modules of ``validation/checks``, by name."""
    found = sorted(m.name for m in pkgutil.iter_modules(validation.checks.__path__) if not m.name.startswith("_"))
    return tuple(importlib.import_module(f"{validation.checks.__name__}.{name}") for name in found)


@functools.cache
def rules() -> Mapping[str, Rule]:
    """Every rule of every check, by name."""
    return {rule.name: rule for member in members() for rule in member.RULES}


def known_rules() -> Mapping[str, Rule]:
    """Every rule a finding may carry, by name: those of the checks, and those of reading."""
    return {rule.name: rule for rule in reading.RULES} | dict(rules())


def check_gates(gates: Gates, where: str) -> None:
    """Raises RecipeError where the gates name a rule that nothing ever raises, with the nearest that something does."""
    known = known_rules()
    for name in gates.rules:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "docs/troubleshooting.md lists the rules"
            raise RecipeError(f"gates.rules names {name!r}, which is no rule", where, hint)


def gate(findings: Iterable[Finding], gates: Gates) -> tuple[Finding, ...]:
    """The findings once each, in order, with the severities the recipe gives them; ignored rules left out."""
    gated = []
    for finding in dict.fromkeys(findings):
        wanted = gates.rules.get(finding.rule, finding.severity)
        if wanted != "ignore":
            gated.append(finding if wanted == finding.severity else replace(finding, severity=Severity(wanted)))
    return tuple(gated)


def rejection_of(findings: Sequence[Finding], gates: Gates, where: str) -> RejectEpisode | None:
    """The outcome of gated findings: None, or a rejection whose reason is the rule of the first of the worst findings."""
    if not findings or gates.reject_at == "never":
        return None
    worst = max(findings, key=lambda finding: SEVERITIES.index(finding.severity))
    if SEVERITIES.index(worst.severity) < SEVERITIES.index(Severity(gates.reject_at)):
        return None
    hint = f'to keep such episodes, set gates.rules.{worst.rule} = "info" in the recipe'
    return RejectEpisode(f"{worst.where}: {worst.message}", where, hint, worst.rule)


def judge_episode(
    subject: Subject, gates: Gates
) -> tuple[tuple[Finding, ...], tuple[Measure, ...], RejectEpisode | None]:
    """All findings (the reader's and the card's first, then each check's), the measures, and why it is rejected, if it is.

    The rejection is returned, not raised, since it is an outcome and the findings are wanted beside it.
    """
    episode = subject.episode
    found = [*episode.raw.findings, *episode.findings]
    # numbers as bad as infinities and the ends of float64 are what is judged here, not a fault of the arithmetic
    with np.errstate(all="ignore"):
        for member in members():
            check: Callable[[Subject], list[Finding]] | None = getattr(member, "check_episode", None)
            if check is not None:
                found += check(subject)
        measures = measure_episode(episode, subject.evidence)
    findings = gate(found, gates)
    return findings, measures, rejection_of(findings, gates, episode.raw.ref.where)


def judge_set(facts: Sequence[EpisodeFacts], gates: Gates | None = None) -> dict[str, tuple[Finding, ...]]:
    """What only shows when episodes are seen beside each other, by episode id; episodes without findings are left out."""
    found: dict[str, list[Finding]] = {}
    for member in members():
        check: Callable[[Sequence[EpisodeFacts]], dict[str, list[Finding]]] | None = getattr(member, "check_set", None)
        if check is not None:
            for episode_id, findings in check(facts).items():
                found.setdefault(episode_id, []).extend(findings)
    gated = {episode_id: gate(findings, gates or Gates()) for episode_id, findings in found.items()}
    return {episode_id: findings for episode_id, findings in gated.items() if findings}
