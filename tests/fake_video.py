"""Stands in for VideoTools where a test is about the source and not about containers: no decoding, same protocol."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pipelines.video import VideoTools
from pipelines.video_facts import CutVideo, TakenVideo, VideoFacts
from pipelines.video_files import CutPart
from schemas.recipes import Limits


class FakeVideo(VideoTools):
    """Counts bytes instead of frames: a file's frames are ``num_frames``, at ``period_ns``."""

    def __init__(self, num_frames: int = 3, period_ns: int = 100_000_000) -> None:
        super().__init__(Limits())
        self.num_frames = num_frames
        self.period_ns = period_ns
        self.packed: list[Sequence[bytes]] = []
        self.parts: list[tuple[str, float, int]] = []

    def _facts(self, codec: str, data: bytes, num_frames: int) -> VideoFacts:
        times: np.ndarray = np.arange(num_frames, dtype=np.int64) * self.period_ns
        digest = hashlib.sha256(data).hexdigest()
        return VideoFacts(
            codec, "mov", 64, 48, "yuv420p", num_frames, num_frames, times, 0, (0,), digest, "unspecified"
        )

    def inspect(self, data: bytes, where: str) -> VideoFacts:
        return self._facts("h264", data, self.num_frames)

    def take(self, path: Path, where: str) -> TakenVideo:
        data = path.read_bytes()
        return TakenVideo(data, hashlib.sha256(data).hexdigest(), self.inspect(data, where))

    def cuts(self, parts: Sequence[CutPart]) -> list[CutVideo]:
        self.parts += [(part.path, part.start_s, part.num_frames) for part in parts]
        datas = [Path(part.path).read_bytes() for part in parts]
        return [
            CutVideo(data, 1, self._facts("h264", data, part.num_frames + 1))
            for part, data in zip(parts, datas, strict=True)
        ]

    def pack(self, images: Iterable[bytes], where: str) -> CutVideo:
        images = list(images)
        self.packed.append(images)
        codec = "mjpeg" if images[0].startswith(b"\xff\xd8") else "png"
        data = b"".join(images)
        return CutVideo(data, 0, self._facts(codec, data, len(images)))
