"""Proves the embedding of each episode's instruction, where GigaWorld-Policy looks for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.release_texts import WrittenTexts


def open_group(folder: Path, group: Mapping[str, Any]) -> WrittenTexts:  # noqa: ARG001 - of the protocol
    """See ``pipelines.joined``."""
    return WrittenTexts(folder)
