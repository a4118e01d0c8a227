"""Every name that a finding may carry is listed once, with its meaning; a recipe cannot name another."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.options import read_recipe
from schemas.errors import RecipeError
from schemas.recipes import IngestRecipe
from validation import reading
from validation.check import known_rules, members

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
MAKERS = {"Finding", "note", "_note"}


def named_findings() -> Iterator[tuple[str, str, str | None]]:
    """(place, rule, severity where it is written out) of every finding that the code of the pipelines makes."""
    for path in sorted(PIPELINES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            rule = node.args[0]
            if name in MAKERS and isinstance(rule, ast.Constant) and isinstance(rule.value, str):
                severities = [ast.unparse(part) for part in node.args if ast.unparse(part).startswith("Severity.")]
                place = f"{path.relative_to(PIPELINES)}:{node.lineno}"
                yield place, rule.value, severities[0].removeprefix("Severity.").lower() if severities else None


def test_every_finding_of_the_pipelines_is_listed_with_its_severity() -> None:
    found = list(named_findings())
    assert len(found) > 20
    owned = {rule.name: rule for rule in reading.RULES}
    assert [one for one in found if one[1] not in known_rules()] == [], "list them in validation/reading.py"
    assert [one for one in found if one[1] in owned and one[2] not in (None, str(owned[one[1]].severity))] == []


def test_no_rule_is_listed_twice_or_never_made() -> None:
    names = [rule.name for rule in reading.RULES] + [rule.name for member in members() for rule in member.RULES]
    assert len(set(names)) == len(names)
    text = "".join(path.read_text() for path in PIPELINES.rglob("*.py"))
    assert [rule.name for rule in reading.RULES if f'"{rule.name}"' not in text] == []


def test_an_unknown_rule_in_the_gates_names_the_nearest() -> None:
    read_recipe(IngestRecipe, None, ["gates.rules.camera_not_in_card=error"])
    with pytest.raises(RecipeError, match=r"(?s)flag_denies_pictures.*did you mean 'flag_denies_picture'"):
        read_recipe(IngestRecipe, None, ["gates.rules.flag_denies_pictures=error"])
