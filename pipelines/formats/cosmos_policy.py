"""What Cosmos Policy (NVlabs/cosmos-policy) trains from: HDF5 files of LIBERO's or ALOHA's shape, statistics and T5 embeddings.

``cosmos_policy/datasets/libero_dataset.py`` reads ``demos/<split>`` (``data/demo_0`` of ``<words of the instruction>_demo.hdf5``:
pictures uint8 [T, H, W, 3], ``actions`` and ``robot_states``) as successes, and ``rollouts/<split>`` with the instruction and
``success`` as attributes. Failures are rollouts; so is an episode whose instruction no file name can spell, or that changes.

Where views of two wrists are built, files are of the shape that ``aloha_dataset.py`` reads: ``demos/<words>/<split>`` with
``action``, ``observations/qpos`` and ``observations/images/cam_high``, and rollouts likewise.

``t5_embeddings.pkl`` is a pickle, since the trainer unpickles it: it is written here and never read, and
``t5_embeddings.safetensors`` holds the same numbers. A pickle runs code when it is opened; take it from nobody else.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import safetensors
import safetensors.numpy

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
from pipelines.named_parts import first_actions, require_hdf5_texts, require_recorded
from pipelines.read_back import finished, unreadable
from pipelines.storage import fsync_file, fsync_folder, json_bytes, write_durably
from pipelines.text_rows import TextEmbedding
from pipelines.torch_files import pickled_tensors
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe

INDEX = "wamloom.json"
TOKENS, WIDTH = 512, 1024
"""Of an embedding of T5-XXL's little brother t5-11b, as Cosmos reads it."""
_ENDING = "_demo.hdf5"
_ZLIB_LEVEL = 4
_README = """t5_embeddings.pkl is a Python pickle, because Cosmos Policy reads nothing else. Opening a pickle runs
whatever code is in it: open this one only if its SHA-256 is the one in manifest.json, and never open one of unknown origin.
t5_embeddings.safetensors holds the same tensors and runs nothing; its metadata say which instruction each key is.
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one of the trainer's readers calls the arrays of an episode, by slot of a view, ``actions`` and ``proprio``."""

    two_arms: bool
    demo: Mapping[str, str]
    rollout: Mapping[str, str]

    def names(self, plan: EpisodePlan) -> Mapping[str, str]:
        """Those of this episode's file."""
        return self.demo if is_demonstration(plan, self) else self.rollout


_ALOHA_NAMES = {
    "actions": "action",
    "proprio": "observations/qpos",
    "primary": "observations/images/cam_high",
    "wrist_left": "observations/images/cam_left_wrist",
    "wrist_right": "observations/images/cam_right_wrist",
}
LIBERO = Shape(
    two_arms=False,
    demo={
        "actions": "data/demo_0/actions",
        "proprio": "data/demo_0/robot_states",
        "primary": "data/demo_0/obs/agentview_rgb",
        "wrist_left": "data/demo_0/obs/eye_in_hand_rgb",
    },
    rollout={
        "actions": "actions",
        "proprio": "proprio",
        "primary": "primary_images",
        "wrist_left": "wrist_images",
    },
)
ALOHA = Shape(two_arms=True, demo=_ALOHA_NAMES, rollout=_ALOHA_NAMES)


