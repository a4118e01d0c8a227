"""What the manifest tells of what went into a build: the data sets with their licences and known defects, and the encoders.

All of it is read from rows of the lake whose hashes the build's fingerprint covers; nothing is judged anew.
"""

import json
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.build_latents import choose_latents
from pipelines.build_texts import BuildTexts, text_kinds, told_kinds
from pipelines.formats import EpisodePlan
from pipelines.joined_latents import LatentChoice, of_choice
from pipelines.lake import Lake, quoted
from pipelines.rows import StoredEpisode
from pipelines.selection import stored_episodes
from pipelines.views import shown_views
from schemas.fingerprint import fingerprint
from schemas.recipes import BuildRecipe
from schemas.release_choices import TextKind
from schemas.time import NANOSECONDS

_COLUMNS = [
    "episode_id", "dataset", "version", "license", "institution", "card_json", "embodiment", "source", "success",
    "measures", "findings", "num_steps", "duration_ns",
]  # fmt: skip
_LATENT_COLUMNS = [
    "slot", "rate", "encoder", "views_json", "temporal_stride", "leading_frames", "axes", "normalization", "sampling",
    "dtype", "shape", "row_sha256",
]  # fmt: skip
_ONCE = ("encoder", "temporal_stride", "leading_frames", "axes", "normalization", "sampling", "views_json", "channels")
"""What does not vary among latents of one encoder and one view recipe."""


_NAMES = {
    "licenses": "license",
    "institutions": "institution",
    "robots": "embodiment",
    "versions": "version",
    "read_from": "source",
}
"""What the manifest calls a set of names, and the column they stand in."""


@dataclass(slots=True)
class _Gathered:
    """One data set, while its rows go by."""

    card: str | None = None
    names: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in _NAMES})
    success: Counter[str] = field(default_factory=Counter)
    num_steps: int = 0
    duration_ns: int = 0
    findings: Counter[tuple[str, str]] = field(default_factory=Counter)
    episodes: Counter[tuple[str, str]] = field(default_factory=Counter)
    measures: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        self.card = max(self.card or "", row["card_json"] or "")  # one of them, whatever the order of rows
        for name, column in _NAMES.items():
            self.names[name].add(row[column] or "unknown")
        self.success[{True: "yes", False: "no", None: "unknown"}[row["success"]]] += 1
        self.num_steps += row["num_steps"] or 0
        self.duration_ns += row["duration_ns"] or 0
        rules = [(one["rule"], one["severity"]) for one in row["findings"] or []]
        self.findings.update(rules)
        self.episodes.update(set(rules))
        for one in row["measures"] or []:
            self.measures.setdefault((one["name"], one["unit"]), []).append(one["value"])

    def told(self) -> dict[str, Any]:
        card = json.loads(self.card) if self.card else {}
        return {
            "title": card.get("title", ""),
            **{name: sorted(found) for name, found in self.names.items()},
            "num_episodes": sum(self.success.values()),
            "recorded_steps": self.num_steps,
            "recorded_s": self.duration_ns / NANOSECONDS,
            "success": dict(sorted(self.success.items())),
            "findings": [
                {"rule": rule, "severity": severity, "findings": self.findings[rule, severity], "episodes": number}
                for (rule, severity), number in sorted(self.episodes.items())
            ],
            "measures": [
                {
                    "name": name,
                    "unit": unit,
                    "episodes": len(values),
                    "least": min(values),
                    "median": statistics.median(values),
                    "most": max(values),
                }
                for (name, unit), values in sorted(self.measures.items())
            ],
        }


def latent_hashes_of(
    episode: StoredEpisode, recipe: BuildRecipe, hashes: Mapping[tuple[str, str], Sequence[str]]
) -> list[str]:
    """Row hashes of the latents of an episode that a build joins, of those that ``choose_latents`` found."""
    wanted = [(episode.episode_id, name) for name in shown_views(recipe.views, episode.views).sources]
    return [found for one in wanted for found in hashes.get(one, ())]


def content_hash(inputs: Mapping[str, Sequence[str]]) -> str:
    """Hash of what went into a build: by episode id the hashes of its row, its latents and its texts, in this order."""
    return fingerprint("lake-2", sorted((key, *hashes) for key, hashes in inputs.items()))


def content_now(lake: Lake, recipe: BuildRecipe, manifest: Mapping[str, Any]) -> str:
    """The content hash that a build of the episodes, and of the set of latents and the kinds of texts, that ``manifest`` tells of
    would have of ``lake`` now.

    Raises LakeError where the lake lacks one of them, or what was joined to it.
    """
    episodes = [episode for group in manifest["groups"] for episode in group["episodes"]]
    ids = [episode["episode_id"] for episode in episodes]
    latents = manifest["latents"]
    choice = None if latents is None else (latents["encoder_fingerprint"], latents["views_fingerprint"])
    _, found_latents = choose_latents(lake, recipe, set(ids), choice)
    texts = [BuildTexts(lake, kind) for kind in told_kinds(recipe, manifest["texts"]).values()]
    rows = {row["episode_id"]: row["row_sha256"] for row in lake.rows("episodes", ["row_sha256"])}
    inputs: dict[str, list[str]] = {}
    for stored, episode in zip(stored_episodes(lake, ids), episodes, strict=True):
        found = [rows[stored.episode_id], *latent_hashes_of(stored, recipe, found_latents)]
        for joined in texts:
            found += joined.hashes_of(stored, EpisodePlan.told_by(episode))
        inputs[stored.episode_id] = found
    return content_hash(inputs)


