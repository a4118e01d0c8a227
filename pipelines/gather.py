"""Gathers what a report shows, from a lake or from a release. Reads; judges nothing that was not judged before."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg

from pipelines.certificate import certificate
from pipelines.channels import map_streams
from pipelines.lake import Lake
from pipelines.release import read_manifest
from pipelines.rows import Row, StoredEpisode, finding_of
from pipelines.twins import set_facts
from pipelines.verify import verify_release
from pipelines.versions import superseded
from pipelines.video import VideoTools
from schemas.embodiment import Channel
from schemas.errors import WamloomError
from schemas.findings import Measure
from schemas.recipes import Limits, ViewsRecipe
from schemas.time import NANOSECONDS, parse_rate
from validation.check import judge_set
from validation.report import (
    Camera,
    ChannelValues,
    DatasetFacts,
    FileGroup,
    Histogram,
    JudgedEpisode,
    Picture,
    PictureKey,
    Reason,
    ReleaseFacts,
    ReportData,
    Task,
    wanted_pictures,
)

_FILM_FRAMES = 8
_FILM_HEIGHT_PX = 96
_MAX_CHANNEL_EPISODES = 200
"""Episodes per data set whose numbers are read for the histograms, evenly picked; the page says when it is not all."""

_COLUMNS = [
    "outcome", "reason", "message", "hint", "dataset", "locations", "license", "institution", "embodiment", "instructions",
    "success", "measures", "findings", "control_rate", "num_steps", "duration_ns", "views", "card_json",
]  # fmt: skip


def gather_lake(lake: Lake, version: str) -> ReportData:
    """Everything a report on a lake shows, with a filmstrip per data set and the frames in question."""
    old = superseded(lake)
    rows = [row for row in lake.rows("episodes", _COLUMNS) if row["episode_id"] not in old]
    kept = [row["episode_id"] for row in rows if row["outcome"] == "kept"]
    together = judge_set(set_facts(lake, kept))
    episodes = [_judged(row, together) for row in rows]
    by_dataset: dict[str, list[Row]] = {}
    for row in rows:
        by_dataset.setdefault(row["dataset"], []).append(row)
    with VideoTools(Limits()) as video:
        datasets = tuple(_dataset(lake, video, name, members) for name, members in sorted(by_dataset.items()))
        pictures = _pictures(lake, video, wanted_pictures(episodes))
    return ReportData(
        title=f"Lake {lake.root.name}",
        kind="lake",
        place=str(lake.root),
        version=version,
        datasets=datasets,
        episodes=tuple(episodes),
        pictures=pictures,
    )


def _judged(row: Row, together: Mapping[str, Sequence[Any]]) -> JudgedEpisode:
    place = row["locations"][0]
    return JudgedEpisode(
        row["episode_id"],
        row["dataset"],
        f"{place['location']}#{place['key']}",
        row["outcome"],
        row["num_steps"] or 0,
        (*(finding_of(value) for value in row["findings"] or []), *together.get(row["episode_id"], ())),
        tuple(Measure(**value) for value in row["measures"] or []),
    )


def _dataset(lake: Lake, video: VideoTools, name: str, rows: Sequence[Row]) -> DatasetFacts:
    kept = [row for row in rows if row["outcome"] == "kept"]
    cameras: dict[tuple[str, str, str, int, int], list[int]] = {}
    for row in kept:
        for view in row["views"]:
            key = (view["slot"], view["key"], view["codec"], view["width_px"], view["height_px"])
            sums = cameras.setdefault(key, [0, 0, 0])
            for index, number in enumerate((1, view["num_frames"], view["num_bytes"])):
                sums[index] += number
    tasks = Counter(next((one["text"] for one in row["instructions"] if one["text"].strip()), "") for row in kept)
    rates = Counter(parse_rate(row["control_rate"]) for row in kept)
    channels, notes = _channels(lake, kept)
    first = rows[0]
    return DatasetFacts(
        name=name,
        title=_title(first),
        embodiment=first["embodiment"] or "unknown",
        license=first["license"] or "unknown",
        institutions=tuple(sorted({row["institution"] for row in rows if row["institution"]})),
        num_kept=len(kept),
        num_rejected=sum(row["outcome"] == "rejected" for row in rows),
        num_failed=sum(row["outcome"] == "failed" for row in rows),
        num_steps=tuple(row["num_steps"] for row in kept),
        duration_s=sum(row["duration_ns"] for row in kept) / NANOSECONDS,
        control_rates=tuple(sorted(rates.items())),
        num_success=sum(row["success"] is True for row in kept),
        num_failure=sum(row["success"] is False for row in kept),
        cameras=tuple(Camera(*key, *sums) for key, sums in sorted(cameras.items())),
        tasks=tuple(Task(text, count) for text, count in tasks.most_common()),
        channels=channels,
        filmstrips=_filmstrips(lake, video, kept),
        reasons=tuple(_reasons(rows)),
        notes=notes,
    )


def _title(row: Row) -> str:
    if row["card_json"] is None:
        return str(row["dataset"])
    import json

    return str(json.loads(row["card_json"])["title"])


def _reasons(rows: Sequence[Row]) -> Iterable[Reason]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["outcome"] != "kept":
            groups.setdefault((row["outcome"], row["reason"]), []).append(row)
    for (outcome, reason), members in sorted(groups.items(), key=lambda item: -len(item[1])):
        places = [f"{row['locations'][0]['location']}#{row['locations'][0]['key']}" for row in members[:3]]
        examples = tuple((place, row["message"]) for place, row in zip(places, members, strict=False))
        kind: Literal["rejected", "failed"] = "rejected" if outcome == "rejected" else "failed"
        yield Reason(kind, reason, len(members), examples, members[0]["hint"] or "")


def _channels(lake: Lake, kept: Sequence[Row]) -> tuple[tuple[ChannelValues, ...], tuple[str, ...]]:
    step = max(1, -(-len(kept) // _MAX_CHANNEL_EPISODES))
    picked = kept[::step]
    if not picked:
        return (), ()
    vectors: dict[str, list[np.ndarray]] = {"action": [], "proprio": []}
    layouts: dict[str, tuple[Channel, ...]] = {}
    for row in picked:
        episode = lake.episode(row["episode_id"])
        layouts = {"action": episode.embodiment.action, "proprio": episode.embodiment.proprio}
        for name, stream in zip(vectors, map_streams(episode.streams, episode.card, episode.embodiment), strict=True):
            vectors[name].append(stream.values)
    notes = () if step == 1 else (f"The histograms show {len(picked)} of {len(kept)} episodes, evenly picked.",)
    values = tuple(
        ChannelValues(vector, channel.name, channel.unit, Histogram.of(columns[:, index]), channel.low, channel.high)
        for vector in ("action", "proprio")
        for columns in [np.concatenate(vectors[vector])]
        for index, channel in enumerate(layouts[vector])
    )
    return values, notes


def _filmstrips(lake: Lake, video: VideoTools, kept: Sequence[Row]) -> tuple[Picture, ...]:
    if not kept:
        return ()
    episode = lake.episode(kept[0]["episode_id"])
    strips = []
    for slot, view in sorted(episode.views.items()):
        ids = np.unique(np.linspace(0, max(0, view.num_frames - 1), _FILM_FRAMES).round().astype(np.int64))
        frames = _frames(lake, video, episode, slot, ids)
        if frames is not None:
            numbers = " ".join(str(frame) for frame in ids)
            caption = f"{slot} ({view.key}), episode {episode.episode_id[:12]}, frames {numbers}"
            strips.append(Picture(_jpeg(np.concatenate(list(frames), axis=1)), caption))
    return tuple(strips)


def _pictures(lake: Lake, video: VideoTools, wanted: Sequence[PictureKey]) -> dict[PictureKey, Picture]:
    pictures = {}
    for episode_id, slot, frame in wanted:
        try:
            episode = lake.episode(episode_id)
        except WamloomError:
            continue  # a rejected episode: its findings are in the lake, its pictures are not
        frames = _frames(lake, video, episode, slot, np.array([frame], dtype=np.int64))
        if frames is not None:
            pictures[episode_id, slot, frame] = Picture(_jpeg(frames[0]), f"{slot}, frame {frame}")
    return pictures


def _frames(lake: Lake, video: VideoTools, episode: StoredEpisode, slot: str, ids: np.ndarray) -> np.ndarray | None:
    """uint8 [n, h, w, 3] of small frames; None where the view has no such frame."""
    view = episode.views.get(slot)
    if view is None or not len(ids) or ids[-1] >= view.num_frames or not view.num_frames:
        return None
    width = max(2, round(view.width_px * _FILM_HEIGHT_PX / view.height_px / 2) * 2)
    small = ViewsRecipe(height_px=_FILM_HEIGHT_PX, width_px=width, fit="stretch")
    where = f"episode {episode.episode_id[:12]} view {slot}"
    return np.asarray(np.concatenate(list(video.decode(lake.video(episode.episode_id, slot, view), where, ids, small))))


def _jpeg(image: np.ndarray) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=85, colorspace="RGB"))


def gather_release(folder: Path, version: str, proof: Mapping[str, Any] | None = None) -> ReportData:
    """What a report on a release shows: what was built from what, and whether it still is what was written.

    ``proof`` is a certificate of an earlier verification to show; None: that of the one made here, without a date.
    """
    manifest = read_manifest(folder)
    formats = []
    for name, groups in manifest["counts"].items():
        files = [entry for entry in manifest["files"] if entry["path"].startswith(f"{name}/")]
        formats.append(
            FileGroup(
                name,
                len(files),
                sum(entry["num_bytes"] for entry in files),
                sum(group["samples"] for group in groups.values()),
                sum(group["episodes"] for group in groups.values()),
            )
        )
    dropped: Counter[tuple[str, str]] = Counter()
    for outcome in manifest["dropped"]:
        # an episode, or so many of its windows
        dropped[outcome["reason"], outcome["message"]] += int(dict(outcome["numbers"]).get("windows", 1))
    result = verify_release(folder)
    return ReportData(
        title=f"Release {folder.resolve().name}",
        kind="release",
        place=str(folder),
        version=version,
        datasets=tuple(_group_facts(group, manifest["recipe"]) for group in manifest["groups"]),
        release=ReleaseFacts(
            fingerprint=manifest["build"],
            lake=manifest["lake_content"],
            recipe=manifest["recipe"],
            formats=tuple(formats),
            dropped=tuple(Reason("rejected", reason, n, (("", text),)) for (reason, text), n in dropped.items()),
            num_frames=max(sum(g["frames"] for g in groups.values()) for groups in manifest["counts"].values()),
            certificate=certificate(manifest, result, version) if proof is None else proof,
        ),
        problems=tuple(f"{problem.where}: {problem.message}" for problem in result.problems),
    )


def _group_facts(group: Mapping[str, Any], recipe: Mapping[str, Any]) -> DatasetFacts:
    rate: Fraction = parse_rate(group["rate"])
    lengths = tuple(episode["num_steps"] for episode in group["episodes"])
    tasks = Counter(episode["instruction"] for episode in group["episodes"])
    sizes = recipe.get("sizes", {})
    shown = [("as built", view["slot"], view) for view in group["views"]]
    shown += [(f"as built for {name}", view["slot"], sizes[name]) for name in sorted(sizes) for view in group["views"]]
    return DatasetFacts(
        name=group["name"],
        title=group["name"],
        embodiment=group["robot"],
        license=group["license"],
        num_kept=len(lengths),
        num_steps=lengths,
        duration_s=float(sum(lengths) / rate),
        control_rates=((rate, len(lengths)),),
        cameras=tuple(
            Camera(slot, slot, how, size["width_px"], size["height_px"], len(lengths), sum(lengths), 0)
            for how, slot, size in shown
        ),
        tasks=tuple(Task(text, count) for text, count in tasks.most_common()),
    )
