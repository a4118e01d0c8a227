"""The data set card of a release: ``README.md`` with the YAML head that the Hugging Face hub reads.

It is made of the manifest alone, so that equal manifests give equal cards; it says nothing that the manifest does not.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines import registry
from schemas.licenses import UNKNOWN, known, strictest
from schemas.time import parse_rate

NAME = "README.md"
_SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")),
    *((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"), (10**12, "100B<n<1T")),
)
_LARGEST = "n>1T"
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|#"})
_MOST = 20
"""Lines of one list; the manifest has all."""
_LOADING = {
    "lerobot_v3": """from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset("any/name", root="lerobot_v3/{group}", video_backend="pyav")""",
    "parquet": """import datasets
dataset = datasets.load_dataset("parquet", data_files="parquet/{group}/data/*.parquet", split="train")""",
    "webdataset": """import glob, webdataset
shards = sorted(glob.glob("webdataset/{group}/*.tar"))
dataset = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8")""",
}
"""Python by format; another format may have its own as ``LOADING``, with ``{group}`` where the group's name goes."""
_SEVERITIES = ("error", "warning", "info")


def data_card(manifest: Mapping[str, Any]) -> bytes:
    """``README.md`` of the release that ``manifest`` tells of, in UTF-8. ``manifest["files"]`` are all but the card itself."""
    lines = [
        "---", *_head(manifest), "---", "",
        f"# {text('; '.join(_titles(manifest)))}", "",
        *_summary(manifest),
        "## What is in it", "", *_groups(manifest), *_splits(manifest), *_mixture(manifest),
        "## Licences and sources", "", *_licenses(manifest),
        *_encoded(manifest),
        "## Known defects", "", *_defects(manifest),
        "## How to load it", "", *_loading(manifest),
        "## Proof", "",
        "`manifest.json` has every file with its hash, the recipe, and the statistics; `lineage/` leads from every step back to",
        "the row and the frames it was made of. `wamloom verify` checks all of it, and `wamloom show RELEASE --sample K` walks",
        "back from one sample.",
    ]  # fmt: skip
    return ("\n".join(lines).rstrip() + "\n").encode()


def text(value: str) -> str:
    """``value`` in one line of Markdown, as it stands: nothing in it is markup, and what cannot be seen is spelled out."""
    line = " ".join(value.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line).translate(_SPECIAL)


def hours(group: Mapping[str, Any]) -> float:
    """Of all steps of a group of the manifest, at its rate."""
    return float(group["num_steps"] / parse_rate(group["rate"]) / 3600)


def _titles(manifest: Mapping[str, Any]) -> list[str]:
    return [one["title"] or name for name, one in manifest["sources"].items()]


def _head(manifest: Mapping[str, Any]) -> Iterator[str]:
    license_name = strictest(manifest["licenses"])
    found = known(license_name)
    steps = sum(group["num_steps"] for group in manifest["groups"])
    robots = sorted({group["robot"] for group in manifest["groups"]})
    yield f"pretty_name: {_quoted('; '.join(_titles(manifest)))}"
    yield f"license: {found.hub if found else UNKNOWN if license_name == UNKNOWN else 'other'}"
    if found is None and license_name != UNKNOWN:
        yield f"license_name: {_quoted(license_name)}"
    yield from ("task_categories:", "- robotics", "tags:")
    tags = ["robotics", "wamloom", "world-action-model", *robots]
    tags += ["LeRobot"] if any(name.startswith("lerobot") for name in manifest["counts"]) else []
    yield from (f"- {_quoted(tag)}" for tag in tags)
    yield "size_categories:"
    yield f"- {_quoted(next((name for most, name in _SIZES if steps < most), _LARGEST))}"
    if "parquet" in manifest["counts"]:
        yield "configs:"
        for number, group in enumerate(manifest["groups"]):
            yield f"- config_name: {_quoted(group['name'])}"
            yield from ["  default: true"] if not number else []
            yield "  data_files:"
            for split, patterns in _split_files(manifest, group["name"]).items():
                yield f"  - split: {split}"
                yield "    path:"
                yield from (f"    - {_quoted(pattern)}" for pattern in patterns)


