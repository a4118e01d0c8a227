"""Decodes frames strictly, one thread, straight to their target size. Child side: never imported by the owner.

Colors follow the tags of the stream; an untagged one is taken as BT.601, limited range, as every common player does.
Whatever comes out of the decoder has to be, frame by frame, what the container announced: same times, same order, none
missing, none too many.
"""

import dataclasses
import io
import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from pipelines.video_demux import STRICT, Facts, Refusal, clean_starts, opened, packets, refused, scan

_FILTERS = {
    "area": Interpolation.AREA,
    "bilinear": Interpolation.BILINEAR,
    "bicubic": Interpolation.BICUBIC,
    "lanczos": Interpolation.LANCZOS,
}
_BT601 = 5
_MATRICES = {1: 1, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}
"""AVColorSpace to the coefficients swscale knows; BT.601 for any other."""
_FULL_FROM_LIMITED = np.clip(np.round((np.arange(256) - 16) * 255 / 219), 0, 255).astype(np.uint8)
_WORTH_A_SEEK = 8
"""Frames that have to be skipped before seeking is cheaper than decoding them."""
STILLS = ("mjpeg", "png")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a source frame lies in the target: scaled to ``scaled``, then cut or bordered with black to ``target``."""

    scaled: tuple[int, int]
    """Height, width."""
    target: tuple[int, int]


def place(source: tuple[int, int], height: int | None, width: int | None, fit: str) -> Placement:
    """Where a frame of ``source`` (height, width) goes. A single given side keeps the aspect; none keeps the size."""
    rows, columns = source
    if height is None and width is None:
        return Placement(source, source)
    if height is None or width is None:
        height = height or max(1, (2 * rows * (width or 1) + columns) // (2 * columns))
        width = width or max(1, (2 * columns * height + rows) // (2 * rows))
        return Placement((height, width), (height, width))
    target = (height, width)
    if fit == "stretch":
        return Placement(target, target)
    wide_source = columns * height > width * rows
    if wide_source == (fit == "pad"):  # the width decides: it is the tight side of pad, the loose one of crop
        return Placement((max(1, (2 * rows * width + columns) // (2 * columns)), width), target)
    return Placement((height, max(1, (2 * columns * height + rows) // (2 * rows))), target)


@dataclass(frozen=True, slots=True)
class FramePlan:
    """A decode that passed every check that needs no decoding."""

    descriptor: int
    limits: dict[str, int]
    facts: Facts
    wanted: np.ndarray
    """int64 [n]: frames to show, non-decreasing, counted from the first of the file."""
    whole: bool
    """Whether every frame of the file has to decode, whether shown or not."""
    placement: Placement
    interpolation: Interpolation
    pixels: str
    """``rgb``, ``gray`` or ``depth``."""
    left_half: bool
    """Whether only the left half of each frame is shown."""
    more: tuple[Placement, ...] = ()
    """Further sizes that each frame is also shown in."""

    @property
    def gray(self) -> bool:
        """Whether one byte a pixel is wanted."""
        return self.pixels == "gray"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame: (H, W, 3), (H, W) in gray, (H, W, 2) for the two bytes of a depth, the low one first."""
        channels = {"rgb": (3,), "gray": (), "depth": (2,)}
        return (*self.placement.target, *channels[self.pixels])

    @property
    def sizes(self) -> list["FramePlan"]:
        """For each size the plan of showing it alone."""
        return [dataclasses.replace(self, placement=one, more=()) for one in (self.placement, *self.more)]


