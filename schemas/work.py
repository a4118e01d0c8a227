"""Work units and what becomes of them: one small value goes to a worker, one small value comes back."""

from dataclasses import dataclass
from typing import Any, Literal

OutcomeKind = Literal["kept", "rejected", "failed", "already"]


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """What one worker does in one go. ``payload`` is small and plain: references and parameters, never pixels."""

    unit_id: str
    """Hash of what goes in: content or state of the inputs, recipe, versions."""
    payload: tuple[Any, ...]
    num_bytes: int = 0
    """Estimated work, for even packing and progress."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item of a unit: an episode, a clip. A worker returns it and does not raise for bad data."""

    key: str
    """Identity of the item: ``EpisodeRef.where`` in ingest, the latent id in encode, the episode id in build."""
    kind: OutcomeKind
    reason: str = ""
    message: str = ""
    where: str = ""
    hint: str = ""
    content_id: str = ""
    numbers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A written file: path relative to its root, size, sha256 ("" of staged rows, which carry their own) and rows (0 where
    rows make no sense)."""

    path: str
    num_bytes: int
    sha256: str
    num_rows: int = 0


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a worker returns for a unit."""

    unit_id: str
    outcomes: tuple[Outcome, ...]
    files: tuple[FileRecord, ...] = ()
    """Staged or final files, for the driver to commit."""
    numbers: tuple[tuple[str, float], ...] = ()
    """Totals of this unit, such as frames decoded."""
    report: str = ""
    """JSON a line needs back from its worker; small."""
