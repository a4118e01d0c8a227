"""Prompts: the sentence a trainer makes of an instruction, as a named and versioned template, so that embeddings are of it.

The sentences stand as the trainers' own code writes them; ``source`` says where. How the instruction itself is written
(lower case, white space) is part of a template. An instruction without text gives the empty prompt in every template: none of
the trainers puts a sentence around nothing. What an encoder does to a prompt afterwards is the encoder's business.
"""

import difflib
import re
import string
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from schemas.embodiment import Embodiment
from schemas.errors import RecipeError
from schemas.text_recipe import Step

EPISODE_FIELDS = ("instruction", "robot", "robot_title", "dataset", "views")
"""What an episode gives: its instruction, name and title of its robot's card, its data set, its view slots with commas."""
HINT = "templates: {names}; or a sentence of your own with {{instruction}} in it"

_STEPS: dict[Step, Callable[[str], str]] = {
    "strip": str.strip,
    "spaces": lambda text: re.sub(r"\s+", " ", text),
    "lower": str.lower,
    "underscores": lambda text: text.replace("_", " "),
    "newlines": lambda text: text.replace("\n", " "),
    "period": lambda text: text if text.endswith(".") else f"{text}.",
}


@dataclass(frozen=True, slots=True)
class Template:
    """How an instruction becomes prompts. ``text`` names its fields in braces; a brace of its own is doubled."""

    name: str
    version: int
    trainer: str
    source: str
    """Repository and file that writes this sentence."""
    text: str = "{instruction}"
    steps: tuple[Step, ...] = ()
    """What is done to the instruction before, in this order."""
    split: str = ""
    """Regular expression; an instruction is several where it matches, each a prompt of its own. Empty: it is one."""

    @property
    def label(self) -> str:
        """Name and version, or the sentence itself of one that has no name: what a row of the lake is told."""
        return f"{self.name}@{self.version}" if self.name else self.text


def _four_views(first: str, second: str, third: str, fourth: str) -> str:
    return (
        f"A multi-view video shows that a robot {{instruction}} The video is split into four views: The top-left view shows "
        f"{first}, the top-right view shows {second}, the bottom-left view shows {third}, and the bottom-right view is {fourth}. "
        "The robot {instruction}"
    )


_DREAMZERO = "dreamzero0/dreamzero groot/vla/model/dreamzero/transform/dreamzero_cotrain.py collate"
_COSMOS3 = "NVIDIA/cosmos-framework cosmos_framework/data/generator"
_COSMOS3_DROID = (
    "{instruction} This video contains concatenated views from multiple camera perspectives. The top row is from the "
    "wrist-mounted camera. The bottom row contains two horizontally concatenated third-person perspective views of the scene "
    "from opposite sides, with the robot visible."
)
_COSMOS3_STEPS: tuple[Step, ...] = ("strip", "period")

TEMPLATES = {
    template.name: template
    for template in (
        Template("plain", 1, "LingBot-VA, Cosmos Policy, Predict2, Ctrl-World", "the instruction itself, unchanged"),
        Template(
            "fastwam",
            1,
            "FastWAM",
            "yuantianyuan01/FastWAM scripts/precompute_text_embeds_oxe.py; lerobot policies/fastwam prompt_template",
            "A video recorded from a robot's point of view executing the following instruction: {instruction}",
            ("strip",),
        ),
        Template(
            "dreamzero_droid",
            1,
            "DreamZero, wrist above two exterior views",
            f"{_DREAMZERO}, OXE_DROID",
            "A multi-view video shows that a robot {instruction} The video is split into three views: The top view shows the "
            "camera view from the robot's wrist, the bottom-left view shows the camera view from the left exterior camera, and "
            "the bottom-right view shows the camera view from the right exterior camera. During training, one of the two bottom "
            "exterior views may be a black screen (dropped view). The robot {instruction}",
            ("lower",),
        ),
        Template(
            "dreamzero_agibot",
            1,
            "DreamZero, head and two hands",
            f"{_DREAMZERO}, AGIBOT, G2 and XDOF",
            _four_views(
                "the camera view from the robot's head",
                "the camera view from the right hand",
                "the camera view from the left hand",
                "a black screen (inactive view)",
            ),
            ("lower",),
        ),
        Template(
            "dreamzero_yam",
            1,
            "DreamZero, top camera and two sides",
            f"{_DREAMZERO}, YAM",
            _four_views("the top camera", "the right camera", "the left camera", "a black screen"),
            ("lower",),
        ),
        Template(
            "dreamzero_human",
            1,
            "DreamZero, one view of a person",
            f"{_DREAMZERO}, GR1_UNIFIED and MECKA_HANDS",
            "A single view video shows that a human {instruction}",
            ("lower",),
        ),
        Template(
            "dreamgen_droid",
            1,
            "GR00T-Dreams (Cosmos-Predict2)",
            "nvidia-cosmos/cosmos-predict2 examples/video2world_gr00t.py",
            "The robot arm is performing a task. A multi-view video shows that a robot {instruction}. The video is split into "
            "four views: The top-left view shows the robotic arm from the left side, the top-right view shows it from the right "
            "side, the bottom-left view shows a first-person perspective from the robot's end-effector (gripper), and the "
            "bottom-right view is a black screen (inactive view). The robot {instruction}",
        ),
        Template(
            "motus_aloha",
            1,
            "Motus on RoboTwin",
            "thu-ml/Motus data/robotwin2/robotwin_data_convert/robotwin_converter.py meta_prefix",
            "The whole scene is in a realistic, industrial art style with three views: a fixed rear camera, a movable left arm "
            "camera, and a movable right arm camera. The aloha robot is currently performing the following task: {instruction}",
        ),
        Template(
            "gigaworld",
            1,
            "GigaWorld-Policy 0.5, task and subtask apart",
            "open-gigaai/giga-world-policy world_action_model/datasets/wam_lerobot_dataset.py _split_main_subtask",
            steps=("strip", "lower"),
            split=r"(?i)\bsubtask\s*:\s*",
        ),
        Template(
            "cosmos3_droid",
            1,
            "Cosmos 3 as text, wrist above two exterior views",
            f"{_COSMOS3}/action/utils/viewpoint_utils.py concat_view, action/datasets/droid_lerobot_dataset.py",
            _COSMOS3_DROID,
            _COSMOS3_STEPS,
            r" \| ",
        ),
        Template(
            "cosmos3_droid_idle",
            1,
            "Cosmos 3 as text, with length, size and idle count of a window",
            f"{_COSMOS3}: the same, then its duration, resolution and idle-frame augmentors",
            f"{_COSMOS3_DROID} The video is {{duration_s}} seconds long and is of {{fps}} FPS. This video is of "
            "{height}x{width} resolution. IdleFrames: {idle_frames} out of {num_actions}.",
            _COSMOS3_STEPS,
            r" \| ",
        ),
        Template(
            "cosmos3_wrist",
            1,
            "Cosmos 3 as text, wrist view alone",
            f"{_COSMOS3}/action/utils/viewpoint_utils.py wrist_view",
            "{instruction} This video is captured from a wrist-mounted camera.",
            _COSMOS3_STEPS,
            r" \| ",
        ),
        Template(
            "cosmos3_third_person",
            1,
            "Cosmos 3 as text, one exterior view",
            f"{_COSMOS3}/action/utils/viewpoint_utils.py third_person_view",
            "{instruction} This video is captured from a third-person perspective looking towards the agent from the front.",
            _COSMOS3_STEPS,
            r" \| ",
        ),
        Template(
            "openpi",
            1,
            "openpi (pi0), which tokenizes online",
            "Physical-Intelligence/openpi src/openpi/models/tokenizer.py",
            steps=("strip", "underscores", "newlines"),
        ),
    )
}


