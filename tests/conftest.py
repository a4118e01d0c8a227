"""Fixtures that many tests share."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from jobs.execute import Executor
from pipelines.thread_priority import kept_priority

if TYPE_CHECKING:
    from tests.nursery import Nursery

# A deadline measures the machine, and beside other tests it is slow at times.
hypothesis.settings.register_profile("beside others", deadline=None)
hypothesis.settings.load_profile("beside others")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    """Tests that let other libraries encode AV1 would run all that follow at real-time priority."""
    with kept_priority():
        return (yield)


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


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder with tiny random weights for an encoder, made once for the whole test run; no test may change it."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        from tests import tiny_models

        if name not in folders:
            folders[name] = tiny_models.make(name, tmp_path_factory.mktemp("tiny") / name)
        return folders[name]

    return folder
