"""Growing, changing and damaged sets: what is read again, what becomes a new version, and what does not stop the rest."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from pipelines.ingest import plan_ingest
from pipelines.lake import Lake
from pipelines.look import lake_status, list_episodes, show_episode
from pipelines.simulate import ROBOTS
from pipelines.verify import verify_lake
from pipelines.versions import known_places, superseded
from schemas.errors import CardError, SourceError
from schemas.recipes import BuildRecipe, EncodeRecipe, IngestRecipe, ViewsRecipe
from tests.chain import run_build, run_encode, run_ingest, write_short

ROBOT = ROBOTS[1].name
VIEWS = ViewsRecipe(height_px=32, width_px=32)


def to_read(place: Path, root: Path) -> int:
    plan = plan_ingest([str(place)], Lake.open(root), IngestRecipe())
    return plan.listed - len(plan.already)


def changed(place: Path, first: int, lengths: tuple[int, ...] = (12, 9)) -> None:
    """Other recordings under the same names, younger."""
    shutil.rmtree(place)
    write_short(place, lengths=lengths, first=first)


def grow(place: Path, grown: Path, layout: str) -> None:
    """Turns the set into the grown one as those who make such sets do: what was there keeps its bytes and times."""
    if layout == "rlds":
        folder, new = place / ROBOT / "1.0.0", grown / ROBOT / "1.0.0"
        for shard in sorted(new.glob("*.tfrecord-*")):
            before = next(folder.glob(f"{shard.name.rpartition('-of-')[0]}-of-*"), None)
            if before is not None:
                assert before.read_bytes() == shard.read_bytes()
                before.rename(folder / shard.name)
    for path in sorted(grown.rglob("*")):
        target = place / path.relative_to(grown)
        is_index = path.suffix in (".json", ".jsonl")
        if path.is_file() and (is_index or not target.exists()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            os.utime(target)


# --- growth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["rlds", "lerobot_v21"])
def test_of_a_grown_set_only_what_is_new_is_read(layout: str, tmp_path: Path) -> None:
    lengths = (8, 7, 6, 5, 9, 4)
    place, root = write_short(tmp_path / "set", layout, lengths[:4]), tmp_path / "lake"
    grown = write_short(tmp_path / "grown", layout, lengths)
    assert run_ingest([place], root).values["kept"] == 4
    before = {row["episode_id"]: row["row_sha256"] for row in Lake.open(root).rows("episodes", ["row_sha256"])}
    grow(place, grown, layout)
    assert to_read(place, root) == 2
    values = run_ingest([place], root).values
    assert (values["listed"], values["kept"], values["already"], values["changed"]) == (6, 2, 4, 0)
    after = {row["episode_id"]: row["row_sha256"] for row in Lake.open(root).rows("episodes", ["row_sha256"])}
    assert before.items() <= after.items()
    assert to_read(place, root) == 0
    assert {known.revision for here in known_places(Lake.open(root)).values() for known in here} == {1}


def test_a_v3_file_that_grew_is_read_again_once_and_known(tmp_path: Path) -> None:
    place, root = write_short(tmp_path / "set", "lerobot_v3", (8, 7)), tmp_path / "lake"
    assert run_ingest([place], root).values["kept"] == 2
    shutil.rmtree(place)
    write_short(place, "lerobot_v3", (8, 7, 6))
    values = run_ingest([place], root).values
    assert (values["listed"], values["kept"] + values["already"]) == (3, 3)
    assert to_read(place, root) == 0


def test_what_the_index_says_of_an_episode_is_part_of_its_state(tmp_path: Path) -> None:
    place, root = write_short(tmp_path / "set", "lerobot_v21", (8, 7)), tmp_path / "lake"
    run_ingest([place], root)
    index = place / ROBOT / "meta" / "episodes.jsonl"
    first, second = (json.loads(line) for line in index.read_text().splitlines())
    index.write_text(json.dumps(first) + "\n" + json.dumps({**second, "tasks": ["something else"]}) + "\n")
    assert to_read(place, root) == 1
    values = run_ingest([place], root).values
    assert (values["kept"], values["changed"], values["already"]) == (1, 1, 1)
    assert to_read(place, root) == 0
    info = place / ROBOT / "meta" / "info.json"
    facts = json.loads(info.read_text())
    info.write_text(json.dumps({**facts, "total_episodes": 2, "total_frames": 99, "notes": "of no episode"}))
    assert to_read(place, root) == 0
    facts["features"]["action"]["names"] = None
    info.write_text(json.dumps(facts))
    assert to_read(place, root) == 2


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_changed_file_is_a_new_version_and_the_old_one_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, root = write_short(tmp_path / "set"), tmp_path / "lake"
    run_ingest([place], root)
    run_encode(root, EncodeRecipe(views=VIEWS))
    old = {row["place"]: row["episode_id"] for row in list_episodes(Lake.open(root))}
    changed(place, first=2)
    values = run_ingest([place], root).values
    assert (values["kept"], values["changed"], values["already"]) == (2, 2, 0)

    lake = Lake.open(root)
    new = {row["place"]: row["episode_id"] for row in list_episodes(lake)}
    assert new.keys() == old.keys()
    assert not set(new.values()) & set(old.values())
    assert superseded(lake) == set(old.values())
    status = lake_status(lake)
    assert (status["episodes"], status["kept"], status["superseded"]) == (2, 2, 2)
    for where, episode_id in new.items():
        row = show_episode(lake, episode_id)
        told = next(finding for finding in row["findings"] if finding["rule"] == "changed_source")
        assert old[where] in told["message"]
        assert told["severity"] == "info"
        assert row["lineage"] == [{"place": where, "replaces": (old[where],), "superseded_by": ()}]
        assert [one["revision"] for one in row["locations"]] == [2]
        before = show_episode(lake, old[where])
        assert (before["superseded"], before["lineage"][0]["superseded_by"]) == (True, (episode_id,))
        assert len(lake.episode(old[where]).streams) == len(lake.episode(episode_id).streams)
        assert main(["show", str(root), "--episode", old[where][:16]]) == 0
        assert f"superseded by {episode_id}" in capsys.readouterr().err
    assert verify_lake(lake).ok
    assert verify_lake(lake).checked["episodes"] == 4, "old versions are verified too"

    assert run_encode(root, EncodeRecipe(views=VIEWS)).values["episodes"] == 2
    run_build(root, tmp_path / "out", BuildRecipe(formats=("parquet",), views=VIEWS, horizon=2))
    groups = json.loads((tmp_path / "out" / "manifest.json").read_text())["groups"]
    assert {one["episode_id"] for group in groups for one in group["episodes"]} == set(new.values())
    assert to_read(place, root) == 0


def test_a_file_put_back_is_current_again(tmp_path: Path) -> None:
    place, root = write_short(tmp_path / "set"), tmp_path / "lake"
    run_ingest([place], root)
    first = {row["episode_id"] for row in list_episodes(Lake.open(root))}
    shutil.copytree(place, tmp_path / "copy")  # with its times
    changed(place, first=2)
    run_ingest([place], root)
    shutil.rmtree(place)
    shutil.copytree(tmp_path / "copy", place)
    values = run_ingest([place], root).values
    assert (values["kept"], values["already"], values["changed"]) == (0, 2, 0)
    assert {row["episode_id"] for row in list_episodes(Lake.open(root))} == first
    assert {known.revision for here in known_places(Lake.open(root)).values() for known in here} == {2, 3}
    assert to_read(place, root) == 0


def test_recordings_that_change_places_stay_current(tmp_path: Path) -> None:
    place, root = write_short(tmp_path / "set", lengths=(12, 9)), tmp_path / "lake"
    run_ingest([place], root)
    before = {row["episode_id"] for row in list_episodes(Lake.open(root))}
    shards = sorted((place / ROBOT / "1.0.0").glob("*.tfrecord-*"))
    data = shards[0].read_bytes()
    stop = 16 + int.from_bytes(data[:8], "little")
    shards[0].write_bytes(data[stop:] + data[:stop])
    values = run_ingest([place], root).values
    assert (values["kept"], values["already"]) == (0, 2)
    assert {row["episode_id"] for row in list_episodes(Lake.open(root))} == before
    assert not superseded(Lake.open(root))


def test_a_new_version_that_cannot_be_read_supersedes_nothing(tmp_path: Path) -> None:
    place, root = write_short(tmp_path / "set"), tmp_path / "lake"
    run_ingest([place], root)
    before = {row["episode_id"] for row in list_episodes(Lake.open(root))}
    shard = next((place / ROBOT / "1.0.0").glob("*.tfrecord-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    assert run_ingest([place], root).values["failed"] == 1
    assert before <= {row["episode_id"] for row in list_episodes(Lake.open(root))}
    shard.write_bytes(whole)
    assert run_ingest([place], root).exit_code == 0
    assert {row["episode_id"] for row in list_episodes(Lake.open(root))} == before


def test_one_of_two_places_changes(tmp_path: Path) -> None:
    place, copy, root = write_short(tmp_path / "set"), tmp_path / "copy", tmp_path / "lake"
    shutil.copytree(place, copy)
    run_ingest([place, copy], root)
    changed(place, first=2)
    assert run_ingest([place, copy], root).values["changed"] == 2
    lake = Lake.open(root)
    assert not superseded(lake), "the other place still leads to them"
    assert len(list_episodes(lake)) == 4


# --- sets that cannot be read ----------------------------------------------------------------------------------------


def test_a_damaged_set_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_short(tmp_path / "all" / "good")
    bad = write_short(tmp_path / "all" / "bad", "lerobot_v21")
    (bad / ROBOT / "meta" / "info.json").write_text("{")
    (tmp_path / "nothing").mkdir()
    root = tmp_path / "lake"
    places = [str(tmp_path / "all"), str(tmp_path / "nothing"), str(tmp_path / "gone")]
    code = main(["ingest", *places, "--lake", str(root), "--json", "--executor", "inline"])
    said = capsys.readouterr()
    values: dict[str, Any] = json.loads(said.out)
    assert code == 4
    assert values["unreadable_sets"] == 3
    assert [one["reason"] for one in values["set_problems"]] == ["bad_index", "unknown_layout", "missing_file"]
    assert all(one["hint"] for one in values["set_problems"])
    assert (values["listed"], values["kept"]) == (2, 2)
    assert "set left out (bad_index)" in said.err
    assert main(["ingest", str(good), "--lake", str(root), "--executor", "inline"]) == 0
    with pytest.raises(SourceError):
        run_ingest([bad, tmp_path / "nothing"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_set_that_no_card_knows_does_not_stop_the_others(tmp_path: Path) -> None:
    write_short(tmp_path / "all" / "good")
    strange = write_short(tmp_path / "all" / "strange", "lerobot_v21")
    info = strange / ROBOT / "meta" / "info.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "robot_type": "never seen"}))
    answer = run_ingest([tmp_path / "all"], tmp_path / "lake")
    assert answer.exit_code == 4
    assert (answer.values["unreadable_sets"], answer.values["listed"], answer.values["kept"]) == (1, 2, 2)
    assert answer.values["set_problems"][0]["reason"] == "no_card"
    again = run_ingest([tmp_path / "all"], tmp_path / "lake")
    assert (again.exit_code, again.values["already"]) == (4, 2)
    with pytest.raises(CardError):
        run_ingest([strange], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_named_card_that_is_wrong_stops_everything(tmp_path: Path) -> None:
    write_short(tmp_path / "all")
    write_short(tmp_path / "all", robot=0)
    with pytest.raises(CardError):
        run_ingest([tmp_path / "all"], tmp_path / "lake", card=Path("sample_gantry_rlds"))
    assert not (tmp_path / "lake").exists()


def test_a_place_named_twice_nested_or_by_a_link_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_short(tmp_path / "all" / "set")
    (tmp_path / "all" / "link").symlink_to(place)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "all")
    monkeypatch.chdir(tmp_path)
    names = [
        Path("all"),
        place,
        place / ROBOT,
        place / ROBOT / "1.0.0",
        Path("elsewhere"),
        tmp_path / "all" / "link",
        place,
    ]
    values = run_ingest(names, tmp_path / "lake").values
    assert (values["listed"], values["kept"], values["already"]) == (2, 2, 0)
    assert {len(row["locations"]) for row in Lake.open(tmp_path / "lake").rows("episodes", ["locations"])} == {1}
    assert to_read(tmp_path / "elsewhere", tmp_path / "lake") == 0