def _split_files(manifest: Mapping[str, Any], group: str) -> dict[str, list[str]]:
    """By split as the hub calls it: patterns of the Parquet files of a group."""
    folder = f"parquet/{group}/data/"
    files = [entry for entry in manifest["files"] if entry["path"].startswith(folder)]
    if {entry.get("split") for entry in files} == {"train"}:
        return {"train": [f"{folder}*.parquet"]}
    names = {"train": "train", "val": "validation"}
    found: dict[str, list[str]] = {}
    for entry in files:
        found.setdefault(names[entry["split"]], []).append(entry["path"])
    return found


def _quoted(value: str) -> str:
    return json.dumps(value)  # JSON in ASCII is YAML


def _summary(manifest: Mapping[str, Any]) -> Iterator[str]:
    groups = manifest["groups"]
    episodes, steps = sum(len(group["episodes"]) for group in groups), sum(group["num_steps"] for group in groups)
    robots = sorted({group["robot"] for group in groups})
    yield (
        f"{episodes:,} episodes of {', '.join(text(robot) for robot in robots)}: {sum(map(hours, groups)):.2f} hours, "
        f"{steps:,} steps, written as {', '.join(sorted(manifest['counts']))} by wamloom {manifest['wamloom']}."
    )
    yield f"Build `{manifest['build']}` of lake content `{manifest['lake_content']}`."
    yield ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


def _groups(manifest: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            text(group["name"]),
            text(group["robot"]),
            f"{group['rate']} Hz",
            f"{len(group['episodes']):,}",
            f"{group['num_steps']:,}",
            f"{hours(group):.2f}",
            ", ".join(f"{view['slot']} {view['height_px']}x{view['width_px']}" for view in group["views"]) or "none",
            f"{len(group['action_names'])}, {len(group['proprio_names'])}",
        ]
        for group in manifest["groups"]
    ]
    head = ["group", "robot", "rate", "episodes", "steps", "hours", "views (height x width)", "action, proprio"]
    sizes = manifest["recipe"].get("sizes", {}).items()
    other = ", ".join(f"{name} {one['height_px']}x{one['width_px']}" for name, one in sorted(sizes))
    copied = "; ".join(
        f"{text(group['name'])} {', '.join(f'{view} ({number:,})' for view, number in group['copied_frames'].items())}"
        for group in manifest["groups"]
        if group.get("copied_frames")
    )
    told = "Frames copied as they were recorded, into those formats whose videos have their size, and compressed anew elsewhere"
    return [
        *_table(head, rows),
        *([f"Every view has another size in: {other}.", ""] if other else []),
        *([f"{told}: {copied}.", ""] if copied else []),
    ]


def _splits(manifest: Mapping[str, Any]) -> list[str]:
    found = Counter(episode["split"] for group in manifest["groups"] for episode in group["episodes"])
    steps: Counter[str] = Counter()
    for group in manifest["groups"]:
        for episode in group["episodes"]:
            steps[episode["split"]] += episode["num_steps"]
    if set(found) == {"train"}:
        return ["All episodes are for training.", ""]
    rows = [[split, f"{found[split]:,}", f"{steps[split]:,}"] for split in ("train", "val") if found[split]]
    return ["Splits are of whole episodes; recordings of one motion lie on one side.", "",
            *_table(["split", "episodes", "steps"], rows)]  # fmt: skip


def _mixture(manifest: Mapping[str, Any]) -> list[str]:
    if not manifest["mixture"]:
        return []
    rows = [[text(name), f"{share:.4f}"] for name, share in sorted(manifest["mixture"].items())]
    return ["Part of training samples to take from each group:", "", *_table(["group", "part"], rows)]


