"""An episode: one continuous recording of one robot doing one task, with every stream and view on its own clock."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np

from schemas.dataset_card import UPRIGHT, DatasetCard, Picture
from schemas.embodiment import Embodiment
from schemas.findings import Finding
from schemas.fingerprint import array_sha256, fingerprint

Clock = Literal["source", "declared"]
Scalar = str | int | float | bool
ANNOTATIONS = "annotations/"
"""What the fields of instructions begin with that come from files published beside a data set; a name of a file follows."""


@dataclass(frozen=True, slots=True)
class EpisodeRef:
    """Where one source episode lies; cheap to list, picklable, no content read yet."""

    source: str
    """Registry name of the source that lists and reads it."""
    location: str
    """The root folder or URL of the data set."""
    dataset: str
    """What the source calls itself, such as ``bridge_dataset``."""
    version: str
    split: str
    key: str
    """Unique within ``location`` and sorted in recording order, such as ``train/00000/000003``."""
    state: str
    """Fingerprint of the files it lies in (relative names, sizes, modification times): unchanged state, unchanged bytes."""
    num_bytes: int
    """Estimate, to pack units of even size."""
    details: tuple[tuple[str, str], ...] = ()
    """What ``read`` needs beyond the key; private to the source."""

    def detail(self, name: str) -> str:
        """The value of the detail ``name``; raises KeyError."""
        return dict(self.details)[name]

    @property
    def where(self) -> str:
        """Human-readable place, for messages."""
        return f"{self.location}#{self.key}"


@dataclass(frozen=True, slots=True)
class Stream:
    """A numeric stream as the source had it: ``values`` [T, ...] in the source's dtype, ``times_ns`` int64 [T]."""

    name: str
    values: np.ndarray
    times_ns: np.ndarray
    clock: Clock

    def __post_init__(self) -> None:
        if len(self.values) != len(self.times_ns):
            raise ValueError(f"stream {self.name}: {len(self.values)} values, {len(self.times_ns)} times")

    @property
    def identity(self) -> tuple[str, str, tuple[int, ...], str]:
        """Name, dtype, shape and hash of the values: what makes two streams the same."""
        return (self.name, self.values.dtype.str, self.values.shape, array_sha256(self.values))


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video too large to hold in memory: a local file that consists of nothing else."""

    path: str
    """Absolute; in what a row of the lake tells, relative to the lake, until ``Lake.video`` has found it."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class EncodedView:
    """The video of one camera, as encoded by the source and never re-compressed."""

    key: str
    """The camera's name in the source."""
    codec: str
    """FFmpeg codec name: ``h264``, ``av1``, ``mjpeg``, ``png``, ..."""
    container: str
    """FFmpeg demuxer to open ``data`` with: ``mov`` or ``matroska``."""
    data: bytes | VideoFile
    width_px: int
    height_px: int
    times_ns: np.ndarray
    """int64 [F]: the time of each frame on the episode's clock, where 0 is its first step."""
    packets_sha256: str
    """Hash of the compressed frames without their container: the same in whatever file they lie."""
    how: Literal["copied", "cut", "packed"]
    """``copied`` file as it came; ``cut`` out of a shared file by stream copy; ``packed`` single images in a container."""
    first_frame: int = 0
    """Frames to skip at the start of ``data``: a cut begins at the key frame at or before the episode."""
    sha256: str = ""
    """Of the bytes of the video; "" where nobody has hashed them yet."""
    part: Literal["whole", "left_half"] = "whole"
    """What of each frame shows this camera: files of stereo cameras have the other eye's picture to the right of it.

    ``data``, ``width_px`` and ``height_px`` are of the file as it is; what is decoded is cut to this part.
    """

    picture: Picture = UPRIGHT
    """How its pixels lie, as the card says; decoding sets them right."""

    @property
    def shown_width_px(self) -> int:
        """Width of what is decoded, before any scaling; the height is always ``height_px``."""
        return self.width_px // 2 if self.part == "left_half" else self.width_px

    @property
    def num_frames(self) -> int:
        """Frames that belong to the episode (those skipped do not)."""
        return len(self.times_ns)

    @property
    def num_bytes(self) -> int:
        """Size of the video, wherever it is."""
        return self.data.num_bytes if isinstance(self.data, VideoFile) else len(self.data)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a source says of the geometry of one camera, as it says it; several may speak of the same camera."""

    camera: str
    """The camera's name in the source, as in ``EncodedView.key``."""
    origin: str
    """The file or field that says so."""
    intrinsics: tuple[float, ...] = ()
    """fx, fy, cx, cy in pixels of a picture of ``width_px`` x ``height_px``; empty where unknown."""
    width_px: int = 0
    height_px: int = 0
    extrinsics: tuple[float, ...] = ()
    """The pose of the camera in ``frame``, written as ``convention`` says; empty where unknown."""
    convention: Literal["", "xyz_euler_xyz", "xyz_quaternion_xyzw", "xyz_axis_angle", "matrix_4x4"] = ""
    """Metres and radians; Euler angles about fixed axes x, y, z; matrices row by row, camera to frame."""
    frame: Literal["", "base", "gripper", "world", "unknown"] = ""
    note: str = ""
    """What else the source says, such as how good the calibration is."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """Language given with the episode, and the source field it came from."""

    text: str
    field: str
    start_ns: int | None = None
    stop_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """An annotated half-open span; nothing is ever cut out because of it."""

    kind: Literal["idle", "keep", "language", "gap", "success"]
    """``keep`` is a span that published keep-ranges want to train on."""
    start_ns: int
    stop_ns: int
    label: str = ""


@dataclass(frozen=True, slots=True)
class RawEpisode:
    """What a source returns: everything it found, under the source's own names, unmapped and unjudged."""

    ref: EpisodeRef
    streams: tuple[Stream, ...]
    """Every numeric field of the steps, bookkeeping counters left out. All share the step clock unless they have their own."""
    views: tuple[EncodedView, ...]
    instructions: tuple[Instruction, ...]
    declared_rate: Fraction | None
    """Steps per second if the source says so."""
    source_sha256: str
    """Hash of the source bytes it was read from (record, file or files)."""
    robot_type: str = ""
    attributes: tuple[tuple[str, Scalar], ...] = ()
    """Episode-level facts of the source, such as ``file_path``."""
    findings: tuple[Finding, ...] = ()
    """What the reader noticed, such as flags that deny pictures that are there."""
    calibrations: tuple[Calibration, ...] = ()
    segments: tuple[Segment, ...] = ()
    """Spans that the source or files published beside it tell of; ``pipelines.segments`` adds those it finds itself."""
    column_names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """By stream: what the source calls its columns, where it says so."""

    @property
    def episode_id(self) -> str:
        """Content identity: numbers, compressed frames, instructions and what else is said of the episode.

        Not name, path, index, split or container.
        """
        said = [dataclasses.astuple(one) for one in self.calibrations]
        said += [dataclasses.astuple(one) for one in self.segments]
        return fingerprint(
            "episode-1",
            sorted(stream.identity for stream in self.streams),
            sorted((view.key, view.num_frames, view.packets_sha256) for view in self.views),
            [instruction.text for instruction in self.instructions],
            *([said] if said else []),
        )

    def stream(self, name: str) -> Stream | None:
        """The stream of that name, or None."""
        return next((stream for stream in self.streams if stream.name == name), None)


@dataclass(frozen=True, slots=True)
class Episode:
    """An episode with meaning: its card applied. ``action`` [T, A] and ``proprio`` [T, P] are float64, absolute, native."""

    raw: RawEpisode
    card: DatasetCard
    embodiment: Embodiment
    control_rate: Fraction
    action: Stream
    proprio: Stream
    views: Mapping[str, EncodedView]
    """By view slot."""
    instructions: tuple[Instruction, ...]
    success: bool | None
    depth: Mapping[str, EncodedView] = field(default_factory=dict)
    """By the view slot they accompany: distances as 16-bit numbers, lossless, in units of ``card.depth_unit_m``."""
    segments: tuple[Segment, ...] = ()
    findings: tuple[Finding, ...] = field(default=())

    @property
    def num_steps(self) -> int:
        """Rows of the action stream."""
        return len(self.action.values)
