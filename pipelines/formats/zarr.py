"""The Zarr 2 buffers that UWM (unified-world-model), UMI and UVA train from: ``<group>/train.zarr`` and ``val.zarr``.

Names, dtypes and chunks are those of its ``datasets/utils/buffer.py`` and ``datasets/droid/dataset.py``: ``data/obs.<view>``
uint8 [N, H, W, 3] with a frame to a chunk, ``data/obs.<part>`` and ``data/action`` float32, ``meta/episode_ends`` int64. The
action is the first step of the recipe's chunk at each step. UWM masks nothing: ``meta/valid`` says which steps count.

With ``[zarr] layout = "umi"`` the arrays are those that ``UmiDataset`` of real-stanford/universal_manipulation_interface and
``UmiLazyDataset`` of ShuangLI59/unified_video_action read: ``data/camera0_rgb`` and ``data/robot0_*`` (see ``umi_names``).
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.formats import (
    BuiltEpisode,
    GroupPlan,
    UnitPlan,
    UnitProgress,
    UnitWriter,
    describe_group,
    planned_counts,
)
from pipelines.named_parts import (
    CARTESIAN,
    GRIPPER,
    NamedPart,
    first_actions,
    named_parts,
    require_parts,
    require_pictures,
    require_recorded,
)
from pipelines.read_back import finished, unreadable
from pipelines.storage import json_bytes, write_durably
from pipelines.umi_names import WIDTHS as UMI_WIDTHS
from pipelines.umi_names import check_cameras, umi_numbers
from pipelines.zarr_store import ZarrArray, compressed, open_array, read_array, read_chunk, write_array, write_group
from schemas.errors import ReleaseError
from schemas.recipes import BuildRecipe

INDEX = "wamloom.json"
BEYOND = 3
"""A sequence of UWM has so many steps more than actions: two observed frames and two next ones, less one."""
_ACTION, _VALID, _SELECTED = "data/action", "meta/valid", "meta/selected"


class _Uwm:
    """Arrays as UWM names them."""

    pictures = "obs."

    def __init__(self, group: GroupPlan, recipe: BuildRecipe) -> None:
        del recipe
        self.parts = _parts(group)
        self.widths = {f"data/obs.{name}": part.width for name, part in self.parts.items()}
        self.widths[_ACTION] = len(group.chunk.names)
        self.described = {
            "action": list(group.chunk.names),
            "observation": {name: list(part.names) for name, part in self.parts.items()},
        }

    def columns(self, episode: BuiltEpisode) -> dict[str, np.ndarray]:
        """The numbers of an episode, per array."""
        found = {f"data/obs.{name}": part.of(episode.proprio) for name, part in self.parts.items()}
        action, counts = first_actions(episode)
        return found | {_ACTION: action, _VALID: counts}

    def beside(self, columns: Mapping[str, np.ndarray], horizon: int) -> dict[str, bytes]:
        """Files beside the buffer of ``train``."""
        return _normalizers(columns, horizon)


class _Umi:
    """Arrays as UMI names them."""

    pictures = ""

    def __init__(self, group: GroupPlan, recipe: BuildRecipe) -> None:
        check_cameras(group)
        stroke_m = recipe.zarr.gripper_stroke_m
        self.numbers = umi_numbers(group.card, group.name, stroke_m)
        self.widths = {f"data/{name}": width for name, width in UMI_WIDTHS.items()}
        self.described = {"layout": "umi", "gripper_stroke_m": stroke_m}

    def columns(self, episode: BuiltEpisode) -> dict[str, np.ndarray]:
        """The numbers of an episode, per array."""
        return {f"data/{name}": values for name, values in self.numbers.columns(episode.proprio).items()}

    def beside(self, columns: Mapping[str, np.ndarray], horizon: int) -> dict[str, bytes]:
        """Nothing: these trainers go through their samples themselves."""
        del columns, horizon
        return {}


def _layout(group: GroupPlan, recipe: BuildRecipe) -> _Uwm | _Umi:
    return _Umi(group, recipe) if recipe.zarr.layout == "umi" else _Uwm(group, recipe)


class _ZarrUnit:
    """Writes one unit; see ``UnitWriter``. Frames become files at once, numbers travel in the facts, since their chunks hold
    steps of several units."""

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        require_recorded(recipe, "zarr")
        require_pictures(recipe, "zarr")
        self._layout = _layout(unit.group, recipe)
        self._unit = unit
        self._progress = UnitProgress(unit)
        self._root = folder / store_name(unit.episodes[0].split)
        self._views = {view: _frames(1, height, width) for view, height, width in unit.group.views}
        self._numbers: dict[str, list[np.ndarray]] = {}

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        for name, values in self._columns(episode).items():
            self._numbers.setdefault(name, []).append(values)

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._progress.frames(slot, first_step, frames)
        folder = self._root / "data" / (self._layout.pictures + slot)
        folder.mkdir(parents=True, exist_ok=True)
        first = self._progress.episode.plan.first_step - self._unit.split_first_step + first_step
        for number, frame in enumerate(frames):
            # plain files in a folder of this unit's own: what moves them to their place fsyncs each
            (folder / self._views[slot].name(first + number)).write_bytes(compressed(frame))

    def end(self) -> None:
        self._progress.end()

    def close(self) -> dict[str, Any]:
        self._progress.close()
        joined = {name: np.concatenate(parts) for name, parts in self._numbers.items()}
        return {"numbers": {name: base64.b64encode(values.tobytes()).decode() for name, values in joined.items()}}

    def _columns(self, episode: BuiltEpisode) -> dict[str, np.ndarray]:
        """Per array, the rows of the episode."""
        columns = self._layout.columns(episode)
        columns[_VALID] = columns.get(_VALID, True) & episode.valid
        return columns if episode.selected is None else columns | {_SELECTED: episode.selected}


class _Zarr:
    name = "zarr"
    beside = ""
    windowed = False
    takes_latents = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _ZarrUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        layout = _layout(group, recipe)
        stores: dict[str, list[str]] = {}
        for split in ("train", "val"):
            some = [(unit, facts) for unit, facts in units if unit.episodes[0].split == split]
            if not some:
                continue
            episodes = [episode for unit, _ in some for episode in unit.episodes]
            ends = np.cumsum([episode.num_steps for episode in episodes]).astype(np.int64)
            columns = _joined([facts["numbers"] for _, facts in some], layout.widths)
            short = [name for name, values in columns.items() if len(values) != ends[-1]]
            if short:
                message = f"{short[0]} has {len(columns[short[0]])} rows, {ends[-1]} were planned"
                raise ReleaseError(message, f"{group.name}/{split}", "build again", "off_plan")
            _finish_store(folder / store_name(split), group, layout.pictures, columns, ends)
            stores[store_name(split)] = [episode.episode_id for episode in episodes]
            if split == "train":
                for name, data in layout.beside(columns, recipe.horizon).items():
                    write_durably(folder / name, data)
        described = {
            "format": self.name,
            "group": group.name,
            **describe_group(group, recipe),
            **layout.described,
            "episodes": stores,
        }
        write_durably(folder / INDEX, json_bytes(described))
        return planned_counts(group, recipe, [unit for unit, _ in units], self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        finished(folder / INDEX)
        found = {"samples": 0, "frames": 0, "episodes": 0}
        for root in sorted(folder.glob("*.zarr")):
            ends = read_array(root / "meta/episode_ends")
            found["episodes"] += len(ends)
            found["samples"] += len(read_array(root / _VALID))
            for path in sorted(path.parent for path in (root / "data").glob("*/.zarray")):
                array = open_array(path)
                if array.dtype != np.uint8:
                    read_array(path)
                    continue
                for number in range(array.shape[0]):
                    read_chunk(path, array, number)
                found["frames"] += array.shape[0]
        for path in sorted(folder.glob("*.npz")):
            _check_npz(path)
        return found


def store_name(split: str) -> str:
    """The folder of the buffer of a split."""
    return f"{split}.zarr"


def _parts(group: GroupPlan) -> dict[str, NamedPart]:
    found = named_parts(group.card.proprio, group.card.proprio_grippers)
    require_parts(found, {CARTESIAN: 6, GRIPPER: 1}, "UWM", group.name)
    for view, _, _ in group.views:
        if view in found:
            raise ReleaseError(f"a view is called {view}, as a part of the proprio", group.name, "use [names.views]")
    return found


def _frames(number: int, height: int, width: int) -> ZarrArray:
    return ZarrArray((number, height, width, 3), (1, height, width, 3), np.dtype(np.uint8))


def _joined(numbers: Sequence[Mapping[str, str]], widths: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The rows of all units, per array."""
    columns: dict[str, np.ndarray] = {}
    for name in numbers[0]:
        data = b"".join(base64.b64decode(one[name]) for one in numbers)
        if name in widths:
            columns[name] = np.frombuffer(data, dtype=np.float32).reshape(-1, widths[name])
        else:
            columns[name] = np.frombuffer(data, dtype=bool)
    return columns


