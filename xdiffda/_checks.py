"""Look at the values of a state: not-a-numbers, wrong units, implausible numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from ._coordinates import Axis, levels_in_hpa
from ._recognise import NO_UNITS, Field
from ._units import USUAL, conversion, units_that_fit
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
        finite = values.values[~missing] if n_missing else values.values.ravel()
        pressure = _pressures(values, axes)
        problem = _unit_problem(finite, field, pressure) or _disguised(values, field, pressure)
        problems += [problem] if problem is not None else _range_problem(finite, field)
    return problems


def _pressures(values: xr.DataArray, axes: Mapping[str, Axis]) -> list[tuple[float, xr.DataArray]]:
    """The pressure in hPa of each level, and the values there; none without levels."""
    level = axes.get("level")
    if level is None or level.coord is None or level.coord not in values.coords:
        return []
    labels, _, problems = levels_in_hpa(values[level.coord], level.name)
    if problems or not labels.size:
        return []
    if level.dim not in values.dims:
        return [(float(labels[0]), values)]
    return [(float(p), values.isel({level.dim: i})) for i, p in enumerate(labels)]


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
    call = f'interpolate_na("{lon}", method="nearest", fill_value="extrapolate")'
    if rows or share > 0.2:
        call = f'fillna(first_guess["{user}"])'
    kind = "NaN"
    if np.isinf(values.values).any():  # which filling leaves as they are
        kind, call = "infinite or NaN", f'where(abs(ds["{user}"]) < float("inf"))'
    return Problem(
        f"{n_missing} {kind} of {missing.size} in `{user}`{place}",
        "finite values",
        f'ds.assign({{"{user}": ds["{user}"].{call}}})',
    )


def _span(labels: np.ndarray) -> str:
    first, last = labels[0], labels[-1]
    if labels.dtype.kind in "mM":
        return str(first) if labels.size == 1 else f"{first} to {last}"
    return f"{first:g}" if labels.size == 1 else f"{first:g} to {last:g}"


def _says(field: Field, units: str) -> str:
    return f'ds["{field.user_name}"].attrs["units"] = "{units}"'


def _unit_problem(
    finite: np.ndarray, field: Field, pressure: list[tuple[float, xr.DataArray]]
) -> Problem | None:
    """Values of which the median is impossible in their unit and possible in another."""
    variable = VARIABLES[field.name]
    low, high = variable.valid_range
    lowest, highest, median = float(finite.min()), float(finite.max()), float(np.median(finite))
    inside = [low <= x * field.factor + field.offset <= high for x in (lowest, median, highest)]
    if all(inside):
        return None
    if not inside[1]:
        level = float(np.median([p for p, _ in pressure])) if pressure else 1000.0
        likely = units_that_fit(lowest, highest, field.name, median=median, level=level)
    elif _share_outside(finite, field) > 0.01 or (
        # knots are twice m/s: only the jets tell, and not one wild value
        variable.units == "m s-1" and np.quantile(np.abs(finite), 0.999) > high / 2
    ):
        likely = units_that_fit(lowest, highest, field.name)
    else:
        likely = None
    if likely is None or conversion(likely, field.name) == (field.factor, field.offset):
        return None
    return Problem(
        f"`{field.user_name}` from {lowest:.6g} to {highest:.6g} {field.units}, "
        f"median {median:.6g}",
        f"{field.name} between {low:g} and {high:g} {variable.units}; the values fit {likely}",
        _says(field, likely),
    )


def _share_outside(finite: np.ndarray, field: Field) -> float:
    low, high = ((end - field.offset) / field.factor for end in VARIABLES[field.name].valid_range)
    return float(np.mean((finite < low) | (finite > high)))


def _range_problem(finite: np.ndarray, field: Field) -> list[Problem]:
    variable, name = VARIABLES[field.name], field.user_name
    low, high = variable.valid_range
    ends = float(finite.min()), float(finite.max())
    if low <= ends[0] * field.factor + field.offset and (
        ends[1] * field.factor + field.offset <= high
    ):
        return []
    bounds = [(end - field.offset) / field.factor for end in (low, high)]
    outside = _share_outside(finite, field)
    found = f"`{name}` from {ends[0]:.6g} to {ends[1]:.6g} {field.units}"
    needed = f"{field.name} between {low:g} and {high:g} {variable.units}"
    if outside > 0.2:
        needed += ": this is another quantity, or in no usual unit"
        return [Problem(found, needed, f'ds.drop_vars("{name}")')]
    keep = f'(ds["{name}"] >= {bounds[0]:.9g}) & (ds["{name}"] <= {bounds[1]:.9g})'
    return [Problem(found, needed, f'ds.assign({{"{name}": ds["{name}"].where({keep})}})')]


def _disguised(
    values: xr.DataArray, field: Field, pressure: list[tuple[float, xr.DataArray]]
) -> Problem | None:
    """Values that are possible in their unit, and by what the atmosphere has are in another.

    Shares and percentages, humidity, precipitation and heights: a factor of ten or more tells.
    """
    name, raw_max = field.name, float(np.nanmax(values.values))
    canonical = VARIABLES[name].units
    found = f"`{field.user_name}` up to {raw_max:.4g} {field.units}"
    if canonical == "%" and 0 < raw_max <= MOST_SHARE and field.factor == 1.0:
        unwritten = str(field.attrs.get("units", "")).strip().lower() in NO_UNITS
        if unwritten or any(p >= TROPOSPHERE for p, _ in pressure):
            said = f"{found}, which is assumed: no unit is written" if unwritten else found
            return Problem(said, f"{name} in %, or units that say a share of 1", _says(field, "1"))
    if canonical == "1" and 0.5 < raw_max <= MOST_SHARE and field.factor < 1.0:
        return Problem(found, f"{name} in %, or units that say a share of 1", _says(field, "1"))
    if name.startswith("total_precipitation"):
        mean = float(np.nanmean(values.values))
        if mean * field.factor > MOST_RAIN and (mean * 1e-3 < MOST_RAIN):
            return Problem(
                f"`{field.user_name}` with mean {mean:.4g} {field.units}",
                f"precipitation, with a mean below {MOST_RAIN:g} m", _says(field, "mm"),
            )  # fmt: skip
    heights = field.factor == 1.0 and 200 < raw_max < MOST_HEIGHT
    if name == "geopotential_at_surface" and heights:
        return Problem(
            found,
            "surface geopotential in m2 s-2, which exceeds 3e4 in the highest mountains; these "
            "are heights",
            _says(field, "gpm" if raw_max > MOST_HEIGHT / 10 else "dam"),
        )
    if name == "2m_specific_humidity":
        return _humidity_problem([(1000.0, values)], field)
    if name == "specific_humidity":
        return _humidity_problem(pressure, field)
    return _height_problem(pressure, field) if name == "geopotential" else None


MOST_SHARE = 1.5  # more than any share of 1, and less than any field of percentages reaches
TROPOSPHERE = 200.0  # hPa: somewhere below it is moister than 1.5 %
MOST_RAIN = 0.05  # m: the mean over the globe of a day's precipitation is 3 mm
MOST_HEIGHT = 9500.0  # m2 s-2, 970 m: mountains on a global grid are higher
MOST_ALOFT = 3e-4  # kg/kg: above 150 hPa air holds a tenth of it at most
LEAST_BELOW = 2e-5  # kg/kg: below 700 hPa the median over the globe is a hundred times as much


def _humidity_problem(pressure: list[tuple[float, xr.DataArray]], field: Field) -> Problem | None:
    """Tell kg/kg from g/kg and mg/kg by how dry air is aloft and how moist below."""
    for p, at_level in pressure:
        median = float(np.nanmedian(at_level.values))
        q = median * field.factor
        wrong = q > MOST_ALOFT if p <= 150 else 0 < q < LEAST_BELOW if p >= 700 else False
        if not wrong:
            continue
        for units in ("kg kg-1", "g kg-1", "mg kg-1"):
            factor = (conversion(units, field.name) or (1.0, 0.0))[0]
            q = median * factor
            fits = q < MOST_ALOFT / 3 if p <= 150 else 20 * LEAST_BELOW < q < 0.03
            if factor != field.factor and fits:
                return Problem(
                    f"`{field.user_name}` with median {median:.4g} {field.units} at {p:g} hPa",
                    f"{field.name} possible there; the values fit {units}", _says(field, units),
                )  # fmt: skip
    return None


def _height_problem(pressure: list[tuple[float, xr.DataArray]], field: Field) -> Problem | None:
    """Tell geopotential from geopotential height: both lie inside the other's range.

    Between 925 and 1 hPa the global mean is within 30 % of the standard atmosphere's; the two
    differ by a factor of 9.8.
    """
    for p, at_level in sorted(pressure, key=lambda pair: abs(pair[0] - 400.0)):
        if not 1.0 <= p <= 925.0:
            continue
        mean, standard = float(at_level.mean()), standard_geopotential(p)
        if 0.5 < mean * field.factor / standard < 2.0:
            return None
        for units in USUAL["m2 s-2"]:
            factor = (conversion(units, "geopotential") or (1.0, 0.0))[0]
            if 0.5 < mean * factor / standard < 2.0:
                return Problem(
                    f"`{field.user_name}` in {field.units} with mean {mean:.6g} at {p:g} hPa",
                    f"geopotential, there about {standard:.6g} m2 s-2; the values fit {units}",
                    _says(field, units),
                )  # fmt: skip
        return None
    return None


def standard_geopotential(pressure: float) -> float:
    """Geopotential of the ICAO standard atmosphere, isothermal above 226.32 hPa, m2 s-2.

    Examples
    --------
    >>> round(standard_geopotential(500.0) / 9.80665)
    5574
    >>> round(standard_geopotential(100.0) / 9.80665)
    16180
    """
    if pressure >= 226.32:
        return G0 * 44330.8 * (1.0 - (pressure / 1013.25) ** 0.190263)
    return G0 * (11000.0 + 6341.62 * np.log(226.32 / pressure))
