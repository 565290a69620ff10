"""The user's dataset in canonical names, units and order, without reading a value of it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.clock import Clock, read_clock
from xdiffda.state.coordinates import find_axes, levels_in_hpa
from xdiffda.state.grid import Grid, longitudes_from_zero
from xdiffda.state.recognise import NO_UNITS
from xdiffda.state.units import conversion
from xdiffda.state.variables import VARIABLES, match_name, user_default_units


def canonical(ds: xr.Dataset, *, what: str = "dataset") -> xr.Dataset:
    """Return ``ds`` in canonical names, units and order; dask arrays stay lazy.

    For verification and plots, which may look at fields that no model knows: a variable
    that is not recognised keeps its name and units, and the grid need not be global.

    Parameters
    ----------
    ds
        Fields on one-dimensional latitudes and longitudes, in any convention.
    what
        What to call it in errors.

    Returns
    -------
    xarray.Dataset
        Dimensions among ``member``, ``time``, ``lead_time``, ``level`` (hPa), ``lat`` and
        ``lon`` (both ascending, lon in [0, 360)). ``time`` is valid time; with a dimension
        ``lead_time`` it is the initial time, and ``valid_time`` stands beside it.

    Raises
    ------
    InputError
        If latitude or longitude is missing, two-dimensional or ambiguous, or two variables look
        like one.

    Examples
    --------
    >>> t = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("latitude", "longitude"),
    ...                  coords={"latitude": [45, -45], "longitude": [-90, 90]},
    ...                  attrs={"units": "degC"})
    >>> canonical(t.to_dataset(name="2t"))["2m_temperature"].values - 273.15
    array([[4., 3.],
           [2., 1.]])
    """
    axes, problems = find_axes(ds)
    for name in ("lat", "lon"):
        if name not in axes or axes[name].dim is None or axes[name].coord is None:
            problems.append(
                Problem(
                    f"no one-dimensional {name} among {list(ds.coords)}",
                    "a regular grid of latitudes and longitudes",
                    f'ds.set_coords("{name}")',
                )
            )
    clock = read_clock(ds)
    raise_if([*problems, *clock.problems], what=what)
    dims = {axis.dim: name for name, axis in axes.items() if axis.dim is not None}
    bare = ds.drop_vars(list(ds.coords))
    bare = bare.rename_dims({d: n for d, n in dims.items() if d in bare.dims and d != n})
    coords = _coordinates(ds, axes, dims, clock, what)
    level_is_scalar = "level" in axes and axes["level"].dim is None
    fields: dict[str, xr.Variable] = {}
    users: dict[str, list[str]] = {}
    for name, field in bare.data_vars.items():
        on_levels = True if "level" in field.dims else None if level_is_scalar else False
        match = match_name(
            str(name), str(field.attrs.get("standard_name", "")), on_levels=on_levels
        )
        key = match.name if match else str(name)
        users.setdefault(key, []).append(str(name))
        fields.setdefault(key, _converted(field, key if match else None, str(name)))
    twice = [
        Problem(
            f"variables {', '.join(names)}, which all look like {key}",
            "one variable for it",
            f"ds.drop_vars({names[1:]})  # or whichever is not meant",
        )
        for key, names in users.items()
        if len(names) > 1
    ]
    raise_if(twice, what=what)
    out = xr.Dataset(fields, coords=coords, attrs=ds.attrs)
    for name in ("lat", "lon"):
        order = np.argsort(out[name].values, kind="stable")
        if np.any(np.diff(order) != 1):
            out = out.isel({name: order})
    return out


def _coordinates(ds: xr.Dataset, axes, dims: dict[str, str], clock: Clock, what: str) -> dict:
    coords = {}
    for name, axis in axes.items():
        if axis.coord is None:
            continue
        given = ds[axis.coord]
        values: np.ndarray = np.asarray(given.values)
        if name == "lon":
            values = longitudes_from_zero(values.astype(np.float64))
        elif name == "level":
            values, _, problems = levels_in_hpa(given, axis.coord)
            raise_if(problems, what=what)
            values = values if given.ndim else values[0]
        coords[name] = ((name,) if given.ndim else (), values)
    return coords | _clocks(clock, dims, {d: n for d, n in ds.sizes.items() if d in dims})


def _clocks(clock: Clock, dims: dict[str, str], sizes: dict) -> dict:
    """Times in canonical names; a forecast has one valid time for each lead time."""
    valid, lead = clock.valid, clock.lead
    if valid is None or not set(valid.dims) <= set(dims):
        return {}
    along = {name: d for d, name in dims.items()}
    coords: dict = {}
    if lead is not None and set(lead.dims) <= {along.get("lead_time")}:
        coords["lead_time"] = (("lead_time",) * lead.ndim, lead.values)
    start = valid
    if along.get("lead_time") in valid.dims:
        coords["valid_time"] = (tuple(dims[str(d)] for d in valid.dims), valid.values)
        start = clock.initial if lead is None else valid - lead
        if start is None:
            return coords
        start = start.isel({along["lead_time"]: 0}, missing_dims="ignore")
    if "time" in along and start.dims == ():
        start = start.expand_dims({along["time"]: sizes[along["time"]]})
    coords["time"] = (tuple(dims[str(d)] for d in start.dims), start.values)
    return coords


def _converted(field: xr.DataArray, name: str | None, user_name: str) -> xr.Variable:
    if name is None:
        return field.variable
    known = VARIABLES[name]
    units = str(field.attrs.get("units", ""))
    if units.lower() in NO_UNITS:
        units = user_default_units(user_name, name)
    line = conversion(units, name)
    attrs = {"units": known.units if line else units, "long_name": known.long_name}
    variable = field.variable
    if line is not None and line != (1.0, 0.0):
        variable = variable * line[0] + line[1]
    return xr.Variable(variable.dims, variable._data, attrs)


def row_weights(ds: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return area weights by row; of the rows' bands where the grid is not global."""
    lat, lon = ds["lat"].values.astype(np.float64), ds["lon"].values.astype(np.float64)
    try:
        grid = Grid.from_coords(lat.tolist(), lon.tolist())
        rows = grid.area_weights().reshape(grid.shape)[:, 0]
    except InputError:
        if lat.size == 1:
            rows = np.ones(1)
        else:
            middle = 0.5 * (lat[1:] + lat[:-1])
            edges = np.r_[2 * lat[0] - middle[0], middle, 2 * lat[-1] - middle[-1]]
            rows = np.diff(np.sin(np.deg2rad(np.clip(edges, -90, 90))))
    return xr.DataArray(rows, dims="lat", coords={"lat": lat})
