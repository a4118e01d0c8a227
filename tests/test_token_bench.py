"""The bench of tokenizers: errors in units that can be checked by hand, what is held out, what is refused, and the verb."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.cli import main
from pipelines import registry
from pipelines.holdout import families
from pipelines.lake import Lake
from pipelines.stats import Normalization, Stats, denormalize, normalize, sketch
from pipelines.token_bench import Candidate, Chunks, Trial, _recorded, _twins, bench, candidates, measure
from pipelines.token_errors import errors_by_quantity
from pipelines.tokenizers import fast
from schemas.action_recipe import ActionRecipe, Reference
from schemas.embodiment import Channel, ChannelKind, Embodiment, Gripper
from schemas.errors import FingerprintMismatch, LayoutError, RecipeError, UsageError
from schemas.recipes import BuildRecipe, TokenizerRecipe
from tests.chain import run_build, run_ingest, write_short

_COMMAND = ChannelKind.COMMAND


def robot(*channels: tuple[str, str, ChannelKind], gripper: tuple[float, float] | None = None) -> Embodiment:
    return Embodiment(
        name="robot",
        title="Robot",
        proprio=(),
        action=tuple(Channel(name=name, unit=unit, kind=kind) for name, unit, kind in channels),
        action_grippers=(Gripper(channel="grip", open=gripper[0], closed=gripper[1]),) if gripper else (),
    )


PLACES = robot(("x", "m", _COMMAND), ("y", "m", _COMMAND))


def measured(
    candidate: Candidate, body: Embodiment, fitted: Chunks, tried: Chunks, stats: Stats, kind: Normalization
) -> dict[str, Any]:
    """The row of chunks as recorded, normalized by ``stats``."""
    normal = [Chunks(normalize(one.values, stats, kind), one.mask) for one in (fitted, tried)]
    trial = Trial(body, *normal, tried.values, lambda decoded: denormalize(decoded, stats, kind))
    return measure(candidate, trial, ticks())


def ticks() -> Any:
    """A clock that goes on by a second whenever it is read."""
    return iter(range(10**9)).__next__


def test_errors_have_the_units_of_their_channels() -> None:
    body = robot(
        ("x", "m", ChannelKind.POSITION),
        ("joint", "rad", ChannelKind.POSITION),
        ("turn", "deg", ChannelKind.ANGLE),
        ("grip", "m", ChannelKind.GRIPPER),
        ("speed", "m/s", _COMMAND),
        ("what", "unknown", ChannelKind.UNKNOWN),
        gripper=(0.08, 0.0),
    )
    recorded = np.array([[0.1, 0.0, 179.0, 0.08, 1.0, 5.0]])
    decoded = np.array([[0.102, -np.pi / 180, -179.0, 0.06, 1.5, 2.0]])
    found = {name: errors.tolist() for name, errors in errors_by_quantity(body, recorded, decoded).items()}
    assert found == {
        "mm": pytest.approx([2]),
        "deg": pytest.approx([1, 2]),
        "gripper": pytest.approx([0.25]),
        "m/s": [0.5],
        "unknown": [3.0],
    }


@pytest.mark.parametrize(
    ("kind", "unit", "recorded", "decoded"),
    [
        (ChannelKind.EULER, "deg", [0, 0, 179], [0, 0, -178]),
        (ChannelKind.EULER, "rad", [0, 0, 0], [0, 0, np.radians(3)]),
        (ChannelKind.AXIS_ANGLE, "rad", [np.pi, 0, 0], [-np.pi + np.radians(3), 0, 0]),
        (
            ChannelKind.QUATERNION,
            "1",
            [0, 0, 0, 1],
            [0, 0, -2 * np.sin(np.radians(1.5)), -2 * np.cos(np.radians(1.5))],
        ),
    ],
)
def test_channels_of_one_rotation_have_one_angle_between_them(
    kind: ChannelKind, unit: str, recorded: list[float], decoded: list[float]
) -> None:
    body = robot(*((f"r{index}", unit, kind) for index in range(len(recorded))))
    found = errors_by_quantity(body, np.array([recorded]), np.array([decoded]))
    assert {name: errors.tolist() for name, errors in found.items()} == {"deg": [pytest.approx(3)]}


def test_the_numbers_of_coarse_bins_are_those_on_paper() -> None:
    # two bins of 0..1 per channel decode to 0.25 and 0.75: every value of the chunk is off by 0.25 m, or by 0.05 m
    values = np.array([[[0.0, 0.2], [0.5, 0.7], [1.0, 1.2]]])
    chunks = Chunks(values, np.ones((1, 3), dtype=bool))
    stats = sketch(values[0]).stats()
    coarse = Candidate("bins", "bins", {"num_bins": 2, "kind": "uniform"})
    row = measured(coarse, PLACES, chunks, chunks, stats, "none")
    assert row["refused"] is None
    assert row["errors"] == {"mm": {key: pytest.approx(250) for key in ("mean", "p50", "p90", "p99", "max")}}
    histogram = {"edges": (6, 6), "counts": (1,)}
    assert row["tokens_per_chunk"] == {"mean": 6, "p50": 6, "p99": 6, "max": 6, "histogram": histogram}
    assert (row["compression"], row["token_ratio"]) == (8, 1)
    assert (row["vocab_size"], row["undecodable"], row["random_undecodable"], row["clipped"]) == (2, 0, 0, 0)
    assert (row["fit_s"], row["encoded_per_s"], row["decoded_per_s"]) == (1, 6, 6)


def test_errors_are_told_in_the_units_of_the_card_whatever_the_normalisation() -> None:
    values = np.random.default_rng(0).normal([0.3, -2], [0.01, 5], (8, 6, 2))
    chunks = Chunks(values, np.ones((8, 6), dtype=bool))
    fine = Candidate("bins", "bins", {"num_bins": 1024, "kind": "uniform"})
    plain, scaled = (
        measured(fine, PLACES, chunks, chunks, sketch(values.reshape(-1, 2)).stats(), kind)
        for kind in ("none", "min_max")
    )
    assert plain["errors"]["mm"]["max"] == pytest.approx(scaled["errors"]["mm"]["max"], rel=0.1)
    same = measured(Candidate("", "identity", {}), PLACES, chunks, chunks, sketch(values[0]).stats(), "z_score")
    assert same["errors"]["mm"]["max"] < 1e-9
    assert same["tokens_per_chunk"] is same["compression"] is same["encoded_per_s"] is None


def test_masked_steps_never_count() -> None:
    values = np.zeros((2, 4, 2))
    values[:, :, 0] = np.arange(4) / 10
    fitted = Chunks(values, np.ones((2, 4), dtype=bool))
    stats = sketch(values.reshape(-1, 2)).stats()
    wild = values.copy()
    wild[1, 2:] = 1000.0
    mask = np.ones((2, 4), dtype=bool)
    mask[1, 2:] = False
    bins = Candidate("bins", "bins", {})
    row = measured(bins, PLACES, fitted, Chunks(wild, mask), stats, "none")
    assert row["errors"]["mm"]["max"] < 1
    everywhere = measured(bins, PLACES, fitted, Chunks(wild, fitted.mask), stats, "none")
    assert everywhere["errors"]["mm"]["max"] > 9e5


def test_a_tokenizer_that_refuses_is_a_row_with_its_reason() -> None:
    values = np.random.default_rng(0).normal(size=(4, 4, 2))
    chunks = Chunks(values, np.ones((4, 4), dtype=bool))
    row = measured(Candidate("beast", "beast", {}), PLACES, chunks, chunks, sketch(values[0]).stats(), "none")
    assert "more than the 4 steps" in row["refused"]
    assert "errors" not in row


def test_sequences_that_do_not_decode_are_counted_and_have_no_errors() -> None:
    picky = Candidate("", "tests.fake_tokenizer", {})
    chunks = Chunks(np.zeros((3, 2, 2)), np.ones((3, 2), dtype=bool))
    row = measured(picky, PLACES, chunks, chunks, sketch(np.zeros((2, 2))).stats(), "none")
    assert (row["undecodable"], row["clipped"]) == (1, 7)
    assert row["errors"]["mm"]["mean"] == 1000  # of chunks 0 and 2, off by 0 m and 2 m
    assert 0 < row["random_undecodable"] < 1


def test_options_of_the_recipe_are_those_of_the_tokenizer_it_names() -> None:
    recipe = BuildRecipe(tokenizer=TokenizerRecipe(name="beast", options={"num_basis": 5}))
    every = candidates((), recipe, ())
    assert [one.name for one in every] == registry.names("tokenizers")
    assert {one.label: dict(one.options) for one in every if one.options} == {"beast (num_basis=5)": {"num_basis": 5}}
    with pytest.raises(UsageError, match="did you mean 'bins'"):
        candidates(("bin",), recipe, ())
    with pytest.raises(RecipeError, match="cannot be read"):
        candidates((), recipe, ("nowhere",))
    moved = BuildRecipe(tokenizer=TokenizerRecipe(name="beast", offset=5))
    assert len(candidates((), moved, ())) == len(registry.names("tokenizers"))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lake")
    first = write_short(root / "recordings", lengths=(12, 30, 24))
    run_ingest([first, write_short(root / "other", lengths=(20,), robot=0)], root / "lake")
    return root / "lake"


def test_a_bench_is_of_what_a_build_would_take(lake: Path) -> None:
    skipped: Counter[str] = Counter()
    recipe = BuildRecipe(horizon=5, where="num_steps > 12")
    found = list(_recorded(Lake.open(str(lake)), recipe, skipped))
    assert sorted(len(one.chunks.action) for _, one in found) == [20, 24, 30]
    assert not skipped
    told = bench(Lake.open(str(lake)), recipe, candidates(("bins",), recipe, ()), 0.2, ticks())
    groups = {group["robot"]: group for group in told["groups"]}
    gantry, arm = groups["sample_gantry"], groups["sample_arm"]
    assert (gantry["fitted_episodes"], gantry["measured_episodes"], gantry["held_out"]) == (1, 1, True)
    assert gantry["fitted_chunks"] + gantry["measured_chunks"] == 5 + 6
    assert (arm["fitted_episodes"], arm["measured_episodes"], arm["held_out"]) == (1, 1, False)
    with pytest.raises(UsageError, match="holdout = 1 is not possible"):
        bench(Lake.open(str(lake)), recipe, [], 1, ticks())


@pytest.mark.parametrize("reference", ["absolute", "chunk_start", "segment_start", "framewise", "velocity"])
@pytest.mark.parametrize("normalize_by", ["all", "step"])
def test_errors_are_those_of_what_was_recorded_however_it_is_written(
    lake: Path, reference: Reference, normalize_by: Any
) -> None:
    actions = ActionRecipe(reference=reference, parts=("joints", "gripper"), slots="dreamzero_32")
    recipe = BuildRecipe(
        horizon=5,
        where="embodiment = 'sample_arm'",
        actions=actions,
        normalize="quantile",
        normalize_by=normalize_by,
        tokenizer=TokenizerRecipe(name="bins", options={"kind": "uniform", "num_bins": 16}),
    )
    (group,) = bench(Lake.open(str(lake)), recipe, candidates(("identity", "bins"), recipe, ()), 0.2, ticks())["groups"]
    assert len(group["action"]) == 7
    identity, bins = group["rows"]
    for quantity in ("deg", "gripper"):
        assert identity["errors"][quantity]["max"] < 1e-3, "there and back loses nothing but float32"
    assert 1e-3 < bins["errors"]["deg"]["max"] < 5


def test_statistics_of_another_release_normalize_in_the_bench_too(lake: Path, tmp_path: Path) -> None:
    ours = BuildRecipe(formats=("parquet",), normalize="min_max", horizon=8, where="embodiment = 'sample_gantry'")
    run_build(lake, tmp_path / "out", ours)
    (path,) = (tmp_path / "out/stats").rglob("statistics.json")
    plain = json.loads(path.read_text())
    plain["chunks"]["overall"]["min"] = [-1000.0] * len(plain["chunks"]["names"])
    path.write_text(json.dumps(plain))
    given = ours.model_copy(update={"stats_from": str(path)})
    errors = [
        bench(Lake.open(str(lake)), one, [Candidate("bins", "bins", {"kind": "uniform"})], 0.2, ticks())["groups"]
        for one in (ours, given)
    ]
    assert errors[0] != errors[1]
    with pytest.raises(FingerprintMismatch, match="sample_gantry of "):
        bench(Lake.open(str(lake)), given.model_copy(update={"actions": ActionRecipe(lead=1)}), [], 0.2, ticks())


def test_what_does_not_suit_a_robot_is_told_with_its_name(lake: Path) -> None:
    recipe = BuildRecipe(normalize="quantile", normalize_by="step", horizon=200)
    with pytest.raises(LayoutError, match=r"of sample_.*step \d+ of 200") as caught:
        bench(Lake.open(str(lake)), recipe, [], 0.2, ticks())
    assert "--where" in caught.value.hint


def test_copies_of_a_recording_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    first = write_short(tmp_path / "recordings", lengths=(10, 20, 80))
    again = write_short(tmp_path / "again", lengths=(10, 20, 40))  # the same, the same, and the third cut short
    run_ingest([first, again], tmp_path / "lake")
    store = Lake.open(str(tmp_path / "lake"))
    recipe = BuildRecipe(horizon=5)
    splits = set()
    for holdout in (0.2, 0.4, 0.6, 0.8):
        (group,) = bench(store, recipe, [], holdout, ticks())["groups"]
        assert (group["duplicates"], group["held_out"]) == (2, True)
        measured = {length for length in (2, 4, 8, 16) if group["measured_chunks"] & length}
        assert len({8, 16} & measured) != 1
        splits.add(frozenset(measured))
    assert len(splits) > 1


def test_equal_actions_are_twins_whatever_else_differs(lake: Path) -> None:
    recipe, store = BuildRecipe(horizon=5), Lake.open(str(lake))
    recorded = [one for _, one in _recorded(store, recipe, Counter())]
    same = [replace(one, chunks=replace(one.chunks, action=recorded[0].chunks.action)) for one in recorded[:2]]
    assert len(families([one.episode_id for one in recorded], _twins(store, recorded))) == len(recorded)
    assert (
        len(families([one.episode_id for one in recorded], _twins(store, [*same, *recorded[2:]]))) == len(recorded) - 1
    )


def test_the_verb_tells_a_table_and_one_object(lake: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walks = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (60, 6, 3)), axis=1)
    made = fast.fit(walks, normalize=False)
    (tmp_path / "tokenizer.json").write_text(made.vocabulary.to_str())
    config = {"scale": 10, "min_token": made.min_token, "vocab_size": 1024}
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    arguments = ["tokens", "bench", "--lake", str(lake), "--set", "horizon=6", "--published", str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "that were held out" in text
    assert "none held out" in text
    assert "  beast: num_basis = 8 is more than the 6 steps of a chunk; set num_basis from 5 to 6" in text
    assert f"fast of {tmp_path.name}" in text
    assert main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["normalize"], said["horizon"], said["holdout"]) == ("quantile", 6, 0.2)
    for group in said["groups"]:
        assert set(group["wrapped_chunks"]) <= set(group["action"])
        rows = {row["tokenizer"]: row for row in group["rows"]}
        assert set(rows) == {*registry.names("tokenizers"), f"fast of {tmp_path.name}"}
        assert {name for name, row in rows.items() if row["refused"]} == {"beast"}
        assert rows["identity"]["tokens_per_chunk"] is None
        assert all(one["max"] < 1e-6 for one in rows["identity"]["errors"].values())
        assert rows["bins"]["compression"] == rows["bins"]["token_ratio"] == 1
        assert rows["bins"]["encoded_per_s"] > 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--tokenizer bin", "did you mean 'bins'?"),
        ("--published nowhere", "cannot be read"),
        ("--holdout 1.5", "holdout = 1.5 is not possible"),
        ("--set horizn=4", "unknown key 'horizn'"),
        ("--set tokenizer.name=identity --set tokenizer.offset=9", "tokenizer.offset: identity keeps the values"),
    ],
)
def test_wrong_use_of_the_verb_is_2_with_a_hint(
    line: str, said: str, lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tokens", "bench", "--lake", str(lake), *line.split()]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "hint:" in err
