"""Templates give the sentences that trainers write, to the letter; a recipe's own sentence is taken or refused with a reason."""

import pytest

from pipelines.prompts import EPISODE_FIELDS, TEMPLATES, prompts_of, template_of
from schemas.errors import RecipeError
from schemas.text_recipe import Step

GOLDEN = {
    "plain": ("Pick up\n the_Cup ", ("Pick up\n the_Cup ",)),
    "fastwam": (
        "pick up the cup ",
        ("A video recorded from a robot's point of view executing the following instruction: pick up the cup",),
    ),
    "dreamzero_droid": (
        "Pick up the cup.",
        (
            "A multi-view video shows that a robot pick up the cup. The video is split into three views: The top view shows the "
            "camera view from the robot's wrist, the bottom-left view shows the camera view from the left exterior camera, and "
            "the bottom-right view shows the camera view from the right exterior camera. During training, one of the two bottom "
            "exterior views may be a black screen (dropped view). The robot pick up the cup.",
        ),
    ),
    "dreamzero_agibot": (
        "Wave",
        (
            "A multi-view video shows that a robot wave The video is split into four views: The top-left view shows the camera "
            "view from the robot's head, the top-right view shows the camera view from the right hand, the bottom-left view "
            "shows the camera view from the left hand, and the bottom-right view is a black screen (inactive view). The "
            "robot wave",
        ),
    ),
    "dreamzero_yam": (
        "Wave",
        (
            "A multi-view video shows that a robot wave The video is split into four views: The top-left view shows the top "
            "camera, the top-right view shows the right camera, the bottom-left view shows the left camera, and the bottom-right "
            "view is a black screen. The robot wave",
        ),
    ),
    "dreamzero_human": ("Wave", ("A single view video shows that a human wave",)),
    "dreamgen_droid": (
        "wave",
        (
            "The robot arm is performing a task. A multi-view video shows that a robot wave. The video is split into four views: "
            "The top-left view shows the robotic arm from the left side, the top-right view shows it from the right side, the "
            "bottom-left view shows a first-person perspective from the robot's end-effector (gripper), and the bottom-right "
            "view is a black screen (inactive view). The robot wave",
        ),
    ),
    "motus_aloha": (
        "stack the bowls",
        (
            "The whole scene is in a realistic, industrial art style with three views: a fixed rear camera, a movable left arm "
            "camera, and a movable right arm camera. The aloha robot is currently performing the following task: stack the bowls",
        ),
    ),
    "gigaworld": ("Clear the table. Subtask: Lift the Plate", ("clear the table.", "lift the plate")),
    "cosmos3_droid": (
        "pick up the cup | Lift the cup.",
        (
            "pick up the cup. This video contains concatenated views from multiple camera perspectives. The top row is from the "
            "wrist-mounted camera. The bottom row contains two horizontally concatenated third-person perspective views of the "
            "scene from opposite sides, with the robot visible.",
            "Lift the cup. This video contains concatenated views from multiple camera perspectives. The top row is from the "
            "wrist-mounted camera. The bottom row contains two horizontally concatenated third-person perspective views of the "
            "scene from opposite sides, with the robot visible.",
        ),
    ),
    "cosmos3_droid_idle": (
        "wave",
        (
            "wave. This video contains concatenated views from multiple camera perspectives. The top row is from the "
            "wrist-mounted camera. The bottom row contains two horizontally concatenated third-person perspective views of the "
            "scene from opposite sides, with the robot visible. The video is 2.0 seconds long and is of 15 FPS. This video is of "
            "544x736 resolution. IdleFrames: 0 out of 32.",
        ),
    ),
    "cosmos3_wrist": ("wave", ("wave. This video is captured from a wrist-mounted camera.",)),
    "cosmos3_third_person": (
        "wave",
        ("wave. This video is captured from a third-person perspective looking towards the agent from the front.",),
    ),
    "openpi": (" Pick_up the\ncup ", ("Pick up the cup",)),
}
IDLE = {"duration_s": "2.0", "fps": 15, "height": 544, "width": 736, "idle_frames": 0, "num_actions": 32}


def test_every_template_has_a_golden_sentence() -> None:
    assert set(GOLDEN) == set(TEMPLATES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_writes_what_its_trainer_writes(name: str) -> None:
    instruction, expected = GOLDEN[name]
    template = template_of(name)
    assert prompts_of(template, {"instruction": instruction, **IDLE}) == expected
    assert prompts_of(template, {"instruction": " \n", **IDLE}) == ("",)
    assert template.label == f"{name}@1"
    assert template.source
    assert template.trainer


@pytest.mark.parametrize(
    ("text", "steps", "prompt"),
    [
        ("{robot} of {dataset} sees {views}: {instruction}", None, "arm of set sees primary, wrist_left: Lift {it}"),
        ("{{{instruction}}} in braces", None, "{Lift {it}} in braces"),
        ("{instruction}", (), " Lift  {it}\n"),
        ("{instruction}!", ("strip", "spaces", "lower", "period"), "lift {it}.!"),
    ],
)
def test_a_sentence_of_ones_own(text: str, steps: tuple[Step, ...] | None, prompt: str) -> None:
    fields = {"instruction": " Lift  {it}\n", "robot": "arm", "dataset": "set", "views": "primary, wrist_left"}
    found = prompts_of(template_of(text, steps), fields)
    assert found == (prompt if steps is not None else prompt.replace("Lift {it}", "Lift  {it}"),)
    assert template_of(text, steps).label == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fastwamm", "no template 'fastwamm'"),
        ("{instruction", "is no template"),
        ("instruction}", "is no template"),
        ("{}", r"\{\} is no field"),
        ("{0}", r"\{0\} is no field"),
        ("{instruction.__class__}", r"\{instruction.__class__\} is no field"),
        ("{instruction[0]}", "is no field"),
        ("{instruction!r}", "is no field"),
        ("{instruction:>99999999}", "is no field"),
    ],
)
def test_what_is_no_template_is_refused(text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        template_of(text)
    assert "{instruction}" in caught.value.hint
    assert ("did you mean 'fastwam'?" in caught.value.hint) == (text == "fastwamm")


def test_an_unknown_field_names_the_known_ones() -> None:
    fields = dict.fromkeys(EPISODE_FIELDS, "x")
    with pytest.raises(
        RecipeError, match=r"(?s)field 'instuction'.*known: instruction, robot, robot_title, dataset, views"
    ):
        prompts_of(template_of("{instuction}"), fields)
    with pytest.raises(RecipeError, match=r"(?s)field 'duration_s'.*fields.duration_s = 0"):
        prompts_of(template_of("cosmos3_droid_idle"), fields)


def test_other_steps_make_another_template() -> None:
    assert template_of("fastwam", ("lower",)).label == TEMPLATES["fastwam"].text
    assert prompts_of(template_of("plain", ("lower",)), {"instruction": "UP"}) == ("up",)
