"""Reanalysis in the schema of WeatherBench 2 and ARCO-ERA5, read time by time.

Stores are opened lazily where they lie: on this disk, or in the cloud through fsspec. Latitudes
in either order, longitudes from -180 or 0, static fields with or without time: all are turned
into GraphCast's own form, rows ascending from the south and longitudes from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from xdiffda.errors import InputError, Problem, StorageError, raise_if
from xdiffda.networks.gencast.forecaster import clock_forcings
from xdiffda.networks.graphcast.bare import stack
from xdiffda.networks.graphcast.checkpoint import TaskConfig
from xdiffda.networks.graphcast.forcings import FORCING_VARIABLES, solar_radiation
from xdiffda.priors.diffda import SOLAR
from xdiffda.state.grid import Grid, Layout

STEP = np.timedelta64(6, "h")
_RAIN = "total_precipitation_6hr"
_HOURLY_RAIN = "total_precipitation"
_RENAME = {"latitude": "lat", "longitude": "lon"}


def open_store(path: str, storage: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Open a zarr store lazily, rows and columns in GraphCast's order.

    Parameters
    ----------
    path : str
        Folder or address, as ``gs://...`` (extra ``cloud``).
    storage : mapping, optional
        Options of its file system, as ``{"token": "anon"}``.

    Raises
    ------
    StorageError
        If it cannot be opened.
    """
    if "://" in path:
        from xdiffda.storage.remote import open_remote

        ds = open_remote(path, storage, chunks=None)
    else:
        ds = _open_folder(path)
    ds = ds.rename({k: v for k, v in _RENAME.items() if k in ds.dims})
    if absent := [name for name in ("time", "lat", "lon") if name not in ds.coords]:
        problem = Problem(
            f"no coordinate {', '.join(absent)}",
            "time, latitude and longitude, as stores of WeatherBench 2 and ARCO-ERA5 have them",
            "",
        )
        raise InputError([problem], what=path)
    lat, lon = ds["lat"].values, ds["lon"].values % 360
    ds = ds.assign_coords(lon=lon)
    return ds.isel(lat=np.argsort(lat), lon=np.argsort(lon))


def _open_folder(path: str) -> xr.Dataset:
    try:
        return xr.open_zarr(path, chunks=None)
    except Exception as error:  # every damage has an error of its own
        raise StorageError(
            f"{path}: cannot be opened as zarr ({type(error).__name__}: {error}); repair: "
            "the folder of a zarr store (it holds zarr.json, .zgroup or .zmetadata)"
        ) from error


