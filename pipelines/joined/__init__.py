"""How ``verify`` reads back what a format holds of the lake's latents and embeddings. Each member is named like its format.

A member module exports ``open_group(folder: Path, group: Mapping) -> JoinedProbe`` for a group's folder and its entry in the
manifest. Latents of formats whose samples have some are read through their probes instead, and need no member.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa

from pipelines.probed import HeldLatent, HeldText


class JoinedProbe(Protocol):
    """Reads one group of a format. What cannot be read raises ReleaseError, OSError or the error of its library."""

    def of(self, episode: Mapping[str, Any], lineage: pa.Table) -> Iterator[HeldLatent | HeldText]:
        """All that is held for an episode, given as the manifest tells of it, with its rows of the lineage."""
        ...


__all__ = ["HeldLatent", "HeldText", "JoinedProbe"]
