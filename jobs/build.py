"""``wamloom build``: a release that trainers read, whole or not at all."""

from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.execute import WorkerSpec
from jobs.options import Answer, BuildOptions
from jobs.run import run_units
from pipelines.build_plan import BuildPlan, plan_build
from pipelines.build_publish import publish_build
from pipelines.build_unit import encodes
from pipelines.clip_encoder import load_encoder
from pipelines.formats import GroupPlan, describe_group, sized_group
from pipelines.lake import Lake
from pipelines.look import told_chunks
from pipelines.made_latents import MadeLatents
from pipelines.promised_latents import completed, promise
from pipelines.release import check_target, open_staging, read_manifest
from pipelines.storage import writing
from schemas.errors import AlreadyPublished, UnitLost
from schemas.recipes import EncodeRecipe
from schemas.work import UnitResult

_PACKAGES = ("av", "numpy", "pyarrow", "pylance", "simplejpeg")
"""Whose versions can change a release's bytes."""
_SHOWN = 5


def run(options: BuildOptions) -> Answer:
    """Builds the release; the answer carries samples, frames, episodes, files and the manifest's place."""
    recipe, ours = options.recipe, version("wamloom")
    lake = Lake.open(options.lake)
    lake = Lake.open(options.lake, lake.versions())  # what comes into the lake from now on is not part of this build
    out = Path(options.out).resolve()
    encode = None if options.encode is None else completed(options.encode, recipe)
    promised = None if encode is None else promise(lake, recipe, encode, load_encoder(encode))
    plan = plan_build(lake, recipe, ours, promised)
    build = known_as = plan.fingerprint(recipe, ours)
    made = None if promised is None else MadeLatents(lake, promised.only(plan.hashes))
    if made:  # while latents are still to be made it has no fingerprint, and no release that lies there can be it
        build = "" if made.missing else plan.settled(lake, recipe, ours).fingerprint(recipe, ours)
    try:
        if options.dry_run:
            check_target(out, build)
            return _planned(options, plan, made, encode)
        with open_staging(out, build, known_as) as staging:
            if made:
                lake = made.take_up(staging.root)
                plan = plan.encoding(made.missing)
            todo = [unit for unit in plan.units if encodes(unit) or staging.finished(unit.unit_id) is None]
            worker = WorkerSpec(
                "pipelines.build_unit:BuildWorker",
                {
                    "lake": str(lake.root),
                    "versions": lake.versions(),
                    "staging": str(staging.root),
                    "recipe": recipe,
                    "latents": plan.latents,
                    "encode": encode,
                },
            )

            def take(result: UnitResult) -> None:
                _stop_if_lost(result)
                if made:
                    made.take(result)

            facts = run_units(todo, worker, take, executor=options.executor, title="build")
            if made:
                plan = plan.settled(made.whole(), recipe, ours)
            with writing(staging.root):
                manifest = publish_build(staging, plan, recipe, ours, {name: version(name) for name in _PACKAGES})
    except AlreadyPublished:
        return _answer(options, plan, read_manifest(out), 0.0, already=True, made=made)
    return _answer(options, plan, manifest, facts.seconds, already=False, made=made)


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


def _planned(options: BuildOptions, plan: BuildPlan, made: MadeLatents | None, encode: EncodeRecipe | None) -> Answer:
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
    clips = [clip for works in made.missing.values() for work in works for clip in work.clips] if made else []
    if made:
        values["clips_to_encode"] = len(clips)
    lines = [
        f"would write {values['episodes']} episodes ({plan.num_steps} steps, {plan.num_samples} samples) in "
        f"{len(plan.groups)} groups as {', '.join(options.recipe.formats)} to {options.out}"
    ]
    if made and encode:
        frames = sum(len(clip.frame_ids) for clip in clips)
        seen = sorted({f"{work.width}x{work.height}" for works in made.missing.values() for work in works})
        lines.append(
            f"would encode {len(clips)} clips ({frames} frames of {', '.join(seen) or 'none'}) that the lake does not have, with "
            f"{encode.encoder}"
        )
    for group in plan.groups:
        lines += [
            f"  {group.name}: {group.robot} at {group.rate} Hz, {group.num_episodes} episodes, {group.num_steps} steps, "
            f"views {_views(group)}",
            f"    {told_chunks(describe_group(group, options.recipe))}",
            *(f"    {name} shows {_views(sized_group(group, options.recipe, name))}" for name in options.recipe.sizes),
        ]
    dropped = Counter(outcome.message for outcome in plan.dropped if not outcome.numbers)
    warnings = [*plan.notes, *(f"{count} episodes would be dropped: {why}" for why, count in dropped.most_common())]
    if values["windows_left_out"]:
        warnings.append(f"{values['windows_left_out']} windows would be left out for their segments")
    return Answer(values, lines, 0, warnings)


def _compressed_anew(groups: Iterable[Mapping[str, Any]]) -> list[tuple[tuple[str, str], list[str]]]:
    """The views that were not copied as they were recorded, by (group, why)."""
    found: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for view, reasons in group["not_copied"].items():
            for why in reasons:
                found.setdefault((group["name"], why), []).append(view)
    return list(found.items())


def _views(group: GroupPlan) -> str:
    return ", ".join(f"{view} {width}x{height}" for view, height, width in group.views) or "none"


def _answer(
    options: BuildOptions,
    plan: BuildPlan,
    manifest: dict[str, Any],
    seconds: float,
    *,
    already: bool,
    made: MadeLatents | None,
) -> Answer:
    counts = manifest["counts"]
    samples = {name: sum(group["samples"] for group in groups.values()) for name, groups in counts.items()}
    episodes = sum(len(group["episodes"]) for group in manifest["groups"])
    frames = sum(group["num_steps"] * len(group["views"]) for group in manifest["groups"])
    steps = sum(group["num_steps"] for group in manifest["groups"])
    copied = sum(sum(group["copied_frames"].values()) for group in manifest["groups"])
    again = _compressed_anew(manifest["groups"]) if options.recipe.video.reuse else []
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
        *(f"  compressed anew: {', '.join(views)} of {name}, since {why}" for (name, why), views in again[:_SHOWN]),
        *([f"  and others for {len(again) - _SHOWN} more reasons, by the manifest"] if len(again) > _SHOWN else []),
    ]
    if made:
        values |= {"encoded_clips": made.num_clips, "shared_clips": made.num_shared}
    if made and not already:
        lines.append(
            f"  {made.num_clips} clips were encoded and are in the lake, {made.num_shared} of them from pictures of this release"
        )
    warnings = list(plan.notes)
    if values["dropped"]:
        warnings.append(f"{values['dropped']} episodes were dropped; the manifest says why")
    if values["windows_left_out"]:
        warnings.append(f"{values['windows_left_out']} windows were left out for their segments; the manifest says why")
    return Answer(values, lines, 0, warnings)