def template_of(name: str, steps: tuple[Step, ...] | None = None) -> Template:
    """The template called ``name``, or the sentence ``name`` itself if it has a field; ``steps`` replace its own.

    A sentence of one's own takes the instruction without the white space around it, unless ``steps`` say otherwise. Raises
    RecipeError for an unknown name and for a sentence that is not well-formed.
    """
    if name in TEMPLATES:
        found = TEMPLATES[name]
        # with other steps it is another sentence than the trainer's
        return found if steps is None else replace(found, name="", steps=steps)
    if "{" not in name and "}" not in name:
        near = difflib.get_close_matches(name, TEMPLATES, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise RecipeError(f"there is no template {name!r}", "template", guess + HINT.format(names=", ".join(TEMPLATES)))
    parsed(name)
    return Template("", 1, "", "the recipe", name, ("strip",) if steps is None else steps)


def parsed(text: str) -> list[tuple[str, str | None]]:
    """``text`` as (words, field behind them or None). Raises RecipeError for what is more than a name in braces."""
    hint = f"fields are bare names in braces, such as {{{EPISODE_FIELDS[0]}}}; write {{{{ and }}}} for a brace itself"
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise RecipeError(f"{text[:200]!r} is no template: {error}", "template", hint) from error
    for _, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            told = name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            raise RecipeError(f"{{{told}}} is no field of a template", "template", hint)
    return [(words, name) for words, name, _, _ in parts]


def fields_of(robot: Embodiment, dataset: str, views: Collection[str]) -> dict[str, object]:
    """What a template may name of an episode, its instruction still empty."""
    return dict(zip(EPISODE_FIELDS, ("", robot.name, robot.title, dataset, ", ".join(sorted(views))), strict=True))


def prompts_of(template: Template, fields: Mapping[str, object]) -> tuple[str, ...]:
    """The prompts of one instruction, in order; ("",) where ``fields["instruction"]`` has no text.

    ``fields`` is what an episode gives (``EPISODE_FIELDS``) and what the recipe adds. Raises RecipeError for a field that is
    not among them; values are put in as they are, and braces in them mean nothing.
    """
    parts = parsed(template.text)
    unknown = [name for _, name in parts if name is not None and name not in fields]
    if unknown:
        raise RecipeError(
            f"the template {template.name or template.text[:80]!r} has a field {unknown[0]!r}, which nothing gives",
            "template",
            f"known: {', '.join(fields)}; `fields` of the recipe gives others, such as fields.{unknown[0]} = 0",
        )
    whole = str(fields["instruction"])
    prompts = []
    for piece in re.split(template.split, whole) if template.split else [whole]:
        instruction = piece
        for step in template.steps:
            instruction = _STEPS[step](instruction)
        if piece.strip():
            given = {**fields, "instruction": instruction}
            prompts.append("".join(words + ("" if name is None else str(given[name])) for words, name in parts))
    return tuple(dict.fromkeys(prompts)) or ("",)
