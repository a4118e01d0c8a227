"""Licences from the one that allows most to the one that allows least, so that what is made of several has one to keep to."""

from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class License:
    """A licence by its SPDX id."""

    name: str
    url: str
    hub: str
    """What the Hugging Face hub calls it."""


def _creative_commons(kind: str) -> License:
    return License(
        f"CC-{kind}-4.0", f"https://creativecommons.org/licenses/{kind.lower()}/4.0/", f"cc-{kind.lower()}-4.0"
    )


ORDER: tuple[License, ...] = (
    License("CC0-1.0", "https://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
    License("MIT", "https://spdx.org/licenses/MIT.html", "mit"),
    License("BSD-3-Clause", "https://spdx.org/licenses/BSD-3-Clause.html", "bsd-3-clause"),
    License("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0", "apache-2.0"),
    _creative_commons("BY"),
    _creative_commons("BY-SA"),
    _creative_commons("BY-NC"),
    _creative_commons("BY-NC-SA"),
    _creative_commons("BY-ND"),
    _creative_commons("BY-NC-ND"),
)
"""By what is asked of who shares what is made of the data: nothing; its notice; the name of the maker; the same licence
again; no trade; and last those that do not allow to share it changed, as a release is. Any other is unknown."""


def known(name: str) -> License | None:
    """The licence of that name, however it is spelt (``CC BY 4.0``, ``cc-by-4.0``); None where it is none of ``ORDER``."""
    plain = "-".join(name.lower().replace("_", "-").split())
    return next((one for one in ORDER if one.name.lower() == plain), None)


def strictest(names: Iterable[str]) -> str:
    """The name of the strictest licence of ``names``, as it stands there; one that is not known is the strictest of all.

    Where several are not known, the first of them in the order of the alphabet; ``unknown`` where there is none at all.
    """
    ranks = [(ORDER.index(found) if (found := known(name)) else len(ORDER), name) for name in sorted(set(names))]
    worst = max((rank for rank, _ in ranks), default=0)
    return next((name for rank, name in ranks if rank == worst), UNKNOWN)
