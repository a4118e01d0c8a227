"""Reads RLDS releases back as tensorflow-datasets does: by the splits and shard lengths of its index, and the declared features.

Compared are ``observation/state``, ``action`` (made anew from the lake, by what the recipe asks) and ``action_dict``, put
together to the recorded command: channels that have no name there are not held, and rotations that were written as Euler
angles are compared as such. The parts of the observation must be those of ``state``, the marks and texts those of the manifest.
Times, source rows and frame numbers are not in the records.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pipelines.named_parts import joined, named_parts
from pipelines.probes import EpisodeRows, SampleContent, check_widths, converted, numbers_in_split, of_steps
from pipelines.storage import inside
from pipelines.tfds_features import ExampleReader, parse_example, parse_features
from pipelines.tfrecord import Record, read_payload, scan_shard
from schemas.embodiment import Embodiment
from schemas.errors import ReleaseError

_VERSION = "1.0.0"
_MAX_BYTES = (1 << 31) - 1
_SEEN, _DONE = "steps/observation/", "steps/action_dict/"


class _Rlds:
    """See ``Probe``. Holds one record."""

    def __init__(self, folder: Path, group: Mapping[str, Any]) -> None:
        self._root, self._group = folder / _VERSION, group
        info = json.loads((self._root / "dataset_info.json").read_bytes())
        self._name = info["name"]
        self._lengths = {split["name"]: [int(one) for one in split["shardLengths"]] for split in info["splits"]}
        features, _ = parse_features(json.loads((self._root / "features.json").read_bytes()), str(self._root))
        self._features = {feature.key: feature for feature in features}
        card = Embodiment.model_validate(group["card"])
        self._proprio = named_parts(card.proprio, card.proprio_grippers)
        self._action = named_parts(card.action, card.action_grippers)
        self._numbers = numbers_in_split(group)
        self._shard: tuple[Path, list[Record]] | None = None
        self._open: tuple[str, ExampleReader] | None = None

    def rows(self, episode: Mapping[str, Any]) -> EpisodeRows:
        reader = self._reader(episode)
        num = len(reader.numbers(self._features["steps/is_first"]))
        vectors: dict[str, np.ndarray] = {}
        if _SEEN + "state" in self._features:
            vectors["proprio"] = self._of(reader, _SEEN + "state")  # the whole vector
        action = {name: self._of(reader, _DONE + name) for name in self._action}
        check_widths(self._action, action, num, str(self._root))
        channels, values = joined(self._action, action, num)
        vectors["action"] = values
        has_selected = "steps/selected" in self._features
        return EpisodeRows(
            steps=np.arange(num),
            samples=episode["first_step"] + np.arange(num),
            times_ns=None,
            source_rows=None,
            frame_ids={},
            vectors=vectors,
            channels={"action": channels},
            made=tuple(converted("action", self._action, action)),
            firsts=self._of(reader, "steps/action"),
            valid=self._of(reader, "steps/valid"),
            selected=self._of(reader, "steps/selected") if has_selected else None,
            at_odds=tuple(self._at_odds(episode, reader, num, vectors.get("proprio"))),
        )

    def frames(self, episode: Mapping[str, Any], view: str, steps: Sequence[int]) -> np.ndarray:
        jpegs = self._reader(episode).byte_values(_SEEN + view)
        return np.stack([simplejpeg.decode_jpeg(jpegs[step], colorspace="RGB") for step in steps])

    def sample(self, number: int) -> SampleContent:
        return of_steps(self._group, number, self._group["action_chunk"]["names"], self.rows)

    def _of(self, reader: ExampleReader, key: str) -> np.ndarray:
        return reader.numbers(self._features[key])

    def _at_odds(
        self, episode: Mapping[str, Any], reader: ExampleReader, num: int, state: np.ndarray | None
    ) -> Iterator[str]:
        said = {key: self._text(reader, f"episode_metadata/{key}") for key in ("episode_id", "success", "file_path")}
        if said["episode_id"] != episode["episode_id"]:
            yield f"its record is that of episode {said['episode_id'][:12]}"
        outcome = {True: "success", False: "failure", None: "unknown"}[episode["success"]]
        if said["success"] != outcome or said["file_path"].partition("/")[0] != outcome:
            yield f"it is told as a {said['success']} in {said['file_path']!r}, the manifest says {outcome}"
        step = np.arange(num)
        ends = {"is_first": step == 0, "is_last": step == num - 1, "is_terminal": step == num - 1}
        wrong = [name for name, marks in ends.items() if not np.array_equal(self._of(reader, f"steps/{name}"), marks)]
        if not np.array_equal(self._of(reader, "steps/reward"), ends["is_last"] * float(bool(episode["success"]))):
            wrong.append("reward")
        for name in wrong:
            yield f"its {name} is not that of its steps"
        starts = [start for start, _ in episode["instructions"]] or [0]
        texts = [text for _, text in episode["instructions"]] or [episode["instruction"]]
        at = np.searchsorted(starts, step, side="right") - 1
        written = [text.decode(errors="replace") for text in reader.byte_values("steps/language_instruction")]
        if written != [texts[one] for one in at.tolist()]:
            yield "its instructions are not those of the manifest"
        for name, part in self._proprio.items():
            if state is None or not np.array_equal(self._of(reader, _SEEN + name), part.of(state), equal_nan=True):
                yield f"its {name} is not that of its state"

    def _text(self, reader: ExampleReader, key: str) -> str:
        return b"".join(reader.byte_values(key)).decode(errors="replace")

    def _reader(self, episode: Mapping[str, Any]) -> ExampleReader:
        """The record in the episode's place: as the manifest counts the episodes of its split."""
        if self._open is None or self._open[0] != episode["episode_id"]:
            path, record = self._place(episode["split"], self._numbers[episode["episode_id"]])
            where = str(path)
            payload = read_payload(path, record, _MAX_BYTES, where)
            self._open = episode["episode_id"], ExampleReader(parse_example(payload, where), where)
        return self._open[1]

    def _place(self, split: str, number: int) -> tuple[Path, Record]:
        lengths = self._lengths.get(split, [])
        for index, length in enumerate(lengths):
            if number < length:
                name = f"{self._name}-{split}.tfrecord-{index:05d}-of-{len(lengths):05d}"
                path = inside(self._root, name)
                if self._shard is None or self._shard[0] != path:
                    self._shard = path, scan_shard(path)[0]
                if number < len(self._shard[1]):
                    return path, self._shard[1][number]
                break
            number -= length
        raise ReleaseError("a record is missing", f"{self._root} {split}", "build it again", "unreadable")


def open_group(folder: Path, group: Mapping[str, Any]) -> _Rlds:
    """The probe of a group's folder."""
    return _Rlds(folder, group)
