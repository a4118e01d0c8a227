"""How DROID names a recording: by folder, by uuid, by the paths that published files keep of it.

A folder is ``<LAB>/{success,failure}/<date>/<asctime>``, a uuid ``<LAB>+<user>+<date>-<HH>h-<MM>m-<SS>s``. A recording that
moved (to another disk, or from failure to success) keeps laboratory and second; those are what it is known by.
"""

import re
from dataclasses import dataclass

OUTCOMES = ("success", "failure", "unknown")
"""The last is of releases only, for what nobody judged."""
DAY = re.compile(r"\d{4}-\d{2}-\d{2}$")
_FOLDER = re.compile(r"(?:^|/)([^/]+)/(success|failure|unknown)/(\d{4}-\d{2}-\d{2})/([^/]+)")
_UUID = re.compile(r"([^+/]+)\+[^+/]+\+(\d{4}-\d{2}-\d{2})-(\d{2})h-(\d{2})m-(\d{2})s$")
_ASCTIME = re.compile(r"[A-Z][a-z]{2}_+([A-Z][a-z]{2})_+(\d{1,2})_(\d{2})[:_](\d{2})[:_](\d{2})_(\d{4})$")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Recording:
    """What a path or a uuid says of a recording; "" where it does not say."""

    lab: str
    second: str
    """``2023-03-03T16:33:25``, or the name of the folder where that is no time."""
    date: str
    outcome: str = ""
    folder: str = ""
    """``<LAB>/<outcome>/<date>/<asctime>``."""
    uuid: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What stays when a recording moves; a second recorder of the same laboratory could share it."""
        return (self.lab, self.second)


def of_path(path: str) -> Recording | None:
    """The recording whose folder ``path`` names or leads through; None where it shows none."""
    found = _FOLDER.search(path)
    if found is None:
        return None
    lab, outcome, date, name = found.groups()
    return Recording(lab, _second(name), date, outcome, "/".join(found.groups()))


def of_uuid(uuid: str) -> Recording | None:
    """The recording of that uuid; None where it is not written as DROID writes them."""
    found = _UUID.fullmatch(uuid)
    if found is None:
        return None
    lab, date, hour, minute, second = found.groups()
    return Recording(lab, f"{date}T{hour}:{minute}:{second}", date, uuid=uuid)


def _second(name: str) -> str:
    found = _ASCTIME.fullmatch(name.replace(" ", "_"))
    if found is None or found[1] not in _MONTHS:
        return name.replace(":", "_").replace(" ", "_")
    month, day, hour, minute, second, year = found.groups()
    return f"{year}-{_MONTHS.index(month) + 1:02d}-{int(day):02d}T{hour}:{minute}:{second}"