def sources_of(lake: Lake, episode_ids: Collection[str]) -> dict[str, Any]:
    """By data set: what the lake knows of those of its episodes that went in, as JSON.

    Titles, licences, institutions, versions; steps and seconds as recorded; how many succeeded; ``findings`` by rule and
    severity; the spread of each measure.
    """
    wanted = set(episode_ids)
    gathered: dict[str, _Gathered] = {}
    for batch in lake.batches("episodes", _COLUMNS):
        for row in batch.to_pylist():
            if row["episode_id"] in wanted:
                gathered.setdefault(row["dataset"], _Gathered()).add(row)
    return {name: one.told() for name, one in sorted(gathered.items())}


def row_hashes_of(lake: Lake, choice: LatentChoice | None) -> dict[str, str]:
    """Key -> row hash of all latents of a choice."""
    if choice is None:
        return {}
    rows = lake.rows("latents", ["row_sha256"], of_choice(choice))
    return {row["latent_id"]: row["row_sha256"] for row in rows}


def latents_of(lake: Lake, choice: LatentChoice | None, row_hashes: Collection[str]) -> dict[str, Any] | None:
    """Which encoder made the latents of a build, of which pictures, as JSON; None where there are none.

    ``encoder_fingerprint`` is a hash of the encoder's weights, configuration, dtype and sampling: another encoder of the same
    name has another one, and must not decode them. ``row_hashes`` are those of the rows that went in.
    """
    if choice is None:
        return None
    encoder, views = choice
    wanted = set(row_hashes)
    once: dict[str, set[Any]] = {name: set() for name in _ONCE}
    rates: set[str] = set()
    dtypes: set[str] = set()
    slots: dict[str, dict[str, Any]] = {}
    for row in lake.rows("latents", _LATENT_COLUMNS, of_choice(choice)):
        if row["row_sha256"] not in wanted:
            continue
        frames, channels, height, width = row["shape"]
        for name in _ONCE:
            once[name].add(channels if name == "channels" else row[name])
        rates.add(row["rate"])
        dtypes.add(row["dtype"])
        slot = slots.setdefault(row["slot"], {"clips": 0, "latent_frames": 0, "sizes": set()})
        slot["clips"] += 1
        slot["latent_frames"] += frames
        slot["sizes"].add((height, width))
    single = {name: next(iter(sorted(found, key=str)), None) for name, found in once.items()}
    return {
        **{name: value for name, value in single.items() if name != "views_json"},
        "dtypes": sorted(dtypes),
        "encoder_fingerprint": encoder,
        "views_fingerprint": views,
        "views": json.loads(single["views_json"] or "{}"),
        "rates": sorted(rates),
        "slots": {
            name: {**slot, "sizes": [{"height": h, "width": w} for h, w in sorted(slot["sizes"])]}
            for name, slot in sorted(slots.items())
        },
    }


def texts_of(lake: Lake, recipe: BuildRecipe, row_hashes: Mapping[str, Collection[str]]) -> dict[str, Any] | None:
    """Which encoder made the embeddings of a build, of prompts by which template, as JSON; None where there are none.

    ``row_hashes`` are by kind, as ``text_kinds`` names them. What single formats have instead of the rest is under ``formats``.
    """
    told = {name: _told_texts(lake, kind, row_hashes[name]) for name, kind in text_kinds(recipe).items()}
    if not told:
        return None
    main = told.pop("")
    return {**main, "formats": told} if told else main


def _told_texts(lake: Lake, kind: TextKind, row_hashes: Collection[str]) -> dict[str, Any]:
    name, _, _ = kind.encoder.partition("@")
    columns = ["encoder", "encoder_fingerprint", "length", "dtype", "shape", "row_sha256"]
    condition = f"encoder = {quoted(name)} or encoder_fingerprint = {quoted(name)}"
    rows = [row for row in lake.rows("texts", columns, condition) if row["row_sha256"] in row_hashes]
    kinds = {
        (row["encoder"], row["encoder_fingerprint"], row["length"], row["dtype"], row["shape"][-1]) for row in rows
    }
    ((encoder, found, length, dtype, width),) = kinds
    return {
        "encoder": encoder,
        "encoder_fingerprint": found,
        "length": length,
        "dtype": dtype,
        "width": width,
        "template": kind.template,
        "steps": None if kind.steps is None else list(kind.steps),
        "fields": dict(sorted(kind.fields.items())),
        "prompts": len({row["row_sha256"] for row in rows}),
    }
