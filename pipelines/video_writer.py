"""Writes one MP4 from RGB frames so that equal frames give equal bytes. Knows nothing of episodes or releases.

Frames are compressed here, or copied as somebody else did. Every chosen frame can be made a key frame, frames lie
exactly on the multiples of one over the rate, and colours are BT.601 in limited range, tagged so: measured on one clip,
readers that honour the tag (torchcodec, decord) and readers that ignore it (``frame.to_ndarray`` of PyAV, swscale's
default) then give the same pixels, while a clip tagged BT.709 came back 5 levels off from the latter.
"""

import contextlib
import io
import os
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream

from pipelines.storage import fsync_file, fsync_folder
from pipelines.thread_priority import kept_priority
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import VideoRecipe

PIXEL_FORMAT = "yuv420p"
_SMPTE170M = 6
"""BT.601 in the numbering of ISO/IEC 23091-2, for primaries, transfer and matrix alike."""
_LIMITED_RANGE = 1
_AV1_PRESET = "12"
"""Used where the recipe names none, since its default is a name of x264. On DROID at 320x192, g=2, it takes half the time of
10, for files 18 % larger at equal PSNR."""
_FIRST_REAL_TIME = 11
"""SVT-AV1 3 has presets beyond 10 in its real-time mode only, and quietly takes 10 elsewhere."""
_REAL_TIME = ":rtc=1:scm=0:enable-cdef=0"
"""The real-time mode, without its search for screen content, which no camera has (equal bytes), and without CDEF, a filter
after decoding: on DROID and G1 at g=2 it costs 9 to 16 % of the time for 0.2 to 0.35 dB at equal bytes."""


