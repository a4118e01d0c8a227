"""What judgement gives back: findings (rule, severity, where, numbers) and measures (a number with its unit)."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is. What severity stops an episode is the recipe's choice."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing a check looks for: its name, its usual severity, and what it means in a sentence."""

    name: str
    severity: Severity
    meaning: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement. ``where`` names the stream or view; ``index`` is the row or frame in question, if there is one."""

    rule: str
    severity: Severity
    where: str
    message: str
    index: int | None = None
    numbers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """A number about an episode, with its unit (``s``, ``Hz``, ``1`` for a fraction or a count)."""

    name: str
    value: float
    unit: str
