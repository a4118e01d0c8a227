"""Single images become a video without a bit lost, and come back as Pillow decodes them."""

import io
from collections.abc import Iterator

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.video import VideoTools
from pipelines.video_facts import CutVideo
from schemas.episode import EncodedView
from schemas.errors import DecodeError
from schemas.recipes import Limits, ViewsRecipe
from tests import clips


@pytest.fixture(scope="module")
def tools() -> Iterator[VideoTools]:
    with VideoTools(Limits()) as opened:
        yield opened


def image(number: int, kind: str, mode: str = "RGB", size: tuple[int, int] = (63, 45)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    picture = (
        Image.fromarray(pixels, "RGBA").convert(mode)
        if mode == "RGBA"
        else Image.fromarray(pixels[..., :3]).convert(mode)
    )
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def as_view(packed: CutVideo) -> EncodedView:
    facts = packed.facts
    size = (facts.width_px, facts.height_px)
    return EncodedView(
        "c", facts.codec, facts.container, packed.data, *size, facts.times_ns, facts.packets_sha256, "packed"
    )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "1")],
)
def test_images_come_back_bit_for_bit(tools: VideoTools, kind: str, mode: str) -> None:
    images = [image(number, kind, mode) for number in range(70)]
    packed = tools.pack(images, "images")
    assert packed.first_frame == 0
    assert (packed.facts.codec, packed.facts.num_packets) == ("mjpeg" if kind == "JPEG" else "png", 70)
    with av.open(io.BytesIO(packed.data)) as container:
        assert [bytes(packet) for packet in container.demux(video=0) if packet.size] == images
    assert tools.pack(images, "images").data == packed.data
    assert tools.inspect(packed.data, "images").packets_sha256 == packed.facts.packets_sha256
    shown = np.concatenate(list(tools.decode(as_view(packed), "images")))
    expected = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in images])
    np.testing.assert_array_equal(shown, expected)
    some = np.concatenate(list(tools.decode(as_view(packed), "images", np.array([0, 5, 5, 40, 69]))))
    np.testing.assert_array_equal(some, expected[[0, 5, 5, 40, 69]])
    thumbs = clips.thumbs(tools, as_view(packed))
    gray = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB").convert("L")) for data in images])
    assert thumbs.shape == gray.shape
    assert np.abs(thumbs.astype(int) - gray).mean() < 4  # a JPEG's own luma, not that of its clipped RGB


def test_images_are_scaled_by_the_same_filters(tools: VideoTools) -> None:
    packed = tools.pack([image(1, "PNG")], "images")
    views = ViewsRecipe(height_px=90, width_px=126, fit="stretch", filter="bicubic")
    shown = next(tools.decode(as_view(packed), "images", views=views))[0]
    source = av.VideoFrame.from_ndarray(np.asarray(Image.open(io.BytesIO(image(1, "PNG")))), "rgb24")
    np.testing.assert_array_equal(shown, source.reformat(126, 90, "rgb24", interpolation="BICUBIC").to_ndarray())


def test_an_opaque_alpha_channel_is_dropped_and_another_refused(tools: VideoTools) -> None:
    opaque = Image.open(io.BytesIO(image(1, "PNG"))).convert("RGBA")
    file = io.BytesIO()
    opaque.save(file, "PNG")
    shown = next(tools.decode(as_view(tools.pack([file.getvalue()], "images")), "images"))[0]
    np.testing.assert_array_equal(shown, np.asarray(opaque.convert("RGB")))
    with pytest.raises(DecodeError) as caught:
        list(tools.decode(as_view(tools.pack([image(1, "PNG", "RGBA")], "images")), "images"))
    assert caught.value.reason == "unsupported_codec"


def test_sixteen_bits_are_refused(tools: VideoTools) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((45, 63), 40_000, np.uint16)).save(file, "PNG")
    with pytest.raises(DecodeError) as caught:
        list(tools.decode(as_view(tools.pack([file.getvalue()], "images")), "images"))
    assert caught.value.reason == "unsupported_codec"


@pytest.mark.parametrize(
    "odd", [image(9, "PNG"), image(9, "JPEG", size=(63, 44)), b"", b"\xff\xd8\xff", b"GIF89a", image(9, "JPEG")[:40]]
)
def test_the_odd_image_is_named(tools: VideoTools, odd: bytes) -> None:
    images = [image(number, "JPEG") for number in range(5)]
    with pytest.raises(DecodeError, match="image 3") as caught:
        tools.pack([*images[:3], odd, *images[3:]], "images")
    assert caught.value.reason == "corrupt_frame"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_damaged_image_is_named_when_it_is_decoded(tools: VideoTools, kind: str) -> None:
    images = [image(number, kind) for number in range(5)]
    images[3] = images[3][: len(images[3]) * 2 // 3]
    view = as_view(tools.pack(images, "images"))
    for read in (lambda: list(tools.decode(view, "images")), lambda: clips.thumbs(tools, view)):
        with pytest.raises(DecodeError, match="image 3") as caught:
            read()
        assert caught.value.reason == "corrupt_frame"


def test_nothing_to_pack(tools: VideoTools) -> None:
    with pytest.raises(DecodeError) as caught:
        tools.pack([], "images")
    assert caught.value.reason == "not_video"


def test_a_cut_out_of_packed_images(tools: VideoTools, tmp_path: "object") -> None:
    from pathlib import Path

    images = [image(number, "JPEG") for number in range(30)]
    packed = tools.pack(images, "images")
    path = Path(str(tmp_path)) / "packed.mov"
    path.write_bytes(packed.data)
    cut = tools.cut(str(path), 1.2, 5, "images")
    assert cut.first_frame == 0
    with av.open(io.BytesIO(cut.data)) as container:
        assert [bytes(packet) for packet in container.demux(video=0) if packet.size] == images[12:17]
    assert clips.view_of_cut(cut, 5).num_frames == 5
