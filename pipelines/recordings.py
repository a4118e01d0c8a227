"""What several sources need alike: finding set folders, reading their JSON, packing pictures, telling text spans.

No source is known here, and no meaning is given to what is read.
"""

import contextlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from upath import UPath

from pipelines import places
from pipelines.storage import inside, state_of
from pipelines.video import VideoTools
from schemas.episode import EncodedView, EpisodeRef, Instruction
from schemas.errors import CorruptEpisode, SourceError
from schemas.fingerprint import fingerprint
from schemas.recipes import Limits

MAX_JSON_BYTES = 256 << 20
_MAX_JSON_VALUES = 20_000_000
"""Of a file; an empty list takes two bytes there and sixty in memory. The largest published for DROID has some four million."""
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
_MAX_DEPTH = 3
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"


def set_folders(location: str, is_set: Callable[[Any], bool]) -> list[str]:
    """Folders at or at most three below ``location`` for which ``is_set`` holds, sorted; none below another one.

    Where folders cannot be listed (``places.lists``) it is ``location`` itself or nothing.
    """
    found: list[str] = []

    def walk(folder: UPath, depth: int) -> None:
        if is_set(folder):
            found.append(str(folder))
        elif depth < _MAX_DEPTH:
            for child in sorted(folder.iterdir()):
                if child.is_dir() and not child.name.startswith("."):
                    walk(child, depth + 1)

    root = places.place(location)
    if not places.lists(root):
        with contextlib.suppress(NotADirectoryError):  # a layout that is known by what a folder holds
            walk(root, _MAX_DEPTH)
        return found
    if root.is_dir():
        try:
            walk(root, 0)
        except PermissionError as error:
            raise SourceError("a folder may not be listed", str(error.filename), "grant reading rights") from error
    return sorted(found)


def read_json(path: Path | UPath, hint: str) -> dict[str, Any]:
    """The JSON object in ``path``. Raises SourceError naming the file, whatever is wrong with it."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise SourceError("the file is empty", str(path), hint, "bad_index")
        if size > MAX_JSON_BYTES:
            raise SourceError(f"{size} bytes of JSON are more than {MAX_JSON_BYTES}", str(path), hint, "bad_index")
        value = _parsed(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError("the file is missing", str(path), hint, "missing_index") from error
    except OSError as error:
        raise SourceError(f"the file cannot be read: {error.strerror}", str(path), hint, "bad_index") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"not valid JSON: {error}"[:300], str(path), hint, "bad_index") from error
    if not isinstance(value, dict):
        raise SourceError(f"holds a {type(value).__name__}, not an object", str(path), hint, "bad_index")
    return value


def _parsed(data: bytes) -> Any:
    """The JSON in ``data``; halves of characters are replaced. Raises ValueError, also for a key that an object has twice."""
    count = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if count > _MAX_JSON_VALUES:
        raise ValueError(f"some {count} values are more than {_MAX_JSON_VALUES}")
    if _HALF_CHARACTER.search(data):
        text = json.dumps(json.loads(data, object_pairs_hook=_distinct), ensure_ascii=False)
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return json.loads(data, object_pairs_hook=_distinct)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice[:80]!r} stands there twice")
    return found


def readable(name: str) -> str:
    """The name of a file as text: bytes that are not UTF-8 are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


def path_inside[AnyPath: (Path, UPath)](root: AnyPath, relative: str, where: str) -> AnyPath:
    """``storage.inside``, as the fault of one episode: raises CorruptEpisode (``path_escape``)."""
    try:
        return inside(root, relative)
    except SourceError as error:
        raise CorruptEpisode(error.message, where, error.hint, error.reason) from error


def files_state(root: Path | UPath, relatives: Iterable[str], *facts: Any) -> str:
    """Fingerprint of these files' sizes and modification times, or what a store says instead: unchanged state, unchanged bytes.

    ``facts`` is what an index shared with other episodes says of this one; a file that every new episode changes does not
    belong into ``relatives``, or all of a set that grew would be read again. Names do not count: shards are renamed when
    there are more of them.
    """
    files = state_of(root, relatives)
    return fingerprint("state-1", [(size, mark) for _, size, mark in files], *facts)


