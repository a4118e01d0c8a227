"""The command line. Data goes to stdout, everything else to stderr; one place turns errors into exit codes."""

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from jobs.options import Answer
from jobs.parser import make_parser
from jobs.run import Interrupted
from pipelines.storage import disk_error
from schemas.errors import (
    AlreadyPublished,
    CardError,
    FingerprintMismatch,
    RecipeError,
    ReleaseMismatch,
    UnitLost,
    UsageError,
    WamloomError,
)

_WRONG_USAGE = (UsageError, RecipeError, CardError, FingerprintMismatch, ReleaseMismatch, AlreadyPublished)


def exit_code_of(error: WamloomError) -> int:
    """2 where the wish is wrong, 4 where work was lost, else 3: the input cannot be read."""
    if isinstance(error, _WRONG_USAGE):
        return 2
    return 4 if isinstance(error, UnitLost) else 3


def _print_error(message: str, hint: str) -> None:
    sys.stderr.write(f"error: {message}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")


def _print_json(values: Any) -> None:
    sys.stdout.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")


def _print_answer(answer: Answer, as_json: bool) -> None:
    for warning in answer.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    if as_json:
        _print_json(dict(answer.values))
        return
    lines = answer.lines or [f"{key}: {_plain(value)}" for key, value in answer.values.items()]
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _end_with(error: WamloomError, as_json: bool) -> int:
    code = exit_code_of(error)
    _print_error(f"{error.where}: {error.message}" if error.where else error.message, error.hint)
    if as_json:
        facts = {"error": error.message, "where": error.where, "hint": error.hint, "reason": error.reason}
        _print_json({**facts, "exit_code": code})
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; ``wamloom`` is this function."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    asked: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        raise Interrupted(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        return _run_command(given, as_json)
    except Interrupted as interrupted:
        return _end_interrupted(interrupted, as_json)
    except Exception:
        if asked:  # a library that was being imported turned the interruption into an error of its own
            return _end_interrupted(Interrupted(asked[0]), as_json)
        raise


def _end_interrupted(interrupted: Interrupted, as_json: bool) -> int:
    message, hint = "interrupted; what had finished is kept", "the same command continues"
    _print_error(message, hint)
    if as_json:
        facts = {"error": message, "where": "", "hint": hint, "reason": "interrupted"}
        _print_json({**facts, "exit_code": interrupted.exit_code})
    return interrupted.exit_code


def _run_command(given: Sequence[str], as_json: bool) -> int:
    try:
        args = make_parser().parse_args(given)
        logging.basicConfig(
            level=logging.INFO if args.verbose else logging.WARNING,
            stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s %(message)s",
        )
        with contextlib.redirect_stdout(sys.stderr):  # libraries and worker processes print; stdout is for the answer
            answer: Answer = args.call(args)
        _print_answer(answer, as_json)
        sys.stdout.flush()
    except WamloomError as error:
        return _end_with(error, as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        return 0
    except OSError as error:
        told = disk_error(error)
        if told is None:
            raise
        return _end_with(told, as_json)
    return answer.exit_code


if __name__ == "__main__":
    sys.exit(main())
