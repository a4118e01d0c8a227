import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.lake import Lake, is_lake
from pipelines.rows import row_sha256, view_of
from pipelines.verify import verify_lake
from schemas.errors import LakeError, UsageError
from schemas.tables import LATENTS, TEXTS
from tests.lake_rows import made_row, made_table


def test_a_row_comes_back_as_it_went_in(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    big = bytes(range(256)) * 20_000
    assert lake.insert("episodes", made_table(made_row("a"), made_row("b", video=None), made_row("c", video=big))) == 3
    rows = {row["episode_id"]: row for row in lake.rows("episodes", ["streams", "views", "num_steps"])}
    assert rows["a"]["streams"] == made_row("a")["streams"]
    assert rows["a"]["num_steps"] == 2
    for key in ("a", "c"):
        view = view_of(rows[key]["views"][0])
        assert lake.video(key, "primary", view).data == (b"video" if key == "a" else big)
    with pytest.raises(LakeError, match="no such view"):
        lake.video("b", "primary", view_of(rows["b"]["views"][0]))
    assert (
        verify_lake(lake).problems[0].message == "the episode has no such view"
    )  # b promises a video it does not have


def test_inserting_again_changes_nothing(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    assert lake.insert("episodes", made_table(made_row("a"), made_row("a"))) == 1
    version = lake.versions()
    assert lake.insert("episodes", made_table(made_row("a"))) == 0
    assert lake.versions() == version
    assert lake.insert("episodes", made_table(made_row("a"), made_row("b"))) == 1
    assert [row["episode_id"] for row in lake.rows("episodes", [])] == ["a", "b"]


def test_a_second_place_adds_a_location_and_keeps_row_hash_and_video(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.insert("episodes", made_table(made_row("a"), made_row("b")))
    second = made_row("a", key="e9")["locations"]
    assert lake.add_locations({"a": second}) == 1
    assert lake.add_locations({"a": second}) == 0
    row = lake.rows("episodes", ["locations"], "episode_id = 'a'")[0]
    assert [place["key"] for place in row["locations"]] == ["e0", "e9"]
    found = verify_lake(lake)
    assert found.ok, found.problems
    assert found.checked == {"episodes": 2, "videos": 2}


def test_removed_rows_are_gone(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.insert("episodes", made_table(made_row("a"), made_row("b")))
    lake.remove_episodes(["a"])
    assert [row["episode_id"] for row in lake.rows("episodes", [])] == ["b"]


_RACER = """
import sys
from pipelines.lake import Lake
from tests.lake_rows import made_row, made_table
root, start = sys.argv[1], int(sys.argv[2])
lake = Lake.open(root)
for number in range(start, start + 8):
    lake.insert("episodes", made_table(*(made_row(f"e{index}") for index in range(number, number + 4))))
"""


def test_racing_writers_give_one_row_per_key(tmp_path: Path) -> None:
    root = str(tmp_path / "lake")
    Lake.create(root)
    project = Path(__file__).parent.parent
    commands = [[sys.executable, "-c", _RACER, root, str(start)] for start in (0, 1, 4)]
    racers = [subprocess.Popen(command, cwd=project) for command in commands]
    assert [racer.wait(timeout=120) for racer in racers] == [0, 0, 0]
    ids = [row["episode_id"] for row in Lake.open(root).rows("episodes", [])]
    assert sorted(ids) == sorted({f"e{index}" for index in range(15)})


def test_a_flipped_byte_in_a_data_file_is_found(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    marker = b"a video that is easy to find in the file" * 4
    lake.insert("episodes", made_table(made_row("a", video=marker)))
    assert verify_lake(lake).ok
    hits = 0
    for path in (tmp_path / "lake" / "episodes.lance" / "data").rglob("*"):
        if path.is_file() and marker in (data := path.read_bytes()):
            position = data.index(marker) + 7
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            hits += 1
    assert hits == 1
    problems = verify_lake(Lake.open(tmp_path / "lake")).problems
    assert len(problems) == 1
    assert "damaged" in problems[0].message
    assert "primary" in problems[0].where


@pytest.mark.parametrize("where", ["", "num_steps > 0"])
def test_a_lost_data_file_is_named_with_a_mend(tmp_path: Path, where: str) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.insert("episodes", made_table(made_row("a")))
    lost = next((tmp_path / "lake/episodes.lance/data").iterdir())
    lost.unlink()
    with pytest.raises(LakeError, match=f"lacks a file, data/{lost.name}") as caught:
        Lake.open(tmp_path / "lake").rows("episodes", ["num_steps"], where)
    assert "restore" in caught.value.hint


def test_a_pinned_reader_does_not_see_later_rows(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.insert("episodes", made_table(made_row("a")))
    pinned = Lake.open(tmp_path / "lake", lake.versions())
    lake.insert("episodes", made_table(made_row("b")))
    assert len(pinned.rows("episodes", [])) == 1
    assert len(lake.rows("episodes", [])) == 2


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LakeError, match="other things") as caught:
        Lake.create(tmp_path)
    assert caught.value.hint
    assert not is_lake(tmp_path)
    with pytest.raises(LakeError, match="no lake here"):
        Lake.open(tmp_path)


def test_a_torn_newest_manifest_is_a_clear_error(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.insert("episodes", made_table(made_row("a")))
    versions = tmp_path / "lake" / "episodes.lance" / "_versions"
    newest = min(path for path in versions.glob("*.manifest"))  # names count down
    newest.write_bytes(newest.read_bytes()[:10])
    with pytest.raises(LakeError) as caught:
        Lake.open(tmp_path / "lake").rows("episodes", [])
    assert caught.value.reason == "torn_table"


def test_a_wrong_filter_names_a_right_one(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    with pytest.raises(UsageError, match="does not work") as caught:
        lake.rows("episodes", [], "no_such_column = 3")
    assert caught.value.reason == "filter"


@pytest.mark.parametrize(("table", "schema", "key"), [("latents", LATENTS, "latent_id"), ("texts", TEXTS, "text_id")])
def test_latents_and_texts_are_keyed_too(tmp_path: Path, table: str, schema: pa.Schema, key: str) -> None:
    lake = Lake.create(tmp_path / "lake")
    row = {field.name: None for field in schema} | {key: "k", "data": b"1234"}
    rows = pa.Table.from_pylist([row], schema)
    assert lake.insert(table, rows) == 1
    assert lake.insert(table, rows) == 0
    assert lake.rows(table, ["data"]) == [{key: "k", "data": b"1234"}]


def test_the_row_hash_covers_every_column_but_places_and_blobs() -> None:
    base = row_sha256(made_table(made_row("a")))
    for column, value in {"reason": "x", "num_steps": 3, "episode_id": "b", "success": True}.items():
        assert row_sha256(made_table(made_row("a") | {column: value})) != base
    changed = made_row("a")
    changed["streams"][0]["data"] = bytes(15) + b"\x01"
    assert row_sha256(made_table(changed)) != base
    assert row_sha256(made_table(made_row("a", key="elsewhere"))) == base
