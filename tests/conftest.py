"""Fixtures that many tests share."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

from jobs.execute import Executor

if TYPE_CHECKING:
    from tests.nursery import Nursery

# A deadline measures the machine, and beside other tests it is slow at times.
hypothesis.settings.register_profile("beside others", deadline=None)
hypothesis.settings.load_profile("beside others")


@pytest.fixture(scope="session")
def ray_executor() -> Iterator[Executor]:
    """One local Ray cluster for the whole test run."""
    from jobs.cluster import open_ray

    with open_ray() as executor:
        yield executor


@pytest.fixture(scope="session")
def nursery() -> "Iterator[Nursery]":
    """One process with everything imported, which all commands that are broken off are forked from."""
    from tests.nursery import open_nursery

    with open_nursery() as opened:
        yield opened
