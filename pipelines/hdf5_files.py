"""HDF5 files that come from anywhere: opened by ranges, walked link by link, every array checked before it is read.

What a file may not do: name another file (external links, external storage, virtual data sets), ask for a filter that is
not built in, lead in circles, declare more than the limits allow, or promise rows that were never written. Each is a
CorruptEpisode with its reason; nothing foreign is opened and nothing is allocated first. No layout is known here.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from upath import UPath

from schemas.episode import Scalar
from schemas.errors import CorruptEpisode, MissingFile
from schemas.recipes import Limits

SUFFIXES = (".hdf5", ".h5")
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIGNATURE_PLACES = (0, 512, 1024, 2048)
"""A file may begin with a block of its writer's own; the format tries these places and on, doubling."""
_BUILT_IN = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
_MAX_DEPTH = 16
_MAX_HOPS = 16
"""Soft links to follow for one name: they may lead to one another, and to themselves."""
MAX_MEMBERS = 1_000_000
_MAX_ATTRIBUTE_BYTES = 1 << 24
_MAX_ATTRIBUTE_VALUES = 4096
_BLOCK_BYTES = 64 << 20
"""Rows of an array that are read at a time."""
_SLACK = 1 << 16
_H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, NotImplementedError)
"""What h5py makes of the errors of libhdf5."""

Node = Any
"""A group or an array: h5py comes without types."""


@contextlib.contextmanager
def opened(path: Path | UPath, where: str) -> Iterator[h5py.Group]:
    """The root group of the file. Raises MissingFile, or CorruptEpisode (``not_hdf5``, ``truncated``, ``corrupt``)."""
    while h5py.h5pl.size():  # filters that are not built in would be code from somewhere
        h5py.h5pl.remove(0)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            size = file.seek(0, 2)
            found = any(_at(file, offset, len(_SIGNATURE)) == _SIGNATURE for offset in _SIGNATURE_PLACES)
        except FileNotFoundError as error:
            raise MissingFile("the file is missing", where, "fetch it from the original data set") from error
        except OSError as error:
            hint = "grant reading rights, or fetch the file again"
            raise CorruptEpisode(f"the file cannot be read: {error}", where, hint, "unreadable") from error
        if not found:
            what = "is empty" if size == 0 else "is not HDF5 (its signature is not there)"
            raise CorruptEpisode(f"the file {what}", where, "fetch the file again", "not_hdf5")
        with reading(where):
            root = stack.enter_context(h5py.File(file, "r"))
        yield root


def _at(file: Any, offset: int, count: int) -> bytes:
    file.seek(offset)
    found: bytes = file.read(count)
    return found


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
    """Turns what libhdf5 says of a damaged file into CorruptEpisode (``truncated`` or ``corrupt``)."""
    try:
        yield
    except _H5_ERRORS as error:
        text = str(error)
        reason = "truncated" if "truncated" in text or "addr overflow" in text else "corrupt"
        hint = "fetch the file again; it was cut short or damaged on the way, or its recorder did not close it"
        raise CorruptEpisode(f"libhdf5 cannot read it: {text[:300]}", where, hint, reason) from error


def names(group: h5py.Group, where: str) -> list[str]:
    """The members of a group, sorted; nothing is opened. Raises CorruptEpisode (``corrupt``, ``bad_name``)."""
    with reading(where):
        count = group.id.get_num_objs()
        if count > MAX_MEMBERS:
            raise CorruptEpisode(f"{group.name} has {count} members", where, "no recording has so many", "too_large")
        found = list(group.id)
    texts = []
    for name in found:
        text = name.decode("utf-8", "replace")
        if text.encode() != name or not text.isprintable():
            message = f"{group.name} has a member named {name[:80]!r}, which is no text"
            raise CorruptEpisode(message, where, "names are printable UTF-8", "bad_name")
        texts.append(text)
    return sorted(texts)


def member(group: h5py.Group, name: str, where: str) -> Node | None:
    """The group or array of that name; None where there is none, or where it is a type.

    Soft links are followed step by step inside the file. Raises CorruptEpisode: ``external_link`` for a link to another
    file or of a kind that only a plugin knows, ``link_cycle``, ``broken_link``, ``virtual``, ``external_storage``.
    """
    return _follow(group, name.encode(), where, [_MAX_HOPS])


