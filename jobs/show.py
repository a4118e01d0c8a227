"""``wamloom show``: a lake or a release, one episode, or one sample with its walk back to the source."""

import json
from dataclasses import asdict
from pathlib import Path

from jobs.options import Answer, ShowOptions
from pipelines.lake import Lake, is_lake
from pipelines.look import list_episodes, show_episode, show_release, show_sample
from schemas.errors import UsageError


def run(options: ShowOptions) -> Answer:
    """Shows what was asked for; see the options."""
    if is_lake(options.target):
        if options.sample is not None:
            raise UsageError("a lake has episodes, not samples", options.target, "use --episode ID, or name a release")
        lake = Lake.open(options.target)
        if options.episode is not None:
            row = show_episode(lake, options.episode)
            told = [
                f"{what} {', '.join(ids)} (at {one['place']})"
                for one in row["lineage"]
                for what, ids in (("replaces", one["replaces"]), ("superseded by", one["superseded_by"]))
                if ids
            ]
            return Answer(row, json.dumps(row, indent=2, ensure_ascii=False).splitlines(), warnings=told)
        rows = list_episodes(lake)
        lines = [
            f"{row['episode_id'][:12]}  {row['outcome']:8}  {row['dataset']:20}  {row['num_steps'] or 0:6} steps  "
            f"{'' if row['idle_fraction'] is None else format(row['idle_fraction'], '.0%') + ' idle':>9}  "
            f"{row['reason'] or row['instruction'][:60]!r}"
            for row in rows
        ]
        return Answer({"lake": options.target, "episodes": rows}, lines or ["the lake is empty"])
    if options.episode is not None:
        raise UsageError("a release shows samples", options.target, "use --sample K, or name a lake")
    if options.sample is not None:
        sample = asdict(show_sample(Path(options.target), options.sample))
        return Answer(sample, json.dumps(sample, indent=2, ensure_ascii=False).splitlines())
    release = show_release(Path(options.target))
    lines = [f"release {options.target}: {release['files']} files, {release['bytes'] / 1e6:.1f} MB"]
    for group in release["groups"]:
        lines += [
            f"  {group['name']}: {group['robot']} at {group['rate']} Hz, {group['episodes']} episodes, {group['steps']} steps, "
            f"views {', '.join(view['slot'] for view in group['views']) or 'none'}",
            f"    {group['chunks']}",
        ]
    lines += [
        f"  format {name}: {sum(g['samples'] for g in groups.values())} samples"
        for name, groups in release["counts"].items()
    ]
    return Answer(release, lines)
