"""Is there an instruction, is it one, and is its text sound. Nothing is corrected here."""

import re
import unicodedata
from collections.abc import Iterator

from schemas.episode import Instruction
from schemas.findings import Finding, Rule, Severity
from validation.check import Subject

NO_INSTRUCTION = Rule("no_instruction", Severity.WARNING, "the episode carries no instruction at all")
EMPTY_INSTRUCTION = Rule("empty_instruction", Severity.WARNING, "an instruction has no text")
PLACEHOLDER = Rule(
    "placeholder_instruction", Severity.WARNING, "a text stands where an instruction should, and is none"
)
CONTROL_CHARACTERS = Rule("control_characters", Severity.WARNING, "an instruction holds invisible control characters")
UNDECODABLE_TEXT = Rule("undecodable_text", Severity.WARNING, "bytes of an instruction were not UTF-8")
VERY_LONG = Rule("very_long_instruction", Severity.WARNING, "an instruction is longer than any task")
MARKUP = Rule("markup_in_instruction", Severity.INFO, "an instruction holds HTML")
WHITESPACE = Rule(
    "instruction_whitespace", Severity.INFO, "an instruction has spaces around it, double spaces or line breaks"
)
UPPER_CASE = Rule("instruction_case", Severity.INFO, "an instruction is in capitals")
NUMBER_STUCK = Rule("instruction_number_stuck", Severity.INFO, "a number is stuck to a word of an instruction")
RULES = (
    NO_INSTRUCTION,
    EMPTY_INSTRUCTION,
    PLACEHOLDER,
    CONTROL_CHARACTERS,
    UNDECODABLE_TEXT,
    VERY_LONG,
    MARKUP,
    WHITESPACE,
    UPPER_CASE,
    NUMBER_STUCK,
)

_PLACEHOLDER_WORDS = (
    "valid invalid test testing todo tbd fixme n/a na none null nil nan unknown undefined unnamed untitled "
    "default dummy placeholder example sample task instruction language prompt description string text label "
    "foo bar foobar asdf xxx lorem ipsum train val true false success failure episode demo trajectory "
    "no_instruction empty "
)
PLACEHOLDERS = frozenset(_PLACEHOLDER_WORDS.split())
"""Compared without case and surrounding punctuation."""
MAX_CHARACTERS = 500
SHOWN_CHARACTERS = 80
_MARKUP = re.compile(r"</?[a-zA-Z!][^<>]{0,200}>|&(?:[a-z]{2,8}|#\d{1,6});")
_NUMBER_STUCK = re.compile(r"[^\W\d_]{3,}\d+(?![\w])|(?<![\w])\d+(?!st|nd|rd|th)[^\W\d_]{3,}")
_SPACES = re.compile(r"^\s|\s$|\s\s|[\n\r\t]")
_INVISIBLE = frozenset({"Cc", "Cf", "Co", "Cn"})
_HARMLESS = frozenset("\n\r\t\u200d\ufe0f")  # line breaks have their own rule; joiners make letters and emoji
_NOT_TEXT = "\ufffd"


def check_episode(subject: Subject) -> list[Finding]:
    """Findings about each distinct instruction; ``index`` is its place among the episode's instructions."""
    instructions = subject.episode.instructions
    if not instructions:
        message = "no field of the source gives an instruction"
        return [Finding(NO_INSTRUCTION.name, NO_INSTRUCTION.severity, "instruction", message)]
    found: list[Finding] = []
    seen: set[str] = set()
    for index, instruction in enumerate(instructions):
        if instruction.text not in seen:
            seen.add(instruction.text)
            found += _judge(instruction, index)
    return found


def _shown(text: str) -> str:
    """The text in quotes, cut, with what cannot be seen spelled out."""
    return ascii(text[:SHOWN_CHARACTERS]) + (" ..." if len(text) > SHOWN_CHARACTERS else "")


def _judge(instruction: Instruction, index: int) -> Iterator[Finding]:
    text, where = instruction.text, instruction.field or "instruction"

    def finding(rule: Rule, message: str, *numbers: tuple[str, float]) -> Finding:
        return Finding(rule.name, rule.severity, where, message, index, numbers)

    if not text.strip():
        yield finding(EMPTY_INSTRUCTION, "the instruction is empty")
        return
    core = text.strip().casefold().strip(".,;:!?-_'\"()[]<>{} ")
    if core in PLACEHOLDERS or not any(character.isalpha() for character in core):
        yield finding(PLACEHOLDER, f"{_shown(text)} is not an instruction")
    hidden = [c for c in text if c not in _HARMLESS and unicodedata.category(c) in _INVISIBLE]
    if hidden:
        codes = ", ".join(f"U+{ord(c):04X}" for c in dict.fromkeys(hidden[:100]))
        yield finding(
            CONTROL_CHARACTERS,
            f"{_shown(text)} holds {codes[:SHOWN_CHARACTERS]}",
            ("num_characters", float(len(hidden))),
        )
    broken = sum(c == _NOT_TEXT or unicodedata.category(c) == "Cs" for c in text)
    if broken:
        yield finding(
            UNDECODABLE_TEXT,
            f"{_shown(text)} holds {broken} characters that were not UTF-8",
            ("num_characters", broken),
        )
    if len(text) > MAX_CHARACTERS:
        yield finding(
            VERY_LONG, f"{len(text)} characters, beginning {_shown(text)}", ("num_characters", float(len(text)))
        )
    head = text[: 10 * MAX_CHARACTERS]
    if _MARKUP.search(head):
        yield finding(MARKUP, f"{_shown(text)} holds markup")
    if _SPACES.search(head):
        yield finding(WHITESPACE, f"{_shown(text)} is not tidily spaced")
    letters = [c for c in head if c.isalpha()]
    if len(letters) >= 4 and all(c.isupper() for c in letters):
        yield finding(UPPER_CASE, f"{_shown(text)} is in capitals")
    stuck = _NUMBER_STUCK.search(head)
    if stuck:
        yield finding(NUMBER_STUCK, f"{stuck.group()!a} in {_shown(text)}")
