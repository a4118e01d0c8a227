"""The alignment certificate: what a verification looked at in a release, how much of it, and the worst it saw."""

import json
from collections.abc import Mapping
from typing import Any

from pipelines.problems import Verification
from pipelines.proof import RUN_STEPS, TIME_TOLERANCE_S
from schemas.errors import UsageError

KIND = "wamloom alignment certificate"
_HINT = "name a file that `wamloom verify RELEASE --certificate FILE.json` wrote"


def certificate(manifest: Mapping[str, Any], result: Verification, version: str, date: str = "") -> dict[str, Any]:
    """The certificate of the release that ``manifest`` tells of, as JSON. All but ``date`` follows from release and lake.

    ``version`` is that of the wamloom that verified.
    """
    return {
        "kind": KIND,
        "date": date,
        "ok": result.ok,
        "release": {
            "build": manifest["build"],
            "wamloom": manifest["wamloom"],
            "packages": manifest["packages"],
            "lake_content": manifest["lake_content"],
            "formats": sorted(manifest["counts"]),
        },
        "lake": None
        if result.lake_content is None
        else {"content": result.lake_content, "is_unchanged": result.lake_content == manifest["lake_content"]},
        "verified_by": {"wamloom": version, "time_tolerance_s": TIME_TOLERANCE_S, "compared_steps_in_a_run": RUN_STEPS},
        "checked": dict(sorted(result.checked.items())),
        "worst": {name: round(value, 12) for name, value in sorted(result.worst.items()) if value != float("inf")},
        "not_checked": sorted(result.skipped),
        "problems": [{"where": problem.where, "message": problem.message} for problem in result.problems],
    }


def certificate_bytes(told: Mapping[str, Any]) -> bytes:
    """The certificate's one text."""
    return (json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_certificate(data: bytes, where: str, build: str) -> dict[str, Any]:
    """A certificate of the release with this fingerprint. Raises UsageError for anything else."""
    try:
        told = json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"this is no certificate: {error}", where, _HINT) from error
    shape = {
        "release": dict,
        "checked": dict,
        "worst": dict,
        "not_checked": list,
        "problems": list,
        "date": str,
        "ok": bool,
    }
    if (
        not isinstance(told, dict)
        or told.get("kind") != KIND
        or not all(isinstance(told.get(key), kind) for key, kind in shape.items())
    ):
        raise UsageError("this is no certificate", where, _HINT)
    if told["release"].get("build") != build:
        raise UsageError("this certificate is of another release", where, _HINT)
    return told
