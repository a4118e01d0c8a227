"""What a report shows, as plain values, and how judged episodes are grouped and ranked for it. Nothing is read here.

Whoever reads the lake or the release fills a ``ReportData``; ``validation.render.build_report`` turns it into one page.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from schemas.embodiment import VIEW_SLOTS
from schemas.errors import UsageError
from schemas.findings import Finding, Measure, Severity
from schemas.token_bench import TokenBench
from schemas.work import OutcomeKind

SEVERITY_ORDER: Mapping[Severity, int] = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}
_MANY_EPISODES = 4
"""In a smaller data set "most episodes" says nothing."""
_PICTURE_KINDS = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values between ``edges``; ``num_missing`` counts those that were not finite and lie in no bin."""

    edges: tuple[float, ...]
    """B + 1 rising values, in the unit of whatever is counted; empty where there was no finite value."""
    counts: tuple[int, ...]
    """B counts; the last bin includes its upper edge."""
    num_missing: int = 0

    def __post_init__(self) -> None:
        if self.counts and len(self.edges) != len(self.counts) + 1:
            raise ValueError(f"{len(self.counts)} bins need {len(self.counts) + 1} edges, not {len(self.edges)}")

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray, bins: int = 24) -> "Histogram":
        """Even bins from the least to the greatest finite value; whole numbers get bins of whole width."""
        array = np.asarray(values, dtype=np.float64).reshape(-1)
        finite = array[np.isfinite(array)]
        missing = int(array.size - finite.size)
        if not finite.size:
            return cls((), (), missing)
        low, high = float(finite.min()), float(finite.max())
        if low == high:
            return cls((low, high), (int(finite.size),), missing)
        if np.array_equal(finite, np.round(finite)) and max(-low, high) < 2**52:
            width = max(1, math.ceil((high - low + 1) / bins))
            edges: np.ndarray = np.arange(low, high + 1 + width, width)
            edges = edges[: int(np.searchsorted(edges, high, side="right")) + 1]
        else:
            # halves first: the difference of two huge values may not be a float
            edges = low + (high / bins - low / bins) * np.arange(bins + 1)
            edges = np.minimum(edges, high)
            edges[-1] = high
        counts, _ = np.histogram(finite, bins=edges)
        return cls(tuple(float(edge) for edge in edges), tuple(int(count) for count in counts), missing)


@dataclass(frozen=True, slots=True)
class Picture:
    """One PNG or JPEG file and what it shows, such as ``primary, frames 0 40 80``. Raises UsageError for other bytes."""

    data: bytes
    caption: str

    def __post_init__(self) -> None:
        if not self.media_type:
            raise UsageError("a picture of the report is neither PNG nor JPEG", self.caption)

    @property
    def media_type(self) -> str:
        """``image/png`` or ``image/jpeg`` by the first bytes; empty for anything else."""
        return next((kind for magic, kind in _PICTURE_KINDS if self.data.startswith(magic)), "")


@dataclass(frozen=True, slots=True)
class Camera:
    """One view slot of a data set, over all its episodes. One entry per slot, codec and size."""

    slot: str
    key: str
    """The camera's name in the source."""
    codec: str
    width_px: int
    height_px: int
    num_episodes: int
    num_frames: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Task:
    """One distinct instruction and how many episodes carry it; the empty text stands for none."""

    text: str
    num_episodes: int


