"""Emulated observations: columns of a state seen with a known error.

Sites are drawn with probability proportional to the area that a grid point stands for, without
replacement, so that the poles are not crowded. Random numbers depend on the seed, the time index,
the variable and the level alone: another choice of variables, levels or times leaves the noise of
the rest as it was, and more columns with the same seed contain the fewer.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ..errors import InputError, Problem, raise_if
from ..state import Grid, read_metadata
from ..variables import VARIABLES, canonical_name
from ._error_std import SUFFIX, error_std_by_level
from .stencil import horizontal_stencil, is_vector_component

_SITES, _NOISE = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class _Sites:
    """Places in degrees, lon in [0, 360)."""

    lat: np.ndarray
    lon: np.ndarray
    station: np.ndarray


def emulate_obs(
    ds: xr.Dataset, *, fraction: float | None = None, n_columns: int | None = None,
    sites: xr.Dataset | Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None, levels: Sequence[float] | None = None,
    error_std: Any = "default", seed: int = 0, on_grid: bool = True, noise: bool = True,
    fixed_sites: bool = True,
) -> xr.Dataset:  # fmt: skip
    """Observe a state at sites, with Gaussian errors.

    Parameters
    ----------
    ds
        The state to observe, in any usual convention, without members. Lazy data stays lazy
        until the sites are selected; only those are computed.
    fraction, n_columns, sites
        Exactly one: the fraction of the horizontal grid columns, their number, or the places
        themselves (a Dataset or mapping with ``lat`` and ``lon``, degrees, optionally
        ``station``). Places off the grid see the state by bilinear interpolation.
    variables
        What to observe, by any of their names; all by default.
    levels
        At which levels of ``ds``, hPa; all by default.
    error_std
        Standard deviation of the errors: ``"default"`` (see `observations.defaults`), a number
        (for all variables, each in its canonical unit), or a mapping or Dataset from variable to
        a number, ``{level: number}`` or a DataArray on levels. Canonical units. Always positive.
    seed
        Seed of sites and errors.
    on_grid
        Whether drawn sites are grid points; else they are uniform on the sphere.
    noise
        Whether to add errors to the values.
    fixed_sites
        With a time dimension: the same sites at all times, or new ones for each time.

    Returns
    -------
    Dataset
        Columns in canonical names and units on ([``time``,] ``station``[, ``level``]), with
        ``<name>_error_std``; with ``fixed_sites=False`` on (``station``[, ``level``]) with the
        time of each station. Settings are in the attributes.

    Raises
    ------
    InputError
        If not exactly one of fraction, n_columns and sites is given; if there are members; if
        variables, levels, sites or errors do not fit.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> field = xr.DataArray(np.full((4, 8), 280.0), dims=("lat", "lon"),
    ...                      coords={"lat": [67.5, 22.5, -22.5, -67.5], "lon": np.arange(0, 360, 45)})
    >>> obs = emulate_obs(field.to_dataset(name="2m_temperature"), n_columns=5, seed=1)
    >>> dict(obs.sizes), sorted(obs.data_vars)
    ({'station': 5}, ['2m_temperature', '2m_temperature_error_std'])
    """
    convention = read_metadata(_without_single_batch(ds), what="state to observe")
    ds = _without_single_batch(ds)
    problems = _choice_problems(fraction, n_columns, sites, convention.layout.grid)
    problems += _batch_problems(convention)
    channels, wrong = _channels(convention, variables, levels)
    raise_if([*problems, *wrong], what="emulate_obs")
    errors = error_std_by_level(error_std, channels)
    grid = convention.layout.grid
    n = n_columns if fraction is None else max(1, round(fraction * grid.n_node))
    times = _times(convention)
    n_time = None if "time" not in convention.batch_dims else times.size

    def places(time_index: int) -> _Sites:
        if sites is not None:
            return _given_sites(sites)
        return _draw_sites(grid, int(n or 0), _generator(seed, _SITES, time_index), on_grid)

    source = "given" if sites is not None else "grid points by area" if on_grid else "sphere"
    attrs = {
        "title": "emulated observations", "seed": seed, "sites": source,
        "error_std": error_std if isinstance(error_std, str) else "given", "noise": int(noise),
        "truth_grid": str(grid), **({} if fraction is None else {"fraction": float(fraction)}),
    }  # fmt: skip
    if n_time is None or fixed_sites:
        sampled = _sample(ds, convention, channels, [places(0)])[0]
        return _observe(sampled, channels, errors, seed, noise, times, None, attrs)
    dim = str(convention.axes["time"].dim)
    pieces = _sample(
        ds, convention, channels, [places(i) for i in range(n_time)],
        [{dim: i} for i in range(n_time)],
    )  # fmt: skip
    parts = [
        _observe(piece, channels, errors, seed, noise, times[i], i, attrs)
        for i, piece in enumerate(pieces)
    ]
    together = xr.concat(parts, "station", data_vars="minimal", coords="minimal",
                         compat="override", join="override")  # fmt: skip
    together = together.assign_attrs(n_columns=parts[0].sizes["station"])
    return together.assign_coords(station=np.arange(together.sizes["station"]))


def _generator(seed: int, stream: int, *parts: int) -> np.random.Generator:
    return np.random.default_rng([int(seed), stream, *parts])


def _without_single_batch(ds: xr.Dataset) -> xr.Dataset:
    """Drop dimensions of one member or one lead time; their coordinates become scalars."""
    from .._coordinates import find_axes

    if not isinstance(ds, xr.Dataset):
        return ds  # read_metadata says what is wrong with it
    axes, _ = find_axes(ds)
    single = [axes[name].dim for name in ("member", "lead_time") if name in axes]
    return ds.squeeze([dim for dim in single if dim in ds.dims and ds.sizes[dim] == 1])


def _choice_problems(fraction, n_columns, sites, grid: Grid) -> list[Problem]:
    given = {"fraction": fraction, "n_columns": n_columns, "sites": sites}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        return [Problem(
            " and ".join(chosen) or "none of fraction, n_columns, sites", "exactly one of them",
            "ds.diffda.emulate_obs(n_columns=416)",
        )]  # fmt: skip
    if fraction is not None and not 0 < fraction <= 1:
        return [Problem(
            f"fraction={fraction}", "a fraction of the grid columns in (0, 1]",
            f"ds.diffda.emulate_obs(n_columns={max(1, round(abs(fraction)))})",
        )]  # fmt: skip
    if n_columns is not None and not (1 <= n_columns <= grid.n_node and n_columns == int(n_columns)):
        return [Problem(
            f"n_columns={n_columns}", f"a whole number from 1 to {grid.n_node}",
            f"ds.diffda.emulate_obs(n_columns={min(416, grid.n_node)})",
        )]  # fmt: skip
    return []


def _batch_problems(convention) -> list[Problem]:
    problems = []
    for name, words in (("member", "one member"), ("lead_time", "one lead time")):
        if name in convention.batch_dims:
            dim = convention.axes[name].dim
            size = convention.batch_shape[convention.batch_dims.index(name)]
            problems.append(Problem(
                f"{size} along `{dim}`", f"{words}: choose one", f"ds.isel({dim}=0)"
            ))  # fmt: skip
    return problems


def _channels(convention, variables, levels) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """Levels of each variable to observe."""
    layout, problems = convention.layout, []
    names = list(layout.variables)
    if variables is not None:
        wanted = [variables] if isinstance(variables, str) else list(variables)
        user = {field.user_name: field.name for field in convention.fields}
        found = {v: user.get(v) or _among(v, layout.variables) for v in wanted}
        unknown = [repr(v) for v, name in found.items() if name is None]
        if unknown:
            problems.append(Problem(
                f"variables {', '.join(unknown)}", f"some of {', '.join(layout.variables)}",
                f'ds.diffda.emulate_obs(variables=["{layout.variables[0]}"], ...)',
            ))  # fmt: skip
        names = [name for name in layout.variables if name in found.values()]
    chosen = layout.levels
    if levels is not None:
        wanted = [float(p) for p in np.atleast_1d(levels)]
        missing = [f"{p:g}" for p in wanted if p not in layout.levels]
        if missing:
            problems.append(Problem(
                f"levels {', '.join(missing)}", f"some of {', '.join(map(str, layout.levels))} hPa",
                f"ds.diffda.emulate_obs(levels=[{layout.levels[0] if layout.levels else ''}], ...)",
            ))  # fmt: skip
        chosen = tuple(p for p in layout.levels if p in wanted)
    on, surface = np.asarray(chosen, np.float64), np.array([np.nan])
    return {n: on if VARIABLES[n].on_levels else surface for n in names}, problems


def _among(user_name: str, names: Sequence[str]) -> str | None:
    either = (canonical_name(user_name, on_levels=on) for on in (True, False))
    return next((name for name in either if name in names), None)


def _times(convention) -> np.ndarray:
    times = convention.valid_times
    return np.array("NaT", "datetime64[ns]") if times is None else np.asarray(times)


def _given_sites(sites: xr.Dataset | Mapping[str, Any]) -> _Sites:
    names = {str(name).lower(): name for name in
             (sites.variables if isinstance(sites, xr.Dataset) else sites)}  # fmt: skip
    lat_name = names.get("lat", names.get("latitude"))
    lon_name = names.get("lon", names.get("longitude"))
    if lat_name is None or lon_name is None:
        raise InputError([Problem(
            f"sites with {', '.join(map(str, names)) or 'nothing'}", "lat and lon in degrees",
            "emulate_obs(sites={'lat': [52.2], 'lon': [14.1]})",
        )], what="sites")  # fmt: skip
    lat = np.atleast_1d(np.asarray(sites[lat_name], np.float64))
    lon = np.atleast_1d(np.asarray(sites[lon_name], np.float64))
    if lat.shape != lon.shape or lat.ndim != 1 or not lat.size or (
        not (np.all(np.abs(lat) <= 90) and np.all(np.isfinite(lon)))
    ):
        raise InputError([Problem(
            f"lat of shape {lat.shape} and lon of shape {lon.shape}, lat in "
            f"[{lat.min(initial=np.inf):g}, {lat.max(initial=-np.inf):g}]",
            "as many lat in [-90, 90] as finite lon, at least one",
            "emulate_obs(sites={'lat': [52.2], 'lon': [14.1]})",
        )], what="sites")  # fmt: skip
    station = np.arange(lat.size)
    if "station" in names:
        station = np.atleast_1d(np.asarray(sites[names["station"]]))
    lon = np.mod(lon, 360.0)
    return _Sites(lat, np.where(lon == 360.0, 0.0, lon), station)


def _draw_sites(grid: Grid, n: int, generator: np.random.Generator, on_grid: bool) -> _Sites:
    """Draw by area without replacement (Gumbel top-k), or uniformly on the sphere."""
    if on_grid:
        # The k largest of log p + Gumbel noise are a draw without replacement with weights p
        # (Efraimidis and Spirakis 2006), and the first of them a draw of fewer.
        with np.errstate(divide="ignore"):
            key = np.log(grid.area_weights()) + generator.gumbel(size=grid.n_node)
        node = np.argsort(-key, kind="stable")[:n]
        return _Sites(grid.node_lat[node], grid.node_lon[node], np.arange(n))
    uniform = generator.random((n, 2))
    lat = np.rad2deg(np.arcsin(2.0 * uniform[:, 0] - 1.0))
    return _Sites(lat, 360.0 * uniform[:, 1], np.arange(n))


def _sample(ds, convention, channels, places: list[_Sites], where=None) -> list[xr.Dataset]:
    """Values of the state at each set of sites; computed in one go."""
    import dask

    pieces = [
        _lazy_sample(ds.isel((where or [{}] * len(places))[i]), convention, channels, one)
        for i, one in enumerate(places)
    ]
    return list(dask.compute(*pieces))


def _lazy_sample(ds: xr.Dataset, convention, channels, sites: _Sites) -> xr.Dataset:
    """H in the horizontal, in xarray's own words, so that lazy arrays stay lazy."""
    grid, axes = convention.layout.grid, convention.axes
    near = horizontal_stencil(grid, sites.lat, sites.lon)
    used = np.flatnonzero((near.weight != 0).any(axis=0))
    row = convention.lat_order[near.node[:, used] // grid.n_lon]
    column = convention.lon_order[near.node[:, used] % grid.n_lon]
    corner = ("station", "_corner")
    pick = {str(axes["lat"].dim): xr.Variable(corner, row),
            str(axes["lon"].dim): xr.Variable(corner, column)}  # fmt: skip
    level_dim = axes["level"].dim if "level" in axes else None
    time_dim = axes["time"].dim if "time" in axes else None
    out = {}
    for field in convention.fields:
        if field.name not in channels:
            continue
        variable = ds[field.user_name].variable.isel(pick)
        turns = near.across[:, used] & is_vector_component(field.name)
        weight = np.where(turns, -near.weight[:, used], near.weight[:, used])
        if used.size == 1 and np.all(weight == 1.0):
            seen = variable.squeeze("_corner").astype(np.float64)
        else:
            seen = (variable * xr.Variable(corner, weight)).sum("_corner", skipna=False)
        if level_dim in seen.dims:
            order = [convention.layout.levels.index(int(p)) for p in channels[field.name]]
            position = _level_positions(ds, convention)[order]
            seen = seen.isel({level_dim: position})
        seen = seen * field.factor + field.offset
        out[field.name] = _named(seen, time_dim, level_dim, field.name)
    coords = {
        "station": sites.station, "lat": ("station", sites.lat), "lon": ("station", sites.lon),
    }  # fmt: skip
    return xr.Dataset(out, coords)
