"""``wamloom verify``: is what lies there what was written?"""

from pathlib import Path

from jobs.options import Answer, VerifyOptions
from pipelines.lake import Lake, is_lake
from pipelines.verify import verify_lake, verify_release
from schemas.errors import UsageError

_SHOWN = 20


def run(options: VerifyOptions) -> Answer:
    """Verifies a lake or a release; the answer carries ok and problems, exit code 5 where there are any."""
    if is_lake(options.target):
        if options.lake is not None or options.readers:
            raise UsageError("--lake and --readers are for releases", options.target, "leave them out for a lake")
        result = verify_lake(Lake.open(options.target))
    else:
        lake = None if options.lake is None else Lake.open(options.lake)
        result = verify_release(Path(options.target), lake, options.readers)
    checked = dict(sorted(result.checked.items()))
    values = {
        "target": options.target,
        "kind": result.kind,
        "ok": result.ok,
        "checked": checked,
        "problems": [{"where": problem.where, "message": problem.message} for problem in result.problems],
    }
    counted = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in checked.items())
    lines = [f"{'ok' if result.ok else f'{len(result.problems)} problems'}: {result.kind} {options.target} ({counted})"]
    lines += [f"  {problem.where}: {problem.message}" for problem in result.problems[:_SHOWN]]
    if len(result.problems) > _SHOWN:
        lines.append(f"  and {len(result.problems) - _SHOWN} more; --json lists them all")
    return Answer(values, lines, 0 if result.ok else 5)