def check_unchanged(ref: EpisodeRef, relatives: Iterable[str], *facts: Any) -> None:
    """Raises CorruptEpisode (``changed_while_reading``) where files or facts are not those that were listed."""
    if files_state(places.place(ref.location), relatives, *facts) != ref.state:
        raise CorruptEpisode(
            "its files changed after they were listed", ref.where, "run the same command again", "changed_while_reading"
        )


def packed_view(key: str, images: Iterable[bytes], times_ns: np.ndarray, video: VideoTools, where: str) -> EncodedView:
    """Single pictures as one video, their bytes unchanged. Raises CorruptEpisode (``bad_image``) or DecodeError."""
    cut = video.pack(_pictures(images, key, len(times_ns), where), f"{where} {key}")
    facts = cut.facts
    return EncodedView(
        key,
        facts.codec,
        facts.container,
        cut.data,
        facts.width_px,
        facts.height_px,
        times_ns,
        facts.packets_sha256,
        "packed",
        cut.first_frame,
        cut.sha256,
    )


def _pictures(images: Iterable[bytes], key: str, count: int, where: str) -> Iterator[bytes]:
    for step, image in enumerate(images):
        if not image.startswith((_JPEG, _PNG)):
            what = "is empty" if not image else f"is neither JPEG nor PNG (begins {image[:8].hex()})"
            message = f"picture {step} of {count} of {key} {what}"
            raise CorruptEpisode(message, where, "record or fetch it again", "bad_image")
        yield image


def pixels_view(
    key: str, frames: Iterable[np.ndarray], times_ns: np.ndarray, video: VideoTools, where: str
) -> EncodedView:
    """Raw pictures as a video of PNG, without loss: uint8 [H, W, 3] RGB or [H, W] gray, or uint16 [H, W] depth.

    Raises CorruptEpisode (``bad_image``) for pictures of another type or shape, and DecodeError.
    """
    return packed_view(key, (png(frame, where, key) for frame in frames), times_ns, video, where)


def png(frame: np.ndarray, where: str, key: str) -> bytes:
    """The picture as a PNG file, for types and shapes as in ``pixels_view``; raises CorruptEpisode (``bad_image``)."""
    fits = (frame.dtype == np.uint8 and (frame.ndim == 2 or frame.shape[2:] == (3,))) or (
        frame.dtype == np.uint16 and frame.ndim == 2
    )
    if not fits:
        message = f"a picture of {key} is {frame.dtype} {frame.shape}, which has no lossless place"
        raise CorruptEpisode(message, where, "pictures are uint8 RGB or gray, or uint16 depth", "bad_image")
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def file_view(key: str, path: Path | UPath, video: VideoTools, limits: Limits, where: str) -> tuple[EncodedView, str]:
    """A whole video file, copied as it is, at its own frame times from 0 on; and the hash of its bytes.

    Raises CorruptEpisode (``too_large``) and DecodeError. The caller counts its frames and may give them other times.
    """
    size = path.stat().st_size
    if size > limits.max_video_bytes:
        message = f"the video has {size} bytes, more than the {limits.max_video_bytes} allowed"
        raise CorruptEpisode(message, where, "raise limits.max_video_bytes in the recipe", "too_large")
    taken = video.take(path, where)
    facts = taken.facts
    times_ns = facts.times_ns - facts.times_ns[:1]
    view = EncodedView(
        key,
        facts.codec,
        facts.container,
        taken.data,
        facts.width_px,
        facts.height_px,
        times_ns,
        facts.packets_sha256,
        "copied",
        sha256=taken.sha256,
    )
    return view, taken.sha256


def spanned_instructions(texts: Sequence[str], field: str, times_ns: np.ndarray) -> list[Instruction]:
    """One text per step as instructions: without span where it never changes, else one for each run, in order.

    A run ends where the next begins; the last one ends a nanosecond after the last step, since spans are half-open.
    """
    if not texts:
        return []
    starts = [0, *(step for step in range(1, len(texts)) if texts[step] != texts[step - 1])]
    if len(starts) == 1:
        return [Instruction(texts[0], field)]
    stops = [*(int(times_ns[start]) for start in starts[1:]), int(times_ns[-1]) + 1]
    return [
        Instruction(texts[start], field, int(times_ns[start]), stop) for start, stop in zip(starts, stops, strict=True)
    ]
