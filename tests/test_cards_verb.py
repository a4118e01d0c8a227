"""``wamloom cards``: listing, showing, holding a card against data, drafting one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jobs.cli import main
from pipelines import cards
from pipelines.sample import write_sample
from schemas.embodiment import ChannelKind
from tests.real import real_data
from validation.columns import guess_columns, relation

_CARDS = Path(__file__).parents[1] / "schemas" / "cards"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write_sample(folder, "rlds", 2)
    return folder / "rlds"


def _json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def _own_card(folder: Path, robot: str, *changes: tuple[str, str, str]) -> Path:
    """A copy of the sample cards of ``robot`` with texts replaced: (which file, old, new)."""
    card, body = folder / "card.toml", folder / f"{robot}.toml"
    shutil.copy(_CARDS / "datasets" / f"{robot}_rlds.toml", card)
    shutil.copy(_CARDS / "embodiments" / f"{robot}.toml", body)
    for which, old, new in changes:
        path = {"card": card, "robot": body}[which]
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    return card


def test_list_and_show_tell_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _json(capsys, "cards", "list")
    assert code == 0
    assert {row["name"] for row in said["cards"]} == set(cards.dataset_card_names())
    bridge = next(row for row in said["cards"] if row["name"] == "bridge")
    assert "licence" in bridge["unknown"]
    assert bridge["views"] == ["primary", "secondary", "tertiary", "quaternary"]
    assert main(["cards", "show", "bridge"]) == 0
    text = capsys.readouterr().out
    assert 'name = "bridge"' in text
    assert 'name = "widowx"' in text
    assert main(["cards", "show", "brigde"]) == 2
    assert "did you mean 'bridge'?" in capsys.readouterr().err


def test_a_card_that_is_right_agrees(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = _json(capsys, "cards", "check", "sample_arm_rlds", recordings / "sample_arm")
    assert (code, said["agrees"], said["read"], said["recognized"]) == (0, True, 2, "sample_arm_rlds")


_ACTION_GRIPPER = '[[action_grippers]]\nchannel = "gripper"\nopen = 0.0\nclosed = 1.0'
_STATE = 'field = "observation/state"'


@pytest.mark.parametrize(
    ("which", "old", "new", "rule"),
    [
        (
            "robot",
            _ACTION_GRIPPER,
            _ACTION_GRIPPER.replace("0.0", "2").replace("1.0", "0").replace("2", "1"),
            "inverted",
        ),
        ("robot", _ACTION_GRIPPER, _ACTION_GRIPPER.replace("1.0", "0.5"), "gripper_off_scale"),
        ("robot", "low = -3.05\nhigh = 3.05", "low = -0.1\nhigh = 0.1", "out_of_limits"),
        ("robot", 'unit = "rad"', 'unit = "deg"', "looks_like_radians"),
        ("card", _STATE, _STATE + "\nscale = 57.29578", "looks_like_degrees"),
        ("robot", 'unit = "rad"', 'unit = "m"', None),
        ("card", "language_instruction", "language_instruction_2", "no_instruction"),
        ("card", _STATE, 'field = "observation/stat"', "card"),
        ("card", '"observation/primary_image" = "primary"', '"observation/front" = "primary"', "missing_view"),
    ],
)
def test_a_card_that_is_wrong_is_told(
    which: str,
    old: str,
    new: str,
    rule: str | None,
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card = _own_card(tmp_path, "sample_arm", (which, old, new))
    code, said = _json(capsys, "cards", "check", card, recordings / "sample_arm")
    if rule is None:
        assert (code, said["agrees"]) == (0, True), "joint angles pass for metres; the check says no more than it knows"
        return
    assert (code, said["agrees"]) == (5, False)
    assert any(rule in one["what"] for one in said["disagreements"]), said["disagreements"]


def test_a_card_of_another_source_or_an_empty_place_is_an_error(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cards", "check", "gr1", str(recordings / "sample_arm")]) == 2
    assert "the card is for lerobot sets; here is rlds" in capsys.readouterr().err
    assert main(["cards", "check", "bridge", str(tmp_path)]) == 3
    assert main(["cards", "new", str(tmp_path / "nowhere")]) == 3


@pytest.mark.parametrize("layout", ["rlds", "lerobot_v21"])
def test_a_draft_becomes_a_card_when_its_questions_are_answered(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sample(tmp_path / "recordings", layout, 2)
    place = tmp_path / "recordings" / layout / "sample_arm"
    out = tmp_path / "cards"
    code, said = _json(capsys, "cards", "new", place, "--out", out, "--name", "mine")
    assert code == 0
    card, robot = map(Path, said["files"])
    assert said["questions"]
    if layout == "rlds":  # nothing in the data says how fast the robot ran, and the draft does not make it up
        assert main(["cards", "check", str(card), str(place)]) == 2
        assert "control_rate" in capsys.readouterr().err
        robot.write_text(robot.read_text().replace("# control_rate = ?", "control_rate = 15"))
    code, said = _json(capsys, "cards", "check", card, place)
    assert (code, said["agrees"]) == (0, True), said
    assert main(["cards", "new", str(place), "--out", str(out), "--name", "mine"]) == 2
    assert "there is a card already" in capsys.readouterr().err
    drafted, shipped = cards.load_pair(str(card)), cards.load_pair(f"sample_arm_{layout.removesuffix('_v21')}")
    assert drafted[0].views == shipped[0].views
    assert drafted[0].language.fields == (shipped[0].language.fields or ("task",))
    for label in ("action", "proprio"):
        assert [one.field for one in getattr(drafted[0], label)] == [one.field for one in getattr(shipped[0], label)]
        assert len(getattr(drafted[1], label)) == len(getattr(shipped[1], label))
    if layout == "lerobot_v21":
        assert [channel.name for channel in drafted[1].action] == [channel.name for channel in shipped[1].action]
        assert drafted[1].action[-1].kind is ChannelKind.GRIPPER


def test_a_dry_run_writes_no_card(recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cards", "new", str(recordings / "sample_gantry"), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.real
def test_shipped_cards_agree_with_real_recordings(capsys: pytest.CaptureFixture[str]) -> None:
    for card, folder in (("bridge", "octo_bridge_rlds"), ("gr1", "gr00t_gr1_sim_lerobot_v2")):
        code, said = _json(capsys, "cards", "check", card, real_data(folder), "--episodes", 5)
        assert (code, said["disagreements"] if code else []) == (0, [])
    _, said = _json(capsys, "cards", "check", "unitree_g1_inspire", real_data("g1_lerobot_v21_subset"), "--episodes", 4)
    assert said["unreadable"], "92 of its 100 videos are missing, and the check says so"
    assert said["read"] >= 3


@pytest.mark.real
def test_a_draft_of_real_recordings_sees_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = _json(capsys, "cards", "new", real_data("octo_bridge_rlds"))
    assert '"observation/image_0" = "primary"' in said["card"]
    assert 'field = "observation/state"\nstop = 7' in said["card"]
    assert "language_embedding [512]" in said["card"]
    assert any("open" in question and "action_6" in question for question in said["questions"])
    _, said = _json(capsys, "cards", "new", real_data("g1_lerobot_v21_subset"))
    assert 'name = "kleftshoulderpitch"' in said["embodiment"]
    assert any("absolute targets" in question for question in said["questions"])


def test_columns_are_told_by_what_they_do() -> None:
    draws = np.random.default_rng(0)
    steps = 200
    quaternion = draws.normal(size=(steps, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    angle = np.mod(np.linspace(0, 9, steps) + np.pi, 2 * np.pi) - np.pi
    gripper = np.where(np.sin(np.linspace(0, 9, steps)) > 0, 0.98, 0.01)
    place = draws.normal(size=(steps, 3)).cumsum(axis=0) * 0.01
    values = np.column_stack([place, quaternion, angle, gripper, np.full(steps, 3.0)])
    guesses = guess_columns([values], ())
    kinds = [guess.kind for guess in guesses]
    assert kinds[3:7] == [ChannelKind.QUATERNION] * 4
    assert kinds[7] is ChannelKind.ANGLE
    assert kinds[8] is ChannelKind.GRIPPER
    assert kinds[:3] == [ChannelKind.UNKNOWN] * 3
    assert guesses[9].is_constant
    assert all(guess.evidence for guess in guesses[3:])
    nothing = guess_columns([np.full((3, 2), np.nan)], ())
    assert [guess.kind for guess in nothing] == [ChannelKind.UNKNOWN] * 2


def test_an_action_is_told_to_be_a_target_or_a_change() -> None:
    state = np.random.default_rng(1).normal(size=(100, 3)).cumsum(axis=0)
    ahead = np.concatenate([state[1:], state[-1:]])
    assert "absolute targets" in relation([ahead], [state])
    assert "displacements" in relation([ahead - state], [state])
    assert relation([np.random.default_rng(2).normal(size=(100, 3))], [state]) == ""
