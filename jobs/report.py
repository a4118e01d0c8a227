"""``wamloom report``: one HTML page on what is in the data and what is wrong with it."""

from importlib.metadata import version
from pathlib import Path

from jobs.options import Answer, ReportOptions
from pipelines.gather import gather_lake, gather_release
from pipelines.lake import Lake, is_lake
from pipelines.storage import write_durably
from validation.render import build_report


def run(options: ReportOptions) -> Answer:
    """Writes the page; the answer counts what it shows."""
    if is_lake(options.target):
        data = gather_lake(Lake.open(options.target), version("wamloom"))
    else:
        data = gather_release(Path(options.target), version("wamloom"))
    page = build_report(data).encode()
    values = {
        "target": options.target,
        "out": options.out,
        "datasets": len(data.datasets),
        "episodes": len(data.episodes),
        "findings": sum(len(episode.findings) for episode in data.episodes),
        "bytes": len(page),
        "dry_run": options.dry_run,
    }
    if not options.dry_run:
        write_durably(Path(options.out), page)
    verb = "would write" if options.dry_run else "wrote"
    return Answer(values, [f"{verb} {options.out} ({len(page) / 1e6:.1f} MB): open it in a browser"])
