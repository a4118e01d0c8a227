"""Every recipe that is shipped for a trainer says only what recipes can say, and names formats that there are."""

from pathlib import Path

import pytest

from pipelines import registry
from schemas.recipes import BuildRecipe, load_recipe

FOLDER = Path(__file__).resolve().parents[1] / "jobs" / "recipes"
TRAINERS = ["cosmos_policy", "cosmos_policy_aloha", "cosmos_video", "octo", "openpi", "umi", "uwm", "vjepa2_ac"]


@pytest.mark.parametrize("name", TRAINERS)
def test_it_is_a_build_recipe(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text()
    recipe = load_recipe(BuildRecipe, text, name)
    assert set(recipe.formats) <= set(registry.names("formats"))
    assert text.startswith("# ")
