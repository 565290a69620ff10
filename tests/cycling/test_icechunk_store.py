"""Analyses in an icechunk repository: those of the zarr store, one commit for each time."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import store_world as world
import xarray as xr
import zarr

import xdiffda
from xdiffda.cycling import reanalysis
from xdiffda.errors import InputError, StorageError
from xdiffda.storage import icechunk as _icechunk_store
from xdiffda.storage.icechunk import IcechunkStore, as_store
from xdiffda.storage.regions import FolderStore

N_TIMES = 3


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    return world.make_input(tmp_path_factory.mktemp("given"), N_TIMES)


@pytest.fixture
def repository(tmp_path: Path):
    icechunk = pytest.importorskip("icechunk")
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))


def _messages(repository) -> list[str]:
    """Of all commits, the first one first, without that which makes the repository."""
    return [commit.message for commit in repository.ancestry(branch="main")][-2::-1]


def test_a_run_killed_between_times_goes_on_to_what_zarr_holds(
    given, repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = world.interrupt_second_analysis(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        world.run(*given, repository)
    assert reanalysis.open_analyses(repository).sizes["time"] == 1
    # killed while it was writing the next time: nothing of it was committed
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="r+")["temperature"][:] = 0.0
    del session
    assert _messages(repository) == [
        "store of analyses, none complete",
        "analysis of 2020-01-15T12:00",
    ]
    found = world.run(*given, repository).load()
    assert len(times) == 2 + 2  # the first time was not made again
    assert len(_messages(repository)) == 1 + N_TIMES
    wanted = world.run(*given, tmp_path / "plain.zarr").load()
    xr.testing.assert_identical(found, wanted)
    world.run(*given, repository)  # complete: nothing to do
    assert len(times) == 2 + 2 + N_TIMES and len(_messages(repository)) == 1 + N_TIMES
    # a branch can be read as it was after the first time
    first = list(repository.ancestry(branch="main"))[-3].id
    earlier = xr.open_zarr(repository.readonly_session(snapshot_id=first).store, consolidated=False)
    assert earlier["complete"].values.tolist() == [1, 0, 0]
    with pytest.raises(InputError, match="n_members = 2 in branch 'main' of the icechunk"):
        world.run(*given, repository, n_members=3)


def test_workers_may_commit_at_the_same_time(repository) -> None:
    blank = xr.Dataset(
        {"a": (("time", "x"), np.zeros((2, 3), np.float32))}, {"time": np.arange(2)}
    ).chunk(time=1)
    store = IcechunkStore(repository)
    assert not store.exists()
    store.create(blank, "time", {"dim": "time"})
    assert store.exists() and store.missing_times() == [0, 1]
    other = pickle.loads(pickle.dumps(store))  # as dask sends it
    late = repository.writable_session("main")
    group = zarr.open_group(late.store, mode="r+")
    group["a"][0], group["complete"][0] = 5.0, 1
    one = xr.Dataset({"a": (("time", "x"), np.full((1, 3), 7.0))}, {"time": [1]})
    other.write_time(1, one, "time")
    store._commit(late, "analysis of the first time")
    assert store.missing_times() == []
    assert store.open_complete("time")["a"].values[:, 0].tolist() == [5.0, 7.0]


def test_processes_that_write_to_one_disk_take_turns(tmp_path: Path) -> None:
    icechunk = pytest.importorskip("icechunk")
    n, folder = 6, tmp_path / "a (1)"
    address = as_store(f"icechunk://{folder}")
    assert not folder.exists()  # made when it is written to
    # the object, which tells nobody but in its text that it lies on a disk
    store = as_store(icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder))))
    assert isinstance(store, IcechunkStore) and isinstance(address, IcechunkStore)
    assert store.lock == address.lock == tmp_path / ".a (1).lock"
    blank = xr.Dataset({"a": ("time", np.zeros(n))}, {"time": np.arange(n)}).chunk(time=1)
    store.create(blank, "time", {"dim": "time"})
    own = xr.Dataset({"a": ("time", [1.0])}, {"time": [0]})
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [pool.apply_async(store.write_time, (i, own, "time")) for i in range(n)]
        for job in jobs:
            job.get(timeout=120)
    assert store.missing_times() == [] and store.read_array("a").tolist() == [1.0] * n
    assert len(_messages(store.repository)) == 1 + n


def test_a_time_that_two_workers_have_written_is_there(repository, monkeypatch) -> None:
    """A cluster gives away the task of a worker that is alive and cannot be heard."""
    store = as_store(repository)
    blank = xr.Dataset({"a": ("time", np.zeros(2))}, {"time": np.arange(2)}).chunk(time=1)
    store.create(blank, "time", {"dim": "time"})
    one = xr.Dataset({"a": ("time", [7.0])}, {"time": [1]})
    plain = _icechunk_store.write_variables

    def slowly(*arguments):
        with monkeypatch.context() as within:
            within.setattr(_icechunk_store, "write_variables", plain)
            store.write_time(1, one, "time")  # the other is faster
        return plain(*arguments)

    monkeypatch.setattr(_icechunk_store, "write_variables", slowly)
    store.write_time(1, one, "time")
    assert store.missing_times() == [0] and store.read_array("a")[1] == 7.0
    assert len(_messages(repository)) == 2


def test_a_cluster_needs_a_store_that_its_workers_see(given, tmp_path: Path, monkeypatch) -> None:
    icechunk = pytest.importorskip("icechunk")
    own = icechunk.Repository.create(icechunk.in_memory_storage())
    before = own.lookup_branch("main")
    with pytest.raises(
        StorageError, match="(?s)memory of this process.*icechunk:///FOLDER.*client"
    ):
        world.run(*given, own, client=object())
    assert own.lookup_branch("main") == before
    # whatever it was that took away what workers have written
    monkeypatch.setattr(FolderStore, "write_time", lambda *arguments: None)
    settings = {"method": "3dvar", "background_error": 1.0}
    with pytest.raises(
        StorageError, match="3 analyses were written and are missing now: 2020-01-15T12"
    ):
        world.run(*given, tmp_path / "a.zarr", settings=settings)


def test_what_is_there_is_left_as_it_is(given, repository) -> None:
    session = repository.writable_session("main")
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(session.store, consolidated=False)
    tip = session.commit("of somebody else")
    with pytest.raises(StorageError, match="no store of `assimilate_store`.*left as it is"):
        world.run(*given, repository)
    assert repository.lookup_branch("main") == tip


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(as_store(tmp_path / "a.zarr"), FolderStore)
    assert isinstance(as_store(str(tmp_path / "a.zarr")), FolderStore)
    monkeypatch.setitem(sys.modules, "icechunk", None)  # not installed
    with pytest.raises(StorageError, match=r'pip install "xdiffda\[icechunk\]".*a.zarr'):
        as_store(f"icechunk://{tmp_path}/a")
    monkeypatch.undo()
    pytest.importorskip("icechunk")
    with pytest.raises(StorageError, match="no folder .*none for the repository.*mkdir -p"):
        as_store(f"icechunk://{tmp_path}/none/a")
    (tmp_path / "text").write_text("a file")
    with pytest.raises(StorageError, match="no icechunk repository can be opened there .a file"):
        as_store(f"icechunk://{tmp_path}/text")
    with pytest.raises(StorageError, match="a folder without a repository.*left as it is"):
        as_store(f"icechunk://{tmp_path}")
    store = as_store(f"icechunk://{tmp_path}/a")
    assert isinstance(store, IcechunkStore) and not store.exists()
    again = as_store(f"icechunk://{tmp_path}/a")  # made the first time, opened the second
    assert again.repository.lookup_branch("main") == store.repository.lookup_branch("main")
    with pytest.raises(StorageError, match="no store of `assimilate_store`"):
        xdiffda.reanalysis.open_analyses(f"icechunk://{tmp_path}/a")
    with pytest.raises(StorageError, match="nothing is there"):
        xdiffda.reanalysis.open_analyses(f"icechunk://{tmp_path}/mistyped")
    assert not (tmp_path / "mistyped").exists()
