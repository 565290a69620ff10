"""Specific humidity of backgrounds that hold relative humidity, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from xdiffda.errors import InputError, Problem, raise_if
from xdiffda.state.coordinates import find_axes, levels_in_hpa
from xdiffda.state.recognise import NO_UNITS, user_names
from xdiffda.state.units import conversion
from xdiffda.state.variables import VARIABLES, user_default_units

EPSILON = 0.622  # ratio of the gas constants of dry air and water vapour
_TRIPLE, _ICE_ONLY = 273.16, 250.16  # K: between them water and ice are mixed (IFS)


def saturation_pressure(temperature: xr.DataArray, over: str = "mixed") -> xr.DataArray:
    """Saturation vapour pressure, hPa.

    Parameters
    ----------
    temperature
        K.
    over
        ``"water"``: Bolton (1980), eq. 10, as observations are read. ``"mixed"``: as models
        compute relative humidity: over water above 0 degC, over ice below -23 degC, and between
        them in the parts of the IFS (documentation, part IV, eq. 7.4 to 7.6; Tetens' formula
        after Buck 1981 and Alduchov and Eskridge 1996).

    Examples
    --------
    >>> t = xr.DataArray([273.16, 233.15])
    >>> saturation_pressure(t).values.round(4).tolist()
    [6.1121, 0.1282]
    >>> saturation_pressure(t, "water").values.round(2).tolist()
    [6.12, 0.19]
    """
    if over == "water":
        celsius: Any = temperature - 273.15
        return 6.112 * np.exp(17.67 * celsius / (celsius + 243.5))
    if over != "mixed":
        problem = Problem(f"over={over!r}", '"mixed" or "water"', 'over="mixed"')
        raise InputError([problem], what="saturation")
    above = temperature - _TRIPLE
    water = 6.1121 * np.exp(17.502 * above / (temperature - 32.19))
    ice = 6.1121 * np.exp(22.587 * above / (temperature + 0.7))
    share = ((temperature - _ICE_ONLY) / (_TRIPLE - _ICE_ONLY)).clip(0.0, 1.0) ** 2
    return share * water + (1.0 - share) * ice


def with_specific_humidity(ds: xr.Dataset, *, over: str = "mixed") -> xr.Dataset:
    """Replace relative humidity by the specific humidity that it means.

    Parameters
    ----------
    ds : Dataset
        With relative humidity, temperature and pressure levels, in any usual convention; lazy
        data stays lazy.
    over : {"mixed", "water"}
        What the air is saturated over: ``"mixed"`` as in the analyses and forecasts of
        weather centres (see ``saturation_pressure``), ``"water"`` as radiosondes report it.

    Returns
    -------
    Dataset
        With ``specific_humidity``, kg kg-1, in the place of relative humidity:
        ``q = EPSILON e / (p - (1 - EPSILON) e)``, with ``e`` the vapour pressure.

    Raises
    ------
    InputError
        Where relative humidity, temperature or pressure is not there, or a share of 1 is not
        called so.

    Notes
    -----
    The inverse is `with_relative_humidity`. Negative relative humidity (of spectral models)
    gives negative specific humidity; above the boiling point there is none, and q is 1.

    Examples
    --------
    >>> import xdiffda
    >>> ds = xr.Dataset(
    ...     {"t": ("level", [288.15, 260.0]), "r": ("level", [50.0, 80.0], {"units": "%"})},
    ...     {"level": [1000.0, 500.0]},
    ... ).expand_dims(lat=[-45.0, 45.0], lon=[0.0, 120.0, 240.0])
    >>> xdiffda.with_specific_humidity(ds)["specific_humidity"][0, 0].values.round(5).tolist()
    [0.00531, 0.002]
    """
    names, temperature, pressure = _inputs(ds, "relative_humidity", "specific_humidity")
    user = names["relative_humidity"]
    if not _written(ds[user]) and 0 < float(ds[user].max()) <= 1.5:
        problem = Problem(
            f"`{user}` up to {float(ds[user].max()):.4g} without a unit",
            "relative humidity in %, or units that say a share of 1",
            f'ds["{user}"].attrs["units"] = "1"',
        )
        raise InputError([problem], what="dataset")
    vapour = _canonical(ds, user, "relative_humidity") / 100.0
    vapour = np.minimum(vapour * saturation_pressure(temperature, over), pressure)
    q = EPSILON * vapour / (pressure - (1.0 - EPSILON) * vapour)
    return _replaced(ds, user, q, "specific_humidity")


def with_relative_humidity(ds: xr.Dataset, *, over: str = "mixed") -> xr.Dataset:
    """Replace specific humidity by relative humidity, %: inverse of `with_specific_humidity`."""
    names, temperature, pressure = _inputs(ds, "specific_humidity", "relative_humidity")
    user = names["specific_humidity"]
    q = _canonical(ds, user, "specific_humidity")
    vapour = q * pressure / (EPSILON + (1.0 - EPSILON) * q)
    humidity = 100.0 * vapour / saturation_pressure(temperature, over)
    return _replaced(ds, user, humidity, "relative_humidity")


def _inputs(
    ds: xr.Dataset, humidity: str, made: str
) -> tuple[dict[str, str], xr.DataArray, xr.DataArray]:
    """The user's name of each variable, temperature in K and pressure in hPa."""
    axes, problems = find_axes(ds)
    names = {name: user for user, name in user_names(ds, axes).items()}
    problems += [
        Problem(f"no {name}", f"{name} on pressure levels", f'xr.merge([ds, other[["{name}"]]])')
        for name in (humidity, "temperature")
        if name not in names
    ]
    if made in names:
        problems.append(Problem(f"`{names[made]}`, which is {made}", f"no {made} yet", ""))
    level = axes.get("level")
    if level is None or level.coord is None:
        problems.append(Problem("no pressure level", "the pressure in hPa as a coordinate", ""))
        raise_if(problems, what="dataset")
    assert level is not None and level.coord is not None
    hpa, _, wrong = levels_in_hpa(ds[level.coord], level.name)
    raise_if([*problems, *wrong], what="dataset")
    pressure = ds[level.coord].copy(data=hpa.reshape(ds[level.coord].shape))
    return names, _canonical(ds, names["temperature"], "temperature"), pressure


def _written(variable: xr.DataArray) -> str:
    units = str(variable.attrs.get("units", "")).strip()
    return "" if units.lower() in NO_UNITS else units


def _canonical(ds: xr.Dataset, user: str, name: str) -> xr.DataArray:
    units = _written(ds[user]) or user_default_units(user, name)
    line = conversion(units, name)
    if line is None:
        needed = f"{name} in {VARIABLES[name].units} or a unit that converts to it"
        raise InputError([Problem(f"`{user}` in {units!r}", needed, "")], what="dataset")
    return ds[user] * line[0] + line[1]


def _replaced(ds: xr.Dataset, user: str, values: xr.DataArray, name: str) -> xr.Dataset:
    known = VARIABLES[name]
    values = values.transpose(*ds[user].dims).astype(ds[user].dtype)
    values.attrs = {
        "units": known.units,
        "long_name": known.long_name,
        "standard_name": known.standard_name,
    }
    return ds.drop_vars(user).assign({name: values})
