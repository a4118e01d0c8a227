"""Rows of the lake's ``texts``: how an embedding becomes one, and how a build reads it back. It must not know any encoder.

A row is of one final prompt, one encoder, one padded length and one dtype; its key is their fingerprint. numpy has no bfloat16:
such numbers are kept as the upper half of a float32, little-endian, and come back as float32, exactly.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.lake import Lake, quoted
from pipelines.rows import Row, row_sha256
from schemas.errors import LakeError, LayoutError
from schemas.fingerprint import bytes_sha256, fingerprint
from schemas.tables import TEXTS
from schemas.text_recipe import TextDtype

EMPTY = ""
"""The prompt of no instruction, for classifier-free guidance; encoded in every run."""
BFLOAT16 = "bfloat16"
_STORED: dict[TextDtype, str] = {"float32": "<f4", "float16": "<f2", "bfloat16": BFLOAT16}
_NAMES = {stored: name for name, stored in _STORED.items()}
_COLUMNS = ["prompt", "encoder", "encoder_fingerprint", "length", "mask", "dtype", "shape", "data", "data_sha256"]
_AT_ONCE = 200
"""Prompts asked for in one filter."""


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """An embedding as read: ``values`` float32 [L, D] with its ``mask`` bool [L], or only the tokens of the prompt, [n, D]."""

    prompt: str
    values: np.ndarray
    mask: np.ndarray
    """Which of the values are of the prompt, its end mark included; all, where only those were asked for."""
    length: int
    """L, of the padded prompt."""
    encoder: str
    encoder_fingerprint: str
    dtype: TextDtype
    """In which the numbers were kept."""


def prompt_sha256(prompt: str) -> str:
    """64 hex digits of the prompt as UTF-8, as FastWAM names its files."""
    return bytes_sha256(prompt.encode())


def text_id(prompt: str, encoder_fingerprint: str, length: int, dtype: TextDtype) -> str:
    """Key of a row."""
    return fingerprint("text-1", prompt_sha256(prompt), encoder_fingerprint, length, dtype)


def to_bytes(values: np.ndarray, dtype: TextDtype) -> bytes:
    """float32 ``values`` as ``dtype``, little-endian, in C order; rounded to nearest, ties to even.

    Raises LayoutError where a number is not finite, or is none any more as ``dtype``.
    """
    with np.errstate(over="ignore"):
        stored = _bfloat16_bits(values) if dtype == "bfloat16" else values.astype(_STORED[dtype])
    if not np.isfinite(values).all() or not np.isfinite(_numbers(stored)).all():
        raise LayoutError(
            f"the encoder gave values that are not finite as {dtype}",
            hint='check the weights, or set dtype = "bfloat16" or "float32"',
            reason="text_not_finite",
        )
    return stored.tobytes()


def from_bytes(data: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """The inverse of ``to_bytes``, as float32: ``dtype`` is what the row says, ``<f4``, ``<f2`` or ``bfloat16``."""
    if dtype not in _NAMES:
        raise LakeError(f"numbers of the dtype {dtype!r} are not read", hint=f"known: {', '.join(_NAMES)}")
    stored: np.ndarray = np.frombuffer(data, dtype="<u2" if dtype == BFLOAT16 else dtype)
    return _numbers(stored).reshape(shape)


def _bfloat16_bits(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _numbers(stored: np.ndarray) -> np.ndarray:
    if stored.dtype == np.dtype("<u2"):
        return (stored.astype("<u4") << 16).view("<f4")
    return stored.astype(np.float32)


def text_batch(
    prompt: str,
    values: np.ndarray,
    mask: np.ndarray,
    *,
    template: str,
    encoder: str,
    encoder_fingerprint: str,
    dtype: TextDtype,
    padded: bool,
) -> pa.RecordBatch:
    """The row of a prompt, with its hashes: ``values`` float32 [L, D], ``mask`` bool [L].

    Only the tokens of the mask are kept, unless ``padded``, or the mask has holes or something stands beside it. Raises
    LayoutError where a number is not finite.
    """
    count = int(mask.sum())
    whole = padded or not bool(mask[:count].all()) or bool(np.any(values[count:]))
    kept = np.ascontiguousarray(values if whole else values[:count])
    data = to_bytes(kept, dtype)
    row: Row = {
        "text_id": text_id(prompt, encoder_fingerprint, len(mask), dtype),
        "prompt": prompt,
        "prompt_sha256": prompt_sha256(prompt),
        "template": template,
        "encoder": encoder,
        "encoder_fingerprint": encoder_fingerprint,
        "length": len(mask),
        "mask": mask.tolist(),
        "dtype": _STORED[dtype],
        "shape": list(kept.shape),
        "data": data,
        "data_sha256": bytes_sha256(data),
        "row_sha256": "",
    }
    batch = pa.RecordBatch.from_arrays([pa.array([row[entry.name]], entry.type) for entry in TEXTS], schema=TEXTS)
    index = TEXTS.get_field_index("row_sha256")
    return batch.set_column(index, TEXTS.field(index), pa.array([row_sha256(batch)], pa.string()))


def dtype_named(stored: str) -> TextDtype:
    """The numbers that a row's ``dtype`` stands for."""
    return _NAMES[stored]


