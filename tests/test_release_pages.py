"""What a release tells of itself: the data set card as the hub reads it, Croissant as mlcroissant does, and the encoders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.croissant import croissant
from pipelines.data_card import data_card, text
from pipelines.lake import Lake
from pipelines.storage import file_sha256
from schemas.licenses import ORDER, known, strictest
from tests.chain import read_json, run_build
from tests.fake_build import tree_bytes
from tests.release_chain import ARM, FORMATS, GANTRY, RECIPE, make_lake, make_release


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="module")
def release(lake: Path) -> Path:
    return make_release(lake, lake.parent / "release")


def head(release: Path) -> dict[str, Any]:
    _, front, _ = (release / "README.md").read_text().split("---\n", 2)
    loaded: dict[str, Any] = yaml.safe_load(front)
    return loaded


def test_croissant_is_valid_and_its_records_are_the_rows(release: Path) -> None:
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=str(release / "croissant.json"))  # raises where it is not valid
    warnings = list(dataset.metadata.ctx.issues.warnings)
    assert len(warnings) == 1, warnings
    assert "datePublished" in warnings[0]  # a date would make equal releases differ
    manifest = read_json(release / "manifest.json")
    assert dataset.metadata.version == f"{manifest['wamloom']}+{manifest['build']}"
    names = {record_set.id for record_set in dataset.metadata.record_sets}
    of_rows = (*(name for name in FORMATS if name != "webdataset"), "lineage")
    assert names == {f"{kind}/{group}" for kind in of_rows for group in (ARM, GANTRY)}
    rows = list(dataset.records(f"parquet/{ARM}"))
    table = pq.read_table(release / "parquet" / ARM / "data").to_pylist()
    assert len(rows) == len(table) == 14
    for row, expected in zip(rows, table, strict=True):
        told = {key.rpartition("/")[2]: value for key, value in row.items()}
        assert set(told) == set(expected)
        assert told["index"] == expected["index"]
        np.testing.assert_array_equal(np.array(told["action_chunk"]), np.array(expected["action_chunk"]))
        assert told["image_wrist_left"].size == (96, 64)
    (first, *_) = dataset.records(f"lineage/{GANTRY}")
    assert first[f"lineage/{GANTRY}/frame_id_primary"] == 0


def test_croissant_tells_of_every_file_once(release: Path) -> None:
    told = read_json(release / "croissant.json")
    files = {entry["path"]: entry for entry in read_json(release / "manifest.json")["files"]}
    covered: list[str] = []
    for one in told["distribution"]:
        if one["@type"] == "cr:FileObject":
            assert one["sha256"] == files[one["contentUrl"]]["sha256"] == file_sha256(release / one["contentUrl"])
            covered.append(one["contentUrl"])
        else:
            folder, _, suffix = one["includes"].partition("*")
            covered += [path for path in files if path.startswith(folder) and path.endswith(suffix)]
    assert sorted(covered) == sorted(set(files) - {"croissant.json"})


def test_the_hub_reads_the_card_and_datasets_opens_every_group_and_split(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(release / "README.md")
    card.data.to_yaml()
    front = head(release)
    assert (front["license"], front["task_categories"], front["size_categories"]) == ("cc0-1.0", ["robotics"], ["n<1K"])
    assert {"LeRobot", "sample_arm", "sample_gantry"} <= set(front["tags"])
    manifest = read_json(release / "manifest.json")
    splits = set()
    for group in manifest["groups"]:
        opened = datasets.load_dataset(str(release), group["name"], cache_dir=str(tmp_path))
        for split, name in (("train", "train"), ("val", "validation")):
            wanted = {one["episode_id"] for one in group["episodes"] if one["split"] == split}
            found = set(opened[name]["episode_id"]) if name in opened else set()
            assert found == wanted
            splits |= {split} if wanted else set()
    assert splits == {"train", "val"}


def test_the_card_says_what_is_known_of_the_data(release: Path) -> None:
    page, manifest = (release / "README.md").read_text(), read_json(release / "manifest.json")
    findings = [one for source in manifest["sources"].values() for one in source["findings"]]
    assert findings
    assert all(f"`{one['rule']}` | {one['severity']} | {one['episodes']} of" in page for one in findings)
    assert manifest["build"] in page
    assert manifest["latents"]["encoder_fingerprint"] in page
    assert "The strictest licence is **CC0-1.0**" in page
    assert all(f"### {name.replace('_', chr(92) + '_')}\n" in page for name in manifest["counts"])
    assert f"| train | {sum(e['split'] == 'train' for g in manifest['groups'] for e in g['episodes'])} |" in page


def test_pages_follow_from_the_manifest_alone(release: Path, lake: Path, tmp_path: Path) -> None:
    make_release(lake, tmp_path / "another_name")
    one, two = tree_bytes(release), tree_bytes(tmp_path / "another_name")
    assert [name for name in one if one[name] != two.get(name)] == []
    manifest = read_json(release / "manifest.json")
    bare = [entry for entry in manifest["files"] if entry["path"] not in ("README.md", "croissant.json")]
    assert data_card(manifest | {"files": bare}) == one["README.md"]
    listed = [entry for entry in manifest["files"] if entry["path"] != "croissant.json"]
    assert croissant(manifest | {"files": listed}, release) == one["croissant.json"]


def test_an_unknown_licence_is_the_strictest_and_drops_are_told(release: Path) -> None:
    manifest = read_json(release / "manifest.json")
    manifest["licenses"] = ["CC0-1.0", "unknown"]
    numbers: list[Any] = [["windows", 7.0]]
    drop = {"key": "x", "kind": "rejected", "reason": "no_valid_step", "message": "no | step\n# has", "where": ""}
    manifest["dropped"] = [drop | {"numbers": []}, drop | {"reason": "idle", "numbers": numbers}]
    page = data_card(manifest).decode()
    assert "license: unknown\n" in page
    assert "The strictest licence is **unknown**" in page
    assert "- 1 episodes: `no_valid_step`, no \\| step \\# has\n" in page
    assert "- 7 windows: `idle`" in page
    manifest["licenses"] = ["CC BY 4.0", "Our Own"]
    assert 'license: other\nlicense_name: "Our Own"\n' in data_card(manifest).decode()


def test_licences_have_one_order() -> None:
    names = [one.name for one in ORDER]
    assert [strictest(names[: count + 1]) for count in range(len(names))] == names
    assert strictest(["CC-BY-NC-ND-4.0", "found on a page"]) == "found on a page"
    assert strictest([]) == "unknown"
    assert known("cc by-nc 4.0") == known("CC_BY-NC-4.0") != known("CC-BY-4.0")
    assert known("unknown") is None


def test_text_from_data_is_no_markup() -> None:
    assert text("a|b\n<script> `x` \u202e [y](z)") == "a\\|b \\<script\\> \\`x\\` \\\\u202e \\[y\\](z)"


def test_the_manifest_names_the_encoder_of_latents_and_texts(release: Path, lake: Path, tmp_path: Path) -> None:
    from jobs import texts
    from jobs.options import TextsOptions
    from schemas.release_choices import TextChoice
    from schemas.text_recipe import TextRecipe

    rows = Lake.open(lake).rows("latents", ["encoder", "encoder_fingerprint", "slot", "shape", "normalization"])
    latents = read_json(release / "manifest.json")["latents"]
    assert {row["encoder_fingerprint"] for row in rows} == {latents["encoder_fingerprint"]}
    assert {row["normalization"] for row in rows} == {latents["normalization"]}
    assert sum(slot["clips"] for slot in latents["slots"].values()) == len(rows)
    assert (latents["encoder"], latents["axes"], latents["views"]["height_px"]) == ("wavelet", "LCHW", 64)
    assert latents["slots"]["primary"]["sizes"] == [{"height": 8, "width": 12}]
    texts.run(TextsOptions(str(lake), TextRecipe(template="fastwam"), "", False, "inline"))
    chosen = TextChoice(encoder="hashed", template="fastwam")
    run_build(lake, tmp_path / "out", RECIPE.model_copy(update={"formats": ("parquet",), "texts": chosen}))
    told = read_json(tmp_path / "out" / "manifest.json")["texts"]
    stored = Lake.open(lake).rows("texts", ["encoder_fingerprint", "length", "shape"])
    assert {(row["encoder_fingerprint"], row["length"]) for row in stored} == {
        (told["encoder_fingerprint"], told["length"])
    }
    assert (told["template"], told["prompts"], told["width"]) == ("fastwam", len(stored), stored[0]["shape"][-1])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["latents"] == latents
