"""Look at the values of a state: not-a-numbers, wrong units, implausible numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from ._coordinates import Axis
from ._recognise import Field
from ._units import conversion, units_that_fit
from .errors import Problem
from .variables import G0, VARIABLES


def value_problems(values: xr.DataArray, field: Field, axes: Mapping[str, Axis]) -> list[Problem]:
    """Problems of one variable, in the user's units and words.

    Parameters
    ----------
    values
        The variable as the user has it, loaded.
    field
        How it was recognised.
    axes
        The axes of its dataset.
    """
    missing = ~np.isfinite(values.values)
    n_missing = int(np.count_nonzero(missing))
    problems = []
    if n_missing:
        problems.append(_missing_problem(values, missing, n_missing, field, axes))
    if n_missing < missing.size:
        lowest, highest = _extremes(values.values, missing if n_missing else None)
        problems += _range_problem(lowest, highest, field)
        if not problems and field.name == "geopotential":
            problems += _height_problem(values, field, axes)
    return problems


def _extremes(values: np.ndarray, missing: np.ndarray | None) -> tuple[float, float]:
    if missing is not None:
        values = values[~missing]
    return float(values.min()), float(values.max())


def _missing_problem(values, missing, n_missing, field: Field, axes) -> Problem:
    where, user = [], field.user_name
    for key in ("time", "lead_time", "member", "level", "lat", "lon"):
        axis = axes.get(key)
        if axis is None or axis.dim not in values.dims:
            continue
        others = tuple(i for i, dim in enumerate(values.dims) if dim != axis.dim)
        hit = np.flatnonzero(missing.any(axis=others))
        if hit.size < values.sizes[axis.dim]:
            labels = (
                values[axis.dim].values
                if axis.dim in values.coords
                else np.arange(values.sizes[axis.dim])
            )
            where.append(f"{axis.name} {_span(labels[hit])}")
    place = f" at {', '.join(where)}" if where else ""
    lon, level = axes["lon"].name, axes.get("level")
    share = n_missing / missing.size
    if level is not None and level.dim in values.dims and share < 1:
        others = tuple(i for i, dim in enumerate(values.dims) if dim != level.dim)
        empty = values[level.dim].values[missing.all(axis=others)]
        if empty.size and share == empty.size / values.sizes[level.dim]:
            return Problem(
                f"{n_missing} NaN of {missing.size} in `{user}`{place}",
                "finite values",
                f"ds.drop_sel({level.name}={empty.tolist()})",
            )
    rows = missing.all(axis=values.dims.index(axes["lon"].dim)).any()
    repair = f'ds.assign({user}=ds["{user}"].interpolate_na("{lon}", fill_value="extrapolate"))'
    if rows or share > 0.2:
        repair = f'ds.assign({user}=ds["{user}"].fillna(first_guess["{user}"]))'
    return Problem(f"{n_missing} NaN of {missing.size} in `{user}`{place}", "finite values", repair)


def _span(labels: np.ndarray) -> str:
    first, last = labels[0], labels[-1]
    if labels.dtype.kind in "mM":
        return str(first) if labels.size == 1 else f"{first} to {last}"
    return f"{first:g}" if labels.size == 1 else f"{first:g} to {last:g}"


def _range_problem(lowest: float, highest: float, field: Field) -> list[Problem]:
    variable = VARIABLES[field.name]
    low, high = variable.valid_range
    converted = lowest * field.factor + field.offset, highest * field.factor + field.offset
    if low <= converted[0] and converted[1] <= high:
        return []
    found = f"`{field.user_name}` from {lowest:.6g} to {highest:.6g} {field.units}"
    needed = f"{field.name} between {low:g} and {high:g} {variable.units}"
    likely = units_that_fit(lowest, highest, field.name)
    if likely is not None and conversion(likely, field.name) != (field.factor, field.offset):
        return [Problem(found, needed, f'ds["{field.user_name}"].attrs["units"] = "{likely}"')]
    line = conversion(field.units, field.name) or (1.0, 0.0)
    bounds = sorted(((low - line[1]) / line[0], (high - line[1]) / line[0]))
    name = field.user_name
    return [
        Problem(
            found,
            needed,
            f'ds.assign({name}=ds["{name}"].where((ds["{name}"] >= {bounds[0]:g}) & '
            f'(ds["{name}"] <= {bounds[1]:g})).interpolate_na(...))',
        )
    ]


def _height_problem(values: xr.DataArray, field: Field, axes) -> list[Problem]:
    """Tell geopotential from geopotential height: both lie inside the other's range.

    At a level between 700 and 100 hPa the global mean is within 30 % of the standard
    atmosphere's; the two differ by a factor of 9.8.
    """
    level = axes["level"]
    if level.coord is None:
        return []
    labels = np.atleast_1d(np.asarray(values[level.coord].values, np.float64))
    scale = 0.01 if labels.max() > 2000 else 1.0
    for i, label in enumerate(labels):
        pressure = label * scale
        if not 100.0 <= pressure <= 700.0:
            continue
        at_level = values if level.dim is None else values.isel({level.dim: i})
        mean = float(at_level.mean()) * field.factor
        standard = G0 * 44330.8 * (1.0 - (pressure / 1013.25) ** 0.190263)  # ICAO, approximate
        if 0.5 < mean / standard < 2.0:
            return []
        for units in ("m2 s-2", "gpm", "gpdm"):
            line = conversion(units, "geopotential")
            if line and 0.5 < mean / field.factor * line[0] / standard < 2.0:
                return [
                    Problem(
                        f"`{field.user_name}` in {field.units} with mean "
                        f"{mean / field.factor:.6g} at {pressure:g} hPa",
                        f"geopotential, there about {standard:.6g} m2 s-2",
                        f'ds["{field.user_name}"].attrs["units"] = "{units}"',
                    )
                ]
        return []
    return []
