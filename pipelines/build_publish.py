"""The build line, ended: index files, statistics and the manifest, from what the units wrote."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from pipelines import registry
from pipelines.build_plan import BuildPlan
from pipelines.croissant import NAME as CROISSANT
from pipelines.croissant import croissant
from pipelines.data_card import NAME as CARD
from pipelines.data_card import data_card
from pipelines.formats import EpisodePlan, Format, GroupPlan, UnitPlan, describe_group, sized, sized_group
from pipelines.release import STATISTICS, Staging
from pipelines.storage import file_record, files_under, write_durably
from schemas.errors import WamloomError
from schemas.licenses import strictest
from schemas.recipes import BuildRecipe
from schemas.work import FileRecord


def publish_build(
    staging: Staging, plan: BuildPlan, recipe: BuildRecipe, version: str, packages: Mapping[str, str]
) -> dict[str, Any]:
    """Writes the index files and the manifest from the records of all units, publishes, and returns the manifest.

    Raises WamloomError where a unit has no whole record.
    """
    records: dict[str, dict[str, Any]] = {}
    for unit in plan.units:
        record = staging.finished(unit.unit_id)
        if record is None:
            raise WamloomError(
                "a unit has no finished record",
                unit.unit_id,
                "run the same command again; it writes what is missing",
                reason="unit",
            )
        records[unit.unit_id] = record
    written = {entry["path"] for record in records.values() for entry in record["files"]}
    for path in files_under(staging.files):
        if path.relative_to(staging.files).as_posix() not in written:
            path.unlink()  # an index file of a publication that was cut short
    counts: dict[str, dict[str, Any]] = {}
    for name in recipe.formats:
        form = cast(Format, registry.load("formats", name).FORMAT)
        for group, _ in plan.episodes:
            folder = staging.files / (form.beside or name) / group.name
            facts = [
                (sized(cast(UnitPlan, unit.payload[0]), recipe, name), records[unit.unit_id]["facts"][name])
                for unit in plan.units
                if cast(UnitPlan, unit.payload[0]).group.name == group.name
            ]
            found = form.finish(sized_group(group, recipe, name), recipe, facts, folder)
            counts.setdefault(name, {})[group.name] = dict(found)
    for group in plan.groups:
        for file, content in plan.statistics_of(group, recipe).items():
            text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
            path = staging.files / STATISTICS / group.name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, (text + "\n").encode())
    indexes = [
        file_record(path, staging.files)
        for path in files_under(staging.files)
        if path.relative_to(staging.files).as_posix() not in written
    ]
    # of several units that wrote one file, such as the embedding of an instruction that both have, the record is one
    files = {entry["path"]: FileRecord(**entry) for record in records.values() for entry in record["files"]}
    splits: dict[str, set[str]] = {}
    for unit in plan.units:
        for entry in records[unit.unit_id]["files"]:
            split = cast(UnitPlan, unit.payload[0]).episodes[0].split  # of a unit all are of one
            splits.setdefault(entry["path"], set()).add(split)
    manifest: dict[str, Any] = {
        "kind": "wamloom release",
        "build": plan.fingerprint(recipe, version),
        "wamloom": version,
        "packages": dict(sorted(packages.items())),
        "recipe": recipe.model_dump(mode="json"),
        "lake_content": plan.lake_content,
        "mixture": plan.shares(recipe),
        **plan.inputs,
        "counts": counts,
        "groups": [_group_entry(plan, recipe, group, episodes, records) for group, episodes in plan.episodes],
        "dropped": [asdict(outcome) for outcome in plan.dropped],
        "licenses": sorted({group.license for group in plan.groups}),
        "license": strictest(group.license for group in plan.groups),
        "files": [_file_entry(record, splits) for record in [*files.values(), *indexes]],
    }
    for name, page in ((CARD, data_card), (CROISSANT, lambda told: croissant(told, staging.files))):
        manifest["files"].sort(key=lambda entry: entry["path"])
        write_durably(staging.files / name, page(manifest))
        indexes.append(file_record(staging.files / name, staging.files))
        manifest["files"].append(_file_entry(indexes[-1], splits))
    manifest["files"].sort(key=lambda entry: entry["path"])
    staging.publish(manifest, indexes)
    return manifest


def _file_entry(record: FileRecord, splits: Mapping[str, set[str]]) -> dict[str, Any]:
    """Of the manifest; ``split`` is that of the episodes in it, "" where it belongs to none, or to both."""
    of = splits.get(record.path, set())
    return asdict(record) | {"split": next(iter(of)) if len(of) == 1 else ""}


def _group_entry(
    plan: BuildPlan,
    recipe: BuildRecipe,
    group: GroupPlan,
    episodes: Sequence[EpisodePlan],
    records: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    copied: Counter[str] = Counter()
    misfits: dict[str, set[str]] = {}
    for unit, one in ((unit, cast(UnitPlan, unit.payload[0])) for unit in plan.units):
        if one.group.name == group.name:
            steps = sum(episode.num_steps for episode in one.episodes)
            for view, misfit in records[unit.unit_id]["misfits"]:
                if misfit:
                    misfits.setdefault(view, set()).add(misfit)
                else:
                    copied[view] += steps
    return {
        "name": group.name,
        **describe_group(group, recipe),
        "num_steps": group.num_steps,
        "copied_frames": dict(sorted(copied.items())),
        "not_copied": {view: sorted(why) for view, why in sorted(misfits.items())},
        "episodes": [
            asdict(episode)
            | {"location": plan.sources[episode.episode_id][0], "source_key": plan.sources[episode.episode_id][1]}
            for episode in episodes
        ],
    }
