"""The generated parts of the docs: `make docs` writes them, `make check` compares them."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jobs.cli import exit_code_of, main  # noqa: E402
from pipelines import cards, registry  # noqa: E402
from pipelines.prompts import TEMPLATES  # noqa: E402
from schemas import errors  # noqa: E402
from schemas.findings import Rule  # noqa: E402
from schemas.time import rate_text  # noqa: E402
from validation import reading  # noqa: E402

VERBS = (
    *("sample", "ingest", "encode", "texts", "build", "verify", "report", "status", "show"),
    *("cards list", "cards show", "cards check", "cards new"),
    "tokens bench",
)


USUALLY_UNKNOWN = ("licence", "order of observation and action")
"""Not known of nearly every set, and so left out of the table of cards."""


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


def templates() -> str:
    """A table of the prompt templates, with what is done to the instruction before."""
    rows = []
    for one in TEMPLATES.values():
        steps = ", ".join(f"`{step}`" for step in one.steps) or "none"
        apart = f"; apart at `{one.split}`".replace("|", "\\|") if one.split else ""
        rows.append(f"| `{one.label}` | {one.trainer} | {one.text} | {steps}{apart} | {one.source} |")
    return "\n".join(["| template | of | sentence | steps | source |", "| --- | --- | --- | --- | --- |", *rows, ""])


def shipped_cards() -> str:
    """A table of all shipped data set cards, but those of the simulated robots."""
    rows = []
    for name in cards.dataset_card_names():
        card, robot = cards.load_pair(name)
        rate = card.control_rate or robot.control_rate
        names = ", ".join(f"`{other}`" for other in card.recognize.datasets if other != name)
        also = f" (also {names})" if names else ""
        unknown = [fact for fact in cards.unknowns(card, robot) if fact not in USUALLY_UNKNOWN]
        vectors = f"{len(robot.proprio)} / {len(robot.action)}"
        depth = f"; depth of {', '.join(card.depth.values())}" if card.depth else ""
        cells = [
            f"`{name}`{also}",
            card.source,
            card.title,
            f"`{robot.name}`",
            rate_text(rate) if rate is not None else "unknown",
            vectors,
            ", ".join(card.views.values()) + depth or "none",
            ", ".join(unknown),
        ]
        if not name.startswith("sample_"):
            rows.append(f"| {' | '.join(cells)} |")
    head = "| card | source | what it is | robot | Hz | proprio / action | views | not known |"
    return "\n".join([head, "| --- " * 8 + "|", *rows, ""])
