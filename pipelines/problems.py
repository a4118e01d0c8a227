"""What a verification finds: problems, and what was looked at to find them."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written."""

    where: str
    message: str


@dataclass(slots=True)
class Verification:
    """What was checked and what was found."""

    kind: str
    checked: Counter[str]
    problems: list[Problem]
    worst: dict[str, float] = field(default_factory=dict)
    """By what was measured, with its unit: the worst value of all; what was not measured is not there."""
    skipped: list[str] = field(default_factory=list)
    """What could not be checked, and why."""

    lake_content: str | None = None
    """Content hash of what the lake has now of the episodes of a release; None where no lake was given, or it lacks some."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems

    def saw(self, name: str, value: float, *, least: bool = False) -> None:
        """Keeps ``value`` if it is the worst of its name yet: the greatest, or the least."""
        before = self.worst.get(name, value)
        self.worst[name] = min(before, value) if least else max(before, value)
