from fractions import Fraction
from pathlib import Path

import pytest

from pipelines import cards
from schemas.embodiment import ChannelKind
from schemas.errors import CardError

CARD = """
name = "mine"
version = 1
title = "Mine"
source = "lerobot"
embodiment = "my_arm"
license = "CC0-1.0"
[[proprio]]
field = "state"
stop = 2
[[action]]
field = "action"
stop = 2
[views]
"cam" = "primary"
"""
ARM = """
name = "my_arm"
title = "My arm"
control_rate = "7.5"
views = ["primary"]
[[proprio]]
names = ["x", "y"]
[[action]]
names = ["x", "y"]
"""


def write(folder: Path, card: str = CARD, arm: str | None = ARM, arm_folder: str = ".") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.toml").write_text(card)
    if arm is not None:
        (folder / arm_folder).mkdir(exist_ok=True)
        (folder / arm_folder / "my_arm.toml").write_text(arm)
    return str(folder / "mine.toml")


@pytest.mark.parametrize("name", cards.dataset_card_names())
def test_shipped_cards_fit_their_embodiments(name: str) -> None:
    card, embodiment = cards.load_pair(name)
    assert card.name == name
    assert embodiment.name == card.embodiment
    assert card.license
    rule = card.recognize
    assert rule.datasets or rule.robot_types or len(rule.fields) >= 3, "too little to recognize it by"


@pytest.mark.parametrize("name", cards.embodiment_names())
def test_shipped_embodiments_load(name: str) -> None:
    assert cards.load_embodiment(name).name == name


def test_what_is_known_of_bridge() -> None:
    card, embodiment = cards.load_pair("bridge")
    assert card.control_rate == embodiment.control_rate == Fraction(5)
    assert [channel.kind for channel in embodiment.proprio][3:] == [ChannelKind.EULER] * 3 + [ChannelKind.GRIPPER]
    assert embodiment.proprio_grippers[0].open == 1
    assert set(card.optional_views) == {"secondary", "tertiary", "quaternary"}


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(CardError) as caught:
        cards.load_dataset_card("brigde")
    assert "did you mean 'bridge'" in caught.value.hint
    with pytest.raises(CardError) as caught:
        cards.load_embodiment("no/such/file.toml")
    assert "no such card file" in str(caught.value)


@pytest.mark.parametrize(
    ("card", "message", "hint"),
    [
        (CARD.replace("license", "licence"), "unknown key 'licence'", "did you mean 'license'"),
        (CARD.replace("stop = 2", "stopp = 2", 1), "unknown key 'proprio.0.stopp'", "did you mean 'stop'"),
        (CARD.replace("version = 1", 'version = "x"'), "version", "found 'x'"),
        (CARD.replace("version = 1", "version = 1\ncontrol_rate = 0"), "out of range", "Hz"),
        (CARD.replace('"primary"', '"front"'), "views.cam", "found 'front'"),
        (CARD + '"cam2" = "primary"', "same view slot", ""),
        ("name = ", "not valid TOML", "docs/cards.md"),
        (CARD.replace("stop = 2", "stop = 3", 1), "proprio maps 3 columns", "start and stop"),
        (CARD.replace('"primary"', '"wrist_left"'), "view wrist_left", "its views are: primary"),
        (CARD.replace('"my_arm"', '"../my_arm"'), "not a name", "without a path"),
        (CARD.replace('"my_arm"', '"widowxx"'), "no card 'widowxx'", "did you mean 'widowx'"),
    ],
)
def test_wrong_cards_are_answered_clearly(tmp_path: Path, card: str, message: str, hint: str) -> None:
    with pytest.raises(CardError) as caught:
        cards.load_pair(write(tmp_path, card))
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("place", [".", "../embodiments"])
def test_an_embodiment_beside_the_card_wins(tmp_path: Path, place: str) -> None:
    card, embodiment = cards.load_pair(write(tmp_path / "datasets", arm_folder=place))
    assert (card.name, embodiment.title) == ("mine", "My arm")
    assert embodiment.control_rate == Fraction(15, 2)
    shipped = write(tmp_path / "other", CARD.replace("my_arm", "pusht"), None)
    assert cards.load_pair(shipped)[1] == cards.load_embodiment("pusht")


def test_binary_and_unreadable_cards(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CardError, match="not valid TOML"):
        cards.load_dataset_card(str(path))
    path.write_bytes(b"#" * (cards.MAX_CARD_BYTES + 1))
    with pytest.raises(CardError, match="is not a card"):
        cards.load_dataset_card(str(path))


def test_recognition() -> None:
    fields = ["action", "observation/state", "observation/image_0", "reward"]
    assert cards.recognize("rlds", "bridge_dataset", "", fields).name == "bridge"
    lerobot = ["action", "observation.state", "observation.images.ego_view"]
    assert cards.recognize("lerobot", "anything", "GR1ArmsOnly", lerobot).name == "gr1"
    with pytest.raises(CardError, match=r"no card recognizes.*'bridge_dataset'.*fields action") as caught:
        cards.recognize("rlds", "bridge_dataset", "", ["action"], where="here")
    assert "--card" in caught.value.hint
    assert caught.value.where == "here"
    with pytest.raises(CardError):
        cards.recognize("lerobot", "bridge_dataset", "", fields)  # another source
