"""What the layouts of HDF5 recordings have alike: arrays become streams, pictures and texts of one episode.

An array is taken by its type and shape alone: uint8 [T, H, W, 3] or [T, H, W] are pictures, uint16 [T, H, W] is depth, rows
of bytes that begin as JPEG or PNG do are encoded pictures (padding of zeros taken off), other numbers are streams.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from pipelines import hdf5_files
from pipelines.recordings import file_view, packed_view, png, spanned_instructions
from pipelines.video import VideoTools
from schemas.episode import Clock, EncodedView, Instruction, Scalar, Stream
from schemas.errors import CorruptEpisode
from schemas.findings import Finding, Severity
from schemas.fingerprint import fingerprint
from schemas.recipes import Limits
from schemas.time import NANOSECONDS, TimeGrid

Kind = Literal["numbers", "pixels", "encoded", "text", "other"]
JPEG = b"\xff\xd8\xff"
_MAGIC = (JPEG, b"\x89PNG\r\n\x1a\n")
_LEAST_SIDE_PX = 16
"""Smaller arrays of bytes are numbers."""
_NUMBERS_SHARE = 4
"""Of the bytes an array may have, a quarter for all numbers together: unlike pictures they are held in whole, a few times."""
_LANGUAGE = ("language", "instruction", "task", "prompt")
_MAX_SPAN_S = 1e8
"""Three years: recorded times further apart are damage, and would leave int64 nanoseconds."""
_MAX_TEXT = 4096
"""A longer text about an episode (a simulator's scene, a task definition) is left out, with a finding."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One episode of a file, as its layout lists it."""

    group: str
    """Path of its group in the file; "" is the whole file."""
    split: str = ""
    problem: str = ""
    """Reason it cannot be read, such as a name in an index that has no group."""
    message: str = ""


@dataclass(slots=True)
class Content:
    """What was found in one episode so far."""

    where: str
    num_steps: int
    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    of_last_step: list[str] = field(default_factory=list)
    """Those of the numbers that are one row, which belongs to the last step."""
    pictures: dict[str, list[bytes]] = field(default_factory=dict)
    """PNG or JPEG files by camera."""
    views: list[EncodedView] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    step_texts: dict[str, list[str]] = field(default_factory=dict)
    """Language with a text for each step."""
    attributes: dict[str, Scalar] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    seconds: np.ndarray | None = None
    """Recorded times of the steps, where the file has them."""
    declared_rate: Fraction | None = None
    robot_type: str = ""
    hashes: list[str] = field(default_factory=list)
    """Of each array as it was read."""

    def note(self, rule: str, name: str, message: str, severity: Severity = Severity.WARNING) -> None:
        """Adds a finding."""
        self.findings.append(Finding(rule, severity, name, message[:500]))

    def attribute(self, name: str, value: Scalar) -> None:
        """Adds a fact of the episode; a text too long to be one gives a finding."""
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            message = f"{name} is a text of {len(value)} characters, which is kept in the source only"
            self.note("attribute_left_out", name, message, Severity.INFO)
        else:
            self.attributes[name] = value

    @property
    def source_sha256(self) -> str:
        """Hash of all that was read."""
        texts = [instruction.text for instruction in self.instructions]
        return fingerprint("hdf5-1", sorted(self.hashes), sorted(self.attributes.items()), texts)

    def plain(self) -> tuple[dict[str, Any], list[bytes | memoryview]]:
        """Everything as JSON types, and the bytes of arrays and pictures in the order in which they are named there."""
        header = {
            "num_steps": self.num_steps,
            "numbers": [
                (name, values.dtype.str, values.shape, _is_repeated(values)) for name, values in self.numbers.items()
            ],
            "of_last_step": self.of_last_step,
            "pictures": [(name, [len(image) for image in images]) for name, images in self.pictures.items()],
            "instructions": [(one.text, one.field) for one in self.instructions],
            "step_texts": self.step_texts,
            "attributes": self.attributes,
            "findings": [(one.rule, one.severity.value, one.where, one.message) for one in self.findings],
            "seconds": None if self.seconds is None else self.seconds.astype(np.float64).tolist(),
            "declared_rate": None if self.declared_rate is None else str(self.declared_rate),
            "robot_type": self.robot_type,
            "hashes": self.hashes,
        }
        sent = [values[:1] if _is_repeated(values) else values for values in self.numbers.values()]
        parts = [np.ascontiguousarray(values).data if values.size else b"" for values in sent]
        return header, [*parts, *(image for images in self.pictures.values() for image in images)]

    @classmethod
    def from_plain(cls, where: str, header: dict[str, Any], take: Callable[[int], bytes]) -> "Content":
        """Inverse of ``plain``; ``take`` gives the next so many bytes. Raises KeyError, TypeError or ValueError for nonsense."""
        content = cls(where, int(header["num_steps"]))
        for name, dtype, shape, is_repeated in header["numbers"]:
            kind = np.dtype(dtype)
            if kind.kind not in "biuf":
                raise ValueError(f"an array of {kind}")
            sent = [1, *shape[1:]] if is_repeated else shape
            data = take(math.prod(sent) * kind.itemsize)
            content.numbers[name] = np.broadcast_to(np.frombuffer(data, kind).reshape(sent), shape)
        content.of_last_step = header["of_last_step"]
        content.pictures = {name: [take(size) for size in sizes] for name, sizes in header["pictures"]}
        content.instructions = [Instruction(text, source) for text, source in header["instructions"]]
        content.step_texts = header["step_texts"]
        content.attributes = header["attributes"]
        content.findings = [
            Finding(rule, Severity(severity), place, message) for rule, severity, place, message in header["findings"]
        ]
        content.seconds = None if header["seconds"] is None else np.array(header["seconds"], np.float64)
        content.declared_rate = None if header["declared_rate"] is None else Fraction(header["declared_rate"])
        content.robot_type = header["robot_type"]
        content.hashes = header["hashes"]
        return content

    def pack(self, video: VideoTools) -> None:
        """Makes views of the pictures. Raises CorruptEpisode or DecodeError."""
        for name, images in self.pictures.items():
            times_ns: np.ndarray = np.arange(len(images), dtype=np.int64)
            self.views.append(packed_view(name, images, times_ns, video, self.where))

    def times(self, count: int, name: str) -> tuple[np.ndarray, Clock]:
        """int64 [count] and their clock: recorded times of the first steps, else a grid of the declared rate, else indices.

        Raises CorruptEpisode: ``bad_times``, and ``length_mismatch`` where there are fewer recorded times than rows.
        """
        if self.seconds is None:
            if self.declared_rate is None:
                return np.arange(count, dtype=np.int64), "declared"
            return TimeGrid(0, self.declared_rate, count).times_ns(), "declared"
        seconds = self.seconds.reshape(-1).astype(np.float64)
        if not np.isfinite(seconds).all() or float(np.ptp(seconds)) > _MAX_SPAN_S:
            message = f"its recorded times are not usable (from {seconds.min()} to {seconds.max()} s)"
            raise CorruptEpisode(message, self.where, "times are finite seconds, one for each step", "bad_times")
        if count > len(seconds):
            message = f"{name} has {count} rows, and there are {len(seconds)} recorded times"
            raise CorruptEpisode(message, self.where, "leave the episode out of the data set", "length_mismatch")
        return np.rint((seconds[:count] - seconds[0]) * NANOSECONDS).astype(np.int64), "source"

    def streams(self) -> tuple[Stream, ...]:
        """The numbers, by name."""
        found = []
        for name, values in sorted(self.numbers.items()):
            if name in self.of_last_step:
                times_ns, clock = self.times(self.num_steps, name)
                found.append(Stream(name, values, times_ns[-1:], clock))
            else:
                found.append(Stream(name, values, *self.times(len(values), name)))
        return tuple(found)

    def timed_views(self) -> tuple[EncodedView, ...]:
        """The views, by key. Videos of another length than the steps keep their own times beside recorded ones."""
        found = []
        for view in sorted(self.views, key=lambda view: view.key):
            own = self.seconds is not None and view.how == "copied" and view.num_frames != self.num_steps
            times_ns = view.times_ns if own else self.times(view.num_frames, view.key)[0]
            found.append(dataclasses.replace(view, times_ns=times_ns))
        return tuple(found)

    def told(self) -> tuple[Instruction, ...]:
        """The instructions, with spans where there is one for each step."""
        times_ns, _ = self.times(self.num_steps, "language")
        spans = [spanned_instructions(texts, name, times_ns) for name, texts in sorted(self.step_texts.items())]
        return (*self.instructions, *(instruction for one in spans for instruction in one))


def collect(
    content: Content,
    arrays: Sequence[tuple[str, h5py.Dataset]],
    is_of_steps: Callable[[str], bool],
    limits: Limits,
) -> None:
    """Reads the arrays into ``content``.

    One that ``is_of_steps`` and has another number of rows raises CorruptEpisode (``length_mismatch``), pictures excepted,
    whose frames are counted later; any other that is not one row per step gives a finding.
    """
    for name, array in arrays:
        kind = _kind(array, limits, content.where)
        if kind == "text":
            _text(content, name, array, limits)
        elif kind in ("pixels", "encoded"):
            content.pictures[name] = _pictures(content, name, array, kind, limits)
        elif kind == "other":
            content.note(
                "array_left_out", name, f"{name} is {_shape(array)}, which has no place in an episode; not read"
            )
        elif len(array.shape) and array.shape[0] == content.num_steps:
            add_numbers(content, name, array, limits)
        elif is_of_steps(name):
            message = f"{name} is {_shape(array)}, the episode has {content.num_steps} steps"
            hint = "its recorder lost rows; leave the episode out, or fetch the file again"
            raise CorruptEpisode(message, content.where, hint, "length_mismatch")
        else:
            message = f"{name} is {_shape(array)}, not one row for each of {content.num_steps} steps; not read"
            content.note("array_left_out", name, message)


def add_numbers(content: Content, name: str, array: h5py.Dataset, limits: Limits) -> None:
    """Reads the array of numbers into ``content``. Raises CorruptEpisode, also where all of them are together too large."""
    declared = math.prod(array.shape) * array.dtype.itemsize
    held = sum(values[:1].nbytes if _is_repeated(values) else values.nbytes for values in content.numbers.values())
    allowed = limits.max_array_bytes // _NUMBERS_SHARE
    if held + declared > allowed:
        message = f"its arrays of numbers declare more than the {allowed} bytes allowed for all of them, at {name}"
        hint = "raise limits.max_array_bytes, a quarter of which is for numbers, in the recipe if it is honest"
        raise CorruptEpisode(message, content.where, hint, "too_large")
    values = hdf5_files.numbers(array, limits, content.where)
    content.numbers[name] = values
    content.hashes.append(fingerprint(name, values))


def repeats_later(later: h5py.Dataset, earlier: h5py.Dataset, limits: Limits, where: str) -> bool:
    """Whether both are pictures, and row t of ``later`` is row t + 1 of ``earlier`` for all but its last row."""
    kind = _kind(later, limits, where)
    if kind not in ("pixels", "encoded") or _kind(earlier, limits, where) != kind or later.shape != earlier.shape:
        return False
    for array in (later, earlier):
        _check_pictures(array.name, array, kind, limits, where)
    following = itertools.islice(hdf5_files.rows(earlier, limits, where), 1, None)
    pairs = zip(hdf5_files.rows(later, limits, where), following, strict=False)  # the last one has no other
    if kind == "encoded":
        return all(_row_bytes(one) == _row_bytes(other) for one, other in pairs)
    return all(np.array_equal(one, other) for one, other in pairs)


def add_last_picture(content: Content, name: str, array: h5py.Dataset, limits: Limits) -> None:
    """The last row of an array of pictures as the stream of one row ``name``: pixels, or the bytes of its file."""
    *_, last = hdf5_files.rows(array, limits, content.where)
    encoded = _kind(array, limits, content.where) == "encoded"
    values = np.frombuffer(_row_bytes(last), np.uint8) if encoded else np.asarray(last)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)[None]
    content.numbers[name] = values
    content.of_last_step.append(name)
    content.hashes.append(fingerprint(name, values))


