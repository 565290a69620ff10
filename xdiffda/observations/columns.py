"""Read the columns form: variables named as in the state on station, level and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from xdiffda.errors import Problem
from xdiffda.observations.forms import (
    BACKGROUND,
    NUMERIC,
    OPTIONAL,
    TIDY_NAMES,
    Raw,
    all_names,
    as_numbers,
    default_error,
    hpa_factor,
    need_clock,
    read_times,
    to_canonical,
    unknown_variable,
    without,
)
from xdiffda.observations.names import contradicts, match_observed, to_units
from xdiffda.state.coordinates import find_axes
from xdiffda.state.variables import Match, Variable

SUFFIX = "_error_std"
BACKGROUND_SUFFIX = "_background"
# Channels of a level variable whose level is that of the station, not of a dimension.
_OF_STATION = -1.0


@dataclass(frozen=True)
class _Dims:
    """The user's dimensions: station always, time and level where there are such."""

    station: str
    time: str | None
    level: str | None


@dataclass(frozen=True)
class _Block:
    """One variable: values and errors on (time, station, level)."""

    name: str
    level: np.ndarray
    value: np.ndarray
    error_std: np.ndarray
    background: np.ndarray | None


def read_columns(ds: xr.Dataset, own: dict[str, Variable] | None = None) -> Raw:
    """Read observations in columns; what cannot be understood is among the problems."""
    raw = Raw("columns", attrs=dict(ds.attrs), own=own or {})
    loose = {word: name for name in ("lat", "lon", "time", *OPTIONAL) for word in TIDY_NAMES[name]}
    ds = ds.set_coords([name for name in ds.data_vars if str(name).lower() in loose])
    ds = ds.rename(
        {
            name: loose[str(name).lower()]
            for name in ds.coords
            if loose.get(str(name).lower(), name) in NUMERIC and name not in NUMERIC
        }
    )
    ds, dims = _dimensions(_stations_along_time(ds), raw)
    if dims is None:
        return raw
    need_clock(raw, ds)
    level, level_of_station = _levels(ds, dims, raw)
    blocks = []
    for name, variable in ds.data_vars.items():
        beside = str(name).endswith((SUFFIX, BACKGROUND_SUFFIX))
        if beside or dims.station not in variable.dims:
            continue
        match = _match(raw, ds, str(name), dims)
        if match is not None and any(block.name == match.name for block in blocks):
            raw.problems.append(
                Problem(
                    f"`{raw.word(match.name)}` and `{name}`, which both look like {match.name}",
                    f"one {match.name}: leave out the other",
                    without(raw, str(name)),
                )
            )
        elif match is not None:
            blocks.append(_block(raw, ds, match, dims, level, level_of_station))
    if blocks and not raw.problems:
        _flatten(raw, ds, dims, blocks, level_of_station)
    return raw


def _stations_along_time(ds: xr.Dataset) -> xr.Dataset:
    """The track of a ship or a drifter, which lives on ``time``, as stations with times."""
    for name in ds.coords:
        if str(name).lower() in TIDY_NAMES["lat"] and len(ds[name].dims) == 1:
            dim = ds[name].dims[0]
            if str(dim).lower() not in TIDY_NAMES["time"]:
                return ds
            free = next(word for word in ("station", "obs", "report") if word not in ds.variables)
            return ds.swap_dims({dim: free}) if dim in ds.coords else ds.rename_dims({dim: free})
    return ds


def _dimensions(ds: xr.Dataset, raw: Raw) -> tuple[xr.Dataset, _Dims | None]:
    """Find the dimensions; a single station (scalar lat, lon) gets a station dimension."""
    axes, problems = find_axes(ds)
    raw.problems += problems
    deep = [_deep(ds, name) for name in ("lat", "lon") if name not in axes]
    if deep and all(deep):
        raw.problems += [problem for problem in deep if problem is not None]
        return ds, None
    if "lat" not in axes or "lon" not in axes:
        raw.problems.append(
            Problem(
                f"no latitude and longitude among {', '.join(map(str, ds.variables)) or 'nothing'}",
                "columns with lat and lon on `station`, or tidy observations",
                'obs.assign_coords(lat=("station", lat), lon=("station", lon))',
            )
        )
        return ds, None
    lat, lon = axes["lat"], axes["lon"]
    if lat.dim != lon.dim or (lat.dim is not None and lat.coord is None):
        raw.problems.append(
            Problem(
                f"a field on {lat.name} x {lon.name}",
                "observations on stations",
                "ds.diffda.emulate_obs(n_columns=416)",
            )
        )
        return ds, None
    station = lat.dim or "station"
    if lat.dim is None:
        if station not in ds.dims:
            ds = ds.expand_dims(station)
        n = ds.sizes[station]
        ds = ds.assign_coords(
            {axis.name: (station, np.full(n, ds[axis.name].item())) for axis in (lat, lon)}
        )
    raw.words |= {"lat": lat.name, "lon": lon.name, "dim": station}
    if "time" not in axes and (problem := _deep(ds, "time")) is not None:
        raw.problems.append(problem)
        return ds, None
    other: dict[str, str | None] = {"time": None, "level": None}
    for name in other:
        if name not in axes:
            continue
        raw.words[name] = axes[name].name
        if axes[name].dim != station:
            other[name] = axes[name].dim
        if axes[name].coord is None:
            raw.problems.append(
                Problem(
                    f"dimension {axes[name].dim} without coordinate",
                    f"its {name}",
                    "",
                )
            )
            return ds, None
    if other["level"] is not None:
        raw.words["level_dim"] = other["level"]
    return ds, _Dims(station, other["time"], other["level"])