def _follow(group: h5py.Group, name: bytes, where: str, hops: list[int]) -> Node | None:
    links = group.id.links
    with reading(where):
        if not links.exists(name):
            return None
        kind = links.get_info(name).type
    place = f"{(group.name or '').rstrip('/')}/{name.decode('utf-8', 'replace')}"
    if kind == h5py.h5l.TYPE_SOFT:
        with reading(where):
            target = links.get_val(name)
        hops[0] -= 1
        if hops[0] < 0:
            message = f"{place} is a link that leads to itself"
            raise CorruptEpisode(message, where, "write the values themselves in its place", "link_cycle")
        return _target(group, target, place, where, hops)
    if kind != h5py.h5l.TYPE_HARD:
        message = f"{place} is a link out of this file; it is not followed"
        raise CorruptEpisode(message, where, "copy what it names into the file (h5copy, h5repack)", "external_link")
    with reading(where):
        found = h5py.h5o.open(group.id, name)
    if isinstance(found, h5py.h5g.GroupID):
        return h5py.Group(found)
    if not isinstance(found, h5py.h5d.DatasetID):
        return None
    with reading(where):
        properties = found.get_create_plist()
        virtual = properties.get_layout() == h5py.h5d.VIRTUAL
        external = properties.get_external_count()
    if virtual or external:
        what = "a virtual data set made of other files" if virtual else "stored in another file"
        hint = "copy the values into the file (h5repack)"
        raise CorruptEpisode(f"{place} is {what}", where, hint, "virtual" if virtual else "external_storage")
    with reading(where):
        return h5py.Dataset(found)


def _target(group: h5py.Group, target: bytes, place: str, where: str, hops: list[int]) -> Node:
    node: Node | None = h5py.Group(group.file["/"].id) if target.startswith(b"/") else group
    for part in target.split(b"/"):
        if part in (b"", b"."):
            continue
        node = _follow(node, part, where, hops) if isinstance(node, h5py.Group) else None
        if node is None:
            message = f"{place} is a link to {target[:80]!r}, which is not there"
            raise CorruptEpisode(message, where, "fetch the file again", "broken_link")
    assert node is not None
    return node


def arrays(group: h5py.Group, where: str, leave_out: Sequence[str] = ()) -> list[tuple[str, h5py.Dataset]]:
    """Every array at or below ``group`` with its path relative to it, sorted, but for members named in ``leave_out``.

    Raises CorruptEpisode as ``member`` does, and ``link_cycle`` where a group holds itself or groups are nested too deep.
    """
    found: list[tuple[str, h5py.Dataset]] = []

    def walk(at: h5py.Group, prefix: str, above: tuple[Any, ...]) -> None:
        with reading(where):
            token = h5py.h5o.get_info(at.id).addr
        if token in above or len(above) >= _MAX_DEPTH:
            message = f"{at.name} holds itself, or lies more than {_MAX_DEPTH} groups deep"
            raise CorruptEpisode(message, where, "write the file without links between groups", "link_cycle")
        for name in names(at, where):
            if not prefix and name in leave_out:
                continue
            node = member(at, name, where)
            if isinstance(node, h5py.Group):
                walk(node, f"{prefix}{name}/", (*above, token))
            elif node is not None:
                found.append((f"{prefix}{name}", node))
            if len(found) > MAX_MEMBERS:
                raise CorruptEpisode(f"more than {MAX_MEMBERS} arrays", where, "no recording has so many", "too_large")

    walk(group, "", ())
    return found