class VideoWriter:
    """One MP4 of ``height_px`` x ``width_px`` frames at ``rate`` frames per second, written to ``path`` (replaced).

    Raises ReleaseError for odd sizes, which 4:2:0 cannot hold, and RecipeError for settings the encoder refuses.
    """

    def __init__(self, path: Path, rate: Fraction, height_px: int, width_px: int, recipe: VideoRecipe) -> None:
        if height_px % 2 or width_px % 2:
            raise ReleaseError(
                f"frames of {width_px} x {height_px} cannot be stored as 4:2:0 video, which needs even sizes",
                str(path),
                f"set views.width_px = {_next_even(width_px)} and views.height_px = {_next_even(height_px)} in the recipe",
                "odd_size",
            )
        self.path = path
        self.num_frames = 0
        """Frames written so far."""
        self._num_packets = 0
        self._copied_setup: bytes | None = None
        self._rate = rate
        self._shape = (height_px, width_px, 3)
        self._converter = VideoReformatter()
        name, options = _encoder(recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        # an abandoned container writes its end when it is collected, perhaps while a second attempt is at work: to a
        # scratch folder of its own, never under the final name
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".", suffix=".partial")
        self._partial = Path(self._scratch.name) / "video.mp4"
        self._container = self._opened()
        stream = self._container.add_stream(name, rate=rate, options=options)
        if not isinstance(stream, VideoStream):
            raise TypeError(f"{name} is not a video encoder")
        self._stream = stream
        self._stream.height, self._stream.width, self._stream.pix_fmt = height_px, width_px, PIXEL_FORMAT
        self._time_base = Fraction(1, rate.numerator)
        self._stream.time_base = self._time_base
        context = self._stream.codec_context
        context.time_base = self._time_base
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M
        context.color_range = _LIMITED_RANGE
        os.environ.setdefault("SVT_LOG", "1")  # errors; else the encoder of AV1 tells its settings for every file
        try:
            with kept_priority():
                context.open(strict=False)
        except av.FFmpegError as error:
            self.abandon()
            raise RecipeError(
                f"the {recipe.codec} encoder refuses {options}",
                str(path),
                "h264 takes x264's preset names (ultrafast ... veryslow), av1 a preset number from 0 to 13",
            ) from error

    def _opened(self) -> OutputContainer:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        return av.open(str(self._partial), "w", format="mp4", options=options)

    def write(self, frames: np.ndarray, key_frame: bool = False) -> None:
        """Appends uint8 RGB ``frames`` [n, H, W, 3]; ``key_frame`` makes the first of them one.

        Raises ReleaseError if dtype or size are not what was announced, and where frames were copied before.
        """
        if self._copied_setup is not None:
            raise self._mixed()
        if frames.dtype != np.uint8 or frames.shape[1:] != self._shape:
            raise ReleaseError(
                f"got {frames.dtype} frames of shape {frames.shape[1:]}, planned was uint8 {self._shape}",
                str(self.path),
                "the plan of the group and the frames that are pushed disagree",
                "frame_shape",
            )
        for index, pixels in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = self._converter.reformat(
                rgb, format=PIXEL_FORMAT, dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG
            )
            frame.pts = self.num_frames * self._rate.denominator
            frame.duration = self._rate.denominator
            frame.time_base = self._time_base
            frame.pict_type = PictureType.I if key_frame and index == 0 else PictureType.NONE
            self._mux(frame)
            self.num_frames += 1

    def copy(self, video: bytes) -> None:
        """Appends the compressed frames of an MP4 of this size as they are; they lie in the order they are shown.

        Raises ReleaseError where the frames before were not compressed the same way.
        """
        with av.open(io.BytesIO(video), "r") as source:
            template = source.streams.video[0]
            if (template.height, template.width, 3) != self._shape:
                raise self._mixed()
            setup = template.codec_context.extradata or b""
            if self._copied_setup is None and self.num_frames == 0:
                self._end_encoder()
                with contextlib.suppress(av.FFmpegError):  # there is nothing in it
                    self._container.close()
                self._container = self._opened()
                self._stream = self._container.add_stream_from_template(template, opaque=True)
                self._stream.time_base = self._time_base
                self._copied_setup = setup
            if setup != self._copied_setup:
                raise self._mixed()
            for packet in source.demux(template):
                if packet.size == 0:
                    continue
                packet.stream, packet.time_base = self._stream, self._time_base
                packet.pts = packet.dts = self.num_frames * self._rate.denominator
                packet.duration = self._rate.denominator
                self._container.mux_one(packet)
                self._num_packets += 1
                self.num_frames += 1

    def _mixed(self) -> ReleaseError:
        message = "frames that were compressed in different ways cannot lie in one video"
        return ReleaseError(message, str(self.path), "build with video.reuse = false", "off_plan")

    def time_s(self, frame: int) -> float:
        """The time of ``frame`` in this file, in seconds: the double nearest to ``frame / rate``."""
        return float(frame / self._rate)

    def close(self) -> None:
        """Finishes the file, fsyncs it and gives it its name.

        Raises ReleaseError if it does not hold exactly the frames written.
        """
        if self._copied_setup is None:
            self._mux(None)
        self._container.close()
        if self._num_packets != self.num_frames:
            raise ReleaseError(
                f"the encoder returned {self._num_packets} packets for {self.num_frames} frames",
                str(self.path),
                "try another video.preset or video.codec",
                "frame_count",
            )
        fsync_file(self._partial)
        self._partial.replace(self.path)
        fsync_folder(self.path.parent)
        self._scratch.cleanup()

    def abandon(self) -> None:
        """Ends without leaving a file; nothing happens after ``close``."""
        self._end_encoder()
        with contextlib.suppress(av.FFmpegError):  # there may be nothing yet to end
            self._container.close()
        self._scratch.cleanup()

    def __del__(self) -> None:
        if hasattr(self, "_container"):
            self.abandon()

    def _end_encoder(self) -> None:
        """SVT-AV1 3, freed before the end of its stream, crashes the process or hangs the next one that is at work in it."""
        if self._copied_setup is None and hasattr(self, "_stream") and self._stream.codec_context.is_open:
            with contextlib.suppress(av.FFmpegError):  # it ended long ago
                self._stream.encode(None)

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._num_packets += 1
            self._container.mux(packet)


def _encoder(recipe: VideoRecipe) -> tuple[str, dict[str, str]]:
    """FFmpeg encoder name and options that give equal bytes for equal frames."""
    options = {
        "crf": str(recipe.crf),
        "preset": recipe.preset,
        "g": str(recipe.gop),
        "threads": "1",
        "flags": "+bitexact",
    }
    if recipe.codec == "h264":
        # mbtree varies from run to run; no reordered frames, so that decoding order is presentation order
        options |= {"keyint_min": str(recipe.gop), "bf": "0", "forced-idr": "1"}
        options["x264-params"] = "mbtree=0:scenecut=0:open-gop=0"
        if recipe.tune != "none":
            options["tune"] = recipe.tune
        return "libx264", options
    if "preset" not in recipe.model_fields_set:
        options["preset"] = _AV1_PRESET
    elif not recipe.preset.isdigit():
        raise RecipeError(
            f"{recipe.preset!r} is not a preset of the av1 encoder",
            "video.preset",
            f'give a number from 0 (small) to 13 (fast), or leave it out for "{_AV1_PRESET}"',
        )
    mode = _REAL_TIME if int(options["preset"]) >= _FIRST_REAL_TIME else ""
    options["svtav1-params"] = f"lp=1:scd=0{mode}"
    return "libsvtav1", options


def _next_even(size: int) -> int:
    return size + size % 2
