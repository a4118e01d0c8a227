"""``wamloom encode``: video into latents, each computed once."""

import tempfile
from pathlib import Path
from typing import Any

from jobs.execute import WorkerSpec
from jobs.options import Answer, EncodeOptions
from jobs.run import run_units
from jobs.staging import run_staging
from pipelines.clip_encoder import load_encoder
from pipelines.encode_commit import LatentCommitter
from pipelines.encode_estimate import measure
from pipelines.encode_plan import EncodePlan, plan_encode
from pipelines.lake import Lake
from pipelines.staged_rows import Account


def run(options: EncodeOptions) -> Answer:
    """Encodes what is missing; the answer carries clips = cached + computed + failed."""
    recipe = options.recipe
    lake = Lake.open(options.lake)
    plan = plan_encode(lake, recipe, load_encoder(recipe), options.where)
    if options.dry_run:
        return _planned(options, lake, plan)
    with run_staging(lake) as staging:
        committer = LatentCommitter(lake, plan, staging)
        worker = WorkerSpec(
            "pipelines.encode_unit:EncodeWorker",
            {"lake": str(lake.root), "versions": lake.versions(), "staging": str(staging), "recipe": recipe},
        )
        facts = run_units(plan.units, worker, committer.add, executor=options.executor, title="encode")
        totals = committer.close()
    return _answer(options, plan, totals, facts.seconds)


def _planned(options: EncodeOptions, lake: Lake, plan: EncodePlan) -> Answer:
    with tempfile.TemporaryDirectory(prefix="wamloom-estimate-") as scratch:
        pace = measure(lake, options.recipe, plan.units, Path(scratch))
    seconds = None if pace is None else pace.seconds(plan.num_pixels)
    values = {
        "lake": options.lake,
        "dry_run": True,
        "encoder": options.recipe.encoder,
        "clips": plan.num_clips,
        "cached": plan.cached,
        "cached_frames": plan.cached_frames,
        "without_view": plan.without_view,
        "unseen_frames": plan.unseen_frames,
        "frames": plan.num_frames,
        "latent_bytes": plan.latent_bytes,
        "units": len(plan.units),
        "hours": None if seconds is None else seconds / 3600,
    }
    lines = [
        f"would encode {plan.num_clips - plan.cached} of {plan.num_clips} clips ({plan.num_frames} frames, "
        f"{plan.latent_bytes / 1e6:.1f} MB of latents); {plan.cached} are in the lake ({plan.cached_frames} frames saved)"
    ]
    if pace is not None and seconds is not None:
        lines.append(
            f"about {_duration(seconds)} in one process on this machine, as busy as it is now: {plan.num_frames / seconds:.3g} "
            "frames/s of its own clips, decoded, encoded and committed"
        )
    return Answer(values, lines, 0, _lacking(plan))


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.3g} hours" if seconds >= 3600 else f"{seconds / 60:.2g} minutes ({seconds:.0f} s)"


def _lacking(plan: EncodePlan) -> list[str]:
    return [
        f"{number} episodes have no view {slot}, which the canvas needs: no latents of them"
        for slot, number in plan.without_view.items()
    ] + [
        f"{number} frames lie in no clip: {slot} has not begun there, or is over, and its picture would stand still"
        for slot, number in plan.unseen_frames.items()
    ]


def _answer(options: EncodeOptions, plan: EncodePlan, totals: Account, seconds: float) -> Answer:
    values: dict[str, Any] = {
        "lake": options.lake,
        "encoder": options.recipe.encoder,
        "encoder_fingerprint": plan.encoder_fingerprint,
        "episodes": plan.episodes,
        "clips": totals.planned,
        "computed": totals.computed,
        "cached": totals.cached,
        "cached_frames": plan.cached_frames,
        "without_view": plan.without_view,
        "unseen_frames": plan.unseen_frames,
        "failed": totals.failed,
        "frames": plan.num_frames,
        "uncovered_frames": plan.uncovered_frames,
        "latent_bytes": plan.latent_bytes,
        "reasons": dict(sorted(totals.reasons.items())),
        "seconds": round(seconds, 2),
    }
    lines = [
        f"{totals.planned} clips of {plan.episodes} episodes: {totals.computed} computed, {totals.cached} in the lake already "
        f"({plan.cached_frames} frames saved), {totals.failed} failed",
        f"{plan.num_frames} frames encoded with {options.recipe.encoder} ({plan.latent_bytes / 1e6:.1f} MB of latents)",
    ]
    warnings = [f"failed ({o.reason}): {o.where}: {o.message}" for o in totals.problems[:5]]
    if plan.uncovered_frames:
        warnings.append(
            f"{plan.uncovered_frames} frames lie in no clip: tails too short for the encoder's stride, or "
            "what lies before the first of clip.phases"
        )
    warnings += _lacking(plan)
    over = totals.failed > options.recipe.max_failed_fraction * max(1, totals.planned)
    return Answer(values, lines, 4 if over else 0, warnings)