def _finish_store(
    root: Path, group: GroupPlan, pictures: str, columns: Mapping[str, np.ndarray], ends: np.ndarray
) -> None:
    for view, height, width in group.views:
        array = _frames(int(ends[-1]), height, width)
        write_durably(root / "data" / (pictures + view) / ".zarray", array.to_json())
    for name, values in columns.items():
        write_array(root / name, values)
    write_array(root / "meta/episode_ends", ends)
    for path in (root / "data", root / "meta", root):
        write_group(path)


def _normalizers(columns: Mapping[str, np.ndarray], horizon: int) -> dict[str, bytes]:
    """The files that UWM looks for beside its buffer, and would otherwise make itself: middle and half of the range.

    It divides by the half; of a number that never changes it would be 0, and 1 stands there.
    """
    scales = {name: _scale_and_offset(values) for name, values in columns.items() if name.startswith("data/")}
    scale, offset = scales.pop(_ACTION)
    return {
        "lowdim_normalizer_stats.npz": _npz({name.removeprefix("data/obs."): both for name, both in scales.items()}),
        f"action_normalizer_stats_len{horizon + BEYOND}.npz": _npz({"scale": scale, "offset": offset}),
    }


def _scale_and_offset(values: np.ndarray) -> np.ndarray:
    low, high = values.min(axis=0), values.max(axis=0)
    scale = (high - low) / 2
    return np.stack([np.where(scale > 0, scale, 1), (high + low) / 2]).astype(np.float32)


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type] # stamps no time on what it packs
    return buffer.getvalue()


def _check_npz(path: Path) -> None:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise unreadable(path, error) from error
    if damaged is not None:
        raise ReleaseError(f"{damaged} in it is damaged", str(path), "build it again", "unreadable")


FORMAT = _Zarr()
