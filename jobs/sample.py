"""``wamloom sample``: simulated recordings to try things on."""

from dataclasses import asdict
from pathlib import Path

from jobs.options import Answer, SampleOptions
from pipelines.sample import write_sample


def run(options: SampleOptions) -> Answer:
    """Writes the recordings of every simulated robot; the answer lists the sets. Raises UsageError."""
    sets = write_sample(Path(options.out), options.layout, options.num_episodes, options.seed, options.dry_run)
    values = {
        "out": options.out,
        "layout": options.layout,
        "episodes": sum(one.num_episodes for one in sets),
        "steps": sum(one.num_steps for one in sets),
        "sets": [asdict(one) for one in sets],
        "dry_run": options.dry_run,
    }
    would = "would write " if options.dry_run else ""
    lines = [f"{would}{one.folder}: {one.num_episodes} episodes, {one.num_steps} steps" for one in sets]
    return Answer(values, lines)
