"""``wamloom show``: a lake or a release, one episode, or one sample with what is in it and its walk back to the source."""

import json
from pathlib import Path

from jobs.options import Answer, ShowOptions
from pipelines.lake import Lake, is_lake
from pipelines.look import list_episodes, show_episode, show_release
from pipelines.sample_look import SampleLook, look_at_sample, sample_sheet
from pipelines.storage import write_durably
from schemas.errors import UsageError


def run(options: ShowOptions) -> Answer:
    """Shows what was asked for; see the options."""
    if options.sample is None and (options.format or options.out):
        raise UsageError("--format and --out are of one sample", options.target, "name it with --sample K")
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
        return _sample(options, options.sample)
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


def _sample(options: ShowOptions, number: int) -> Answer:
    folder = Path(options.target)
    look = look_at_sample(folder, number, options.format)
    values = look.plain
    lines = _told(look)
    if options.out is not None:
        sheet = sample_sheet(folder, number, options.format)
        write_durably(Path(options.out), sheet.png)
        values |= {"out": options.out, "height_px": sheet.height, "width_px": sheet.width}
        lines.append(f"wrote {options.out}: {len(sheet.times_ns)} moments of {', '.join(row[0] for row in sheet.rows)}")
    return Answer(values, lines)


def _told(look: SampleLook) -> list[str]:
    origin, content = look.origin, look.content
    lines = [
        f"sample {origin.sample} of {look.format}, {origin.group}: step {origin.step} at {origin.time_ns / 1e9:.3f} s of episode "
        f"{origin.episode_id[:12]}",
        f"  recorded in {origin.location}#{origin.source_key}, row {origin.source_row} at {origin.source_time_ns / 1e9:.3f} s",
        f"  instruction {origin.instruction!r}",
        *(f"  {one.slot}: frame {one.frame_id} at {one.time_ns / 1e9:.3f} s" for one in origin.frames),
    ]
    if content is None:
        return [*lines, f"  {look.format} is not read back: steps were counted, and this is where one came from"]
    width = max((len(name) for name in content.chunk_names), default=0)
    counts = "".join("x" if one else "." for one in content.mask.tolist())
    lines.append(f"  action chunk of {len(content.mask)} steps; of these count {counts} (x)")
    for name, values in zip(content.chunk_names, content.chunk.T.tolist(), strict=True):
        lines.append(f"    {name:{width}}  {' '.join(f'{value:.4g}' for value in values)}")
    if content.tokens is not None:
        lines.append(f"  {len(content.tokens)} tokens: {' '.join(map(str, content.tokens))}")
    lines += [
        f"  latent frame {one.latent} of {one.view}, {'x'.join(map(str, one.shape))}, of frames "
        f"{' '.join(map(str, one.frame_ids))}, {one.times_ns[0] / 1e9:.3f} to {one.times_ns[1] / 1e9:.3f} s "
        f"(clip {one.latent_id[:12]})"
        for one in content.latents
    ]
    return lines