def check(array: h5py.Dataset, limits: Limits, where: str) -> None:
    """Raises CorruptEpisode where reading would load foreign code or too much, or give values nobody wrote.

    Reasons: ``unsupported_filter``, ``too_large``, ``never_written``, ``corrupt``.
    """
    with reading(where):
        shape, width, chunks = array.shape or (), array.dtype.itemsize, array.chunks
        properties = array.id.get_create_plist()
        filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
        stored = array.id.get_storage_size()
    unknown = [code for code in filters if code not in _BUILT_IN]
    if unknown or filters.count(1) > 1:  # deflated twice: a thousand times a thousand
        what = f"filter {unknown[0]}, which is not built into HDF5" if unknown else "deflate twice"
        hint = "rewrite it with gzip (h5repack -f GZIP=4)"
        raise CorruptEpisode(f"{array.name} uses {what}", where, hint, "unsupported_filter")
    num_bytes, chunk_bytes = math.prod(shape) * width, math.prod(chunks or ()) * width
    if max(num_bytes, chunk_bytes) > limits.max_array_bytes:
        message = f"{array.name} declares {max(num_bytes, chunk_bytes)} bytes, allowed are {limits.max_array_bytes}"
        raise CorruptEpisode(message, where, "raise limits.max_array_bytes in the recipe if it is honest", "too_large")
    if not num_bytes:
        return
    if chunks is None:
        missing = stored == 0
    else:
        with reading(where):
            sizes: list[int] = []
            array.id.chunk_iter(lambda info: sizes.append(info.size))
        wanted = math.prod(-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True))
        missing = len(sizes) < wanted
        if max(sizes, default=0) > chunk_bytes + chunk_bytes // 8 + _SLACK:
            message = f"{array.name} has a chunk of {max(sizes)} bytes that declares {chunk_bytes}"
            raise CorruptEpisode(message, where, "fetch the file again", "corrupt")
    if missing:
        message = f"{array.name} {list(shape)} was not written, or not to its end; its rows would read as zeros"
        raise CorruptEpisode(message, where, "the recorder stopped early; leave the episode out", "never_written")


def numbers(array: h5py.Dataset, limits: Limits, where: str) -> np.ndarray:
    """The whole array of numbers, checked, in this machine's byte order. Raises CorruptEpisode."""
    check(array, limits, where)
    with reading(f"{array.name} ({where})"):
        values = np.asarray(array[()])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def rows(array: h5py.Dataset, limits: Limits, where: str) -> Iterator[np.ndarray]:
    """The rows of an array, checked, read in blocks of whole chunks and about 64 MB. Raises CorruptEpisode.

    Rows of variable length are counted while they are read: they may not come to more than the limit together.
    """
    check(array, limits, where)
    num_rows, place = array.shape[0], f"{array.name} ({where})"
    if array.dtype.kind == "O":
        total = 0
        for index in range(num_rows):
            with reading(place):
                row = array[index]
            total += len(row)
            if total > limits.max_array_bytes:
                message = f"{array.name} comes to more than {limits.max_array_bytes} bytes"
                raise CorruptEpisode(message, where, "raise limits.max_array_bytes if it is honest", "too_large")
            yield row
        return
    per_row = max(1, math.prod(array.shape[1:]) * array.dtype.itemsize)
    step = array.chunks[0] if array.chunks else 1
    block = max(step, _BLOCK_BYTES // per_row // step * step)
    for start in range(0, num_rows, block):
        with reading(place):
            values = array[start : start + block]
        yield from values


def texts(array: h5py.Dataset, limits: Limits, where: str) -> list[str]:
    """The texts of an array of strings, or the one of a scalar; bytes that are not UTF-8 are replaced."""
    if array.shape == ():
        check(array, limits, where)
        with reading(where):
            return [_text(array[()])]
    return [_text(value) for value in rows(array, limits, where)] if len(array.shape or ()) == 1 else []


def attributes(node: Node, where: str) -> dict[str, Scalar]:
    """Attributes that are one text or number, or a short list of numbers (as text); others are named with their type.

    Raises CorruptEpisode.
    """
    found: dict[str, Scalar] = {}
    with reading(where):
        keys = sorted(node.attrs, key=repr)
    for key in keys:
        with reading(where):
            held = node.attrs.get_id(key)
            shape, dtype = held.shape, held.dtype
        count = 0 if shape is None else math.prod(shape)
        if (
            count * dtype.itemsize > _MAX_ATTRIBUTE_BYTES
            or count > _MAX_ATTRIBUTE_VALUES
            or dtype.kind not in "OSUbiuf"
        ):
            found[_text(key)] = f"{dtype} {list(shape or ())}, not read"
            continue
        with reading(where):
            value = node.attrs[key]
        told: Scalar
        if isinstance(value, (str, bytes)):
            told = _text(value)
        elif isinstance(value, h5py.Empty):
            told = ""
        elif count == 1 and np.asarray(value).dtype.kind in "biuf":
            told = np.asarray(value).reshape(-1)[0].item()
        else:
            listed = np.asarray(value).reshape(-1).tolist()
            told = ", ".join(_text(one) if isinstance(one, (str, bytes)) else repr(one) for one in listed)
        found[_text(key)] = told
    return found


def clean(text: str) -> str:
    """The text with what is no character replaced: h5py and JSON let halves of characters through."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else clean(str(value))
