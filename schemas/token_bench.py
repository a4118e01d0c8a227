"""What ``wamloom tokens bench`` measured, as its JSON says it, and the strict reading of such a file.

Nothing else passes for it: an unknown key, a number that is none, or numbers that contradict each other are told with
their place.
"""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.action_recipe import ActionRecipe
from schemas.errors import UsageError

FORMAT: Literal["token_bench-1"] = "token_bench-1"

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Some = Annotated[int, Field(ge=1, le=2**53)]
_Size = Annotated[float, Field(ge=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_ROUNDING = 1e-9
"""Relative: a mean of equal numbers may come out above the largest."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ErrorSpread(_Strict):
    """Absolute errors of one quantity over the steps that count, in its unit."""

    mean: _Size
    p50: _Size
    p90: _Size
    p99: _Size
    max: _Size

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        rising = (self.p50, self.p90, self.p99, self.max)
        if any(low > high * (1 + _ROUNDING) for low, high in (*pairwise(rising), (self.mean, self.max))):
            raise ValueError("p50, p90, p99 and max do not rise, or the mean is above the max")
        return self


class LengthHistogram(_Strict):
    """How many chunks have so many tokens."""

    edges: tuple[_Size, ...]
    """B + 1 rising numbers of tokens; both equal where every chunk has as many."""
    counts: tuple[_Count, ...] = Field(min_length=1)
    """B counts of chunks."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.edges) != len(self.counts) + 1 or list(self.edges) != sorted(self.edges):
            raise ValueError(f"{len(self.counts)} counts need {len(self.counts) + 1} rising edges")
        return self


class TokenLengths(_Strict):
    """Tokens per chunk."""

    mean: _Size
    p50: _Size
    p99: _Size
    max: _Count
    histogram: LengthHistogram

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(
            low > high * (1 + _ROUNDING)
            for low, high in ((self.p50, self.p99), (self.p99, self.max), (self.mean, self.max))
        ):
            raise ValueError("p50, p99 and max do not rise, or the mean is above the max")
        return self


class TokenRow(_Strict):
    """One tokenizer on one group; where it refused, the reason and nothing else."""

    tokenizer: str
    """What the table calls it."""
    options: dict[str, int | float | str | bool]
    refused: str | None
    fit_s: _Size | None = None
    errors: dict[str, ErrorSpread] = {}
    """By quantity: ``mm``, ``deg``, ``gripper``, or a unit of the card; over the chunks that decode."""
    clipped: _Count = 0
    undecodable: _Count = 0
    vocab_size: _Some | None = None
    tokens_per_chunk: TokenLengths | None = None
    """None, like all that tells of tokens, where values stay as they are."""
    compression: _Size | None = None
    """Bits of naive bins for each bit."""
    token_ratio: _Size | None = None
    """Numbers of a chunk for each token."""
    random_undecodable: _Share | None = None
    encoded_per_s: _Size | None = None
    """Tokens; None also where the clock saw no time pass."""
    decoded_per_s: _Size | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.refused is None) != (self.fit_s is not None) or (self.errors and self.refused is not None):
            raise ValueError("a tokenizer is either refused or has numbers")
        told = (self.vocab_size, self.compression, self.token_ratio, self.random_undecodable)
        if any((value is None) != (self.tokens_per_chunk is None) for value in told):
            raise ValueError("only a part of what tells of tokens is there")
        return self


class TokenGroup(_Strict):
    """The episodes of one data set, robot and rate, and a row for each tokenizer."""

    dataset: str
    robot: str
    rate: str
    """Hz, such as ``15`` or ``30000/1001``."""
    action: tuple[str, ...]
    """Names of what is written of a step."""
    fitted_episodes: _Some
    fitted_chunks: _Some
    measured_episodes: _Some
    measured_chunks: _Some
    held_out: bool
    """Whether the measured ones were not fitted to."""
    duplicates: _Count
    """Episodes that are copies of each other, and so lie on one side of the split."""
    wrapped_chunks: dict[str, _Count]
    """Measured chunks in which a rotation jumps though the robot does not, by its channels; only those that do so."""
    rows: tuple[TokenRow, ...] = Field(min_length=1)


class TokenBench(_Strict):
    """All that one run measured."""

    format: Literal["token_bench-1"]
    lake: str
    """As the user named it."""
    horizon: _Some
    actions: ActionRecipe
    normalize: str
    holdout: _Share
    groups: tuple[TokenGroup, ...] = Field(min_length=1)
    skipped: dict[str, _Count]
    """Episodes that were left out, by reason."""
    out: tuple[str, ...]
    """Files that the run wrote."""
    dry_run: Literal[False]


def read_token_bench(data: bytes, where: str) -> TokenBench:
    """The bench that ``data`` holds as JSON. Raises UsageError that names the file ``where``, the place, and the mend."""
    try:
        return TokenBench.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(part if isinstance(part, str) and part.isprintable() else repr(part) for part in first["loc"])
        hint = "write it anew: wamloom tokens bench --lake LAKE --out bench.json"
        if not place:
            raise UsageError(f"is no bench of tokenizers: {first['msg']}"[:300], where, hint) from error
        found = "" if first["type"] == "missing" else f"; found {first['input']!r}"[:100]
        raise UsageError(f"is no bench of tokenizers: {place[:200]}: {first['msg']}{found}", where, hint) from error
