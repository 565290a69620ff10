"""Shared set-up of the tests: CPU only, no display, no network, one place for real files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

# before anything imports jax or matplotlib; override from outside to test a GPU
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"
import compiled_once
import pytest
from hypothesis import settings
from places import ROOT, SHARED

# compilation makes single examples slow without meaning anything
settings.register_profile("xdiffda", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("xdiffda")


def pytest_unconfigure() -> None:
    compiled_once.forget()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that workers end together."""
    items.sort(key=lambda item: "test_tutorials" not in item.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What notebooks cost; tutorials are to take no more than 3 minutes on 2 quiet cores."""
    spent = [
        (report.nodeid.rpartition("[")[2].rstrip("]"), value)
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "processor_seconds"
    ]
    if spent:
        terminalreporter.section("processor seconds of notebooks (tutorials: up to 360)")
        for name, value in sorted(spent):
            terminalreporter.line(f"{value:7.0f}  {name}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Neighbouring tests on one worker: their fixtures are made once, the tail is shared."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """What a module compiled serves the next: of some 6,000 programs one process ran out."""
    yield
    compiled_once.drop_when_many()


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """For modules that compute more than they compile."""
    with compiled_once.optimised():
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of a file beside the repository, or a skip that says what is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"../shared/{name} is not on this machine")
        return path

    return find


@pytest.fixture
def no_compute() -> Iterator[None]:
    """Fail the test where anything computes a dask graph."""
    import dask

    def refuse(dsk: object, keys: object, **options: object) -> None:
        raise AssertionError("dask was computed")

    with dask.config.set(scheduler=refuse):
        yield


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test where anything opens an internet connection."""

    def refuse(self: socket.socket, address: object) -> None:
        raise AssertionError(f"the test tried to connect to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
