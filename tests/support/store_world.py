"""Many small analyses: the turning world of `cycle_world`, observed and analysed at every time."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import cycle_world as world
import numpy as np
import pytest
import xarray as xr

import xdiffda
from xdiffda.cycling import reanalysis
from xdiffda.cycling.reanalysis import assimilate_store
from xdiffda.observations import to_tidy

SETTINGS = {"method": xdiffda.Guided(n_steps=3), "background_error": 1.0}


def make_input(folder: Path, n_times: int) -> tuple[Path, xr.Dataset]:
    """A background on disk, along time, and tidy observations of all times."""
    truth, first = world.make_states(n_times)
    turned = [first.roll(lon=n) for n in range(n_times)]
    background = xr.concat(turned, "time").assign_coords(time=truth["time"])
    path = folder / "background.zarr"
    xdiffda.write_dataset(background.chunk(time=1), path)
    stream = xdiffda.cycle.emulated_stream(truth, n_columns=12, error_std=world.ERRORS, seed=3)
    tables = [to_tidy(stream(t)) for t in truth["time"].values]
    return path, xr.concat(tables, "obs")


def run(background: Any, obs: xr.Dataset, out: Path, **choices: Any) -> xr.Dataset:
    """Analyse all times of a background, on disk or lazy."""
    keywords = {"n_members": 2, "model": world.make_prior(), "settings": SETTINGS}
    if isinstance(background, Path):
        background = xdiffda.open_dataset(background)
    return assimilate_store(background, obs, out=out, progress=False, **(keywords | choices))


def interrupt_second_analysis(monkeypatch: pytest.MonkeyPatch) -> list[np.datetime64]:
    """An interrupt in the second of all analyses from now on; returns the list of their times."""
    plain, times = reanalysis.run_assimilation, []

    @functools.wraps(plain)  # its signature says which settings there are
    def counted(state: xr.Dataset, *arguments, **keywords):
        times.append(state["time"].values[0])
        if len(times) == 2:
            raise KeyboardInterrupt
        return plain(state, *arguments, **keywords)

    monkeypatch.setattr(reanalysis, "run_assimilation", counted)
    return times


def gate(background: xr.Dataset, first: int, path: Path) -> xr.Dataset:
    """The same background, whose times from number ``first`` on cannot be read yet.

    They can as soon as the file ``path`` exists: what a test does until then happens in the
    middle of the tasks.
    """
    later = background.isel(time=slice(first, None)).map(
        lambda v: v.copy(data=v.data.map_blocks(_wait, str(path), dtype=v.dtype, meta=v.data._meta))
    )
    return xr.concat([background.isel(time=slice(first)), later], "time")


def _wait(block: np.ndarray, path: str) -> np.ndarray:
    deadline = time.monotonic() + 120
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return block


def complete(out: Path) -> np.ndarray:
    """Which times are complete, by looking at the store as anybody would."""
    return xr.open_zarr(out, chunks=None)["complete"].values == 1
