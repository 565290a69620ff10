"""Draw sites, sample a state at them, draw errors."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ..errors import InputError, Problem
from ..state import Convention, Grid
from ._frames import with_index
from ._sites import on_globe
from .stencil import horizontal_stencil, is_vector_component

_SITES, _NOISE = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class Sites:
    """Places in degrees, lon in [0, 360), and their names."""

    lat: np.ndarray
    lon: np.ndarray
    station: np.ndarray


def _no_sites(found: str, needed: str = "lat and lon in degrees") -> InputError:
    repair = "emulate_obs(sites={'lat': [52.2], 'lon': [14.1]})"
    return InputError([Problem(found, needed, repair)], what="sites")


def given_sites(sites: xr.Dataset | Mapping[str, Any]) -> Sites:
    """Read the user's sites."""
    given = list(sites.variables) if isinstance(sites, xr.Dataset) else []
    if hasattr(sites, "reset_index") and hasattr(sites, "columns"):  # a data frame
        sites = {str(name): column.to_numpy() for name, column in with_index(sites).items()}
    if not isinstance(sites, xr.Dataset) and hasattr(sites, "keys"):
        given = list(sites.keys())
    names = {str(name).lower(): name for name in given if isinstance(name, str)}
    lat_name = names.get("lat", names.get("latitude"))
    lon_name = names.get("lon", names.get("longitude"))
    if lat_name is None or lon_name is None:
        raise _no_sites(
            f"sites with {', '.join(map(str, names))}" if names
            else f"sites of type {type(sites).__name__} without names"
        )  # fmt: skip
    try:
        lat = on_globe(np.atleast_1d(np.asarray(sites[lat_name], np.float64)))
        lon = np.atleast_1d(np.asarray(sites[lon_name], np.float64))
    except (ValueError, TypeError) as error:
        raise _no_sites(f"sites that are no numbers ({error})") from error
    dims = [getattr(sites[name], "dims", ()) for name in (lat_name, lon_name)]
    if dims[0] != dims[1]:
        raise InputError([Problem(
            f"lat on {', '.join(dims[0])} and lon on {', '.join(dims[1])}, a grid",
            "pairs of lat and lon", 'sites.stack(station=("lat", "lon"))',
        )], what="sites")  # fmt: skip
    if (
        lat.shape != lon.shape
        or lat.ndim != 1
        or not lat.size
        or (not (np.all(np.abs(lat) <= 90) and np.all(np.isfinite(lon))))
    ):
        raise _no_sites(
            f"lat of shape {lat.shape} and lon of shape {lon.shape}, lat in "
            f"[{lat.min(initial=np.inf):g}, {lat.max(initial=-np.inf):g}]",
            "as many lat in [-90, 90] as finite lon, at least one",
        )
    station = np.arange(lat.size)
    if "station" in names:
        station = np.atleast_1d(np.asarray(sites[names["station"]]))
        if station.shape != lat.shape:
            raise InputError([Problem(
                f"station of shape {station.shape} beside lat of shape {lat.shape}",
                "a name for each site, or none", "emulate_obs(sites={'lat': ..., 'lon': ...})",
            )], what="sites")  # fmt: skip
    lon = np.mod(lon, 360.0)
    return Sites(lat, np.where(lon == 360.0, 0.0, lon), station)


def draw_sites(grid: Grid, n: int, seed: int, draw: int, on_grid: bool) -> Sites:
    """Draw by area without replacement (Gumbel top-k), or uniformly on the sphere."""
    generator = np.random.default_rng([int(seed), _SITES, draw])
    if on_grid:
        # The k largest of log p + Gumbel noise are a draw without replacement with weights p
        # (Efraimidis and Spirakis 2006), and the first of them a draw of fewer.
        key = np.log(grid.area_weights()) + generator.gumbel(size=grid.n_node)
        node = np.argsort(-key, kind="stable")[:n]
        return Sites(grid.node_lat[node], grid.node_lon[node], np.arange(n))
    uniform = generator.random((n, 2))
    lat = np.rad2deg(np.arcsin(2.0 * uniform[:, 0] - 1.0))
    return Sites(lat, 360.0 * uniform[:, 1], np.arange(n))


