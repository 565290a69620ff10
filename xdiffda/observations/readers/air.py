"""Moist air and the standard atmosphere in numpy, for what files hold in other quantities.

The same formulas and constants as the observation operators have
(`xdiffda.observations.derived`), in double precision and for arrays of reports; saturation is in
`xdiffda.state.humidity`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xdiffda.state.humidity import EPSILON
from xdiffda.state.variables import G0

if TYPE_CHECKING:
    from jaxtyping import Float

    Numbers = Float[np.ndarray, "*shape"]

R_DRY = 287.05287  # J kg-1 K-1 (ICAO)
# ICAO Doc 7488: geopotential height (m) at the base of each layer, lapse rate (K m-1) within it.
_LAYERS = ((0.0, -0.0065), (11e3, 0.0), (20e3, 0.001), (32e3, 0.0028), (47e3, 0.0))
_T0, _P0 = 288.15, 101325.0


def specific_humidity(vapour_pressure: Numbers, pressure: Numbers) -> Numbers:
    """Specific humidity, kg/kg, of a vapour pressure; both pressures in Pa."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return EPSILON * vapour_pressure / (pressure - (1.0 - EPSILON) * vapour_pressure)


def virtual_factor(humidity: Numbers) -> Numbers:
    """Ratio of the virtual temperature to the temperature at a specific humidity (kg/kg)."""
    return 1.0 + (1.0 / EPSILON - 1.0) * np.asarray(humidity, np.float64)


def standard_pressure(height: Numbers) -> Numbers:
    """Pressure (Pa) at a geopotential height (m) in the ICAO standard atmosphere, to 80 km.

    Examples
    --------
    >>> height = np.array([0.0, 1000, 5500, 11000, 20000, 32000])
    >>> (standard_pressure(height) / 100).round(1).tolist()
    [1013.2, 898.7, 505.1, 226.3, 54.7, 8.7]
    """
    height = np.asarray(height, np.float64)
    out = np.full(height.shape, np.nan)
    temperature, pressure = _T0, _P0
    with np.errstate(invalid="ignore"):
        for i, (base, lapse) in enumerate(_LAYERS):
            top = _LAYERS[i + 1][0] if i + 1 < len(_LAYERS) else 80e3
            # below sea level the first layer goes on
            inside = (height <= top) & ((height > base) | (i == 0)) & (height > -5000.0)
            out = np.where(inside, _within(height - base, temperature, pressure, lapse), out)
            pressure = float(_within(np.array(top - base), temperature, pressure, lapse))
            temperature += lapse * (top - base)
    return out


def _within(rise: Numbers, temperature: float, pressure: float, lapse: float) -> Numbers:
    """Pressure above the base of a layer of constant lapse rate."""
    if lapse == 0.0:
        return pressure * np.exp(-G0 * rise / (R_DRY * temperature))
    with np.errstate(invalid="ignore"):
        ratio = np.maximum(1.0 + lapse * rise / temperature, 1e-9)
        return pressure * ratio ** (-G0 / (R_DRY * lapse))


def pressure_of_altimeter(setting: Numbers, height: Numbers) -> Numbers:
    """Pressure at a station (Pa) whose altimeter setting (Pa) holds at sea level.

    The setting is the station's pressure brought down through the ICAO standard atmosphere, and
    is brought up again in the same way.

    Examples
    --------
    >>> round(float(pressure_of_altimeter(np.array(101325.0), np.array(1000.0))) / 100, 1)
    898.7
    """
    with np.errstate(invalid="ignore"):
        base = 1.0 - 0.0065 * np.asarray(height, np.float64) / _T0
        return setting * np.maximum(base, 1e-9) ** (G0 / (R_DRY * 0.0065))


def geopotential_height(height: Numbers, lat: Numbers) -> Numbers:
    """Geopotential height (m) of a geometric height (m above sea level) at a latitude.

    Gravity at the surface is that of WGS84's normal gravity formula (Somigliana), decreasing with
    the square of the distance from the Earth's centre.

    Examples
    --------
    >>> geopotential_height(np.array([10e3, 10e3]), np.array([0.0, 90.0])).round(0).tolist()
    [9957.0, 10010.0]
    """
    sine = np.sin(np.deg2rad(lat)) ** 2
    gravity = 9.7803253359 * (1 + 0.00193185265241 * sine) / np.sqrt(1 - 0.00669437999013 * sine)
    radius = 6378137.0 / (1.006803 - 0.006706 * sine)
    return gravity / G0 * radius * height / (radius + height)