def _deep(ds: xr.Dataset, name: str) -> Problem | None:
    """The problem of a coordinate that should be on stations and has two dimensions."""
    for word in ds.coords:
        dims = [str(dim) for dim in ds[word].dims]
        if str(word).lower() not in TIDY_NAMES[name] or len(dims) < 2:
            continue
        return Problem(
            f"`{word}` on {', '.join(dims)}",
            f"one {name} for each station, or tidy observations",
            _one_place_each(ds, dims),
        )
    return None


def _one_place_each(ds: xr.Dataset, dims: Sequence[str]) -> str:
    """The call after which each value has a place and a time of its own: nothing is left out.

    None where some variables lack a dimension: they would be repeated along it.
    """
    if any(set(dims) - set(map(str, v.dims)) for v in ds.data_vars.values()):
        return ""
    return f'obs.stack(report={tuple(dims)}).reset_index("report")'


def _levels(ds: xr.Dataset, dims: _Dims, raw: Raw) -> tuple[np.ndarray, np.ndarray | None]:
    """Levels of the level dimension (or the one level of all), and levels by station if so."""
    if raw.word("level") not in ds.coords:
        return np.array([np.nan]), None
    coord = ds[raw.word("level")]
    values = as_numbers(raw, raw.word("level"), np.atleast_1d(coord.values))
    values = values * hpa_factor(raw, coord.attrs, values)
    if coord.dims == (dims.station,):
        return np.array([_OF_STATION]), values
    return values, None


def _match(raw: Raw, ds: xr.Dataset, user_name: str, dims: _Dims) -> Match | None:
    """Recognise a variable, or say what is wrong with it."""
    variable = ds[user_name]
    standard_name = str(variable.attrs.get("standard_name", ""))
    has_level = None
    if dims.level is not None or raw.word("level") not in ds.coords:
        has_level = dims.level in variable.dims
    match = match_observed(user_name, standard_name, on_levels=has_level, own=raw.own)
    said = contradicts(user_name, standard_name) if match is None else None
    if said is not None:
        raw.problems.append(
            Problem(
                f"`{user_name}` with standard_name {standard_name!r}",
                f"a name and a standard_name of one quantity ({said} or another): correct the "
                f"wrong "
                "one where the file is made, or leave the variable out",
                without(raw, user_name),
            )
        )
        return None
    if match is None:
        raw.problems.append(unknown_variable(user_name, int(variable.count()), raw))
        return None
    extra = sorted(map(str, set(variable.dims) - {dims.station, dims.time, dims.level}))
    if extra:
        raw.problems.append(
            Problem(
                f"`{user_name}` on {', '.join(map(str, variable.dims))}",
                "observations on station, level and time only",
                f"obs.isel({extra[0]}=0)",
            )
        )
        return None
    return match


def _block(
    raw: Raw,
    ds: xr.Dataset,
    match: Match,
    dims: _Dims,
    level: np.ndarray,
    level_of_station: np.ndarray | None,
) -> _Block:
    variable = ds[match.user_name]
    units = str(variable.attrs.get("units", ""))
    raw.words[match.name] = match.user_name
    factor, offset = to_canonical(raw, match.user_name, match.name, units)
    # A level that is no dimension holds for all variables that live on levels.
    on_level = dims.level in variable.dims or (
        dims.level is None and raw.known(match.name).on_levels
    )
    at = level if on_level else np.array([np.nan])
    shape = (ds.sizes.get(dims.time, 1), ds.sizes[dims.station], at.size)
    value = _on_axes(raw, variable, dims, shape) * factor + offset
    pressure = at if level_of_station is None or not on_level else level_of_station[:, None]
    error_std = _errors(raw, ds, match, dims, pressure, factor, shape)
    background = None
    if (word := match.user_name + BACKGROUND_SUFFIX) in ds.data_vars:
        background = _on_axes(raw, ds[word], dims, shape) * factor + offset
    return _Block(match.name, at, value, error_std, background)


