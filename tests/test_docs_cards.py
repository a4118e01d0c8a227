"""The example cards of docs/cards.md are cards, and name every key there is."""

import re
from pathlib import Path

from pipelines.cards import load_pair
from schemas.dataset_card import ChannelMap, DatasetCard
from schemas.embodiment import Embodiment

PAGE = Path(__file__).parent.parent / "docs" / "cards.md"


def test_the_examples_load_as_a_pair_and_name_every_key(tmp_path: Path) -> None:
    card_text, robot_text = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.S)
    (tmp_path / "my_set.toml").write_text(card_text.replace("stop = 7\n", ""))
    (tmp_path / "my_robot.toml").write_text(robot_text)
    card, robot = load_pair(str(tmp_path / "my_set.toml"))
    assert (card.name, robot.name) == ("my_set", "my_robot")
    page = PAGE.read_text()
    missing = {
        name for model in (DatasetCard, ChannelMap, Embodiment) for name in model.model_fields if name not in page
    }
    assert missing <= {"institution", "notes", "action_grippers"}
