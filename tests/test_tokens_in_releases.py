"""What a build does with each kind of tokenizer: fitted to chunks, published, and none because values stay as they are."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import registry
from pipelines.action_chunks import ActionChunks
from pipelines.action_plan import ActionPlan
from pipelines.selection import chunks_of
from pipelines.tokenizers import fast
from pipelines.windows import Windows
from schemas.action_recipe import ActionRecipe
from schemas.embodiment import Channel, ChannelKind, Embodiment
from schemas.errors import RecipeError
from schemas.recipes import BuildRecipe, TokenizerRecipe
from tests.chain import read_json, run_build, run_ingest, tables, vectors, write_short


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake")
    run_ingest([write_short(root / "recordings", lengths=(12, 9))], root / "lake")
    return root / "lake"


def recipe(name: str, **options: Any) -> BuildRecipe:
    tokenizer = TokenizerRecipe(name=name, options=options)
    return BuildRecipe(formats=("parquet",), horizon=4, normalize="quantile", tokenizer=tokenizer)


def test_a_release_of_continuous_chunks_has_no_tokens(lake: Path, tmp_path: Path) -> None:
    run_build(lake, tmp_path / "out", recipe("identity"))
    table = tables(tmp_path / "out" / "parquet")
    assert "tokens" not in table.column_names
    assert "action_chunk" in table.column_names


def test_tokens_of_a_published_vocabulary_decode_to_the_chunks_of_the_release(lake: Path, tmp_path: Path) -> None:
    walks = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (60, 4, 3)), axis=1)
    made = fast.fit(walks, normalize=False)
    (tmp_path / "tokenizer.json").write_text(made.vocabulary.to_str())
    config = {"scale": 10, "min_token": made.min_token, "vocab_size": 1024}
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    run_build(lake, tmp_path / "out", recipe("fast", published=str(tmp_path)))
    table = tables(tmp_path / "out" / "parquet")
    chunks = vectors(table["action_chunk"])
    tokens = [np.array(row) for row in table["tokens"].to_pylist() if row is not None]
    starts = [index for index, row in enumerate(table["tokens"].to_pylist()) if row is not None]
    assert len(starts) > 3
    tokenizer = fast.load_published(tmp_path)
    horizon, width = chunks.shape[1:]
    decoded = tokenizer.decode(tokens, horizon, width)
    assert (np.abs(decoded - chunks[starts]) <= tokenizer.error_bound(horizon) + 1e-6).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bins", {}),
        ("fast", {}),
        ("beast", {"num_basis": 4, "degree": 2}),
        ("rvq", {"num_levels": 4, "codebook_size": 16}),
    ],
)
def test_a_build_fits_a_tokenizer_to_the_chunks_of_its_samples(
    lake: Path, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    run_build(lake, tmp_path / "out", recipe(name, **options))
    manifest = read_json(tmp_path / "out" / "manifest.json")
    table = tables(tmp_path / "out" / "parquet")
    chunks, rows = vectors(table["action_chunk"]), table["tokens"].to_pylist()
    starts = [index for index, row in enumerate(rows) if row is not None]
    tokenizer = registry.load("tokenizers", name).load(json.dumps(manifest["groups"][0]["tokenizer"]))
    decoded = tokenizer.decode([np.array(rows[index]) for index in starts], *chunks.shape[1:])
    error = decoded - chunks[starts]
    assert (np.square(error).mean(axis=(0, 1)) <= 0.2 * chunks.var(axis=(0, 1)) + 1e-12).all()


def test_an_offset_moves_every_token_and_the_manifest_tells_it(lake: Path, tmp_path: Path) -> None:
    plain = recipe("bins")
    moved = plain.model_copy(update={"tokenizer": TokenizerRecipe(name="bins", offset=32_000)})
    run_build(lake, tmp_path / "plain", plain)
    run_build(lake, tmp_path / "moved", moved)
    before, after = (tables(tmp_path / name / "parquet")["tokens"].to_pylist() for name in ("plain", "moved"))
    assert [row and [token + 32_000 for token in row] for row in before] == after
    groups = [read_json(tmp_path / name / "manifest.json")["groups"][0] for name in ("plain", "moved")]
    assert [group["token_offset"] for group in groups] == [0, 32_000]
    assert groups[0]["tokenizer"] == groups[1]["tokenizer"]
    chunks = vectors(tables(tmp_path / "moved" / "parquet")["action_chunk"])
    index = next(index for index, row in enumerate(after) if row is not None)
    tokenizer = registry.load("tokenizers", "bins").load(json.dumps(groups[1]["tokenizer"]))
    decoded = tokenizer.decode([np.array(after[index]) - groups[1]["token_offset"]], *chunks.shape[1:])
    assert (np.abs(decoded[0] - chunks[index]) <= tokenizer.error_bound + 1e-6).all()


def test_an_offset_where_no_id_is_to_be_moved_is_refused_before_anything_is_written(lake: Path, tmp_path: Path) -> None:
    values = BuildRecipe(formats=("parquet",), tokenizer=TokenizerRecipe(name="identity", offset=32_000))
    with pytest.raises(RecipeError, match="offset = 32000 moves nothing") as caught:
        run_build(lake, tmp_path / "out", values)
    assert caught.value.where == "tokenizer.offset"
    assert "beast, bins, fast, rvq" in caught.value.hint
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class Member:
    chunks: ActionChunks


def test_masked_steps_and_gaps_are_in_no_chunk_that_is_fitted() -> None:
    action = np.arange(24, dtype=np.float32).reshape(12, 2)
    starts = np.array([0] * 6 + [6] * 6)
    windows = Windows(np.array([0, 4, 8]), np.array([6] * 6 + [12] * 6), starts, np.ones(12, bool), ())
    valid = np.ones(12, bool)
    valid[[1, 10]] = False
    robot = Embodiment(
        name="slider",
        title="Slider",
        proprio=(),
        control_rate=Fraction(10),
        action=tuple(Channel(name=name, kind=ChannelKind.POSITION, unit="m") for name in ("u", "v")),
    )
    plan = ActionPlan.of(robot, ActionRecipe())
    member = Member(ActionChunks(plan, windows, 4, Fraction(10), action, np.zeros((12, 0)), valid, valid))
    chunks, mask = chunks_of([member] * 2, 4)
    assert mask.tolist() == [[True, False, True, True], [True, True, False, False], [True, True, False, True]] * 2
    assert chunks[:3, :, 0].tolist() == [[0, 2, 4, 6], [8, 10, 10, 10], [16, 18, 20, 22]]
