"""``wamloom build``: a release that trainers read, whole or not at all."""

from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.execute import WorkerSpec
from jobs.options import Answer, BuildOptions
from jobs.run import run_units
from pipelines.build_plan import BuildPlan, plan_build
from pipelines.build_publish import publish_build
from pipelines.formats import describe_group
from pipelines.lake import Lake
from pipelines.look import told_chunks
from pipelines.release import check_target, open_staging, read_manifest
from pipelines.storage import writing
from schemas.errors import AlreadyPublished, UnitLost
from schemas.work import UnitResult

_PACKAGES = ("av", "numpy", "pyarrow", "pylance", "simplejpeg")
"""Whose versions can change a release's bytes."""


def run(options: BuildOptions) -> Answer:
    """Builds the release; the answer carries samples, frames, episodes, files and the manifest's place."""
    recipe, ours = options.recipe, version("wamloom")
    lake = Lake.open(options.lake)
    lake = Lake.open(options.lake, lake.versions())  # what comes into the lake from now on is not part of this build
    out = Path(options.out).resolve()
    plan = plan_build(lake, recipe, ours)
    build = plan.fingerprint(recipe, ours)
    try:
        if options.dry_run:
            check_target(out, build)
            return _planned(options, plan)
        with open_staging(out, build) as staging:
            todo = [unit for unit in plan.units if staging.finished(unit.unit_id) is None]
            worker = WorkerSpec(
                "pipelines.build_unit:BuildWorker",
                {
                    "lake": str(lake.root),
                    "versions": lake.versions(),
                    "staging": str(staging.root),
                    "recipe": recipe,
                    "latents": plan.latents,
                },
            )
            facts = run_units(todo, worker, _stop_if_lost, executor=options.executor, title="build")
            with writing(staging.root):
                manifest = publish_build(staging, plan, recipe, ours, {name: version(name) for name in _PACKAGES})
    except AlreadyPublished:
        return _answer(options, plan, read_manifest(out), 0.0, already=True)
    return _answer(options, plan, manifest, facts.seconds, already=False)


def _stop_if_lost(result: UnitResult) -> None:
    lost = next((outcome for outcome in result.outcomes if outcome.kind == "failed"), None)
    if lost is not None:
        raise UnitLost(
            f"a unit of the build is lost: {lost.message}",
            f"episode {lost.key[:12]}",
            "leave that episode out with --where, or run the same command again",
            lost.reason,
        )


def _windows_left_out(numbers: Iterable[Iterable[Iterable[Any]]]) -> int:
    """Windows that the recipe's ``segments`` left out, from the numbers of what was dropped."""
    return int(sum(value for one in numbers for name, value in one if name == "windows"))


def _planned(options: BuildOptions, plan: BuildPlan) -> Answer:
    values = {
        "release": options.out,
        "dry_run": True,
        "formats": list(options.recipe.formats),
        "episodes": sum(group.num_episodes for group in plan.groups),
        "steps": plan.num_steps,
        "samples": plan.num_samples,
        "dropped": sum(not outcome.numbers for outcome in plan.dropped),
        "windows_left_out": _windows_left_out(outcome.numbers for outcome in plan.dropped),
        "units": len(plan.units),
        "groups": [group.name for group in plan.groups],
    }
    lines = [
        f"would write {values['episodes']} episodes ({plan.num_steps} steps, {plan.num_samples} samples) in "
        f"{len(plan.groups)} groups as {', '.join(options.recipe.formats)} to {options.out}"
    ]
    for group in plan.groups:
        lines += [
            f"  {group.name}: {group.robot} at {group.rate} Hz, {group.num_episodes} episodes, {group.num_steps} steps, "
            f"views {', '.join(slot for slot, _, _ in group.views) or 'none'}",
            f"    {told_chunks(describe_group(group, options.recipe))}",
        ]
    dropped = Counter(outcome.message for outcome in plan.dropped if not outcome.numbers)
    warnings = [*plan.notes, *(f"{count} episodes would be dropped: {why}" for why, count in dropped.most_common())]
    if values["windows_left_out"]:
        warnings.append(f"{values['windows_left_out']} windows would be left out for their segments")
    return Answer(values, lines, 0, warnings)


def _answer(options: BuildOptions, plan: BuildPlan, manifest: dict[str, Any], seconds: float, already: bool) -> Answer:
    counts = manifest["counts"]
    samples = {name: sum(group["samples"] for group in groups.values()) for name, groups in counts.items()}
    episodes = sum(len(group["episodes"]) for group in manifest["groups"])
    frames = sum(group["num_steps"] * len(group["views"]) for group in manifest["groups"])
    steps = sum(group["num_steps"] for group in manifest["groups"])
    copied = sum(sum(group["copied_frames"].values()) for group in manifest["groups"])
    values: dict[str, Any] = {
        "release": options.out,
        "build": manifest["build"],
        "already": already,
        "samples": sum(samples.values()),
        "samples_by_format": samples,
        "steps": steps,
        "frames": frames,
        "copied_frames": copied,
        "episodes": episodes,
        "dropped": sum(not outcome["numbers"] for outcome in manifest["dropped"]),
        "windows_left_out": _windows_left_out(outcome["numbers"] for outcome in manifest["dropped"]),
        "files": len(manifest["files"]),
        "bytes": sum(entry["num_bytes"] for entry in manifest["files"]),
        "manifest": str(Path(options.out) / "manifest.json"),
        "seconds": round(seconds, 2),
    }
    what = "was there already" if already else "is whole"
    lines = [
        f"release {options.out} {what}: {episodes} episodes, {steps} steps, {frames} frames, {values['files']} files "
        f"({values['bytes'] / 1e6:.1f} MB)",
        *(f"  {name}: {number} samples in {', '.join(sorted(counts[name]))}" for name, number in samples.items()),
        *([f"  {copied} frames were copied as they were recorded"] if copied else []),
    ]
    warnings = list(plan.notes)
    if values["dropped"]:
        warnings.append(f"{values['dropped']} episodes were dropped; the manifest says why")
    if values["windows_left_out"]:
        warnings.append(f"{values['windows_left_out']} windows were left out for their segments; the manifest says why")
    return Answer(values, lines, 0, warnings)
