"""Cosmos-Predict2's videos, prompts and embeddings: what its loader finds is what was pushed, of each view of each episode.

The loader is imitated from ``cosmos_predict2/data/dataset_video.py``; its ``pickle.load`` is not called, what it would call is.
"""

import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import texts
from jobs.options import TextsOptions
from pipelines.barcode import Mark, read_mark
from pipelines.formats import cosmos_video
from pipelines.lake import Lake
from pipelines.pickle_files import pickled_arrays
from pipelines.text_rows import embedding_of
from pipelines.verify import verify_release
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import BuildRecipe, ViewsRecipe
from schemas.release_choices import TextChoice
from schemas.text_recipe import TextRecipe
from tests.chain import movie, read_json, run_build, run_ingest, write_short
from tests.fake_build import build_of, frame_number, make_build, write_build


def unpickled(data: bytes) -> Any:
    """What the instructions of ``pickled_arrays`` make, and no others: lists, tuples, texts, bytes, numbers, numpy.ndarray."""
    stack: list[Any] = []
    marks: list[int] = []
    for code, value, _ in pickletools.genops(data):
        match code.name:
            case "PROTO" | "STOP":
                pass
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                marks.append(len(stack))
            case "GLOBAL":
                assert value == "numpy ndarray"
                stack.append(np.ndarray)
            case "BININT" | "BINUNICODE" | "BINBYTES":
                stack.append(value)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(code.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "REDUCE":
                given = stack.pop()
                stack.append(stack.pop()(*given))
            case "APPENDS":
                at = marks.pop()
                stack[at - 1].extend(stack[at:])
                del stack[at:]
            case _:
                raise AssertionError(code.name)
    (made,) = stack
    return made


class Loader:
    """The part of ``Dataset`` that finds and reads files."""

    def __init__(self, folder: Path) -> None:
        self.t5 = folder / "t5_xxl"
        videos = sorted((folder / "videos").glob("*.mp4"))
        self.videos = [path for path in videos if (self.t5 / path.name.replace(".mp4", ".pickle")).exists()]

    def text(self, index: int) -> tuple[np.ndarray, int]:
        """[512, 1024], and how many of its rows are of the prompt."""
        found = unpickled((self.t5 / self.videos[index].name.replace(".mp4", ".pickle")).read_bytes())[0]
        count = found.shape[0]
        padded = np.concatenate([found, np.zeros((512 - count, 1024), dtype=np.float32)], axis=0)
        return padded, count


def test_the_loader_finds_every_view_with_its_prompt(tmp_path: Path) -> None:
    build = build_of("cosmos_video", (7, 1, 12), num_val=1)
    write_build(cosmos_video, build, tmp_path)
    views = [view for view, _, _ in build.group.views]
    for split, indices in (("train", (0, 1)), ("val", (2,))):
        loader = Loader(tmp_path / split)
        wanted = [(index, view) for index in indices for view in views]
        assert [path.stem for path in loader.videos] == [f"episode_{index:06d}_{view}" for index, view in wanted]
        for at, (index, view) in enumerate(wanted):
            episode = build.episodes[index]
            marks = [read_mark(frame) for frame in movie([loader.videos[at]])]
            assert marks == [Mark(frame_number(view, step), index) for step in range(episode.plan.num_steps)]
            padded, count = loader.text(at)
            embedding = episode.embeddings[episode.plan.instruction]
            np.testing.assert_array_equal(padded[:count], embedding.values)
            assert padded.dtype == np.float32
            assert not padded[count:].any()
            assert (tmp_path / split / "metas" / f"{loader.videos[at].stem}.txt").read_text() == embedding.prompt
    assert [row["episode_id"] for row in read_json(tmp_path / "wamloom.json")["episodes"]] == [
        episode.plan.episode_id for episode in build.episodes
    ]


def test_from_recordings_to_the_loader(tmp_path: Path) -> None:
    write_short(tmp_path / "recordings", lengths=(6, 4))
    run_ingest([tmp_path / "recordings"], tmp_path / "lake")
    made = TextRecipe(options={"length": 16, "width": 1024})
    texts.run(TextsOptions(str(tmp_path / "lake"), made, "", False, "inline"))
    recipe = BuildRecipe(
        formats=("cosmos_video",),
        texts=TextChoice(encoder="hashed"),
        views=ViewsRecipe(height_px=32, width_px=64),
        tokenizer=None,
    )
    run_build(tmp_path / "lake", tmp_path / "release", recipe)
    lake = Lake.open(str(tmp_path / "lake"))
    assert verify_release(tmp_path / "release", lake).ok
    manifest = read_json(tmp_path / "release/manifest.json")
    (group,) = manifest["groups"]
    loader = Loader(tmp_path / "release/cosmos_video" / group["name"] / "train")
    assert len(loader.videos) == 2 * len(group["views"])
    padded, count = loader.text(0)
    instruction = group["episodes"][0]["instruction"]
    assert instruction
    np.testing.assert_array_equal(
        padded[:count], embedding_of(lake, instruction.strip(), "hashed", padded=False).values
    )


def test_what_it_cannot_take_is_refused(tmp_path: Path) -> None:
    silent = make_build((4,))
    with pytest.raises(RecipeError, match="carries embeddings"):
        cosmos_video.FORMAT.open_unit(silent.units[0], silent.recipe, tmp_path)
    blind = build_of("cosmos_video", (4,), views=())
    with pytest.raises(RecipeError, match="no frames"):
        cosmos_video.FORMAT.open_unit(blind.units[0], blind.recipe, tmp_path)
    wide = build_of("cosmos_video", (4,), text_width=4096)
    with pytest.raises(ReleaseError, match=r"at most 512 x 1024, and .* x 4096"):
        write_build(cosmos_video, wide, tmp_path)


@pytest.mark.parametrize("shape", [(3,), (2, 5), (0, 4)])
def test_a_pickle_of_arrays_holds_nothing_but_them(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (found,) = unpickled(pickled_arrays([values]))
    np.testing.assert_array_equal(found, values)
    assert found.dtype == np.float32
    assert pickled_arrays([values, values]).count(b"cnumpy\nndarray\n") == 2
