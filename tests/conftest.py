"""Fixtures that many tests share."""

from collections.abc import Iterator

import pytest

from jobs.execute import Executor


@pytest.fixture(scope="session")
def ray_executor() -> Iterator[Executor]:
    """One local Ray cluster for the whole test run."""
    from jobs.cluster import open_ray

    with open_ray() as executor:
        yield executor
