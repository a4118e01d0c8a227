"""The registries of Open-X-Embodiment sets are covered by cards, and what others publish of these sets fits them."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from pipelines import cards, registry
from pipelines.channels import to_episode
from pipelines.sources import Source
from pipelines.video import VideoTools
from schemas.dataset_card import DatasetCard
from schemas.embodiment import Channel, ChannelKind, Embodiment
from schemas.episode import Episode
from schemas.recipes import Limits
from tests.card_recordings import STORED
from tests.real import real_data

CARDS = {name: cards.load_dataset_card(name) for name in cards.dataset_card_names()}


@pytest.mark.parametrize("name", sorted(name for name, card in CARDS.items() if card.source == "rlds"))
def test_every_name_of_a_card_is_recognized_as_it(name: str) -> None:
    card = CARDS[name]
    for dataset in card.recognize.datasets:
        assert cards.recognize("rlds", dataset, "", card.recognize.fields).name == name
    assert set(STORED.get(name, {})) <= {
        *(one.field for one in (*card.proprio, *card.action)),
        *card.language.fields,
        card.success_field,
    }


def test_what_is_known_of_some_sets() -> None:
    """Facts that a reader would look up first, written here a second time by hand."""
    fractal, google = cards.load_pair("fractal20220817_data")
    assert (fractal.control_rate, google.action_grippers[0].closed, google.action_grippers[0].open) == (3, 1, -1)
    droid, franka = cards.load_pair("droid")
    assert (droid.control_rate, franka.action_grippers[0].closed, len(franka.action)) == (15, 1, 14)
    assert set(CARDS["fmb"].pictures.values()) == {CARDS["fmb"].pictures["observation/image_side_1"]}
    assert CARDS["fmb"].pictures["observation/image_side_1"].channels == "bgr"
    assert cards.load_pair("libero_no_noops")[1].action_grippers[0].open == -1
    assert CARDS["dobbe"].control_rate == Fraction(15, 4)
    blanked_by_octo = {name for name, card in CARDS.items() if card.language.uninformative}
    assert blanked_by_octo == {
        "austin_buds_dataset_converted_externally_to_rlds",
        "austin_sailor_dataset_converted_externally_to_rlds",
        "austin_sirius_dataset_converted_externally_to_rlds",
        "berkeley_cable_routing",
        "kuka",
        "nyu_door_opening_surprising_effectiveness",
        "nyu_franka_play_dataset_converted_externally_to_rlds",
        "roboturk",
        "stanford_hydra_dataset_converted_externally_to_rlds",
        "toto",
        "utaustin_mutex",
        "viola",
    }


# ---------------------------------------------------------------- against the registries and published numbers


def published(name: str) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((real_data("oxe_stats") / name).read_text()))


def registries() -> dict[str, list[dict[str, Any]]]:
    """What Octo and OpenVLA say of each set."""
    folder = real_data("oxe_registry")
    found: dict[str, list[dict[str, Any]]] = {}
    for path in ("octo_oxe_dataset_configs.json", "openvla_oxe_dataset_configs.json"):
        for name, config in json.loads((folder / path).read_text()).items():
            found.setdefault(name, []).append(config)
    return found


def card_of(dataset: str) -> tuple[DatasetCard, Embodiment]:
    (name,) = [name for name, card in CARDS.items() if card.source == "rlds" and dataset in card.recognize.datasets]
    return cards.load_pair(name)


@pytest.mark.real
def test_every_set_of_both_registries_has_a_card_with_its_cameras() -> None:
    names = registries()
    assert len(names) == 75
    for dataset, configs in names.items():
        card, _ = card_of(dataset)
        cameras = {camera.removeprefix("observation/") for camera in card.views}
        for config in configs:
            assert {camera for camera in config["image_obs_keys"].values() if camera} <= cameras, dataset


ACTION_OF_ANOTHER_WIDTH = {
    "fractal20220817_data": 10,  # the base moves too; OpenVLA leaves it out
    "jaco_play": 4,  # only the position is commanded; OpenVLA adds zeros for the rotation
    "berkeley_cable_routing": 6,  # no gripper; OpenVLA adds a zero
    "berkeley_fanuc_manipulation": 6,  # no gripper command; OpenVLA takes the gripper's state
    "furniture_bench_dataset_converted_externally_to_rlds": 8,  # a quaternion, which OpenVLA turns into Euler angles
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": 8,  # the same
}
WITHOUT_A_GRIPPER_COMMAND = {"berkeley_cable_routing", "berkeley_fanuc_manipulation"}
POLARITY_TOLD_BOTH_WAYS = {"taco_play", "ucsd_kitchen_dataset_converted_externally_to_rlds"}
ZEROS_OPENVLA_ADDS = {"jaco_play": [3, 4, 5], "berkeley_cable_routing": [6]}


@pytest.mark.real
def test_published_actions_fit_the_cards() -> None:
    """CogACT publishes actions as OpenVLA standardizes them: xyz, three angles, and how open the gripper shall be.

    So positions and angles are those of the card, but the gripper is turned to 0 closed, 1 open and clipped to that, and
    the six numbers of Bridge are derived anew from its states.
    """
    sets = published("cogact_oxe_dataset_statistics.json")
    assert set(sets) - {"rlbench"} <= set(registries())
    for dataset, statistics in sets.items():
        if dataset == "rlbench":  # not of Open-X-Embodiment
            continue
        card, robot = card_of(dataset)
        low, high, q01, q99 = (np.array(statistics["action"][key]) for key in ("min", "max", "q01", "q99"))
        assert len(robot.action) == ACTION_OF_ANOTHER_WIDTH.get(dataset, 7), dataset
        added = ZEROS_OPENVLA_ADDS.get(dataset, [])
        assert not np.any([low[added], high[added]]), dataset
        for index, channel in enumerate(robot.action[: 3 if len(robot.action) in (4, 8) else 6]):
            where = f"{dataset} {channel.name}"
            if channel.unit == "rad" and channel.kind is not ChannelKind.UNKNOWN:
                assert max(-q01[index], q99[index]) <= np.pi, where
            if channel.unit == "m":
                assert max(-q01[index], q99[index]) <= 1.0, where
            if channel.low is not None and channel.high is not None:
                assert channel.low <= low[index] <= high[index] <= channel.high, where
        assert 0 <= low[6] <= high[6] <= 1, dataset
        grippers = [channel.name for channel in robot.action if channel.kind is ChannelKind.GRIPPER]
        assert len(grippers) == (0 if dataset in WITHOUT_A_GRIPPER_COMMAND else 1), dataset
        known = [gripper.channel for gripper in robot.action_grippers]
        assert known == ([] if dataset in POLARITY_TOLD_BOTH_WAYS else grippers), dataset
        assert card.control_rate is not None


POSITIONS, JOINTS = (30, 31, 32), (0, 1, 2, 3, 4, 5, 6)
"""Of the 128 numbers of RDT's unified state: end effector in metres, joints of the right arm in radians."""
JOINTS_BEYOND_THE_LIMITS = {
    # rows of zeros, which no Franka can reach in joint 4
    "austin_buds_dataset_converted_externally_to_rlds": {"joint_4"},
    "austin_sirius_dataset_converted_externally_to_rlds": {"joint_4"},
    "viola": {"joint_4"},
    # some of DROID's recordings go beyond the stops that the data sheet of the arm gives
    "droid": {"joint_6", "joint_7"},
}


