"""Backgrounds: forecasts of a published GraphCast from every initial time of a reanalysis.

    python -m xdiffda.train forecasts CONFIG.toml

Under srun or mpirun the initial times are shared out. Each is one region of the store, written
before its flag ``complete``: what was interrupted is made again, what is complete is kept.
"""

from __future__ import annotations

from pathlib import Path

import dask.array
import jax
import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.jax_settings import with_own_jax
from xdiffda.networks.graphcast import Forecaster
from xdiffda.state.grid import Layout
from xdiffda.train.config import Era5, TrainConfig, end_of
from xdiffda.train.distributed import barrier, leads
from xdiffda.train.era5 import STEP, Reanalysis, open_store
from xdiffda.train.official import read_forecaster
from xdiffda.train.origin import forecast_origin, origin_problems

_HOUR = np.timedelta64(1, "h")


def valid_times(era5: Era5, part: str) -> np.ndarray:
    """Valid times of one part (``train``, ``validation``), both ends included.

    Examples
    --------
    >>> era5 = Era5(variables=("2m_temperature",), first="2000-01-01", last="2000-01-01")
    >>> len(valid_times(era5, "train"))
    4
    """
    first, last = {
        "train": (era5.first, era5.last),
        "validation": (era5.validation_first, era5.validation_last),
    }[part]
    if not first:
        return np.array([], "datetime64[ns]")
    step = era5.every_hours * _HOUR
    return np.arange(np.datetime64(first, "h"), end_of(last), step).astype("datetime64[ns]")


