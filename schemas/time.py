"""Time: integer nanoseconds, rates as fractions, half-open windows. ``TimeGrid`` is the only definition of "the times"."""

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

import numpy as np

from schemas.errors import RecipeError

NANOSECONDS = 1_000_000_000
MAX_RATE = Fraction(100_000)
"""Hz; nothing on a robot ticks faster, and a larger number is a unit mistake."""
MIN_RATE = Fraction(1, 1000)
"""Hz; at less the times of a long recording are more nanoseconds than 64 bits count."""


def parse_rate(value: str | int | float | Fraction) -> Fraction:
    """A rate in Hz as an exact positive fraction: ``15``, ``"7.5"``, ``"30000/1001"``. Raises RecipeError."""
    hint = 'write Hz as 15, "7.5" or "30000/1001"'
    if isinstance(value, bool):
        raise RecipeError(f"{value!r} is not a rate", hint=hint)
    try:
        rate = Fraction(Decimal(repr(value))) if isinstance(value, float) else Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError, InvalidOperation, TypeError) as error:
        raise RecipeError(f"{repr(value)[:100]} is not a rate", hint=hint) from error
    if not MIN_RATE <= rate <= MAX_RATE:
        hint = f"rates lie between {MIN_RATE} and {MAX_RATE} Hz"
        raise RecipeError(f"a rate of {repr(value)[:100]} Hz is out of range", hint=hint)
    return rate


def parse_seconds(value: str | int | float | Fraction) -> Fraction:
    """A duration in seconds as an exact fraction of at least 0: ``2``, ``0.5``, ``"7/15"``. Raises RecipeError."""
    try:
        seconds = Fraction(Decimal(repr(value))) if isinstance(value, float) else Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError, InvalidOperation, TypeError) as error:
        raise RecipeError(f"{value!r} is not a duration", hint='write seconds as 2, 0.5 or "7/15"') from error
    if seconds < 0:
        raise RecipeError(f"a duration of {value} s is negative", hint="write seconds, 0 or more")
    return seconds


def rate_text(rate: Fraction) -> str:
    """The shortest text that ``parse_rate`` reads back to the same fraction: ``"15"``, ``"15/2"``."""
    return str(rate)


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of time ``[start_ns, stop_ns)``."""

    start_ns: int
    stop_ns: int

    def __post_init__(self) -> None:
        if self.stop_ns < self.start_ns:
            raise ValueError(f"window ends before it starts: [{self.start_ns}, {self.stop_ns})")

    def contains(self, time_ns: int) -> bool:
        """Whether ``time_ns`` lies in the window; the end does not."""
        return self.start_ns <= time_ns < self.stop_ns


@dataclass(frozen=True, slots=True)
class TimeGrid:
    """``num_steps`` instants at ``rate`` Hz, beginning at ``start_ns``.

    Step ``i`` is at ``start_ns + floor(i / rate)`` in whole nanoseconds, computed from ``i`` directly, so that nothing
    drifts however long the grid is.
    """

    start_ns: int
    rate: Fraction
    num_steps: int

    def __post_init__(self) -> None:
        if self.num_steps < 0:
            raise ValueError("a grid cannot have a negative number of steps")
        if self.rate <= 0:
            raise ValueError("a grid needs a positive rate")

    def time_ns(self, step: int) -> int:
        """The instant of ``step`` (which may lie beyond the end), in nanoseconds."""
        return self.start_ns + step * NANOSECONDS * self.rate.denominator // self.rate.numerator

    def times_ns(self) -> np.ndarray:
        """All instants, int64 [T]."""
        steps: np.ndarray = np.arange(self.num_steps, dtype=np.int64)
        largest = self.num_steps * NANOSECONDS * self.rate.denominator
        if largest < 2**62:
            offsets: np.ndarray = steps * (NANOSECONDS * self.rate.denominator) // self.rate.numerator
        else:
            factor, divisor = NANOSECONDS * self.rate.denominator, self.rate.numerator
            offsets = np.array([int(i) * factor // divisor for i in steps], dtype=np.int64)
        return np.asarray(self.start_ns + offsets, dtype=np.int64)

    @property
    def period_ns(self) -> int:
        """Nominal nanoseconds between steps, rounded down."""
        return int(NANOSECONDS * self.rate.denominator // self.rate.numerator)

    @property
    def window(self) -> Window:
        """From the first instant to one period after the last."""
        return Window(self.start_ns, max(self.start_ns, self.time_ns(self.num_steps)))

    @classmethod
    def covering(cls, start_ns: int, last_ns: int, rate: Fraction) -> "TimeGrid":
        """The grid from ``start_ns`` whose last step is at or before ``last_ns`` (both are instants that have data).

        A grid over the times of a grid of the same rate is that grid.
        """
        if last_ns < start_ns:
            return cls(start_ns, rate, 0)
        return cls(start_ns, rate, math.ceil(Fraction(last_ns + 1 - start_ns) * rate / NANOSECONDS))
