"""A store behind a network that fails now and then: reads are tried again, errors say what to do.

The file system is one in memory that fails when it is told to. With gcsfs against an emulator of
Google Cloud Storage, and over plain http, the same was tried by hand.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import fsspec
import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem

import xdiffda
from xdiffda.errors import InputError, StorageError
from xdiffda.networks.graphcast import TaskConfig
from xdiffda.storage import remote as _remote
from xdiffda.train.era5 import Reanalysis, open_store

CHUNK = "x/c/1/0/0"


class Answered(Exception):
    """As aiohttp and gcsfs tell an answer that is no content."""

    def __init__(self, status: int) -> None:
        super().__init__(f"answer {status}")
        self.status = status


class Flaky(MemoryFileSystem):
    """In memory; reads of one chunk go through ``trouble`` first."""

    protocol = "flaky"
    cachable = False
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    trouble: Callable[[], None] = staticmethod(lambda: None)
    reads = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("flaky:/"))

    def cat_file(self, path, start=None, end=None, **kwargs):
        if path.endswith(CHUNK):
            Flaky.reads += 1
            Flaky.trouble()
        return super().cat_file(path, start=start, end=end, **kwargs)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store of one variable in two chunks."""
    monkeypatch.setattr(_remote, "BACKOFF", 0.0)
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.trouble, Flaky.reads = staticmethod(lambda: None), 0
    axes = {
        "time": np.arange(2).astype("datetime64[D]").astype("datetime64[ns]"),
        "latitude": [45.0, -45.0],
        "longitude": [0.0, 120.0, 240.0],
    }
    ds = xr.Dataset({"x": (tuple(axes), np.arange(12.0).reshape(2, 2, 3))}, coords=axes)
    path = "flaky://bucket/ar/full.zarr-v3"  # as the store of ARCO-ERA5 is called
    ds.to_zarr(path, encoding={"x": {"chunks": (1, 2, 3)}}, zarr_format=3, consolidated=False)
    Flaky.reads = 0
    yield path
    Flaky.store.clear()


def _failing(times: int, error: Exception) -> None:
    left = iter(range(times))

    def trouble() -> None:
        if next(left, None) is not None:
            raise error

    Flaky.trouble = staticmethod(trouble)


def _read(ds: xr.Dataset) -> np.ndarray:
    return ds["x"].isel(time=1).load().values


@pytest.mark.parametrize("error", [OSError("reset"), TimeoutError(), Answered(503), Answered(429)])
def test_a_read_that_fails_is_tried_again(address: str, error: Exception) -> None:
    _failing(_remote.ATTEMPTS - 1, error)
    ds = open_store(address, {})
    np.testing.assert_array_equal(_read(ds), [[9, 10, 11], [6, 7, 8]])  # rows from the south
    assert Flaky.reads == _remote.ATTEMPTS


def test_after_all_attempts_the_chunk_and_the_repair_are_told(address: str) -> None:
    ds = open_store(address, {})
    _failing(10**9, OSError("reset by peer"))
    with pytest.raises(
        StorageError,
        match=rf"full.zarr-v3/{CHUNK}: cannot be read in 5 attempts "
        r"\(OSError: reset by peer\); repair: a network.*goes on",
    ):
        _read(ds)
    assert Flaky.reads == _remote.ATTEMPTS


@pytest.mark.parametrize("error", [Answered(403), PermissionError("no"), OSError("Forbidden: x")])
def test_what_no_attempt_can_change_is_told_at_once(address: str, error: Exception) -> None:
    ds = open_store(address, {})
    _failing(10**9, error)
    with pytest.raises(StorageError, match='cannot be read .*token = "anon"'):
        _read(ds)
    assert Flaky.reads == 1


def test_a_user_opens_the_same_store(address: str) -> None:
    """Lazily, in whatever process; the name of the arrays is the same in each (dask)."""
    _failing(2, OSError("reset"))
    ds = xdiffda.open_dataset(address)
    assert Flaky.reads == 0 and ds.encoding["source"] == address
    again = xdiffda.open_dataset(address)
    assert ds["x"].data.name == again["x"].data.name
    assert isinstance(pickle.loads(pickle.dumps(ds))["x"].data, type(ds["x"].data))
    np.testing.assert_array_equal(_read(ds), [[6, 7, 8], [9, 10, 11]])


@pytest.mark.parametrize(
    ("other", "repair"),
    [
        ("flaky://bucket/none.zarr", "the address of a zarr store"),
        ("gss://bucket/era5.zarr", "an address as gs://BUCKET"),
    ],
)
def test_a_wrong_address_is_told(address: str, other: str, repair: str) -> None:
    for open_it in (xdiffda.open_dataset, lambda path: open_store(path, {})):
        with pytest.raises(StorageError, match=f"cannot be opened as zarr.*repair: {repair}"):
            open_it(other)


def test_repairs_follow_from_the_error() -> None:
    assert "xdiffda[cloud]" in _remote.repair_of(ImportError("Please install gcsfs"))
    assert "network" in _remote.repair_of(TimeoutError())
    assert "anon" in _remote.repair_of(Answered(401))


def test_static_fields_of_a_store_that_begins_before_its_data(address: str) -> None:
    """That of ARCO-ERA5 begins in 1900, with NaN for decades, and has static fields by time."""
    ds = open_store(address, {}).load().rename(x="2m_temperature")
    names = ("2m_temperature",)
    task = TaskConfig((*names, "land_sea_mask"), names, (), (500,))
    mask = ds["2m_temperature"].where(ds.time > ds.time[0])
    ds = ds.assign_coords(level=[500])
    found = Reanalysis(ds.assign(land_sea_mask=mask), task, variables=names, levels=(500,))
    np.testing.assert_array_equal(found.static["land_sea_mask"], mask.isel(time=1))
    with pytest.raises(InputError, match="NaN in land_sea_mask; needed static fields without"):
        Reanalysis(ds.assign(land_sea_mask=mask * np.nan), task, variables=names, levels=(500,))
