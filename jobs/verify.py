"""``wamloom verify``: is what lies there what was written?"""

import math
import textwrap
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.options import Answer, VerifyOptions
from pipelines.certificate import certificate, certificate_bytes
from pipelines.clip_encoder import load_encoder
from pipelines.lake import Lake, is_lake
from pipelines.latent_check import ClipCheck, check_latents
from pipelines.problems import Problem, Verification
from pipelines.release import read_manifest
from pipelines.storage import write_durably
from pipelines.verify import FRAME_EPISODES, verify_lake, verify_release
from schemas.errors import ReleaseError, UsageError

_WIDTH = 110
_SHOWN = 20


def run(options: VerifyOptions) -> Answer:
    """Verifies a lake or a release; the answer carries ok and problems, exit code 5 where there are any."""
    checks: list[ClipCheck] = []
    told: dict[str, Any] | None = None
    if is_lake(options.target):
        if options.certificate is not None or options.episodes is not None:
            raise UsageError(
                "--certificate and --episodes are for releases", options.target, "leave them out for a lake"
            )
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
        result = verify_release(Path(options.target), source, options.readers, options.episodes or FRAME_EPISODES)
        told = _release_certificate(options, result)
        if told is not None and options.certificate is not None:
            write_durably(Path(options.certificate), certificate_bytes(told))
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
    if told is not None:
        values |= {"worst": told["worst"], "not_checked": told["not_checked"], "lake": told["lake"]}
    counted = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in checked.items())
    lines = [f"{'ok' if result.ok else f'{len(result.problems)} problems'}: {result.kind} {options.target}"]
    lines += textwrap.wrap(f"checked: {counted}", _WIDTH, initial_indent="  ", subsequent_indent="    ")
    if checks:
        lines.append(_told(checks))
    if told is not None and told["worst"]:
        lines.append(f"  worst: {', '.join(f'{name} {value:.3g}' for name, value in told['worst'].items())}")
    if told is not None and told["lake"] is not None and not told["lake"]["is_unchanged"]:
        lines.append("  the lake has other rows, latents or texts of these episodes now than when this was built")
    if told is None and options.certificate is not None:
        lines.append("  no certificate was written, since the manifest does not say what the release is")
    lines += [f"  not checked: {what}" for what in result.skipped]
    lines += [f"  {problem.where}: {problem.message}" for problem in result.problems[:_SHOWN]]
    if len(result.problems) > _SHOWN:
        lines.append(f"  and {len(result.problems) - _SHOWN} more; --json lists them all")
    return Answer(values, lines, 0 if result.ok else 5)


def _release_certificate(options: VerifyOptions, result: Verification) -> dict[str, Any] | None:
    """The certificate; None where the manifest is damaged. Adds to ``result`` what is wrong with latents and encoder."""
    try:
        manifest = read_manifest(options.target)
    except ReleaseError:
        return None  # a problem already
    if options.encoder:
        latents, encoder = manifest["latents"], load_encoder(options.recipe)
        if latents is None:
            raise UsageError("this release has no latents", options.target, "leave out --encoder and --weights")
        result.checked["encoders"] += 1
        if latents["encoder_fingerprint"] != encoder.fingerprint:
            message = (
                f"its latents are of {latents['encoder']} with fingerprint {latents['encoder_fingerprint'][:16]}, and this "
                f"{encoder.name} has {encoder.fingerprint[:16]}: other weights or settings, which must not decode them"
            )
            result.problems.append(Problem(options.target, message))
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return certificate(manifest, result, version("wamloom"), date)


def _told(checks: list[ClipCheck]) -> str:
    finite = [check.psnr for check in checks if not math.isinf(check.psnr)]
    psnr = f"{min(finite):.1f} to {max(finite):.1f} dB" if finite else "to the bit"
    still = sum(check.lag is None for check in checks)
    aligned = sum(check.lag == 0 for check in checks)
    return f"  {len(checks)} clips decode back {psnr}; {aligned} match best at lag 0, {still} stand still"
