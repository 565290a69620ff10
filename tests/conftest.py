"""Shared set-up of the tests: CPU only, no display, no network, one place for real files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

# before anything imports jax or matplotlib; override from outside to test a GPU
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# compilation makes single examples slow without meaning anything
settings.register_profile("xdiffda", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("xdiffda")


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
