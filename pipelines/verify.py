"""The verify line: is what lies there what was written? Hashes, counts, alignment; for a lake and for a release."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from pipelines import registry
from pipelines.build_sources import content_now
from pipelines.formats import Format
from pipelines.lake import Lake
from pipelines.numbers import numbers_of
from pipelines.problems import Problem, Verification
from pipelines.proof import GroupProof
from pipelines.read_back import UNREADABLE
from pipelines.release import LINEAGE, damaged_files, lineage_of, read_manifest
from pipelines.rows import Row, row_sha256, view_of
from pipelines.views import shown_views
from pipelines.windows import is_clip_length, num_latent_frames
from schemas.errors import LakeError, ReleaseError, WamloomError
from schemas.fingerprint import bytes_sha256
from schemas.recipes import BuildRecipe, validate_model
from schemas.tables import EPISODE_FIELDS

FRAME_EPISODES = 8
"""Of each group, whose pictures are decoded."""


def verify_lake(lake: Lake) -> Verification:
    """Re-hashes every row, video and latent, and proves that every key is there once."""
    result = Verification("lake", Counter(), [])
    for table in ("episodes", "latents", "texts"):
        try:
            result.problems += list(_table_problems(lake, table, result.checked))
        except LakeError as error:
            result.problems.append(Problem(error.where, error.message))
    result.problems += [
        Problem(str(path), "no row tells of this file; it may be removed") for path in lake.stray_videos()
    ]
    return result


def _table_problems(lake: Lake, table: str, checked: Counter[str]) -> Iterator[Problem]:
    columns = [field.name for field in EPISODE_FIELDS] if table == "episodes" else None
    seen: Counter[str] = Counter()
    for batch in lake.batches(table, columns):
        for index in range(batch.num_rows):
            row = batch.slice(index, 1)
            key = row.column(0)[0].as_py()
            seen[key] += 1
            checked[table] += 1
            where = f"{lake.root / table}.lance {key[:12]}"
            expected = row.column("row_sha256")[0].as_py()
            if row_sha256(row) != expected:
                yield Problem(where, "the row is not as it was written: its hash is another")
            elif table == "episodes":
                yield from _video_problems(lake, row, checked)
            elif bytes_sha256(row.column("data")[0].as_py()) != row.column("data_sha256")[0].as_py():
                yield Problem(where, "the data is not as it was written: its hash is another")
            elif table == "latents":
                yield from (Problem(where, message) for message in latent_problems(row.to_pylist()[0]))
    for key, count in sorted(seen.items()):
        if count > 1:
            yield Problem(f"{lake.root / table}.lance {key[:12]}", f"the key is there {count} times")


def latent_problems(row: Row) -> Iterator[str]:
    """What is wrong with a row of latents by itself: its shape, its number of latent frames, its values."""
    shape, dtype = row["shape"], np.dtype(row["dtype"])
    if len(row["data"]) != math.prod(shape) * dtype.itemsize or len(shape) != 4:
        yield f"{len(row['data'])} bytes are not {'x'.join(map(str, shape))} values of {dtype.itemsize} bytes"
        return
    frames, leading, stride = len(row["frame_ids"]), row["leading_frames"], row["temporal_stride"]
    if not is_clip_length(frames, leading, stride) or shape[0] != num_latent_frames(frames, leading, stride):
        yield f"{shape[0]} latent frames of {frames} frames, {leading} + {stride} * k of which make 1 + k"
    if len(row["times_ns"]) != frames or any(len(tile["frame_ids"]) != frames for tile in row.get("tiles") or []):
        yield f"its times or tiles are not of {frames} frames"
    if not np.isfinite(np.frombuffer(row["data"], dtype)).all():
        yield "its values are not all finite"


def _video_problems(lake: Lake, row: pa.RecordBatch, checked: Counter[str]) -> Iterator[Problem]:
    for view in row.column("views")[0].as_py() or []:
        checked["videos"] += 1
        try:
            lake.video(
                row.column("episode_id")[0].as_py(), view["slot"], view_of(view), is_depth=bool(view["is_depth"])
            )
        except LakeError as error:
            yield Problem(error.where, error.message)


def verify_release(
    folder: Path, lake: Lake | None = None, readers: bool = False, num_episodes: int = FRAME_EPISODES
) -> Verification:
    """Re-hashes every file, counts what is in them, checks the lineage and reads every row back; against the lake if given.

    The pictures of ``num_episodes`` episodes of each group are decoded. With ``readers``, every group is also opened with
    the library its users read it with.
    """
    result = Verification("release", Counter(), [])
    try:
        manifest = read_manifest(folder)
    except ReleaseError as error:
        if error.reason != "damaged":
            raise
        result.problems.append(Problem(error.where, error.message))
        return result
    recipe = validate_model(BuildRecipe, dict(manifest["recipe"]), str(folder))
    if lake is not None:
        try:
            result.lake_content = content_now(lake, recipe, manifest)
        except LakeError as error:
            result.problems.append(Problem(error.where, error.message))
    damaged = [Problem(str(folder / name), f"the file {what}") for name, what in damaged_files(folder, manifest)]
    result.checked["files"] = len(manifest["files"])
    result.problems += damaged
    if damaged:
        return result  # what a damaged file would say of counts and alignment is worth nothing
    for name, groups in manifest["counts"].items():
        form = cast(Format, registry.load("formats", name).FORMAT)
        for group, expected in groups.items():
            where = folder / (form.beside or name) / group
            try:
                found = form.count(where)
            except WamloomError as error:
                result.problems.append(Problem(error.where or str(where), error.message))
                continue
            except UNREADABLE as error:
                result.problems.append(Problem(str(where), f"{name} cannot be counted: {error!r}"))
                continue
            if readers and name in registry.names("readers"):
                told, read = registry.load("readers", name).problems(where, expected)
                result.problems += [Problem(str(where), message) for message in told]
                result.checked[f"{name}_samples_read_by_its_library"] += read
            for what, count in expected.items():
                result.checked[f"{name}_{what}"] += count
                if found.get(what) != count:
                    result.problems.append(Problem(str(where), f"{found.get(what)} {what}, the manifest says {count}"))
    for group_entry in manifest["groups"]:
        proof = GroupProof(folder, manifest, group_entry, recipe, lake, result, num_episodes)
        with contextlib.closing(proof):
            result.problems += list(_lineage_problems(folder, recipe, group_entry, lake, result.checked, proof))
    if lake is None:
        result.skipped.append(
            "numbers, pictures, latents and embeddings were not compared with the lake's, since none was given"
        )
    return result


def _lineage_problems(
    folder: Path,
    recipe: BuildRecipe,
    group: Mapping[str, Any],
    lake: Lake | None,
    checked: Counter[str],
    proof: GroupProof,
) -> Iterator[Problem]:
    table = lineage_of(folder, group["name"])
    where = f"{folder / LINEAGE / group['name']}"
    index = table["index"].to_numpy()
    if not np.array_equal(index, np.arange(group["num_steps"])):
        yield Problem(where, f"the steps are not 0 to {group['num_steps'] - 1}, each once and in order")
        return
    checked["steps"] += len(index)
    slots = [view["slot"] for view in group["views"]]
    for episode in group["episodes"]:
        stored, numbers = None, None
        rows = table.slice(episode["first_step"], episode["num_steps"])
        place = f"{where} episode {episode['episode_id'][:12]}"
        if set(rows["episode_id"].to_pylist()) != {episode["episode_id"]}:
            yield Problem(place, "its steps belong to another episode")
            continue
        times, valid = rows["time_ns"].to_numpy(), rows["valid"].to_numpy(zero_copy_only=False)
        for slot in slots:
            shown = rows[f"frame_time_ns_{slot}"].to_numpy()
            if np.any(shown[valid] > times[valid] + 1):
                yield Problem(place, f"view {slot} shows a frame from after its step")
        if lake is not None:
            stored = lake.episode(episode["episode_id"])
            shown = shown_views(recipe.views, stored.views)
            numbers = numbers_of(stored, recipe.rate, shown.slots)
            given = {"source_row": numbers.commands, "proprio_row": numbers.measured}
            given |= {f"frame_id_{slot}": numbers.frames[shown.sources[recipe.names.slot(slot)]] for slot in slots}
            same = all(np.array_equal(origin.rows, rows[name].to_numpy()) for name, origin in given.items())
            checked["aligned_episodes"] += 1
            if not same:
                yield Problem(place, "its rows or frames are not those the lake gives for this recipe")
                continue
        yield from proof.episode(episode, rows, stored, numbers)
    yield from proof.end()
