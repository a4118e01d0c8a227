"""Files that trainers read with ``torch.load``: written so that equal values give equal bytes, read back without running code."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.storage import write_durably
from schemas.errors import ReleaseError
from schemas.text_recipe import TextDtype

_DTYPES: dict[TextDtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def tensor(values: np.ndarray, dtype: TextDtype) -> torch.Tensor:
    """``values`` as a tensor of its own memory, rounded to nearest, ties to even, where ``dtype`` is narrower."""
    return torch.from_numpy(np.array(values)).to(_DTYPES[dtype])


def write_torch(path: Path, value: Any) -> None:
    """Writes ``value``, of tensors, numbers, texts, lists and dicts, as ``torch.save`` does, and fsyncs it."""
    buffer = io.BytesIO()  # a file's own name would become part of the archive
    torch.save(value, buffer)
    write_durably(path, buffer.getvalue())


def read_torch(path: Path) -> Any:
    """What ``write_torch`` wrote; nothing in the file is run. Raises ReleaseError where it is damaged."""
    try:
        # torch checks no sums: an archive that was cut or changed is noticed here
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise ReleaseError(f"cannot be read back: {error}", str(path), "build it again", "unreadable") from error
    raise ReleaseError(f"cannot be read back: {damaged} in it is damaged", str(path), "build it again", "unreadable")


class _Pickler(pickle.Pickler):
    """Tensors as the bytes of ``torch.save``, which torch's own reading of tensors in pickles takes: torch would write the
    address of their memory instead, another one each time."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return torch.storage._load_from_bytes, (buffer.getvalue(),)


def pickled_tensors(values: Mapping[str, np.ndarray], dtype: TextDtype) -> bytes:
    """A pickle of a dict of tensors, for trainers that read nothing else; equal values give equal bytes.

    Nothing here reads it: opening a pickle runs what is in it.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump({name: tensor(array, dtype) for name, array in values.items()})
    return buffer.getvalue()
