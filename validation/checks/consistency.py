"""Does what belongs together agree: commands with the motion that follows them, what is said of success in several places."""

import re
from collections.abc import Iterator

import numpy as np

from schemas.episode import Episode
from schemas.findings import Finding, Rule, Severity
from validation.check import Subject
from validation.motion import action_lag

ACTION_LAG = Rule(
    "action_lag",
    Severity.WARNING,
    "the robot moves before it is told to, or over a second after: action and observation are shifted against each other",
)
SUCCESS_CONTRADICTED = Rule(
    "success_contradicted", Severity.WARNING, "one place says that the episode succeeded, another that it failed"
)
RULES = (ACTION_LAG, SUCCESS_CONTRADICTED)

CLEARLY = 0.05
"""Of the correlation, by which a shifted reading must fit better than any that is possible."""
_FLAGS = frozenset({"success", "is_success", "successful", "is_successful"})
_SAYS = {"success": True, "failure": False}


def check_episode(subject: Subject) -> list[Finding]:
    """Findings about a shift of action against observation, and about contradicting flags."""
    return [*_shift(subject.episode), *_success(subject.episode)]


def _shift(episode: Episode) -> Iterator[Finding]:
    lag = action_lag(episode)
    if lag is None or 0 <= lag.steps <= lag.prompt or lag.correlation - lag.causal < CLEARLY:
        return
    seconds = lag.steps / float(episode.control_rate)
    how = "before" if lag.steps < 0 else "after"
    message = (
        f"the proprio moves {abs(lag.steps)} steps ({abs(seconds):.2f} s) {how} the action asks for it (correlation "
        f"{lag.correlation:.2f}; at best {lag.causal:.2f} at a lag of 0 to {lag.prompt} steps)"
    )
    numbers = (("lag", float(lag.steps)), ("correlation", lag.correlation), ("correlation_of_causal", lag.causal))
    yield Finding(ACTION_LAG.name, ACTION_LAG.severity, "action", message, None, numbers)


def _success(episode: Episode) -> Iterator[Finding]:
    """Compares the card's answer, flags of the source, and folders named success or failure."""
    said: dict[str, bool] = {}
    if episode.success is not None:
        said[episode.card.success_field or "the card"] = episode.success
    for name, value in episode.raw.attributes:
        if _last(name) in _FLAGS and isinstance(value, bool | int):
            said[name] = bool(value)
        elif isinstance(value, str):
            said |= _folders(name, value)
    for stream in episode.raw.streams:
        if _last(stream.name) in _FLAGS and stream.values.size:
            said[stream.name] = bool(np.asarray(stream.values[-1]).reshape(-1)[-1] > 0)
    said |= _folders("the place", episode.raw.ref.key)
    yes, no = (sorted(name for name, value in said.items() if value is wanted) for wanted in (True, False))
    if yes and no:
        message = f"{', '.join(yes)} says success, {', '.join(no)} says failure"
        yield Finding(SUCCESS_CONTRADICTED.name, SUCCESS_CONTRADICTED.severity, "success", message)


def _last(name: str) -> str:
    return re.split(r"[/.]", name)[-1].lower()


def _folders(name: str, path: str) -> dict[str, bool]:
    """What a folder of ``path`` says, if one is named ``success`` or ``failure`` and not both are."""
    words = {part.lower() for part in re.split(r"[/\\]", path)[:-1]} & _SAYS.keys()
    return {name: _SAYS[words.pop()]} if len(words) == 1 else {}
