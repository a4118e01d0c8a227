"""What differs from store to store: how its client is set up, how often it asks again, and what it raises.

s3fs, gcsfs and huggingface_hub repeat requests that fail in passing; the HTTP client of fsspec does not, so it is told to.
"""

import asyncio
import functools
import importlib
from typing import Any

HTTP = ("http", "https")
CONNECTIONS = 32
WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Before each repetition of an HTTP request."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may do better in a moment."""
_FAILURES = {
    "s3": ("botocore.exceptions:BotoCoreError", "botocore.exceptions:ClientError"),
    "gs": ("gcsfs.retry:HttpError", "google.auth.exceptions:GoogleAuthError", "aiohttp:ClientError"),
    "hf": ("httpx:HTTPError",),
    "http": ("aiohttp:ClientError",),
    "https": ("aiohttp:ClientError",),
    "az": ("azure.core.exceptions:AzureError",),
    "abfs": ("azure.core.exceptions:AzureError",),
}
"""Exceptions that are no OSError, by scheme."""


EXACTLY: dict[str, dict[str, Any]] = {"hf": {"cache_type": "none"}}
"""Options of reading a range without what follows it."""


class NoRanges(Exception):
    """The server sends the whole file where a part was asked for."""


def _http_options() -> dict[str, Any]:
    """Timeouts, repetitions, and ``.netrc`` and proxies of the environment, for aiohttp."""
    import aiohttp

    async def persist(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        for wait in (*WAITS_S, None):
            try:
                response = await handler(request)
                if response.status == 200 and "Range" in request.headers:
                    response.close()
                    raise NoRanges
                if response.status == 206:
                    await response.read()  # kept for the caller; a body that breaks off is asked for again too
                if response.status not in _PASSING or wait is None:
                    return response
                response.release()
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError):
                if wait is None:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    return {
        "client_kwargs": {
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60),
            "headers": {"Accept-Encoding": "identity"},
            "trust_env": True,
            "middlewares": (persist,),
        }
    }


def options(scheme: str) -> dict[str, Any]:
    """Keywords for the file system of fsspec. Listings are remembered by ``remote`` alone."""
    if scheme in HTTP:
        return _http_options()
    if scheme == "s3":  # s3fs tries five times itself
        config = {
            "connect_timeout": 10,
            "read_timeout": 60,
            "max_pool_connections": CONNECTIONS,
            "retries": {"mode": "standard", "max_attempts": 2},
        }
        return {"use_listings_cache": False, "config_kwargs": config}
    return {} if scheme in ("memory", "hf") else {"use_listings_cache": False}


@functools.cache
def failures(scheme: str) -> tuple[type[Exception], ...]:
    """What its client raises where a store fails or refuses. Raises ImportError where it is not installed."""
    found: list[type[Exception]] = [OSError, ValueError, NoRanges]
    for name in _FAILURES.get(scheme, ()):
        module, _, kind = name.partition(":")
        found.append(getattr(importlib.import_module(module), kind))
    return tuple(found)