def _is_repeated(values: np.ndarray) -> bool:
    """Whether it is one row seen many times."""
    return len(values) > 1 and values.size > 0 and values.strides[0] == 0


def count_steps(arrays: Sequence[tuple[str, h5py.Dataset]], wanted: Sequence[str], where: str) -> int:
    """Rows of the first of the ``wanted`` arrays that is there. Raises CorruptEpisode (``missing_key``, ``empty``)."""
    by_name = dict(arrays)
    name = next((one for one in wanted if one in by_name), None)
    if name is None:
        found = ", ".join(name for name, _ in arrays[:12]) or "nothing"
        message = f"{wanted[0]} is not there; found: {found}"
        raise CorruptEpisode(message, where, "the recording is not whole; leave it out", "missing_key")
    shape = by_name[name].shape
    dtype = by_name[name].dtype
    if dtype.kind not in "biuf":
        message = f"{name} holds {dtype}, not numbers"
        raise CorruptEpisode(message, where, "record or convert it as floating-point numbers", "not_numbers")
    if not shape or shape[0] == 0:
        raise CorruptEpisode("the episode has no steps", where, "leave it out of the data set", "empty")
    return int(shape[0])


def add_side_videos(content: Content, files: Mapping[str, Path], video: VideoTools, limits: Limits) -> None:
    """Video files that lie beside the recording, by the key of the camera.

    Where the recording holds pictures of its own they are previews of these: not read, with a finding.
    """
    for key, path in sorted(files.items()):
        if content.pictures:
            message = f"{path.name} lies beside pictures in the file itself; not read"
            content.note("side_video_left_out", key, message, Severity.INFO)
            continue
        view, digest = file_view(key, path, video, limits, f"{path.name} ({content.where})")
        content.hashes.append(fingerprint(key, digest))
        content.views.append(view)