def _licenses(manifest: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            text(name),
            text(one["title"]),
            text(", ".join(one["licenses"])),
            text(", ".join(one["institutions"])),
            f"{one['num_episodes']:,}",
            f"{one['success'].get('yes', 0):,} / {one['success'].get('no', 0):,} / {one['success'].get('unknown', 0):,}",
            text(", ".join(one["read_from"])),
        ]
        for name, one in manifest["sources"].items()
    ]
    head = ["data set", "title", "licence", "recorded by", "episodes", "success / failure / unknown", "read from"]
    worst = strictest(manifest["licenses"])
    told = f"The strictest licence is **{text(worst)}**, and the whole is to be used under it."
    if known(worst) is None:
        told += " What it allows is not known here: ask whoever published the recordings."
    return [*_table(head, rows), told, ""]


def _encoded(manifest: Mapping[str, Any]) -> list[str]:
    rows = []
    if (latents := manifest["latents"]) is not None:
        what = (
            f"latents at rate {', '.join(latents['rates'])} of {', '.join(latents['slots'])}; {latents['channels']} channels, "
            f"{latents['leading_frames']} + {latents['temporal_stride']} k frames make 1 + k, {latents['normalization']}"
        )
        rows.append([text(latents["encoder"]), f"`{latents['encoder_fingerprint']}`", text(what)])
    joined = manifest["texts"]
    for texts in [] if joined is None else [joined, *joined.get("formats", {}).values()]:
        what = f"{texts['prompts']:,} prompts by template {texts['template']}, {texts['length']} x {texts['width']}"
        rows.append([text(texts["encoder"]), f"`{texts['encoder_fingerprint']}`", text(what)])
    if not rows:
        return []
    return [
        "## Latents and embeddings", "", *_table(["encoder", "fingerprint of weights and settings", "what"], rows),
        "Only an encoder with this very fingerprint may decode or extend them: "
        "`wamloom verify RELEASE --encoder NAME --weights PATH` tells.", "",
    ]  # fmt: skip


def _defects(manifest: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (_SEVERITIES.index(one["severity"]), text(name), f"`{one['rule']}`", one["severity"], one["episodes"],
         source["num_episodes"])
        for name, source in manifest["sources"].items()
        for one in source["findings"]
    ]  # fmt: skip
    if rows:
        yield "What checks found in the episodes that went in; rules are explained in wamloom's docs."
        yield ""
        yield from _table(
            ["data set", "rule", "severity", "episodes"],
            [[name, rule, severity, f"{count:,} of {of:,}"] for _, name, rule, severity, count, of in sorted(rows)],
        )
    else:
        yield from ("No check found anything in the episodes that went in.", "")
    spreads = [
        [
            text(name),
            text(one["name"]),
            *(f"{one[which]:.4g}" for which in ("least", "median", "most")),
            text(one["unit"]),
        ]
        for name, source in manifest["sources"].items()
        for one in source["measures"]
        if one["name"].startswith(("idle", "action_lag", "residual", "longest"))
    ]
    if spreads:
        yield from _table(["data set", "measure", "least", "median", "most", "unit"], spreads)
    dropped: Counter[tuple[str, str, str]] = Counter()
    for outcome in manifest["dropped"]:
        windows = dict(outcome["numbers"]).get("windows")
        what = "episodes" if windows is None else "windows"
        dropped[what, outcome["reason"], outcome["message"]] += 1 if windows is None else int(windows)
    if not dropped:
        yield from ("Nothing that matched the recipe was left out.", "")
        return
    yield from ("Left out by the build:", "")
    most = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    yield from (
        f"- {count:,} {what}: `{reason}`, {text(message[:300])}" for (what, reason, message), count in most[:_MOST]
    )
    yield from [f"- and {len(most) - _MOST} more reasons, in `manifest.json`"] if len(most) > _MOST else []
    yield ""


def _loading(manifest: Mapping[str, Any]) -> Iterator[str]:
    for name, groups in sorted(manifest["counts"].items()):
        module = registry.load("formats", name)
        first = sorted(groups)[0]
        samples = sum(count["samples"] for count in groups.values())
        yield f"### {text(name)}"
        yield ""
        yield f"{' '.join((module.__doc__ or name).split(chr(10) * 2)[0].split())} {samples:,} samples."
        yield ""
        code = _LOADING.get(name) or getattr(module, "LOADING", "")
        if code:
            yield from ("```python", *code.replace("{group}", first).splitlines(), "```", "")
