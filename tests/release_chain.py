"""A small release in every generic format, and how a test changes it so that only its content is wrong, and no hash."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.release import _SEAL, MANIFEST, _seal, manifest_bytes
from pipelines.storage import file_record
from schemas.recipes import BuildRecipe, EncodeRecipe, TokenizerRecipe, ViewsRecipe
from schemas.release_choices import SplitRecipe
from tests.chain import run_build, run_encode, run_ingest, write_short

FORMATS = ("lerobot_v3", "lerobot_v21", "lerobot_v20", "parquet", "webdataset")
VIEWS = ViewsRecipe(height_px=64, width_px=96, fit="stretch")
RECIPE = BuildRecipe(
    formats=FORMATS,
    views=VIEWS,
    horizon=4,
    unit_frames=14,
    content="both",
    encoder="wavelet",
    tokenizer=TokenizerRecipe(),
    split=SplitRecipe(val_fraction=0.3),
)
GANTRY, ARM = "sample_gantry_rlds", "sample_arm_rlds"


def make_lake(folder: Path) -> Path:
    """Five short episodes of the gantry, with one camera, and two of the arm, with two; with latents."""
    write_short(folder / "recordings", lengths=(12, 9, 10, 7, 8), first=3)
    write_short(folder / "recordings", lengths=(8, 6), robot=0)
    assert run_ingest([folder / "recordings"], folder / "lake").values["kept"] == 7
    run_encode(folder / "lake", EncodeRecipe(views=VIEWS))
    return folder / "lake"


def make_release(lake: Path, out: Path, recipe: BuildRecipe = RECIPE) -> Path:
    run_build(lake, out, recipe)
    return out


def seal_again(release: Path) -> None:
    """The manifest tells of the files as they are now, so that no hash is wrong, none is missing and none is left over."""
    manifest: dict[str, Any] = json.loads((release / MANIFEST).read_bytes())
    manifest.pop(_SEAL)
    paths = sorted(path for path in release.rglob("*") if path.is_file() and path != release / MANIFEST)
    manifest["files"] = [asdict(file_record(path, release)) for path in paths]
    (release / MANIFEST).write_bytes(manifest_bytes({**manifest, _SEAL: _seal(manifest)}))


def rewrite(path: Path, columns: Mapping[str, Any]) -> None:
    """Replaces columns of a Parquet file by what functions make of them."""
    table = pq.read_table(path)
    for name, change in columns.items():
        index = table.schema.get_field_index(name)
        values = change(table.column(index).to_pylist())
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