def json_object(text: Scalar | None) -> dict[str, Any]:
    """The JSON object in ``text``; {} where it is none."""
    if not isinstance(text, str):
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def is_language(name: str) -> bool:
    """Whether a text of that name tells what is to be done."""
    last = name.rpartition("/")[2].casefold()
    return any(word in last for word in _LANGUAGE)


def _kind(array: h5py.Dataset, limits: Limits, where: str) -> Kind:
    with hdf5_files.reading(where):
        shape, dtype = array.shape, array.dtype
        is_text = h5py.check_string_dtype(dtype) is not None
        inner = h5py.check_vlen_dtype(dtype)
    if shape is None:
        return "other"
    if dtype == np.uint8 and len(shape) == 4 and shape[3] in (1, 3) and min(shape[1:3]) >= _LEAST_SIDE_PX:
        return "pixels"
    if dtype == np.uint16 and len(shape) == 4 and shape[3] == 1 and min(shape[1:3]) >= _LEAST_SIDE_PX:
        return "pixels"
    if dtype in (np.uint8, np.uint16) and len(shape) == 3 and min(shape[1:]) >= _LEAST_SIDE_PX:
        return "pixels"
    rows_of_bytes = (dtype == np.uint8 and len(shape) == 2) or (len(shape) == 1 and (is_text or inner == np.uint8))
    if rows_of_bytes and shape[0] and _row_bytes(next(hdf5_files.rows(array, limits, where))).startswith(_MAGIC):
        return "encoded"
    if is_text:
        return "text"
    return "numbers" if dtype.kind in "biuf" and dtype.itemsize <= 8 else "other"


