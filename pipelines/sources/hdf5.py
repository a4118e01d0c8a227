"""HDF5 recordings: robomimic and LIBERO files, ALOHA and RoboMIND episodes, RoboHive traces; videos beside them.

Every ``.hdf5`` and ``.h5`` file below a folder belongs to its set, whatever is in it: which layout a file has is told by its
top-level names. A file that is damaged, and one of no layout known here, is a reference whose reading fails and says why;
where no file of a set has a known layout, listing fails and says what was found. ``trajectory.h5`` is DROID's, not read here.

Files are read by ranges, only for the arrays of the episode asked for, and in a child process (``hdf5_child``). Times are
recorded ones where the layout has them, else plain indices; ``declared_rate`` is what a file says of its environment.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from pipelines import hdf5_child, hdf5_files, hdf5_process
from pipelines.hdf5_episode import Listed, add_side_videos
from pipelines.places import lists, place
from pipelines.recordings import files_state, path_inside, readable, set_folders
from pipelines.video import VideoTools
from schemas.episode import EpisodeRef, RawEpisode
from schemas.errors import CorruptEpisode, SourceError
from schemas.recipes import Limits

_OTHERS = ("trajectory.h5",)
_DIGITS = 6


def _is_recording(path: Path) -> bool:
    return path.suffix in hdf5_files.SUFFIXES and path.name not in _OTHERS and not path.name.startswith(".")


def _is_set(folder: Path) -> bool:
    """A folder with such files, or the task folder of RoboMIND, whose files lie deep below."""
    return (folder / "success_episodes").is_dir() or any(_is_recording(child) for child in folder.iterdir())


class Hdf5Source:
    """The ``hdf5`` source."""

    name = "hdf5"

    def datasets(self, location: str) -> list[str]:
        """Folders with ``.hdf5`` or ``.h5`` files; or the one file named."""
        path = cast(Path, place(location))
        return [location] if _is_recording(path) and path.is_file() else set_folders(location, _is_set)

    def refs(self, location: str) -> Sequence[EpisodeRef]:
        """Every episode of every file. Raises SourceError (``unknown_layout``) where no file has a layout known here."""
        root = cast(Path, place(location))
        folder, files = (root.parent, [root]) if root.is_file() else (root, sorted(_files(root)))
        refs: list[EpisodeRef] = []
        strange: list[str] = []
        for path in files:
            found, unknown = self._listed(location, folder, path)
            refs += found
            strange += [unknown] if unknown else []
        if strange and len(strange) == len(files):
            hint = f"known are files with {'; '.join(layout.MARKS for layout in hdf5_child.LAYOUTS.values())}"
            raise SourceError(strange[0], location, hint, "unknown_layout")
        return sorted(_distinct(refs), key=lambda ref: ref.key)

    def read(self, ref: EpisodeRef, video: VideoTools, limits: Limits) -> RawEpisode:
        """The episode of one group or file. Raises MissingFile, CorruptEpisode or DecodeError."""
        details = dict(ref.details)
        where = f"{readable(details['file'])} ({ref.where})"
        if "problem" in details:
            hint = (
                "docs/formats.md lists the layouts that are read; leave the file out if it holds no recordings"
                if details["problem"] == "unknown_layout"
                else "fetch the file again"
            )
            raise CorruptEpisode(details["message"], where, hint, details["problem"])
        root = cast(Path, place(ref.location))
        folder = root.parent if root.is_file() else root
        side: dict[str, str] = json.loads(details["videos"])
        if files_state(folder, [details["file"], *side.values()]) != ref.state:
            message = "its file changed after it was listed"
            raise CorruptEpisode(message, where, "run the same command again", "changed_while_reading")
        path = path_inside(folder, details["file"], where)
        content = hdf5_process.read(str(path), details["layout"], details["group"], limits, ref.num_bytes, where)
        content.pack(video)
        videos = {key: path_inside(folder, name, where) for key, name in side.items()}
        add_side_videos(content, videos, video, limits)
        places = {name: readable(details[name]) for name in ("file", "group") if details[name]}
        return RawEpisode(
            ref=ref,
            streams=content.streams(),
            views=content.timed_views(),
            instructions=content.told(),
            declared_rate=content.declared_rate,
            source_sha256=content.source_sha256,
            robot_type=content.robot_type,
            attributes=tuple(sorted({**content.attributes, **places}.items())),
            findings=tuple(content.findings),
        )

    def _listed(self, location: str, folder: Path, path: Path) -> tuple[list[EpisodeRef], str]:
        """The references of a file, and what is strange about it where its layout is not known."""
        relative = path.relative_to(folder).as_posix()
        told = readable(relative)
        where = f"{told} ({location})"
        beside = _side_videos(path)
        layout, unknown, episodes = "", "", [Listed("")]
        try:
            layout, episodes, held = hdf5_process.listed(str(path), where)
            if not layout:
                films = "".join(f"; beside it lies {readable(film.name)}" for film in beside.values())
                unknown = f"{told} is of no layout known here: it holds {held}{films}"
                episodes = [Listed("", problem="unknown_layout", message=unknown)]
        except SourceError as error:
            episodes = [Listed("", problem=error.reason, message=error.message)]
        if layout and not episodes:
            episodes = [Listed("", problem="empty", message=f"{told} holds no episode")]
        size = path.stat().st_size if path.is_file() else 0
        refs = []
        for episode in episodes:
            videos = {key: video.relative_to(folder).as_posix() for key, video in _of(episode.group, beside).items()}
            details = {"file": relative, "layout": layout, "group": episode.group, "videos": json.dumps(videos)}
            if episode.problem:
                details |= {"problem": episode.problem, "message": episode.message}
            refs.append(
                EpisodeRef(
                    source=self.name,
                    location=location,
                    dataset=path.stem if str(path) == location else folder.name,
                    version="",
                    split=episode.split,
                    key=_key(told, episode.group),
                    state=files_state(folder, [relative, *videos.values()]),
                    num_bytes=max(1, size // len(episodes)),
                    details=tuple(sorted(details.items())),
                )
            )
        return refs, unknown


def _files(root: Path) -> list[Path]:
    """Those below ``root``, and links that lead nowhere, whose recordings would be missed without a trace."""
    found = [path for path in root.rglob("*") if _is_recording(path) and (path.is_file() or _leads_nowhere(path))]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _distinct(refs: Sequence[EpisodeRef]) -> list[EpisodeRef]:
    """``refs`` with the names of file and group behind keys that several have: of ``a1.h5``, ``a01.h5`` and ``a1.hdf5``."""
    counts = Counter(ref.key for ref in refs)
    return [
        ref
        if counts[ref.key] == 1
        else replace(
            ref, key=f"{ref.key} ({'#'.join(filter(None, (readable(ref.detail('file')), ref.detail('group'))))})"
        )
        for ref in refs
    ]


def _key(relative: str, group: str) -> str:
    """``file/group`` with numbers padded, so that 2 comes before 10."""
    name = f"{relative.rpartition('.')[0]}/{group}" if group else relative.rpartition(".")[0]
    return re.sub(r"\d+", lambda match: match[0].zfill(_DIGITS), name)


def _side_videos(path: Path) -> dict[str, Path]:
    """Videos in the same folder whose name goes on where that of the file ends, by the rest of their name."""
    found = {}
    for other in path.parent.iterdir() if lists(path) else ():
        rest = other.stem.removeprefix(path.stem)
        if other.suffix == ".mp4" and other.stem.startswith(path.stem) and (not rest or not rest[0].isalnum()):
            found[rest.strip("_-.") or "video"] = other
    return found


def _of(group: str, videos: dict[str, Path]) -> dict[str, Path]:
    """Those of one group: all where the file is one episode, else those whose name ends with its number."""
    number = re.search(r"\d+$", group)
    if not group:
        return videos
    return {
        key[: match.start()].strip("_-.") or "video": path
        for key, path in videos.items()
        if number and (match := re.search(r"\d+$", key)) and int(match[0]) == int(number[0])
    }


SOURCE = Hdf5Source()
