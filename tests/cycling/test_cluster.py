"""Stores and streams on a dask cluster of processes, one of which is killed in the middle."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cycle_world
import numpy as np
import pytest
import store_world as world
import xarray as xr
from same_bytes import same_bytes

import xdiffda
from xdiffda.cycling.reanalysis import open_analyses
from xdiffda.cycling.streams import open_streams, run_streams
from xdiffda.errors import InputError, StorageError
from xdiffda.storage.icechunk import as_store

pytestmark = pytest.mark.long  # a cluster of processes

distributed = pytest.importorskip("distributed")
N_TIMES = 6
STARTS, END = ["2020-01-15T12", "2020-01-16T12"], "2020-01-17T06"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Two worker processes, with the environment of the tests."""
    folder = tmp_path_factory.mktemp("cluster")
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        local_directory=str(folder),
    )
    with cluster, distributed.Client(cluster) as connected:
        yield connected


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


@dataclasses.dataclass(frozen=True)
class Held:
    """A stream that gives no observations from a time on until the file ``gate`` exists.

    Who waits for them leaves the number of its process beside that file.
    """

    stream: Callable[[np.datetime64], xr.Dataset]
    first: np.datetime64
    gate: Path

    @property
    def description(self) -> Mapping[str, Any]:
        return self.stream.description

    def __call__(self, time: np.datetime64) -> xr.Dataset:
        if time >= self.first and not self.gate.exists():
            self.gate.with_name(f"waiting-{os.getpid()}").touch()
            _wait_for(self.gate)
        return self.stream(time)


def _streams(out: Path, client=None, hold: tuple[str, Path] | None = None) -> xr.Dataset:
    truth, first = cycle_world.make_states(8)
    at = [first.roll(lon=n).assign_coords(time=truth["time"][n]) for n in (0, 2)]
    stream = xdiffda.cycle.emulated_stream(truth, n_columns=20, error_std=cycle_world.ERRORS)
    if hold is not None:
        stream = Held(stream, np.datetime64(hold[0], "ns"), hold[1])
    return run_streams(
        xr.concat(at, "time"),
        stream,
        out=out,
        starts=STARTS,
        end=END,
        spin_up="12h",
        n_members=1,
        forecaster=cycle_world.forecaster,
        model=cycle_world.make_prior(),
        settings=cycle_world.QUICK,
        client=client,
        progress=False,
    )


@contextlib.contextmanager
def _beside(run: Callable[[], Any]) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Run in another thread, whose failure is that of the test; gives a way to wait for a state."""
    failure: list[Exception] = []

    def guarded() -> None:
        try:
            run()
        except Exception as error:
            failure.append(error)

    def until(reached: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 100
        while not reached():
            assert time.monotonic() < deadline and not failure, failure
            time.sleep(0.05)

    running = threading.Thread(target=guarded, daemon=True)
    running.start()
    yield until
    running.join()
    assert not failure


@pytest.mark.parametrize("kind", ["zarr", "icechunk"])
def test_a_worker_killed_in_the_middle_loses_nothing(client, tmp_path: Path, kind: str) -> None:
    background, obs = world.make_input(tmp_path, N_TIMES)
    whole, gate = tmp_path / "whole.zarr", tmp_path / "gate"
    out: Any = tmp_path / "run.zarr"
    if kind == "icechunk":
        icechunk = pytest.importorskip("icechunk")
        storage = icechunk.local_filesystem_storage(str(tmp_path / "repository"))
        out = icechunk.Repository.create(storage)
    store, settings = as_store(out), world.SETTINGS | {"method": "3dvar"}
    world.run(background, obs, whole, settings=settings)
    client.wait_for_workers(2)
    workers = client.run(os.getpid)  # address -> process
    # from the third time on, tasks wait in the middle until the gate opens
    gated = world.gate(xdiffda.open_dataset(background), 2, gate)
    with _beside(lambda: world.run(gated, obs, out, settings=settings, client=client)) as until:
        until(lambda: store.exists() and (store.read_array("complete")[:2] == 1).all())
        assert (store.read_array("complete") == 1).sum() == 2
        busy = [address for address, tasks in client.processing().items() if tasks]
        os.kill(workers[busy[0]], signal.SIGKILL)
        gate.touch()
    assert workers[busy[0]] not in client.run(os.getpid).values()
    assert (store.read_array("complete") == 1).all()
    if kind == "zarr":
        assert same_bytes(out, whole)
        return
    xr.testing.assert_identical(open_analyses(out).load(), open_analyses(whole).load())
    # that which makes the repository, the empty store, and each time once
    assert len(list(out.ancestry(branch="main"))) == 2 + N_TIMES


def test_a_worker_killed_in_the_middle_of_a_stream_loses_nothing(client, tmp_path: Path) -> None:
    out, whole, gate = tmp_path / "run", tmp_path / "whole", tmp_path / "gate"
    hold = "2020-01-16T06", gate  # the last cycle of stream 0, the second of stream 1
    client.wait_for_workers(2)
    with _beside(lambda: _streams(out, client, hold)) as until:
        until(lambda: len(list(tmp_path.glob("waiting-*"))) == 2)
        done = {p: p.stat().st_mtime_ns for p in out.glob("*/*/c/**/*") if p.is_file()}
        assert [open_streams(out, stream=k).sizes["time"] for k in (0, 1)] == [3, 1]
        processes = sorted(int(p.name.split("-")[1]) for p in tmp_path.glob("waiting-*"))
        os.kill(processes[0], signal.SIGKILL)
        gate.touch()
    assert processes[0] not in client.run(os.getpid).values()
    # cycles that were whole are those of the process that was killed, not made again
    assert len(done) > 10 and done == {p: p.stat().st_mtime_ns for p in done}
    _streams(whole, hold=hold)
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
        first,
        stream,
        out=tmp_path / "alone.zarr",
        n_cycles=4,
        n_members=1,
        forecaster=cycle_world.forecaster,
        model=cycle_world.make_prior(),
        settings=cycle_world.QUICK,
        progress=False,
    ).load()
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