class Reanalysis:
    """A store, as states and as inputs of a forecaster.

    Parameters
    ----------
    ds : Dataset
        From `open_store`.
    layout_variables, levels
        The state.
    task : TaskConfig
        What the forecaster reads.

    Raises
    ------
    InputError
        If variables or levels are missing, or static fields have gaps; lists all.
    """

    def __init__(
        self,
        ds: xr.Dataset,
        task: TaskConfig,
        *,
        variables: tuple[str, ...],
        levels: tuple[int, ...],
    ) -> None:
        static = set(task.input_variables) - set(task.target_variables) - set(FORCING_VARIABLES)
        self.moving = tuple(sorted(set(task.input_variables) - static - set(FORCING_VARIABLES)))
        if _RAIN in static:  # an input that is no target
            static, self.moving = static - {_RAIN}, (*self.moving, _RAIN)
        _check(ds, {*variables, *static, *self.moving}, {*levels, *task.pressure_levels})
        self.ds, self.task, self.static_names = ds, task, tuple(sorted(static))
        grid = Grid.from_coords(ds["lat"].values, ds["lon"].values)
        self.layout = Layout(grid, tuple(variables), tuple(levels))
        self.times = ds["time"].values
        self.static = _static(ds[list(self.static_names)])

    def state(self, time: np.datetime64) -> Float[np.ndarray, "node channel"]:
        """The state at a time, physical units.

        Raises
        ------
        InputError
            If the store holds NaN there.
        """
        ds = self.ds[list(self.layout.variables)].sel(time=time)
        if "level" in ds.dims:
            ds = ds.sel(level=list(self.layout.levels))
        return state_of(ds.load(), self.layout, what=f"reanalysis of {time}")

    def solar(self, time: np.datetime64) -> Float[np.ndarray, " node"] | None:
        """Solar radiation of the store (J m-2 in the hour before), if it has it."""
        if SOLAR not in self.ds:
            return None
        values = self.ds[SOLAR].sel(time=time).transpose("lat", "lon").values.reshape(-1)
        return values if np.isfinite(values).all() else None

    def inputs(self, time: np.datetime64) -> xr.Dataset:
        """Input frames of the forecaster up to a time, on (batch, time, level, lat, lon)."""
        times = time + STEP * np.arange(1 - self.task.n_frames, 1)
        names = [name for name in self.moving if name != _RAIN or _RAIN in self.ds]
        frames = self.ds[names].sel(time=times)
        if "level" in frames.dims:
            frames = frames.sel(level=list(self.task.pressure_levels))
        frames = frames.transpose("time", "level", "lat", "lon", missing_dims="ignore").load()
        if _RAIN in self.moving and _RAIN not in self.ds:
            frames[_RAIN] = xr.concat([self._rain(t) for t in times], "time")
        frames = frames.merge(self._read(set(self.task.input_variables), times))
        return frames.expand_dims(batch=1).merge(self.static)

    def forcings(self, times: np.ndarray) -> xr.Dataset:
        """Forcings of the forecaster at some times."""
        return self._read(set(self.task.forcing_variables), times)

    def _read(self, names: set[str], times: np.ndarray) -> xr.Dataset:
        lat, lon = (self.ds[name].values for name in ("lat", "lon"))
        found = clock_forcings(times, lon)
        if SOLAR in names:
            stored = [self.solar(t) if t in self.times else None for t in times]
            fields = [
                solar_radiation(np.array([t]), lat, lon).reshape(-1) if field is None else field
                for t, field in zip(times, stored, strict=True)
            ]
            solar = np.stack(fields).astype(np.float32).reshape(len(times), len(lat), len(lon))
            found = found.assign_coords(lat=lat)
            found[SOLAR] = (("time", "lat", "lon"), solar)
        return found[sorted(names & set(FORCING_VARIABLES))]

    def _rain(self, time: np.datetime64) -> xr.DataArray:
        """Precipitation of six hours, from a store that has it hourly."""
        hours = time - np.arange(5, -1, -1) * np.timedelta64(1, "h")
        absent = sorted(set(hours) - set(self.times))
        if absent:
            found = f"no {_HOURLY_RAIN} of {', '.join(str(t)[:16] for t in absent)}"
            problem = Problem(
                found,
                f"{_RAIN}, or every hour of the six before {str(time)[:16]}",
                "",
            )
            raise InputError([problem], what="reanalysis")
        field = self.ds[_HOURLY_RAIN].sel(time=hours).transpose("time", "lat", "lon").load()
        return field.sum("time").assign_coords(time=time)


def state_of(ds: xr.Dataset, layout: Layout, *, what: str) -> Float[np.ndarray, "node channel"]:
    """State array of a Dataset of one time, in the order of the layout.

    Raises
    ------
    InputError
        If it holds NaN.
    """
    grid = layout.grid
    sizes = {"batch": 1, "lat": grid.n_lat, "lon": grid.n_lon}
    x = stack(ds, layout.variables, sizes=sizes)[:, 0].astype(np.float32)
    finite = np.isfinite(x).all(0)
    if not finite.all():
        bad = [layout.channel_names[i] for i in np.flatnonzero(~finite)]
        problem = Problem(f"NaN in {', '.join(bad)}", "levels and variables without NaN", "")
        raise InputError([problem], what=what)
    return x


def _static(ds: xr.Dataset) -> xr.Dataset:
    """Fields that do not change, at a time that has them: ARCO-ERA5 begins before its data do."""
    ds, n_time = ds.drop_vars("level", errors="ignore"), ds.sizes.get("time", 0)
    fields = ds
    for at in dict.fromkeys((0, n_time // 2, max(n_time - 1, 0))):
        fields = (ds.isel(time=at, drop=True) if n_time else ds).load()
        if not (gaps := sorted(str(n) for n in fields if not np.isfinite(fields[n].values).all())):
            return fields
    problem = Problem(f"NaN in {', '.join(gaps)}", "static fields without gaps", "")
    raise InputError([problem], what="reanalysis")


def _check(ds: xr.Dataset, names: set[str], levels: set[int]) -> None:
    if _RAIN not in ds and _HOURLY_RAIN in ds:
        names = names - {_RAIN}
    problems = []
    if absent := sorted(names - set(ds)):
        needed = f"{', '.join(sorted(names))}, as stores of WeatherBench 2 and ARCO-ERA5 have them"
        problems.append(Problem(f"no {', '.join(absent)}", needed, ""))
    has = set(ds["level"].values.tolist()) if "level" in ds.coords else set()
    if lost := sorted(levels - has):
        problems.append(Problem(f"no levels {lost}", f"levels {sorted(levels)}", "era5.levels"))
    raise_if(problems, what="reanalysis")
