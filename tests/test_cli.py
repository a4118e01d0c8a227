"""The command line: names, exit codes, what goes to stdout and what to stderr."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.cli import exit_code_of, main, make_parser
from jobs.options import read_recipe, read_views
from schemas import errors
from schemas.errors import RecipeError, UsageError, WamloomError
from schemas.findings import Severity
from schemas.recipes import BuildRecipe, EncodeRecipe, IngestRecipe

VERBS = ("sample", "ingest", "encode", "build", "verify", "report", "status", "show")


@pytest.fixture(autouse=True)
def _keep_signals() -> object:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: wamloom {verb} ")
    assert "--json" in out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "required: VERB"),
        ("weave", "invalid choice: 'weave'"),
        ("ingest somewhere", "required: --lake"),
        ("ingest somewhere --lake x --executor dask", "invalid choice: 'dask'"),
        ("ingest somewhere --lake x --recipe no_such.toml", "no_such.toml: cannot be read"),
        ("ingest somewhere --lake x --set limits.max_frame=3", "unknown key 'limits.max_frame'"),
        ("ingest somewhere --lake x --set nonsense", "is not KEY=VALUE"),
        ("show x --sample -1", "-1 is negative"),
        ("show x --sample 1 --episode y", "not allowed with"),
        ("sample out --layout papyrus", "no 'papyrus' in layouts"),
        ("sample out --episodes 0", "0 is less than 1"),
    ],
)
def test_wrong_usage_is_2_with_a_hint_and_no_traceback(
    line: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert "Traceback" not in captured.err
    assert "\nhint: " in captured.err
    assert list(tmp_path.iterdir()) == []


def test_json_error_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "x", "--lake", "y", "--set", "gates.reject_as=warning", "--json"]) == 2
    facts = json.loads(capsys.readouterr().out)
    assert facts["hint"] == "did you mean 'reject_at'?"
    assert (facts["reason"], facts["exit_code"]) == ("recipe", 2)


def test_every_error_has_an_exit_code() -> None:
    codes = {
        kind.__name__: exit_code_of(kind("message"))
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, WamloomError)
    }
    assert {name for name, code in codes.items() if code == 2} == {
        "UsageError",
        "RecipeError",
        "CardError",
        "FingerprintMismatch",
        "ReleaseMismatch",
        "AlreadyPublished",
    }
    assert {name for name, code in codes.items() if code == 4} == {"UnitLost"}
    assert set(codes.values()) == {2, 3, 4}


def test_flags_win_over_set_and_set_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('encoder = "one"\nrate = 5\n[views]\nheight_px = 32\nwidth_px = 48\n[limits]\nmax_frames = 7\n')
    settings = ["encoder=two", "views.height_px=64", "limits.max_pixels=9"]
    recipe = read_recipe(EncodeRecipe, str(file), settings, {"encoder": "three", "weights": None})
    assert recipe.encoder == "three"
    assert (recipe.views.height_px, recipe.views.width_px) == (64, 48)
    assert (recipe.limits.max_frames, recipe.limits.max_pixels) == (7, 9)
    assert recipe.rate == 5
    assert read_recipe(IngestRecipe, None, ["gates.reject_at=warning"]).gates.reject_at == Severity.WARNING
    assert read_recipe(BuildRecipe, None, ["where=dataset = 'bridge'"]).where == "dataset = 'bridge'"
    with pytest.raises(UsageError, match="both 'views' and something inside it"):
        read_recipe(EncodeRecipe, None, ["views=3", "views.height_px=1"])


def test_views_file_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "views.toml"
    file.write_text('slots = ["primary"]\nfit = "crop"\n')
    assert read_views(str(file)) == {"slots": ["primary"], "fit": "crop"}
    file.write_text("hight_px = 3\n")
    with pytest.raises(RecipeError, match="unknown key 'hight_px'") as caught:
        read_views(str(file))
    assert caught.value.hint == "did you mean 'height_px'?"


def test_formats_may_be_listed_or_repeated() -> None:
    args = make_parser().parse_args(["build", "--lake", "a", "--out", "b", "--format", "x", "y", "--format", "z"])
    assert args.format == ["x", "y", "z"]


def test_sample_writes_once_and_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new"
    assert main(["sample", str(out), "--layout", "rlds", "--episodes", "1", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(f"would write {out}")
    assert not out.exists()
    assert main(["sample", str(out), "--layout", "rlds", "--episodes", "1", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["episodes"] == len(values["sets"]) > 0
    assert all(any(Path(one["folder"]).rglob("*.tfrecord*")) for one in values["sets"])
    assert main(["sample", str(out), "--layout", "rlds"]) == 2
    assert "there is a data set already" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_with_its_code_and_without_a_traceback(number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "sample", str(tmp_path / "x"), "--episodes", "120"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 60
        while not any(tmp_path.rglob("*")) and time.monotonic() < deadline:
            time.sleep(0.1)  # until it is at work
        job.send_signal(number)
        _, err = job.communicate(timeout=60)
    assert job.returncode == code
    assert err.endswith("error: interrupted; what had finished is kept\nhint: the same command continues\n")
    assert "Traceback" not in err