@dataclass(frozen=True, slots=True)
class ChannelValues:
    """The values of one channel over all kept episodes of a data set."""

    vector: Literal["action", "proprio"]
    name: str
    unit: str
    histogram: Histogram
    low: float | None = None
    """Declared limits, for comparison; None where the card knows none."""
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """How many episodes had one outcome for one reason, with the first places and messages."""

    outcome: OutcomeKind
    reason: str
    count: int
    examples: tuple[tuple[str, str], ...] = ()
    """(place, message) of the first few."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is in one data set of the lake or the release."""

    name: str
    title: str
    embodiment: str
    license: str
    institutions: tuple[str, ...] = ()
    num_kept: int = 0
    num_rejected: int = 0
    num_failed: int = 0
    num_steps: tuple[int, ...] = ()
    """Of each kept episode."""
    duration_s: float = 0.0
    """Of all kept episodes together."""
    control_rates: tuple[tuple[Fraction, int], ...] = ()
    """(Hz, number of episodes)."""
    num_success: int = 0
    num_failure: int = 0
    """Episodes the source calls unsuccessful; the rest is unknown."""
    cameras: tuple[Camera, ...] = ()
    tasks: tuple[Task, ...] = ()
    channels: tuple[ChannelValues, ...] = ()
    filmstrips: tuple[Picture, ...] = ()
    reasons: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedEpisode:
    """One episode with its findings and measures, kept or not."""

    episode_id: str
    dataset: str
    place: str
    """``location#key`` of the source."""
    outcome: OutcomeKind = "kept"
    num_steps: int = 0
    findings: tuple[Finding, ...] = ()
    measures: tuple[Measure, ...] = ()


@dataclass(frozen=True, slots=True)
class FileGroup:
    """The files of one format of a release."""

    format: str
    num_files: int
    num_bytes: int
    num_samples: int
    num_episodes: int


@dataclass(frozen=True, slots=True)
class ReleaseFacts:
    """What only a release has."""

    fingerprint: str
    lake: str
    """Fingerprint of the episodes of the lake it was made from."""
    recipe: Mapping[str, Any]
    """The recipe as plain values."""
    formats: tuple[FileGroup, ...]
    dropped: tuple[Reason, ...] = ()
    """What the build left out of the lake, by reason."""
    num_frames: int = 0
    certificate: Mapping[str, Any] | None = None
    """The alignment certificate, as ``wamloom verify --certificate`` writes it."""


PictureKey = tuple[str, str, int]
"""(episode id, view slot, frame index)."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """All a report shows. Names, instructions and messages come from data and are escaped, whatever they hold."""

    title: str
    kind: Literal["lake", "release"]
    place: str
    """The lake or release, as the user named it."""
    made: str = ""
    """When the report was made, as text; empty keeps the page the same for the same data."""
    version: str = ""
    """Version of wamloom."""
    datasets: tuple[DatasetFacts, ...] = ()
    episodes: tuple[JudgedEpisode, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    """Rule name to what it means, for rules that no check of ``validation.check.rules()`` declares, such as a reader's."""
    pictures: Mapping[PictureKey, Picture] = field(default_factory=dict)
    """Frames in question, best for the keys of ``wanted_pictures``."""
    release: ReleaseFacts | None = None
    problems: tuple[str, ...] = ()
    """What verification found, if it ran."""
    tokens: TokenBench | None = None
    """What tokenizers do to the actions, if that was measured."""


@dataclass(frozen=True, slots=True)
class Example:
    """One finding and the episode it is about."""

    episode: JudgedEpisode
    finding: Finding


@dataclass(frozen=True, slots=True)
class RuleSummary:
    """All findings of one rule at one severity."""

    rule: str
    severity: Severity
    num_findings: int
    num_episodes: int
    examples: tuple[Example, ...]


def group_findings(episodes: Iterable[JudgedEpisode], num_examples: int = 5) -> tuple[RuleSummary, ...]:
    """Findings by rule and severity, worst and most frequent first; the examples are of different episodes if they can be."""
    groups: dict[tuple[str, Severity], list[Example]] = {}
    for episode in episodes:
        for finding in episode.findings:
            groups.setdefault((finding.rule, finding.severity), []).append(Example(episode, finding))
    summaries = []
    for (rule, severity), examples in groups.items():
        first_of_each: dict[str, Example] = {}
        for example in examples:
            first_of_each.setdefault(example.episode.episode_id, example)
        chosen = list(first_of_each.values())[:num_examples]
        chosen += [example for example in examples if example not in chosen][: num_examples - len(chosen)]
        summaries.append(RuleSummary(rule, severity, len(examples), len(first_of_each), tuple(chosen)))
    return tuple(sorted(summaries, key=lambda s: (SEVERITY_ORDER[s.severity], -s.num_episodes, s.rule)))


