"""For every card that is shipped, a recording made from it in the layout of its source is read, known, and mapped back."""

from fractions import Fraction
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from pipelines import cards, registry
from pipelines.channels import to_episode
from pipelines.ingest_unit import recognize
from pipelines.sources import Source
from schemas.errors import CardError
from schemas.recipes import Limits
from tests.card_recordings import INSTRUCTION, NUM_STEPS, record
from tests.fake_video import FakeVideo
from validation.check import Subject
from validation.checks.values import check_episode

CARDS = {name: cards.load_dataset_card(name) for name in cards.dataset_card_names()}
NOBODY_STATES_THE_RATE = {"gnm_dataset", "mujoco_manip", "stanford_mask_vit_converted_externally_to_rlds"}
NO_LANGUAGE = {"droid_raw"} | {
    name
    for name, card in CARDS.items()
    if card.source in ("clips", "hdf5", "lerobot_v1", "zarr") and not card.language.fields
}
"""What was done in a raw DROID recording is told by annotations beside it."""
OF_THE_CARD = {"out_of_limits", "looks_like_degrees", "quaternion_not_unit", "gripper_off_scale"}


@pytest.mark.parametrize("name", CARDS)
def test_a_recording_made_from_a_card_is_read_by_it(name: str, tmp_path: Path) -> None:
    card, robot = cards.load_pair(name)
    made = record(card, robot, tmp_path)
    source = cast(Source, registry.load("sources", card.source).SOURCE)
    assert source.datasets(str(tmp_path)) == [str(made.place)]
    (ref,) = source.refs(str(made.place))
    raw = source.read(ref, FakeVideo(NUM_STEPS), Limits())
    assert recognize(raw)[0].name == name
    if name in NOBODY_STATES_THE_RATE:
        with pytest.raises(CardError, match="nobody states the control rate") as caught:
            to_episode(raw, card, robot)
        assert caught.value.reason == "no_rate"
        card = card.model_copy(update={"control_rate": Fraction(10)})
    episode = to_episode(raw, card, robot)
    for label, maps, values, written in (
        ("proprio", card.proprio, episode.proprio.values, made.proprio),
        ("action", card.action, episode.action.values, made.action),
    ):
        assert values.shape == written.shape, label
        scaled = any(one.scale != 1 or one.offset != 0 for one in maps)
        np.testing.assert_allclose(values, written, rtol=1e-6 if scaled else 0, atol=1e-7 if scaled else 0)
    assert dict.fromkeys(card.views.values()).keys() == episode.views.keys()
    assert dict.fromkeys(card.depth.values()).keys() == episode.depth.keys()
    assert all(view.num_frames == NUM_STEPS for view in (*episode.views.values(), *episode.depth.values()))
    spoken = () if name in NO_LANGUAGE else card.language.fields or ("task",)
    assert [(one.field, one.text) for one in episode.instructions] == [(field, INSTRUCTION) for field in spoken]
    assert episode.success is (None if card.success_field is None else True)
    assert not {one.rule for one in check_episode(Subject(episode, {}))} & OF_THE_CARD
    assert not {"camera_not_in_card", "language_not_in_card", "missing_depth"} & {one.rule for one in episode.findings}