def initial_times(era5: Era5, data: Reanalysis) -> np.ndarray:
    """Initial times of all backgrounds, those whose input frames the store has.

    Raises
    ------
    InputError
        If the store has none of them, or not every step of ``every_hours``.
    """
    if len(data.times) > 1:  # else every other valid time would be left out in silence
        apart = int(np.diff(data.times).min() // _HOUR)
        if apart > 1 and era5.every_hours % apart:
            found = f"era5.every_hours = {era5.every_hours} of a store with times every {apart} h"
            problem = Problem(found, f"a multiple of {apart}", f"every_hours = {apart}")
            raise InputError([problem], what="reanalysis")
    wanted = {
        t - lead * _HOUR
        for lead in era5.leads
        for part in ("train", "validation")
        for t in valid_times(era5, part)
    }
    known = set(data.times)
    frames = range(data.task.n_frames)
    possible = sorted(t for t in wanted if all(t - k * STEP in known for k in frames))
    if not possible:
        found = f"times {data.times[0]} to {data.times[-1]} in the store"
        problem = Problem(found, f"some of {era5.first} to {era5.last}", "era5.first, era5.last")
        raise InputError([problem], what="reanalysis")
    return np.array(possible)


@with_own_jax
def make_forecasts(config: TrainConfig, *, progress: bool = True) -> Path:
    """Write all backgrounds of a configuration to the store ``config.pairs``; resumable.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the store holds forecasts of another configuration, of other weights or data, or is
        to be completed by another version of this package.
    """
    if config.era5 is None:
        problem = Problem(f"task = {config.task!r} without a table era5", "one", "[era5]")
        raise InputError([problem], what="forecasts")
    era5, path = config.era5, Path(config.pairs)
    forecaster = read_forecaster(config)
    store = open_store(config.data, era5.storage)
    data = Reanalysis(store, forecaster.net.task, variables=era5.variables, levels=era5.levels)
    times = initial_times(era5, data)
    origin = forecast_origin(config, forecaster, data, times)
    if leads() and not path.exists():
        _create(path, times, data.layout, era5.leads, origin)
    barrier("store of forecasts")
    written = _check(path, times, data.layout, era5.leads, origin)
    todo = np.flatnonzero(written != 1)[jax.process_index() :: jax.process_count()]
    for number in tqdm(todo, desc="forecasts", disable=not (progress and leads()), mininterval=5):
        states = _forecast(forecaster, data, times[number], era5)
        _write(path, int(number), states)
    barrier("forecasts are complete")
    return path


def _forecast(
    forecaster: Forecaster, data: Reanalysis, time: np.datetime64, era5: Era5
) -> xr.Dataset:
    """State variables at the lead times, from one initial time."""
    steps = max(era5.leads) // 6
    forcings = data.forcings(time + STEP * np.arange(1, steps + 1))
    out = forecaster.rollout(data.inputs(time), forcings, steps=steps)
    wanted = out[list(data.layout.variables)].isel(batch=0, drop=True)
    wanted = wanted.isel(time=[lead // 6 - 1 for lead in era5.leads])
    if "level" in wanted.dims:
        wanted = wanted.sel(level=list(data.layout.levels))
    bad = [str(name) for name in wanted if not np.isfinite(wanted[name].values).all()]
    if bad:
        raise FloatingPointError(f"the forecast from {time} is not finite in {bad}")
    wanted = wanted.rename(time="lead_time").drop_vars(
        ["lead_time", "level", "lat", "lon"], errors="ignore"
    )
    order = ("init_time", "lead_time", "level", "lat", "lon")
    return wanted.expand_dims("init_time").transpose(*order, missing_dims="ignore")


def _create(
    path: Path,
    times: np.ndarray,
    layout: Layout,
    lead_hours: tuple[int, ...],
    origin: dict[str, str],
) -> None:
    """An empty store, one chunk for each forecast; in place only when it is whole."""
    grid, n_level = layout.grid, len(layout.levels)
    data = {}
    for name in layout.variables:
        has_level = any(n == name and level is not None for n, level in layout.channels)
        shape = (len(times), len(lead_hours), *((n_level,) * has_level), *grid.shape)
        dims = ("init_time", "lead_time", *(("level",) * has_level), "lat", "lon")
        data[name] = (dims, dask.array.zeros(shape, np.float32, chunks=(1, 1, *shape[2:])))
    data["complete"] = ("init_time", np.zeros(len(times), np.int8))
    coords = {
        "init_time": times,
        "lead_time": np.array(lead_hours) * _HOUR.astype("timedelta64[ns]"),
        "lat": np.array(grid.lat),
        "lon": np.array(grid.lon),
    }
    if n_level:
        coords["level"] = np.array(layout.levels, np.int32)
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    xr.Dataset(data, coords=coords, attrs=origin).to_zarr(
        partial,
        mode="w",
        compute=False,
        consolidated=False,
        zarr_format=3,
        encoding={"complete": {"chunks": (1,)}},
    )
    partial.rename(path)


def _write(path: Path, number: int, states: xr.Dataset) -> None:
    """The fields first, the flag last."""
    region = {"init_time": slice(number, number + 1)}
    states.to_zarr(path, region=region, consolidated=False, mode="r+")
    flag = xr.Dataset({"complete": ("init_time", np.ones(1, np.int8))})
    flag.to_zarr(path, region=region, consolidated=False, mode="r+")


def _check(
    path: Path,
    times: np.ndarray,
    layout: Layout,
    lead_hours: tuple[int, ...],
    origin: dict[str, str],
) -> np.ndarray:
    """The flags of the store, if it is of this configuration."""
    with xr.open_zarr(path, consolidated=False, chunks=None, decode_timedelta=True) as ds:
        problems = []
        for name, found, needed in (
            ("initial times", ds["init_time"].values, times),
            ("lead times", ds["lead_time"].values // _HOUR, lead_hours),
            ("levels", ds["level"].values if "level" in ds else np.array([]), layout.levels),
            ("variables", sorted(set(ds) - {"complete"}), layout.variables),
        ):
            if len(found) != len(needed) or any(a != b for a, b in zip(found, needed, strict=True)):
                text = f"{len(found)} {name} ({found[0]} ...)" if len(found) else f"no {name}"
                repair = f'pairs = "{path.with_stem(f"{path.stem}-2")}"'
                problems.append(Problem(text, f"{len(needed)}: {needed[0]} ...", repair))
        written = ds["complete"].values
        problems += origin_problems(ds.attrs, origin, complete=bool((written == 1).all()), at=path)
        raise_if(problems, what=str(path))
        return written


class Backgrounds:
    """The forecasts of a store, by valid time and lead time.

    Raises
    ------
    InputError
        If forecasts are missing, all or some.
    """

    def __init__(self, path: str | Path, layout: Layout) -> None:
        if not Path(path).is_dir():
            problem = Problem(
                "no store of forecasts",
                "one, made before the training",
                "python -m xdiffda.train forecasts CONFIG.toml",
            )
            raise InputError([problem], what=str(path))
        self.ds = xr.open_zarr(path, consolidated=False, chunks=None, decode_timedelta=True)
        self.layout = layout
        missing = int((self.ds["complete"].values != 1).sum())
        if missing:
            repair = "python -m xdiffda.train forecasts CONFIG.toml"
            problem = Problem(f"{missing} forecasts missing", "all", repair)
            raise InputError([problem], what=str(path))
        self._number = {t: i for i, t in enumerate(self.ds["init_time"].values)}
        self.leads = tuple((self.ds["lead_time"].values // _HOUR).tolist())

    def pairs(self, valid: np.ndarray, known: np.ndarray) -> list[tuple[np.datetime64, int, int]]:
        """(valid time, number of the forecast, number of its lead) of all pairs that exist."""
        truth = set(known)
        return [
            (time, self._number[start], k)
            for time in valid
            if time in truth
            for k, lead in enumerate(self.leads)
            if (start := time - lead * _HOUR) in self._number
        ]

    def read(self, number: int, lead: int) -> xr.Dataset:
        """One forecast at one lead time."""
        names = list(self.layout.variables)
        return self.ds[names].isel(init_time=number, lead_time=lead).load()
