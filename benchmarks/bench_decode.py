"""Decoding: the strict, isolated decoder against plain PyAV in this process (which neither checks nor survives)."""

import io

import av
import numpy as np

from benchmarks.side_by_side import compare, machine
from pipelines.simulate import ROBOTS, simulate
from pipelines.video import VideoTools
from schemas.episode import EncodedView
from schemas.recipes import Limits

CLIPS = 4


def _clip() -> tuple[bytes, int]:
    frames = list(simulate(ROBOTS[1], 0, 0).frames("primary"))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=20, options={"g": "12", "crf": "23"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue(), len(frames)


def main() -> None:
    """Prints the comparison on one simulated clip."""
    print(machine())
    data, count = _clip()
    with VideoTools(Limits()) as video:
        facts = video.inspect(data, "clip")
        view = EncodedView(
            "cam", facts.codec, facts.container, data, facts.width_px, facts.height_px, facts.times_ns,
            facts.packets_sha256, "copied",
        )  # fmt: skip

        def ours() -> None:
            for _ in range(CLIPS):
                assert sum(len(chunk) for chunk in video.decode(view, "clip")) == count

        def theirs() -> None:
            for _ in range(CLIPS):
                with av.open(io.BytesIO(data)) as container:
                    container.streams.video[0].thread_type = "NONE"
                    frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
                assert len(np.stack(frames)) == count

        # The child is waited for only when it ends, so its CPU is not seen here: compare wall seconds.
        pair = (("wamloom (isolated, strict)", ours), ("plain PyAV", theirs))
        compare("decode to RGB, H.264 256x192", *pair, CLIPS * count, "frame", 5, cpu=False)


if __name__ == "__main__":
    main()
