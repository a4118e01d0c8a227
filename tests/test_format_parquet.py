"""Hugging Face ``datasets`` is the judge."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from pipelines.barcode import Mark, read_mark
from pipelines.formats import parquet
from schemas.errors import ReleaseError
from tests.fake_build import FakeBuild, builds, frame_number, make_build, write_build


def load(folder: Path, cache: Path):
    import datasets

    return datasets.load_dataset(
        "parquet", data_files=str(folder / "data" / "*.parquet"), split="train", cache_dir=str(cache)
    )


def check_against(build: FakeBuild, rows) -> None:
    index, horizon = 0, build.recipe.horizon
    for episode in build.episodes:
        plan, starts = episode.plan, episode.sample_steps.tolist()
        for step in range(plan.num_steps):
            row = rows[index]
            assert (row["episode_id"], row["episode_index"], row["step"]) == (plan.episode_id, plan.episode_index, step)
            assert row["index"] == index == plan.first_step + step
            assert row["time_ns"] == episode.times_ns[step]
            np.testing.assert_array_equal(np.array(row["action"], np.float32), episode.action[step])
            if build.group.proprio_names:
                np.testing.assert_array_equal(np.array(row["proprio"], np.float32), episode.proprio[step])
            reached = np.minimum(step + np.arange(horizon), plan.num_steps - 1)
            np.testing.assert_array_equal(np.array(row["action_chunk"], np.float32), episode.action[reached])
            inside = step + np.arange(horizon) < plan.num_steps
            assert row["chunk_mask"] == (inside & episode.valid[reached]).tolist()
            assert (row["valid"], row["instruction"]) == (episode.valid[step], plan.instruction)
            assert row["source_row"] == episode.source_rows[step]
            assert row["source_time_ns"] == episode.source_times_ns[step]
            if episode.tokens is not None:
                tokens = episode.tokens[starts.index(step)].tolist() if step in starts else None
                assert row["tokens"] == tokens
            for slot, _, _ in build.group.views:
                assert row[f"frame_id_{slot}"] == episode.frame_ids[slot][step]
                mark = read_mark(np.asarray(row[f"image_{slot}"]))
                assert mark == Mark(frame_number(slot, step), plan.episode_index)
            index += 1
    assert index == len(rows)


def test_datasets_reads_every_row_and_picture(tmp_path: Path) -> None:
    import datasets

    build = make_build()
    write_build(parquet, build, tmp_path / "release")
    rows = load(tmp_path / "release", tmp_path / "cache")
    assert isinstance(rows.features["image_primary"], datasets.Image)
    check_against(build, rows)


@settings(max_examples=10, deadline=None)
@given(build=builds())
def test_whatever_is_written_is_read(build: FakeBuild, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("release")
    write_build(parquet, build, folder)
    check_against(build, load(folder, tmp_path_factory.mktemp("cache")))


def test_the_folder_alone_can_be_named(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "release"
    write_build(parquet, make_build(views=()), folder)
    for number, options in enumerate(({"path": "parquet", "data_dir": str(folder)}, {"path": str(folder)})):
        loaded = datasets.load_dataset(**options, split="train", cache_dir=str(tmp_path / f"cache{number}"))
        assert len(loaded) == 20


def test_without_proprio_and_tokens_the_columns_are_left_out(tmp_path: Path) -> None:
    write_build(parquet, make_build(proprio_width=0, with_tokens=False, views=()), tmp_path / "release")
    names = load(tmp_path / "release", tmp_path / "cache").column_names
    assert "proprio" not in names
    assert "tokens" not in names


def test_row_groups_stay_small_and_pages_are_checked(tmp_path: Path) -> None:
    write_build(parquet, make_build((250,), views=(("primary", 16, 40),)), tmp_path)
    file = pq.ParquetFile(tmp_path / "data/00000.parquet", page_checksum_verification=True)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [100, 100, 50]
    assert {file.metadata.row_group(0).column(i).compression for i in range(file.metadata.num_columns)} == {"ZSTD"}


def test_a_flipped_byte_is_noticed_by_count(tmp_path: Path) -> None:
    write_build(parquet, make_build((30,), views=(("primary", 64, 96),)), tmp_path)
    path = tmp_path / "data/00000.parquet"
    place = pq.ParquetFile(path).metadata.row_group(0)
    column = next(
        place.column(i) for i in range(place.num_columns) if "image_primary.bytes" in place.column(i).path_in_schema
    )
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"(?i)crc|checksum"):
        parquet.FORMAT.count(tmp_path)


def test_index_lists_files_and_rows(tmp_path: Path) -> None:
    build = make_build()
    write_build(parquet, build, tmp_path)
    index = json.loads((tmp_path / parquet.INDEX).read_text())
    assert index["files"] == [{"file": "data/00000.parquet", "rows": 8}, {"file": "data/00001.parquet", "rows": 12}]


def test_missing_rows_stop_the_release(tmp_path: Path) -> None:
    build = make_build((3,), views=())
    with pytest.raises(ReleaseError, match="0 rows were written"):
        parquet.FORMAT.finish(build.group, build.recipe, [(build.units[0], {"rows": 0})], tmp_path)
