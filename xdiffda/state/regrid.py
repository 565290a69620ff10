"""Bring a global dataset to another regular latitude-longitude grid.

Both methods are separable: a matrix along latitude and one along longitude. Conservative
regridding weights by overlap of cell areas (first order; Jones 1999, Mon. Wea. Rev. 127);
bilinear interpolation is periodic in longitude and, beyond the last row, linear to the pole,
where a scalar is the mean of that row, and a component of a vector the row's wave of one turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.coordinates import Axis, find_axes
from xdiffda.state.grid import NAMED_GRIDS, Grid, Layout, grid_problems, longitudes_from_zero
from xdiffda.state.variables import canonical_name

if TYPE_CHECKING:
    from jaxtyping import Float


Method = Literal["auto", "conservative", "bilinear"]


def regrid(
    ds: xr.Dataset, *, like: str | Grid | Layout | xr.Dataset, method: Method = "auto"
) -> xr.Dataset:
    """Interpolate every variable on latitude and longitude to another grid.

    Parameters
    ----------
    ds
        Global, with one-dimensional latitude and longitude in any order and convention; lazy
        data stays lazy.
    like
        ``"speedy"`` (the grid of the bundled model), a grid of WeatherBench 2 such as
        ``"240x121"``, a `Grid`, a `Layout`, or a dataset on the wanted grid, whose latitude
        order and longitude convention are then taken too.
    method
        ``"conservative"`` keeps area means, ``"bilinear"`` keeps smoothness; ``"auto"`` takes
        the first towards a coarser grid and the second otherwise.

    Returns
    -------
    xr.Dataset
        With the names, dimension order and attributes of ``ds``. NaN spreads to cells of which
        less than half is known.

    Raises
    ------
    InputError
        If either grid is not a global one.

    Examples
    --------
    >>> lat, lon = np.linspace(90, -90, 19), np.arange(0, 360, 10)
    >>> z = xr.DataArray(np.sin(np.deg2rad(lat))[:, None] * np.ones(36), {"lat": lat, "lon": lon})
    >>> regrid(z.to_dataset(name="z"), like="speedy").sizes["lon"]
    64
    """
    axes = _horizontal_axes(ds)
    lat_axis, lon_axis = axes
    lat = np.asarray(ds[lat_axis.coord].values, np.float64)
    lon = longitudes_from_zero(ds[lon_axis.coord].values)
    if np.any(np.diff(np.sort(lon)) < 1e-4):
        raise_if(
            grid_problems(
                lat, ds[lon_axis.coord].values, lat_name=lat_axis.name, lon_name=lon_axis.name
            ),
            what="dataset to regrid",
        )
    new_lat, new_lon = _target(like)
    if method == "auto":
        method = "conservative" if new_lat.size * new_lon.size < lat.size * lon.size else "bilinear"
    if method not in ("conservative", "bilinear"):
        raise InputError(
            [
                Problem(
                    f"method={method!r}",
                    "auto, conservative or bilinear",
                    "xdiffda.regrid(ds, like=like)",
                )
            ],
            what="regrid",
        )
    matrices = {"conservative": _conservative, "bilinear": _bilinear}[method](
        lat, lon, new_lat, longitudes_from_zero(new_lon)
    )
    return _apply(ds, axes, matrices, new_lat, new_lon)


def _horizontal_axes(ds: xr.Dataset) -> tuple[Axis, Axis]:
    axes, _ = find_axes(ds)
    found = [axes.get(key) for key in ("lat", "lon")]
    problems = [
        Problem(
            f"no one-dimensional {word} with values", f"{word} in degrees", f'ds.rename(y="{word}")'
        )
        for axis, word in zip(found, ("lat", "lon"), strict=True)
        if axis is None or axis.dim is None or axis.coord is None
    ]
    if not problems:
        wrong = grid_problems(
            ds[axes["lat"].coord].values,
            ds[axes["lon"].coord].values,
            lat_name=axes["lat"].name,
            lon_name=axes["lon"].name,
        )
        # Unequal steps are what this function is for; the rest it cannot mend.
        problems = [p for p in wrong if not p.repair.startswith("xdiffda.regrid")]
    raise_if(problems, what="dataset to regrid")
    return axes["lat"], axes["lon"]


def _target(like: str | Grid | Layout | xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(like, xr.Dataset | xr.DataArray):
        ds = like.to_dataset(name="_") if isinstance(like, xr.DataArray) else like
        lat, lon = (ds[axis.coord].values for axis in _horizontal_axes(ds))
        raise_if(grid_problems(lat, lon), what="grid of `like`")
        return np.asarray(lat, np.float64), np.asarray(lon, np.float64)
    if isinstance(like, str) and like in NAMED_GRIDS:
        like = NAMED_GRIDS[like]()
    grid = like.grid if isinstance(like, Layout) else like
    if not isinstance(grid, Grid):
        raise InputError(
            [
                Problem(
                    f"like={like!r}",
                    f"one of {', '.join(NAMED_GRIDS)}, a Grid, a Layout or a Dataset",
                    'xdiffda.regrid(ds, like="speedy")',
                )
            ],
            what="regrid",
        )
    return np.asarray(grid.lat), np.asarray(grid.lon)


def _edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.concatenate([[low], 0.5 * (values[1:] + values[:-1]), [high]])


def _overlap(edges: np.ndarray, new_edges: np.ndarray) -> np.ndarray:
    low = np.maximum(new_edges[:-1, None], edges[None, :-1])
    return np.clip(np.minimum(new_edges[1:, None], edges[None, 1:]) - low, 0.0, None)


def _conservative(lat, lon, new_lat, new_lon):
    """Shares of old cells in new ones, in sine of latitude and in longitude."""
    order, new_order = np.argsort(lat), np.argsort(new_lat)
    rows = np.zeros((new_lat.size, lat.size))
    rows[np.ix_(new_order, order)] = _overlap(
        *(np.sin(np.deg2rad(_edges(np.sort(v), -90.0, 90.0))) for v in (lat, new_lat))
    )
    columns = np.zeros((new_lon.size, lon.size))
    edges, new_edges = _circle_edges(lon), _circle_edges(new_lon)
    for turn in (-360.0, 0.0, 360.0):
        columns[np.ix_(np.argsort(new_lon), np.argsort(lon))] += _overlap(edges + turn, new_edges)
    rows /= rows.sum(axis=1, keepdims=True)
    columns /= columns.sum(axis=1, keepdims=True)
    return rows, columns


def _circle_edges(lon: np.ndarray) -> np.ndarray:
    ordered = np.sort(lon)
    seam = 0.5 * (ordered[-1] - 360.0 + ordered[0])
    return _edges(ordered, seam, seam + 360.0)


def _bilinear(lat, lon, new_lat, new_lon):
    """Weights of the two neighbours; the last two columns of `rows` stand for the poles."""
    order = np.argsort(lat)
    known = np.concatenate([[-90.0 - 1e-9], lat[order], [90.0 + 1e-9]])
    source = np.concatenate([[lat.size], order, [lat.size + 1]])
    rows = _linear(known, source, new_lat, lat.size + 2)
    order = np.argsort(lon)
    around = np.concatenate([lon[order[-1:]] - 360.0, lon[order], lon[order[:1]] + 360.0])
    columns = _linear(around, order[np.arange(-1, lon.size + 1) % lon.size], new_lon, lon.size)
    return rows, columns


def _linear(known: np.ndarray, source: np.ndarray, wanted: np.ndarray, size: int) -> np.ndarray:
    left = np.clip(np.searchsorted(known, wanted, side="right") - 1, 0, known.size - 2)
    share = (wanted - known[left]) / (known[left + 1] - known[left])
    matrix = np.zeros((wanted.size, size))
    np.add.at(matrix, (np.arange(wanted.size), source[left]), 1.0 - share)
    np.add.at(matrix, (np.arange(wanted.size), source[left + 1]), share)
    return matrix


def _apply(ds, axes: tuple[Axis, Axis], matrices, new_lat, new_lon) -> xr.Dataset:
    core, new = [axes[0].dim, axes[1].dim], ["_lat", "_lon"]
    order = np.argsort(ds[axes[0].coord].values)
    done = {}
    for name, variable in {**ds.data_vars, **ds.coords}.items():
        if not set(core) <= set(variable.dims) or variable.dtype.kind not in "fiub":
            continue
        out = xr.apply_ufunc(
            _multiply,
            variable.variable,
            input_core_dims=[core],
            output_core_dims=[new],
            kwargs={
                "rows": matrices[0],
                "columns": matrices[1],
                "ends": order[[0, -1]],
                "ring": _ring(str(name), ds[axes[1].coord].values),
            },
            dask="parallelized",
            output_dtypes=[np.result_type(variable.dtype, np.float32)],
            dask_gufunc_kwargs={
                "output_sizes": {"_lat": new_lat.size, "_lon": new_lon.size},
                "allow_rechunk": True,
            },
        )
        renamed = [core[0] if d == "_lat" else core[1] if d == "_lon" else d for d in out.dims]
        out = xr.Variable(renamed, out.data, variable.attrs)
        done[name] = out.transpose(*variable.dims)
    coords = {
        axis.coord: ((axis.dim,), values.astype(ds[axis.coord].dtype), ds[axis.coord].attrs)
        for axis, values in zip(axes, (new_lat, new_lon), strict=True)
    }
    rest = ds.drop_dims(core)
    new_coords = {name: value for name, value in done.items() if name in ds.coords}
    out = rest.assign(done).assign_coords({**coords, **new_coords})
    return out[[name for name in ds.data_vars if name in out]].assign_attrs(ds.attrs)


def _ring(name: str, lon: np.ndarray) -> Float[np.ndarray, "lon lon"]:
    """Along a row, to what it says of the pole beside it, seen along each meridian."""
    if "component_of_wind" not in (canonical_name(name) or ""):
        return np.full((lon.size, lon.size), 1.0 / lon.size)
    return np.cos(np.deg2rad(np.subtract.outer(lon, lon).astype(float))) * (2.0 / lon.size)


def _multiply(
    x: Float[np.ndarray, "*batch lat lon"],
    *,
    rows: np.ndarray,
    columns: np.ndarray,
    ends: np.ndarray,
    ring: np.ndarray,
) -> Float[np.ndarray, "*batch new_lat new_lon"]:
    x = x.astype(np.result_type(x.dtype, np.float32))
    known = np.isfinite(x)
    if known.all():
        return _both(x, rows, columns, ends, ring).astype(x.dtype)
    total = _both(np.where(known, x, 0.0), rows, columns, ends, ring)
    share = _both(known.astype(np.float64), rows, columns, ends, np.full_like(ring, 1 / len(ring)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(share > 0.5, total / share, np.nan).astype(x.dtype)


def _both(x, rows, columns, ends, ring):
    if rows.shape[1] == x.shape[-2] + 2:  # bilinear, with the poles
        x = np.concatenate([x, x[..., ends, :] @ ring], axis=-2)
    return rows @ (x.astype(np.float64) @ columns.T)