@pytest.mark.real
def test_published_states_fit_the_cards() -> None:
    """RDT publishes states in metres and radians after scaling what it found in millimetres or decimetres."""
    compared = 0
    for dataset, statistics in published("rdt_dataset_stat.json").items():
        known = [card for card in CARDS.values() if card.source == "rlds" and dataset in card.recognize.datasets]
        if not known:
            continue  # its own copy of a set, or one that is not of Open-X-Embodiment
        robot = cards.load_embodiment(known[0].embodiment)
        low, high = np.array(statistics["state_min"]), np.array(statistics["state_max"])
        by_name = {channel.name: channel for channel in robot.proprio}
        for name, index in zip("xyz", POSITIONS, strict=True):
            channel = by_name.get(name, Channel(name=name))
            if channel.unit == "m" and (low[index] or high[index]):
                assert max(-low[index], high[index]) <= (10 if dataset == "dobbe" else 1.7), (dataset, name)
                compared += 1
        for number, index in enumerate(JOINTS, 1):
            channel = by_name.get(f"joint_{number}", Channel(name=""))
            if channel.unit == "rad" and (low[index] or high[index]):
                beyond = not within(np.array([low[index], high[index]]), *limits(channel), 0.06)
                assert beyond == (channel.name in JOINTS_BEYOND_THE_LIMITS.get(dataset, set())), (dataset, channel)
                assert max(-low[index], high[index]) <= 2.1 * np.pi, (dataset, channel)
                compared += 1
    assert compared > 150


