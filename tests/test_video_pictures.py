"""What a card says of how pixels lie is set right when they are decoded; depth comes back number for number."""

import dataclasses
import io
from collections.abc import Iterator

import av
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipelines.recordings import pixels_view
from pipelines.video import VideoTools
from schemas.dataset_card import Picture
from schemas.episode import EncodedView
from schemas.errors import CorruptEpisode, DecodeError
from schemas.recipes import Limits, ViewsRecipe
from tests import clips

TIMES = np.arange(3, dtype=np.int64) * 100_000_000
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def video() -> Iterator[VideoTools]:
    with VideoTools(Limits()) as tools:
        yield tools


def _shown(video: VideoTools, view: EncodedView, views: ViewsRecipe | None = None) -> np.ndarray:
    return np.concatenate(list(video.decode(view, "test", None, views)))


@pytest.mark.parametrize(
    ("picture", "stored"),
    [
        (Picture(), FRAMES),
        (Picture(orientation="rotated_180"), FRAMES[:, ::-1, ::-1]),
        (Picture(orientation="flipped_vertically"), FRAMES[:, ::-1]),
        (Picture(orientation="mirrored"), FRAMES[:, :, ::-1]),
        (Picture(channels="bgr"), FRAMES[..., ::-1]),
        (Picture(orientation="rotated_180", channels="bgr"), FRAMES[:, ::-1, ::-1, ::-1]),
    ],
)
def test_pixels_are_set_right(video: VideoTools, picture: Picture, stored: np.ndarray) -> None:
    view = pixels_view("camera", stored, TIMES, video, "test")
    assert np.array_equal(_shown(video, view), stored), "nobody has said how they lie yet"
    assert np.array_equal(_shown(video, dataclasses.replace(view, picture=picture)), FRAMES)


def _stereo(video: VideoTools) -> tuple[EncodedView, np.ndarray]:
    """Both eyes side by side, so unlike each other that a mixture of them shows."""
    left, right = clips.pictures(4), 255 - clips.pictures(4)
    data = clips.encode("h264", np.concatenate([left, right], axis=2))
    view = clips.view_of(video.inspect(data, "stereo"), data)
    return dataclasses.replace(view, part="left_half"), _shown(video, view)[:, :, : left.shape[2]]


def test_the_left_half_is_cut_before_it_is_scaled(video: VideoTools) -> None:
    view, left = _stereo(video)
    assert np.array_equal(_shown(video, view), left)
    assert view.shown_width_px == left.shape[2]
    small = ViewsRecipe(height_px=left.shape[1] // 2, width_px=left.shape[2] // 2, fit="stretch", filter="lanczos")
    alone = pixels_view("left", left, np.arange(4, dtype=np.int64), video, "left")
    assert np.array_equal(_shown(video, view, small), _shown(video, alone, small))
    thumbs = np.concatenate(list(video.thumbnails(view, "stereo")))
    assert thumbs.shape == np.concatenate(list(video.thumbnails(alone, "left"))).shape


def test_depth_comes_back_number_for_number(video: VideoTools) -> None:
    depth = np.random.default_rng(1).integers(0, 65536, (3, 24, 32)).astype(np.uint16)
    view = pixels_view("depth", depth, TIMES, video, "depth")
    assert np.array_equal(np.concatenate(list(video.decode_depth(view, "depth"))), depth)
    some = np.concatenate(list(video.decode_depth(view, "depth", np.array([1, 1, 2]))))
    assert np.array_equal(some, depth[[1, 1, 2]])
    assert some.dtype == np.uint16
    bytes_only = pixels_view("depth", depth.astype(np.uint8), TIMES, video, "depth")
    assert np.array_equal(np.concatenate(list(video.decode_depth(bytes_only, "depth"))), depth.astype(np.uint8))


def test_depth_video_comes_back_number_for_number(video: VideoTools) -> None:
    depth = np.random.default_rng(2).integers(0, 4096, (3, 24, 32)).astype(np.uint16)
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "gray12le"
        for number, picture in enumerate(depth):
            frame = av.VideoFrame(32, 24, "gray12le")
            lines = np.zeros((24, frame.planes[0].line_size // 2), "<u2")
            lines[:, :32] = picture
            frame.planes[0].update(lines.tobytes())
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = file.getvalue()
    try:
        view = clips.view_of(video.inspect(data, "depth"), data)
    except DecodeError as error:
        pytest.skip(f"the decoder's list of codecs has no lossless gray video: {error.message}")
    assert np.array_equal(np.concatenate(list(video.decode_depth(view, "depth"))), depth)


def test_pictures_that_are_no_depth_are_refused(video: VideoTools) -> None:
    colors = pixels_view("camera", FRAMES, TIMES, video, "test")
    jpegs = video.pack([simplejpeg.encode_jpeg(frame) for frame in FRAMES], "jpeg")
    jpeg = dataclasses.replace(clips.view_of_cut(jpegs, 3), key="camera")
    for view in (colors, jpeg):
        with pytest.raises(DecodeError) as caught:
            list(video.decode_depth(view, "test"))
        assert caught.value.reason == "unsupported_codec"
    with pytest.raises(CorruptEpisode):
        pixels_view("depth", np.zeros((3, 24, 32), np.float32), TIMES, video, "test")


def test_a_png_of_sixteen_bits_is_what_others_read(video: VideoTools) -> None:
    depth = np.arange(24 * 32, dtype=np.uint16).reshape(1, 24, 32) * 80
    view = pixels_view("depth", depth, TIMES[:1], video, "depth")
    assert isinstance(view.data, bytes)
    with av.open(io.BytesIO(view.data)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.size)
    with Image.open(io.BytesIO(bytes(packet))) as image:
        assert np.array_equal(np.asarray(image), depth[0])
