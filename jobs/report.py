"""``wamloom report``: one HTML page on what is in the data and what is wrong with it."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.options import Answer, ReportOptions
from pipelines.certificate import read_certificate
from pipelines.gather import gather_lake, gather_release
from pipelines.lake import Lake, is_lake
from pipelines.release import read_manifest
from pipelines.storage import write_durably
from schemas.errors import UsageError
from schemas.token_bench import TokenBench, read_token_bench
from validation.render import build_report

_MAX_BENCH_BYTES = 64_000_000
"""Of a bench, to bound memory; one of a thousand robots has a tenth of it."""


def run(options: ReportOptions) -> Answer:
    """Writes the page; the answer counts what it shows. Raises UsageError where the bench to show is none of this lake."""
    bench = None if options.tokens is None else _read_bench(Path(options.tokens))
    if is_lake(options.target):
        if options.certificate is not None:
            raise UsageError(
                "a certificate is of a release", options.target, "leave --certificate out, or name a release"
            )
        lake = Lake.open(options.target)
        if bench is not None:
            _check_bench(bench, lake, str(options.tokens))
        data = replace(gather_lake(lake, version("wamloom")), tokens=bench)
    elif bench is not None:
        raise UsageError(
            "this is no lake, and a bench of tokenizers is of one",
            options.target,
            "leave --tokens out, or name its lake",
        )
    else:
        folder = Path(options.target)
        proof = None if options.certificate is None else _read_certificate(options.certificate, folder)
        data = gather_release(folder, version("wamloom"), proof)
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


def _read_certificate(path: str, folder: Path) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_BENCH_BYTES)
    except OSError as error:
        hint = "name a file that `wamloom verify RELEASE --certificate FILE.json` wrote"
        raise UsageError(f"cannot be read: {error.strerror}", path, hint) from error
    return read_certificate(data, path, read_manifest(folder)["build"])


def _read_bench(path: Path) -> TokenBench:
    hint = "name a file that `wamloom tokens bench --lake LAKE --out FILE.json` wrote"
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BENCH_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", str(path), hint) from error
    if len(data) > _MAX_BENCH_BYTES:
        raise UsageError(f"has more than {_MAX_BENCH_BYTES} bytes and is no bench of tokenizers", str(path), hint)
    return read_token_bench(data, str(path))


def _check_bench(bench: TokenBench, lake: Lake, where: str) -> None:
    rows = lake.rows("episodes", ("outcome", "dataset", "embodiment"))
    known = {(row["dataset"], row["embodiment"]) for row in rows if row["outcome"] == "kept"}
    for index, group in enumerate(bench.groups):
        if (group.dataset, group.robot) not in known:
            raise UsageError(
                f"groups.{index}: there is no {group.dataset!r} of robot {group.robot!r} in {lake.root}",
                where,
                f"this bench was made of {bench.lake!r}; measure this lake: "
                f"wamloom tokens bench --lake {lake.root} --out bench.json",
            )
