"""House rules that run: what survives pickling, what an import loads, what source files must not contain."""

import dataclasses
import importlib
import pickle
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import schemas
from schemas import errors
from schemas.errors import WamloomError
from schemas.findings import Finding, Measure, Rule, Severity
from schemas.recipes import BuildRecipe, EncodeRecipe, IngestRecipe
from schemas.time import TimeGrid
from schemas.work import FileRecord, Outcome, UnitResult, WorkUnit

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("schemas", "validation", "pipelines", "jobs")


def _tracked(*suffixes: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # a source archive has no repository
        folders = [ROOT / name for name in (*PACKAGES, "tests", "docs", "benchmarks", ".ci")]
        paths = [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
        paths += [path for path in ROOT.iterdir() if path.is_file()]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def _sources() -> list[Path]:
    return [path for path in _tracked(".py") if path.relative_to(ROOT).parts[0] in (*PACKAGES, "benchmarks")]


def _error_kinds() -> list[type[WamloomError]]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WamloomError)]
    assert len(kinds) > 10
    return kinds


@pytest.mark.parametrize("kind", _error_kinds(), ids=lambda kind: kind.__name__)
def test_error_survives_pickling_with_type_facts_and_text(kind: type[WamloomError]) -> None:
    error = kind("what", "file.mp4", "mend it", "some_reason")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.args == error.args
    assert str(copy) == str(error) == "file.mp4: what\nhint: mend it"
    assert copy.reason == "some_reason"
    assert kind.__doc__
    assert pickle.loads(pickle.dumps(kind("what"))).reason == kind.default_reason != ""


def _schema_modules() -> list[ModuleType]:
    return [importlib.import_module(f"schemas.{found.name}") for found in pkgutil.iter_modules(schemas.__path__)]


def _frozen_kinds() -> list[type]:
    kinds = {
        kind
        for module in _schema_modules()
        for kind in vars(module).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
    }
    assert len(kinds) > 10
    return sorted(kinds, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", _frozen_kinds(), ids=lambda kind: kind.__name__)
def test_value_is_frozen_and_pickles(kind: type) -> None:
    # The type of a field is its author's business; that the class restores what it was given is the executor's.
    value = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(value, field.name, f"value of {field.name}")
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(kind)[0].name, "changed")
    copy = pickle.loads(pickle.dumps(value))
    assert type(copy) is kind
    for field in dataclasses.fields(kind):
        assert getattr(copy, field.name) == f"value of {field.name}"


@pytest.mark.parametrize(
    "value",
    [
        WorkUnit("id", ("a", 1, ("b",)), 3),
        UnitResult(
            "id", (Outcome("key", "kept", numbers=(("n", 1.5),)),), (FileRecord("a", 1, "00"),), (("f", 2.0),), "{}"
        ),
        Finding("rule", Severity.ERROR, "where", "message", 3, (("n", 1.0),)),
        Measure("name", 1.5, "s"),
        Rule("name", Severity.INFO, "meaning"),
        IngestRecipe(),
        EncodeRecipe(rate="15/2"),
        BuildRecipe(rate=30),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_of_everyday_use_is_equal_after_pickling(value: object) -> None:
    copy = pickle.loads(pickle.dumps(value))
    assert copy == value
    assert type(copy) is type(value)


def test_time_grid_pickles() -> None:
    fields = dataclasses.fields(TimeGrid)
    from fractions import Fraction

    given = {"start_ns": 5, "rate": Fraction(15, 2), "num_steps": 7}
    grid = TimeGrid(**{field.name: given[field.name] for field in fields})
    assert pickle.loads(pickle.dumps(grid)) == grid


@pytest.mark.parametrize("package", ["schemas", "validation", "pipelines", "jobs.cli"])
def test_import_loads_nothing_heavy(package: str) -> None:
    script = f"""
import importlib, pkgutil, sys
package = importlib.import_module({package!r})
if hasattr(package, '__path__') and {package!r} != 'pipelines':
    for found in pkgutil.walk_packages(package.__path__, {package!r} + '.'):
        importlib.import_module(found.name)
heavy = sorted(set(sys.modules) & {{'ray', 'torch', 'tensorflow', 'diffusers', 'transformers', 'lerobot'}})
print(','.join(heavy))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_every_pipeline_loads_nothing_heavy() -> None:
    script = """
import importlib, pkgutil, sys, pipelines
for found in pkgutil.walk_packages(pipelines.__path__, 'pipelines.'):
    importlib.import_module(found.name)
print(','.join(sorted(set(sys.modules) & {'ray', 'torch', 'tensorflow', 'diffusers', 'transformers', 'lerobot'})))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("name", [*PACKAGES, "tests"])
def test_package_names_come_from_this_tree(name: str) -> None:
    # draccus, which lerobot brings, installs a top-level package called tests
    found = Path(str(importlib.import_module(name).__file__)).resolve()
    assert found.is_relative_to(ROOT)


_FORBIDDEN = {
    "pickle": (
        r"\bfrom pickle\b|\bcloudpickle\b|\bpickle\.(?!UnpicklingError\b)\w|\bread_pickle\b|\b(joblib|dill|marshal)\b",
        "pickle runs code from data",
    ),
    "allow_pickle": (r"allow_pickle\s*=\s*True", "allow_pickle runs code from data"),
    "torch.load": (r"torch\.load\((?!.*weights_only=True)", "torch.load without weights_only runs code from data"),
    "yaml.load": (r"yaml\.(unsafe_|full_)?load\(", "yaml.load runs code from data"),
    "remote code": (r"trust_remote_code", "remote code"),
    "eval": (r"(?<![\w.\"'])(eval|exec)\(", "code from text"),
    "shell": (r"shell=True|os\.system\(", "a shell reads text as commands"),
    "print": (r"(?<![\w.])print\(", "pipelines return facts; only the command line writes"),
}


def _lines(paths: list[Path]) -> Iterator[tuple[str, str]]:
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


@pytest.mark.parametrize("what", list(_FORBIDDEN))
def test_sources_contain_nothing_forbidden(what: str) -> None:
    pattern, why = _FORBIDDEN[what]
    benchmarks_may = what == "print"
    paths = [path for path in _sources() if not (benchmarks_may and path.relative_to(ROOT).parts[0] == "benchmarks")]
    assert len(paths) > 30
    found = [f"{place}: {line.strip()}" for place, line in _lines(paths) if re.search(pattern, line)]
    assert found == [], why


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("pickle", "value = pickle.loads(data)"),
        ("allow_pickle", "np.load(path, allow_pickle=True)"),
        ("torch.load", "torch.load(path)"),
        ("yaml.load", "yaml.load(text)"),
        ("eval", "value = eval(text)"),
        ("print", "    print(1)"),
    ],
)
def test_the_patterns_find_what_they_are_for(what: str, line: str) -> None:
    assert re.search(_FORBIDDEN[what][0], line)


def test_no_file_names_a_place_on_one_machine() -> None:
    place = re.compile(r"(?<![\w.:/}~-])/(?:root|home|work|Users|mnt)/\w")
    text = [
        path
        for path in _tracked()
        if path.suffix in {"", ".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".html", ".json"}
    ]
    assert len(text) > 50
    assert [f"{where}: {line.strip()[:120]}" for where, line in _lines(text) if place.search(line)] == []


def test_no_file_is_long() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _sources()}
    assert {name: lines for name, lines in long.items() if lines > 450} == {}


def test_constraints_hold_names_and_exact_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    wrong = [line for line in lines if line and not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!]+", line)]
    assert wrong == []
    assert len(lines) > 50