def rank_episodes(episodes: Sequence[JudgedEpisode], limit: int = 20) -> tuple[JudgedEpisode, ...]:
    """The episodes to look at first: most errors, then most warnings, each rule and place counted once.

    What most episodes of a data set share speaks of the data set and counts last; of the episodes that have nothing else,
    one per data set stands for all. Episodes without errors and warnings are left out.
    """
    sizes = Counter(episode.dataset for episode in episodes)
    kinds = [
        {(f.rule, f.where, f.severity) for f in episode.findings if f.severity is not Severity.INFO}
        for episode in episodes
    ]
    shared = Counter((episode.dataset, kind) for episode, found in zip(episodes, kinds, strict=True) for kind in found)
    weighed = []
    for episode, found in zip(episodes, kinds, strict=True):
        widespread = sizes[episode.dataset] >= _MANY_EPISODES
        own = {kind for kind in found if not widespread or 2 * shared[episode.dataset, kind] <= sizes[episode.dataset]}
        weight = tuple(
            sum(severity is wanted for _, _, severity in group)
            for group in (own, found)
            for wanted in (Severity.ERROR, Severity.WARNING)
        )
        if found:
            weighed.append((tuple(-number for number in weight), episode.episode_id, bool(own), episode))
    ranked = []
    spoken_for: set[str] = set()
    for _, _, has_own, episode in sorted(weighed, key=lambda item: item[:2]):
        if has_own or episode.dataset not in spoken_for:
            ranked.append(episode)
        if not has_own:
            spoken_for.add(episode.dataset)
    return tuple(ranked[:limit])


def wanted_pictures(episodes: Sequence[JudgedEpisode], limit: int = 40) -> tuple[PictureKey, ...]:
    """The frames a report would show if it had them: those its example findings of views point at, worst rules first."""
    wanted: dict[PictureKey, None] = {}
    for summary in group_findings(episodes):
        for example in summary.examples:
            if example.finding.index is not None and example.finding.where in VIEW_SLOTS:
                wanted.setdefault((example.episode.episode_id, example.finding.where, example.finding.index))
    return tuple(wanted)[:limit]


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, median and greatest value of a measure over the episodes that have it."""

    name: str
    unit: str
    num_episodes: int
    low: float
    median: float
    high: float


def summarize_measures(episodes: Iterable[JudgedEpisode]) -> tuple[Spread, ...]:
    """The spread of every measure, in the order in which they first appear."""
    values: dict[tuple[str, str], list[float]] = {}
    for episode in episodes:
        for measure in episode.measures:
            values.setdefault((measure.name, measure.unit), []).append(measure.value)
    return tuple(
        Spread(name, unit, len(numbers), min(numbers), float(np.median(numbers)), max(numbers))
        for (name, unit), numbers in values.items()
    )


def merge_reasons(datasets: Iterable[DatasetFacts]) -> tuple[Reason, ...]:
    """Reasons of all data sets together, most frequent first."""
    merged: dict[tuple[OutcomeKind, str], Reason] = {}
    for reason in (reason for dataset in datasets for reason in dataset.reasons):
        key = (reason.outcome, reason.reason)
        before = merged.get(key, Reason(reason.outcome, reason.reason, 0))
        merged[key] = Reason(
            *key, before.count + reason.count, before.examples + reason.examples, before.hint or reason.hint
        )
    return tuple(sorted(merged.values(), key=lambda reason: (-reason.count, reason.outcome, reason.reason)))
