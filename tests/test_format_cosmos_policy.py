"""A stand-in of Cosmos Policy's LIBERO loader (contract test frozen from TRAINERS.md, 2.6). Its pickle is never opened."""

import hashlib
import io
import pickletools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

from jobs import texts
from jobs.options import TextsOptions
from pipelines.barcode import Mark, read_mark
from pipelines.formats import cosmos_policy
from pipelines.lake import Lake
from pipelines.numbers import numbers_of
from pipelines.text_rows import embedding_of
from pipelines.torch_files import pickled_tensors, read_numbers, read_pickled
from pipelines.verify import verify_release
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe, ViewsRecipe, load_recipe
from schemas.release_choices import SplitRecipe, TextChoice
from schemas.text_recipe import TextRecipe
from tests.chain import read_json, run_build, run_ingest, write_short
from tests.fake_build import FakeBuild, build_of, frame_number, make_build, write_build
from tests.release_chain import seal_again

ROOT = Path(__file__).resolve().parents[1]
TEXTS = ("pick up the cube", "open  the door.", "put on/off", "")


class LiberoFiles:
    """Demonstrations and rollouts as ``LIBERODataset`` takes them into memory."""

    def __init__(self, demos: Path, rollouts: Path) -> None:
        self.demos: list[dict[str, Any]] = []
        for path in sorted(demos.rglob("*.hdf5")):
            with h5py.File(path, "r") as file:
                for key in sorted(file["data"], key=lambda name: int(name.split("_")[1])):
                    obs: Any = file[f"data/{key}/obs"]
                    command = ""
                    for word in path.name[:-10].split("_"):
                        command = "" if "SCENE" in word else command + word + " "
                    self.demos.append(
                        {
                            "images": obs["agentview_rgb"][:],
                            "wrist_images": obs["eye_in_hand_rgb"][:],
                            "actions": file[f"data/{key}/actions"][:].astype(np.float32),
                            "proprio": file[f"data/{key}/robot_states"][:].astype(np.float32),
                            "command": command[:-1],
                        }
                    )
        self.rollouts: list[dict[str, Any]] = []
        for path in sorted(rollouts.rglob("*.hdf5")):
            with h5py.File(path, "r") as file:
                self.rollouts.append(
                    {
                        "images": file["primary_images"][:],
                        "wrist_images": file["wrist_images"][:],
                        "actions": file["actions"][:],
                        "proprio": file["proprio"][:],
                        "command": file.attrs["task_description"],
                        "success": bool(file.attrs["success"]),
                    }
                )
        self.stats = read_json(demos / "dataset_statistics.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeBuild, Path]:
    folder = tmp_path_factory.mktemp("cosmos")
    build = build_of("cosmos_policy", (7, 3, 5, 6, 4, 2, 8, 3), instructions=TEXTS, num_val=2)
    write_build(cosmos_policy, build, folder)
    return build, folder


def test_the_trainer_gets_every_value(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    files = LiberoFiles(folder / "demos/train", folder / "rollouts/train")
    train = [episode for episode in build.episodes if episode.plan.split == "train"]
    demos = [e for e in train if e.plan.success is not False and "/" not in e.plan.instruction]
    rollouts = [e for e in train if e not in demos]
    assert (len(files.demos), len(files.rollouts)) == (len(demos), len(rollouts)) == (3, 3)
    for found, episode in zip([*files.demos, *files.rollouts], [*demos, *rollouts], strict=True):
        np.testing.assert_array_equal(found["actions"], episode.action)
        np.testing.assert_array_equal(found["proprio"], episode.proprio)
        assert found["command"] == episode.plan.instruction
        for key, view in (("images", "primary"), ("wrist_images", "wrist_left")):
            marks = [read_mark(frame) for frame in found[key]]
            index = episode.plan.episode_index
            assert marks == [Mark(frame_number(view, step), index) for step in range(episode.plan.num_steps)]
    assert [one["success"] for one in files.rollouts] == [e.plan.success is not False for e in rollouts]
    actions = np.concatenate([episode.action for episode in demos]).astype(np.float64)
    for name in ("min", "max", "mean", "std", "median"):
        np.testing.assert_array_equal(files.stats[f"actions_{name}"], getattr(np, name)(actions, axis=0))
    assert set(files.stats) == {
        f"{a}_{b}" for a in ("actions", "proprio") for b in ("min", "max", "mean", "std", "median")
    }


def test_a_number_that_never_changes_divides_by_no_zero(tmp_path: Path) -> None:
    """``rescale_data`` of the trainer: 2 * (x - min) / (max - min) - 1."""
    build = build_of("cosmos_policy", (7,), instructions=TEXTS)
    values = build.episodes[0].proprio
    values.flags.writeable = True
    values[:, 1] = 0.25
    write_build(cosmos_policy, build, tmp_path)
    (demo,), stats = (files := LiberoFiles(tmp_path / "demos/train", tmp_path / "rollouts/train")).demos, files.stats
    low, high = (np.array(stats[f"proprio_{name}"]) for name in ("min", "max"))
    scaled = 2 * ((demo["proprio"] - low) / (high - low)) - 1
    assert (low[1], high[1]) == (-0.75, 1.25)
    np.testing.assert_array_equal(scaled[:, 1], np.zeros(7))
    np.testing.assert_allclose((scaled[:, 0].min(), scaled[:, 0].max()), (-1, 1))


def aloha_file(path: Path) -> dict[str, Any]:
    """What ``ALOHADataset`` takes of a demonstration or a rollout into memory."""
    with h5py.File(path, "r") as file:
        seen: Any = file["observations"]
        cameras = {"primary": "cam_high", "wrist_left": "cam_left_wrist", "wrist_right": "cam_right_wrist"}
        return {
            "action": file["action"][:],
            "qpos": seen["qpos"][:],
            "pictures": {view: seen["images"][camera][:] for view, camera in cameras.items()},
            "command": file.attrs["task_description"],
            "success": bool(file.attrs["success"]),
        }


def test_robots_with_two_wrists_have_alohas_shape(tmp_path: Path) -> None:
    views = (("primary", 64, 96), ("wrist_left", 48, 64), ("wrist_right", 48, 64))
    said = ("fold the shirt", "", "pick up the cube", "")
    build = build_of("cosmos_policy", (7, 3, 5, 6, 4), instructions=said, num_val=1, views=views)
    write_build(cosmos_policy, build, tmp_path)
    demos = tmp_path / "demos"
    found = {path.relative_to(tmp_path).as_posix(): aloha_file(path) for path in tmp_path.rglob("*.hdf5")}
    files = read_json(tmp_path / "wamloom.json")["files"]
    assert sorted(files) == sorted(found)
    # the reader knows the split by a folder, and its published version the instruction by the folder before that
    assert sorted(name for name in files if name.startswith("demos/")) == [
        "demos/fold_the_shirt/train/episode_000000.hdf5",
        "demos/pick_up_the_cube/train/episode_000002.hdf5",
    ]
    assert sum("/val/" in name for name in files) == 1
    for episode in build.episodes:
        (name,) = [name for name, episode_id in files.items() if episode_id == episode.plan.episode_id]
        one = found[name]
        np.testing.assert_array_equal(one["action"], episode.action)
        np.testing.assert_array_equal(one["qpos"], episode.proprio)
        assert (one["command"], one["success"]) == (episode.plan.instruction, episode.plan.success is not False)
        for view, frames in one["pictures"].items():
            marks = [read_mark(frame) for frame in frames]
            numbers = range(episode.plan.num_steps)
            assert marks == [Mark(frame_number(view, step), episode.plan.episode_index) for step in numbers]
    trained = np.concatenate([build.episodes[number].action for number in (0, 2)]).astype(np.float64)
    np.testing.assert_array_equal(read_json(demos / "dataset_statistics.json")["actions_max"], trained.max(axis=0))
    assert cosmos_policy.FORMAT.count(tmp_path) == {"samples": 25, "frames": 75, "episodes": 5}


def test_the_pickle_holds_tensors_and_calls_nothing_else(written: tuple[FakeBuild, Path]) -> None:
    build, folder = written
    data = (folder / "t5_embeddings.pkl").read_bytes()
    pickletools.dis(data, io.StringIO())  # as a whole, without running it
    ops = [(op.name, value) for op, value, _ in pickletools.genops(data)]
    assert {name for name, _ in ops} == {
        *("PROTO", "EMPTY_DICT", "MARK", "BINUNICODE", "GLOBAL", "BINBYTES", "TUPLE1", "REDUCE", "SETITEMS", "STOP")
    }
    assert {value for name, value in ops if name == "GLOBAL"} == {"torch.storage _load_from_bytes"}
    keys = [value for name, value in ops if name == "BINUNICODE"]
    tensors = [torch.load(io.BytesIO(value), weights_only=True) for name, value in ops if name == "BINBYTES"]
    same = safetensors.numpy.load((folder / "t5_embeddings.safetensors").read_bytes())
    embeddings = {text: one for episode in build.episodes for text, one in episode.embeddings.items()}
    assert sorted(keys) == sorted({"", *(episode.plan.instruction for episode in build.episodes)})
    for text, tensor in zip(keys, tensors, strict=True):
        assert (tensor.shape, tensor.dtype) == ((1, 512, 1024), torch.bfloat16)
        values = embeddings[text].values
        np.testing.assert_array_equal(same[cosmos_policy.text_key(text)][0, : len(values)], values)
        assert not same[cosmos_policy.text_key(text)][0, len(values) :].any()
        assert torch.equal(tensor, torch.from_numpy(same[cosmos_policy.text_key(text)]).to(torch.bfloat16))


def test_equal_tensors_give_an_equal_pickle() -> None:
    one, two = ({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float32)} for _ in range(2))
    hashes = {hashlib.sha256(pickled_tensors(values, "bfloat16")).hexdigest() for values in (one, two)}
    assert len(hashes) == 1


def test_what_the_pickle_is_stands_beside_it(written: tuple[FakeBuild, Path]) -> None:
    assert "never open one of unknown origin" in " ".join((written[1] / "README.md").read_text().split())


def test_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    build = build_of("cosmos_policy", (4,), text_width=4096)
    writer = cosmos_policy.FORMAT.open_unit(build.units[0], build.recipe, tmp_path)
    with pytest.raises(ReleaseError, match="at most 512 x 1024"):
        writer.begin(build.episodes[0])


def test_what_the_trainer_lacks_is_told_before_any_work(tmp_path: Path) -> None:
    mute = make_build((4,))
    with pytest.raises(RecipeError, match="embeddings of the instructions"):
        cosmos_policy.FORMAT.open_unit(mute.units[0], mute.recipe, tmp_path)
    blind = build_of("cosmos_policy", (4,), views=(("primary", 64, 96),))
    with pytest.raises(RecipeError, match="one of a wrist"):
        cosmos_policy.FORMAT.open_unit(blind.units[0], blind.recipe, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_from_recordings_to_files(tmp_path: Path) -> None:
    write_short(tmp_path / "recordings", lengths=(9, 8, 7), robot=0)
    run_ingest([tmp_path / "recordings"], tmp_path / "lake")
    made = TextRecipe(encoder="hashed", options={"width": 1024}, dtype="bfloat16")
    texts.run(TextsOptions(str(tmp_path / "lake"), made, "", False, "inline"))
    text = (ROOT / "jobs" / "recipes" / "cosmos_policy.toml").read_text()
    recipe = load_recipe(BuildRecipe, text, "cosmos_policy.toml").model_copy(
        update={
            "views": ViewsRecipe(slots=("primary", "wrist_left"), height_px=32, width_px=32),
            "texts": TextChoice(encoder="hashed"),
            "split": SplitRecipe(),
        }
    )
    run_build(tmp_path / "lake", tmp_path / "out", recipe)
    lake = Lake.open(tmp_path / "lake")
    result = verify_release(tmp_path / "out", lake, readers=True)
    assert result.problems == []
    assert result.checked["texts_compared_with_the_lake"] == 2 * 3
    (group,) = read_json(tmp_path / "out" / "manifest.json")["groups"]
    folder = tmp_path / "out" / "cosmos_policy" / group["name"]
    files = LiberoFiles(folder / "demos/train", folder / "rollouts/train")
    planned = [plan for plan in group["episodes"] if plan["success"] is not False]
    assert len(files.demos) == len(planned) > 0
    for found, plan in zip(files.demos, planned, strict=True):
        numbers = numbers_of(lake.episode(plan["episode_id"]), None, ("primary", "wrist_left"))
        np.testing.assert_array_equal(found["actions"], numbers.action.astype(np.float32))
        np.testing.assert_array_equal(found["proprio"], numbers.proprio.astype(np.float32))
        assert found["command"] == plan["instruction"]
        kept = safetensors.numpy.load((folder / "t5_embeddings.safetensors").read_bytes())
        stored = embedding_of(lake, plan["instruction"], "hashed", padded=False).values
        np.testing.assert_array_equal(kept[cosmos_policy.text_key(plan["instruction"])][0, : len(stored)], stored)
    pickle = folder / "t5_embeddings.pkl"
    whole = pickle.read_bytes()
    values = {text: read_numbers(pickle, value, "bfloat16", 3) for text, value in read_pickled(pickle).items()}
    changed = {text: value[:, ::-1] for text, value in values.items()}
    for data, told in (
        (pickled_tensors(changed, "bfloat16"), f"{pickle}: it does not hold what"),
        (
            whole.replace(b"_load_from_bytes", b"_load_from_other", 1),
            f"{pickle}: cannot be read back: it has other instructions",
        ),
        (whole[:-2] + b"." + whole[-2:], "other instructions"),
        (whole[:4000] + b"\xff" * 9 + whole[4009:], f"{pickle}: cannot be read back"),
        (whole + b"u.", "there is something behind its end"),
        (whole[:-30], f"{pickle}: cannot be read back"),
    ):
        pickle.write_bytes(data)
        seal_again(tmp_path / "out")
        problems = verify_release(tmp_path / "out", lake).problems
        assert problems
        assert told in problems[0].message
