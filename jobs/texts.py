"""``wamloom texts``: instructions into embeddings, each distinct prompt encoded once."""

from typing import Any

from jobs.execute import WorkerSpec
from jobs.options import Answer, TextsOptions
from jobs.run import run_units
from jobs.staging import run_staging
from pipelines.lake import Lake
from pipelines.texts import TextCommitter, TextPlan, load_text_encoder, plan_texts

_STAND_IN = "hashed"


def run(options: TextsOptions) -> Answer:
    """Encodes what is missing; the answer carries prompts = cached + computed + failed."""
    recipe = options.recipe
    lake = Lake.open(options.lake)
    plan = plan_texts(lake, recipe, load_text_encoder(recipe), options.where)
    if options.dry_run:
        missing = plan.num_prompts - plan.cached
        lines = [_found(plan), f"would encode {missing} of them with {recipe.encoder}; {plan.cached} are in the lake"]
        return Answer({**_facts(options, plan), "dry_run": True, "units": len(plan.units)}, lines, 0, _warnings(plan))
    with run_staging(lake) as staging:
        committer = TextCommitter(lake, plan, staging)
        worker = WorkerSpec(
            "pipelines.texts:TextWorker",
            {"staging": str(staging), "recipe": recipe, "planned": plan.encoder_fingerprint},
        )
        facts = run_units(plan.units, worker, committer.add, executor=options.executor, title="texts")
        committer.close()
    return _answer(options, plan, committer, facts.seconds)


def _facts(options: TextsOptions, plan: TextPlan) -> dict[str, Any]:
    return {
        "lake": options.lake,
        "encoder": options.recipe.encoder,
        "encoder_fingerprint": plan.encoder_fingerprint,
        "template": plan.template,
        "length": plan.length,
        "width": plan.width,
        "dtype": options.recipe.dtype,
        "episodes": plan.episodes,
        "speechless_episodes": plan.speechless,
        "instructions": plan.instructions,
        "prompts": plan.num_prompts,
        "cached": plan.cached,
    }


def _found(plan: TextPlan) -> str:
    return (
        f"{plan.episodes} episodes with {plan.instructions} instructions make {plan.num_prompts} distinct prompts, "
        "the empty one among them"
    )


def _warnings(plan: TextPlan) -> list[str]:
    if not plan.unusual:
        return []
    return [
        f"{plan.unusual} prompts have characters other than printable ASCII; trainers that mend texts with ftfy may "
        "write them otherwise"
    ]


def _answer(options: TextsOptions, plan: TextPlan, committer: TextCommitter, seconds: float) -> Answer:
    totals = committer.totals
    recipe = options.recipe
    values = {
        **_facts(options, plan),
        "computed": totals.computed,
        "failed": totals.failed,
        "full": committer.full,
        "text_bytes": committer.num_bytes,
        "reasons": dict(sorted(totals.reasons.items())),
        "seconds": round(seconds, 2),
    }
    lines = [
        _found(plan),
        f"{totals.computed} computed with {recipe.encoder} ({committer.num_bytes / 1e6:.1f} MB), {totals.cached} in the lake "
        f"already, {totals.failed} failed",
    ]
    warnings = [f"failed ({o.reason}): {o.where}: {o.message}" for o in totals.problems[:5]] + _warnings(plan)
    if committer.full:
        warnings.append(f"{committer.full} prompts fill all {plan.length} tokens; what is longer was cut")
    if recipe.encoder == _STAND_IN:
        warnings.append(f"{_STAND_IN} is a stand-in that knows no meaning: not for training; name another --encoder")
    over = totals.failed > recipe.max_failed_fraction * max(1, totals.planned)
    return Answer(values, lines, 4 if over else 0, warnings)