class _CosmosUnit:
    """Writes one unit; see ``UnitWriter``."""

    def __init__(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> None:
        require_recorded(recipe, "cosmos_policy")
        require_hdf5_texts(unit.group, "cosmos_policy")
        if recipe.texts is None:
            raise RecipeError(
                "Cosmos Policy reads embeddings of the instructions",
                "texts",
                'run `wamloom texts --encoder t5`, and add [texts] with encoder = "t5" to the recipe',
                "no_text",
            )
        self._shape = _shape(unit.group, recipe)
        self._slots = {view: recipe.names.slot(view) for view, _, _ in unit.group.views}
        self._unit, self._folder = unit, folder
        self._progress = UnitProgress(unit)
        self._file: Any = None
        self._path = folder
        self._numbers: dict[str, list[np.ndarray]] = {"actions": [], "proprio": []}
        self._texts: dict[str, str] = {}

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)
        plan = episode.plan
        self._path = self._folder / file_of(plan, self._shape)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(self._path.with_suffix(".partial"), "w", libver=("earliest", "v110"))
        demo, names = is_demonstration(plan, self._shape), self._shape.names(plan)
        actions, counts = first_actions(episode)
        self._add(names["actions"], actions)
        self._add(names["proprio"], episode.proprio)
        self._add("wamloom/valid", counts & episode.valid)
        if self._shape.two_arms or not demo:
            self._file.attrs["task_description"] = plan.instruction
            self._file.attrs["success"] = plan.success is not False
        self._file.attrs["episode_id"] = plan.episode_id
        if demo and plan.split == "train":
            self._numbers["actions"].append(actions)
            self._numbers["proprio"].append(episode.proprio)
        for text in (plan.instruction, ""):
            self._texts[text] = self._write_text(text, episode.embeddings.get(text), plan)

    def frames(self, slot: str, first_step: int, frames: np.ndarray) -> None:
        self._progress.frames(slot, first_step, frames)
        plan = self._progress.episode.plan
        name = self._shape.names(plan)[self._slots[slot]]
        if first_step == 0:
            shape = (plan.num_steps, *frames.shape[1:])
            self._file.create_dataset(
                name, shape, np.uint8, chunks=(1, *shape[1:]), compression=_ZLIB_LEVEL, track_times=False
            )
        for number, frame in enumerate(frames):  # zlib's own checksum tells damage
            data = zlib.compress(np.ascontiguousarray(frame).tobytes(), _ZLIB_LEVEL)
            self._file[name].id.write_direct_chunk((first_step + number, 0, 0, 0), data)

    def end(self) -> None:
        self._progress.end()
        self._file.close()
        fsync_file(self._path.with_suffix(".partial"))
        self._path.with_suffix(".partial").replace(self._path)
        fsync_folder(self._path.parent)

    def close(self) -> dict[str, Any]:
        self._progress.close()
        joined = {name: np.concatenate(parts).tobytes() for name, parts in self._numbers.items() if parts}
        return {
            "numbers": {name: base64.b64encode(data).decode() for name, data in joined.items()},
            "texts": self._texts,
        }

    def _add(self, name: str, values: np.ndarray) -> None:
        chunks = values.shape if values.size else None  # a robot may measure nothing
        self._file.create_dataset(name, data=values, chunks=chunks, fletcher32=bool(chunks), track_times=False)

    def _write_text(self, text: str, embedding: TextEmbedding | None, plan: EpisodePlan) -> str:
        """The file that holds the embedding of ``text``; units with the same text write the same bytes."""
        found = None if embedding is None else embedding.values
        if embedding is None or found is None or found.shape[1] != WIDTH or len(found) > TOKENS:
            shape = "none" if found is None else f"one of {list(found.shape)}"
            raise ReleaseError(
                f"Cosmos Policy takes embeddings of at most {TOKENS} x {WIDTH}, and {text[:80]!r} has {shape}",
                f"episode {plan.episode_id[:12]}",
                "make them with `wamloom texts --encoder t5`",
                "wrong_shape",
            )
        name = f"texts/{text_key(text)}.safetensors"
        write_durably(self._folder / name, safetensors.numpy.save({"embedding": np.ascontiguousarray(found)}))
        return name


class _CosmosPolicy:
    name = "cosmos_policy"
    beside = ""
    windowed = False
    takes_latents = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        return _CosmosUnit(unit, recipe, folder)

    def finish(
        self, group: GroupPlan, recipe: BuildRecipe, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]], folder: Path
    ) -> Mapping[str, int]:
        texts = {text: name for _, facts in units for text, name in facts["texts"].items()}
        embeddings = {text: _padded(folder / name) for text, name in sorted(texts.items())}
        # the trainer looks them up by what it makes of a file's name, and by the attribute of a rollout, which are the same
        write_durably(folder / "t5_embeddings.pkl", pickled_tensors(embeddings, "bfloat16"))
        keys = {text_key(text): values for text, values in embeddings.items()}
        said = {"wamloom": json.dumps({text_key(text): text for text in embeddings}, sort_keys=True)}
        write_durably(folder / "t5_embeddings.safetensors", safetensors.numpy.save(keys, metadata=said))
        write_durably(folder / "README.md", _README.encode())
        episodes = [episode for unit, _ in units for episode in unit.episodes]
        statistics, shape = _statistics(group, units), _shape(group, recipe)
        places = {_data_dir(episode, shape) for episode in episodes if is_demonstration(episode, shape)}
        for place in sorted(places if statistics else ()):
            write_durably(folder / place / "dataset_statistics.json", json_bytes(statistics))
        described = {
            "format": self.name,
            "group": group.name,
            **describe_group(group, recipe),
            "action": list(group.chunk.names),
            "arrays": {"demo": _arrays(shape.demo, group, recipe), "rollout": _arrays(shape.rollout, group, recipe)},
            "files": {file_of(episode, shape): episode.episode_id for episode in episodes},
            "success_unknown": [episode.episode_id for episode in episodes if episode.success is None],
        }
        write_durably(folder / INDEX, json_bytes(described))
        return planned_counts(group, recipe, [unit for unit, _ in units], self.windowed)

    def count(self, folder: Path) -> Mapping[str, int]:
        finished(folder / INDEX)
        found = {"samples": 0, "frames": 0, "episodes": 0}
        for path in sorted([*folder.rglob("*.hdf5"), *folder.rglob("*.safetensors")]):
            try:
                if path.suffix == ".safetensors":
                    safetensors.numpy.load(path.read_bytes())
                    continue
                with h5py.File(path, "r") as file:
                    steps, frames = _read_whole(file)
                    found["samples"] += steps
                    found["frames"] += frames
                    found["episodes"] += 1
            except (
                OSError,
                RuntimeError,
                LookupError,
                StopIteration,
                ValueError,
                safetensors.SafetensorError,
            ) as error:
                raise unreadable(path, error) from error
        return found