def noise_like(
    piece: xr.Dataset, errors: Mapping[str, np.ndarray], seed: int, first_time: int
) -> xr.Dataset:
    """Gaussian errors for each value, keyed by seed, time index, variable and level."""
    noise = {}
    for name, by_level in errors.items():
        variable = piece[name].variable
        n_time = variable.sizes.get("time", 1)
        level = piece["level"].values if "level" in variable.dims else [0.0]
        key = zlib.crc32(name.encode())
        draws = np.stack([
            np.stack([
                std * np.random.default_rng(
                    [int(seed), _NOISE, first_time + t, key, round(100 * p)]
                ).standard_normal(variable.sizes["station"])
                for p, std in zip(level, by_level, strict=True)
            ], axis=-1)
            for t in range(n_time)
        ])  # fmt: skip
        dims = ("time", "station", "level")
        flat = [i for i, dim in enumerate(dims) if dim not in variable.dims]
        noise[name] = (tuple(d for d in dims if d in variable.dims), draws.squeeze(tuple(flat)))
    return xr.Dataset(noise)


def sample(
    ds: xr.Dataset, convention: Convention, channels: Mapping[str, np.ndarray],
    places: list[Sites],
) -> list[xr.Dataset]:  # fmt: skip
    """Canonical values at one set of sites for all times, or at one set for each time.

    Lazy data is computed here, once, and only where it is seen.
    """
    import dask

    if len(places) == 1:
        return list(dask.compute(_lazy_sample(ds, convention, channels, places[0])))
    dim = str(convention.axes["time"].dim)
    return list(dask.compute(*(
        _lazy_sample(ds.isel({dim: [i]}), convention, channels, sites)
        for i, sites in enumerate(places)
    )))  # fmt: skip


def _lazy_sample(
    ds: xr.Dataset, convention: Convention, channels: Mapping[str, np.ndarray], sites: Sites
) -> xr.Dataset:
    """H in the horizontal, in xarray's own words, so that lazy arrays stay lazy."""
    grid, axes = convention.layout.grid, convention.axes
    near = horizontal_stencil(grid, sites.lat, sites.lon)
    used = np.flatnonzero((near.weight != 0).any(axis=0))
    node, across = near.node[:, used], near.across[:, used]
    corner = ("station", "_corner")
    pick = {
        str(axes["lat"].dim): xr.Variable(corner, convention.lat_order[node // grid.n_lon]),
        str(axes["lon"].dim): xr.Variable(corner, convention.lon_order[node % grid.n_lon]),
    }
    renamed = {str(axes[name].dim): name for name in ("time", "level") if name in axes}
    order = ("time", "station", "level")
    out = {}
    for field in convention.fields:
        if field.name not in channels:
            continue
        variable = ds[field.user_name].variable.isel(pick)
        variable = variable.squeeze([
            dim for dim in variable.dims if dim not in (*corner, *renamed)
        ])  # fmt: skip
        variable = xr.Variable([renamed.get(str(d), d) for d in variable.dims], variable.data)
        levels = channels[field.name]
        if "level" in variable.dims:
            row = [convention.layout.levels.index(int(p)) for p in levels]
            variable = variable.isel(level=convention.level_order[row])
        elif np.isfinite(levels).all():
            variable = variable.set_dims({"level": 1, **variable.sizes})
        # Eastward and northward turn over where the meridian is followed across a pole.
        weight = near.weight[:, used] * np.where(across & is_vector_component(field.name), -1, 1)
        weighted = xr.Variable(corner, weight)
        # A corner of weight 0 is not seen, were it NaN.
        seen = (variable.where(weighted != 0, 0.0) * weighted).sum("_corner", skipna=False)
        seen = seen * field.factor + field.offset
        out[field.name] = seen.transpose(*(dim for dim in order if dim in seen.dims))
    on_levels = [levels for levels in channels.values() if np.isfinite(levels).all()]
    coords = {"level": on_levels[0].astype(np.int64)} if on_levels else {}
    return xr.Dataset(out, coords)
