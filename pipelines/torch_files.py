"""Files that trainers read with ``torch.load``: written so that equal values give equal bytes, read back without running code.

torch is imported when the first of them is made or read.
"""

import io
import lzma
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.read_back import unreadable
from pipelines.storage import write_durably
from schemas.text_recipe import TextDtype

if TYPE_CHECKING:
    import torch

_BEGIN, _END = b"\x80\x04}(", b"u."
"""Of a pickle: protocol 4, an empty dict, and the mark of its items; all of which go into it."""
_LOAD, _CALL = b"ctorch.storage\n_load_from_bytes\nB", b"\x85R"
"""What is called, and what stands before the bytes, and behind them: that it is called with these alone."""


def tensor(values: np.ndarray, dtype: TextDtype) -> "torch.Tensor":
    """``values`` as a tensor of its own memory, rounded to nearest, ties to even, where ``dtype`` is narrower."""
    import torch

    chosen = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    return torch.from_numpy(np.array(values)).to(chosen[dtype])


def flags(values: np.ndarray) -> "torch.Tensor":
    """``values`` as a tensor of bools."""
    import torch

    return torch.from_numpy(np.array(values, dtype=bool))


def write_torch(path: Path, value: Any) -> None:
    """Writes ``value``, of tensors, numbers, texts, lists and dicts, as ``torch.save`` does, and fsyncs it."""
    import torch

    buffer = io.BytesIO()  # a file's own name would become part of the archive
    torch.save(value, buffer)
    write_durably(path, buffer.getvalue())


def read_torch(path: Path) -> Any:
    """What ``write_torch`` wrote; nothing in the file is run. Raises ReleaseError where it is damaged."""
    return _loaded(path, path)


def _loaded(path: Path, source: Path | io.BytesIO) -> Any:
    import torch

    try:
        # torch checks no sums: an archive that was cut or changed is noticed here
        with zipfile.ZipFile(source) as archive:
            damaged = archive.testzip()
        if damaged is None:
            if isinstance(source, io.BytesIO):
                source.seek(0)
            return torch.load(source, map_location="cpu", weights_only=True)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        pickle.UnpicklingError,
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
    ) as error:
        raise unreadable(path, error) from error
    raise unreadable(path, f"{damaged} in it is damaged")


def read_numbers(path: Path, value: Any, dtype: TextDtype, num_axes: int) -> np.ndarray:
    """float32 of a tensor that ``read_torch`` gave. Raises ReleaseError where it is none of these numbers and axes."""
    import torch

    if not isinstance(value, torch.Tensor) or value.dtype != getattr(torch, dtype) or value.ndim != num_axes:
        raise unreadable(path, f"it holds something else than a tensor of {dtype} with {num_axes} axes")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # one number may stand for billions
        raise unreadable(path, f"its tensor of {list(value.shape)} has not so many numbers")
    return np.asarray(value.float().numpy())


def pickled_tensors(values: Mapping[str, np.ndarray], dtype: TextDtype) -> bytes:
    """A pickle of a dict of tensors, for trainers that read nothing else; equal values give equal bytes.

    Its few instructions are written one by one, so that nothing but texts and tensors can come into it, these as the bytes of
    ``torch.save``, which torch's own reading of tensors in pickles takes. Nothing here reads it: that runs what is in it.
    """
    import torch

    parts = [_BEGIN]
    for name, array in values.items():
        text, buffer = name.encode(), io.BytesIO()
        torch.save(tensor(array, dtype), buffer)
        data = buffer.getvalue()
        parts += [b"X", len(text).to_bytes(4, "little"), text, _LOAD, len(data).to_bytes(4, "little"), data, _CALL]
    return b"".join([*parts, _END])


def read_pickled(path: Path) -> dict[str, Any]:
    """By name what ``pickled_tensors`` wrote. Only its own instructions are taken, and none of them is run.

    Raises ReleaseError where the file has any other, or is damaged.
    """
    data = path.read_bytes()
    found: dict[str, Any] = {}

    def take(at: int, wanted: bytes) -> int:
        if not data.startswith(wanted, at):
            raise unreadable(path, f"it has other instructions than were written, at byte {at}")
        return at + len(wanted)

    def take_bytes(at: int) -> tuple[bytes, int]:
        stop = at + 4 + int.from_bytes(data[at : at + 4], "little")
        return data[at + 4 : stop], stop

    at = take(0, _BEGIN)
    while not data.startswith(_END, at):
        name, at = take_bytes(take(at, b"X"))
        content, at = take_bytes(take(at, _LOAD))
        at = take(at, _CALL)
        found[name.decode()] = _loaded(path, io.BytesIO(content))
    if take(at, _END) != len(data):
        raise unreadable(path, "there is something behind its end")
    return found
