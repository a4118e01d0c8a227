"""Content identity: one canonical text for any plain value, and its sha256. Never a rank, a path, an order or a time."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np
from pydantic import BaseModel


def _plain(value: Any) -> Any:
    """``value`` as JSON types only; raises TypeError for a type whose text would not be stable."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="python"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, Fraction):
        return {"fraction": [value.numerator, value.denominator]}
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": list(value.shape), "sha256": array_sha256(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    raise TypeError(f"no canonical form for {type(value).__name__}")


def canonical_json(value: Any) -> str:
    """The one text of ``value``: keys sorted, no spaces, floats by their exact bits."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(*values: Any) -> str:
    """64 hex digits that change when anything in ``values`` changes; equal values give equal digits on any machine."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def array_sha256(array: np.ndarray) -> str:
    """64 hex digits of the array's bytes in C order and little-endian; shape and dtype are not part of it."""
    native = np.ascontiguousarray(array)
    if native.dtype.byteorder == ">" or (native.dtype.byteorder == "=" and not np.little_endian):
        native = native.astype(native.dtype.newbyteorder("<"))
    return hashlib.sha256(native.tobytes()).hexdigest()


def bytes_sha256(data: bytes | bytearray | memoryview) -> str:
    """64 hex digits of ``data``."""
    return hashlib.sha256(data).hexdigest()
