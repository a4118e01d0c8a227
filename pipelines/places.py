"""Where recordings lie: local folders and fsspec URLs (``s3://``, ``gs://``, ``hf://``, ``https://``), behind one path type.

A location is a text; ``place`` makes a path of it that lists, opens and reads alike wherever it lies.
"""

from upath import UPath

from schemas.errors import UsageError

SCHEMES = ("s3", "gs", "gcs", "hf", "http", "https", "file", "memory", "az", "abfs")
"""What a location may begin with; URLs inside data are never followed."""


def is_url(location: str) -> bool:
    """Whether ``location`` is a URL rather than a local path."""
    return "://" in location


def place(location: str) -> UPath:
    """The path of ``location``; opens nothing. Raises UsageError for a scheme that is not one of ``SCHEMES``."""
    scheme = location.partition("://")[0]
    if is_url(location) and scheme not in SCHEMES:
        raise UsageError(f"{scheme}:// is no place for recordings", hint=f"known: {', '.join(SCHEMES)}, or a folder")
    return UPath(location)
