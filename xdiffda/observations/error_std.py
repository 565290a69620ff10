"""Read the ``error_std`` argument: default, number, mapping, Dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xdiffda.errors import Problem, raise_if
from xdiffda.observations.names import KNOWN, to_units
from xdiffda.state.coordinates import find_axes, levels_in_hpa
from xdiffda.state.variables import G0, VARIABLES, canonical_name

if TYPE_CHECKING:
    from jaxtyping import Float


# Default observation errors, where neither the observations nor the user state any.
#
# Sources
# -------
# Wind 1 m/s, temperature 1 K, specific humidity 1 g/kg, surface pressure 1 hPa: the errors of the
# SPEEDY-LETKF testbed, as in its public code (github.com/takemasa-miyoshi/letkf,
# speedy/obs/obserr.tbl).  Relative humidity 10 %: default of the same family of codes (SCALE-LETKF,
# OBSERR_RH).  They are kept in `xdiffda.state.variables`, with the same values for 2 m and 10 m
# variables
# and mean sea level pressure, which is our choice.
#
# Geopotential: `HEIGHT_ERROR_M`, the errors prescribed for heights of radiosondes in ECMWF's
# assimilation (IFS documentation CY25r1, part I, observation processing, 2002), times standard
# gravity.  They grow upwards, since heights are integrated from below.  Where no level is stated,
# 10 m, which is our choice.
#
# All others are our choice, made to be of the right size and no more: state the errors of your
# observations where you know them.
#
# - Derived quantities (`xdiffda.observations.KNOWN`): speed 1 m/s as the components; direction 10
#   degrees aloft and 20 at 10 m, that is 1 m/s across a wind of 6 and 3 m/s; dew point 2 K, about
#   10 % of relative humidity; layer means as the temperature; thickness as the difference of two
#   heights with independent errors.
#
# All errors are standard deviations of instrument and representativeness together.  Errors of the
# levels of one sounding are independent unless ``error_correlation`` says otherwise.

# hPa -> standard deviation of the height of a pressure level, m.
HEIGHT_ERROR_M: dict[int, float] = {
    1000: 4.3,
    850: 4.4,
    700: 5.2,
    500: 8.4,
    400: 9.8,
    300: 10.7,
    250: 11.8,
    200: 13.2,
    150: 15.2,
    100: 18.1,
    70: 19.5,
    50: 22.5,
    30: 25.0,
    20: 32.0,
    10: 40.0,
}


def default_error_std(
    name: str, level: Float[np.ndarray, "point"] | float | None = None
) -> Float[np.ndarray, "point"]:
    """Default observation error of a variable, by level where it depends on it.

    Parameters
    ----------
    name
        Canonical name of a variable.
    level
        Pressure, hPa; None or NaN at the surface. Between the levels of the table the error is
        linear in log-pressure, beyond them constant.

    Returns
    -------
    array, shape of ``level``
        Standard deviations in the canonical units of the variable.

    Raises
    ------
    KeyError
        If the variable is unknown.

    Examples
    --------
    >>> float(default_error_std("temperature", 500.0))
    1.0
    >>> (default_error_std("geopotential", np.array([500.0, 100.0])) / 9.80665).round(1).tolist()
    [8.4, 18.1]
    """
    pressure = np.asarray(np.nan if level is None else level, np.float64)
    flat = np.full(pressure.shape, KNOWN[name].default_error_std)
    if name != "geopotential":
        return flat
    table = sorted(HEIGHT_ERROR_M.items())
    log_p, metres = np.log([p for p, _ in table]), [error for _, error in table]
    with np.errstate(invalid="ignore", divide="ignore"):
        by_level = G0 * np.interp(np.log(pressure), log_p, metres)
    return np.where(np.isfinite(pressure), by_level, flat)


SUFFIX = "_error_std"
_USE = 'error_std={"temperature": 1.0, "geopotential": {500: 80.0, 850: 40.0}}'


def error_std_by_level(spec: Any, channels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Standard deviation of the error of each variable at each of its levels.

    Parameters
    ----------
    spec
        ``"default"``; a number for all variables, each in its canonical unit; or a mapping (or
        Dataset, whose names may end in ``_error_std``) from any of a variable's names to a
        number, a mapping from level (hPa) to number, or a DataArray on a level dimension.
        Variables that a mapping leaves out have their default; a pandas Series is a mapping.
    channels
        Canonical variable -> its levels in hPa ([NaN] at the surface).

    Returns
    -------
    dict of str to float array (level,)
        Canonical units.

    Raises
    ------
    InputError
        If an error is not positive, a level is missing, or a name is unknown.
    """
    problems: list[Problem] = []
    given: dict[str, Any] = {}
    if isinstance(spec, str):
        if spec != "default":
            problems.append(Problem(f"error_std={spec!r}", "`default` or numbers", _USE))
    elif isinstance(spec, (Mapping, xr.Dataset)):
        for user_name, value in (spec.data_vars if isinstance(spec, xr.Dataset) else spec).items():
            name = _name(str(user_name), channels)
            if name is None:
                problems.append(
                    Problem(f"error_std for {user_name!r}", f"some of {', '.join(channels)}", _USE)
                )
            else:
                given[name] = value
    else:
        spec = spec.to_dict() if hasattr(spec, "to_dict") and hasattr(spec, "keys") else spec
        if isinstance(spec, Mapping):  # a pandas Series
            return error_std_by_level(spec, channels)
        given = dict.fromkeys(channels, spec)
    result = {}
    for name, levels in channels.items():
        value = _in_canonical_units(name, given.get(name), problems)
        error = (
            default_error_std(name, levels)
            if value is None
            else (_one(name, value, levels, problems))
        )
        if not np.all(error > 0):
            units = VARIABLES[name].units
            problems.append(
                Problem(
                    f"error_std of {name} = {np.unique(error[~(error > 0)]).tolist()}",
                    f"positive standard deviations in {units}; for exact values switch the noise "
                    f"off "
                    "and state a small error",
                    f'emulate_obs(..., noise=False, error_std={{"{name}": '
                    f"{0.01 * VARIABLES[name].default_error_std:g}}})",
                )
            )
        result[name] = error
    raise_if(problems, what="error_std")
    return result