def _on_axes(
    raw: Raw, variable: xr.DataArray, dims: _Dims, shape: tuple[int, int, int]
) -> np.ndarray:
    """Values as (time, station, level), repeated along what the variable does not have."""
    order = [dims.time or "_time", dims.station, dims.level or "_level"]
    bare = variable.drop_vars(list(variable.coords))
    full = bare.expand_dims([dim for dim in order if dim not in bare.dims]).transpose(*order)
    return np.broadcast_to(as_numbers(raw, str(variable.name), full.values), shape)


def _errors(
    raw: Raw,
    ds: xr.Dataset,
    match: Match,
    dims: _Dims,
    level: np.ndarray,
    factor: float,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Error of each value: as the observations state it, else the default."""
    for stated in (match.user_name + SUFFIX, match.name + SUFFIX):
        if stated in ds.variables:
            units = str(ds[stated].attrs.get("units", ""))
            line = to_units(units, raw.known(match.name)) if units else (factor, 0.0)
            if line is None:
                raw.problems.append(
                    Problem(
                        f"`{stated}` in {units!r}, the error of `{match.user_name}` in "
                        f"{ds[match.user_name].attrs.get('units', raw.known(match.name).units)!r}",
                        "an error in a unit that converts to its variable's; or none, for the "
                        "default",
                        f'obs.drop_vars("{stated}")',
                    )
                )
            raw.words[match.name + SUFFIX] = stated
            if foreign := set(ds[stated].dims) - {dims.station, dims.time, dims.level}:
                raw.problems.append(
                    Problem(
                        f"`{stated}` on {', '.join(map(str, ds[stated].dims))}",
                        f"errors on dimensions of `{match.user_name}`",
                        f'obs["{stated}"] = obs["{stated}"].isel({min(map(str, foreign))}=0)',
                    )
                )
                return np.ones(shape)
            return _on_axes(raw, ds[stated], dims, shape) * (line or (1.0, 0.0))[0]
    return np.broadcast_to(default_error(raw, match.name, level), shape)


def _flatten(
    raw: Raw,
    ds: xr.Dataset,
    dims: _Dims,
    blocks: list[_Block],
    level_of_station: np.ndarray | None,
) -> None:
    """One entry per observed value, station by station, so that H reads memory in order."""
    value = np.concatenate([block.value for block in blocks], axis=-1)
    error_std = np.concatenate([block.error_std for block in blocks], axis=-1)
    raw.names = all_names(raw.own)
    codes = np.repeat(
        [raw.names.index(block.name) for block in blocks], [block.level.size for block in blocks]
    )
    level = np.concatenate([block.level for block in blocks])
    observed = np.flatnonzero(~np.isnan(value))
    column, c = np.divmod(observed, level.size)
    s = column % value.shape[1]
    levels = level[c]
    if level_of_station is not None:
        levels = np.where(levels == _OF_STATION, level_of_station[s], levels)
    raw.fields = {
        "variable": codes[c],
        "level": levels,
        "value": value.ravel()[observed],
        "error_std": error_std.ravel()[observed],
        "lat": as_numbers(raw, raw.word("lat"), ds[raw.word("lat")].values)[s],
        "lon": as_numbers(raw, raw.word("lon"), ds[raw.word("lon")].values)[s],
        "time": _clock(raw, ds, dims, value.shape[:2]).ravel()[column],
    }
    if any(block.background is not None for block in blocks):
        full = [
            np.full(block.value.shape, np.nan) if block.background is None else block.background
            for block in blocks
        ]
        raw.fields[BACKGROUND] = np.concatenate(full, axis=-1).ravel()[observed]
    for name in OPTIONAL:
        if name in ds.coords and ds[name].dims == (dims.station,):
            column = ds[name].values[s]
            raw.fields[name] = as_numbers(raw, name, column) if name in NUMERIC else column


def _clock(raw: Raw, ds: xr.Dataset, dims: _Dims, shape: tuple[int, ...]) -> np.ndarray:
    time = np.full(shape, "NaT", "datetime64[ns]")
    if raw.word("time") in ds.coords:
        coord = ds[raw.word("time")]
        if set(coord.dims) - {dims.station, dims.time}:
            raw.problems.append(
                Problem(
                    f"`{raw.word('time')}` on {', '.join(map(str, coord.dims))}",
                    "one time for each station, or tidy observations",
                    _one_place_each(ds, [str(dim) for dim in coord.dims]),
                )
            )
            return time
        coord = coord.transpose(*(d for d in (dims.time, dims.station) if d in coord.dims))
        stamps = read_times(raw, np.atleast_1d(coord.values), coord.attrs)
        time[:] = stamps[:, None] if coord.dims == (dims.time,) else stamps
    return time
