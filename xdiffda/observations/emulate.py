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

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.observations.error_std import SUFFIX, error_std_by_level
from xdiffda.observations.forms import with_index
from xdiffda.observations.sites import on_globe
from xdiffda.observations.stencil import (
    Horizontal,
    horizontal_stencil,
    other_component,
    turned,
)
from xdiffda.state.convention import Convention
from xdiffda.state.convert import read_metadata
from xdiffda.state.coordinates import find_axes
from xdiffda.state.grid import Grid
from xdiffda.state.recognise import Field
from xdiffda.state.variables import VARIABLES, canonical_name

# Draw sites, sample a state at them, draw errors.

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
            f"sites with {', '.join(map(str, names))}"
            if names
            else f"sites of type {type(sites).__name__} without names"
        )
    try:
        lat = on_globe(np.atleast_1d(np.asarray(sites[lat_name], np.float64)))
        lon = np.atleast_1d(np.asarray(sites[lon_name], np.float64))
    except (ValueError, TypeError) as error:
        raise _no_sites(f"sites that are no numbers ({error})") from error
    dims = [getattr(sites[name], "dims", ()) for name in (lat_name, lon_name)]
    if dims[0] != dims[1]:
        raise InputError(
            [
                Problem(
                    f"lat on {', '.join(dims[0])} and lon on {', '.join(dims[1])}, a grid",
                    "pairs of lat and lon",
                    'sites.stack(station=("lat", "lon"))',
                )
            ],
            what="sites",
        )
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
            raise InputError(
                [
                    Problem(
                        f"station of shape {station.shape} beside lat of shape {lat.shape}",
                        "a name for each site, or none",
                        "sites={'lat': sites['lat'], 'lon': sites['lon']}",
                    )
                ],
                what="sites",
            )
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
        draws = np.stack(
            [
                np.stack(
                    [
                        std
                        * np.random.default_rng(
                            [int(seed), _NOISE, first_time + t, key, round(100 * p)]
                        ).standard_normal(variable.sizes["station"])
                        for p, std in zip(level, by_level, strict=True)
                    ],
                    axis=-1,
                )
                for t in range(n_time)
            ]
        )
        dims = ("time", "station", "level")
        flat = [i for i, dim in enumerate(dims) if dim not in variable.dims]
        noise[name] = (tuple(d for d in dims if d in variable.dims), draws.squeeze(tuple(flat)))
    return xr.Dataset(noise)


def sample(
    ds: xr.Dataset,
    convention: Convention,
    channels: Mapping[str, np.ndarray],
    places: list[Sites],
) -> list[xr.Dataset]:
    """Canonical values at one set of sites for all times, or at one set for each time.

    Lazy data is computed here, once, and only where it is seen.
    """
    import dask

    if len(places) == 1:
        return list(dask.compute(_lazy_sample(ds, convention, channels, places[0])))
    dim = str(convention.axes["time"].dim)
    return list(
        dask.compute(
            *(
                _lazy_sample(ds.isel({dim: [i]}), convention, channels, sites)
                for i, sites in enumerate(places)
            )
        )
    )


