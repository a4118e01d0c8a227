"""TFDS ``features.json`` and ``tf.train.Example``: which features there are, and their values, without TensorFlow.

The Example messages come from ``tensorflow_datasets.proto``. Its NumPy parser is not used: it passes over features that
are missing, and ``np.array(..., dtype="S")`` cuts trailing zero bytes off pictures and compressed tensors.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from schemas.errors import CorruptEpisode, SourceError

FeatureKind = Literal["number", "text", "image", "packed_tensor", "unsupported"]


@dataclass(frozen=True, slots=True)
class Feature:
    """One leaf of the feature tree. ``shape`` is that of one step; -1 stands for an unknown length."""

    key: str
    """As in the Example: the path joined with ``/``, such as ``steps/observation/state``."""
    kind: FeatureKind
    dtype: str
    shape: tuple[int, ...]
    in_steps: bool
    encoding: str = "none"
    what: str = ""
    """For unsupported features: what they are."""


_LEAVES = ("tensor", "text", "image", "classLabel", "boundingBox", "video", "audio", "translation", "jsonFeature")


def parse_features(tree: Mapping[str, Any], where: str) -> tuple[list[Feature], str]:
    """All leaves of a ``features.json`` in key order, and the key of the sequence of steps. Raises SourceError."""
    features: list[Feature] = []
    steps: list[str] = []

    def walk(node: Any, key: str, in_steps: bool, outer: tuple[int, ...], depth: int) -> None:
        if not isinstance(node, dict) or depth > 32:
            raise SourceError(f"the feature {key!r} is not described", where, _HINT, "bad_index")
        if "featuresDict" in node:
            for name, child in _mapping(_mapping(node["featuresDict"], key, where).get("features"), key, where).items():
                walk(child, f"{key}/{name}" if key else name, in_steps, outer, depth + 1)
        elif "sequence" in node:
            sequence = _mapping(node["sequence"], key, where)
            length = int(sequence.get("length", -1))
            if (
                not in_steps
                and length < 0
                and "/" not in key
                and "featuresDict" in _mapping(sequence.get("feature"), key, where)
            ):
                steps.append(key)
                walk(sequence.get("feature"), key, True, outer, depth + 1)
            else:
                walk(sequence.get("feature"), key, in_steps, (*outer, length), depth + 1)
        else:
            features.append(_leaf(node, key, in_steps, outer, where))

    try:
        walk(tree, "", False, (), 0)
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise SourceError(f"features.json is not understood: {error}", where, _HINT, "bad_index") from error
    if len(steps) != 1:
        found = f"several sequences ({', '.join(steps)})" if steps else "no sequence of steps"
        raise SourceError(
            f"features.json declares {found}; an RLDS set has one, called steps", where, _HINT, "bad_index"
        )
    return sorted(features, key=lambda feature: feature.key), steps[0]


_HINT = "restore features.json from the original data set; tensorflow-datasets writes it beside the shards"


def _mapping(value: Any, key: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(f"the feature {key!r} is not described", where, _HINT, "bad_index")
    return value


def _leaf(node: dict[str, Any], key: str, in_steps: bool, outer: tuple[int, ...], where: str) -> Feature:
    name = next((leaf for leaf in _LEAVES if leaf in node), "")
    content = node.get(name) if name else None
    if not isinstance(content, dict):
        raise SourceError(f"the feature {key!r} is of an unknown form", where, _HINT, "bad_index")
    own = tuple(int(size) for size in content.get("shape", {}).get("dimensions", ()))
    shape = (*outer, *own)
    dtype = str(content.get("dtype", ""))
    if name == "text" or (name == "tensor" and dtype in ("string", "object", "str") and not shape):
        return (
            Feature(key, "text", "str", shape, in_steps) if not shape else _unsupported(key, in_steps, "lists of text")
        )
    if name == "image":
        return Feature(key, "image", dtype, own, in_steps) if not outer else _unsupported(key, in_steps, "image lists")
    if name == "classLabel":
        return Feature(key, "number", "int64", outer, in_steps)
    if name == "boundingBox":
        return Feature(key, "number", "float32", (*outer, 4), in_steps)
    if name == "tensor" and _known_dtype(dtype):
        encoding = str(content.get("encoding", "none")).lower()
        if encoding in ("zlib", "bytes"):
            return Feature(key, "packed_tensor", dtype, shape, in_steps, encoding)
        if encoding in ("none", "") and shape.count(-1) <= 1:
            return Feature(key, "number", dtype, shape, in_steps)
    return _unsupported(key, in_steps, f"{name} {dtype}".strip())


def _unsupported(key: str, in_steps: bool, what: str) -> Feature:
    return Feature(key, "unsupported", "", (), in_steps, what=what)


def _known_dtype(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


@functools.cache
def _example_class() -> Any:
    from tensorflow_datasets.proto import tf_example_pb2  # takes most of a second; does not import TensorFlow

    return tf_example_pb2.Example


def parse_example(payload: bytes, where: str) -> Mapping[str, Any]:
    """The ``Feature`` messages of a serialized Example by key. Raises CorruptEpisode."""
    from google.protobuf.message import DecodeError as ProtobufError  # type: ignore[import-untyped]

    try:
        example = _example_class().FromString(payload)
    except ProtobufError as error:
        raise CorruptEpisode(
            f"the record is not a tf.train.Example: {error}", where, "fetch the shard again", "corrupt_record"
        ) from error
    features: Mapping[str, Any] = example.features.feature
    return features


class ExampleReader:
    """Values of one Example by feature; raises CorruptEpisode naming the feature and the numbers that disagree."""

    def __init__(self, messages: Mapping[str, Any], where: str) -> None:
        self._messages = messages
        self._where = where

    def has(self, key: str) -> bool:
        """Whether the Example holds ``key`` as a plain (not ragged) list."""
        return key in self._messages

    def ragged_lengths(self, key: str) -> np.ndarray | None:
        """Row lengths int64 [T] of a sequence inside a step, or None where ``key`` is not ragged."""
        name = f"{key}/ragged_row_lengths_0"
        if name not in self._messages:
            return None
        return np.array(self._messages[name].int64_list.value, dtype=np.int64)

    def byte_values(self, key: str) -> Sequence[bytes]:
        """A bytes_list as it is."""
        return list(self._list(key, "bytes_list"))

    def numbers(self, feature: Feature, num_steps: int | None = None) -> np.ndarray:
        """[T, *shape] in the declared dtype (float64 is stored as 32 bits). T follows from the number of values.

        ``num_steps`` helps where one length of the shape is unknown.
        """
        key = feature.key
        dtype: np.dtype = np.dtype(feature.dtype)
        ragged = f"{key}/ragged_flat_values"
        flat_key = ragged if ragged in self._messages else key
        if dtype.kind == "f":
            flat: np.ndarray = np.array(self._list(flat_key, "float_list"), dtype=np.float32)
        else:
            flat = np.array(self._list(flat_key, "int64_list"), dtype=np.int64)
        values = flat.astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(values.astype(np.int64), flat):
            raise CorruptEpisode(f"{key} holds a value outside {dtype}", self._where, _SPEC_HINT, "wrong_type")
        shape = feature.shape
        if -1 in shape:
            known = -int(np.prod(shape, dtype=np.int64)) * (num_steps or 0)
            if not known or len(values) % known:
                raise self._misfit(key, len(values), shape)
            shape = tuple(len(values) // known if size == -1 else size for size in shape)
        width = int(np.prod(shape, dtype=np.int64))
        if width == 0:
            if len(values) or num_steps is None:
                raise self._misfit(key, len(values), shape)
            return np.zeros((num_steps, *shape), dtype)
        if len(values) % width:
            raise self._misfit(key, len(values), shape)
        return values.reshape(-1, *shape)

    def packed_tensors(self, feature: Feature) -> np.ndarray:
        """[T, *shape] from one (compressed) little-endian array per step; never inflates beyond the declared size."""
        dtype = np.dtype(feature.dtype).newbyteorder("<")
        blobs = self.byte_values(feature.key)
        if -1 in feature.shape:
            raise self._misfit(feature.key, len(blobs), feature.shape)
        width = int(np.prod(feature.shape, dtype=np.int64)) * dtype.itemsize
        rows: list[np.ndarray] = []
        for step, blob in enumerate(blobs):
            data = blob
            if feature.encoding == "zlib":
                try:
                    data = zlib.decompressobj().decompress(blob, width + 1)
                except zlib.error as error:
                    message = f"{feature.key} of step {step} cannot be inflated: {error}"
                    raise CorruptEpisode(message, self._where, _SPEC_HINT, "corrupt_record") from error
            if len(data) != width:
                message = f"{feature.key} of step {step} has {len(data)} bytes, its declared shape needs {width}"
                raise CorruptEpisode(message, self._where, _SPEC_HINT, "wrong_shape")
            rows.append(np.frombuffer(data, dtype).reshape(feature.shape))
        return np.stack(rows) if rows else np.zeros((0, *feature.shape), dtype)

    def _list(self, key: str, kind: str) -> Any:
        if key not in self._messages:
            raise CorruptEpisode(
                f"the declared feature {key} is not in the record", self._where, _SPEC_HINT, "missing_feature"
            )
        message = self._messages[key]
        found = message.WhichOneof("kind")
        if found is None or not getattr(message, found).value:
            return ()
        if found != kind:
            raise CorruptEpisode(
                f"{key} is a {found}, its declared type needs {kind}", self._where, _SPEC_HINT, "wrong_type"
            )
        return getattr(message, kind).value

    def _misfit(self, key: str, count: int, shape: tuple[int, ...]) -> CorruptEpisode:
        message = f"{key} holds {count} values, which do not fill steps of shape {list(shape)}"
        return CorruptEpisode(message, self._where, _SPEC_HINT, "wrong_shape")


_SPEC_HINT = "features.json and the record disagree; fetch both from the same version of the data set"