def _name(user_name: str, channels: Mapping[str, np.ndarray]) -> str | None:
    """Canonical name of what is observed; None if it is not among ``channels``."""
    bare = user_name.removesuffix(SUFFIX)
    for on_levels in (True, False):
        name = canonical_name(bare, on_levels=on_levels)
        if name in channels:
            return name
    # An error for a variable that is known but not observed does no harm.
    return canonical_name(bare)


def _in_canonical_units(name: str, value: Any, problems: list[Problem]) -> Any:
    """An error whose attributes say another unit than the canonical one, converted."""
    units = str(getattr(value, "attrs", {}).get("units", ""))
    if not isinstance(value, xr.DataArray) or not units:
        return value
    line = to_units(units, KNOWN[name])
    if line is None:
        problems.append(
            Problem(
                f"error_std of {name} in {units!r}",
                f"units that convert to {KNOWN[name].units}",
                "",
            )
        )
        return value
    return value if line[0] == 1.0 else value * line[0]


def _one(name: str, value: Any, levels: np.ndarray, problems: list[Problem]) -> np.ndarray:
    if isinstance(value, Mapping):
        table = {float(level): float(error) for level, error in value.items()}
    elif isinstance(value, xr.DataArray) and value.ndim:
        axes, _ = find_axes(value.to_dataset(name="error_std"))
        axis = axes.get("level")
        if axis is None or value.ndim > 1 or axis.coord is None:
            problems.append(
                Problem(
                    f"error_std of {name} on {', '.join(map(str, value.dims))}",
                    "a number, or numbers on a level dimension with coordinate",
                    _USE,
                )
            )
            return np.ones(levels.size)
        hpa, _, wrong = levels_in_hpa(value[axis.coord], axis.name)
        problems += wrong
        table = dict(zip(hpa.tolist(), value.values.astype(np.float64).tolist(), strict=False))
    else:
        try:
            return np.full(levels.size, float(value))
        except (ValueError, TypeError):
            problems.append(
                Problem(
                    f"error_std of {name} = {value!r}",
                    "a number, or a mapping from level or a DataArray on levels",
                    _USE,
                )
            )
            return np.ones(levels.size)
    missing = [level for level in levels.tolist() if level not in table]
    if missing and np.isnan(missing).all():
        problems.append(
            Problem(
                f"error_std of {name} by level",
                f"one number, for {name} is not on levels",
                f'error_std={{"{name}": {VARIABLES[name].default_error_std:g}}}',
            )
        )
    elif missing:
        problems.append(
            Problem(
                f"error_std of {name} without {', '.join(f'{p:g}' for p in missing)} hPa",
                "an error for each observed level",
                _USE,
            )
        )
    return np.array([table.get(level, 1.0) for level in levels.tolist()])