def _lazy_sample(
    ds: xr.Dataset, convention: Convention, channels: Mapping[str, np.ndarray], sites: Sites
) -> xr.Dataset:
    """H in the horizontal, in xarray's own words, so that lazy arrays stay lazy."""
    grid, axes = convention.layout.grid, convention.axes
    near = horizontal_stencil(grid, sites.lat, sites.lon)
    used = np.flatnonzero((near.weight != 0).any(axis=0))
    near = Horizontal(*(table[:, used] for table in near))
    corner = ("station", "_corner")
    pick = {
        str(axes["lat"].dim): xr.Variable(corner, convention.lat_order[near.node // grid.n_lon]),
        str(axes["lon"].dim): xr.Variable(corner, convention.lon_order[near.node % grid.n_lon]),
    }
    renamed = {str(axes[name].dim): name for name in ("time", "level") if name in axes}
    order = ("time", "station", "level")
    fields = {field.name: field for field in convention.fields}

    def seen(field: Field, weight: np.ndarray, levels: np.ndarray) -> xr.Variable:
        variable = ds[field.user_name].variable.isel(pick)
        variable = variable.squeeze(
            [dim for dim in variable.dims if dim not in (*corner, *renamed)]
        )
        variable = xr.Variable([renamed.get(str(d), d) for d in variable.dims], variable.data)
        if "level" in variable.dims:
            row = [convention.layout.levels.index(int(p)) for p in levels]
            variable = variable.isel(level=convention.level_order[row])
        elif np.isfinite(levels).all():
            variable = variable.set_dims({"level": 1, **variable.sizes})
        weighted = xr.Variable(corner, weight)
        # A corner of weight 0 is not seen, were it NaN.
        total = (variable.where(weighted != 0, 0.0) * weighted).sum("_corner", skipna=False)
        return total * field.factor

    out = {}
    for name, field in fields.items():
        if name not in channels:
            continue
        other = fields.get(other_component(name))
        own, aside = turned(name, near, both=other is not None)
        total = seen(field, own, channels[name]) + field.offset
        if other is not None and aside.any():
            total = total + seen(other, aside, channels[name])
        out[name] = total.transpose(*(dim for dim in order if dim in total.dims))
    on_levels = [levels for levels in channels.values() if np.isfinite(levels).all()]
    coords = {"level": on_levels[0].astype(np.int64)} if on_levels else {}
    return xr.Dataset(out, coords)


def emulate_obs(
    ds: xr.Dataset,
    *,
    fraction: float | None = None,
    n_columns: int | None = None,
    sites: xr.Dataset | Mapping[str, Any] | None = None,
    variables: Sequence[str] | None = None,
    levels: Sequence[float] | None = None,
    error_std: Any = "default",
    seed: int = 0,
    on_grid: bool = True,
    noise: bool = True,
    fixed_sites: bool = True,
) -> xr.Dataset:
    """Observe a state at sites, with Gaussian errors.

    Parameters
    ----------
    ds
        The state to observe, in any usual convention, without members. Lazy data stays lazy
        until the sites are selected; only those are computed.
    fraction, n_columns, sites
        Exactly one: the fraction of the horizontal grid columns, their number, or the places
        themselves (a Dataset, data frame or mapping with ``lat`` and ``lon``, degrees,
        optionally ``station``). Places off the grid see the state by bilinear interpolation.
    variables
        What to observe, by any of their names; all by default.
    levels
        At which levels of ``ds``, hPa; all by default.
    error_std
        Standard deviation of the errors: ``"default"`` (see
        `xdiffda.observations.default_error_std`), a number (for all variables, each in its
        canonical unit), or a mapping or Dataset from variable to a number, ``{level: number}``
        or a DataArray on levels. Canonical units, unless a DataArray's attributes say others.
        Always positive.
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
        variables, levels, sites or errors do not fit; if the state's times cannot be read.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> field = xr.DataArray(np.full((4, 8), 280.0), dims=("lat", "lon"),
    ...                      coords={"lat": [67.5, 22.5, -22.5, -67.5], "lon": range(0, 360, 45)})
    >>> obs = emulate_obs(field.to_dataset(name="2m_temperature"), n_columns=5, seed=1)
    >>> dict(obs.sizes), sorted(obs.data_vars)
    ({'station': 5}, ['2m_temperature', '2m_temperature_error_std'])
    """
    ds = _without_single_batch(ds)
    convention = read_metadata(ds, what="state to observe")
    grid = convention.layout.grid
    problems = _choice_problems(fraction, n_columns, sites, grid) + _batch_problems(convention)
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        problems.append(Problem(f"seed={seed!r}", "a whole number from 0", "emulate_obs(seed=0)"))
    channels, wrong = _channels(convention, variables, levels)
    raise_if([*problems, *wrong, *convention.clock.problems], what="emulate_obs")
    errors = error_std_by_level(error_std, channels)
    many = "time" in convention.batch_dims
    n_draws = convention.batch_shape[0] if many and not fixed_sites and sites is None else 1
    if sites is not None:
        places = [given_sites(sites)]
    else:
        n = n_columns if fraction is None else max(1, round(fraction * grid.n_node))
        places = [draw_sites(grid, int(n or 1), seed, i, on_grid) for i in range(n_draws)]
    pieces = sample(ds, convention, channels, places)
    times = _times(convention)
    if noise:
        pieces = [piece + noise_like(piece, errors, seed, i) for i, piece in enumerate(pieces)]
    if n_draws > 1:
        obs = _one_after_another(pieces, places, times)
    else:
        obs = _labelled(pieces[0], places[0], times, many)
    source = "given" if sites is not None else "grid points by area" if on_grid else "sphere"
    obs.attrs = {
        "title": "emulated observations",
        "seed": int(seed),
        "sites": source,
        "n_columns": places[0].lat.size,
        "fraction": places[0].lat.size / grid.n_node,
        "error_std": error_std if isinstance(error_std, str) else "given",
        "noise": int(noise),
        "truth_grid": str(grid),
    }
    return _with_errors(obs, errors)


def _without_single_batch(ds: xr.Dataset) -> xr.Dataset:
    """Dimensions of one member or one lead time become scalars: there is nothing to choose."""
    if not isinstance(ds, xr.Dataset):
        return ds  # read_metadata says what is wrong with it
    axes, _ = find_axes(ds)
    single = [axes[name].dim for name in ("member", "lead_time") if name in axes]
    return ds.squeeze([dim for dim in single if dim in ds.dims and ds.sizes[dim] == 1])


def _choice_problems(
    fraction: float | None, n_columns: int | None, sites: Any, grid: Grid
) -> list[Problem]:
    given = {"fraction": fraction, "n_columns": n_columns, "sites": sites}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        return [
            Problem(
                " and ".join(chosen) or "none of fraction, n_columns, sites",
                "exactly one of them",
                "ds.diffda.emulate_obs(n_columns=416)",
            )
        ]
    if fraction is not None and not (_is_number(fraction) and 0 < fraction <= 1):
        many = _is_number(fraction) and 1 < fraction <= grid.n_node
        return [
            Problem(
                f"fraction={fraction!r}",
                "a fraction of the grid columns in (0, 1]",
                f"ds.diffda.emulate_obs(n_columns={round(fraction) if many else 1})",
            )
        ]
    if n_columns is not None and not (
        _is_number(n_columns) and n_columns in range(1, grid.n_node + 1)
    ):
        return [
            Problem(
                f"n_columns={n_columns!r}",
                f"a whole number from 1 to {grid.n_node}",
                f"ds.diffda.emulate_obs(n_columns={min(416, grid.n_node)})",
            )
        ]
    return []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and np.isfinite(value)


def _batch_problems(convention: Convention) -> list[Problem]:
    problems = []
    for name, words in (("member", "one member"), ("lead_time", "one lead time")):
        if name in convention.batch_dims:
            dim = convention.axes[name].dim
            size = convention.batch_shape[convention.batch_dims.index(name)]
            problems.append(
                Problem(f"{size} along `{dim}`", f"{words}: choose one", f"ds.isel({dim}=0)")
            )
    return problems


def _channels(
    convention: Convention, variables: Sequence[str] | None, levels: Sequence[float] | None
) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """Levels of each variable to observe."""
    layout, problems = convention.layout, []
    names = list(layout.variables)
    if variables is not None:
        wanted = (
            [variables]
            if isinstance(variables, str) or not np.iterable(variables)
            else [*variables]
        )
        user = {field.user_name: field.name for field in convention.fields}
        found = {v: user.get(str(v)) or _among(str(v), layout.variables) for v in wanted}
        unknown = [repr(v) for v, name in found.items() if name is None]
        if unknown or not wanted:
            problems.append(
                Problem(
                    f"variables {', '.join(unknown) or '[]'}",
                    f"some of {', '.join(layout.variables)}",
                    f'emulate_obs(..., variables=["{layout.variables[0]}"])',
                )
            )
        names = [name for name in layout.variables if name in found.values()]
    chosen = layout.levels
    if levels is not None:
        wanted = [_as_level(p) for p in np.atleast_1d(np.asarray(levels, object))]
        missing = [f"{p:g}" for p in wanted if p not in layout.levels]
        if missing or not wanted:
            problems.append(
                Problem(
                    f"levels {', '.join(missing) if wanted else '[]'}"
                    if np.isfinite(wanted).all()
                    else f"levels={levels!r}",
                    f"some of {', '.join(map(str, layout.levels))} hPa",
                    f"emulate_obs(..., levels=[{layout.levels[0]}])" if layout.levels else "",
                )
            )
        chosen = tuple(p for p in layout.levels if p in wanted)
    on, surface = np.asarray(chosen, np.float64), np.array([np.nan])
    return {n: on if VARIABLES[n].on_levels else surface for n in names}, problems


def _as_level(level: Any) -> float:
    try:
        return float(level)
    except (ValueError, TypeError):
        return float("nan")


def _among(user_name: str, names: Sequence[str]) -> str | None:
    either = (canonical_name(user_name, on_levels=on) for on in (True, False))
    return next((name for name in either if name in names), None)


def _times(convention: Convention) -> np.ndarray:
    times = convention.valid_times
    if times is None:
        return np.full(convention.batch_shape, "NaT", "datetime64[ns]")
    return np.asarray(times)


def _labelled(piece: xr.Dataset, sites: Sites, times: np.ndarray, many: bool) -> xr.Dataset:
    """Coordinates of one set of sites: time is a dimension of its own or that of every station."""
    n = sites.lat.size
    time = ("time", times) if many else ("station", np.full(n, times))
    coords = {
        "station": ("station", sites.station),
        "lat": ("station", sites.lat),
        "lon": ("station", sites.lon),
        "time": time,
    }
    return piece.assign_coords(coords)


def _one_after_another(
    pieces: list[xr.Dataset], places: list[Sites], times: np.ndarray
) -> xr.Dataset:
    """New sites at each time: all of them along ``station``, each with its time."""
    parts = [
        _labelled(piece.isel(time=0), sites, times[i], many=False)
        for i, (piece, sites) in enumerate(zip(pieces, places, strict=True))
    ]
    together = xr.concat(
        parts, "station", data_vars="minimal", coords="minimal", compat="override", join="override"
    )
    return together.assign_coords(station=np.arange(together.sizes["station"]))


def _with_errors(obs: xr.Dataset, errors: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Add ``<name>_error_std``, units and the attributes of coordinates."""
    n = obs.sizes["station"]
    for name, by_level in errors.items():
        known = VARIABLES[name]
        obs[name].attrs = {"units": known.units, "long_name": known.long_name}
        dims = ("station", "level") if known.on_levels else ("station",)
        full = np.tile(by_level, (n, 1)) if known.on_levels else np.full(n, by_level[0])
        obs[name + SUFFIX] = (
            dims,
            full,
            {
                "units": known.units,
                "long_name": f"error standard deviation of {known.long_name}",
            },
        )
    obs["lat"].attrs = {"units": "degrees_north", "standard_name": "latitude"}
    obs["lon"].attrs = {"units": "degrees_east", "standard_name": "longitude"}
    obs["time"].attrs = {"standard_name": "time"}
    if "level" in obs.coords:
        obs["level"].attrs = {"units": "hPa", "standard_name": "air_pressure"}
    return obs
