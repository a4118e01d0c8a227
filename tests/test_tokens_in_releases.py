"""What a build does with each kind of tokenizer: fitted to single steps, published, and none because values stay as they are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.tokenizers import fast
from schemas.errors import LayoutError
from schemas.recipes import BuildRecipe, TokenizerRecipe
from tests.chain import run_build, run_ingest, tables, vectors, write_short


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


def test_fast_is_not_fitted_to_single_steps(lake: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="whole chunks"):
        run_build(lake, tmp_path / "out", recipe("fast"))
