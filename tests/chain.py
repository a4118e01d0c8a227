"""The whole chain in this process: recordings -> lake -> latents -> release, and its readers without wamloom's own code."""

import io
import json
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from jobs import build, encode, ingest
from jobs.cli import main
from jobs.execute import Executor
from jobs.options import Answer, BuildOptions, EncodeOptions, IngestOptions
from pipelines import registry
from pipelines.simulate import ROBOTS, SimulatedEpisode, simulate
from schemas.recipes import BuildRecipe, EncodeRecipe, IngestRecipe


def run_ingest(
    locations: Sequence[Path],
    lake: Path,
    *,
    retry: bool = False,
    card: Path | None = None,
    executor: Executor | None = None,
) -> Answer:
    places = tuple(str(place) for place in locations)
    chosen: Any = executor or "inline"  # run_units takes executors too
    name = None if card is None else str(card)
    return ingest.run(IngestOptions(places, str(lake), name, IngestRecipe(), retry, False, chosen))


def run_encode(lake: Path, recipe: EncodeRecipe, where: str = "") -> Answer:
    return encode.run(EncodeOptions(str(lake), recipe, where, False, "inline"))


def run_build(
    lake: Path, out: Path, recipe: BuildRecipe, executor: Executor | None = None, encode: EncodeRecipe | None = None
) -> Answer:
    chosen: Any = executor or "inline"
    return build.run(BuildOptions(str(lake), str(out), recipe, False, chosen, encode))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def tables(folder: Path) -> pa.Table:
    """All Parquet files of a folder, in the order of their names."""
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.rglob("*.parquet"))])


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists as [T, ...]; one of numbers as [T, 1]."""
    values = np.array(column.to_pylist())
    return values[:, None] if values.ndim == 1 else values


def picture(data: bytes) -> np.ndarray:
    """A JPEG as Pillow decodes it."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def movie(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    """Every frame of the files, one after the other."""
    for path in paths:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")


@dataclass(frozen=True)
class TarSample:
    """One sample of a shard."""

    facts: dict[str, Any]
    members: dict[str, bytes]

    def array(self, name: str) -> np.ndarray:
        return np.load(io.BytesIO(self.members[name]), allow_pickle=False)


def tar_samples(folder: Path) -> Iterator[TarSample]:
    """The samples of all shards of a folder; members with one key lie together."""
    for path in sorted(folder.glob("*.tar")):
        found: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                assert suffix not in found.get(key, {}), "a member twice"
                assert not found or key not in found or key == list(found)[-1], "members of a sample are apart"
                content = tar.extractfile(member)
                assert content is not None
                found.setdefault(key, {})[suffix] = content.read()
        for members in found.values():
            yield TarSample(json.loads(members["json"]), members)


def first_steps(episode: SimulatedEpisode, num_steps: int) -> SimulatedEpisode:
    """The beginning of a simulated episode."""
    return replace(
        episode,
        times_ns=episode.times_ns[:num_steps],
        action=episode.action[:num_steps],
        proprio=episode.proprio[:num_steps],
        frame_numbers=episode.frame_numbers[:num_steps],
    )


def write_short(
    out: Path, layout: str = "rlds", lengths: Sequence[int] = (12, 9), first: int = 0, robot: int = 1
) -> Path:
    """The first steps of simulated episodes as a data set of one robot (1: the gantry, with one camera); returns ``out``."""
    episodes = [first_steps(simulate(ROBOTS[robot], 0, index), length) for index, length in enumerate(lengths, first)]
    folder = out / ROBOTS[robot].name
    folder.mkdir(parents=True)
    registry.load("layouts", layout).write(episodes, folder)
    return out


def build_as_told(recipe: str, lake: Path, out: Path, weights: Path, *more: str) -> None:
    """Runs the `wamloom build` command that the head of a trainer's recipe tells, with its places filled in."""
    path = Path(__file__).parents[1] / "jobs" / "recipes" / recipe
    head = path.read_text().partition("wamloom build")[2].partition("#\n")[0].replace("#", "").replace("\\\n", " ")
    places = {"LAKE": str(lake), "RELEASE": str(out), "FOLDER": str(weights), recipe: str(path)}
    told = [places.get(word, word) for word in shlex.split(head)]
    assert {str(lake), str(out), str(weights), str(path)} < set(told)
    assert main(["build", *told, *more, "--executor", "inline"]) == 0
