"""Does time run as it should: forwards, evenly, without gaps, at the rate the card says."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from schemas.findings import Finding, Rule, Severity
from schemas.time import NANOSECONDS
from validation.check import Subject
from validation.measures import observed_rate

CLOCK_NOT_INCREASING = Rule("clock_not_increasing", Severity.ERROR, "a time is not later than the one before it")
CLOCK_JITTER = Rule("clock_jitter", Severity.WARNING, "the time between rows varies by more than a quarter")
CLOCK_GAP = Rule("clock_gap", Severity.WARNING, "a hole in time of more than two and a half periods")
RATE_MISMATCH = Rule("rate_mismatch", Severity.WARNING, "the recorded times contradict the control rate")
RULES = (CLOCK_NOT_INCREASING, CLOCK_JITTER, CLOCK_GAP, RATE_MISMATCH)

JITTER = 0.25
"""Of the median period, at the 95th percentile."""
GAP_PERIODS = 2.5
"""As for segments and resampling: beyond this, two rows in a row are missing."""
RATE_TOLERANCE = 0.05
MIN_ROWS = 5
"""Fewer rows give no median worth naming."""
_UNIT_SLIPS = ((1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds"))


def check_episode(subject: Subject) -> list[Finding]:
    """Findings about the clocks of action, proprio and views; evenness only where times were recorded."""
    episode = subject.episode
    found: list[Finding] = []
    for stream in (episode.action, episode.proprio):
        if stream is episode.proprio and np.array_equal(stream.times_ns, episode.action.times_ns):
            continue  # one clock for both: said once
        found += _order(stream.name, stream.times_ns, "row")
        if stream.clock == "source":
            found += _evenness(stream.name, stream.times_ns, "row")
            found += _rate(stream.name, stream.times_ns, episode.control_rate)
    for slot, view in episode.views.items():
        found += _order(slot, view.times_ns, "frame")
        if not np.array_equal(view.times_ns, episode.action.times_ns):
            found += _evenness(slot, view.times_ns, "frame")
    return found


def _order(where: str, times_ns: np.ndarray, row: str) -> Iterator[Finding]:
    back = np.flatnonzero(times_ns[1:] <= times_ns[:-1]) + 1
    if back.size:
        first = int(back[0])
        before, after = int(times_ns[first - 1]), int(times_ns[first])
        step_s = (after - before) / NANOSECONDS
        message = (
            f"{row} {first} is {'at the time of' if after == before else f'{-step_s:.6g} s before'} {row} {first - 1}"
        )
        message += f"; so are {back.size - 1} more" if back.size > 1 else ""
        numbers = (("num_rows", float(back.size)), ("step_s", step_s))
        yield Finding(CLOCK_NOT_INCREASING.name, CLOCK_NOT_INCREASING.severity, where, message, first, numbers)


def _evenness(where: str, times_ns: np.ndarray, row: str) -> Iterator[Finding]:
    if len(times_ns) < MIN_ROWS:
        return
    periods_ms = np.diff(times_ns.astype(np.float64)) / 1e6
    median = float(np.median(periods_ms))
    if median <= 0:
        return
    spread = float(np.percentile(np.abs(periods_ms - median), 95))
    longest = int(periods_ms.argmax())
    numbers = (("median_ms", median), ("deviation_95_ms", spread), ("longest_ms", float(periods_ms[longest])))
    if spread > JITTER * median:
        message = (
            f"{row}s are {median:.4g} ms apart (median); one in twenty is off by {spread:.4g} ms or more, "
            f"the longest takes {periods_ms[longest]:.4g} ms"
        )
        yield Finding(CLOCK_JITTER.name, CLOCK_JITTER.severity, where, message, longest + 1, numbers)
    gaps = np.flatnonzero(periods_ms > GAP_PERIODS * median)
    if gaps.size:
        message = f"{periods_ms[longest]:.4g} ms pass before {row} {longest + 1}, usually {median:.4g} ms"
        message += f"; {gaps.size} such gaps" if gaps.size > 1 else ""
        yield Finding(
            CLOCK_GAP.name, CLOCK_GAP.severity, where, message, longest + 1, (("num_gaps", float(gaps.size)), *numbers)
        )


def _rate(where: str, times_ns: np.ndarray, control_rate: Fraction) -> Iterator[Finding]:
    observed = observed_rate(times_ns) if len(times_ns) >= MIN_ROWS else None
    if observed is None:
        return
    ratio = observed / float(control_rate)
    if abs(ratio - 1) > RATE_TOLERANCE:
        message = f"rows come at {observed:.4g} Hz (median), the control rate is {float(control_rate):.4g} Hz"
        for factor, unit in _UNIT_SLIPS:
            for slip in (factor, 1 / factor):
                if abs(ratio / slip - 1) <= RATE_TOLERANCE:
                    message += f"; the factor of {slip:g} suggests that times are in {unit}, or were taken to be"
        numbers = (("observed_hz", observed), ("control_rate_hz", float(control_rate)), ("ratio", ratio))
        yield Finding(RATE_MISMATCH.name, RATE_MISMATCH.severity, where, message, None, numbers)
