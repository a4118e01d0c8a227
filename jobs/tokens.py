"""``wamloom tokens``: which tokenizer suits the robots of a lake."""

import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.options import Answer, TokensOptions
from pipelines.lake import Lake
from pipelines.storage import write_durably
from pipelines.token_bench import bench, candidates
from schemas.recipes import BuildRecipe
from schemas.token_bench import FORMAT, read_token_bench
from validation.render import build_token_page, size
from validation.token_plots import short

_NOTES = (
    "errors: mean / p99 / max over the steps that count; tokens of a chunk: mean / p50 / p99 / max",
    "bits: how many times fewer bits than 256 naive bins take; fewer: how many times fewer tokens",
    "clipped: numbers that the tokenizer cannot represent, and turns into the nearest that it can",
    "invalid: encoded chunks that do not decode; random: share of random sequences of their lengths that do not",
    "tokens per second are rough: one process, on this machine, as busy as it is now",
)


def run(options: TokensOptions) -> Answer:
    """Measures every tokenizer on every group of episodes, and writes files where some are named.

    A dry run says what would be measured, on what, and writes nothing.
    """
    recipe = options.recipe
    if "normalize" not in recipe.model_fields_set:
        recipe = recipe.model_copy(update={"normalize": "quantile"})
    wanted = candidates(options.tokenizers, recipe, options.published)
    lake = Lake.open(options.lake)
    found = bench(lake, recipe, [] if options.dry_run else wanted, options.holdout, time.perf_counter)
    values = {
        "format": FORMAT,
        "lake": options.lake,
        "horizon": recipe.horizon,
        "actions": recipe.actions.model_dump(mode="json"),
        "normalize": recipe.normalize,
        "holdout": options.holdout,
        **found,
        "out": options.out,
        "dry_run": options.dry_run,
    }
    lines: list[str] = []
    for group in found["groups"]:
        lines += [_heading(group, recipe), *_table(group["rows"]), *_wraps(group), ""]
    if options.dry_run:
        lines.append(f"would measure {', '.join(one.label for one in wanted)}")
    else:
        lines += _NOTES
    lines += [f"left out: {count} episodes: {reason}" for reason, count in found["skipped"].items()]
    lines += [f"would write {out}" for out in options.out] if options.dry_run else _write(values, options.out)
    return Answer(values, lines)


def _write(values: Mapping[str, Any], out: Sequence[str]) -> list[str]:
    """Writes what the names ask for, each whole or not at all; returns a line for each."""
    data = (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode()
    measured = read_token_bench(data, "what was measured")
    lines = []
    for name in out:
        is_page = Path(name).suffix == ".html"
        content = build_token_page(measured, version("wamloom")).encode() if is_page else data
        write_durably(Path(name), content)
        use = "open it in a browser" if is_page else "for `wamloom report --tokens`"
        lines.append(f"wrote {name} ({size(len(content))}): {use}")
    return lines


def _heading(group: Mapping[str, Any], recipe: BuildRecipe) -> str:
    others = (
        f"{group['measured_episodes']} that were held out"
        if group["held_out"]
        else f"{group['measured_episodes']} that were fitted to (none held out)"
    )
    copies = f"; {group['duplicates']} are copies of each other, kept on one side" if group["duplicates"] else ""
    return (
        f"{group['dataset']}: {group['robot']} at {group['rate']} Hz, {len(group['action'])} numbers ({recipe.actions.told}), "
        f"horizon {recipe.horizon}, normalize {recipe.normalize}\n"
        f"  fitted to {group['fitted_episodes']} episodes ({group['fitted_chunks']} chunks), "
        f"measured on {others} ({group['measured_chunks']} chunks){copies}"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    measured = [row for row in rows if row["refused"] is None]
    quantities = list(dict.fromkeys(quantity for row in measured for quantity in row["errors"]))
    head = ["tokenizer", *quantities, "tokens", "bits", "fewer", "clipped", "invalid", "random", "encode/s", "decode/s"]
    cells = [head] + [_cells(row, quantities) for row in measured]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = ["  " + "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)) for line in cells]
    lines += [f"  {row['tokenizer']}: {row['refused']}" for row in rows if row["refused"] is not None]
    return [line.rstrip() for line in lines]


def _wraps(group: Mapping[str, Any]) -> list[str]:
    """A line for each rotation whose numbers jump though the robot does not."""
    total = group["measured_chunks"]
    return [
        f"  {names}: in {count} of {total} chunks a step of a whole turn or to the opposite sign, though the robot turns little; "
        "tokenizers that smooth (beast, fast) err there, see docs/actions.md"
        for names, count in group["wrapped_chunks"].items()
    ]


def _cells(row: Mapping[str, Any], quantities: Sequence[str]) -> list[str]:
    errors = [
        " / ".join(short(row["errors"][quantity][name]) for name in ("mean", "p99", "max"))
        if quantity in row["errors"]
        else "-"
        for quantity in quantities
    ]
    lengths = row["tokens_per_chunk"]
    told = "none" if lengths is None else " / ".join(f"{lengths[name]:.4g}" for name in ("p50", "p99", "max"))
    if lengths is not None:
        told = f"{lengths['mean']:.1f} / {told}"
    random = row["random_undecodable"]
    numbers = [short(row[name]) for name in ("compression", "token_ratio")]
    speeds = ["-" if row[name] is None else f"{row[name]:.2g}" for name in ("encoded_per_s", "decoded_per_s")]
    return [
        row["tokenizer"],
        *errors,
        told,
        *numbers,
        str(row["clipped"]),
        str(row["undecodable"]),
        "-" if random is None else f"{random:.0%}",
        *speeds,
    ]
