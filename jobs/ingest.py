"""``wamloom ingest``: recordings into the lake, every one of them accounted for."""

from importlib.metadata import version
from typing import Any

from jobs.execute import WorkerSpec
from jobs.options import Answer, IngestOptions
from jobs.run import Interrupted, run_units
from jobs.staging import run_staging
from pipelines.ingest import IngestPlan, plan_ingest
from pipelines.ingest_commit import IngestCommitter, IngestTotals
from pipelines.lake import Lake, is_lake
from schemas.work import Outcome

_SHOWN = 2
"""Failed or rejected episodes of each reason to name on stderr; the lake has them all."""


def run(options: IngestOptions) -> Answer:
    """Ingests the locations; the answer carries listed = kept + rejected + failed + already, and the reasons."""
    recipe = options.recipe
    if options.dry_run:
        lake = Lake.open(options.lake) if is_lake(options.lake) else None
        plan = plan_ingest(options.locations, lake, recipe, options.card, options.retry)
        return _planned(plan, options)
    # listed before the lake is made: a wrong path must not leave an empty lake behind
    known = Lake.open(options.lake) if is_lake(options.lake) else None
    plan = plan_ingest(options.locations, known, recipe, options.card, options.retry)
    lake = known or Lake.create(options.lake)
    with run_staging(lake) as staging:
        order = [unit.unit_id for unit in plan.units]
        committer = IngestCommitter(lake, plan.refs, len(plan.already), order, staging, recipe, version("wamloom"))
        worker = WorkerSpec(
            "pipelines.ingest_unit:IngestWorker",
            {
                "staging": str(staging),
                "recipe": recipe,
                "choices": dict(plan.choices),
                "version": version("wamloom"),
            },
        )
        try:
            facts = run_units(plan.units, worker, committer.add, executor=options.executor, title="ingest")
        except Interrupted:
            committer.flush()
            raise
        totals = committer.close()
    return _answer(options, plan, totals, facts.seconds)


def _planned(plan: IngestPlan, options: IngestOptions) -> Answer:
    todo = plan.listed - len(plan.already)
    values = {
        "lake": options.lake,
        "dry_run": True,
        "listed": plan.listed,
        "already": len(plan.already),
        "to_read": todo,
        "units": len(plan.units),
        "bytes": sum(unit.num_bytes for unit in plan.units),
        **_unreadable(plan),
    }
    size = sum(unit.num_bytes for unit in plan.units) / 1e6
    return Answer(
        values,
        [f"would read {todo} of {plan.listed} episodes ({size:.1f} MB, {len(plan.units)} units) into {options.lake}"],
        warnings=_unreadable_told(plan),
    )


def _unreadable(plan: IngestPlan) -> dict[str, Any]:
    """Sets that were left out whole: how many, and why."""
    facts = [{"where": e.where, "reason": e.reason, "message": e.message, "hint": e.hint} for e in plan.unreadable]
    return {"unreadable_sets": len(facts), "set_problems": facts}


def _unreadable_told(plan: IngestPlan) -> list[str]:
    return [
        f"set left out ({e.reason}): {e.where}: {e.message}" + (f"; hint: {e.hint}" if e.hint else "")
        for e in plan.unreadable
    ]


def _answer(options: IngestOptions, plan: IngestPlan, totals: IngestTotals, seconds: float) -> Answer:
    recipe = options.recipe
    failed = totals.failed + plan.already_failed
    rejected = totals.rejected + plan.already_rejected
    over = (
        failed > recipe.max_failed_fraction * totals.listed or rejected > recipe.max_rejected_fraction * totals.listed
    )
    values: dict[str, Any] = {
        "lake": options.lake,
        "listed": totals.listed,
        "kept": totals.kept,
        "rejected": totals.rejected,
        "failed": totals.failed,
        "already": totals.already,
        "duplicates": totals.duplicates,
        "changed": totals.changed,
        **_unreadable(plan),
        "warned": dict(sorted(totals.warned.items())),
        "already_failed": plan.already_failed,
        "already_rejected": plan.already_rejected,
        "reasons": dict(sorted(totals.reasons.items())),
        "problems": [
            {
                "place": o.key,
                "outcome": o.kind,
                "reason": o.reason,
                "message": o.message,
                "where": o.where,
                "hint": o.hint,
            }
            for o in totals.problems
        ],
        "seconds": round(seconds, 2),
    }
    lines = [
        f"{totals.listed} episodes listed: {totals.kept} kept, {totals.rejected} rejected, {totals.failed} failed, "
        f"{totals.already} already in the lake"
        + (f" ({totals.duplicates} of them hold the same as another recording)" if totals.duplicates else ""),
        *([f"  {totals.changed} are new versions of recordings whose files changed"] if totals.changed else []),
        *([f"  {len(plan.unreadable)} sets were left out, see the warnings"] if plan.unreadable else []),
        *(f"  {count} x {reason}" for reason, count in totals.reasons.most_common()),
        f"lake: {options.lake}",
    ]
    told = _first_of_each_reason(totals.problems)
    warnings = [*_unreadable_told(plan), *(_told(outcome) for outcome in told)]
    if len(totals.problems) > len(told):
        warnings.append(f"and {len(totals.problems) - len(told)} more; `wamloom show {options.lake}` lists them")
    if totals.warned:
        rules = ", ".join(f"{rule} {count}" for rule, count in totals.warned.most_common())
        warnings.append(
            f"kept episodes with warnings, by rule: {rules}; `wamloom report {options.lake} --out FILE.html` shows them"
        )
    if plan.already_failed or plan.already_rejected:
        warnings.append(
            f"{plan.already_failed} failed and {plan.already_rejected} rejected earlier and were not tried again; "
            "--retry takes them up"
        )
    return Answer(values, lines, 4 if over or plan.unreadable else 0, warnings)


def _first_of_each_reason(problems: list[Outcome]) -> list[Outcome]:
    by_reason: dict[str, list[Outcome]] = {}
    for outcome in problems:
        by_reason.setdefault(outcome.reason, []).append(outcome)
    return [outcome for members in by_reason.values() for outcome in members[:_SHOWN]]


def _told(outcome: Outcome) -> str:
    text = f"{outcome.kind} ({outcome.reason}): {outcome.where or outcome.key}: {outcome.message}"
    return f"{text}; hint: {outcome.hint}" if outcome.hint else text
