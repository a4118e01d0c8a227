"""The text line: which prompts there are, what is computed once, kept, read back, and what becomes of it under faults."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from jobs import status, texts, verify
from jobs.cli import main
from jobs.execute import Executor, WorkerSpec
from jobs.options import Answer, StatusOptions, TextsOptions, VerifyOptions
from jobs.run import Interrupted
from pipelines import cards
from pipelines.lake import Lake
from pipelines.text_encoders.hashed import Hashed
from pipelines.text_rows import embedding_of, embeddings_of, from_bytes, text_batch, to_bytes
from pipelines.verify import verify_lake
from schemas.errors import FingerprintMismatch, LakeError, LayoutError, RecipeError
from schemas.tables import TEXTS
from schemas.text_recipe import TextDtype, TextRecipe
from schemas.work import UnitResult, WorkUnit
from tests.lake_rows import made_row, made_table
from tests.text_models import write_model

ROOT = Path(__file__).parents[1]
SAID = {
    "a": ["pick up the cup", "Pick up the cup.", "lift the cup"],
    "b": ["pick up the cup"],
    "c": [],
    "d": ["", "  "],
    "e": ["pick up the cup", "put it down"],
}
"""Instructions by episode: five distinct texts in all, one of them only the label of a segment."""


def make_lake(folder: Path) -> Path:
    robot = cards.load_pair("sample_arm_rlds")[1]
    rows = []
    for number, (name, said) in enumerate(SAID.items()):
        row = made_row(name, key=f"e{number}")
        row |= {"embodiment": robot.name, "embodiment_json": robot.model_dump_json()}
        row["instructions"] = [{"text": text, "field": "task", "start_ns": None, "stop_ns": None} for text in said]
        row["segments"] = []
        rows.append(row)
    rows[0]["segments"] = [
        {"kind": "language", "start_ns": 0, "stop_ns": 1, "label": "grasp it"},
        {"kind": "idle", "start_ns": 0, "stop_ns": 1, "label": "by rule"},
    ]
    rows.append(made_row("f", key="e9", outcome="rejected") | {"instructions": rows[0]["instructions"][:1]})
    Lake.create(folder).insert("episodes", made_table(*rows))
    return folder


def run_texts(lake: Path, executor: Executor | str = "inline", where: str = "", **choices: Any) -> Answer:
    chosen: Any = executor
    return texts.run(TextsOptions(str(lake), TextRecipe(**choices), where, False, chosen))


def content(lake: Path) -> dict[str, str]:
    rows = Lake.open(lake).rows("texts", ["row_sha256"])
    assert len({row["text_id"] for row in rows}) == len(rows)
    return {row["text_id"]: row["row_sha256"] for row in rows}


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return make_lake(tmp_path / "lake")


def test_every_distinct_prompt_is_computed_once_and_the_empty_one_always(lake: Path) -> None:
    first = run_texts(lake)
    facts = {key: first.values[key] for key in ("episodes", "speechless_episodes", "instructions", "prompts", "cached")}
    assert facts == {"episodes": 5, "speechless_episodes": 2, "instructions": 7, "prompts": 6, "cached": 0}
    assert (first.values["computed"], first.values["failed"], first.exit_code) == (6, 0, 0)
    assert any("not for training" in warning for warning in first.warnings)
    prompts = {row["prompt"]: row["template"] for row in Lake.open(lake).rows("texts", ["prompt", "template"])}
    assert set(prompts) == {"", "pick up the cup", "Pick up the cup.", "lift the cup", "put it down", "grasp it"}
    assert prompts.pop("") == ""
    assert set(prompts.values()) == {"plain@1"}
    again = run_texts(lake)
    assert (again.values["computed"], again.values["cached"]) == (0, 6)


def test_another_choice_computes_only_what_is_new(lake: Path) -> None:
    run_texts(lake)
    lower = run_texts(lake, steps=("lower",))
    assert (lower.values["computed"], lower.values["prompts"]) == (1, 6), "Pick up the cup. in lower case"
    fastwam = run_texts(lake, template="fastwam")
    assert (fastwam.values["computed"], fastwam.values["cached"]) == (5, 1), "the empty prompt is there"
    extra = run_texts(lake, extra_prompts=("blurry",))
    assert (extra.values["computed"], extra.values["cached"]) == (1, 6)
    assert run_texts(lake, where="episode_id = 'b'").values["computed"] == 0
    assert run_texts(lake, options={"length": 16}).values["computed"] == 6
    assert run_texts(lake, dtype="float16").values["computed"] == 6
    # how rows are kept and packed is no part of what they are
    assert run_texts(lake, storage="padded", unit_prompts=1).values["computed"] == 0


def test_fields_come_from_the_episode_and_from_the_recipe(lake: Path) -> None:
    run_texts(
        lake, template="{robot} in {place}, {views}: {instruction}", fields={"place": "a lab"}, where="episode_id='b'"
    )
    prompts = {row["prompt"] for row in Lake.open(lake).rows("texts", ["prompt"])}
    assert prompts == {"", "sample_arm in a lab, primary: pick up the cup"}
    with pytest.raises(RecipeError, match="'robot' is what an episode gives"):
        run_texts(lake, fields={"robot": "mine"})
    with pytest.raises(RecipeError, match=r"(?s)field 'idle_frames'|field 'duration_s'"):
        run_texts(lake, template="cosmos3_droid_idle")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_read_is_what_was_encoded_however_it_is_kept(lake: Path, tmp_path: Path, dtype: TextDtype) -> None:
    other = make_lake(tmp_path / "padded")
    run_texts(lake, dtype=dtype)
    run_texts(other, dtype=dtype, storage="padded")
    values, masks = Hashed(32, 64).encode(["pick up the cup", ""])
    expected = torch.tensor(values).to(getattr(torch, dtype)).float().numpy()
    for root in (lake, other):
        opened = Lake.open(root)
        for number, prompt in enumerate(["pick up the cup", ""]):
            padded = embedding_of(opened, prompt, "hashed")
            assert padded.values.dtype == np.float32
            assert np.array_equal(padded.values, expected[number])
            assert np.array_equal(padded.mask, masks[number])
            assert (padded.length, padded.dtype, padded.encoder) == (32, dtype, "hashed")
            own = embedding_of(opened, prompt, padded.encoder_fingerprint, length=32, dtype=dtype, padded=False)
            assert np.array_equal(own.values, expected[number][masks[number]])
            assert own.mask.all()
    shapes = [{tuple(row["shape"]) for row in Lake.open(root).rows("texts", ["shape"])} for root in (lake, other)]
    assert (5, 64) in shapes[0]
    assert shapes[1] == {(32, 64)}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_are_rounded_as_torch_rounds_them(dtype: TextDtype) -> None:
    random = np.random.default_rng(0)
    values = (random.normal(size=(50, 40)) * 10.0 ** random.integers(-6, 4, (50, 40))).astype(np.float32)
    values[0, :4] = [0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8]  # two ties, to even
    kept = torch.tensor(values).to(getattr(torch, dtype))
    data = to_bytes(values, dtype)
    raw = kept.view(torch.int16).numpy().tobytes() if dtype != "float32" else kept.numpy().tobytes()
    assert data == raw
    stored = {"float32": "<f4", "float16": "<f2", "bfloat16": "bfloat16"}[dtype]
    assert np.array_equal(from_bytes(data, stored, [50, 40]), kept.float().numpy())


def test_what_is_no_number_fails_alone_and_names_its_prompt(lake: Path) -> None:
    answer = run_texts(lake, encoder="tests.infinite_encoder", extra_prompts=("bad",), max_failed_fraction=0.5)
    assert (answer.values["computed"], answer.values["failed"], answer.exit_code) == (6, 1, 0)
    assert answer.values["reasons"] == {"text_not_finite": 1}
    assert "prompt 'bad'" in answer.warnings[0]
    half = run_texts(lake, encoder="tests.infinite_encoder", dtype="float16")
    assert (half.values["failed"], half.exit_code) == (6, 4)
    again = run_texts(lake, encoder="tests.infinite_encoder", extra_prompts=("bad",))
    assert (again.values["cached"], again.values["failed"], again.exit_code) == (6, 1, 4)
    for dtype in ("float16", "bfloat16"):
        with pytest.raises(LayoutError, match=dtype):
            to_bytes(np.float32([3.4e38]), dtype)


def test_values_beside_the_mask_are_never_lost() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    mask = np.array([True, True, False, False])
    facts: dict[str, Any] = {"template": "", "encoder": "x", "encoder_fingerprint": "f", "dtype": "float32"}
    batch = text_batch("p", values, mask, padded=False, **facts)
    assert batch.column("shape")[0].as_py() == [4, 3]
    values[2:] = 0
    assert text_batch("p", values, mask, padded=False, **facts).column("shape")[0].as_py() == [2, 3]


def test_several_kinds_are_told_apart_and_missing_prompts_named(lake: Path) -> None:
    run_texts(lake)
    opened = Lake.open(lake)
    with pytest.raises(
        LakeError, match=r"(?s)2 of 3 prompts have no embedding by 'hashed', such as 'jump'.*wamloom texts"
    ):
        embeddings_of(opened, ["jump", "lift the cup", "run"], "hashed")
    with pytest.raises(LakeError, match="no embedding by 'umt5'"):
        embedding_of(opened, "", "umt5")
    run_texts(lake, options={"length": 16})
    opened.refresh()
    with pytest.raises(
        LakeError, match=r"2 kinds of embeddings by 'hashed'.*length 16 as float32.*length 32"
    ) as caught:
        embedding_of(opened, "", "hashed")
    assert caught.value.reason == "ambiguous"
    assert embedding_of(opened, "", "hashed", length=16).values.shape == (16, 64)
    many = [f"prompt {number}" for number in range(450)] + ["it's"]
    run_texts(lake, extra_prompts=tuple(many))
    opened.refresh()
    found = embeddings_of(opened, many, "hashed", length=32)
    assert set(found) == set(many)
    assert np.array_equal(found["it's"].values, Hashed(32, 64).encode(["it's"])[0][0])


def test_verify_and_status_know_texts(lake: Path) -> None:
    run_texts(lake)
    checked = verify.run(VerifyOptions(str(lake)))
    assert [one for one in checked.values["problems"] if "texts" in one["where"]] == []
    assert checked.values["checked"]["texts"] == 6
    told = status.run(StatusOptions(str(lake)))
    fingerprint = Hashed(32, 64).fingerprint
    entry = {"encoder": "hashed", "encoder_fingerprint": fingerprint, "length": 32, "dtype": "<f4", "prompts": 6}
    assert told.values["texts"] == [entry]
    assert f"  texts: 6 prompts by hashed of length 32, encoder {fingerprint[:12]}" in told.lines


@pytest.mark.parametrize("column", ["data", "prompt", "mask"])
def test_a_changed_row_is_found(lake: Path, column: str) -> None:
    run_texts(lake)
    opened = Lake.open(lake)
    table = opened.table("texts")
    rows = table.to_table()
    index = TEXTS.get_field_index(column)
    spoilt = rows[column].to_pylist()
    spoilt[2] = {"data": b"\0" * len(spoilt[2]) if column == "data" else b"", "prompt": "other", "mask": [True] * 32}[
        column
    ]
    rows = rows.set_column(index, TEXTS.field(index), pa.array(spoilt, TEXTS.field(index).type))
    prompt = rows["prompt"][2].as_py()
    table.merge_insert("text_id").when_matched_update_all().execute(rows)
    opened.refresh()
    problems = [one for one in verify_lake(opened).problems if "texts" in one.where]
    assert len(problems) == 1
    assert "not as it was written" in problems[0].message
    if column == "data":
        with pytest.raises(LakeError, match="damaged"):
            embedding_of(opened, prompt, "hashed")


class Interrupting:
    """Hands over ``number`` results, works on one more, and is interrupted before it can tell."""

    name = "interrupting"

    def __init__(self, number: int) -> None:
        self._number = number

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        work = worker.make()
        for number, unit in enumerate(units):
            result = work(unit)
            if number == self._number:
                raise Interrupted(2)
            yield result


def test_an_interrupted_run_continues(lake: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_texts(lake, Interrupting(2), unit_prompts=1)
    assert len(content(lake)) == 2
    rest = run_texts(lake, unit_prompts=1)
    assert (rest.values["cached"], rest.values["computed"]) == (2, 4)
    whole = make_lake(tmp_path / "whole")
    run_texts(whole)
    assert content(lake) == content(whole)


@pytest.mark.kill
def test_a_killed_run_continues(lake: Path, tmp_path: Path) -> None:
    choices = ["--encoder", "tests.dying_encoder", "--set", "options.at='put it down'", "--set", "unit_prompts=1"]
    choices += ["--set", f"options.done='{tmp_path / 'died'}'", "--executor", "inline"]
    command = [sys.executable, "-W", "ignore", "-m", "jobs.cli", "texts", "--lake", str(lake), *choices]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -9, killed.stderr
    had = len(content(lake))
    assert 0 < had < 6
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert f"{6 - had} computed" in ended.stdout
    assert len(content(lake)) == 6
    assert sorted(path.name for path in (lake / "staging").iterdir()) in ([], ["lock"])


@pytest.mark.ray
def test_ray_gives_what_inline_gives(lake: Path, tmp_path: Path, ray_executor: Executor) -> None:
    run_texts(lake, ray_executor, unit_prompts=2)
    other = make_lake(tmp_path / "other")
    run_texts(other)
    assert content(lake) == content(other)


def test_a_model_through_the_whole_line(lake: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "umt5", "umt5")
    choices: dict[str, Any] = {"encoder": "umt5", "weights": str(tmp_path / "umt5"), "options": {"length": 4}}
    answer = run_texts(lake, dtype="bfloat16", **choices)
    assert (answer.values["computed"], answer.values["length"], answer.values["width"]) == (6, 4, 16)
    assert answer.values["full"] == 4, "all but the empty prompt and the one of two words fill four tokens"
    assert any("4 prompts fill all 4 tokens" in warning for warning in answer.warnings)
    from pipelines.text_encoders import umt5

    encoder = umt5.load(choices["weights"], choices["options"])
    found = embedding_of(Lake.open(lake), "grasp it", "umt5")
    values, mask = encoder.encode(["grasp it"])
    assert np.array_equal(found.mask, mask[0])
    assert np.abs(found.values - values[0]).max() <= np.abs(values).max() / 128


def test_weights_that_changed_since_the_plan_stop_the_run(lake: Path, tmp_path: Path) -> None:
    from pipelines.texts import TextWorker

    with pytest.raises(FingerprintMismatch, match="not of the plan"):
        TextWorker(str(tmp_path), TextRecipe(), "of the plan")


def test_a_lake_without_a_kept_episode_says_so(lake: Path) -> None:
    with pytest.raises(LakeError, match="no kept episode matches"):
        run_texts(lake, where="dataset = 'none'")


def test_the_command_plans_and_says_what_it_saves(lake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "texts",
        "--lake",
        str(lake),
        "--template",
        "Please {instruction}",
        "--set",
        "extra_prompts=['caf\u00e9']",
    ]
    assert main([*command, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "5 episodes with 7 instructions make 7 distinct prompts, the empty one among them" in out
    assert "would encode 7 of them with hashed; 0 are in the lake" in out
    assert "1 prompts have characters other than printable ASCII" in err
    assert len(content(lake)) == 0
    assert main([*command, "--template", "plane"]) == 2
    assert "did you mean 'plain'" in capsys.readouterr().err
    assert pc.count(Lake.open(lake).select("texts", ["prompt"])["prompt"]).as_py() == 0