def _row_bytes(row: Any) -> bytes:
    """A row of an array of bytes without the zeros it is padded with; JPEG and PNG files end with another byte."""
    return (
        row.tobytes() if isinstance(row, np.ndarray) else row.encode() if isinstance(row, str) else bytes(row)
    ).rstrip(b"\0")


def _pictures(content: Content, name: str, array: h5py.Dataset, kind: Kind, limits: Limits) -> list[bytes]:
    """The pictures as files: PNG of raw ones, encoded ones as they are."""
    where = content.where
    _check_pictures(name, array, kind, limits, where)
    digest = hashlib.sha256()
    images = []
    for row in hdf5_files.rows(array, limits, where):
        if kind == "encoded":
            images.append(_row_bytes(row))
            digest.update(images[-1])
            continue
        frame = row[..., 0] if row.ndim == 3 and row.shape[2] == 1 else row
        frame = np.ascontiguousarray(frame.astype(frame.dtype.newbyteorder("="), copy=False))
        digest.update(frame.data)
        images.append(png(frame, where, name))
    content.hashes.append(fingerprint(name, len(images), digest.hexdigest()))
    return images


def _check_pictures(name: str, array: h5py.Dataset, kind: Kind, limits: Limits, where: str) -> None:
    num_frames = array.shape[0]
    num_pixels = array.shape[1] * array.shape[2] if kind == "pixels" else 0
    if num_frames > limits.max_frames or num_pixels > limits.max_pixels:
        message = f"{name} is {_shape(array)}; allowed are {limits.max_frames} pictures of {limits.max_pixels} pixels"
        raise CorruptEpisode(message, where, "raise limits.max_frames or limits.max_pixels", "too_large")
    if num_frames == 0:
        raise CorruptEpisode(f"{name} has no pictures", where, "leave the episode out of the data set", "empty")


def _text(content: Content, name: str, array: h5py.Dataset, limits: Limits) -> None:
    found = hdf5_files.texts(array, limits, content.where)
    content.hashes.append(fingerprint(name, found))
    if is_language(name) and len(found) == content.num_steps > 1:
        content.step_texts[name] = found
    elif is_language(name) and found:
        content.instructions += [Instruction(text, name) for text in found]
    elif len(found) == 1:
        content.attribute(name, found[0])
    else:
        content.note(
            "array_left_out", name, f"{name} holds {len(found)} texts, which have no place in an episode; not read"
        )


def _shape(array: h5py.Dataset) -> str:
    return f"{array.dtype} {list(array.shape) if array.shape is not None else 'without values'}"