def plan_frames(
    descriptor: int, request: dict[str, Any], wanted: np.ndarray | None, announce: Callable[[int], None]
) -> FramePlan:
    """Checks the file against what the request says of it and plans the decode. Raises Refusal."""
    limits = request["limits"]
    facts = scan(descriptor, limits, announce)
    announce(facts.num_packets)
    first, count, total = request["first_frame"], request["num_frames"], len(facts.times_ns)
    if facts.container != request["container"]:
        raise Refusal("not_video", f"a {facts.container} file, said to be {request['container']}")
    if facts.codec != request["codec"]:
        raise Refusal("unsupported_codec", f"its codec is {facts.codec}, said to be {request['codec']}")
    size = (facts.height_px, facts.width_px)
    if size != (request["height_px"], request["width_px"]):
        text = f"{size[1]} x {size[0]} pixels, said to be {request['width_px']} x {request['height_px']}"
        raise Refusal("count_mismatch", text)
    if total < first + count or (request["exact"] and total != first + count):
        text = (
            f"{first + count} frames expected, its header says {facts.header_frames}, "
            f"in it are {facts.num_packets} packets and {total} frames"
        )
        raise Refusal("count_mismatch", text)
    positions = np.arange(first, first + count) if wanted is None else first + wanted
    left_half = request["part"] == "left_half"
    shown = (size[0], size[1] // 2) if left_half else size
    placements = [place(shown, height, width, request["fit"]) for height, width in request["sizes"]]
    for rows, columns in (size for placement in placements for size in (placement.scaled, placement.target)):
        if rows * columns > limits["max_pixels"]:
            raise Refusal("too_large", f"{columns} x {rows} pixels after scaling", "choose another fit or size")
    return FramePlan(
        descriptor=descriptor,
        limits=limits,
        facts=facts,
        wanted=np.asarray(positions, dtype=np.int64),
        whole=wanted is None,
        placement=placements[0],
        more=tuple(placements[1:]),
        interpolation=_FILTERS[request["filter"]],
        pixels=request["pixels"],
        left_half=left_half,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """Frames decoded in one go: from packet ``packet`` on, whose frame is number ``frame``."""

    packet: int
    frame: int
    wanted: np.ndarray


def _runs(plan: FramePlan) -> list[_Run]:
    """One run from the start where all is wanted; else one for each stretch that no clean start cuts short."""
    if plan.whole or len(plan.wanted) == 0:
        return [_Run(0, 0, plan.wanted)] if plan.whole else []
    facts = plan.facts
    shown = np.sort(facts.pts[facts.is_shown])
    starts = np.union1d([0], clean_starts(facts.pts, facts.is_entry))
    start_frames = np.searchsorted(shown, facts.pts[starts])
    start_frames[0] = 0
    choice = np.searchsorted(start_frames, plan.wanted, side="right") - 1
    gaps = start_frames[choice[1:]] > plan.wanted[:-1] + _WORTH_A_SEEK
    bounds = [0, *(np.flatnonzero(gaps) + 1).tolist(), len(plan.wanted)]
    return [
        _Run(int(starts[choice[start]]), int(start_frames[choice[start]]), plan.wanted[start:stop])
        for start, stop in itertools.pairwise(bounds)
    ]


def frames(plan: FramePlan) -> Generator[np.ndarray]:
    """The wanted frames, uint8 [H, W, 3] or [H, W], in several sizes [bytes of all]; each is valid until the next is asked for.

    Raises Refusal.
    """
    renderer = _Several(plan) if plan.more else _Renderer(plan)
    for run in _runs(plan):
        with refused(), opened(plan.descriptor, plan.limits) as (container, stream, _):
            _set_up(stream, plan.limits)
            decode = _still_frames if plan.facts.codec in STILLS else _video_frames
            yield from decode(plan, run, container, stream, renderer)


def _set_up(stream: VideoStream, limits: dict[str, int]) -> None:
    context = stream.codec_context
    context.thread_type = "NONE"
    context.thread_count = 1
    context.options = {**STRICT, "max_pixels": str(limits["max_pixels"])}


def _packets_from(plan: FramePlan, run: _Run, container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """Packets from ``run.packet`` on, checked against those seen by the scan."""
    if run.packet:
        container.seek(int(plan.facts.pts[run.packet]), stream=stream, backward=True)
    number: int | None = None if run.packet else 0
    for packet in packets(container, stream):
        if number is None:
            if packet.pts != plan.facts.pts[run.packet]:
                continue
            number = run.packet
        if number >= plan.facts.num_packets or packet.pts != plan.facts.pts[number]:
            raise Refusal("corrupt_frame", f"packet {number} changed between two readings")
        yield packet
        number += 1
    if number is None:
        raise Refusal("corrupt_frame", f"its index does not lead to the key frame of frame {run.frame}")


def _video_frames(
    plan: FramePlan, run: _Run, container: InputContainer, stream: VideoStream, renderer: "_Renderer | _Several"
) -> Iterator[np.ndarray]:
    facts = plan.facts
    shown = np.sort(facts.pts[facts.is_shown])
    wanted, repeats = np.unique(run.wanted, return_counts=True)
    following = 0
    position = run.frame
    for frame in _decoded(plan, run, container, stream):
        _check_frame(frame, position, shown, facts)
        if following < len(wanted) and position == wanted[following]:
            picture = renderer.from_video(frame)
            for _ in range(repeats[following]):
                yield picture
            following += 1
        position += 1
        if following == len(wanted) and not plan.whole:
            return
    if position != len(shown):
        text = f"{position} frames decoded, its header says {facts.header_frames}, in it are {len(shown)} frames"
        raise Refusal("count_mismatch", text)


def _decoded(plan: FramePlan, run: _Run, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    context = stream.codec_context
    for packet in _packets_from(plan, run, container, stream):
        yield from context.decode(packet)
    yield from context.decode(None)


def _check_frame(frame: VideoFrame, position: int, shown: np.ndarray, facts: Facts) -> None:
    if frame.is_corrupt:
        raise Refusal("corrupt_frame", f"frame {position} is damaged")
    if (frame.width, frame.height) != (facts.width_px, facts.height_px):
        text = f"frame {position} has {frame.width} x {frame.height} pixels instead of {facts.width_px} x {facts.height_px}"
        raise Refusal("corrupt_frame", text)
    if position >= len(shown):
        raise Refusal("count_mismatch", f"more frames come out than the {len(shown)} in it")
    if frame.pts != shown[position]:
        if frame.pts is None or (position and frame.pts <= shown[position - 1]):
            raise Refusal("bad_times", f"frame {position} comes with time {frame.pts}, out of order")
        raise Refusal("corrupt_frame", f"frame {position} does not come out of the decoder")


def _still_frames(
    plan: FramePlan, run: _Run, container: InputContainer, stream: VideoStream, renderer: "_Renderer | _Several"
) -> Iterator[np.ndarray]:
    if np.any(np.diff(plan.facts.pts) <= 0):
        raise Refusal("bad_times", "single images out of order")
    if not plan.facts.is_shown.all():
        raise Refusal("bad_times", "single images hidden by an edit list")
    wanted, repeats = np.unique(run.wanted, return_counts=True)
    following = 0
    for position, packet in enumerate(_packets_from(plan, run, container, stream), start=run.packet):
        is_wanted = following < len(wanted) and position == wanted[following]
        if is_wanted or plan.whole:
            image = decode_image(bytes(packet), position, plan)
            if is_wanted:
                picture = renderer.from_image(image)
                for _ in range(repeats[following]):
                    yield picture
                following += 1
        if following == len(wanted) and not plan.whole:
            return


def decode_image(data: bytes, position: int, plan: FramePlan) -> np.ndarray:
    """A JPEG or PNG file as uint8 [H, W, 3] (or [H, W] where the plan is gray and it is a JPEG). Raises Refusal.

    JPEG by libjpeg-turbo, as Pillow does it: swscale's way with the colors would change them.
    """
    size = (plan.facts.height_px, plan.facts.width_px)
    try:
        if plan.pixels == "depth":
            return _depth_png(data, size)
        image = _jpeg(data, plan.gray, size) if plan.facts.codec == "mjpeg" else _png(data, size)
    except (ValueError, OSError, SyntaxError) as error:  # SyntaxError: what Pillow says of a broken PNG
        raise Refusal("corrupt_frame", f"image {position} is damaged ({error})") from error
    except Refusal as error:
        raise Refusal(error.reason, f"image {position} {error.message}") from error
    return image


def _check_size(found: tuple[int, int], size: tuple[int, int]) -> None:
    if found != size:
        text = f"has {found[1]} x {found[0]} pixels, the others {size[1]} x {size[0]}"
        raise Refusal("corrupt_frame", text)


def _jpeg(data: bytes, gray: bool, size: tuple[int, int]) -> np.ndarray:
    height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    _check_size((height, width), size)
    if space in ("CMYK", "YCCK"):
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))
    decoded = simplejpeg.decode_jpeg(data, "GRAY" if gray else "RGB", fastdct=False, fastupsample=False)
    return np.asarray(decoded[:, :, 0] if gray else decoded)


def _png(data: bytes, size: tuple[int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _check_size((image.height, image.width), size)
        if data[24] == 16:  # bit depth; Pillow would drop the lower eight bits of RGB silently
            raise Refusal("unsupported_codec", "has 16 bits a channel, which 8-bit frames cannot hold")
        image.load()
        if "transparency" in image.info or image.mode in ("RGBA", "LA"):
            alpha = image.convert("RGBA").getchannel("A")
            if alpha.getextrema() != (255, 255):
                raise Refusal("unsupported_codec", "is partly transparent, which RGB frames cannot hold")
        return np.asarray(image.convert("RGB"))


def _depth_png(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """A gray PNG of 8 or 16 bits as uint16 [H, W]."""
    if not data.startswith(b"\x89PNG"):
        raise Refusal("unsupported_codec", "is no PNG, and depth is kept without loss in those only")
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _check_size((image.height, image.width), size)
        if image.mode not in ("L", "I;16", "I"):
            raise Refusal("unsupported_codec", f"has pixels of the kind {image.mode}, and a depth is one number")
        return np.asarray(image).astype(np.uint16)


class _Renderer:
    """Scales and colors frames with one shared swscale context, into one shared canvas."""

    def __init__(self, plan: FramePlan) -> None:
        self._plan = plan
        self._reformatter = VideoReformatter()
        self._canvas = np.zeros(plan.shape, np.uint8)
        self._whole: _Renderer | None = None
        if plan.left_half:  # swscale's filters would mix the two eyes at their border, so: cut first, then scale
            size = (plan.facts.height_px, plan.facts.width_px)
            self._whole = _Renderer(dataclasses.replace(plan, left_half=False, placement=Placement(size, size)))

    def from_video(self, frame: VideoFrame) -> np.ndarray:
        """A decoded frame in the target's size and colors."""
        if self._plan.pixels == "depth":
            return _two_bytes(_depth_of(frame))
        if self._plan.left_half and self._whole is not None:
            return self.from_image(self._whole.from_video(frame))
        is_full = frame.color_range == 2 or frame.format.name.startswith("yuvj")
        matrix = _MATRICES.get(frame.colorspace, _BT601)
        # PyAV hands matrix and range to swscale only where source and destination differ in one of them; swscale's own
        # default is BT.601 limited whatever the frame is tagged with. The destination's matrix has no meaning for RGB.
        if self._plan.gray and is_full:
            # Equal ranges would not be handed on, so: to limited range, and from there by table.
            limited = self._scaled(frame, _BT601, ColorRange.JPEG, ColorRange.UNSPECIFIED)
            return np.asarray(_FULL_FROM_LIMITED[limited])
        if self._plan.gray:  # swscale's own default for gray is full range
            return self._scaled(frame, _BT601, ColorRange.UNSPECIFIED, ColorRange.UNSPECIFIED)
        return self._scaled(
            frame, matrix, ColorRange.JPEG if is_full else ColorRange.UNSPECIFIED, ColorRange.UNSPECIFIED
        )

    def from_image(self, image: np.ndarray) -> np.ndarray:
        """A decoded RGB, gray or depth image in the target's size, by the same filter."""
        if self._plan.pixels == "depth":
            return _two_bytes(image)
        if self._plan.left_half:
            image = image[:, : self._plan.facts.width_px // 2]
        if image.shape == self._plan.shape:
            return image
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "gray" if image.ndim == 2 else "rgb24")
        return self._scaled(frame, _BT601, ColorRange.UNSPECIFIED, ColorRange.UNSPECIFIED)

    def _scaled(self, frame: VideoFrame, matrix: int, source: ColorRange, target: ColorRange) -> np.ndarray:
        rows, columns = self._plan.placement.scaled
        done = self._reformatter.reformat(
            frame,
            columns,
            rows,
            "gray" if self._plan.gray else "rgb24",
            src_colorspace=matrix,
            dst_colorspace=_BT601,
            interpolation=self._plan.interpolation,
            src_color_range=source,
            dst_color_range=target,
        )
        plane = done.planes[0]
        channels = 1 if self._plan.gray else 3
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:rows, : columns * channels]
        picture = lines.reshape(rows, columns, *self._plan.shape[2:])
        if (rows, columns) == self._plan.placement.target:
            return picture
        return self._placed(picture)

    def _placed(self, picture: np.ndarray) -> np.ndarray:
        height, width = self._plan.placement.target
        rows, columns = picture.shape[:2]
        if rows > height or columns > width:  # crop
            top, left = (rows - height) // 2, (columns - width) // 2
            return picture[top : top + height, left : left + width]
        top, left = (height - rows) // 2, (width - columns) // 2
        self._canvas[top : top + rows, left : left + columns] = picture
        return self._canvas


class _Several:
    """Shows every frame in several sizes: their bytes, one size after the other."""

    def __init__(self, plan: FramePlan) -> None:
        self._each = [_Renderer(one) for one in plan.sizes]

    def from_video(self, frame: VideoFrame) -> np.ndarray:
        """As ``_Renderer``."""
        return np.concatenate([one.from_video(frame).reshape(-1) for one in self._each])

    def from_image(self, image: np.ndarray) -> np.ndarray:
        """As ``_Renderer``."""
        return np.concatenate([one.from_image(image).reshape(-1) for one in self._each])


def _depth_of(frame: VideoFrame) -> np.ndarray:
    """The numbers of a gray frame of 9 to 16 bits, uint16 [H, W]."""
    name = frame.format.name
    if not (name.startswith("gray") and name.endswith("le")):
        raise Refusal("unsupported_codec", f"its pixels are {name}, and a depth is one number of more than 8 bits")
    plane = frame.planes[0]
    lines = np.frombuffer(plane, "<u2").reshape(-1, plane.line_size // 2)
    return lines[: frame.height, : frame.width]


def _two_bytes(depth: np.ndarray) -> np.ndarray:
    """uint16 [H, W] as uint8 [H, W, 2], the low byte first."""
    return np.ascontiguousarray(depth, dtype="<u2").view(np.uint8).reshape(*depth.shape, 2)