def file_of(plan: EpisodePlan, shape: Shape = LIBERO) -> str:
    """The file of an episode. LIBERO's folder below the split is what it calls a suite; here there is one."""
    if not is_demonstration(plan, shape):
        return f"rollouts/{plan.split}/episode_{plan.episode_index:06d}.hdf5"
    words = "_".join(plan.instruction.split(" "))
    if shape.two_arms:
        return f"demos/{words}/{plan.split}/episode_{plan.episode_index:06d}.hdf5"
    return f"demos/{plan.split}/all/{plan.episode_index:06d}/{words}{_ENDING}"


def is_demonstration(plan: EpisodePlan, shape: Shape = LIBERO) -> bool:
    """Whether the episode is no known failure, and has one instruction that the trainer gets back from the name of a file."""
    text = plan.instruction
    plain = all(character.isprintable() and character not in "/\\_" for character in text)
    name = f"{text}{_ENDING}".encode(errors="replace")
    known = plan.success is not False and len({said for _, _, said in plan.texts}) == 1
    spelt = known and plain and len(name) < 250 and not text.startswith(".")  # a hidden file
    # ALOHA's reader knows the split by the name of any folder, and LIBERO's takes what stands before such a word away
    return spelt and (text not in ("", "train", "val") if shape.two_arms else "SCENE" not in text)


def _data_dir(plan: EpisodePlan, shape: Shape) -> str:
    """Where the trainer looks for statistics: ALOHA's reader opens both splits by one folder."""
    return "demos" if shape.two_arms else f"demos/{plan.split}"


def text_key(text: str) -> str:
    """Under which ``t5_embeddings.safetensors`` holds the embedding of ``text``."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def _shape(group: GroupPlan, recipe: BuildRecipe) -> Shape:
    """That of the reader which takes these views. Raises RecipeError where none does."""
    slots = {recipe.names.slot(view) for view, _, _ in group.views}
    for shape in (LIBERO, ALOHA):
        if slots | {"actions", "proprio"} == set(shape.demo):
            return shape
    raise RecipeError(
        f"Cosmos Policy reads one standing view and one of a wrist, or of two, and the views are {', '.join(sorted(slots))}",
        "views",
        'set views.slots = ["primary", "wrist_left"], for a robot with two arms ["primary", "wrist_left", "wrist_right"]',
        "no_view",
    )


def _arrays(names: Mapping[str, str], group: GroupPlan, recipe: BuildRecipe) -> dict[str, Any]:
    """What the arrays of a file are called, those of pictures by view."""
    views = {view: names[recipe.names.slot(view)] for view, _, _ in group.views}
    return {"actions": names["actions"], "proprio": names["proprio"], "views": views}


def _read_whole(file: Any) -> tuple[int, int]:
    """How many steps and pictures a file holds, every one of them read."""
    names = next(one for one in (LIBERO.demo, LIBERO.rollout, ALOHA.demo) if one["actions"] in file)
    file["wamloom/valid"][:]
    len(file[names["proprio"]][:])
    pictures = [file[name] for slot, name in names.items() if slot not in ("actions", "proprio")]
    return len(file[names["actions"]][:]), sum(1 for one in pictures for row in range(len(one)) if one[row].size)


def _padded(path: Path) -> np.ndarray:
    """float32 [1, 512, 1024], zeros behind the prompt."""
    values = safetensors.numpy.load(path.read_bytes())["embedding"]
    return np.pad(values, ((0, TOKENS - len(values)), (0, 0)))[None].astype(np.float32)


def _statistics(group: GroupPlan, units: Sequence[tuple[UnitPlan, Mapping[str, Any]]]) -> dict[str, list[float]]:
    """What the trainer would compute of the demonstrations it trains on, and write there if it was missing; {} where it has
    none. It divides by what is between ``min`` and ``max``: of a number that never changes, they are one less and one more."""
    widths = {"actions": len(group.chunk.names), "proprio": len(group.proprio_names)}
    found: dict[str, list[float]] = {}
    for name, width in widths.items():
        data = b"".join(base64.b64decode(facts["numbers"].get(name, "")) for _, facts in units)
        values = np.frombuffer(data, dtype=np.float32).reshape(-1, max(1, width))
        for statistic in ("min", "max", "mean", "std", "median"):
            if len(values):
                found[f"{name}_{statistic}"] = getattr(np, statistic)(values.astype(np.float64), axis=0).tolist()
        still = [
            low == high for low, high in zip(found.get(f"{name}_min", ()), found.get(f"{name}_max", ()), strict=True)
        ]
        for statistic, step in (("min", -1), ("max", 1)) if still else ():
            changed = zip(found[f"{name}_{statistic}"], still, strict=True)
            found[f"{name}_{statistic}"] = [value + step * one for value, one in changed]
    return found


FORMAT = _CosmosPolicy()
