"""RLDS as tensorflow-datasets reads it: ``<group>/1.0.0`` with TFRecord shards, one per unit, and one record per episode.

Written without TensorFlow. Field names are those of DROID's own set, which openpi (``src/openpi/training/
droid_rlds_dataset.py``), Octo and OpenVLA (``data/oxe``) read, and UWM converts from: ``action`` is the first step of the
recipe's chunk at each step, ``action_dict`` the recorded command part by part. Views are JPEG. ``valid`` says which steps
count, and a success is told by ``success`` in ``episode_metadata/file_path``, where openpi looks for it.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import simplejpeg

from pipelines.formats import (
    BuiltEpisode,
    EpisodePlan,
    GroupPlan,
    UnitPlan,
    UnitProgress,
    UnitWriter,
    describe_group,
    planned_counts,
)
from pipelines.named_parts import NamedPart, first_actions, named_parts, require_pictures, require_recorded
from pipelines.read_back import finished, unreadable
from pipelines.storage import fsync_file, fsync_folder, json_bytes, write_durably
from pipelines.tfds_features import ExampleReader, Feature, parse_example, parse_features
from pipelines.tfrecord import framed, read_payload, scan_shard
from schemas.errors import CorruptEpisode, MissingFile, ReleaseError, SourceError
from schemas.recipes import BuildRecipe

VERSION = "1.0.0"
JPEG_QUALITY = 95
"""What tensorflow-datasets uses; here with full chroma (4:4:4)."""
INFO = "dataset_info.json"
MAX_RECORD_BYTES = (1 << 31) - 1
"""A protocol buffer cannot be larger."""
_TEXTS = ("language_instruction", "language_instruction_2", "language_instruction_3")


class _RldsUnit:
    """Writes one unit; see ``UnitWriter``. Holds the compressed frames of one episode at a time, and while its record is made
    about five copies of them."""

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        from tensorflow_datasets.core.example_serializer import ExampleSerializer

        require_recorded(recipe, "rlds")
        require_pictures(recipe, "rlds")
        self._unit = unit
        self._progress = UnitProgress(unit)
        self._features = _features(unit.group, recipe)
        self._serializer = ExampleSerializer(self._features.get_serialized_info())
        self._proprio, self._action = _parts(unit.group)
        self._path = folder / VERSION / _shard_name(unit)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(
            missing_ok=True
        )  # a writer of a failed attempt that still lives keeps the old file, not this one
        self._file: BinaryIO = self._path.open("wb")
        self._jpegs: dict[str, list[bytes]] = {}
        self._num_bytes = 0

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        self._jpegs = {view: [] for view, _, _ in self._unit.group.views}

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._progress.frames(slot, first_step, frames)
        self._jpegs[slot] += [_jpeg(frame) for frame in frames]

    def end(self) -> None:
        episode = self._progress.episode
        self._progress.end()
        size = sum(len(jpeg) for jpegs in self._jpegs.values() for jpeg in jpegs)
        payload = b"" if size > MAX_RECORD_BYTES else self._record(episode)
        if not payload or len(payload) > MAX_RECORD_BYTES:
            raise ReleaseError(
                f"episode {episode.plan.episode_id} has more than the 2 GB that a record can hold",
                str(self._path),
                "set smaller views, or leave it out with --where",
                "too_large",
            )
        self._file.write(framed(payload))
        self._num_bytes += len(payload)
        self._jpegs = {}

    def close(self) -> dict[str, Any]:
        self._progress.close()
        self._file.close()
        fsync_file(self._path)
        fsync_folder(self._path.parent)
        return {"records": len(self._unit.episodes), "num_bytes": self._num_bytes}

    def _record(self, episode: BuiltEpisode) -> bytes:
        encoded = self._features.encode_example(
            {"steps": list(self._steps(episode)), "episode_metadata": _metadata(episode)}
        )
        payload: bytes = self._serializer.get_tf_example(encoded).SerializeToString(deterministic=True)
        return payload

    def _steps(self, episode: BuiltEpisode) -> Iterator[dict[str, Any]]:
        plan = episode.plan
        last = plan.num_steps - 1
        proprio = {"state": episode.proprio} if episode.proprio.shape[1] else {}
        proprio |= {name: part.of(episode.proprio) for name, part in self._proprio.items()}
        action = {name: part.of(episode.action) for name, part in self._action.items()}
        actions, counts = first_actions(episode)
        for step in range(plan.num_steps):
            # a file is stored as it is; an array would be encoded by TensorFlow
            shown: dict[str, Any] = {view: io.BytesIO(jpegs[step]) for view, jpegs in self._jpegs.items()}
            seen = shown | {name: part[step] for name, part in proprio.items()}
            values: dict[str, Any] = {
                "action": actions[step],
                "discount": np.float32(1),
                "reward": np.float32(step == last and bool(plan.success)),
                "is_first": step == 0,
                "is_last": step == last,
                "is_terminal": step == last,
                "valid": bool(episode.valid[step] and counts[step]),
                **dict(zip(_TEXTS, _texts(plan, step), strict=True)),
            }
            if seen:
                values["observation"] = seen
            if action:
                values["action_dict"] = {name: part[step] for name, part in action.items()}
            if episode.selected is not None:
                values["selected"] = bool(episode.selected[step])
            yield values


class _Rlds:
    name = "rlds"
    beside = ""
    windowed = False
    takes_latents = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _RldsUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        for unit, facts in units:
            if facts["records"] != len(unit.episodes):
                raise ReleaseError(
                    f"{_shard_name(unit)} holds {facts['records']} records, planned were {len(unit.episodes)}",
                    group.name,
                    "build again",
                    "off_plan",
                )
        root = folder / VERSION
        described = {
            "format": self.name,
            "group": group.name,
            **describe_group(group, recipe),
            "action": list(group.chunk.names),
            **{
                told: {name: list(part.names) for name, part in parts.items()}
                for told, parts in zip(("observation", "action_dict"), _parts(group), strict=True)
            },
            "episodes": {"train": [], "val": []},
        }
        for unit, _ in units:
            for episode in unit.episodes:
                described["episodes"][episode.split].append(episode.episode_id)
        write_durably(root / "wamloom.json", json_bytes(described))
        write_durably(root / "features.json", json_bytes(_described(_features(group, recipe))))
        write_durably(root / INFO, json_bytes(_info(group, units)))
        return planned_counts(group, recipe, [unit for unit, _ in units], self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        root = folder / VERSION
        finished(root / INFO)
        found = {"samples": 0, "frames": 0, "episodes": 0}
        try:
            info = json.loads((root / INFO).read_bytes())
            features, _ = parse_features(json.loads((root / "features.json").read_bytes()), str(root))
            for split in info["splits"]:
                total = len(split["shardLengths"])
                for index, length in enumerate(split["shardLengths"]):
                    path = root / f"{info['name']}-{split['name']}.tfrecord-{index:05d}-of-{total:05d}"
                    records, damage = scan_shard(path)
                    if damage is not None or len(records) != int(length):
                        said = damage.message if damage else f"{len(records)} records, {INFO} promises {length}"
                        raise CorruptEpisode(said, str(path))
                    for record in records:
                        payload = read_payload(path, record, MAX_RECORD_BYTES, str(path))
                        for name, number in _record_counts(payload, features, str(path)).items():
                            found[name] += number
        except (CorruptEpisode, MissingFile, SourceError, ValueError, KeyError, TypeError, OSError) as error:
            raise unreadable(root, error) from error
        return found


def _record_counts(payload: bytes, features: Sequence[Feature], where: str) -> dict[str, int]:
    reader = ExampleReader(parse_example(payload, where), where)
    by_key = {feature.key: feature for feature in features}
    steps = len(reader.numbers(by_key["steps/is_first"]))
    pictures = [reader.byte_values(feature.key) for feature in features if feature.kind == "image"]
    whole = sum(len(jpegs) for jpegs in pictures if len(jpegs) == steps and all(_is_jpeg(jpeg) for jpeg in jpegs))
    return {"samples": steps, "frames": whole, "episodes": 1}


def _is_jpeg(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")


def _texts(plan: EpisodePlan, step: int) -> tuple[str, str, str]:
    """Three instructions of a step; where fewer were given, those that were are said again."""
    said = (plan.text_at(step), *plan.other_instructions)
    return said[0], said[1 % len(said)], said[2 % len(said)]


def _metadata(episode: BuiltEpisode) -> dict[str, str]:
    """What tells the episode. openpi takes those for successes whose ``file_path`` holds that word, so no name stands there
    that a user chose."""
    plan = episode.plan
    outcome = {True: "success", False: "failure", None: "unknown"}[plan.success]
    folder = f"{outcome}/{plan.episode_id}"
    return {
        "file_path": f"{folder}/trajectory.h5",
        "recording_folderpath": f"{folder}/recordings/MP4",
        "episode_id": plan.episode_id,
        "success": outcome,
        "location": episode.location,
        "source_key": episode.source_key,
    }


def _parts(group: GroupPlan) -> tuple[dict[str, NamedPart], dict[str, NamedPart]]:
    """Of proprio and of the recorded action."""
    card = group.card
    return named_parts(card.proprio, card.proprio_grippers), named_parts(card.action, card.action_grippers)


def _features(group: GroupPlan, recipe: BuildRecipe) -> Any:
    from tensorflow_datasets import features  # takes seconds; without TensorFlow

    def vector(names: Sequence[str]) -> Any:
        return features.Tensor(shape=(len(names),), dtype=np.float32, doc=", ".join(names))

    proprio, action = _parts(group)
    seen: dict[str, Any] = {name: vector(part.names) for name, part in proprio.items()}
    if group.proprio_names:
        seen["state"] = vector(group.proprio_names)
    for view, height, width in group.views:
        if view in seen:
            raise ReleaseError(
                f"a view is called {view}, as a part of the proprio", group.name, "name it with [names.views]"
            )
        seen[view] = features.Image(shape=(height, width, 3), dtype=np.uint8, encoding_format="jpeg")
    flags = ["is_first", "is_last", "is_terminal", "valid", *(["selected"] if recipe.segments.is_set else [])]
    steps: dict[str, Any] = {
        "action": vector(group.chunk.names),
        "discount": features.Scalar(dtype=np.float32),
        "reward": features.Scalar(dtype=np.float32, doc="1 on the last step of a success."),
        **{name: features.Scalar(dtype=np.bool_) for name in flags},
        **{name: features.Text() for name in _TEXTS},
    }
    if seen:
        steps["observation"] = features.FeaturesDict(seen)
    if action:
        steps["action_dict"] = features.FeaturesDict({name: vector(part.names) for name, part in action.items()})
    metadata = ("file_path", "recording_folderpath", "episode_id", "success", "location", "source_key")
    return features.FeaturesDict(
        {
            "steps": features.Dataset(steps),
            "episode_metadata": features.FeaturesDict({name: features.Text() for name in metadata}),
        }
    )


def _described(features: Any) -> dict[str, Any]:
    """``features.json`` as ``save_config`` of tensorflow-datasets writes it."""
    from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

    described: dict[str, Any] = MessageToDict(features.to_proto())
    return described


def dataset_name(group: str) -> str:
    """The name that tensorflow-datasets knows the group by: its own, where that has only letters, digits and underscores."""
    plain = re.sub(r"\W", "_", group, flags=re.ASCII)
    return plain if plain[:1].isalpha() else f"d_{plain}"


def _shard_name(unit: UnitPlan) -> str:
    split = unit.episodes[0].split
    return f"{dataset_name(unit.group.name)}-{split}.tfrecord-{unit.file_in_split:05d}-of-{unit.files_in_split:05d}"


def _info(group: GroupPlan, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]]) -> dict[str, Any]:
    """The JSON form of tensorflow-datasets' ``DatasetInfo`` message, in which 64-bit integers are strings."""
    splits = []
    for split in ("train", "val"):
        shards = [facts for unit, facts in units if unit.episodes[0].split == split]
        if shards:
            splits.append(
                {
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "name": split,
                    "numBytes": str(sum(facts["num_bytes"] for facts in shards)),
                    "shardLengths": [str(facts["records"]) for facts in shards],
                }
            )
    return {
        "description": f"{group.num_episodes} episodes of {group.robot} at {group.rate} Hz, from {group.dataset}.",
        "fileFormat": "tfrecord",
        "name": dataset_name(group.name),
        "redistributionInfo": {"license": group.license},
        "splits": splits,
        "version": VERSION,
    }


def _jpeg(frame: np.ndarray) -> bytes:
    pixels = np.ascontiguousarray(frame)
    return bytes(simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"))


FORMAT = _Rlds()
