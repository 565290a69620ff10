"""Stores and streams on a dask cluster of processes, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cycle_world
import pytest
import store_world as world
import xarray as xr
from test_cycle_store import same_bytes

import xdiffda
from xdiffda._cluster import single_writer
from xdiffda.errors import InputError, StorageError
from xdiffda.reanalysis import open_streams, run_streams

distributed = pytest.importorskip("distributed")
N_TIMES = 6
STARTS, END = ["2020-01-15T12", "2020-01-16T12"], "2020-01-17T06"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Two worker processes, with the environment of the tests."""
    folder = tmp_path_factory.mktemp("cluster")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        local_directory=str(folder),
    )  # fmt: skip
    with cluster, distributed.Client(cluster) as connected:
        yield connected


def _streams(out: Path, client=None) -> xr.Dataset:
    truth, first = cycle_world.make_states(8)
    at = [first.roll(lon=n).assign_coords(time=truth["time"][n]) for n in (0, 2)]
    stream = xdiffda.cycle.emulated_stream(truth, n_columns=20, error_std=cycle_world.ERRORS)
    return run_streams(
        xr.concat(at, "time"), stream, out=out, starts=STARTS, end=END, spin_up="12h",
        n_members=1, forecaster=cycle_world.forecaster, model=cycle_world.make_prior(),
        settings=cycle_world.QUICK, client=client, progress=False,
    )  # fmt: skip


def test_a_worker_killed_in_the_middle_loses_nothing(client, tmp_path: Path) -> None:
    background, obs = world.make_input(tmp_path, N_TIMES)
    whole, out, gate = tmp_path / "whole.zarr", tmp_path / "run.zarr", tmp_path / "gate"
    settings = world.SETTINGS | {"method": "3dvar"}
    world.run(background, obs, whole, settings=settings)
    workers = client.run(os.getpid)  # address -> process
    # from the third time on, tasks wait in the middle until the gate opens
    gated = world.gate(xdiffda.open_dataset(background), 2, gate)
    failure: list = []

    def run() -> None:
        try:
            world.run(gated, obs, out, settings=settings, client=client)
        except Exception as error:
            failure.append(error)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    deadline = time.monotonic() + 100
    while not (out.exists() and world.complete(out)[:2].all()):
        assert time.monotonic() < deadline and not failure, failure
        time.sleep(0.05)
    busy = [address for address, tasks in client.processing().items() if tasks]
    os.kill(workers[busy[0]], signal.SIGKILL)
    gate.touch()
    running.join()
    assert not failure
    assert workers.values() != client.run(os.getpid).values()
    assert world.complete(out).all()
    assert same_bytes(out, whole)


def test_streams_side_by_side_are_cycled_runs(client, tmp_path: Path) -> None:
    run = _streams(tmp_path / "run", client).load()
    assert run["stream"].values.tolist() == [0] * 4 + [1] * 4
    assert run["time"].to_index().is_monotonic_increasing and run["time"].to_index().is_unique
    assert str(run["time"].values[-1]).startswith(END)
    second = open_streams(tmp_path / "run", stream=1)
    assert second.sizes["time"] == 2 + 4  # two cycles of spin-up
    # the whole takes the overlap from the stream that is spun up
    truth, first = cycle_world.make_states(8)
    stream = xdiffda.cycle.emulated_stream(truth, n_columns=20, error_std=cycle_world.ERRORS)
    alone = xdiffda.cycle.cycle(
        first, stream, out=tmp_path / "alone.zarr", n_cycles=4, n_members=1,
        forecaster=cycle_world.forecaster, model=cycle_world.make_prior(),
        settings=cycle_world.QUICK, progress=False,
    ).load()  # fmt: skip
    for name in ("temperature", "background_temperature", "n_obs_used"):
        xr.testing.assert_equal(run[name].isel(time=slice(4)).drop_vars("stream"), alone[name])
    before = (tmp_path / "run" / "streams.json").read_bytes()
    with pytest.raises(InputError, match="another|as this call says"):
        run_streams(first, stream, out=tmp_path / "run", starts=STARTS[:1], end=END)
    assert (tmp_path / "run" / "streams.json").read_bytes() == before


def test_times_of_streams_are_checked(tmp_path: Path) -> None:
    _, first = cycle_world.make_states(2)
    with pytest.raises(InputError, match="(?s)rising times.*spin_up='5h'"):
        run_streams(first, None, out=tmp_path / "r", starts=STARTS[::-1], end=END, spin_up="5h")
    with pytest.raises(StorageError, match="no reanalysis"):
        open_streams(tmp_path / "r")


def test_one_process_writes_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "stream-00.zarr"
    with (
        single_writer(path),
        pytest.raises(StorageError, match="another process is writing"),
        single_writer(path),
    ):
        pass
    with single_writer(path):  # free again
        pass