def limits(channel: Channel) -> tuple[float, float]:
    return (-np.inf if channel.low is None else channel.low), (np.inf if channel.high is None else channel.high)


def within(values: np.ndarray, low: Any, high: Any, tolerance: float) -> bool:
    """Whether no value lies outside; ``tolerance`` is for numbers published with fewer digits."""
    return bool(np.all((values >= np.asarray(low) - tolerance) & (values <= np.asarray(high) + tolerance)))


def episodes(location: Path, card: DatasetCard, robot: Embodiment) -> list[Episode]:
    source = cast(Source, registry.load("sources", card.source).SOURCE)
    with VideoTools(Limits()) as video:
        found = [
            to_episode(source.read(ref, video, Limits()), card, robot)
            for place in source.datasets(str(location))
            for ref in source.refs(place)
        ]
    assert found
    return found


@pytest.mark.real
def test_bridge_lies_within_its_published_ranges() -> None:
    """Open-pi-zero and CogACT derive the six pose numbers of the action anew, as the change of the state to the next step
    (wrapped around at half a turn, hence up to 6.28), after dropping step 0; states and gripper are as we have them."""
    card, robot = cards.load_pair("bridge")
    mine = episodes(real_data("octo_bridge_rlds"), card, robot)
    theirs = [
        published("openpizero_bridge_statistics.json"),
        published("cogact_oxe_dataset_statistics.json")["bridge_orig"],
    ]
    states = np.concatenate([one.proprio.values for one in mine])
    changes = np.concatenate([np.diff(one.proprio.values[1:, :6], axis=0) for one in mine])
    grippers = np.concatenate([one.action.values[:, 6] for one in mine])
    proprio = theirs[0]["proprio"]
    assert within(states, proprio["min"], proprio["max"], 1e-6)
    for one in theirs:
        low, high = np.array(one["action"]["min"]), np.array(one["action"]["max"])
        assert within(changes, low[:6], high[:6], 1e-6)
        assert within(grippers, low[6], high[6], 0)
    # the recorded command is not that change, but of its size: the same meaning, in the same units and frame
    commands = np.concatenate([one.action.values[1:-1, :3] for one in mine])
    assert np.corrcoef(commands.ravel(), changes[:, :3].ravel())[0, 1] > 0.5
    assert 0.5 < commands.std() / changes[:, :3].std() < 2


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "name"), [("droid100_thumbs", "droid100_thumbs"), ("ctrlworld_droid", "ctrlworld_droid")]
)
def test_droid_lies_within_its_published_ranges(folder: str, name: str) -> None:
    """RDT publishes joints, pose and how *open* the gripper is; DROID counts how closed it is, which the card says."""
    card, robot = cards.load_pair(name)
    mine = episodes(real_data(folder), card, robot)
    droid = published("rdt_dataset_stat.json")["droid"]
    low, high = np.array(droid["state_min"]), np.array(droid["state_max"])
    states = np.concatenate([one.proprio.values for one in mine])
    names = [channel.name for channel in robot.proprio]
    for channels, indices in ((["x", "y", "z"], POSITIONS), ([f"joint_{number}" for number in range(1, 8)], JOINTS)):
        for channel, index in zip(channels, indices, strict=True):
            assert within(states[:, names.index(channel)], low[index], high[index], 1e-3), channel
    (gripper,) = robot.proprio_grippers
    openness = (states[:, names.index(gripper.channel)] - gripper.closed) / (gripper.open - gripper.closed)
    assert (gripper.open, gripper.closed) == (0, 1)
    assert within(openness, low[10], high[10], 1e-3)
