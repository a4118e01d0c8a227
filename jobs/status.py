"""``wamloom status``: what the lake holds."""

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
    lines += [
        f"  latents: {entry['clips']} clips by {entry['encoder']} at {entry['rate']}" for entry in status["latents"]
    ]
    lines += [
        f"  texts: {entry['prompts']} prompts by {entry['encoder']} of length {entry['length']}, "
        f"encoder {entry['encoder_fingerprint'][:12]}"
        for entry in status["texts"]
    ]
    return Answer(status, lines)
