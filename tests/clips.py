"""Small videos whose frames carry their own number, in every codec and container the tests need."""

import io
import tempfile
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from pipelines import barcode
from pipelines.video import VideoTools
from pipelines.video_facts import CutVideo, VideoFacts
from schemas.episode import EncodedView

RATE = 15
HEIGHT_PX, WIDTH_PX = 96, 160
CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", {"bf": "3", "g": "12", "x264-params": "mbtree=0"}),
    "h264_open": ("libx264", "yuv420p", {"bf": "3", "g": "12", "x264-params": "mbtree=0:open-gop=1"}),
    "h264_long": ("libx264", "yuv420p", {"bf": "3", "g": "250", "x264-params": "mbtree=0"}),
    "hevc": ("libx265", "yuv420p", {"x265-params": "log-level=error:keyint=12:bframes=3"}),
    "av1": ("libsvtav1", "yuv420p", {"preset": "12", "crf": "30", "g": "12", "svtav1-params": "lp=1"}),
    "vp9": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8", "g": "12"}),
    "mpeg4": ("mpeg4", "yuv420p", {"bf": "2", "g": "12", "qscale": "2"}),
    "ffv1": ("ffv1", "yuv444p", {"g": "12"}),
}
"""Encoder, pixel format and options."""


def pictures(num_frames: int, height: int = HEIGHT_PX, width: int = WIDTH_PX, tag: int = 0) -> np.ndarray:
    """uint8 [F, H, W, 3]: a gradient that moves, under the frame's number."""
    rows, columns = np.mgrid[:height, :width]
    frames = []
    for number in range(num_frames):
        red, green = (columns + 3 * number) % 256, (2 * rows + number) % 256
        frames.append(barcode.draw(np.stack([red, green, 255 - red], -1).astype(np.uint8), number, tag))
    return np.stack(frames)


def encode(
    kind: str,
    frames: np.ndarray,
    container: str = "mp4",
    options: dict[str, str] | None = None,
    times: Sequence[int] | None = None,
    rate: int = RATE,
) -> bytes:
    """A video file of ``frames``; ``times`` in units of 1 / rate."""
    encoder, pix_fmt, settings = CODECS[kind]
    with (
        tempfile.NamedTemporaryFile() as file,  # a path, since faststart opens the file again
        av.open(file.name, "w", format=container, options=options or {}) as output,
    ):
        stream = output.add_stream(encoder, rate=rate, options=settings)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, rate)
        for index, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pix_fmt)
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        output.close()
        return file.read()


def remux(
    data: bytes, shift_s: Fraction = Fraction(0), container: str = "mp4", options: dict[str, str] | None = None
) -> bytes:
    """The same packets in another file, shown ``shift_s`` later; an MP4 hides what falls before 0 with an edit list."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container, options=options or {}) as output:
        template = source.streams.video[0]
        stream = output.add_stream_from_template(template, opaque=True)
        assert template.time_base is not None
        shift = int(shift_s / template.time_base)
        for packet in source.demux(template):
            if packet.size:
                assert packet.pts is not None
                packet.pts += shift
                packet.dts = None if packet.dts is None else packet.dts + shift
                packet.stream = stream
                output.mux(packet)
    return file.getvalue()


def view_of(facts: VideoFacts, data: bytes, num_frames: int | None = None) -> EncodedView:
    """The view of a whole file, which expects ``num_frames`` (None: as many as the file has)."""
    count = len(facts.times_ns) if num_frames is None else num_frames
    times = np.arange(count, dtype=np.int64) * (10**9 // RATE)
    size = (facts.width_px, facts.height_px)
    return EncodedView("camera", facts.codec, facts.container, data, *size, times, facts.packets_sha256, "copied")


def view_of_cut(cut: CutVideo, num_frames: int) -> EncodedView:
    """The view of ``num_frames`` frames of a cut."""
    facts, stop = cut.facts, cut.first_frame + num_frames
    return EncodedView(
        "camera", facts.codec, facts.container, cut.data, facts.width_px, facts.height_px,
        facts.times_ns[cut.first_frame : stop], facts.packets_sha256, "cut", cut.first_frame,
    )  # fmt: skip


def numbers(frames: np.ndarray) -> list[int | None]:
    """The number each frame carries."""
    marks = [barcode.read_mark(frame) for frame in frames]
    return [None if mark is None else mark.frame for mark in marks]


def thumbs(tools: VideoTools, view: EncodedView) -> np.ndarray:
    """Every frame small and gray, uint8 [F, h, w]."""
    return np.concatenate(list(tools.thumbnails(view, "clip")))
