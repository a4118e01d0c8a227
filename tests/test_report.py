"""The report: one page that shows everything it is given, loads nothing, and lets no text from data out of its place."""

import io
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from schemas.errors import UsageError
from schemas.findings import Finding, Measure, Severity
from validation import render
from validation.render import build_report
from validation.report import (
    Camera,
    ChannelValues,
    DatasetFacts,
    FileGroup,
    Histogram,
    JudgedEpisode,
    Picture,
    Reason,
    ReleaseFacts,
    ReportData,
    Task,
    group_findings,
    rank_episodes,
    summarize_measures,
    wanted_pictures,
)

HOSTILE = "<script>alert(1)</script>\"'></title></style><img src=x onerror=alert(2)>\u202e{{ 7 * 7 }}\x00&amp;"
VOID = {"meta", "img", "br", "path"}


class Page(HTMLParser):
    """What a browser would see: text, tags, attributes; notes tags that do not close properly."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.broken: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def image(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(file, kind)
    return file.getvalue()


def finding(rule: str, severity: Severity = Severity.WARNING, where: str = "primary", index: int | None = 3) -> Finding:
    return Finding(rule, severity, where, f"message of {rule}", index, (("num_frames", 4.0),))


def episode(name: str, *findings: Finding) -> JudgedEpisode:
    measures = (Measure("duration", 2.5, "s"), Measure("idle_fraction", 0.25, "1"))
    return JudgedEpisode(name, "bridge", f"sets/bridge#{name}", "kept", 25, findings, measures)


def full_data(text: str = "put the cup down") -> ReportData:
    """Every part filled, every free text being ``text``."""
    dataset = DatasetFacts(
        name=text,
        title=text,
        embodiment=text,
        license=text,
        institutions=(text,),
        num_kept=2,
        num_rejected=1,
        num_failed=1,
        num_steps=(25, 40),
        duration_s=13.0,
        control_rates=((Fraction(5), 2),),
        num_success=1,
        cameras=(Camera("primary", text, "mjpeg", 64, 48, 2, 65, 12_345),),
        tasks=(Task(text, 1), Task("", 1)),
        channels=(
            ChannelValues("action", text, "m", Histogram.of(np.linspace(-1, 1, 65)), -1, 1),
            ChannelValues("proprio", "gripper", text, Histogram.of([0.5] * 65)),
            ChannelValues("proprio", "torn", "rad", Histogram.of([np.nan] * 3)),
        ),
        filmstrips=(Picture(image(), text),),
        reasons=(Reason("failed", "truncated", 1, ((text, text),), text),),
        notes=(text,),
    )
    odd = replace(finding("frozen_view"), message=text, where=text, rule=text, numbers=((text, 1.5),))
    judged = JudgedEpisode(text, text, text, "kept", 25, (odd, finding("black_view")), (Measure(text, 1.0, text),))
    release = ReleaseFacts(
        text,
        text,
        {"where": text, "views": {"slots": [text]}},
        (FileGroup(text, 4, 5_600_000, 65, 2),),
        dataset.reasons,
        65,
    )
    return ReportData(
        title=text,
        kind="release",
        place=text,
        made=text,
        version=text,
        datasets=(dataset, replace(dataset, name="other")),
        episodes=(judged, episode("0002", finding("nan_value", Severity.ERROR, "action"))),
        meanings={text: text},
        pictures={(text, "primary", 3): Picture(image("JPEG"), text)},
        release=release,
        problems=(text,),
    )


def test_the_page_shows_what_it_was_given() -> None:
    page = Page(build_report(full_data()))
    for expected in (
        "put the cup down",
        "2 kept, 1 rejected, 1 failed",
        "5 Hz (2 episodes)",
        "64 x 48 px",
        "12.3 kB",
        "5.6 MB",
        "Shortest 25 steps",
        "longest 40 steps",
        "limits -1 to 1",
        "no finite value",
        "3 missing",
        "nan_value",
        "a number is missing (NaN)",
        "truncated",
        "(no text)",
        "message of black_view",
    ):
        assert expected in " ".join(page.text.split()), expected
    assert sum(tag == "img" for tag, _ in page.tags) >= 3
    assert page.broken == []
    assert page.open == []


def test_hostile_text_stays_text() -> None:
    calm, html = Page(build_report(full_data("a calm text"))), build_report(full_data(HOSTILE))
    page = Page(html)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in calm.tags]
    assert [sorted(attributes) for _, attributes in page.tags] == [sorted(attributes) for _, attributes in calm.tags]
    assert page.broken == []
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "\\u202e" in page.text
    assert "\u202e" not in html
    assert "\x00" not in html


@given(text=st.text(st.characters(exclude_categories=()), max_size=40))
@settings(max_examples=25, deadline=None)
def test_any_text_at_all_keeps_the_page_whole(text: str) -> None:
    html = build_report(full_data(text or "x"))
    page = Page(html)
    assert page.broken == []
    assert page.open == []
    assert html.encode("utf-8")
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "link"})


def test_the_page_loads_and_runs_nothing() -> None:
    page = Page(build_report(full_data()))
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/"))
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("kind", ["lake", "release"])
def test_an_empty_lake_has_a_page(kind: str) -> None:
    page = Page(build_report(ReportData("Nothing yet", kind, "lake")))  # type: ignore[arg-type]
    assert f"This {kind} holds no episodes." in page.text
    assert "No episode has an error or a warning." in page.text
    assert page.broken == []


def test_a_data_set_of_which_nothing_was_kept_has_a_section() -> None:
    dataset = DatasetFacts("bad", "Bad set", "arm", "MIT", num_failed=2, reasons=(Reason("failed", "truncated", 2),))
    page = Page(build_report(ReportData("Bad", "lake", "lake", datasets=(dataset,))))
    assert "0 kept, 0 rejected, 2 failed" in page.text
    assert "truncated" in page.text


def test_the_same_data_gives_the_same_page() -> None:
    assert build_report(full_data()) == build_report(full_data())


def test_a_large_lake_stays_a_light_page() -> None:
    values = Histogram.of(np.random.default_rng(0).normal(size=5000))
    channels = tuple(ChannelValues("action", f"joint_{k}", "rad", values) for k in range(52))
    tasks = tuple(Task(f"task {k} " * 30, 1) for k in range(3000))
    datasets = tuple(
        DatasetFacts(
            f"set_{k}", f"Set {k}", "arm", "MIT", num_kept=2000, num_steps=(200,) * 2000, channels=channels, tasks=tasks
        )
        for k in range(10)
    )
    findings = tuple(finding(rule) for rule in ("black_frames", "clock_gap", "frozen_frames"))
    episodes = tuple(episode(f"{k:05}", *findings) for k in range(20_000))
    assert len(build_report(ReportData("Large", "lake", "lake", datasets=datasets, episodes=episodes))) < 1_000_000


def test_findings_are_grouped_worst_and_most_frequent_first() -> None:
    episodes = [
        episode("a", finding("rare"), finding("frequent"), finding("frequent", index=9)),
        episode("b", finding("frequent"), finding("bad", Severity.ERROR), finding("note", Severity.INFO)),
    ]
    groups = group_findings(episodes, num_examples=2)
    assert [(g.rule, g.num_findings, g.num_episodes) for g in groups] == [
        ("bad", 1, 1),
        ("frequent", 3, 2),
        ("rare", 1, 1),
        ("note", 1, 1),
    ]
    assert [example.episode.episode_id for example in groups[1].examples] == ["a", "b"]


def test_episodes_are_ranked_by_their_worst_findings() -> None:
    many = [finding("gap", index=k) for k in range(50)]
    ranked = rank_episodes(
        [
            episode("warned", *many),
            episode("twice", finding("gap"), finding("black")),
            episode("broken", finding("nan", Severity.ERROR)),
            episode("told", finding("note", Severity.INFO)),
            episode("sound"),
        ]
    )
    assert [one.episode_id for one in ranked] == ["broken", "twice", "warned"]


def test_what_a_whole_data_set_shares_does_not_hide_the_odd_episode() -> None:
    shared = (finding("black_view"), finding("split_leak", where="episode"))
    episodes = [episode(f"{k}", *shared) for k in range(9)]
    odd = episode("odd", finding("black_view"), finding("frozen_frames", where="wrist_left"))
    assert [one.episode_id for one in rank_episodes([*episodes, odd])] == ["odd", "0"]
    page = Page(build_report(ReportData("Ten", "lake", "lake", episodes=(*episodes, odd))))
    assert "10episodes with errors or warnings" in page.text


def test_the_frames_worth_showing_are_those_of_views() -> None:
    episodes = [
        episode(
            "a",
            finding("nan_value", Severity.ERROR, "action"),
            finding("black_view", index=None),
            finding("frozen", index=7),
        )
    ]
    assert wanted_pictures(episodes) == (("a", "primary", 7),)


def test_measures_are_summarized_with_their_units() -> None:
    (duration, idle) = summarize_measures(
        [episode("a"), replace(episode("b"), measures=(Measure("duration", 7.5, "s"),))]
    )
    assert (duration.low, duration.median, duration.high, duration.unit) == (2.5, 5.0, 7.5, "s")
    assert idle.num_episodes == 1


@given(values=st.lists(st.floats(width=64), max_size=60), bins=st.integers(1, 40))
def test_a_histogram_counts_every_value_once(values: list[float], bins: int) -> None:
    with np.errstate(all="ignore"):
        histogram = Histogram.of(values, bins)
    assert sum(histogram.counts) + histogram.num_missing == len(values)
    assert len(histogram.counts) <= max(bins, 1)
    assert list(histogram.edges) == sorted(histogram.edges)
    assert "nan" not in render.bars(histogram.edges, histogram.counts, 100, 40)


def test_whole_numbers_beyond_exact_floats_are_counted_too() -> None:
    assert sum(Histogram.of([-2.680482344009919e16, -2.7937158573697036e16], 4).counts) == 2


def test_whole_numbers_get_whole_bins() -> None:
    histogram = Histogram.of([1, 2, 2, 5])
    assert histogram.counts == (1, 2, 0, 0, 1)


def test_other_bytes_than_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="neither PNG nor JPEG"):
        Picture(b"<svg onload=alert(1)>", "frame 3")


def test_numbers_read_well() -> None:
    assert [render.duration(s) for s in (4.25, 600, 36_000)] == ["4.2 s", "10.0 min", "10.0 h"]
    assert [render.size(b) for b in (512, 3_400_000, 5 * 10**15)] == ["512 B", "3.4 MB", "5000.0 TB"]
    assert [render.share(p, 1000) for p in (0, 1, 500, 999, 1000)] == ["0 %", "<1 %", "50 %", ">99 %", "100 %"]
    assert [render.count(n, "step") for n in (0, 1, 12345)] == ["0 steps", "1 step", "12,345 steps"]
    assert [render.number(v, u) for v, u in ((3.0, "m"), (0.123456, "rad"), (1e12, "1"))] == [
        "3 m",
        "0.1235 rad",
        "1e+12",
    ]
    assert render.rate(Fraction(30000, 1001)) == "29.97 Hz"
