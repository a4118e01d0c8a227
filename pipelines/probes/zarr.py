"""Reads UWM's and UMI's buffers back as they do: an episode is the rows between two of ``meta/episode_ends``.

Compared are the parts of the measured state, put together again (rotations that were written as Euler angles are compared as
such; channels that have no name are not held), ``data/action``, made anew from the lake by what the recipe asks, which steps
count, and the pictures. Times, source rows and frame numbers are not in the buffers. UWM's normalizers must be those of the
rows. UMI's numbers are made of the measured state, and made again from the lake's; there is no action among them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.named_parts import joined, named_parts
from pipelines.probes import EpisodeRows, Made, SampleContent, check_widths, converted, numbers_in_split, of_steps
from pipelines.umi_names import WIDTHS, UmiNumbers, umi_numbers
from pipelines.zarr_store import open_array, read_array, read_chunk
from schemas.embodiment import Embodiment
from schemas.errors import ReleaseError


class _Zarr:
    """See ``Probe``. Holds the numbers of one buffer."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._folder, self._group = folder, group
        card = Embodiment.model_validate(group["card"])
        self._parts = named_parts(card.proprio, card.proprio_grippers)
        index = json.loads((folder / "wamloom.json").read_bytes())
        self._ids = index["episodes"]
        self._umi: UmiNumbers | None = None
        if index.get("layout") == "umi":
            self._umi, self._parts = umi_numbers(card, group["name"], index["gripper_stroke_m"]), {}
        self._numbers = numbers_in_split(group)
        self._first = {episode["split"]: episode["first_step"] for episode in reversed(group["episodes"])}
        self._open: tuple[Path, dict[str, np.ndarray]] | None = None
        if "train" in self._first and self._umi is None:
            self._check_normalizers(self._columns(self._store("train")))

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        root, rows = self._place(episode)
        columns = {name: values[rows] for name, values in self._columns(root).items()}
        umi = self._umi
        if umi is not None:
            made = tuple(
                Made(name, "proprio", columns[f"data/{name}"], partial(_umi_column, umi, name)) for name in WIDTHS
            )
        seen = {name: columns[f"data/obs.{name}"] for name in self._parts}
        num = rows.stop - rows.start
        check_widths(self._parts, seen, num, str(root))
        channels, proprio = joined(self._parts, seen, num)
        told = self._ids[root.name][self._numbers[episode["episode_id"]]]
        return EpisodeRows(
            steps=np.arange(num),
            samples=self._first[episode["split"]] + np.arange(rows.start, rows.stop),
            times_ns=None,
            source_rows=None,
            frame_ids={},
            vectors={"proprio": proprio} if umi is None else {},
            channels={"proprio": channels} if umi is None else {},
            made=tuple(converted("proprio", self._parts, seen)) if umi is None else made,
            firsts=columns.get("data/action"),
            valid=columns["meta/valid"],
            selected=columns.get("meta/selected"),
            at_odds=() if told == episode["episode_id"] else (f"its rows are said to be those of episode {told[:12]}",),
        )

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        root, rows = self._place(episode)
        folder = root / "data" / (view if self._umi else f"obs.{view}")
        array = open_array(folder)
        return np.concatenate([read_chunk(folder, array, rows.start + step) for step in steps])

    def sample(self, number: int) -> SampleContent:
        if self._umi is None:
            return of_steps(self._group, number, self._group["action_chunk"]["names"], self.rows)
        return of_steps(self._group, number, (), lambda episode: replace(self.rows(episode), firsts=_none(episode)))

    def _store(self, split: str) -> Path:
        return self._folder / f"{split}.zarr"

    def _place(self, episode: Mapping[str, Any]) -> tuple[Path, slice]:
        """The buffer of an episode, and its rows there."""
        root, number = self._store(episode["split"]), self._numbers[episode["episode_id"]]
        ends = self._columns(root)["meta/episode_ends"]
        if number >= len(ends):
            raise ReleaseError(f"it has {len(ends)} episodes", str(root), "build it again", "unreadable")
        return root, slice(int(ends[number - 1]) if number else 0, int(ends[number]))

    def _columns(self, root: Path) -> dict[str, np.ndarray]:
        """By path, all arrays of a buffer but the pictures."""
        if self._open is None or self._open[0] != root:
            names = [f"data/obs.{name}" for name in self._parts]
            names += [f"data/{name}" for name in WIDTHS] if self._umi else ["data/action"]
            names += [*(f"meta/{path.name}" for path in (root / "meta").iterdir() if path.is_dir())]
            self._open = root, {name: read_array(root / name) for name in names}
        return self._open[1]

    def _check_normalizers(self, columns: Mapping[str, np.ndarray]) -> None:
        """Raises ReleaseError unless UWM's normalizers take the rows it trains on to -1..1."""
        path = self._folder / "lowdim_normalizer_stats.npz"
        given = {f"data/obs.{name}": both for name, both in _npz(path).items()}
        (path_of_action,) = self._folder.glob("action_normalizer_stats_len*.npz")
        action = _npz(path_of_action)
        given["data/action"] = np.stack([action["scale"], action["offset"]])
        for name, values in columns.items():
            if not name.startswith("data/"):
                continue
            low, high = values.min(axis=0), values.max(axis=0)
            scale = (high - low) / 2
            wanted = np.stack([np.where(scale > 0, scale, 1), (high + low) / 2]).astype(np.float32)
            if name not in given or not np.array_equal(given[name], wanted, equal_nan=True):
                message = f"the normalizer of {name} is not that of its rows"
                raise ReleaseError(message, str(self._folder), "build it again", "unreadable")


def _umi_column(umi: UmiNumbers, name: str, proprio: np.ndarray) -> np.ndarray:
    return umi.columns(proprio)[name]


def _none(episode: Mapping[str, Any]) -> np.ndarray:
    """No action, of each step."""
    return np.zeros((episode["num_steps"], 0), np.float32)


def _npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def open_group(folder: Path, group: Mapping[str, Any]) -> _Zarr:
    """The probe of a group's folder."""
    return _Zarr(folder, group)
