"""One sample of a release as a trainer is given it, with the walk of each of its parts back to the recording."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipelines import registry
from pipelines.formats import Format
from pipelines.probes import Probe, SampleContent
from pipelines.release import lineage_of, read_manifest
from pipelines.sheet import Sheet, draw_sheet
from schemas.errors import ReleaseError, UsageError
from schemas.sample import FrameOrigin, Sample

MAX_COLUMNS = 8
"""Moments on a sheet, evenly over the sample."""


@dataclass(frozen=True, slots=True)
class SampleLook:
    """A sample: where it came from, and what is in it where its format can be read back."""

    origin: Sample
    format: str
    content: SampleContent | None
    steps: tuple[Mapping[str, Any], ...] = ()
    """Of each step of the sample: ``step``, ``time_ns``, ``source_row``, ``source_time_ns`` and the frames of every view."""

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON."""
        told: dict[str, Any] = {**asdict(self.origin), "format": self.format, "steps": list(self.steps)}
        content = self.content
        told["action_chunk"] = None
        told["tokens"], told["latents"] = None, []
        if content is not None:
            told["action_chunk"] = {
                "names": list(content.chunk_names),
                "values": [[None if np.isnan(one) else one for one in row] for row in content.chunk.tolist()],
                "mask": content.mask.tolist(),
            }
            told["tokens"] = None if content.tokens is None else list(content.tokens)
            told["latents"] = [asdict(span) for span in content.latents]
        return told


@dataclass(frozen=True, slots=True)
class _Found:
    """Where a sample lies."""

    manifest: Mapping[str, Any]
    group: Mapping[str, Any]
    name: str
    number: int
    """Within the group."""
    probe: Probe | None


def look_at_sample(folder: Path, number: int, name: str | None = None, group: str | None = None) -> SampleLook:
    """Sample ``number`` of the format ``name`` (None: the first of the recipe), over all groups in order or within one.

    A sample is a step, or, of a format of windows, a window. Raises ReleaseError where there is no such sample or group,
    UsageError where the release has no such format, or one whose windows cannot be read back.
    """
    found = _find(folder, number, name, group)
    content = None if found.probe is None else found.probe.sample(found.number)
    first = found.number
    if content is not None:
        first = found.group["episodes"][content.episode_index]["first_step"] + content.step
    rows = lineage_of(folder, found.group["name"])
    origin = _origin(found.group, rows.slice(first, 1).to_pylist()[0], number)
    steps: list[Mapping[str, Any]] = []
    if content is not None:
        begin = first - content.step
        last = max(content.steps)
        table = rows.slice(begin + content.step, last - content.step + 1).to_pylist()
        steps = [_step(found.group, table[step - content.step]) for step in sorted(set(content.steps))]
    return SampleLook(origin, found.name, content, tuple(steps))


def sample_sheet(folder: Path, number: int, name: str | None = None, group: str | None = None) -> Sheet:
    """The pictures of a sample, as ``look_at_sample`` finds it, up to ``MAX_COLUMNS`` of them a view.

    Raises as that does, and UsageError where the sample has no pictures.
    """
    found = _find(folder, number, name, group)
    if found.probe is None or not found.group["views"]:
        raise UsageError(
            f"samples of {found.name} have no pictures that can be read back",
            str(folder),
            f"name a format that has with --format: {', '.join(_probed(found.manifest)) or 'this release has none'}",
        )
    content = found.probe.sample(found.number)
    episode = found.group["episodes"][content.episode_index]
    there = np.unique(content.steps)
    steps = there[np.unique(np.linspace(0, len(there) - 1, MAX_COLUMNS).round().astype(np.int64))]
    views = [view["slot"] for view in found.group["views"]]
    pictures = [found.probe.frames(episode, view, steps.tolist()) for view in views]
    times = lineage_of(folder, found.group["name"])["time_ns"].to_numpy()[episode["first_step"] + steps]
    sizes = [(view, *one.shape[1:3]) for view, one in zip(views, pictures, strict=True)]
    return draw_sheet(sizes, pictures, times)


def _probed(manifest: Mapping[str, Any]) -> list[str]:
    return [name for name in manifest["recipe"]["formats"] if name in registry.names("probes")]


def _find(folder: Path, number: int, name: str | None, group: str | None) -> _Found:
    manifest = read_manifest(folder)
    formats = manifest["recipe"]["formats"]
    chosen = name or formats[0]
    if chosen not in formats:
        raise UsageError(f"the release has no format {chosen!r}", str(folder), f"it has {', '.join(formats)}")
    known = [entry["name"] for entry in manifest["groups"]]
    if group is not None and group not in known:
        raise ReleaseError(f"no group {group!r}", str(folder), f"known: {', '.join(known)}")
    form = cast(Format, registry.load("formats", chosen).FORMAT)
    has_probe = chosen in registry.names("probes")
    if form.windowed and not has_probe:
        raise UsageError(
            f"windows of {chosen} cannot be read back",
            str(folder),
            f"name another format with --format: {', '.join(_probed(manifest)) or 'this release has none'}",
        )
    entries = [entry for entry in manifest["groups"] if group in (None, entry["name"])]
    left = number
    for entry in entries:
        # without a probe, steps of the lineage
        count = manifest["counts"][chosen][entry["name"]]["samples"] if has_probe else entry["num_steps"]
        if 0 <= left < count:
            place = folder / (form.beside or chosen) / entry["name"]
            probe = registry.load("probes", chosen).open_group(place, entry) if has_probe else None
            return _Found(manifest, entry, chosen, left, probe)
        left -= count
    raise ReleaseError(
        f"there is no sample {number}", str(folder), f"samples of {chosen} run from 0 to {number - left - 1}"
    )


def _frames(group: Mapping[str, Any], row: Mapping[str, Any]) -> tuple[FrameOrigin, ...]:
    return tuple(
        FrameOrigin(view["slot"], row[f"frame_id_{view['slot']}"], row[f"frame_time_ns_{view['slot']}"])
        for view in group["views"]
    )


def _step(group: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in ("step", "time_ns", "source_row", "source_time_ns", "valid")}
    return told | {"frames": [asdict(frame) for frame in _frames(group, row)]}


def _origin(group: Mapping[str, Any], row: Mapping[str, Any], number: int) -> Sample:
    episode = group["episodes"][row["episode_index"]]
    texts = [text for start, text in episode["instructions"] if start <= row["step"]]
    return Sample(
        number,
        group["name"],
        row["episode_id"],
        episode["location"],
        episode["source_key"],
        row["step"],
        row["time_ns"],
        row["source_row"],
        row["source_time_ns"],
        _frames(group, row),
        texts[-1] if texts else episode["instruction"],
    )
