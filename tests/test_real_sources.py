"""Every set of real recordings goes into one lake: its counts, and its oddities as rows with reasons or as findings."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from pipelines.lake import Lake
from pipelines.twins import set_facts
from tests.chain import run_ingest
from tests.real import real_data
from validation.check import judge_set

pytestmark = pytest.mark.real

COUNTS: dict[str, dict[str, int]] = {
    "octo_bridge_rlds": {"kept": 25, "steps": 250, "primary": 250, "quaternary": 250},
    "ctrlworld_droid": {"kept": 11, "steps": 2547, "primary": 854, "secondary": 854, "wrist_left": 854},
    "droid100_thumbs": {"kept": 100, "steps": 32212, "wrist_left": 32212},
    "g1_lerobot_v21_subset": {"kept": 8, "failed": 92, "missing_file": 92},
    "gr00t_gr1_sim_lerobot_v2": {"kept": 5, "steps": 2096, "primary": 2096},
    "so101_chess_lerobot_v21_partial": {"failed": 5, "missing_file": 5},
    "lerobot_v3_slices": {"kept": 3, "steps": 420, "failed": 5, "missing_file": 5},
    "robohive_h5": {"kept": 10, "failed": 1, "unknown_layout": 1},
    "robocasa_hdf5": {"kept": 1, "steps": 174},
}
"""What their README says of each: episodes, rows and frames; what is missing there is a row with its reason here."""
ODDITIES: dict[str, dict[str, int]] = {
    "octo_bridge_rlds": {"black_view": 25, "flag_denies_picture": 25, "last_step_not_marked": 25},
    "ctrlworld_droid": {"empty_instruction": 5, "no_instruction": 5},
    "droid100_thumbs": {"rate_corrected": 100, "container_rate": 100, "missing_pictures": 100},
    "gr00t_gr1_sim_lerobot_v2": {"declared_camera_without_files": 5, "placeholder_instruction": 5},
    "robohive_h5": {"no_last_action": 10, "placeholder_left_out": 10},
}
"""Episodes with each finding."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    root = tmp_path_factory.mktemp("all") / "lake"
    values = run_ingest([real_data(name) for name in COUNTS], root).values
    assert values["listed"] == values["kept"] + values["rejected"] + values["failed"] + values["already"]
    assert (values["listed"], values["already"], values["rejected"]) == (291, 25, 0)
    return Lake.open(root)


@pytest.fixture(scope="module")
def rows(lake: Lake) -> dict[str, list[dict[str, Any]]]:
    """Rows by the folder of the set."""
    columns = ["outcome", "reason", "dataset", "num_steps", "findings", "locations", "success", "instructions", "views"]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in lake.rows("episodes", columns):
        place = Path(row["locations"][0]["location"])
        name = next(name for name in COUNTS if name in place.parts)
        found.setdefault(name, []).append(row)
    return found


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_those_of_the_set(name: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    counted: Counter[str] = Counter()
    for row in rows[name]:
        counted[row["outcome"]] += 1
        counted["steps"] += row["num_steps"] or 0
        if row["reason"]:
            counted[row["reason"]] += 1
        for view in row["views"] or []:
            counted[view["slot"]] += view["num_frames"]
    assert {key: counted[key] for key in COUNTS[name]} == COUNTS[name]
    assert counted["kept"] + counted["failed"] == len(rows[name])


@pytest.mark.parametrize("name", ODDITIES)
def test_oddities_are_told(name: str, rows: dict[str, list[dict[str, Any]]]) -> None:
    told = Counter(rule for row in rows[name] for rule in {finding["rule"] for finding in row["findings"] or []})
    assert {rule: told[rule] for rule in ODDITIES[name]} == ODDITIES[name]


def test_what_else_is_known_of_them(rows: dict[str, list[dict[str, Any]]]) -> None:
    bridge = rows["octo_bridge_rlds"]
    assert len({one["text"] for row in bridge for one in row["instructions"]}) == 4
    assert all({place["split"] for place in row["locations"]} == {"train", "val"} for row in bridge)
    assert Counter(row["success"] for row in rows["ctrlworld_droid"]) == {False: 7, True: 4}
    steps = sorted(row["num_steps"] for row in rows["droid100_thumbs"])
    assert (steps[0], steps[50], steps[-1]) == (13, 226, 1627)
    assert all("valid" not in [one["text"] for one in row["instructions"]] for row in rows["gr00t_gr1_sim_lerobot_v2"])


def test_no_two_recordings_are_taken_for_one_and_a_leak_is_told(lake: Lake) -> None:
    """Bridge lies in train and in val; no other pair of these sets shares a motion, and none is said to."""
    kept = lake.rows("episodes", ["outcome"], "outcome = 'kept'")
    found = judge_set(set_facts(lake, [row["episode_id"] for row in kept]))
    told = {(finding.rule, episode_id) for episode_id, findings in found.items() for finding in findings}
    bridge = {row["episode_id"] for row in lake.rows("episodes", [], "dataset = 'bridge' and outcome = 'kept'")}
    assert {episode_id for rule, episode_id in told if rule == "split_leak"} == bridge
    assert not [one for one in told if one[0] in ("probable_duplicate", "same_motion")]


def test_sets_that_no_card_knows_are_taken_by_drafted_cards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixtures = real_data("lerobot_studio_fixtures")
    assert main(["ingest", str(fixtures), "--lake", str(tmp_path / "none"), "--executor", "inline"]) == 3
    capsys.readouterr()
    for name in ("lerobotv2", "lerobotv2-image", "lerobotv3"):
        place = str(fixtures / "datasets" / name)
        out = tmp_path / name
        assert main(["cards", "new", place, "--out", str(out), "--json"]) == 0
        card = json.loads(capsys.readouterr().out)["files"][0]
        lake = str(tmp_path / "lake")
        assert main(["ingest", place, "--lake", lake, "--card", card, "--json", "--executor", "inline"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["listed"], said["kept"] + said["already"]) == (2, 2), "two episodes of three frames each"
    for name in ("v2-missing-episodes", "v3-missing-episodes-parquet"):
        place = str(fixtures / "invalid" / name)
        assert main(["ingest", place, "--lake", str(tmp_path / "none"), "--executor", "inline"]) == 3
        assert "meta/episodes" in capsys.readouterr().err
