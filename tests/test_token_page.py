"""What a bench of tokenizers looks like: the axes, the page, the section of a report, and which files pass for a bench."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli import main
from schemas.errors import UsageError
from schemas.token_bench import TokenBench, read_token_bench
from tests.chain import run_ingest, write_short
from tests.test_report import HOSTILE, Page, full_data
from validation.render import build_report, build_token_page
from validation.token_plots import NUM_STYLES, log_axis, plots_of


def row(name: str, tokens: float = 20, error: float = 1.5, **other: Any) -> dict[str, Any]:
    spread = {"mean": error, "p50": error / 2, "p90": error * 2, "p99": error * 3, "max": error * 4}
    lengths = {"mean": tokens, "p50": tokens, "p99": tokens, "max": int(tokens)}
    histogram = {"edges": [tokens, tokens], "counts": [7]}
    return {
        "tokenizer": name,
        "options": {"kind": name},
        "refused": None,
        "fit_s": 0.1,
        "errors": {"mm": spread, "deg": {**spread, "p50": 0.0}},
        "clipped": 3,
        "undecodable": 0,
        "vocab_size": 1024,
        "tokens_per_chunk": {**lengths, "histogram": histogram},
        "compression": 4.5,
        "token_ratio": 5.0,
        "random_undecodable": 0.25,
        "encoded_per_s": 1e6,
        "decoded_per_s": None,
        **other,
    }


def plain(text: str = "arm", *rows: dict[str, Any]) -> dict[str, Any]:
    """A bench as JSON says it, every free text being ``text``."""
    nothing = dict.fromkeys(("vocab_size", "tokens_per_chunk", "compression", "token_ratio", "random_undecodable"))
    refused = {"tokenizer": f"{text} that refuses", "options": {}, "refused": f"{text}: too short"}
    values = row("values", error=0.0, **nothing, encoded_per_s=None)
    group = {
        "dataset": text,
        "robot": text,
        "rate": "15",
        "action": [text, "y"],
        "fitted_episodes": 3,
        "fitted_chunks": 25,
        "measured_episodes": 1,
        "measured_chunks": 1234,
        "held_out": True,
        "duplicates": 2,
        "wrapped_chunks": {"roll": 3},
        "rows": list(rows) or [row(text), row("long", 100, errors={text: row("")["errors"]["mm"]}), values, refused],
    }
    return {
        "format": "token_bench-1",
        "lake": text,
        "horizon": 16,
        "actions": {"slots": text},
        "normalize": text,
        "holdout": 0.2,
        "groups": [group, {**group, "held_out": False, "duplicates": 0}],
        "skipped": {text: 3},
        "out": [],
        "dry_run": False,
    }


def bench_of(values: dict[str, Any]) -> TokenBench:
    return read_token_bench(json.dumps(values).encode(), "bench.json")


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1e15)), min_size=1, max_size=20), st.floats(50, 500))
def test_everything_lies_on_its_axis_in_order(values: list[float], length: float) -> None:
    axis = log_axis(values, length)
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= length for place in places)
    shown = [value for value in values if value >= 1e-9]
    assert all(axis.low <= value <= axis.high for value in shown)
    assert axis.has_zero == (len(shown) < len(values))
    ticks = [place for place, _ in axis.ticks]
    assert ticks == sorted(set(ticks))
    assert 1 <= len(ticks) <= 9
    assert len({label for _, label in axis.ticks}) == len(ticks)


def test_axes_read_well() -> None:
    assert [label for _, label in log_axis([4, 112], 300).ticks] == ["2", "5", "10", "20", "50", "100", "200"]
    assert log_axis([4, 112], 300).at(20) == pytest.approx(150)
    assert [label for _, label in log_axis([0.0, 3e4, 2e6], 300).ticks] == [
        "0",
        *["20k", "50k", "100k", "200k", "500k", "1M", "2M"],
    ]
    assert [label for _, label in log_axis([1e-7, 1], 300).ticks] == [f"{10.0**power:g}" for power in range(-7, 1)]
    assert [label for _, label in log_axis([5.0], 300).ticks] == ["5", "10"]
    assert [label for _, label in log_axis([0.0], 300).ticks] == ["0", "1", "2"]
    axis = log_axis([1.0, 1.7e308], 300)  # no 2e308 is left to end at
    assert 0 < axis.at(1.7e308) <= 300
    assert all(0 <= place <= 300 for place, _ in axis.ticks)


def test_a_tokenizer_looks_the_same_in_every_plot() -> None:
    names = [f"tokenizer {index}" for index in range(NUM_STYLES + 1)]
    values = plain("arm", *(row(name) for name in names))
    values["groups"][1]["rows"] = values["groups"][0]["rows"][::-1]
    first, second = plots_of(bench_of(values))
    styles = {key.name: key.style for key, _ in first.keys}
    assert styles == {key.name: key.style for key, _ in second.keys}
    assert len(set(styles.values())) == NUM_STYLES
    assert {point.key.name: point.key.style for point in second.scatters[0].points} == styles


def test_marks_lie_where_the_numbers_say() -> None:
    bench = bench_of(plain("arm", row("few", 10, 4), row("many", 100, 0.4)))
    plots = plots_of(bench)[0]
    few, many = plots.scatters[0].points
    assert (few.x, many.x) == (0, 360)
    assert few.y < many.y, "a larger error is higher up"
    assert few.y_p99 < few.y
    spread = plots.spreads[0].rows[0]
    assert 0 < spread.p50 < spread.mean < spread.p90 < spread.p99 < spread.max
    assert plots.spreads[1].rows[0].p50 == 0, "no error has its own place"
    assert plots.speeds is not None
    assert plots.speeds.rows[0].decoded is None
    assert plots.lengths is not None
    assert "mean 10" in plots.lengths.rows[0].text


def test_the_page_shows_what_was_measured() -> None:
    page = Page(build_token_page(bench_of(plain()), "0.1"))
    text = " ".join(page.text.split())
    for expected in (
        "Tokenizers on lake arm",
        "chunks of 16 steps",
        "2 numbers a step",
        "Fitted to 3 episodes (25 chunks), measured on 1 episode (1,234 chunks) that were held out; 2 episodes are copies",
        "fitted to: there was none to hold out",
        "3 episodes left out: arm",
        "1.5 / 4.5 / 6",
        "20 / 20 / 20 / 20",
        "1,024",
        "25 %",
        "arm: too short",
        "arm: 20 tokens, mean 1.5, p99 4.5 mm",
    ):
        assert expected in text, expected
    assert page.broken == page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    links = [str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"]
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    assert links


def test_hostile_text_stays_text_and_the_page_loads_nothing() -> None:
    calm, html = Page(build_token_page(bench_of(plain()), "1")), build_token_page(bench_of(plain(HOSTILE)), "1")
    page = Page(html)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in calm.tags]
    assert [sorted(attributes) for _, attributes in page.tags] == [sorted(attributes) for _, attributes in calm.tags]
    assert page.broken == []
    assert "\u202e" not in html
    assert "\x00" not in html
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form", "img"}
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert re.search(r"(nan|inf)\b", html.replace(HOSTILE, "")) is None


def test_a_report_has_the_section_when_it_is_given_one() -> None:
    data = full_data()
    assert 'id="tokens"' not in build_report(data)
    object.__setattr__(data, "tokens", bench_of(plain()))
    page = Page(build_report(data))
    assert "#tokens" in {attributes.get("href") for _, attributes in page.tags}
    assert "Action tokenizers" in page.text
    assert page.broken == page.open == []


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("format", "token_bench-2", "format: Input should be 'token_bench-1'; found 'token_bench-2'"),
        ("horizon", 0, "horizon: Input should be greater than or equal to 1"),
        ("horizon", "16", "horizon: Input should be a valid integer"),
        ("surprise", 1, "surprise: Extra inputs"),
        ("dry_run", True, "dry_run: Input should be False"),
        ("groups", [], "groups: Tuple should have at least 1 item"),
        ("groups.0.rows", [], "groups.0.rows: Tuple should have at least 1 item"),
        ("groups.1.rows.0.errors.mm.max", 0.5, "groups.1.rows.0.errors.mm: Value error, p50, p90"),
        ("groups.1.rows.0.errors.mm.mean", float("nan"), "groups.1.rows.0.errors.mm.mean: Input should be a finite"),
        ("groups.1.rows.0.errors.mm.p50", -1.0, "groups.1.rows.0.errors.mm.p50: Input should be greater"),
        ("groups.0.rows.0.clipped", 10**30, "groups.0.rows.0.clipped: Input should be less than"),
        ("groups.0.rows.0.fit_s", None, "groups.0.rows.0: Value error, a tokenizer is either"),
        ("groups.0.rows.0.vocab_size", None, "groups.0.rows.0: Value error, only a part"),
        ("groups.0.rows.0.tokens_per_chunk.p50", 1e6, "tokens_per_chunk: Value error, p50, p99 and max do not rise"),
        ("groups.0.rows.0.tokens_per_chunk.histogram.counts", [1, 2], "histogram: Value error, 2 counts need 3"),
        ("groups.0.rows.0.tokens_per_chunk.histogram.edges", [9, 1], "histogram: Value error"),
    ],
)
def test_another_file_is_refused_with_its_place(place: str, value: Any, said: str) -> None:
    values = json.loads(json.dumps(plain()))  # no part is there twice
    *path, last = place.split(".")
    part: Any = values
    for step in path:
        part = part[int(step) if step.isdecimal() else step]
    part[last] = value
    with pytest.raises(UsageError) as caught:
        bench_of(values)
    assert said in caught.value.message
    assert caught.value.where == "bench.json"
    assert "wamloom tokens bench" in caught.value.hint


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"format": "\\ud800"}', b"9" * 9999]
)
def test_any_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="is no bench of tokenizers") as caught:
        read_token_bench(data, "bench.json")
    assert len(caught.value.message) < 400


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake")
    run_ingest([write_short(root / "recordings", lengths=(40, 60))], root / "lake")
    return root / "lake"


def test_the_verb_writes_a_page_and_what_a_report_takes(
    lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, numbers = tmp_path / "new" / "bench.html", tmp_path / "new" / "bench.json"
    arguments = ["tokens", "bench", "--lake", str(lake), "--out", str(page), str(numbers)]
    assert main([*arguments, "--dry-run"]) == 0
    assert "would measure beast, bins, fast, identity, rvq\n" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
    assert main([*arguments, "--json"]) == 0
    said = capsys.readouterr().out
    assert said == numbers.read_text()
    assert read_token_bench(said.encode(), "").groups[0].rows[0].tokenizer == "beast"
    assert Page(page.read_text()).broken == []
    assert sorted(path.name for path in page.parent.iterdir()) == ["bench.html", "bench.json"]
    page.write_text("of before")
    assert main([*arguments, "--tokenizer", "bins"]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    assert page.read_text() != "of before"
    report = tmp_path / "report.html"
    assert main(["report", str(lake), "--out", str(report), "--tokens", str(numbers)]) == 0
    assert 'id="tokens-1"' in report.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset": "other"}, "groups.0: there is no 'other' of robot 'sample_gantry'"),
        ({"rows": 5}, "groups.0.rows: Input should be a valid array"),
        ({}, ""),
    ],
)
def test_a_report_shows_only_a_bench_of_its_own_lake(
    change: dict[str, Any], said: str, lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = plain()
    del values["groups"][1]
    values["groups"][0] |= {"dataset": "sample_gantry_rlds", "robot": "sample_gantry", **change}
    file, out = tmp_path / "bench.json", tmp_path / "report.html"
    file.write_text(json.dumps(values))
    code = main(["report", str(lake), "--out", str(out), "--tokens", str(file)])
    error = capsys.readouterr().err
    assert code == (2 if said else 0)
    assert out.exists() == (not said)
    assert f"error: {file}: " in error or not said
    assert said in error
    assert ("hint:" in error) == bool(said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tokens bench --lake LAKE --out bench.txt", "neither .html nor .json"),
        ("tokens bench --lake LAKE --out FOLDER", "is a folder; name a file"),
        ("report LAKE --out FOLDER/r.html --tokens nowhere.json", "nowhere.json: cannot be read"),
        ("report LAKE --out FOLDER/r.html --tokens FOLDER", "cannot be read"),
        ("report RELEASE --out FOLDER/r.html --tokens BENCH", "release: this is no lake, and a bench of tokenizers"),
    ],
)
def test_wrong_files_are_refused(
    line: str, said: str, lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (lake.parent / "bench.json").write_text(json.dumps(plain()))
    places = {"LAKE": lake, "FOLDER": tmp_path, "RELEASE": lake.parent / "release", "BENCH": lake.parent / "bench.json"}
    assert main([re.sub("[A-Z]{4,}", lambda name: str(places[name[0]]), word) for word in line.split()]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
