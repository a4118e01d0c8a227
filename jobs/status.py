"""``wamloom status``: what the lake holds."""

import json
from collections.abc import Mapping
from typing import Any

from jobs.options import Answer, StatusOptions
from pipelines.lake import Lake
from pipelines.look import lake_status


def run(options: StatusOptions) -> Answer:
    """Counts by data set, outcome and reason, latents and texts by encoder."""
    status = lake_status(Lake.open(options.lake))
    lines = [
        f"{status['episodes']} recordings found in {status['places']} places: {status['kept']} kept, "
        f"{status['rejected']} rejected, {status['failed']} failed",
    ]
    if status["superseded"]:
        lines.append(f"  and {status['superseded']} earlier versions of recordings whose files changed")
    for name, entry in status["datasets"].items():
        lines.append(
            f"  {name}: {entry['kept']} kept ({entry['hours'] * 60:.1f} min, {entry['steps']} steps), "
            f"{entry['rejected']} rejected, {entry['failed']} failed"
        )
    lines += [f"  reason {reason}: {count}" for reason, count in status["reasons"].items()]
    lines += [_latents(entry) for entry in status["latents"]]
    lines += [
        f"  texts: {entry['prompts']} prompts by {entry['encoder']} of length {entry['length']}, "
        f"encoder {entry['encoder_fingerprint'][:12]}"
        for entry in status["texts"]
    ]
    return Answer(status, lines)


def _latents(entry: Mapping[str, Any]) -> str:
    """One set of latents, named as the key ``encoder`` of a build recipe takes it."""
    views = json.loads(entry["views_json"])
    size = f", {views['height_px']}x{views['width_px']} px" if views.get("height_px") and views.get("width_px") else ""
    return (
        f"  latents: {entry['clips']} clips by {entry['encoder']}@{entry['encoder_fingerprint'][:8]} "
        f"of {', '.join(entry['slots'])} at {entry['rate']}{size}"
    )
