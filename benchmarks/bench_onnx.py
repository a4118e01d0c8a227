"""The option ``runtime`` of the tiny autoencoder: its encoder by ONNX Runtime against torch, on the CPU, float32.

``python -m benchmarks.bench_onnx FOLDER``, the folder of its published weights. Prints the largest difference of latents too.
"""

import argparse
from importlib.util import find_spec

import numpy as np

from benchmarks.bench_encoders import decoded, mp4
from benchmarks.side_by_side import compare, machine
from pipelines.encoders.tiny_autoencoder import load


def main() -> None:
    """Prints the comparison, or says what is not installed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("weights", metavar="FOLDER")
    parser.add_argument("--sizes", nargs="+", default=["192x320", "256x256"], metavar="HxW")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    if find_spec("onnxruntime") is None or find_spec("onnx") is None:
        print("nothing is measured: pip install 'wamloom[onnx]'")
        return
    print(machine())
    for threads in chosen.threads:
        ours, theirs = (load(chosen.weights, {"runtime": name, "threads": threads}) for name in ("onnx", "torch"))
        for size in chosen.sizes:
            height, _, width = size.partition("x")
            frames = decoded(mp4(chosen.frames, int(height), int(width), 0))
            expected = theirs.encode(frames)
            off = np.abs(ours.encode(frames) - expected).max() / expected.std()
            print(f"\nlargest difference of latents: {off:.2g} of their deviation")
            compare(
                f"{size}, threads = {threads}",
                ("ONNX Runtime", lambda ours=ours, frames=frames: ours.encode(frames)),
                ("torch", lambda theirs=theirs, frames=frames: theirs.encode(frames)),
                chosen.frames,
                "frame",
                chosen.rounds,
            )


if __name__ == "__main__":
    main()
