"""The generated parts of the docs: `make docs` writes them, `make check` compares them."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.cli import exit_code_of, main  # noqa: E402
from pipelines import registry  # noqa: E402
from schemas import errors  # noqa: E402
from schemas.findings import Rule  # noqa: E402
from validation import reading  # noqa: E402

VERBS = (
    *("sample", "ingest", "encode", "build", "verify", "report", "status", "show"),
    *("cards list", "cards show", "cards check", "cards new"),
)


def cli_help() -> str:
    """Every verb's help, as Markdown."""
    return "\n".join(f"## wamloom {verb}\n\n```text\n{_help(verb.split())}```\n" for verb in VERBS)


def _help(arguments: list[str]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return out.getvalue()


def recipe(verb: str) -> str:
    """The complete example of a verb's recipe, as Markdown."""
    return f"```toml\n{(ROOT / 'jobs' / 'recipes' / f'{verb}.toml').read_text()}```\n"


def rules() -> str:
    """A table of every rule of every check, and of those of reading."""
    rows = []
    for name in registry.names("checks"):
        found = {rule.name: rule for rule in vars(registry.load("checks", name)).values() if isinstance(rule, Rule)}
        rows += [f"| `{rule.name}` | {name} | {rule.severity} | {rule.meaning} |" for rule in found.values()]
    rows += [f"| `{rule.name}` | reading | {rule.severity} | {rule.meaning} |" for rule in reading.RULES]
    return "\n".join(["| rule | check | severity | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def error_kinds() -> str:
    """A table of every error: its meaning, usual reason code and exit code."""
    rows = []
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.WamloomError) and kind is not errors.WamloomError:
            meaning = " ".join((kind.__doc__ or "").split())
            rows.append(f"| `{kind.__name__}` | `{kind.default_reason}` | {exit_code_of(kind(''))} | {meaning} |")
    return "\n".join(["| error | usual reason | exit code | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def members(family: str) -> str:
    """A table of a family's members, from the first sentence of each."""
    rows = []
    for name in registry.names(family):
        module = importlib.import_module(f"pipelines.{family}.{name}")
        first = " ".join((module.__doc__ or "").split("\n\n")[0].split())
        rows.append(f"| `{name}` | {first} |")
    return "\n".join(["| name | what it is |", "| --- | --- |", *rows, ""])
