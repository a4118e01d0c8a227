"""The encode line (lake, decoding child, batches, staging, commit) against the encoder alone on frames that are decoded already.

``python -m benchmarks.bench_encode``: full-size Wan 2.1 with random weights; ``--tiny FOLDER`` takes a tiny autoencoder from
its published weights instead, beside which the line is dearest. CPU counts the decoding child too.
"""

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.bench_encoders import save_random
from benchmarks.side_by_side import compare, machine
from jobs.ingest import run as ingest
from jobs.options import IngestOptions, SampleOptions
from jobs.sample import run as sample
from pipelines.clip_encoder import load_encoder
from pipelines.clip_reader import ClipReader
from pipelines.encode_commit import LatentCommitter
from pipelines.encode_plan import plan_encode
from pipelines.encode_unit import EncodeWorker
from pipelines.lake import Lake
from schemas.recipes import ClipRecipe, EncodeRecipe, IngestRecipe, ViewsRecipe
from schemas.work import WorkUnit


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tiny", type=Path, metavar="FOLDER", help="weights of a tiny autoencoder")
    parser.add_argument("--frames", type=int, default=9, help="of a clip")
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="wamloom-bench-") as scratch:
        folder = Path(scratch)
        if chosen.tiny is None:
            save_random("wan21", folder / "weights", tiny=False)
        measure(folder, chosen)


def measure(folder: Path, chosen: argparse.Namespace) -> None:
    """Ingests simulated recordings, and encodes the first clips of them both ways."""
    sample(SampleOptions(str(folder / "recordings"), "lerobot_v3", 2, 0, False))
    ingest(
        IngestOptions((str(folder / "recordings"),), str(folder / "lake"), None, IngestRecipe(), False, False, "inline")
    )
    recipe = EncodeRecipe(
        encoder="wan21" if chosen.tiny is None else "tiny_autoencoder",
        weights=str(chosen.tiny or folder / "weights"),
        views=ViewsRecipe(slots=("primary",), height_px=chosen.height, width_px=chosen.width),
        clip=ClipRecipe(kind="fixed", num_frames=chosen.frames),
        batch_clips=1,
    )
    encoder = load_encoder(recipe)
    lake = Lake.open(folder / "lake")
    plan = plan_encode(lake, recipe, encoder)
    works = [work for unit in plan.units for work in unit.payload]
    source = next(work for work in works if len(work.clips) >= chosen.clips)
    clips = source.clips[: chosen.clips]
    unit = WorkUnit("bench", (replace(source, clips=clips),), 0)
    reader = ClipReader(lake, recipe)
    pixels = [reader.parts(source, clip)[0] for clip in clips]
    reader.close()
    workers: list[tuple[EncodeWorker, LatentCommitter]] = []
    for number in range(chosen.rounds):  # a lake of its own for each round: the second would find the latents there
        own = folder / f"lake-{number}"
        shutil.copytree(folder / "lake", own)
        opened = Lake.open(own)
        worker = EncodeWorker(str(own), opened.versions(), str(folder / f"{own.name}-staging"), recipe)
        workers.append((worker, LatentCommitter(opened, plan, folder / f"{own.name}-staging")))
    turns = iter(workers)

    def line() -> None:
        worker, committer = next(turns)
        committer.add(worker(unit))
        worker.close()

    def alone() -> None:
        for one in pixels:
            encoder.encode_clips(np.stack([one]))

    alone()  # the first call makes what later ones have
    title = f"{recipe.encoder}, {len(clips)} clips of {chosen.frames} frames {chosen.height}x{chosen.width}"
    compare(
        title,
        ("the encoder alone", alone),
        ("the whole line", line),
        len(clips) * chosen.frames,
        "frame",
        chosen.rounds,
    )


if __name__ == "__main__":
    main()
