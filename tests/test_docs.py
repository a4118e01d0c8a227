"""The docs are true: their commands run, their recipes are the defaults, their links lead somewhere."""

import json
import re
import shlex
import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cli import main
from schemas.recipes import BuildRecipe, EncodeRecipe, IngestRecipe, Recipe, load_recipe
from schemas.text_recipe import TextRecipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [shlex.split(line[2:]) for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page in PAGES if _commands(page)], ids=lambda page: page.name)
def test_commands_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for command in _commands(page):
            assert command[0] == "wamloom"
            code = main(command[1:])
            captured = capsys.readouterr()
            assert code == 0, f"{shlex.join(command)}: {captured.err}"
            assert captured.out.strip()
            if "--json" in command:
                assert isinstance(json.loads(captured.out), dict)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_readme_has_an_example_of_every_verb() -> None:
    shown = {command[1] for command in _commands(ROOT / "README.md")}
    assert shown == {
        "sample",
        "ingest",
        "cards",
        "encode",
        "texts",
        "tokens",
        "build",
        "verify",
        "report",
        "status",
        "show",
        "views",
    }


def _keys(model: Any, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, value in model:
        nested = hasattr(type(value), "model_fields")
        keys |= _keys(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}"}
    return keys


def _shown(text: str) -> set[str]:
    """Keys of the file, with those that are commented out because they have no default."""
    shown, table = set(), ""
    for line in text.splitlines():
        if header := re.match(r"\[([a-z_.]+)\]", line):
            table = header[1] + "."
            shown.add(header[1])
        elif key := re.match(r"(?:# )?([a-z_0-9]+) = ", line):
            shown.add(table + key[1])
    return shown


@pytest.mark.parametrize(
    ("verb", "kind"),
    [("ingest", IngestRecipe), ("encode", EncodeRecipe), ("texts", TextRecipe), ("build", BuildRecipe)],
    ids=str,
)
def test_recipe_file_shows_every_choice_with_its_default(verb: str, kind: type[Recipe]) -> None:
    file = ROOT / "jobs" / "recipes" / f"{verb}.toml"
    text = file.read_text()
    assert load_recipe(kind, text, str(file)) == kind()
    assert _keys(kind()) - _shown(text) == set()
    uncommented = re.sub(r"^# (?=[a-z_]+ = )", "", text, flags=re.MULTILINE)
    # what says how to normalize needs a normalization
    load_recipe(kind, uncommented.replace('normalize = "none"', 'normalize = "quantile"'), str(file))
    assert set(tomllib.loads(uncommented)) <= set(kind.model_fields)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "jobs" / "deploy" / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_manifests_are_yaml_that_asks_for_tokens_and_no_root() -> None:
    folder = ROOT / "jobs" / "deploy"
    manifests = {file.name: yaml.safe_load(file.read_text()) for file in folder.glob("*.yaml")}
    assert {manifest["kind"] for manifest in manifests.values()} == {"RayJob", "NetworkPolicy"}
    cluster = manifests["rayjob.yaml"]["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        policy = manifests["network-policy.yaml"]["spec"]["podSelector"]["matchLabels"]
        assert policy.items() <= group["template"]["metadata"]["labels"].items()
