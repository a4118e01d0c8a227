"""The same recipe gives the same bytes: in this process, on Ray with one worker and with two, and in any order of the units."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from jobs import texts
from jobs.execute import Executor, InlineExecutor, WorkerSpec
from jobs.options import TextsOptions
from pipelines import registry
from schemas.recipes import BuildRecipe, ViewsRecipe
from schemas.release_choices import SizeRecipe, SplitRecipe, TextChoice
from schemas.text_recipe import TextRecipe
from schemas.work import UnitResult, WorkUnit
from tests.arm_lake import arm_lake
from tests.chain import run_build
from tests.fake_build import tree_bytes

FORMATS = tuple(name for name in registry.names("formats") if name not in ("lingbot", "fastwam"))
"""Those two have tests of their own with the latents and prompts that they need."""
RECIPE = BuildRecipe(
    formats=FORMATS,
    views=ViewsRecipe(slots=("primary", "wrist_left"), height_px=64, width_px=64),
    sizes={"rlds": SizeRecipe(height_px=32, width_px=48)},
    horizon=4,
    unit_frames=18,
    texts=TextChoice(encoder="hashed"),
    split=SplitRecipe(val_fraction=0.3),
)


@dataclass(frozen=True)
class OnRay:
    """The cluster of the tests, which has two CPUs, with as many workers as ``num_workers``."""

    ray: Executor
    num_workers: int
    name: str = "ray"

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        return self.ray.run(units, replace(worker, num_cpus=2 / self.num_workers), stop)


class Backwards(InlineExecutor):
    """Works through the units from the last to the first, each with a worker of its own."""

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        for unit in reversed(units):
            yield from super().run([unit], worker, stop)


class BrokenOff(InlineExecutor):
    """Is interrupted when two units are done."""

    def run(
        self, units: Sequence[WorkUnit], worker: WorkerSpec, stop: Callable[[], bool]
    ) -> Iterator[UnitResult | None]:
        yield from super().run(units[:2], worker, stop)
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings of an arm with three cameras, and embeddings of what they were told."""
    found = arm_lake(tmp_path_factory.mktemp("arm"), (12, 9, 7, 8, 10))
    made = TextRecipe(encoder="hashed", options={"width": 1024}, dtype="bfloat16")
    assert texts.run(TextsOptions(str(found), made, "", False, "inline")).exit_code == 0
    return found


@pytest.fixture(scope="module")
def inline(lake: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("release") / "out"
    run_build(lake, out, RECIPE)
    found = tree_bytes(out)
    folders = {name.split("/")[0] for name in found}
    assert {name for name in FORMATS if registry.load("formats", name).FORMAT.beside == ""} <= folders
    return found


def test_units_in_another_order_by_other_workers(lake: Path, inline: dict[str, bytes], tmp_path: Path) -> None:
    run_build(lake, tmp_path / "out", RECIPE, Backwards())
    assert tree_bytes(tmp_path / "out") == inline


def test_a_build_that_was_interrupted_has_no_manifest_and_is_continued(
    lake: Path, inline: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_build(lake, tmp_path / "out", RECIPE, BrokenOff())
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = run_build(lake, tmp_path / "out", RECIPE)
    assert again.exit_code == 0
    assert tree_bytes(tmp_path / "out") == inline


@pytest.mark.ray
@pytest.mark.parametrize("num_workers", [1, 2])
def test_ray(lake: Path, inline: dict[str, bytes], tmp_path: Path, ray_executor: Executor, num_workers: int) -> None:
    run_build(lake, tmp_path / "out", RECIPE, OnRay(ray_executor, num_workers))
    assert tree_bytes(tmp_path / "out") == inline
