"""Find latitude, longitude, level, member and the clocks of a dataset, whatever they are called.

Nothing here reads data: names, attributes and the values of one-dimensional coordinates are all
that is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from xdiffda.errors import Problem
from xdiffda.state.clock import LEAD, REFERENCE, VALID
from xdiffda.state.units import conversion

BATCH_DIMS = ("time", "lead_time", "member")

# Canonical name -> names in use, the preferred first. Dimensions and coordinates alike.
_NAMES: dict[str, tuple[str, ...]] = {
    "lat": ("lat", "latitude", "lats", "nav_lat", "rlat", "g0_lat_0"),
    "lon": ("lon", "longitude", "lons", "nav_lon", "long", "g0_lon_1"),
    "level": (
        "level",
        "isobaricinhpa",
        "isobaricinpa",
        "plev",
        "pressure_level",
        "lev",
        "pressure",
        "isobaric",
        "plevel",
        "pfull",
        "levels",
        "pres",
    ),
    "time": ("time", *VALID, *REFERENCE),
    "lead_time": LEAD,
    "member": (
        "member",
        "number",
        "realization",
        "realisation",
        "ensemble",
        "ens",
        "ensemble_member",
        "members",
        "sample",
    ),
}
_STANDARD_NAMES = {
    "latitude": "lat",
    "longitude": "lon",
    "air_pressure": "level",
    "realization": "member",
    "forecast_period": "lead_time",
    "time": "time",
    "forecast_reference_time": "time",
}
_CF_KEYS = {"latitude": "lat", "longitude": "lon", "vertical": "level"}


@dataclass(frozen=True)
class Axis:
    """One axis under the user's names: dimension (None: scalar) and coordinate (None: absent)."""

    dim: str | None
    coord: str | None

    @property
    def name(self) -> str:
        """The name to use in a call."""
        return str(self.coord if self.coord is not None else self.dim)


def find_axes(ds: xr.Dataset) -> tuple[dict[str, Axis], list[Problem]]:
    """Find the axes of ``ds``: canonical name -> `Axis`, and what is ambiguous about them."""
    found: dict[str, list[tuple[int, Axis]]] = {key: [] for key in _NAMES}
    for name, coord in ds.coords.items():
        canonical = _canonical(str(name), coord.attrs)
        if canonical is not None and coord.ndim <= 1:
            dim = str(coord.dims[0]) if coord.ndim else None
            if dim is not None and _canonical(dim, {}) not in (None, canonical):
                continue  # valid_time along the dimension `step`, for example
            found[canonical].append((_preference(canonical, name, coord), Axis(dim, str(name))))
    claimed = {axis.dim for axes in found.values() for _, axis in axes}
    for dim in ds.dims:
        canonical = _canonical(str(dim), {})
        if canonical is not None and dim not in claimed:
            found[canonical].append((0, Axis(str(dim), None)))
    _ask_cf(ds, found)
    axes, problems = {}, []
    for canonical, candidates in found.items():
        if not candidates:
            continue
        candidates.sort(key=lambda pair: pair[0])
        axes[canonical] = candidates[0][1]
        dims = sorted({axis.dim for _, axis in candidates if axis.dim is not None})
        if len(dims) > 1 and all(ds.sizes[dim] > 1 for dim in dims):
            problems.append(
                Problem(
                    f"dimensions {', '.join(dims)}, all of which look like {canonical}",
                    f"one {canonical} dimension",
                    f"ds.isel({dims[-1]}=0)",
                )
            )
    return axes, problems


def _canonical(name: str, attrs: Mapping) -> str | None:
    for canonical, names in _NAMES.items():
        if name.lower() in names:
            return canonical
    return _STANDARD_NAMES.get(attrs.get("standard_name", ""))


def _preference(canonical: str, name, coord: xr.DataArray) -> int:
    """Lower is better: dimensions before other coordinates before scalars, then usual names."""
    rank = 200 if coord.ndim == 0 else 100 * (coord.dims[0] != name)
    names = _NAMES[canonical]
    return rank + (names.index(str(name).lower()) if str(name).lower() in names else 50)


def _ask_cf(ds: xr.Dataset, found: dict[str, list[tuple[int, Axis]]]) -> None:
    """Let cf-xarray look at units and axis attributes for what no name has told."""
    if all(found[key] for key in ("lat", "lon")) and (found["level"] or not _has_axis_z(ds)):
        return
    import cf_xarray  # noqa: F401  (registers .cf; imported late because it is slow)

    coordinates = {**{key: ds.cf.coordinates.get(key, []) for key in _CF_KEYS}}
    for key, canonical in _CF_KEYS.items():
        for name in coordinates[key]:
            coord = ds[name]
            if not found[canonical] and coord.ndim <= 1:
                dim = str(coord.dims[0]) if coord.ndim else None
                found[canonical].append((0, Axis(dim, str(name))))


def _has_axis_z(ds: xr.Dataset) -> bool:
    return any(c.attrs.get("axis") == "Z" or c.attrs.get("positive") for c in ds.coords.values())


def levels_in_hpa(coord: xr.DataArray, name: str) -> tuple[np.ndarray, float, list[Problem]]:
    """Levels in hPa, the factor from the user's unit to hPa, and what is wrong with them.

    Without units, values above 2000 are taken for Pa.
    """
    units = str(coord.attrs.get("units", "")).strip()
    values = np.atleast_1d(np.asarray(coord.values))
    standard_name = str(coord.attrs.get("standard_name", ""))
    pressure, none = "levels of pressure in hPa or Pa", np.array([])
    if not np.issubdtype(values.dtype, np.number) or re.search("sigma|hybrid", standard_name):
        found = f"`{name}` that is not pressure ({standard_name or values.dtype})"
        return none, 1.0, [Problem(found, f"{pressure}: interpolate to pressure first", "")]
    values = values.astype(np.float64)
    line = conversion(units, "surface_pressure") if units not in {"", "1"} else None
    if line is not None:
        factor = line[0] / 100.0
    elif units in {"", "1"}:
        factor = 0.01 if values.size and values.max() > 2000.0 else 1.0
        if values.size > 2 and set(np.abs(np.diff(values))) == {1.0} and values.min() <= 1.0:
            found = f"`{name}` from {values.min():g} to {values.max():g} without a unit, numbers"
            return none, 1.0, [Problem(found, f"{pressure}: interpolate to pressure first", "")]
    else:
        found = f"`{name}` in {units!r}"
        return none, 1.0, [Problem(found, f"{pressure}: interpolate to pressure first", "")]
    return np.round(values * factor), factor, _level_problems(values, factor, name)


def _level_problems(values: np.ndarray, factor: float, name: str) -> list[Problem]:
    hpa = values * factor
    whole = np.round(hpa)
    fits = (np.abs(hpa - whole) <= 1e-3 * np.maximum(hpa, 1.0)) & (whole >= 1)
    if not fits.all():
        found = f"`{name}` at {', '.join(f'{p:g}' for p in hpa[~fits])} hPa"
        repair = f"ds.sel({name}={values[fits].tolist()})"
        return [Problem(found, "whole positive hPa", repair)]
    if len(set(whole.tolist())) < whole.size:
        found, repair = f"`{name}` with a repeated level", f'ds.drop_duplicates("{name}")'
        return [Problem(found, "each level once", repair)]
    return []
