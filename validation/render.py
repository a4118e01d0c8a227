"""Turns values into HTML through the templates beside this file. Everything that is put into a page is escaped here,
and what cannot be seen is spelled out, so that no text from data can run, hide, or break the page."""

import base64
import functools
import json
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import jinja2
import numpy as np

from schemas.findings import Finding, Severity
from schemas.token_bench import TokenBench
from validation.check import rules
from validation.report import (
    SEVERITY_ORDER,
    DatasetFacts,
    Example,
    Histogram,
    JudgedEpisode,
    Picture,
    ReportData,
    group_findings,
    merge_reasons,
    rank_episodes,
    summarize_measures,
)
from validation.token_plots import plots_of, short

_OUTCOMES = ("kept", "rejected", "failed")
_SHOWN_FINDINGS = 6
_KEPT = frozenset("\n\t")
_SPELLED_OUT = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")  # parts of words in several scripts


def visible(text: str) -> str:
    """``text`` with control, direction and unpaired characters as ``\\u202e`` and the like; safe to write as UTF-8."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        ascii(c)[1:-1] if unicodedata.category(c) in _SPELLED_OUT and c not in _KEPT and c not in _JOINERS else c
        for c in text
    )


def _finalize(value: Any) -> Any:
    """What Jinja does with every value before it escapes it."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def cut(text: str, length: int = 240) -> str:
    """``text`` if it is short, else its beginning and how long it is."""
    return text if len(text) <= length else f"{text[:length]} … ({len(text):,} characters)"


def count(number: int, one: str = "", many: str = "") -> str:
    """``1 episode``, ``12,345 episodes``; without words only the number."""
    word = one if number == 1 else many or (f"{one}s" if one else "")
    return f"{number:,} {word}".rstrip()


def number(value: float, unit: str = "") -> str:
    """Four significant digits and the unit; the unit ``1`` (a count or fraction) is not shown."""
    text = f"{value:,.0f}" if value == round(value) and abs(value) < 1e7 else f"{value:.4g}"
    return text if unit in ("", "1") else f"{text} {unit}"


def duration(seconds: float) -> str:
    """``4.2 s``, ``3.5 min``, ``12.3 h``."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def size(num_bytes: int) -> str:
    """``512 B``, ``3.4 MB`` (powers of ten)."""
    value, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def rate(hertz: Fraction) -> str:
    """``15 Hz``, ``29.97 Hz``."""
    return f"{float(hertz):.4g} Hz"


def share(part: int, whole: int) -> str:
    """``12 %``; ``<1 %`` and ``>99 %`` rather than a rounded nothing or all."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 1:
        return "<1 %"
    return ">99 %" if 99 < percent < 100 else f"{percent:.0f} %"


def px(pixels: float) -> str:
    """A position in a picture, to a tenth of a pixel."""
    return f"{pixels:.1f}".removesuffix(".0")


def plain(value: Mapping[str, Any]) -> str:
    """Nested plain values as indented JSON, for people to read."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def data_url(data: bytes, media_type: str) -> str:
    """The bytes as a URL that needs no network."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def bars(edges: Sequence[float], counts: Sequence[int], width: float, height: float) -> str:
    """SVG path of the bars of a histogram, standing on the line y = ``height``; a bin that holds anything is visible."""
    tallest = max(counts, default=0)
    if not tallest:
        return ""
    # halves, since the difference of two huge numbers may not be a float
    low, span = edges[0] / 2, edges[-1] / 2 - edges[0] / 2
    parts = []
    for index, amount in enumerate(counts):
        if not amount:
            continue
        if span > 0:
            left, right = ((edges[index + k] / 2 - low) / span * width for k in (0, 1))
        else:
            left, right = width * 0.45, width * 0.55
        tall = max(height * amount / tallest, 1.0)
        parts.append(f"M{left:.1f} {height:g}v{-tall:.1f}h{max(right - left - 0.6, 0.4):.1f}v{tall:.1f}z")
    return "".join(parts)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("validation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (cut, count, number, duration, size, rate, share, plain, data_url, bars, px, short)
    environment.filters.update({function.__name__: function for function in functions})
    environment.globals.update({function.__name__: function for function in functions})
    return environment


def build_report(data: ReportData) -> str:
    """One self-contained HTML page: no script, nothing loaded from anywhere, everything from data escaped."""
    by_dataset: dict[str, list[JudgedEpisode]] = {}
    pictures: dict[str, list[Picture]] = {}
    for episode in data.episodes:
        by_dataset.setdefault(episode.dataset, []).append(episode)
    for (episode_id, _, _), picture in data.pictures.items():
        pictures.setdefault(episode_id, []).append(picture)

    def worst_findings(episode: JudgedEpisode) -> list[Finding]:
        return sorted(episode.findings, key=lambda finding: SEVERITY_ORDER[finding.severity])[:_SHOWN_FINDINGS]

    def picture_of(example: Example) -> Picture | None:
        finding = example.finding
        return data.pictures.get(
            (example.episode.episode_id, finding.where, -1 if finding.index is None else finding.index)
        )

    def lengths_of(dataset: DatasetFacts) -> dict[str, object]:
        steps = np.asarray(dataset.num_steps)
        spread = {"low": int(steps.min()), "median": float(np.median(steps)), "high": int(steps.max())}
        return {**spread, "histogram": Histogram.of(steps)}

    listed = {kind: sum(getattr(dataset, f"num_{kind}") for dataset in data.datasets) for kind in _OUTCOMES}
    totals = {
        **listed,
        "listed": sum(listed.values()),
        "seconds": sum(dataset.duration_s for dataset in data.datasets),
        "steps": sum(sum(dataset.num_steps) for dataset in data.datasets),
        "samples": sum(group.num_samples for group in data.release.formats) if data.release else 0,
        "flagged": sum(
            any(finding.severity is not Severity.INFO for finding in episode.findings) for episode in data.episodes
        ),
    }
    return (
        _environment()
        .get_template("report.html")
        .render(
            data=data,
            totals=totals,
            meanings={**{rule.name: rule.meaning for rule in rules().values()}, **data.meanings},
            summaries=group_findings(data.episodes),
            ranked=rank_episodes(data.episodes),
            outcomes=merge_reasons(data.datasets) if len(data.datasets) > 1 else (),
            worst_findings=worst_findings,
            hidden_findings=lambda episode: max(len(episode.findings) - _SHOWN_FINDINGS, 0),
            pictures_of=lambda episode: pictures.get(episode.episode_id, []),
            picture_of=picture_of,
            lengths_of=lengths_of,
            token_plots=plots_of(data.tokens) if data.tokens is not None else (),
            measures_of=lambda dataset: summarize_measures(by_dataset.get(dataset.name, ())),
        )
    )


def build_token_page(bench: TokenBench, version: str) -> str:
    """One self-contained HTML page on what ``bench`` measured, by wamloom of ``version``; as safe as a report."""
    page = _environment().get_template("bench.html")
    return page.render(
        bench=bench, version=version, title=f"Tokenizers on lake {bench.lake}", token_plots=plots_of(bench)
    )
