"""Looking at a lake or a release: what is there, one episode, one sample with its walk back to the source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.lake import Lake, quoted
from pipelines.release import read_manifest
from pipelines.versions import lineage, superseded
from schemas.action_recipe import ActionRecipe
from schemas.errors import LakeError

_NANOSECONDS_PER_HOUR = 3_600 * 10**9
_OUTCOMES = ("kept", "rejected", "failed")
_LATENT_SET = ["encoder", "rate", "encoder_fingerprint", "views_json", "views_fingerprint"]
"""What tells the sets of latents in one lake apart."""


def lake_status(lake: Lake) -> dict[str, Any]:
    """Counts of the lake by data set, outcome and reason, of its latents and its texts by encoder. Plain values."""
    rows = pl.DataFrame(
        pl.from_arrow(
            lake.table("episodes").to_table(
                columns=["episode_id", "outcome", "reason", "dataset", "num_steps", "duration_ns", "locations"]
            )
        )
    ).with_columns(places=pl.col("locations").list.len())
    old = superseded(lake)
    rows = rows.filter(~pl.col("episode_id").is_in(sorted(old)))
    kept = pl.col("outcome") == "kept"
    datasets = rows.group_by("dataset").agg(
        *((pl.col("outcome") == outcome).sum().alias(outcome) for outcome in _OUTCOMES),
        pl.col("num_steps").filter(kept).sum().alias("steps"),
        (pl.col("duration_ns").filter(kept).sum() / _NANOSECONDS_PER_HOUR).alias("hours"),
        pl.col("places").sum(),
    )
    reasons = rows.filter(~kept).group_by("reason").len("count")
    latents = pl.DataFrame(pl.from_arrow(lake.table("latents").to_table(columns=[*_LATENT_SET, "slot"])))
    kinds = ["encoder", "encoder_fingerprint", "length", "dtype"]
    texts = pl.DataFrame(pl.from_arrow(lake.table("texts").to_table(columns=kinds)))
    return {
        "lake": str(lake.root),
        "versions": lake.versions(),
        "episodes": rows.height,
        "superseded": len(old),
        "places": int(rows["places"].sum()),
        **{outcome: int((rows["outcome"] == outcome).sum()) for outcome in _OUTCOMES},
        "reasons": {row["reason"]: row["count"] for row in reasons.sort("reason").to_dicts()},
        "datasets": {row.pop("dataset"): row for row in datasets.sort("dataset").to_dicts()},
        "latents": latents.group_by(_LATENT_SET)
        .agg(pl.len().alias("clips"), pl.col("slot").unique().sort().alias("slots"))
        .sort(_LATENT_SET)
        .to_dicts(),
        "texts": texts.group_by(kinds).len("prompts").sort(kinds).to_dicts(),
    }


def list_episodes(lake: Lake, where: str = "") -> list[dict[str, Any]]:
    """A line's worth of facts of every episode; of those whose source changed, of the newest version."""
    old = superseded(lake)
    columns = ["outcome", "reason", "dataset", "num_steps", "control_rate", "instructions", "locations", "views"]
    columns.append("measures")
    return [
        {
            "episode_id": row["episode_id"],
            "outcome": row["outcome"],
            "reason": row["reason"],
            "dataset": row["dataset"],
            "num_steps": row["num_steps"],
            "control_rate": row["control_rate"],
            "idle_fraction": _idle_fraction(row),
            "views": [view["slot"] for view in row["views"] or []],
            "instruction": next((one["text"] for one in row["instructions"] or []), ""),
            "place": f"{row['locations'][0]['location']}#{row['locations'][0]['key']}",
        }
        for row in lake.rows("episodes", columns, where)
        if row["episode_id"] not in old
    ]


def episode_id_of(lake: Lake, prefix: str) -> str:
    """The one id that is ``prefix`` or begins with it. Raises LakeError where none does, or several."""
    found = lake.rows("episodes", [], f"starts_with(episode_id, {quoted(prefix)})")
    if len(found) != 1:
        what = "no episode" if not found else f"{len(found)} episodes"
        raise LakeError(
            f"{what} with an id that begins with {prefix!r}", str(lake.root), "list them with `wamloom show LAKE`"
        )
    return str(found[0]["episode_id"])


def show_episode(lake: Lake, prefix: str) -> dict[str, Any]:
    """Everything the lake knows of one episode, named by its id or the beginning of it; arrays by shape only.

    ``lineage`` says what it replaces and what superseded it, by place.
    """
    columns = [name for name in lake.table("episodes").schema.names if not name.startswith(("video_", "depth_"))]
    row = lake.rows("episodes", columns, f"episode_id = {quoted(episode_id_of(lake, prefix))}")[0]
    for stream in row["streams"] or []:
        times = stream.pop("times_ns")
        stream["data"] = f"{len(stream['data'])} bytes"
        stream["first_ns"], stream["last_ns"] = (times[0], times[-1]) if times else (None, None)
    for view in row["views"] or []:
        times = view.pop("times_ns")
        view["first_ns"], view["last_ns"] = (times[0], times[-1]) if times else (None, None)
    for name in ("card_json", "embodiment_json"):
        row.pop(name)
    row["idle_fraction"] = _idle_fraction(row)
    signature = row["signature"]
    row["signature"] = None if signature is None else f"{len(signature)} bytes"
    row["superseded"] = row["episode_id"] in superseded(lake)
    row["lineage"] = [
        {"place": f"{one.place[0]}#{one.place[1]}", "replaces": one.replaces, "superseded_by": one.superseded_by}
        for one in lineage(lake, row["episode_id"])
    ]
    return row


def _idle_fraction(row: dict[str, Any]) -> float | None:
    """How much of an episode its idle segments make up, as the report says it; None where it was not read."""
    return next((one["value"] for one in row["measures"] or [] if one["name"] == "idle_fraction"), None)


def show_release(folder: Path) -> dict[str, Any]:
    """The manifest without its long lists."""
    manifest = read_manifest(folder)
    return {
        "release": str(folder),
        "build": manifest["build"],
        "counts": manifest["counts"],
        "groups": [
            {
                "name": group["name"],
                "robot": group["robot"],
                "rate": group["rate"],
                "views": group["views"],
                "episodes": len(group["episodes"]),
                "steps": group["num_steps"],
                "chunks": told_chunks(group),
            }
            for group in manifest["groups"]
        ],
        "files": len(manifest["files"]),
        "bytes": sum(entry["num_bytes"] for entry in manifest["files"]),
        "licenses": manifest["licenses"],
        "dropped": sum(not outcome["numbers"] for outcome in manifest["dropped"]),
        "windows_left_out": int(sum(dict(outcome["numbers"]).get("windows", 0) for outcome in manifest["dropped"])),
    }


def told_chunks(group: Mapping[str, Any]) -> str:
    """How the action chunks of a group are written, for people; ``group`` is as ``formats.describe_group`` makes it."""
    chunk = group["action_chunk"]
    width, used = len(chunk["mask"]), sum(chunk["mask"])
    numbers = f"{width} numbers" if used == width else f"{width} numbers, {used} of them used"
    words = [
        f"chunks of {group['horizon']} steps of {numbers}",
        ActionRecipe.model_validate(chunk["recipe"]).told,
        f"normalize {group['normalize']}",
    ]
    if chunk["unmoved"]:
        words.append(f"not relative: {', '.join(chunk['unmoved'])}")
    if group["tokenizer"] is not None:
        offset = f" from {group['token_offset']} on" if group["token_offset"] else ""
        words.append(f"tokens of {group['tokenizer']['name']}{offset}")
    return "; ".join(words)
