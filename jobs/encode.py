"""``wamloom encode``: video into latents, each computed once."""

from typing import Any

from jobs.execute import WorkerSpec
from jobs.options import Answer, EncodeOptions
from jobs.run import run_units
from jobs.staging import run_staging
from pipelines.encode import EncodePlan, EncodeTotals, LatentCommitter, load_encoder, plan_encode
from pipelines.lake import Lake


def run(options: EncodeOptions) -> Answer:
    """Encodes what is missing; the answer carries clips = cached + computed + failed."""
    recipe = options.recipe
    lake = Lake.open(options.lake)
    plan = plan_encode(lake, recipe, load_encoder(recipe), options.where)
    if options.dry_run:
        return _planned(options, plan)
    with run_staging(lake) as staging:
        committer = LatentCommitter(lake, plan, staging)
        worker = WorkerSpec(
            "pipelines.encode:EncodeWorker",
            {"lake": str(lake.root), "versions": lake.versions(), "staging": str(staging), "recipe": recipe},
        )
        facts = run_units(plan.units, worker, committer.add, executor=options.executor, title="encode")
        totals = committer.close()
    return _answer(options, plan, totals, facts.seconds)


def _planned(options: EncodeOptions, plan: EncodePlan) -> Answer:
    values = {
        "lake": options.lake,
        "dry_run": True,
        "encoder": options.recipe.encoder,
        "clips": plan.num_clips,
        "cached": plan.cached,
        "frames": plan.num_frames,
        "latent_bytes": plan.latent_bytes,
        "units": len(plan.units),
    }
    return Answer(
        values,
        [
            f"would encode {plan.num_clips - plan.cached} of {plan.num_clips} clips ({plan.num_frames} frames, "
            f"{plan.latent_bytes / 1e6:.1f} MB of latents); {plan.cached} are in the lake"
        ],
    )


def _answer(options: EncodeOptions, plan: EncodePlan, totals: EncodeTotals, seconds: float) -> Answer:
    values: dict[str, Any] = {
        "lake": options.lake,
        "encoder": options.recipe.encoder,
        "encoder_fingerprint": plan.encoder_fingerprint,
        "episodes": plan.episodes,
        "clips": totals.clips,
        "computed": totals.computed,
        "cached": totals.cached,
        "failed": totals.failed,
        "frames": plan.num_frames,
        "uncovered_frames": plan.uncovered_frames,
        "latent_bytes": plan.latent_bytes,
        "reasons": dict(sorted(totals.reasons.items())),
        "seconds": round(seconds, 2),
    }
    lines = [
        f"{totals.clips} clips of {plan.episodes} episodes: {totals.computed} computed, {totals.cached} in the lake already, "
        f"{totals.failed} failed",
        f"{plan.num_frames} frames encoded with {options.recipe.encoder} ({plan.latent_bytes / 1e6:.1f} MB of latents)",
    ]
    warnings = [f"failed ({o.reason}): {o.where}: {o.message}" for o in totals.problems[:5]]
    if plan.uncovered_frames:
        warnings.append(f"{plan.uncovered_frames} frames lie in no clip: tails too short for the encoder's stride")
    over = totals.failed > options.recipe.max_failed_fraction * max(1, totals.clips)
    return Answer(values, lines, 4 if over else 0, warnings)