def embedding_of(
    lake: Lake,
    prompt: str,
    encoder: str,
    *,
    length: int | None = None,
    dtype: TextDtype | None = None,
    padded: bool = True,
) -> TextEmbedding:
    """The embedding of one final prompt; see ``embeddings_of``."""
    return embeddings_of(lake, [prompt], encoder, length=length, dtype=dtype, padded=padded)[prompt]


def embeddings_of(
    lake: Lake,
    prompts: Iterable[str],
    encoder: str,
    *,
    length: int | None = None,
    dtype: TextDtype | None = None,
    padded: bool = True,
) -> dict[str, TextEmbedding]:
    """By prompt: its embedding, padded to its length or the tokens of the prompt alone, however it was kept.

    ``encoder`` is a name, a fingerprint or a name and the beginning of one, ``umt5@3f9c``; ``length`` and ``dtype`` choose
    where the lake has several. Raises LakeError (``no_text``) naming the prompts that are missing, (``ambiguous``) where
    several rows would do, (``hash_mismatch``) where a row is damaged.
    """
    rows = _rows_of(lake, prompts, encoder, length, dtype, _COLUMNS)
    return {prompt: _embedding(row, padded, f"{lake.root} text {row['text_id'][:12]}") for prompt, row in rows.items()}


def text_hashes(
    lake: Lake, prompts: Iterable[str], encoder: str, *, length: int | None = None, dtype: TextDtype | None = None
) -> dict[str, str]:
    """By prompt: the hash of the row that ``embeddings_of`` would read, without its numbers. Raises as that does."""
    rows = _rows_of(lake, prompts, encoder, length, dtype, ["prompt", "row_sha256"])
    return {prompt: row["row_sha256"] for prompt, row in rows.items()}


def _rows_of(
    lake: Lake,
    prompts: Iterable[str],
    encoder: str,
    length: int | None,
    dtype: TextDtype | None,
    columns: Sequence[str],
) -> dict[str, Row]:
    wanted = list(dict.fromkeys(prompts))
    name, _, beginning = encoder.partition("@")
    chosen = f"(encoder = {quoted(name)} or encoder_fingerprint = {quoted(name)})"
    chosen += f" and starts_with(encoder_fingerprint, {quoted(beginning)})" if beginning else ""
    chosen += "" if length is None else f" and length = {length}"
    chosen += "" if dtype is None else f" and dtype = {quoted(_STORED[dtype])}"
    facts = lake.rows("texts", ["encoder_fingerprint", "length", "dtype"], chosen)
    kinds = {(row["encoder_fingerprint"], row["length"], _NAMES.get(row["dtype"], row["dtype"])) for row in facts}
    where = str(lake.root)
    if len(kinds) > 1:
        told = "; ".join(f"{one[0]} of length {one[1]} as {one[2]}" for one in sorted(kinds))
        raise LakeError(
            f"there are {len(kinds)} kinds of embeddings by {encoder!r}: {told}",
            where,
            "name the encoder by its fingerprint, and give length and dtype",
            "ambiguous",
        )
    found: dict[str, Row] = {}
    for first in range(0, len(wanted), _AT_ONCE):
        hashes = ", ".join(quoted(prompt_sha256(prompt)) for prompt in wanted[first : first + _AT_ONCE])
        rows = lake.rows("texts", list(columns), f"{chosen} and prompt_sha256 in ({hashes})")
        found |= {row["prompt"]: row for row in rows}
    missing = [prompt for prompt in wanted if prompt not in found]
    if missing:
        example = max(missing, key=len)  # not the empty one, where there are others
        raise LakeError(
            f"{len(missing)} of {len(wanted)} prompts have no embedding by {encoder!r}, such as {example[:120]!r}",
            where,
            "make them with `wamloom texts --lake LAKE --encoder NAME`, of the same template",
            "no_text",
        )
    return found


def _embedding(row: dict[str, Any], padded: bool, where: str) -> TextEmbedding:
    if bytes_sha256(row["data"]) != row["data_sha256"]:
        raise LakeError(
            "the embedding is damaged: its hash is another",
            where,
            "restore the lake from a copy, or encode its texts again into a new lake",
            "hash_mismatch",
        )
    values, mask = from_bytes(row["data"], row["dtype"], row["shape"]), np.asarray(row["mask"], dtype=bool)
    if padded and len(values) < len(mask):
        values = np.concatenate([values, np.zeros((len(mask) - len(values), values.shape[1]), np.float32)])
    elif not padded and len(values) == len(mask):
        values = values[mask]
    name = _NAMES[row["dtype"]]
    return TextEmbedding(
        row["prompt"],
        values,
        mask if padded else np.ones(len(values), dtype=bool),
        row["length"],
        row["encoder"],
        row["encoder_fingerprint"],
        name,
    )
