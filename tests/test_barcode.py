from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines import barcode, registry
from pipelines.barcode import Mark
from pipelines.simulate import ROBOTS, SimulatedEpisode, simulate
from pipelines.video_writer import VideoWriter
from schemas.recipes import VideoRecipe

EPISODE = simulate(ROBOTS[0], seed=3, index=1)
NUM_FRAMES = 40


def frames_of(slot: str, episode: SimulatedEpisode = EPISODE) -> np.ndarray:
    source = episode.frames(slot)
    return np.stack([next(source) for _ in range(NUM_FRAMES)])


@pytest.fixture(scope="module", params=[camera.slot for camera in ROBOTS[0].cameras])
def frames(request: pytest.FixtureRequest) -> np.ndarray:
    return frames_of(request.param)


def marks(frames: Sequence[np.ndarray] | np.ndarray) -> list[Mark | None]:
    return [barcode.read_mark(frame) for frame in frames]


EXPECTED = [Mark(number, EPISODE.tag) for number in range(NUM_FRAMES)]


@given(
    number=st.integers(0, barcode.MAX_FRAMES - 1),
    episode=st.integers(0, barcode.MAX_EPISODES - 1),
    height=st.integers(16, 200),
    width=st.integers(20, 300),
    level=st.integers(0, 255),
)
def test_what_is_drawn_is_read(number: int, episode: int, height: int, width: int, level: int) -> None:
    frame = np.full((height, width, 3), level, dtype=np.uint8)
    marked = barcode.draw(frame, number, episode)
    assert barcode.read_mark(marked) == (number, episode)
    assert barcode.read(marked) == number
    assert np.all(frame == level), "the frame that was passed in is changed"
    below = height // 8 + 1
    assert np.array_equal(marked[below:], frame[below:]), "pixels below the strip are changed"


@pytest.mark.parametrize(
    ("codec", "crf", "gop"), [("h264", 23, 2), ("h264", 30, 12), ("h264", 30, 250), ("av1", 30, 12)]
)
def test_video_encoding_keeps_it(frames: np.ndarray, tmp_path: Path, codec: str, crf: int, gop: int) -> None:
    path = tmp_path / "video.mp4"
    recipe = VideoRecipe.model_validate({"codec": codec, "crf": crf, "gop": gop})
    writer = VideoWriter(path, ROBOTS[0].control_rate, *frames.shape[1:3], recipe)
    writer.write(frames)
    writer.close()
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert marks(decoded) == EXPECTED
    height, width = frames.shape[1:3]
    for size in ((width // 2, height // 2), (224, 224), (96, 96), (320, 192)):
        resized = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in decoded]
        assert marks(resized) == EXPECTED, f"resized to {size}"


def test_jpeg_keeps_it(frames: np.ndarray) -> None:
    encoded = [simplejpeg.encode_jpeg(frame, 75, colorsubsampling="420") for frame in frames]
    assert marks([simplejpeg.decode_jpeg(data) for data in encoded]) == EXPECTED


def test_wavelet_encoder_keeps_it(frames: np.ndarray) -> None:
    encoder = registry.load("encoders", "wavelet").load(None, {})
    clip = frames[: 1 + 8 * encoder.temporal_stride]
    decoded = encoder.decode(encoder.encode(clip))
    assert marks(decoded) == EXPECTED[: len(clip)]


def test_bars_are_cut_away_by_the_caller(frames: np.ndarray) -> None:
    height, width = frames.shape[1:3]
    padded = np.zeros((width, width, 3), dtype=np.uint8)
    top = (width - height) // 2
    padded[top : top + height] = frames[7]
    assert barcode.read(padded) is None
    assert barcode.read(padded[top : top + height]) == 7


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_flat_picture_carries_nothing(level: int) -> None:
    assert barcode.read_mark(np.full((192, 256, 3), level, dtype=np.uint8)) is None


def test_a_frame_without_pixels_for_every_block_carries_nothing() -> None:
    for shape in ((8, 256, 3), (192, 19, 3), (0, 0, 3)):
        frame = np.zeros(shape, dtype=np.uint8)
        assert barcode.read_mark(frame) is None
        with pytest.raises(ValueError, match="too small"):
            barcode.draw(frame, 1)


@given(row=st.integers(0, 1), column=st.integers(0, 19), number=st.integers(0, barcode.MAX_FRAMES - 1))
def test_one_turned_block_is_noticed(row: int, column: int, number: int) -> None:
    marked = barcode.draw(np.zeros((64, 160, 3), dtype=np.uint8), number, 9)
    block = marked[row * 4 : row * 4 + 4, column * 8 : column * 8 + 8]
    block[:] = 255 - block
    assert barcode.read_mark(marked) is None


def test_two_blended_frames_carry_nothing(frames: np.ndarray) -> None:
    blended = (frames[3].astype(np.uint16) + frames[4]) // 2
    assert barcode.read_mark(blended.astype(np.uint8)) is None


def test_random_blocks_are_refused() -> None:
    draws = np.random.default_rng(0)
    accepted = 0
    for _ in range(2000):
        bits = draws.integers(0, 2, (2, 20), dtype=np.uint8) * np.uint8(255)
        frame = np.zeros((64, 160, 3), dtype=np.uint8)
        frame[:8] = np.repeat(np.repeat(bits, 4, axis=0), 8, axis=1)[..., None]
        accepted += barcode.read_mark(frame) is not None
    assert accepted <= 2  # 0.03 expected


@pytest.mark.parametrize(("number", "episode"), [(-1, 0), (1 << 16, 0), (0, -1), (0, 256)])
def test_numbers_that_do_not_fit_are_refused(number: int, episode: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        barcode.draw(np.zeros((64, 160, 3), dtype=np.uint8), number, episode)
