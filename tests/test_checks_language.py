"""The language checks: texts that are none, and texts that are unsound."""

import pytest

from schemas.findings import Severity
from tests.check_subjects import by_rule, make_subject
from validation.checks import language


@pytest.mark.parametrize(
    "text",
    [
        "put the red cup on the plate",
        "Pick up the 2nd cup and place it on shelf 3.",
        "Legen Sie die Tasse auf den Teller",
        "把红色的杯子放到盘子上",
        "ضع الكوب على الطاولة",
        "test the switch",
        "push the button marked A1",
        "move the cup to x<y",
    ],
)
def test_sound_texts_have_no_finding(text: str) -> None:
    assert language.check_episode(make_subject(texts=(text,))) == []


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", {"empty_instruction"}),
        (" \n", {"empty_instruction"}),
        ("valid", {"placeholder_instruction"}),
        ("TODO", {"placeholder_instruction", "instruction_case"}),
        ("N/A", {"placeholder_instruction"}),
        (".", {"placeholder_instruction"}),
        ("12", {"placeholder_instruction"}),
        ("OPEN THE DRAWER", {"instruction_case"}),
        ("open the drawer ", {"instruction_whitespace"}),
        ("open  the drawer", {"instruction_whitespace"}),
        ("open the\ndrawer", {"instruction_whitespace"}),
        ("open the drawer3", {"instruction_number_stuck"}),
        ("12open the drawer", {"instruction_number_stuck"}),
        ("open the\x00drawer", {"control_characters"}),
        ("open the \u202edrawer", {"control_characters"}),
        ("open the dr\ufffdwer", {"undecodable_text"}),
        ("open the dr" + chr(0xDC80) + "wer", {"undecodable_text"}),
        ("<script>alert(1)</script> open it", {"markup_in_instruction"}),
        ("open &lt;it&gt;", {"markup_in_instruction"}),
        ("open the drawer, " * 40 + "please", {"very_long_instruction"}),
        ("a" * 1_000_000, {"very_long_instruction"}),
    ],
)
def test_each_unsound_text_is_named(text: str, rules: set[str]) -> None:
    found = by_rule(language.check_episode(make_subject(texts=(text,))))
    assert set(found) == rules
    for finding in found.values():
        assert finding.where == "language_instruction"
        assert len(finding.message) < 400
        assert finding.message.isprintable()


def test_no_instruction_at_all() -> None:
    found = by_rule(language.check_episode(make_subject(texts=())))
    assert found["no_instruction"].severity is Severity.WARNING


def test_equal_texts_are_judged_once_and_others_keep_their_place() -> None:
    found = language.check_episode(make_subject(texts=("", "open it", "", "todo")))
    assert [(finding.rule, finding.index) for finding in found] == [
        ("empty_instruction", 0),
        ("placeholder_instruction", 3),
    ]
