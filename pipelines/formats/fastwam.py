"""FastWAM: beside LeRobot v2.1, its cache of text embeddings and its ``dataset_stats.json``.

``text_embeds_cache/<sha256 of the prompt>.t5_len<L>.wan22ti2v5b.pt`` holds ``context`` bfloat16 [L, D], zeros behind the
prompt, and ``mask`` bool [L], as ``scripts/precompute_text_embeds_oxe.py`` of yuantianyuan01/FastWAM writes them;
``src/fastwam/datasets/lerobot/robot_video_dataset.py``, as copies of that code by others have it, looks for the file by the
sentence it makes of a step's task, and where one is missing takes another sample instead, so every task must have one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.formats import UnitWriter
from pipelines.lake import quoted
from pipelines.prompts import TEMPLATES, prompts_of, template_of
from pipelines.read_back import read_index
from pipelines.release_plan import BuiltEpisode, GroupPlan, UnitPlan, UnitProgress
from pipelines.release_texts import check_texts, embedding_of, padded, told
from pipelines.stats_export import fastwam_dataset_stats
from pipelines.storage import json_bytes, write_durably
from pipelines.text_rows import prompt_sha256
from pipelines.torch_files import flags, read_torch, tensor, write_torch
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe

CACHE = "text_embeds_cache"
"""To be named as ``text_embedding_cache_dir``."""
ENCODER = "wan22ti2v5b"
"""What FastWAM calls the text encoder, whichever it is: the name is fixed in its loader."""
STATS = "dataset_stats.json"
"""To be named as ``pretrained_norm_stats``."""
TEXTS = "meta/fastwam_texts.json"
WITH_INSTRUCTION = "array_length(instructions) > 0"
"""Picks the episodes of a lake that have one."""


class _FastWamUnit:
    """Writes one unit; see ``UnitWriter``."""

    def __init__(self, unit: UnitPlan, folder: Path) -> None:
        self._folder = folder
        self._progress = UnitProgress(unit, with_frames=False)
        self._written: dict[str, dict[str, Any]] = {}

    def begin(self, episode: BuiltEpisode) -> None:
        self._progress.begin(episode)

    def end(self) -> None:
        episode = self._progress.episode
        self._progress.end()
        texts = (*(text for _, _, text in episode.plan.texts), *episode.plan.other_instructions)
        for text in dict.fromkeys(texts):
            embedding = embedding_of(episode, text)
            asked = _asked(text)
            if embedding.prompt != asked:
                raise ReleaseError(
                    f"the embedding of {text[:80]!r} is of the prompt {embedding.prompt[:120]!r}, and FastWAM asks for "
                    f"{asked[:120]!r}",
                    f"episode {episode.plan.episode_id[:12]}",
                    _HINT,
                    "other_prompt",
                )
            name = f"{prompt_sha256(asked)}.t5_len{embedding.length}.{ENCODER}.pt"
            if name in self._written:
                continue
            values, mask = padded(embedding)
            content = {"context": tensor(values, "bfloat16"), "mask": flags(mask)}
            write_torch(self._folder / CACHE / name, content)
            self._written[name] = {"file": f"{CACHE}/{name}", "task": text, "prompt": asked, **told(embedding)}

    def close(self) -> dict[str, Any]:
        self._progress.close()
        return {"texts": list(self._written.values())}


class _FastWam:
    name = "fastwam"
    beside = "lerobot_v21"
    windowed = False
    takes_latents = False

    def open_unit(self, unit: UnitPlan, recipe: BuildRecipe, folder: Path) -> UnitWriter:
        check_texts(recipe, self.name)
        _check_tasks(unit.group)
        _check_action(unit.group)
        _check_prompts(unit.group, recipe)
        _check_numbers(recipe)
        return _FastWamUnit(unit, folder)

    def finish(
        self,
        group: GroupPlan,
        recipe: BuildRecipe,  # noqa: ARG002 - of the protocol
        units: Sequence[tuple[UnitPlan, Mapping[str, Any]]],
        folder: Path,
    ) -> Mapping[str, int]:
        texts = {row["file"]: row for _, facts in units for row in facts["texts"]}
        missing = set(group.tasks) - {row["task"] for row in texts.values()}
        if missing:
            raise ReleaseError(
                f"{len(missing)} tasks have no embedding, such as {min(missing)[:120]!r}",
                group.name,
                "leave out what joins several instructions into one task, or build again",
                "off_plan",
            )
        write_durably(
            folder / TEXTS, json_bytes({"format": self.name, "texts": [texts[name] for name in sorted(texts)]})
        )
        state = {"default": group.normalizing("proprio")} if group.proprio_names else {}
        action = {} if group.recorded is None else {"default": group.recorded}
        stats = fastwam_dataset_stats(state, action, group.num_episodes, group.num_steps)
        write_durably(folder / STATS, json_bytes(stats))
        return {"samples": len(texts), "frames": 0, "episodes": group.num_episodes}

    def count(self, folder: Path) -> Mapping[str, int]:
        stats = read_index(folder / STATS)
        lengths = {row["file"]: (row["length"], row["width"]) for row in read_index(folder / TEXTS)["texts"]}
        found = 0
        for path in sorted((folder / CACHE).glob("*.pt")):
            content = read_torch(path)
            length, width = lengths.get(path.relative_to(folder).as_posix(), (0, 0))
            if (tuple(content["context"].shape), tuple(content["mask"].shape)) != ((length, width), (length,)):
                raise ReleaseError(
                    "it is not the embedding that the index tells of", str(path), "build it again", "unreadable"
                )
            found += 1
        return {"samples": found, "frames": 0, "episodes": stats["num_episodes"]}


_HINT = (
    'make the embeddings with `wamloom texts --template fastwam --set steps=[]`, and set template = "fastwam" and '
    "steps = [] under [texts], or under [texts.formats.fastwam] where other formats carry other texts"
)
"""Without steps, since the loader puts the task into its sentence as it stands."""


def _asked(task: str) -> str:
    """The prompt that the loader makes of a task."""
    return TEMPLATES["fastwam"].text.replace("{instruction}", task)


def _check_tasks(group: GroupPlan) -> None:
    blank = [task for task in group.tasks if not task.strip()]
    if blank:
        raise RecipeError(
            "some of its steps have no instruction: FastWAM asks for the embedding of a sentence around nothing, finds none "
            "and takes another sample instead",
            group.name,
            f'leave these episodes out: --where "{WITH_INSTRUCTION}"',
            "no_text",
        )
    halved = [task for task in group.tasks if "@" in task]
    if halved:
        raise RecipeError(
            f"FastWAM takes what stands behind an @ for the English half of a task, and asks for another sentence than of "
            f"{halved[0][:80]!r}",
            group.name,
            "leave these episodes out, such as by --where \"instructions[1]['text'] NOT LIKE '%@%'\"",
            "other_prompt",
        )


def _check_action(group: GroupPlan) -> None:
    if not group.action_names:
        raise RecipeError(
            "FastWAM reads an action of every step, and the robot has none",
            group.name,
            f'leave these episodes out: --where "embodiment != {quoted(group.robot)}"',
            "no_action",
        )


def _check_prompts(group: GroupPlan, recipe: BuildRecipe) -> None:
    """What embeddings of a build with these choices would be of, as far as the recipe tells it."""
    if recipe.names.joined_by:
        raise RecipeError(
            "FastWAM asks for the embedding of each task, and there is none of several instructions joined into one",
            "names.joined_by",
            "leave it out",
        )
    if recipe.texts is None:
        return
    kind = recipe.texts.formats.get("fastwam", recipe.texts)
    template = template_of(kind.template, kind.steps)
    if template.text != TEMPLATES["fastwam"].text:
        raise RecipeError(
            "the embeddings would be of other prompts than FastWAM asks for", "texts", _HINT, "other_prompt"
        )
    for task in group.tasks:
        if prompts_of(template, {"instruction": task}) != (_asked(task),):
            message = f"the template makes another prompt of {task[:80]!r} than FastWAM does"
            raise RecipeError(message, "texts", _HINT, "other_prompt")


def _check_numbers(recipe: BuildRecipe) -> None:
    """FastWAM normalizes the columns of the set itself, which are as recorded whatever ``[actions]`` makes of chunks."""
    if recipe.normalize != "none":
        raise RecipeError(
            "FastWAM normalizes by dataset_stats.json, and the recipe would have done so before",
            "normalize",
            'set normalize = "none"',
        )


FORMAT = _FastWam()
