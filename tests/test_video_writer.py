"""What every common reader makes of a written video: times, key frames, colours; equal frames give equal bytes."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from pipelines.video_writer import VideoWriter
from schemas.errors import RecipeError, ReleaseError
from schemas.recipes import VideoRecipe

ROOT = Path(__file__).resolve().parents[1]


def colored_frames(num_frames: int = 12, height: int = 64, width: int = 96) -> np.ndarray:
    """Large blocks of random colours, kept away from the corners of the cube that 4:2:0 video cannot hold."""
    blocks = np.random.default_rng(0).integers(30, 225, (num_frames, height // 16, width // 16, 3), dtype=np.uint8)
    return blocks.repeat(16, axis=1).repeat(16, axis=2)


def write(
    path: Path, frames: np.ndarray, recipe: VideoRecipe, rate: Fraction = Fraction(15), starts: tuple = (0,)
) -> None:
    writer = VideoWriter(path, rate, *frames.shape[1:3], recipe)
    for index, frame in enumerate(frames):
        writer.write(frame[None], key_frame=index in starts)
    writer.close()


@pytest.mark.parametrize("codec", ["h264", "av1"])
@pytest.mark.parametrize("rate", [Fraction(15), Fraction(15, 2), Fraction(30000, 1001)])
def test_times_are_exact_and_key_frames_where_asked(tmp_path: Path, codec: str, rate: Fraction) -> None:
    write(tmp_path / "v.mp4", colored_frames(), VideoRecipe(codec=codec, gop=6), rate, starts=(0, 4, 5))
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        assert (stream.average_rate, stream.frames) == (rate, 12)
        assert [packet.pts * stream.time_base for packet in packets] == [i / rate for i in range(12)]
        assert [i for i, packet in enumerate(packets) if packet.is_keyframe] == [0, 4, 5, 11]
        assert stream.duration * stream.time_base == 12 / rate


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_equal_frames_give_equal_bytes(tmp_path: Path, codec: str) -> None:
    frames = colored_frames(30)
    for name in ("one", "two"):
        write(tmp_path / f"{name}.mp4", frames, VideoRecipe(codec=codec))
    data = (tmp_path / "one.mp4").read_bytes()
    assert data == (tmp_path / "two.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"Lavf" not in data


def test_readers_that_heed_the_color_tag_and_those_that_do_not_agree(tmp_path: Path) -> None:
    path, frames = tmp_path / "v.mp4", colored_frames()
    write(path, frames, VideoRecipe(crf=12))
    with av.open(str(path)) as container:
        naive = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.color_primaries) == (6, 1, 6)
    heeding = decord.VideoReader(str(path)).get_batch(range(12)).asnumpy()
    for shown in (naive, heeding):
        inner = np.abs(shown.astype(int) - frames)[:, 8::16, 8::16]  # block middles, away from chroma edges
        assert inner.mean() < 2.5
    assert np.abs(naive.astype(int) - heeding).max() <= 3


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_presets_the_encoder_does_not_know_are_a_recipe_error(tmp_path: Path, codec: str) -> None:
    with pytest.raises(RecipeError):
        VideoWriter(tmp_path / "v.mp4", Fraction(15), 64, 96, VideoRecipe(codec=codec, preset="fastest_of_all"))


def test_wrong_frames_are_refused(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "v.mp4", Fraction(15), 64, 96, VideoRecipe())
    for wrong in (np.zeros((1, 96, 64, 3), np.uint8), np.zeros((1, 64, 96, 3), np.float32)):
        with pytest.raises(ReleaseError, match="planned"):
            writer.write(wrong)
    with pytest.raises(ReleaseError, match="even sizes"):
        VideoWriter(tmp_path / "w.mp4", Fraction(15), 63, 96, VideoRecipe())


def test_an_abandoned_writer_leaves_nothing(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "v.mp4", Fraction(15), 64, 96, VideoRecipe())
    writer.write(colored_frames())
    writer.abandon()
    del writer
    assert list(tmp_path.iterdir()) == []
    never_written = VideoWriter(tmp_path / "v.mp4", Fraction(15), 64, 96, VideoRecipe())
    del never_written
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux schedules so")
@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_no_encoder_takes_real_time_priority_for_this_process(tmp_path: Path, codec: str) -> None:
    """Where it may (as root), SVT-AV1 would, and every child that is started later would have it too."""
    before = os.sched_getscheduler(0)
    writer = VideoWriter(tmp_path / "v.mp4", Fraction(10), 64, 96, VideoRecipe(codec=codec))
    for moment in (lambda: None, lambda: writer.write(colored_frames()), writer.close):
        moment()
        threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
        assert {os.sched_getscheduler(thread) for thread in threads} == {before}


_ABANDONED = """
import sys
from fractions import Fraction
from pathlib import Path
import numpy as np
from pipelines.video_writer import VideoWriter
from schemas.recipes import VideoRecipe

folder = Path(sys.argv[1])
frames = np.random.default_rng(0).integers(0, 255, (18, 96, 128, 3), dtype=np.uint8)
def writer(preset):
    return VideoWriter(folder / f"{preset}.mp4", Fraction(20), 96, 128, VideoRecipe(codec="av1", preset=preset))
for count in range(12):
    held = []
    for preset in ("10", "12"):
        broken_off = writer(preset)
        broken_off.write(frames[:count])
        if count % 2:
            broken_off.abandon()
            held.append(broken_off)
        del broken_off
    whole = writer("12")
    whole.write(frames)
    whole.close()
print(sorted(path.name for path in folder.iterdir()))
"""


def test_files_of_av1_that_are_broken_off_harm_no_other(tmp_path: Path) -> None:
    """In a process of its own, which its encoder would crash or hang."""
    command = [sys.executable, "-c", _ABANDONED, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "['12.mp4']\n"), ended.stderr
