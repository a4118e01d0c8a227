"""``wamloom verify``: is what lies there what was written?"""

import math
from pathlib import Path

from jobs.options import Answer, VerifyOptions
from pipelines.encode_unit import load_encoder
from pipelines.lake import Lake, is_lake
from pipelines.latent_check import ClipCheck, check_latents
from pipelines.verify import verify_lake, verify_release
from schemas.errors import UsageError

_SHOWN = 20


def run(options: VerifyOptions) -> Answer:
    """Verifies a lake or a release; the answer carries ok and problems, exit code 5 where there are any."""
    checks: list[ClipCheck] = []
    if is_lake(options.target):
        if options.lake is not None or options.readers:
            raise UsageError("--lake and --readers are for releases", options.target, "leave them out for a lake")
        lake = Lake.open(options.target)
        result = verify_lake(lake)
        if options.latents and result.ok:  # damaged rows say nothing of alignment
            encoder = load_encoder(options.recipe)
            checks, problems = check_latents(lake, options.recipe, encoder, options.latents)
            result.problems += problems
            result.checked["clips_decoded_back"] += len(checks)
    elif options.latents:
        raise UsageError("--latents is for lakes", options.target, "name the lake that the release was built from")
    else:
        source = None if options.lake is None else Lake.open(options.lake)
        result = verify_release(Path(options.target), source, options.readers)
    shown = [check.plain for check in checks]
    checked = dict(sorted(result.checked.items()))
    values = {
        "target": options.target,
        "kind": result.kind,
        "ok": result.ok,
        "checked": checked,
        "clips": shown,
        "problems": [{"where": problem.where, "message": problem.message} for problem in result.problems],
    }
    counted = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in checked.items())
    lines = [f"{'ok' if result.ok else f'{len(result.problems)} problems'}: {result.kind} {options.target} ({counted})"]
    if checks:
        lines.append(_told(checks))
    lines += [f"  {problem.where}: {problem.message}" for problem in result.problems[:_SHOWN]]
    if len(result.problems) > _SHOWN:
        lines.append(f"  and {len(result.problems) - _SHOWN} more; --json lists them all")
    return Answer(values, lines, 0 if result.ok else 5)


def _told(checks: list[ClipCheck]) -> str:
    finite = [check.psnr for check in checks if not math.isinf(check.psnr)]
    psnr = f"{min(finite):.1f} to {max(finite):.1f} dB" if finite else "to the bit"
    still = sum(check.lag is None for check in checks)
    aligned = sum(check.lag == 0 for check in checks)
    return f"  {len(checks)} clips decode back {psnr}; {aligned} match best at lag 0, {still} stand still"
